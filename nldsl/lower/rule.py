"""A rule on a tensor as straight lines of steps: one for every set of clocks that fire, in every variant.

    differentiate -> for each variant: put in the switches that are off, simplify, cache what slow states determine,
    merge equal states -> for each set of clocks that fire: rest the other states, simplify -> straight lines

A clock that does not fire leaves no trace in the equations of its step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from nldsl.core import Atom, Equation, Init, Input, Last, Num, Ref, Rule, State, Type, Unit
from nldsl.diagnostics import Diagnostic, Label, NlError
from nldsl.dims import Dim
from nldsl.lower.algebra import constant_init, merge_states, plain_numbers, simplify, size_numbers
from nldsl.lower.cost import entries
from nldsl.lower.explicit import explicit
from nldsl.lower.numbers import fold
from nldsl.lower.order import ordered
from nldsl.lower.segments import ENTRYWISE, Segment, Step, moved_entries, straight_line
from nldsl.vocabulary import is_number

Types = dict[str, Type]
Clock = tuple[str | int, int]  # period, by the name of a number or as it stands, and offset
MAX_SWITCHES = 4
MAX_CONDITIONS = 3


@dataclass(frozen=True)
class Tick:
    """The step in which one set of clocks fires.

    Attributes:
        prologue: the numbers that depend on no tensor and no size, in order.
        sizes: the numbers behind the conditions, in order.
        conditions: the numbers on whose sign the choice of a line depends.
        lines: the steps for each truth of the conditions.
        unit, types: what the step computes, before lines are chosen.
    """

    unit: Unit
    types: Types
    prologue: tuple[Equation, ...]
    sizes: tuple[Equation, ...]
    conditions: tuple[str, ...]
    lines: dict[tuple[bool, ...], tuple[Step, ...]]

    @property
    def segment(self) -> Segment | None:
        """The one pass that is the whole step."""
        steps = self.lines.get((), ())
        alone = steps[0] if len(steps) == 1 else None
        return alone if isinstance(alone, Segment) else None

    @cached_property
    def numbers(self) -> set[str]:
        return plain_numbers(self.unit, self.types)

    def moved(self, steps: tuple[Step, ...]) -> Dim:
        """Entries read and written."""
        return moved_entries(steps, self.types, self.numbers)


@dataclass(frozen=True)
class Variant:
    """The rule where each switch is on or off.

    Attributes:
        states: those of tensors and numbers, without `w`; sums over periods and cached results among them.
        ticks: by the clocks that fire, the first one the lowest bit.
    """

    states: tuple[State, ...]
    ticks: dict[int, Tick]

    def entries(self) -> Dim:
        """The numbers kept between steps."""
        total = Dim.of(0)
        for s in self.states:
            total = total + entries(s.type)
        return total


@dataclass(frozen=True)
class RulePlan:
    """All a backend needs to know of a rule; `variants` by whether each switch is on."""

    rule: Rule
    switches: tuple[str, ...]
    clocks: tuple[Clock, ...]
    variants: dict[tuple[bool, ...], Variant]

    @property
    def type(self) -> Type:
        return self.rule.types["w"]

    def bytes_per_parameter(self, variant: tuple[bool, ...]) -> Dim:
        """Float32 bytes of state for each entry of `w`."""
        return Dim.of(4) * self.variants[variant].entries() / entries(self.type)

    def moved_per_parameter(self, variant: tuple[bool, ...], mask: int) -> dict[tuple[bool, ...], Dim]:
        """Float32 bytes read and written in one step for each entry of `w`, for each line."""
        tick = self.variants[variant].ticks[mask]
        return {key: Dim.of(4) * tick.moved(steps) / entries(self.type) for key, steps in tick.lines.items()}


def plan_rule(rule: Rule) -> RulePlan:
    """The straight lines of a rule.

    Raises:
        NlError: NL601 for an objective of an inner memory without a derivative, NL602 for an implicit step that cannot be solved.
    """
    unit, types = explicit(rule.unit, dict(rule.types))
    unit, types = simplify(unit, types)
    clocks = _clocks(rule, unit)
    switches = _switches(rule, unit, types)
    variants = {key: _variant(rule, unit, types, clocks, dict(zip(switches, key))) for key in product((False, True), repeat=len(switches))}
    return RulePlan(rule, switches, clocks, variants)


def _clocks(rule: Rule, unit: Unit) -> tuple[Clock, ...]:
    return tuple(dict.fromkeys((rule.periods[s.name], s.offset) for s in unit.states if s.name in rule.periods))


def _switches(rule: Rule, unit: Unit, types: Types) -> tuple[str, ...]:
    """The numbers with default 0 that at 0 leave a state without a reader."""
    inputs = {i.name for i in unit.inputs}
    found = []
    for h in rule.hypers:
        if h.default == 0 and len(h.inputs) == 1 and h.inputs[0] in inputs:
            without, _ = simplify(unit, types, {h.inputs[0]: 0.0})
            if len(without.states) < len(unit.states):
                found.append(h.name)
    return tuple(found[:MAX_SWITCHES])


def _variant(rule: Rule, unit: Unit, types: Types, clocks: tuple[Clock, ...], on: dict[str, bool]) -> Variant:
    inputs = {h.name: h.inputs[0] for h in rule.hypers if len(h.inputs) == 1}
    unit, types = simplify(unit, types, {inputs[name]: 0.0 for name, there in on.items() if not there})
    clock = {s.name: clocks.index((rule.periods[s.name], s.offset)) for s in unit.states if s.name in rule.periods}
    unit = merge_states(unit, types, clock, {"w"})
    unit, types = simplify(unit, types)
    plain = plain_numbers(unit, types)
    for s in unit.states:
        if s.name in clock and is_number(types[s.name]) and s.name not in plain:
            raise NlError(
                Diagnostic("NL434", f"`{s.name.removeprefix('w.')}` is one number with a clock of its own, computed from a tensor",
                           (Label(s.span),), expected="a number that changes at each step, or one that no tensor takes part in"))  # fmt: skip
    unit, cached = cache(unit, types, {n: c for n, c in clock.items() if n in {s.name for s in unit.states}})
    clock |= cached
    unit, types, sums = _with_sums(unit, types, clock, clocks)
    ticks = {}
    for mask in range(1 << len(clocks)):
        resting = {n for n, c in clock.items() if not mask >> c & 1}
        ticks[mask] = _tick(_at_rest(unit, sums, resting), types | {f"{n}.total": types[n] for n in sums})
    return Variant(tuple(s for s in unit.states if s.name != "w"), ticks)


# --- slow states ----------------------------------------------------------------------------------------


def _with_sums(unit: Unit, types: Types, clock: Mapping[str, int], clocks: tuple[Clock, ...]) -> tuple[Unit, Types, dict[str, str]]:
    """Each `fold` gets a state, the running sum of its period; a mean divides it at the end.

    Returns:
        The unit, the types, and for each sum the slow state at whose ticks it starts again.
    """
    types, sums, out, states, inputs = dict(types), {}, [], list(unit.states), list(unit.inputs)
    made: dict[tuple[Atom, int], str] = {}
    for e in unit.equations:
        if e.op != "fold":
            out.append(e)
            continue
        memory = e.attr("memory")
        key = e.args[0], clock[memory]
        if key not in made:
            name = made[key] = _free(f"{memory}_sum", types)
            types[name] = types[e.name]
            states.append(State(name, types[e.name], ("zeros",), e.span))
            sums[name] = memory
            out.append(Equation(name, "add", (Last(name, e.span), e.args[0]), e.span))
        name = made[key]
        total: Atom = Ref(name, e.span)
        if e.attr("over") == "mean":
            period = clocks[clock[memory]][0]
            if isinstance(period, str):
                if period not in types:
                    types[period] = Type("real")
                    inputs.append(Input(period, Type("real"), e.span))
                out.append(Equation(e.name, "div", (total, Ref(period)), e.span))
            else:
                out.append(Equation(e.name, "div", (total, Num(float(period))), e.span))
        else:
            out.append(Equation(e.name, "copy", (total,), e.span))
    return replace(unit, equations=tuple(out), states=tuple(states), inputs=tuple(inputs)), types, sums


def _free(base: str, taken: Collection[str]) -> str:
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}_{n}"
    return name


def _at_rest(unit: Unit, sums: Mapping[str, str], resting: set[str]) -> Unit:
    """The equations of a step in which some states keep their values; the sums of the others start again."""
    started = {n for n, memory in sums.items() if memory not in resting}
    renamed = {n: f"{n}.total" for n in started}

    def seen(a: Atom) -> Atom:
        if isinstance(a, Ref) and a.name in resting:
            return Last(a.name, a.span)
        return Ref(renamed[a.name], a.span) if isinstance(a, Ref) and a.name in renamed else a

    equations = []
    for e in unit.equations:
        if e.name in resting:
            continue
        e = replace(e, args=tuple(seen(a) for a in e.args))
        if e.name in started:
            equations.append(Equation(e.name, "copy", (Num(0.0),), e.span))
            e = replace(e, name=renamed[e.name])
        equations.append(e)
    return replace(unit, equations=tuple(equations))


def cache(unit: Unit, types: Types, clock: Mapping[str, int]) -> tuple[Unit, dict[str, int]]:
    """Results that slow states alone determine become slow states, where an operation on whole tensors stands behind them.

    Only where the first value is known: from constants, or the identity.

    Returns:
        The unit, and the clock of each new state.
    """
    old = {s.name: s for s in unit.states}
    clocked: dict[str, int] = dict(clock)  # of what one clock determines
    origin = {n: n for n in clock}
    heavy: set[str] = set()
    first: dict[str, Init] = {}
    for e in ordered(unit.equations):
        names = [a.name for a in e.args if isinstance(a, Ref)]
        if e.name in old or any(isinstance(a, Last) for a in e.args) or not names or e.op == "fold":
            continue
        found = {clocked.get(n) for n in names}
        if len(found) == 1 and None not in found:
            clocked[e.name] = found.pop() or 0
            origin[e.name] = origin[names[0]]
            whole = e.op not in ENTRYWISE | {"transpose"}
            if whole or any(n in heavy for n in names):
                heavy.add(e.name)
            value = _first(e.op, [_start(a, old, first) for a in e.args])
            if value is not None:
                first[e.name] = value
    between = {c: _behind_resting(unit, {n for n, other in clock.items() if other == c}) for c in set(clock.values())}
    outside: dict[str, None] = {}
    for e in unit.equations:
        wanted = [a.name for a in e.args if isinstance(a, Ref) and a.name in heavy]
        outside |= {n: None for n in wanted if e.name in between[clocked[n]] and clocked.get(e.name) is None}
    chosen = [n for n in outside if n in first]
    taken = {e.name for e in unit.equations} - set(chosen) | old.keys()
    kept: dict[str, str] = {}
    for n in chosen:
        kept[n] = _free(_label(n, origin[n]), taken | set(kept.values()))
    types |= {name: types[n] for n, name in kept.items()} | {f"{n}.next": types[n] for n in kept}
    span = {e.name: e.span for e in unit.equations}

    def seen(e: Equation, names: Mapping[str, str]) -> Equation:
        return replace(e, args=tuple(Ref(names.get(a.name, a.name), a.span) if isinstance(a, Ref) else a for a in e.args))

    inside = {n: f"{n}.next" for n in kept}
    equations = [replace(seen(e, inside), name=inside.get(e.name, e.name)) if e.name in clocked else seen(e, kept) for e in unit.equations]
    equations += [Equation(name, "copy", (Ref(inside[n], span[n]),), span[n]) for n, name in kept.items()]
    states = unit.states + tuple(State(name, types[name], first[n], span[n], None, 2) for n, name in kept.items())
    return replace(unit, equations=tuple(equations), states=states), {name: clocked[n] for n, name in kept.items()}


def _label(name: str, memory: str) -> str:
    """The name of a cached result: the one the author gave it, or that of the memory it is read from."""
    parts = [p for p in name.split(".") if not p.isdigit() and p not in ("w", "number", "next")]
    return f"w.{'_'.join(parts)}" if parts else f"{memory}_read"


def _behind_resting(unit: Unit, resting: set[str]) -> set[str]:
    """The equations that a step needs in which these states keep their values."""
    defined = {e.name: e for e in unit.equations}
    reached: set[str] = set()
    stack = [a.name for _, a in unit.outputs if isinstance(a, Ref)] + [s.name for s in unit.states]
    stack += [e.name for e in unit.equations if e.op == "fold"]
    while stack:
        name = stack.pop()
        if name in defined and name not in reached and name not in resting:
            reached.add(name)
            stack += [a.name for a in defined[name].args if isinstance(a, Ref)]
    return reached


def _start(a: Atom, states: Mapping[str, State], first: Mapping[str, Init]) -> Init | None:
    """The first value of an atom: a number in every entry, the identity `("eye",)`, or unknown."""
    if isinstance(a, Num):
        return constant_init(a.value)
    if a.name in states:
        init = states[a.name].init
        return init if init == ("eye",) else constant_init(init)
    return first.get(a.name)


def _first(op: str, args: list[Init | None]) -> Init | None:
    eye = ("eye",)
    match op, args:
        case ("transpose" | "bfloat16" | "eigenvectors", [("eye",)]) | ("matrix_power", [("eye",), _]) | ("matmul" | "solve", [("eye",), ("eye",)]):
            return eye
        case ("transpose" | "bfloat16" | "sqnorm" | "sum" | "mean" | "row_mean" | "column_mean", [0.0]):
            return 0.0
        case ("mul" | "div", [("eye",), 1.0]) | ("mul", [1.0, ("eye",)]):
            return eye
        case ("matmul" | "apply" | "outer" | "mul", _) if 0.0 in args:
            return 0.0
        case ("mul" | "div", [("eye",), float()]):
            return None
    numbers = [float(a) for a in args if isinstance(a, (int, float))]
    return fold(op, numbers) if len(numbers) == len(args) and op in ENTRYWISE else None


# --- one step ---------------------------------------------------------------------------------------------


def _tick(unit: Unit, types: Types) -> Tick:
    fixed = {s.name for s in unit.states}
    unit, types = _named_sizes(*simplify(unit, types, None, fixed))
    plain = plain_numbers(unit, types)
    sized = size_numbers(unit)
    conditions = tuple(dict.fromkeys(
        e.args[0].name for e in unit.equations
        if e.op == "where" and e.name not in plain and isinstance(e.args[0], Ref) and e.args[0].name in sized
    ))[:MAX_CONDITIONS]  # fmt: skip
    every = dict(types)
    lines: dict[tuple[bool, ...], tuple[Step, ...]] = {}
    used: dict[str, Equation] = {}
    for key in product((True, False), repeat=len(conditions)):
        one, own = unit, types
        if conditions:
            one, own = simplify(unit, types, {n: 1.0 if there else -1.0 for n, there in zip(conditions, key)}, fixed)
        every |= own
        lines[key] = straight_line(one, own)
        used |= {e.name: e for e in one.equations if e.name in plain_numbers(one, own, sizes=False)}
    return Tick(
        unit, every, tuple(ordered(used.values())),
        _behind(unit, conditions), conditions, lines,
    )  # fmt: skip


def _behind(unit: Unit, names: tuple[str, ...]) -> tuple[Equation, ...]:
    """The equations that some names need, in order."""
    defined = {e.name: e for e in unit.equations}
    reached: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name in defined and name not in reached:
            reached.add(name)
            stack += [a.name for a in defined[name].args if isinstance(a, Ref)]
    return tuple(e for e in ordered(unit.equations) if e.name in reached)


def _named_sizes(unit: Unit, types: Types) -> tuple[Unit, Types]:
    """Sizes that an operation on tensors reads get names, as numbers do."""
    types, out = dict(types), []
    made: dict[str, str] = {}
    for e in unit.equations:
        args: list[Atom] = []
        for a in e.args:
            if isinstance(a, Num) and isinstance(a.value, Dim) and a.value.constant is None and not is_number(types[e.name]):
                text = str(a.value)
                name = made.get(text)
                if name is None:
                    name = made[text] = f"size.{len(made) + 1}"
                    types[name] = Type("real")
                    out.append(Equation(name, "copy", (a,), e.span))
                args.append(Ref(name, a.span))
            else:
                args.append(a)
        out.append(replace(e, args=tuple(args)))
    return replace(unit, equations=tuple(out)), types


def arrays_read(steps: tuple[Step, ...]) -> Iterator[str]:
    """The names of states and inputs a line reads from memory."""
    for step in steps:
        atoms = step.reads if isinstance(step, Segment) else step.equation.args
        yield from (a.name for a in atoms if not isinstance(a, Num))


__all__ = ["Clock", "RulePlan", "Tick", "Variant", "plan_rule"]
