"""Every read of a block with everything inside it: who uses whose value, of how many ticks before, and at which ticks.

A tick t knows a name in two ways: its value, and `last NAME`, the value before the tick. By the definition of `core.State`

    last S of t   is S of t - 1, or, where a reset falls on t, the first value or `last BASE` of t
    S of t        is its equation where its clock ticks, `last S` of t elsewhere

so what follows from these reads holds of the core itself, however it is lowered. Names are paths, as in `nldsl.check.flat`;
`layer/` stands for the call of the instance `layer`, which begins when all its arguments are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from math import gcd, lcm

from nldsl.check.flat import Part, parts
from nldsl.core import Atom, Equation, Last, Memory, Num, Ref, State, Unit
from nldsl.source import Span


@dataclass(frozen=True, order=True)
class Periodic:
    """The ticks t, from 0 on, with t mod period = phase."""

    period: int
    phase: int

    def __contains__(self, tick: int) -> bool:
        return tick % self.period == self.phase

    def meets(self, other: Periodic) -> bool:
        """Whether some tick is of both. Several that meet pairwise meet all at one tick (Chinese remainders)."""
        return (self.phase - other.phase) % gcd(self.period, other.period) == 0

    def both(self, other: Periodic) -> Periodic:
        """The ticks of two that meet."""
        shared = gcd(self.period, other.period)
        step = other.period // shared
        turns = (other.phase - self.phase) // shared * pow(self.period // shared, -1, step) % step
        period = lcm(self.period, other.period)
        return Periodic(period, (self.phase + self.period * turns) % period)


EACH_TICK = Periodic(1, 0)


def clock_of(state: State) -> Periodic:
    """The ticks at which a state's equation holds."""
    return Periodic(state.every, (state.offset - 1) % state.every)


def resets_of(state: State) -> Periodic | None:
    """The ticks before which a state starts anew."""
    return Periodic(state.reset, 0) if state.reset is not None else None


def first_common(clocks: Iterable[Periodic]) -> int:
    """The first tick of clocks that all meet."""
    return reduce(Periodic.both, clocks, EACH_TICK).phase


@dataclass(frozen=True)
class Read:
    """`reader` of tick t uses `read` of tick t - lag.

    Attributes:
        when: the ticks t at which it does.
        kind: value, a read in the text; solved, the point of a gradient that is computed together with it (an implicit step);
            past, held and reset, what the definition of a state reads; call, where nothing flows but the reader begins later.
    """

    read: str
    reader: str
    lag: int
    span: Span
    when: Periodic = EACH_TICK
    kind: str = "value"


def before(path: str) -> str:
    """The name of the value before the tick."""
    return f"last {path}"


def reads(units: Mapping[str, Unit], key: str) -> Iterator[Read]:
    """Every read, through the instances."""
    for part in parts(units, key):
        clocks = {s.name: clock_of(s) for s in part.unit.states}
        for name, equation in part.equations:
            when = clocks.get(equation.name, EACH_TICK)
            solved = _point(part, equation)
            for atom, lag in arguments(equation):
                if not isinstance(atom, Num):
                    yield Read(_named(part, atom), name, lag, atom.span, when, "solved" if atom is solved else "value")
            if equation.op == "attend":
                yield Read(part.name(equation.attr("memory")), name, 0, equation.span)
        yield from _carried(part)
        for name, memory in part.memories:
            if memory.state is None:
                yield from (Read(_named(part, a), name, 0, a.span) for a in (memory.key, memory.value) if a is not None and not isinstance(a, Num))
        yield from _instances(part, units)


def arguments(equation: Equation) -> Iterator[tuple[Atom, int]]:
    """Each atom an equation reads, those of its objective included, and of how many ticks before at least."""
    lag = equation.attr("ticks") if equation.op == "delay" else 0
    yield from ((atom, lag) for atom in equation.args)
    objective = equation.attr("objective")
    if objective is not None:
        inner = {objective.self} | {e.name for e in objective.equations}
        found = [pair for e in objective.equations for pair in arguments(e)] + [(objective.result, 0)]
        yield from ((atom, n) for atom, n in found if isinstance(atom, Num) or atom.name not in inner)


def _named(part: Part, atom: Atom) -> str:
    assert not isinstance(atom, Num)
    return before(part.name(atom.name)) if isinstance(atom, Last) else part.name(atom.name)


def _carried(part: Part) -> Iterator[Read]:
    """What values before the tick are, and states that hold."""
    spans = {a.name: a.span for e in part.unit.equations for a, _ in arguments(e) if isinstance(a, Last)}
    spans |= {a.name: a.span for i in part.unit.instances for _, a in i.args if isinstance(a, Last)}
    spans |= {a.name: a.span for _, a in part.unit.outputs if isinstance(a, Last)} | {s.name: s.span for s in part.unit.states}
    for name, span in spans.items():
        yield Read(part.name(name), before(part.name(name)), 1, span, kind="past")
    for name, state in part.states:
        yield Read(before(name), name, 0, state.span, kind="held")
        resets = resets_of(state)
        if state.base is not None and resets is not None:
            yield Read(before(part.name(state.base)), before(name), 0, state.span, resets, "reset")


def _instances(part: Part, units: Mapping[str, Unit]) -> Iterator[Read]:
    for instance in part.unit.instances:
        if instance.unit is None:
            continue
        inside = f"{part.path}{instance.name}/"
        for name, atom in instance.args:
            if not isinstance(atom, Num):
                yield Read(_named(part, atom), f"{inside}{name}", 0, atom.span)
                yield Read(_named(part, atom), inside, 0, atom.span, kind="call")
        for output, atom in units[instance.unit].outputs:
            made = part.name(f"{instance.name}.{output}")
            yield Read(inside, made, 0, instance.span, kind="call")
            if not isinstance(atom, Num):
                source = f"{inside}{atom.name}"
                yield Read(before(source) if isinstance(atom, Last) else source, made, 0, instance.span)


def _point(part: Part, equation: Equation) -> Ref | None:
    """Where an implicit step takes its gradient: at a memory, or on the way to the one it trains, computed from this very gradient."""
    point = equation.args[0] if equation.op == "grad" else None
    if not isinstance(point, Ref) or equation.name not in part.reading.ancestors(point.name):
        return None
    memories = part.unit.memories
    steps = (_is_step(memory, point.name) for memory in memories if memory.state == equation.attr("memory"))
    return point if any(memory.state == point.name for memory in memories) or any(steps) else None


def _is_step(memory: Memory, name: str) -> bool:
    """Whether a name is that of the result of one of a memory's steps: `S.decay`, `S.decay.1`."""
    results = (f"{memory.name}.{step.partition('(')[0].strip()}" for step in memory.steps)
    return any(name == r or (name.startswith(f"{r}.") and name[len(r) + 1 :].isdigit()) for r in results)
