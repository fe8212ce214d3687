"""The equation of every operation without state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nldsl.core import Axis, Equation, Num, Ref, Type
from nldsl.vocabulary import is_number
from nldsl_interpreter.values import integer, lift


def matmul(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype) @ b.to(dtype)


def solve(a: Tensor, b: Tensor) -> Tensor:
    if b.dim() < a.dim():
        return solve(a, b.unsqueeze(-1)).squeeze(-1)
    dtype = torch.promote_types(a.dtype, b.dtype)
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return torch.linalg.solve(single(a.to(dtype)), single(b.to(dtype)).expand(*lead, *b.shape[-2:])).to(dtype)


def symmetric(a: Tensor) -> Tensor:
    return (single(a) + single(a).mT) / 2


def runs(values: Tensor) -> Tensor:
    """Ascending eigenvalues numbered so that those within 64 roundings of the largest have one number."""
    apart = values.diff(dim=-1) > 64 * torch.finfo(values.dtype).eps * values.abs().max(-1, keepdim=True).values
    return F.pad(apart.cumsum(-1), (1, 0))


class Spaces(torch.autograd.Function):
    """Eigenvectors of a symmetric matrix. Of those of one eigenvalue only the space has a derivative; second ones need distinct eigenvalues."""

    @staticmethod
    def forward(ctx, a: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        values, vectors = torch.linalg.eigh(a)
        number = runs(values)
        ctx.mark_non_differentiable(number)
        ctx.save_for_backward(a, values, vectors, number)
        return vectors, number

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        a, values, vectors, number = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.autograd.grad(torch.linalg.eigh(a)[1], a, grad, create_graph=True)[0]
        change = torch.zeros_like(a)
        for i in range(a.shape[-1]):
            for j in range(a.shape[-1]):
                turn = (vectors[..., i] * grad[..., j]).sum(-1) / (values[..., j] - values[..., i])
                turn = torch.where(number[..., i] == number[..., j], 0, turn)
                change += turn[..., None, None] * vectors[..., :, None, i] * vectors[..., None, :, j]
        return change


def eigenvectors(a: Tensor) -> Tensor:
    """By ascending eigenvalue; those of a repeated one are the eigenvectors of Diag(1 .. e) / e on their space."""
    e = a.shape[-1]
    vectors, number = Spaces.apply(symmetric(a))
    place = torch.diag(torch.arange(1, e + 1, dtype=vectors.dtype) / e)
    bases = []
    for numbers, basis in zip(number.reshape(-1, e), vectors.reshape(-1, e, e), strict=True):
        spaces = [basis[:, numbers == n] for n in numbers.unique()]
        bases.append(torch.cat([v @ torch.linalg.eigh(v.T @ place @ v)[1] if v.shape[1] > 1 else v for v in spaces], -1))
    return torch.stack(bases).reshape(a.shape).to(a.dtype)


def counted(values: Tensor, p: Tensor) -> Tensor:
    """Eigenvalues as `matrix_power` counts them."""
    least = torch.where(p < 0, torch.finfo(values.dtype).eps * values.max(-1, keepdim=True).values.abs(), 0)
    return torch.maximum(values, least)


class Power(torch.autograd.Function):
    """A symmetric matrix to the power p. The derivative has the differences of the powers of two eigenvalues over those of the two.

    Second derivatives need distinct eigenvalues.
    """

    @staticmethod
    def of(a: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(a)
        return vectors @ torch.diag_embed(counted(values, p) ** p) @ vectors.mT, values, vectors

    @staticmethod
    def forward(ctx, a: Tensor, p: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        result, values, vectors = Power.of(a, p)
        ctx.save_for_backward(a, p, values, vectors)
        return result

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        a, p, values, vectors = ctx.saved_tensors
        if torch.is_grad_enabled():
            needed = [x for x in (a, p) if x.requires_grad]
            found = iter(torch.autograd.grad(Power.of(a, p)[0], needed, grad, create_graph=True))
            return tuple(next(found) if x.requires_grad else None for x in (a, p))
        turned = vectors.mT @ grad @ vectors
        values = values.expand(turned.shape[:-1])
        with torch.enable_grad():
            line, exponent = values.clone().requires_grad_(), p.clone().requires_grad_()
            power = counted(line, exponent) ** exponent
            own, to_p = torch.autograd.grad(power, (line, exponent), turned.diagonal(dim1=-2, dim2=-1))
        inner, known, power = torch.diag_embed(own), counted(values, p), power.detach()
        slope = torch.where(known == values, p * known ** (p - 1), 0)
        for i in range(a.shape[-1]):
            for j in set(range(a.shape[-1])) - {i}:
                gap = values[..., i] - values[..., j]
                near = gap.abs() <= torch.finfo(a.dtype).eps ** (1 / 3) * torch.maximum(known[..., i], known[..., j])
                change = torch.where(near, (slope[..., i] + slope[..., j]) / 2, (power[..., i] - power[..., j]) / gap)
                inner[..., i, j] = turned[..., i, j] * change
        return (vectors @ inner @ vectors.mT).sum_to_size(a.shape), to_p


def matrix_power(a: Tensor, p: Tensor) -> Tensor:
    half = symmetric(a)
    result: Tensor = Power.apply(half, p.to(half.dtype).unsqueeze(-1))
    return result.to(a.dtype)


def single(a: Tensor) -> Tensor:
    """Half precision raised to float32."""
    return a.float() if a.dtype in (torch.half, torch.bfloat16) else a


def apply(w: Tensor, x: Tensor) -> Tensor:
    return matmul(w, x.unsqueeze(-1)).squeeze(-1) if x.is_floating_point() else torch.take_along_dim(w, x.unsqueeze(-2), -1)[..., 0]


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return ((q[:, None] * k).sum(-1, keepdim=True) / k.shape[-1] ** 0.5).softmax(1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, .., d] at this tick, k and v [B, n, .., d] at all that are kept, this one last."""
    return (_weights(q, k) * v).sum(1)


