"""What reaches a module from outside and what leaves it: lasts, constants, names, wrong inputs and states, pickles."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch

import nldsl

PROGRAMS = {
    "last_input": "block b(d) { in x : real[d]  out y = last x }",
    "scaled_last": "block b(d) { in x : real[d]  out y = 1 * last x }",
    "last_memory": "block b(d) { in x : real[d]  memory m : real[d] { update 0.5 * last m + x }  z = last m  out y = z }",
    "arguments": """
block two(d) { in a, c : real[d]  param W : d -> d  out y = W(a) * c }
block b(d) { in x : real[d]  out y = two(last x, x) + two(x, 1 * last x) + two(c = x, a = 2 * x) }""",
    "chain": """
block one(d) { in a : real[d]  param p : real[d] = normal(1)  out y = a * p }
block b(d) { in x : real[d]  chain h = last x over i in 0 .. 2 { h = one(h) }  out y = h + one(3 * x) }""",
    "outputs": """
block two(d) { in x : real[d]  out y = last x  out z = 2 * x }
block b(d) { in x : real[d]  m = two(x)  memory s : real[d] { update 0.5 * last s + m.y }  out y = last s + m.z }""",
    "around_a_state": """
block sub(d) { in z : real[d]  memory s : real[d] { update 0.5 * last s + z }  out a = s }
block b(d) { in x : real[d]  memory m : real[d] { update 0.5 * last m + x }  a = sub(last m)  out y = last m + sub(m) + a + conv(last m, 3) }""",
    "around_a_loop": """
block b(d) { in x : real[d]  memory m : real[d] { update tanh(0.5 * last m) + x }  out y = delay(last m, 2) + rope(last m) * m }""",
    "param_out": "block b(d) { in x : real[d]  param p : real[d] = normal(1)  out y = p }",
    "number_out": "block b(d) { in x : real[d]  param p : real[d] = ones  out y = 3  out z = p * x }",
    "count_out": "block b(d) { in x : real[d]  out y = count()  out z = count() * x }",
    "operator_out": "block b(d) { in x : real[d]  param W : d -> d  out y = W  out z = W(x) }",
    "last_bool": "block b(d) { in q : bool  in x : real[d]  out y = last q  out z = x }",
    "names": """
block b(d) { in dict : real[d]  memory tick : real[d] { update 0.5 * last tick + dict }
  new = tick * 2  loop = new + dict  s = conv(loop, 3)  B = s + new  out return_state = B }""",
    "dunder": "block None(d) { in x : real[d]  each __init__ in 3 { param W : d -> d  o = W(x) * (1 + __init__) }  out y = flatten(o) }",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_torch_is_the_interpreter(name: str) -> None:
    program = nldsl.load(PROGRAMS[name])
    block = program.blocks[-1]
    torch.manual_seed(0)
    module, interpreter = program.module(block, d=4, dtype=torch.float64), program.interpreter(block, d=4)
    inputs = {
        i.name: (torch.rand(2, 9) > 0.5) if i.type.kind == "bool" else torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
        for i in program.elaborate(block, d=4).unit.inputs
    }
    wanted, _ = interpreter.run(dict(module.named_parameters()), inputs)
    got = module(*inputs.values())
    outs = got if isinstance(got, dict) else {next(iter(wanted)): got}
    state, steps = module.initial_state(2), []
    for t in range(9):
        y, state = module.step(*(x[:, t] for x in inputs.values()), state)
        steps.append(y if isinstance(y, dict) else {next(iter(wanted)): y})
    for key, value in wanted.items():
        assert outs[key].shape == value.shape
        assert torch.allclose(outs[key].to(value.dtype), value, rtol=1e-12, atol=1e-12)
        assert torch.allclose(torch.stack([s[key] for s in steps], 1).to(value.dtype), value, rtol=1e-12, atol=1e-12)


DELTA = """
block b(d) { in x, z : real[d]  param W : d -> d  k = unit(W(x))
  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - z) by gd(0.5) }  out y = S(x) }"""


@pytest.fixture(scope="module")
def delta() -> torch.nn.Module:
    return nldsl.load(DELTA).module("b", d=3)


def test_inputs_share_batch_and_ticks(delta: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="differ in batch or ticks"):
        delta(torch.randn(2, 6, 3), torch.randn(2, 3, 3))
    with pytest.raises(ValueError, match="differ in batch or ticks"):
        delta(torch.randn(2, 6, 3), torch.randn(1, 6, 3))


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.randn(2, 5, 4), r"\[batch, ticks, 3\]"),
        (torch.randn(2, 0, 3), "at least one"),
        (torch.randn(0, 2, 3), "at least one"),
        (torch.randn(2, 5, 3, dtype=torch.float64), "float64"),
        (torch.ones(2, 5, 3, dtype=torch.int64), "int64"),
        ([1.0, 2.0], "expected a tensor"),
    ],
)
def test_wrong_inputs(delta: torch.nn.Module, x: object, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        delta(x, x)


def test_wrong_states(delta: torch.nn.Module) -> None:
    x = torch.randn(2, 3)
    other = nldsl.load("block b(d) { in x : real[d]  memory m : real[d] { update 0.5 * last m + x }  out y = m }").module("b", d=3)
    for state, what in (
        (delta.initial_state(1), "one batch size"),
        ({}, "missing"),
        (other.initial_state(2), "not a state of this module"),
        ({"S": torch.zeros(2, 3, 4)}, "expected"),
        ({n: v.double() for n, v in delta.initial_state(2).items()}, r"float64, expected torch.float32: use state\['S'\].to"),
    ):
        with pytest.raises(ValueError, match=what):
            delta.step(x, x, state)


def test_second_derivatives_are_refused_not_wrong(delta: torch.nn.Module) -> None:
    x = torch.randn(1, 5, 3, requires_grad=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(delta(x, x).sum(), x, create_graph=True)
    state, total = delta.initial_state(1), torch.zeros(())
    for t in range(5):
        y, state = delta.step(x[:, t], x[:, t], state)
        total = total + y.sum()
    (g,) = torch.autograd.grad(total, x, create_graph=True)
    torch.autograd.grad(g.square().sum(), x)


def test_pickle_in_another_process(delta: torch.nn.Module, tmp_path) -> None:
    x = torch.randn(1, 5, 3)
    torch.save(delta, tmp_path / "module.pt")
    torch.save((x, delta(x, x)), tmp_path / "values.pt")
    code = f"import torch; m = torch.load(r'{tmp_path}/module.pt', weights_only=False); x, y = torch.load(r'{tmp_path}/values.pt'); assert torch.equal(m(x, x), y)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"})
    again = pickle.loads(pickle.dumps(delta))
    assert torch.equal(again(x, x), delta(x, x)) and again.W is not delta.W


def test_blocks_whose_names_differ_in_underscores_and_digits_stay_apart() -> None:
    text = """
