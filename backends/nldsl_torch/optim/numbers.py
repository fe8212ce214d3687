"""Functions of generated rules: on floats, as IEEE arithmetic has them, and on tensors; and products of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.matrices import matmul

NAN, INFINITY = math.nan, math.inf


def _div(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) or isinstance(b, Tensor) or b != 0:
        return a / b
    return NAN if a == 0 or a != a else math.copysign(INFINITY, a) * math.copysign(1.0, b)


def _pow(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a**b
    try:
        return math.pow(a, b)
    except OverflowError:
        return INFINITY
    except ValueError:
        return INFINITY if a == 0 else NAN


def _sqrt(a: Any) -> Any:
    if isinstance(a, Tensor):
        return a.sqrt()
    return math.sqrt(a) if a >= 0 else NAN


def _exp(a: Any) -> Any:
    if isinstance(a, Tensor):
        return a.exp()
    try:
        return math.exp(a)
    except OverflowError:
        return INFINITY


def _log(a: Any) -> Any:
    if isinstance(a, Tensor):
        return a.log()
    return math.log(a) if a > 0 else -INFINITY if a == 0 else NAN


def _abs(a: Any) -> Any:
    return abs(a)


def _sign(a: Any) -> Any:
    return a.sign() if isinstance(a, Tensor) else float((a > 0) - (a < 0))


def _tanh(a: Any) -> Any:
    return a.tanh() if isinstance(a, Tensor) else math.tanh(a)


def _sigmoid(a: Any) -> Any:
    return a.sigmoid() if isinstance(a, Tensor) else _div(1.0, 1.0 + _exp(-a))


def _max(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    if not isinstance(a, Tensor):
        a, b = b, a
    if not isinstance(a, Tensor):
        return max(b, a)
    # In a step that is differentiated both count half where they are equal, as in the language.
    return torch.maximum(a, a.new_full((), b)) if a.requires_grad else a.clamp(min=b)


def _min(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.minimum(a, b)
    if not isinstance(a, Tensor):
        a, b = b, a
    if not isinstance(a, Tensor):
        return min(b, a)
    return torch.minimum(a, a.new_full((), b)) if a.requires_grad else a.clamp(max=b)


def _where(c: Any, a: Any, b: Any) -> Any:
    """a where c > 0, else b."""
    return torch.where(c > 0, a, b) if isinstance(c, Tensor) else a if c > 0 else b


# --- whole matrices, [..., e, d] ---------------------------------------------------------------------------


def _addmm(x: Tensor, a: Tensor, b: Tensor, beta: Any = 1, alpha: Any = 1, symmetric: bool = False) -> Tensor:
    """beta x + alpha a b; it is its own transpose where it is said to be `symmetric`."""
    if isinstance(beta, Tensor) or isinstance(alpha, Tensor) or not x.dtype == a.dtype == b.dtype or not 1 < x.dim() == a.dim() == b.dim() < 4:
        return beta * x + alpha * matmul(a, b)
    if symmetric and _halves(a):
        return _mirrored(a, b, x, beta, alpha)
    return (torch.addmm if x.dim() == 2 else torch.baddbmm)(x, a, b, beta=beta, alpha=alpha)


def _gram(a: Tensor) -> Tensor:
    """a a^T."""
    return _mirrored(a, a.mT) if _halves(a) else matmul(a, a.mT)


def _halves(a: Tensor) -> bool:
    """Whether products of so many rows that are their own transposes are faster by half."""
    return type(a) is Tensor and a.is_cpu and a.dim() == 2 and len(a) >= 2 * _band(a) and not torch.is_grad_enabled()


def _band(a: Tensor) -> int:
    """Rows at a time: fewer save more of the product, more are multiplied faster."""
    return max(80 if a.itemsize >= 4 else 160, -(-len(a) // 128) * 16)


def _mirrored(a: Tensor, b: Tensor, x: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """beta x + alpha a b, its own transpose: computed band by band up to the diagonal."""
    n, band = len(a), _band(a)
    out = a.new_empty(n, n)
    for lo in range(0, n, band):
        hi = min(lo + band, n)
        done = out[lo:hi, :hi]
        torch.addmm(done if x is None else x[lo:hi, :hi], a[lo:hi], b[:, :hi], beta=beta, alpha=alpha, out=done)
        out[:lo, lo:hi] = out[lo:hi, :lo].mT
    return out


def _norm(a: Tensor) -> Tensor:
    """The root of the sum of the squares of a matrix, as a matrix of one entry."""
    return torch.linalg.vector_norm(a, dim=(-2, -1), keepdim=True)


def _identity(a: Tensor) -> Tensor:
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
