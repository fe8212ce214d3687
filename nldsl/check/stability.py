"""Stability: what keeps a memory bounded, read off the equations of its step.

Warned:    decay(a(x))              a factor on the state that may leave [0, 1]
           gd(b) with a free key    one step scales the error at k by 1 - b |k|^2, which may exceed 1
           gd(b(x))                 a rate that may be negative
Accepted:  decay(sigmoid(a(x))), gd(sigmoid(b(x))) with key unit(k)

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = ("block b(d) { in x : real[d]  param a : d -> 1  k = %s  memory S : d -> d { "
...         "minimize 0.5 * sqnorm(S(k) - x) by decay(%s), gd(sigmoid(a(x))) }  out y = S(k) }")
>>> [d.code for d in check_source(Source("b.nl", text % ("unit(x)", "a(x)"))).diagnostics]
['NL501']
>>> [d.code for d in check_source(Source("b.nl", text % ("x", "0.9"))).diagnostics]
['NL502']
>>> check_source(Source("b.nl", text % ("unit(x)", "0.9"))).diagnostics
()
"""

from __future__ import annotations

from functools import reduce

from nldsl.check.causality import implicit_at, implicit_states
from nldsl.check.interval import INF, ONE, Interval, times
from nldsl.check.ranges import Ranges, analyse
from nldsl.check.reading import Reading
from nldsl.check.shapes import Types
from nldsl.core import Atom, Equation, Last, Objective, Ref, State, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.source import Span

SLACK = 1e-9


