"""`nldsl verify`: every property of every block and rule, with shrunk counterexamples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from nldsl.program import Program
from nldsl_testing.blame import first_wrong
from nldsl_testing.example import Example, Space
from nldsl_testing.optimizers import RULE_PROPERTIES, RuleProperty, RuleSubject
from nldsl_testing.properties import PROPERTIES, Property
from nldsl_testing.runs import Falsified, compiled, interpret, poisoned
from nldsl_testing.search import Failure, Search
from nldsl_testing.sizes import small_sizes
from nldsl_testing.subject import Subject

NAMES = tuple(dict.fromkeys([*(p.name for p in PROPERTIES), *(p.name for p in RULE_PROPERTIES)]))
DIVERGED = "the program's own numbers leave the range of float64 in every example"
Progress = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Budget:
    """How much is tried.

    Attributes:
        examples: of the first property; others have a share of them.
        seconds: for a file. A property whose part of them is over tries no more examples, and says how many it tried.
        sizes: different sizes of a block.
        example: seconds that the interpreter may take for the longest sequence, with its gradients.
    """

    examples: int = 60
    seconds: float = 75.0
    sizes: int = 5
    example: float = 0.4

    @classmethod
    def of(cls, *, quick: bool = False, examples: int | None = None, seconds: float | None = None) -> Budget:
        known = cls(examples=10, seconds=3.0, sizes=2, example=0.05) if quick else cls()
        known = replace(known, examples=examples, seconds=known.seconds * max(1.0, examples / known.examples)) if examples is not None else known
        return replace(known, seconds=seconds) if seconds is not None else known


@dataclass(frozen=True)
class Outcome:
    """One property of one block or rule: a `failure`, `skipped` (why), or it holds; `diverged` of its examples say nothing."""

    subject: str
    where: str
    property: str
    says: str
    examples: int
    seconds: float
    failure: Failure | None = None
    skipped: str | None = None
    diverged: int = 0


@dataclass
class Report:
    """What was tried of a file, and the seed that gives the same examples again."""

    file: str
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failure is not None]

    @property
    def holds(self) -> bool:
        return not self.failures


def verify(
    program: Program, *, block: str | None = None, rule: str | None = None, sizes: Mapping[str, Any] | None = None, budget: Budget | None = None,
    seed: int = 0, only: Sequence[str] | None = None, dtypes: Sequence[str] | None = None, compile: bool = False,
    progress: Progress = lambda *said: None,
) -> Iterator[Outcome]:  # fmt: skip
    """The outcome of each property, one after the other.

    Args:
        block, rule: what is meant; by default every block that no other uses, or in a file without blocks every such rule.
        sizes: parameters that are fixed; the others are small and differ between examples.
        only: names of properties, of `NAMES`; all by default.
        dtypes: those of the property `precision`.
        compile: `torch.compile` is one of the lowerings.

    Raises:
        NlError: nothing of that name, no small sizes fit, a rule that is no optimizer.
    """
    budget = budget or Budget()
    blocks = [block] if block is not None else list(program.root_blocks) if rule is None else []
    rules = [rule] if rule is not None else list(program.root_rules) if not blocks else []
    part = replace(budget, seconds=budget.seconds / max(1, len(blocks) + len(rules)))
    chosen = [getattr(torch, d) for d in dtypes] if dtypes else [torch.float32, torch.bfloat16]
    for name in blocks:
        yield from _block(program, name, sizes or {}, part, seed, only, chosen, compile, progress)
    for name in rules:
        yield from _rule(program, name, sizes or {}, part, seed, only, progress)


def _block(
    program: Program, block: str, sizes: Mapping[str, Any], budget: Budget, seed: int, only: Sequence[str] | None, dtypes: Sequence[torch.dtype],
    compile: bool, progress: Progress,
) -> Iterator[Outcome]:  # fmt: skip
    node = program.block(block)
    needed = [f.name for f in node.formals if f.name in program.block_formals(block) and f.name not in sizes]
    asked = [p for p in PROPERTIES if only is None or p.name in only]
    if needed:
        missing = f"it takes blocks as parameters: give {', '.join(f'-D {n}=NAME' for n in needed)}"
        yield from (Outcome(block, node.span.where, p.name, p.says, 0, 0.0, skipped=missing) for p in asked[:1])
        return
    start = time.monotonic()
    subjects = [Subject(program, block, s, compile=compile, dtypes=tuple(dtypes)) for s in small_sizes(program, block, sizes, budget.sizes, seed)]
    ticks = longest(subjects[0], budget.example)

    def search(item: Property, seconds: float, tell: Callable[[int], None], examples: int) -> tuple[Search, Failure | None]:
        space = Space(subjects, max(2, round(ticks * item.ticks)), item.batch, item.values, item.noise, item.lowerings)
        found = Search(lambda e: check_example(item, space.subject(e), e), seconds, tell)
        failure = found.run(space.examples(), examples, seed, space.firsts(), space.like)
        if failure is not None:
            lines = (*first_wrong(space.subject(failure.example), failure.example), *failure.lines)
            failure = replace(failure, lines=tuple(dict.fromkeys(lines)))
        return found, failure

    left = replace(budget, seconds=budget.seconds - (time.monotonic() - start))
    yield from _each(block, node.span.where, asked, left, lambda item: item.applies(subjects[0]), search, progress)


def _rule(
    program: Program, rule: str, structure: Mapping[str, Any], budget: Budget, seed: int, only: Sequence[str] | None, progress: Progress
) -> Iterator[Outcome]:
    subject = RuleSubject(program, rule, dict(structure))
    asked = [p for p in RULE_PROPERTIES if only is None or p.name in only]

    def search(item: RuleProperty, seconds: float, tell: Callable[[int], None], examples: int) -> tuple[Search, Failure | None]:
        found = Search(lambda e: item.check(subject, e), seconds, tell)
        failure = found.run(subject.examples(item), examples, seed)
        return found, failure and replace(failure, lines=(subject.where,))

    yield from _each(rule, subject.where, asked, budget, lambda item: item.applies(subject), search, progress)


def _each(
    name: str, where: str, asked: Sequence[Any], budget: Budget, applies: Callable[[Any], str | None],
    search: Callable[[Any, float, Callable[[int], None], int], tuple[Search, Failure | None]], progress: Progress,
) -> Iterator[Outcome]:  # fmt: skip
    """The outcome of each property; what is left of the time is shared between those that are still to come."""
    clock = Clock(budget.seconds, sum(p.examples for p in asked))
    for item in asked:
        outcome, count = Outcome(name, where, item.name, item.says, 0, 0.0, skipped=applies(item)), max(1, round(budget.examples * item.examples))
        if outcome.skipped is None:
            found, failure = search(item, clock.part(item.examples), partial(_tell, progress, name, item.name, count), count)
            outcome = replace(outcome, examples=found.tried, seconds=time.monotonic() - found.start, failure=failure, diverged=found.diverged)
            if found.diverged == found.tried:
                outcome = replace(outcome, skipped=DIVERGED)
        yield outcome


def _tell(progress: Progress, name: str, item: str, count: int, tried: int) -> None:
    progress(name, item, tried, count)


def check_example(item: Property, subject: Subject, example: Example) -> None:
    """One property of one example.

    Raises:
        Falsified: it does not hold; with the lines that are involved.
        Diverges: it says nothing.
    """
    try:
        item.check(subject, example)
    except Falsified as wrong:
        wrong.lines = subject.lines(*wrong.names)
        raise


class Clock:
    """Shares what is left of a time between the properties that are still to come."""

    def __init__(self, seconds: float, shares: float):
        self.end, self.shares = time.monotonic() + seconds, shares

    def part(self, share: float) -> float:
        left = self.end - time.monotonic()
        mine = left * share / self.shares if self.shares > 0 else left
        self.shares -= share
        return max(0.1, mine)


def longest(subject: Subject, seconds: float) -> int:
    """So many ticks that a run with gradients takes about this time, from 6 to 80; 6 where it crashes, which the properties will say."""
    example = Example(tuple(subject.sizes.items()), cuts=(4,))
    try:
        with poisoned():
            compiled(subject, example)  # what is slow only once
            start = time.process_time()  # whatever else the machine does: one seed has one set of examples
            run = interpret(subject, example)
            run.gradients(run.weights())
    except Exception:
        return 6
    return max(6, min(80, int(4 * seconds / max(time.process_time() - start, 1e-4))))


__all__ = ["NAMES", "Budget", "Outcome", "Report", "check_example", "verify"]
