"""A unit without gradients: indices are columns, rotations have their angles, objectives are differentiated, implicit steps are solved."""

from __future__ import annotations

from nldsl.check.reading import Reading
from nldsl.core import Ref, Type, Unit
from nldsl.diagnostics import Diagnostic, Label, NlError
from nldsl.lower.affine import NotLinear
from nldsl.lower.columns import columns
from nldsl.lower.differentiate import NotDifferentiable, differentiate, prune
from nldsl.lower.turns import turns

SAID = {"attend_pull": "the gradient of a read of a store"}  # operations without a word


def explicit(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """A unit without gradients and without implicit steps.

    Raises:
        NlError: NL601, NL602.
    """
    unit, types = turns(*columns(unit, types))
    reading = Reading.of(unit)
    implicit = any(e.op == "grad" and isinstance(e.args[0], Ref) and e.name in reading.ancestors(e.args[0].name) for e in unit.equations)
    try:
        unit, types = differentiate(unit, types)
        unit = prune(unit)
        if implicit:
            from nldsl.lower.implicit import solve_implicit  # with networkx, which takes longer than a check

            unit, types = solve_implicit(unit, types)
    except NotDifferentiable as wrong:
        raise NlError(
            Diagnostic("NL601", f"{SAID.get(wrong.equation.op, f'`{wrong.equation.op}`')} has no derivative with respect to the memory",
                       (Label(wrong.equation.span),), expected="a differentiable objective")) from None  # fmt: skip
    except NotLinear as wrong:
        raise NlError(
            Diagnostic("NL602", "this implicit step cannot be solved in closed form", (Label(wrong.span),),
                       expected="a gradient that is affine in one read of the memory", found=wrong.why,
                       help="gd(rate) takes the gradient at the state before the step")) from None  # fmt: skip
    return unit, types
