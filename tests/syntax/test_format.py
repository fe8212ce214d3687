"""The formatter: same tree, same comments, same text the second time."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nldsl.diagnostics import NlError
from nldsl.format import WIDTH, format_text, print_file
from nldsl.parse import parse_text
from nldsl.parse_lex import lex
from nldsl.printer import print_item
from nldsl.source import Source
from nldsl_testing.programs import programs, rule_texts

from .samples import SAMPLES
from .strategies import files


def formatted(text):
    return format_text(Source("<text>", text))


def comments(text):
    return [comment.text.rstrip() for comment in lex(Source("<text>", text)).comments]


def check(text):
    once = formatted(text)
    assert parse_text(once)[1] == []
    assert parse_text(once)[0] == parse_text(text)[0]
    assert comments(once) == comments(text)
    assert formatted(once) == once
    assert all(line == line.rstrip() for line in once.splitlines() if '"' not in line)
    return once


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_are_canonical(text):
    assert check(text) == text


def test_roles_of_a_rule():
    text = "rule r(a = 1) on matrices,heads  d->e\n  stacked else   s { update last w - a * g }\nrule s(a) on  vectors{ update last w - a * g }\n"
    assert check(text) == (
        "rule r(a = 1) on matrices, heads d -> e stacked else s { update last w - a * g }\nrule s(a) on vectors { update last w - a * g }\n"
    )
    assert [([role.id for role in rule.roles], rule.on is None, rule.word) for rule in parse_text(text)[0].items] == [
        (["matrices", "heads"], False, "stacked"), (["vectors"], True, None)]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(files)
def test_print_file_parses_back(made):
    text = print_file(made)
    assert parse_text(text) == (made, [])
    assert formatted(text) == text


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs() | rule_texts())
def test_programs_keep_their_tree(text):
    once = check(text)
    items = parse_text(once)[0].items
    assert parse_text("\n".join(map(print_item, items)))[0].items == items


_SPACE = ["", " ", "  ", "\n", "\n\n\n", "\t"]
_GAPS = st.sampled_from([*_SPACE, " # c\n", "\n # own\n", "\n\n# far\n\n", "#tight\n", "# a\n# b\n"])


def _scatter(text, draw):
    """The same tokens with other white space and comments between them."""
    tokens = lex(Source("<text>", text)).tokens
    out = draw(_GAPS)
    for token, after in pairwise(tokens):
        touching = token.text and after.text and (token.text[-1] + after.text[0]).replace("_", "a").isalnum()
        tight = token.end == after.start and not touching
        out += token.text + draw(_GAPS if tight else _GAPS.filter(bool))
    return out


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from(SAMPLES))
def test_comments_anywhere_stay(data, text):
    check(_scatter(text, data.draw))


@settings(max_examples=30, deadline=None)
@given(st.data(), files)
def test_comments_anywhere_in_any_file_stay(data, made):
    text = "\n".join(map(print_item, made.items))
    check(_scatter(text, data.draw))


@pytest.mark.parametrize(
    "before, after",
    [
        ("", ""),
        ("# only", "# only\n"),
        ("\n\n# a\n\n\n\n# b\n\n", "# a\n\n# b\n"),
        ("const  a=1   const b = 2", "const a = 1  const b = 2\n"),
        ("block f{x=1\n\n\n\ny=2}", "block f {\n  x = 1\n\n  y = 2\n}\n"),
        ("block f{x=-a^2 y=f (x) [3]}", "block f { x = -a^2  y = f(x)[3] }\n"),
        ("block f {\n}", "block f {}\n"),
        ("block f { # c\n}", "block f {  # c\n}\n"),
        ("block f { x = [1, 2, ] # c\n}", "block f {\n  x = [1, 2]  # c\n}\n"),
        ("const a = f( # x\n b, # y\n # z\n c)", "const a = f(  # x\n  b,  # y\n  # z\n  c\n)\n"),
        ("#" + "x" * 120 + "\nconst a = 1 # " + "y" * 120, "#" + "x" * 120 + "\nconst a = 1  # " + "y" * 120 + "\n"),
        ("\ufeffconst a = 1\r\n# c\r\n", "const a = 1\n# c\n"),
    ],
)
def test_layout(before, after):
    assert check(before) == after


def test_long_statements_are_broken():
    call = "f(" + ", ".join(f"argument_{i} = {i}" for i in range(9)) + ")"
    steps = ", ".join(f"step_{i}(0.5)" for i in range(12))
    total = " + ".join(["long_name"] * 20)
    text = check(f"block f {{ y = {call}\n s = {total}\n memory M : d -> d {{ minimize {call} by {steps} }} }}")
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_text_with_errors_is_refused():
    with pytest.raises(NlError) as caught:
        formatted("block f { y = }\nblock g { z = }")
    assert [d.code for d in caught.value.diagnostics] == ["NL009", "NL009"]


def test_a_long_list_is_laid_out_in_time():
    text = check("const a = f(" + ", ".join(f"-x{i}" for i in range(1_500)) + ",)")
    assert text.startswith("const a = f(\n  -x0,\n  -x1,\n")
