"""The texts of docs/reference/objectives.md: the interpreter is a literal loop over autograd, and every form is the interpreter."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import softplus, softshrink
from torch_cases import EXACT, ROOT, Reference, case, compare, distance

import nldsl
from nldsl_torch.build import module

sys.path.append(str(ROOT / "tests" / "docs"))

from markdown_blocks import specs

D, T = 4, 11
PAGE = [b.text for b in specs(ROOT / "docs" / "reference" / "objectives.md")]
TEXTS = {name: text for text in PAGE for name in nldsl.load(text).blocks if f"block {name}(d) {{\n  in x" in text}
SIDES: list[bool] = []  # on which side of its threshold each number was, since the list was last emptied


def within(a: Tensor, most: Tensor | float) -> Tensor:
    SIDES.extend((a <= most).flatten().tolist())
    return a <= most


# --- objectives, of z = S k, the value v and delta ---------------------------------------------------


def l2(z, v, delta):
    return 0.5 * (z - v).square().sum()


def huber_coordinate(z, v, delta):
    r = (z - v).abs()
    return torch.where(within(r, delta), 0.5 * r * r, delta * (r - 0.5 * delta)).sum()


def huber_norm(z, v, delta):
    n = (z - v).norm()
    return 0.5 * n * n if within(n, delta) else delta * (n - 0.5 * delta)


def huber_mixed(z, v, delta):
    return 0.5 * (z - v).square().sum() if within((z - v).norm(), delta) else delta * (z - v).abs().sum()


def robust(z, v, delta):
    return 0.5 * ((z - v).norm() + delta) ** 2


def kl_of_values(z, v, delta):
    return kl_divergence(Categorical(v), Categorical(logits=z))


def kl_of_answers(z, v, delta):
    return kl_divergence(Categorical(logits=z), Categorical(v))


# --- steps: the state, what the rule keeps beside it, the gradient ------------------------------------


def soft(z, c):
    within(z.abs(), c)
    return softshrink(z, c)


def descent(rate=0.5, keep=0.95, first=lambda W: W, then=lambda W: W):
    return lambda W, A, g: (then(keep * first(W) - rate * g), A)


def elastic(W, A, g, eta=0.5, alpha=10, beta=20):
    lam, gamma = beta / (beta + eta), eta * beta / (alpha * (eta + beta))
    return soft(lam * W - eta * lam * g, gamma), A


def elastic_ftrl(W, A, g, eta=0.5, alpha=10):
    A = A - eta * g
    return soft(A, eta / alpha), A


def mirror(W, A, g):
    return torch.softmax(0.95 * W.log() - 0.5 * g, -1), A


def sphere(W, A, g, eta=0.5):
    return W.norm() * (W - eta * g) / (W - eta * g).norm(), A


def lq(W):
    return W / torch.linalg.vector_norm(W, 4) ** 2


# --- the loop ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """A memory with gradients at the start of windows of `start` ticks, steps on the sum of `every` of them, and `end` every 4 ticks."""

    loss: Callable = l2
    step: Callable = descent()
    end: Callable | None = None
    start: int = 1
    every: int = 1
    first: Callable = torch.zeros_like
    simplex: bool = False
    before: Callable = lambda W: W  # what the gradient is taken behind

    def run(self, p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.stack([self.sequence(p, s) for s in x])

    def sequence(self, p: dict[str, Tensor], x: Tensor) -> Tensor:
        W = p["S_init"] if "S_init" in p else self.first(p["Wq"].detach()).requires_grad_()
        A, G, outs = torch.zeros_like(W), torch.zeros_like(W), []
        for t, u in enumerate(x):
            if t % self.start == 0:
                start = W
            k = p["Wk"] @ u
            k = k / (k.square().sum() + 1e-6).sqrt()
            v = p["Wv"] @ u
            v = torch.softmax(v, -1) if self.simplex else v
            at = self.before(start).view_as(W)
            (g,) = torch.autograd.grad(self.loss(at @ k, v, softplus(p["wd"] @ u)[0] if "wd" in p else None), at, create_graph=True)
            G = G + g
            if (t + 1) % self.every == 0:
                W, A = self.step(W, A, G)
                G = torch.zeros_like(W)
            y = W @ (p["Wq"] @ u)
            outs.append(torch.softmax(y, -1) if self.simplex else y)
            if self.end is not None and (t + 1) % 4 == 0:
                W = self.end(W)
        return torch.stack(outs)


OBJECTIVES = {
    "huber_coordinate": huber_coordinate, "huber_norm": huber_norm, "huber_mixed": huber_mixed, "robust_value_shift": robust,
    "kl_of_values": kl_of_values, "kl_of_answers": kl_of_answers,
}  # fmt: skip
LOOPS = {n: Loop(f, simplex=n.startswith("kl")) for n, f in OBJECTIVES.items()} | {
    "elastic_net": Loop(step=elastic),
    "elastic_net_ftrl": Loop(step=elastic_ftrl),
    "elastic_net_at_ends": Loop(end=lambda W: soft(W, 0.1)),
    "lq_at_ends": Loop(end=lq, start=4),
    "softmax_memory": Loop(step=mirror, first=lambda W: torch.full_like(W, 1 / D)),
    "norm_preserving": Loop(step=sphere),
    "norm_at_ends": Loop(step=descent(keep=1), end=lambda W: 2 * W / W.norm()),
}
# What the page says of other places of a step: the text with a change, and its loop.
ENDS, GD = "soft(0.1) every 4", "gd(0.5, keep = 0.95)"
PROX = "{\n    minimize 0.5 * sqnorm(S(k) - v) by elastic("
VARIANTS = {f"{n} at start(4)": (n, ") by gd", ") at start(4) by gd", Loop(f, start=4, simplex=n.startswith("kl"))) for n, f in OBJECTIVES.items()} | {
    "soft at each tick": ("elastic_net_at_ends", ENDS, "soft(0.1)", Loop(step=descent(then=lambda W: soft(W, 0.1)))),
    "soft before the gradient": ("elastic_net_at_ends", f"{GD}, {ENDS}", f"soft(0.1), {GD}",
                                 Loop(step=descent(first=lambda W: soft(W, 0.1)), before=lambda W: soft(W, 0.1))),
    "soft and gradients at ends": ("elastic_net_at_ends", ") by gd", ") at start(4) by gd", Loop(end=lambda W: soft(W, 0.1), start=4)),
    "elastic every 4": ("elastic_net", PROX, f"every 4 {PROX}", Loop(step=elastic, every=4)),
    "sphere at start(4)": ("norm_preserving", ") by sphere", ") at start(4) by sphere", Loop(step=sphere, start=4)),
}  # fmt: skip
KINKED = [n for n in [*LOOPS, *VARIANTS] if n.startswith(("huber", "elastic", "soft "))]
each = pytest.mark.parametrize("name", [*LOOPS, *VARIANTS])


@cache
def layer(name):
    if name in LOOPS:
        return case(TEXTS[name], name, d=D)
    block, old, new, _ = VARIANTS[name]
    assert old in TEXTS[block]
    return case(TEXTS[block].replace(old, new), block, d=D)


def loop(name: str) -> Loop:
    return LOOPS[name] if name in LOOPS else VARIANTS[name][3]


def test_every_text_of_the_page_has_a_loop():
    assert TEXTS.keys() == LOOPS.keys()
    assert not [d for text in PAGE for d in nldsl.load(text).diagnostics]


@each
def test_the_interpreter_is_the_literal_loop(name):
    c = layer(name)
    params, x = dict(c.module.named_parameters()), c.input(2, T).requires_grad_()
    SIDES.clear()
    wanted = loop(name).run(params, x)
    assert set(SIDES) == ({True, False} if name in KINKED else set()), "one side of the threshold is not met"
    y = c.interpreter.run(params, {"x": x})[0]["y"]
    assert distance(y, wanted) < EXACT
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).double()
    ours, theirs = (torch.autograd.grad((z * weight).sum(), [x, *params.values()]) for z in (y, wanted))
    for n, a, b in zip(["x", *params], ours, theirs, strict=True):
        assert b.abs().max() > 0, f"the loop does not depend on {n}"
        assert distance(a, b) < EXACT, n


@each
def test_every_form_is_the_interpreter(name):
    c = layer(name)
    runs = []
    for elaborated in c.elaborated.lowerings().values():
        made = module(*elaborated.parts).double()
        made.load_state_dict(c.module.state_dict())
        runs.append((made, EXACT))
    reference = Reference(c, c.input(2, T), [1, 4, 6])
    for ticks in (1, 5, T):
        compare(c, reference, runs, ticks, 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_at_the_start_of_windows_make_windows(name):
    assert layer(name).forms["S"].name == "loop"
    assert layer(f"{name} at start(4)").forms["S"].name == "windows"


def nearby(W: Tensor):
    """Random points around W, near and far."""
    torch.manual_seed(0)
    return (W + 10**-a * torch.randn_like(W) for a in torch.linspace(0, 4, 400).tolist())


def test_the_elastic_step_is_the_argmin_of_its_retention():
    torch.manual_seed(1)
    S, g = torch.randn(2, 3, 4).double()
    eta, alpha, beta = 0.5, 2, 3

    def cost(W):
        return (W * g).sum() + (W - S).square().sum() / (2 * eta) + W.square().sum() / (2 * beta) + W.abs().sum() / alpha

    W, _ = elastic(S, None, g, eta, alpha, beta)
    assert 0 < (W == 0).sum() < W.numel()
    assert all(cost(V) > cost(W) for V in nearby(W))


def test_the_step_on_a_sphere_is_the_argmin_there():
    torch.manual_seed(2)
    S, g = torch.randn(2, 3, 4).double()
    W, _ = sphere(S, None, g)
    assert abs(W.norm() - S.norm()) < 1e-12
    cost = lambda V: (V * g).sum() + (V - S).square().sum()  # noqa: E731  eta = 0.5
    assert all(cost(V * S.norm() / V.norm()) > cost(W) for V in nearby(W))


def test_the_robust_objective_is_the_largest_loss_of_a_shift():
    torch.manual_seed(3)
    z, v = torch.randn(2, 3).double()
    largest = -0.7 * (z - v) / (z - v).norm()
    assert distance(0.5 * (z - v - largest).square().sum(), robust(z, v, 0.7)) < 1e-12
    assert all(0.5 * (z - v - 0.7 * s / s.norm()).square().sum() < robust(z, v, 0.7) for s in nearby(largest))
