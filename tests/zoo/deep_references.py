"""The deep memories of the zoo once more, as literal loops over tokens with `torch.autograd` for every inner gradient.

Written from the papers (nested-learning.md 3.4-3.7), not from the .nl files: params by name, x [B, T, d] and the window
-> y [B, T, d]. A memory is a list of tensors [B, H, ...] (of a layer without heads [B, ...]).
"""

from collections.abc import Callable

import torch
from oracles import P, attention_core, conv, heads, out, rate, read, rms, rope, unit
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

Weights = list[Tensor]
SMALL = 0.01  # the largest rate of a network


# --- the loop ------------------------------------------------------------------------------------


def learn(
    W: Weights,
    ticks: int,
    window: int,
    loss: Callable[[Weights, int], Tensor],
    step: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]],
    answer: Callable[[Weights, int], Tensor],
    end: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """At each token: the gradient of its loss at the window's start, one step of each weight, the answer after it.

    `step` takes a weight, its momentum, its gradient and the token; `end` is what happens to a weight after a window.
    """
    S, o = [torch.zeros_like(w) for w in W], []
    for t in range(ticks):
        if t % window == 0:
            start = W
        G = gradient(loss, start, t)
        stepped = [step(w, s, g, t) for w, s, g in zip(W, S, G, strict=True)]
        W, S = [w for w, _ in stepped], [s for _, s in stepped]
        o.append(answer(W, t))
        if end is not None and (t + 1) % window == 0:
            W = [end(w) for w in W]
    return torch.stack(o, 1)


def gradient(loss: Callable[[Weights, int], Tensor], W: Weights, t: int) -> Weights:
    """With respect to W alone: where a key or a value comes from W too, it counts as data."""
    W = [w.view_as(w) for w in W]
    return list(torch.autograd.grad(loss(W, t).sum(), W, create_graph=True))


def first(p: P, x: Tensor, *names: str) -> Weights:
    return [p[f"{n}_init"].expand(len(x), *p[f"{n}_init"].shape) for n in names]


def at(r: Tensor, t: int, w: Tensor) -> Tensor:
    """The rate of a token, [B] or [B, H], for every entry of a weight."""
    return r[:, t].reshape(r[:, t].shape + (1,) * (w.dim() - r.dim() + 1))


def descent(eta: Tensor, keep: Tensor | None = None):
    """W = keep W - eta g."""
    return lambda w, s, g, t: ((w if keep is None else at(keep, t, w) * w) - at(eta, t, w) * g, s)


def surprise(p: P, x: Tensor):
    """Titans (13)-(14): S = eta S - theta g, W = (1 - alpha) W + S."""
    theta, eta, alpha = (torch.sigmoid(rate(p[n], x) - c) for n, c in (("wt", 0), ("we", 0), ("wa", 6)))

    def step(w, s, g, t):
        s = at(eta, t, w) * s - at(SMALL * theta, t, w) * g
        return (1 - at(alpha, t, w)) * w + s, s

    return step


def l2(f, k: Tensor, v: Tensor):
    return lambda W, t: 0.5 * (f(W, k[:, t]) - v[:, t]).square().sum()


# --- networks ------------------------------------------------------------------------------------


def mlp(W: Weights, a: Tensor) -> Tensor:
    return read(W[1], gelu(read(W[0], a)))


def whiten(a: Tensor) -> Tensor:
    """LN without its affine part."""
    return layer_norm(a, a.shape[-1:], eps=1e-6)


def normed(W: Weights, a: Tensor) -> Tensor:
    """MIRAS: x + LN(W1 gelu(W2 x)), W = [W2, W1]."""
    return a + whiten(mlp(W, a))


# --- TTT -----------------------------------------------------------------------------------------


def ttt(p: P, x: Tensor, window: int, raw, names: list[str], base: float) -> Tensor:
    """raw(W, a) is what LN is taken of; f(a) = a + LN(raw)."""
    q, k, v = (heads(p[f"W{n}"], x) for n in "qkv")
    eta = base * torch.sigmoid(rate(p["wl"], x) + p["bl"]) / q.shape[-1]

    def f(W, a):
        return a + p["gamma"] * whiten(raw(W, a)) + p["beta"]

    o = learn(first(p, x, *(f"f_{n}" for n in names)), x.shape[1], window, l2(f, k, v), descent(eta), lambda W, t: f(W, q[:, t]))
    return (rms(o.flatten(2)) * p["scale"] * gelu(x @ p["Wg"].T)) @ p["Wo"].T


def ttt_linear(p: P, x: Tensor, window: int) -> Tensor:
    return ttt(p, x, window, lambda W, a: read(W[0], a) + W[1], ["W", "b"], 1.0)


