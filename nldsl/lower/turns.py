"""`rope` in two parts: the angles of a tick, which depend on nothing else, and the turn by them, which is a linear map.

    rope(x)     becomes     turn(x, a) where a = angles()     (cos | sin) of t * 10000^(-2 i / n)
"""

from __future__ import annotations

from nldsl.core import Atom, Ref, Type, Unit
from nldsl.lower.rewrite import Rewriter


def turns(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """A unit without `rope`, its objectives aside."""
    work = Rewriter(unit, types)
    for e in unit.equations:
        if e.op == "rope":
            turned(work.at(e.span), e.name, e.args[0])
    return work.finish()


def turned(work: Rewriter, name: str, x: Atom) -> Ref:
    """The equation `name = rope(x)` in two parts."""
    given = work.whole()
    by = work.emit("angles", x if given is None else Ref(given), hint="angles", size=work.type(x).shape[0])
    return work.define(name, "turn", (x, by))
