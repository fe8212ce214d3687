"""Equations of one step as a straight line: passes over tensors entry by entry, and operations on whole tensors between them.

A pass reads and writes each of its arrays once. An equation has stages where it may stand: after the operations it reads,
before those that read it. The stages are chosen so that as few arrays as possible are read and written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nldsl.core import Atom, Equation, Last, Num, Ref, Type, Unit
from nldsl.dims import Dim
from nldsl.lower.algebra import plain_numbers
from nldsl.lower.cost import entries
from nldsl.lower.numbers import number as constant
from nldsl.lower.order import ordered
from nldsl.vocabulary import is_number

ENTRYWISE = frozenset(
    "add sub mul div pow neg copy exp log sqrt abs sign tanh sigmoid softplus silu gelu relu max min stop where fill".split()
)
ROUNDS = 20


@dataclass(frozen=True)
class Segment:
    """One pass over tensors of one shape.

    Attributes:
        reads: `Last` of a state is its buffer, which the pass writes in place if the state is among `writes`.
        writes: names of equations.
        scalars: names of numbers.
        apart: states among `writes` whose old value is read later: they go to a new array.
    """

    equations: tuple[Equation, ...]
    reads: tuple[Atom, ...]
    writes: tuple[str, ...]
    scalars: tuple[str, ...]
    apart: frozenset[str]


@dataclass(frozen=True)
class Whole:
    """One operation on whole tensors, or a number computed from their entries or sizes."""

    equation: Equation


Step = Segment | Whole


def straight_line(unit: Unit, types: Mapping[str, Type]) -> tuple[Step, ...]:
    """The steps of a unit, numbers of the prologue aside."""
    return _Line(peepholes(unit, types), types).steps()


def peepholes(unit: Unit, types: Mapping[str, Type]) -> Unit:
    """`a X + b A B` as one operation `addmm(X, A, B, a, b)`, and `sqrt(sqnorm(X))` as `vector_norm(X)`.

    Products whose result is its own transpose are marked `symmetric`: half of it is enough to know it.
    """
    equations = {e.name: e for e in unit.equations}
    fixed = {s.name for s in unit.states} | {a.name for _, a in unit.outputs if isinstance(a, Ref)}
    plain = plain_numbers(unit, types)
    uses: dict[str, int] = {}
    for e in unit.equations:
        for a in e.args:
            if isinstance(a, Ref):
                uses[a.name] = uses.get(a.name, 0) + 1

    def once(a: Atom, op: str) -> Equation | None:
        e = equations.get(a.name) if isinstance(a, Ref) and uses[a.name] == 1 and a.name not in fixed else None
        return e if e is not None and e.op == op else None

    def number(a: Atom) -> bool:
        return isinstance(a, Num) or a.name in plain

    def scaled(a: Atom, op: str | None) -> tuple[Atom, Atom | Equation] | None:
        """(factor, the operation or atom) of `a`; with an operation, only what is read here alone."""
        product = once(a, "mul")
        for c, x in (product.args, product.args[::-1]) if product is not None else ():
            if number(c) and not number(x):
                inner = once(x, op) if op else x
                return (c, inner) if inner is not None else None
        found = once(a, op) if op else a
        return None if found is None else (Num(1.0), found)

    for e in ordered(unit.equations):
        if e.op in ("add", "sub") and types[e.name].kind == "map":
            for x, y, flip in ((e.args[0], e.args[1], 1), (e.args[1], e.args[0], 0)):
                right = scaled(y, "matmul")
                left = scaled(x, None) if right is not None and not number(x) and not is_number(_type(x, types)) else None
                if right is None or left is None or not isinstance(right[1], Equation) or isinstance(left[1], Equation):
                    continue
                factors: list[Atom] = [left[0], right[0]]
                if e.op == "sub":
                    turned = constant(factors[flip])
                    if turned is None:
                        continue
                    factors[flip] = Num(-turned)
                equations[e.name] = replace(e, op="addmm", args=(left[1], *right[1].args, *factors))
                break
        if e.op == "sqrt" and (square := once(e.args[0], "sqnorm")) is not None:
            equations[e.name] = replace(e, op="vector_norm", args=square.args)
    same = symmetric(ordered(equations.values()), types)
    marked = (replace(e, attrs=(*e.attrs, ("symmetric", True))) if e.name in same and e.op in ("matmul", "addmm") else e for e in equations.values())
    return _live(replace(unit, equations=tuple(marked)))


def symmetric(order: Sequence[Equation], types: Mapping[str, Type]) -> set[str]:
    """What is its own transpose whatever the rest is: `X X^T`, and what is computed entry by entry from such; numbers."""
    found: set[str] = set()
    turned: dict[Atom, Atom] = {Ref(e.name): e.args[0] for e in order if e.op == "transpose"}

    def own(a: Atom) -> bool:
        return is_number(_type(a, types)) or (isinstance(a, Ref) and a.name in found)

    def square(a: Atom, b: Atom) -> bool:
        return turned.get(a) == b or turned.get(b) == a or (a == b and own(a))

    for e in order:
        match e.op, e.args:
            case "identity", _:
                holds = True
            case "matmul", (a, b):
                holds = square(a, b)
            case "addmm", (x, a, b, _, _):
                holds = own(x) and square(a, b)
            case _:
                holds = e.op in ENTRYWISE and all(map(own, e.args))
        if holds:
            found.add(e.name)
    return found


def _live(unit: Unit) -> Unit:
    """Without equations that are read no more."""
    reached: set[str] = set()
    defined = {e.name: e for e in unit.equations}
    stack = [s.name for s in unit.states] + [a.name for _, a in unit.outputs if isinstance(a, Ref)]
    while stack:
        name = stack.pop()
        if name in defined and name not in reached:
            reached.add(name)
            stack += [a.name for a in defined[name].args if isinstance(a, Ref)]
    return replace(unit, equations=tuple(e for e in unit.equations if e.name in reached))


def _type(a: Atom, types: Mapping[str, Type]) -> Type:
    return Type("real") if isinstance(a, Num) else types[a.name]


def low_precision(unit: Unit, types: Mapping[str, Type]) -> set[str]:
    """What is computed from `bfloat16` values alone stays one, but for entries read only by a pass in the precision of `w`."""
    plain = plain_numbers(unit, types)
    low: set[str] = set()
    for e in ordered(unit.equations):
        wide = [a for a in e.args if not isinstance(a, Num) and a.name not in plain]
        if e.op == "bfloat16" or (wide and all(isinstance(a, Ref) and a.name in low for a in wide)):
            low.add(e.name)
    readers: dict[str, list[Equation]] = {}
    for e in unit.equations:
        for a in e.args:
            if isinstance(a, Ref):
                readers.setdefault(a.name, []).append(e)
    for e in reversed(ordered(unit.equations)):
        after = readers.get(e.name, [])
        if e.name in low and e.op in ENTRYWISE and not is_number(types[e.name]) and after and all(
            r.op in ENTRYWISE and r.name not in low and not is_number(types[r.name]) for r in after):  # fmt: skip
            low.remove(e.name)
    return low


class _Line:
    """Chooses a stage for every equation.

    Attributes:
        stage: the pass an entrywise equation belongs to; other operations run before the pass of their stage.
    """

    def __init__(self, unit: Unit, types: Mapping[str, Type]):
        self.unit, self.types = unit, types
        self.states = {s.name for s in unit.states}
        self.numbers = plain_numbers(unit, types, sizes=False)
        self.order = [e for e in ordered(unit.equations) if e.name not in self.numbers]
        self.low = low_precision(unit, types)
        self.entry = {e.name for e in self.order if self._is_entry(e)}
        self.made = {e.name for e in self.order}
        self.alias = {e.name for e in self.order if self._is_alias(e)}
        self.readers: dict[str, list[Equation]] = {}
        self.old_readers: dict[str, list[Equation]] = {}
        for e in self.order:
            for a in set(self._arrays(e)):
                (self.readers if isinstance(a, Ref) else self.old_readers).setdefault(a.name, []).append(e)
        self.entry |= {e.name for e in self.order if self._is_rounding(e)}
        self.outputs = {a.name for _, a in unit.outputs if isinstance(a, Ref)}
        self.stage: dict[str, int] = {}
        self._earliest()

    def _is_entry(self, e: Equation) -> bool:
        if e.op not in ENTRYWISE or is_number(self.types[e.name]) or e.name in self.low or (e.op == "fill" and self.types[e.name] != self.types["w"]):
            return False
        shape = self.types[e.name].shape
        return all(is_number(_type(a, self.types)) or _type(a, self.types).shape == shape for a in e.args)

    def _is_rounding(self, e: Equation) -> bool:
        """A pass writes what it computes rounded, where only operations on whole tensors read it."""
        a = e.args[0] if e.op == "bfloat16" and not is_number(self.types[e.name]) else None
        return isinstance(a, Ref) and a.name in self.entry and not any(r.name in self.entry for r in self.readers.get(e.name, ()))

    def _is_alias(self, e: Equation) -> bool:
        """A state that becomes an array which a whole operation made: nothing is computed."""
        return e.name in self.states and e.op == "copy" and isinstance(e.args[0], Ref) and e.args[0].name in self.made - self.entry - self.states

    def _arrays(self, e: Equation) -> list[Ref | Last]:
        """What an equation reads besides numbers of the prologue; `fill` needs only the shape of its second argument."""
        args = e.args[:1] if e.op == "fill" and e.name in self.entry else e.args
        return [a for a in args if not isinstance(a, Num) and a.name not in self.numbers]

    def _earliest(self) -> None:
        for e in self.order:
            before = [(a.name, self.stage[a.name]) for a in self._arrays(e) if isinstance(a, Ref) and a.name in self.stage]
            whole = e.name not in self.entry or e.name in self.alias
            self.stage[e.name] = max((k + (whole and n in self.entry and n not in self.alias) for n, k in before), default=0)

    # --- the choice ------------------------------------------------------------------------------------

    def _choose(self) -> None:
        last = max(self.stage.values(), default=0)
        if last == 0:
            return
        early = dict(self.stage)
        self._climb(last)
        best, least = dict(self.stage), self._cost()
        self.stage = dict(early)
        for e in reversed(self.order):
            if e.name in self.entry - self.alias:
                self.stage[e.name] = self._window(e, last)[1] if self.readers.get(e.name) else self.stage[e.name]
        self._climb(last)
        if self._cost() > least:
            self.stage = best

    def _window(self, e: Equation, last: int) -> tuple[int, int]:
        """The stages where an entrywise equation may stand while the others stay."""
        low = max((self.stage[a.name] for a in self._arrays(e) if isinstance(a, Ref) and a.name in self.stage), default=0)
        high = min((self.stage[r.name] - (r.name not in self.entry or r.name in self.alias) for r in self.readers.get(e.name, ())), default=last)
        return low, high

    def _climb(self, last: int) -> None:
        cost = self._cost()
        for _ in range(ROUNDS):
            before = cost
            for e in reversed(self.order):
                if e.name not in self.entry or e.name in self.alias:
                    continue
                low, high = self._window(e, last)
                here = self.stage[e.name]
                for k in range(low, high + 1):
                    self.stage[e.name] = k
                    moved = self._cost()
                    if moved < cost - 1e-9:
                        cost, here = moved, k
                self.stage[e.name] = here
            if cost == before:
                return

    def _cost(self) -> float:
        """Arrays read and written, a little for every pass, and least of all for equations that stand early."""
        arrays = sum(len(s.reads) + len(s.writes) + 3 * len(s.apart) for s in self._segments())
        return arrays + 0.01 * len({self.stage[n] for n in self.entry}) + 1e-6 * sum(self.stage[n] for n in self.entry)

    # --- the result --------------------------------------------------------------------------------------

    def steps(self) -> tuple[Step, ...]:
        self._choose()
        segments = self._segments(full=True)
        out: list[Step] = []
        for k in range(max(self.stage.values(), default=0) + 1):
            out += [Whole(e) for e in self.order if self.stage[e.name] == k and (e.name not in self.entry or e.name in self.alias)]
            out += [s for s in segments if self.stage[s.equations[0].name] == k]
        return tuple(out)

    def _segments(self, full: bool = False) -> list[Segment]:
        groups: dict[object, list[Equation]] = {}
        for e in self.order:
            if e.name in self.entry and e.name not in self.alias:
                groups.setdefault((self.stage[e.name], self.types[e.name].shape), []).append(e)
        return [self._segment(group, full) for group in groups.values()]

    def _segment(self, group: list[Equation], full: bool) -> Segment:
        inside = {e.name for e in group}
        stage = self.stage[group[0].name]
        reads: dict[Atom, None] = {}
        scalars: dict[str, None] = {}
        for e in group:
            for a in self._arrays(e):
                if is_number(_type(a, self.types)):
                    scalars[a.name] = None
                elif isinstance(a, Last) or a.name not in inside:
                    reads[a] = None
            if full:
                scalars |= {a.name: None for a in e.args if not isinstance(a, Num) and a.name in self.numbers}
        writes = tuple(n for n in inside if n in self.states or n in self.outputs or any(r.name not in inside for r in self.readers.get(n, ())))
        writes = tuple(e.name for e in group if e.name in writes)
        apart = frozenset(n for n in writes if n in self.states and any(self._after(r, stage) for r in self.old_readers.get(n, ())))
        if not reads:  # the shape has to come from somewhere
            reads = {Last(next((n for n in writes if n in self.states), "w")): None}
        return Segment(tuple(group), tuple(reads), writes, tuple(scalars), apart)

    def _after(self, reader: Equation, stage: int) -> bool:
        return self.stage[reader.name] > stage


# --- what it costs -----------------------------------------------------------------------------------------


def moved_entries(steps: tuple[Step, ...], types: Mapping[str, Type], numbers: set[str]) -> Dim:
    """The entries read from and written to memory."""
    total = Dim.of(0)
    for step in steps:
        match step:
            case Segment():
                arrays = [*(a.name for a in step.reads if not isinstance(a, Num)), *step.writes]
            case Whole(e):
                arrays = [a.name for a in e.args if not isinstance(a, Num) and a.name not in numbers] + [e.name] * (e.op != "transpose")
        for name in arrays:
            total = total + entries(types[name])
    return total
