"""The timeline of a block: at which ticks each memory writes, folds, and starts anew, and which version of it each reader reads.

It follows from the clocks in the core by the definition of `core.State` alone; no lowering is asked, so what a compiler makes
can be compared with it. Ticks are counted from 0. Every clock is periodic from tick 0 on: an `offset` makes the first period
of a memory a short one and needs no settling time, so one hyperperiod, the least common multiple of all periods, is the
whole story.

>>> import nldsl
>>> text = "block b(d) { in x : real[d]  memory m : real[d] every 4 offset 1 { minimize -dot(m, x) by gd(1) reset every 8 }  out y = m }"
>>> t = timeline(nldsl.load(text).symbolic("b"))
>>> t.period, sorted(t.writes("m")), sorted(t.resets("m")), len(t.folds("m")), t.state("m")
(8, [0, 4], [0], 8, 'm')
>>> [str(event) for event in t.at(12)]
['m folds', 'm writes']
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING

from nldsl.check.dependences import EACH_TICK, Periodic, Read, before, clock_of, reads, resets_of
from nldsl.check.flat import Part, parts
from nldsl.check.reading import shown
from nldsl.core import State
from nldsl.names import identifier
from nldsl.source import Span

if TYPE_CHECKING:
    from nldsl.program import Elaborated


class Ticks(Set[int]):
    """Ticks of one hyperperiod, a set that is never written out: those of a clock, or none.

    >>> Ticks(Periodic(4, 3), 12) == {3, 7, 11}, 7 in Ticks(Periodic(4, 3), 12), len(Ticks(None, 12))
    (True, True, 0)
    """

    def __init__(self, clock: Periodic | None, period: int):
        self.range = range(clock.phase, period, clock.period) if clock is not None else range(0)

    @classmethod
    def _from_iterable(cls, it):  # type: ignore[no-untyped-def]
        return frozenset(it)

    def __contains__(self, tick: object) -> bool:
        return tick in self.range

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)

    def __hash__(self) -> int:
        return self._hash()

    def __repr__(self) -> str:
        return f"Ticks({self.range})"


@dataclass(frozen=True)
class Event:
    """What a memory does at a tick, in the order of `VERBS`: it starts anew before the tick, a window begins, it folds, it writes."""

    tick: int
    path: str
    kind: str  # reset, window, fold, write

    def __str__(self) -> str:
        return f"{self.path} {VERBS[self.kind]}"


VERBS = {"reset": "starts anew", "window": "begins a window", "fold": "folds", "write": "writes"}


@dataclass(frozen=True)
class Kept:
    """A memory, or another state a person knows of, and its clocks.

    Attributes:
        path: `layer/S`; the start of a window is `layer/start(4) S`.
        key: its name in the state that a module or the interpreter returns; of the rest, see `sums`.
        clock: the ticks at which its equation holds.
        resets, base: the ticks before which it starts anew, and the path of the state whose value it then takes; None: its first value.
        sums: the names, in the state, of the running sums of gradients; they grow at each tick and are cleared when it writes.
        over: how they are folded, sum or mean.
        window: of the start of a window, its number of ticks.
        step_of: of a step with a period, the memory that goes on from it.
        span: where it is declared.
    """

    path: str
    key: str
    clock: Periodic
    resets: Periodic | None
    base: str | None
    sums: tuple[str, ...]
    over: str | None
    window: int | None
    step_of: str | None
    span: Span

    @property
    def kinds(self) -> tuple[tuple[str, Periodic], ...]:
        """The kinds of its events with their ticks, in the order of a tick."""
        found = (("reset", self.resets), ("window", Periodic(self.window, 0) if self.window is not None else None),
                 ("fold", EACH_TICK if self.sums else None), ("write", self.clock))  # fmt: skip
        return tuple((kind, clock) for kind, clock in found if clock is not None)

    @property
    def rhythm(self) -> str:
        """Its clocks in words."""
        clock, offset = self.clock, (self.clock.phase + 1) % self.clock.period
        words = ["each tick" if clock.period == 1 else f"every {clock.period}" + (f" offset {offset}" if offset else "")]
        if self.window is not None:
            words = [f"windows of {self.window}"]
        words += [f"{self.over} of gradients"] if self.over is not None else []
        if self.resets is not None:
            words.append(f"anew every {self.resets.period}" + (f" from {self.base}" if self.base is not None else ""))
        return ", ".join(words)


@dataclass(frozen=True)
class Use:
    """`reader` reads a version of `memory`: `now` (after this tick's write), `last`, or `start(C)`, at the ticks of `when`."""

    reader: str
    memory: str
    version: str
    when: Periodic


@dataclass(frozen=True)
class Timeline:
    """One hyperperiod of a block.

    Attributes:
        block: its name.
        period: the hyperperiod in ticks: after it everything happens again.
        kept: memories, starts of windows and steps with a period, slowest first.
        stores: the paths of stores, which append a pair at every tick.
        uses: who reads which version of what is kept or stored.
    """

    block: str
    period: int
    kept: tuple[Kept, ...]
    stores: tuple[str, ...]
    uses: tuple[Use, ...]

    @property
    def memories(self) -> tuple[str, ...]:
        """The paths of what is kept, slowest first."""
        return tuple(k.path for k in self.kept)

    @cached_property
    def _by_path(self) -> dict[str, Kept]:
        return {k.path: k for k in self.kept}

    def memory(self, path: str) -> Kept:
        """What is kept under a path.

        Raises:
            KeyError: nothing is.
        """
        return self._by_path[path]

    def writes(self, path: str) -> Set[int]:
        """The ticks of a hyperperiod at which its equation holds; at the others it keeps what it has."""
        return Ticks(self.memory(path).clock, self.period)

    def resets(self, path: str) -> Set[int]:
        """The ticks before which it starts anew."""
        return Ticks(self.memory(path).resets, self.period)

    def folds(self, path: str) -> Set[int]:
        """The ticks at which a gradient is added to its running sum; the sum counts, and is cleared, when it writes."""
        return Ticks(EACH_TICK if self.memory(path).sums else None, self.period)

    def state(self, path: str) -> str:
        """Its name in the state that a module or the interpreter returns."""
        return self.memory(path).key

    def at(self, tick: int) -> tuple[Event, ...]:
        """What happens at a tick, however far: first what starts anew, then windows, folds and writes."""
        found = ((kind, k.path) for k in self.kept for kind, clock in k.kinds if tick in clock)
        return tuple(Event(tick, path, kind) for kind, path in sorted(found, key=lambda e: ORDER.index(e[0])))

    @property
    def events(self) -> Iterator[Event]:
        """All events of a hyperperiod by tick, one after the other: there may be very many."""
        return (event for tick in range(self.period) for event in self.at(tick))


ORDER = tuple(VERBS)


def timeline(elaborated: Elaborated) -> Timeline:
    """The timeline of a block with everything inside it."""
    units, key = elaborated.units, elaborated.key
    found = list(parts(units, key))
    kept = [row for part in found for row in _kept(part)]
    stores = tuple(name for part in found for name, memory in part.memories if memory.state is None)
    # Every state has a part in the hyperperiod, the `last` of a stream too: its clock is each tick.
    clocks = [clock for part in found for _, state in part.states for clock in (clock_of(state), resets_of(state)) if clock is not None]
    period = lcm(*(clock.period for clock in clocks))
    order = sorted(kept, key=lambda k: -k.clock.period)
    return Timeline(units[key].block, period, tuple(order), stores, tuple(_uses(elaborated, found, order, stores)))


def _kept(part: Part) -> Iterator[Kept]:
    """The states of a part that a person knows of: not those that only hold the `last` of a stream."""
    reading, prefix = part.reading, "".join(f"{identifier(name)}." for name in part.path.split("/")[:-1])
    owned = {m.state for m in part.unit.memories}
    for state in part.unit.states:
        starts, step = reading.starts.get(state.name), reading.paced.get(state.name)
        if not (state.name in owned or starts or step):
            continue
        folds = [e for e in part.unit.equations if e.op == "fold" and e.attr("memory") == state.name]
        yield Kept(
            path=_path(part, state),
            key=prefix + state.name,
            clock=clock_of(state),
            resets=resets_of(state),
            base=_path(part, reading.states[state.base]) if state.base in reading.states else None,
            sums=tuple(f"{prefix}{e.name}:sum" for e in folds),
            over=next((e.attr("over") for e in folds), None),
            window=state.every if starts else None,
            step_of=part.name(step) if step else None,
            span=state.span,
        )


def _path(part: Part, state: State) -> str:
    of = part.reading.starts.get(state.name)
    return part.name(state.name if of is None else f"start({state.every}) {of}")


def _uses(elaborated: Elaborated, found: list[Part], kept: list[Kept], stores: tuple[str, ...]) -> Iterator[Use]:
    """Who reads what: names the author wrote and memories; what the elaboration made between them is passed through."""
    readers: dict[str, list[Read]] = {}
    for read in reads(elaborated.units, elaborated.key):
        if read.kind in ("value", "solved"):
            readers.setdefault(read.read, []).append(read)
    starts = {part.name(name): (part.name(of), f"start({part.reading.states[name].every})") for part in found for name, of in part.reading.starts.items()}
    ends = {k.path for k in kept} | set(stores)
    named = {part.name(name) for part in found for name in _written(part)} - starts.keys()
    sums = {part.name(e.name) for part in found for e in part.unit.equations if e.op == "fold"}
    versions = [(path, path, "now") for path in [*(k.path for k in kept if k.window is None), *stores]]
    versions += [(before(path), path, "last") for path, _, _ in versions if path not in stores]
    versions += [(before(name), of, version) for name, (of, version) in starts.items()]
    uses: dict[Use, None] = {}
    for node, memory, version in versions:
        stack, passed = [(node, False)], {node}
        while stack:
            name, folded = stack.pop()
            for read in readers.get(name, ()):
                if read.reader in ends or read.reader in named:
                    uses.setdefault(Use(read.reader, memory, version, EACH_TICK if folded else read.when))
                elif read.reader not in passed | starts.keys():
                    passed.add(read.reader)
                    stack.append((read.reader, folded or read.reader in sums))
    yield from uses
    yield from (Use(k.path, k.base, "last", k.resets) for k in kept if k.base is not None and k.resets is not None and k.window is None)


def _written(part: Part) -> Iterator[str]:
    """The names of streams and inputs the author wrote; `y.1`, a step on the way to `y`, is none."""
    written = part.reading.equations.keys() | {i.name for i in part.unit.inputs}
    bodies = (e.attr("objective") for e in part.unit.equations if e.op == "grad")
    defined = written | {e.name for body in bodies for e in body.equations}
    for name in written:
        pieces = name.split(".")
        if shown(name) and not any(".".join(pieces[:n]) in defined for n in range(1, len(pieces))):
            yield name
