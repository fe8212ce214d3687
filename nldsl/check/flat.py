"""A block with all blocks inside it as one graph of reads: names become paths, `layer/S` is `S` of the instance `layer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nldsl.check.reading import Reading
from nldsl.core import Atom, Equation, Instance, Last, Memory, Num, Param, Ref, State, Unit


@dataclass(frozen=True)
class Edge:
    """`reader` uses `read`: of this tick (now), of the tick before (last), through a gradient, or as first value."""

    read: str
    reader: str
    kind: str  # now, last, gradient, initialisation


@dataclass(frozen=True)
class Part:
    """One unit in its place: `path` is empty for the block itself and ends with `/` otherwise."""

    path: str
    unit: Unit
    reading: Reading

    def name(self, name: str) -> str:
        return self.path + name

    @property
    def states(self) -> Iterator[tuple[str, State]]:
        return ((self.name(s.name), s) for s in self.unit.states)

    @property
    def params(self) -> Iterator[tuple[str, Param]]:
        return ((self.name(p.name), p) for p in self.unit.params)

    @property
    def memories(self) -> Iterator[tuple[str, Memory]]:
        return ((self.name(m.name), m) for m in self.unit.memories)

    @property
    def equations(self) -> Iterator[tuple[str, Equation]]:
        return ((self.name(e.name), e) for e in self.unit.equations)


def parts(units: Mapping[str, Unit], key: str, path: str = "") -> Iterator[Part]:
    """The block and every instance inside it, outermost first."""
    unit = units[key]
    yield Part(path, unit, Reading.of(unit))
    for instance in unit.instances:
        if instance.unit is not None:
            yield from parts(units, instance.unit, f"{path}{instance.name}/")


def edges(units: Mapping[str, Unit], key: str) -> Iterator[Edge]:
    """Every read, through the instances."""
    for part in parts(units, key):
        for name, equation in part.equations:
            yield from _equation(part, name, equation)
        for name, state in part.states:
            if state.learned is not None and not {state.name} & (part.reading.starts.keys() | part.reading.paced.keys()):
                yield Edge(part.name(state.learned), name, "initialisation")
            if state.base is not None:
                yield Edge(part.name(state.base), name, "last")
        for name, memory in part.memories:
            if memory.state is None:
                yield from (Edge(part.name(a.name), name, "now") for a in (memory.key, memory.value) if isinstance(a, Ref))
        for instance in part.unit.instances:
            yield from _instance(part, instance, units)


def _equation(part: Part, name: str, equation: Equation) -> Iterator[Edge]:
    seen = set()
    for number, atom in enumerate(part.reading.atoms(equation.name)):
        # The first argument of a gradient is the state it is taken at, the others are read by its objective.
        edge = _edge(part, atom, name, "gradient" if equation.op == "grad" and number else "now")
        if edge is not None and edge not in seen:
            seen.add(edge)
            yield edge
    if equation.op == "attend":
        yield Edge(part.name(equation.attr("memory")), name, "now")


def _edge(part: Part, atom: Atom, reader: str, kind: str) -> Edge | None:
    if isinstance(atom, Num):
        return None
    return Edge(part.name(atom.name), reader, "last" if isinstance(atom, Last) else kind)


def _instance(part: Part, instance: Instance, units: Mapping[str, Unit]) -> Iterator[Edge]:
    if instance.unit is None:
        return
    inside = f"{part.path}{instance.name}/"
    for name, atom in instance.args:
        edge = _edge(part, atom, f"{inside}{name}", "now")
        if edge is not None:
            yield edge
    for output, atom in units[instance.unit].outputs:
        if not isinstance(atom, Num):
            kind = "last" if isinstance(atom, Last) else "now"
            yield Edge(f"{inside}{atom.name}", part.name(f"{instance.name}.{output}"), kind)
