"""The steps of a plan as functions, and as lines of `forward` that call them."""

from __future__ import annotations

from dataclasses import dataclass, field

from nldsl.core import Atom, Axis, Equation, Instance, Last, Num, Ref, Type
from nldsl.lower.equation import machine_text
from nldsl.lower.order import ordered
from nldsl.lower.plan import Form, Plan, machine_inputs
from nldsl.lower.rounding import rounded
from nldsl.lower.scan import Scan
from nldsl.lower.schedule import Recurrence, Region
from nldsl.names import identifier
from nldsl_torch import ops
from nldsl_torch.body import Body, Names, renamed, worth_fusing
from nldsl_torch.initial import size
from nldsl_torch.keeping import extents, first_values, own_axes
from nldsl_torch.keeping import first as first_of
from nldsl_torch.keeping import past as past_of
from nldsl_torch.recurrence import RecurrenceWriter, affine_text
from nldsl_torch.windows import WindowWriter

TEMPORAL = {"delay", "conv", "count", "angles"}


@dataclass
class StepWriter:
    """Writes regions, recurrences, stores and calls of one unit.

    Attributes:
        classes, inputs: of every unit by key, the name of its class and the names of its inputs.
        ending: keys of the units that the end of a stream changes.
        functions, forward: the lines written so far.
        carried: state key -> expression of its first value, for what is not a state of the unit.
    """

    name: str
    plan: Plan
    classes: dict[str, str]
    inputs: dict[str, list[str]]  # names of the inputs of each unit, by key
    ending: frozenset[str] = frozenset()
    functions: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    carried: dict[str, str] = field(default_factory=dict)  # state key -> expression of its first value
    shared: dict[str, str] = field(default_factory=dict)  # a region with its local names numbered -> its function

    def __post_init__(self) -> None:
        unit = self.plan.unit
        self.unit, self.types = unit, self.plan.types
        self.prefix = self.name.lower()
        self.params = {p.name for p in unit.params}
        self.numbers = {e.name: e.args[0].value for e in unit.equations if e.op == "copy" and isinstance(e.args[0], Num)}
        self.indices = [e for e in unit.equations if e.op == "index"]
        self.static = self._static()
        self.rounded = rounded(unit, self.types)
        self.names = Names()
        self.ticks = any(e.op in ("count", "angles") for e in unit.equations) or any(
            s.every > 1 or s.reset is not None for s in unit.states
        )

    def _static(self) -> set[str]:
        """Names that are the same at every tick and for every sequence: params and what is computed from them."""
        static = set(self.params)
        for e in ordered(self.unit.equations):
            if e.op not in TEMPORAL and e.op != "attend" and all(isinstance(a, Num) or (isinstance(a, Ref) and a.name in static) for a in e.args):
                static.add(e.name)
        return static - {s.name for s in self.unit.states}

    # --- text of a value in `forward` ------------------------------------------------------------

    def local(self, name: str) -> str:
        if name in self.params:
            return f"self.{identifier(name)}"
        if any(e.name == name for e in self.indices):
            return f"self.{identifier(name)}"
        return self.names.of(name)

    def value(self, atom: Ref | Last | Num) -> str:
        if isinstance(atom, Num):
            return ops.literal(atom.value)
        return self.local(atom.name)

    def stream(self, atom: Ref | Last | Num) -> str:
        """A value with batch and ticks in the module's dtype, as outputs and arguments of instances have them."""
        assert isinstance(atom, Ref), atom
        if atom.name in self.numbers:
            return f"self._like.new_full((B, T), {ops.literal(self.numbers[atom.name])})"
        text = self.local(atom.name) + (".to(self._like.dtype)" if atom.name in self.rounded else "")
        return f"{text}.expand(B, T, *{text}.shape)" if atom.name in self.static else text

    # --- regions -----------------------------------------------------------------------------------

    def _needed(self, step: Region) -> list[str]:
        """Names of a region that something outside it reads."""
        inside = {e.name for e in step.equations}
        readers: set[str] = {a.name for _, a in self.unit.outputs if not isinstance(a, Num)}
        for e in self.unit.equations:
            if e.name not in inside:
                readers |= {a.name for a in e.args if not isinstance(a, Num)}
        for i in self.unit.instances:
            readers |= {a.name for _, a in i.args if not isinstance(a, Num)}
        for form in self.plan.forms.values():
            readers |= machine_inputs(form)
        return [e.name for e in step.equations if e.name in readers]

    def _region(self, n: int, step: Region) -> None:
        equations = [e for e in ordered(step.equations) if e.op != "index" and e.name not in self.numbers]
        if not equations:
            return
        inside = {e.name for e in equations}
        outputs = [name for name in self._needed(step) if name in inside]
        names = Names()
        body = Body(names, self.types, self.params, equations, outputs, self.rounded)
        pasts: dict[str, str] = {}
        tick = False
        for e in equations:
            if e.op in TEMPORAL:
                tick |= self._temporal(body, e, pasts)
            else:
                body.equation(e)
        streams = [r for r in body.reads if r not in self.static]
        fixed = [r for r in body.reads if r in self.static]
        args = [names.of(r) for r in streams] + list(pasts.values()) + [names.of(r) for r in fixed] + (["tick"] if tick else [])
        gives = [names.of(o) for o in outputs] + list(pasts.values())
        rest = [*body.lines, f"return {', '.join(gives)}{',' if len(gives) == 1 else ''}"]
        # Equal regions, of the links of a chain, are one function and so compiled once.
        key = renamed("\n".join([f"{len(streams)} {len(pasts)} {', '.join(args)}", *rest]), {*names.taken.values(), "tick"})
        fn = self.shared.setdefault(key, f"{self.prefix}_region_{n}")
        if fn == f"{self.prefix}_region_{n}":
            self.functions += [
                f"@region(streams={len(streams)}, pasts={len(pasts)}, fuse={bool(streams) and worth_fusing(equations, self.rounded)})",
                f"def {fn}({', '.join(args)}):",
                f'    """Equations of `{self.unit.block}` without state, for all ticks."""',
                *(f"    {line}" for line in rest),
                "",
                "",
            ]
        held = [f'state["{key}"]' for key in pasts]
        call = [self.local(r) for r in streams] + held + [self.local(r) for r in fixed] + (['state[":tick"]'] if tick else [])
        targets = [self.local(o) for o in outputs] + [f'new["{key}"]' for key in pasts]
        self.forward.append(f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = {fn}({', '.join(call)})")

    def _temporal(self, body: Body, e: Equation, pasts: dict[str, str]) -> bool:
        """An equation that looks at other ticks; returns whether it needs the tick counter."""
        name = body.names.of(e.name)
        body.note(e.span)
        if e.op == "count":
            some = self.unit.inputs[0].name
            body.reads[some] = None
            wide = ".to(torch.float64)" if any(i.type.kind == "real" for i in self.unit.inputs) or self.params else ""
            every, offset = e.attr("every", 1), e.attr("offset", 0)
            number = f"ticks({body.names.of(some)}, tick)"
            body.lines.append(f"{name} = {number if every == 1 else f'(({number} - {offset}) // {every} + {int(offset > 0)})'}{wide}")
            return True
        source = body.text(e.args[0])
        if e.op == "angles":
            some = self.unit.inputs[0].name
            body.reads[some] = None
            body.lines.append(f"{name} = angles({source}, {ops.literal(e.attr('size'))}, ticks({body.names.of(some)}, tick))")
            return True
        if isinstance(e.args[0], Num) or e.args[0].name in self.static:
            source = self._everywhere(body, e.args[0], source)
        key = past_of(e)
        past = pasts.setdefault(key, body.names.of(key))
        self.carried |= first_values([e], self.types)
        if e.op == "conv":
            body.lines.append(f"{name}, {past} = causal_conv({source}, {body.text(e.args[1])}, {past}, {e.attr('ticks')}{first_of(e)})")
        else:
            body.lines.append(f"{name}, {past} = delay({source}, {past})")
        return False

    def _everywhere(self, body: Body, atom: Atom, text: str) -> str:
        """What never changes, for all sequences and ticks."""
        some = self.unit.inputs[0].name
        body.reads[some] = None
        lead = f"{body.names.of(some)}.shape[:2]"
        if not isinstance(atom, Num):
            return f"{text}.expand(*{lead}, *{text}.shape)"
        real = next((i.name for i in self.unit.inputs if i.type.kind == "real"), next(iter(sorted(self.params)), some))
        body.reads[real] = None
        return f"{body.names.of(real)}.new_full({lead}, {text})"

    # --- recurrences -------------------------------------------------------------------------------

    def _recurrence(self, step: Recurrence) -> None:
        form = self.plan.forms[step.states[0]]
        prefix = f"{self.prefix}_{identifier(step.states[0])}"
        equation = machine_text(self.plan, form) if form.machine is not None else []
        kind = WindowWriter if form.windows is not None else RecurrenceWriter
        writer = kind(prefix, self.unit, self.types, self.static, step, form, equation)
        tick = writer.tick()
        self.functions += [*tick.lines, "", ""]
        states = list(step.states)
        sums = [f"{e.name}:sum" for e in writer.folds]
        for e in writer.folds:
            self.carried[f"{e.name}:sum"] = f"z.new_zeros(batch{''.join(f', {n}' for n in size(self.types[e.name]))})"
        self.carried |= writer.kept
        outs = [self.local(o) for o in step.outputs]
        first = [f'self.initial_state(B)["{s.name}"]' for s in writer.states.values() if s.reset is not None and s.base is None]
        fixed = [self.local(f) for f in tick.fixed]
        keys = [self.plan.same.get(k, k) for k in states] + sums + [*writer.kept]
        self.forward.append(f"# {', '.join(states)}: {form.name}")
        indent = ""
        if form.name != "loop":
            self.forward.append("if T == 1:")
            indent = "    "
        streams = [self.local(s) for s in tick.streams]
        held = ", ".join(f'state["{k}"]' for k in keys)
        run = f"loop({prefix}_tick, [{', '.join(streams)}], [{', '.join(fixed)}], [{held}]"
        run += f", T, first=[{', '.join(first)}]" if first else ", T"
        run += ', start=state[":tick"])' if writer.clocked else ")"
        targets = ", ".join(f'new["{k}"]' for k in keys)
        self.forward.append(f"{indent}({''.join(o + ', ' for o in outs)}), ({targets},) = {run}")
        if isinstance(writer, WindowWriter):
            self.forward.append("else:")
            self._windows(writer, step, prefix, first)
        elif form.machine is not None:
            self.forward.append("else:")
            self._chunks(writer, form, step, prefix)
        elif form.scan is not None:
            self.forward.append("else:")
            self._scan(form.scan, step, prefix)

    def _windows(self, writer: WindowWriter, step: Recurrence, prefix: str, first: list[str]) -> None:
        window, also, keys = writer.window()
        self.functions += [*also, *window.lines, "", ""]
        outputs = [*(n for n in step.outputs if n not in writer.lates), *writer.lates]
        depth = {n: len(self.types[n].axes) for n in (*window.streams, *outputs)}
        given = [f"{self.local(n)}.expand(B, T, *{self.local(n)}.shape)" if n in self.static else self.local(n) for n in window.streams]
        streams = [f"{x}.movedim(1, {1 + depth[n]})" if depth[n] else x for x, n in zip(given, window.streams, strict=True)]
        dims = [tuple(1 + depth[n] for n in names) for names in (window.streams, outputs)]
        fixed = ", ".join(self.local(n) for n in window.fixed)
        held, targets = ", ".join(f'state["{k}"]' for k in keys), ", ".join(f'new["{k}"]' for k in keys)
        say = self.forward.append
        say("    xs = [")
        self.forward += [f"        {x}," for x in streams]
        say("    ]")
        outs = [self.local(o) for o in outputs]
        cut = writer.cut
        call = f"{window.name}, xs, {dims!r}, [{fixed}], [{held}], T, {cut.ticks}, {cut.phase}, state[\":tick\"], first=[{', '.join(first)}]"
        call += f", taken={writer.inside}" if writer.inside < len(streams) else ""
        call += f", ahead={prefix}_ahead, given={[window.streams.index(n) for n in writer.feeds]!r}" if writer.feeds else ""
        if writer.lates:
            taken, unchanging, read = writer.late_reads
            numbers = [window.streams.index(n) for n in taken], [keys.index(n) for n in read]
            call += f", late=({prefix}_late, {numbers[0]!r}, [{', '.join(map(self.local, unchanging))}], {numbers[1]!r})"
        call += ", again=again" if writer.form.recompute else ""
        say(f"    ({''.join(o + ', ' for o in outs)}), ({targets},) = windows({call})")
        for n, o in zip(outputs, outs, strict=True):
            if depth[n]:
                say(f"    {o} = from_memory({o}, {depth[n]})")

    def _scan(self, scan: Scan, step: Recurrence, prefix: str) -> None:
        """All states of a vector at once, then the other equations of its group as maps."""
        state = self.types[scan.state]
        factor, given = (
            ops.literal(a.value) if isinstance(a, Num) else ops.align(self.value(a), self.types[a.name], state) for a in (scan.factor, scan.input)
        )
        now, before = self.local(scan.state), self.names.of(f"last {scan.state}")
        self.forward.append(f'    {now}, {before} = linear_scan({factor}, {given}, state["{scan.state}"], T)')
        self.forward.append(f'    new["{scan.state}"] = {now}[:, -1]')
        rest = [e for e in ordered(step.equations) if e.name != scan.state]
        outputs = [o for o in step.outputs if o != scan.state]
        if not outputs:
            return
        names = Names()
        body = Body(names, self.types, self.params, rest, outputs, self.rounded)
        for e in rest:
            body.equation(e)
        reads = [r for r in body.reads if r not in self.static] + [r for r in body.reads if r in self.static]
        self.functions += [
            f"@region(streams={sum(r not in self.static for r in reads)}, fuse={worth_fusing(rest, self.rounded)})",
            f"def {prefix}_around({', '.join(names.of(r) for r in reads)}):",
            f'    """Equations around {scan.state}, for all ticks."""',
            *(f"    {line}" for line in body.lines),
            f"    return {', '.join(names.of(o) for o in outputs)},",
            "",
            "",
        ]
        call = ", ".join(before if r.startswith("last ") else self.local(r) for r in reads)
        self.forward.append(f"    {', '.join(self.local(o) for o in outputs)}, = {prefix}_around({call})")

    def _chunks(self, writer: RecurrenceWriter, form: Form, step: Recurrence, prefix: str) -> None:
        assert form.machine is not None
        lines, vectors, scalars, reads = writer.chunks()
        self.functions += [*lines, "", ""]
        axes = writer.axes
        lead = f"(B, T{''.join(f', {ops.literal(a.size)}' for a in axes)})"
        packed = []
        for atom in (*vectors, *scalars):
            given = self.types[atom.name]
            wanted = Type(given.kind, given.shape, axes)
            packed.append(f"to_memory({ops.align(self.local(atom.name), given, wanted)}, {lead})")
        machine, say = form.machine, self.forward.append
        keys = [self.plan.same.get(s, s) for s in machine.states]
        side = [f'state["{k}"]' + (".mT" if form.transposed else "") for k in keys]
        joined = ", ".join(side)
        say(f"    s = {joined}" if len(side) == 1 else f"    s = torch.cat([{joined}], -1)")
        say("    xs = [")
        self.forward += [f"        {x}," for x in packed]
        say("    ]")
        say(f"    reads, s = segments({prefix}_chunks, xs, s, {1 + len(axes)}, {form.chunk})")
        back = [f'new["{k}"]' for k in keys]
        if len(back) == 1:
            say(f"    {back[0]} = s{'.mT' if form.transposed else ''}.to(state[{keys[0]!r}].dtype)")
        else:
            turn = ".mT" if form.transposed else ""
            say(f"    {', '.join(back)} = (x{turn}.to(self._like.dtype) for x in s.chunk({len(back)}, -1))")
        sizes = [ops.literal(self.types[r].shape[0]) for r in reads]
        names = [self.names.of(f"read {r}") for r in reads]
        say(f"    {', '.join(names)}{',' if len(names) == 1 else ''} = from_memory(reads, {len(axes)}).to(self._like.dtype).split([{', '.join(sizes)}], -1)")
        for output in step.outputs:
            wanted = Type("real", self.types[output].shape, axes)
            text = affine_text(machine.vectors[output], lambda r: self.names.of(f"read {r}"),
                               lambda a, wanted=wanted: ops.align(self.value(a), self.type_of(a), wanted))  # type: ignore[misc]
            say(f"    {self.local(output)} = {text}")

    def type_of(self, atom: Atom) -> Type:
        """The type of a stream; a number has none."""
        assert not isinstance(atom, Num), atom
        return self.types[atom.name]

    # --- stores and instances ------------------------------------------------------------------------

    def _attention(self, e: Equation) -> None:
        """Keys and values are kept as often as the store stands there; its reads may be in more copies."""
        result = self.types[e.name]
        own, window = own_axes(e, self.types), e.attr("window")
        store = e.attr("memory")

        def moved(atom: Atom, axes: tuple[Axis, ...]) -> str:
            given = self.type_of(atom)
            value = self.value(atom) + (".to(self._like.dtype)" if isinstance(atom, Ref) and atom.name in self.rounded else "")
            return f"to_memory({ops.align(value, given, Type('real', given.shape, axes))}, (B, T{extents(axes)}))"

        self.carried |= first_values([e], self.types)
        say = self.forward.append
        say(f"# {store}: store, {e.span.where}")
        say(f"k_, v_ = {moved(e.args[1], own)}, {moved(e.args[2], own)}")
        more = "".join(f".unsqueeze({1 + n})" for n, a in enumerate(result.axes) if a not in own)
        wide = f"{more}.expand(B{extents(result.axes)}, -1, -1)" if more else ""
        past = f'(state["{store}:key"]{wide}, state["{store}:value"]{wide})'
        read = f"window_attention({moved(e.args[0], result.axes)}, k_{wide}, v_{wide}, {window}, None, {past})"
        say(f"{self.local(e.name)} = from_memory({read}, {len(result.axes)})")
        for key, x in ((f"{store}:key", "k_"), (f"{store}:value", "v_")):
            say(f'new["{key}"] = remember(state["{key}"], {x}, {window})')

    def _call(self, i: Instance) -> None:
        attr = identifier(i.name)
        given = {name: self.stream(atom) for name, atom in i.args}
        args = ", ".join(given[name] for name in self.inputs[i.unit or ""])
        self.forward.append(f'y_, part_ = self.{attr}({args}, state=part(state, "{attr}."), return_state=True)')
        self.forward.append(f'new |= whole(part_, "{attr}.")')
        for o in i.outputs:
            self.forward.append(f"{self.local(f'{i.name}.{o}')} = y_" + (f'["{o}"]' if len(i.outputs) > 1 else ""))
