"""The memories of a rule as Nested Learning sees them: key, value, objective, retention, learner, read off the equations.

The gradient of an objective at the memory m is L m - v: v is the value, and what m is applied to is the key. An update without
an objective, m' = a m + v, is the step on -<m, v> that keeps a.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from nldsl.core import Atom, Equation, Last, Memory, Num, Objective, Ref, Rule
from nldsl.lower.differentiate import differentiate
from nldsl.lower.formulas import Formulas, Linear, Term, number_text, plain


@dataclass(frozen=True)
class Association:
    """One memory. Parts that cannot be read off are None.

    Attributes:
        objective: as written, or the one that the update stands for.
        written: whether the objective is the author's.
        update: m' as a formula of m and of this step.
    """

    name: str
    key: str | None
    value: str | None
    objective: str | None
    written: bool
    retention: str | None
    learner: str
    update: str


def associations(rule: Rule) -> tuple[list[Association], list[tuple[str, str]]]:
    """Those of `w` and of each memory, and what the names in them stand for.

    Raises:
        NotDifferentiable: an objective has no derivative.
    """
    unit, types = differentiate(rule.unit, dict(rule.types))
    formulas = Formulas(rule, unit, types)
    gradients = {e.attr("memory"): e for e in rule.unit.equations if e.op == "grad"}
    weights = _weights(rule, formulas)
    found = [weights, *(_memory(m, gradients.get(m.state), formulas) for m in rule.unit.memories if m.state is not None)]
    return found, [(name, text) for name, text in formulas.definitions() if name.isidentifier()]


def _weights(rule: Rule, formulas: Formulas) -> Association:
    """`w` itself: its gradient is that of the loss."""
    terms = _own("w", formulas)
    objective = "<w, g>, the loss to first order" + _penalty(formulas)
    update = formulas.operation(formulas.equations["w"])[0] if terms is None else formulas.combination(terms, "w")
    layer = rule.types["w"].kind == "map"
    return Association(
        "w", "x, what the layer reads" if layer else None, "-delta, its output gradient: g = delta x^T" if layer else "-g",
        objective, False, _retention(terms), "the update", update,
    )  # fmt: skip


def _penalty(formulas: Formulas) -> str:
    """Weight decay in the gradient: what is linear in `w` with the gradient as its rest."""
    for e in formulas.unit.equations:
        if e.name not in formulas.states and e.op in ("add", "sub"):
            terms = formulas.linear(_opened(e, formulas), Last("w")) or {}
            own = terms.get(Term())
            if own is not None and len(terms) == 2 and Term(rest=Ref("g")) in terms:
                return f", and {number_text(own)} / 2 * |w|^2: together their gradient is {formulas.text(Ref(e.name))}"
    return ""


def _opened(e: Equation, formulas: Formulas) -> Atom:
    """An atom for the right side of an equation, so that its own name does not hide it."""
    name = f"{e.name}.opened"
    formulas.equations[name] = replace(e, name=name)
    formulas.types = {**formulas.types, name: formulas.types[e.name]}
    return Ref(name)


def _right(state: str, formulas: Formulas) -> Atom:
    return _opened(formulas.equations[state], formulas)


def _memory(memory: Memory, gradient: Equation | None, formulas: Formulas) -> Association:
    state = memory.state or memory.name
    terms = _own(state, formulas)
    if terms is None and gradient is not None:
        formulas.names[gradient.name] = f"grad({plain(state)})"  # what it is, the objective says
        terms = _own(state, formulas)
    update = formulas.operation(formulas.equations[state])[0] if terms is None else formulas.combination(terms, plain(state))
    if gradient is not None:
        key, value = _pair(gradient, formulas)
        objective = re.sub(r"(?<=\() | (?=\))", "", " ".join((memory.objective or "").split()))
        return Association(plain(state), key, value, objective, True, _retention(terms), ", ".join(memory.steps), update)
    if terms is None:
        return Association(plain(state), None, None, None, False, None, "the update", update)
    rest = {t: c for t, c in terms.items() if t.rest is not None}
    if not rest:
        return Association(plain(state), None, None, None, False, _retention(terms), "the update", update)
    if len(rest) == len(terms):
        return Association(plain(state), None, formulas.combination(rest, ""), None, False, "0", "computed anew, not learned", update)
    key, value = _factored(rest, formulas)
    return Association(plain(state), key, value, f"-<{plain(state)}, value>, which the update stands for", False, _retention(terms), "the update", update)


def _own(state: str, formulas: Formulas) -> Linear | None:
    """What a memory becomes, in terms of itself; names are opened where nothing of it is seen otherwise."""
    after, before = _right(state, formulas), Last(state)
    terms = formulas.linear(after, before)
    shown = terms is None or any(t.rest is None for t in terms) or not formulas.reads(after, before, through=True)
    return terms if shown else formulas.linear(after, before, through=True)


def _retention(terms: Linear | None) -> str | None:
    """The factor on the memory before the step."""
    if terms is None:
        return None
    own = {t: c for t, c in terms.items() if t.rest is None}
    sides = {bool(t.left) for t in own if t.left or t.right} | {not t.right for t in own if t.left or t.right}
    if not sides:
        return _factor(own, "") or "0"
    if len(sides) > 1:
        return "from both sides: see the update"
    return f"{_factor(own, 'I')}, from the {'left' if sides.pop() else 'right'}"


def _factor(own: Linear, identity: str) -> str:
    text = ""
    for term, factor in own.items():
        negative = len(factor.terms) == 1 and factor.terms[0][1] < 0
        scale = number_text(-factor if negative else factor)
        operator = " ".join([*term.left, *term.right]) or identity
        others = [*term.factors, operator] if operator else [*term.factors]
        parts = [f"({scale})" if len(factor.terms) > 1 and others else scale, *others]
        body = " * ".join(others if others and scale == "1" else parts)
        text += (" - " if negative else " + ") + body if text else ("-" if negative else "") + body
    return text


# --- key and value -----------------------------------------------------------------------------------------------------


def _pair(gradient: Equation, formulas: Formulas) -> tuple[str | None, str | None]:
    """The key and the value of an objective."""
    objective: Objective = gradient.attr("objective")
    own = dict.fromkeys([objective.self])
    for part in objective.equations:
        own[part.name] = None
    keys = dict.fromkeys(key for part in objective.equations if (key := _probe(part, own, formulas)) is not None)
    (at,) = gradient.args
    terms = formulas.linear(_right(gradient.name, formulas), at)
    if terms is None:
        values = dict.fromkeys(v for part in objective.equations if (v := _target(part, own, objective, formulas)) is not None)
        return " and ".join(keys) or None, " and ".join(values) or None
    pull = {t: -c for t, c in terms.items() if t.rest is not None}
    key, value = _factored(pull, formulas)
    return (" and ".join(keys), formulas.combination(pull, "")) if keys and key not in keys else (key, value)


def _factored(rest: Linear, formulas: Formulas) -> tuple[str | None, str]:
    """A value v k^T as the pair (k, v)."""
    if len(rest) == 1:
        ((term, factor),) = rest.items()
        e = formulas.equations.get(term.rest.name) if isinstance(term.rest, Ref) and term.around == "{}" else None
        if e is not None and e.op in ("matmul", "outer"):
            turned = Equation(f"{e.name}.key", "transpose", e.args[1:], e.span)
            key = formulas.operation(turned)[0] if e.op == "matmul" else formulas.text(e.args[1])
            return key, formulas.combination({Term(rest=e.args[0]): factor}, "")
    return None, formulas.combination(rest, "")


def _probe(part: Equation, own: dict[str, None], formulas: Formulas) -> str | None:
    """What the memory is applied to, in one operation of its objective."""
    inside = [isinstance(a, Ref) and a.name in own for a in part.args]
    if inside == [True, False] and part.op in ("matmul", "apply"):
        return formulas.text(part.args[1])
    if sum(inside) == 1 and part.op == "mul":
        other = part.args[inside.index(False)]
        if not isinstance(other, Num) and formulas.types[other.name].shape:
            return f"{formulas.text(other)}, entry by entry"
    return None


def _target(part: Equation, own: dict[str, None], objective: Objective, formulas: Formulas) -> str | None:
    """What is compared with, or multiplied to, what the memory gives."""
    if part.op not in ("sub", "dot"):
        return None
    defined = {e.name: e for e in objective.equations}
    for a, other in (part.args, part.args[::-1]):
        constant = isinstance(other, Ref) and other.name in defined and defined[other.name].op == "identity"
        if isinstance(a, Ref) and a.name in own and (constant or not (isinstance(other, Ref) and other.name in own)):
            return "I" if constant else formulas.text(other)
    return None
