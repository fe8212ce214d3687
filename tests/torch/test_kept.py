"""Stores, `delay`, `conv` and `rope` in recurrences: between a memory and its loss, and where a memory feeds itself through them."""

import re
import sys

import pytest
import torch
from torch_cases import Case, case, check, distance

from nldsl.pipeline import check_source
from nldsl.source import Source
from nldsl_torch import functions
from nldsl_torch.build import module

NET = "block net(d) { in x : real[d]  param up : d -> 2 * d  param down : 2 * d -> d  out y = down(gelu(up(x))) }\n"
STORE = "memory A : store(d -> d{window}) {{ key rope(Wk(y))  value Wv(y) }}"
COPIES = "each h in 2 {{ param Wq, Wk, Wv : d -> 2  memory A : store(2 -> 2) {{ key rope(Wk(y))  value Wv({value}) }}  o = A(rope(Wq(y))) }}  param Wo : 4 -> d"
# What stands between an answer y and the loss: statements, and what z adds to y.
WAYS = {
    "delay": ("", "delay(y, 2)"),
    "a delay in a delay": ("u = delay(y, 1) + y", "delay(u, 2)"),
    "the tick before": ("u = tanh(last y)", "u + last u"),
    "a number of earlier": ("", "delay(sum(y), 1) * x"),
    "conv": ("", "conv(y, 3)"),
    "conv of one tick": ("", "conv(y, 1)"),
    "conv of a conv": ("u = conv(y, 2)", "conv(u, 2) + conv(u, 3)"),
    "rope": ("param W : d -> d  u = rope(W(y))", "tanh(W(u))"),
    "store": (f"param Wk, Wv : d -> d  {STORE.format(window='')}", "A(rope(y))"),
    "store of a window": (f"param Wk, Wv : d -> d  {STORE.format(window=', window = 3')}", "A(rope(y))"),
    "two reads": (f"param Wk, Wv : d -> d  {STORE.format(window='')}", "A(y) + A(A(x))"),
    "keys only": ("memory A : store(d -> d) { key y  value x }", "A(x)"),
    "values only": ("memory A : store(d -> d) { key x  value y }", "A(x)"),
    "queries only": ("memory A : store(d -> d) { key x  value x }", "A(y)"),
    "an alias": ("v = y  param W : d -> d  memory A : store(d -> d) { key W(v)  value W(v) }", "A(v)"),
    "heads": (COPIES.format(value="y"), "Wo(flatten(o))"),
    "heads of one store": ("memory A : store(d -> d) { key y  value y }  each h in 2 { param Wq : d -> d  o = A(Wq(y)) }  param Wo : 2 * d -> d", "Wo(flatten(o))"),
    "conv in copies": ("each h in 2 { param W : d -> 2  o = conv(W(y), 2) + delay(W(y), 1) }  param Wo : 4 -> d", "Wo(flatten(o))"),
    "one dimension": ("param Wk, Wv : d -> 1  memory A : store(1 -> 1) { key Wk(y)  value Wv(y) }  u = A(Wk(y))", "sum(u) * x"),
}


