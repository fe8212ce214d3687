"""Which lines of a spec a wrong number comes from: the first stream, in the order of a tick, that differs from the interpreter's."""

from __future__ import annotations

from dataclasses import replace

import torch

from nldsl.core import Last, Ref
from nldsl_interpreter import Interpreter
from nldsl_testing.compare import distances, worst
from nldsl_testing.example import Example
from nldsl_testing.subject import Subject, line_of
from nldsl_torch.build import module

WRONG = 1e-6


def first_wrong(subject: Subject, example: Example) -> tuple[str, ...]:
    """The line of the first wrong stream, then those of the memories it reads; empty where every stream is right when all are asked for."""
    units, types, key = subject.elaborated.parts
    unit = units[key]
    names = [e.name for e in unit.equations if types[key][e.name].kind == "real"]
    made = {**units, key: replace(unit, outputs=tuple((n, Ref(n)) for n in names))}
    try:
        params, x = subject.parameters(example.seed, example.noise), example.inputs(subject)
        with torch.no_grad():
            wide = module(made, types, key).double()
            wide.load_state_dict(params)
            found = wide(*(x[i.name] for i in unit.inputs))
            machine = Interpreter(made, types, key)
            wanted, _ = machine.run(params, x)
    except Exception:  # the help of a report may not be what fails
        return ()
    found = found if isinstance(found, dict) else {names[0]: found}
    equations, states = {e.name: e for e in unit.equations}, {s.name: s for s in unit.states}
    for name in (n for group in machine.top.order(frozenset()) for n in group if n in wanted):
        if worst(distances({name: found[name]}, {name: wanted[name]}))[1] > WRONG:
            read = [states[a.name].span for a in equations[name].args if isinstance(a, (Ref, Last)) and a.name in states]
            return tuple(dict.fromkeys(map(line_of, [equations[name].span, *read])))
    return ()
