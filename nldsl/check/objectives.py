"""Objectives: a gradient with respect to the memory exists and is not zero everywhere.

Elaboration refuses objectives that do not mention their memory, shapes those that are not one number.

Warned:    minimize 0.5 * sqnorm(stop(S(k)) - v)     the memory never learns
Accepted:  minimize 0.5 * sqnorm(S(k) - stop(v))

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = ("block b(d) { in x : real[d]  k = unit(x)  "
...         "memory S : d -> d { minimize 0.5 * sqnorm(%s) by gd(0.1) }  out y = S(k) }")
>>> [d.code for d in check_source(Source("b.nl", text % "stop(S(k)) - x")).diagnostics]
['NL408']
>>> check_source(Source("b.nl", text % "S(k) - stop(x)")).diagnostics
()
"""

from __future__ import annotations

from nldsl.check.reading import CUTS, atoms
from nldsl.check.shapes import Types
from nldsl.core import Objective, Ref, Unit
from nldsl.diagnostics import Diagnostic, Label


def objectives(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL408: every way from the memory to its objective is cut."""
    found = []
    for equation in unit.equations:
        objective = equation.attr("objective")
        if objective is None or differentiable(objective):
            continue
        cut = next((e for e in objective.equations if e.op in CUTS), None)
        labels = [Label(objective.span)] + ([Label(cut.span, "no gradient passes here")] if cut is not None else [])
        found.append(
            Diagnostic("NL408", "the gradient of this objective is zero", tuple(labels),
                       expected="a way from the memory to the objective without `stop` or `sign`",
                       found=f"`{objective.span.text}`"))  # fmt: skip
    return found


def differentiable(objective: Objective) -> bool:
    """Whether some gradient flows from the result to the operator that is optimised."""
    reached = {objective.self}
    for equation in objective.equations:
        if equation.op not in CUTS and any(isinstance(a, Ref) and a.name in reached for a in atoms(equation)):
            reached.add(equation.name)
    return isinstance(objective.result, Ref) and objective.result.name in reached