def attend_pull(q: Tensor, k: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of <c, attend(q, k, v)> with respect to q, and to the k and v of this tick."""
    p = _weights(q, k)
    meant = p * (c[:, None] * v).sum(-1, keepdim=True)
    g = (meant - p * meant.sum(1, keepdim=True)) / k.shape[-1] ** 0.5
    return (g * k).sum(1), g[:, -1] * q, p[:, -1] * c


def _gelu_slope(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def sqrt(a: Tensor) -> Tensor:
    """The square root, with slope 0 at 0: sqrt(a * a) is abs(a)."""
    return torch.where(a == 0, 0.0, torch.where(a == 0, 1.0, a).sqrt())


def turn(x: Tensor, by: Tensor, sign: float = 1.0) -> Tensor:
    """Pairs (a_i, a_i+n/2) turned by angles of which `by` has (cos | sin)."""
    (a, b), (cos, sin) = (y.split(x.shape[-1] // 2, dim=-1) for y in (x, by.to(x.dtype)))
    sin = sign * sin
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


# Entry by entry: every argument has the rank of the result.
ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "neg": torch.neg,
    "copy": lambda a: a, "exp": torch.exp, "log": torch.log, "sqrt": sqrt, "abs": torch.abs, "sign": torch.sign,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    "silu": F.silu, "gelu": F.gelu, "gelu_pull": lambda c, x: c * _gelu_slope(x),
    "relu": torch.relu, "max": torch.maximum, "min": torch.minimum, "stop": Tensor.detach,
    "where": lambda c, a, b: torch.where(c > 0, a, b), "bfloat16": Tensor.bfloat16,
    "turn": turn, "turn_back": lambda x, by: turn(x, by, -1.0), "fill": lambda a, like: a.expand(torch.broadcast_shapes(a.shape, like.shape)),
}  # fmt: skip
# Arguments as they are.
PLAIN: dict[str, Callable[..., Tensor]] = {"solve": solve, "unflatten": lambda a, like: a.reshape(*a.shape[:-1], *like.shape[a.dim() - 1 :])}
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
    "entry": lambda a, dims: a,
}
# The same over a stack, whose matrices are the batch.
WHOLE = {f"whole {op}" for op in ("dot", "sqnorm", "sum", "mean")}
# The others, and the rank of each argument; conv and attend get theirs over time from the interpreter.
MIXED: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "apply": ((2, 1), apply),
    "transpose": ((2,), lambda w: w.mT),
    "outer": ((1, 1), lambda a, b: a.unsqueeze(-1) * b.unsqueeze(-2)),
    "matmul": ((2, 2), matmul),
    "identity": ((2,), lambda w: torch.eye(w.shape[-1], dtype=w.dtype).expand_as(w)),
    "row_mean": ((2,), lambda w: w.mean(-1, keepdim=True)),
    "column_mean": ((2,), lambda w: w.mean(-2, keepdim=True)),
    "matrix_power": ((2, 0), matrix_power),
    "eigenvectors": ((2,), eigenvectors),
    "scale_values": ((1, 2), lambda a, w: a.unsqueeze(-1) * w),
    "cross_entropy": ((1, 1), lambda a, i: a.logsumexp(-1) - torch.take_along_dim(a, i, -1)[..., 0]),
    "one_hot": ((1, 1), lambda i, like: (torch.arange(like.shape[-1]) == i).to(like.dtype)),
    "conv": ((1, 2), lambda past, w: (past.flip(1).movedim(1, -1) * w).sum(-1)),
    "attend": ((1, 1, 1), attend),
    "attend_pull": ((1, 1, 1, 1), attend_pull),
    "tap": ((2,), lambda w: w[..., 0]),
}


class Rounded(torch.autograd.Function):
    """A rounded value, which changes with what is not rounded."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, low: Tensor) -> Tensor:
        return low.expand_as(wide).clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        return given[0], None


KEEPS_DTYPE = ("delay", "conv", "attend", "fold", "grad", "cast")


def is_rounded(e: Equation, low: set[str], types: Mapping[str, Type]) -> bool:
    """Whether the result is bfloat16 again: all that is not a number is, the condition of `where` aside."""
    if e.op == "bfloat16" or e.op in KEEPS_DTYPE:
        return e.op == "bfloat16"
    given = e.args[1:] if e.op == "where" else e.args[:1] if e.op in ("turn", "turn_back") else e.args
    read = [a for a in given if not isinstance(a, Num) and types[a.name].kind in ("real", "map")]
    return bool(read) and all(isinstance(a, Ref) and a.name in low for a in [a for a in read if not is_number(types[a.name])] or read)


def exact(op: str, result: Type, args: list[tuple[Tensor, Type]]) -> Tensor:
    """An operation at rounded values, rounded once: computed in float64, or entry by entry in float32, as torch does."""
    wide = torch.float32 if op in ELEMENTWISE else torch.float64
    return rounded(op, result, [(x.to(wide) if x.is_floating_point() else x, t) for x, t in args])


def rounded(op: str, result: Type, args: list[tuple[Tensor, Type]]) -> Tensor:
    """An operation in bfloat16: in float32 where it is entrywise, and rounded."""
    if op in ELEMENTWISE:
        args = [(x.float() if x.is_floating_point() else x, t) for x, t in args]
    return compute(op, len(args[0][1].shape), arguments(op, result, args)).bfloat16()


def arguments(op: str, result: Type, args: list[tuple[Tensor, Type]]) -> list[Tensor]:
    """Values with the axes of the result and the rank the operation wants."""
    if op in MIXED:
        ranks = MIXED[op][0]
    else:
        ranks = tuple(len(result.shape) if op in ELEMENTWISE else len(t.shape) for _, t in args)
    return [lift(x, t, result.axes, rank) for (x, t), rank in zip(args, ranks, strict=True)]


def compute(op: str, rank: int, args: list[Tensor]) -> Tensor:
    """The value of an operation; `rank` is that of its first argument."""
    if op in OVER and rank == 0:
        return OVER[op](*(a.unsqueeze(-1) for a in args), (-1,))
    if op in OVER:
        return OVER[op](*args, tuple(range(-rank, 0)))
    if op in WHOLE:  # of all copies of the batch
        return OVER[op.removeprefix("whole ")](*args, (0, *range(-rank, 0)))[None]
    if op in PLAIN:
        return PLAIN[op](*args)
    return ELEMENTWISE[op](*args) if op in ELEMENTWISE else MIXED[op][1](*args)


def gather(x: Tensor, type: Type, axis: Axis) -> Tensor:
    """The copies along an axis become the first dimension after the other axes."""
    ids, last = [a.id for a in type.axes], len(type.axes)
    x, last = (x.movedim(1 + ids.index(axis.id), last), last) if axis.id in ids else (x.unsqueeze(last + 1), last + 1)
    return x.expand(*x.shape[:last], integer(axis.size), *x.shape[last + 1 :])


def ungather(x: Tensor, type: Type, result: Type, axis: Axis) -> Tensor:
    """The opposite of `gather`."""
    return x.movedim(1 + len(type.axes), 1 + [a.id for a in result.axes].index(axis.id))


def angles(n: int, t: int) -> Tensor:
    """(cos | sin) of the angles t * 10000^(-2 i / n), i < n / 2."""
    angle = t * 10000.0 ** (-2 * torch.arange(n // 2, dtype=torch.float64) / n)
    return torch.cat((angle.cos(), angle.sin()))
