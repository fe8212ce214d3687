"""Core to plan: differentiate, solve implicit steps, schedule, and find the best provable form of each recurrence."""

from __future__ import annotations

from collections.abc import Mapping

from nldsl.check.shapes import Types
from nldsl.core import Unit


def show_plan(units: Mapping[str, Unit], types: Mapping[str, Types], key: str) -> str:
    """The plan of a block as text: its steps in order, and the form of each recurrence."""
    from nldsl.core_text import equation_lines
    from nldsl.lower.equation import machine_text
    from nldsl.lower.plan import plan
    from nldsl.lower.schedule import Attention, Call, Recurrence

    found = plan(units[key], types[key])
    lines = [f"plan of {key}"]
    for step in found.steps:
        match step:
            case Recurrence(equations, states, _):
                form = found.forms[states[0]]
                lines.append(f"recurrence {', '.join(states)}: {form.name}" + (f", {form.why}" if form.name == "loop" else ""))
                lines += [f"  schedule {ask}" for ask in found.unit.schedule.asks if ask.value != "loop" and any(map(ask.means, states))]
                lines += [f"  # {text}" for text in (machine_text(found, form) if form.machine is not None else [])]
            case Attention(equation):
                equations = (equation,)
                lines.append("store")
            case Call(instance):
                equations = ()
                lines.append(f"instance {instance.name} = {instance.unit}")
            case _:
                equations = step.equations
                lines.append("map")
        lines += [f"  {line.strip()}" for e in equations for line in equation_lines(e)]
    return "\n".join(lines)
