"""What a training run is asked to do, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nldsl.wiring import ALONE, Wiring

from .errors import device_unavailable, setting_out_of_range, unknown_schedule
from .feeding import VOCABULARY
from .optimizers import SCHEDULES, OptimizerSpec

STEP_BYTES = 1 << 24
"""Most bytes in one batch: a slip of the keyboard ends in a diagnostic, not in swap."""

Objective = Callable[[Any, Tensor], Tensor]
Status = Literal["finished", "already finished", "interrupted", "out of time"]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean nats per byte: logits f32[B, L, 256] against i64[B, L]."""
    return nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), target.reshape(-1))


@dataclass(frozen=True)
class TrainSpec:
    """One training run.

    `build` makes the model, with first values drawn from torch's random state: `model(x) -> logits [B, L, 256]`, with
    `state` and `return_state=True` also the state after it, `model.initial_state(batch)` and
    `model.step(x_t, state) -> (logits, state)`; or with the inputs and outputs that `wiring` says.
    `objective(OUTPUTS, y)` is a scalar in nats, of what the model returns. `shared` names a memory of the model that all
    sequences of a batch share. `sharded` spreads the parameters over the processes. The fields of
    `identity` decide the numbers; the others may change between the parts of one run.
    """

    name: str
    spec_text: str
    spec_file: str
    build: Callable[[], nn.Module]
    run_dir: str | Path
    optimizer: OptimizerSpec
    objective: Objective = cross_entropy
    wiring: Wiring = ALONE
    steps: int = 400
    batch: int = 16
    length: int = 256
    warmup: int = 20
    schedule: str = "cosine"
    final_fraction: float = 0.1
    grad_clip: float | None = 1.0
    seed: int = 0
    data: str | Path | None = None
    eval_every: int = 50
    checkpoint_every: int = 50
    log_every: int = 10
    device: str = "cpu"
    time_budget: float | None = None
    threads: int | None = None
    sample_bytes: int = 400
    temperature: float = 0.8
    contexts: tuple[int, ...] | None = None
    shared: str | None = None
    sharded: bool = False

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """The context lengths that the last evaluation takes."""
        return self.contexts or (max(1, self.length // 4), self.length, 4 * self.length)

    def identity(self, text_sha256: str) -> dict[str, Any]:
        """The settings that a resumed run must share with its checkpoint, as JSON values."""
        return {
            **self.optimizer.identity,
            "batch": self.batch,
            "length": self.length,
            "warmup": self.warmup,
            "schedule": self.schedule,
            "final_fraction": self.final_fraction,
            "grad_clip": self.grad_clip,
            "seed": self.seed,
            "text sha256": text_sha256,
        }


@dataclass(frozen=True)
class Result:
    """How a call of `fit` ended. Numbers are None where the run has not come that far."""

    status: Status
    step: int
    steps: int
    run_dir: Path
    message: str
    exit_code: int = 0
    heldout_bpb: float | None = None
    baseline_bpb: float | None = None
    tokens_per_s: float | None = None
    sample: str | None = None


def validate(spec: TrainSpec) -> None:
    """Refuse settings that no run could follow."""
    if spec.schedule not in SCHEDULES:
        raise unknown_schedule(spec.schedule, SCHEDULES)
    for name in ("steps", "batch", "length", "eval_every", "checkpoint_every", "log_every"):
        _require(name, getattr(spec, name), "a whole number, 1 or more", lambda v: isinstance(v, int) and v >= 1)
    area = spec.batch * spec.length
    _require("batch x length", area, f"at most {STEP_BYTES} bytes a step", lambda v: v <= STEP_BYTES)
    for name in ("warmup", "seed", "sample_bytes"):
        _require(name, getattr(spec, name), "a whole number, 0 or more", lambda v: isinstance(v, int) and v >= 0)
    _require("final_fraction", spec.final_fraction, "a number in [0, 1]", lambda v: 0 <= v <= 1)
    _require("temperature", spec.temperature, "a finite number above 0", lambda v: math.isfinite(v) and v > 0)
    _require("contexts", spec.contexts, "whole numbers, 1 or more", lambda v: v is None or (len(v) > 0 and all(c >= 1 for c in v)))
    for name in ("grad_clip", "time_budget"):
        _require(name, getattr(spec, name), "a number above 0, or none", lambda v: v is None or v > 0)
    _require("threads", spec.threads, "1 or more, or none", lambda v: v is None or (isinstance(v, int) and v >= 1))
    _check_device(spec.device)


def _require(name: str, value: Any, expected: str, law: Callable[[Any], bool]) -> None:
    try:
        holds = law(value)
    except TypeError:
        holds = False
    if not holds:
        raise setting_out_of_range(name, expected, value)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise device_unavailable(device, str(error).splitlines()[0]) from None
