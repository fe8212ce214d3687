"""Faults that `nldsl verify` found, each as the smallest program or example that showed it."""

import pytest
import torch
from torch_cases import ZOO, case, check, distance, outputs, vector_input, weights, zoo

from nldsl.pipeline import check_source
from nldsl.source import Source
from nldsl_torch.reverse import gelu_curve

NETWORK = "block net(d) {\n  in x : real[d]\n  param U : d -> 2 * d\n  param D : 2 * d -> d\n  out y = x + D(silu(U(x)))\n}\n"
NETWORK += (
    "block m(d) {\n  in x : real[d]\n  param W : d -> d\n"
    "  memory N : net(d) = learned every 2 { minimize 0.5 * sqnorm(N(x) - W(x)) by gd(0.1) }\n  out y = N(x)\n}"
)
SHARES = (
    "block m(d) {\n  in x : real[d]\n  memory P : d -> d = zeros { update last P + outer(x, x) / sqnorm(x)  reset every 2 }\n"
    "  out y = P(x)\n}"
)


BIAS = (
    "block affine(d) {\n  in x : real[d]\n  param W : d -> d\n  param b : real[d]\n  out y = W(x) + b\n}\n"
    "block m(d) {\n  in x : real[d]\n  memory A : affine(d) = learned {\n"
    "    minimize 0.5 * sqnorm(A(unit(x)) - x) at start(2) by momentum(0.2, sigmoid(mean(x)))\n  }\n  out y = last A(x)\n}"
)


# What is added at every tick of a window is a param: the same for all ticks and sequences.
CONSTANT = (
    "block m(d) {\n  in x : real[d]\n  param W : d -> 2\n  param p : real[d] = ones\n"
    "  memory M : d -> 2 { update 0.9 * last M + 0.1 * W }\n"
    "  memory P : d -> 2 { minimize -dot(P(p), W(p)) at start(3) by decay(0.9), gd(0.1) }\n"
    "  out y = sum(start(2) M(x)) * x + sum(P(x)) * p\n}"
)


@pytest.mark.parametrize("program", [NETWORK, SHARES, BIAS, CONSTANT], ids=["network", "shares", "bias", "constant"])
def test_a_kept_graph_serves_twice(program):
    c = case(program, "m", d=3)
    x = c.input(2, 7).requires_grad_()
    names = [n for n, _ in c.module.named_parameters()]
    leaves = [x, *c.module.parameters()]
    wanted = torch.autograd.grad(c.interpreter.run(dict(zip(names, leaves[1:], strict=True)), {"x": x})[0]["y"].square().sum(), leaves)
    loss = c.module(x).square().sum()
    first, second, third = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(3))
    assert all(torch.equal(a, b) and torch.equal(a, d) for a, b, d in zip(first, second, third, strict=True))
    assert all(distance(a, b) < 1e-9 for a, b in zip(first, wanted, strict=True))


@pytest.mark.parametrize("name", [n for n in ZOO if vector_input(n)])
def test_a_module_in_half_precision(name):
    """Any number of ticks, gradients too, near float32."""
    c = zoo(name)
    x = c.input(2, 9)
    exact = outputs(c.single()(x.float()))
    module = c.single().bfloat16()
    x = x.bfloat16().requires_grad_()
    y, state = module(x, return_state=True)
    assert all(v.dtype in (torch.bfloat16, torch.int64) for v in state.values())
    for n, v in outputs(y).items():
        assert v.dtype == torch.bfloat16 and distance(v, exact[n]) < 0.2, n
    first, state = module(x[:, :2], return_state=True)
    again = outputs(module(x[:, 2:], state=state))
    for n, v in outputs(y).items():
        assert distance(torch.cat([outputs(first)[n], again[n]], 1), v) < 0.2, n
    sum((v.float() * w).sum() for v, w in zip(outputs(y).values(), weights(outputs(y)).values(), strict=True)).backward()
    for n, p in module.named_parameters():
        assert p.grad is None or (p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all()), n


