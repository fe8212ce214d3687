"""The roles that a rule says it learns on: words there are, of parameters with the shape behind them; in a memory by its shape."""

import pytest

import nldsl
from nldsl.pipeline import check_source
from nldsl.source import Source

STEP = "{ update last w - lr * g }"
BLOCK = "block b(d) {{\n  in x : real[d]\n  k = unit(x)\n  memory S : {} {{ minimize -dot({}, k) by r(0.1) }}\n  out y = {}\n}}\n"
OPERATOR, VECTOR = BLOCK.format("d -> d", "S(k)", "S(k)"), BLOCK.format("real[d]", "S", "S")


def found(text):
    return check_source(Source("t.nl", text)).diagnostics


@pytest.mark.parametrize("on, words", [
    ("matrixes d -> e", "did you mean `matrices`?"),
    ("matrices, tables d -> e", "`tables` is no role"),
    ("vector else sgd", "did you mean `vectors`?"),
    ("d", "or a type"),
    ("heads, heads d -> e", "stands twice"),
    ("vectors d -> e", "on matrices d -> e"),
    ("convolutions d -> e", "matrices, embeddings, heads"),
    ("matrices real[n]", "on vectors real[n]"),
    ("vectors d -> e stacked", "matrices, embeddings, heads, convolutions"),
])  # fmt: skip
@pytest.mark.parametrize("used", ["", OPERATOR], ids=["alone", "used"])
def test_a_role_that_there_is_not(on, words, used):
    said = [d for d in found(f"rule r(lr = 0.1) on {on} {STEP}\n{used}") if d.code == "NL435"]
    (one,) = said
    assert words in " | ".join(filter(None, (one.message, one.expected, one.found, one.help)))
    assert one.spans[0].span.text in on


@pytest.mark.parametrize("on", [
    "matrices d -> e", "matrices, heads d -> e else adamw", "convolutions d -> e stacked", "vectors real[n]", "embeddings, vectors", "heads else sgd",
])  # fmt: skip
def test_roles_there_are(on):
    assert found(f"rule r(lr = 0.1) on {on} {STEP}") == ()
    rule = nldsl.load(f"rule r(lr = 0.1) on {on} {STEP}").rule("r")
    words = on.partition(" else ")[0].replace(",", "").split()
    assert rule.roles == tuple(w for w in words if w in ("matrices", "vectors", "embeddings", "heads", "convolutions"))


@pytest.mark.parametrize("on, block, fits", [
    ("matrices d -> e", OPERATOR, True),
    ("heads, matrices d -> e", OPERATOR, True),
    ("matrices", OPERATOR, True),
    ("vectors", OPERATOR, False),
    ("vectors", VECTOR, True),
    ("vectors real[n]", VECTOR, True),
    ("matrices", VECTOR, False),
    ("embeddings, heads d -> e", OPERATOR, False),
])  # fmt: skip
def test_a_memory_has_the_role_of_its_shape(on, block, fits):
    said = found(f"rule r(lr = 0.1) on {on} else gd {STEP}\n{block}")
    assert [d.code for d in said] == ([] if fits else ["NL430"])
    for one in said:
        role = "a matrix" if block is OPERATOR else "a vector"
        assert one.help == "gd(...)" and one.found.endswith(role) and one.expected == on.removesuffix(" d -> e")


@pytest.mark.parametrize("roles", ["vectors", "embeddings"])
def test_a_rule_for_memories_only_is_tried_whatever_its_roles(roles):
    assert found(f"rule r(lr = 0.1) on {roles} {{ update last w - lr * grad(at = w) }}") == ()
