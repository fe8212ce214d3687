"""`nldsl explain FILE`: what the compiler understood, what it chose and why, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nldsl.check.levels import levels
from nldsl.check.reading import Reading
from nldsl.core import State
from nldsl.dims import Dim
from nldsl.lower.cost import chunk_flops, decoding_flops, map_flops, state_bytes, stores, tick_flops
from nldsl.lower.equation import machine_text, window_text
from nldsl.lower.plan import Form, Plan, plan
from nldsl.lower.schedule import Recurrence
from nldsl.pipeline import block_parameters
from nldsl.program import Elaborated, Program
from nldsl.render.text import levels_text


def explain(program: Program) -> str:
    """A section for each block of a file, at the sizes its parameters stand for."""
    needed = block_parameters(program.checked.file)
    return "\n\n".join(
        _waiting(program, block, sorted(needed[block])) if needed[block] else explain_block(program, block) for block in program.blocks)  # fmt: skip


def _waiting(program: Program, block: str, needed: list[str]) -> str:
    """A block that is nothing until the blocks it takes are given."""
    values = " ".join(f"-D {name}=NAME" for name in needed)
    return f"block {block}  ({program.block(block).span.where})\n  takes blocks as parameters: --block {block} {values}"


def explain_block(program: Program, block: str, sizes: Mapping[str, Any] | None = None) -> str:
    """One block, at the sizes its parameters stand for or at those given; the blocks it uses have sections of their own."""
    elaborated = program.elaborate(block, sizes) if sizes else program.symbolic(block)
    found = plan(elaborated.unit, elaborated.types[elaborated.key])
    lines = [f"block {block}  ({elaborated.unit.span.where})"]
    recurrences = [step for step in found.steps if isinstance(step, Recurrence)]
    for step in sorted(recurrences, key=lambda r: min(e.span.start for e in r.equations if e.name in r.states)):
        lines += _recurrence(found, step)
    lines += _stores(found)
    for instance in found.unit.instances:
        lines.append(f"  {instance.name}: the block `{instance.block}`")
    lines.append(f"  maps      {_sum(map_flops(found))} FLOPs a token, for all ticks at once")
    lines.append(f"  state     {_sum(state_bytes(found))} bytes a sequence (float32)")
    if found.unit.instances:
        flops, kept = _totals(elaborated, elaborated.key, {})
        lines.append(f"  in all    {_sum(flops)} FLOPs a token when decoding, with the blocks inside")
        lines.append(f"            {_sum(kept)} bytes of state a sequence")
    lines += [f"  {'levels' if n == 0 else '      '}    {line}" for n, line in enumerate(_levels(elaborated))]
    defaults = _defaults(found)
    if defaults:
        lines.append("  defaults  " + "\n            ".join(defaults))
    return "\n".join(lines)


def _levels(elaborated: Elaborated) -> list[str]:
    """The levels of the block with all blocks in it, slowest first; a large model's are left to `nldsl graph`."""
    found = levels_text(levels(elaborated.units, elaborated.key)).splitlines()
    return found if len(found) <= 6 else [*found[:5], f"and {len(found) - 5} more"]


def _totals(elaborated: Elaborated, key: str, known: dict[str, tuple[Dim, Dim]]) -> tuple[Dim, Dim]:
    """FLOPs of a tick and bytes of state of a unit with everything inside it."""
    if key not in known:
        found = plan(elaborated.units[key], elaborated.types[key])
        flops, kept = decoding_flops(found), state_bytes(found)
        for instance in found.unit.instances:
            inside = _totals(elaborated, instance.unit or "", known)
            flops, kept = flops + inside[0], kept + inside[1]
        known[key] = flops, kept
    return known[key]


def _sum(value: object) -> str:
    text = str(value)
    return text if len(text) < 70 else text[:60].rsplit(" + ", 1)[0] + " + ..."


