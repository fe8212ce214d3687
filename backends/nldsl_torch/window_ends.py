"""The end of a window: what slow states become at its last tick, and what reads them after that."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from functools import partial

from nldsl.core import Axis, Last, Num, Ref, Type
from nldsl.dims import Dim
from nldsl.lower.windows import Windows
from nldsl_torch import ops
from nldsl_torch.adjoint import Adjoint
from nldsl_torch.adjoint_shapes import Shape
from nldsl_torch.body import Body, Names
from nldsl_torch.recurrence import RecurrenceWriter, due

TIME = Axis("ticks", Dim.symbol("ticks"), 1 << 30)
FEW = 12  # operations that are left to torch as they are


def _slight(text: str) -> bool:
    """Whether lines have few operations, none of them a product."""
    operations = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.BinOp, ast.Call, ast.UnaryOp))]
    return len(operations) <= FEW and not re.search(r"@|\b(linear|apply|unit_solve|matmul|solve)\(", text)


class WindowEnds(RecurrenceWriter):
    """The part of a `WindowWriter` that writes ends of windows.

    Attributes:
        cut, names, body: the window, its names and its lines.
        wide: types inside the window; `same` are names that do not change over its ticks.
        also: lines of further functions.
        sizes_ahead: shapes of what is computed for all windows at once.
        joined: whether the end of a window is one: all slow states step there, or none.
        lates, late_reads: the outputs of `late`, and the streams, fixed values and states that it reads.
    """

    cut: Windows
    names: Names
    body: Body
    wide: dict[str, Type]
    same: set[str]
    also: list[str]
    sizes_ahead: dict[str, Shape]
    joined: bool
    lates: list[str]
    late_reads: tuple[list[str], list[str], list[str]]

    def ends(self, every: int, offset: int) -> str:
        """Whether a period ends with this window."""
        return "ends" if self.joined else due(every, offset, "done")

    def _end(self, after: dict[str, str]) -> list[str]:
        """What slow states become, from streams at the last tick: lines that give the names `after`."""
        slow = {s.name: s for s in self.cut.slow}
        made = {e.name for e in self.cut.end}
        for a in (a for e in self.cut.end if e.op != "fold" for a in e.args):
            if isinstance(a, Last) or (isinstance(a, Ref) and a.name not in made):
                self._at_last(a)  # takes its name
        for n in slow:
            self.body.text(Last(n))
        names = Names(reserved=frozenset(self.names.taken.values()))
        names.taken |= after | {f"last {n}": self.body.text(Last(n)) for n in slow}
        body = Body(names, self.types, {p.name for p in self.unit.params}, self.cut.end, set(slow), self.rounded)
        bound: list[str] = []
        for e in self.cut.end:
            for a in e.args:
                if isinstance(a, Num) or (isinstance(a, Ref) and a.name in made) or e.op == "fold":
                    continue
                key = f"last {a.name}" if isinstance(a, Last) else a.name
                if key not in names.taken:
                    text = self._at_last(a)
                    if text.isidentifier():
                        names.taken[key] = text
                    else:
                        bound.append(f"{names.of(key)} = {text}")
            if e.op == "fold":
                memory = slow[e.attr("memory")]
                body.lines.append(f"{names.of(e.name)} = {self.final(self.cut.sums[e.name])}" + (f" / {memory.every}" if e.attr("over") == "mean" else ""))
            elif e.name in slow and (not self.joined or self.narrow(e) is not None):
                narrow, s = self.narrow(e), slow[e.name]
                text = body.expression(e) if narrow is None else self.widened(body, e, narrow)
                body.note(e.span)
                body.lines.append(f"{names.of(e.name)} = {text} if {self.ends(s.every, s.offset)} else {self.body.text(Last(e.name))}")
            else:
                body.equation(e)
        self.names.taken |= {f"end {n}": t for n, t in names.taken.items()}
        return [*bound, *body.lines]

    def _late(self, after: dict[str, str], gives: list[str]) -> bool:
        """`late(n, streams, fixed, slow states) -> outputs`: what reads slow states after their step, at n ticks between two steps.

        Returns False where that needs more than what comes from outside and these states.
        """
        own = {e.name for e in self.step.equations}
        made = {e.name for e in self.cut.late}
        reads = {a.name: a for e in self.cut.late for a in e.args if not isinstance(a, Num) and a.name not in made}
        put_back = {s.name for s in self.cut.slow if s.reset is not None}  # at the first tick of a window, not one before
        if put_back & {*reads, *gives} or any(isinstance(a, Last) or (n in own and n not in after) for n, a in reads.items()):
            return False
        names = Names()
        types = self._late_types()
        body = Body(names, types, {p.name for p in self.unit.params}, self.cut.late, set(gives), self.rounded)
        for e in self.cut.late:
            body.equation(e)
        still = {n for n in gives if TIME not in types[n].axes}
        for n in gives:
            if n in still:
                body.lines.append(f"{names.of(f'all {n}')} = {self._everywhere(body.text(Ref(n)), n)}")
        needs = [r for r in body.reads if r not in after]
        self.late_reads = [n for n in needs if n not in self.static], [n for n in needs if n in self.static], [n for n in after if n in body.reads]
        args = [names.of(n) for part in self.late_reads for n in part]
        lines = [f"B = {args[-1]}.shape[0]", *body.lines]
        self.also += self._function("late", ["n_"], args, lines, [names.of(f"all {n}" if n in still else n) for n in gives],
                                    f"What reads {', '.join(after)} after their step, at n_ ticks between two steps.", names)  # fmt: skip
        self.lates = gives
        return True

    def _late_types(self) -> dict[str, Type]:
        """The types of what reads slow states after their step: what else it reads may be the same at all ticks too."""
        types = dict(self.wide)
        for e in self.cut.late:
            changes = any(TIME in types[a.name].axes for a in e.args if not isinstance(a, Num))
            types[e.name] = self._timed(self.types[e.name]) if changes else self.types[e.name]
        return types

    def _late_calls(self, after: dict[str, str], outputs: list[str], fires: str) -> list[str]:
        """Lines for the outputs that read slow states after their step: as before it, and at the last tick as after it."""
        own = {e.name for e in self.cut.late}
        sides = []
        types = self._late_types()
        still = {n for n in outputs if TIME not in types[n].axes}
        for last in (False, True):
            names = Names(reserved=frozenset(self.names.taken.values()))
            body = Body(names, types, {p.name for p in self.unit.params}, self.cut.late, set(outputs), self.rounded)
            bound: list[str] = []
            for a in (a for e in self.cut.late for a in e.args if not isinstance(a, Num) and a.name not in own):
                key = f"last {a.name}" if isinstance(a, Last) else a.name
                if key in names.taken:
                    continue
                text = self._at(a, after, last)
                if text.isidentifier():
                    names.taken[key] = text
                else:
                    bound.append(f"{names.of(key)} = {text}")
            for e in self.cut.late:
                body.equation(e)
            for n in (n for n in outputs if n in still):
                size = "1" if last else "n_"
                value = names.of(n) if n not in after else after[n] if last else self.body.text(Last(n))
                body.lines.append(f"{names.of(f'all {n}')} = {self._everywhere(value, n).replace('n_', size)}")
            self.names.taken |= {f"late {last} {n}": t for n, t in names.taken.items()}
            sides.append(([*bound, *body.lines], [names.of(f"all {n}" if n in still else n) for n in outputs]))
        (lines, olds), (ends, news) = sides
        whole = [self.names.of(n) for n in outputs]
        joined = []
        for n, old, new, name in zip(outputs, olds, news, whole, strict=True):
            d = 1 + len(self.types[n].axes)
            joined.append(f"{name} = torch.cat([{old}.narrow({d}, 0, n_ - 1), {new}], {d})")
        return [*lines, f"if {fires}:", *(f"    {x}" for x in (*ends, *joined)), "else:",
                *(f"    {name} = {old}" for name, old in zip(whole, olds, strict=True))]  # fmt: skip

    def _at(self, atom: Ref | Last, after: dict[str, str], last: bool) -> str:
        """What an equation of `late` reads, at all ticks or at the last one."""
        if isinstance(atom, Last):
            return self.body.text(atom)
        if atom.name in after:
            return after[atom.name] if last else self.body.text(Last(atom.name))
        text = self.body.text(atom)
        if not last or atom.name in self.static or atom.name in self.same:
            return text
        return f"{text}.narrow({1 + len(self.types[atom.name].axes)}, n_ - 1, 1)"

    def _at_last(self, atom: Ref | Last) -> str:
        """What an equation of `end` reads: a state, a sum, or a stream at the last tick."""
        if isinstance(atom, Last):
            return self.final(atom.name) if atom.name in self.cut.sums.values() else self.body.text(atom)
        if atom.name in {s.name for s in self.cut.fast} and self.types[atom.name].kind == "map":
            return self.final(atom.name)
        text = self.body.text(atom)
        if atom.name in self.static or atom.name in self.same:
            return text
        return f"{text}.select({1 + len(self.types[atom.name].axes)}, -1)"

    def _timed(self, t: Type) -> Type:
        return replace(t, axes=(*t.axes, TIME)) if TIME not in t.axes else t

    def final(self, state: str) -> str:
        """The name of a fast state after the last tick."""
        return self.names.of(f"final {state}")

    def _everywhere(self, text: str, name: str) -> str:
        """What is the same at all ticks, as a stream."""
        t = self.types[name]
        axes, shape = "".join(f"{ops.literal(a.size)}, " for a in t.axes), ", ".join(map(ops.literal, t.shape))
        return f"{text}.unsqueeze(-{len(t.shape) + 1}).expand(B, {axes}n_, {shape})"

    def _function(self, name: str, numbers: list[str], args: list[str], lines: list[str], outputs: list[str], doc: str, names: Names) -> list[str]:
        """A function and its reverse, or where there is little in it a function alone: a reverse is a call in itself."""
        if _slight("\n".join(lines)):
            head = [f"def {self.prefix}_{name}({', '.join([*numbers, *args])}):", f'    """{doc}"""']
            return [*head, *(f"    {line}" for line in lines), f"    return {', '.join(outputs)},", "", ""]
        core = {text: core for core, text in reversed(names.taken.items())}
        sizes = {text: self._size(core[text]) for text in args if text in core}
        whole = frozenset(text for text in args if text in core and core[text] in self.types and self.types[core[text]].kind in ("int", "bool"))
        return [*Adjoint(names.fresh, args, sizes, whole).write(f"{self.prefix}_{name}", numbers, lines, outputs, doc, partial(self._fused, args)), "", ""]

    def _fused(self, args: list[str], text: str) -> str:
        """What the decorator of a function needs for whole windows to be compiled; nothing, where its text has parts that cannot be."""
        if "taped(" in text:
            return ""
        (batch,) = re.findall(r"^B = (\w+)\.shape", text, re.M)
        return f", ticks={self.cut.ticks}, batch={args.index(batch)}"

    def _size(self, name: str) -> Shape:
        """The shape of an argument of the function of a window."""
        core = name.removeprefix("last ").removeprefix("start ").removeprefix("given ").removeprefix("first ")
        if name in self.wide:
            core = name
        t = self.wide.get(core)
        if t is None:
            return self.sizes_ahead.get(self.names.taken.get(name, ""))
        t = self.types[core] if core in self.states or core in self.cut.sums.values() else t
        sizes = ["n_" if a is TIME else ops.literal(a.size) for a in t.axes]
        return (*([] if core in self.static else ["B"]), *sizes, *map(ops.literal, t.shape))
