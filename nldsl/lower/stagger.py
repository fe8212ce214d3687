"""Reads of a memory at places that were read from it: one copy of its recurrence for each round of reads.

    p = S(q)   y = S(p)     →     p = S(q)   y = S~1(p)

where S~1 is written like S and starts from the same state. What S holds does not depend on `p`, only what is asked of it
does; so each copy is a recurrence whose reads are known before it runs, and may have a parallel form where the whole had
none. A round of reads costs what the memory costs. Conjugate gradients on a memory are such rounds.

>>> import nldsl
>>> from nldsl.lower.plan import plan
>>> text = "block b(d) { in x : real[d]  k = unit(x)  memory S : d -> d { minimize -dot(S(k), x) by gd(1) }  out y = S(S(k)) }"
>>> e = nldsl.load(text).symbolic("b")
>>> [(name, form.name) for name, form in plan(e.unit, e.types[e.key]).forms.items()]
[('S', 'closed'), ('S~1', 'closed')]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nldsl.core import Atom, Equation, Last, Num, Ref, Type, Unit
from nldsl.lower.differentiate import prune
from nldsl.lower.schedule import Recurrence, schedule, tick_order
from nldsl.vocabulary import KEEPING

ROUNDS = 64  # more copies of a memory than this are not made


def stagger(unit: Unit, types: dict[str, Type], parallel: Callable[[Unit, dict[str, Type], Recurrence], bool]) -> tuple[Unit, dict[str, Type], dict[str, str]]:
    """A unit in which reads that wait for reads have copies of their memory, where `parallel` says that all copies gain by it.

    Returns:
        The unit, its types, and of each copied state the one it is a copy of.
    """
    same: dict[str, str] = {}
    tried: set[str] = set()
    waiting = list(schedule(unit, types))
    while waiting:
        step = waiting.pop(0)
        if not isinstance(step, Recurrence) or tried & {*step.states}:
            continue
        tried |= {*step.states}
        found = _copied(unit, types, step)
        if found is None:
            continue
        made, more, copies = found
        group, steps = {*step.states, *copies}, schedule(made, more)
        if all(parallel(made, more, s) for s in steps if isinstance(s, Recurrence) and group & set(s.states)):
            unit, types, same, waiting = made, more, same | copies, list(steps)
            tried |= {*copies}
    return unit, types, same


def without_originals(unit: Unit, same: dict[str, str]) -> tuple[Unit, dict[str, str]]:
    """Where only copies of a state are read, the first of them is the state; a unit, and what is still a copy of what."""
    if not same:
        return unit, same
    unit = prune(unit)
    alive = {s.name for s in unit.states}
    names: dict[str, str] = {}
    for copy, of in same.items():
        if of not in alive and copy in alive:
            alive.add(of)
            names[copy] = of
    equations = tuple(
        replace(e, name=names.get(e.name, e.name), args=tuple(_renamed(a, names) for a in e.args)) for e in unit.equations
    )
    states = tuple(replace(s, name=names.get(s.name, s.name)) for s in unit.states)
    outputs = tuple((n, _renamed(a, names)) for n, a in unit.outputs)
    instances = tuple(replace(i, args=tuple((n, _renamed(a, names)) for n, a in i.args)) for i in unit.instances)
    return replace(unit, equations=equations, states=states, outputs=outputs, instances=instances), {c: o for c, o in same.items() if c not in names}


def _copied(unit: Unit, types: dict[str, Type], step: Recurrence) -> tuple[Unit, dict[str, Type], dict[str, str]] | None:
    """The unit with copies of one recurrence, or None where its reads do not wait for each other."""
    states = [s for s in unit.states if s.name in step.states]
    if any(e.op in KEEPING for e in step.equations) or any(s.every > 1 or s.reset is not None or types[s.name].kind != "map" for s in states):
        return None
    inside = {e.name: e for e in step.equations}
    core = _ancestors(inside, [s.name for s in states])
    rounds = _rounds(inside, core, types)
    if rounds is None or not 0 < max(rounds.values(), default=0) <= ROUNDS:
        return None
    operators = [n for n in inside if n in core or types[n].kind == "map"]
    equations = {e.name: e for e in unit.equations}
    made: list[Equation] = []
    known, copies = dict(types), dict[str, str]()
    for n in range(1, max(rounds.values()) + 1):
        new = {name: f"{name}~{n}" for name in operators}
        for name in operators:
            # Vectors in an operator that is only read were made by an earlier round; those of an update belong to the copy.
            own = new if name in core else {o: c for o, c in new.items() if types[o].kind == "map"}
            made.append(replace(inside[name], name=new[name], args=tuple(_renamed(a, own) for a in inside[name].args)))
            known[new[name]] = types[name]
        copies |= {new[s.name]: s.name for s in states}
        for name in (r for r, at in rounds.items() if at == n and inside[r].op == "apply"):
            operator, probe = inside[name].args
            equations[name] = replace(inside[name], args=(_renamed(operator, new), probe))
    # A copy that no round reads is none, and an operator that only later rounds read is none of the first.
    spare = {e.name: e for e in made} | {n: inside[n] for n in operators if n not in core}
    rest = [e for e in equations.values() if e.name not in spare]
    asked = [a.name for atoms in (*(e.args for e in rest), tuple(a for _, a in unit.outputs)) for a in atoms if not isinstance(a, Num)]
    reached = _ancestors(spare, [name for name in asked if name in spare])
    copies = {name: of for name, of in copies.items() if name in reached}
    added = tuple(replace(next(s for s in states if s.name == of), name=name) for name, of in copies.items())
    kept = tuple(e for e in (*equations.values(), *made) if e.name not in spare or e.name in reached)
    return replace(unit, equations=kept, states=(*unit.states, *added)), known, copies


def _ancestors(inside: dict[str, Equation], names: list[str]) -> set[str]:
    """Names of a group, and all in it that they are made of."""
    found, stack = set(names), list(names)
    while stack:
        for atom in inside[stack.pop()].args:
            if not isinstance(atom, Num) and atom.name in inside and atom.name not in found:
                found.add(atom.name)
                stack.append(atom.name)
    return found


def _rounds(inside: dict[str, Equation], core: set[str], types: dict[str, Type]) -> dict[str, int] | None:
    """The round in which each read outside the updates can be made; None where something else is made of the operator."""
    after = {n: 0 if types[n].kind == "map" else 1 for n in core}  # the first round that knows a value
    rounds: dict[str, int] = {}
    for e in tick_order([e for e in inside.values() if e.name not in core]):
        if any(isinstance(a, Last) and types[a.name].kind != "map" and a.name in inside for a in e.args):
            return None
        operator = [a for a in e.args if not isinstance(a, Num) and types[a.name].kind == "map" and a.name in inside]
        if operator and types[e.name].kind != "map" and e.op != "apply":
            return None
        at = max((after[a.name] for a in e.args if not isinstance(a, Num) and a.name in after), default=0)
        after[e.name] = at
        if operator and e.op == "apply":
            rounds[e.name] = at
            after[e.name] = at + 1
    return rounds


def _renamed(atom: Atom, names: dict[str, str]) -> Atom:
    return replace(atom, name=names[atom.name]) if isinstance(atom, (Ref, Last)) and atom.name in names else atom

