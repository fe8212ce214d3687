"""Equations in an order in which they can be computed."""

from __future__ import annotations

from collections.abc import Iterable

from nldsl.core import Equation, Ref


def ordered(equations: Iterable[Equation]) -> list[Equation]:
    """Each equation after those it reads at the same tick; on a cycle, that of an implicit step, somewhere."""
    waiting = {e.name: e for e in equations}
    done: list[Equation] = []
    opened: set[str] = set()
    for start in list(waiting):
        stack = [start]
        while stack:
            e = waiting.get(stack[-1])
            if e is None:
                stack.pop()
                continue
            opened.add(e.name)
            first = [a.name for a in e.args if isinstance(a, Ref) and a.name in waiting and a.name not in opened]
            stack += first
            if not first:
                done.append(waiting.pop(stack.pop()))
    return done
