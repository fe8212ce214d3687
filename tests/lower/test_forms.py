"""The form each recurrence gets, and the equation the compiler recognised, from the rule alone."""

from __future__ import annotations

import pytest

import nldsl
from nldsl.lower.equation import machine_text
from nldsl.lower.plan import Plan, plan

HEAD = """
block b(d) {
  in x : real[d]
  param Wk, Wv, Wq, Wa : d -> d
  param wa, wb : d -> 1
  k = unit(Wk(x))  v = Wv(x)  q = Wq(x)
  a = sigmoid(wa(x))  b = sigmoid(wb(x))  c = sigmoid(Wa(x))
"""


def planned(memory: str, out: str = "S(q)") -> Plan:
    e = nldsl.load(f"{HEAD}\n  memory S : d -> d {{ {memory} }}\n  out y = {out}\n}}").elaborate("b", d=4)
    return plan(e.unit, dict(e.types[e.key]))


L2 = "minimize 0.5 * sqnorm(S(k) - v)"
DOT = "minimize -dot(S(k), v)"
CASES = [
    (f"{DOT} by gd(1)", "closed", ["S' = S + v k^T"]),
    (f"{DOT} by decay(a), gd(1)", "closed", ["S' = a S + v k^T"]),
    ("minimize -sum(S(k) * v) by gd(1)", "closed", ["S' = S + v k^T"]),
    ("minimize mean(S(k) * v) by gd(1)", "closed", ["S' = S - e k^T"]),
    (f"{DOT} by decay(c), gd(1)", "closed", ["S' = Diag(c) S + v k^T"]),
    (f"{L2} by gd(b)", "solve", ["S' = S - b (S k - v) k^T"]),
    (f"{L2} by decay(a), gd(b)", "solve", ["S' = a S - b (a S k - v) k^T"]),
    (f"{L2} by gd(b, keep = a)", "solve", ["S' = a S - b (S k - v) k^T"]),
    (f"{L2} by gd(b), decay(a)", "solve", None),
    (f"{L2} by momentum(b, 0.9)", "solve", ["S.m' = 0.9 S.m + (S k - v) k^T", None]),
    (f"{L2} by titans(b, a, 0.1)", "solve", ["S.s' = a S.s - b (S k - v) k^T", None]),
    (f"{L2} by implicit(b)", "solve", None),
    ("minimize 0.5 * sqnorm(transpose(S)(v)) - dot(S(k), v) by gd(b)", "solve", None),
    ("update a * last S - outer(last S(k), b * k) + outer(v, k)", "solve", None),
    ("update a * last S + b * outer(v, k) + b * outer(x, k)", "closed", ["S' = a S + b e k^T", "where e = v + x"]),
    ("update a * last S - b * outer(last S(k), k) - b * outer(v, k)", "solve", ["S' = a S - b (S k + v) k^T"]),
    ("update a * last S - b * outer(k, transpose(last S)(k)) - b * outer(k, v)", "solve", ["S' = a S - b k (S^T k + v)^T"]),
    (f"{L2} by dgd(b, keep = a)", "solve", ["S' = a S - b (2 S k - v) k^T"]),
    ("minimize sum(softplus(S(k) - v)) by gd(b)", "loop", None),
    ("minimize 0.5 * sqnorm(S(k) - v) by decay(2 * a), gd(b)", "loop", None),
    ("update last S - b * (last S) * (last S)", "loop", None),
]


@pytest.mark.parametrize(("memory", "form", "equation"), CASES, ids=[c[0] for c in CASES])
def test_form_and_equation(memory: str, form: str, equation: list[str | None] | None) -> None:
    found = planned(memory).forms["S"]
    assert found.name == form, found.why
    if equation is not None:
        lines = machine_text(planned(memory), found)
        for line, wanted in zip(lines, equation, strict=False):
            assert wanted is None or line == wanted


def test_a_loop_says_why_and_where() -> None:
    why = planned("minimize sum(softplus(S(k) - v)) by gd(b)").forms["S"].why
    assert "not linear" in why and why.endswith(")") and ":" in why
    assert "[0, 1]" in planned(f"{L2} by decay(2 * a), gd(b)").forms["S"].why


def test_a_memory_that_makes_its_own_keys_is_a_loop() -> None:
    text = HEAD + "  memory S : d -> d = learned { minimize 0.5 * sqnorm(S(m) - v) by gd(b) }\n  m = last S(x)\n  out y = S(q)\n}"
    e = nldsl.load(text).elaborate("b", d=4)
    assert plan(e.unit, dict(e.types[e.key])).forms["S"].name == "loop"


def test_vectors_scan() -> None:
    text = "block b(d) { in x : real[d]  memory m : real[d] { update 0.9 * last m + 0.1 * x }  out y = m }"
    e = nldsl.load(text).elaborate("b", d=4)
    assert plan(e.unit, dict(e.types[e.key])).forms["m"].name == "scan"


def test_implicit_step_that_cannot_be_solved() -> None:
    with pytest.raises(nldsl.NlError, match="NL602"):
        planned("minimize sum(exp(S(k))) by implicit(b)")
