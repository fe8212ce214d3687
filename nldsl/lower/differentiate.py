"""Every `grad` becomes equations: the objective's derivative with respect to the operator, by reverse mode.

    S.g = grad(at = w) of 0.5 * sqnorm(S(k) - v)     becomes     S.r = w(k)    S.d = S.r - v    S.g = outer(S.d, k)

A gradient with respect to an operator is a sum of outer products, one for each place the operator is applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from nldsl.core import Atom, Axis, Equation, Last, Num, Objective, Ref, Type, Unit
from nldsl.dims import Dim
from nldsl.lower.numbers import number
from nldsl.lower.order import ordered
from nldsl.lower.rewrite import Rewriter, retyped
from nldsl.lower.rounding import rounded
from nldsl.lower.turns import turned
from nldsl.vocabulary import is_number


class NotDifferentiable(Exception):
    """No pullback for an operation on the way from the memory to its objective."""

    def __init__(self, equation: Equation):
        super().__init__(equation.op)
        self.equation = equation


def differentiate(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """Replace the gradients of a unit.

    Raises:
        NotDifferentiable: for an operation without a pullback.
    """
    work = Rewriter(unit, types)
    found = [(e, objective) for e in unit.equations if (objective := e.attr("objective")) is not None]
    for _, objective in found:
        for name in _filtered(objective):
            _apart(work, name)
    for equation, objective in found:
        _gradient(work, equation, objective)
    for e in list(work.equations.values()):
        if e.op == "stop" and work.types[e.name].kind == "map":
            work.at(e.span).define(e.name, "copy", (_stopped(work, e.args[0]),))
    return retyped(*work.finish())


LINEAR = {"copy", "neg", "add", "sub", "mul", "outer", "transpose", "scale_values"}


def _stopped(work: Rewriter, a: Atom) -> Atom:
    """stop(a), moved into what the operator is made of: sums and outer products of stopped vectors."""
    e = work.equations.get(a.name) if isinstance(a, Ref) and a.name not in work.states else None
    if isinstance(a, Num):
        return a
    if e is None or e.op not in LINEAR or work.types[e.name].kind != "map":
        return work.emit("stop", a)
    return work.emit(e.op, *(_stopped(work, x) for x in e.args), hint=f"{e.name}.stopped", **dict(e.attrs))


def _explicit(work: Rewriter, objective: Objective) -> Objective:
    """An objective whose own gradients, steps of other memories on the way to its result, are equations."""
    parts: list[Equation] = []
    for part in objective.equations:
        inner = part.attr("objective")
        if inner is None:
            parts.append(part)
            continue
        before, made, work.made = set(work.equations), work.made, {}
        result = work.fresh(f"{part.name}.inside")
        work.equations[result] = replace(part, name=result)
        work.types[result] = work.types[part.name]
        _gradient(work, work.equations[result], inner)
        parts += ordered([work.equations.pop(name) for name in list(work.equations) if name not in before])
        parts.append(Equation(part.name, "copy", (Ref(result),), part.span))
        work.made = made
    return replace(objective, equations=tuple(parts))


def _today(work: Rewriter, objective: Objective) -> Objective:
    """An objective that no longer looks at earlier ticks: a delay is what it is, whatever the variable; a convolution has a part of this tick."""
    parts: list[Equation] = []
    for part in objective.equations:
        kept = part.attr("of")
        if part.op == "conv" and kept is not None:
            taps, past = _apart(work, kept)
            now = work.fresh(f"{part.name}.now")
            parts += [Equation(now, "mul", (taps, part.args[0]), part.span), Equation(part.name, "add", (Ref(now), past), part.span)]
        elif part.op != "delay":
            parts.append(part)
    return replace(objective, equations=tuple(parts))


def _filtered(objective: Objective) -> Iterator[str]:
    """The convolutions of the unit that an objective passes, and those of objectives in it."""
    for part in objective.equations:
        inner = part.attr("objective")
        yield from () if inner is None else _filtered(inner)
        if part.op == "conv" and part.attr("of") is not None:
            yield part.attr("of")


def _apart(work: Rewriter, name: str) -> tuple[Atom, Atom]:
    """Cut a convolution of the unit: the weights of this tick, and the part of earlier ones."""
    before = f"{name}.before"
    e = work.equations[before if before in work.equations else name]
    taps = work.at(e.span).emit("tap", e.args[1])
    if e.name == name:
        work.define(before, "conv", e.args, **dict(e.attrs), first=1)
        work.define(name, "add", (work.mul(taps, e.args[0]), Ref(before)))
    return taps, Ref(before)


def _gradient(work: Rewriter, equation: Equation, objective: Objective) -> None:
    objective = _today(work, _explicit(work, objective))
    work.at(equation.span)
    (at,) = equation.args
    memory = equation.name
    del work.equations[equation.name]
    names: dict[str, Atom] = {objective.self: at}

    def seen(atom: Atom) -> Atom:
        return names.get(atom.name, atom) if isinstance(atom, Ref) else atom

    body = []
    for part in objective.equations:
        args = tuple(seen(a) for a in part.args)
        work.at(part.span)
        name = work.fresh(f"{memory}.{part.op}")
        copy = turned(work, name, args[0]) if part.op == "rope" else work.define(name, part.op, args, **dict(part.attrs))
        names[part.name] = copy
        body.append((part, work.equations[copy.name]))
    work.at(equation.span)
    depends = {objective.self}
    for part in objective.equations:
        if any(isinstance(a, Ref) and a.name in depends for a in part.args):
            depends.add(part.name)
    low = rounded(*work.finish()) if any(e.op == "bfloat16" for e in work.equations.values()) else frozenset[str]()

    def exact(atom: Atom) -> Atom:
        """A value in the dtype of the memory: cotangents are not rounded, whatever they pass."""
        return work.emit("cast", atom, at) if isinstance(atom, Ref) and atom.name in low else atom

    def pull(forward: Equation, part: Equation, index: int, cotangent: Atom) -> Atom | None:
        args = tuple(map(exact, forward.args))
        again = forward.name in low and forward.op != "bfloat16"
        value = work.emit(forward.op, *args, **dict(forward.attrs)) if again else Ref(forward.name, part.span)
        return _pull(work, replace(forward, args=args), value, part, index, cotangent)

    adjoints: dict[str, Atom] = {}

    def accumulate(name: str, contribution: Atom | None) -> None:
        if contribution is not None:
            adjoints[name] = work.add(adjoints[name], contribution) if name in adjoints else contribution

    if isinstance(objective.result, Ref):
        accumulate(objective.result.name, Num(1.0))
    for part, forward in reversed(body):
        cotangent = adjoints.get(part.name)
        if cotangent is None:
            continue
        for index, arg in enumerate(part.args):
            if isinstance(arg, Ref) and arg.name in depends:
                value = pull(forward, part, index, cotangent)
                accumulate(arg.name, None if value is None else _narrow(work, value, work.type(forward.args[index])))
    total = adjoints.get(objective.self)
    if total is None:
        work.define(equation.name, "mul", (Num(0.0), at))
    else:
        work.define(equation.name, "copy", (work.entry(total, work.type(at)),))


def _narrow(work: Rewriter, value: Atom, wanted: Type) -> Atom:
    """Sum a cotangent over the copies and entries its argument was extended to."""
    for axis in [a for a in work.type(value).axes if a not in wanted.axes]:
        value = _summed(work, value, axis)
    if is_number(wanted) and not is_number(work.type(value)):
        value = work.emit("sum", value)
    return work.entry(value, wanted)


def _summed(work: Rewriter, value: Atom, axis: Axis) -> Atom:
    """The sum over copies; of outer products with one side that is the same in all, the product of that sum."""
    e = work.equations.get(value.name) if isinstance(value, Ref) and value.name not in work.states else None
    if e is not None and e.op == "outer":
        left, right = e.args
        if axis not in work.type(right).axes:
            return work.emit("outer", _summed(work, left, axis), right)
        if axis not in work.type(left).axes:
            return work.emit("outer", left, _summed(work, right, axis))
    return work.emit("sum_copies", value, axis=axis)


ENTRYWISE = {"neg", "copy", "exp", "log", "sqrt", "abs", "tanh", "sigmoid", "softplus", "silu", "relu", "stop", "unit", "norm", "softmax", "bfloat16"}

VECTORS = {"apply", "unit", "norm", "softmax", "attend"}  # what they give is a vector, of one entry too

Pullback = Callable[[Rewriter, tuple[Atom, ...], Atom, Atom], Atom | None]
# op -> one pullback an argument: (work, args, result, cotangent) -> cotangent of the argument; None passes nothing.
PULLBACKS: dict[str, tuple[Pullback | None, ...]] = {
    "add": (lambda w, a, y, c: c, lambda w, a, y, c: c),
    "sub": (lambda w, a, y, c: c, lambda w, a, y, c: w.neg(c)),
    "neg": (lambda w, a, y, c: w.neg(c),),
    "copy": (lambda w, a, y, c: c,),
    "mul": (lambda w, a, y, c: _times(w, c, a[1], a[0]), lambda w, a, y, c: _times(w, c, a[0], a[1])),
    "div": (
        lambda w, a, y, c: w.emit("div", c, a[1]),
        lambda w, a, y, c: w.neg(w.emit("div", w.mul(c, y), a[1])),
    ),
    "pow": (lambda w, a, y, c: _power_slope(w, a[0], a[1], c), None),
    "exp": (lambda w, a, y, c: w.mul(c, y),),
    "log": (lambda w, a, y, c: w.emit("div", c, a[0]),),
    "sqrt": (lambda w, a, y, c: _root_slope(w, y, c),),
    "abs": (lambda w, a, y, c: w.mul(c, w.emit("sign", a[0])),),
    "sign": (lambda w, a, y, c: None,),
    "tanh": (lambda w, a, y, c: w.mul(c, w.emit("sub", Num(1.0), w.mul(y, y))),),
    "sigmoid": (lambda w, a, y, c: w.mul(c, w.mul(y, w.emit("sub", Num(1.0), y))),),
    "softplus": (lambda w, a, y, c: w.mul(c, w.emit("sigmoid", a[0])),),
    "silu": (lambda w, a, y, c: w.mul(c, _silu_slope(w, a[0], y)),),
    "gelu": (lambda w, a, y, c: w.emit("gelu_pull", c, a[0]),),
    "gelu_pull": (lambda w, a, y, c: w.emit("gelu_pull", c, a[1]), lambda w, a, y, c: w.mul(w.mul(c, a[0]), _gelu_bend(w, a[1]))),
    "cross_entropy": (lambda w, a, y, c: w.mul(c, w.emit("sub", w.emit("softmax", a[0]), w.emit("one_hot", a[1], a[0]))), None),
    "relu": (lambda w, a, y, c: w.mul(c, w.emit("sign", y)),),
    "max": (lambda w, a, y, c: w.mul(c, _above(w, a[0], a[1])), lambda w, a, y, c: w.mul(c, _above(w, a[1], a[0]))),
    "min": (lambda w, a, y, c: w.mul(c, _above(w, a[1], a[0])), lambda w, a, y, c: w.mul(c, _above(w, a[0], a[1]))),
    "where": (
        lambda w, a, y, c: None,
        lambda w, a, y, c: w.emit("where", a[0], c, Num(0.0)),
        lambda w, a, y, c: w.emit("where", a[0], Num(0.0), c),
    ),
    "bfloat16": (lambda w, a, y, c: c,),
    "stop": (lambda w, a, y, c: None,),
    "dot": (lambda w, a, y, c: w.mul(c, a[1]), lambda w, a, y, c: w.mul(c, a[0])),
    "sqnorm": (lambda w, a, y, c: w.mul(w.mul(Num(2.0), c), a[0]),),
    "sum": (lambda w, a, y, c: w.emit("fill", c, _shaped(w, a[0])),),
    "mean": (lambda w, a, y, c: w.emit("fill", w.emit("div", c, _size(w, a[0])), _shaped(w, a[0])),),
    "unit": (lambda w, a, y, c: _normalised(w, a[0], y, c, Num(1.0)),),
    "norm": (lambda w, a, y, c: _normalised(w, a[0], y, c, _size(w, a[0])),),
    "softmax": (lambda w, a, y, c: w.mul(y, w.emit("sub", c, w.emit("dot", c, y))),),
    "apply": (
        lambda w, a, y, c: w.emit("outer", c, a[1]),
        lambda w, a, y, c: w.emit("apply", w.emit("transpose", a[0]), c),
    ),
    "transpose": (lambda w, a, y, c: w.emit("transpose", c),),
    "turn": (lambda w, a, y, c: w.emit("turn_back", c, a[1]), None),
    "turn_back": (lambda w, a, y, c: w.emit("turn", c, a[1]), None),
    "matmul": (
        lambda w, a, y, c: w.emit("matmul", c, w.emit("transpose", a[1])),
        lambda w, a, y, c: w.emit("matmul", w.emit("transpose", a[0]), c),
    ),
    "identity": (lambda w, a, y, c: None,),
    "row_mean": (lambda w, a, y, c: w.emit("matmul", c, _spread(w, a[0], "column_mean", w.type(a[0]).domain)),),
    "column_mean": (lambda w, a, y, c: w.emit("matmul", _spread(w, a[0], "row_mean", w.type(a[0]).codomain), c),),
    "solve": (
        lambda w, a, y, c: w.neg(_against(w, w.emit("solve", w.emit("transpose", a[0]), c), y)),
        lambda w, a, y, c: w.emit("solve", w.emit("transpose", a[0]), c),
    ),
    "outer": (
        lambda w, a, y, c: w.emit("apply", c, a[1]),
        lambda w, a, y, c: w.emit("apply", w.emit("transpose", c), a[0]),
    ),
    "scale_values": (None, lambda w, a, y, c: w.emit("scale_values", a[0], c)),
    "flatten": (lambda w, a, y, c: w.emit("unflatten", c, a[0]),),
    "entry": (lambda w, a, y, c: w.total(c),),
    "unflatten": (lambda w, a, y, c: w.emit("flatten", c), lambda w, a, y, c: None),
    "fill": (lambda w, a, y, c: w.emit("sum", c), lambda w, a, y, c: None),
    "sum_copies": (lambda w, a, y, c: c,),
    "pool": (None, lambda w, a, y, c: None),
}  # fmt: skip


def _pull(work: Rewriter, forward: Equation, value: Atom, part: Equation, index: int, cotangent: Atom) -> Atom | None:
    if forward.op in ("gather", "ungather"):
        axis = forward.attr("axis")
        return work.emit("ungather" if forward.op == "gather" else "gather", cotangent, axis=axis)
    if forward.op == "pool" and index == 0:  # its own adjoint
        return work.emit("pool", cotangent, forward.args[1], **dict(forward.attrs))
    result = work.type(Ref(forward.name))
    if isinstance(cotangent, Num) and is_number(result) and result.shape and forward.op in VECTORS:
        cotangent = work.emit("fill", cotangent, _shaped(work, Ref(forward.name)))
    if forward.op == "attend":
        given = work.entry(cotangent, result)
        return work.emit("attend_pull", *forward.args, given, side=index, **dict(forward.attrs))
    pullback = PULLBACKS.get(forward.op, (None,) * len(forward.args))[index]
    if pullback is None:
        raise NotDifferentiable(part)
    return pullback(work, forward.args, value, cotangent)


def _times(work: Rewriter, cotangent: Atom, other: Atom, wanted: Atom) -> Atom:
    """The cotangent of one factor: a vector that scales key channels has no pullback of its own."""
    target, factor = work.type(wanted), work.type(other)
    if target.kind == "real" and factor.kind == "map" and not is_number(target):
        raise NotDifferentiable(Equation("mul", "mul", (wanted, other), work.span))
    if is_number(target) and not is_number(factor):
        return work.emit("dot", cotangent, other)
    return work.mul(other, cotangent)


def _spread(work: Rewriter, a: Atom, mean: str, size: Dim) -> Atom:
    """1 / size in every entry of a row or column shaped like a mean of `a`: its product gives each entry its share."""
    return work.emit("fill", Num(Dim.of(1) / size), work.emit(mean, _shaped(work, a)))


def _against(work: Rewriter, a: Atom, b: Atom) -> Atom:
    """a b^T, of vectors or of operators with one domain."""
    if work.type(a).kind == "map":
        return work.emit("matmul", a, work.emit("transpose", b))
    return work.emit("outer", a, b)


def _power_slope(work: Rewriter, a: Atom, p: Atom, c: Atom) -> Atom | None:
    """c times p a^(p - 1); a^0 is 1 everywhere, at 0 too."""
    known = number(p)
    if known == 0.0:
        return None
    slope = work.mul(c, work.mul(p, work.emit("pow", a, work.add(p, Num(-1.0)))))
    return slope if known is not None else work.emit("where", work.emit("abs", p), slope, Num(0.0))


def _root_slope(work: Rewriter, y: Atom, c: Atom) -> Atom:
    """c / (2 y), and 0 where y is 0; no number where y is none."""
    positive = work.emit("sign", y)
    return work.emit("div", work.mul(work.mul(Num(0.5), c), positive), work.add(y, work.emit("sub", Num(1.0), positive)))


def _silu_slope(work: Rewriter, a: Atom, y: Atom) -> Atom:
    s = work.emit("sigmoid", a)
    return work.add(s, work.mul(y, work.emit("sub", Num(1.0), s)))


def _gelu_bend(work: Rewriter, a: Atom) -> Atom:
    """The second derivative of gelu: (2 - a^2) b, b = exp(-a^2 / 2) / sqrt(2 pi); as 2 b - a (a b), where a^2 may be too large for a number."""
    bell = work.mul(Num((2 * math.pi) ** -0.5), work.emit("exp", work.mul(Num(-0.5), work.mul(a, a))))
    return work.emit("sub", work.mul(Num(2.0), bell), work.mul(a, work.mul(a, bell)))


def _above(work: Rewriter, a: Atom, b: Atom) -> Atom:
    """1 where a > b, 0 where a < b, 1/2 where they are equal."""
    return work.mul(Num(0.5), work.add(work.emit("sign", work.emit("sub", a, b)), Num(1.0)))


def _normalised(work: Rewriter, a: Atom, y: Atom, c: Atom, n: Atom) -> Atom:
    """For y = a * r, r = 1 / sqrt(|a|^2 / n + 1e-6): r * (c - y <y, c> / n)."""
    r = work.emit("sqrt", work.add(work.emit("div", work.emit("sqnorm", a), n), Num(1e-6)))
    inner = work.emit("div", work.emit("dot", y, c), n)
    return work.emit("div", work.emit("sub", c, work.mul(inner, y)), r)


def _shaped(work: Rewriter, a: Atom) -> Atom:
    """A stream shaped like one that may be computed for nothing but its shape."""
    e = work.equations.get(a.name) if isinstance(a, Ref) else None
    while e is not None and e.op in ENTRYWISE and isinstance(e.args[0], Ref):
        a, e = e.args[0], work.equations.get(e.args[0].name)
    return a


def _size(work: Rewriter, a: Atom) -> Atom:
    size = Dim.of(1)
    for n in work.type(a).shape:
        size = size * n
    return Num(size)


def prune(unit: Unit) -> Unit:
    """Drop equations that no output, state or instance needs; of a store that is only looked at, one read keeps the pairs."""
    defined = {e.name: e for e in unit.equations}
    keepers = {e.attr("memory"): e.name for e in reversed(unit.equations) if e.op == "attend" and e.attr("of") is None}
    others = {s.name: [Last(n) for n in (s.base, s.begun) if n is not None] for s in unit.states}
    needed: set[str] = set()
    stack: list[Atom] = [atom for _, atom in unit.outputs]
    stack += [atom for i in unit.instances for _, atom in i.args]
    while stack:
        atom = stack.pop()
        if isinstance(atom, (Ref, Last)) and atom.name not in needed:
            needed.add(atom.name)
            e = defined.get(atom.name)
            stack += e.args if e is not None else ()
            if e is not None and e.attr("of") is not None and e.op in ("attend", "attend_pull"):
                stack.append(Ref(keepers[e.attr("memory")]))
            stack += others.get(atom.name, ())
    return replace(
        unit,
        equations=tuple(e for e in unit.equations if e.name in needed),
        states=tuple(s for s in unit.states if s.name in needed),
    )
