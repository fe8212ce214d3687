"""An example: everything that is drawn for one run of a block, as small values that shrink and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from nldsl.core import Input
from nldsl_interpreter.values import sizes
from nldsl_testing.subject import Subject, Tensors

# How the inputs of all ticks are drawn. Of whole numbers `zeros` is 0 and `large` the largest.
VALUES = ("normal", "repeated", "sparse", "zeros", "small", "large")


@dataclass(frozen=True)
class Example:
    """One run.

    Attributes:
        sizes: the parameters of the block, (name, value).
        lowering: the way it runs; see `Subject.lowerings`.
        batch: sequences.
        cuts: lengths of the calls that make a sequence.
        values: how inputs are drawn, one of `VALUES`.
        noise: added to the first values of params, as a standard deviation.
        seed: of all values.
    """

    sizes: tuple[tuple[str, Any], ...] = ()
    lowering: str = "chosen"
    batch: int = 1
    cuts: tuple[int, ...] = (1,)
    values: str = "normal"
    noise: float = 0.2
    seed: int = 0

    @property
    def ticks(self) -> int:
        return sum(self.cuts)

    @property
    def ends(self) -> list[int]:
        return list(accumulate(self.cuts))

    def inputs(self, subject: Subject) -> Tensors:
        """float64 values that float32 represents, [batch, ticks, *shape]; whole numbers below their bound."""
        draw = torch.Generator().manual_seed(self.seed + 1)
        return {i.name: self._input(i, draw) for i in subject.inputs}

    def _input(self, given: Input, draw: torch.Generator) -> Tensor:
        shape = (self.batch, self.ticks, *sizes(given.type))
        if given.type.kind == "int":
            bound = given.type.bound.integer if given.type.bound is not None and given.type.bound.integer else 2
            x = torch.randint(bound, shape, generator=draw)
            x = {"zeros": torch.zeros_like(x), "large": torch.full_like(x, bound - 1)}.get(self.values, x)
        else:
            # The same numbers at one tick however many there are, so that a shorter run is a prefix.
            x = torch.stack([torch.randn(shape[:1] + shape[2:], generator=draw) for _ in range(self.ticks)], 1).double()
            x = x * {"zeros": 0.0, "small": 1e-4, "large": 30.0}.get(self.values, 1.0)
        if self.values == "repeated":
            x = x[:, :1].expand_as(x).clone()
        if self.values == "sparse":
            x = x * (torch.rand(shape[:2], generator=draw) < 0.5).to(x.dtype).reshape(*shape[:2], *(1,) * (len(shape) - 2))
        return x


@dataclass(frozen=True)
class Space:
    """The examples of a block.

    Attributes:
        subjects: at each size, the smallest first.
        ticks: the longest sequence.
        batch: the largest batch.
        values: ways to draw inputs, the plainest first.
        noise: of params, the plainest first.
        lowerings: names, or None for all of each subject.
    """

    subjects: Sequence[Subject]
    ticks: int = 24
    batch: int = 3
    values: Sequence[str] = VALUES[:4]
    noise: Sequence[float] = (0.2, 0.0, 1.0)
    lowerings: Sequence[str] | None = None

    def subject(self, example: Example) -> Subject:
        return next(s for s in self.subjects if tuple(s.sizes.items()) == example.sizes)

    def examples(self) -> st.SearchStrategy[Example]:
        return st.sampled_from(list(self.subjects)).flatmap(self._of)

    def firsts(self) -> list[Example]:
        """One example of each lowering, at sizes in turn."""
        found = []
        for n, name in enumerate(self.lowerings if self.lowerings is not None else self.subjects[0].lowerings):
            subject = self.subjects[n % len(self.subjects)]
            if self.lowerings is not None or name in subject.lowerings:
                found.append(Example(tuple(subject.sizes.items()), name, min(2, self.batch), _within((5, 1, 4), self.ticks), self.values[0], self.noise[0], n))
        return found

    def like(self, example: Example) -> st.SearchStrategy[Example]:
        """Examples of one lowering."""
        return replace(self, subjects=[s for s in self.subjects if example.lowering in s.lowerings], lowerings=[example.lowering]).examples()

    def _of(self, subject: Subject) -> st.SearchStrategy[Example]:
        names = list(self.lowerings) if self.lowerings is not None else list(subject.lowerings)

        def example(seed: int, **drawn: Any) -> Example:
            # In turn, every other time the plainest: a strategy of its own would hardly draw the later ones.
            return Example(tuple(subject.sizes.items()), names[seed // 2 % len(names) if seed % 2 else 0], seed=seed, **drawn)

        return st.builds(
            example,
            seed=st.integers(0, 2**16),
            batch=st.integers(1, self.batch),
            cuts=cuts(self.ticks),
            values=st.sampled_from(list(self.values)),
            noise=st.sampled_from(list(self.noise)),
        )


def cuts(ticks: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Lengths of calls, at most so many ticks in all: many of one tick, some that reach the end of a chunk and beyond."""
    piece = st.one_of(st.integers(1, min(4, ticks)), st.integers(1, ticks))
    return st.lists(piece, min_size=1, max_size=5).map(lambda found: _within(found, ticks))


def _within(pieces: Sequence[int], ticks: int) -> tuple[int, ...]:
    ends = [min(e, ticks) for e in accumulate(pieces)]
    return tuple(b - a for a, b in zip([0, *ends], ends) if b > a)

