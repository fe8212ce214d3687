"""What is asked of every random program: properties of `nldsl verify`, at one example of several calls."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import nldsl
from nldsl_testing.compare import Diverges
from nldsl_testing.example import Example
from nldsl_testing.properties import PROPERTIES
from nldsl_testing.runs import interpret, poisoned
from nldsl_testing.subject import Subject
from nldsl_testing.verify import check_example

ASKED = {p.name: p for p in PROPERTIES}
EXAMPLE = Example(batch=2, cuts=(5, 1, 1, 4), seed=5)
SPLITS = (EXAMPLE.cuts, (1,) * 11, (2, 2, 7))


def subject(text: str) -> Subject:
    """The main block of a text."""
    return Subject(nldsl.load(text), "main", {})


def finite(of: Subject) -> bool:
    """Whether the interpreter's outputs, states and gradients are numbers."""
    run = interpret(of, EXAMPLE)
    found = [*run.y.values(), *run.state.values(), *run.gradients(run.weights()).values()]
    return all(bool(v.isfinite().all()) for v in found if v is not None)


def check(of: Subject) -> None:
    """The interpreter's outputs, states and gradients, any split, no future, rows of the batch alone; what diverges is not asked.

    Raises:
        Falsified: not so.
    """
    with poisoned(), suppress(Diverges):
        for name in ("lowerings", "causality", "batches"):
            check_example(ASKED[name], of, EXAMPLE)
        for cuts in SPLITS:
            check_example(ASKED["splits"], of, replace(EXAMPLE, cuts=cuts))
