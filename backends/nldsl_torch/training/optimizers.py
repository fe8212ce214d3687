"""The outer optimizer of a run, and the schedule of its learning rates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nldsl.program import Program
from nldsl.routes import Route
from nldsl_torch.optim.routing import RouteWarning, assign

from .errors import rule_unfit


@dataclass(frozen=True)
class OptimizerSpec:
    """How the outer optimizer of a model is made.

    Attributes:
        make: the optimizer of a model. The number `lr` of each of its groups follows the schedule.
        identity: what decides its numbers, as JSON values: a resumed run must share it with its checkpoint.
        table: which rule trains which parameter, where that is worth a look.
    """

    make: Callable[[nn.Module], torch.optim.Optimizer]
    identity: Mapping[str, Any] = field(default_factory=dict)
    table: Callable[[nn.Module], str] | None = None


def routed(program: Program, routes: Sequence[Route]) -> OptimizerSpec:
    """The optimizer of a `train` block."""
    from nldsl_torch.optim.build import optimizer_for

    def make(model: nn.Module) -> torch.optim.Optimizer:
        try:
            with _quiet():
                made: torch.optim.Optimizer = optimizer_for(program, routes, model)
        except (TypeError, ValueError) as error:
            raise rule_unfit(" ".join(str(error).split()), routes) from error
        return made

    def table(model: nn.Module) -> str:
        with _quiet():
            return str(assign(model, routes))

    identity = {"optimizer": ", ".join(map(str, routes))}
    return OptimizerSpec(make, identity, table if len(routes) > 1 or any(r.roles for r in routes[0].chain) else None)


@contextmanager
def _quiet() -> Iterator[None]:
    """The table shows routes without parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RouteWarning)
        yield


def _cosine(progress: float, final: float) -> float:
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _constant(progress: float, final: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float, float], float]] = {"cosine": _cosine, "constant": _constant}


def rate_factor(step: int, *, steps: int, warmup: int, schedule: str, final_fraction: float) -> float:
    """The part of the full rates that `step` has (1 is the first): a linear rise over `warmup` steps, then the schedule."""
    if step <= warmup:
        return step / warmup
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return SCHEDULES[schedule](progress, final_fraction)
