"""Operators as matrices [.., out, in], for generated code. Imports torch only: this text is embedded in generated files.

Products and solutions have the wider dtype of their arguments. What has no half-precision form is computed in float32
and rounded once, outside autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TIE = 64  # eigenvalues nearer than so many roundings of the largest are one


def _wide(*xs: Tensor) -> tuple[torch.dtype, list[Tensor]]:
    """The dtype of the result, and the arguments in it or, for half precision, in float32."""
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    work = torch.float32 if dtype in (torch.half, torch.bfloat16) else dtype
    return dtype, [x.to(work) for x in xs]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a [.., e, m] after b [.., m, d]."""
    if a.dtype != b.dtype:
        dtype = torch.promote_types(a.dtype, b.dtype)
        a, b = a.to(dtype), b.to(dtype)
    return a @ b


def solve(a: Tensor, b: Tensor) -> Tensor:
    """a^-1 b for a [.., e, e] and b [.., e, d]."""
    dtype, (a, b) = _wide(a, b)
    with torch.autocast(a.device.type, enabled=False):
        # With fewer dimensions than `a`, b could be taken for a batch of vectors.
        lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return torch.linalg.solve(a, b.expand(*lead, *b.shape[-2:])).to(dtype)


def _symmetric(a: Tensor) -> tuple[torch.dtype, Tensor]:
    dtype, (a,) = _wide(a)
    return dtype, (a + a.mT) / 2


def _ties(values: Tensor) -> Tensor:
    """[.., e, e]: which of the ascending eigenvalues [.., e] rounding does not tell apart."""
    largest = values[..., :1].abs().maximum(values[..., -1:].abs())
    apart = values.diff(dim=-1, prepend=values[..., :1]) > TIE * torch.finfo(values.dtype).eps * largest
    number = apart.cumsum(-1)
    return number.unsqueeze(-1) == number.unsqueeze(-2)


class _Spaces(torch.autograd.Function):
    """Eigenvectors of a symmetric `a`, and which of them belong to one eigenvalue: of such only their space has a derivative."""

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(a)
        return vectors, _ties(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> Any:
        a, vectors, ties = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: second derivatives, where no eigenvalue repeats
            return torch.autograd.grad(torch.linalg.eigh(a)[1], a, grad, create_graph=True)[0]
        values = (vectors * (a @ vectors)).sum(-2)
        gap = values.unsqueeze(-2) - values.unsqueeze(-1)
        return vectors @ torch.where(ties, 0, (vectors.mT @ grad) / gap) @ vectors.mT


def eigenvectors(a: Tensor) -> Tensor:
    """Orthonormal eigenvectors of the symmetric part of a [.., e, e] as columns, by ascending eigenvalue.

    Those of a repeated eigenvalue are the eigenvectors of Diag(1 .. e) / e on their space, which the space alone determines.
    """
    with torch.autocast(a.device.type, enabled=False):
        dtype, a = _symmetric(a)
        vectors, ties = _Spaces.apply(a)
        if torch.compiler.is_compiling() or bool((ties.sum(-1) > 1).any()):
            e = a.shape[-1]
            place = torch.arange(1, e + 1, dtype=a.dtype, device=a.device) / e
            inside = torch.where(ties, vectors.mT @ (place.unsqueeze(-1) * vectors), 0)
            below = (~ties).tril().sum(-1)  # of each space the number of eigenvalues below it: 2 of it keeps the spaces apart, in order
            vectors = vectors @ torch.linalg.eigh(inside + torch.diag_embed(2.0 * below).to(a.dtype))[1]
        return vectors.to(dtype)


def _raised(values: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues as `matrix_power` counts them, and their powers."""
    least = torch.where(p < 0, torch.finfo(values.dtype).eps * values[..., -1:].abs(), 0)
    counted = values.maximum(least)
    return counted, counted**p


class _Power(torch.autograd.Function):
    """A symmetric `a` to the power p, and its eigenvalues and eigenvectors.

    The derivative is that of Daleckii and Krein: divided differences of the power, which are finite where eigenvalues repeat.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(a)
        return (vectors * _raised(values, p)[1].unsqueeze(-2)) @ vectors.mT, values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> Any:
        a, p, values, vectors = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: second derivatives, where no eigenvalue repeats
            wanted = [x for x in (a, p) if x.requires_grad]
            values, vectors = torch.linalg.eigh(a)
            found = iter(torch.autograd.grad((vectors * _raised(values, p)[1].unsqueeze(-2)) @ vectors.mT, wanted, grad, create_graph=True))
            return tuple(next(found) if x.requires_grad else None for x in (a, p))
        counted, power = _raised(values, p)
        turned = vectors.mT @ grad @ vectors
        own = turned.diagonal(dim1=-2, dim2=-1)
        inner = turned * _slopes(values, counted, p)
        floor = (own * p * power / counted).where((counted > values) & (p < 0), 0).sum(-1) * torch.finfo(values.dtype).eps
        inner[..., -1:, -1:] += (floor.unsqueeze(-1) * values[..., -1:].sign()).unsqueeze(-1)
        to_p = (own * torch.special.xlogy(power, counted)).sum_to_size(p.shape)
        return (vectors @ inner @ vectors.mT).sum_to_size(a.shape), to_p


def _slopes(values: Tensor, counted: Tensor, p: Tensor) -> Tensor:
    """The divided differences [.., e, e] of the power of what is counted for each eigenvalue, without cancellation."""
    p, row, column = p.unsqueeze(-1), counted.unsqueeze(-1), counted.unsqueeze(-2)
    high, change = row.maximum(column), row - column
    part = (change.abs() / high).where(high > 0, 0)  # low = (1 - part) high
    grown = torch.special.xlog1py(p, -part).where(part < 0.5, torch.special.xlogy(p, row.minimum(column) / high))
    slope = high ** (p - 1) * (torch.expm1(grown) / -part).where(part > 0, p)
    gap = values.unsqueeze(-1) - values.unsqueeze(-2)
    moves = (counted == values) & (values > 0)
    share = (change / gap).where(gap != 0, (moves.unsqueeze(-1) & moves.unsqueeze(-2)).to(gap.dtype))
    return (slope * share).where(share != 0, 0)


def matrix_power(a: Tensor, p: Tensor | float) -> Tensor:
    """The symmetric part of a [.., e, e] to the power p, a number or [.., 1].

    Negative eigenvalues count as 0; where p is negative none counts for less than the precision of the largest.
    """
    with torch.autocast(a.device.type, enabled=False):
        dtype, a = _symmetric(a)
        return _Power.apply(a, torch.as_tensor(p, dtype=a.dtype, device=a.device))[0].to(dtype)
