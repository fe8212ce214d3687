"""What is refused because it has no size, no number, no end, or too many copies; each in seconds."""

import time

import pytest

import nldsl
from nldsl.pipeline import check_source
from nldsl.source import Source


def block(body: str, out: str = "x") -> str:
    return f"block b(d) {{\n  in x : real[d]\n  {body}\n  out y = {out}\n}}\n"


@pytest.mark.parametrize("copies", ["0", "-1", "3/2"])
def test_copies_are_a_whole_number_above_0(codes, copies):
    assert codes(block(f"each h in {copies} {{ z = x }}", "flatten(z)")) == ["NL201"]


@pytest.mark.parametrize("n", [3, 0, -2])
def test_copies_that_parameters_make_wrong(n):
    program = nldsl.load("block b(d, n = 2) { in x : real[d]  each h in n / 2 { z = x }  out y = flatten(z) }")
    with pytest.raises(nldsl.NlError) as wrong:
        program.elaborate("b", d=4, n=n)
    assert [d.code for d in wrong.value.diagnostics] == ["NL806"] and f"n = {n}" in str(wrong.value)


LEARN = "rule %s(a) { memory m : like(w) { minimize 0.5 * sqnorm(m - g) by %s(a) }  update last w - m }\n"
TRAIN = block("memory m : real[d] { minimize 0.5 * sqnorm(m - x) by %s(0.5) }", "m")


def test_a_rule_does_not_train_its_own_memory(codes):
    assert codes(LEARN % ("r", "r")) == ["NL118"]
    assert set(codes(LEARN % ("r", "s") + LEARN % ("s", "r") + TRAIN % "r")) == {"NL118"}
    assert codes(LEARN % ("r", "gd") + TRAIN % "r") == []


def chained(n: int, use: str) -> str:
    first = "block b0(d) { in x : real[d]  out y = 2 * x }\n"
    return first + "".join(f"block b{i}(d) {{ in x : real[d]  out y = {use.replace('b', f'b{i - 1}')} }}\n" for i in range(1, n))


def test_blocks_nest_32_deep(codes):
    assert codes(chained(32, "b(x)")) == []
    (wrong,) = check_source(Source("t.nl", chained(33, "b(x)"))).errors
    assert wrong.code == "NL118" and "nested deeper than 32" in wrong.message


@pytest.mark.parametrize("value", ["x * (0 - 8)^0.5", "x * (1 / 0)", "x / 0", "x + log(0)", "x * 2^2000"])
def test_a_constant_is_a_real_number(codes, value):
    assert codes(block("", value)) == ["NL120"]


def test_what_has_no_value_is_said():
    (wrong,) = check_source(Source("t.nl", "const a = 3 + 1 / 0")).errors
    assert "division by zero" in wrong.message and wrong.spans[0].span.text == "1 / 0"


@pytest.mark.parametrize(
    "text",
    [
        block("for i in 1000 { for j in 1000 { z[i] = x } }"),
        block("for i in 3 { " * 30 + "z = x" + " }" * 30),
        block("chain h = x over i in 1000 { chain g = h over j in 1000 { g = g + x }  h = h + g }", "h"),
        chained(40, "b(b(x))"),
        "rule r0(a) { update last w - a * g }\n"
        + "".join((LEARN % (f"r{i}", f"r{i - 1}")).replace("update", f"memory n : like(w) {{ minimize sqnorm(n - g) by r{i - 1}(a) }} update")
                  for i in range(1, 25)) + TRAIN % "r24",
    ],
    ids=["twice", "nested for", "nested chain", "blocks", "rules"],
)  # fmt: skip
def test_what_would_have_no_end_is_refused_in_seconds(codes, text):
    start = time.process_time()
    assert "NL003" in codes(text)
    assert time.process_time() - start < 30


def test_names_of_a_for_in_a_chain_belong_to_the_step(codes):
    assert codes(block("chain h = x over i in 3 { for j in 0 .. 2 { z[j] = j * h + i }  h = z[0] + z[1] }", "h")) == []
