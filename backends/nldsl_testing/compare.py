"""How far two runs are from each other, and how far they may be.

The reference is the interpreter in float64. A run in float64 may differ from it in each tensor by `TOLERANCE` of the
tensor's norm; a tensor that is small beside the others of its kind is measured by `SMALL` of them, as it may be what is left
of a difference, and what is below `LEAST` is measured by it. A run in fewer digits may differ by `FACTOR` times what the
interpreter itself loses in these digits, the condition of the computation, and by `FACTOR` units of rounding; there a small
tensor is measured by so much of the others that 4 units of rounding of them pass. A run in float64 that is badly conditioned
may differ by `FACTOR` times what the interpreter loses when every operation in it is off by a rounding, see `noise`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

TOLERANCE, SMALL, FACTOR = 1e-9, 1e-4, 50.0
LEAST = 1e-18  # no tensor counts as smaller: a retention of 0 that is carried as a logarithm may leave 1e-30


class Diverges(Exception):
    """The numbers of an example leave the range of their dtype by what the program says: how others compute them says nothing."""


def small_part(dtype: torch.dtype) -> float:
    """Of the size of all tensors: the least by which one is measured."""
    return SMALL if dtype == torch.float64 else 4 / FACTOR


def distances(found: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor | None], small: float = SMALL) -> dict[str, float]:
    """|found - wanted| of each tensor as a fraction of its size, or of a small part of the size of all; None is zero."""
    norms = {n: 0.0 if w is None else w.double().nan_to_num(0.0, 0.0, 0.0).norm().item() for n, w in wanted.items()}
    total = sum(v * v for v in norms.values()) ** 0.5
    off: dict[str, float] = {}
    for name, w in wanted.items():
        g = found[name]
        far = difference(g, w)
        off[name] = far / max(norms[name], small * total, LEAST)
    return off


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """The norm of a - b; places where both are the same infinity or both are no number do not count."""
    if a is None or b is None:
        x = b if a is None else a
        return 0.0 if x is None else x.double().norm().item()
    a, b = torch.broadcast_tensors(a.double(), b.double())
    same = (a == b) | (a.isnan() & b.isnan())
    far = torch.where(same, torch.zeros_like(a), a - b).norm().item()
    return float("inf") if far != far else far


def worst(off: Mapping[str, float]) -> tuple[str, float]:
    """The name that is furthest off."""
    name = max(off, key=lambda n: off[n], default="")
    return name, off.get(name, 0.0)


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Bit for bit, but for the sign of zero; no number equals no number."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan() if a.is_floating_point() else a == b)).all())


def close(a: Tensor, b: Tensor) -> bool:
    """Within `TOLERANCE` of their size."""
    return difference(a, b) <= TOLERANCE * max(b.double().norm().item(), LEAST)


def within_range(values: Iterable[Tensor | None], dtype: torch.dtype) -> bool:
    """Whether all are numbers whose squares the dtype holds, and a little more."""
    most = torch.finfo(dtype).max ** (15 / 32)
    return all(bool((v.detach().abs() <= most).all()) for v in values if v is not None and v.is_floating_point())
