"""Arithmetic with random roundings: how far a result moves when every operation on the way to it is off by a little.

The rounding of any way to compute the same thing is about as far from it. Errors are so measured by the values that went into
a sum, not by what is left of them: what is truly 0 is moved by as much as those that cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Noise(TorchDispatchMode):
    """While it is entered, each number that an operation makes of others is moved by such a part of itself, in gradients too."""

    def __init__(self, part: float, seed: int):
        super().__init__()
        self.part, self.draw = part, torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if shares_memory(func) or not any(map(of_numbers, args)):
            return made
        return type(made)([self.moved(x) for x in made]) if isinstance(made, (list, tuple)) else self.moved(made)

    def moved(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.is_meta:  # autograd finds some shapes by tensors without numbers
            return x
        return x * (1 + self.part * torch.randn(x.shape, generator=self.draw, dtype=torch.float64)).to(x.dtype)


@cache
def shares_memory(func: Any) -> bool:
    """Whether a result is an argument or a view of one."""
    return any(r.alias_info is not None for r in func._schema.returns)


def of_numbers(x: Any) -> bool:
    return x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, (list, tuple)) and any(map(of_numbers, x))