block a_b(d) { in x : real[d]  out y = 2 * x }
block ab(d) { in x : real[d]  out y = 3 * x }
block a_b2(d, n = 1) { in x : real[d]  out y = n * x }
block top(d) { in x : real[d]  out y = a_b(x) + 10 * ab(x) + 100 * a_b2(x, n = 5) + 1000 * a_b2(x, n = 7) }"""
    x = torch.randn(1, 3, 2)
    assert torch.allclose(nldsl.load(text).module("top", d=2)(x), 7532 * x)


@pytest.mark.parametrize(("wrong", "what"), [
    (torch.ones(2, 4), r"is \[2, 4\], expected \[batch, 3\]"),
    (torch.ones(2, 9, 3), r"is \[2, 9, 3\], expected \[batch, 3\]"),
    (torch.ones(0, 3), "with at least one sequence$"),
    ([1.0], "is a list, expected a tensor"),
])  # fmt: skip
def test_a_step_names_the_shape_that_it_was_given(delta: torch.nn.Module, wrong: object, what: str) -> None:
    x, state = torch.ones(2, 3), delta.initial_state(2)
    for inputs in ((wrong, x), (x, wrong)):
        with pytest.raises(ValueError, match=what):
            delta.step(*inputs, state)


def test_inputs_of_a_step_share_the_batch() -> None:
    module = nldsl.load("block b(d) { in x, z : real[d]  out y = x + z }").module("b", d=3)
    with pytest.raises(ValueError, match=r"inputs differ in batch: \[2\], \[1\]$"):
        module.step(torch.ones(2, 3), torch.ones(1, 3), {})


@pytest.mark.parametrize("clause", ["flush apply", "flush drop", ""])
def test_a_wrong_state_has_no_end(clause: str) -> None:
    step = f"{{ minimize 0.5 * sqnorm(B - x) by gd(0.1)  {clause} }}"
    module = nldsl.load(f"block b(d) {{ in x : real[d]  memory B : real[d] every 2 {step}  out y = B }}").module("b", d=3)
    state = module.initial_state(2)
    assert module.finish(state).keys() == state.keys()
    for wrong, what in (({}, "not a state of this module"), (state | {"B": torch.ones(2, 4)}, "the state `B` is"), (state | {"C": torch.ones(2)}, "`C` is not known")):
        with pytest.raises(ValueError, match=what):
            module.finish(wrong)
