"""Initial values as PyTorch expressions."""

from __future__ import annotations

from collections.abc import Sequence

from nldsl.core import Axis, Init, Type
from nldsl.dims import Dim
from nldsl_torch.ops import literal

WHOLE = {"zeros", "ones", "eye", "normal", "uniform"}  # tensors of the wanted shape


def size(type: Type) -> tuple[int, ...]:
    """The shape of a tensor of a type: axes, then shape."""
    dims = [*(a.size for a in type.axes), *type.shape]
    sizes = [d.integer for d in dims]
    assert all(n is not None for n in sizes), type
    return tuple(n for n in sizes if n is not None)


def initial(init: Init, type: Type, dtype: str = "") -> str:
    """An expression for a fresh tensor of a type, in torch's default dtype or the one given."""
    given = f", dtype={dtype}" if dtype else ""
    text = _value(init, size(type), type.axes, len(type.shape), given)
    if isinstance(init, tuple) and init[0] in WHOLE:
        return text
    return f"torch.as_tensor({text}{given}).expand({size(type)}).clone()" if "torch." in text else f"torch.full({size(type)}, {text}{given})"


def is_zeros(init: Init) -> bool:
    return init == ("zeros",) or (isinstance(init, Dim) and init.constant == 0) or init == 0.0


def _value(init: Init, shape: tuple[int, ...], axes: Sequence[Axis], rank: int, dtype: str) -> str:
    if isinstance(init, (Dim, int, float)):
        return f"float({literal(init)})" if isinstance(init, Dim) else repr(float(init))
    match init:
        case ("zeros",):
            return f"torch.zeros({shape}{dtype})"
        case ("ones",):
            return f"torch.ones({shape}{dtype})"
        case ("eye",):
            return f"torch.eye({shape[-1]}{dtype}).repeat({shape[:-2] + (1, 1)})"
        case ("normal", std):
            return f"(torch.randn({shape}{dtype}) * {_value(std, shape, axes, rank, dtype)})"
        case ("uniform", low, high):
            a, b = (_value(x, shape, axes, rank, dtype) for x in (low, high))
            return f"(torch.rand({shape}{dtype}) * ({b} - {a}) + {a})"
        case ("constant", value):
            return _value(value, shape, axes, rank, dtype)
        case ("index", axis):
            position = next(i for i, a in enumerate(axes) if a.id == axis)
            view = (-1,) + (1,) * (len(shape) - position - 1)
            return f"torch.arange({shape[position]}.0{dtype}).view({view})"
        case ("neg", a):
            return f"(-{_value(a, shape, axes, rank, dtype)})"
        case (("+" | "-" | "*" | "/" | "^") as op, a, b):
            x, y = (_value(v, shape, axes, rank, dtype) for v in (a, b))
            return f"({x} {'**' if op == '^' else op} {y})"
        case (("log" | "exp" | "sqrt" | "sigmoid") as fn, a):
            return f"torch.{fn}(torch.as_tensor({_value(a, shape, axes, rank, dtype)}{dtype}))"
        case ("softplus", a):
            return f"F.softplus(torch.as_tensor({_value(a, shape, axes, rank, dtype)}{dtype}))"
    raise NotImplementedError(init)
