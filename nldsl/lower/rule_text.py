"""The plan of a rule as text: for each variant and each set of clocks, numbers first, then passes and whole operations."""

from __future__ import annotations

from collections.abc import Iterator

from nldsl.core import Rule
from nldsl.core_text import atom_text, equation_lines
from nldsl.lower.rule import RulePlan, Tick, plan_rule
from nldsl.lower.segments import Segment, Step


def plan_text(rule: Rule) -> str:
    """What runs in a step."""
    return "\n".join(_lines(plan_rule(rule)))


def _lines(plan: RulePlan) -> Iterator[str]:
    yield f"plan of {plan.rule.unit.key}"
    for key, variant in plan.variants.items():
        on = [s for s, there in zip(plan.switches, key) if there]
        yield f"variant {' and '.join(on) or 'without switches'}: {', '.join(s.name for s in variant.states) or 'no states'}"
        for mask, tick in variant.ticks.items():
            fired = [str(period) for n, (period, _) in enumerate(plan.clocks) if mask >> n & 1]
            if plan.clocks:
                yield f"  tick of {' and '.join(fired) or 'no clock'}"
            yield from (f"    {line}" for line in _tick(tick))


def _tick(tick: Tick) -> Iterator[str]:
    if tick.prologue:
        yield "numbers"
        yield from (f"  {line.strip()}" for e in tick.prologue for line in equation_lines(e))
    for key, steps in tick.lines.items():
        if key:
            yield "where " + " and ".join(f"{name} {'>' if above else '<='} 0" for name, above in zip(tick.conditions, key))
        for step in steps:
            yield from _step(step)


def _step(step: Step) -> Iterator[str]:
    if isinstance(step, Segment):
        yield f"pass over {', '.join(map(atom_text, step.reads))}; writes {', '.join(step.writes)}"
        yield from (f"  {line.strip()}" for e in step.equations for line in equation_lines(e))
    else:
        yield from (line.strip() for line in equation_lines(step.equation))
