"""Operators as matrices [.., out, in], for generated code. Imports torch only: this text is embedded in generated files.

Products and solutions have the wider dtype of their arguments. What has no half-precision form is computed in float32
and rounded once, outside autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def _eigen(a: Tensor) -> tuple[torch.dtype, Tensor, Tensor]:
    dtype, (a,) = _wide(a)
    values, vectors = torch.linalg.eigh((a + a.mT) / 2)
    return dtype, values, vectors


def eigenvectors(a: Tensor) -> Tensor:
    """Orthonormal eigenvectors of the symmetric part of a [.., e, e] as columns, by ascending eigenvalue."""
    with torch.autocast(a.device.type, enabled=False):
        dtype, _, vectors = _eigen(a)
        return vectors.to(dtype)


def matrix_power(a: Tensor, p: Tensor | float) -> Tensor:
    """The symmetric part of a [.., e, e] to the power p, a number or [.., 1].

    Negative eigenvalues count as 0; where p is negative none counts for less than the precision of the largest.
    """
    with torch.autocast(a.device.type, enabled=False):
        dtype, values, vectors = _eigen(a)
        exponent = torch.as_tensor(p, dtype=values.dtype, device=values.device)
        least = torch.where(exponent < 0, torch.finfo(values.dtype).eps * values[..., -1:].abs(), 0)
        power = values.maximum(least) ** exponent
        return ((vectors * power.unsqueeze(-2)) @ vectors.mT).to(dtype)
