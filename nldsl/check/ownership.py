"""Ownership: every tensor has one owner and one role, and everything declared is used.

Warned:   param W : d -> d        that nothing applies
          memory S : d -> d {..}  that no output depends on
          z = 3 * x               that nothing reads

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = "block b(d) { in x : real[d]  param W : d -> d  out y = %s }"
>>> [d.code for d in check_source(Source("b.nl", text % "2 * x")).diagnostics]
['NL190']
>>> check_source(Source("b.nl", text % "W(x)")).diagnostics
()
"""

from __future__ import annotations

from collections.abc import Iterator

from nldsl.check.reading import Reading, shown
from nldsl.check.shapes import Types
from nldsl.core import Atom, Equation, Input, Last, Param, Ref, State, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.source import Span


def ownership(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL411 two owners, NL410 unread memories, NL190 unused params, NL191 unused names."""
    reading = Reading.of(unit)
    return [*_two_owners(unit), *_unread_memories(reading), *_unused(reading)]


def _two_owners(unit: Unit) -> list[Diagnostic]:
    first: dict[str, Span] = {}
    found = []
    remembered = {m.state for m in unit.memories}
    owners: list[Input | Param | State] = [*unit.inputs, *unit.params, *(s for s in unit.states if s.name in remembered)]
    for declared in owners:
        if declared.name in first:
            found.append(
                Diagnostic("NL411", f"`{declared.name}` has two owners", (Label(declared.span), Label(first[declared.name], "the first")),
                           expected="one declaration a tensor", found="a second one"))  # fmt: skip
        first.setdefault(declared.name, declared.span)
    return found


def _unread_memories(reading: Reading) -> list[Diagnostic]:
    found, live = [], reading.live
    queried = {part.attr("memory") for e in reading.unit.equations if e.name in live for part in _with_objective(e) if part.op == "attend"}
    for memory in reading.unit.memories:
        if memory.parent is not None or memory.state in live or memory.name in queried:
            continue
        read = f"{memory.name}(q)" if memory.state is None or reading.states[memory.state].type.kind == "map" else memory.name
        found.append(
            Diagnostic("NL410", f"nothing that reaches an output reads the memory `{memory.name}`", (Label(_name_of(reading, memory.name, memory.span)),),
                       expected=f"an output that depends on `{memory.name}`", help=f"out y = {read}"))  # fmt: skip
    return _unless_copied(found, reading)


def _with_objective(e: Equation) -> Iterator[Equation]:
    """An equation, and those of the objective of which it is the gradient."""
    yield e
    objective = e.attr("objective")
    for part in objective.equations if objective is not None else ():
        yield from _with_objective(part)


def _name_of(reading: Reading, name: str, otherwise: Span) -> Span:
    return reading.states[name].span if name in reading.states else otherwise


def _unused(reading: Reading) -> list[Diagnostic]:
    """Params, inputs, equations and instances that nothing at all mentions: the roots of what is dead."""
    unit, live = reading.unit, reading.live
    mentioned = _mentioned(reading)
    found = []
    for param in unit.params:
        if param.name not in live and param.name not in mentioned:
            found.append(
                Diagnostic("NL190", f"the param `{param.name}` is never used", (Label(param.span),),
                           expected=f"something that reads `{param.name}`", help=f"remove `{param.name}`"))  # fmt: skip
    states = {s.name for s in unit.states}
    for name, span, what in [
        *((i.name, i.span, "the input") for i in unit.inputs),
        *((e.name, e.span, "the name") for e in unit.equations if shown(e.name) and e.op != "index"),
    ]:
        if name not in live and name not in mentioned and name not in states:
            found.append(
                Diagnostic("NL191", f"{what} `{name}` is never used", (Label(span),), expected=f"something that reads `{name}`",
                           help=f"remove `{name}`"))  # fmt: skip
    for instance in unit.instances:
        outputs = {f"{instance.name}.{o}" for o in instance.outputs}
        if not outputs & (live | mentioned):
            found.append(
                Diagnostic("NL191", f"no output of this `{instance.block}` is used", (Label(instance.span),),
                           expected="something that reads one of them"))  # fmt: skip
    return _unless_copied(found, reading)


def _mentioned(reading: Reading) -> set[str]:
    unit = reading.unit
    names = {a.name for e in unit.equations for a in reading.atoms(e.name) if isinstance(a, (Ref, Last))}
    names |= {a.name for i in unit.instances for _, a in i.args if isinstance(a, (Ref, Last))}
    # An objective that is a stream of the block has the equations of the stream in it.
    names |= {e.name for grad in unit.equations if (o := grad.attr("objective")) is not None for e in o.equations}
    clauses: list[Atom | None] = [a for m in unit.memories for a in (m.key, m.value)]
    names |= {a.name for a in clauses if isinstance(a, (Ref, Last))}
    return names | {s.learned for s in unit.states if s.learned is not None}


def _unless_copied(found: list[Diagnostic], reading: Reading) -> list[Diagnostic]:
    """Of the copies that a `for` makes of one declaration, one in use is enough."""
    used = {(e.span.start, e.span.end) for e in reading.unit.equations if e.name in reading.live}
    owners: list[Param | State] = [*reading.unit.params, *reading.unit.states]
    used |= {(d.span.start, d.span.end) for d in owners if d.name in reading.live}
    return [d for d in found if (d.spans[0].span.start, d.spans[0].span.end) not in used]
