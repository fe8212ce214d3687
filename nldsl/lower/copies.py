"""Copies removed: where `b = a`, or `b = 1 * a`, readers of `b` read `a`, unless `b` is a state."""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Atom, Equation, Ref, Type, Unit
from nldsl.lower.numbers import number
from nldsl.lower.rewrite import Rewriter


def _same(e: Equation) -> Atom | None:
    """The argument an equation repeats."""
    if e.op == "copy":
        return e.args[0]
    if e.op == "mul" and number(e.args[0]) == 1.0:
        return e.args[1]
    return None


def remove_copies(unit: Unit) -> Unit:
    """Read through copies. Outputs and arguments of instances stay names; a copy nobody reads is left for `prune`.

    >>> # y = copy(x), z = norm(y)   becomes   z = norm(x)
    """
    states = {s.name for s in unit.states}
    source = {e.name: same for e in unit.equations if e.name not in states and (same := _same(e)) is not None}

    def seen(atom: Atom) -> Atom:
        while isinstance(atom, Ref) and atom.name in source:
            atom = source[atom.name]
        return atom

    def name(atom: Atom) -> Atom:
        found = seen(atom)
        return found if isinstance(found, Ref) else atom

    return replace(
        unit,
        equations=tuple(replace(e, args=tuple(seen(a) for a in e.args)) for e in unit.equations),
        instances=tuple(replace(i, args=tuple((n, name(a)) for n, a in i.args)) for i in unit.instances),
        outputs=tuple((n, name(a)) for n, a in unit.outputs),
    )


def name_outputs(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """Give a name to every output and argument of an instance that is a `last` or a number.

    >>> # out y = last x   becomes   y.1 = copy(last x), out y = y.1
    """
    work = Rewriter(unit, types)

    def named(hint: str, atom: Atom) -> Atom:
        if isinstance(atom, Ref):
            return atom
        return work.at(atom.span).define(work.fresh(hint), "copy", (atom,))

    outputs = tuple((n, named(n, a)) for n, a in unit.outputs)
    instances = tuple(replace(i, args=tuple((n, named(f"{i.name}.{n}", a)) for n, a in i.args)) for i in unit.instances)
    unit, types = work.finish()
    return replace(unit, outputs=outputs, instances=instances), types
