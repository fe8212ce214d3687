"""Collects the core of one unit while its statements are elaborated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from nldsl.core import Atom, Equation, Input, Instance, Last, Memory, Num, Objective, Param, Ref, State, Type
from nldsl.diagnostics import Diagnostic, Label
from nldsl.dims import Dim
from nldsl.elaborate.scope import Sizes
from nldsl.names import identifier
from nldsl.source import Span

BUDGET = 20_000  # equations of one unit
MAX_DEPTH = 32  # blocks in blocks


class Skip(Exception):
    """The statement at hand has been reported; go on with the next."""


class TooLarge(Exception):
    """The unit is over its budget, which has been reported; leave it."""


@dataclass
class Builder:
    """The growing unit. `report` takes a diagnostic and goes on, `fail` takes one and leaves the statement."""

    sizes: Sizes
    inputs: list[Input] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    outputs: list[tuple[str, Atom]] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)  # the number last tried for a hint
    numbers_given: frozenset[str] = frozenset()  # inputs that have one value when a state is made
    counters: dict[str, str] = field(default_factory=dict)  # the states that count the steps of a memory
    copies: int = 0  # of `for`, `chain` and `sum`
    read: set[str] = field(default_factory=set)  # declared names some expression mentions

    def report(self, code: str, message: str, span: Span, *because: Label, **more: str | None) -> None:
        text = more.pop("label", None) or ""
        self.diagnostics.append(Diagnostic(code, message, (Label(span, text), *because), **more))

    def fail(self, code: str, message: str, span: Span, *because: Label, **more: str | None) -> Skip:
        self.report(code, message, span, *because, **more)
        return Skip()

    def fresh(self, hint: str) -> str:
        """A name nobody has, in the core and in generated code: the hint itself, or the hint with a number."""
        n = self.numbers.get(hint, 0)
        name = f"{hint}.{n}" if n else hint
        while identifier(name) in self.used:
            n += 1
            name = f"{hint}.{n}"
        self.numbers[hint] = n
        self.used.add(identifier(name))
        return name

    def emit(
        self, op: str, args: tuple[Atom, ...], span: Span, name: str | None = None, hint: str = "t", **attrs: Any
    ) -> Ref:
        """Add the equation `name = op(args)`; without a name, one is made from the hint."""
        if len(self.equations) > BUDGET:
            raise self._too_large("this unrolls to too many equations", span)
        name = name if name is not None else self.fresh(f"{hint}.1" if identifier(hint) in self.used else hint)
        self.equations.append(Equation(name, op, args, span, tuple(attrs.items())))
        return Ref(name, span)

    def apart(self, name: str) -> None:
        """What a memory becomes has the memory's clock: where that looks at other ticks, it is a stream of its own, of all ticks."""
        at = next(n for n, e in enumerate(self.equations) if e.name == name)
        e = self.equations[at]
        if e.op in ("delay", "conv", "rope", "attend"):
            stream = replace(e, name=self.fresh(f"{name}.{e.op}"))
            self.equations[at : at + 1] = [stream, Equation(name, "copy", (Ref(stream.name, e.span),), e.span)]

    def _too_large(self, message: str, span: Span) -> TooLarge:
        self.report("NL003", message, span, expected=f"at most {BUDGET} a block", found="more")
        return TooLarge()

    def mark(self) -> tuple[int, set[str], dict[str, int]]:
        """A place to go back to."""
        return len(self.equations), set(self.used), dict(self.numbers)

    def back_to(self, mark: tuple[int, set[str], dict[str, int]]) -> None:
        """Forget the equations emitted and the names given since a mark."""
        del self.equations[mark[0] :]
        self.used, self.numbers = mark[1], mark[2]

    def unroll(self, copies: int, span: Span) -> None:
        """Count the copies that a `for`, `chain` or `sum` makes."""
        self.copies += copies
        if self.copies > BUDGET:
            raise self._too_large("this unrolls to too many copies", span)

    def steps(self, memory: str, every: int, offset: int, span: Span) -> Ref:
        """The number of steps that a memory has taken: a state of its learner."""
        found = self.counters.get(memory)
        if found is None:
            found = self.counters[memory] = self.fresh(f"{memory}.count")
            self.states.append(State(found, Type("real"), ("zeros",), span, every=every, offset=offset, flush="apply"))
            self.memories.append(Memory(found, found, memory, None, None, None, (), None, (), span))
            self.emit("add", (Last(found, span), Num(Dim.of(1))), span, found)
        return Ref(found, span)

    def alias(self, atom: Atom, span: Span, name: str) -> Ref:
        """Make `name` stand for an atom that already has a name of its own."""
        return self.emit("copy", (atom,), span, name)

    @contextmanager
    def objective(self, formal: str, span: Span) -> Iterator[list[Any]]:
        """Equations emitted inside that depend on `formal` become the objective's body, the rest stay.

        The caller appends nothing; on leaving, the yielded list's last item must be the result atom.
        """
        start = len(self.equations)
        box: list[Any] = []
        yield box
        result = box.pop()
        emitted, depends, body, rest = self.equations[start:], {formal}, [], []
        for equation in emitted:
            if any(isinstance(a, Ref) and a.name in depends for a in equation.args):
                depends.add(equation.name)
                body.append(equation)
            else:
                rest.append(equation)
        self.equations[start:] = rest
        box.append(Objective(formal, tuple(body), result, span))
