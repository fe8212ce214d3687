"""No text makes the parser raise or stall."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nldsl
from nldsl.diagnostics import Diagnostic
from nldsl.lower.plan import plan
from nldsl.parse import MAX_ERRORS, parse, parse_text
from nldsl.parse_lex import lex
from nldsl.parse_table import lark_parser, tables
from nldsl.pipeline import check_source
from nldsl.printer import print_item
from nldsl.source import Source
from nldsl_testing.programs import programs

from .samples import SAMPLES

_LARK = lark_parser()
SCRAPS = [*tables().symbols.values(), "x", "S", "3", "1e-3", '"s"', '"', "'", "@", ";", "==", "#", "\n", "\x00", "é"]


def survives(text):
    """The errors of a text; its tree prints, and each error renders."""
    source = Source("<text>", text)
    file, diagnostics = parse(source)
    for item in file.items:
        print_item(item)
    for diagnostic in diagnostics:
        assert isinstance(diagnostic, Diagnostic)
        assert diagnostic.spans[0].span.end <= len(text)
        diagnostic.render()
    assert len(diagnostics) <= MAX_ERRORS
    return diagnostics


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(SCRAPS), max_size=40).map(" ".join))
def test_any_tokens(text):
    survives(text)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=80))
def test_any_text(text):
    survives(text)


@pytest.mark.parametrize("seed", range(100))
def test_mutations(seed):
    """Tokens of a sample left out, doubled, exchanged and put in."""
    dice = random.Random(seed)
    text = dice.choice(SAMPLES)
    tokens = lex(Source("<text>", text)).tokens
    spaces = [text[a.end : b.start] for a, b in pairwise(tokens)]
    words = [token.text for token in tokens[:-1]]
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(len(words))
        match dice.randrange(4):
            case 0:
                words[at] = ""
            case 1:
                words[at] += " " + words[at]
            case 2:
                words[at] = dice.choice(SCRAPS)
            case 3:
                words[at] = dice.choice(SCRAPS) + " " + words[at]
    text = "".join(word + (space or " ") for word, space in zip(words, spaces, strict=True))
    if not survives(text):
        _LARK.parse(text, start="file")


@st.composite
def damaged(draw):
    """A program with tokens left out, doubled, exchanged, and replaced by others of its own or by scraps."""
    text = draw(programs())
    words = [token.text for token in lex(Source("<program>", text)).tokens[:-1]]
    places = st.integers(0, len(words) - 1)
    for _ in range(draw(st.integers(1, 3))):
        at, other = draw(places), draw(places)
        match draw(st.sampled_from(["replace", "delete", "double", "swap", "scrap"])):
            case "replace":
                words[at] = words[other]
            case "delete":
                words[at] = ""
            case "double":
                words[at] += " " + words[at]
            case "swap":
                words[at], words[other] = words[other], words[at]
            case "scrap":
                words[at] = draw(st.sampled_from(SCRAPS))
    return " ".join(words)


def compiles_or_says_why(text):
    """A plan of every block, or diagnostics that render; nothing is an internal error."""
    found = check_source(Source("<program>", text)).diagnostics
    for diagnostic in found:
        assert diagnostic.code != "NL899"
        diagnostic.render()
    if any(diagnostic.severity == "error" for diagnostic in found):
        return
    program = nldsl.load(text + "\n")
    for block in program.blocks:
        try:
            elaborated = program.elaborate(block)
            for key, unit in elaborated.units.items():
                plan(unit, dict(elaborated.types[key]))
        except nldsl.NlError as refused:
            assert all(d.code != "NL899" for d in refused.diagnostics)


few = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(damaged())
def test_damaged_programs_are_compiled_or_refused(text):
    survives(text)
    compiles_or_says_why(text)


@pytest.mark.soak
@settings(few, max_examples=3_000, derandomize=False)
@given(damaged())
def test_many_damaged_programs_are_compiled_or_refused(text):
    compiles_or_says_why(text)


@pytest.mark.parametrize("sample", SAMPLES[:2])
def test_every_prefix(sample):
    for end in range(0, len(sample), 7):
        survives(sample[:end])


# Texts of a given size; at 100,000 most are just under the largest text that is read.
HOSTILE = {
    "parentheses": lambda n: "const a = " + "(" * 9 * n,
    "brackets": lambda n: "const a = " + "[" * 9 * n,
    "closed parentheses": lambda n: "const a = " + "(" * 4 * n + "1" + ")" * 4 * n,
    "braces": lambda n: "block f " + "{" * 9 * n,
    "loops": lambda n: "block f {" + "for p in ps {" * (n // 2),
    "sum": lambda n: "const a = 1" + "+1" * n,
    "powers": lambda n: "const a = 1" + "^1" * n,
    "signs": lambda n: "const a = " + "-" * n + "1",
    "calls": lambda n: "const a = f" + "(1)" * n,
    "indices": lambda n: "const a = f" + "[1]" * n,
    "arguments": lambda n: "const a = f(" + "1," * n + ")",
    "open arguments": lambda n: "const a = f(" + "1," * n,
    "unknown": lambda n: "\x00" * 9 * n,
    "alternating": lambda n: "$a" * 4 * n,
    "quotes": lambda n: '"\n' * 4 * n,
    "names": lambda n: "a " * 4 * n,
    "blocks": lambda n: "block " * n,
    "closers": lambda n: "}" * 9 * n,
    "equations": lambda n: "block f {" + "a = 1\n" * n + "}",
    "open equations": lambda n: "block f {" + "a = (\n" * n + "}",
    "digits": lambda n: "const a = " + "9" * 9 * n,
    "spaces": lambda n: " " * 9 * n,
    "slashes": lambda n: "/" * 9 * n,
}
DEEP = ("parentheses", "brackets", "braces", "loops", "sum", "powers", "signs", "calls", "indices")


@pytest.mark.soak
@pytest.mark.parametrize("name", HOSTILE)
def test_large_hostile_texts_end(name):
    start = time.monotonic()
    parse_text(HOSTILE[name](100_000))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_survive(name):
    survives(HOSTILE[name](2_000))


@pytest.mark.parametrize("name", DEEP)
def test_too_deep_is_said(name):
    assert [d.code for d in parse_text(HOSTILE[name](2_000))[1]] == ["NL003"]


def test_too_large_is_said():
    assert [d.code for d in parse_text("# " + "x" * 10**8)[1]] == ["NL003"]


def test_the_deepest_that_is_read():
    assert parse_text("const a = " + "(" * 100 + "1" + ")" * 100)[1] == []
    assert parse_text("const a = 1" + " + 1" * 99)[1] == []


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "\ufeff", "  \t\r\n"])
def test_empty_texts(text):
    assert parse_text(text)[1] == []
