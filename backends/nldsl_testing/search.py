"""The search for a counterexample: hypothesis draws examples and shrinks what fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

from nldsl_testing.compare import Diverges
from nldsl_testing.runs import Falsified, poisoned


@dataclass(frozen=True)
class Failure:
    """A property that does not hold, and the smallest example found.

    Attributes:
        what: what is wrong, in a line.
        example: the values that show it.
        lines: `file:line  text` of what is involved.
    """

    what: str
    example: Any
    lines: tuple[str, ...] = ()


class Search:
    """One search. Outcomes are remembered, so that an example is run once and a failure cannot flake.

    Attributes:
        tried: examples run.
        diverged: those of them whose numbers leave all range, which say nothing.
        seconds: after these no new example is run, but for the shrinking of a failure, which may take as long again.
    """

    def __init__(self, check: Callable[[Any], None], seconds: float, progress: Callable[[int], None] = lambda n: None):
        self.check, self.seconds, self.progress, self.start = check, seconds, progress, time.monotonic()
        self.outcomes: dict[Any, Exception | None] = {}
        self.last: Any = None  # the smallest failure so far
        self.diverged = 0

    @property
    def tried(self) -> int:
        return len(self.outcomes)

    def run(
        self, strategy: SearchStrategy[Any], examples: int, seed: int, firsts: Sequence[Any] = (),
        like: Callable[[Any], SearchStrategy[Any]] | None = None,
    ) -> Failure | None:  # fmt: skip
        """The smallest failure among examples of a strategy; `firsts` are tried before, and what is `like` one that fails is shrunk."""
        for example in firsts:
            if time.monotonic() - self.start > self.seconds / 2:
                break
            try:
                self._try(example)
            except Exception:
                strategy = like(example) if like is not None else strategy
                break

        @hypothesis.seed(seed)
        @settings(max_examples=examples, database=None, deadline=None, print_blob=False, report_multiple_bugs=False,
                  phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet)  # fmt: skip
        @given(strategy)
        def test(example: Any) -> None:
            self._try(example)

        try:
            test()
        except Exception:
            # What hypothesis raises says the same as the last failure, which is the smallest.
            if self.last is None:
                raise
        error = self.outcomes.get(self.last)
        if error is None:
            return None
        return Failure(error.what if isinstance(error, Falsified) else crash(error), self.last, getattr(error, "lines", ()))

    def _try(self, example: Any) -> None:
        if example not in self.outcomes:
            over = time.monotonic() - self.start > self.seconds * (1 if self.last is None else 2)
            if over and self.outcomes:
                return
            self.outcomes[example] = self._outcome(example)
            self.progress(self.tried)
        error = self.outcomes[example]
        if error is not None:
            self.last = example
            raise error

    def _outcome(self, example: Any) -> Exception | None:
        try:
            with poisoned():
                self.check(example)
        except Diverges:
            self.diverged += 1
        except Exception as error:  # a lowering that crashes does not hold what it promises
            return error
        return None


def crash(error: Exception) -> str:
    """An exception in a line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:300]}" if said else type(error).__name__
