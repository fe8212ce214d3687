"""Clocks: how often each stream changes, and what a slow memory may read.

A slow memory may be read at every tick: it holds. Its step, which happens once in N ticks, may use the gradients
folded over these ticks and what changes no faster than it does itself:

    memory S : d -> d every 4 { minimize E by gd(sigmoid(a(x))) }    refused: a(x) has a value each tick
    memory S : d -> d every 4 { minimize E by gd(0.1) }              accepted

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = "block b(d) { in x : real[d]  param a : d -> 1  k = unit(x)  memory S : d -> d every 4 { " \\
...        "minimize 0.5 * sqnorm(S(k) - x) over mean by gd(%s) }  out y = S(k) }"
>>> [d.code for d in check_source(Source("b.nl", text % "sigmoid(a(x))")).errors]
['NL304']
>>> check_source(Source("b.nl", text % "0.1")).errors
()
"""

from __future__ import annotations

from math import gcd

from nldsl.check.reading import Reading, shown
from nldsl.check.shapes import Types
from nldsl.core import Atom, Equation, Num, Ref, State, Unit
from nldsl.diagnostics import Diagnostic, Label

# (period, offset): the stream changes only at ticks t with (t + 1 - offset) mod period = 0; period 0: never.
Clock = tuple[int, int]
NEVER: Clock = (0, 0)
EACH_TICK: Clock = (1, 0)
OWN_PAST = frozenset({"count", "delay", "conv", "attend", "rope"})  # operations that change at every tick


