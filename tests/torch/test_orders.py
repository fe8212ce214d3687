"""The orders of the outer gradient through a memory, each against a loop written out with torch.autograd."""

import pytest
import torch
from torch_cases import EXACT, Case, check, distance, split

import nldsl

ORDERS = ("through", "first_order", "straight_through", "stop")
LINEAR = "block net(d) { in x : real[d]  param up : d -> d  out y = up(x) }\n"
DEEP = "block net(d) { in x : real[d]  param up : d -> 5  param down : 5 -> d  out y = down(tanh(up(x))) }\n"


def text(order, net, clock, at, first):
    return net + f"""block m(d) {{
      in x : real[d]
      param Wk, Wq : d -> d
      param wa, wb : d -> 1
      k = unit(Wk(x))
      memory M : net(d) = {first} {clock} {{
        minimize 0.5 * sqnorm(M(k) - x) {at} by gd({"0.3" if clock else "0.5 * sigmoid(wb(x))"}, keep = {"0.9" if clock else "sigmoid(wa(x) + 2)"})
        writes {order}
      }}
      out y = M(Wq(x)) + {"0.1 * last M(x)" if not at else "start(3) M(x)"}
    }}"""


def literal(p, x, order, net, C, slow):
    """y over one sequence; `slow`: one step a period of C ticks, else a step a tick with gradients at the start of windows of C."""

    def run(W, v):
        h = W[0] @ v
        return h if net is LINEAR else W[1] @ torch.tanh(h)

    def given(a):
        return a.detach() if order in ("straight_through", "stop") else a

    def read(W, v):
        return run([w + p0 - p0.detach() for w, p0 in zip(W, first, strict=True)] if order == "straight_through" else W, v)

    first = [p[n] for n in ("M_up_init", "M_down_init") if n in p]
    W = [given(w) for w in first]
    anchor, total, ys = W, None, []
    for t, v in enumerate(x):
        k = p["Wk"] @ v
        k = k / (k.square().sum() + 1e-6).sqrt()
        at = [w if w.requires_grad else w.clone().requires_grad_() for w in (anchor if not slow else W)]
        g = torch.autograd.grad(0.5 * (run(at, k) - v).square().sum(), at, create_graph=True)
        g = [a if order == "through" else a.detach() for a in g]
        before = W
        if slow:
            total = g if total is None else [a + b for a, b in zip(total, g, strict=True)]
            if (t + 1) % C == 0:
                W, total = [0.9 * w - 0.3 * s for w, s in zip(W, total, strict=True)], None
        else:
            rate, keep = given(0.5 * torch.sigmoid(p["wb"] @ v)), given(torch.sigmoid(p["wa"] @ v + 2))
            W = [keep * w - rate * a for w, a in zip(W, g, strict=True)]
        ys.append(read(W, p["Wq"] @ v) + (0.1 * read(before, v) if C == 1 or slow else read(anchor, v)))
        if (t + 1) % C == 0:
            anchor = W
    return torch.stack(ys)


KINDS = {"every tick": ("", "", 1, False), "windows": ("", "at start(3)", 3, False), "periods": ("every 3", "", 3, True)}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", [LINEAR, DEEP], ids=["linear", "deep"])
def test_each_order_is_the_loop(order, kind, net):
    clock, at, C, slow = KINDS[kind]
    first = "" if order == "stop" else "= learned"
    c = Case(text(order, net, clock, at, "X").replace("= X", first), "m", {"d": 4})
    x = c.input(1, 10)
    p = {n: v.detach().clone().requires_grad_() for n, v in c.module.state_dict().items()}
    y = literal(p, x[0], order, net, C, slow)
    ours = c.module(x)[0]
    assert distance(ours, y) < EXACT
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).double()
    trained = dict(c.module.named_parameters())
    expected = torch.autograd.grad((y * weights).sum(), [p[n] for n in trained], allow_unused=True)
    found = torch.autograd.grad((ours * weights).sum(), list(trained.values()), allow_unused=True)
    for n, a, b in zip(trained, found, expected, strict=True):
        assert distance(a, b) < EXACT, n
    assert ("M_up_init" in trained) == (order != "stop")
    check(c, [1, 2, 5, 9, 10])  # the interpreter: outputs, states, gradients
    parts, _ = split(c.module, x, [1, 1, 3, 2, 3])
    assert distance(parts["y"][0], y) < EXACT


def gradients(order, rate, keep):
    c = Case(LINEAR + f"""block m(d) {{ in x : real[d]  k = unit(x)
      memory M : net(d) = learned {{ minimize 0.5 * sqnorm(M(k) - x) by gd({rate}, keep = {keep})  writes {order} }}  out y = M(k) }}""", "m", {"d": 3})
    (first,) = c.module.parameters()
    return torch.autograd.grad(c.module(c.input(1, 7)).square().sum(), [first])[0]


