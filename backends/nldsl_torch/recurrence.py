"""Functions of one recurrence: `tick` (one tick, any form), `loop` (tick after tick), `chunks` (closed and solve), `scan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nldsl.core import Atom, Equation, Last, Num, Ref, State, Type, Unit
from nldsl.lower.affine import Read, Vector
from nldsl.lower.numbers import number
from nldsl.lower.order import ordered
from nldsl.lower.plan import Form
from nldsl.lower.rounding import is_rounded, rounded
from nldsl.lower.schedule import Recurrence
from nldsl.vocabulary import KEEPING, WORDS
from nldsl_torch import ops
from nldsl_torch.body import CHUNK_LOCALS, Body, Names
from nldsl_torch.chunks import Chunks, stream_atoms
from nldsl_torch.keeping import Keeping, first_values


@dataclass(frozen=True)
class Function:
    """A generated function: what it reads from outside as core names (`streams` over time, `fixed` without), and gives."""

    name: str
    lines: list[str]
    streams: list[str]
    fixed: list[str]


def due(every: int, offset: int, done: str) -> str:
    """Whether a period ends after so many ticks."""
    return f"({done} - {offset}) % {every} == 0" if offset else f"{done} % {every} == 0"


class RecurrenceWriter:
    """Writes the functions of one recurrence of a unit."""

    def __init__(self, prefix: str, unit: Unit, types: Mapping[str, Type], static: set[str], step: Recurrence, form: Form, equation: list[str]):
        self.prefix, self.unit, self.types, self.static = prefix, unit, types, static
        self.step, self.form, self.equation = step, form, equation
        self.states: dict[str, State] = {s.name: s for s in unit.states if s.name in step.states}
        self.axes = max((types[s].axes for s in step.states), key=len)
        self.clocked = any(s.every > 1 or s.reset is not None for s in self.states.values())
        self.rounded = rounded(unit, types)
        self.folds = [e for e in step.equations if e.op == "fold"]
        self.kept = first_values(step.equations, types)

    # --- one tick --------------------------------------------------------------------------------

    def tick(self) -> Function:
        """tick(streams, fixed, [tick,] states) -> (outputs, states), at one tick: streams are [B, axes.., shape..]."""
        names = Names()
        equations = ordered(self.step.equations)
        body = Body(names, self.types, {p.name for p in self.unit.params}, equations, {*self.step.outputs, *self.states}, self.rounded)
        keeping = Keeping(body, {k: names.of(f"last {k}") for k in self.kept}, {k: names.of(k) for k in self.kept})
        for e in equations:
            if e.op == "fold":
                self._fold(body, e)
            elif e.op in KEEPING:
                keeping.write(e)
            elif e.name in self.states and self.states[e.name].every > 1:
                self._slow(body, e)
            elif e.name in self.states and is_rounded(e, self.rounded, self.types):
                text = body.expression(e)
                body.note(e.span)
                body.lines.append(f"{names.of(e.name)} = ({text}).to({body.text(Last(e.name))}.dtype)")
            elif e.name in self.states and (narrow := self.narrow(e)) is not None:
                body.note(e.span)
                body.lines.append(f"{names.of(e.name)} = {self.widened(body, e, narrow)}")
            else:
                body.equation(e)
        reads = [n for n in body.reads if not n.startswith("last ")]
        streams = [n for n in reads if n not in self.static]
        fixed = [n for n in reads if n in self.static]
        registers = [f"last {s}" for s in self.states]
        accumulators = [f"sum {e.name}" for e in self.folds]
        kept = [names.of(f"last {k}") for k in self.kept]
        args = [names.of(n) for n in (*streams, *fixed)] + (["tick"] if self.clocked else []) + [names.of(n) for n in (*registers, *accumulators)] + kept
        head = [f"def {self.prefix}_tick({', '.join(args)}):", f'    """One tick of {self._what()}."""']
        resets = self.resets(names)
        if resets:
            firsts = [names.of(f"first {s.name}") for s in self.states.values() if s.reset is not None and s.base is None]
            head[0] = head[0].replace("):", f", {', '.join(firsts)}):")
        gives = [names.of(o) for o in self.step.outputs]
        after = [names.of(s) for s in self.states] + [names.of(n) for n in (*accumulators, *self.kept)]
        lines = head + [f"    {line}" for line in [*resets, *body.lines]]
        lines.append(f"    return {_tuple(gives)}, {_tuple(after)}")
        return Function(f"{self.prefix}_tick", lines, streams, fixed)

    def put_back(self) -> list[State]:
        """The states that are reset, those that others go back to first."""
        waiting = [s for s in self.states.values() if s.reset is not None]
        found: list[State] = []
        while waiting:
            found.append(next(s for s in waiting if s.base not in {w.name for w in waiting}))
            waiting.remove(found[-1])
        return found

    def resets(self, names: Names) -> list[str]:
        """States put back where that is due, those that others go back to first."""
        lines: list[str] = []
        for s in self.put_back():
            start = names.of(f"first {s.name}") if s.base is None else names.of(f"last {s.base}") + (".detach()" if s.detached else "")
            lines += [f"if tick % {s.reset} == 0:", f"    {names.of(f'last {s.name}')} = {start}"]
        return lines

    def narrow(self, e: Equation) -> Type | None:
        """The type of what a state becomes, where that is the same for several copies, or for all sequences."""
        given = WORDS[e.op].rule([Type("real") if isinstance(a, Num) else self.types[a.name] for a in e.args], dict(e.attrs))
        alike = all(isinstance(a, Num) or (isinstance(a, Ref) and a.name in self.static) for a in e.args)
        return given if alike or given.axes != self.types[e.name].axes else None

    def widened(self, body: Body, e: Equation, narrow: Type) -> str:
        """A value for all copies of a state, of each sequence."""
        if e.op == "copy" and isinstance(e.args[0], Num):
            return f"torch.full_like({body.text(Last(e.name))}, {body.text(e.args[0])})"
        text = ops.align(f"({body.express(e, narrow)})", narrow, self.types[e.name])
        return f"{text}.expand_as({body.text(Last(e.name))})"

    def _what(self) -> str:
        states = ", ".join(self.states)
        return f"{states}: {self.form.name} form" + (f"; {self.form.why}" if self.form.name == "loop" else "")

    def _fold(self, body: Body, e: Equation) -> None:
        """The sum over the period so far; cleared when the memory has been updated."""
        memory = self.states[e.attr("memory")]
        total, name = body.names.of(f"sum {e.name}"), body.names.of(e.name)
        body.note(e.span)
        body.lines.append(f"{total} = {total} + {body.text(e.args[0])}")
        body.lines.append(f"{name} = {total}" + (f" / {memory.every}" if e.attr("over") == "mean" else ""))
        body.lines.append(f"if {due(memory.every, memory.offset, '(tick + 1)')}:")
        body.lines.append(f"    {total} = torch.zeros_like({total})")

    def _slow(self, body: Body, e: Equation) -> None:
        state, name = self.states[e.name], body.names.of(e.name)
        narrow = self.narrow(e)
        text = body.expression(e) if narrow is None else self.widened(body, e, narrow)
        if is_rounded(e, self.rounded, self.types):
            text = f"({text}).to({body.text(Last(e.name))}.dtype)"
        body.note(e.span)
        body.lines.append(f"{name} = {text} if {due(state.every, state.offset, '(tick + 1)')} else {body.text(Last(e.name))}")

    # --- all ticks -------------------------------------------------------------------------------

    def chunks(self) -> tuple[list[str], list[Ref], list[Ref], list[str]]:
        """(lines, vector streams, number streams, reads returned) of `chunks(streams, s)` for closed and solve."""
        assert self.form.machine is not None
        names = Names(reserved=CHUNK_LOCALS)
        reads = self._output_reads()
        vectors, scalars = stream_atoms(self.form, reads)
        some = names.of(vectors[0].name)

        def vector(atom: Atom) -> str:
            assert isinstance(atom, Ref), atom
            return names.of(atom.name)

        def scalar(atom: Atom) -> str:
            return f"(valid * {number(atom)!r})" if isinstance(atom, Num) else names.of(atom.name)

        state = self.types[self.form.machine.states[0]]
        dk = ops.literal(state.codomain if self.form.transposed else state.domain)
        work = Chunks(self.form, vector, scalar, dk, reads)
        body = work.write()
        args = [names.of(a.name) for a in (*vectors, *scalars)]
        lines = [f"def {self.prefix}_chunks({', '.join(args)}, s, C={self.form.chunk}):",
                 f'    """{self._what()}, by chunks of C ticks: streams [B, axes.., T, d] and [B, axes.., T]."""']
        lines += [f"    # {n.span.where}  {n.span.source.line(n.span.line).strip()}" for n in self._sources()]
        lines += [f"    #   {text}" for text in self.equation]
        lines.append(f"    T = {some}.shape[-2]")
        lines += [f"    {names.of(a.name)} = chunk({names.of(a.name)}, C)" for a in vectors]
        lines += [f"    {names.of(a.name)} = chunk({names.of(a.name)}, C, -1)" for a in scalars]
        if any("valid" in line for line in body):
            lines.append(f"    valid = chunk({some}.new_ones(T), C, -1).expand({some}.shape[:-1])")
        lines += [f"    {line}" for line in body]
        # A state that nothing reads on the way gives reads of width 0.
        whole = "torch.cat([unchunk(x, T) for x in reads], -1)" if reads else "s.new_zeros(*s.shape[:-2], T, 0)"
        lines.append(f"    return {whole}, s")
        return lines, vectors, scalars, [r.name for r in reads]

    def _sources(self) -> list[Equation]:
        """One equation of each `.nl` line the machine comes from."""
        seen: dict[tuple[str, int], Equation] = {}
        for e in self.step.equations:
            seen.setdefault((e.span.source.name, e.span.line), e)
        return [seen[key] for key in sorted(seen)]

    def _output_reads(self) -> list[Read]:
        assert self.form.machine is not None
        wanted: dict[str, None] = {}
        for vector in self.form.machine.vectors.values():
            wanted.update({name: None for name, _ in vector.reads})
        return [self.form.machine.reads[name] for name in wanted]


def affine_text(vector: Vector, read: Callable[[str], str], aligned: Callable[[Atom], str]) -> str:
    """A sum of read-outs with factors and of what does not depend on the state; `aligned` lays a stream out like the sum."""
    terms = []
    for name, coefficient in vector.reads:
        scale = number(coefficient)
        factor = f" * {aligned(coefficient)}" if scale is None else f" * {scale!r}" if scale != 1.0 else ""
        terms.append(read(name) + factor)
    return " + ".join(terms + ([aligned(vector.constant)] if vector.constant is not None else []))


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
