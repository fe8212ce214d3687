"""Primitives that generated PyTorch code composes. Imports torch and the standard library only: this text is embedded in generated files.

Shapes: `...` is any number of leading axes (batch, heads), T ticks, N chunks of C ticks, U unknown writes a chunk (tick-major: the
unknowns of one tick are neighbours), dv rows and m key columns of a state `s [..., dv, m]` (n memories side by side: m = n * dk).
float32 and float64; half precision is raised to float32 and autocast is off inside (attention excepted). First derivatives only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as nn

Maybe = Tensor | None
RESET = -1e4  # log retentions below this (including -inf) are a reset: exp(-1e4) is exactly 0 in float64


def _exact(x: Tensor) -> Tensor:
    """Half precision raised to float32."""
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


def _backward(f: Callable) -> Callable:
    """A hand-written backward pass: first derivatives only, outside autocast."""

    def run(ctx, *grads):
        if torch.is_grad_enabled():  # create_graph=True: without this, second derivatives would be silently wrong
            raise NotImplementedError("the chunk form has first derivatives only; `step`, tick by tick, has all of them")
        with torch.autocast(grads[0].device.type, enabled=False):
            return f(ctx, *grads)

    return run


# --- layout
def chunk(x: Tensor, C: int, dim: int = -2) -> Tensor:
    """Cut the time axis in chunks of C ticks, padded with zeros: [..., T, d] -> [..., N, C, d]; with dim=-1, [..., T] -> [..., N, C]."""
    pad = -x.shape[dim] % C
    x = nn.pad(x, [0, 0] * (-1 - dim) + [0, pad]) if pad else x.contiguous()
    return x.unflatten(dim, (-1, C))


def unchunk(y: Tensor, T: int, dim: int = -2) -> Tensor:
    """Undo `chunk` and drop the padding: [..., N, C, d] -> [..., T, d]; with dim=-1, [..., N, C] -> [..., T]."""
    return y.flatten(dim - 1, dim).narrow(dim, 0, T)


def shift_down(x: Tensor, fill: float = 0.0, dim: int = -2) -> Tensor:
    """From 'after the tick' to 'before the tick': row t becomes row t - 1, the first row `fill` (0 for kernels, 1 for `p`)."""
    return torch.cat([torch.full_like(x.narrow(dim, 0, 1), fill), x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def shift_up(d: Tensor, dim: int = -2) -> Tensor:
    """The gradient of x of `shift_down(x)`: row t becomes row t + 1, the last row 0."""
    return torch.cat([d.narrow(dim, 1, d.shape[dim] - 1), torch.zeros_like(d.narrow(dim, 0, 1))], dim)


# --- decay inside a chunk
def _log_sum(g: Tensor, dim: int) -> Tensor:
    """Running sum of log retentions in float64: differences of large sums must keep float32's relative accuracy."""
    return g.double().clamp(min=RESET).cumsum(dim)


def _rsum(x: Tensor, dim: int) -> Tensor:
    """Sums from the end: y[t] = sum of x[t:]."""
    return x.flip(dim).cumsum(dim).flip(dim)


class _DecayKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        total = _log_sum(g, -1)
        p = total.to(g.dtype).exp()
        L = (total.unsqueeze(-1) - total.unsqueeze(-2)).to(g.dtype).clamp_(max=0).exp_().tril_()
        ctx.save_for_backward(L, p)
        return L, p

    @staticmethod
    @_backward
    def backward(ctx, dL: Tensor, dp: Tensor) -> Tensor:
        return decay_kernel_back(dL, dp, *ctx.saved_tensors)


def decay_kernel(g: Tensor) -> tuple[Tensor, Tensor]:
    """Scalar retention: log retentions g [..., C] (<= 0, -inf resets) -> (L [..., C, C], p [..., C]).

    L[t, i] = exp(g[i+1] + .. + g[t]) for i <= t and 0 above, p[t] = exp(g[0] + .. + g[t]). Every exponent is at most 0.
    """
    return _DecayKernel.apply(_exact(g))


def decay_kernel_back(dL: Maybe, dp: Maybe, L: Tensor, p: Tensor) -> Tensor:
    """The gradient of g of L, p = decay_kernel(g)."""
    given = torch.zeros_like(p) if dp is None else dp * p
    if dL is not None:
        # The diagonal is constant: left in, it would only add rounding noise. In float64 what enters both sums cancels exactly.
        M = (dL * L).tril(-1).double()
        given = M.sum(-1) - M.sum(-2) + given
    return _rsum(given, -1).to(L.dtype)


