"""Members of the zoo with deep or many memories once more, as loops in plain torch: params by name and inputs -> outputs.

Written from the papers (nested-learning.md 3.3, 3.8, 3.9, 4.1 to 4.4), not from the .nl files; gradients are autograd's
on the literal loss, at copies of the weights, so that no other use of a weight counts. Weights of a memory are
[B, out, in] or [B, heads, out, in]; `mv` applies one.
"""

from collections.abc import Callable, Sequence

import torch
from oracles import P, conv, heads, out, outer, rate, rms, rope, unit
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, scaled_dot_product_attention, silu, softplus

Weights = tuple[Tensor, ...]


def mv(W: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("...oi,...i->...o", W, x)


def mlp(w: Weights, x: Tensor) -> Tensor:
    up, down = w
    return mv(down, gelu(mv(up, x)))


def residual(w: Weights, x: Tensor) -> Tensor:
    return x + mlp(w, x)


def first(p: P, name: str, batch: int) -> Weights:
    """The learned first weights of an MLP, one copy for each sequence."""
    return tuple(p[f"{name}{leaf}_init"].expand(batch, *p[f"{name}{leaf}_init"].shape) for leaf in ("up", "down"))


def gradients(loss: Callable[..., Tensor], *weights: Weights) -> list[Weights]:
    """Of a loss at some weights, for each of them."""
    copies = [tuple(w.clone() for w in ws) for ws in weights]
    flat = torch.autograd.grad(loss(*copies).sum(), [w for ws in copies for w in ws], create_graph=True)
    return [tuple(flat[i : i + 2]) for i in range(0, len(flat), 2)]


def half(a: Tensor) -> Tensor:
    return 0.5 * (a * a).sum(-1)


def plus(a: Weights, b: Weights, factor: Tensor | float = 1.0) -> Weights:
    return tuple(x + factor * y for x, y in zip(a, b, strict=True))


def wide(r: Tensor) -> Tensor:
    """A number of each head beside matrices."""
    return r[..., None, None]


def nothing(w: Weights) -> Weights:
    return tuple(torch.zeros_like(x) for x in w)


# --- the exact memory and slots -------------------------------------------------------------------------


def mesa_core(q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, lam: Tensor) -> Tensor:
    """The minimiser of sum_i rho_i 1/2 |v_i - Phi k_i|^2 + 1/2 tr(Phi Lam Phi^T), by the sums it is defined with."""
    o = []
    for t in range(q.shape[1]):
        rho = torch.stack([b[:, i] * g[:, i + 1 : t + 1].prod(1) for i in range(t + 1)], 1)
        G = torch.einsum("bth,btho,bthi->bhoi", rho, v[:, : t + 1], k[:, : t + 1])
        H = torch.einsum("bth,btho,bthi->bhoi", rho, k[:, : t + 1], k[:, : t + 1]) + torch.diag_embed(lam)
        o.append(mv(G @ torch.linalg.inv(H), q[:, t]))
    return torch.stack(o, 1)


def mesa_net(p: P, x: Tensor) -> Tensor:
    q, k = (unit(silu(conv(heads(p[f"W{n}"], x), p[f"{n}_filter"]))) for n in "qk")
    g, b = (torch.sigmoid(rate(p[f"w{n}"], x) + p[f"b{n}"]) for n in "ab")
    o = mesa_core(q, k, heads(p["Wv"], x), g, b, softplus(p["lam"]) + 0.25)
    return out(p, rms(o) * p["scale"])


def trellis(p: P, x: Tensor) -> Tensor:
    def phi(z: Tensor) -> Tensor:
        return silu(layer_norm(z, z.shape[-1:], eps=1e-6))

    def write(M: Tensor, w: Tensor, a: Tensor, beta: Tensor) -> Tensor:
        z = mv(M, w).clone()
        (u,) = torch.autograd.grad(half(phi(z) - a).sum(), z, create_graph=True)
        return wide(beta) * M - wide(softplus(p["c"])) * outer(u, w)

    q, k = (silu(conv(heads(p[f"W{n}"], x), p[f"{n}_filter"])) for n in "qk")
    v, a, beta = heads(p["Wv"], x), silu(heads(p["Wa"], x)), torch.sigmoid(rate(p["wb"], x) + 4)
    K, V = (p[f"{n}_init"].expand(len(x), *p[f"{n}_init"].shape) for n in "KV")
    o = []
    for t in range(x.shape[1]):
        K, V = write(K, k[:, t], a[:, t], beta[:, t]), write(V, v[:, t], a[:, t], beta[:, t])
        o.append(mv(V.mT, phi(mv(K, q[:, t]))))
    return out(p, torch.stack(o, 1) * silu(heads(p["Wg"], x)))


# --- TNT ----------------------------------------------------------------------------------------------------


def tnt(p: P, x: Tensor, coarse: int, fine: Sequence[int], shard: int) -> Tensor:
    q, k, v = (silu(conv(heads(p[f"W{n}"], x), p[f"{n}_filter"])) for n in "qkv")
    q, k, eta = unit(q), unit(k), 0.1 * torch.sigmoid(rate(p["wr"], x))

    def step(w: Weights, t: int) -> Weights:
        (g,) = gradients(lambda w: half(residual(w, k[:, t]) - v[:, t]), w)
        return tuple(wide(eta[:, t]) * x for x in g)

    V, o = first(p, "V_", len(x)), []
    L, start, total, P_ = {}, {}, {}, {}
    gathered = nothing(V)
    for t in range(x.shape[1]):
        y = residual(V, q[:, t])
        for c in fine:
            L[c] = first(p, f"L_{c}_", len(x)) if t % shard == 0 else L[c]
            if t % c == 0:
                start[c], total[c], P_[c] = L[c], nothing(L[c]), 0
            total[c] = plus(total[c], step(start[c], t))
            L[c] = plus(start[c], total[c], -1)
            P_[c] = P_[c] + outer(k[:, t], k[:, t]) / wide((k[:, t] ** 2).sum(-1) + 1e-6)
            y = y + residual(L[c], mv(P_[c], q[:, t]))
        gathered = plus(gathered, step(V, t))
        if (t + 1) % coarse == 0:
            V, gathered = plus(V, gathered, -1), nothing(V)
        o.append(rms(y))
    return out(p, torch.stack(o, 1))


# --- self-modifying Titans ---------------------------------------------------------------------------------


def titans_core(boxes: list[Weights], z: Tensor, q: Tensor, C: Sequence[int], both: bool) -> Tensor:
    """(83)-(90): boxes are key, value, memory, rate, retention; the first three have a residual; `both` weights erase, or the first."""

    def read(i: int, w: Weights, x: Tensor) -> Tensor:
        return residual(w, x) if i < 3 else mlp(w, x)

    now, start, o = list(boxes), list(boxes), []
    for t in range(z.shape[1]):
        start = [now[i] if t % C[i] == 0 else start[i] for i in range(5)]
        k, v = (unit(read(i, start[i], z[:, t])) for i in (0, 1))
        eta = 0.02 * torch.sigmoid(read(3, start[3], z[:, t])[..., 0])
        alpha = torch.sigmoid(read(4, start[4], z[:, t])[..., 0] + 8)
        o.append(residual(now[2], q[:, t]))
        for i in range(5):
            target = read(i, start[i], v)
            (g,) = gradients(lambda w, i=i, k=k, target=target: half(read(i, w, k) - target), start[i])
            up, down = now[i]
            h = torch.nn.functional.gelu(mv(start[i][0], k))
            kept = wide(alpha) * up - wide(eta) * outer(mv(up, k), k), wide(alpha) * down - wide(eta) * outer(mv(down, h), h) * both
            now[i] = plus(kept, g, -wide(eta))
    return torch.stack(o, 1)


def self_modifying(p: P, x: Tensor, C: Sequence[int]) -> Tensor:
    u = conv(x, p["u_filter"])
    boxes = [tuple(p[f"{n}_{i}_init"].expand(len(x), *p[f"{n}_{i}_init"].shape) for n in "BA") for i in range(5)]
    return out(p, titans_core(boxes, heads(p["Wx"], u), unit(heads(p["Wq"], u)), C, both=False))


# --- continuum memory systems ----------------------------------------------------------------------------


def continuum(p: P, h: Tensor, target: Tensor, F: dict[int, Weights], lr: float, read, reset=()) -> dict[str, Tensor]:
    """(71): F are the weights of each level by its period; `reset` pairs a level and the slower one it starts again from."""
    gathered = {c: nothing(w) for c, w in F.items()}
    logits, losses = [], []

    def scores(levels: dict[int, Weights], t: int) -> Tensor:
        return rms(read(levels, h[:, t])) @ p["head"].T

    for t in range(h.shape[1]):
        for level, slower in reset:
            F[level] = F[slower] if t % slower == 0 else F[level]
        z = scores(F, t)
        logits.append(z)
        losses.append(cross_entropy(z, target[:, t], reduction="none"))
        found = gradients(lambda *ws, t=t: cross_entropy(scores(dict(zip(F, ws, strict=True)), t), target[:, t], reduction="sum"), *F.values())
        for c, g in zip(F, found, strict=True):
            gathered[c] = plus(gathered[c], g)
            if (t + 1) % c == 0:
                F[c], gathered[c] = plus(F[c], gathered[c], -lr), nothing(F[c])
    return {"logits": torch.stack(logits, 1), "loss": torch.stack(losses, 1)}


def in_a_chain(levels: dict[int, Weights], h: Tensor) -> Tensor:
    for c in sorted(levels):
        h = h + mlp(levels[c], rms(h))
    return h


def cms_sequential(p: P, x: Tensor, target: Tensor, periods: Sequence[int]) -> dict[str, Tensor]:
    return continuum(p, x, target, {c: first(p, f"F_{c}_", len(x)) for c in periods}, 0.1, in_a_chain)


def cms_nested(p: P, x: Tensor, target: Tensor, fast: int, middle: int, slow: int) -> dict[str, Tensor]:
    """Every level starts from the slowest; the slower levels start again first."""
    F = dict.fromkeys((fast, middle, slow), first(p, "H_", len(x)))
    return continuum(p, x, target, F, 0.1, in_a_chain, [(middle, slow), (fast, middle)])


def cms_independent(p: P, x: Tensor, target: Tensor, periods: Sequence[int]) -> dict[str, Tensor]:
    def read(levels: dict[int, Weights], h: Tensor) -> Tensor:
        return h + sum(p[f"a_{c}"] * mlp(w, rms(h)) for c, w in levels.items())

    return continuum(p, x, target, {c: first(p, f"F_{c}_", len(x)) for c in periods}, 0.1, read)


def hope(p: P, token: Tensor, target: Tensor, C: Sequence[int], periods: Sequence[int]) -> dict[str, Tensor]:
    x = p["embed"].T[token]
    u = conv(rms(x), p["u_filter"])
    boxes = [first(p, f"M_{i}_mlp_" if i < 3 else f"M_{i}_", len(x)) for i in range(5)]
    o = titans_core(boxes, heads(p["Wx"], u), unit(heads(p["Wq"], u)), C, both=True)
    return continuum(p, x + out(p, o), target, {c: first(p, f"F_{c}_", len(x)) for c in periods}, 0.1, in_a_chain)


def hope_attention(p: P, token: Tensor, target: Tensor, periods: Sequence[int]) -> dict[str, Tensor]:
    """Layer by layer at each token; the gradient of its loss is that at copies of all weights, so none passes what is kept."""
    x, layers = p["embed"].T[token], ("attention.", "attention_1_")
    F = {(i, c): first(p, f"F_{c}{'_1' * i}_", len(x)) for i in range(2) for c in periods}
    gathered = {level: nothing(w) for level, w in F.items()}
    kept: list[list[tuple[Tensor, Tensor]]] = [[], []]
    turned = [rope(torch.eye(p["attention.Wk"].shape[1], dtype=x.dtype).expand(1, t + 1, -1, -1))[0, t] for t in range(x.shape[1])]
    logits, losses = [], []

    def scores(levels: dict, t: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        h, found = x[:, t], []
        for i, at in enumerate(layers):
            n = rms(h)
            q, k, v = (torch.einsum("bi,hoi->bho", n, p[f"{at}W{s}"]) for s in "qkv")
            q, found = q @ turned[t], [*found, (k @ turned[t], v)]
            keys, values = (torch.stack([*(pair[j] for pair in kept[i]), found[i][j]], -2) for j in range(2))
            weights = (torch.einsum("bhd,bhsd->bhs", q, keys) / q.shape[-1] ** 0.5).softmax(-1)
            h = h + torch.einsum("bhs,bhsd->bhd", weights, values).flatten(1) @ p[f"{at}Wo"].T
            h = in_a_chain({c: levels[i, c] for c in periods}, h)
        return rms(h) @ p["head"].T, found

    for t in range(x.shape[1]):
        z, found = scores(F, t)
        logits.append(z)
        losses.append(cross_entropy(z, target[:, t], reduction="none"))
        steps = gradients(lambda *ws, t=t: cross_entropy(scores(dict(zip(F, ws, strict=True)), t)[0], target[:, t], reduction="sum"), *F.values())
        for (i, c), g in zip(F, steps, strict=True):
            gathered[i, c] = plus(gathered[i, c], g)
            if (t + 1) % c == 0:
                F[i, c], gathered[i, c] = plus(F[i, c], gathered[i, c], -0.1), nothing(g)
        for i, pair in enumerate(found):
            kept[i].append(pair)
    return {"logits": torch.stack(logits, 1), "loss": torch.stack(losses, 1)}


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention with rotary positions; [B, T, H, d] each."""
    q, k, v = (s.transpose(1, 2) for s in (rope(q), rope(k), v))
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


# --- transformers ---------------------------------------------------------------------------------------------


def swiglu(p: P, at: str, x: Tensor) -> Tensor:
    return ((x @ p[f"{at}.up"].T) * silu(x @ p[f"{at}.gate"].T)) @ p[f"{at}.down"].T


def transformer_pp(p: P, x: Tensor) -> Tensor:
    for i, suffix in enumerate(("", "_1")):
        n = p[f"a_{i}"] * rms(x)
        q, k, v = (heads(p[f"attention{suffix}.W{s}"], n) for s in "qkv")
        x = x + attended(q, k, v).flatten(2) @ p[f"attention{suffix}.Wo"].T
        x = x + swiglu(p, f"swiglu{suffix}", p[f"f_{i}"] * rms(x))
    return p["scale"] * rms(x)


def llama(p: P, token: Tensor) -> dict[str, Tensor]:
    x = p["embed"].T[token]
    for i, suffix in enumerate(("", "_1")):
        at, n = f"grouped_attention{suffix}", p[f"a_{i}"] * rms(x)
        k, v = heads(p[f"{at}.Wk"], n), heads(p[f"{at}.Wv"], n)
        q = torch.cat([heads(p[f"{at}.Wq_{j}"], n) for j in range(2)], 2)  # the heads of a group apart
        Wo = torch.cat([p[f"{at}.Wo_{j}"] for j in range(2)], 1)
        x = x + attended(q, k.repeat(1, 1, 2, 1), v.repeat(1, 1, 2, 1)).flatten(2) @ Wo.T
        x = x + swiglu(p, f"swiglu{suffix}", p[f"f_{i}"] * rms(x))
    return {"logits": (p["scale"] * rms(x)) @ p["head"].T}
