"""Compiled regions: eager numbers, no compilation for another length, batch or depth."""

import copy
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch_cases import ZOO, Case, case, distance, gradients, outputs, vector_input, weights, zoo

from nldsl_torch.functions import Fusible, Reversible

WINDOWED = {n for n in ZOO if vector_input(n) and any(f.windows is not None for f in zoo(n).forms.values())}

STACK = """block stack(d, n) {
  in x : real[d]
  chain h = x over i in 0 .. n { h = h + gated_delta(norm(h), heads = 2) }
  out y = h
}
"""


@contextmanager
def compiled(backend: str):
    """Counts what is compiled of windows among the graphs of dynamo, and forgets it at the end."""
    kept = Fusible.compiled, Fusible.backend, Reversible.traced
    windows: list[Reversible] = []

    def traced(self, *args):
        windows.append(self)
        counters["stats"]["unique_graphs"] += 1
        return kept[2](self, *args)

    torch._dynamo.reset()
    counters.clear()
    Fusible.compiled, Fusible.backend, Reversible.traced = True, backend, traced
    try:
        yield
    finally:
        Fusible.compiled, Fusible.backend, Reversible.traced = kept
        torch._dynamo.reset()
        for f in windows:
            f.fast.clear()
            f.batches.clear()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def stack(depth: int, d: int = 8) -> Case:
    return case(zoo("gated_delta").text.read_text() + STACK, "stack", d=d, n=depth)


def same_as_eager(c: Case, backend: str, shapes: list[tuple[int, int]], tolerance: float) -> None:
    """Outputs and gradients; the first shape compiles, and the first of another batch where one of them is 1."""
    seen: dict[bool, int] = {}
    for (B, _), found in zip(shapes, graphs_of(c, backend, shapes, tolerance), strict=True):
        before = seen.setdefault(B == 1, found)
        assert found in (before, max(seen.values())), f"a batch of {B} compiled again"
    assert found <= len(seen) * seen[shapes[0][0] == 1]
    assert (found > 0) == ("fuse=True" in c.module.source), "a region with little to fuse runs as it is"


def graphs_of(c: Case, backend: str, shapes: list[tuple[int, int]], tolerance: float) -> list[int]:
    """How much is compiled after each shape; outputs and gradients are those of eager."""
    runs = []
    for B, T in shapes:
        x = c.input(B, T).requires_grad_()
        y = outputs(c.module(x))
        w = weights(y)
        runs.append((x, y, w, gradients(c.module, x, y, w)))
    found = []
    with compiled(backend):
        for x, y, w, g in runs:
            z = outputs(c.module(x))
            for n, v in y.items():
                assert distance(z[n], v) < tolerance, (n, x.shape)
            for n, v in gradients(c.module, x, z, w).items():
                assert distance(v, g[n]) < tolerance, (n, x.shape)
            found.append(graphs())
    return found


SHAPES = [(2, 33), (2, 70), (3, 70), (1, 33), (4, 5), (1, 300)]


@pytest.mark.parametrize("name", ["kda", "sliding_window"])
def test_no_shape_compiles_again(name):
    same_as_eager(zoo(name), "eager", SHAPES, 1e-12)


@pytest.mark.parametrize("first", [(1, 64), (2, 2)])
def test_the_first_shape_does_not_matter(first):
    """Not even a batch of one, or as many ticks as sequences."""
    same_as_eager(
        zoo("gated_delta"), "aot_eager" if first == (2, 2) else "eager", [first, (3, 33), (1, 70), (2, 2)], 1e-12
    )


def test_training_and_no_grad_share_what_they_can():
    """Evaluation may compile once more, not once for every length."""
    c = zoo("gated_delta")
    with compiled("eager"):
        for B in (1, 2):
            c.module(c.input(B, 33)).sum().backward()
        with torch.no_grad():
            for B in (1, 2):
                c.module(c.input(B, 40))
            seen = graphs()
            for B, T in SHAPES:
                c.module(c.input(B, T))
        c.module(c.input(2, 50)).sum().backward()
        assert graphs() == seen