def learned(way: str, clock: str = " every 4", steps: str = "gd(0.1)") -> Case:
    """A network that learns from a loss behind a way."""
    statements, more = WAYS[way]
    return case(
        f"{NET}block m(d) {{ in x : real[d]\n  memory F : net(d) = learned{clock} {{ minimize loss by {steps} }}\n  y = x + last F(norm(x))\n"
        f"  {statements}\n  z = y + {more}\n  loss = dot(norm(z), norm(x))\n  out r = norm(z)\n}}",
        "m", d=4,
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_memory_below_what_keeps_its_past(way):
    c = learned(way)
    assert [f.name for f in c.forms.values()] == ["windows"]
    check(c, [1, 4, 9])


@pytest.mark.parametrize("way", [w for w in WAYS if "one" not in w])
def test_gradients_taken_elsewhere(way):
    """At the state after a step before, where what this tick gives is not what it keeps."""
    c = learned(way, steps="decay(0.7), gd(0.1)")
    assert [f.name for f in c.forms.values()] == ["windows"]
    check(c, [1, 4, 9])


@pytest.mark.parametrize("way", ["delay", "conv", "store", "heads", "two reads"])
def test_at_every_tick(way):
    c = learned(way, clock="")
    assert [f.name for f in c.forms.values()] == ["loop"]
    check(c, [1, 5])


def net(w, x):
    return torch.nn.functional.gelu(x @ w[0].mT) @ w[1].mT


def rms(x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def literal(way: str, p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The block as a loop over ticks; what was kept is that of the outer weights, which a gradient at copies of them does not pass."""
    (B, T, d), w = x.shape, [p["F_up_init"], p["F_down_init"]]
    w = [a.expand(B, *a.shape) for a in w]
    sums, kept, out = [torch.zeros_like(a) for a in w], [], []

    def answer(w, t):
        y = x[:, t] + net(w, rms(x[:, t])[:, None])[:, 0]
        past = [*kept, y]
        if way == "delay":
            z = past[-3] if t > 1 else torch.zeros_like(y)
        elif way == "conv":
            z = sum(p["z_filter"][:, j] * past[-1 - j] for j in range(min(3, t + 1)))
        else:
            kv = torch.stack(past, 1)
            z = torch.einsum("bs,bsd->bd", ((kv @ x[:, t, :, None])[..., 0] / d**0.5 if way == "keys" else (x[:, : t + 1] @ y[..., None])[..., 0] / d**0.5)
                             .softmax(-1), x[:, : t + 1])  # fmt: skip
        return y, rms(y + z)

    for t in range(T):
        y, r = answer(w, t)
        out.append(r)
        copies = [a.clone() for a in w]
        found = torch.autograd.grad((answer(copies, t)[1] * rms(x[:, t])).sum(), copies, create_graph=True)
        sums = [s + g for s, g in zip(sums, found, strict=True)]
        kept.append(y)
        if (t + 1) % 4 == 0:
            w, sums = [a - 0.1 * s for a, s in zip(w, sums, strict=True)], [torch.zeros_like(a) for a in w]
    return torch.stack(out, 1)


@pytest.mark.parametrize(("way", "name"), [("delay", "delay"), ("conv", "conv"), ("keys", "keys only"), ("queries", "queries only")])
def test_the_literal_loop(way, name):
    """z = norm(y + way), and dot(norm(z), norm(x)) as loss, of which r = norm(z) is a part."""
    c = learned(name)
    x = c.input(2, 11).requires_grad_()
    p = dict(c.module.named_parameters())
    wanted, found = literal(way, p, x), c.module(x)
    assert distance(found, wanted) < 1e-12
    leaves, w = [x, *p.values()], torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).double()
    for a, b in zip(*(torch.autograd.grad((y * w).sum(), leaves, retain_graph=True) for y in (found, wanted)), strict=True):
        assert b.any() and distance(a, b) < 1e-10


def test_the_past_is_given():
    """A loss that only earlier answers reach teaches nothing."""
    text = "block m(d) { in x : real[d]  memory F : d -> d = learned every 2 { minimize loss by gd(0.1) }  LOSS  out r = last F(x) }"
    still = case(text.replace("LOSS", "loss = sqnorm(delay(last F(x), 1) - x)"), "m", d=3)
    learns = case(text.replace("LOSS", "loss = sqnorm(delay(last F(x), 1) + last F(x) - x)"), "m", d=3)
    for c, changes in ((still, False), (learns, True)):
        _, state = c.module(c.input(1, 6), return_state=True)
        assert torch.equal(state["F"][0], c.module.F_init) != changes


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("memory m : real[d] { update 0.5 * last m + delay(tanh(last m) + x, 2) }  out y = m", "loop"),
        ("memory m : real[d] { update 0.5 * last m + conv(tanh(last m) + x, 3) }  out y = m", "loop"),
        ("memory m : real[d] { update 0.5 * last m + rope(tanh(last m) + x) }  out y = m", "loop"),
        ("memory m : real[d] { update 0.5 * last m + A(tanh(last m)) }  memory A : store(d -> d) { key x  value last m }  out y = m", "loop"),
        ("memory S : d -> d { minimize 0.5 * sqnorm(S(unit(x)) - delay(last S(x), 1)) by gd(0.1) }  out y = S(x)", "loop"),
        ("memory S : d -> d every 3 { minimize 0.5 * sqnorm(S(unit(x)) - conv(last S(x), 2)) by gd(0.1) }  out y = last S(x)", "windows"),
        ("memory S : d -> d every 3 { minimize 0.5 * sqnorm(S(unit(x)) - A(x)) by gd(0.1) }  memory A : store(d -> d) { key x  value last S(x) }"
         "  out y = last S(x)", "windows"),
        ("memory S : d -> d every 3 { minimize 0.5 * sqnorm(S(unit(x)) - x) by gd(0.1) }  each h in 2 { u = delay(S(x), 1) * (1 + h) }"
         "  param W : 2 * d -> d  out y = S(W(flatten(u)))", "loop"),
    ],
)  # fmt: skip
def test_what_feeds_itself_through_its_past(text, form):
    c = case(f"block m(d) {{ in x : real[d]\n  {text}\n}}", "m", d=4)
    assert form in {f.name for f in c.forms.values()}
    check(c, [1, 4, 7])


def test_whole_numbers_are_kept_too():
    text = "block m(d, n) { in x : real[d]  in i : int[n]\n  memory E : n -> d every 2 { minimize 0.5 * sqnorm(E(delay(i, 1)) - delay(last E(i), 1) - x) by gd(0.3) }  out y = last E(i) }"
    c = case(text, "m", d=3, n=4)
    x, i = torch.randn(2, 7, 3).double(), torch.randint(4, (2, 7))
    wanted, _ = c.interpreter.run({}, {"x": x, "i": i})
    assert distance(c.module(x, i), wanted["y"]) < 1e-12
    assert {v.dtype for k, v in c.module.initial_state(2).items() if k.endswith(":past")} == {torch.int64, torch.float64}


@pytest.mark.parametrize("way", ["conv", "delay", "conv in copies", "store", "heads", "two reads"])
def test_windows_are_compiled(way, monkeypatch):
    """Reads of stores stand between functions, of which none sees how many pairs there are: nothing is compiled twice."""
    monkeypatch.setattr(functions.Fusible, "backend", "aot_eager")
    c = learned(way)
    assert not re.search(r"taped\(lambda", c.source(standalone=False))
    fast = module(*c.elaborated.parts, compile=True)
    fast = fast.double()
    fast.load_state_dict(c.module.state_dict())
    x = c.input(2, 17)
    a, b = (torch.autograd.grad(m(x).square().sum() + m(x).sum(), list(m.parameters())) for m in (fast, c.module))
    assert all(distance(u, v) < 1e-12 for u, v in zip(a, b, strict=True))
    compiled = [f for f in vars(sys.modules[type(fast).__module__]).values() if isinstance(f, functions.Reversible)]
    assert compiled and all(len(f.fast) <= 2 for f in compiled)  # itself and its reverse


@pytest.mark.parametrize("more", ["conv(y, 3)", "rope(y)", "delay(y, 1)", "A(y)"])
def test_on_the_way_through_the_step_of_another_memory(more):
    """Its gradient is differentiated once more."""
    text = (
        "block m(d) { in x : real[d]\n  memory F : d -> d = learned { minimize e by gd(0.1) }  memory B : d -> d = learned { minimize l by gd(0.1) }\n"
        f"  y = norm(x + last F(x) + last B(x))  memory A : store(d -> d) {{ key y  value y }}  l = dot(norm(y + {more}), x)\n"
        "  z = B(x) + y  e = dot(norm(z), x)  out r = norm(z) + A(x) }"
    )
    if more == "A(y)":
        assert [(d.code, d.message.partition(" has")[0]) for d in check_source(Source("t.nl", text)).errors] == [("NL601", "the gradient of a read of a store")]
    else:
        check(case(text, "m", d=4), [1, 5])


@pytest.mark.parametrize("clock", ["", " every 4", " every 32"])
def test_long_convolutions(clock):
    """Of more terms than a line of generated code may have."""
    text = (
        f"block m(d) {{ in x : real[d]\n  memory F : d -> d = learned{clock} {{ minimize loss by decay(0.9), gd(0.05) }}\n  y = x + last F(norm(x))\n"
        "  each h in 2 { u = conv((1 + h) * y, 20) }  param W : 2 * d -> d\n  z = conv(y, 4096) + W(flatten(u))\n"
        "  loss = dot(norm(z), norm(x))\n  out r = norm(z)\n}"
    )
    check(case(text, "m", d=4), [1, 4, 40] if clock else [1, 5])


def test_an_objective_of_its_own_keeps_nothing():
    """There is no stream to keep: what such an objective computes is a function of its memory."""
    text = "block m(d) { in x : real[d]  memory S : d -> d { minimize 0.5 * sqnorm(conv(S(x), 2) - x) by gd(0.1) }  out y = S(x) }"
    assert [d.code for d in check_source(Source("t.nl", text)).errors] == ["NL409"]


@pytest.mark.parametrize("more", ["conv(z, 3)", "delay(z, 1)", "A(z)"])
@pytest.mark.parametrize("clock", ["", " every 3"])
def test_a_loss_that_is_no_output(more, clock):
    """Nothing but the objective reads what is kept."""
    text = (
        f"block m(d) {{ in x : real[d]\n  z = x + last M(x)\n  param W : d -> d\n  memory A : store(d -> d) {{ key W(z)  value W(z) }}\n"
        f"  loss = sqnorm(z + {more} - x)\n  memory M : d -> d = learned{clock} {{ minimize loss by gd(0.05) }}\n  out y = last M(x) }}"
    )
    assert [d.code for d in check_source(Source("t.nl", text)).diagnostics] == [] if "A" in more else ["NL410", "NL190"]
    check(case(text, "m", d=4), [1, 4, 8])
