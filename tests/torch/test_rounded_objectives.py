"""`bfloat16` on the way from a memory to its objective: its slope is 1, and no gradient is rounded on its way."""

import pytest
import torch

import nldsl
from nldsl_testing.example import Example
from nldsl_testing.properties import PROPERTIES
from nldsl_testing.runs import compiled, interpret
from nldsl_testing.subject import Subject
from nldsl_testing.verify import Budget, verify

OBJECTIVES = {
    "a read": "0.5 * sqnorm(b(S(k)) - v)",
    "both": "0.5 * sqnorm(b(S(k)) - b(v))",
    "tanh": "sqnorm(tanh(b(S(k))) - v)",
    "products": "sum(b(S(k)) * b(S(k)) * b(v))",
    "an operator": "0.5 * sqnorm(b(S)(k) - v)",
    "matrices": "0.1 * sqnorm(matmul(b(S), transpose(b(S))))",
    "a rounded read": "0.5 * sqnorm(b(S)(b(k)) - b(v))",
    "a key": "0.5 * sqnorm(S(b(k)) - b(v))",
    "unit": "dot(unit(b(S(k))), v)",
    "softmax": "dot(softmax(b(S(k))), b(v))",
    "a quotient": "sum(b(v) / (2 + b(S(k)) * b(S(k))))",
    "a choice": "sum(where(b(S(k)), b(v), 2 * b(S(k))))",
    "max": "sum(max(b(S(k)), b(v)))",
    "gelu": "sum(gelu(b(S(k))) * v)",
    "silu": "sum(silu(b(S(k))))",
    "a power": "sum((1 + b(S(k)) ^ 2) ^ 1.5)",
    "twice": "0.5 * sqnorm(S(k) - b(0.3 * b(S(k)) + v))",
    "a number": "b(sqnorm(S(k) - v))",
}
HEAD = "  in x : real[d]\n  param Wk, Wv : d -> d\n  k = unit(Wk(x))\n  v = Wv(x)\n"
EXAMPLE = Example((("d", 4),), batch=2, cuts=(5, 1, 4))
ASKED = [p for p in PROPERTIES if p.name in ("lowerings", "derivatives", "splits", "precision")]


def subject(objective: str, clause: str = "by decay(0.9), gd(0.1)") -> Subject:
    text = objective.replace("b(", "bfloat16(")
    memory = f"  memory S : d -> d = learned(normal(0.5)) {{ minimize {text} {clause} }}\n  out y = S(k)\n"
    return Subject(nldsl.load(f"block m(d) {{\n{HEAD}{memory}}}\n"), "m", {"d": 4})


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_all_forms_agree(objective: str) -> None:
    of = subject(objective)
    for item in ASKED:
        item.check(of, EXAMPLE)


@pytest.mark.parametrize("clause", ["at start(3) by gd(0.1)", "by momentum(0.1, 0.5)"])
def test_windows_and_rules_agree(clause: str) -> None:
    for item in ASKED:
        item.check(subject("0.5 * sqnorm(tanh(b(S(k))) - b(v))", clause), EXAMPLE)


def low(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().double()


def test_the_gradient_is_that_of_the_exact_word_at_rounded_values() -> None:
    """One step of an objective whose tanh is rounded too."""
    of, one = subject("0.5 * sqnorm(tanh(b(S(k))) - v)", "by gd(0.1)"), Example((("d", 4),))
    params, x = of.parameters(one.seed, one.noise), one.inputs(of)["x"][0, 0]
    S, k, v = params["S_init"], params["Wk"] @ x, params["Wv"] @ x
    k = k / (k.square().sum() + 1e-6).sqrt()
    read = low(S @ k)
    meant = S - 0.1 * torch.outer((low(read.tanh()) - v) * (1 - read.tanh().square()), k)
    for run in (interpret(of, one), compiled(of, one)):
        assert torch.allclose(run.state["S"][0], meant, rtol=0, atol=1e-14)


def test_outer_gradients_of_the_interpreter_are_exact() -> None:
    program = nldsl.load("block m(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = tanh(bfloat16(W(x)))\n}\n")
    of, one = Subject(program, "m", {"d": 4}), Example((("d", 4),))
    run = interpret(of, one)
    weights = run.weights()
    W, x = (run.leaves[n].detach() for n in ("W", "x"))
    read = low(W @ x[0, 0])
    slope = weights["y"][0, 0] * (1 - read.tanh().square())
    assert torch.allclose(run.gradients(weights)["W"], torch.outer(slope, x[0, 0]), rtol=0, atol=1e-14)
    found = compiled(of, one).gradients(weights)["W"]
    assert torch.allclose(found, torch.outer(slope, x[0, 0]), rtol=2**-6)


def test_the_objective_of_a_rule_may_round() -> None:
    text = """rule odd(lr = 0.01) {
  memory mean : like(w) = zeros { minimize 0.5 * sqnorm(tanh(bfloat16(mean)) - g) by gd(0.3) }
  update last w - lr * mean
}"""
    assert not [o for o in verify(nldsl.load(text), budget=Budget.of(quick=True)) if o.failure is not None]
