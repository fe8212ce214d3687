"""What a recurrence may hold: stores, windows of ticks, the statements of a block; not a block whose inputs stand in copies of its own."""

import pytest

from nldsl.pipeline import check_source
from nldsl.source import Source

SUB = "block sub(d) { in z : real[d]  memory s : real[d] { update 0.5 * last s + z }  out a = s }\n"
SUB += "block late(d) { in z : real[d]  out a = delay(z, 2) }\n"
SUB += "block all(d) { each h in 2 { in q : real[d] }  out a = flatten(q) }\n"
STORE = "memory A : store(d -> d, window = 3) { key x  value %s }"


def found(body: str, out: str = "m") -> list:
    return list(check_source(Source("t.nl", f"{SUB}block b(d) {{\n  in x : real[d]\n  {body}\n  out y = {out}\n}}")).diagnostics)


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
        ("u = tanh(last u)", "u + x", ["NL204"]),
    ],
)
def test_a_stream_that_reads_its_past_has_the_shape_of_what_it_is_added_to(body, out, expected):
    assert codes(body, out) == expected


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
