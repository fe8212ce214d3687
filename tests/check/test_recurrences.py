"""What a recurrence may hold: no store, no window of ticks, not even through `last`; the statements of a block."""

import pytest

from nldsl.pipeline import check_source
from nldsl.source import Source

SUB = "block sub(d) { in z : real[d]  memory s : real[d] { update 0.5 * last s + z }  out a = s }\n"
SUB += "block late(d) { in z : real[d]  out a = delay(z, 2) }\n"
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
        ("memory m : real[d] { update 0.5 * last m + late(last m + x) }", "m", ["NL311"]),
        ("memory S : d -> d { minimize 0.5 * sqnorm(S(unit(x)) - sub(last S(x))) by gd(0.5) }", "S(x)", []),
        (f"{STORE % 'last S(x)'}  memory S : d -> d {{ minimize 0.5 * sqnorm(S(unit(x)) - A(x)) by gd(0.5) }}", "S(x)", ["NL311"]),
        (f"memory m : real[d] {{ update 0.5 * last m + A(x) }}  {STORE % '(tanh(last m) + x)'}", "m", ["NL311"]),
        ("memory m : real[d] { update 0.5 * last m + delay(tanh(last m), 1) }", "m", ["NL311"]),
        ("memory m : real[d] { update 0.5 * last m + conv(tanh(last m), 2) }", "m", ["NL311"]),
        ("memory m : real[d] { update 0.5 * last m + u }  u = rope(last m)", "m", ["NL311"]),
        ("memory m : real[d] { update 0.5 * last m + sub(x) + delay(x, 2) + rope(x) }", "m", []),
        ("memory m : real[d] { update 0.5 * last m + x / count() }", "sub(last m)", []),
        (f"memory m : real[d] {{ update 0.5 * last m + A(x) }}  {STORE % 'x'}", "m", []),
        (f"{STORE % 'A(x)'}", "A(x)", ["NL310"]),
    ],
)
def test_what_a_recurrence_holds(body, out, expected):
    assert [c for c in codes(body, out) if c != "NL191"] == expected  # NL191: the counter's own name


def test_the_message_names_the_cycle():
    (wrong,) = found("memory m : real[d] { update 0.5 * last m + late(last m + x) }")
    assert "`delay`" in wrong.message and "`last m`" in wrong.found
    assert wrong.spans[0].span.text == "delay(z, 2)"


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
        ("param W : d -> 2 * d  u = W(last u) + x", "u", ["NL202"]),
        ("u = tanh(last u)", "u + x", ["NL204"]),
    ],
)
def test_a_stream_that_reads_its_past_has_the_shape_of_what_it_is_added_to(body, out, expected):
    assert codes(body, out) == expected


@pytest.mark.parametrize("between", ["late(S(x))", "delay(S(x), 1)", "conv(last S(x), 2)", "rope(transpose(S)(x))"])
def test_nothing_over_all_ticks_between_two_reads_of_one_operator(between: str) -> None:
    text = (
        "block late(d) { in z : real[d]  out a = delay(z, 2) }\n"
        "block b(d) { in x : real[d]  memory S : d -> d { minimize 0.5 * sqnorm(S(unit(x)) - x) by gd(0.5) }"
        f"  a = {between}  out y = S(a) }}"
    )
    assert [d.code for d in check_source(Source("b.nl", text)).errors] == ["NL311"]


@pytest.mark.parametrize("read", ["last B(conv(last A(x), 2))", "last B(late(last A(x)))"])
def test_nor_between_a_memory_and_one_that_goes_back_to_it(read: str) -> None:
    text = (
        "block late(d) { in z : real[d]  out a = delay(z, 2) }\n"
        "block b(d) { in x : real[d]  memory A : d -> d every 2 { minimize 0.5 * sqnorm(A(unit(x)) - x) over sum by gd(0.3) }"
        "  memory B : d -> d { minimize 0.5 * sqnorm(B(unit(x)) - x) by gd(0.3)  reset every 4 to A }  out y = READ }"
    )
    assert [d.code for d in check_source(Source("b.nl", text.replace("READ", read))).errors] == ["NL311"]
    assert not check_source(Source("b.nl", text.replace("READ", read.replace("last B", "B").replace("last A(x)", "x")))).errors
