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
