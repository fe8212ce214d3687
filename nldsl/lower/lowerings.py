"""All the ways in which a block can be run, as schedules: what tests and tools compare with the meaning of the language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nldsl.core import Type, Unit
from nldsl.lower.plan import Form, plan
from nldsl.schedules import Ask, Schedule, everything

CHUNKS = (1, 3, 8)  # ticks: none, one that divides nothing, several


def lowerings(units: Mapping[str, Unit], types: Mapping[str, Mapping[str, Type]]) -> dict[str, dict[str, Schedule]]:
    """For each way, by a line that says it, the schedules of the blocks that are not left to the compiler.

    First the compiler's own choice; then chunks of other sizes, and windows that are computed again, where there are any; each
    recurrence as a loop while the others are as they were; all of them as loops.
    """
    forms: dict[str, dict[str, Form]] = {}  # by block, of the first states
    for key, unit in units.items():
        forms.setdefault(unit.block, {}).update(plan(unit.scheduled(Schedule()), types[key]).forms)
    found: dict[str, dict[str, Schedule]] = {"the compiler's choice": {}}
    every = [form for block in forms.values() for outer in block.values() for form in _inside(outer)]
    if any(form.machine is not None for form in every):
        found |= {f"chunks of {n}": _all(forms, everything("chunk", n)) for n in CHUNKS}
    if any(form.windows is not None for form in every):
        found["windows computed again"] = _all(forms, everything("recompute"))
    parallel = [(block, state) for block, of in forms.items() for state, form in of.items() if form.name != "loop" and "~" not in state]
    if len(parallel) > 1:
        found |= {f"{block}: {state} by loop": {block: Schedule((Ask(state, "form", "loop"),))} for block, state in parallel}
    if parallel:
        found["every recurrence by loop"] = _all(forms, everything("form", "loop"))
    return found


def _inside(form: Form) -> Iterator[Form]:
    yield form
    yield from form.forms.values()


def _all(blocks: Mapping[str, object], schedule: Schedule) -> dict[str, Schedule]:
    return dict.fromkeys(blocks, schedule)
