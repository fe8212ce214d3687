"""Syntax errors: which code, where, and in which words; several in one run; nothing after a repair is lost."""

import pytest

from nldsl.codes import CODES
from nldsl.parse import parse_text

# (text, code, line:column, words of the message, its expectation or its help)
BAD = [
    ("block f { in x real }", "NL009", "1:16", "`:` is missing"),
    ("block f { in x = real[d] }", "NL001", "1:16", "`:` stands here, not `=`"),
    ("block f { in x }", "NL009", "1:16", "real[d]"),
    ("block f { in x y : real }", "NL009", "1:16", "`,` is missing"),
    ("block f { y = W x }", "NL001", "1:17", "`W(x)`"),
    ("block f {\n  y = W x\n  k = 3\n}", "NL001", "2:9", "side by side"),
    ("block f { memory S : d -> e { minimize dot(S, x) gd(1) } }", "NL009", "1:50", "needs `by`"),
    ("block f { memory S : d -> e { minimize dot(S, x) } }", "NL009", "1:50", "needs `by`"),
    ("block f { memory S : d -> e { minimize dot(S, x) rest by gd(1) } }", "NL010", "1:50", "routes stand in a `train`"),
    ("train t { minimize f(x) rest muon(1) }", "NL009", "1:30", "`by` and a rule are missing after `rest`"),
    ("train t { minimize f(x) over sum by muon(1) }", "NL010", "1:11", "stand in a `minimize` of a memory"),
    ("train t { minimize f(x) at start(4) by muon(1) }", "NL010", "1:11", "stand in a `minimize` of a memory"),
    ("rule r on f(d) { update g }", "NL009", "1:16", "needs `->`"),
    ("rule r on matrices stacked { update g }", "NL009", "1:28", "needs `->`"),
    ("rule r on matrices, d -> e { update g }", "NL009", "1:23", "no `,` before the type: on matrices d -> e"),
    ("rule r on matrices, { update g }", "NL009", "1:21", "a name"),
    ("block f { x = 3 else 4 }", "NL001", "1:17", "no branches"),
    ("block f { memory S : d -> e { minimize S by } }", "NL009", "1:45", "an expression is missing after `by`"),
    ("block f { param W : d = normal(1) }", "NL009", "1:21", "needs `->`"),
    ("block f { in x : mlp(d, 3) }", "NL009", "1:18", "memory M : mlp(d, 3) = learned { ... }"),
    ("block f { each h in 3 { in x : mlp } }", "NL009", "1:32", "real[n]"),
    ("block f { memory M : d -> d { minimize S(k) at 4 by gd(1) } }", "NL001", "1:48", "`start`"),
    ("block f { memory M : d -> d { minimize S(k) at start by gd(1) } }", "NL001", "1:54", "`(`"),
    ("block f { memory M : d -> d { minimize S(k) at start(4) gd(1) } }", "NL009", "1:45", "needs `by`"),
    ("block f { memory M : d -> d { minimize S(k) start(4) by gd(1) } }", "NL007", "1:45", "`start`"),
    ("block f { memory M : d -> d { minimize S(k) by gd(1) at start(4) } }", "NL001", "1:54", "`every`"),
    ("block f { memory M : d -> d { minimize S(k) by gd(1) every } }", "NL009", "1:60", "an expression is missing"),
    ("block f { memory M : d -> d { reset every 4 M } }", "NL001", "1:45", "`to`"),
    ("block f { memory M : d -> d { reset every 4 to } }", "NL009", "1:48", "a name is missing after `to`"),
    ("block f { memory M : d -> d { reset sequence to M } }", "NL001", "1:46", "cannot stand after `sequence`"),
    ("block f { memory M : d -> d { update last M over sum } }", "NL001", "1:50", "`last`"),
    ("block f { memory M : d -> d { writes } }", "NL009", "1:38", "a name is missing"),
    ("block f { memory M : d -> d { write stop } }", "NL001", "1:31", "did you mean `writes`?"),
    ("block f { writes stop }", "NL010", "1:11", "braces of a memory"),
    ("block f { x = start(4) }", "NL009", "1:24", "a name is missing after `)`"),
    ("block f { x = start(4)(M) }", "NL009", "1:23", "a name is missing after `)`"),
    ("block f { x = start(4) last M }", "NL001", "1:24", "a name"),
    ("block f { x = start + 1 }", "NL007", "1:15", "`start_`"),
    ("block f { in at : real }", "NL007", "1:14", "`at_`"),
    ("block f { x = g(to = 3) }", "NL007", "1:17", "`to_`"),
    ("block f { writes = 3 }", "NL007", "1:11", "`writes_`"),
    ("block f { param W d -> e }", "NL009", "1:19", "`:` is missing"),
    ("block f { in value : real[d] }", "NL007", "1:14", "`value_`"),
    ("block f { key = 3 }", "NL007", "1:11", "word of the language"),
    ("block f { out = 3 }", "NL007", "1:11", "`out_`"),
    ("block memory { in x : real }", "NL007", "1:7", "`memory_`"),
    ("block f { x = g(value = 3) }", "NL007", "1:17", "`value_`"),
    ("block f { x = 3; y = 4 }", "NL008", "1:16", "`;`"),
    ("block f { x == 3 }", "NL008", "1:13", "no `==`"),
    ("block f { x += 3 }", "NL008", "1:13", "no `+=`"),
    ("block f { x = a ** 2 }", "NL008", "1:17", "not `**`"),
    ("block f { x = a @ b }", "NL008", "1:17", "`W(x)`"),
    ("// hello\nconst a = 3", "NL008", "1:1", "`#`"),
    ("def f(x) { out y = x }", "NL008", "1:1", "`block NAME(parameters) { ... }`"),
    ("block f { let x = 3 }", "NL008", "1:11", "no `let`"),
    ("block f { y = lambda x: x }", "NL008", "1:15", "no `lambda`"),
    ("block f { return x }", "NL008", "1:11", "`out NAME = ...`"),
    ("block f { x = 'abc' }", "NL008", "1:15", "double quotes"),
    ("block f { x = last(M) }", "NL012", "1:19", "`last M`"),
    ("block f { x = last(a + b) }", "NL012", "1:19", "give the expression a name"),
    ('block f { x = "abc\n}', "NL005", "1:15", "closing"),
    ("block f { y = g(x\n  z = 3 }", "NL006", "1:17", "`)` is missing before `z`"),
    ("block f { y = g(x] }", "NL006", "1:18", "`(` is closed by `]`"),
    ("block f { y = g(x)) }", "NL006", "1:19", "closes nothing"),
    ("block f { in x : real } }", "NL006", "1:25", "closes nothing"),
    ("block f { in x : real", "NL006", "1:22", "end of the file"),
    ("block f {\n  x = 3\nblock g { y = 3 }", "NL006", "3:1", "missing before `block`"),
    ("block f in x : real }", "NL009", "1:9", "`{` is missing"),
    ("block f { y = g(a b, c) }", "NL009", "1:19", "`,` is missing between `a` and `b`"),
    ("block f { y = g(a, , c) }", "NL009", "1:20", "expression is missing after `,`"),
    ("block f { y = * 3 }", "NL009", "1:15", "expression is missing after `=`"),
    ("block f { y =\n  out z = 3 }", "NL009", "1:13", "expression is missing after `=`"),
    ("block f(a, b = ) { x = 3 }", "NL009", "1:16", "expression is missing"),
    ("block f { each h heads { x = 3 } }", "NL009", "1:18", "`in` is missing"),
    ("block f { chain h = x for i in 0 .. 4 { h = h } }", "NL001", "1:23", "`over` stands here"),
    ("block f { memory 3 { key k } }", "NL001", "1:18", "a name"),
    ("blok f { x = 3 }", "NL001", "1:1", "did you mean `block`?"),
    ("block f { x = 3x + 1 }", "NL004", "1:15", "`3 * x`"),
    ("const a = 1e999", "NL004", "1:11", "too large"),
    ("block f { θ = 3 }", "NL002", "1:11", "`θ`"),
    ("const a = x\x00", "NL002", "1:12", "U+0000"),
    ("const a = \ufffd", "NL002", "1:11", "UTF-8"),
    ("const a = x <= 3", "NL002", "1:13", "operator `<`"),
    ("const a = .5", "NL002", "1:11", "`0.5`"),
    ("block f { data.x = 3 }", "NL001", "1:11", "no dots"),
    ("block f { y = max(x for i in r) }", "NL011", "1:15", "`sum` only"),
    ("block f { update 3 }", "NL010", "1:11", "in a rule"),
    ("block f { minimize e by g() }", "NL010", "1:11", "`train`"),
    ("train t { in x : real }", "NL010", "1:11", "settings"),
    ("block f { reset never }", "NL010", "1:11", "braces of a memory"),
    ("block f { memory M : d -> d { param W : d -> d } }", "NL010", "1:31", "before the `memory`"),
    ("memory M : d -> d {}", "NL010", "1:1", "inside a block"),
    ("schedule { S by loop }", "NL009", "1:10", "a name is missing after `schedule`"),
    ("schedule b S by loop }", "NL009", "1:12", "`{` is missing"),
    ("schedule b { S by }", "NL009", "1:19", "a name is missing after `by`"),
    ("schedule b { S by loop, }", "NL009", "1:25", "a name is missing after `,`"),
    ("schedule b { S by solve, T by loop }", "NL001", "1:26", "leave out the `,`"),
    ("schedule b { in x : real }", "NL001", "1:14", "`*`"),
    ("schedule b { S by loop\nblock f { x = 3 }", "NL006", "2:1", "missing before `block`"),
    ("shedule b { S by loop }", "NL001", "1:1", "did you mean `schedule`?"),
    ("block f { schedule = 3 }", "NL007", "1:11", "`schedule_`"),
]


