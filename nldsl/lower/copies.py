"""Copies removed: where `b = a`, or `b = 1 * a`, readers of `b` read `a`, unless `b` is a state."""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Atom, Equation, Num, Ref, Unit
from nldsl.lower.rewrite import number


def _same(e: Equation) -> Atom | None:
    """The argument an equation repeats."""
    if e.op == "copy":
        return e.args[0]
    if e.op == "mul" and number(e.args[0]) == 1.0:
        return e.args[1]
    return None


def remove_copies(unit: Unit) -> Unit:
    """Read through copies.

    >>> # y = copy(x), z = norm(y)   becomes   z = norm(x)
    """
    states = {s.name for s in unit.states}
    source = {e.name: same for e in unit.equations if e.name not in states and (same := _same(e)) is not None}

    def seen(atom: Atom) -> Atom:
        while isinstance(atom, Ref) and atom.name in source:
            atom = source[atom.name]
        return atom

    def keep(atom: Atom) -> Atom:
        found = seen(atom)
        return atom if isinstance(found, Num) else found

    return replace(
        unit,
        equations=tuple(
            replace(e, args=tuple(seen(a) for a in e.args)) for e in unit.equations if e.name not in source or isinstance(seen(Ref(e.name)), Num)
        ),
        instances=tuple(replace(i, args=tuple((n, keep(a)) for n, a in i.args)) for i in unit.instances),
        outputs=tuple((n, keep(a)) for n, a in unit.outputs),
    )
