"""The grammar and the parser on texts without errors."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nldsl import tree
from nldsl.parse import parse_text
from nldsl.parse_build import BUILDERS
from nldsl.parse_lex import lex
from nldsl.parse_table import END, lark_parser, tables
from nldsl.printer import print_expr, print_item
from nldsl.source import Source

from .samples import GATED, SAMPLES
from .strategies import exprs, files


def expr(text):
    file, diagnostics = parse_text(f"const c = {text}")
    assert not diagnostics, diagnostics
    return file.items[0].value


def test_no_conflicts():
    lark_parser(strict=True)


def test_every_rule_has_a_builder():
    rules = [(builder, size) for builder, left, size in tables().rules if left[0] not in "_$"]
    assert {builder for builder, size in rules if size != 1} <= {*BUILDERS, "junk"}


def test_reserved_words():
    reserved = (
        "import const block rule schedule train in param memory each for chain over out key value minimize by update reset "
        "every offset last real int bool store like on else at start writes flush shared to"
    )
    assert set(tables().words) == set(reserved.split())


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_have_no_errors(text):
    assert parse_text(text)[1] == []


_SCRAPS = [*"ab.01 e-+*/^=:,()[]{}\"'#\n\\@\u00e9", "in ", "last ", "1e3", ".."]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_SCRAPS), max_size=30).map("".join))
def test_same_tokens_as_lark(text):
    """The lexer is Lark's basic lexer, driven by the same patterns, that also goes on after junk."""
    import lark

    ours = [t for t in lex(Source("t", text)).tokens if t.kind != END]
    try:
        theirs = list(_LARK.lex(text))
    except lark.exceptions.UnexpectedCharacters:
        return
    theirs = [t for t in theirs if t.type not in ("BAD",)]
    kind = {"UNCLOSED": "STRING", "QUOTED": "STRING"}
    assert [(t.kind, t.start) for t in ours] == [(kind.get(t.type, t.type), t.start_pos) for t in theirs]


_LARK = lark_parser()


@pytest.mark.parametrize(
    "text, same",
    [
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("a^b^c", "a^(b^c)"),
        ("-a^b", "-(a^b)"),
        ("-a * b", "(-a) * b"),
        ("a^-b", "a^(-b)"),
        ("last M(q)", "(last M)(q)"),
        ("last M[p](q)", "(last M[p])(q)"),
        ("start(c) M(q)", "(start(c) M)(q)"),
        ("start(2 * c) M[p](q)", "(start(2 * c) M[p])(q)"),
        ("0..4", "(0) .. (4)"),
        ("a + 1 .. b * 2", "(a + 1) .. (b * 2)"),
        ("f(x,)", "f(x)"),
    ],
)
def test_binding(text, same):
    assert expr(text) == expr(same)


def test_forms_of_expressions():
    assert expr("last M[p](q)").fn == tree.Last(tree.Index(tree.Name("M", None), tree.Name("p", None), None), None)
    assert expr("(last M)[p]").base == tree.Last(tree.Name("M", None), None)
    assert expr("data.x") == tree.Name("data.x", None)
    assert (type(expr("3").value), type(expr("3.0").value), expr("1e-3").value) == (int, float, 0.001)
    assert expr('"a\\"b\\n"').value == 'a"b\n'
    assert isinstance(expr("sum(x[j] for j in 0 .. n)"), tree.Sum)


def test_forms_of_memories():
    text = """block b {
      memory M : mlp(d, 2) {
        minimize E over mean at start(8) by gd(1), project() every 2 * 4
        reset every 64 to F[2]
        writes stop
        flush drop
        shared mean
      }
      memory S : d -> d every 4 { update x over last }
      memory P : cell { key k }
      y = grad(at = start(4) M)
    }"""
    file, diagnostics = parse_text(text)
    assert diagnostics == []
    network, slow, plain, equation = file.items[0].body
    assert network.type == tree.StructureType(expr("mlp(d, 2)"), None)
    assert plain.type == tree.StructureType(tree.Name("cell", None), None)
    minimize, reset, writes, flush, shared = network.clauses
    assert (minimize.over, minimize.start) == ("mean", expr("8"))
    assert minimize.steps == (expr("gd(1)"), tree.Step(expr("project()"), expr("2 * 4"), None))
    assert minimize.steps[1].span.text == "project() every 2 * 4"
    assert (reset.when, reset.period, reset.to) == ("every", expr("64"), expr("F[2]"))
    assert (writes.how, flush.how, shared.how) == ("stop", "drop", "mean")
    assert slow.clauses[0].sampled and slow.every == expr("4")
    (arg,) = equation.expr.args
    assert (arg.name, arg.value) == ("at", tree.Start(expr("4"), tree.Name("M", None), None))
    file, diagnostics = parse_text("train t { minimize f(x) by muon(1) every 8 }")
    assert diagnostics == [] and file.items[0].body[0].steps == (tree.Step(expr("muon(1)"), expr("8"), None),)


def test_spans_cover_the_text():
    file, _ = parse_text(GATED)
    block = file.items[2]
    assert block.span.text == GATED[GATED.index("block gated") : GATED.rindex("}") + 1]
    memory = block.body[1].body[-2]
    assert memory.span.text.startswith("memory S") and memory.span.text.endswith("}")
    assert memory.clauses[2].objective.span.text == "0.5 * sqnorm(S(k) - v)"
    assert memory.clauses[2].steps[0].args[0].span.text == "sigmoid(wa(x))"
    assert block.body[0].names[0].span.where == "<text>:6"
    assert expr("(a + b) * c").span.text == "(a + b) * c"


@settings(max_examples=150, deadline=None)
@given(exprs)
def test_printed_expressions_parse_back(made):
    text = print_expr(made)
    back = expr(text)
    assert back == made
    assert print_expr(back) == text


@settings(max_examples=30, deadline=None)
@given(files)
def test_printed_files_parse_back(made):
    file, diagnostics = parse_text("\n".join(map(print_item, made.items)))
    assert diagnostics == []
    assert file == made


def _run(code, cache):
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


_PROBE = (
    "import json, sys; from nldsl.parse import parse_text; d = parse_text('const c = 3')[1];"
    "print(json.dumps([len(d), 'lark' in sys.modules]))"
)


def test_the_table_is_cached(tmp_path):
    assert _run(_PROBE, tmp_path) == [0, True]
    assert _run(_PROBE, tmp_path) == [0, False]
    (cached,) = (tmp_path / "nldsl").iterdir()
    cached.write_text("{")
    assert _run(_PROBE, tmp_path) == [0, True]


def test_an_unwritable_cache_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert _run(_PROBE, blocked) == [0, True]
