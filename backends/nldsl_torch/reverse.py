"""What the reverse of a function is made of, for generated code. Imports torch only: this text is embedded."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(total: Tensor, a: Tensor, b: Tensor, sign: int = 1) -> Tensor:
    """total + sign * a @ b, of equal leading dimensions."""
    if total.dim() < 3:
        return torch.addmm(total, a, b, alpha=sign)
    return torch.baddbmm(total.flatten(0, -3), a.flatten(0, -3), b.flatten(0, -3), alpha=sign).view(total.shape)


def add_product_(total: Tensor, a: Tensor, b: Tensor, sign: int = 1) -> Tensor:
    """The same in place, where the layout allows it."""
    if total.dim() < 3 or not total.is_contiguous():
        return total.add_(a @ b, alpha=sign)
    total.view(-1, *total.shape[-2:]).baddbmm_(a.flatten(0, -3), b.flatten(0, -3), alpha=sign)
    return total


def decay_ends_back(d_ends: Tensor | None, d_tail: Tensor | None, ends: Tensor, tail: Tensor) -> Tensor:
    """The gradient of g of ends, tail = decay_ends(g): a tick loses what was written before it, and the first state."""
    given = torch.zeros_like(tail) if d_tail is None else d_tail * tail
    before = given.cumsum(-1) - given
    return before if d_ends is None else before + (d_ends * ends).unsqueeze(-1)


def plus(x: Tensor | None, y: Tensor) -> Tensor:
    """x + y, where no x is zero."""
    return y if x is None else x + y


def like(x: Tensor, shape: torch.Size) -> Tensor:
    """x summed over what a tensor of this shape was broadcast along."""
    return x if x.shape == shape else x.sum_to_size(shape)


def greater(d: Tensor, x, y) -> Tensor:
    """d where x > y, half of it where they are equal; one of them may be a number."""
    return torch.where(x > y, d, torch.where(x == y, d * 0.5, 0.0))


def cross_entropy_back(d: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """The gradient of the logits of cross_entropy(logits, target)."""
    p = logits.softmax(-1)
    return (p - torch.nn.functional.one_hot(target, p.shape[-1]).to(p.dtype)) * d.unsqueeze(-1)


def _weights(q: Tensor, k: Tensor, keys: Tensor, window: int | None) -> tuple[Tensor, int]:
    """How much each of T queries looks at the pairs of P + T ticks, with a key of its own in the place of that of its tick; and P."""
    T, P = q.shape[-2], keys.shape[-2] - q.shape[-2]
    behind = torch.arange(P, P + T, device=q.device)[:, None] - torch.arange(P + T, device=q.device)
    scores = torch.where(behind == 0, (q * k).sum(-1, keepdim=True), q @ keys.mT) * q.shape[-1] ** -0.5
    return scores.masked_fill(behind < 0 if window is None else (behind < 0) | (behind >= window), -torch.inf).softmax(-1), P


def attention_look(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
    """What a store gives T queries [.., T, d], with pairs k, v of their own in the place of those of their ticks.

    `keys` and `values` [.., P + T, d] are kept of the ticks before and of these.
    """
    p, P = _weights(q, k, keys, window)
    return p @ values + p.diagonal(P, -2, -1).unsqueeze(-1) * (v - values[..., P:, :])


def attention_pull(q: Tensor, k: Tensor, v: Tensor, c: Tensor, keys: Tensor, values: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """At each tick the gradients of <c, y>, y = attention_look(q, k, v, ..), with respect to q, k and v."""
    p, P = _weights(q, k, keys, window)
    own = torch.arange(q.shape[-2], device=q.device)[:, None] + P == torch.arange(keys.shape[-2], device=q.device)
    meant = p * torch.where(own, (c * v).sum(-1, keepdim=True), c @ values.mT)
    g = (meant - p * meant.sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
    mine = g.diagonal(P, -2, -1).unsqueeze(-1)
    return g @ keys + mine * (k - keys[..., P:, :]), mine * q, p.diagonal(P, -2, -1).unsqueeze(-1) * c


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of gelu."""
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x)


def gelu_curve(x: Tensor) -> Tensor:
    """The second derivative of gelu: (2 - x^2) b, b = exp(-x^2 / 2) / sqrt(2 pi); as 2 b - x (x b), where x^2 may be too large for a number."""
    bell = (x * x).mul_(-0.5).exp_().mul_(0.3989422804014327)
    return (bell * 2.0).addcmul_(x, x * bell, value=-1.0)


def norm_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """norm(x), and what it multiplies x with."""
    scale = ((x * x).mean(-1, keepdim=True) + 1e-6).rsqrt()
    return x * scale, scale


def norm_back(d: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x of y, scale = norm_scale(x)."""
    return (d - y * (d * y).mean(-1, keepdim=True)) * scale


def unit_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """unit(x), and what it multiplies x with."""
    scale = ((x * x).sum(-1, keepdim=True) + 1e-6).rsqrt()
    return x * scale, scale


def unit_back(d: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x of y, scale = unit_scale(x)."""
    return (d - y * (d * y).sum(-1, keepdim=True)) * scale
