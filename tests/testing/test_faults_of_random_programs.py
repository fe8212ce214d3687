"""Faults that random programs have found, as small as they could be made."""

import pytest
from program_cases import EXAMPLE, check, finite, subject

NETWORK = "block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }\n"
ONE = "block line(a, b) { in x : real[a]  param up : a -> 4  param down : 4 -> b  out y = norm(down(tanh(up(x)))) }\n"


def main(body: str, before: str = "", sizes: str = "d = 3, n = 2") -> str:
    return f"{before}block main({sizes}) {{\n  in x : real[d]\n  {body}\n}}\n"


PROGRAMS = {
    # Functions of numbers were text like `F.softplus(0.5)`.
    "a function of a number": main("k = softplus(0.5)  z = silu(gelu(-2))  out y = k * x + sigmoid(0.5) * z * x"),
    "a retention that is a number": main("memory M : real[d] { minimize 0.5 * sqnorm(M - x) by gd(0.3, keep = exp(-softplus(0.5))) }  out y = M"),
    # `real` and `real[1]` are both numbers, and gradients, chunks and states took one for the other.
    "an operator to one number": main("memory M : d -> 1 { minimize -M(unit(x)) * mean(x) by gd(0.3) }  out y = M(x) * x"),
    "an operator to one number, solved": main("param W : d -> d  memory M : d -> 1 { minimize 0.5 * (M(W(x)) - mean(x))^2 by decay(0.9), gd(0.3) }  out y = M(x) * x"),
    "what an operator says is the objective": main("memory M : d -> 1 { minimize -M(x) by decay(0.9), gd(0.1) }  out y = M(x) + x"),
    "a network to one number": main(
        "memory M : line(d, 1) = learned every 3 { minimize -M(unit(x)) * mean(x) + 0.5 * (M(tanh(x)) - sqnorm(x))^2 by gd(0.3) }  out y = M(x) * x", ONE),
    "a number learns from an operator": main("param W : d -> 1  memory M : real { minimize -M * W(x) by gd(0.3) }  out y = M * x"),
    "a slow number learns from an operator": main("param W : d -> 1  memory M : real every 2 { minimize 0.5 * (M - tanh(W(x)))^2 by gd(0.3) }  out y = M * x"),
    "the gradient is a known number": main("memory M : d -> 1 { minimize -M(x) * min(0.5, 0.5) by gd(0.1) }  out y = last M(x) * x"),
    "a number is added to what is read": main("param W : d -> d  memory M : d -> d { minimize 0.5 * sqnorm(M(W(x)) - mean(x)) by decay(0.9), gd(0.1) }  out y = M(x)"),
    # The comment above a line of a window quotes the rule, `gd(rate, keep = 1)`, and was taken for an assignment to `keep`.
    "a param of the name of a rule's number": main(
        "param p : real = 1  memory M : net(d) = learned every 2 { minimize 0.5 * sqnorm(softmax(M(x)) - x) by gd(0.2, keep = sigmoid(p)) }  out y = M(x)", NETWORK),
    # First values were those of float32.
    "a first value in float64": main(
        "memory M : real[d] = 0.1 { update 0.9 * last M + 0.01 * x }\n  each h in n { memory A : real[d] = exp(-0.3) * log(1 + h) { update 0.9 * last A } }\n"
        "  param W : n * d -> d  out y = M + W(flatten(A))"),
    # What never changes has neither batch nor ticks.
    "a memory becomes a param": main("param p : real  memory M : real = 0.5 { update p }  out y = last M * x + start(2) M"),
    "a memory becomes a vector": main("param p : real[d]  memory M : real[d] = 0.5 { update p }  out y = M * x"),
    "a memory becomes an operator": main("param p : d -> d  memory M : d -> d { update p }  out y = last M(x)"),
    "a slow memory becomes an operator": main("param p : d -> d  memory M : d -> d every 2 { update p over last }  out y = last M(x)"),
    "a slow memory becomes a number": main("memory M : real[d] every 2 { update 0.3 over last }  out y = last M + x"),
    "a memory that is a number": main("memory M : real { update 0.5 * 0.5 }  out y = M * x  out z = M"),
    "the past of a param": main("param p : real[d]  z = delay(p, 2)  u = delay(0.5, 1)  out y = z * u + x"),
    "a param as a target": main("param p : real[d]  memory M : d -> d every 2 { minimize -dot(M(x), p) by gd(0.1) }  out y = M(x)"),
    "a param as a key": main("param p : real[d]  memory M : d -> d every 2 { minimize 0.5 * sqnorm(M(p) - p) by gd(0.1) }  out y = M(p) + x"),
    "a param as a key in chunks": main(
        "param p : real[d]  param a : real  memory M : d -> d { minimize 0.5 * sqnorm(M(p) - p) at start(2) by momentum(sigmoid(a), sigmoid(a)) }  out y = M(p) + x"),
    "a param for all copies": main(
        "param p : real[d]  each h in n { param a : real  memory M : d -> d { minimize 0.5 * sqnorm(M(p) - p) at start(2) by gd(sigmoid(a), sigmoid(a)) }  "
        "memory N : real[d] { update p }  o = M(x) + last N }\n  param W : n * d -> d  out y = W(flatten(o))"),
    "a slow memory read at a slow one": main(
        "memory M : d -> d every 2 { minimize 0.5 * sqnorm(M(x) - x) by gd(0.1) }  memory m : real[d] every 2 { minimize 0.5 * sqnorm(m - x) by gd(0.3) }  out y = M(m) + x"),
    # `last` of a stream was a delay, and a delay cannot stand in a recurrence.
    "an operator read at the stream before": main(
        "z = x + last M(x)  loss = 0.5 * sqnorm(z)\n  memory M : d -> d { minimize loss by gd(0.1) }\n  out y = start(2) M(last z)"),
    "a memory becomes the past": main("memory A : real[d] every 2 { update delay(x, 2) over last }  memory B : real[d] { update conv(x, 2) }  out y = start(4) A + last B + start(2) B"),
    # Of two memories that one read joins, a copy was made of both and one of them read by nobody.
    "two memories are read at what was read": main(
        "memory A : d -> d { minimize -dot(A(unit(x)), x) by decay(sigmoid(mean(x))), gd(0.3) }\n"
        "  memory B : d -> d { minimize -dot(B(unit(x)), x) by decay(0.9), gd(0.3) }\n  out y = B(last A(x) + last B(x)) + last A(x)"),
    # Its state had the prefix of the block's own states.
    "the value before of an output of a block": main(
        "b = part(x)  out y = last b.z + last b.m", "block part(d) { in x : real[d]  memory M : real[d] { update 0.5 * last M + x }  out m = M  out z = 2 * x }\n"),
    # A column of an operator was picked from tables of params alone.
    "tables of copies at a token": main("in t : int[n]  each h in n { param W : n -> d  o = W(t) }  param O : n * d -> d  out y = O(flatten(o)) + x"),
    "a slope of |0|^1": main("memory M : d -> d { minimize sum(abs(M(unit(x)) - relu(x))^1) at start(2) by gd(0.1) }  out y = M(x)"),
    "a token for each copy": main("param W : n -> d  each h in n { in t : int[n]  o = W(t) }  param O : n * d -> d  out y = O(flatten(o)) + x"),
    "a memory at a token": main("in t : int[n]  param W : d -> n  memory M : n -> d { minimize 0.5 * sqnorm(M(unit(W(x))) - x) by gd(0.3) }  out y = M(t) + last M(t)"),
    "a slow memory at a token": main("in t : int[n]  param W : d -> n  memory M : n -> d every 2 { minimize 0.5 * sqnorm(M(unit(W(x))) - x) by gd(0.3) }  out y = M(t)"),
    "an operator of a tick at a token": main("in t : int[n]  param W : d -> n  V = outer(x, W(x))  out y = V(t) + x"),
}  # fmt: skip


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS)
def test_a_fault_stays_away(text: str) -> None:
    made = subject(text)
    assert finite(made)
    check(made)


def test_a_first_value_is_of_the_type_of_the_module() -> None:
    """To all digits, which the bound of the comparison does not ask for."""
    made = subject(main("memory M : real[d] = 0.1 { update last M + x }  out y = M"))
    assert (made.initial_state(made.module(), 1)["M"] == 0.1).all()


def test_a_slow_memory_becomes_what_was_some_ticks_ago() -> None:
    """`delay` counts ticks, not the steps of the memory that becomes it."""
    made = subject(main("memory A : real[d] every 2 { update delay(x, 2) over last }  out y = A", sizes="d = 1"))
    given = EXAMPLE.inputs(made)
    x, y = given["x"][0, :, 0], made.call(made.module(), given)[0]["y"][0, :, 0]
    assert y.tolist() == [0, 0, 0, *(x[t - 1 - t % 2].item() for t in range(2, 10))]
