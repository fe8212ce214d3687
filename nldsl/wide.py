"""Which numbers are computed in float64, whatever the dtype of a module: those that only the tick decides, as `1 - 0.999 ^ count()`."""

from __future__ import annotations

from collections.abc import Mapping

from nldsl.core import Num, Ref, Type, Unit
from nldsl.vocabulary import is_number

ENTRYWISE = frozenset({
    "copy", "add", "sub", "neg", "mul", "div", "pow", "exp", "log", "sqrt", "abs", "sign", "tanh", "sigmoid", "softplus", "silu", "relu",
    "max", "min", "where",
})  # fmt: skip


def of_the_tick(unit: Unit, types: Mapping[str, Type]) -> frozenset[str]:
    """The equations of a unit that give such numbers."""
    states = {s.name for s in unit.states}
    found = {e.name for e in unit.equations if e.op == "count"}
    waiting = [e for e in unit.equations if e.op in ENTRYWISE and e.name not in states and is_number(types[e.name])]
    while found:
        given = [[a.name if isinstance(a, Ref) else "" for a in e.args if not isinstance(a, Num)] for e in waiting]
        fresh = {e.name for e, read in zip(waiting, given, strict=True) if read and found.issuperset(read)}
        if not fresh:
            break
        found |= fresh
        waiting = [e for e in waiting if e.name not in fresh]
    return frozenset(found)
