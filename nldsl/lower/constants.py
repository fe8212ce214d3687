"""Operations on known numbers are done before any tick; a choice whose condition is known is its branch."""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Atom, Equation, Last, Num, Ref, Type, Unit
from nldsl.lower.numbers import fold, number
from nldsl.lower.order import ordered


def fold_constants(unit: Unit, types: dict[str, Type]) -> Unit:
    """The unit with numbers in the place of equations that compute them; states and what is read of the past stay."""
    held = {s.name for s in unit.states} | {a.name for e in unit.equations for a in e.args if isinstance(a, Last)}
    known: dict[str, Atom] = {}
    zeros: set[str] = set()

    def seen(a: Atom) -> Atom:
        return known.get(a.name, a) if isinstance(a, Ref) else a

    kept: list[Equation] = []
    for e in ordered(unit.equations):
        e = replace(e, args=tuple(map(seen, e.args)))
        result = _value(e, types, zeros)
        if e.op == "mul" and 0.0 in map(number, e.args) and e.name not in held:
            zeros.add(e.name)
        if result is None:
            kept.append(e)
        elif e.name in held:
            kept.append(Equation(e.name, "copy", (result,), e.span))
        else:
            known[e.name] = result
    return replace(
        unit,
        equations=tuple(kept),
        instances=tuple(replace(i, args=tuple((n, seen(a)) for n, a in i.args)) for i in unit.instances),
        outputs=tuple((n, seen(a)) for n, a in unit.outputs),
    )


def _value(e: Equation, types: dict[str, Type], zeros: set[str]) -> Atom | None:
    """The atom an equation stands for, if it is one number or one of its arguments."""
    values = [number(a) for a in e.args]
    taken: Atom | None = None
    if e.op == "where" and (values[0] is not None or e.args[1] == e.args[2]):
        taken = e.args[1] if values[0] is None or values[0] > 0 else e.args[2]
    elif e.op in ("add", "sub"):
        zero = [v == 0.0 or (isinstance(a, Ref) and a.name in zeros) for a, v in zip(e.args, values, strict=True)]
        taken = e.args[0] if zero[1] else e.args[1] if zero[0] and e.op == "add" else None
    if taken is not None and not isinstance(taken, Num) and types[taken.name] == types[e.name]:
        return taken
    if not e.args or any(v is None for v in values) or types[e.name] != Type("real"):
        return None
    result = fold(e.op, [v for v in values if v is not None])
    return None if result is None else Num(result, e.span)
