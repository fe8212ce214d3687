"""The equations of a rule made fewer: known numbers put in, equal equations computed once, numbers gathered in front.

A number in the place of a tensor stands for that number in every entry, so `0 * a` is `0` for any `a`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from nldsl.core import Atom, Equation, Last, Num, Ref, Type, Unit
from nldsl.dims import Dim
from nldsl.lower.numbers import fold, number
from nldsl.lower.order import ordered
from nldsl.source import NOWHERE, Span
from nldsl.vocabulary import WORDS, is_number

# Zero wherever an argument is.
ABSORBING = {"mul", "matmul", "apply", "outer", "dot", "scale_values"}
# Zero where all arguments are.
HOMOGENEOUS = {"transpose", "sum", "mean", "sqnorm", "row_mean", "column_mean", "fold", "bfloat16", "neg", "copy", "stop", "abs",
               "sign", "sqrt", "tanh", "add", "sub", "addmm", "silu", "relu"}  # fmt: skip
COMMUTATIVE = {"add", "mul", "max", "min", "dot"}
WIDENING = {"add", "sub", "mul", "div", "pow", "max", "min", "where", "neg", "exp", "log", "sqrt", "abs", "sign", "tanh", "sigmoid"}
PLAIN_TOO = {"copy", "stop", "silu", "relu", "softplus", "gelu", "bfloat16", "fill"}  # entry by entry as well
MAX_ROUNDS = 8

Settings = Mapping[str, float]


def plain_numbers(unit: Unit, types: Mapping[str, Type], *, sizes: bool = True) -> set[str]:
    """The numbers that depend on no tensor: inputs, states and equations; those of sizes only if asked for."""
    tensors = {s.name for s in unit.states if not is_number(types[s.name])} | {i.name for i in unit.inputs if not is_number(i.type)}
    order = ordered(unit.equations)
    while True:
        plain = {n for n in [*(s.name for s in unit.states), *(i.name for i in unit.inputs)] if n not in tensors}
        late = set(tensors)
        for e in order:
            symbolic = any(isinstance(a, Num) and number(a) is None for a in e.args)
            if not is_number(types[e.name]) or e.op == "fold" or any(a.name in late for a in e.args if isinstance(a, Ref)) or any(
                a.name in tensors for a in e.args if isinstance(a, Last)) or (symbolic and not sizes):  # fmt: skip
                late.add(e.name)
            else:
                plain.add(e.name)
        found = {s.name for s in unit.states if s.name in late} - tensors
        if not found:
            return plain - late
        tensors |= found


def size_numbers(unit: Unit) -> set[str]:
    """The equations that sizes alone determine."""
    found: set[str] = set()
    for e in ordered(unit.equations):
        if e.args and all(isinstance(a, Num) or (isinstance(a, Ref) and a.name in found) for a in e.args):
            found.add(e.name)
    return found


def slow_states(unit: Unit) -> set[str]:
    return {s.name for s in unit.states if s.every > 1}


def needed(unit: Unit, fixed: Collection[str] = ()) -> Unit:
    """Without equations that neither an output nor a state needs, and without states whose value before a step nobody reads.

    The states `fixed` stay, and so do slow ones that are read: at some steps they keep what they are.
    """
    defined = {e.name: e for e in unit.equations}
    slow = slow_states(unit)
    kept = {atom.name for _, atom in unit.outputs if not isinstance(atom, Num)} | set(fixed)
    reached: set[str] = set()
    stack = list(kept)
    while stack:
        name = stack.pop()
        if name in reached:
            continue
        reached.add(name)
        kept |= {name} & slow
        for a in defined[name].args if name in defined else ():
            if isinstance(a, Last):
                kept.add(a.name)
            if not isinstance(a, Num):
                stack.append(a.name)
    return replace(
        unit,
        equations=tuple(e for e in unit.equations if e.name in reached),
        states=tuple(s for s in unit.states if s.name in kept),
    )


def simplify(
    unit: Unit, types: Mapping[str, Type], known: Settings | None = None, fixed: Collection[str] = ()
) -> tuple[Unit, dict[str, Type]]:
    """The same unit with fewer equations; `known` gives values of inputs and of equations.

    Of the states `fixed` other equations hold at other steps: they stay, and may have any value before this one.
    """
    held: dict[str, float] = {}
    types = dict(types)
    unit = needed(unit, fixed)
    for _ in range(MAX_ROUNDS):
        work = _Algebra(unit, types, known or {}, held, slow_states(unit) - set(fixed))
        unit = needed(work.run(), fixed)
        types = work.types
        constant = {n: value for n, value in _constant_states(unit).items() if n not in fixed}
        if not constant.keys() - held.keys():
            break
        held |= constant
    return unit, types


def _constant_states(unit: Unit) -> dict[str, float]:
    """States that never leave the number they start from."""
    equations = {e.name: e for e in unit.equations}
    found = {}
    for s in unit.states:
        e, init = equations.get(s.name), constant_init(s.init)
        if e is not None and e.op == "copy" and init is not None and (e.args[0] == Last(s.name) or number(e.args[0]) == init):
            found[s.name] = init
    return found


def constant_init(init: Any) -> float | None:
    """The number in every entry of a first value."""
    match init:
        case ("zeros",):
            return 0.0
        case ("ones",):
            return 1.0
        case ("constant", value):
            return constant_init(value)
        case float() | int():
            return float(init)
        case Dim():
            return None if init.constant is None else float(init.constant)
    return None


class _Algebra:
    """One pass over the equations in order."""

    def __init__(self, unit: Unit, types: dict[str, Type], known: Settings, held: Settings, slow: set[str]):
        self.unit, self.types, self.known, self.held, self.slow = unit, types, known, held, slow
        self.states = {s.name for s in unit.states}
        self.plain = plain_numbers(unit, types)
        self.env: dict[str, Atom] = {name: Num(value) for name, value in known.items()}
        self.equations: dict[str, Equation] = {}
        self.seen: dict[Any, Ref] = {}
        self.span: Span = NOWHERE

    def run(self) -> Unit:
        for e in ordered(self.unit.equations):
            if e.name in self.known:
                continue
            self.span = e.span
            args = tuple(map(self.atom if e.op in WIDENING | PLAIN_TOO else self.tensor, e.args))
            if e.name in self.slow:  # who reads it may not read what it becomes: that is so at some steps only
                self.types[f"{e.name}.next"] = self.types[e.name]
                made = args[0] if e.op == "copy" else self.make(e.op, args, e.attrs, f"{e.name}.next")
                self.equations[e.name] = Equation(e.name, "copy", (made,), e.span)
                continue
            result = self.make(e.op, args, e.attrs, e.name)
            if result == Ref(e.name):
                continue
            if e.name in self.states:
                self.equations[e.name] = Equation(e.name, "copy", (result,), e.span)
            self.env[e.name] = result
        outputs = tuple((n, Ref(a.name) if isinstance(a, Ref) and a.name in self.states else self.atom(a)) for n, a in self.unit.outputs)
        return self._named(replace(self.unit, equations=tuple(self.equations.values()), outputs=outputs))

    def _named(self, unit: Unit) -> Unit:
        """A value that a state takes over has the name of the state."""
        taken: dict[str, str] = {}
        for e in unit.equations:
            source = e.args[0].name if e.op == "copy" and isinstance(e.args[0], Ref) and e.name in self.states - self.slow else None
            if source in self.equations and source not in self.states and self.types[source] == self.types[e.name]:
                taken.setdefault(source, e.name)

        def seen(a: Atom) -> Atom:
            return Ref(taken.get(a.name, a.name), a.span) if isinstance(a, Ref) else a

        equations = tuple(
            replace(e, name=taken.get(e.name, e.name), args=tuple(seen(a) for a in e.args))
            for e in unit.equations if not (e.op == "copy" and isinstance(e.args[0], Ref) and taken.get(e.args[0].name) == e.name)
        )  # fmt: skip
        return replace(unit, equations=equations, outputs=tuple((n, seen(a)) for n, a in unit.outputs))

    def atom(self, a: Atom) -> Atom:
        if isinstance(a, Last) and a.name in self.held:
            return Num(self.held[a.name])
        return self.env.get(a.name, a) if isinstance(a, Ref) else a

    def tensor(self, a: Atom) -> Atom:
        """An argument that has to be a tensor: where it is one number in every entry, that is filled in."""
        value, wanted = self.atom(a), self.type(a)
        if not isinstance(value, Num) or number(value) in (None, 0.0) or is_number(wanted):
            return value
        if wanted == self.types["w"]:
            return self.emit("fill", value, Last("w"))
        for mean in ("row_mean", "column_mean") if self.types["w"].kind == wanted.kind == "map" else ():
            if WORDS[mean].rule([self.types["w"]], {}) == wanted:
                return self.emit("fill", value, self.emit(mean, Last("w")))
        return value

    def type(self, a: Atom) -> Type:
        return Type("real") if isinstance(a, Num) else self.types[a.name]

    def is_plain(self, a: Atom) -> bool:
        return isinstance(a, Num) or a.name in self.plain

    def emit(self, op: str, *args: Atom) -> Atom:
        return self.make(op, args, (), None)

    def made_by(self, a: Atom, op: str) -> tuple[Atom, ...] | None:
        e = self.equations.get(a.name) if isinstance(a, Ref) else None
        return e.args if e is not None and e.op == op else None

    def make(self, op: str, args: tuple[Atom, ...], attrs: tuple[tuple[str, Any], ...], name: str | None) -> Atom:
        """The value of an operation: an atom that is there already, or a new equation."""
        if op in WIDENING:
            args = self._narrowed(args)
        simple = self._simple(op, args, attrs)
        if simple is not None:
            return simple
        keyed = tuple(sorted(args, key=repr)) if op in COMMUTATIVE else args
        key = (op, keyed, attrs)
        if key in self.seen:
            return self.seen[key]
        if name is None:
            name = self._fresh()
            self.types[name] = WORDS[op].rule([self.type(a) for a in args], dict(attrs))
        if is_number(self.types[name]) and op != "fold" and all(self.is_plain(a) for a in args):
            self.plain.add(name)
        self.equations[name] = Equation(name, op, args, self.span, attrs)
        self.seen[key] = Ref(name)
        return self.seen[key]

    def _fresh(self) -> str:
        n = 1
        while f"number.{n}" in self.types:
            n += 1
        return f"number.{n}"

    def _narrowed(self, args: tuple[Atom, ...]) -> tuple[Atom, ...]:
        """Numbers in place of the tensors they fill, where another argument has the shape."""
        filled = [self.made_by(a, "fill") for a in args]
        if not any(filled) or not any(f is None and not is_number(self.type(a)) for a, f in zip(args, filled)):
            return args
        return tuple(a if f is None else f[0] for a, f in zip(args, filled))

    def _simple(self, op: str, args: tuple[Atom, ...], attrs: tuple[tuple[str, Any], ...]) -> Atom | None:
        values = [number(a) for a in args]
        if args and None not in values:
            folded = fold(op, [v for v in values if v is not None])
            if folded is not None:
                return Num(folded)
        if (op in ABSORBING and 0.0 in values) or (op in HOMOGENEOUS and args and all(v == 0.0 for v in values)):
            return Num(0.0)
        match op, args, values:
            case ("copy", (a,), _):
                return a
            case ("add", (_, a), [0.0, _]) | ("mul", (_, a), [1.0, _]) | ("add", (a, _), [_, 0.0]) | ("mul", (a, _), [_, 1.0]):
                return a
            case ("sub", (a, _), [_, 0.0]) | ("div", (a, _), [_, 1.0]) | ("pow", (a, _), [_, 1.0]):
                return a
            case ("sub", (_, a), [0.0, _]):
                return self.emit("neg", a)
            case ("div", _, [0.0, _]) | ("fill", _, [0.0, _]):
                return Num(0.0)
            case ("where", (_, a, b), [v, _, _]):
                return a if v is not None and v > 0 else b if v is not None or a == b else None
            case ("neg", (a,), _) if (inner := self.made_by(a, "neg")) is not None:
                return inner[0]
            case ("mul", (a, b), _):
                return self._gathered(a, b) or self._gathered(b, a)
            case ("div", (a, b), _) if self.is_plain(b) and not is_number(self.type(a)):
                return self.emit("mul", self.emit("div", Num(1.0), b), a)
            case ("sum" | "mean" | "row_mean" | "column_mean", (a,), _) if (inner := self._factor(a)) is not None:
                return self.emit("mul", inner[0], self.emit(op, inner[1]))
            case ("fold", (a,), _):
                return self._folded(a, attrs)
        return None

    def _gathered(self, a: Atom, b: Atom) -> Atom | None:
        """a * (c * X) = (a * c) * X for plain numbers a and c, and a * (1 / b) = a / b."""
        quotient = self.made_by(b, "div") if self.is_plain(a) and self.is_plain(b) else None
        if quotient is not None and number(quotient[0]) == 1.0:
            return self.emit("div", a, quotient[1])
        inner = self._factor(b) if self.is_plain(a) and not is_number(self.type(b)) else None
        return None if inner is None else self.emit("mul", self.emit("mul", a, inner[0]), inner[1])

    def _factor(self, a: Atom) -> tuple[Atom, Atom] | None:
        """(c, X) where a = c * X for a plain number c."""
        inner = self.made_by(a, "mul")
        for c, x in (inner, inner[::-1]) if inner is not None else ():
            if self.is_plain(c) and not self.is_plain(x):
                return c, x
        return None

    def _folded(self, a: Atom, attrs: tuple[tuple[str, Any], ...]) -> Atom | None:
        """Signs and constant factors come out of sums over a period, so that equal sums are seen to be equal."""
        if (inner := self.made_by(a, "neg")) is not None:
            return self.emit("neg", self._fold(inner[0], attrs))
        inner = self.made_by(a, "mul")
        for c, x in (inner, inner[::-1]) if inner is not None else ():
            if number(c) is not None:
                return self.emit("mul", c, self._fold(x, attrs))
        inner, memory = self.made_by(a, "sub"), dict(attrs)["memory"]
        if inner is not None and inner[0] == Last(memory) and dict(attrs)["over"] == "mean":
            return self.emit("sub", inner[0], self._fold(inner[1], attrs))  # the memory is the same throughout the period
        return None

    def _fold(self, a: Atom, attrs: tuple[tuple[str, Any], ...]) -> Atom:
        simple = self._folded(a, attrs)
        if simple is not None:
            return simple
        name = self._fresh()
        self.types[name] = self.type(a)
        return self.make("fold", (a,), attrs, name)


# --- accumulators ------------------------------------------------------------------------------------


def merge_states(unit: Unit, types: Mapping[str, Type], clocks: Mapping[str, Any], kept: set[str]) -> Unit:
    """One state for all that start equal and, by their equations, stay equal; `kept` stay apart.

    The coarsest partition is found by refinement from the first values.
    """
    def numbered(keys: Mapping[str, Any]) -> dict[str, int]:
        numbers: dict[Any, int] = {}
        return {name: numbers.setdefault(key, len(numbers)) for name, key in keys.items()}

    order, slow = ordered(unit.equations), slow_states(unit)
    classes = numbered({s.name: s.name if s.name in kept else (types[s.name], s.init, clocks.get(s.name)) for s in unit.states})
    while True:
        values = _values(order, classes, clocks, slow)
        finer = numbered({name: (c, values.get(name)) for name, c in classes.items()})
        if len(set(finer.values())) == len(set(classes.values())):
            break
        classes = finer
    first: dict[int, str] = {}
    same = {name: first.setdefault(c, name) for name, c in classes.items()}
    removed = {name for name, rep in same.items() if rep != name}

    def seen(a: Atom) -> Atom:
        return a if isinstance(a, Num) else replace(a, name=same.get(a.name, a.name))

    equations = tuple(replace(e, args=tuple(seen(a) for a in e.args), attrs=tuple((k, same.get(v, v) if k == "memory" else v) for k, v in e.attrs))
                      for e in unit.equations if e.name not in removed)  # fmt: skip
    return replace(unit, equations=equations, states=tuple(s for s in unit.states if s.name not in removed))


def _values(order: list[Equation], classes: Mapping[str, int], clocks: Mapping[str, Any], slow: set[str]) -> dict[str, int]:
    """A number for each equation; equal for equations that are equal if states of one class are."""
    numbers: dict[Any, int] = {}
    values: dict[str, int] = {}

    def value(a: Atom) -> Any:
        if isinstance(a, Num):
            return ("number", a.value)
        if isinstance(a, Ref) and a.name in slow:
            return ("slow", classes[a.name])
        return ("last", classes[a.name]) if isinstance(a, Last) else ("value", values[a.name]) if a.name in values else ("input", a.name)

    for e in order:
        args = [value(a) for a in e.args]
        key: Any
        if e.op == "copy" and args[0][0] == "value":
            key = None
            values[e.name] = args[0][1]
            continue
        attrs = tuple((k, clocks.get(v) if k == "memory" else v) for k, v in e.attrs)
        key = (e.op, tuple(sorted(args, key=repr) if e.op in COMMUTATIVE else args), attrs)
        values[e.name] = numbers.setdefault(key, len(numbers))
    return values