def stability(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL501 retentions, NL502 rates too large, NL503 negative rates, NL504 double erases."""
    reading, ranges = Reading.of(unit), analyse(unit, types)
    implicit = implicit_states(unit)
    found: list[Diagnostic] = []
    for state in unit.states:
        if state.name in reading.carried:
            found += _retentions(reading, ranges, state)
            found += _rates(reading, ranges, state, implicit)
    return found


def retentions(reading: Reading, state: str) -> list[tuple[Equation, Atom]]:
    """The factors on the state as a step carries it: the equation and the factor."""
    carried = reading.carried.get(state, set())
    found = []
    for name in sorted(carried):
        equation = reading.equations[name]
        if equation.op in ("mul", "scale_values"):
            held = [reading.holds(a, state, carried) for a in equation.args]
            if held.count(True) == 1:
                found.append((equation, equation.args[held.index(False)]))
    return found


def _products(reading: Reading, state: str) -> list[list[tuple[Equation, Atom]]]:
    """The factors on the state that are multiplied with each other and nothing else between: `0.01 * last w * c` has two."""
    factors = {equation.name: (equation, factor) for equation, factor in retentions(reading, state)}
    below = {n: next((a.name for a in e.args if a is not f and isinstance(a, Ref) and a.name in factors), None) for n, (e, f) in factors.items()}
    found: list[list[tuple[Equation, Atom]]] = []
    for name in factors:
        readers = [n for n in reading.readers.get(name, ()) if n in reading.carried[state]]
        if name != state and readers and all(below.get(n) == name for n in readers):
            continue  # a part of each product that it stands in
        product, at = [factors[name]], below[name]
        while at is not None:
            product.append(factors[at])
            at = below[at]
        found.append(product)
    return found


def _retentions(reading: Reading, ranges: Ranges, state: State) -> list[Diagnostic]:
    found: dict[str, Diagnostic] = {}
    for product in _products(reading, state.name):
        counted = [(e, f) for e, f in product if not _normalises(reading, ranges, f, state.name)]
        if reduce(times, (ranges.of(f) for _, f in counted), ONE).within(-SLACK, 1 + SLACK):
            continue
        for equation, factor in counted:
            bound = ranges.of(factor)
            if not bound.within(-SLACK, 1 + SLACK):
                span = _span(reading, factor, equation, state)
                help = None if span == _steps(reading, state) or not _learned(reading, factor) else _bounded(span.text)
                found[equation.name] = Diagnostic(
                    "NL501", f"what `{state.name}` keeps each tick may leave [0, 1]",
                    (Label(span, f"in {bound}"), Label(state.span, "the memory it scales")), expected="a factor in [0, 1]",
                    found=f"in {bound}", help=help)  # fmt: skip
    return list(found.values())


LENGTHS = frozenset({"sum", "mean", "sqrt", "pow", "max", "add", "mul", "copy"})  # what makes a length of squares and absolute values


def _normalises(reading: Reading, ranges: Ranges, factor: Atom, state: str) -> bool:
    """Whether a factor falls as the state that it scales grows: it divides by its size, or is a negative power of it."""
    carried = reading.carried[state]
    for quotient in _behind(reading, factor, frozenset({"copy", "mul", "sqrt"})):
        inverse = quotient.op == "pow" and ranges.of(quotient.args[1]).high < 0
        divisor = quotient.args[1] if quotient.op == "div" else quotient.args[0] if inverse else None
        sizes = (e for e in _behind(reading, divisor, LENGTHS) if e.op in ("sqnorm", "abs")) if divisor is not None else ()
        if any(reading.holds(e.args[0], state, carried) for e in sizes):
            return True
    return False


def _behind(reading: Reading, atom: Atom, through: frozenset[str]) -> list[Equation]:
    """The equations that lead to a value: its own, and those before each of these operations."""
    found: dict[str, Equation] = {}
    stack = [atom]
    while stack:
        last = stack.pop()
        equation = reading.equations.get(last.name) if isinstance(last, Ref) and last.name not in found else None
        if equation is not None:
            found[equation.name] = equation
            stack += equation.args if equation.op in through else ()
    return list(found.values())


def _learned(reading: Reading, factor: Atom) -> bool:
    """Whether training sets a value, so that it may be brought into bounds by another function."""
    behind = reading.ancestors(factor.name) if isinstance(factor, Ref) else set()
    return any(p.name in behind for p in reading.unit.params if not p.fixed) or not behind.isdisjoint(reading.instances)


def _bounded(text: str) -> str:
    return f"exp(-softplus({text[4:]})" if text.startswith("exp(") and text.endswith(")") else f"sigmoid({text})"


def _rates(reading: Reading, ranges: Ranges, state: State, implicit: set[str]) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    carried = reading.carried[state.name]
    for name in sorted(carried):
        sub = reading.equations[name]
        if sub.op != "sub" or not reading.holds(sub.args[0], state.name, carried):
            continue
        rate, gradient, factor = _rated_gradient(reading, sub.args[1])
        if gradient is None:
            continue
        span = _span(reading, rate if rate is not None else sub.args[1], sub, state)
        bound = ranges.of(rate) if rate is not None else ONE
        if bound.low < 0:
            found.append(
                Diagnostic("NL503", f"the rate of a step of `{state.name}` may be negative",
                           (Label(span, f"in {bound}"), Label(state.span, "the memory it trains")), expected="a rate of at least 0",
                           found=f"in {bound}",
                           help=None if span == _steps(reading, state) else f"softplus({span.text}), or sigmoid({span.text})"))  # fmt: skip
        at = gradient.args[0]
        if isinstance(at, Ref) and implicit_at(gradient, implicit) is not None and name in reading.ancestors(at.name):
            continue  # an implicit step never overshoots
        start = isinstance(at, Last) and reading.starts.get(at.name) == state.name
        if not start and not reading.holds(at, state.name, carried):
            continue
        objective: Objective = gradient.attr("objective")
        bend = curvature(objective, ranges)
        if bend is None or bend.high == 0:
            continue
        strength = times(times(Interval(max(bound.low, 0.0), max(bound.high, 0.0)), bend), factor)
        if bend.high == INF and _through_network(reading, state, objective):
            continue
        if strength.high > 2 + SLACK:
            found.append(_overshoot(state, objective, span, bound, bend, factor))
        found += _double_erase(reading, ranges, state, objective, strength)
    return found


def _through_network(reading: Reading, state: State, objective: Objective) -> bool:
    """Whether the objective reads other states of the same memory: then no key in it is the author's to bound."""
    siblings = {s.name for s in reading.unit.states if (s.span.start, s.span.source) == (state.span.start, state.span.source)}
    siblings -= {state.name, *(n for n, whole in reading.starts.items() if whole == state.name)}
    read = {a.name for e in objective.equations for a in e.args if isinstance(a, (Ref, Last))}
    return any(siblings & {n, *(a.name for r in reading.ancestors(n) for a in reading.atoms(r) if isinstance(a, Last))} for n in read)


def _overshoot(state: State, objective: Objective, span: Span, bound: Interval, bend: Interval, ticks: Interval) -> Diagnostic:
    """`ticks`: how many of them are added up in a step."""
    free, added = bend.high == INF, f", the sum over {ticks.high:.0f} ticks" if ticks.high > 1 else ""
    return Diagnostic(
        "NL502",
        f"a step of `{state.name}` may overshoot: the error grows where rate * |key|^2 exceeds 2",
        (Label(objective.span, "curves as |key|^2, which has no bound" if free else f"curves at most {bend.high:.4g}"),
         Label(span, f"the rate, in {bound}")),
        expected="rate * |key|^2 at most 2",
        found="a key of any length" if free else f"up to {times(times(bound, bend), ticks).high:.4g}{added}",
        help="k = unit(...) as the key" if free else "over mean" if ticks.high > 1 else "sigmoid(...) as the rate, or a smaller one",
    )  # fmt: skip


def _rated_gradient(reading: Reading, atom: Atom) -> tuple[Atom | None, Equation | None, Interval]:
    """`rate * g` as (rate, the gradient, how many ticks are added up); `g` alone has rate None."""
    equation = reading.equations.get(atom.name) if isinstance(atom, Ref) else None
    if equation is None:
        return None, None, ONE
    if equation.op == "mul":
        for gradient, scale in (equation.args, equation.args[::-1]):
            inner, found, factor = _rated_gradient(reading, gradient)
            if found is not None and inner is None:
                return scale, found, factor
        return None, None, ONE
    if equation.op == "fold":
        rate, found, _one = _rated_gradient(reading, equation.args[0])
        every = next((s.every for s in reading.unit.states if s.name == equation.attr("memory")), 1)
        return rate, found, Interval(0.0, float(every) if equation.attr("over") == "sum" else 1.0)
    if equation.op == "stop" or (equation.op == "pool" and equation.attr("over") == "mean"):
        return _rated_gradient(reading, equation.args[0])
    return None, equation if equation.op == "grad" else None, ONE


def curvature(objective: Objective, ranges: Ranges) -> Interval | None:
    """Bounds of the second derivative of an objective in its operator: 0 if linear, None if unknown.

    `0.5 * sqnorm(S(k) - v)` has |k|^2, `-dot(S(k), v)` has 0.
    """
    slopes: dict[str, Interval | None] = {objective.self: ONE}  # of what is affine in the operator, 0 where it is not met
    bends: dict[str, Interval | None] = {objective.self: None}
    for e in objective.equations:
        names = [getattr(a, "name", "") for a in e.args]
        slopes[e.name] = _slope(e, [slopes.get(n, NONE) for n in names], objective.self, ranges)
        bends[e.name] = _bend(e, [slopes.get(n, NONE) for n in names], [bends.get(n, NONE) for n in names], ranges)
    return bends.get(getattr(objective.result, "name", ""), NONE)


NONE = Interval(0.0, 0.0)


def _slope(e: Equation, parts: list[Interval | None], operator: str, ranges: Ranges) -> Interval | None:
    """Bounds of the norm of a map that is affine in the operator; None when it is not."""
    if None in parts:
        return None
    known = [p for p in parts if p is not None]
    moving = [i for i, p in enumerate(known) if p.high > 0]
    if e.op == "apply" and isinstance(e.args[0], Ref) and e.args[0].name == operator:
        length = 1.0 if ranges.picks(e.args[1]) else ranges.norm(e.args[1]) ** 0.5  # a column's key has length 1
        return Interval(0.0, length) if moving == [0] else None
    if e.op in ("add", "sub", "neg", "copy", "transpose", "flatten"):
        return Interval(0.0, sum(p.high for p in known))
    if e.op == "mul" and len(moving) == 1:
        return times(Interval(0.0, ranges.of(e.args[1 - moving[0]]).size), known[moving[0]])
    return NONE if not moving else None


def _bend(e: Equation, slopes: list[Interval | None], bends: list[Interval | None], ranges: Ranges) -> Interval | None:
    """Bounds of the second derivative of a number, from those of the arguments."""
    if e.op == "sqnorm":
        slope = slopes[0]
        return None if slope is None else times(Interval(2.0, 2.0), times(slope, slope))
    if e.op in ("dot", "sum", "mean"):
        moving = [s for s in slopes if s is None or s.high > 0]
        return NONE if None not in slopes and len(moving) <= 1 else None
    known = [b for b in bends if b is not None]
    if len(known) < len(bends):
        return None
    if e.op == "copy":
        return known[0]
    if e.op == "add":
        return Interval(known[0].low + known[1].low, known[0].high + known[1].high)
    if e.op == "sub":
        return known[0] if known[1].high == 0 else None
    if e.op == "neg":
        return NONE if known[0].high == 0 else None
    if e.op == "mul":
        # A number that the operator does not enter scales the other.
        fixed = [i for i, s in enumerate(slopes) if s is not None and s.high == 0 and known[i].high == 0]
        scale = ranges.of(e.args[fixed[0]]) if fixed else None
        value = known[1 - fixed[0]] if fixed else None
        return times(scale, value) if scale is not None and value is not None and (scale.low >= 0 or value.high == 0) else None
    return None


def _double_erase(reading: Reading, ranges: Ranges, state: State, objective: Objective, strength: Interval) -> list[Diagnostic]:
    """A rule that erases along a key itself, `last w - e outer(last w(k), k)`, beside the gradient of an l2 objective."""
    carried, step = reading.carried[state.name], reading.arithmetic(state.name)
    erases = []
    for name in sorted(step):
        equation = reading.equations.get(name)
        first = equation.args[0] if equation is not None and equation.op == "outer" else None
        read = reading.equations.get(first.name) if isinstance(first, Ref) else None
        if equation is not None and read is not None and read.op == "apply" and reading.holds(read.args[0], state.name, carried):
            erases.append(equation)
    keep = [ranges.of(factor).low for _, factor in retentions(reading, state.name)]
    if not erases or strength.high <= (max(0.0, min(keep)) if keep else 1.0) / 2:
        return []
    return [
        Diagnostic("NL504", f"a step of `{state.name}` erases twice along its key",
                   (Label(state.span), Label(objective.span, "its gradient erases at the key"), Label(erases[0].span, "and so does the rule")),
                   expected="a rate of at most half of what the memory keeps", found=f"up to {strength.high:.4g}",
                   help="minimize -dot(S(k), v), whose gradient only writes")]  # fmt: skip


def _span(reading: Reading, atom: Atom, equation: Equation, state: State) -> Span:
    """Where the author wrote a value: its equation if it is computed, its place if it is a name or a number, and the
    steps of the memory if that place is in a rule of the library."""
    span = atom.span if atom.span.text else equation.span
    if isinstance(atom, (Ref, Last)) and atom.name in reading.equations:
        span = reading.equations[atom.name].span
    return span if span.source is state.span.source or span.source.name != "std.nl" else _steps(reading, state)


def _steps(reading: Reading, state: State) -> Span:
    owner = reading.owner(state.name)
    while owner is not None and owner.span.source.name == "std.nl":
        owner = next((m for m in reading.unit.memories if m.name == owner.parent), None)
    if owner is None:
        return state.span
    starts = [owner.span.text.find(step) for step in owner.steps]
    ends = [start + len(step) for start, step in zip(starts, owner.steps, strict=True)]
    if not starts or min(starts) < 0:
        return owner.span
    return Span(owner.span.source, owner.span.start + min(starts), owner.span.start + max(ends))
