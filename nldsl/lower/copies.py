"""Copies removed: `b = a` makes every reader of `b` a reader of `a`, unless `b` is a state."""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Atom, Num, Ref, Unit


def remove_copies(unit: Unit) -> Unit:
    """Read through copies.

    >>> # y = copy(x), z = norm(y)   becomes   z = norm(x)
    """
    states = {s.name for s in unit.states}
    source = {e.name: e.args[0] for e in unit.equations if e.op == "copy" and e.name not in states}

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
