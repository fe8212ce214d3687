"""The equation of every operation without state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nldsl.core import Axis, Type
from nldsl_interpreter.values import integer, lift


def apply(w: Tensor, x: Tensor) -> Tensor:
    return (w @ x.unsqueeze(-1)).squeeze(-1) if x.is_floating_point() else torch.take_along_dim(w, x.unsqueeze(-2), -1)[..., 0]


# Entry by entry: every argument has the rank of the result.
ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "neg": torch.neg,
    "copy": lambda a: a, "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "abs": torch.abs, "sign": torch.sign,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    "silu": F.silu, "gelu": F.gelu, "relu": torch.relu, "max": torch.maximum, "min": torch.minimum, "stop": Tensor.detach,
}  # fmt: skip
# Over all entries: the last argument names the dimensions.
OVER: dict[str, Callable[..., Tensor]] = {
    "dot": lambda a, b, dims: (a * b).sum(dims),
    "sqnorm": lambda a, dims: a.square().sum(dims),
    "sum": lambda a, dims: a.sum(dims),
    "mean": lambda a, dims: a.mean(dims),
    "unit": lambda a, dims: a / (a.square().sum(dims, keepdim=True) + 1e-6).sqrt(),
    "norm": lambda a, dims: a / (a.square().mean(dims, keepdim=True) + 1e-6).sqrt(),
    "softmax": lambda a, dims: (a - a.logsumexp(dims, keepdim=True)).exp(),
    "flatten": lambda a, dims: a.flatten(dims[0]),
}
# The others, and the rank of each argument; conv and attend get theirs over time from the interpreter.
MIXED: dict[str, tuple[tuple[int, ...], Callable[..., Tensor]]] = {
    "apply": ((2, 1), apply),
    "transpose": ((2,), lambda w: w.mT),
    "outer": ((1, 1), lambda a, b: a.unsqueeze(-1) * b.unsqueeze(-2)),
    "scale_values": ((1, 2), lambda a, w: a.unsqueeze(-1) * w),
    "cross_entropy": ((1, 1), lambda a, i: a.logsumexp(-1) - torch.take_along_dim(a, i, -1)[..., 0]),
    "conv": ((1, 2), lambda past, w: (past.flip(1).movedim(1, -1) * w).sum(-1)),
    "attend": ((1, 1, 1), lambda q, k, v: (((q[:, None] * k).sum(-1, keepdim=True) / k.shape[-1] ** 0.5).softmax(1) * v).sum(1)),
}


def arguments(op: str, result: Type, args: list[tuple[Tensor, Type]]) -> list[Tensor]:
    """Values with the axes of the result and the rank the operation wants."""
    if op in MIXED:
        ranks = MIXED[op][0]
    else:
        ranks = tuple(len(result.shape) if op in ELEMENTWISE else len(t.shape) for _, t in args)
    return [lift(x, t, result.axes, rank) for (x, t), rank in zip(args, ranks, strict=True)]


def compute(op: str, rank: int, args: list[Tensor]) -> Tensor:
    """The value of an operation; `rank` is that of its first argument."""
    if op in OVER:
        return OVER[op](*args, tuple(range(-rank, 0)))
    return ELEMENTWISE[op](*args) if op in ELEMENTWISE else MIXED[op][1](*args)


def gather(x: Tensor, type: Type, axis: Axis) -> Tensor:
    """The copies along an axis become the first dimension after the other axes."""
    ids, last = [a.id for a in type.axes], len(type.axes)
    x, last = (x.movedim(1 + ids.index(axis.id), last), last) if axis.id in ids else (x.unsqueeze(last + 1), last + 1)
    return x.expand(*x.shape[:last], integer(axis.size), *x.shape[last + 1 :])


def rotate(x: Tensor, t: int) -> Tensor:
    """Pairs (a_i, a_i+n/2) turned by the angle t * 10000^(-2 i / n)."""
    n = x.shape[-1]
    angle = t * 10000.0 ** (-2 * torch.arange(n // 2, dtype=x.dtype) / n)
    a, b = x.split(n // 2, dim=-1)
    return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1)
