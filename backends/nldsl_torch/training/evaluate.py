"""What a trained model is worth: held-out bits per byte, and text that it continues."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .data import IGNORED, ByteData
from .spec import VOCABULARY

PROMPT_BYTES = 64


def heldout_bits_per_byte(model: nn.Module, data: ByteData, device: str, limit: int | None = None) -> float:
    """Bits per held-out byte, each window read from an empty state; the first `limit` bytes if given."""
    nats, count = 0.0, 0
    with evaluating(model, device):
        for x, y in data.heldout_batches(limit):
            logits, target = model(x.to(device)).float(), y.to(device)
            nats += nn.functional.cross_entropy(
                logits.reshape(-1, VOCABULARY), target.reshape(-1), ignore_index=IGNORED, reduction="sum"
            ).item()
            count += int((y != IGNORED).sum())
    return nats / count / math.log(2)


def continue_text(model: nn.Module, prompt: bytes, count: int, *, temperature: float, seed: int, device: str) -> bytes:
    """`count` bytes drawn one `step` at a time after `prompt`, which is not empty."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = []
    with evaluating(model, device):
        state = model.initial_state(1)  # type: ignore[operator]
        for byte in prompt:
            logits, state = _step(model, byte, state, device)
        while len(drawn) < count:
            odds = torch.softmax(logits[0].float().cpu() / temperature, dim=-1)
            drawn.append(int(torch.multinomial(odds, 1, generator=generator)))
            logits, state = _step(model, drawn[-1], state, device)
    return bytes(drawn)


def printable(text: bytes) -> str:
    """Text safe to show in a terminal: control characters and broken utf-8 become `�`."""
    decoded = text.decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in decoded)


@contextmanager
def evaluating(model: nn.Module, device: str) -> Iterator[None]:
    """Evaluation mode without gradients; training mode and the random state are as before afterwards."""
    was_training = model.training
    model.eval()
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            yield
    finally:
        model.train(was_training)


def _step(model: nn.Module, byte: int, state: object, device: str) -> tuple[Tensor, object]:
    logits, state = model.step(torch.tensor([byte], device=device), state)  # type: ignore[operator]
    return logits, state