def test_depth_compiles_nothing():
    """Equal layers share one class, what stands between them is one function: each is compiled once."""
    found = {}
    for depth in (2, 4):
        c = stack(depth)
        with compiled("eager"):
            c.module(c.input(2, 40).requires_grad_()).sum().backward()
            found[depth] = graphs()
        assert c.source().count("class GatedDelta") == 1
    assert len(set(found.values())) == 1, found


def test_many_shapes_do_not_exhaust_the_cache():
    """Beyond the limit of recompilations dynamo would fall back to eager in silence."""
    c = zoo("gated_delta")
    with compiled("eager"), torch.no_grad():
        for B in (1, 2):
            c.module(c.input(B, 40))
        seen = graphs()
        with torch.compiler.set_stance("fail_on_recompile"):
            for T in (2, 3, 5, 8, 31, 32, 64, 65, 100, 128):
                for B in (1, 2, 5):
                    c.module(c.input(B, T))
        assert graphs() == seen


@pytest.mark.parametrize(("name", "backend"), [("ttt_linear", "aot_eager"), ("titans_lmm", "eager"), ("moneta", "eager")])
def test_whole_windows_are_compiled(name, backend):
    """No length compiles again, what a call or the text's end cuts short runs as it is, and so does a third batch size."""
    windows_once(zoo(name), backend)


def test_windows_that_are_solved_are_compiled():
    text = Path(__file__).parents[1] / "faults/solved.nl"
    windows_once(case(text.read_text(), "solved", d=3), "aot_eager")


def test_windows_under_autocast():
    """The gradients of compiled modules are there, and those of eager ones."""
    m = zoo("titans_lmm").single()
    x = zoo("titans_lmm").input(2, 140).float()

    def grads():
        with torch.autocast("cpu", torch.bfloat16):
            y = m(x)
        return torch.autograd.grad(y.float().square().sum(), list(m.parameters()))

    expected = m(x)
    with compiled("eager"):
        found = grads()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            m(x)
        assert distance(m(x), expected) < 1e-5, "what is compiled under autocast serves no other call"
    assert all(distance(a, b) < 1e-2 for a, b in zip(found, grads(), strict=True))


def test_each_precision_has_compiled_windows_of_its_own():
    """float32 first, then float64, then float32 again: two compilations, and the precision of each."""
    c = zoo("ttt_linear")
    expected = c.module(c.input(2, 70))
    found, m = [], c.module
    with compiled("aot_eager"), torch.no_grad():
        for dtype, bound in ((torch.float32, 1e-4), (torch.float64, 1e-12), (torch.float32, 1e-4)):
            m = m.to(dtype)
            y = m(c.input(2, 70).to(dtype))
            assert y.dtype == dtype and distance(y.double(), expected) < bound
            found.append(graphs())
        c.module.to(torch.float64)
    assert found[0] < found[1] == found[2]


WAYS = """block ways(d) {
  in x : real[d]
  param W : d -> d
  y = tanh(W(x)) * sigmoid(x) * exp(-abs(x)) + x
  memory S : d -> d = learned { minimize 0.5 * sqnorm(S(unit(x)) - y) at start(4) by gd(0.5) }
  out z = S(y)
}
"""


def test_however_many_ways_a_module_is_used():
    """Dtypes, batches of one, params that do not learn, with and without gradients: nothing stops it, and the numbers are those of eager."""
    c = case(WAYS, "ways", d=4)
    x = c.input(3, 20)

    def runs():
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32):
            m = copy.deepcopy(c.module).to(dtype)
            for batch in (3, 1, 2):
                for learns in (True, False):
                    m.requires_grad_(learns)
                    for z in (x[:batch].to(dtype), x[:batch].to(dtype).requires_grad_()):
                        yield dtype, m(z)
                        with torch.no_grad():
                            yield dtype, m(z)

    wanted = list(runs())
    with compiled("eager"):
        for (dtype, found), (_, expected) in zip(runs(), wanted, strict=True):
            assert distance(found.double(), expected.double()) < 50 * torch.finfo(dtype).eps