def _recurrence(found: Plan, step: Recurrence) -> list[str]:
    form = found.forms[step.states[0]]
    reading = Reading.of(found.unit)
    names = [s for s in step.states if s not in reading.starts and s not in reading.paced and s not in found.same]
    if not names:
        return []  # copies at the starts of windows, said with what is left open, or for later reads
    lines = [f"  memory {', '.join(names)} : {found.types[names[0]]}"]
    text = machine_text(found, form) if form.machine is not None else window_text(found, form) if form.windows is not None else []
    lines += [f"    {'update' if n == 0 else '      '}  {line}" for n, line in enumerate(text)]
    lines.append(f"    form    {form.name}" + (f": {form.why}" if form.name == "loop" else ""))
    if form.windows is not None:
        lines[-1] += f" of {form.windows.ticks} ticks"
        inside: dict[str, list[str]] = {}
        for name, inner in form.forms.items():
            members = inner.machine.states if inner.machine is not None else (name,)
            inside.setdefault(inner.name, []).extend(s for s in members if s not in form.windows.sums.values())
        lines += [f"            inside one, {', '.join(names)}: {kind}" for kind, names in inside.items() if names]
    lines += [f"    asked   {', '.join(asked)}"] if (asked := _asked(found, names, form)) else []
    if form.name == "solve":
        lines.append(f"    why     {form.why}")
    rounds = 1 + list(found.same.values()).count(names[0])
    if rounds > 1:
        lines.append(f"    rounds  {rounds}: it is read at places that were read from it; each round costs about the same")
    ends = {s.flush for s in found.unit.states if s.name in step.states} - {"carry"}
    if ends:
        lines.append(f"    flush   {', '.join(sorted(ends))}: what `finish` does with a partial period where the stream ends")
    shared = {m.shared for m in found.unit.memories if m.state in step.states} - {None}
    if shared:
        lines.append(f"    shared  {', '.join(sorted(map(str, shared)))} of gradients: one state for all sequences of the batch")
    if form.transposed:
        lines.append("            (on the transposed state: the side that depends on it is the key side)")
    chunked = chunk_flops(found, step, form)
    cost = f"    cost    {_sum(tick_flops(found, step))} FLOPs a token when decoding"
    lines.append(cost)
    if chunked is not None:
        lines.append(f"            about {_sum(chunked)} in chunks of {form.chunk}")
    return lines


def _asked(found: Plan, names: list[str], form: Form) -> list[str]:
    """What the schedule asks of a recurrence and is done; a loop says so itself."""
    done = {"form": form.name != "loop", "chunk": any(f.chunked for f in (form, *form.forms.values())), "recompute": form.recompute}
    return [str(ask) for word, is_done in done.items() if is_done and (ask := found.unit.schedule.asked(word, names)) is not None]


def _stores(found: Plan) -> list[str]:
    lines = []
    recurrences = [s for s in found.steps if isinstance(s, Recurrence)]
    for e in stores(found):
        window = e.attr("window")
        around = next((found.forms[s.states[0]].name for s in recurrences if any(own.name == e.name for own in s.equations)), "")
        how = {"": "", "loop": "; in a recurrence, tick by tick"}.get(around, "; in a recurrence, window by window")
        kept = f"the last {window} pairs" if window is not None else "every pair, so its state grows with the sequence"
        lines += [f"  memory {e.attr('memory')} : store", f"    form    store: softmax attention over {kept}{how}"]
    return lines


def _defaults(found: Plan) -> list[str]:
    """What the text leaves open and how it was taken."""
    out = []
    reading = Reading.of(found.unit)
    unsaid = {m.state for m in found.unit.memories if m.objective is not None and m.parent is None and m.writes is None}
    for state in found.unit.states:
        if state.name in reading.starts:
            out.append(f"{state.name}: the state of {reading.starts[state.name]} when the window of {state.every} ticks began")
        elif state.name not in reading.paced and state.name not in found.same:
            out += _state_defaults(state, state.name in unsaid)
    plain = [p.name for p in found.unit.params if p.default_init]
    if plain:
        out.append(f"{', '.join(plain[:6])}{', ...' if len(plain) > 6 else ''}: initial values by default (operators normal(1 / sqrt(inputs)), vectors 0)")
    if stores(found):
        out.append("store: scores are scaled by 1 / sqrt(size of the key)")
    return out


def _state_defaults(state: State, passed: bool) -> list[str]:
    """`passed`: the text does not say which outer gradients pass its steps, so all do."""
    what = []
    if state.every == 1 and state.reset is None:
        what.append("changes at every tick, starts anew with each sequence")
    if state.every > 1 and state.flush == "carry":
        what.append("a partial period at the end is carried on in the state")
    if passed:
        what.append("outer gradients pass its steps")
    return [f"{state.name}: {'; '.join(what)}"] if what else []
