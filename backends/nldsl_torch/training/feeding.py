"""A model fed and read as its wiring says: with the byte alone, or with the byte and the one that follows.

A model that is told the next byte learns from it. Its logits at a tick do not depend on that byte (NL731), so where the
answer is not known, in padding or before it is drawn, any byte may stand for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nldsl.wiring import Wiring

from .errors import model_unfit

VOCABULARY = 256


def outputs_of(model: nn.Module, wiring: Wiring, byte: Tensor, following: Tensor) -> Any:
    """The model's outputs over whole windows, from an empty state: [batch, length] twice."""
    return model(*fed(wiring, byte, following))


def read_on(model: nn.Module, wiring: Wiring, byte: Tensor, following: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The logits of windows that go on from `state`, and the state after them."""
    outputs, state = model(*fed(wiring, byte, following), state=state, return_state=True)
    return logits_of(outputs, wiring), state


def step(model: nn.Module, wiring: Wiring, byte: int, following: int, state: Any, device: str) -> tuple[Tensor, Any]:
    """One tick of one sequence: logits [256] and the state after it."""
    ins = (torch.tensor([value], device=device) for value in (byte, following))
    outputs, state = model.step(*fed(wiring, *ins), state)  # type: ignore[operator]
    return logits_of(outputs, wiring)[0], state


def fed(wiring: Wiring, byte: Tensor, following: Tensor) -> list[Tensor]:
    """The inputs of the model in its order; where a target is padding a byte stands for it."""
    streams = {"byte": byte, "next": following.clamp(min=0)}
    return [streams[name] for name in wiring.inputs]


def logits_of(outputs: Any, wiring: Wiring) -> Any:
    return outputs if wiring.logits is None else outputs[wiring.logits]


def check_logits(logits: object, x: Tensor) -> None:
    """Refuse a model that gives anything but 256 logits for each byte (NL716)."""
    expected = (*x.shape, VOCABULARY)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        raise model_unfit("the model's output", f"f32{list(expected)}", shape(logits))


def shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.').replace('float', 'f')}{list(value.shape)}"
