"""Reads of what was read: copies of a recurrence, where they have a parallel form and only there."""

import pytest
import torch

import nldsl
from nldsl.lower.plan import plan
from nldsl.lower.stagger import ROUNDS
from nldsl.testing import Budget, verify

HEAD = "block m(d = 3) {\n  in x : real[d]\n  param Wq, Wv : d -> d\n  param a : d -> 1\n  k = unit(x)  v = Wv(x)  g = sigmoid(a(x))\n  "
SOLVE = "memory S : d -> d { minimize 0.5 * sqnorm(S(k) - v) by decay(g), gd(0.5) }\n  "
CLOSED = "memory S : d -> d = learned { minimize -dot(S(k), v) by decay(g), gd(0.5) }\n  "
WINDOWS = "memory S : d -> d = learned { minimize 0.5 * sqnorm(S(k) - v) at start(3) by decay(g), gd(0.5) }\n  "
MOMENTUM = "memory S : d -> d { minimize 0.5 * sqnorm(S(k) - v) by titans(theta = 0.3, eta = 0.5, alpha = 0.1 * g) }\n  "
PROGRAMS = {
    "twice": (SOLVE + "out y = S(S(Wq(x)))", {"S": "solve", "S~1": "solve"}),
    "a norm between": (CLOSED + "p = norm(tanh(S(Wq(x))))  out y = S(p) + p", {"S": "closed", "S~1": "closed"}),
    "before and after": (SOLVE + "p = tanh(last S(k))  out y = S(p) + last S(p * S(p))", {"S": "solve", "S~1": "solve", "S~2": "solve"}),
    "transposed": (CLOSED + "out y = transpose(S)(S(Wq(x)))", {"S": "closed", "S~1": "closed"}),
    "an operator with what was read": (CLOSED + "p = S(k)  M = 0.5 * S + outer(p, k)  out y = M(p)", {"S": "closed", "S~1": "closed"}),
    "a learner with a memory": (MOMENTUM + "out y = S(norm(S(Wq(x))))", {"S~1": "solve"}),
    "in windows": (WINDOWS + "p = tanh(S(Wq(x)))  out y = S(norm(p)) + S(k)", {"S": "windows"}),
    "the loss behind a memory": (
        "memory F : d -> d = learned every 3 { minimize e over sum by gd(0.3) }\n  h = x + tanh(last F(norm(x)))  j = unit(Wq(h))\n  "
        "memory T : d -> d = learned(normal(0.3)) { minimize 0.5 * sqnorm(T(j) - Wv(h)) by decay(0.9), gd(0.5) }\n  "
        "z = h + T(unit(h))  e = 0.5 * sqnorm(tanh(z) - x)  out y = z",
        {"F": "windows"},
    ),
    "the copy alone is read": (
        "z = Wq(x) + last F(x)  memory S : d -> d { minimize 0.5 * sqnorm(S(unit(z)) - x) by gd(0.3) }\n  o = last S(z)  e = 0.5 * sqnorm(z)  "
        "memory F : d -> d { minimize e by gd(0.3) }\n  out y = last F(o)",
        {"S": "solve", "F": "solve", "F~1": "solve", "F~2": "solve"},
    ),
    "two layers that learn, below the loss": (
        "memory F : d -> d = learned every 2 { minimize e over sum by gd(0.1) }\n  p = x + last F(x)  memory A : d -> d { minimize 0.5 * "
        "sqnorm(A(unit(Wq(p))) - p) by gd(0.1) }\n  r = p + A(unit(p))  memory B : d -> d { minimize 0.5 * sqnorm(B(unit(Wv(r))) - r) by gd(0.1) }"
        "\n  h = r + B(unit(r))  e = 0.5 * sqnorm(h - x)  out y = h",
        {"F": "windows"},
    ),
    "no gain": ("memory S : d -> d { update 0.5 * last S + outer(tanh(last S(k)), k) }\n  out y = S(S(k))", {"S": "loop"}),
    "something else of the operator": (CLOSED + "out y = S(solve(S + identity(S), S(k)))", {"S": "loop"}),
    "too many": (CLOSED + "chain p = k over i in 0 .. " + str(ROUNDS + 2) + " { p = S(unit(p)) }  out y = p", {"S": "loop"}),
}  # fmt: skip
each = pytest.mark.parametrize("text, forms", PROGRAMS.values(), ids=PROGRAMS)


@each
def test_forms(text, forms):
    e = nldsl.load(HEAD + text + "\n}").elaborate("m")
    found = plan(e.unit, dict(e.types[e.key])).forms
    assert {n: f.name for n, f in found.items() if n in forms} == forms
    assert any("~" in n for n in found) == any("~" in n for n in forms)
    assert all(f.name != "loop" for f in found.values()) == ("loop" not in forms.values())


@each
def test_values(text, forms):
    if "too many" not in text and forms != {"S": "loop"}:
        wrong = [o for o in verify(nldsl.load(HEAD + text + "\n}"), budget=Budget(examples=8, seconds=6, example=0.1),
                                   only=["lowerings", "splits", "causality", "derivatives", "states"]) if o.failure]  # fmt: skip
        assert not wrong


def test_a_copy_is_no_state():
    """Copies start from the state they are copies of, and a state dict has it once."""
    module = nldsl.load(HEAD + SOLVE + "out y = S(S(Wq(x)))\n}").module("m")
    assert set(module.initial_state(2)) == {"S"}
    _, state = module(torch.randn(2, 5, 3), return_state=True)
    assert set(state) == {"S"}
