"""Objectives that are streams of the block: the way from the memory to the stream becomes the body of the objective.

    y = head(last F(h))    e = cross_entropy(y, t)    memory F { minimize e by gd(0.1) }

The gradient of `e` with respect to F passes everything between them within the tick: the outer loss as an objective,
NL (71).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nldsl.core import Equation, Last, Objective, Ref
from nldsl.diagnostics import Label
from nldsl.elaborate.builder import Builder
from nldsl.lower.order import ordered
from nldsl.source import Span

PAST = {"fold", "delay", "conv", "attend"}  # what they give depends on other ticks


@dataclass(frozen=True)
class Open:
    """An objective that does not mention its memory: `state` is read by the stream it names, if by anything."""

    state: str
    memory: str
    span: Span
    start: bool


def complete(b: Builder, waiting: dict[str, Open]) -> None:
    """Give every open objective its body, or report that nothing leads from the memory to it."""
    if not waiting:
        return
    equations = {e.name: e for e in b.equations}
    bodies: dict[str, Objective | None] = {}
    for n, e in enumerate(b.equations):
        objective = e.attr("objective")
        if objective is None or not {objective.self} & (waiting.keys() | bodies.keys()):
            continue
        if objective.self not in bodies:
            bodies[objective.self] = _body(b, equations, objective, waiting.pop(objective.self))
        found = bodies[objective.self]
        if found is not None:
            b.equations[n] = replace(e, attrs=tuple((k, found if k == "objective" else v) for k, v in e.attrs))


def _body(b: Builder, equations: dict[str, Equation], objective: Objective, place: Open) -> Objective | None:
    target = objective.result
    leads: dict[str, Equation] = {}  # those that read the memory within this tick, in order
    for e in _in_order(equations):
        if any(a.name == place.state if isinstance(a, Last) else isinstance(a, Ref) and a.name in leads for a in _atoms(e)):
            leads[e.name] = e
    late = isinstance(target, Ref) and place.state in _ancestors(equations, target.name)
    if not isinstance(target, Ref) or place.start or late or target.name not in leads:
        block = next((i for i in b.instances if any(isinstance(a, Ref) and a.name in leads for _, a in i.args)), None)
        if block is not None and not late and not place.start:
            b.report("NL404", f"the way from `{place.memory}` to its objective passes the block `{block.block}`, which is compiled on its own",
                     objective.span, Label(block.span, "used as a function here"), expected="the way in one block")  # fmt: skip
            return None
        b.report("NL404", f"the objective does not mention `{place.memory}`", objective.span, Label(place.span, "the memory it belongs to"),
                 expected=f"an expression with {place.memory}(key), or a stream that reads `last {place.memory}`",
                 found=f"`{objective.span.text}`", help=f"last {place.memory}(...) in the stream" if late else None)  # fmt: skip
        return None
    needed = _ancestors(equations, target.name)
    way = [e for e in leads.values() if e.name in needed]
    wrong = next((e for e in way if e.op in PAST), None)
    if wrong is not None:
        b.report("NL409", f"the way from `{place.memory}` to its objective passes what is kept from tick to tick", objective.span,
                 Label(wrong.span, "it gathers ticks"), expected="streams of one tick between them", help=f"stop({objective.span.text})")  # fmt: skip
        return None

    def seen(e: Equation) -> Equation:
        """With the variable in the place of the state, in objectives of other memories on the way too."""
        args = tuple(Ref(objective.self, a.span) if isinstance(a, Last) and a.name == place.state else a for a in e.args)
        inner = e.attr("objective")
        if inner is None:
            return replace(e, args=args)
        inner = replace(inner, equations=tuple(map(seen, inner.equations)))
        return replace(e, args=args, attrs=tuple((k, inner if k == "objective" else v) for k, v in e.attrs))

    return replace(objective, equations=tuple(map(seen, way)))


def _in_order(equations: dict[str, Equation]) -> list[Equation]:
    """Each equation after those it, or its objective, reads at the same tick."""
    stand_ins = [replace(e, args=tuple(_atoms(e))) for e in equations.values()]
    return [equations[e.name] for e in ordered(stand_ins)]


def _atoms(e: Equation) -> list[Any]:
    objective = e.attr("objective")
    return [*e.args, *(a for part in (objective.equations if objective is not None else ()) for a in part.args)]


def _ancestors(equations: dict[str, Equation], name: str) -> set[str]:
    """A name and all it is computed from within this tick."""
    seen, stack = {name}, [name]
    while stack:
        e = equations.get(stack.pop())
        fresh = {a.name for a in _atoms(e) if isinstance(a, Ref)} - seen if e is not None else set()
        seen |= fresh
        stack += fresh
    return seen
