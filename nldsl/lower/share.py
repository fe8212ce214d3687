"""Equal equations computed once: readers of the second read the first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nldsl.core import Atom, Equation, Last, Num, Ref, Unit
from nldsl.lower.order import ordered

KEPT = {"expect", "index"}  # each has a place of its own in the module


def share_equal(unit: Unit) -> Unit:
    """The unit with one equation for each operation on the same arguments; states keep theirs. Of a read of a store and one
    `of` it, on the way to an objective, the read is left.

    >>> # a = sigmoid(x), b = sigmoid(x), y = a + b   becomes   a = sigmoid(x), y = a + a
    """
    states = {s.name for s in unit.states}
    past = {a.name for e in unit.equations for a in e.args if isinstance(a, Last)}
    first: dict[Any, str] = {}
    same: dict[str, str] = {}

    def seen(atom: Atom) -> Atom:
        return replace(atom, name=same[atom.name]) if isinstance(atom, Ref) and atom.name in same else atom

    kept: dict[str, Equation] = {}
    for e in ordered(unit.equations):
        e = replace(e, args=tuple(map(seen, e.args)))
        if e.name not in states | past and e.op not in KEPT:
            key = (e.op, tuple(_key(a) for a in e.args), tuple(a for a in e.attrs if e.op != "attend" or a[0] != "of"))
            if key in first:
                same[e.name] = first[key]
                if e.op == "attend" and e.attr("of") is None:
                    kept[first[key]] = replace(kept[first[key]], attrs=e.attrs)
                continue
            first[key] = e.name
        kept[e.name] = e
    return replace(
        unit,
        equations=tuple(kept.values()),
        instances=tuple(replace(i, args=tuple((n, seen(a)) for n, a in i.args)) for i in unit.instances),
        outputs=tuple((n, seen(a)) for n, a in unit.outputs),
    )


def _key(atom: Atom) -> Any:
    return ("number", str(atom.value)) if isinstance(atom, Num) else (type(atom).__name__, atom.name)