def clocks(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL304 fast streams in slow steps, NL306 resets inside a period, NL403 resets to what does not fit."""
    reading, every = Reading.of(unit), stream_clocks(unit)
    found: list[Diagnostic] = []
    for state in unit.states:
        if state.every > 1 and not state.sampled and state.name in reading.equations:
            found += _fast_reads(reading, state, every, types)
        whole = reading.states[reading.starts.get(state.name, state.name)]
        if whole.reset is not None and whole.reset % state.every and whole.base not in reading.paced:
            found.append(_cut_short(state, whole))
        if state.base is not None and (wrong := _base(reading, state)) is not None:
            found.append(wrong)
    return found + [_unfinished(reading, e, fold) for e in unit.equations if (fold := _part_of_a_sum(reading, e)) is not None]


def stream_clocks(unit: Unit) -> dict[str, Clock]:
    """The clock of every stream of a unit."""
    reading = Reading.of(unit)
    clock: dict[str, Clock] = {p.name: NEVER for p in unit.params}
    clock |= {i.name: EACH_TICK for i in unit.inputs}
    clock |= {s.name: (s.every, s.offset) for s in unit.states}
    for name in _in_order(reading, set(clock)):
        equation = reading.equations.get(name)
        if equation is None or equation.op in OWN_PAST:
            clock[name] = (equation.attr("every", 1), equation.attr("offset", 0)) if equation is not None else EACH_TICK
        elif equation.op == "fold":
            clock[name] = clock.get(equation.attr("memory"), EACH_TICK)
        else:
            result = NEVER
            for atom in reading.atoms(name):
                result = join(result, NEVER if isinstance(atom, Num) else clock.get(atom.name, EACH_TICK))
            clock[name] = result
    return clock


def join(a: Clock, b: Clock) -> Clock:
    """The slowest clock that ticks whenever one of the two does."""
    if NEVER in (a, b):
        return b if a == NEVER else a
    period = gcd(a[0], b[0], abs(a[1] - b[1]))
    return (period, a[1] % period)


def as_slow(clock: Clock, state: State) -> bool:
    """Whether a stream changes only when the state's clock ticks."""
    return clock == NEVER or (clock[0] % state.every == 0 and (clock[1] - state.offset) % state.every == 0)


def _in_order(reading: Reading, known: set[str]) -> list[str]:
    """Equations and instance outputs, each after what it reads; names on a cycle come last."""
    order: dict[str, None] = {}
    for first in (*reading.equations, *reading.instances):
        stack, opened = [first], set()
        while stack:
            name = stack[-1]
            waiting = [a.name for a in reading.atoms(name) if not isinstance(a, Num)]
            waiting = [n for n in waiting if n not in known and n not in order and n not in opened]
            if name in order or name in known or not waiting or name in opened:
                stack.pop()
                if name not in known:
                    order.setdefault(name)
                continue
            opened.add(name)
            stack += waiting
    return list(order)


def _fast_reads(reading: Reading, state: State, clock: dict[str, Clock], types: Types) -> list[Diagnostic]:
    """The streams in the step of a slow memory that change faster, each named where the step takes it."""
    found, seen, stack = [], {state.name}, [state.name]
    while stack:
        reader = reading.equations[stack.pop()]
        for atom in reader.args:
            if isinstance(atom, Num) or as_slow(clock.get(atom.name, EACH_TICK), state) or atom.name in seen:
                continue
            seen.add(atom.name)
            if reader.op == "grad" and not atom.name.startswith(f"{state.name}."):  # of the memory that a rule trains
                found.append(_too_fast(reading, state, Ref(reader.name)))
            elif isinstance(atom, Ref) and _is_step(reading, state, atom, types):
                stack.append(atom.name)
            else:
                found.append(_too_fast(reading, state, atom))
    return found


def _is_step(reading: Reading, state: State, atom: Ref, types: Types) -> bool:
    """A part of the step's own arithmetic on the state: its cause lies further back."""
    equation = reading.equations.get(atom.name)
    same = atom.name in types and (types[atom.name].kind, types[atom.name].shape) == (state.type.kind, state.type.shape)
    return equation is not None and same and not shown(atom.name) and equation.op != "delay"


def _too_fast(reading: Reading, state: State, atom: Atom) -> Diagnostic:
    name = getattr(atom, "name", "")
    equation: Equation | None = reading.equations.get(name)
    span = equation.span if equation is not None else atom.span
    owner = reading.owner(state.name)
    update = owner is not None and not owner.steps
    return Diagnostic(
        "NL304",
        f"the step of `{state.name}` uses a stream that changes faster than it",
        (Label(span, "has a value each tick"), Label(state.span, f"`{state.name}` changes once in {state.every} ticks")),
        expected=f"a number, a param, or a stream that changes `{_clock_text(state)}`",
        found=f"`{span.text}`",
        help="update ... over last, which takes what there is at the end of each period" if update else
        "param rate : real = 0.1, then gd(rate); or let the memory change `every 1`",
    )


def _part_of_a_sum(reading: Reading, e: Equation) -> Equation | None:
    """The sum over a period that a stream reads at every tick, complete or not, and carries on."""
    state = reading.states.get(e.name)
    if state is None or state.every > 1 or state.sampled or reading.owner(e.name) is not None:
        return None
    before = (reading.equations.get(n) for n in sorted(reading.ancestors(e.name)))
    return next((f for f in before if f is not None and f.op == "fold"), None)


def _unfinished(reading: Reading, e: Equation, fold: Equation) -> Diagnostic:
    memory = reading.states[fold.attr("memory")]
    return Diagnostic(
        "NL304",
        f"a stream with a past of its own reads the gradients of `{memory.name}`, which are added up over a period",
        (Label(e.span, "has a value each tick"), Label(memory.span, f"`{memory.name}` changes once in {memory.every} ticks")),
        expected=f"a part of the step, which changes `{_clock_text(memory)}`",
        found=f"`{e.span.text}`",
        help="memory y : like(w) = zeros { update ... } in the rule",
    )


def _cut_short(state: State, whole: State) -> Diagnostic:
    """`whole` is the state itself, or the one of whose windows it is the start."""
    place = "one of its periods" if whole is state else f"a window of {state.every} ticks"
    what = f"`{whole.name}` falls inside {place}"
    return Diagnostic(
        "NL306",
        f"the reset of {what}",
        (Label(state.span),),
        expected=f"a multiple of {state.every} ticks between resets",
        found=f"reset every {whole.reset}",
        help=f"reset every {max(1, round((whole.reset or 1) / state.every)) * state.every}",
    )


def _base(reading: Reading, state: State) -> Diagnostic | None:
    """A state starts again from one like it, and in the end from a first value."""
    base = reading.states.get(state.base or "")
    if base is None:
        return None  # wrong itself, and reported
    if base.type != state.type:
        return Diagnostic("NL403", f"`{state.name}` cannot be reset to `{base.name}`", (Label(state.span), Label(base.span, str(base.type))),
                          expected=f"a memory of the type {state.type}", found=str(base.type))  # fmt: skip
    seen: dict[str, State] = {}
    while base is not None and base.name not in seen:
        seen[base.name] = base
        base = reading.states.get(base.base or "")
    if base is None or state.name not in seen or state.name != next(n for n in reading.states if n in seen):
        return None  # a circle is said at its first member
    others = (s for s in seen.values() if s is not state)
    return Diagnostic("NL403", f"the reset of `{state.name}` leads back to itself", (Label(state.span), *(Label(s.span) for s in others)),
                      expected="one of them with a first value of its own", found=" to ".join(f"`{n}`" for n in (state.name, *seen)))  # fmt: skip


def _clock_text(state: State) -> str:
    return f"every {state.every}" + (f" offset {state.offset}" if state.offset else "")
