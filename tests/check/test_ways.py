"""The way from a memory to an objective that is a stream: what is wrong on it is said once, where it is wrong."""

import pytest

from nldsl.diagnostics import Diagnostic
from nldsl.pipeline import check_source
from nldsl.source import Source

PARTS = """block good(d) { in x : real[d]  param W : d -> d  out y = W(x) }
block bad(d) { in x : real[d]  out y = nope(x) }
"""
# The statements between `y0 = last M(x)` and the end of the block, and the one error they have.
WRONG = {
    "h = foo(y0)  loss = 0.5 * sqnorm(h - x)": "NL101",
    "loss = 0.5 * sqnorm(y0 - nope)": "NL101",
    "h = dot(y0, 1, 2)  loss = h": "NL110",
    "a = y0 + nope  b = tanh(a)  loss = sqnorm(b)": "NL101",
    "y1 = last N(x) + y0  loss = sqnorm(y1)": "NL101",
    "memory S : d -> d { minimize -dot(S(unit(y0)), x) by nope(1) }  loss = sqnorm(S(x) - x)": "NL112",
    "memory S : d -> d { minimize -dot(S(unit(y0)), zz) by gd(1) }  loss = sqnorm(S(x) - x)": "NL101",
    "memory S : q -> d { minimize -dot(S(y0), x) by gd(1) }  loss = sqnorm(S(x) - x)": "NL101",
    "memory A : store(d -> d) { key nope  value y0 }  loss = sqnorm(A(x) - x)": "NL101",
    "z = bad(y0)  loss = sqnorm(z - x)": "NL101",
    "z = good(y0, k = 3)  loss = sqnorm(z - x)": "NL110",
    "z = good(y0)  loss = sqnorm(z.q - x)": "NL101",
    "each h in 2 { u = y0 + nope }  loss = sum(flatten(u))": "NL101",
    "chain z = y0 over i in 0 .. 3 { z = nope(z) }  loss = sqnorm(z)": "NL101",
    "for i in 0 .. 2 { z[i] = nope(y0) }  loss = sum(sqnorm(z[i]) for i in 0 .. 2)": "NL101",
    "loss = sqnorm(delay(y0, nope))": "NL105",
    # What leads nowhere is said as before.
    "loss = sqnorm(x)": "NL404",
    "loss = sqnorm(M(x))": "NL404",
    "memory S : d -> d { minimize -dot(S(unit(x)), x) by gd(1) }  loss = sqnorm(S(x))": "NL404",
}


@pytest.mark.parametrize("body", WRONG)
def test_only_the_root_is_reported(body: str) -> None:
    parts = PARTS if "bad(" in body else PARTS.replace("nope(x)", "x")
    memory = "memory M : d -> d = learned every 2 { minimize loss over sum by gd(0.1) }  y0 = last M(x)"
    text = f"{parts}block b(d) {{\n  in x : real[d]\n  {memory}\n  {body}\n  out y = x + y0\n}}\n"
    assert [d.code for d in check_source(Source("b.nl", text)).errors] == [WRONG[body]]


APPLIED = {
    "loss": ("its objective is a stream of the block", "the stream `loss`"),
    "0.5 * sqnorm(S(x) - x) + sqnorm(S(2 * x))": ("it is applied at 2 places", "`S(x)`, `S(2 * x)`"),
    "0.5 * sqnorm(transpose(S)(x) - x)": ("it is not applied, or not only", "`transpose(S)`"),
    "sqnorm(S)": ("it is not applied, or not only", "`sqnorm(S)`"),
}


@pytest.mark.parametrize("objective", APPLIED)
def test_what_an_operator_is_not_applied_to(objective: str) -> None:
    """`dgd` erases at what the operator is applied to, which only an objective with one such place says; `gd` takes any."""

    def errors(step: str):
        body = f"memory S : d -> d {{ minimize {objective} by {step} }}\n  loss = 0.5 * sqnorm(last S(x) - x)\n  out y = S(x)"
        return check_source(Source("b.nl", f"block b(d) {{\n  in x : real[d]\n  {body}\n}}\n")).errors

    (wrong,) = errors("dgd(0.1, keep = 0.9)")
    what, found = APPLIED[objective]
    assert (wrong.code, wrong.message, wrong.found) == ("NL406", f"`x` is what `S` is applied to, and {what}", found)
    assert wrong.help == "gd(0.1, keep = 0.9)" and not errors(wrong.help)


def test_the_gradients_of_several_ticks_lead_to_no_objective() -> None:
    """No change of the objective helps, so none is offered; it is said at the memory that adds them up."""
    text = """block b(d) {
  in x : real[d]
  memory M : d -> d = learned { minimize OBJECTIVE by gd(0.1) }
  y0 = last M(x)
  memory S : d -> d CLOCK { minimize -dot(S(unit(y0)), x) by gd(1) }
  loss = 0.5 * sqnorm(S(x) - x)
  out y = x + y0
}"""
    for objective in ("loss", "stop(loss)"):
        (wrong,) = check_source(Source("b.nl", text.replace("OBJECTIVE", objective).replace("CLOCK", "every 4"))).errors
        assert (wrong.code, wrong.help) == ("NL409", None)
        assert wrong.spans[1].span.text == "S" and wrong.spans[1].text == "its step has the gradients of 4 ticks"
    assert not check_source(Source("b.nl", text.replace("OBJECTIVE", "loss").replace("CLOCK", ""))).errors


def test_a_word_without_its_argument() -> None:
    (wrong,) = check_source(Source("b.nl", "block b(d) { in x : real[d]  out y = tanh * x }")).errors
    assert (wrong.code, wrong.expected) == ("NL101", "`tanh(...)`") and "did you mean" not in (wrong.help or "")


def test_a_stream_is_no_objective_at_the_start_of_a_window() -> None:
    def wrong(objective: str, key: str) -> list[Diagnostic]:
        body = f"memory S : d -> d = learned {{ minimize {objective} by gd(0.1) }}  loss = 0.5 * sqnorm({key} - x)  out y = loss * x"
        return list(check_source(Source("b.nl", f"block b(d) {{ in x : real[d]  k = unit(x)  {body} }}")).errors)

    for key in ("last S(k)", "start(4) S(k)"):
        (said,) = wrong("loss at start(4)", key)
        assert said.code == "NL404" and said.message.startswith("`loss` is a stream") and said.help is None
        assert said.expected is not None and said.expected.startswith("an expression with S(key)") and "`last S`" not in said.expected
    assert not wrong("loss", "last S(k)") and not wrong("0.5 * sqnorm(S(k) - x) at start(4)", "last S(k)")