def test_how_the_orders_differ():
    """Without a decay first order and straight-through give the first value the same gradient; with one only the latter forgets the decay."""
    assert distance(gradients("first_order", 0.5, 1), gradients("straight_through", 0.5, 1)) < EXACT
    assert distance(gradients("first_order", 0.5, 0.9), gradients("straight_through", 0.5, 0.9)) > 0.1
    assert distance(gradients("through", 0.5, 1), gradients("first_order", 0.5, 1)) > 0.1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("memory", [
    "d -> d = learned { minimize -dot(M(k), x) by decay(sigmoid(a(x))), gd(1)",
    "d -> d = learned { minimize 0.5 * sqnorm(M(k) - x) by decay(sigmoid(a(x))), gd(0.5)",
    "d -> d = learned { minimize 0.5 * sqnorm(M(k) - x) by momentum(0.1)",
    "d -> d = learned { minimize 0.5 * sqnorm(M(k) - x) at start(4) by gd(0.5), scaled(0.9) every 4",
    "real[d] = learned { minimize 0.5 * sqnorm(M - x) by gd(sigmoid(a(x)))",
])  # fmt: skip
def test_the_form_is_that_of_through(memory, order):
    rule = "rule scaled(a) { update a * last w }\n"
    read = "M" if "real" in memory else "M(k) + last M(x)"
    made = [Case(f"{rule}block m(d) {{ in x : real[d]  param a : d -> 1  k = unit(x)  memory M : {memory}  writes {o} }}  out y = {read} }}", "m", {"d": 3})
            for o in ("through", order)]  # fmt: skip
    reads_the_state = "sqnorm" in memory and "start" not in memory
    assert made[0].names != "loop"
    assert made[1].names == ("loop" if order == "first_order" and reads_the_state else made[0].names)
    check(made[1], [1, 4, 6, 33, 40])


@pytest.mark.parametrize("order", ORDERS)
def test_an_objective_that_is_a_stream(order):
    """The loss of a model trains its weights at each tick; what passes the model from outside is the order."""
    c = Case(f"""block m(d) {{ in x : real[d]  param W : d -> d
      memory F : d -> d {"" if order == "stop" else "= learned"} {{ minimize loss by gd(0.1)  writes {order} }}
      h = norm(W(x) + last F(W(x)))  loss = 0.5 * sqnorm(h - x)  out y = h }}""", "m", {"d": 3})
    check(c, [1, 4, 9])
    p = {n: v.detach().clone().requires_grad_() for n, v in c.module.state_dict().items()}
    first = p["F_init"] if order != "stop" else torch.zeros(3, 3, dtype=torch.float64)
    x, ys = c.input(1, 6), []
    F = first if order in ("through", "first_order") else first.detach()
    for v in x[0]:
        def h(W, v=v):
            a = p["W"] @ v
            a = a + W @ a
            return a / (a.square().mean() + 1e-6).sqrt()
        ys.append(h(F + first - first.detach() if order == "straight_through" else F))
        at = F if F.requires_grad else F.clone().requires_grad_()
        g = torch.autograd.grad(0.5 * (h(at) - v).square().sum(), at, create_graph=True)[0]
        F = F - 0.1 * (g if order == "through" else g.detach())
    y = torch.stack(ys)
    trained = dict(c.module.named_parameters())
    ours = c.module(x)[0]
    assert distance(ours, y) < EXACT
    expected = torch.autograd.grad(y.square().sum() + y[:, 0].sum(), [p[n] for n in trained])
    found = torch.autograd.grad(ours.square().sum() + ours[:, 0].sum(), list(trained.values()))
    assert all(distance(a, b) < EXACT for a, b in zip(found, expected, strict=True))


def test_a_rules_memories_and_copies():
    """Memories of the rule are given too; each head trains its own first value straight."""
    c = Case("""rule kept(rate) { memory m : like(w) = learned(normal(0.1)) { update 0.9 * last m + g }  update last w - rate * m }
    block m(d) { in x : real[d]
      each h in 2 { param W : d -> 2  param r : real  k = unit(W(x))
        memory M : 2 -> 2 = learned { minimize 0.5 * sqnorm(M(k) - W(x)) by kept(0.1 * sigmoid(r + h))  writes straight_through }  o = M(k) }
      out y = flatten(o) }""", "m", {"d": 3})
    assert {n for n, _ in c.module.named_parameters()} == {"W", "r", "M_init"}
    check(c, [1, 4, 9])


def test_a_stop_cuts_a_reset_too():
    """A nested memory: what reads F trains G's first value through G, or through F with it."""
    found = []
    for order in ("first_order", "stop"):
        c = Case(f"""block m(d) {{ in x : real[d]  k = unit(x)
          memory F : d -> d {{ minimize 0.5 * sqnorm(F(k) - x) by gd(0.5)  reset every 4 to G  writes {order} }}
          memory G : d -> d = learned every 4 {{ minimize 0.5 * sqnorm(G(k) - x) over mean by gd(0.5) }}
          out y = F(k)  out z = G(k) }}""", "m", {"d": 3})
        check(c, [1, 4, 9, 12])
        (first,) = c.module.parameters()
        runs = [c.module(c.input(1, 9))[n].sum() for n in ("y", "z")]
        found.append([torch.autograd.grad(y, [first])[0] if y.requires_grad else None for y in runs])
    assert found[0][0].abs().sum() > 0 and (found[1][0] is None or found[1][0].abs().sum() == 0)
    assert distance(found[0][1], found[1][1]) < EXACT


@pytest.mark.parametrize("memory, says", [
    ("d -> d = zeros { minimize -dot(M(x), x) by gd(1)  writes straight_through }", "no first value that is learned"),
    ("d -> d = learned { minimize -dot(M(x), x) by gd(1)  writes straigth_through }", "writes straight_through"),
    ("d -> d = learned { update outer(x, x)  writes first_order }", "takes none"),
])  # fmt: skip
def test_orders_that_mean_nothing(memory, says):
    with pytest.raises(nldsl.NlError, match="NL402") as wrong:
        nldsl.load(f"block m(d) {{ in x : real[d]  memory M : {memory}  out y = M(x) }}")
    assert says in str(wrong.value)


def test_a_learned_value_that_a_stop_cuts_off_is_said():
    program = nldsl.load("block m(d) { in x : real[d]  memory M : d -> d = learned { minimize -dot(M(unit(x)), x) by gd(1)  writes stop }  out y = M(x) }")
    assert [d.code for d in program.diagnostics] == ["NL420"]
