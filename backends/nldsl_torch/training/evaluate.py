"""What a trained model is worth: held-out bits per byte, and text that it continues."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn

from nldsl.wiring import ALONE, Wiring

from .data import IGNORED, ByteData
from .feeding import VOCABULARY, logits_of, outputs_of, read_on, step

PROMPT_BYTES = 64


def heldout_bits_per_byte(
    model: nn.Module,
    data: ByteData,
    device: str,
    wiring: Wiring = ALONE,
    limit: int | None = None,
    context: int | None = None,
) -> float:
    """Bits per held-out byte, each window read from an empty state; the first `limit` bytes if given.

    A window is `data.length` bytes, or `context`: a longer one is read in parts of `data.length`, the state carried.
    """
    nats, count = 0.0, 0
    with evaluating(model, device):
        for x, y in data.heldout_batches(limit, context):
            state = None
            for start in range(0, x.shape[1], data.length):
                part = slice(start, start + data.length)
                byte, target = x[:, part].to(device), y[:, part].to(device)
                if x.shape[1] <= data.length:
                    logits = logits_of(outputs_of(model, wiring, byte, target), wiring)
                else:
                    logits, state = read_on(model, wiring, byte, target, state)
                nats += nn.functional.cross_entropy(
                    logits.float().reshape(-1, VOCABULARY), target.reshape(-1), ignore_index=IGNORED, reduction="sum"
                ).item()
                count += int((target != IGNORED).sum())
    return nats / count / math.log(2)


def continue_text(
    model: nn.Module,
    prompt: bytes,
    count: int,
    *,
    temperature: float,
    seed: int,
    device: str,
    wiring: Wiring = ALONE,
) -> bytes:
    """`count` bytes drawn one `step` at a time after `prompt`, which is not empty.

    A model that learns from the byte that follows takes a step twice: for the logits, which do not depend on that byte,
    and with the one drawn, for the state that has learned from it.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = []
    with evaluating(model, device):
        state = model.initial_state(1)  # type: ignore[operator]
        for byte, following in pairwise(prompt):
            _, state = step(model, wiring, byte, following, state, device)
        byte = prompt[-1]
        while len(drawn) < count:
            logits, after = step(model, wiring, byte, 0, state, device)
            odds = torch.softmax(logits.float().cpu() / temperature, dim=-1)
            drawn.append(int(torch.multinomial(odds, 1, generator=generator)))
            if wiring.answers:
                _, after = step(model, wiring, byte, drawn[-1], state, device)
            state, byte = after, drawn[-1]
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
