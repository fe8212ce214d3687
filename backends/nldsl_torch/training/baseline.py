"""The order-3 context model: the yardstick printed beside every trained model.

The probability of the next byte mixes the counts after its last 3, 2, 1 and 0 bytes; what the
longer context leaves over goes to the next shorter one, and order 0 leaves the rest to the uniform
distribution:

    P_k(b | h) = (count(h b) + escape(h) * P_{k-1}(b | h')) / (count(h) + escape(h))

`witten-bell` takes escape(h) = the number of different bytes seen after h (a context with many
followers is trusted less); `half` takes escape(h) = count(h), which weighs both terms by one half.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

ORDER = 3
BYTE = np.uint32(8)

Smoothing = Literal["witten-bell", "half"]


def order3_bits_per_byte(train: bytes, heldout: bytes, smoothing: Smoothing = "witten-bell") -> float:
    """Bits per byte of `heldout`, which follows `train`, under counts taken from `train` alone."""
    past = np.frombuffer(train, dtype=np.uint8)
    probability = np.full(len(heldout), 1 / 256)
    for order in range(min(ORDER, len(train) - 1) + 1):
        text = np.frombuffer(train[len(train) - order :] + heldout, dtype=np.uint8)
        counts = _Counts(past, order, smoothing)
        probability = counts.mix(probability, _grams(text, order))
    return float(-np.log2(probability).mean())


class _Counts:
    """How often each gram of `order + 1` bytes, and each context of `order` bytes, occurs in a text."""

    def __init__(self, text: NDArray[np.uint8], order: int, smoothing: Smoothing) -> None:
        self.grams, self.gram_counts = np.unique(_grams(text, order), return_counts=True)
        self.contexts, first, distinct = np.unique(self.grams >> BYTE, return_index=True, return_counts=True)
        self.context_counts = np.add.reduceat(self.gram_counts, first)
        self.escapes = distinct if smoothing == "witten-bell" else self.context_counts

    def mix(self, shorter: NDArray[np.float64], asked: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The probabilities of the grams `asked`, given those of their endings under the `shorter` order."""
        count = _lookup(self.grams, self.gram_counts, asked)
        total = _lookup(self.contexts, self.context_counts, asked >> BYTE)
        escape = _lookup(self.contexts, self.escapes, asked >> BYTE)
        return np.where(total > 0, (count + escape * shorter) / np.maximum(total + escape, 1), shorter)


def _grams(text: NDArray[np.uint8], order: int) -> NDArray[np.uint32]:
    """Every run of `order + 1` bytes as one number; the last byte is the lowest."""
    count = len(text) - order
    code = np.zeros(count, dtype=np.uint32)
    for offset in range(order + 1):
        code = (code << BYTE) | text[offset : offset + count]
    return code


def _lookup(keys: NDArray[np.uint32], values: NDArray[np.int64], asked: NDArray[np.uint32]) -> NDArray[np.int64]:
    """`values` at `asked`, 0 where a key is absent; `keys` is sorted and not empty."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
