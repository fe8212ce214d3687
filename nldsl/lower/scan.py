"""A vector or number that keeps a factor of itself, entry by entry: s' = a * s + u is one scan over time."""

from __future__ import annotations

from dataclasses import dataclass

from nldsl.core import Atom, Equation, Last, Num, Ref
from nldsl.lower.affine import NotLinear
from nldsl.lower.rewrite import Rewriter


@dataclass(frozen=True)
class Scan:
    """`state' = factor * state + input`; both are streams."""

    state: str
    factor: Atom
    input: Atom


def analyse_scan(work: Rewriter, group: list[Equation], state: str) -> Scan:
    """Find factor and input of a state's equation, adding streams to `work`.

    Raises:
        NotLinear: the equation is not of this form.
    """
    inside = {e.name: e for e in group}
    value = _value(work, inside, state, Ref(state), set())
    if value[0] is None or value[1] is None:
        raise NotLinear("a state whose next value does not keep a part of it and add to it", inside[state].span)
    return Scan(state, value[0], value[1])


Affine = tuple[Atom | None, Atom | None]  # (factor of the last value, part that does not depend on it)


def _value(work: Rewriter, inside: dict[str, Equation], state: str, atom: Atom, open_names: set[str]) -> Affine:
    if isinstance(atom, Last) and atom.name == state:
        return Num(1.0), None
    if isinstance(atom, Num) or (atom.name not in inside and atom.name != state):
        return None, atom
    e = inside.get(atom.name)
    if e is None or isinstance(atom, Last) or e.name in open_names:
        raise NotLinear("several states feed each other", inside[state].span)
    args = [_value(work, inside, state, a, open_names | {e.name}) for a in e.args]
    work.at(e.span)
    match e.op:
        case "copy":
            return args[0]
        case "neg":
            return tuple(None if x is None else work.neg(x) for x in args[0])  # type: ignore[return-value]
        case "add" | "sub":
            left, right = args
            return _plus(work, e.op, left[0], right[0]), _plus(work, e.op, left[1], right[1])
        case "mul" | "div":
            left, right = args
            if e.op == "mul" and left[0] is None and left[1] is not None:
                left, right = right, left
            if right[0] is None and right[1] is not None:
                by = right[1]
                return tuple(None if x is None else work.emit(e.op, x, by) for x in left)  # type: ignore[return-value]
    raise NotLinear(f"`{e.op}` of a state is not linear in it", e.span)


def _plus(work: Rewriter, op: str, a: Atom | None, b: Atom | None) -> Atom | None:
    if b is None:
        return a
    if a is None:
        return b if op == "add" else work.neg(b)
    return work.emit(op, a, b)
