"""`nldsl verify`: every property of every block, with shrunk counterexamples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from nldsl.program import Program
from nldsl_testing.example import Example, Space
from nldsl_testing.properties import PROPERTIES, Property
from nldsl_testing.runs import Falsified, compiled, interpret, poisoned
from nldsl_testing.sizes import small_sizes
from nldsl_testing.subject import Subject


@dataclass(frozen=True)
class Budget:
    """How much is tried.

    Attributes:
        examples: of the first property of a block; others have a share of them.
        seconds: for one block; a property whose part of them is over tries no more examples, and says how many it tried.
        sizes: different sizes of a block.
        seconds_an_example: the longest sequence is one whose gradients the interpreter has in this time.
    """

    examples: int = 60
    seconds: float = 90.0
    sizes: int = 4
    seconds_an_example: float = 0.4

    @classmethod
    def quick(cls) -> Budget:
        return cls(examples=8, seconds=5.0, sizes=2, seconds_an_example=0.08)


@dataclass(frozen=True)
class Failure:
    """A property that does not hold, and the smallest example found.

    Attributes:
        what: in one line.
        example: of a block; None where nothing is drawn.
        lines: `file:line  text` of what is involved.
        error: the class of an exception that is not `Falsified`, as a compiler that crashes is wrong too.
    """

    what: str
    example: Any
    lines: tuple[str, ...]
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
    """One property of one block: `failure` or `skipped` (why), or it holds."""

    subject: str
    property: str
    says: str
    examples: int
    seconds: float
    failure: Failure | None = None
    skipped: str | None = None


@dataclass
class Report:
    """What was tried of a file.

    Attributes:
        file: its name.
        seed: gives the same examples again.
    """

    file: str
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failure is not None]

    @property
    def holds(self) -> bool:
        return not self.failures


def verify_block(
    program: Program, block: str, sizes: Mapping[str, Any] | None = None, *, budget: Budget | None = None, seed: int = 0,
    only: Sequence[str] | None = None, compile: bool = False,
) -> Iterator[Outcome]:  # fmt: skip
    """The outcome of each property of a block, one after the other.

    Args:
        sizes: parameters that are fixed; the others are small and differ between examples.
        only: names of properties; all by default.
        compile: `torch.compile` is one of the lowerings.

    Raises:
        NlError: no sizes fit.
    """
    budget = budget or Budget()
    subjects = [Subject(program, block, s, compile=compile) for s in small_sizes(program, block, sizes or {}, budget.sizes, seed)]
    asked = [p for p in PROPERTIES if only is None or p.name in only]
    ticks = longest(subjects[0], budget.seconds_an_example)
    share, start = sum(p.examples for p in asked), time.monotonic()
    for number, item in enumerate(asked):
        left = budget.seconds - (time.monotonic() - start)
        mine = max(0.5, left * item.examples / sum(p.examples for p in asked[number:])) if share else left
        yield try_property(item, subjects, max(1, round(budget.examples * item.examples)), mine, max(2, round(ticks * item.ticks)), seed)


def longest(subject: Subject, seconds: float) -> int:
    """So many ticks that a run with gradients takes about this time, at least 4 and at most 80."""
    example = Example(tuple(subject.sizes.items()), cuts=(4,))
    with poisoned():
        compiled(subject, example)
    start = time.monotonic()
    run = interpret(subject, example)
    run.gradients(run.weights())
    return max(4, min(80, int(4 * seconds / max(time.monotonic() - start, 1e-4) / 2)))


def try_property(item: Property, subjects: Sequence[Subject], examples: int, seconds: float, ticks: int, seed: int) -> Outcome:
    """Look for an example that falsifies a property, and shrink it."""
    space = Space(subjects, ticks=ticks, batch=item.batch, values=item.values, noise=item.noise, lowerings=item.lowerings)
    why = item.applies(subjects[0])
    if why is not None:
        return Outcome(subjects[0].block, item.name, item.says, 0, 0.0, skipped=why)
    search = Search(lambda e: item.check(space.subject(e), e), seconds)
    failure = search.run(space.examples(), examples, seed)
    if failure is not None:
        subject = space.subject(failure.example)
        names = getattr(search.found[failure.example], "names", ())
        failure = replace(failure, lines=subject.lines(*names))
    return Outcome(subjects[0].block, item.name, item.says, search.tried, time.monotonic() - search.start, failure)


class Search:
    """One hypothesis run: outcomes are remembered, so that an example is run once and a failure cannot flake."""

    def __init__(self, check: Callable[[Any], None], seconds: float):
        self.check, self.seconds, self.start = check, seconds, time.monotonic()
        self.found: dict[Any, Exception | None] = {}
        self.last: Any = None

    @property
    def tried(self) -> int:
        return len(self.found)

    def run(self, strategy: Any, examples: int, seed: int) -> Failure | None:
        @hypothesis.seed(seed)
        @settings(max_examples=examples, database=None, deadline=None, print_blob=False, report_multiple_bugs=False,
                  phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet)  # fmt: skip
        @given(strategy)
        def test(example: Any) -> None:
            self._try(example)

        try:
            test()
        except Exception as error:
            if self.last is None:
                raise
            known = self.found[self.last]
            what = known.what if isinstance(known, Falsified) else f"{type(known).__name__}: {known}"
            return Failure(what, self.last, (), None if isinstance(known, Falsified) else type(known).__name__) if known else _reraise(error)
        return None

    def _try(self, example: Any) -> None:
        if example not in self.found:
            # A failure may take as long again to shrink.
            if time.monotonic() - self.start > self.seconds * (1 if self.last is None else 2) and self.found:
                return
            self.found[example] = self._outcome(example)
        error = self.found[example]
        if error is not None:
            self.last = example
            raise error

    def _outcome(self, example: Any) -> Exception | None:
        try:
            with poisoned():
                self.check(example)
        except (Exception, torch.OutOfMemoryError) as error:
            return error
        return None


def _reraise(error: Exception) -> Failure:
    raise error
