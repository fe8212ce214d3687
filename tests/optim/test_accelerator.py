"""Passes as Triton: their text everywhere, and what they compute with `TRITON_INTERPRET=1` where triton is installed, without a GPU."""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch

import nldsl
from nldsl.program import load
from nldsl_torch.optim import accelerator
from nldsl_torch.optim.accelerator import scalars_on, triton_source, usable
from nldsl_torch.optim.build import optimizer_class, optimizer_source
from nldsl_torch.optim.perform import ACCUMULATE
from nldsl_torch.optim.program import Segment
from nldsl_torch.optim.standalone import standalone_imports

CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(not usable(CPU), reason="needs triton and TRITON_INTERPRET=1")
WORDS = "tanh(g) + sigmoid(g) + exp(g) + abs(g) + sign(g) + sqrt(abs(g)) + log(abs(g) + 1) + softplus(g) + silu(g) + gelu(g) + relu(g)"
LIBRARY = load(f"""rule words(lr = 0.1) {{
  a = {WORDS}
  b = max(g, min(a, lr)) + g^2 + g^3 + abs(g)^0.5 + abs(g)^lr + where(g, a, lr) - (-g) + 1 / (abs(g) + 1)^2 + (abs(g) + 1)^(-1)
  update last w - lr * b / 3
}}
rule edges(lr = 0.1) {{
  memory larger : like(w) = zeros {{ update max(last larger, g) }}
  memory smaller : like(w) = zeros {{ update min(last smaller, lr) + min(g, 0.5) }}
  memory signs : like(w) = zeros {{ update sign(g) + last signs }}
  memory chosen : like(w) = zeros {{ update where(g, last w, last chosen) }}
  memory flat : like(w) = zeros {{ update where(last flat, lr, 3) }}
  update last w - lr * where(larger, 1, 2) * where(smaller, 1, 2) * where(signs, 1, 2) * where(chosen, 1, 2) * where(flat, 1, 2)
}}""")
SHAPES = [(3, 4), (7,), (), (2, 3, 5), (0, 4), (1,), (1024,), (1025,), (70, 50), (6, 3, 4)]
CASES = {
    "adamw": {}, "adamw amsgrad": {"amsgrad": True}, "sgd": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}, "lion": {"weight_decay": 0.1},
    "nadam": {}, "ademamix": {"t_alpha_beta3": 30.0}, "m3_ema": {"frequency": 2}, "m3": {"frequency": 2}, "adadelta": {}, "radam": {}, "words": {},
}  # fmt: skip
PRECISION = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def segments(cls: type) -> list[Segment]:
    module = importlib.import_module(cls.__module__)
    return [value for value in vars(module).values() if isinstance(value, Segment) and value is not ACCUMULATE]


def library() -> list[str]:
    found = []
    for name in sorted(LIBRARY.all_rules):
        with contextlib.suppress(nldsl.NlError):  # a rule that is no optimizer
            LIBRARY.rule(name)
            found.append(name)
    return found


def parameters(dtype: torch.dtype = torch.float32, shapes: list[tuple[int, ...]] = SHAPES) -> list[torch.nn.Parameter]:
    make = torch.Generator().manual_seed(0)
    found = [torch.randn(s, generator=make, dtype=torch.float64).to(dtype) for s in shapes]
    found[0] = found[0].t().contiguous().t()  # another order of memory
    return [torch.nn.Parameter(p) for p in found]


def gradients(params: list[torch.nn.Parameter], step: int, *, fresh: bool = True, skip: int | None = None) -> None:
    make = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=make, dtype=torch.float64).to(p.dtype)
        if i == skip:
            p.grad = None
        elif fresh or p.grad is None:
            p.grad = g
        else:
            p.grad.copy_(g)


def pair(rule: str, dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES, **options):
    """The same optimizer twice, the second of torch operations only."""
    cls = optimizer_class(LIBRARY, rule)
    a, b = parameters(dtype, shapes), parameters(dtype, shapes)
    return a, b, cls(a, **options), cls(b, **{**options, "fused": False})


def alike(a, b, x, y, dtype: torch.dtype) -> None:
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=PRECISION[dtype], atol=PRECISION[dtype])
        assert list(x.state[p]) == list(y.state[q])
        for one, other in zip(x.state[p].values(), y.state[q].values()):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=2 * PRECISION[dtype], atol=PRECISION[dtype])


def launches(x) -> list[object]:
    return [launch for bucket in x._table.buckets for launch in bucket.launches.values()]


