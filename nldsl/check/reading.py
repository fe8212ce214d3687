"""Who reads whom in a unit: the one place that knows where an equation's arguments are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from nldsl.core import Atom, Equation, Instance, Last, Memory, Num, Ref, State, Unit

CUTS = frozenset({"stop", "sign", "index", "count", "identity"})  # no gradient passes these operations


def atoms(equation: Equation) -> Iterator[Atom]:
    """Every atom an equation reads, those of an objective's body included, its own names excluded."""
    yield from equation.args
    objective = equation.attr("objective")
    if objective is not None:
        inner = {objective.self} | {e.name for e in objective.equations}
        for part in objective.equations:
            yield from (a for a in atoms(part) if not isinstance(a, Num) and a.name not in inner)


def now(equation: Equation) -> list[Ref]:
    """What is read at this tick."""
    return [a for a in atoms(equation) if isinstance(a, Ref)]


@dataclass(frozen=True)
class Reading:
    """The definitions of a unit by name."""

    unit: Unit
    equations: dict[str, Equation] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)  # by output name, `layer.y`
    states: dict[str, State] = field(default_factory=dict)

    @staticmethod
    def of(unit: Unit) -> Reading:
        return Reading(
            unit,
            {e.name: e for e in unit.equations},
            {f"{i.name}.{o}": i for i in unit.instances for o in i.outputs},
            {s.name: s for s in unit.states},
        )

    def atoms(self, name: str) -> list[Atom]:
        """What the definition of a name reads; nothing for what is declared."""
        if name in self.equations:
            return list(atoms(self.equations[name]))
        if name in self.instances:
            return [a for _, a in self.instances[name].args]
        return []

    def ancestors(self, name: str) -> set[str]:
        """A name and all it is computed from within this tick."""
        found, stack = {name}, [name]
        while stack:
            fresh = {a.name for a in self.atoms(stack.pop()) if isinstance(a, Ref)} - found
            found |= fresh
            stack += fresh
        return found

    @cached_property
    def live(self) -> set[str]:
        """Every name some output depends on, through any number of ticks."""
        found: set[str] = set()
        stack = [a.name for _, a in self.unit.outputs if isinstance(a, (Ref, Last))]
        views = {m.name: m for m in self.unit.memories}
        while stack:
            name = stack.pop()
            if name in found:
                continue
            found.add(name)
            stack += [a.name for a in self.atoms(name) if isinstance(a, (Ref, Last))]
            state = self.states.get(name)
            stack += [n for n in (state.learned, state.base, state.begun) if n is not None] if state is not None else []
            if name in views:
                stack += [a.name for a in (views[name].key, views[name].value) if isinstance(a, (Ref, Last))]
        return found

    @cached_property
    def starts(self) -> dict[str, str]:
        """The states that hold another one as it was at the start of a window, `start(C) M`, and that other one."""
        owned = {m.state for m in self.unit.memories}
        copies = ((s.name, self.equations.get(s.name)) for s in self.unit.states if s.sampled and s.name not in owned)
        return {n: e.args[0].name for n, e in copies if e is not None and e.op == "copy" and isinstance(e.args[0], Ref) and e.args[0].name in self.states}

    @cached_property
    def paced(self) -> dict[str, str]:
        """The states that are steps at the ends of periods, `STEP every N`, and the memory that goes on from them."""
        found: dict[str, str] = {}
        for state in self.unit.states:
            step = self.states.get(state.base or "")
            while step is not None and self.owner(step.name) is None and step.name not in found and self.owner(state.name) is not None:
                found[step.name] = state.name
                before = (a.name for n in self.ancestors(step.name) for a in self.atoms(n) if isinstance(a, Ref) and a.name in self.states)
                step = next((self.states[n] for n in before if n != state.name and n not in found), None)
        return found

    @cached_property
    def sums(self) -> dict[str, str]:
        """The states that add up the gradients of a period of steps that have a period themselves, and the memory that takes such a step."""
        spans = {s.name: s.span for s in self.unit.states}
        return {m.name: m.parent for m in self.unit.memories if m.parent is not None and m.name in spans and m.span == spans[m.name]}

    @cached_property
    def carried(self) -> dict[str, set[str]]:
        """For each state, the names in its step that hold the state as it is carried along: `a * last S`, its sums."""
        return {name: self._carried(name) for name in self.states if name in self.equations}

    def _carried(self, state: str) -> set[str]:
        """From `last STATE` on through operations that keep it, and no further than the state's own step."""
        stack, reached = [n for n in self.readers.get(f"last {state}", ()) if self.equations[n].op in KEEPS], set()
        while stack:
            name = stack.pop()
            if name not in reached:
                reached.add(name)
                if name != state:
                    stack += [n for n in self.readers.get(name, ()) if self.equations[n].op in KEEPS]
        return reached & self.arithmetic(state) if reached else reached

    def arithmetic(self, state: str) -> set[str]:
        """The operator arithmetic of a state's step: what leads to it through sums, factors and outer products."""
        found: set[str] = set()
        stack = [state]
        while stack:
            name = stack.pop()
            equation = self.equations.get(name)
            if name not in found and equation is not None:
                found.add(name)
                if equation.op in KEEPS:
                    stack += [a.name for a in equation.args if isinstance(a, Ref)]
        return found

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """The equations that have a name, or `last NAME`, as an argument."""
        found: dict[str, list[str]] = {}
        for equation in self.unit.equations:
            for atom in equation.args:
                if isinstance(atom, (Ref, Last)):
                    found.setdefault(atom.name if isinstance(atom, Ref) else f"last {atom.name}", []).append(equation.name)
        return found

    def holds(self, atom: Atom, state: str, carried: set[str]) -> bool:
        if isinstance(atom, Last):
            return atom.name == state
        return isinstance(atom, Ref) and atom.name in carried

    def owner(self, state: str) -> Memory | None:
        return next((m for m in self.unit.memories if m.state == state), None)


KEEPS = frozenset({"copy", "add", "sub", "neg", "mul", "scale_values"})  # operations that carry a state along


def shown(name: str) -> bool:
    """Whether the author wrote this name: those made by elaboration have a dot and no number alone after it."""
    return all(part.isdigit() for part in name.split(".")[1:])
