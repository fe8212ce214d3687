"""The generated file: it runs alone, says where it comes from, and is a module like any other."""

import copy
import re
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch_cases import EXACT, ZOO, case, distance, gradients, outputs, vector_input, weights, zoo
from torch_programs import PROGRAMS, memory

LAYERS = [n for n in ZOO if vector_input(n)]
SOME = ["gated_delta", "kda", "titans_linear", "softmax_attention"]

ALONE = """
import sys
for name in ("nldsl", "nldsl_torch", "nldsl_interpreter"):
    sys.modules[name] = None  # an import of it fails, installed or not
import importlib.util, torch
torch.set_num_threads(1)
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("generated", path + ".py")
    made = importlib.util.module_from_spec(spec)
    sys.modules["generated"] = made
    spec.loader.exec_module(made)
    given = torch.load(path + ".pt", weights_only=True)
    m = getattr(made, given["class"])().double()
    m.load_state_dict(given["params"])
    y, state = m(given["x"], return_state=True)
    y = y if isinstance(y, dict) else {"y": y}
    for n, v in given["y"].items():
        assert torch.equal(y[n], v), (path, n, (y[n] - v).abs().max())
    assert set(state) == set(given["state"])
    assert all(torch.equal(state[n], v) for n, v in given["state"].items()), path
    print("same", path)
"""


def test_runs_alone(tmp_path):
    """In a Python that has torch only: the same numbers, for the zoo and for what the zoo does not have."""
    cases = {n: zoo(n) for n in LAYERS} | {
        n: case(PROGRAMS[n][1], "m", d=6)
        for n in ("several_outputs", "chain", "every_mean", "reset", "time", "gated_ema", "store")
    }
    for name, c in cases.items():
        x = c.input(2, 40)
        with torch.no_grad():
            y, state = c.module(x, return_state=True)
        (tmp_path / f"{name}.py").write_text(c.source(standalone=True), encoding="utf-8")
        held = {
            "class": type(c.module).__name__,
            "params": dict(c.module.state_dict()),
            "x": x,
            "y": outputs(y),
            "state": state,
        }
        torch.save(held, tmp_path / f"{name}.pt")
    script = tmp_path / "alone_.py"
    script.write_text(ALONE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-E", "-s", str(script), *(str(tmp_path / n) for n in cases)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same") == len(cases)


@pytest.mark.parametrize("name", LAYERS)
def test_names_its_lines(name):
    """Every group of lines names its place in the `.nl` file, and the place exists and says that."""
    source = zoo(name).source(standalone=False)
    text = (zoo(name).text).read_text().splitlines()
    places = re.findall(rf"# \S*{name}\.nl:(\d+)  (.*)", source)
    assert len({int(line) for line, _ in places}) >= 4
    for line, shown in places:
        assert text[int(line) - 1].strip().startswith(shown.strip()[:30]) or ":" in shown, (line, shown)
    for function in re.findall(r"\ndef (\w+)\(.*?\):\n(.*?)\n\n\n", source, re.S):
        assert ".nl:" in function[1] or len(function[1].splitlines()) <= 3, function[0]


def test_generation_is_deterministic():
    for name in SOME:
        assert zoo(name).source() == zoo(name).source()


@pytest.mark.parametrize("name", SOME)
def test_is_a_module(name):
    """Copies, dtypes, state dicts, functional calls and checkpointing."""
    c = zoo(name)
    m, x = c.module, c.input(2, 40)
    y = m(x)
    assert torch.equal(copy.deepcopy(m)(x), y)
    other = type(m)().double()
    other.load_state_dict(m.state_dict())
    assert torch.equal(other(x), y)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})
    assert m.state_dict().keys() == dict(m.named_parameters()).keys()
    params = {k: v.detach().clone().requires_grad_() for k, v in m.named_parameters()}
    assert torch.equal(torch.func.functional_call(m, params, (x,)), y)
    single = copy.deepcopy(m).to(torch.float32)
    z, state = single(x.float(), return_state=True)
    assert z.dtype == torch.float32 and all(v.dtype in (torch.float32, torch.int64) for v in state.values())
    assert distance(single.double()(x), y) < EXACT

    x.requires_grad_()
    w = weights(outputs(y))
    expected = gradients(m, x, outputs(m(x)), w)
    found = gradients(m, x, outputs(checkpoint(m, x, use_reentrant=False)), w)
    assert all(torch.equal(found[n], g) for n, g in expected.items())


@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name):
    """bfloat16 around the products of params: finite, near, and gradients in the dtype of the params."""
    m = zoo(name).single()
    x = zoo(name).input(2, 40).float()
    exact = m(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = m(x, return_state=True)
        again, _ = m.step(x[:, 0], state)
    assert y.isfinite().all() and again.isfinite().all() and distance(y, exact) < 0.1
    y.float().square().mean().backward()
    for n, p in m.named_parameters():
        if p.grad is not None:
            assert p.grad.dtype == torch.float32 and p.grad.isfinite().all(), n


@pytest.mark.parametrize("name", SOME)
def test_half_precision(name):
    m = zoo(name).single().bfloat16()
    x = zoo(name).input(2, 40).bfloat16()
    y, state = m(x, return_state=True)
    again, _ = m(x, state=state, return_state=True)
    assert y.dtype == again.dtype == torch.bfloat16 and y.isfinite().all() and again.isfinite().all()
    y.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 7), (2, 0, 8), (5, 8), (2, 3, 5, 8), (8,)])
def test_a_wrong_shape_is_one_clear_error(shape):
    m = zoo("gated_delta").module
    with pytest.raises(ValueError, match=r"`x` is \[.*\], expected \[batch, ticks, 8\]") as wrong:
        m(torch.zeros(shape, dtype=torch.float64))
    assert "\n" not in str(wrong.value)


def test_a_wrong_shape_in_a_step():
    m = zoo("gated_delta").module
    with pytest.raises(ValueError, match="`x` is"):
        m.step(torch.zeros(2, 7, dtype=torch.float64), m.initial_state(2))


def test_a_wrong_state_is_refused():
    m, x = zoo("gated_delta").module, zoo("gated_delta").input(2, 5)
    with pytest.raises((ValueError, RuntimeError)):
        m(x, state=m.initial_state(3))


def test_traceback_shows_generated_lines():
    import linecache

    c = case(memory("gd(b)"), "m", d=4)
    assert any("class M" in line for line in linecache.getlines(sys.modules[type(c.module).__module__].__file__))
