"""The plan of a unit: steps in order, and for every recurrence the best form that can be proven.

    closed   no write depends on the state: matmuls per chunk
    solve    writes are affine in what is read: the same and one triangular solve per chunk
    scan     a vector keeps a factor of itself, entry by entry: log-depth scan
    windows  no slow state changes inside a window: window by window, with forms of their own inside
    loop     nothing is known: one compiled tick after the other
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import networkx as nx

from nldsl.core import Atom, Equation, Last, Num, Ref, State, Type, Unit
from nldsl.diagnostics import NlError
from nldsl.lower.affine import Factor, Machine, NotLinear, Operator, alone, analyse
from nldsl.lower.asked import in_vain
from nldsl.lower.constants import fold_constants
from nldsl.lower.copies import name_outputs, remove_copies
from nldsl.lower.differentiate import prune
from nldsl.lower.ends import read_at_the_end
from nldsl.lower.explicit import explicit
from nldsl.lower.order import ordered
from nldsl.lower.precision import precise
from nldsl.lower.retention import in_unit_interval, log
from nldsl.lower.rewrite import Rewriter, retyped
from nldsl.lower.rounding import rounded
from nldsl.lower.scan import Scan, analyse_scan
from nldsl.lower.schedule import Recurrence, Step, schedule
from nldsl.lower.share import share_equal
from nldsl.lower.stagger import stagger, without_originals
from nldsl.lower.windows import Windows, cut


@dataclass(frozen=True)
class Retention:
    """The factor a state keeps of itself in a tick, as logs at most 0: a number, and one for each known-side channel."""

    number: Atom
    channels: Atom | None


@dataclass(frozen=True)
class Form:
    """How a recurrence runs.

    Attributes:
        name: closed, solve, scan or loop.
        why: what a better form would have needed, or that the schedule asks for this one.
        machine: of closed and solve.
        scan: of scan.
        retention: of each state of the machine.
        chunk: ticks a chunk; changes no result beyond rounding. `chunked`: the schedule asks for it.
        transposed: the unknown side of the writes is the key side, so the machine runs on transposed states.
        windows: of windows, with the steps of one and the forms of its recurrences. `recompute`: the reverse of a window starts
            by running it again, instead of from what was kept of it.
    """

    name: str
    why: str
    machine: Machine | None = None
    retention: Mapping[str, Retention] | None = None
    transposed: bool = False
    scan: Scan | None = None
    chunk: int = 1
    chunked: bool = False
    windows: Windows | None = None
    steps: tuple[Step, ...] = ()
    forms: Mapping[str, Form] = field(default_factory=dict)
    recompute: bool = False


@dataclass(frozen=True)
class Plan:
    """A unit ready to be emitted; `forms` belong to its recurrences, by their first state.

    `same` names, of each state that is a copy for later reads, the state it is a copy of: both have one value in a state dict.
    """

    unit: Unit
    types: dict[str, Type]
    steps: tuple[Step, ...]
    forms: dict[str, Form]
    same: Mapping[str, str] = field(default_factory=dict)


def plan(unit: Unit, types: Mapping[str, Type]) -> Plan:
    """Lower one unit; a plan is kept with its unit, as a cached property would be, and nobody changes it.

    Raises:
        NlError: NL601 for an objective that has no derivative, NL602 for an implicit step that cannot be solved, NL611 and NL612
            for what the unit's schedule asks in vain.
    """
    kept = vars(unit).get("plan")
    if kept is None or kept[0] is not types:
        kept = vars(unit)["plan"] = (types, _plan(unit, dict(types)))
    return kept[1]


def _plan(unit: Unit, types: dict[str, Type]) -> Plan:
    given = unit
    unit, types = explicit(unit, types)
    unit, types = name_outputs(fold_constants(unit, types), types)
    unit, types = _delays(share_equal(remove_copies(unit)), types)
    unit, types = name_outputs(fold_constants(unit, types), types)  # memories that are numbers are streams now
    unit, types, same = stagger(prune(unit), types, _parallel)
    unit, same = without_originals(unit, same)
    work = Rewriter(unit, types)
    states = {s.name: s for s in unit.states}
    forms: dict[str, Form] = {}
    needs: dict[str, set[str]] = {}
    for step in schedule(unit, types):
        if isinstance(step, Recurrence):
            forms[step.states[0]] = form = choose(work, step, states)
            needs[step.states[0]] = machine_inputs(form)
    unit, types = precise(*work.finish())
    kept = {n for names in needs.values() for n in names}
    unit = prune(replace(unit, outputs=(*unit.outputs, *((f"*{n}", Ref(n)) for n in sorted(kept)))))
    unit = replace(unit, outputs=tuple(o for o in unit.outputs if not o[0].startswith("*")))
    steps = schedule(unit, types, needs)
    for step in steps:
        if isinstance(step, Recurrence) and forms[step.states[0]].windows is not None:
            forms[step.states[0]] = _inside(unit, types, step, states, forms[step.states[0]])
    found = Plan(unit, types, steps, forms, same)
    refused = in_vain(given, types, [(s.states, forms[s.states[0]]) for s in steps if isinstance(s, Recurrence)])
    if refused:
        raise NlError(*refused)
    return found


def _parallel(unit: Unit, types: dict[str, Type], step: Recurrence) -> bool:
    """Whether a recurrence would be no loop."""
    return choose(Rewriter(unit, types), step, {s.name: s for s in unit.states}).name != "loop"


def choose(work: Rewriter, step: Recurrence, states: Mapping[str, State]) -> Form:
    """The best form of a recurrence whose obligations hold, unless the schedule asks for the loop, which has none."""
    equations = list(work.equations)
    found, loop = best(work, step, states), work.unit.schedule.loops(step.states)
    if loop is None or found.name == "loop":
        return found
    _forget(work, equations)
    return Form("loop", f"{loop.where}; the compiler would take `{found.name}`")


def _forget(work: Rewriter, equations: list[str]) -> None:
    """Take back all equations but these."""
    for name in set(work.equations) - set(equations):
        del work.equations[name]


def best(work: Rewriter, step: Recurrence, states: Mapping[str, State], streams: Collection[str] = ()) -> Form:
    """The best form of a recurrence whose obligations hold; `streams` are operators that stand at every tick."""
    equations = list(work.equations)
    try:
        _exact(work, step)
        if any(states[s].every > 1 or states[s].reset is not None for s in step.states):
            return _windows(work, step, states)
        for e in step.equations:
            alone(e)
        _copies_fit(work, step)
        if len(step.states) == 1 and (work.types[step.states[0]].kind == "real" or step.states[0] in streams):
            return Form("scan", "", scan=analyse_scan(work, list(step.equations), step.states[0]))
        if any(work.types[s].kind != "map" for s in step.states):
            raise NotLinear("a state that is not an operator", step.equations[0].span)
        machine = analyse(work, list(step.equations), step.states, step.outputs)
        if not machine.writes:
            raise NotLinear("nothing is written to it", step.equations[0].span)
        transposed = _orientation(machine)
        retention = {s: _retention(work, machine, s, transposed) for s in machine.states}
        _channels_fit(machine, transposed)
    except NotLinear as refused:
        _forget(work, equations)
        return Form("loop", f"{refused.why} ({refused.span.where})")
    asked = work.unit.schedule.asked("chunk", step.states)
    chunk = _chunk(machine, transposed) if asked is None else int(asked.value)
    if machine.unknown:
        why = "closed needs writes that do not depend on the state, and the objective reads it"
        return Form("solve", why, machine, retention, transposed, chunk=chunk, chunked=asked is not None)
    return Form("closed", "", machine, retention, transposed, chunk=chunk, chunked=asked is not None)


def _windows(work: Rewriter, step: Recurrence, states: Mapping[str, State]) -> Form:
    """Window by window, if everything inside a window has a parallel form.

    Raises:
        NotLinear: why not.
    """
    windows = cut(step, states, work.types)
    work.types |= {total: work.types[fold] for fold, total in windows.sums.items()}
    around, _ = work.finish()  # ranges of factors are known from the equations around the window
    unit, types, _ = stagger(windows.unit(work.unit, work.types), work.types, lambda made, types, s: _parallel(replace(around, states=made.states), types, s))
    work.types |= types
    fast = {s.name: s for s in unit.states}
    equations, streams = list(work.equations), frozenset[str]()
    while True:
        forms: dict[str, Form] = {}
        for inner in schedule(unit, work.types, streams=streams):
            if isinstance(inner, Recurrence):
                form = forms[inner.states[0]] = best(work, inner, fast, streams)
                if form.name == "loop":
                    break
        else:
            recompute = work.unit.schedule.asked("recompute", step.states) is not None
            made = _made(work, {e.name for e in unit.equations} - {*equations}, equations)
            return Form("windows", "", windows=replace(windows, streams=streams, made=made), forms=forms, recompute=recompute)
        # A window is short enough for operators that are more than read to stand at each of its ticks.
        _forget(work, equations)
        more = {e.name for e in inner.equations if work.types[e.name].kind == "map"} - streams
        if not more:
            raise NotLinear(f"in a window of {windows.ticks} ticks, {form.why.partition(' (')[0]}", inner.equations[0].span)
        streams |= more


def _made(work: Rewriter, known: set[str], before: Collection[str]) -> tuple[Equation, ...]:
    """Take out what was emitted since and is computed from names that are known inside a window only."""
    made: list[Equation] = []
    for e in ordered([e for n, e in work.equations.items() if n not in before]):
        if any(isinstance(a, Ref | Last) and a.name in known for a in e.args):
            known = known | {e.name}
            made.append(work.equations.pop(e.name))
    return tuple(made)


def _inside(unit: Unit, types: dict[str, Type], step: Recurrence, states: Mapping[str, State], found: Form) -> Form:
    """The form of a recurrence in windows, with all streams that its inner forms read."""
    forms = found.forms
    windows = cut(step, states, types, {n for form in forms.values() for n in machine_inputs(form)})
    inner, more, copies = stagger(windows.unit(unit, types), types, lambda made, types, s: forms.keys() >= set(s.states[:1]))
    types |= more
    assert found.windows is not None
    streams = found.windows.streams
    inner = replace(inner, equations=(*inner.equations, *found.windows.made))
    windows = replace(windows, inside=inner.equations, copies=copies, streams=streams)
    needs = {}
    for form in forms.values():
        members = {n for m in (form.machine, form.scan) if m is not None for n in ([m.state] if isinstance(m, Scan) else m.states)}
        first = next(e.name for e in inner.equations if e.name in members)
        needs[first] = machine_inputs(form)
    return replace(found, windows=windows, steps=schedule(inner, types, needs, streams))


def _copies_fit(work: Rewriter, step: Recurrence) -> None:
    """All states of a group come in the same copies, and nothing in it in others."""
    axes = {work.types[s].axes for s in step.states}
    for e in step.equations:
        if len(axes) > 1 or set(work.types[e.name].axes) - set(next(iter(axes))):
            raise NotLinear("copies of an `each` read a memory that is the same for all of them", e.span)


def _exact(work: Rewriter, step: Recurrence) -> None:
    """Other forms reassociate sums and products: with rounded values that gives other numbers."""
    names = rounded(*work.finish())
    for e in step.equations:
        if e.name in names or any(isinstance(a, Ref) and a.name in names for a in e.args):
            raise NotLinear("values rounded to bfloat16 take part in it", e.span)


def _chunk(machine: Machine, transposed: bool) -> int:
    """Ticks a chunk: 64, 32 where something is solved or retention is by channel, fewer with several unknowns a tick."""
    factors = [f for o in operators_of(machine) for _, f in o.terms]
    by_channel = any((f.values if transposed else f.keys) is not None for f in factors)
    size = 32 if machine.unknown or by_channel else 64
    while size > 4 and size * len(machine.unknown) > 64:
        size //= 2
    return size


def operators_of(machine: Machine) -> list[Operator]:
    return [*machine.next.values(), *(r.operator for r in machine.reads.values())]


def _orientation(machine: Machine) -> bool:
    """Whether the machine runs transposed: unknown sides must be the rows of the state, channels its columns."""
    sides = {w.unknown for w in machine.unknown}
    if len(sides) > 1:
        raise NotLinear("some writes depend on the state on their key side and some on their value side", machine.unknown[0].span)
    if sides:
        transposed = sides == {"right"}
        for write in machine.unknown:
            vector = write.right if transposed else write.left
            for name, _ in vector.reads:
                if machine.reads[name].operator.transposed != transposed:
                    raise NotLinear("a write depends on the state read from its other side", write.span)
        return transposed
    factors = [f for s in machine.states for _, f in machine.next[s].terms]
    return any(f.values is not None for f in factors) and not any(f.keys is not None for f in factors)


def _retention(work: Rewriter, machine: Machine, state: str, transposed: bool) -> Retention:
    factor = machine.next[state].get(state)
    if factor is None:
        return Retention(log(work, Num(0.0)), None)
    channels = factor.values if transposed else factor.keys
    span = next(iter(machine.writes), None)
    atoms = [factor.number, *([channels] if channels is not None else [])]
    if not in_unit_interval(work, *atoms):
        place = work.equations[state].span if span is None else span.span
        raise NotLinear("the retention is not proven to lie in [0, 1], so its logarithm may be above 0", place)
    return Retention(log(work, factor.number), None if channels is None else log(work, channels))


def _channels_fit(machine: Machine, transposed: bool) -> None:
    """Channel factors stand on the known side, and a group with them has one state."""

    def wrong(f: Factor) -> bool:
        return (f.keys if transposed else f.values) is not None

    def by_channel(f: Factor) -> bool:
        return (f.values if transposed else f.keys) is not None

    operators = operators_of(machine)
    span = machine.writes[0].span if machine.writes else next(iter(machine.reads.values())).span
    if any(wrong(f) for o in operators for _, f in o.terms):
        raise NotLinear("channels are scaled on the side that depends on the state", span)
    if len(machine.states) > 1 and any(by_channel(f) for o in operators for _, f in o.terms):
        raise NotLinear("a retention by channel in a learner with a memory of its own", span)
    asked = {name for vector in machine.vectors.values() for name, _ in vector.reads}
    across = [r for r in machine.reads.values() if r.name in asked and r.operator.transposed != transposed]
    if across and any(by_channel(f) for o in operators for _, f in o.terms):
        raise NotLinear("a retention by channel of the side that is read out", across[0].span)


def machine_inputs(form: Form) -> set[str]:
    """The streams a form reads besides those its equations do."""
    if form.windows is not None:
        return {n for inner in form.forms.values() for n in machine_inputs(inner)}
    if form.scan is not None:
        return {a.name for a in (form.scan.factor, form.scan.input) if isinstance(a, Ref)}
    if form.machine is None or form.retention is None:
        return set()
    atoms: list[Atom | None] = []
    for operator in operators_of(form.machine):
        for _, factor in operator.terms:
            atoms += [factor.number, factor.keys, factor.values]
    for write in form.machine.writes:
        for vector in (write.left, write.right):
            atoms += [vector.constant, *(c for _, c in vector.reads)]
    for vector in form.machine.vectors.values():
        atoms += [vector.constant, *(c for _, c in vector.reads)]
    for kept in form.retention.values():
        atoms += [kept.number, kept.channels]
    atoms += [r.probe for r in form.machine.reads.values()]
    return {a.name for a in atoms if isinstance(a, Ref)}


def _delays(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """Registers read from outside their cycle become streams.

    `last x` of a plain stream that starts as zero is `delay(x, 1)`, in windows too; of a state, it is a stream that its recurrence gives.
    """
    graph = nx.DiGraph()
    for e in unit.equations:
        graph.add_edges_from((a.name, e.name) for a in e.args if not isinstance(a, Num))
    operators = {s.name for s in unit.states if types[s.name].kind == "map"}
    for e in ordered(unit.equations):  # what makes or reads an operator of a memory is one recurrence with it
        read = [a.name for a in e.args if not isinstance(a, Num) and a.name in operators]
        graph.add_edges_from((e.name, name) for name in read)
        operators |= {e.name} if read and types[e.name].kind == "map" else set()
    component = {n: i for i, c in enumerate(nx.strongly_connected_components(graph)) for n in c}
    bases = {s.base for s in unit.states} | read_at_the_end(unit)
    # Within a period a slow state is a constant, so what feeds itself through one only is no register there.
    slow = {s.name for s in unit.states if s.every > 1}
    alone = {n for c in nx.strongly_connected_components(graph.subgraph(set(graph) - slow)) if len(c) == 1 for n in c}
    plain = {
        s.name for s in unit.states
        if s.name not in bases and types[s.name].kind != "map" and s.init == ("zeros",)
        and s.every == 1 and s.reset is None and s.learned is None and not graph.has_edge(s.name, s.name)
        and s.name in alone
    }  # fmt: skip
    work = Rewriter(unit, types)
    given = {f"{i.name}.{o}" for i in unit.instances for o in i.outputs}
    made: dict[str, Atom] = {}

    def seen(atom: Atom, reader: str) -> Atom:
        if not isinstance(atom, Last) or types[atom.name].kind == "map":
            return atom
        if atom.name not in plain and component.get(atom.name) == component[reader]:
            return atom
        if atom.name not in made:
            work.at(atom.span)
            # Not under the name of an instance, whose states are its own.
            name = work.fresh(f"last.{atom.name}" if atom.name in given else f"{atom.name}.last")
            made[atom.name] = work.define(name, "delay", (Ref(atom.name),), ticks=1) if atom.name in plain else work.define(name, "copy", (atom,))
        return made[atom.name]

    for e in unit.equations:
        args = tuple(seen(a, e.name) for a in e.args)
        if args != e.args:
            work.equations[e.name] = Equation(e.name, e.op, args, e.span, e.attrs)
    unit, types = work.finish()
    return retyped(replace(unit, states=tuple(s for s in unit.states if s.name not in plain)), types)
