"""Ranges: an interval for every stream of a unit, by running its equations over intervals.

    sigmoid(a) in [0, 1]    exp(-softplus(a)) in [0, 1]    1 - 2 ^ (-5 - h) in [0.97, 1]    unit(k) has |k|^2 <= 1

>>> import nldsl
>>> e = nldsl.load("block b(d) { in x : real[d]  a = 1 - sigmoid(x)  out y = a * unit(x) }").symbolic("b")
>>> str(intervals(e.unit, e.types[e.key])["y"])
'[-1, 1]'

Intervals are closed and hold at every tick, whatever the inputs and params are. Of a vector or operator they bound
each entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nldsl.check.interval import (
    ALL,
    EXP,
    INF,
    LOG,
    ONE,
    POSITIVE,
    SIGMOID,
    SOFTPLUS,
    SQRT,
    ZERO,
    Interval,
    bfloat16,
    dim_interval,
    divide,
    hull,
    minus,
    monotone,
    negative,
    plus,
    square,
    times,
    to_power,
)  # fmt: skip
from nldsl.core import Atom, Equation, Input, Num, Param, Ref, Type, Unit


@dataclass
class Ranges:
    """Bounds found so far: `entries` of each stream, `norms` its largest squared norm where one is known."""

    unit: Unit
    types: Mapping[str, Type]
    entries: dict[str, Interval] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)

    def of(self, atom: Atom) -> Interval:
        if isinstance(atom, Num):
            return dim_interval(atom.value) if not isinstance(atom.value, float) else Interval(atom.value, atom.value)
        return self.entries.get(atom.name, ALL) if isinstance(atom, Ref) else ALL

    def norm(self, atom: Atom) -> float:
        """A bound of |a|^2, the sum over all entries."""
        if isinstance(atom, Num):
            return square(self.of(atom)).high
        if not isinstance(atom, Ref):
            return INF
        entry = square(self.of(atom)).high
        by_entry = entry * self.count(atom).high if entry else 0.0
        return min(self.norms.get(atom.name, INF), by_entry)

    def picks(self, atom: Atom) -> bool:
        """Whether it is an index, in the place of a vector."""
        found = self.types.get(getattr(atom, "name", ""))
        return found is not None and found.kind == "int"

    def count(self, atom: Atom) -> Interval:
        """The number of entries."""
        found = self.types.get(getattr(atom, "name", ""))
        total = ONE
        for size in found.shape if found is not None else ():
            total = times(total, dim_interval(size))
        return total if found is not None else Interval(1.0, INF)


def intervals(unit: Unit, types: Mapping[str, Type]) -> dict[str, Interval]:
    """Bounds of every input, param, state and equation of a unit, those inside objectives included."""
    return analyse(unit, types).entries


def analyse(unit: Unit, types: Mapping[str, Type]) -> Ranges:
    """Bounds of the entries and of the norms."""
    found = Ranges(unit, types)
    given: tuple[Input | Param, ...] = (*unit.inputs, *unit.params)
    for declared in given:
        found.entries[declared.name] = _declared(declared.type)
    slow = {s.name for s in unit.states if s.every > 1}
    for equation in _ordered(unit, set(found.entries)):
        # A slow state holds its value between its ticks, where its equation does not apply.
        bound = ALL if equation.name in slow or equation.op not in TABLE else TABLE[equation.op](equation, found)
        found.entries[equation.name] = ALL if math.isnan(bound.low) or math.isnan(bound.high) else bound
        if equation.name not in slow:
            found.norms[equation.name] = NORMS[equation.op](equation, found) if equation.op in NORMS else INF
    for state in unit.states:
        found.entries.setdefault(state.name, ALL)
    return found


def _declared(type: Type) -> Interval:
    if type.kind == "int" and type.bound is not None:
        return Interval(0.0, dim_interval(type.bound).high - 1)
    return Interval(0.0, 1.0) if type.kind == "bool" else ALL


def _ordered(unit: Unit, known: set[str]) -> list[Equation]:
    """Equations after those they read at this tick; where an implicit step closes a cycle, the value is not known yet."""
    every = {e.name: e for e in unit.equations}
    bodies = {p.name: p for e in unit.equations if (o := e.attr("objective")) is not None for p in o.equations}
    every |= bodies
    order: dict[str, Equation] = {}
    for first in every:
        stack, opened = [first], set()
        while stack:
            name = stack[-1]
            waiting = [a.name for a in every[name].args if isinstance(a, Ref)]
            waiting = [n for n in waiting if n in every and n not in order and n not in opened]
            if name in order or name in opened or not waiting:
                stack.pop()
                order.setdefault(name, every[name])
                continue
            opened.add(name)
            stack += waiting
    return list(order.values())


Rule = Callable[[Equation, Ranges], Interval]


def _unary(fn: Callable[[Interval], Interval]) -> Rule:
    return lambda e, r: fn(r.of(e.args[0]))


def _binary(fn: Callable[[Interval, Interval], Interval]) -> Rule:
    return lambda e, r: fn(r.of(e.args[0]), r.of(e.args[1]))


def _mul(e: Equation, r: Ranges) -> Interval:
    a, b = e.args
    return square(r.of(a)) if a == b else times(r.of(a), r.of(b))


def _pow(e: Equation, r: Ranges) -> Interval:
    return to_power(r.of(e.args[0]), r.of(e.args[1]))


def _dip(fn: Callable[[float], float], low: float, turn: float) -> Callable[[Interval], Interval]:
    """silu and gelu: they fall to `low` at `turn` and grow from there; at minus infinity they are 0."""

    def image(a: Interval) -> Interval:
        left = 0.0 if a.low == -INF else fn(a.low)
        right = fn(a.high) if a.high < INF else INF
        return Interval(low if a.low <= turn <= a.high else min(left, right), max(left, right))

    return image


def _silu(x: float) -> float:
    return x * SIGMOID(x)


def _gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _sum(e: Equation, r: Ranges) -> Interval:
    return times(r.of(e.args[0]), r.count(e.args[0]))


def _sqnorm(e: Equation, r: Ranges) -> Interval:
    return Interval(0.0, r.norm(e.args[0]))


def _dot(e: Equation, r: Ranges) -> Interval:
    a, b = e.args
    if a == b:
        return Interval(0.0, r.norm(a))
    products = times(times(r.of(a), r.of(b)), r.count(a))
    size = times(Interval(0.0, SQRT(r.norm(a))), Interval(0.0, SQRT(r.norm(b)))).high
    return Interval(max(products.low, -size), min(products.high, size))


def _norm(e: Equation, r: Ranges) -> Interval:
    a = r.of(e.args[0])
    size = SQRT(r.count(e.args[0]).high)
    return Interval(0.0 if a.low >= 0 else -size, 0.0 if a.high <= 0 else size)


def _unit(e: Equation, r: Ranges) -> Interval:
    a = r.of(e.args[0])
    return Interval(0.0 if a.low >= 0 else -1.0, 0.0 if a.high <= 0 else 1.0)


def _rope(e: Equation, r: Ranges) -> Interval:
    size = times(Interval(math.sqrt(2), math.sqrt(2)), Interval(0.0, r.of(e.args[0]).size)).high
    return Interval(-size, size)


def _where(e: Equation, r: Ranges) -> Interval:
    c, a, b = (r.of(x) for x in e.args)
    return a if c.low > 0 else b if c.high <= 0 else hull(a, b)


def _matmul(e: Equation, r: Ranges) -> Interval:
    a, b = e.args
    found = r.types.get(getattr(a, "name", ""))
    inner = dim_interval(found.domain) if found is not None else Interval(1.0, INF)
    return times(times(r.of(a), r.of(b)), inner)


def _index(e: Equation, r: Ranges) -> Interval:
    return Interval(0.0, dim_interval(e.attr("axis").size).high - 1)


def _fold(e: Equation, r: Ranges) -> Interval:
    a = r.of(e.args[0])
    every = next((s.every for s in r.unit.states if s.name == e.attr("memory")), 1)
    return hull(ZERO, times(a, Interval(1.0, float(every)))) if e.attr("over") == "sum" else hull(ZERO, a)


def _pool(e: Equation, r: Ranges) -> Interval:
    """A sum is of one sequence or of any number."""
    a = r.of(e.args[0])
    return a if e.attr("over") == "mean" else Interval(a.low if a.low >= 0 else -INF, a.high if a.high <= 0 else INF)


def _abs(a: Interval) -> Interval:
    return Interval(0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high)), a.size)


def _sign(a: Interval) -> Interval:
    return Interval(1.0 if a.low > 0 else 0.0 if a.low >= 0 else -1.0, -1.0 if a.high < 0 else 0.0 if a.high <= 0 else 1.0)


def _same(a: Interval) -> Interval:
    return a


def _unknown(e: Equation, r: Ranges) -> Interval:
    return ALL


TABLE: dict[str, Rule] = {
    "add": _binary(plus),
    "sub": lambda e, r: ZERO if e.args[0] == e.args[1] else minus(r.of(e.args[0]), r.of(e.args[1])),
    "mul": _mul,
    "div": _binary(divide),
    "pow": _pow,
    "neg": _unary(negative),
    "copy": _unary(_same),
    "exp": _unary(lambda a: monotone(EXP, a)),
    "log": _unary(lambda a: monotone(LOG, a) if a.low >= 0 else ALL),
    "sqrt": _unary(lambda a: monotone(SQRT, a)),
    "abs": _unary(_abs),
    "sign": _unary(_sign),
    "tanh": _unary(lambda a: monotone(math.tanh, a)),
    "sigmoid": _unary(lambda a: monotone(SIGMOID, a)),
    "softplus": _unary(lambda a: monotone(SOFTPLUS, a)),
    "silu": _unary(_dip(_silu, -0.27846455, -1.2784645)),
    "gelu": _unary(_dip(_gelu, -0.16997121, -0.7517916)),
    "gelu_pull": _binary(lambda a, b: times(a, Interval(-0.13, 1.13))),
    "column": lambda e, r: Interval(0.0, 1.0),
    "one_hot": lambda e, r: Interval(0.0, 1.0),
    "relu": _unary(lambda a: Interval(max(a.low, 0.0), max(a.high, 0.0))),
    "max": _binary(lambda a, b: Interval(max(a.low, b.low), max(a.high, b.high))),
    "min": _binary(lambda a, b: Interval(min(a.low, b.low), min(a.high, b.high))),
    "where": _where,
    "bfloat16": _unary(lambda a: monotone(bfloat16, a)),
    "stop": _unary(_same),
    "dot": _dot,
    "sqnorm": _sqnorm,
    "sum": _sum,
    "mean": _unary(_same),
    "unit": _unit,
    "norm": _norm,
    "softmax": lambda e, r: Interval(0.0, 1.0),
    "rope": _rope, "turn": _rope, "turn_back": _rope,
    "angles": lambda e, r: Interval(-1.0, 1.0), "tap": _unary(_same),
    "attend_pull": _unknown,
    "apply": _unknown,
    "transpose": _unary(_same),
    "outer": lambda e, r: times(r.of(e.args[0]), Interval(0.0, 1.0) if r.picks(e.args[1]) else r.of(e.args[1])),
    "scale_values": _binary(times),
    "matmul": _matmul,
    "identity": lambda e, r: Interval(0.0, 1.0),
    "row_mean": _unary(_same),
    "column_mean": _unary(_same),
    "solve": _unknown,
    "matrix_power": _unknown,
    "eigenvectors": lambda e, r: Interval(-1.0, 1.0),
    "flatten": _unary(_same), "entry": _unary(_same),
    "unflatten": lambda e, r: r.of(e.args[0]), "cast": lambda e, r: r.of(e.args[0]),
    "ungather": _unary(_same),
    "gather": _unary(_same),
    "sum_copies": _unknown,
    "delay": _unary(lambda a: hull(ZERO, a)),
    "conv": _unknown,
    "attend": lambda e, r: r.of(e.args[2]),
    "count": lambda e, r: Interval(1.0, INF),
    "index": _index,
    "cross_entropy": lambda e, r: POSITIVE,
    "fill": _unary(_same),
    "fold": _fold,
    "pool": _pool,
    "grad": _unknown,
}


def _scaled_norm(e: Equation, r: Ranges) -> float:
    """|c a|^2 for a number c, elementwise products as well."""
    a, b = e.args
    parts = [(a, b), (b, a)]
    return min(times(square(r.of(c)), Interval(0.0, r.norm(v))).high for c, v in parts)


def _first_norm(e: Equation, r: Ranges) -> float:
    return r.norm(e.args[0])


def _sum_norm(e: Equation, r: Ranges) -> float:
    """(|a| + |b|)^2, for two arguments of one shape."""
    shapes = [r.types[a.name].shape if isinstance(a, Ref) and a.name in r.types else None for a in e.args]
    if shapes[0] is None or shapes[0] != shapes[1]:
        return INF
    return (SQRT(r.norm(e.args[0])) + SQRT(r.norm(e.args[1]))) ** 2


def _side_norm(e: Equation, r: Ranges) -> float:
    """Each column has length 1."""
    found = r.types.get(e.name)
    return dim_interval(found.codomain).high if found is not None else INF


def _outer_norm(e: Equation, r: Ranges) -> float:
    """Of a column too: what picks it has length 1."""
    return times(Interval(0.0, r.norm(e.args[0])), Interval(0.0, 1.0 if r.picks(e.args[1]) else r.norm(e.args[1]))).high


# Bounds of squared norms that are better than those the entries give.
NORMS: dict[str, Callable[[Equation, Ranges], float]] = {
    "unit": lambda e, r: min(1.0, r.norm(e.args[0]) * 1e6),
    "softmax": lambda e, r: 1.0,
    "norm": lambda e, r: r.count(e.args[0]).high,
    "rope": _first_norm, "turn": _first_norm, "turn_back": _first_norm, "neg": _first_norm, "copy": _first_norm, "stop": _first_norm, "transpose": _first_norm,
    "delay": _first_norm, "flatten": _first_norm, "tanh": _first_norm, "relu": _first_norm, "abs": _first_norm,
    "mul": _scaled_norm, "scale_values": _scaled_norm, "add": _sum_norm, "sub": _sum_norm, "outer": _outer_norm,
    "pool": lambda e, r: r.norm(e.args[0]) if e.attr("over") == "mean" else INF,
    "matmul": _outer_norm, "row_mean": _first_norm, "column_mean": _first_norm, "identity": _side_norm, "eigenvectors": _side_norm,
    "bfloat16": lambda e, r: r.norm(e.args[0]) * (1 + 2**-8) ** 2,
}  # fmt: skip
