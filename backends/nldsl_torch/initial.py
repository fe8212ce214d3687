"""Initial values as PyTorch expressions."""

from __future__ import annotations

from collections.abc import Sequence

from nldsl.core import Axis, Init, Type
from nldsl.dims import Dim
from nldsl_torch.ops import literal

WHOLE = {"zeros", "ones", "eye", "normal", "uniform", "pretrained"}  # tensors of the wanted shape


def size(type: Type) -> tuple[int, ...]:
    """The shape of a tensor of a type: axes, then shape."""
    dims = [*(a.size for a in type.axes), *type.shape]
    sizes = [d.integer for d in dims]
    assert all(n is not None for n in sizes), type
    return tuple(n for n in sizes if n is not None)


def initial(init: Init, type: Type, dtype: str | None = None) -> str:
    """An expression for a fresh tensor of a type, of the default dtype unless one is given."""
    given = f", dtype={dtype}" if dtype is not None else ""
    text = _value(init, size(type), type.axes, given)
    if isinstance(init, tuple) and init[0] in WHOLE:
        return text
    return f"torch.as_tensor({text}).expand({size(type)}).clone()" if "torch." in text or "pretrained(" in text else f"torch.full({size(type)}, {text}{given})"


def is_zeros(init: Init) -> bool:
    return init == ("zeros",) or (isinstance(init, Dim) and init.constant == 0) or init == 0.0


def _value(init: Init, shape: tuple[int, ...], axes: Sequence[Axis], given: str) -> str:
    if isinstance(init, (Dim, int, float)):
        return f"float({literal(init)})" if isinstance(init, Dim) else repr(float(init))
    match init:
        case ("zeros",):
            return f"torch.zeros{shape}" if shape else "torch.zeros(())"
        case ("ones",):
            return f"torch.ones{shape}" if shape else "torch.ones(())"
        case ("eye",):
            return f"torch.eye({shape[-1]}).repeat({shape[:-2] + (1, 1)})"
        case ("normal", std):
            return f"(torch.randn({shape}) * {_value(std, shape, axes, given)})"
        case ("uniform", low, high):
            a, b = (_value(x, shape, axes, given) for x in (low, high))
            return f"(torch.rand({shape}) * ({b} - {a}) + {a})"
        case ("pretrained", file, name):
            return f"pretrained(FILES, {file!r}, {name!r}, {shape})"
        case ("constant", value):
            return _value(value, shape, axes, given)
        case ("index", axis):
            position = next(i for i, a in enumerate(axes) if a.id == axis)
            view = (-1,) + (1,) * (len(shape) - position - 1)
            return f"torch.arange({shape[position]}.0{given}).view({view})"
        case ("neg", a):
            return f"(-{_value(a, shape, axes, given)})"
        case (("+" | "-" | "*" | "/" | "^") as op, a, b):
            x, y = (_value(v, shape, axes, given) for v in (a, b))
            return f"({x} {'**' if op == '^' else op} {y})"
        case (("log" | "exp" | "sqrt" | "sigmoid") as fn, a):
            return f"torch.{fn}(torch.as_tensor({_value(a, shape, axes, given)}{given}))"
        case ("softplus", a):
            return f"F.softplus(torch.as_tensor({_value(a, shape, axes, given)}{given}))"
    raise NotImplementedError(init)
