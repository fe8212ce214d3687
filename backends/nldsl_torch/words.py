"""Words of the language as functions of tensors, for generated code. Imports torch only: this text is embedded in generated files.

What leads, batch, ticks and copies, does not matter, unless a function says so.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _wider(x: Tensor) -> Tensor:
    """Half precision raised to float32."""
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


def unit(x: Tensor) -> Tensor:
    """x / sqrt(sum x^2 + 1e-6) over the last dimension; in half precision rounded once."""
    w = _wider(x)
    return (w * ((w * w).sum(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def norm(x: Tensor) -> Tensor:
    """x / sqrt(mean x^2 + 1e-6) over the last dimension; in half precision rounded once."""
    w = _wider(x)
    return (w * ((w * w).mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


class _OfResult(torch.autograd.Function):
    """A function with a gradient that is computed from its result."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output: Tensor) -> None:
        ctx.save_for_backward(output)


class _Inverse(_OfResult):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 1.0 / x

    @staticmethod
    def backward(ctx, d: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return -(d * y) * y


def inverse(x: Tensor) -> Tensor:
    """1 / x. Its gradient never holds 1 / x^2 alone, which overflows where what is divided by x is small like x."""
    return _Inverse.apply(x)


class _Root(_OfResult):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sqrt()

    @staticmethod
    def backward(ctx, d: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return d * 0.5 / torch.where(y == 0, float("inf"), y)


def root(x: Tensor) -> Tensor:
    """The square root, with slope 0 at 0: sqrt(x * x) is abs(x)."""
    return _Root.apply(x)


def _like(number: float, x: Tensor) -> Tensor:
    return x.new_full((), number, dtype=x.dtype if x.is_floating_point() else torch.get_default_dtype())


def at_least(x: Tensor, number: float) -> Tensor:
    """max(x, number), with slope 1/2 where they are equal."""
    return torch.maximum(x, _like(number, x))


def at_most(x: Tensor, number: float) -> Tensor:
    """min(x, number), with slope 1/2 where they are equal."""
    return torch.minimum(x, _like(number, x))


def gelu_pull(c: Tensor, x: Tensor) -> Tensor:
    """c times the derivative of gelu at x."""
    return torch.ops.aten.gelu_backward(*torch.broadcast_tensors(c, x))


def apply(operator: Tensor, x: Tensor) -> Tensor:
    """operator [.., out, in] of x [.., in], in the wider dtype of the two."""
    if operator.dtype != x.dtype:
        dtype = torch.promote_types(operator.dtype, x.dtype)
        operator, x = operator.to(dtype), x.to(dtype)
    return (operator @ x.unsqueeze(-1)).squeeze(-1)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(logits)[target] at every tick: logits [.., n], target [..], of leading dimensions that broadcast."""
    lead, n = torch.broadcast_shapes(logits.shape[:-1], target.shape), logits.shape[-1]
    return F.cross_entropy(logits.expand(*lead, n).reshape(-1, n), target.expand(lead).flatten(), reduction="none").view(lead)


def angles(like: Tensor, n: int, tick: Tensor) -> Tensor:
    """(cos | sin) of t * 10000^(-2 i / n), i < n / 2, at t = 0 first: [B, T, n] for ticks [B, T] from 1, in the precision of `like`."""
    rate = 10000.0 ** (-2 * torch.arange(n // 2, device=tick.device, dtype=torch.float64) / n)
    angle = (tick - 1).to(torch.float64)[..., None] * rate
    return torch.cat([angle.cos(), angle.sin()], -1).to(like.dtype)


def turn(x: Tensor, by: Tensor) -> Tensor:
    """Pairs (x_i, x_{i + n/2}) turned by angles of which `by` has (cos | sin)."""
    (a, b), (cos, sin) = x.chunk(2, -1), by.to(x.dtype).chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def turn_back(x: Tensor, by: Tensor) -> Tensor:
    """The opposite of `turn`."""
    (a, b), (cos, sin) = x.chunk(2, -1), by.to(x.dtype).chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)
