"""Blocks where no function of whole streams can stand: the statements of the block, written out, are what it means there."""

import pytest
import torch
from torch_cases import case, check, distance, outputs

import nldsl
from nldsl.pipeline import check_source
from nldsl.source import Source

BLOCKS = """
block ffn(d, hidden = 4) { in x : real[d]  param up : d -> hidden  param down : hidden -> d  out y = x + down(tanh(up(x))) }
block delta(d) {
  in x : real[d]
  param Wk, Wq : d -> d
  memory S : d -> d { minimize 0.5 * sqnorm(S(unit(Wk(x))) - x) by gd(0.5) }
  out y = x + S(Wq(x))
}
block crit(d) { in a, b : real[d]  param W : d -> d  out y = 0.5 * sqnorm(W(a - b)) }
block heads(d, n = 2) {
  in x : real[d]
  each h in n {
    param K : d -> d
    memory S : d -> d { minimize 0.5 * sqnorm(S(unit(K(x))) - x) by gd(0.5) }
    o = h * x + S(unit(x))
  }
  param O : n * d -> d
  out y = O(flatten(o))
}
block two(d) { in a : real[d]  param W : d -> d  out p = W(a)  out q = tanh(a) }
"""
HEAD = "block m(d, n = 2) {\n  in x : real[d]\n  "
# With blocks, and with their statements in place; params in the same order.
PAIRS = {
    "copies": (
        "each h in n { param A : d -> d  u = delta(ffn(A(x), hidden = 3))  t = two(u)  o = t.p + t.q }  param O : n * d -> d  out y = O(flatten(o))",
        "each h in n { param A : d -> d  z = A(x)  param up : d -> 3  param down : 3 -> d  f = z + down(tanh(up(z)))  param Wk, Wq : d -> d "
        " memory S : d -> d { minimize 0.5 * sqnorm(S(unit(Wk(f))) - f) by gd(0.5) }  u = f + S(Wq(f))  param W : d -> d  o = W(u) + tanh(u) } "
        " param O : n * d -> d  out y = O(flatten(o))",
    ),
    "a recurrence": (
        "memory a : real[d] { update 0.5 * last a + 0.3 * ffn(last a + x) }  out y = a",
        "param up : d -> 4  param down : 4 -> d  z = last a + x  memory a : real[d] { update 0.5 * last a + 0.3 * (z + down(tanh(up(z)))) }  out y = a",
    ),
    "between two reads": (
        "memory M : d -> d { minimize 0.5 * sqnorm(M(unit(x)) - x) by gd(0.5) }  out y = M(delta(M(x)))",
        "memory M : d -> d { minimize 0.5 * sqnorm(M(unit(x)) - x) by gd(0.5) }  r = M(x)  param Wk, Wq : d -> d "
        " memory S : d -> d { minimize 0.5 * sqnorm(S(unit(Wk(r))) - r) by gd(0.5) }  out y = M(r + S(Wq(r)))",
    ),
    "between a memory and one that goes back to it": (
        "memory A : d -> d every 2 { minimize sum(tanh(A(unit(x)))) over sum by gd(0.3) }  memory B : d -> d = normal(0.3) "
        "{ minimize 0.5 * sqnorm(softmax(B(unit(x))) - x) at start(2) by gd(0.3)  reset every 4 to A }  out y = last B(delta(last A(x)))",
        "memory A : d -> d every 2 { minimize sum(tanh(A(unit(x)))) over sum by gd(0.3) }  memory B : d -> d = normal(0.3) "
        "{ minimize 0.5 * sqnorm(softmax(B(unit(x))) - x) at start(2) by gd(0.3)  reset every 4 to A }  r = last A(x)  param Wk, Wq : d -> d "
        " memory S : d -> d { minimize 0.5 * sqnorm(S(unit(Wk(r))) - r) by gd(0.5) }  out y = last B(r + S(Wq(r)))",
    ),
    "the way to a loss": (
        "memory F : ffn(d) = learned every 3 { minimize e over sum by gd(0.1) }  h = delta(ffn(last F(x)))  e = 0.5 * sqnorm(h - x)  out y = h",
        "memory F : ffn(d) = learned every 3 { minimize e over sum by gd(0.1) }  z = last F(x)  param up : d -> 4  param down : 4 -> d "
        " f = z + down(tanh(up(z)))  param Wk, Wq : d -> d  memory S : d -> d { minimize 0.5 * sqnorm(S(unit(Wk(f))) - f) by gd(0.5) } "
        " h = f + S(Wq(f))  e = 0.5 * sqnorm(h - x)  out y = h",
    ),
    "copies on the way": (
        "memory F : ffn(d) = learned every 2 { minimize e over sum by gd(0.1) }  h = heads(last F(x))  e = 0.5 * sqnorm(h - x)  out y = h",
        "memory F : ffn(d) = learned every 2 { minimize e over sum by gd(0.1) }  z = last F(x) "
        " each h in n { param K : d -> d  memory S : d -> d { minimize 0.5 * sqnorm(S(unit(K(z))) - z) by gd(0.5) }  o = h * z + S(unit(z)) } "
        " param O : n * d -> d  y = O(flatten(o))  e = 0.5 * sqnorm(y - x)  out y",
    ),
    "one of two ways": (
        "memory F : d -> d = learned { minimize e by gd(0.1) }  o = last F(x)  e = 0.5 * sqnorm(o + ffn(o))  out y = o",
        "memory F : d -> d = learned { minimize e by gd(0.1) }  o = last F(x)  param up : d -> 4  param down : 4 -> d "
        " e = 0.5 * sqnorm(o + (o + down(tanh(up(o)))))  out y = o",
    ),
    "an objective": (
        "memory F : ffn(d) = learned { minimize crit(F(ffn(x)), x) by gd(0.1), momentum(0.1, 0.5) }  out y = F(x)",
        "param up : d -> 4  param down : 4 -> d  k = x + down(tanh(up(x)))  param W : d -> d "
        " memory F : ffn(d) = learned { minimize 0.5 * sqnorm(W(F(k) - x)) by gd(0.1), momentum(0.1, 0.5) }  out y = F(x)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_a_block_is_its_statements(name):
    used, by_hand = (case(f"{BLOCKS}{HEAD}{text}\n}}", "m", d=3) for text in PAIRS[name])
    check(used, [1, 4, 9])
    given = {n: v.shape for n, v in used.module.named_parameters()}
    own = dict(by_hand.module.named_parameters())
    # Names differ by the block; what is left of them and the shapes pair them up.
    pairs = {n: next(o for o in own if n.endswith(o) and own[o].shape == shape) for n, shape in given.items()}
    assert len(set(pairs.values())) == len(own) == len(given)
    with torch.no_grad():
        for n, p in used.module.named_parameters():
            own[pairs[n]].copy_(p)
    x = used.input(2, 9)
    assert distance(outputs(used.module(x))["y"], outputs(by_hand.module(x))["y"]) < 1e-12


def codes(text: str) -> list[str]:
    return [d.code for d in check_source(Source("t.nl", f"{BLOCKS}{HEAD}{text}\n}}")).errors]


def test_what_is_kept_stands_in_no_objective():
    """A memory or a window of ticks in a block on the way from a read to the objective it is read in."""
    past = "block past(d) { in a : real[d]  out y = a + delay(a, 1) }\n"
    minimize = "memory S : d -> d {{ minimize 0.5 * sqnorm({}(S(x)) - x) by gd(0.1) }}  out y = S(x)"
    assert codes(minimize.format("delta")) == ["NL409"]
    text = f"{past}{BLOCKS}{HEAD}{minimize.format('past')}\n}}"
    assert [d.code for d in check_source(Source("t.nl", text)).errors] == ["NL409"]


def test_a_block_of_tables_is_a_function():
    """Its inputs stand in copies of its own, so it cannot be written out."""
    table = "block table(d, n) { each h in n { in q : real[d] }  out y = flatten(q) }\n"
    text = f"{table}{BLOCKS}{HEAD}each h in 2 {{ q = x * h  o = table(q, n = 2) }}  out y = flatten(o)\n}}"
    assert [d.code for d in check_source(Source("t.nl", text)).errors] == ["NL117"]


def test_a_call_in_an_objective_is_one_call():
    """An objective is elaborated for each state and each step; what it calls is there once."""
    text = "memory S : ffn(d) = learned { minimize 0.5 * sqnorm(S(ffn(x)) - x) by gd(0.1), momentum(0.1) }  out y = S(x)"
    module = nldsl.load(f"{BLOCKS}{HEAD}{text}\n}}").module("m", d=3)
    assert [n for n, _ in module.named_parameters() if n.startswith("ffn")] == ["ffn.up", "ffn.down"]


# Text of the copies, and what copy h of them gives: of its own W, the memory M and the input.
COPIES = {
    "each copy reads it": ("each h in n { param W : d -> d  u = W(last M(x)) * (1 + h) }", lambda h, W, M, x: W @ (M @ x) * (1 + h)),
    "a stream that all copies read": (
        "z = last M(x)  each h in n { param W : d -> d  u = tanh(W(z)) + h * z }", lambda h, W, M, x: torch.tanh(W @ (M @ x)) + h * (M @ x)),
    "equal copies": ("z = last M(x)  each h in n { u = z }", lambda h, W, M, x: M @ x),
    "keys of their own": ("each h in n { param W : d -> d  u = last M(tanh(W(x))) }", lambda h, W, M, x: M @ torch.tanh(W @ x)),
}  # fmt: skip


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", COPIES)
def test_a_memory_learns_from_all_copies(name, every):
    """The gradient of a memory that the copies of an `each` share is the sum of theirs."""
    text, read = COPIES[name]
    clock = "{ minimize e by gd(0.1) }" if every == 1 else f"every {every} {{ minimize e over sum by gd(0.1) }}"
    text += "  param O : n * d -> d  e = 0.5 * sqnorm(O(flatten(u)) - x)  out y = last M(x)"
    c = case(f"{HEAD}memory M : d -> d = learned {clock}\n  {text}\n}}", "m", d=3)
    check(c, [1, 4, 9])
    given = dict(c.module.named_parameters())
    x, M, Ws, out = c.input(1, 7)[0], given["M_init"].detach(), given.get("W", [None, None]), given["O"]
    found, total = c.module(x[None])[0], torch.zeros_like(M)
    for t, row in enumerate(x):
        assert distance(found[t], M @ row) < 1e-12
        at = M.clone().requires_grad_()
        v = torch.cat([read(h, Ws[h], at, row) for h in range(2)])
        total = total + torch.autograd.grad(0.5 * (out @ v - row).square().sum(), at)[0]
        if (t + 1) % every == 0:
            M, total = (M - 0.1 * total).detach(), torch.zeros_like(M)
