"""The steps of a rule as text: a prologue of numbers, passes with their C++ and Triton, and a function of torch operations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from nldsl.core import Atom, Equation, Last, Num, Ref
from nldsl.dims import Dim
from nldsl.lower.rule import RulePlan, Tick
from nldsl.lower.segments import Segment, Step, Whole, low_precision
from nldsl.names import identifier
from nldsl.vocabulary import is_number
from nldsl_torch.body import RESERVED
from nldsl_torch.optim import tl
from nldsl_torch.optim.reuse import reuse_names
from nldsl_torch.optim.text import HELPERS, OWN, Blocks, RuleBody, RuleNames, Statements, short

WIDTH = 130


def wrapped(line: str, indent: int) -> list[str]:
    """A line, or the same broken after commas."""
    lines = [""]
    for part in line.split(", "):
        if lines[-1].strip() and len(lines[-1]) + len(part) > WIDTH:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * indent)
        lines[-1] += f"{part}, "
    lines[-1] = lines[-1].removesuffix(", ")
    return lines


class Home(Protocol):
    """Where functions and passes are written."""

    plan: RulePlan

    def define(self, kind: str, name: str, text: str) -> str: ...


class TickWriter:
    """Writes one tick: its prologue, its passes and its step."""

    def __init__(self, rule: Home, tick: Tick, name: str):
        self.rule, self.tick, self.name = rule, tick, name
        self.types = tick.types
        self.states = {s.name for s in rule.plan.rule.unit.states} | {s.name for s in tick.unit.states}
        self.reserved = RESERVED | OWN | set(HELPERS) | {short(s) for s in self.states} | {f"new_{short(s)}" for s in self.states} | {"g", "x", "delta"}
        self.reserved |= {n for size in rule.plan.type.shape for n in size.symbols()}
        self.inputs = {i.name: i for i in tick.unit.inputs}
        self.names = RuleNames({}, frozenset(self.reserved), self.types)
        self.numbers = {e.name for e in tick.prologue}
        lines = (e for steps in tick.lines.values() for step in steps for e in _equations(step))
        self.cautious = _behind_where([*tick.prologue, *tick.sizes, *lines])
        self.read: dict[str, None] = {}  # keys of the prologue's result that something reads

    def write(self) -> str:
        segment = self.tick.segment
        if segment is not None:
            made = self.segment(segment, {}, {})
            scalars = [self._scalar(n) for n in segment.scalars]
            assert all(scalars)
            function = "None"
        else:
            made, function = "None", self._step()
        return f"Tick({self._prologue()}, {made}, {function})"

    def _name(self, name: str) -> str:
        """The Python name of an equation or input, without dots."""
        if name not in self.inputs:
            return self.names.of(name)
        text = identifier(name)
        return f"{text}_" if text in OWN else text

    # --- numbers ---------------------------------------------------------------------------------------

    def _scalar(self, name: str) -> str:
        """A number of the prologue by its name there, and from now on part of its result."""
        if name in self.states:
            key = f"new {short(name)}"
            self.names.taken.setdefault(name, f"new_{short(name)}")
        else:
            key = self._name(name)
        self.read[name] = None
        return key

    def _steps(self, count: Equation) -> str:
        """The number of the step, or of those at which a slow memory has changed."""
        memory, offset = count.attr("memory"), count.attr("offset", 0)
        if memory is None or count.attr("every", 1) == 1:
            return "t"
        period = self.rule.plan.rule.periods[memory]
        every = f'h["{period}"]' if isinstance(period, str) else str(period)
        return f"((t - {offset}) // {every} + 1)" if offset else f"(t // {every})"

    def _prologue(self) -> str:
        changed = [e.name for e in self.tick.prologue if e.name in self.states]
        for name in changed:
            self._scalar(name)
        defined = {e.name: e for e in self.tick.prologue}
        given = {f"last {s}": f'h["{short(s)}"]' for s in self.states} | {n: f'h["{n}"]' for n in self.inputs}
        wanted: set[str] = set()
        stack = list(self.read)
        while stack:
            name = stack.pop()
            if name in defined and name not in wanted:
                wanted.add(name)
                stack += [a.name for a in defined[name].args if isinstance(a, Ref)]
        given |= {n: self._steps(defined[n]) for n in wanted if defined[n].op == "count"}
        equations = [e for e in self.tick.prologue if e.name in wanted and e.name not in given]
        body = RuleBody(self.names, self.types, equations, [n for n in self.read if n in defined and n not in given], given)
        body.cautious = self.cautious
        for e in equations:
            body.equation(e)
        items = [f'"{self._scalar(n)}": {body.text(Ref(n))}' for n in self.read]
        lines = ["def NAME(t, h):", *(f"    {line}" for line in body.lines), *wrapped(f"    return {{{', '.join(items)}}}", 8)]
        return self.rule.define("function", f"{self.name}_prologue", "\n".join(lines))

    # --- passes ----------------------------------------------------------------------------------------

    def array(self, atom: Atom, apart: Mapping[str, str]) -> str:
        """The name of an array in a step: a state written in place keeps its name."""
        assert not isinstance(atom, Num)
        if atom.name in self.states:
            return apart.get(atom.name, short(atom.name)) if isinstance(atom, Ref) else short(atom.name)
        return self._name(atom.name)

    def segment(self, s: Segment, apart: Mapping[str, str], late: Mapping[str, str], low: Collection[str] = ()) -> str:
        """Write a pass; returns its name. Arrays that are `low` are raised to the precision of the others."""
        reads = self._reads(s, apart)
        exact = [a for k, a in reads.items() if k not in low]
        writes = {n: self.array(Ref(n), apart) for n in s.writes}
        scalars = {n: late.get(n) or identifier(self._scalar(n)) for n in s.scalars}
        given = reads | scalars
        texts: list[list[str]] = []
        for kind in (RuleBody, Statements, Blocks):
            local = RuleNames({n: f"new_{a}" for n, a in writes.items()}, frozenset(self.reserved | set(given.values())), self.types)
            body = kind(local, self.types, s.equations, s.writes, given)
            if isinstance(body, RuleBody):
                body.like = next((a for k, a in reads.items() if k.startswith("last ")), next(iter(reads.values())))
                body.lines += [f"{a} = {a}.to({exact[0]}.dtype)" for k, a in reads.items() if k in low and exact]
            for e in s.equations:
                body.equation(e)
            texts.append(body.lines if isinstance(body, RuleBody) else body.statements())
        lines, kernel, triton = texts
        arguments = ", ".join([*reads.values(), *scalars.values()])
        results = ", ".join(f"new_{a}" for a in writes.values())
        function = "\n".join([*wrapped(f"def NAME({arguments}):", 8), *(f"    {line}" for line in lines),
                              f"    return {results if len(writes) > 1 else f'({results},)'}"])  # fmt: skip
        made = self.rule.define("function", f"{self.name}_pass", function)
        halves = tuple(writes[e.name] for e in s.equations if e.op == "bfloat16")
        more = [f"    rounded={halves!r},"] if halves else []
        if all(tl.writes(e) for e in s.equations):
            more += ['    triton="""', *(f"        {line}" for line in triton), '    """,']
        text = [
            "NAME = Segment(", '    "NAME",',
            *wrapped(f"    reads={tuple(reads.values())!r},", 8), *wrapped(f"    writes={tuple(writes.values())!r},", 8),
            *wrapped(f"    scalars={tuple(scalars.values())!r},", 8), f"    function={made},", '    kernel="""',
            *(f"        {line}" for line in kernel), '    """,', *more, ")",
        ]  # fmt: skip
        return self.rule.define("value", made.upper(), "\n".join(text) + "\n")

    def _reads(self, s: Segment, apart: Mapping[str, str]) -> dict[str, str]:
        """The arrays a pass reads; those that an operation made have no name of their own, so that equal passes are one."""
        made = [a for a in s.reads if isinstance(a, Ref) and a.name not in self.states and a.name not in self.inputs]
        names = {_key(a): f"a{n + 1}" for n, a in enumerate(made)}
        return {_key(a): names.get(_key(a)) or self.array(a, apart) for a in s.reads}

    # --- steps -----------------------------------------------------------------------------------------

    def _step(self) -> str:
        tick = self.tick
        used: set[str] = set()
        bodies = {}
        sizes, dims = self._sizes()
        common, numbers = self.names, {e.name for e in tick.prologue}
        for key, steps in tick.lines.items():
            self.names = RuleNames(dict(common.taken), common.reserved, self.types)
            writer = _LineWriter(self, steps)
            bodies[key] = writer.write()
            used |= writer.arrays
            common.taken |= {n: text for n, text in self.names.taken.items() if n in numbers}
        self.names = common
        arrays = [a for a in ["w", "g", *sorted(used - {"w", "g"})] if a in used or (a == "w" and dims)]
        lines = ["def NAME(arrays, numbers, run):"]
        for few in (arrays[i : i + 5] for i in range(0, len(arrays), 5)):
            lines.append(f"    {', '.join(few)} = " + ", ".join(f'arrays["{a}"]' for a in few))
        lines += [f"    {line}" for line in [*dims, *sizes]] if dims else []
        for n, (key, body) in enumerate(bodies.items()):
            if not tick.conditions:
                lines += [f"    {line}" for line in body]
                break
            tests = [f"{self._name(c)} {'>' if there else '<='} 0" for c, there in zip(tick.conditions, key)]
            lines.append(f"    {'if' if n == 0 else 'elif'} {' and '.join(tests)}:" if n < len(bodies) - 1 else "    else:")
            lines += [f"        {line}" for line in body]
        return self.rule.define("function", f"{self.name}_step", "\n".join(lines))

    def _sizes(self) -> tuple[list[str], list[str]]:
        """Lines for the conditions, and before them those that name the sizes."""
        body = RuleBody(self.names, self.types, self.tick.sizes, self.tick.conditions, {})
        for e in self.tick.sizes:
            body.equation(e)
        found: set[str] = set()
        for e in [*self.tick.sizes, *(x for steps in self.tick.lines.values() for s in steps for x in _equations(s))]:
            for a in e.args:
                if isinstance(a, Num) and isinstance(a.value, Dim):
                    found |= a.value.symbols()
        w = self.rule.plan.type
        own = [next(iter(n.symbols()), "_") for n in w.shape]
        lines = []
        if found & set(own):
            lines.append(f"{', '.join(own)} = w.shape[-2:]" if w.kind == "map" else f"{own[0]} = w.numel()")
        for name, item in self.inputs.items():
            for i, n in enumerate(item.type.shape):
                if name in ("x", "delta") and n.symbols() & found - set(own):
                    lines.append(f"{next(iter(n.symbols()))} = {name}.shape[{i - 2}]")
                    found -= n.symbols()
        return [x for x in body.lines if not x.startswith("#")], lines