def test_a_quotient_by_a_small_number_has_a_gradient():
    """outer(x, x) / sqnorm(x) is stored as a factor 1 / sqnorm(x), whose slope is no float32 where x is 1e-12."""
    c = case(SHARES, "m", d=3)
    x = (1e-12 * c.input(1, 5)).float().requires_grad_()
    module = c.single()
    params = {n: p.detach() for n, p in module.named_parameters()}
    expected = c.interpreter.run(params, {"x": x})[0]["y"]
    w = torch.arange(15.0).reshape(1, 5, 3)
    (wanted,) = torch.autograd.grad((expected * w).sum(), x)
    (found,) = torch.autograd.grad((module(x) * w).sum(), x)
    assert wanted.isfinite().all() and distance(found, wanted) < 1e-4


def test_the_second_derivative_of_gelu_anywhere():
    x = torch.tensor([-1e30, -1e5, -3.0, 0.0, 0.5, 4.0, 1e20, 1e38])
    near = torch.tensor([-3.0, 0.0, 0.5, 4.0], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(torch.nn.functional.gelu(near).sum(), near, create_graph=True)[0]
    wanted = torch.autograd.grad(slope.sum(), near)[0]
    found = gelu_curve(x)
    assert found[[0, 1, 6, 7]].eq(0).all() and distance(found[2:6], wanted) < 1e-6


@pytest.mark.parametrize("word", ["unit", "norm"])
def test_directions_in_half_precision_are_rounded_once(word):
    """Of one number the direction is its sign: its gradient cancels to almost nothing, in the digits of float32 though not in those of bfloat16."""
    c = case(f"block m(d) {{ in x : real[d]  out y = {word}(x) }}", "m", d=1)
    x = torch.linspace(0.01, 0.1, 40).bfloat16().reshape(1, -1, 1).requires_grad_()
    y = c.single().bfloat16()(x)
    wide = x.detach().float().requires_grad_()
    exact = c.single()(wide)
    assert torch.equal(y, exact.bfloat16())
    found, wanted = torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(exact.sum(), wide)[0]
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


STORE = """
block m(d, n = 2) {
  in x : real[d]
  param K : d -> d
  memory S : store(d -> d, window = WINDOW) { key K(x)  value tanh(x) }
  each h in n {
    param Q : d -> d
    memory M : d -> d { update 0.9 * last M + outer(S(Q(x)), x) }
    o = last M(x) + S(2 * Q(x))
  }
  param Wo : n * d -> d
  out y = S(x) + Wo(flatten(o))
}
"""


@pytest.mark.parametrize("window", [2, 4, 99])
def test_a_store_is_read_in_copies_and_outside(window):
    c = case(STORE.replace("WINDOW", str(window)), "m", d=3)
    check(c, [1, 4, 9])
    assert c.module.initial_state(2)["S:key"].shape == (2, 0, 3)


def test_a_number_of_a_network_decays_by_a_vector_of_one():
    """`decay(a)` with an a of type real[1], before a gradient: what is between the two is the one number, where the gradient is taken."""
    text = (
        "block net(d) { in x : real[d]  param W : d -> d  param g : real = 0.5  out y = (1 + g) * W(x) }\n"
        "block m(d) { in x : real[d]  param wa : d -> 1  a = sigmoid(wa(x))\n"
        "  memory M : net(d) = learned { minimize 0.5 * sqnorm(M(x) - x) by decay(a), gd(0.3 * a) }\n  out y = M(x) }"
    )
    check(case(text, "m", d=3), [1, 4, 9])


def test_windows_in_which_nothing_happens_but_at_their_ends():
    text = (
        "block m(d) { in x : real[d]  param W : d -> 1\n"
        "  memory M : d -> 1 every 4 { update sigmoid(start(2) M(x) + 2) * last M + 0.1 * W over last }\n  out y = M(x) * x }"
    )
    c = case(text, "m", d=3)
    assert c.names == "windows"
    check(c, [1, 4, 9])


@pytest.mark.parametrize("turned", [False, True])
def test_a_way_passes_the_step_of_a_memory_that_learns_from_a_stream_too(turned):
    """The gradient of F passes the step of B, wherever B is written down."""
    memories = ["memory F : d -> d = learned { minimize e by gd(0.3) }", "memory B : d -> d = learned { minimize l by gd(0.3) }"]
    rest = "y = tanh(x + last F(x) + last B(x))  l = sqnorm(y - x)  z = B(x) + y  e = dot(tanh(z), x)  out r = z"
    c = case(f"block m(d) {{ in x : real[d]\n {'  '.join(memories[::-1] if turned else memories)}\n {rest} }}", "m", d=3)
    x, F, B = c.input(1, 5), c.module.F_init.detach(), c.module.B_init.detach()
    for t, r in enumerate(c.module(x)[0]):
        f, b = F.clone().requires_grad_(), B.clone().requires_grad_()
        y = torch.tanh(x[0, t] + f @ x[0, t] + b @ x[0, t])
        after = B - 0.3 * torch.autograd.grad((y - x[0, t]).square().sum(), b, create_graph=True)[0]
        z = after @ x[0, t] + y
        F, B = F - 0.3 * torch.autograd.grad((torch.tanh(z) * x[0, t]).sum(), f)[0], after.detach()
        assert distance(r.detach(), z.detach()) < 1e-12, t
    check(c, [1, 5])


@pytest.mark.parametrize("clock", ["", " every 3"])
@pytest.mark.parametrize(
    "text",
    [
        "MEMORY  y = x + last F(x)  each h in 2 { l = norm((h + 1) * y) * x }  param c : real[2 * d] = ones  loss = dot(c, flatten(l))",
        "param W : d -> 2 * d  c = W(x)  each a in 2 { MEMORY  y = x + last F(x)  each h in 2 { l = norm((h + 1) * y) * x }  loss = dot(c, flatten(l)) }",
        "each h in 2 { MEMORY  y = x + last F(x) }  param c : real[2 * d] = ones  loss = dot(c, flatten(y))",
    ],
    ids=["a param", "a stream", "copies of the memory"],
)
def test_the_gradient_of_a_table_is_in_fewer_copies_than_the_table(text, clock):
    """Or the same at all ticks; with as many sequences as copies it was that of other sequences, else an error."""
    memory = f"memory F : d -> d = learned{clock} {{ minimize loss by gd(0.05) }}"
    y = "y" if text.startswith("MEMORY") else "flatten(y)"
    check(case(f"block m(d) {{ in x : real[d]\n  {text.replace('MEMORY', memory)}\n  out r = norm({y}) }}", "m", d=3), [1, 4, 7])


@pytest.mark.parametrize(
    ("declared", "loss"),
    [
        ("each h in 2 { param H : d -> 4  l = cross_entropy(H(y), i) }", "sum(flatten(l))"),
        ("param H : d -> 4  each h in 2 { l = cross_entropy((1 + h) * H(y), i) + sum(y) }", "sum(flatten(l))"),
        ("param p : real[4] = ones  each h in 2 { param H : d -> 4  l = cross_entropy(p, i) + cross_entropy(p + H(y), i) }", "sum(flatten(l))"),
    ],
)
@pytest.mark.parametrize("clock", ["", " every 2"])
def test_cross_entropies_in_copies(declared, loss, clock):
    """Of one target, and of logits that are a param: each has as many copies, ticks and sequences as it has."""
    text = (
        f"block m(d) {{ in i : int[4]  param E : 4 -> d  x = E(i)\n  memory F : d -> d = learned{clock} {{ minimize loss by gd(0.1) }}\n"
        f"  y = x + last F(x)  {declared}\n  loss = {loss}\n  out r = y  out e = loss }}"
    )
    c = case(text, "m", d=3)
    i = torch.randint(4, (2, 5), generator=torch.Generator().manual_seed(1))
    params = dict(c.module.named_parameters())
    wanted, found = c.interpreter.run(params, {"i": i})[0], c.module(i)
    assert all(distance(found[n], wanted[n]) < 1e-12 for n in ("r", "e"))
    a, b = (torch.autograd.grad((y["r"].sin() + y["e"].unsqueeze(-1)).sum(), list(params.values())) for y in (found, wanted))
    assert all(distance(u, v) < 1e-10 for u, v in zip(a, b, strict=True))


def test_a_target_is_one_index():
    text = "block m(d) { in x : real[d]  each h in 2 { in t : int[4] }  param L : d -> 4  out b = cross_entropy(L(x), t) }"
    assert [d.code for d in check_source(Source("t.nl", text)).errors] == ["NL202"]
