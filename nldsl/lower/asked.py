"""What a schedule asks in vain: memories that are not there, forms that are not proven, chunks and windows that are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nldsl.core import Type, Unit
from nldsl.diagnostics import Diagnostic, Label, did_you_mean
from nldsl.schedules import Ask

if TYPE_CHECKING:
    from nldsl.lower.plan import Form

HELP = "leave it to the compiler: `nldsl explain` says what it takes"
Run = tuple[Sequence[str], "Form"]  # a recurrence: its states, and how it runs


def in_vain(unit: Unit, types: Mapping[str, Type], runs: Sequence[Run]) -> list[Diagnostic]:
    """What the schedule of a unit asks and `runs`, all its recurrences, do not do."""
    found: list[Diagnostic] = []
    for ask in unit.schedule.asks:
        place = (Label(ask.span),) if ask.span is not None else ()
        missing = _missing(unit, ask)
        if missing is not None:
            known, near = missing
            found.append(
                Diagnostic("NL611", f"the block `{unit.block}` has no memory `{ask.spelled}`", place,
                           expected=", ".join(f"`{n}`" for n in known) or "none: the block has no memory",
                           found=f"`{ask.spelled}`", help=f"did you mean `{near}`?" if near else None))  # fmt: skip
        elif (why := _refusal(unit, types, ask, [r for r in runs if any(map(ask.means, r[0]))])) is not None:
            what = {"form": f"run by `{ask.value}`", "chunk": "run in chunks", "recompute": "compute windows again"}[ask.word]
            found.append(Diagnostic("NL612", f"`{ask.spelled}` cannot {what}: {why}", place, help=HELP))
    return found


def _missing(unit: Unit, ask: Ask) -> tuple[list[str], str | None] | None:
    """For a memory that is not there: those that are, and the nearest."""
    names = [m.name for m in unit.memories] + [s.name for s in unit.states]
    if ask.memory == "*" or any(map(ask.means, names)):
        return None
    known = sorted({n.partition(".")[0] for n in names[: len(unit.memories)]})
    return known, did_you_mean(ask.memory, [*known, *names])


def _refusal(unit: Unit, types: Mapping[str, Type], ask: Ask, runs: Sequence[Run]) -> str | None:
    """Why recurrences do not run as asked; None where they do. `*` asks for chunks and windows where there are any."""
    if not runs:
        store = any(m.state is None and ask.means(m.name) for m in unit.memories)
        return None if ask.memory == "*" else "a store keeps its pairs, and is read by attention" if store else "all its ticks are computed at once"
    if ask.word == "form" and ask.value != "loop":
        return next((why for run in runs if (why := _form(unit, types, ask, run)) is not None), None)
    if ask.word == "recompute" and ask.memory != "*":
        return next((f"its form is `{form.name}`" + _because(form) for _, form in runs if form.windows is None), None)
    if ask.word == "chunk" and ask.memory != "*":
        parts = [form for run in runs for _, form in _parts(ask, run)]
        chunked = [form for form in parts if form.machine is not None]
        if not chunked:
            return f"its form is `{parts[0].name}`{_because(parts[0])}" if parts else "it changes at the ends of windows only"
        if all(form.chunk != ask.value for form in chunked):
            return f"what is computed together with it runs in chunks of {chunked[0].chunk}"
    return None


def _parts(ask: Ask, run: Run) -> Iterator[Run]:
    """The recurrences in which a memory changes from tick to tick: inside windows where it runs in such. A sum of
    gradients over a window is none."""
    form = run[1]
    if form.windows is None:
        yield run
        return
    for first, inner in form.forms.items():
        names = inner.machine.states if inner.machine is not None else (first,)
        if any(ask.means(n) for n in names if n not in form.windows.sums.values()):
            yield names, inner


def _form(unit: Unit, types: Mapping[str, Type], ask: Ask, run: Run) -> str | None:
    """Why a recurrence does not have the form that is asked for."""
    states, form = run
    if ask.value == "windows":
        if form.name == "windows":
            return None
        clocked = any(s.every > 1 or s.reset is not None for s in unit.states if s.name in states)
        return form.why if clocked else "nothing of it waits for the end of a window: no `every`, `start` or `reset every`"
    if form.name == "loop":
        return _kind(types, ask, states[0]) or form.why
    parts = list(_parts(ask, run))
    if not parts:
        return "it changes at the ends of windows only"
    for names, part in parts:
        if part.name != ask.value:
            other = "no write depends on the state, so there is nothing to solve" if part.name == "closed" else f"its form is `{part.name}`"
            return _kind(types, ask, names[0]) or part.why or other
    return None


def _kind(types: Mapping[str, Type], ask: Ask, state: str) -> str | None:
    """Forms are of operators, or of vectors and numbers."""
    operator = types[state].kind == "map"
    if operator == (ask.value == "scan"):
        return f"`{state}` is {types[state]}, and this form is of {'vectors and numbers' if operator else 'operators'}"
    return None


def _because(form: Form) -> str:
    return f", {form.why}" if form.name == "loop" else ""
