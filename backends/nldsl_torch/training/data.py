"""Byte-level text: the embedded corpus, text files, training batches and held-out batches.

A batch is a pure function of (text, seed, step): a resumed run needs no sampler state.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .errors import text_too_small, text_unreadable

HELDOUT_FRACTION = 0.05
HELDOUT_LIMIT = 1 << 20
"""Most held-out bytes: keeps the last evaluation short on a large file."""

IGNORED = -100
"""Target at positions that pad a held-out batch; torch's cross entropy skips it."""


def embedded_text() -> bytes:
    """English prose that ships with Python: the topics of `pydoc`, in the order of their names."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics)).encode("utf-8")


def load_text(path: str | Path) -> bytes:
    """The bytes of a text file; any encoding will do."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise text_unreadable(Path(path), getattr(error, "strerror", None) or str(error)) from None


class ByteData:
    """A text split into a training part and the contiguous end held out from it.

    Windows are `length` bytes and their targets the bytes that follow each of them.
    """

    def __init__(self, text: bytes, *, batch: int, length: int, seed: int, origin: str = "the text") -> None:
        needed = 2 * length + 1
        if len(text) < needed:
            raise text_too_small(origin, len(text), needed, length)
        heldout = max(length, min(round(len(text) * HELDOUT_FRACTION), HELDOUT_LIMIT))
        self.text = text
        self.train_size = len(text) - heldout
        self.heldout_size = heldout
        self.batch_size = batch
        self.length = length
        self.seed = seed
        self._bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    @property
    def train_text(self) -> bytes:
        return self.text[: self.train_size]

    @property
    def heldout_text(self) -> bytes:
        return self.text[self.train_size :]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The training windows of `step` and their targets: two i64[batch, length]."""
        choose = random.Random(f"{self.seed}:{step}")
        starts = torch.tensor([choose.randrange(self.train_size - self.length) for _ in range(self.batch_size)])
        windows = self._bytes[starts[:, None] + torch.arange(self.length + 1)].long()
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def heldout_batches(self, limit: int | None = None, context: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Consecutive windows whose targets are each held-out byte once, in order.

        Windows are `length` bytes, or `context`; every batch is i64[rows, window], about `batch` x `length` bytes
        and at least a window: the last one is padded with targets `IGNORED`. `limit` ends the batches once that
        many bytes are covered.
        """
        size = self.heldout_size if limit is None else min(self.heldout_size, limit)
        window = self.length if context is None else min(context, size)
        rows = max(1, self.batch_size * self.length // window)
        area = rows * window
        for start in range(0, size, area):
            first = self.train_size + start
            last = min(first + area, self.train_size + self.heldout_size)
            x = torch.zeros(area, dtype=torch.int64)
            y = torch.full((area,), IGNORED)
            x[: last - first] = self._bytes[first - 1 : last - 1]
            y[: last - first] = self._bytes[first:last]
            yield x.view(rows, window), y.view(rows, window)
