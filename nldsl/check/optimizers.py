"""What a rule may not do as an optimizer, though it may as the learner of a memory."""

from __future__ import annotations

import keyword
from typing import Any

from nldsl.check.causality import causality
from nldsl.check.reading import Reading, atoms
from nldsl.core import Init, Last, Ref, Rule, State
from nldsl.diagnostics import Diagnostic, Label
from nldsl.source import Span

# Operations over the ticks of a sequence, over copies, or on classes: a tensor of weights has none of these.
SEQUENCE = {"delay": "a memory keeps what was before", "conv": "a memory keeps what was before", "rope": "weights have no ticks to turn by",
            "attend": "an optimizer has no stores", "index": "an optimizer has no copies", "gather": "an optimizer has no copies",
            "cross_entropy": "an optimizer sees gradients, not classes"}  # fmt: skip
# What the constructor of every optimizer has already.
TAKEN = frozenset("self params maximize differentiable capturable foreach fused every over split rule param_names t h".split())


def problems_of(rule: Rule, where: Span) -> list[Diagnostic]:
    """Cycles within a step, numbers whose name is taken, what belongs to sequences, periods in periods, random and learned first values, no gradient."""
    found = causality(rule.unit, rule.types)
    for name, span in [*((h.name, h.span) for h in rule.hypers), *((s, where) for s in rule.structure)]:
        if name in TAKEN or keyword.iskeyword(name):
            found.append(Diagnostic("NL433", f"the number `{name}` has the name of something else in an optimizer", (Label(span),),
                                    expected="another name", help=f"{name}_"))  # fmt: skip
    for e in rule.unit.equations:
        if e.op in SEQUENCE:
            found.append(Diagnostic("NL434", f"`{e.op}` has no meaning in an optimizer: {SEQUENCE[e.op]}", (Label(e.span),)))
    for param in (p for p in rule.unit.params if not p.fixed):
        found.append(Diagnostic("NL434", "nothing learns the first value of an optimizer's memory", (Label(param.span),),
                                expected="a number, zeros, ones or eye"))  # fmt: skip
    reading = Reading.of(rule.unit)
    for state in rule.unit.states:
        if (why := _begins_anew(reading, state)) is not None:
            found.append(why)
        if _drawn(state.init):
            found.append(Diagnostic("NL434", "a memory of an optimizer starts from a number, the same in every run", (Label(state.span),),
                                    expected="a number, zeros, ones or eye"))  # fmt: skip
    if not found and not _learns(rule):
        found.append(Diagnostic("NL432", f"`{rule.name}` is no optimizer: its step does not depend on `g`", (Label(where),),
                                expected="an update that reads the gradient", help="update last w - lr * g"))  # fmt: skip
    return found


def _begins_anew(reading: Reading, state: State) -> Diagnostic | None:
    """Why an optimizer cannot have a state that begins anew, or is a copy made, at certain ticks of a sequence."""
    if state.name in reading.starts:
        read = next(a.span for e in reading.unit.equations for a in atoms(e) if isinstance(a, Last) and a.name == state.name)
        return Diagnostic("NL434", f"an optimizer keeps no copy of `{_written(reading.starts[state.name])}` from where a window of steps began", (Label(read),),
                          expected="`last`, or a memory with `every N`")  # fmt: skip
    if state.name in reading.sums:
        inner = reading.states[reading.sums[state.name]]
        outer = _outermost(reading, inner)
        return Diagnostic("NL434", f"in an optimizer, what learns `{_written(outer.name)}`, which has a period, has none of its own",
                          (Label(outer.span, "has a period"), Label(inner.span, "and so has a memory of the rule that learns it")),
                          expected="`every` in one of the two")  # fmt: skip
    owner = reading.owner(state.name)
    if state.name in reading.paced.values() and owner is not None:
        return Diagnostic("NL434", "an optimizer takes all steps of a memory together: none has a period of its own", (Label(owner.span),),
                          expected="`every N` of the memory, or a step at every tick", found=f"`{', '.join(owner.steps)}`")  # fmt: skip
    if state.reset is not None and owner is not None:
        return Diagnostic("NL434", "an optimizer has no sequences after which a memory starts anew", (Label(state.span),),
                          expected="a memory without `reset`")  # fmt: skip
    return None


def _outermost(reading: Reading, state: State) -> State:
    """The memory of the optimizer itself around one of the rules that learn it."""
    while (owner := reading.owner(state.name)) is not None and owner.parent in reading.states and owner.parent != "w":
        state = reading.states[owner.parent]
    return state


def _written(name: str) -> str:
    return name.removeprefix("w.")


def _drawn(init: Init) -> bool:
    """Whether a first value is random, read from a file, or one for each copy."""
    parts: tuple[Any, ...] = init if isinstance(init, tuple) else ()
    return bool(parts) and (parts[0] in ("normal", "uniform", "index", "pretrained") or any(isinstance(p, tuple) and _drawn(p) for p in parts))


def _learns(rule: Rule) -> bool:
    """Whether the new `w` depends on the gradient, now or through its memories."""
    reads: dict[str, set[str]] = {}
    for e in rule.unit.equations:
        names = {a.name for a in e.args if hasattr(a, "name")}
        objective = e.attr("objective")
        if objective is not None:
            names |= {a.name for part in objective.equations for a in part.args if hasattr(a, "name")}
            names |= {objective.result.name} if isinstance(objective.result, Ref) else set()
        reads[e.name] = names
    seen, stack = {"w"}, ["w"]
    while stack:
        for name in reads.get(stack.pop(), set()) - seen:
            seen.add(name)
            stack.append(name)
    return "g" in seen or "delta" in seen
