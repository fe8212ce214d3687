"""Collects the core of one unit while its statements are elaborated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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

# A call of a block: the calls around it that are written out, and it; each by file, position, and how often it came by there.
Place = tuple[tuple[str, int, int], ...]


def read_by(e: Equation) -> list[Atom]:
    """What an equation reads, and what its objective does; of one that is a stream without a body yet, the stream."""
    objective = e.attr("objective")
    if objective is None:
        return list(e.args)
    return [*e.args, *(a for part in objective.equations for a in part.args), *(() if objective.equations else (objective.result,))]


class Skip(Exception):
    """The statement at hand has been reported; go on with the next."""


class TooLarge(Exception):
    """The unit is over its budget, which has been reported; leave it."""


@dataclass
class Evaluations:
    """The elaborations of one objective, for one state after another: what it declares, it declares at the first.

    Attributes:
        made: by place in the text, what was declared.
        formal, start: of the elaboration at hand, the variable it is a function of and where its equations begin.
        path: the calls being written out in it.
    """

    made: dict[Place, Any] = field(default_factory=dict)
    formal: str = ""
    start: int = 0
    path: Place = ()
    visits: dict[Place, int] = field(default_factory=dict)

    def visit(self, span: Span) -> Place:
        """A place in the text, and how often the elaboration at hand came by."""
        at = (*self.path, (span.source.name, span.start, 0))
        n = self.visits[at] = self.visits.get(at, -1) + 1
        return (*self.path, (span.source.name, span.start, n))


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
    judged: list[Instance] = field(default_factory=list)  # those an objective passes
    evaluations: Evaluations | None = None  # of the objective that is being elaborated
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

    def once(self, span: Span, make: Callable[[], str]) -> str:
        """The name of what `make` declares; in an objective, that of the first time."""
        if self.evaluations is None:
            return make()
        key = self.evaluations.visit(span)
        if key not in self.evaluations.made:
            self.evaluations.made[key] = make()
        return str(self.evaluations.made[key])

    def depends(self, atoms: Iterable[Any]) -> bool:
        """Whether atoms are computed from the variable of the objective that is being elaborated."""
        assert self.evaluations is not None
        since = {e.name: e for e in self.equations[self.evaluations.start :]}
        seen, stack = set[str](), [a.name for a in atoms if isinstance(a, Ref)]
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack += [a.name for a in since[name].args if isinstance(a, Ref)] if name in since else []
        return self.evaluations.formal in seen

    @contextmanager
    def objective(self, formal: str, state: str, span: Span, evaluations: Evaluations) -> Iterator[list[Any]]:
        """Equations emitted inside that depend on `formal`, which stands for `state`, become the objective's body, the rest stay.

        The caller appends nothing; on leaving, the yielded list's last item must be the result atom. Where calls of blocks are
        to be written out first, there is no body yet, and everything is a stream, so that their arguments have types.
        """
        start, first = len(self.equations), len(self.instances)
        box: list[Any] = []
        around, self.evaluations = self.evaluations, evaluations
        evaluations.formal, evaluations.start = formal, start
        evaluations.visits.clear()
        try:
            yield box
        finally:
            self.evaluations = around
        result = box.pop()
        emitted, depends, body, rest = self.equations[start:], {formal}, [], []
        for equation in emitted:
            if any(isinstance(a, Ref) and a.name in depends for a in read_by(equation)):
                depends.add(equation.name)
                body.append(equation)
            else:
                rest.append(equation)
        judged = [i for i in self.instances[first:] if any(isinstance(a, Ref) and a.name in depends for _, a in i.args)]
        self.judged += judged

        def seen(a: Atom) -> Atom:
            return Last(state, span) if isinstance(a, Ref) and a.name == formal else a

        if judged:
            body, rest = [], [replace(e, args=tuple(map(seen, e.args))) for e in emitted]
        self.equations[start:] = rest
        box.append(Objective(formal, tuple(body), result, span))