@pytest.fixture(autouse=True)
def loud():
    """A pass that falls back to torch operations says so; infinities are what some tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*eager torch operations.*")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton.*")
        yield


# --- the text, everywhere
@pytest.mark.parametrize("name", library())
def test_every_pass_of_the_library_has_triton(name: str) -> None:
    for segment in segments(optimizer_class(LIBRARY, name)):
        assert segment.triton, segment.name
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            tree = ast.parse(triton_source(segment, (dtype,) * len(segment.reads + segment.writes)))
            defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            assert called <= defined | {"float"}
            part = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "nl_part")
            names = {n.id for line in part.body for n in ast.walk(line) if isinstance(n, ast.Name)}
            assert names <= defined | _bound(part) | {"float"}
            assert not _bound(part) & defined


def _bound(function: ast.FunctionDef) -> set[str]:
    return {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {a.arg for a in function.args.args}


def test_the_source_shows_it() -> None:
    source = optimizer_source(LIBRARY, "sgd", standalone=False)
    assert source.count('triton="""') == source.count('kernel="""')
    assert "import triton" not in source


def test_a_standalone_file_defines_each_name_once() -> None:
    tree = ast.parse(standalone_imports())
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    names += [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


@interpreted
def test_a_standalone_file_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("alone")
    monkeypatch.setitem(sys.modules, "alone", module)
    exec(compile(optimizer_source(LIBRARY, "adamw"), "alone.py", "exec"), module.__dict__)
    p, q = parameters(), parameters()
    x, y = module.Adamw(p), torch.optim.AdamW(q, lr=1e-3)
    for i in range(3):
        gradients(p, i), gradients(q, i)
        x.step(), y.step()
    assert all(type(launch) is module.TritonLaunch for launch in launches(x))
    for one, other in zip(p, q):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


def test_an_operation_without_triton_leaves_the_pass_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from nldsl_torch.optim import tl

    monkeypatch.delitem(tl.FUNCTIONS, "tanh")
    source = optimizer_source(load("rule r(lr = 0.1) { update last w - lr * tanh(g) }"), "r", standalone=False)
    assert "triton=" not in source and "std::tanh" in source


def test_without_triton_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_installed", lambda: False)
    assert not usable(CPU) and not usable(torch.device("cuda"))
    a, b, x, y = pair("sgd", torch.float32, lr=0.1)
    for i in range(2):
        gradients(a, i), gradients(b, i)
        x.step(), y.step()
    assert not any(isinstance(found, accelerator.TritonLaunch) for found in launches(x))
    alike(a, b, x, y, torch.float32)


# --- the values
@interpreted
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_torch_operations(case: str, dtype: torch.dtype) -> None:
    rule, numbers = case.split()[0], CASES[case]
    shapes = [s for s in SHAPES if len(s) == 2 and 0 not in s] if LIBRARY.rule(rule).accepts == "matrix" else SHAPES
    numbers = {"lr": 0.02, **numbers} if any(h.name == "lr" for h in LIBRARY.rule(rule).hypers) else numbers
    a, b, x, y = pair(rule, dtype, shapes, **numbers)
    for i in range(5):
        gradients(a, i), gradients(b, i)
        x.step(), y.step()
    if LIBRARY.rule(rule).accepts != "matrix":
        assert all(isinstance(found, accelerator.TritonLaunch) for found in launches(x)) and launches(x)
    alike(a, b, x, y, dtype)


@interpreted
@pytest.mark.parametrize("maximize", [False, True])
def test_buckets_missing_gradients_and_sums(maximize: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        cls = optimizer_class(LIBRARY, "adamw")
        found = []
        for fused in (None, False):
            p, q, r = (parameters(dtype) for _ in range(3))
            groups = [{"params": p, "lr": 0.1}, {"params": q, "weight_decay": 0.3}, {"params": r, "every": 2, "over": "mean"}]
            x = cls(groups, maximize=maximize, fused=fused, foreach=None if fused is None else False)
            for i in range(7):
                gradients([*p, *q, *r], i, fresh=i % 3 == 0, skip=2 if i in (2, 3) else None)
                x.param_groups[0]["lr"] = 0.1 / (i + 1)
                x.step()
            found.append(([*p, *q, *r], x))
        assert len(found[0][1]._table.buckets) > 3
        alike(found[0][0], found[1][0], found[0][1], found[1][1], dtype)


@interpreted
def test_a_schedule_makes_no_other_kernel_and_versions_count() -> None:
    a, b, x, y = pair("adamw", torch.float32, foreach=True)
    gradients(a, 0), gradients(b, 0)
    x.step(), y.step()
    kept, before = [launch.made for launch in launches(x)], a[1]._version
    for i in range(1, 4):
        x.param_groups[0]["lr"] = y.param_groups[0]["lr"] = 0.1**i
        gradients(a, i, fresh=False), gradients(b, i)
        x.step(), y.step()
    assert [launch.made for launch in launches(x)] == kept and a[1]._version > before
    alike(a, b, x, y, torch.float32)


@interpreted
def test_not_a_number_and_zeros_go_where_torch_sends_them() -> None:
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([nan, inf, -inf, 0.0, -0.0, 1e-45, 3.4e38, -3.4e38, 1.0, -1.0])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        a, b, x, y = pair("edges", dtype, [(10,), (10,)], lr=0.25)
        for i in range(3):
            for p in [*a, *b]:
                p.grad = values.to(dtype).roll(i)
            x.step(), y.step()
        for p, q in zip(a, b):
            torch.testing.assert_close(p, q, rtol=0, atol=0, equal_nan=True)
            for name in x.state[p]:
                torch.testing.assert_close(x.state[p][name], y.state[q][name], rtol=0, atol=0, equal_nan=True)


@interpreted
def test_rounding_to_bfloat16_is_that_of_torch() -> None:
    values = torch.cat([torch.randn(5000) * 10.0 ** torch.randint(-40, 38, (5000,)), torch.tensor([1.99999, 3.99, 0.0, -0.0, float("inf"), float("nan"), 3.4e38])])
    rounding = Segment("r", ("g",), ("low",), (), lambda g: (g.bfloat16(),), "", ("low",), "new_low = g")
    made = accelerator.triton_pass(rounding, (torch.float32, torch.bfloat16))
    low = torch.empty_like(values, dtype=torch.bfloat16)
    assert made is not None and made.once([values, low], 1.0, ())
    torch.testing.assert_close(low, values.bfloat16(), rtol=0, atol=0, equal_nan=True)
    back = Segment("b", ("low",), ("high",), ("c",), lambda low, c: (low * c,), "", (), "new_high = low * c")
    made = accelerator.triton_pass(back, (torch.bfloat16, torch.float64))
    high = torch.empty_like(values, dtype=torch.float64)
    assert made is not None and made.once([low, high], 1.0, (torch.tensor([[0.1]], dtype=torch.float64),))
    torch.testing.assert_close(high, low.double() * 0.1, rtol=0, atol=0, equal_nan=True)


@interpreted
def test_passes_of_a_matrix_rule_are_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    count = []
    once = accelerator.TritonPass.once
    monkeypatch.setattr(accelerator.TritonPass, "once", lambda self, *rest: count.append(self.segment.name) or once(self, *rest))
    for rule in ("muon_exact", "muon"):
        a, b, x, y = pair(rule, torch.float32, [(4, 3), (5, 5)], lr=0.02)
        for i in range(3):
            gradients(a, i), gradients(b, i)
            x.step(), y.step()
        assert count
        for p, q in zip(a, b):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5 if rule == "muon_exact" else 1e-2)
        count.clear()


@interpreted
def test_complex_parameters() -> None:
    cls = optimizer_class(LIBRARY, "adamw")
    make = torch.Generator().manual_seed(0)
    start = torch.randn(40, 30, generator=make, dtype=torch.complex64)
    found = []
    for fused in (None, False):
        p = torch.nn.Parameter(start.clone())
        x = cls([p], fused=fused)
        for _ in range(3):
            p.grad = p.detach().conj() * (1 + 2j)
            x.step()
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=2e-6, atol=2e-6)


@interpreted
def test_a_kernel_that_cannot_be_made_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, x, y = pair("lion", torch.float32)

    def refuse(*_):
        raise RuntimeError("no such machine")

    monkeypatch.setattr(accelerator, "_module", refuse)
    accelerator.triton_pass.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="no such machine"):
            for i in range(2):
                gradients(a, i), gradients(b, i)
                x.step(), y.step()
    finally:
        accelerator.triton_pass.cache_clear()
    assert not any(launches(x))
    alike(a, b, x, y, torch.float32)


def test_scalars_are_exact() -> None:
    found = scalars_on([0.1, torch.tensor(0.2, dtype=torch.float64), 3], CPU)
    assert found.dtype == torch.float64 and found.tolist() == [0.1, 0.2, 3.0]


# --- the compiler, which needs no GPU
@pytest.mark.skipif(not accelerator._installed() or accelerator.interpreting(), reason="needs triton, and not its interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rule", ["adamw", "lion", "words", "edges", "muon"])
def test_kernels_compile(rule: str, dtype: torch.dtype) -> None:
    triton = importlib.import_module("triton")
    compiler, backends = importlib.import_module("triton.compiler"), importlib.import_module("triton.backends.compiler")
    cells = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*i16"}
    for segment in segments(optimizer_class(LIBRARY, rule)):
        dtypes = (dtype,) * len(segment.reads + segment.writes)
        module = accelerator._module(triton_source(segment, dtypes))
        table = {"nl_owners": "*i32", "nl_starts": "*i64", "nl_sizes": "*i64", "nl_rows": "*i64", "nl_scalars": "*fp64", "nl_tensors": "i32"}
        one = {"nl_size": "i32", "nl_scalars": "*fp64", **{f"nl_array{i}": cells[d] for i, d in enumerate(dtypes)}}
        for entry, signature, fixed in ((module.nl_run, {**table, "nl_aligned": "constexpr"}, {"nl_aligned": True}), (module.nl_once, one, {})):
            source = compiler.ASTSource(fn=entry, signature=signature, constexprs=fixed)
            made = triton.compile(source, target=backends.GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
            text = made.asm["ptx"]
            assert "fma.rn.f32" not in text or rule in ("words", "edges")
            assert entry is module.nl_once or ".v4.b32" in text or ".v2.b64" in text
