"""`assert_*`: properties for suites of one's own. Each takes a `.nl` file, its text or a program."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nldsl.program import Program, load
from nldsl_testing.compare import Diverges
from nldsl_testing.example import Example
from nldsl_testing.optimizers import RULE_PROPERTIES, RuleExample, RuleSubject
from nldsl_testing.properties import PROPERTIES
from nldsl_testing.report import details, line
from nldsl_testing.runs import poisoned
from nldsl_testing.subject import Subject
from nldsl_testing.verify import Budget, check_example, verify


def assert_property(
    program: Program | str | Path, names: str | Sequence[str] | None, block: str | None = None, *, rule: str | None = None, examples: int = 20,
    seconds: float = 30.0, seed: int = 0, **sizes: Any,
) -> None:  # fmt: skip
    """Properties by name hold of a block, of a rule, or of all that no other uses.

    Raises:
        AssertionError: with the smallest counterexample found, and Python that tries it again.
        NlError: the spec is wrong.
    """
    known = program if isinstance(program, Program) else load(program)
    only = [names] if isinstance(names, str) else names
    budget = Budget(examples=examples, seconds=seconds)
    found = [o for o in verify(known, block=block, rule=rule, sizes=sizes, budget=budget, seed=seed, only=only) if o.failure is not None]
    if found:
        raise AssertionError("\n" + "\n".join(f"{o.subject}\n{line(o)}\n{details(known.source.name, o)}" for o in found))


def check(program: Program | str | Path, name: str, subject: str, example: Example | RuleExample) -> None:
    """One property of one example: what a report prints to try a counterexample again. One that diverges says nothing.

    Raises:
        AssertionError: it does not hold.
    """
    known = program if isinstance(program, Program) else load(program)
    with poisoned(), suppress(Diverges):
        if isinstance(example, RuleExample):
            next(p for p in RULE_PROPERTIES if p.name == name).check(RuleSubject(known, subject, dict(example.structure)), example)
        else:
            check_example(next(p for p in PROPERTIES if p.name == name), Subject(known, subject, dict(example.sizes)), example)


def assert_all(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Every property holds; see `assert_property`."""
    assert_property(program, None, block, **more)


def assert_equivalent(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Every lowering gives the interpreter's outputs, states and gradients; see `assert_property`."""
    assert_property(program, "lowerings", block, **more)


def assert_updates(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """The derived updates are the gradients of the declared objectives; see `assert_property`."""
    assert_property(program, "derivatives", block, **more)


def assert_splits(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Any split into calls and steps gives what one call gives; see `assert_property`."""
    assert_property(program, "splits", block, **more)


def assert_causal(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """No bit of the past depends on the future; see `assert_property`."""
    assert_property(program, "causality", block, **more)


def assert_batches(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """A sequence alone is the same among others; see `assert_property`."""
    assert_property(program, "batches", block, **more)


def assert_states(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """A state that is saved and loaded goes on bit for bit; see `assert_property`."""
    assert_property(program, "states", block, **more)


def assert_finite(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Numbers stay finite where the interpreter's do; see `assert_property`."""
    assert_property(program, "finite", block, **more)


def assert_precision(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """float32 and bfloat16 lose no more digits than they must; see `assert_property`."""
    assert_property(program, "precision", block, **more)


def assert_slopes(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Gradients are finite differences; see `assert_property`."""
    assert_property(program, "slopes", block, **more)


def assert_cadence(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Every memory changes at the ticks of its clock; see `assert_property`."""
    assert_property(program, "cadence", block, **more)


def assert_endings(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """The end of a stream does what `flush` says; see `assert_property`."""
    assert_property(program, "endings", block, **more)


def assert_proof(program: Program | str | Path, block: str | None = None, **more: Any) -> None:
    """Each read depends only on earlier writes, by proof; see `assert_property`."""
    assert_property(program, "proof", block, **more)
