"""A recurrence with slow states cut in windows: within one, no slow state changes, so each is a constant of the window.

What is left of the recurrence inside a window is scheduled anew: most of it has become maps, and the fast states that
remain are recurrences of their own with forms of their own. What the slow states become is computed at a window's last tick.

    M every tick:  M' = a M - e grad(at = A)      A every 16:  A' = M
    in a window:   grad(at = A) is a map, M is `closed`; at its end A becomes M

That is mini-batch descent (TTT), Titans' chunks, continuum memories and resets alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import gcd

from nldsl.core import Atom, Equation, Last, Num, Ref, State, Type, Unit
from nldsl.lower.affine import NotLinear
from nldsl.lower.order import ordered
from nldsl.lower.schedule import Recurrence
from nldsl.vocabulary import KEEPING


@dataclass(frozen=True)
class Windows:
    """The equations of a recurrence by the part of a window in which they run.

    Attributes:
        ticks, phase: windows end after ticks phase, phase + ticks, ...
        inside: for all ticks of a window at once, with the sums of gradients as states.
        end: at the last tick, what slow states need of it beyond the streams of `inside`.
        late: for all ticks, what reads a slow state after its step.
        slow, fast: states; `fast` with the sums.
        sums: of each fold, the name of its sum.
        outputs: what is read outside the recurrence.
        copies: states that are copies of fast ones for later reads, and of which (see `stagger`).
        streams: operators that stand at every tick, as other values do.
        made: what the forms inside compute from copies, which are known inside only.
    """

    ticks: int
    phase: int
    inside: tuple[Equation, ...]
    end: tuple[Equation, ...]
    late: tuple[Equation, ...]
    slow: tuple[State, ...]
    fast: tuple[State, ...]
    sums: Mapping[str, str]
    outputs: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)
    streams: frozenset[str] = frozenset()
    made: tuple[Equation, ...] = ()

    def unit(self, whole: Unit, types: Mapping[str, Type]) -> Unit:
        """The inside as a unit of its own: slow states and everything from outside the recurrence are what they are."""
        made = {e.name for e in self.inside}
        readers = [a for e in (*self.end, *self.late) for a in e.args] + [Ref(n) for n in self.outputs]
        wanted = {a.name for a in readers if isinstance(a, Ref) and a.name in made and types[a.name].kind != "map"}
        states = tuple(replace(s, every=1, offset=0, reset=None, base=None) for s in self.fast)
        return replace(whole, equations=self.inside, states=states, instances=(), outputs=tuple((n, Ref(n)) for n in sorted(wanted)))


def cut(step: Recurrence, states: Mapping[str, State], types: Mapping[str, Type], read: Collection[str] = ()) -> Windows:
    """Cut a recurrence in windows; `read` are streams that the forms inside a window read besides those its equations do.

    Raises:
        NotLinear: why it cannot be cut.
    """
    own = [states[s] for s in step.states]
    clocked = [s for s in own if s.every > 1 or s.reset is not None]
    ticks, phase = _common(clocked)
    if ticks == 1:
        raise NotLinear("its clocks have no window in common", _span(step, clocked[0].name))
    slow = {s.name for s in own if s.every > 1}
    equations = {e.name: e for e in step.equations}
    folds = [e for e in step.equations if e.op == "fold"]
    wanted = [s.name for s in own if s.name not in slow] + [a.name for e in folds for a in e.args if isinstance(a, Ref)]
    wanted += [e.name for e in step.equations if e.op in KEEPING]  # they have to see every tick
    targets = [*(n for n in step.outputs if n not in slow), *(n for n in read if n in equations)]
    within = _closure(equations, [*wanted, *targets], slow | {e.name for e in folds})
    late = _after(equations, within, slow | {e.name for e in folds})
    for name in _closure(equations, wanted, slow):
        if name in late:
            raise NotLinear("within a period it reads what a slow memory becomes at the end", late[name].span)
    fast = {s.name for s in own} - slow
    inside = [e for e in step.equations if e.name in within and e.name not in late and e.op != "fold"]
    for e in late.values():
        operators = [a.name for a in e.args if isinstance(a, Ref) and a.name in equations and types[a.name].kind == "map"]
        if types[e.name].kind == "map" or any(n not in slow for n in operators) or any(isinstance(a, Last) and a.name in fast for a in e.args):
            raise NotLinear("what reads a slow memory after its step also reads a fast one", e.span)
    end = _end(equations, slow, {e.name for e in inside if types[e.name].kind != "map"}, fast)
    sums, extra, kept = {}, [], []
    for e in folds:
        name = f"{e.name}:sum"
        sums[e.name] = name
        extra.append(Equation(name, "add", (Last(name), e.args[0]), e.span))
        kept.append(State(name, types[e.name], ("zeros",), e.span))
    return Windows(
        ticks, phase, (*inside, *extra), tuple(end), tuple(e for e in ordered(late.values())),
        tuple(s for s in own if s.name in slow), (*(s for s in own if s.name in fast), *kept), sums, step.outputs,
    )  # fmt: skip


def _common(clocked: list[State]) -> tuple[int, int]:
    """The longest window that ends at every tick of every clock and at every reset, and where the first one ends."""
    marks = [(s.every, s.offset) for s in clocked if s.every > 1] + [(s.reset, 0) for s in clocked if s.reset is not None]
    first = marks[0][1]
    ticks = gcd(*(n for n, _ in marks), *(abs(offset - first) for _, offset in marks))
    return ticks, first % ticks


def _closure(equations: Mapping[str, Equation], names: list[str], stop: set[str]) -> set[str]:
    """Names and all they are computed from within this tick, in this recurrence; what `stop` holds is not looked into."""
    found: set[str] = set()
    stack = [n for n in names if n in equations]
    while stack:
        name = stack.pop()
        if name in found:
            continue
        found.add(name)
        stack += [a.name for a in equations[name].args if isinstance(a, Ref) and a.name in equations and a.name not in stop]
    return found


def _after(equations: Mapping[str, Equation], within: set[str], slow: set[str]) -> dict[str, Equation]:
    """Those that read a slow state, or a gradient folded for one, after this tick."""
    late: dict[str, Equation] = {}
    for e in ordered(e for e in equations.values() if e.name in within):
        if any(isinstance(a, Ref) and (a.name in slow or a.name in late) for a in e.args):
            late[e.name] = e
    return late


def _end(equations: Mapping[str, Equation], slow: set[str], streams: set[str], fast: set[str]) -> list[Equation]:
    """What leads to the next values of slow states from streams and from fast states after the last tick."""
    found: dict[str, Equation] = {}
    stack = sorted(s for s in slow if s in equations)
    while stack:
        name = stack.pop()
        if name in found:
            continue
        e = found[name] = equations[name]
        for a in e.args:
            if isinstance(a, Last) and a.name in fast:
                raise NotLinear("a slow memory reads what a fast one was before the tick", e.span)
            if isinstance(a, Ref) and a.name in equations and a.name not in streams | fast and e.op != "fold":
                stack.append(a.name)
    return ordered(found.values())


def _span(step: Recurrence, name: str):  # type: ignore[no-untyped-def]
    return next((e.span for e in step.equations if e.name == name), step.equations[0].span)


def held(windows: Windows, outside: set[str]) -> set[str]:
    """Equations of `inside` that are the same at every tick of a window: computed from slow states and from what never changes.

    `outside` are names that do not change over time.
    """
    same = set(outside)
    fast = {s.name for s in windows.fast} | windows.copies.keys()
    for e in ordered(windows.inside):
        read = e.args[:1] if e.op == "unflatten" else e.args  # of the other one it has the shape
        if e.name not in fast and e.op not in KEEPING and all(_same(a, same, fast) for a in read):
            same.add(e.name)
    return {e.name for e in windows.inside if e.name in same}


def _same(a: Atom, same: set[str], fast: set[str]) -> bool:
    return isinstance(a, Num) or (isinstance(a, Last) and a.name not in fast) or (isinstance(a, Ref) and a.name in same)
