"""Sharing: a memory with `shared` is the same for all sequences of a batch.

It starts as a number or a param; so it stays the same, if all that its step reads besides its gradients is the same too.

Refused:   memory S : d -> d { minimize -dot(S(k), x) by gd(sigmoid(r(x)))  shared mean }
Accepted:  a rate that is a number or a param

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = ("block b(d) { in x : real[d]  param r : d -> 1  "
...         "memory S : d -> d { minimize -dot(S(unit(x)), x) by gd(%s)  shared mean }  out y = r(x) * S(x) }")
>>> [d.code for d in check_source(Source("b.nl", text % "sigmoid(r(x))")).diagnostics]
['NL414']
>>> check_source(Source("b.nl", text % "0.1")).diagnostics
()
"""

from __future__ import annotations

from nldsl.check.reading import Reading
from nldsl.check.shapes import Types
from nldsl.core import Last, Ref, Unit
from nldsl.diagnostics import Diagnostic, Label


def sharing(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL414: a shared memory that would differ from sequence to sequence."""
    shared = [m for m in unit.memories if m.shared is not None]
    reading, found = Reading.of(unit), []
    own = _own(reading) if shared else {}
    for memory in shared:
        if memory.state not in own:
            continue
        name, cause = memory.state, own[memory.state]
        while cause is not None and (name == memory.state or ("." in name and name not in reading.states)):
            name, cause = cause, own[cause]
        found.append(
            Diagnostic("NL414", f"`{memory.name}` is shared, and its step reads what each sequence has of its own", (Label(memory.span),),
                       expected="a step of numbers, params and other shared memories", found=f"`{name}`",
                       help="leave out `shared`, or take what differs out of the step"))  # fmt: skip
    return found


def _own(reading: Reading) -> dict[str, str | None]:
    """What differs from sequence to sequence, each with what it has that from; of an input nothing."""
    own: dict[str, str | None] = {i.name: None for i in reading.unit.inputs}
    names = [*reading.equations, *reading.instances, *(s for s in reading.states if s not in reading.equations)]
    changed = True
    while changed:
        changed = False
        for name in names:
            equation, state = reading.equations.get(name), reading.states.get(name)
            if name in own or (equation is not None and equation.op == "pool"):
                continue
            read = [a.name for a in reading.atoms(name) if isinstance(a, (Ref, Last))]
            read += [n for n in (state.base, state.begun) if n is not None] if state is not None else []
            cause = next((n for n in read if n in own), None)
            if cause is not None:
                own[name] = cause
                changed = True
    return own
