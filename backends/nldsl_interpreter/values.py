"""Values: how a stream lies in memory at one tick, and how a param or a state begins.

At a tick a stream is a tensor [B, *axes, *shape]. B and an axis may have size 1, where every copy has one value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from nldsl.core import Axis, Init, Type
from nldsl.dims import Dim
from nldsl.pretrained import named
from nldsl.vocabulary import is_number

HERE = Path()
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"log": torch.log, "exp": torch.exp, "sqrt": torch.sqrt, "sigmoid": torch.sigmoid, "softplus": F.softplus,
             "neg": torch.neg, "+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.div, "^": torch.pow}  # fmt: skip


def integer(dim: Dim) -> int:
    """The number a dimension of a concrete unit is.

    Raises:
        ValueError: the unit is symbolic.
    """
    if dim.integer is None:
        raise ValueError(f"the dimension {dim} has no value: only a unit at given parameters can run")
    return dim.integer


def sizes(type: Type) -> tuple[int, ...]:
    """The size of a value of this type, without the batch."""
    return (*(integer(a.size) for a in type.axes), *map(integer, type.shape))


def lift(x: Tensor, type: Type, axes: tuple[Axis, ...], rank: int) -> Tensor:
    """A value of `type` laid out so that it broadcasts against values with these axes and so many dimensions."""
    held = {a.id: n for a, n in zip(type.axes, x.shape[1:], strict=False)}
    own: tuple[int, ...] = x.shape[1 + len(type.axes) :]
    own = (1,) * rank if is_number(type) else (*(1,) * (rank - len(own)), *own)
    return x.reshape(x.shape[0], *(held.get(a.id, 1) for a in axes), *own)


def initial_value(init: Init, type: Type, dtype: torch.dtype, generator: torch.Generator | None = None, folder: Path = HERE) -> Tensor:
    """The first value of a param or a state, [*axes, *shape]. Random entries are drawn in row-major order; files are in `folder`."""
    shape = sizes(type)

    def value(e: Init) -> Tensor:
        match e:
            case ("zeros",):
                return torch.zeros((), dtype=dtype)
            case ("ones",):
                return torch.ones((), dtype=dtype)
            case ("eye",):
                return torch.eye(shape[-1], dtype=dtype)
            case ("normal", std):
                return value(std) * torch.randn(shape, dtype=dtype, generator=generator)
            case ("uniform", low, high):
                return value(low) + (value(high) - value(low)) * torch.rand(shape, dtype=dtype, generator=generator)
            case ("constant", number):
                return value(number)
            case ("pretrained", file, name):
                with safe_open(folder / file, "pt") as tensors:
                    return tensors.get_tensor(named(tensors.keys(), name)).to(dtype)
            case ("index", axis):
                place = [a.id for a in type.axes].index(axis)
                return torch.arange(shape[place], dtype=dtype).reshape(-1, *(1,) * (len(shape) - place - 1))
            case (name, *args):
                return FUNCTIONS[name](*map(value, args))
        number = e.constant if isinstance(e, Dim) else e
        assert isinstance(number, (int, float)) or number is not None, f"{e} has no value"
        return torch.tensor(float(number), dtype=dtype)  # type: ignore[arg-type]

    return value(init).expand(shape).clone()
