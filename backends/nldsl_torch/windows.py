"""Functions of a recurrence in windows: `window` (the ticks of one, in `inside`, and what slow states become), `late` (reads after that).

Inside a window time is one more axis of every stream, the innermost: [B, axes.., ticks, shape..]. Slow states have none,
so an operator among them is applied to all ticks by one matrix product.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nldsl.core import Atom, Equation, Last, Num, Ref, State, Type
from nldsl.dims import Dim
from nldsl.lower.affine import Vector
from nldsl.lower.numbers import number
from nldsl.lower.plan import Form, machine_inputs, operators_of
from nldsl.lower.scan import Scan
from nldsl.lower.schedule import Attention, Recurrence, Region
from nldsl.lower.windows import held
from nldsl.vocabulary import KEEPING
from nldsl_torch import ops
from nldsl_torch.adjoint import Adjoint
from nldsl_torch.adjoint_lines import made
from nldsl_torch.body import Body, Names
from nldsl_torch.keeping import Keeping
from nldsl_torch.kernels import tight
from nldsl_torch.pieces import pieces
from nldsl_torch.recurrence import Function, RecurrenceWriter, affine_text, due
from nldsl_torch.window_ends import TIME, WindowEnds
from nldsl_torch.window_kernels import WindowKernels

WIDEST = 256  # ticks of a window that one matrix of all pairs of ticks may serve
SOLVED = 64  # the same, where it is solved


class WindowWriter(WindowEnds):
    """Writes the functions of one recurrence in windows."""

    def window(self) -> tuple[Function, list[str], list[str]]:
        """`window(tick, n, streams, fixed, states, sums, first) -> (outputs, states)`, further functions, and states in order."""
        assert self.form.windows is not None
        self.cut = self.form.windows
        self.also, self.sizes_ahead = [], {}
        self.joined = len({(s.every, s.offset) for s in self.cut.slow}) < 2
        self.starts: dict[str, str] = {}  # states by their names at the start of a window
        self.known: dict[str, list[str]] = {}  # expressions of the kernels, by text
        self.ahead: list[str] = []  # lines that need no state
        self.free: dict[str, None] = {}  # names of what needs no state: streams from outside, and what `ahead` gives
        self.names = Names()
        # The forms inside take streams: what never changes comes to them as one too.
        self.static = {n for n in self.static if n not in self._taken() or self.types[n].kind == "map"}
        for copy, of in self.cut.copies.items():
            self.names.taken[f"last {copy}"] = self.names.of(f"last {of}")
        self.same = held(self.cut, self.static)
        self.wide = {n: t if n in self.same or n in self.static else self._timed(t) for n, t in self.types.items()}
        operators = {s.name for s in (*self.cut.slow, *self.cut.fast) if self.types[s.name].kind == "map"} - self.cut.streams
        self.wide |= {n: self.types[n] for n in operators}
        self.wide |= {s.name: self.types[s.name] for s in self.cut.slow}
        self.body = Body(self.names, self.wide, {p.name for p in self.unit.params}, self.cut.inside, self._kept(), self.rounded)
        self.keeping = Keeping(self.body, {k: self.names.of(f"last {k}") for k in self.kept}, {k: self.final(k) for k in self.kept}, TIME)
        for step in self.form.steps:
            if isinstance(step, Region):
                for e in step.equations:
                    self._stream(e)
            elif isinstance(step, Attention):
                self._stream(step.equation)
            elif isinstance(step, Recurrence):
                self._recurrent(step, self.form.forms[step.states[0]])
        return self._assemble()

    def _stream(self, e: Equation) -> None:
        if e.op in KEEPING:
            self.keeping.write(e)
        else:
            self.body.equation(e)

    def _taken(self) -> set[str]:
        """Names that the forms inside read."""
        return {n for form in self.form.forms.values() for n in machine_inputs(form)}

    def _kept(self) -> set[str]:
        """Names that something besides an equation of the inside reads."""
        wanted = self._taken() | set(self.step.outputs)
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
        elif self._at_once(step, form):
            WindowKernels(form, self._vector, self._scalar, "", [], window=self).whole(step.outputs)
        else:
            self._chunks(step, form)

    def _at_once(self, step: Recurrence, form: Form) -> bool:
        """Whether a machine takes all ticks of a window at once, instead of chunk by chunk."""
        assert form.machine is not None
        if form.chunked or _by_channel(form) or len(form.machine.unknown) > 1:
            return False
        return self.cut.ticks <= (SOLVED if form.machine.unknown else WIDEST) or (not step.outputs and not form.machine.unknown)

    def once(self, text: str, hint: str) -> str:
        """A name for an expression, which is computed once; ahead, where it needs no state."""
        return text if text.isidentifier() else self.several(text, hint)[0]

    def several(self, text: str, *hints: str) -> list[str]:
        """Names for the values of an expression."""
        if text not in self.known:
            names = self.known[text] = [self.names.of(f"{hint} {len(self.known) + n}") for n, hint in enumerate(hints)]
            local = set(re.findall(r"[A-Za-z_]\w*", text)) & (set(self.names.taken.values()) - {*names})
            streams = {self.names.of(r) for r in self.body.reads if not r.startswith("last ") and r not in self.static}
            early = bool(local) and local <= streams | self.free.keys()
            (self.ahead if early else self.body.lines).append(f"{', '.join(names)} = {text}")
            if early:
                self.free |= dict.fromkeys([*sorted(local & streams), *names])
        return self.known[text]

    def full(self, text: str, given: Type, shape: tuple[Dim, ...], spread: bool = False) -> str:
        """A stream with all axes and ticks; `spread` also where it is the same along some of them."""
        wanted = Type("real", shape, (*self.axes_in, TIME))
        aligned = ops.align(text, given, wanted)
        if spread or TIME not in given.axes:
            return f"spread({aligned}, {self._lead()}, {len(shape)})"
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

    def affine(self, name: str, vector: Vector, reads: dict[str, str]) -> None:
        """`name` as a sum of read-outs with factors and of what does not depend on the state."""
        wanted = Type("real", self.types[name].shape, (*self.axes_in, TIME))
        text = affine_text(vector, reads.__getitem__, lambda a: ops.align(self.body.text(a), self.given(a), wanted))
        self.body.lines.append(f"{self.names.of(name)} = {text}")

    def _scan(self, step: Recurrence, scan: Scan) -> None:
        state = self.types[scan.state]
        dim = 1 + len(state.axes)
        if number(scan.factor) == 1.0 and isinstance(scan.input, Ref) and TIME in self.given(scan.input).axes:
            self._total(step, scan.state, self.full(self.body.text(scan.input), self.given(scan.input), state.shape), dim)
            return
        factor, given = (
            ops.literal(a.value) if isinstance(a, Num) else f"{self.full(self.body.text(a), self.given(a), state.shape, True)}.movedim({dim}, 1)"
            for a in (scan.factor, scan.input)
        )
        now, before, made = self.names.of(scan.state), self.names.of(f"last {scan.state}"), [self.names.fresh("scan") for _ in range(2)]
        self.body.lines.append(f"{', '.join(made)} = linear_scan({factor}, {given}, {self.scanned(scan.state)}, n_)")
        self.body.lines += [f"{name} = {x}.movedim(1, {dim})" for name, x in zip((now, before), made, strict=True)]
        for e in (e for e in step.equations if e.name != scan.state):
            self.body.equation(e)
        self.body.lines.append(f"{self.final(scan.state)} = {now}.select({dim}, -1)" + ".contiguous()" * (state.kind == "map"))

    def _total(self, step: Recurrence, state: str, added: str, dim: int) -> None:
        """A state that only adds: its last value, and where something reads them those on the way."""
        atoms = [a for part in (self.cut.inside, self.cut.late, self.cut.end) for e in part if e.name != state for a in e.args]
        say, start = self.body.lines.append, self.scanned(state)
        if not any(not isinstance(a, Num) and a.name == state for a in atoms) and state not in self.step.outputs:
            say(f"{self.final(state)} = {start} + {tight(added)}.sum({dim})")
            return
        now = self.names.of(state)
        rank = len(self.types[state].shape)
        if rank == 1 and self.cut.ticks <= WIDEST:
            say(f"{self.names.of('earlier')} = {start}.new_ones(n_, n_).tril()")
        so_far = f"{self.names.of('earlier')} @ {tight(added)}" if rank == 1 and self.cut.ticks <= WIDEST else f"{tight(added)}.cumsum({dim})"
        say(f"{now} = {start}.unsqueeze(-{1 + rank}) + {so_far}")
        if any(isinstance(a, Last) and a.name == state for a in atoms):
            say(f"{self.names.of(f'last {state}')} = {now} - {tight(added)}")
        for e in (e for e in step.equations if e.name != state):
            self.body.equation(e)
        say(f"{self.final(state)} = {now}.select({dim}, -1)")

    def scanned(self, state: str) -> str:
        """What a state that is a stream inside the window was before it."""
        self.starts[state] = self.names.of(f"start {state}")
        return self.starts[state]

    def _chunks(self, step: Recurrence, form: Form) -> None:
        assert form.machine is not None
        machine = form.machine
        size = min(form.chunk, self.cut.ticks)
        prefix = f"{self.prefix}_{self.names.of(f'part {machine.states[0]}')}"
        writer = RecurrenceWriter(prefix, self.unit, self.types, self.static, step, replace(form, chunk=size), [])
        lines, vectors, scalars, seen = writer.chunks()
        self.also += [*lines, "", ""]
        packed = [self.full(self.body.text(a), self.given(a), self.types[a.name].shape, True) for a in (*vectors, *scalars)]
        turn = ".mT" if form.transposed else ""
        sides = [f"{self.body.text(Last(s))}{turn}" for s in machine.states]
        joined = sides[0] if len(sides) == 1 else f"torch.cat([{', '.join(sides)}], -1)"
        say = self.body.lines.append
        reads, end = self.names.fresh("reads of"), self.names.fresh("end of")
        say(f"{reads}, {end} = segments({prefix}_chunks, [{', '.join(packed)}], {joined}, {1 + len(self.axes_in)}, {size})")
        if len(machine.states) == 1:
            say(f"{self.final(machine.states[0])} = {end}{turn}")
        else:
            say(f"{', '.join(map(self.final, machine.states))} = (x{turn} for x in {end}.chunk({len(machine.states)}, -1))")
        sizes = [ops.literal(self.types[r].shape[0]) for r in seen]
        found = {r: self.names.of(f"read {r}") for r in seen}
        if len(found) == 1:
            say(f"{next(iter(found.values()))} = {reads}")
        elif found:
            say(f"{', '.join(found.values())} = {reads}.split([{', '.join(sizes)}], -1)")
        for output in step.outputs:
            self.affine(output, machine.vectors[output], found)

    # --- the whole -----------------------------------------------------------------------------------

    def _assemble(self) -> tuple[Function, list[str], list[str]]:
        names, body, slow = self.names, self.body, {s.name: s for s in self.cut.slow}
        after = {s: names.of(f"next {s}") for s in slow}
        self.lates, self.late_reads = [], ([], [], [])
        outputs = [n for n in self.step.outputs if n in after or n in {e.name for e in self.cut.late}]
        apart = not outputs or self._late(after, outputs)
        fires = self._fires(*self.cut.slow)
        tail = []
        sums = {t: names.of(f"kept {t}") for t in self.cut.sums.values()}
        clear: list[str] = []
        for fold, total in self.cut.sums.items():
            memory = slow[next(e for e in self.step.equations if e.name == fold).attr("memory")]
            cleared = f"torch.zeros_like({self.final(total)})"
            own = self._fires(memory)
            clear.append(f"{sums[total]} = " + (f"{cleared} if {own} else {self.final(total)}" if own != fires else cleared))
        if slow:
            befores = [f"    {after[s]} = {self.body.text(Last(s))}" for s in slow]
            befores += [f"    {sums[t]} = {self.final(t)}" for t in sums]
            tail += [f"if {fires}:", *(f"    {line}" for line in (*self._end(after), *clear)), "else:", *befores]
        if not apart:
            tail += self._late_calls(after, outputs, fires)
        reads = [n for n in body.reads if not n.startswith("last ")]
        text = "\n".join((*body.lines, *tail))
        reads += [n for n in self.late_reads[0] if n not in reads]
        streams = sorted((n for n in reads if n not in self.static), key=lambda n: not _mentions(text, names.of(n)))
        inside = [n for n in streams if _mentions(text, names.of(n))]
        fixed = [n for n in reads if n in self.static and _mentions(text, names.of(n))]
        order = [s.name for s in self.states.values()] + list(self.cut.sums.values()) + [*self.kept]
        resets, given, starts = self._starts(order)
        firsts = [names.of(f"first {s.name}") for s in self.states.values() if s.reset is not None and s.base is None]
        needed = self._ahead(streams)
        taken = [names.of(n) for n in (*inside, *fixed)]
        self.inside = len(inside)
        gives = [self._output(n) for n in self.step.outputs if n not in self.lates]
        states = [after[s.name] if s.name in slow else self.final(s.name) for s in self.states.values()] + [sums[t] for t in self.cut.sums.values()]
        states += [self.final(k) for k in self.kept]
        calls = self._parts([*taken, *starts, *needed], tail, [*gives, *states], starts[0])
        lines = [f"def {self.prefix}_window({', '.join(['tick', 'n_', *taken, *given, *firsts, *needed])}):",
                 f'    """The ticks of one window of {self._what()}, from tick number `tick` on."""',
                 *(f"    {line}" for line in (*resets, *calls)), f"    return {', '.join([*gives, *states])},", "", ""]  # fmt: skip
        return Function(f"{self.prefix}_window", lines, streams, fixed), self.also, order

    def _parts(self, args: list[str], tail: list[str], outputs: list[str], some: str) -> list[str]:
        """The lines of a window, which call functions with a reverse: `inside`, up to its end where not all slow states step together,
        as it is equal in all windows then; and one before each read of a store, whose pairs are more in each window."""
        what, batch = self._what(), f"B = {some}.shape[0]"
        *before, (apart, lines) = pieces(self.body.lines, self.keeping.apart)
        if apart:
            before, lines = [*before, (True, lines)], []
        calls: list[str] = []
        known: set[str] = set()  # what pieces before the last give
        for n, (apart, run) in enumerate(before):
            rest = "\n".join([*(x for _, later in before[n + 1 :] for x in later), *lines, *tail, *outputs])
            gives = sorted(name for name in made(run) if _mentions(rest, name))
            if apart:
                calls += run
            else:
                calls += self._inside(f"inside_{n}", ["n_"], args, [batch, *run], gives, f"Before a store is read in a window of {what}.", some)
            args, known = [*args, *gives], known | {*gives}
        if self.joined:
            clocks = {(s.every, s.offset): None for s in self.cut.slow}
            calls += [f"ends = {due(*clock, '(tick + n_)')}" for clock in clocks]
            gives = [name for name in outputs if name not in known]
            return [*calls, *self._inside("inside", ["ends", "n_"] if clocks else ["n_"], args, [batch, *lines, *tail], gives, f"One window of {what}.", some)]
        text = "\n".join((*tail, *outputs))
        between = sorted(n for n in made(lines) if _mentions(text, n))
        if between:  # otherwise all that there is stands at the end
            calls += self._inside("inside", ["n_"], args, [batch, *lines], between, f"One window of {what}, but for its end.", some)
        return [*calls, *([batch] if _mentions(text, "B") else []), "done = tick + n_", *tail]

    def _inside(self, name: str, numbers: list[str], args: list[str], lines: list[str], gives: list[str], doc: str, some: str) -> list[str]:
        """A function of some lines, and the line that calls it."""
        text = "\n".join([*lines, *gives])
        taken = [a for a in args if a == some or _mentions(text, a)]
        self.also += self._function(name, numbers, taken, lines, gives, doc, self.names)
        return [f"{', '.join(gives)}, = {self.prefix}_{name}({', '.join([*numbers, *taken])})"]

    def _fires(self, *slow: State) -> str:
        """Whether one of these states steps at the end of a window."""
        return " or ".join(dict.fromkeys(self.ends(s.every, s.offset) for s in slow)) or "False"

    def _starts(self, order: list[str]) -> tuple[list[str], list[str], list[str]]:
        """Lines for states that are put back, those that others go back to first; the names of all states as they are given, and after that."""
        start = {n: self.starts.get(n, self.names.of(f"last {n}")) for n in order}
        lines: list[str] = []
        given = dict(start)
        for s in self.put_back():
            given[s.name] = self.names.of(f"given {s.name}")
            to = self.names.of(f"first {s.name}") if s.base is None else start[s.base] + (".detach()" if s.detached else "")
            lines.append(f"{start[s.name]} = {to} if tick % {s.reset} == 0 else {given[s.name]}")
        return lines, list(given.values()), list(start.values())

    def _ahead(self, streams: list[str]) -> list[str]:
        """`ahead(streams, n) -> (values, ..)`: what the windows need and no state changes; returns the names of the values."""
        made = [name for line in self.ahead for name in line.partition(" = ")[0].split(", ")]
        text = "\n".join(self.body.lines)
        needed = [name for name in made if _mentions(text, name)]
        self.feeds = [n for n in streams if self.names.of(n) in self.free]
        if needed:
            some = self.names.of(self.feeds[0])
            reader = Adjoint(self.names.fresh, [self.names.of(n) for n in self.feeds], {self.names.of(n): self._size(n) for n in self.feeds})
            reader.read(self.ahead)
            self.sizes_ahead = reader.sizes
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
        late = name in {s.name for s in self.cut.slow} or name in {e.name for e in self.cut.late}
        if late or name not in self.same:
            return text
        ready = self.names.of(f"all {name}")
        self.body.lines.append(f"{ready} = {self._everywhere(text, name)}")
        return ready


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def _by_channel(form: Form) -> bool:
    assert form.machine is not None and form.retention is not None
    factors = [f for o in operators_of(form.machine) for _, f in o.terms]
    return any(k.channels is not None for k in form.retention.values()) or any(f.keys is not None or f.values is not None for f in factors)
