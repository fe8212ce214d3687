"""The logarithm of a retention, taken symbolically: a plan only ever exponentiates sums of logs that are at most 0.

    log exp(x) = x      log sigmoid(x) = -softplus(-x)      log (1 - sigmoid(x)) = -softplus(x)      log (a * b) = log a + log b
    log (a ^ p) = p log a for a constant p > 0
"""

from __future__ import annotations

import math
from dataclasses import replace

from nldsl.check.interval import Interval
from nldsl.check.ranges import intervals
from nldsl.core import Atom, Num, Ref
from nldsl.lower.numbers import number
from nldsl.lower.rewrite import Rewriter

NOTHING = -750.0  # the logarithm of a retention that is known to be 0: its exponential is 0 in every dtype
TINY = 1e-30  # stands for a retention that a tick finds to be 0: what it leaves is below any rounding


def in_unit_interval(work: Rewriter, *atoms: Atom) -> bool:
    """Whether every value is proven to lie in [0, 1]."""
    unit, types = work.finish()
    needed, stack = set[str](), [a.name for a in atoms if isinstance(a, Ref)]
    while stack:  # what they are made of within the tick says all there is to know
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += [a.name for a in work.equations[name].args if isinstance(a, Ref)] if name in work.equations else []
    known = intervals(replace(unit, equations=tuple(e for e in unit.equations if e.name in needed)), types)

    def interval(atom: Atom) -> Interval:
        value = number(atom)
        if value is not None:
            return Interval(value, value)
        return known.get(atom.name, Interval(-math.inf, math.inf)) if isinstance(atom, Ref) else Interval(-math.inf, math.inf)

    return all(0 <= interval(a).low and interval(a).high <= 1 for a in atoms)


def log(work: Rewriter, atom: Atom) -> Atom:
    """An atom for the logarithm of a value in [0, 1], finite everywhere."""
    value = number(atom)
    if value is not None:
        return Num(math.log(value) if value > 0 else NOTHING)
    assert isinstance(atom, Ref)
    e = work.equations.get(atom.name)
    if e is not None:
        match e.op:
            case "copy":
                return log(work, e.args[0])
            case "stop":
                return work.emit("stop", log(work, e.args[0]), hint=f"{atom.name}.log")
            case "exp":
                return e.args[0]
            case "sigmoid":
                return work.neg(work.emit("softplus", work.neg(e.args[0])), f"{atom.name}.log")
            case "sub" if number(e.args[0]) == 1.0 and isinstance(e.args[1], Ref):
                inner = _through(work, e.args[1])
                if inner is not None and inner.op == "sigmoid":
                    return work.neg(work.emit("softplus", inner.args[0]), f"{atom.name}.log")
            case "mul" if in_unit_interval(work, *e.args):
                return work.add(log(work, e.args[0]), log(work, e.args[1]), f"{atom.name}.log")
            case "pow" if (number(e.args[1]) or -1.0) > 0 and in_unit_interval(work, e.args[0]):
                return work.mul(e.args[1], log(work, e.args[0]), f"{atom.name}.log")
            case "sqrt" if in_unit_interval(work, e.args[0]):
                return work.mul(Num(0.5), log(work, e.args[0]), f"{atom.name}.log")
            case "sum" if not work.type(e.args[0]).is_scalar and all(n.integer == 1 for n in work.type(e.args[0]).shape):
                return work.total(log(work, e.args[0]))
    floor = work.emit("max", atom, Num(TINY))
    return work.emit("log", floor, hint=f"{atom.name}.log")


def _through(work: Rewriter, atom: Ref):  # type: ignore[no-untyped-def]
    """The equation behind copies and sums of one number."""
    e = work.equations.get(atom.name)
    while e is not None and e.op in ("copy", "sum") and isinstance(e.args[0], Ref):
        if e.op == "sum" and any(n.integer != 1 for n in work.type(e.args[0]).shape):
            break
        e = work.equations.get(e.args[0].name)
    return e
