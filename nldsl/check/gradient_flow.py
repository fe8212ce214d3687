"""Gradient flow: the outer objective reaches every param that is used.

Warned:    out y = x + stop(W(x))     W is used, and nothing can train it
Accepted:  out y = stop(x) + W(x)

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = "block b(d) { in x : real[d]  param W : d -> d  out y = %s }"
>>> [d.code for d in check_source(Source("b.nl", text % "x + stop(W(x))")).diagnostics]
['NL420']
>>> check_source(Source("b.nl", text % "stop(x) + W(x)")).diagnostics
()
"""

from __future__ import annotations

from nldsl.check.reading import CUTS, Reading
from nldsl.check.shapes import Types
from nldsl.core import Num, Unit
from nldsl.diagnostics import Diagnostic, Label


def gradient_flow(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL420: params that only cut ways connect to the outputs."""
    reading = Reading.of(unit)
    reached = trained(reading, types)
    found = []
    for param in unit.params:
        if param.name in reading.live and param.name not in reached and not param.fixed:
            cut = next((e for e in unit.equations if e.op in ("stop", "sign") and param.name in reading.ancestors(e.name)), None)
            labels = [Label(param.span)] + ([Label(cut.span, "no gradient passes here")] if cut is not None else [])
            found.append(
                Diagnostic("NL420", f"no gradient reaches the param `{param.name}`", tuple(labels),
                           expected="a way to an output without `stop`, `sign` or a whole number"))  # fmt: skip
    return found


def trained(reading: Reading, types: Types) -> set[str]:
    """Every name that a gradient from some output reaches. An instance passes gradients from its outputs to its arguments."""
    stack = [a.name for _, a in reading.unit.outputs if not isinstance(a, Num)]
    reached: set[str] = set()
    while stack:
        name = stack.pop()
        if name in reached or (name in types and types[name].kind in ("int", "bool")):
            continue
        reached.add(name)
        state = reading.states.get(name)
        stack += [n for n in (state.learned, state.base) if n is not None] if state is not None and not state.detached else []
        if name in reading.equations and reading.equations[name].op in CUTS:
            continue
        stack += [a.name for a in reading.atoms(name) if not isinstance(a, Num)]
    return reached
