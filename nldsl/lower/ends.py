"""The end of a stream: the equations of the last steps, and the states that these steps read as they are held."""

from __future__ import annotations

from collections.abc import Sequence

from nldsl.core import Equation, Ref, Unit
from nldsl.lower.order import ordered


def due(unit: Unit) -> list[str]:
    """The states that take a step at the end of a stream."""
    return [s.name for s in unit.states if s.flush == "apply"]


def leading_to(unit: Unit, due: Sequence[str]) -> list[Equation]:
    """The equations of the steps of these states, in order; a fold is read, and other states hold."""
    equations, states = {e.name: e for e in unit.equations}, {s.name for s in unit.states}
    found: dict[str, Equation] = {}
    stack = list(due)
    while stack:
        e = equations.get(stack.pop())
        if e is not None and e.name not in found and e.op != "index" and (e.name in due or e.name not in states):
            found[e.name] = e
            stack += [a.name for a in e.args if isinstance(a, Ref)] if e.op != "fold" else []
    return ordered(found.values())


def read_at_the_end(unit: Unit) -> set[str]:
    """What those steps read; a state among it has to be kept, as no tick computes it."""
    return {a.name for e in leading_to(unit, due(unit)) if e.op != "fold" for a in e.args if isinstance(a, Ref)}
