"""What a rule may not be as an optimizer is said before anything is compiled."""

import pytest

import nldsl

HEAD, MEMORY = "rule r(lr = 0.1) {", "memory m : like(w) = zeros { %s }  update last w - lr * m }"
WRONG = {
    "a cycle": ("NL310", "rule r(lr = 0.1) { a = b + g  b = a  update last w - lr * a }"),
    "an implicit step that is not solved": ("NL602", f"{HEAD} {MEMORY % 'minimize 0.5 * sqnorm(m - g) by implicit(0.5)'}"),
    "a number with a taken name": ("NL433", "rule r(lr = 0.1, params = 2) { update last w - lr * params * g }"),
    "a number that is a word of Python": ("NL433", "rule r(lambda = 2) { update last w - lambda * g }"),
    "a number called every": ("NL433", "rule r(lr = 1, split = 2) { update last w - lr * split * g }"),
    "a number twice": ("NL102", "rule r(lr = 0.1, lr = 2) { update last w - lr * g }"),
    "a number called w": ("NL102", "rule r(w = 0.1) { update last w - w * g }"),
    "a memory twice": ("NL102", f"{HEAD} memory m : like(w) {{ update g }} {MEMORY % 'update last m + g'}"),
    "an equation twice": ("NL102", f"{HEAD} a = g  a = 2 * g  update last w - lr * a }}"),
    "a delay": ("NL434", f"{HEAD} update last w - lr * delay(g, 2) }}"),
    "a random start": ("NL434", f"{HEAD} memory m : like(w) = normal(1) {{ update last m + g }}  update last w - lr * m }}"),
    "a learned start": ("NL434", f"{HEAD} memory m : like(w) = learned {{ update last m + g }}  update last w - lr * m }}"),
    "the start of a window as the point of a gradient": ("NL434", f"{HEAD} {MEMORY % 'minimize 0.5 * sqnorm(m - g) at start(2) by gd(0.5)'}"),
    "the start of a window": ("NL434", f"{HEAD} {MEMORY.replace('lr * m', 'lr * start(4) m') % 'update last m + g'}"),
    "a word that says nothing": ("NL430", "rule r(lr = 0.1) on d -> e piled { update last w - lr * g }"),
    "vectors in a stack": ("NL430", "rule r(lr = 0.1) on real[n] stacked { update last w - lr * g }"),
    "one name for two sizes": ("NL430", "rule r(lr = 0.1) on d -> d { update last w - lr * g }"),
    "no gradient": ("NL432", "rule r(lr = 0.1) { update (1 - lr) * last w }"),
    "the gradient elsewhere": ("NL406", "rule r(lr = 0.1) { update last w - lr * grad(at = w) }"),
    "a default that is no number": ("NL431", "rule r(lr = 0.1, a = lr) { update last w - a * g }"),
}


@pytest.mark.parametrize("code, text", WRONG.values(), ids=WRONG)
def test_it_is_said(code, text):
    from nldsl.lower.rule import plan_rule

    with pytest.raises(nldsl.NlError) as raised:
        plan_rule(nldsl.load(text).rule("r"))
    assert code in [d.code for d in raised.value.diagnostics]


def test_a_cycle_is_found_by_check(codes):
    assert codes("rule r(lr = 0.1) { a = b + g  b = a  update last w - lr * a }") == ["NL310"]


INNER = "rule inner(rate, f = 3) {\n  memory a : like(w) every f { minimize 0.5 * sqnorm(a - g) by gd(0.5) }\n  update last w - rate * a\n}\n"
TIMED = {  # what is said, and the line it is said at
    "a period in a period": ("what learns `m`, which has a period, has none of its own", 6,
                             "minimize 0.5 * sqnorm(m - g) by inner(0.5) }", "every 4"),
    "a step with a period": ("none has a period of its own", 6, "minimize 0.5 * sqnorm(m - g) by gd(0.1), decay(0.5) every 3 }", ""),
    "a reset": ("no sequences", 6, "minimize 0.5 * sqnorm(m - g) by gd(0.1)  reset every 5 }", ""),
    "a start": ("no copy of `m`", 6, "minimize 0.5 * sqnorm(m - g) at start(2) by gd(0.1) }", ""),
}  # fmt: skip


@pytest.mark.parametrize("says, line, body, every", TIMED.values(), ids=TIMED)
def test_the_reason_is_the_true_one_and_stands_in_the_file_of_the_rule(says, line, body, every):
    program = nldsl.load(f"{INNER}rule r(lr = 0.1) {{\n  memory m : like(w) {every} {{ {body}\n  update last w - lr * m\n}}\n")
    with pytest.raises(nldsl.NlError) as raised:
        program.rule("r")
    (problem,) = raised.value.diagnostics
    span = problem.spans[0].span
    assert problem.code == "NL434" and says in problem.message and "m : like" in span.source.text[:span.start + 40]
    assert span.source.text[: span.start].count("\n") + 1 == line


def test_a_delay_of_what_it_gives_itself_is_broken_in_a_rule_as_in_a_block(codes):
    text = "rule r(lr = 0.1) {{ y = 0.5 * delay(y, {ticks}) + g  update last w - lr * y }}"
    assert codes(text.format(ticks=2)) == []
    with pytest.raises(nldsl.NlError, match="NL434"):
        nldsl.load(text.format(ticks=2)).rule("r")
    assert nldsl.load(text.format(ticks=1)).rule("r").unit.equations