class _LineWriter:
    """Writes one line of steps."""

    def __init__(self, tick: TickWriter, steps: Sequence[Step]):
        self.tick, self.steps = tick, steps
        segments = [s for s in steps if isinstance(s, Segment)]
        self.made = {s.equation.name for s in steps if isinstance(s, Whole)}
        apart = [n for s in segments for n in s.apart] + [n for n in self.made if n in tick.states]
        self.apart = {n: f"new_{short(n)}" for n in apart}
        equations = tuple(e for s in steps for e in _equations(s))
        self.low = low_precision(replace(tick.tick.unit, equations=equations), tick.types)
        self.late = {n: tick._name(n) for s in segments for n in s.scalars if n in self.made and n not in tick.states}
        self.late |= {n: a for n, a in self.apart.items() if is_number(tick.types[n])}
        self.arrays: set[str] = set()

    def write(self) -> list[str]:
        out: list[str] = []
        group: list[Equation] = []
        for n, step in enumerate(self.steps):
            if isinstance(step, Whole):
                group.append(step.equation)
                continue
            out += self._wholes(group, self.steps[n:])
            group = []
            out += self._run(step)
        out += self._wholes(group, ())
        written = {e.name for s in self.steps for e in _equations(s)} & self.tick.states
        kept = [s.name for s in self.tick.tick.unit.states if s.name in written]
        items = ", ".join(f'"{short(n)}": {self.tick.array(Ref(n), self.apart)}' for n in kept)
        sizes = {n for size in self.tick.rule.plan.type.shape for n in size.symbols()}
        lines = reuse_names([*out, f"return {{{items}}}"], {"g", "numbers", "run", *sizes, *map(short, self.tick.states), *self.tick.inputs})
        return [part for line in lines for part in ([line] if line.startswith("#") else wrapped(line, 4))]

    def _text(self, a: Atom) -> str:
        """An array, or a number of the prologue."""
        assert not isinstance(a, Num)
        name = a.name
        if isinstance(a, Ref) and (name in self.tick.numbers or (name in self.tick.inputs and is_number(self.tick.types[name]))):
            return f'numbers["{self.tick._scalar(name)}"]'
        text = self.tick.array(a, self.apart)
        if isinstance(a, Last) or name in self.tick.inputs:
            self.arrays.add(text)
        return text

    def _wholes(self, equations: list[Equation], after: Iterable[Step]) -> list[str]:
        if not equations:
            return []
        inside = {e.name for e in equations}
        outputs = {n for n in inside if n in self.tick.states}
        outputs |= {a.name for s in after for e in _equations(s) for a in e.args if isinstance(a, Ref)} & inside
        given = {_key(a): self._text(a) for e in equations for a in e.args if not isinstance(a, Num) and not (isinstance(a, Ref) and a.name in inside)}
        for n in inside & self.tick.states:
            self.tick.names.taken[n] = self.apart[n]
        body = RuleBody(self.tick.names, self.tick.types, equations, outputs, given)
        body.matrix = self.tick.rule.plan.rule.accepts == "matrix"
        body.cautious = self.tick.cautious
        for e in equations:
            body.equation(e)
        return body.lines

    def _run(self, s: Segment) -> list[str]:
        low = {a.name for a in s.reads if isinstance(a, Ref) and a.name in self.low}
        name = self.tick.segment(s, self.apart, self.late, low)
        reads = [self._text(a) for a in s.reads]
        if len(low) == len(reads):  # nothing else says in which precision the pass runs
            reads = [f"{text}.to(g.dtype)" for text in reads]
            self.arrays.add("g")
        scalars = [self.late[n] if n in self.late else self._text(Ref(n)) for n in s.scalars]
        results = [self.tick.array(Ref(n), self.apart) for n in s.writes]
        left = ", ".join(results) if len(results) > 1 else f"({results[0]},)"
        return [f"{left} = run({name}, {_tuple(reads)}, {_tuple(scalars)})"]


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _equations(step: Step) -> tuple[Equation, ...]:
    return step.equations if isinstance(step, Segment) else (step.equation,)


def _key(a: Atom) -> str:
    assert not isinstance(a, Num)
    return f"last {a.name}" if isinstance(a, Last) else a.name


def _behind_where(equations: Iterable[Equation]) -> set[str]:
    """The numbers that a choice reads, directly or not: they are computed even where they are not chosen."""
    defined: dict[str, set[str]] = {}
    stack: list[str] = []
    for e in equations:
        reads = [a.name for a in e.args if isinstance(a, Ref)]
        defined.setdefault(e.name, set()).update(reads)
        stack += reads if e.op == "where" else []
    found: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += defined.get(name, ())
    return found