@pytest.mark.inductor
def test_rounded_regions_by_inductor():
    """Between two operations on bfloat16 values there is a rounding, which fused code would leave out."""
    text = "block r(d) { in x : real[d]  h = bfloat16(3 * tanh(x) * sigmoid(x) * exp(-abs(x)))  y = (h + 256) - 256  out y }"
    c = case(text, "r", d=4)
    x = c.input(2, 20)
    wanted = c.module(x)
    with compiled("inductor"):
        assert torch.equal(c.module(x), wanted)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("ours", [False, True])
def test_windows_inside_a_module_that_is_compiled(backend, ours):
    """`torch.compile` around a module, one whose windows are compiled too: its own code, and the same numbers."""
    c = case(WAYS, "ways", d=4)
    x = c.input(2, 19)
    wanted = c.module(x)
    gradients_wanted = torch.autograd.grad(wanted.square().sum(), list(c.module.parameters()))
    with compiled("eager"):
        Fusible.compiled = ours
        found = torch.compile(c.module, backend=backend)(x)
        gradients_found = torch.autograd.grad(found.square().sum(), list(c.module.parameters()))
    assert distance(found, wanted) < 1e-12
    assert all(distance(a, b) < 1e-10 for a, b in zip(gradients_found, gradients_wanted, strict=True))


@pytest.mark.inductor
def test_windows_by_inductor():
    windows_once(zoo("ttt_linear"), "inductor")


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_whole_windows_of_the_zoo(name):
    windows_once(zoo(name), "aot_eager")


def windows_once(c: Case, backend: str) -> None:
    regions = c.module.source.count("fuse=True")
    first, other, partly, batch, same, third = graphs_of(c, backend, [(2, 140), (2, 203), (2, 5), (3, 140), (3, 70), (4, 140)], 1e-10)
    assert first > regions or "ticks=" not in c.module.source, "windows are compiled besides regions"
    assert first == other == partly
    assert batch == same == third


PERIODS = """block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }
block main(d) {
  in x : real[d]
  for p in [2, 4, 8, 16, 32, 64] { memory M[p] : net(d) = learned every p { minimize loss over sum by gd(0.01) } }
  chain z = x over p in [2, 4, 8, 16, 32, 64] { z = z + last M[p](z) }
  loss = sqnorm(z - 1)
  out y = z
}
"""


def test_one_function_serves_all_windows():
    """Windows end with one memory's step, or two's, .. or all six: what is compiled is the same, and all are right."""
    c = case(PERIODS, "main", d=3)
    (found,) = graphs_of(c, "eager", [(1, 70)], 1e-10)
    assert c.module.source.count("ticks=") == 1
    assert found == 2 + c.module.source.count("fuse=True")


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted({n for n in ZOO if vector_input(n)} - WINDOWED))
def test_no_shape_of_the_zoo_compiles_again(name):
    same_as_eager(zoo(name), "eager", SHAPES, 1e-12)


@pytest.mark.inductor
def test_inductor():
    same_as_eager(zoo("gated_delta"), "inductor", [(2, 33), (1, 70), (3, 100)], 1e-10)


@pytest.mark.inductor
@pytest.mark.soak
@pytest.mark.parametrize("name", ["kda", "titans_linear", "rwkv7", "sliding_window", "mamba2", "oja"])
def test_inductor_more(name):
    same_as_eager(zoo(name), "inductor", [(2, 33), (1, 70), (3, 100)], 1e-10)


@pytest.mark.inductor
@pytest.mark.soak
def test_cold_compilation_is_bounded(capsys, tmp_path, monkeypatch):
    """A stack of four layers, 512 ticks, forward and backward from an empty cache, under 30 s."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    c = stack(4, d=64)
    m, x = c.single(), c.input(1, 512).float()
    with compiled("inductor"):
        start = time.perf_counter()
        m(x).sum().backward()
        took = time.perf_counter() - start
        with capsys.disabled():
            print(f" [cold compilation: {took:.1f} s]", end="")
    assert took < 30
