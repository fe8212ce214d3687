"""Adding equations to a typed unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nldsl.core import Atom, Equation, Num, Ref, Type, Unit
from nldsl.lower.numbers import fold, number
from nldsl.lower.order import ordered
from nldsl.source import Span
from nldsl.vocabulary import WORDS, is_number


def retyped(unit: Unit, types: Mapping[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """The types that equations have by their arguments: a gradient, and what is computed from it, may come in fewer copies
    than was declared. States are what they were declared to be."""
    found = dict(types)
    states = {s.name for s in unit.states}
    for e in ordered(unit.equations):
        if e.name not in states:
            found[e.name] = WORDS[e.op].rule([Type("real") if isinstance(a, Num) else found[a.name] for a in e.args], dict(e.attrs))
    return unit, found


class Rewriter:
    """A unit under rewriting: new equations are typed by the vocabulary and trivial arithmetic is not emitted.

    Attributes:
        equations: by name, in order of definition; may be replaced and deleted.
        types: the type of every name.
    """

    def __init__(self, unit: Unit, types: Mapping[str, Type]):
        self.unit = unit
        self.types = dict(types)
        self.equations = {e.name: e for e in unit.equations}
        self.states = {s.name for s in unit.states}
        self.span = unit.span
        self.made: dict[Any, str] = {}  # what has been emitted: an equal operation is not emitted again

    def finish(self) -> tuple[Unit, dict[str, Type]]:
        return replace(self.unit, equations=tuple(self.equations.values())), self.types

    def at(self, span: Span) -> Rewriter:
        """New equations come from this place."""
        self.span = span
        return self

    def type(self, atom: Atom) -> Type:
        return Type("real") if isinstance(atom, Num) else self.types[atom.name]

    def fresh(self, hint: str) -> str:
        name, n = hint, 0
        while name in self.types or name in self.equations:
            n += 1
            name = f"{hint}.{n}"
        return name

    def whole(self) -> str | None:
        """A name that has the precision of the whole: of an input or a param, in as few copies as there are."""
        given = (*(i.name for i in self.unit.inputs), *(p.name for p in self.unit.params))
        return min((n for n in given if self.types[n].kind in ("real", "map")), key=lambda n: len(self.types[n].axes), default=None)

    def define(self, name: str, op: str, args: tuple[Atom, ...], **attrs: Any) -> Ref:
        """The equation `name = op(args)`, replacing the one of that name."""
        equation = Equation(name, op, args, self.span, tuple(attrs.items()))
        self.types[name] = WORDS[op].rule([self.type(a) for a in args], attrs)
        self.equations[name] = equation
        return Ref(name, self.span)

    def emit(self, op: str, *args: Atom, hint: str = "t", **attrs: Any) -> Atom:
        """The value of an operation, simplified where that is free."""
        if op == "transpose":
            return self._transpose(args[0], hint)
        args = self._unfilled(op, args)
        simple = _simplify(op, args, self.type)
        if simple is not None:
            return simple
        key = (op, args, tuple(attrs.items()))
        made = self.made.get(key)
        if made is not None and (e := self.equations.get(made)) is not None and (e.op, e.args, e.attrs) == key:
            return Ref(made, self.span)
        result = self.define(self.fresh(hint), op, args, **attrs)
        self.made[key] = result.name
        return result

    def _unfilled(self, op: str, args: tuple[Atom, ...]) -> tuple[Atom, ...]:
        """One number instead of a tensor filled with it, where the other argument gives the shape."""
        if op not in ("add", "sub", "mul", "div"):
            return args
        for at, a in enumerate(args):
            e = self.equations.get(a.name) if isinstance(a, Ref) and a.name not in self.states else None
            other = args[1 - at]
            if e is not None and e.op == "fill" and not isinstance(other, Num) and self.type(other) == self.type(a):
                return (e.args[0], other) if at == 0 else (other, e.args[0])
        return args

    def _transpose(self, a: Atom, hint: str) -> Atom:
        """The transpose, moved inwards as far as the operations that make the operator allow."""
        e = self.equations.get(a.name) if isinstance(a, Ref) else None
        if e is not None:
            match e.op:
                case "outer":
                    return self.emit("outer", e.args[1], e.args[0], hint=hint)
                case "transpose":
                    return e.args[0]
                case "copy" | "neg" | "add" | "sub" if e.name not in self.states:
                    return self.emit(e.op, *(x if is_number(self.type(x)) else self._transpose(x, hint) for x in e.args), hint=hint)
                case "mul" if e.name not in self.states and any(is_number(self.type(x)) for x in e.args):
                    return self.emit("mul", *(x if is_number(self.type(x)) else self._transpose(x, hint) for x in e.args), hint=hint)
        return self.define(self.fresh(hint), "transpose", (a,))

    def mul(self, a: Atom, b: Atom, hint: str = "t") -> Atom:
        """a * b, with constant factors gathered."""
        left, right = self._factors(a), self._factors(b)
        if left is not None and right is not None and left[1] is None:
            return self.emit("mul", Num(left[0] * right[0]), right[1], hint=hint) if right[1] is not None else Num(left[0] * right[0])
        return self.emit("mul", a, b, hint=hint)

    def _factors(self, a: Atom) -> tuple[float, Atom | None] | None:
        """A constant, or a constant times a stream."""
        value = number(a)
        if value is not None:
            return value, None
        e = self.equations.get(a.name) if isinstance(a, Ref) and a.name not in self.states else None
        if e is not None and e.op == "mul":
            for x, y in (e.args, e.args[::-1]):
                if (inner := number(x)) is not None:
                    return inner, y
        return None

    def add(self, a: Atom, b: Atom, hint: str = "t") -> Atom:
        return self.emit("add", a, b, hint=hint)

    def neg(self, a: Atom, hint: str = "t") -> Atom:
        return self.emit("neg", a, hint=hint)

    def total(self, a: Atom) -> Atom:
        """A number of type `real` from one of type `real[1]`."""
        return a if isinstance(a, Num) or not self.type(a).shape else self.emit("sum", a)

    def known(self, a: Atom) -> float | None:
        """The value of what is computed from numbers alone."""
        e = self.equations.get(a.name) if isinstance(a, Ref) and a.name not in self.states else None
        if e is None or not e.args:
            return number(a)
        values = [self.known(x) for x in e.args]
        return None if None in values else fold(e.op, [v for v in values if v is not None])

    def entry(self, a: Atom, wanted: Type) -> Atom:
        """A number of the type that is wanted of it, `real` or `real[1]`; anything else as it is."""
        if isinstance(a, Num) or not is_number(wanted) or not is_number(self.type(a)):
            return a
        if (known := self.known(a)) is not None:
            return Num(known, self.span)
        return self.total(a) if not wanted.shape else a if self.type(a).shape else self.emit("entry", a)


def _simplify(op: str, args: tuple[Atom, ...], type: Any) -> Atom | None:
    values = [number(a) for a in args]
    known = [v for v in values if v is not None]
    if len(known) == len(args):
        folded = fold(op, known)
        return None if folded is None else Num(folded, args[0].span if args else Num(0.0).span)
    wide = [a for a in args if not isinstance(a, Num)]
    match op, values:
        case ("mul", [1.0, None]) | ("add", [0.0, None]):
            return args[1] if not is_number(type(args[1])) or not type(args[1]).shape else None
        case ("pow", [None, 1.0]):
            return args[0]
        case ("mul", [None, 1.0]) | ("div", [None, 1.0]) | ("add", [None, 0.0]) | ("sub", [None, 0.0]):
            return args[0]
        case ("mul", [0.0, None]) | ("mul", [None, 0.0]) if all(is_number(type(a)) for a in wide):
            return Num(0.0)
    return None
