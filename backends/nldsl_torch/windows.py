"""Functions of a recurrence in windows: `window` (the ticks of one), `end` (what slow states become), `late` (reads after that).

Inside a window time is one more axis of every stream, the innermost: [B, axes.., ticks, shape..]. Slow states have none,
so an operator among them is applied to all ticks by one matrix product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from nldsl.core import Atom, Axis, Equation, Last, Num, Ref, Type
from nldsl.dims import Dim
from nldsl.lower.numbers import number
from nldsl.lower.plan import Form, machine_inputs, operators_of
from nldsl.lower.scan import Scan
from nldsl.lower.schedule import Recurrence, Region
from nldsl.lower.windows import Windows, held
from nldsl_torch import ops
from nldsl_torch.body import Body, Names
from nldsl_torch.recurrence import Function, RecurrenceWriter
from nldsl_torch.window_kernels import WindowKernels

TIME = Axis("ticks", Dim.symbol("ticks"), 1 << 30)
WIDEST = 256  # ticks of a window that one matrix of all pairs of ticks may serve


class WindowWriter(RecurrenceWriter):
    """Writes the functions of one recurrence in windows."""

    def window(self) -> tuple[Function, list[str], list[str]]:
        """`window(streams, fixed, tick, states, sums, first) -> (outputs, states)`, further functions, and states in order."""
        assert self.form.windows is not None
        self.cut: Windows = self.form.windows
        self.also: list[str] = []
        self.known: dict[str, str] = {}  # expressions of the kernels, by text
        self.ahead: list[str] = []  # lines that need no state
        self.free: dict[str, None] = {}  # names of what needs no state: streams from outside, and what `ahead` gives
        self.names = Names()
        self.same = held(self.cut, self.types, self.static)
        self.inner = {e.name for e in self.cut.inside}
        self.wide = {n: t if n in self.same or n in self.static else self._timed(t) for n, t in self.types.items()}
        self.wide |= {s.name: self.types[s.name] for s in (*self.cut.slow, *self.cut.fast) if self.types[s.name].kind == "map"}
        self.wide |= {s.name: self.types[s.name] for s in self.cut.slow}
        self.body = Body(self.names, self.wide, {p.name for p in self.unit.params}, self.cut.inside, self._kept(), self.rounded)
        for step in self.form.steps:
            if isinstance(step, Region):
                for e in step.equations:
                    self.body.equation(e)
            elif isinstance(step, Recurrence):
                self._recurrent(step, self.form.forms[step.states[0]])
        late = self._late()
        end = self._end()
        return self._assemble(late, end)

    def _timed(self, t: Type) -> Type:
        return replace(t, axes=(*t.axes, TIME)) if TIME not in t.axes else t

    def _kept(self) -> set[str]:
        """Names that something besides an equation of the inside reads."""
        wanted = {n for form in self.form.forms.values() for n in machine_inputs(form)} | set(self.step.outputs)
        wanted |= {a.name for e in (*self.cut.end, *self.cut.late) for a in e.args if isinstance(a, Ref)}
        for step in self.form.steps:
            if isinstance(step, Recurrence):
                wanted |= {a.name for e in step.equations for a in e.args if isinstance(a, Ref)}
        return wanted

    # --- recurrences inside a window ---------------------------------------------------------------

    def _recurrent(self, step: Recurrence, form: Form) -> None:
        self.axes_in = max((self.types[s].axes for s in step.states), key=len)
        self.body.note(next((e.span for e in step.equations), self.step.equations[0].span))
        if form.scan is not None:
            self._scan(step, form.scan)
        elif form.name == "closed" and (self.cut.ticks <= WIDEST or not step.outputs) and not _by_channel(form):
            WindowKernels(form, self._vector, self._scalar, "", [], window=self).closed(step.outputs)
        else:
            self._chunks(step, form)

    def once(self, text: str, hint: str) -> str:
        """A name for an expression, which is computed once; ahead, where it needs no state."""
        if text.isidentifier():
            return text
        if text not in self.known:
            name = self.known[text] = self.names.of(f"{hint} {len(self.known)}")
            local = set(re.findall(r"[A-Za-z_]\w*", text)) & (set(self.names.taken.values()) - {name})
            streams = {self.names.of(r) for r in self.body.reads if not r.startswith("last ") and r not in self.static}
            if local and local <= streams | self.free.keys():
                self.ahead.append(f"{name} = {text}")
                self.free |= dict.fromkeys([*(local & streams), name])
            else:
                self.body.lines.append(f"{name} = {text}")
        return self.known[text]

    def full(self, text: str, given: Type, shape: tuple[Dim, ...], spread: bool = False) -> str:
        """A stream with all axes and ticks; `spread` also where it is the same along some of them."""
        wanted = Type("real", shape, (*self.axes_in, TIME))
        aligned = ops.align(text, given, wanted)
        if spread or TIME not in given.axes:
            return f"spread({aligned}, {self._lead()})"
        return aligned

    def _lead(self) -> str:
        return f"(B, {''.join(f'{ops.literal(a.size)}, ' for a in self.axes_in)}n_)"

    def given(self, atom: Atom) -> Type:
        assert not isinstance(atom, Num)
        return self.wide[atom.name]

    def _vector(self, atom: Atom) -> str:
        t = self.given(atom)
        return self.full(self.body.text(atom), t, t.shape)

    def _scalar(self, atom: Atom) -> str:
        if isinstance(atom, Num):
            some = next((self.names.of(r) for r in self.body.reads if not r.startswith("last ") and r not in self.static), None)
            some = some or self.body.text(Last(next(iter(self.states))))
            return f"{some}.new_full((B, {'1, ' * len(self.axes_in)}n_), {number(atom)!r})"
        return ops.align(self.body.text(atom), self.given(atom), Type("real", (), (*self.axes_in, TIME)))

    def affine(self, name: str, vector, reads: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
        """`name` as a sum of read-outs with factors and of what does not depend on the state."""
        terms = []
        shape = self.types[name].shape
        for r, coefficient in vector.reads:
            scale = number(coefficient)
            text = reads[r]
            if scale is None:
                factor = ops.align(self.body.text(coefficient), self.given(coefficient), Type("real", shape, (*self.axes_in, TIME)))
                text += f" * {factor}"
            elif scale != 1.0:
                text += f" * {scale!r}"
            terms.append(text)
        if vector.constant is not None:
            terms.append(ops.align(self.body.text(vector.constant), self.given(vector.constant), Type("real", shape, (*self.axes_in, TIME))))
        self.body.lines.append(f"{self.names.of(name)} = {' + '.join(terms)}")

    def _scan(self, step: Recurrence, scan: Scan) -> None:
        state = self.types[scan.state]
        dim = 1 + len(state.axes)
        factor, given = (
            ops.literal(a.value) if isinstance(a, Num) else f"{self.full(self.body.text(a), self.given(a), state.shape, True)}.movedim({dim}, 1)"
            for a in (scan.factor, scan.input)
        )
        now, before = self.names.of(scan.state), self.names.of(f"last {scan.state}")
        self.body.reads[f"last {scan.state}"] = None
        self.body.lines.append(f"{now}, {before} = (x.movedim(1, {dim}) for x in linear_scan({factor}, {given}, {before}, n_))")
        for e in (e for e in step.equations if e.name != scan.state):
            self.body.equation(e)
        self.body.lines.append(f"{self.final(scan.state)} = {now}.select({dim}, -1)")

    def final(self, state: str) -> str:
        """The name of a fast state after the last tick."""
        return self.names.of(f"final {state}")

    def _chunks(self, step: Recurrence, form: Form) -> None:
        assert form.machine is not None
        machine = form.machine
        size = min(form.chunk, self.cut.ticks)
        prefix = f"{self.prefix}_{self.names.of(f'part {machine.states[0]}')}"
        writer = RecurrenceWriter(prefix, self.unit, self.types, self.static, step, replace(form, chunk=size), [])
        lines, vectors, scalars, reads = writer.chunks()
        self.also += [*lines, "", ""]
        packed = [self.full(self.body.text(a), self.given(a), self.types[a.name].shape, True) for a in (*vectors, *scalars)]
        turn = ".mT" if form.transposed else ""
        sides = [f"{self.body.text(Last(s))}{turn}" for s in machine.states]
        joined = sides[0] if len(sides) == 1 else f"torch.cat([{', '.join(sides)}], -1)"
        say = self.body.lines.append
        say(f"reads, s = segments({prefix}_chunks, [{', '.join(packed)}], {joined}, {1 + len(self.axes_in)}, {size})")
        if len(machine.states) == 1:
            say(f"{self.final(machine.states[0])} = s{turn}")
        else:
            say(f"{', '.join(map(self.final, machine.states))} = (x{turn} for x in s.chunk({len(machine.states)}, -1))")
        sizes = [ops.literal(self.types[r].shape[0]) for r in reads]
        found = {r: self.names.of(f"read {r}") for r in reads}
        if found:
            say(f"{', '.join(found.values())}{',' if len(found) == 1 else ''} = reads.split([{', '.join(sizes)}], -1)")
        for output in step.outputs:
            self.affine(output, machine.vectors[output], found)

    # --- the end of a window -----------------------------------------------------------------------

    def _part(self, name: str, equations: Iterable[Equation], types, outputs: set[str]) -> tuple[Body, Names]:  # type: ignore[no-untyped-def]
        names = Names()
        return Body(names, types, {p.name for p in self.unit.params}, list(equations), outputs, self.rounded), names

    def _end(self) -> tuple[list[str], Body]:
        """`end(..) -> slow states`: at one tick, streams without the axis of ticks."""
        slow = {s.name: s for s in self.cut.slow}
        several = len({(s.every, s.offset) for s in self.cut.slow}) > 1
        body, names = self._part("end", self.cut.end, self.types, set(slow))
        for e in self.cut.end:
            if e.op == "fold":
                memory = slow[e.attr("memory")]
                total = body.text(Last(self.cut.sums[e.name]))
                body.lines.append(f"{names.of(e.name)} = {total}" + (f" / {memory.every}" if e.attr("over") == "mean" else ""))
            elif e.name in slow and (several or self.narrow(e) is not None):
                narrow, s = self.narrow(e), slow[e.name]
                text = body.expression(e) if narrow is None else self.widened(body, e, narrow)
                body.note(e.span)
                body.lines.append(f"{names.of(e.name)} = {text} if (tick - {s.offset}) % {s.every} == 0 else {body.text(Last(e.name))}")
            else:
                body.equation(e)
        if not slow:
            return [], body
        args = ", ".join(["tick", *(names.of(r) for r in body.reads)])
        self.also += [f"def {self.prefix}_end({args}):", '    """What slow states become after tick number `tick`."""',
                      *(f"    {line}" for line in body.lines), f"    return {', '.join(names.of(s) for s in slow)},", "", ""]  # fmt: skip
        return [names.of(r) for r in body.reads], body

    def _late(self) -> Body | None:
        if not self.cut.late:
            return None
        outputs = {n for n in self.step.outputs if n in {e.name for e in self.cut.late}}
        types = dict(self.wide)
        for e in self.cut.late:
            types[e.name] = self._timed(self.types[e.name])
        body, names = self._part("late", self.cut.late, types, outputs)
        for e in self.cut.late:
            if e.op == "copy" and not isinstance(e.args[0], Num) and TIME not in types[e.args[0].name].axes:
                source = ops.align(body.text(e.args[0]), types[e.args[0].name], types[e.name])
                body.lines.append(f"{names.of(e.name)} = {source}")
            else:
                body.equation(e)
        gives = [names.of(n) for n in self.step.outputs if n in outputs]
        self.also += [f"def {self.prefix}_late({', '.join(names.of(r) for r in body.reads)}):",
                      '    """What reads slow states after their step."""', *(f"    {line}" for line in body.lines),
                      f"    return {', '.join(gives)}{',' if len(gives) == 1 else ''}", "", ""]  # fmt: skip
        return body

    # --- the whole -----------------------------------------------------------------------------------

    def _assemble(self, late: Body | None, end: tuple[list[str], Body]) -> tuple[Function, list[str], list[str]]:
        names, body, slow = self.names, self.body, {s.name: s for s in self.cut.slow}
        tail: list[str] = []
        fires = _fires(self.cut)
        end_args = ["tick", *(self._at_last(r) for r in end[1].reads)]
        tail.append("tick = tick + n_")
        after = {s: names.of(f"next {s}") for s in slow}
        if slow:
            targets = ", ".join(after.values()) + ("," if len(after) == 1 else "")
            tail += [f"{targets} = {', '.join(body.text(Last(s)) for s in slow)}{',' if len(after) == 1 else ''}",
                     f"if {fires}:", f"    {targets} = {self.prefix}_end({', '.join(end_args)})"]  # fmt: skip
        tail += self._late_calls(late, after, fires)
        for fold, total in self.cut.sums.items():
            memory = slow[next(e for e in self.step.equations if e.name == fold).attr("memory")]
            tail += [f"if (tick - {memory.offset}) % {memory.every} == 0:", f"    {self.final(total)} = torch.zeros_like({self.final(total)})"]
        reads = [n for n in body.reads if not n.startswith("last ")]
        text = "\n".join((*body.lines, *tail))
        streams = sorted((n for n in reads if n not in self.static), key=lambda n: not _mentions(text, names.of(n)))
        inside = [n for n in streams if _mentions(text, names.of(n))]
        fixed = [n for n in reads if n in self.static]
        order = [s.name for s in self.states.values()] + list(self.cut.sums.values())
        held_args = [names.of(f"last {s}") for s in order]
        firsts = [names.of(f"first {s.name}") for s in self.states.values() if s.reset is not None and s.base is None]
        needed = self._ahead(streams)
        args = [names.of(n) for n in (*inside, *fixed)] + ["tick", "n_", *held_args, *firsts, *needed]
        self.inside = len(inside)
        lines = [f"def {self.prefix}_window({', '.join(args)}):", f'    """The ticks of one window of {self._what()}, from tick number `tick` on."""',
                 f"    B = {held_args[0]}.shape[0]"]  # fmt: skip
        lines += [f"    {line}" for line in (*self.resets(names), *body.lines, *tail)]
        gives = [self._output(n) for n in self.step.outputs]
        states = [after[s.name] if s.name in slow else self.final(s.name) for s in self.states.values()] + [self.final(t) for t in self.cut.sums.values()]
        lines.append(f"    return {_tuple(gives)}, {_tuple(states)}")
        return Function(f"{self.prefix}_window", lines, streams, fixed), self.also, order

    def _ahead(self, streams: list[str]) -> list[str]:
        """`ahead(streams, n) -> (values, ..)`: what the windows need and no state changes; returns the names of the values."""
        made = [line.partition(" = ")[0] for line in self.ahead]
        text = "\n".join(self.body.lines)
        needed = [name for name in made if _mentions(text, name)]
        self.feeds = [n for n in streams if self.names.of(n) in self.free]
        if needed:
            some = self.names.of(self.feeds[0])
            self.also += [f"def {self.prefix}_ahead({', '.join([*(self.names.of(n) for n in self.feeds), 'n_'])}):",
                          '    """What windows of `n_` ticks need and no state changes; windows stand in the batch."""', f"    B = {some}.shape[0]",
                          *(f"    # {e.span.where}  {e.span.source.line(e.span.line).strip()}" for e in self._sources()),
                          *(f"    {line}" for line in self.ahead), f"    return {', '.join(needed)},", "", ""]  # fmt: skip
        else:
            self.feeds = []
        return needed

    def _output(self, name: str) -> str:
        """An output along all ticks."""
        text = self.names.of(name)
        if name in {s.name for s in self.cut.slow} or name in {e.name for e in self.cut.late} or name not in self.same:
            return text
        t = self.types[name]
        axes, shape = "".join(f"{ops.literal(a.size)}, " for a in t.axes), ", ".join(map(ops.literal, t.shape))
        return f"{text}.unsqueeze(-{len(t.shape) + 1}).expand(B, {axes}n_, {shape})"

    def _late_calls(self, late: Body | None, after: dict[str, str], fires: str) -> list[str]:
        lines: list[str] = []
        direct = [n for n in self.step.outputs if n in after]
        for n in direct:
            t = self.types[n]
            old = f"{self.body.text(Last(n))}.unsqueeze(-{len(t.shape) + 1})"
            sizes = "".join(f"{ops.literal(a.size)}, " for a in t.axes), ", ".join(map(ops.literal, t.shape))
            new = f"{after[n]}.unsqueeze(-{len(t.shape) + 1})"
            lines.append(f"{self.names.of(n)} = torch.cat([{old}.expand(B, {sizes[0]}n_ - 1, {sizes[1]}), {new}], {1 + len(t.axes)})")
        if late is None:
            return lines
        outs = [n for n in self.step.outputs if n in {e.name for e in self.cut.late}]
        before = [self._late_arg(r, after, False, False) for r in late.reads]
        last = [self._late_arg(r, after, True, True) for r in late.reads]
        targets = ", ".join(self.names.of(n) for n in outs) + ("," if len(outs) == 1 else "")
        lines.append(f"{targets} = {self.prefix}_late({', '.join(before)})")
        dims = ", ".join(str(1 + len(self.types[n].axes)) for n in outs)
        lines += [f"if {fires}:", f"    ends = {self.prefix}_late({', '.join(last)})",
                  f"    {targets} = (torch.cat([x.narrow(d, 0, x.shape[d] - e.shape[d]), e], d) "
                  f"for x, e, d in zip(({targets}), ends, ({dims},)))".replace(f"({targets})", f"({targets.rstrip(',')},)")]  # fmt: skip
        return lines

    def _late_arg(self, read: str, after: dict[str, str], new: bool, narrow: bool) -> str:
        if read.startswith("last "):
            return self.body.text(Last(read[5:]))
        if read in after:
            return after[read] if new else self.body.text(Last(read))
        text = self.body.text(Ref(read))
        if read in self.static or read in self.same or not narrow:
            return text
        d = 1 + len(self.types[read].axes)
        return f"{text}.narrow({d}, n_ - 1, 1)"

    def _at_last(self, read: str) -> str:
        """An argument of `end`: a state, a sum, or a stream at the last tick."""
        if read.startswith("last "):
            name = read[5:]
            return self.final(name) if name in self.cut.sums.values() else self.body.text(Last(name))
        if read in {s.name for s in self.cut.fast} and self.types[read].kind == "map":
            return self.final(read)
        text = self.body.text(Ref(read))
        if read in self.static or read in self.same:
            return text
        return f"{text}.select({1 + len(self.types[read].axes)}, -1)"


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def _fires(cut: Windows) -> str:
    clocks = list(dict.fromkeys((s.every, s.offset) for s in cut.slow))
    return " or ".join(f"(tick - {o}) % {e} == 0" if o else f"tick % {e} == 0" for e, o in clocks) or "False"


def _by_channel(form: Form) -> bool:
    assert form.machine is not None and form.retention is not None
    factors = [f for o in operators_of(form.machine) for _, f in o.terms]
    return any(k.channels is not None for k in form.retention.values()) or any(f.keys is not None or f.values is not None for f in factors)


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