@pytest.mark.parametrize("text, code, place, words", BAD, ids=[text for text, *_ in BAD])
def test_one_mistake_gets_one_message(text, code, place, words):
    _, diagnostics = parse_text(text)
    (diagnostic,) = diagnostics
    span = diagnostic.spans[0].span
    assert (diagnostic.code, f"{span.line}:{span.column}") == (code, place)
    assert words in " | ".join(filter(None, (diagnostic.message, diagnostic.expected, diagnostic.help)))
    assert diagnostic.severity == "error"
    assert "\n" not in diagnostic.message
    shown = diagnostic.render()
    assert not any(name in shown for name in ("LBRACE", "RPAR", "NAME,", "$END", "EQUAL"))


def test_all_syntax_codes_are_shown():
    shown = {code for _, code, _, _ in BAD} | {"NL003"}
    assert shown == {code for code in CODES if code < "NL100"}


FIVE = """\
block a {
  in x real[d]
  y = W(x) +
  memory M : d -> d { minimize dot(M, x) }
  z = g(x, , y)
  out w = last(z)
}
block b { in memory : real  q = 3 }
block c { k = 3 out r = k }
"""


def test_all_errors_of_a_file():
    file, diagnostics = parse_text(FIVE)
    assert [(d.code, d.spans[0].span.line) for d in diagnostics] == [
        ("NL009", 2),
        ("NL009", 3),
        ("NL009", 4),
        ("NL009", 5),
        ("NL012", 6),
        ("NL007", 8),
    ]
    assert [item.name for item in file.items] == ["a", "b", "c"]
    assert [type(stmt).__name__ for stmt in file.items[0].body] == ["In", "Memory", "Out"]
    assert len(file.items[2].body) == 2


def test_errors_inside_a_broken_statement_are_found():
    file, diagnostics = parse_text("block f { memory 3 4 5 { key }  y = ) 3 }\nblock 7 8 { z = }\nconst c = 3")
    assert [d.spans[0].span.line for d in diagnostics] == [1, 1, 1, 2, 2]
    assert file.items[-1].name == "c"


def test_the_brace_that_is_open_is_shown():
    text = "block f {\n  each h in heads {\n    x = 3\n}\nblock g { y = 3 }\n"
    _, (diagnostic,) = parse_text(text)
    assert [label.span.line for label in diagnostic.spans] == [5, 2]


def test_broken_statements_are_left_out():
    file, _ = parse_text("block f { x = 3  y = +  z = 4 }")
    assert [stmt.name.id for stmt in file.items[0].body] == ["x", "z"]
