"""Text, batches and the baseline."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nldsl_torch.training import ByteData, embedded_text, load_text, order3_bits_per_byte
from nldsl_torch.training.data import IGNORED


def test_embedded_text_is_english_prose() -> None:
    text = embedded_text()
    assert len(text) > 300_000
    assert b'The "assert" statement' in text


def test_batches_depend_on_seed_and_step_only() -> None:
    def batch(seed: int, step: int) -> torch.Tensor:
        return ByteData(bytes(range(256)) * 8, batch=4, length=32, seed=seed).batch(step)[0]

    torch.manual_seed(1)
    first = batch(0, 7)
    torch.manual_seed(2)
    assert torch.equal(first, batch(0, 7))
    assert not torch.equal(first, batch(0, 8))
    assert not torch.equal(first, batch(1, 7))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 400), batch=st.integers(1, 4), length=st.integers(1, 40), step=st.integers(0, 9))
def test_split_and_windows_of_any_size(size: int, batch: int, length: int, step: int) -> None:
    text = bytes(n % 251 for n in range(2 * length + size))
    data = ByteData(text, batch=batch, length=length, seed=0)
    assert data.train_text + data.heldout_text == text
    assert data.heldout_size >= length
    x, y = data.batch(step)
    assert x.shape == y.shape == (batch, length) and x.dtype == y.dtype == torch.int64
    for window, target in zip(x.tolist(), y.tolist(), strict=True):
        assert bytes([*window, target[-1]]) in data.train_text
        assert window[1:] == target[:-1]
    targets = torch.cat([y.flatten() for _, y in data.heldout_batches()])
    assert bytes(targets[targets != IGNORED].tolist()) == data.heldout_text
    inputs = torch.cat([x.flatten() for x, _ in data.heldout_batches()])
    assert bytes(inputs[targets != IGNORED].tolist()) == text[data.train_size - 1 : -1]


def test_smallest_text_trains(mistake) -> None:
    ByteData(b"x" * 21, batch=2, length=10, seed=0).batch(0)
    diagnostic = mistake(ByteData, b"x" * 20, batch=2, length=10, seed=0)
    assert diagnostic.code == "NL702"
    assert "at least 21 bytes" in diagnostic.expected and diagnostic.found == "20 bytes"
    assert "empty" in mistake(ByteData, b"", batch=2, length=10, seed=0).message


def test_unreadable_files(mistake, tmp_path) -> None:
    for path in (tmp_path / "absent.txt", tmp_path, "nul\0name"):
        assert mistake(load_text, path).code == "NL701"


def test_baseline_on_the_embedded_text() -> None:
    data = ByteData(embedded_text(), batch=1, length=256, seed=0)
    start = time.perf_counter()
    bits = order3_bits_per_byte(data.train_text, data.heldout_text)
    assert time.perf_counter() - start < 2
    assert 1.6 < bits < 2.2
    assert bits < order3_bits_per_byte(data.train_text, data.heldout_text, "half") < 2.6


def test_baseline_equals_its_equation() -> None:
    train, heldout = b"the cat sat on the mat; the cat ate the rat." * 3, b"the bat sat on that cat!"
    counts: dict[bytes, Counter[int]] = defaultdict(Counter)
    for order in range(4):
        for place in range(order, len(train)):
            counts[train[place - order : place]][train[place]] += 1
    text, bits = train + heldout, 0.0
    for place in range(len(train), len(text)):
        probability = 1 / 256
        for order in range(4):
            seen = counts.get(text[place - order : place])
            if seen:
                total = sum(seen.values())
                probability = (seen[text[place]] + len(seen) * probability) / (total + len(seen))
        bits -= math.log2(probability)
    assert order3_bits_per_byte(train, heldout) == pytest.approx(bits / len(heldout), rel=1e-12)
    assert order3_bits_per_byte(b"a", b"b") == 9.0