def ttt_mlp(p: P, x: Tensor, window: int) -> Tensor:
    def raw(W, a):
        return read(W[1], gelu(read(W[0], a) + W[2])) + W[3]

    return ttt(p, x, window, raw, ["W1", "W2", "b1", "b2"], 0.1)


# --- Titans --------------------------------------------------------------------------------------


def projected(p: P, x: Tensor, names: str, filters: str) -> list[Tensor]:
    """Queries, keys and values of Titans: a convolution of SiLU of a projection; queries and keys of unit length."""
    q, k, v = (conv(silu(heads(p[n], x)), p[f"{f}_filter"]) for n, f in zip(names.split(), filters.split(), strict=True))
    return [unit(q), unit(k), v]


def titans_lmm(p: P, x: Tensor, window: int) -> Tensor:
    q, k, v = projected(p, x, "Wq Wk Wv", "q k v")
    W = first(p, x, "M_up", "M_down")
    o = learn(W, x.shape[1], window, l2(mlp, k, v), surprise(p, x), lambda W, t: mlp(W, q[:, t]))
    return out(p, rms(o) * p["scale"] * torch.sigmoid(heads(p["Wg"], x)))


def persistent(p: P, q: Tensor) -> Tensor:
    """Attention to tokens that do not depend on the input."""
    return heads_of(p["Pv"], heads_of(p["Pk"], q).softmax(-1))


def heads_of(W: Tensor, a: Tensor) -> Tensor:
    """W [H, o, i], a [B, T, H, i] -> [B, T, H, o]."""
    return torch.einsum("hoi,bthi->btho", W, a)


def titans_mag(p: P, x: Tensor, window: int) -> Tensor:
    q, k, v = projected(p, x, "Wq Wk Wv", "q A_key A_value")
    near = attention_core(rope(q), rope(k), v, window=5) + persistent(p, q)
    u, k, v = projected(p, x, "Mq Mk Mv", "u k v")
    W = first(p, x, "M_up", "M_down")
    far = learn(W, x.shape[1], window, l2(mlp, k, v), surprise(p, x), lambda W, t: mlp(W, u[:, t]))
    return out(p, rms(near) * p["a"] * torch.sigmoid(rms(far) * p["b"]))


def titans_mal(p: P, x: Tensor, window: int) -> Tensor:
    u, k, v = projected(p, x, "Mq Mk Mv", "u k v")
    W = first(p, x, "M_up", "M_down")
    m = learn(W, x.shape[1], window, l2(mlp, k, v), surprise(p, x), lambda W, t: mlp(W, u[:, t]))
    z = x + rms(m).flatten(2) @ p["Wm"].T
    q, k, v = (heads(p[n], z) for n in ("Wq", "Wk", "Wv"))
    return out(p, attention_core(rope(q), rope(k), v, window=5) + persistent(p, q))


def titans_mac(p: P, x: Tensor, window: int) -> Tensor:
    """Token by token, since what a segment retrieves, attends to and learns all depend on the segments before it."""
    W = first(p, x, "M_up", "M_down")
    S, y = [torch.zeros_like(w) for w in W], []
    H = p["Pk"].shape[0]
    for t in range(x.shape[1]):
        if t % window == 0:
            start, seen = W, []
        r = mlp(start, unit(x[:, t] @ p["Mq"].T))
        seen += [r, x[:, t]]
        context = torch.stack(seen, 1)
        q = unit(heads(p["Wq"], x[:, t : t + 1])) * p["Wq"].shape[1] ** 0.5
        scores = torch.einsum("bqhn,bihn->bhqi", q, unit(heads(p["Wk"], context)))
        scores = torch.cat((heads_of(p["Pk"], q).transpose(1, 2), scores), -1)
        values = torch.cat((p["Pv"].permute(2, 0, 1).expand(len(x), -1, H, -1), heads(p["Wv"], context)), 1)
        o = torch.einsum("bhqi,bihn->bqhn", scores.softmax(-1), values)
        z = rms(out(p, o))
        k, v = unit(z @ p["Mk"].T), z @ p["Mv"].T
        theta, eta, alpha = (torch.sigmoid(z @ p[n].T - c)[:, 0] for n, c in (("wt", 0), ("we", 0), ("wa", 6)))
        G = gradient(l2(mlp, k, v), start, 0)
        S = [at(eta, 0, s) * s - at(SMALL * theta, 0, s) * g for s, g in zip(S, G, strict=True)]
        W = [(1 - at(alpha, 0, w)) * w + s for w, s in zip(W, S, strict=True)]
        y.append(z[:, 0] * p["a"] * torch.sigmoid(rms(mlp(W, unit(z @ p["Mq"].T)[:, 0])) * p["b"]))
    return torch.stack(y, 1)
