"""Which values are bfloat16: what the word gives, and what is computed from such values alone.

A number takes no part in that: a rounded vector times a number is rounded again. Memories, outputs, and what passes into
and out of blocks inside have the dtype of the unit.
"""

from __future__ import annotations

from collections.abc import Mapping

from nldsl.core import Equation, Num, Ref, Type, Unit
from nldsl.vocabulary import is_number

HOLDING = frozenset({"delay", "conv", "attend", "fold"})  # what they keep has the dtype of the unit


def rounded(unit: Unit, types: Mapping[str, Type]) -> frozenset[str]:
    """Equations whose value is bfloat16; the steps of memories are not among them."""
    found: set[str] = set()
    if any(e.op == "bfloat16" for e in unit.equations):
        states = {s.name for s in unit.states}
        waiting = [e for e in unit.equations if e.name not in states]
        while more := {e.name for e in waiting if e.name not in found and is_rounded(e, found, types)}:
            found |= more
    return frozenset(found)


def is_rounded(e: Equation, names: set[str] | frozenset[str], types: Mapping[str, Type]) -> bool:
    """Whether an equation gives bfloat16 where these names are."""
    if e.op == "bfloat16":
        return True
    if e.op in HOLDING or e.op == "cast":
        return False
    given = e.args[1:] if e.op == "where" else e.args[:1] if e.op in ("turn", "turn_back") else e.args
    read = [a for a in given if not isinstance(a, Num) and types[a.name].kind in ("real", "map")]
    wide = [a for a in read if not is_number(types[a.name])] or read
    return bool(wide) and all(isinstance(a, Ref) and a.name in names for a in wide)
