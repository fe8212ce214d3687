"""MIRAS and ATLAS as literal loops; see deep_references.py."""

import torch
from deep_references import Weights, at, descent, first, l2, learn, mlp, normed
from oracles import P, blank, conv, heads, out, outer, qkv, rate, read, rms, scan, unit
from torch import Tensor
from torch.nn.functional import silu, softplus

# --- MIRAS ---------------------------------------------------------------------------------------


def miras(p: P, x: Tensor, window: int, loss, step, names: str = "q k v", end=None) -> Tensor:
    """The layer around a network x + LN(W1 gelu(W2 x))."""
    q, k, v = (conv(heads(p[f"W{n}"], x), p[f"{f}_filter"]) for n, f in zip("qkv", names.split(), strict=True))
    q, k = unit(q), unit(k)
    W = first(p, x, "M_W2", "M_W1")
    o = learn(W, x.shape[1], window, loss(k, v), step, lambda W, t: normed(W, q[:, t]), end)
    return out(p, rms(o) * p["scale"] * torch.sigmoid(heads(p["Wg"], x)))


def gates(p: P, x: Tensor, most: float, bias: float) -> tuple[Tensor, Tensor]:
    """eta and a."""
    return most * torch.sigmoid(rate(p["we"], x)), torch.sigmoid(rate(p["wa"], x) + bias)


def moneta(p: P, x: Tensor, window: int) -> Tensor:
    """|f(k) - v|_3^3; after a window W = A / |A|_4^2 for each matrix."""
    eta, a = gates(p, x, 0.01, 8)

    def loss(k, v):
        return lambda W, t: (normed(W, k[:, t]) - v[:, t]).abs().pow(3).sum()

    def end(A):
        return A / torch.linalg.vector_norm(A, 4, dim=(-2, -1), keepdim=True) ** 2

    return miras(p, x, window, loss, descent(eta, a), "u k v", end)


def yaad(p: P, x: Tensor, window: int) -> Tensor:
    """Huber with a delta for each channel: r^2 / 2 where |r| <= delta, delta (|r| - delta / 2) elsewhere."""
    eta, a = gates(p, x, 0.01, 8)
    delta = softplus(heads(p["Ud"], x @ p["Dd"].T))

    def loss(k, v):
        def huber(W, t):
            r, d = normed(W, k[:, t]) - v[:, t], delta[:, t]
            return torch.where(r.abs() <= d, 0.5 * r * r, d * (r.abs() - 0.5 * d)).sum()

        return huber

    return miras(p, x, window, loss, descent(eta, a))


def memora(p: P, x: Tensor, window: int) -> Tensor:
    """W = softmax(a log W - eta g), row by row."""
    eta, a = gates(p, x, 0.01, 8)

    def step(w, s, g, t):
        return torch.softmax(at(a, t, w) * w.clamp(min=1e-9).log() - at(eta, t, w) * g, -1), s

    return miras(p, x, window, lambda k, v: l2(normed, k, v), step)


# --- ATLAS ---------------------------------------------------------------------------------------


def atlas_layer(p: P, o: Tensor, x: Tensor) -> Tensor:
    return out(p, rms(o) * p["scale"] * silu(heads(p["Wg"], x)))


def dla(p: P, x: Tensor, window: int) -> Tensor:
    q, k, v = qkv(p, x)
    q, k, v = unit(q), unit(k), unit(v)
    eta, a = gates(p, x, 0.01, 8)
    W = first(p, x, "M_up", "M_down")
    o = learn(W, x.shape[1], window, lambda W, t: -(mlp(W, k[:, t]) * v[:, t]).sum(), descent(eta, a), lambda W, t: mlp(W, q[:, t]))
    return atlas_layer(p, o, x)


def swla(p: P, x: Tensor, window: int) -> Tensor:
    """M = a M + b v_(t-1) k_(t-1)^T + l v_t k_t^T."""
    q, k, v = qkv(p, x)
    q, k = unit(q), unit(k)
    a, b, new = (torch.sigmoid(rate(p[n], x) + c) for n, c in (("wa", 4), ("wb", 0), ("wl", 0)))
    k0, v0 = (torch.cat((torch.zeros_like(s[:, :1]), s[:, :-1]), 1) for s in (k, v))

    def step(M, k, v, k0, v0, a, b, new):
        a, b, new = (r[..., None, None] for r in (a, b, new))
        return a * M + b * outer(v0, k0) + new * outer(v, k)

    return atlas_layer(p, scan(step, blank(q, v), q, k, v, k0, v0, a, b, new), x)


def recent(t: int, c: int) -> list[int]:
    """How long ago each token of the Omega window was."""
    return [i for i in range(c) if i <= t]


def omega_net(p: P, x: Tensor, window: int) -> Tensor:
    """The window is that of the Omega rule; the inner gradient is that of autograd."""
    c = window

    def features(n, f):
        z = silu(conv(heads(p[n], x), p[f"{f}_filter"]))
        return unit(torch.einsum("hoi,bthi->btho", p["A"], z) * torch.einsum("hoi,bthi->btho", p["B"], z))

    q, k = features("Wq", "a"), features("Wk", "b")
    v = silu(conv(heads(p["Wv"], x), p["v_filter"]))
    gamma, a = torch.sigmoid(rate(p["wi"], x)) / c, torch.sigmoid(rate(p["wa"], x) + 4)

    def loss(W, t):
        errors = (gamma[:, t - i] * 0.5 * (read(W[0], k[:, t - i]) - v[:, t - i]).square().sum(-1) for i in recent(t, c))
        return sum(e.sum() for e in errors)

    o = learn([blank(q, v).requires_grad_()], x.shape[1], 1, loss, descent(torch.ones_like(a), a), lambda W, t: read(W[0], q[:, t]))
    return atlas_layer(p, o, x)


def polar(G: Tensor) -> Tensor:
    """NS5 with Muon's coefficients."""
    X = G / torch.linalg.matrix_norm(G, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = 3.4445 * X + (-4.775 * A + 2.0315 * A @ A) @ X
    return X


def atlas(p: P, x: Tensor, window: int) -> Tensor:
    """S = theta S - G, M = a M + eta NS5(S); G of the last c = 3 tokens."""
    c = 3
    q, k, v = qkv(p, x)
    q, k = unit(q), unit(k)
    eta, a = gates(p, x, 0.1, 4)
    theta = torch.sigmoid(rate(p["wt"], x))
    gamma = [torch.sigmoid(rate(p[f"wi_{i}"], x)) for i in range(c)]

    def f(W: Weights, a: Tensor) -> Tensor:
        return a + mlp(W, a)

    def loss(W, t):
        errors = (gamma[i][:, t] * 0.5 * (f(W, k[:, t - i]) - v[:, t - i]).square().sum(-1) for i in recent(t, c))
        return sum(e.sum() for e in errors)

    def step(w, s, g, t):
        s = at(theta, t, w) * s - g
        return at(a, t, w) * w + at(eta, t, w) * polar(s), s

    W = first(p, x, "M_W2", "M_W1")
    return atlas_layer(p, learn(W, x.shape[1], window, loss, step, lambda W, t: f(W, q[:, t])), x)