def decay_ends(g: Tensor) -> tuple[Tensor, Tensor]:
    """Log retentions g [..., C] -> (p [...], tail [..., C]): what is kept to the end of the state before, and of each tick's write."""
    total = _log_sum(g, -1)
    last = total[..., -1:]
    return last.squeeze(-1).exp().to(g.dtype), (last - total).to(g.dtype).exp()


def _levels(x: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Pairs of neighbouring blocks of b ticks: [..., C, d] -> (first, second) views [..., C / 2b, b, d]."""
    return x.unflatten(-2, (-1, 2, b)).unbind(-3)


def _level_factors(total: Tensor, before: Tensor, b: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """exp(G_i^query - R) of second blocks and exp(R - G_i) of first blocks, R the sum at the first block's end: exponents <= 0."""
    first, second = _levels(total, b)[0], _levels(before, b)[1]
    R = first[..., -1:, :]
    return (second - R).to(dtype).exp_(), (R - first).to(dtype).exp_()


class _ChannelKernel(torch.autograd.Function):
    """Blocks of 1, 2, 4 .. C/2 ticks, each against its left neighbour: log2(C) batched products, nothing of size [C, C, d]."""

    @staticmethod
    def forward(ctx, g: Tensor, q: Tensor, a: Tensor, exclusive: bool) -> Tensor:
        total = _log_sum(g, -2)
        before = shift_down(total) if exclusive else total
        M = torch.zeros_like(q[..., 0]) if exclusive else (q * a).sum(-1)
        M = M[..., None, None]  # [..., C / b blocks, b, b]
        for b in [1 << i for i in range(q.shape[-2].bit_length() - 1)]:
            eq, ea = _level_factors(total, before, b, q.dtype)
            low = (_levels(q, b)[1] * eq) @ (_levels(a, b)[0] * ea).mT
            first, second = M.unflatten(-3, (-1, 2)).unbind(-3)
            M = torch.cat([torch.cat([first, torch.zeros_like(low)], -1), torch.cat([low, second], -1)], -2)
        ctx.save_for_backward(g, q, a)
        ctx.exclusive = exclusive
        return M.squeeze(-3)

    @staticmethod
    @_backward
    def backward(ctx, dM: Tensor) -> tuple[Tensor | None, ...]:
        g, q, a = ctx.saved_tensors
        total = _log_sum(g, -2)
        before = shift_down(total) if ctx.exclusive else total
        dg, dq, da = torch.zeros_like(q), torch.zeros_like(q), torch.zeros_like(a)
        for b in [1 << i for i in range(q.shape[-2].bit_length() - 1)]:
            eq, ea = _level_factors(total, before, b, q.dtype)
            (a1, _), (_, q2) = _levels(a, b), _levels(q, b)
            blocks = dM.unflatten(-1, (-1, 2, b)).unflatten(-4, (-1, 2, b))  # [.., pair, 2, b, pair, 2, b]
            low = blocks[..., 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
            dq2 = (low @ (a1 * ea)).mul_(eq)
            da1 = (low.mT @ (q2 * eq)).mul_(ea)
            _levels(dq, b)[1].add_(dq2)
            _levels(da, b)[0].add_(da1)
            # g[t] counts for writes before t and queries from t on (from t + 1 if exclusive): sums of these only, nothing cancels.
            later = _rsum(dq2.mul_(q2), -2)
            if ctx.exclusive:
                _levels(dg, b)[1][..., :-1, :].add_(later[..., 1:, :])
            else:
                _levels(dg, b)[1].add_(later)
            _levels(dg, b)[0][..., 1:, :].add_(da1.mul_(a1).cumsum(-2)[..., :-1, :])
        if not ctx.exclusive:
            diagonal = dM.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
            dq, da = dq + diagonal * a, da + diagonal * q
        return dg, dq, da, None


def channel_kernel(g: Tensor, q: Tensor, a: Tensor, *, exclusive: bool = False) -> Tensor:
    """Retention per key channel: M [..., C, C] from log retentions g, queries q and keys a, all [..., C, dk].

    M[t, i] = sum_c q[t, c] a[i, c] exp(g[i+1, c] + .. + g[t, c]) for i <= t (a read after the tick); with `exclusive` the sum ends
    at t - 1 and i < t (a read of the state before the tick). Every exponent is at most 0.
    """
    C, dk = q.shape[-2:]
    pad = (1 << (C - 1).bit_length()) - C
    lead = torch.broadcast_shapes(g.shape[:-2], q.shape[:-2], a.shape[:-2])
    g, q, a = (nn.pad(_exact(x).expand(*lead, C, dk), (0, 0, 0, pad)) for x in (g, q, a))
    with torch.autocast(q.device.type, enabled=False):
        return _ChannelKernel.apply(g, q, a, exclusive)[..., :C, :C]


def channel_factors(g: Tensor) -> tuple[Tensor, Tensor]:
    """head = exp(G) and tail = exp(G_end - G), both [..., C, dk], of g [..., C, dk] <= 0 with G its running sum.

    The state at the chunk's start is read with q * head (or q * shift_down(head, 1.0) before the tick), a write a is worth a * tail
    at the chunk's end, and the state itself is kept by P = head[..., -1, :].
    """
    g = _exact(g)
    total = _log_sum(g, -2)
    return total.to(g.dtype).exp(), (total[..., -1:, :] - total).to(g.dtype).exp()


# --- between chunks
def _keep(s: Tensor, P: Tensor) -> Tensor:
    """s P for s [G, dv, m] and P [G, m, m], or the per-column factor [G, 1, m] / [G, 1, 1]."""
    return s * P if P.shape[-2] == 1 else torch.bmm(s, P)


def _keep_grad(s: Tensor, ds: Tensor, P: Tensor) -> Tensor:
    """Gradient of P in `_keep`, for s and the cotangent ds [G, N, dv, m] of all chunks at once."""
    if P.shape[-2] == P.shape[-1] == 1:
        return s.flatten(2).unsqueeze(-2) @ ds.flatten(2).unsqueeze(-1)
    return s.mT @ ds if P.shape[-2] > 1 else (s * ds).sum(-2, keepdim=True)


def _inverse(M: Tensor, unit: bool) -> Tensor:
    """Inverse of lower triangular M [B, U, U] (entries above the diagonal, and with `unit` on it, are not read): halves of 32 or less."""
    U = M.shape[-1]
    if U <= 32 or U % 2:
        eye = torch.eye(U, dtype=M.dtype, device=M.device).expand_as(M)
        return torch.linalg.solve_triangular(M, eye, upper=False, left=False, unitriangular=unit)
    h = U // 2
    first, second = _inverse(torch.cat([M[:, :h, :h], M[:, h:, h:]]), unit).chunk(2)
    out = torch.zeros_like(M)
    out[:, :h, :h], out[:, h:, h:] = first, second
    out[:, h:, :h] = torch.bmm(second, torch.bmm(M[:, h:, :h], first)).neg_()
    return out


class _ChunkSolve(torch.autograd.Function):
    """delta = R (W s^T + c), R = (I - A)^-1;  out = Q s^T + O delta + r;  s' = s P + delta^T E + F, chunk after chunk.

    Only what depends on the state before it runs in the loop; everything else is one batched product over all chunks.
    """

    @staticmethod
    def forward(ctx, A, W, c, Q, O, E, P, F, r, s, unit):
        G, N = Q.shape[:2]
        R = delta = None
        if A is not None:
            R = _inverse((-A if unit else A).flatten(0, 1), unit).unflatten(0, (G, N))
            delta = W.new_empty(G, N, W.shape[2], s.shape[1])
        starts = s.new_empty(G, N, *s.shape[1:])
        steps = [x.unbind(1) if x is not None else [None] * N for x in (W, c, R, E, P, F, starts, delta)]
        for Wn, cn, Rn, En, Pn, Fn, start, dn in zip(*steps):
            start.copy_(s)
            nxt = s.clone() if Pn is None else _keep(s, Pn)
            if Fn is not None:
                nxt.add_(Fn)
            if Rn is not None:
                x = torch.bmm(Wn, s.mT) if cn is None else torch.baddbmm(cn, Wn, s.mT)
                x = torch.bmm(Rn, x)
                dn.copy_(x)
                nxt.baddbmm_(x.mT, En)
            s = nxt
        out = Q @ starts.mT
        if O is not None:
            out.flatten(0, 1).baddbmm_(O.flatten(0, 1), delta.flatten(0, 1))
        if r is not None:
            out.add_(r)
        ctx.save_for_backward(R, W, Q, O, E, P, starts, delta)
        ctx.unit = unit
        return out, s

    @staticmethod
    @_backward
    def backward(ctx, dout, ds):
        R, W, Q, O, E, P, starts, delta = ctx.saved_tensors
        need, N, dout, ds = ctx.needs_input_grad, Q.shape[1], dout.contiguous(), ds.contiguous()
        Pt = P.mT if P is not None and P.shape[-2] > 1 else P
        Rt, Ot, dy = (R.mT, O.mT if O is not None else None, torch.empty_like(delta)) if R is not None else (None, None, None)
        dends = torch.empty_like(starts)
        steps = [x.unbind(1)[::-1] if x is not None else [None] * N for x in (dout, Q, W, Rt, Ot, E, Pt, dends, dy)]
        for don, Qn, Wn, Rn, On, En, Pn, dend, dyn in zip(*steps):
            dend.copy_(ds)
            nxt = ds.clone() if Pn is None else _keep(ds, Pn)
            nxt.baddbmm_(don.mT, Qn)
            if Rn is not None:
                y = torch.bmm(En, ds.mT)
                y = torch.bmm(Rn, y if On is None else y.baddbmm_(On, don))
                dyn.copy_(y)
                nxt.baddbmm_(y.mT, Wn)
            ds = nxt
        dA = dW = dO = dE = None
        if R is not None:
            if need[0]:
                dA = (dy @ delta.mT).tril_(-1) if ctx.unit else (dy @ delta.mT).tril_().neg_()
            dW = dy @ starts if need[1] else None
            dO = dout @ delta.mT if O is not None and need[4] else None
            dE = delta @ dends if need[5] else None
        dQ = dout @ starts if need[3] else None
        dP = _keep_grad(starts, dends, P) if need[6] else None
        return dA, dW, dy if need[2] else None, dQ, dO, dE, dP, dends if need[7] else None, dout if need[8] else None, ds, None


def _flat(x: Maybe, lead: Sequence[int], N: int) -> Maybe:
    """[..., N, a, b] with broadcast leading axes -> [G, N, a, b]."""
    return None if x is None else _exact(x).expand(*lead, N, *x.shape[-2:]).reshape(-1, N, *x.shape[-2:])


def chunk_solve(
    A: Maybe, W: Maybe, c: Maybe, Q: Tensor, O: Maybe, E: Maybe, P: Maybe, F: Maybe, r: Maybe, s0: Tensor, *, unit: bool = True
) -> tuple[Tensor, Tensor]:
    """Linear memories over N chunks -> (out [..., N, Cq, dv], s_end [..., dv, m]).

    In each chunk (I - A) delta = W s^T + c;  out = Q s^T + O delta + r;  s' = s P + delta^T E + F.
    A [..., N, U, U] lower triangular: with `unit` only what is below its diagonal is read; otherwise A is the matrix I - A itself.
    W, E [..., N, U, m]; c [..., N, U, dv]; Q [..., N, Cq, m]; O [..., N, Cq, U]; r [..., N, Cq, dv]; F [..., N, dv, m]; s0 [..., dv, m];
    P [..., N, m] or [..., N, 1, m] per column, [..., N, 1] or [..., N, 1, 1] scalar, or [..., N, m, m]. s0 has all leading axes, P too;
    those of the others broadcast. A, W, E come together or not at all (`closed` form); c, O, P (identity), F, r may be None each.
    Nothing but O decides which writes a read sees: its entries for later writes must be exact zeros.
    """
    lead, N = s0.shape[:-2], Q.shape[-3]
    if P is not None and P.dim() == s0.dim():
        P = P.unsqueeze(-2)
    with torch.autocast(s0.device.type, enabled=False):
        args = [_flat(x, lead, N) for x in (A, W, c, Q, O, E, P, F, r)]
        out, end = _ChunkSolve.apply(*args, _exact(s0).reshape(-1, *s0.shape[-2:]), unit)
    return out.view(*lead, *out.shape[1:]), end.view(*lead, *end.shape[1:])


def unit_solve(A: Tensor, x: Tensor) -> Tensor:
    """u of (I - A) u = x, for what A [..., C, C] is below its diagonal; x [..., C, d]."""
    return torch.linalg.solve_triangular(-_exact(A), _exact(x), upper=False, unitriangular=True)


def unit_solve_back(A: Tensor, d: Tensor) -> Tensor:
    """The gradient of x of u = unit_solve(A, x); that of A is what of this times u^T is below the diagonal."""
    return torch.linalg.solve_triangular(-_exact(A).mT, _exact(d), upper=True, unitriangular=True)


def segments(block: Callable, xs: Sequence[Tensor], state: Tensor, axis: int, C: int, ticks: int | None = None) -> tuple[Tensor, Tensor]:
    """Run `block(*xs of a stretch of ticks, state) -> (out, state)` stretch by stretch along `axis`, and join the outputs.

    Half precision is raised to float32 here, once; so are the outputs.

    They are the numbers of one call on everything, since a stretch is whole chunks of C ticks; faster on a CPU, where by default a stretch is
    what keeps a tensor like xs[0] near 2^17 numbers, so that temporaries stay in cache. Elsewhere the default is one stretch.
    """
    x = xs[0]
    if ticks is None:
        ticks = (1 << 17) * x.shape[axis] // max(1, x.numel()) if x.device.type == "cpu" else x.shape[axis] + C
    xs, state = [_exact(y) for y in xs], _exact(state)
    outs = []
    for part in zip(*(y.split(max(1, ticks // C) * C, axis) for y in xs)):
        out, state = block(*part, state)
        outs.append(out)
    return torch.cat(outs, axis) if len(outs) > 1 else outs[0], state


# --- attention
def window_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float | None = None, past: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Causal softmax attention over the last `window` ticks (the tick itself included), or over all of them: [..., T, d] -> [..., T, dv].

    `past` holds the keys and values [..., P, d] of the P ticks before the first query. Memory is linear in T: blocks of `window`
    queries see their own and the previous block; without a window, a past is met by blocks of 512 queries.
    """
    lead, T = q.shape[:-2], q.shape[-2]
    if past is not None:
        keep = past[0].shape[-2] if window is None else min(past[0].shape[-2], window - 1)
        k, v = (torch.cat([x[..., x.shape[-2] - keep :, :], y], -2) for x, y in zip(past, (k, v)))
    P = k.shape[-2] - T
    q, k, v = (x.reshape(-1, 1, *x.shape[-2:]) for x in (q, k, v))
    if T == 1 or (P == 0 and (window is None or window >= T)):
        y = nn.scaled_dot_product_attention(q, k, v, is_causal=T > 1, scale=scale)
    elif window is None or T <= window:
        parts, start = [], P
        for part in q.split(512 if window is None else T, -2):
            end = start + part.shape[-2]
            behind = torch.arange(start, end, device=q.device)[:, None] - torch.arange(end, device=q.device)
            mask = behind >= 0 if window is None else (behind >= 0) & (behind < window)
            parts.append(nn.scaled_dot_product_attention(part, k[..., :end, :], v[..., :end, :], attn_mask=mask, scale=scale))
            start = end
        y = torch.cat(parts, -2)
    else:
        q = chunk(q, window).squeeze(1)  # [B, n, window, d]
        k, v = (chunk(nn.pad(x, (0, 0, window - P, 0)), window).squeeze(1) for x in (k, v))  # [B, n + 1, window, d]
        k, v = (torch.cat([x[:, :-1], x[:, 1:]], -2) for x in (k, v))
        i, j = torch.arange(window, device=q.device)[:, None], torch.arange(2 * window, device=q.device)
        mask = ((j > i) & (j <= i + window)).repeat(q.shape[1], 1, 1)
        mask[0] &= j >= window - P  # before the first known key
        y = unchunk(nn.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), T)
    return y.view(*lead, T, -1)


def pooled(x: Tensor, like: Tensor, over: str) -> Tensor:
    """The sum or mean over the sequences of a batch, the same for each of those of `like`."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise RuntimeError("a memory of this module is `shared` by the sequences of a batch, of which each process has only some: use one process")
    x = x.expand_as(like)
    return (x.mean(0, keepdim=True) if over == "mean" else x.sum(0, keepdim=True)).expand_as(like)
