"""Objectives that are streams of the block: the way from the memory to the stream becomes the body of the objective.

    y = head(last F(h))    e = cross_entropy(y, t)    memory F { minimize e by gd(0.1) }

The gradient of `e` with respect to F passes everything between them within the tick: the outer loss as an objective,
NL (71). What `delay`, `conv` and stores have kept from earlier ticks is given, as what other memories have learned is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nldsl.core import Atom, Equation, Instance, Last, Objective, Ref
from nldsl.diagnostics import Label
from nldsl.elaborate.builder import Builder, Place, read_by
from nldsl.lower.order import ordered
from nldsl.source import Span
from nldsl.vocabulary import KEEPING


@dataclass(frozen=True)
class Open:
    """An objective that does not mention its memory: `state` is read by the stream it names, if by anything."""

    state: str
    memory: str
    span: Span
    start: bool


def complete(b: Builder, waiting: dict[str, Open]) -> set[Place]:
    """Give every open objective its body, or report that nothing leads from the memory to it.

    Returns:
        The calls of blocks on the way, which have to be written out; such an objective has no body yet.
    """
    wanted: set[Place] = set()
    if not waiting:
        return wanted
    equations, places = {e.name: e for e in b.equations}, {e.name: n for n, e in enumerate(b.equations)}
    bodies: dict[str, Objective | None] = {}
    for e in _in_order(equations):  # a way passes the steps of other memories, whose objectives have their bodies then
        objective = e.attr("objective")
        if objective is None or not {objective.self} & (waiting.keys() | bodies.keys()):
            continue
        if objective.self not in bodies:
            place = waiting.pop(objective.self)
            calls = _between(b, equations, place, objective.result)
            wanted |= {i.place for i in calls if i.place}
            bodies[objective.self] = None if any(i.place for i in calls) else _body(b, equations, objective, place, calls)
        found = bodies[objective.self]
        if found is not None:
            made = replace(e, attrs=tuple((k, found if k == "objective" else v) for k, v in e.attrs))
            b.equations[places[e.name]] = equations[e.name] = made
    return wanted


def _between(b: Builder, equations: dict[str, Equation], place: Open, target: Atom) -> list[Instance]:
    """The calls of blocks on the way from a memory to its objective within this tick."""
    reads = {e.name: read_by(e) for e in equations.values()}
    for i in b.instances:
        reads |= {f"{i.name}.{o}": [a for _, a in i.args] for o in i.outputs}
    behind = _reached({n: [a.name for a in atoms if isinstance(a, Ref)] for n, atoms in reads.items()}, target.name if isinstance(target, Ref) else "")
    readers: dict[str, list[str]] = {}
    for n, atoms in reads.items():
        for a in atoms:
            if isinstance(a, Ref) or (isinstance(a, Last) and a.name == place.state):
                readers.setdefault(a.name, []).append(n)
    ahead = _reached(readers, place.state)
    return [i for i in b.instances if any(f"{i.name}.{o}" in behind and f"{i.name}.{o}" in ahead for o in i.outputs)]


def _reached(edges: dict[str, list[str]], start: str) -> set[str]:
    seen, stack = {start}, [start]
    while stack:
        fresh = set(edges.get(stack.pop(), ())) - seen
        seen |= fresh
        stack += fresh
    return seen


def _body(b: Builder, equations: dict[str, Equation], objective: Objective, place: Open, calls: list[Instance]) -> Objective | None:
    if calls:
        b.report("NL404", f"the way from `{place.memory}` to its objective passes the block `{calls[0].block}`, which is compiled on its own",
                 objective.span, Label(calls[0].span, "used as a function here"), expected="a block whose inputs stand outside every `each`")  # fmt: skip
        return None
    target = objective.result
    if isinstance(target, Ref) and not _ancestors(equations, target.name) <= equations.keys() | _given(b):
        return None  # something on the way is wrong itself, and reported
    leads: dict[str, Equation] = {}  # those that read the memory within this tick, in order
    for e in _in_order(equations):
        if any(a.name == place.state if isinstance(a, Last) else isinstance(a, Ref) and a.name in leads for a in read_by(e)):
            leads[e.name] = e
    if place.start and objective.span.text.isidentifier():
        b.report("NL404", f"`{objective.span.text}` is a stream, and what `{place.memory}` takes the gradient of where a window began is an expression",
                 objective.span, Label(place.span, "it has `at start(...)`"), found=f"`{objective.span.text}`",
                 expected=f"an expression with {place.memory}(key), or no `at start(...)`")  # fmt: skip
        return None
    late = isinstance(target, Ref) and place.state in _ancestors(equations, target.name)
    if not isinstance(target, Ref) or place.start or late or target.name not in leads:
        b.report("NL404", f"the objective does not mention `{place.memory}`", objective.span, Label(place.span, "the memory it belongs to"),
                 expected=f"an expression with {place.memory}(key)" + ("" if place.start else f", or a stream that reads `last {place.memory}`"),
                 found=f"`{objective.span.text}`", help=f"last {place.memory}(...) in the stream" if late else None)  # fmt: skip
        return None
    needed = _ancestors(equations, target.name)
    way = [e for e in leads.values() if e.name in needed]
    if passes_time(b, place.memory, [e for e in way if e.op not in KEEPING], objective.span, set()):
        return None

    def seen(e: Equation) -> Equation:
        """With the variable in the place of the state, in objectives of other memories on the way too; `of` is what keeps the past."""
        args = tuple(Ref(objective.self, a.span) if isinstance(a, Last) and a.name == place.state else a for a in e.args)
        if e.op in KEEPING:
            return replace(e, args=args, attrs=(*e.attrs, ("of", e.name)))
        inner = e.attr("objective")
        if inner is None:
            return replace(e, args=args)
        inner = replace(inner, equations=tuple(map(seen, inner.equations)))
        return replace(e, args=args, attrs=tuple((k, inner if k == "objective" else v) for k, v in e.attrs))

    return replace(objective, equations=tuple(map(seen, way)))


def passes_time(b: Builder, memory: str, way: Sequence[Equation], span: Span, held: set[str]) -> bool:
    """Report it if something on the way from a memory to its objective depends on other ticks, as the states in `held` do."""
    wrong = next((e for e in way if e.op in KEEPING | {"fold"} or e.name in held), None)
    if wrong is not None:
        slow = next((s for s in b.states if wrong.op == "fold" and s.name == wrong.attr("memory")), None)
        label = Label(wrong.span, "it gathers ticks") if slow is None else Label(slow.span, f"its step has the gradients of {slow.every} ticks")
        b.report("NL409", f"the way from `{memory}` to its objective passes what is kept from tick to tick", span, label,
                 expected="streams of one tick between them" if slow is None else "memories that change at every tick between them")  # fmt: skip
    return wrong is not None


def _given(b: Builder) -> set[str]:
    """What no equation of the unit computes; a memory without one has a step that is wrong."""
    inside = [o for e in b.equations if (o := e.attr("objective")) is not None]
    names = [x.name for x in (*b.inputs, *b.params, *(part for o in inside for part in o.equations))]
    return {*names, *(o.self for o in inside), *(f"{i.name}.{o}" for i in b.instances for o in i.outputs)}


def _in_order(equations: dict[str, Equation]) -> list[Equation]:
    """Each equation after those it, or its objective, reads at the same tick."""
    stand_ins = [replace(e, args=tuple(read_by(e))) for e in equations.values()]
    return [equations[e.name] for e in ordered(stand_ins)]


def _ancestors(equations: dict[str, Equation], name: str) -> set[str]:
    """A name and all it is computed from within this tick."""
    return _reached({e.name: [a.name for a in read_by(e) if isinstance(a, Ref)] for e in equations.values()}, name)
