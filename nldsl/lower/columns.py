"""An operator at an index is a product with what picks the column, but for a table that all ticks and copies share.

    S(t)            becomes     S(c) where c = column(t)     1 at the index, 0 elsewhere
    outer(a, t)     becomes     outer(a, c)
"""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Equation, Ref, Type, Unit
from nldsl.lower.order import ordered
from nldsl.lower.rewrite import Rewriter


def columns(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """A unit in which only tables are read by index, in its objectives too."""
    work = Rewriter(unit, types)
    tables = {p.name for p in unit.params if not p.type.axes}
    given = work.whole()

    def seen(e: Equation) -> Equation:
        objective = e.attr("objective")
        if objective is not None:
            parts = tuple(seen(part) for part in objective.equations)
            return replace(e, attrs=(*((n, v) for n, v in e.attrs if n != "objective"), ("objective", replace(objective, equations=parts))))
        table = e.op == "apply" and isinstance(e.args[0], Ref) and e.args[0].name in tables
        if e.op in ("apply", "outer") and work.type(e.args[1]).kind == "int" and not table:
            picked = work.at(e.span).emit("column", e.args[1], e.args[0] if given is None else Ref(given), hint=f"{e.name}.column")
            return replace(e, args=(e.args[0], picked))
        return e

    for e in ordered(unit.equations):
        if e.args and all(isinstance(a, Ref) and a.name in tables for a in e.args) and e.op not in ("grad", "fold") and e.name not in work.states:
            tables.add(e.name)
        if (found := seen(e)) is not e:
            work.equations[e.name] = found
    return work.finish()
