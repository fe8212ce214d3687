"""Each member of the zoo once more, as its recurrence in plain torch: params by name, x [B, T, d] -> y [B, T, d].

Written from the papers (nested-learning.md 3.1, 3.3, 3.5, 3.7), not from the .nl files. Heads are the third dimension;
S is [B, H, dv, dk], read S q, written v k^T. Erasing acts on the right. Each `*_core` is the recurrence alone, which the
tests compare with published references.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

P = dict[str, Tensor]


# --- parts ---------------------------------------------------------------------------------------


def heads(W: Tensor, x: Tensor) -> Tensor:
    """x [B, T, i] or [B, T, H, i], W [H, o, i] -> [B, T, H, o]."""
    return torch.einsum("bti,hoi->btho", x, W)


def rate(w: Tensor, x: Tensor) -> Tensor:
    """w [H, 1, i] -> [B, T, H]."""
    return torch.einsum("bti,hoi->bth", x, w)


def out(p: P, o: Tensor) -> Tensor:
    return o.flatten(2) @ p["Wo"].T


def unit(a: Tensor) -> Tensor:
    return a / torch.sqrt((a * a).sum(-1, keepdim=True) + 1e-6)


def rms(a: Tensor) -> Tensor:
    return a / torch.sqrt((a * a).mean(-1, keepdim=True) + 1e-6)


def conv(x: Tensor, w: Tensor) -> Tensor:
    """sum_j w[..., j] x_(t-j), channel by channel."""
    T, y = x.shape[1], torch.zeros_like(x)
    for j in range(w.shape[-1]):
        past = torch.cat((torch.zeros_like(x[:, :j]), x[:, : max(T - j, 0)]), 1)[:, :T]
        y = y + w[..., j] * past
    return y


def rope(x: Tensor) -> Tensor:
    """As complex numbers: the pair (a_i, a_(i + n/2)) times e^(i t theta_i)."""
    T, n = x.shape[1], x.shape[-1]
    theta = 10000.0 ** (-torch.arange(0, n, 2, dtype=x.dtype) / n)
    turn = torch.polar(torch.ones(T, n // 2, dtype=x.dtype), torch.outer(torch.arange(T, dtype=x.dtype), theta))
    z = torch.complex(*x.chunk(2, -1)) * turn[None, :, None]
    return torch.cat((z.real, z.imag), -1)


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def read(S: Tensor, q: Tensor) -> Tensor:
    return (S * q[..., None, :]).sum(-1)


def scan(step, S: Tensor, q: Tensor, *streams: Tensor) -> Tensor:
    """o_t = S_t q_t, S_t = step(S_(t-1), streams at t)."""
    o = []
    for t in range(q.shape[1]):
        S = step(S, *(s[:, t] for s in streams))
        o.append(read(S, q[:, t]))
    return torch.stack(o, 1)


def blank(q: Tensor, v: Tensor) -> Tensor:
    return q.new_zeros(q.shape[0], q.shape[2], v.shape[-1], q.shape[-1])


def qkv(p: P, x: Tensor) -> list[Tensor]:
    """SiLU of a convolution of a projection."""
    return [silu(conv(heads(p[f"W{n}"], x), p[f"{n}_filter"])) for n in "qkv"]


# --- recurrences: q, k [B, T, H, dk], v [B, T, H, dv], rates [B, T, H] or per key channel ------------


def additive_core(q, k, v, a, b):
    """S = S Diag(a) + b v k^T; a [B, T, H, dk or 1]."""
    return scan(lambda S, k, v, a, b: S * a[..., None, :] + b[..., None, None] * outer(v, k), blank(q, v), q, k, v, a, b)


def delta_core(q, k, v, a, b):
    """S = S Diag(a) (I - b k k^T) + b v k^T."""
    eye = torch.eye(k.shape[-1], dtype=k.dtype)

    def step(S, k, v, a, b):
        b = b[..., None, None]
        return (S * a[..., None, :]) @ (eye - b * outer(k, k)) + b * outer(v, k)

    return scan(step, blank(q, v), q, k, v, a, b)


def comba_core(q, k, v, p, a, b):
    """S = a S + b (v - S p) k^T."""

    def step(S, k, v, p, a, b):
        return a[..., None, None] * S + outer(b[..., None] * (v - read(S, p)), k)

    return scan(step, blank(q, v), q, k, v, p, a, b)


def rwkv7_core(r, e, k, v, w, a):
    """S = S (Diag(w) - e (a e)^T) + v k^T."""

    def step(S, e, k, v, w, a):
        return S @ (torch.diag_embed(w) - outer(e, a * e)) + outer(v, k)

    return scan(step, blank(r, v), r, e, k, v, w, a)


def titans_core(q, k, v, theta, eta, alpha):
    """s = eta s - theta (S k - v) k^T; S = (1 - alpha) S + s."""
    S = s = blank(q, v)
    o = []
    for t in range(q.shape[1]):
        th, et, al = (r[:, t, :, None, None] for r in (theta, eta, alpha))
        s = et * s - th * outer(read(S, k[:, t]) - v[:, t], k[:, t])
        S = (1 - al) * S + s
        o.append(read(S, q[:, t]))
    return torch.stack(o, 1)


def attention_core(q, k, v, window=None):
    """All scores at once under a mask."""
    T = q.shape[1]
    ago = torch.arange(T)[:, None] - torch.arange(T)
    seen = (ago >= 0) & (ago < (window or T))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


# --- layers ------------------------------------------------------------------------------------------


def linear_attention(p: P, x: Tensor) -> Tensor:
    q, k = (torch.nn.functional.elu(heads(p[n], x)) + 1 for n in ("Wq", "Wk"))
    one = torch.ones_like(q[..., 0])
    v = heads(p["Wv"], x)
    o = additive_core(q, k, v, one[..., None], one)
    return out(p, o / (q * k.cumsum(1)).sum(-1, keepdim=True))


def retnet(p: P, x: Tensor) -> Tensor:
    q, k, v = rope(heads(p["Wq"], x)), rope(heads(p["Wk"], x)), heads(p["Wv"], x)
    one = torch.ones_like(q[..., 0])
    gamma = 1 - 2.0 ** (-5 - torch.arange(q.shape[2], dtype=x.dtype))
    o = additive_core(q * q.shape[-1] ** -0.5, k, v, (gamma * one)[..., None], one)
    return out(p, rms(o) * silu(heads(p["Wg"], x)))


def gla(p: P, x: Tensor) -> Tensor:
    q, k, v = (heads(p[n], x) for n in ("Wq", "Wk", "Wv"))
    log_a = torch.nn.functional.logsigmoid(heads(p["Ua"], x @ p["Wa"].T) + p["ba"]) / 16
    o = additive_core(q * q.shape[-1] ** -0.5, k, v, log_a.exp(), torch.ones_like(q[..., 0]))
    return out(p, rms(o) * p["scale"] * silu(heads(p["Wr"], x)))


def mamba2(p: P, x: Tensor) -> Tensor:
    v, z = silu(conv(heads(p["Wv"], x), p["v_filter"])), heads(p["Wz"], x)
    k, q = (silu(conv(x @ p[f"W{n}"].T, p[f"{n}_filter"]))[:, :, None].expand(*v.shape[:3], -1) for n in "kq")
    dt = softplus(rate(p["wt"], x) + p["bt"])
    o = additive_core(q, k, v, torch.exp(-dt * p["A"].exp())[..., None], dt) + p["D"][:, None] * v
    return out(p, rms((o * silu(z)).flatten(2)) * p["scale"])


def delta_net(p: P, x: Tensor) -> Tensor:
    q, k, v = qkv(p, x)
    b = torch.sigmoid(rate(p["wb"], x))
    o = delta_core(unit(q) * q.shape[-1] ** -0.5, unit(k), v, torch.ones_like(b)[..., None], b)
    return out(p, rms(o) * p["scale"])


def gated_delta(p: P, x: Tensor) -> Tensor:
    q, k, v = qkv(p, x)
    g = -p["A"].exp() * softplus(rate(p["wa"], x) + p["bt"])
    o = delta_core(unit(q) * q.shape[-1] ** -0.5, unit(k), v, g.exp()[..., None], torch.sigmoid(rate(p["wb"], x)))
    return out(p, rms(o) * p["scale"] * silu(heads(p["Wg"], x)))


def kda(p: P, x: Tensor) -> Tensor:
    q, k, v = qkv(p, x)
    g = -p["A"].exp()[:, None] * softplus(heads(p["Ua"], x @ p["Wa"].T) + p["bt"])
    o = delta_core(unit(q) * q.shape[-1] ** -0.5, unit(k), v, g.exp(), torch.sigmoid(rate(p["wb"], x)))
    return out(p, rms(o) * p["scale"] * torch.sigmoid(heads(p["Ug"], x @ p["Wg"].T)))


def comba(p: P, x: Tensor) -> Tensor:
    q, k, v = qkv(p, x)
    k = unit(k)
    weak = torch.sigmoid(p["c"])[:, None] * k
    q = unit(q - p["D"][:, None] * weak) * q.shape[-1] ** -0.5
    g = -p["A"].exp() * softplus(rate(p["wa"], x) + p["bt"])
    o = comba_core(q, k, v, weak, g.exp(), torch.sigmoid(rate(p["wb"], x)))
    return out(p, rms(o) * p["scale"] * silu(heads(p["Wg"], x)))


def longhorn(p: P, x: Tensor) -> Tensor:
    q, k, v = heads(p["Wq"], x), heads(p["Wk"], x), silu(conv(heads(p["Wv"], x), p["v_filter"]))
    b = torch.sigmoid(rate(p["wb"], x))
    e = b / (1 + b * (k * k).sum(-1))
    o = delta_core(q, k, v, torch.ones_like(b)[..., None], e)
    return out(p, (o + p["D"] * v) * silu(heads(p["Wz"], x)))


def rwkv7(p: P, x: Tensor) -> Tensor:
    before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
    xr, xk, xv, xw, xa, xg = (torch.lerp(x, before, p[f"m{n}"].expand_as(x)) for n in "rkvwag")
    r, k, v = heads(p["Wr"], xr), heads(p["Wk"], xk), heads(p["Wv"], xv)
    w = torch.exp(-(torch.tensor(-0.5).double().exp().item()) * torch.sigmoid(p["bw"] + heads(p["Uw"], torch.tanh(xw @ p["Dw"].T))))
    a = torch.sigmoid(p["ba"] + heads(p["Ua"], xa @ p["Da"].T))
    e, k = unit(k * p["ek"]), k * (1 + (a - 1) * p["kk"])
    o = rms(rwkv7_core(r, e, k, v, w, a)) * p["scale"]
    o = o + (r * k * p["rk"]).sum(-1, keepdim=True) * v
    return out(p, o * heads(p["Ug"], torch.sigmoid(xg @ p["Dg"].T)))


def oja(p: P, x: Tensor) -> Tensor:
    q, k, v = map(unit, qkv(p, x))
    a, b = torch.sigmoid(rate(p["wa"], x) + 4), torch.sigmoid(rate(p["wb"], x))

    def step(S, k, v, a, b):
        return a[..., None, None] * S + b[..., None, None] * outer(v, k - (S * v[..., None]).sum(-2))

    return out(p, rms(scan(step, blank(q, v), q, k, v, a, b)) * p["scale"])


def titans_linear(p: P, x: Tensor) -> Tensor:
    q, k, v = (conv(silu(heads(p[f"W{n}"], x)), p[f"{n}_filter"]) for n in "qkv")
    theta, eta, alpha = (torch.sigmoid(rate(p[n], x) - c) for n, c in (("wt", 0), ("we", 0), ("wa", 4)))
    o = titans_core(unit(q), unit(k), v, theta, eta, alpha)
    return out(p, rms(o) * p["scale"] * torch.sigmoid(heads(p["Wg"], x)))


def omega(p: P, x: Tensor) -> Tensor:
    q, k, v = qkv(p, x)
    q, k, c = unit(q), unit(k), 4
    alpha = torch.sigmoid(rate(p["wa"], x) + 4)
    gamma = torch.stack([torch.sigmoid(rate(p[f"wi_{i}"], x)) / c for i in range(c)], -1)
    S, o = blank(q, v), []
    for t in range(x.shape[1]):
        G = sum(gamma[:, t, :, i, None, None] * outer(read(S, k[:, t - i]) - v[:, t - i], k[:, t - i]) for i in range(min(c, t + 1)))
        S = alpha[:, t, :, None, None] * S - G
        o.append(read(S, q[:, t]))
    return out(p, rms(torch.stack(o, 1)) * p["scale"] * silu(heads(p["Wg"], x)))


def softmax_attention(p: P, x: Tensor) -> Tensor:
    return out(p, attention_core(rope(heads(p["Wq"], x)), rope(heads(p["Wk"], x)), heads(p["Wv"], x)))


def sliding_window(p: P, x: Tensor) -> Tensor:
    return out(p, attention_core(rope(heads(p["Wq"], x)), rope(heads(p["Wk"], x)), heads(p["Wv"], x), window=5))


LAYERS = {f.__name__: f for f in (linear_attention, retnet, gla, mamba2, delta_net, gated_delta, kda, comba, longhorn, rwkv7, oja,
                                  titans_linear, omega, softmax_attention, sliding_window)}  # fmt: skip
