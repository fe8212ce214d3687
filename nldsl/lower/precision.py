"""What a number is computed in, where torch by itself would take another than the dtype of the module.

    t = count()      t.wide = count()            in float64: what only the tick decides, as 1 - 0.999^t, loses no digit on the way
    b = 0.999^t      b.wide = 0.999^t.wide
    y = b * x        b = cast(b.wide, x)         in the dtype of x, where it meets what is given
    z = x / n        z = x / cast(n, x)          a whole number in arithmetic, for n : int
"""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Atom, Equation, Ref, Type, Unit
from nldsl.wide import ENTRYWISE, of_the_tick


def precise(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """A unit whose numbers have the dtype of what it is given; as it was, where it is given no real number."""
    given = [n for n in (*(i.name for i in unit.inputs), *(p.name for p in unit.params)) if types[n].kind in ("real", "map")]
    if not given:
        return unit, types
    like, types = Ref(min(given, key=lambda n: len(types[n].axes))), dict(types)
    wide = of_the_tick(unit, types)
    copies = {e.name for e in unit.equations if e.op == "index"}  # the numbers of copies are no streams, and real already
    equations: list[Equation] = []
    cast: dict[str, Ref] = {}  # whole numbers

    def own(a: Atom, e: Equation) -> Atom:
        if not isinstance(a, Ref) or types[a.name].kind != "int" or a.name in wide | copies or e.op not in ENTRYWISE:
            return a
        if a.name not in cast:
            cast[a.name] = Ref(f"{a.name}.real", a.span)
            types[f"{a.name}.real"] = replace(types[a.name], kind="real", bound=None)
            equations.append(Equation(f"{a.name}.real", "cast", (a, like), e.span))
        return cast[a.name]

    for e in unit.equations:
        if e.name in wide:
            types[f"{e.name}.wide"] = types[e.name]
            args = tuple(Ref(f"{a.name}.wide", a.span) if isinstance(a, Ref) else a for a in e.args)
            equations.append(replace(e, name=f"{e.name}.wide", args=args))
            equations.append(Equation(e.name, "cast", (Ref(f"{e.name}.wide"), like), e.span))
        else:
            equations.append(replace(e, args=tuple(own(a, e) for a in e.args)))
    return replace(unit, equations=tuple(equations)), types
