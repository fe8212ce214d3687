"""Levels: Definition 2 of Nested Learning, by (period, dependency depth within a tick).

A component is faster than another if it changes more often, or as often and the other's state at a tick is computed
from its state at that tick. So a momentum is one level below the memory it moves, Adam's two moments share a level,
and params, which change once in an outer step, are the outermost level.

>>> import nldsl
>>> e = nldsl.load("block b(d) { in x : real[d]  param W : d -> d  k = unit(W(x))  "
...                "memory S : d -> d { minimize -dot(S(k), x) by momentum(1) }  out y = S(k) }").symbolic("b")
>>> [(level.clock, level.members) for level in levels(e.units, e.key)]
[('each tick', ('S.m',)), ('each tick', ('S',)), ('outer step', ('W',))]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nldsl.check.flat import edges, parts
from nldsl.core import Unit

STORED = 0  # the period of a store: it keeps every tick as it is
OUTER: None = None  # the period of a param: one outer step


@dataclass(frozen=True)
class Level:
    """Components that change equally often and do not depend on one another within a tick.

    Attributes:
        period: in ticks; 0 for stores, None for params, which change once in an outer step.
        depth: the longest chain of components of this period that has to be computed before, counted from 0.
        members: their paths, `layer/S` for the memory S of the instance `layer`.
    """

    period: int | None
    depth: int
    members: tuple[str, ...]

    @property
    def clock(self) -> str:
        if self.period is OUTER:
            return "outer step"
        if self.period == STORED:
            return "stored"
        return "each tick" if self.period == 1 else f"every {self.period} ticks"


def levels(units: Mapping[str, Unit], key: str) -> list[Level]:
    """The levels of a block with everything inside it, fastest first."""
    found: dict[tuple[int | None, int], list[str]] = {}
    for name, (period, depth) in component_levels(units, key).items():
        found.setdefault((period, depth), []).append(name)
    order = sorted(found, key=lambda level: (level[0] is OUTER, level[0] or 0, level[1]))
    return [Level(period, depth, tuple(found[period, depth])) for period, depth in order]


def component_levels(units: Mapping[str, Unit], key: str) -> dict[str, tuple[int | None, int]]:
    """(period, depth) of every memory, store and param by path."""
    periods: dict[str, int] = {}
    found: dict[str, tuple[int | None, int]] = {}
    for part in parts(units, key):
        own = {m.state for m in part.unit.memories}
        periods |= {name: state.every for name, state in part.states if state.name in own}
        found |= {name: (STORED, 0) for name, memory in part.memories if memory.state is None}
        found |= {name: (OUTER, 0) for name, param in part.params if not param.fixed}
    reads: dict[str, list[str]] = {}
    for edge in edges(units, key):
        if edge.kind in ("now", "gradient"):
            reads.setdefault(edge.reader, []).append(edge.read)
    depths = _depths(reads, periods)
    return {name: (period, depths[name].get(period, 1) - 1) for name, period in periods.items()} | found


def _depths(reads: Mapping[str, list[str]], periods: Mapping[str, int]) -> dict[str, dict[int, int]]:
    """For each name and period, the most memories of that period on one chain of reads that ends there.

    An implicit step reads the state it computes; that one read is left out.
    """
    depth: dict[str, dict[int, int]] = {}
    for first in (*reads, *periods):
        stack, opened = [first], set()
        while stack:
            name = stack[-1]
            waiting = [r for r in reads.get(name, ()) if r not in depth and r not in opened]
            if waiting and name not in opened:
                opened.add(name)
                stack += waiting
                continue
            stack.pop()
            if name in depth:
                continue
            longest: dict[int, int] = {}
            for read in reads.get(name, ()):
                for period, count in depth.get(read, {}).items():
                    longest[period] = max(longest.get(period, 0), count)
            if name in periods:
                longest[periods[name]] = longest.get(periods[name], 0) + 1
            depth[name] = longest
    return depth
