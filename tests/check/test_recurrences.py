"""What a recurrence may hold: stores, windows of ticks, the statements of a block; not a block whose inputs stand in copies of its own."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nldsl.pipeline import check_source
from nldsl.source import Source

SUB = "block sub(d) { in z : real[d]  memory s : real[d] { update 0.5 * last s + z }  out a = s }\n"
SUB += "block late(d) { in z : real[d]  out a = delay(z, 2) }\n"
SUB += "block all(d) { each h in 2 { in q : real[d] }  out a = flatten(q) }\n"
STORE = "memory A : store(d -> d, window = 3) { key x  value %s }"


def found(body: str, out: str = "m") -> list:
    return list(check_source(Source("t.nl", f"{SUB}block b(d) {{\n  in x : real[d]\n  {body}\n  out y = {out}\n}}")).diagnostics)


def type_of(name: str, body: str, out: str) -> str:
    """The type of a name of a block without errors."""
    checked = check_source(Source("t.nl", f"{SUB}block b(d) {{\n  in x : real[d]\n  {body}\n  out y = {out}\n}}"))
    assert not checked.errors
    return str(checked.units.types[checked.keys["b"]][name])


def codes(body: str, out: str = "m") -> list[str]:
    return [d.code for d in found(body, out)]


@pytest.mark.parametrize(
    ("body", "out", "expected"),
    [
        ("memory m : real[d] { update 0.5 * last m + sub(last m + x) }", "m", []),
        ("memory m : real[d] { update 0.5 * last m + v }  v = tanh(sub(x + last v))", "m", []),
        ("memory m : real[d] { update 0.5 * last m + late(last m + x) }", "m", []),
        ("memory S : d -> d { minimize 0.5 * sqnorm(S(unit(x)) - sub(last S(x))) by gd(0.5) }", "S(x)", []),
        (f"{STORE % 'last S(x)'}  memory S : d -> d {{ minimize 0.5 * sqnorm(S(unit(x)) - A(x)) by gd(0.5) }}", "S(x)", []),
        (f"memory m : real[d] {{ update 0.5 * last m + A(x) }}  {STORE % '(tanh(last m) + x)'}", "m", []),
        ("memory m : real[d] { update 0.5 * last m + delay(tanh(last m), 1) }", "m", []),
        ("memory m : real[d] { update 0.5 * last m + conv(tanh(last m), 2) }", "m", []),
        ("memory m : real[d] { update 0.5 * last m + u }  u = rope(last m)", "m", []),
        ("memory m : real[d] { update 0.5 * last m + sub(x) + delay(x, 2) + rope(x) }", "m", []),
        ("memory m : real[d] { update 0.5 * last m + x / count() }", "sub(last m)", []),
        (f"memory m : real[d] {{ update 0.5 * last m + A(x) }}  {STORE % 'x'}", "m", []),
        (f"{STORE % 'A(x)'}", "A(x)", ["NL310"]),
    ],
)
def test_what_a_recurrence_holds(body, out, expected):
    assert [c for c in codes(body, out) if c != "NL191"] == expected  # NL191: the counter's own name


def test_the_message_names_the_cycle():
    (wrong,) = found("memory m : real[2 * d] { update 0.5 * last m + u }  param W : 2 * d -> d  each h in 2 { p = x + W(last m) }  u = all(p)")
    assert wrong.code == "NL311" and "`all`" in wrong.message and "`last m`" in wrong.found
    assert wrong.spans[0].span.text == "all(p)"


def test_a_store_may_be_read_before_it_is_written_down():
    assert codes(f"z = A(x)  {STORE % 'x'}", "z") == codes(f"{STORE % 'x'}  z = A(x)", "z") == []
    assert codes("z = A(x)  memory A : store(d -> d) { key x }", "x") == ["NL402"]


@pytest.mark.parametrize(
    ("body", "out", "expected"),
    [
        ("param W, V : d -> d  u = W(tanh(last u)) + V(x)", "u", []),
        ("param W, V : d -> d  u = tanh(V(x) + W(last u))", "u", []),
        ("param W : d -> d  a = tanh(W(last b))  b = tanh(last a + x)", "a + b", []),
        ("u = sigmoid(last u) * x", "u", []),
        ("param W : d -> d  z = 0.5 * last v + x  v = W(z) + tanh(z)", "v", []),
        ("s = last s + sum(x)", "s * x", []),
        ("each h in 2 { param W : d -> d  u = tanh(W(last u) + x) }", "flatten(u)", []),
        ("each h in 2 { each g in 3 { param W, U : d -> d  a = tanh(W(last c) + x)  c = silu(U(last a) + a) } }", "flatten(flatten(c))", []),
        ("each h in 2 { param W : d -> 2 * d  u = W(last u) + x }", "flatten(u)", ["NL202"]),
        ("param W : d -> 2 * d  u = W(last u) + x", "u", ["NL202"]),
        ("u = tanh(x + delay(u, 2) + delay(u, 5))", "u", []),
        ("param w : d -> 1  g = sigmoid(w(x))  u = g * delay(u, 1) + x", "u", []),
        ("each h in 2 { param V : d -> d  u = tanh(V(delay(u, 2)) + x) }", "flatten(u)", []),
        ("each h in 2 { param V : d -> d  g = sigmoid(V(x)) * delay(g, 1) + x }", "flatten(g)", []),
        ("param W : d -> d  a = tanh(last b + x)  b = last a + delay(W(last b), 2)", "a + b", []),
        (
            "param W : d -> d  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(0.5) }  k = unit(x + delay(h, 2))  h = tanh(S(k) + W(last h))",
            "h",
            [],
        ),
        ("u = 0.3 * conv(last z, 3)  z = unit(u + x)", "u", []),
        ("p = dot(x, last u)  u = tanh(p * last u) + x", "u", []),
        ("each h in 2 { p = tanh(last u) + x }  param W : 2 * d -> d  u = W(flatten(p))", "u", []),
        ("u = tanh(sub(last v))  v = sub(delay(u, 1)) + x", "u", []),
        ("param w : d -> 1  v = sigmoid(w(x)) * last v + sub(last u)  u = sub(last v) + x", "u", []),
        ("M = 0.9 * last M + outer(x, x)", "M(x)", []),
        ("u = tanh(last u)", "u + x", ["NL204"]),
        ("s = last s + 1", "s * x", ["NL204"]),
        ("k = softmax(last q)  q = unit(delay(k, 1))", "q + x", ["NL204"]),
        ("u = unit(sum(last u) + sum(x))", "u", ["NL202"]),
        ("each h in 2 { p = tanh(last u) * sum(x) }  u = flatten(p)", "u + sum(x)", ["NL204"]),
        ("r = x + unti(x)  s = tanh(r + delay(s, 2))", "s", ["NL101"]),
        ("s = tanh(delay(s, 2) + r)  r = x + unti(x)", "s", ["NL101"]),
    ],
)
def test_a_stream_that_reads_its_past_has_the_shape_that_its_equations_give(body, out, expected):
    assert codes(body, out) == expected


def test_a_cycle_through_a_block_with_errors_has_no_error_of_its_own() -> None:
    text = "block bad(d) { in z : real[d]  memory s : real[d] { update 0.5 * last s + unti(z) }  out a = s }\n"
    text += "block b(d) { in x : real[d]  u = %s  out y = u + x }"
    for body in ("bad(last u) + x", "tanh(bad(last u))", "bad(x) * last u"):
        assert "NL204" not in [d.code for d in check_source(Source("t.nl", text % body)).errors]


@pytest.mark.parametrize("terms", list(permutations(["x", "delay(u, 2)", "W(last u)", "sum(x) * last u"])))
def test_the_order_of_terms_does_not_matter(terms) -> None:
    assert type_of("u", f"param W : d -> d  u = tanh({' + '.join(terms)})", "u") == "real[d]"


CYCLE = [
    ("sigmoid(w(x))", "last a", "*", "g"),
    ("g", "last b", "+", "a"),
    ("delay(a, 1)", "W(last b)", "+", "c"),
    ("conv(last c, 2)", "V(x)", "+", "b"),
]


@settings(max_examples=40, deadline=None)
@given(st.permutations(CYCLE), st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_order_of_equations_does_not_matter(cycle, turned) -> None:
    equations = [f"{name} = {f'{q} {op} {p}' if turn else f'{p} {op} {q}'}" for (p, q, op, name), turn in zip(cycle, turned, strict=True)]
    body = f"param W : d -> d  param w : d -> 1  each h in 2 {{ param V : d -> d  {'  '.join(equations)} }}"
    assert [type_of(name, body, "flatten(a)") for name in "gabc"] == ["real[d] each h"] * 4


@pytest.mark.parametrize(
    ("block", "type"),
    [
        ("block b(d) { in x : real[d]  out y = tanh(delay(y, 2) + last y) }", "real[d]"),
        ("block b(n, d) { in x : real[n, d]  for i in 3 { y[i] = tanh(delay(y[i], 2) + delay(y[i], 5)) }  out z = x }", "real[d]"),
        ("block b(v, d) { in t : int[v]  param E : v -> d  y = tanh(E(t)) * s  s = unit(last s)  out z = y }", "real[d]"),
        ("block b(v) { in t : int[v]  y = last y + 1  out z = t }", "real"),
    ],
)
def test_a_shape_that_nothing_says_is_declared_as_the_help_does(block: str, type: str) -> None:
    wrong = {d.code: d for d in check_source(Source("t.nl", block)).errors}
    name = "s" if " s = " in block else "y"
    assert wrong.keys() == {"NL204"}
    assert wrong["NL204"].message == f"the shape of `{name}` depends on itself"
    assert wrong["NL204"].help == f"memory {name} : {type} = zeros {{ update ... }}"
    declared = wrong["NL204"].help.replace("...", f"0.5 * last {name}")
    assert not check_source(Source("t.nl", f"block b(d) {{ in x : real[d]  {declared}  out z = {name} * x }}")).errors


@pytest.mark.parametrize("between", ["late(S(x))", "delay(S(x), 1)", "conv(last S(x), 2)", "rope(transpose(S)(x))"])
def test_what_stands_between_two_reads_of_one_operator(between: str) -> None:
    body = f"memory S : d -> d {{ minimize 0.5 * sqnorm(S(unit(x)) - x) by gd(0.5) }}  a = {between}"
    assert codes(body, "S(a)") == []
    table = body.replace(between, f"all(p)  each h in 2 {{ p = {between} }}  param W : 2 * d -> d")
    assert codes(table, "S(W(a))") == ["NL311"]


def test_what_stands_between_a_memory_and_one_that_goes_back_to_it() -> None:
    body = (
        "memory A : d -> d every 2 { minimize 0.5 * sqnorm(A(unit(x)) - x) over sum by gd(0.3) }"
        "  memory B : d -> d { minimize 0.5 * sqnorm(B(unit(x)) - x) by gd(0.3)  reset every 4 to A }"
    )
    assert codes(body, "last B(conv(last A(x), 2))") == codes(body, "last B(late(last A(x)))") == []
    assert codes(f"{body}  each h in 2 {{ p = last A(x) }}  param W : 2 * d -> d", "last B(W(all(p)))") == ["NL311"]
