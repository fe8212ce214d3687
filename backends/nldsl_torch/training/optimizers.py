"""The outer optimizer and its learning-rate schedule, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer by name; its decay applies to every parameter."""

    name: str = "adamw"
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    eps: float = 1e-8


def _adamw(parameters: Iterable[nn.Parameter], spec: OptimizerSpec) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, eps=spec.eps)


def _cosine(progress: float, final: float) -> float:
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _constant(progress: float, final: float) -> float:
    return 1.0


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], OptimizerSpec], torch.optim.Optimizer]] = {"adamw": _adamw}
SCHEDULES: dict[str, Callable[[float, float], float]] = {"cosine": _cosine, "constant": _constant}


def learning_rate(step: int, *, lr: float, steps: int, warmup: int, schedule: str, final_fraction: float) -> float:
    """The rate of `step` (1 is the first): a linear rise over `warmup` steps, then the schedule."""
    if step <= warmup:
        return lr * step / warmup
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return lr * SCHEDULES[schedule](progress, final_fraction)
