"""Bodies of blocks: memories and what stands around them, loops, other blocks, outputs."""

from __future__ import annotations

import re
from dataclasses import replace

from nldsl_testing.grammar_expressions import Draw, Expressions, Names
from nldsl_testing.grammar_memories import Memories, Step
from nldsl_testing.grammar_structures import File
from nldsl_testing.grammar_values import NUMBER, Flow, Memory, Type, Value, of, operator, vector

SIZES = {"d": 3, "e": 2}


class Body:
    """The statements of one block."""

    def __init__(self, place: Expressions, file: File, loops: list[tuple[str, str, Memory]] | None = None, parts: bool = True):
        self.e, self.file, self.choice, self.parts = place, file, place.choice, parts
        self.memories = Memories(place, file)
        self.loops: list[tuple[str, str, Memory]] = loops if loops is not None else []

    def write(self, most: int, depth: int) -> None:
        """Up to so many memories, and loops nested so deep."""
        steps = [self.memories.announce()]
        while len(steps) < most and self.choice.chance(3):
            steps.append(self.memories.announce())
        late = [s for s in steps if s.memory.kind != "store" and not s.anchored and self.choice.chance(5)]
        for step in late:
            self._answers(step)
        for step in steps:
            if step not in late:
                while depth and self.choice.chance(3):
                    self.statement(depth)
                self.memories.write(step)
        for step in late:
            self._loss(step)
        while depth and self.choice.chance(3):
            self.statement(depth)

    def statement(self, depth: int) -> None:
        options = [self._equation, self._each, self._for, self._chain, self._operator, self._use]
        self.choice.pick(options)(depth)

    def _equation(self, depth: int) -> None:
        n = self.choice.pick([*self.e.sizes, "1"])
        self.e.equation(self.e.vector(n), vector(n))

    def _operator(self, depth: int) -> None:
        """An operator that is computed, and applied."""
        a, b = self.e.any_size(), self.e.any_size()
        value = self.e.map(a, b)
        name = self.e.equation(value, operator(a, b), "V").text
        self.e.flow.add(name, value.deps)
        for node in value.deps:
            self.e.flow.add(node, {name})
        self.e.memories.append(Memory(name, operator(a, b), "computed", name, open=False))

    # --- objectives that are streams -----------------------------------------------------------------

    def _answers(self, step: Step) -> None:
        """A stream that reads the memory as it was, for others to build on."""
        m = step.memory
        read = self.e.read(m, depth=1, when="last ")
        loose = of("{0.text} + {1}", self.e.vector(m.type.b, 1), read, loose=True)
        step.loss = self.e.equation(loose, vector(m.type.b)).text

    def _loss(self, step: Step) -> None:
        m, answer = step.memory, Value(step.loss, frozenset({step.memory.node}))
        found = answer if self.choice.chance(2) else of("{0} + {1.tight}", answer, self.e.vector(m.type.b, 1), loose=True)
        if m.type.b != "1" and not self.choice.chance(4):
            found = self._kept(self.e.equation(found, m.type), m.type.b)
        if self.e.tokens and self.choice.chance(2):
            token, classes = self.choice.pick(self.e.tokens)
            loss = of(f"cross_entropy({self.e.operator(m.type.b, classes)}({{0}}), {token})", found)
        elif m.type.b == "1":
            loss = of("0.5 * ({0} - {1.tight})^2", found, self.e.number(1), loose=True)
        else:
            loss = of("0.5 * sqnorm({0} - {1.tight})", found, self.e.vector(m.type.b, 1), loose=True)
        self.e.flow.add(m.node, loss.deps)
        step.loss = self.e.equation(loss, NUMBER, "loss").text
        self.memories.write(step)

    def _kept(self, answer: Value, n: str) -> Value:
        """An answer on its way to the loss with those of earlier ticks: a window of them, or what a store has of them."""
        if self.choice.chance(2):
            return of("{0} + {1.tight}", answer, self.e.windowed(answer, n), loose=True)
        name = self.e.names.new("M") + self.e.suffix
        key, value = (of(f"{self.e.operator(n, n)}({{0}})", self.choice.pick([answer, self.e.vector(n, 0)])) for _ in range(2))
        self.e.lines.append(f"memory {name} : store({n} -> {n}{self.choice.pick(['', ', window = 3'])}) {{ key {key}  value {value} }}")
        return of(f"{{0}} + {name}({{1}})", answer, self.choice.pick([answer, self.e.vector(n, 0)]), loose=True)

    # --- loops -------------------------------------------------------------------------------------

    def _result(self, inner: Expressions, body: Body, stem: str = "o") -> tuple[Value, str]:
        """A stream of the body that reads what was made there, and its size."""
        made = [m for m in inner.memories if m not in self.e.memories]
        n = self.choice.pick([*self.e.sizes, "1"]) if not made else made[-1].type.b
        value = inner.read(made[-1], depth=1) if made else inner.vector(n)
        for m in made[:-1]:
            value = of("{0.text} + {1.tight}", value, body.answer(m, n), loose=True)
        return inner.equation(value, vector(n), stem), n

    def answer(self, m: Memory, n: str) -> Value:
        """What a memory says, as a vector of n entries."""
        value = self.e.read(m, depth=1)
        return value if m.type.b == n else self.to(value, m.type.b, n)

    def to(self, value: Value, a: str, n: str) -> Value:
        if a == n:
            return value
        if a == "1":
            return of(f"{{0.tight}} * {self.e.plain(n).tight}", value, loose=True)
        if n == "1":
            return of("sum({0})", value)
        return of(f"{self.e.operator(a, n)}({{0}})", value)

    def _each(self, depth: int) -> None:
        h = self.e.names.new("h")
        inner = self.e.inside(copies=h)
        body = Body(inner, self.file, parts=self.parts)
        body.write(2, depth - 1)
        o, n = self._result(inner, body)
        self.e.lines += [f"each {h} in n {{", *(f"  {line}" for line in inner.lines), "}"]
        table = of("flatten({0})", o)
        to = self.e.any_size()
        out = self.e.param(operator("n" if n == "1" else f"n * {n}", to))
        self.e.equation(of(f"{out}({{0}})", table), vector(to))

    def _for(self, depth: int) -> None:
        if self.e.suffix:
            return self._equation(depth)
        p = self.e.names.new("i")
        clocked = self.choice.chance(2)
        over = self.choice.pick(["[2, 4]", "[1, 2]"] if clocked else ["0 .. 2", "[1, 3]"])
        inner = self.e.inside(suffix=f"[{p}]")
        body = Body(inner, self.file, parts=self.parts)
        step = body.memories.announce(p if clocked else None)
        body.memories.write(step)
        o, n = self._result(inner, body)
        self.e.lines += [f"for {p} in {over} {{", *(f"  {line}" for line in inner.lines), "}"]
        values = ["0", "1"] if over == "0 .. 2" else re.findall(r"\d", over)
        stem = step.memory.name.removesuffix(inner.suffix)
        for value in values:
            self.e.memories.append(replace(step.memory, name=f"{stem}[{value}]", every=value if clocked else step.memory.every))
        self.e.streams.append((Value(f"sum({o} for {p} in {over})", o.deps), vector(n)))
        self.loops.append((over, stem, step.memory))

    def _chain(self, depth: int) -> None:
        """Layers: with params, a memory, a block, or the memories of a `for`."""
        c, i = self.e.names.new("c"), self.e.names.new("i")
        n, over = self.e.any_size(), "0 .. 2"
        start = self.e.vector(n, 1)
        inner = self.e.inside()
        if self.e.suffix:
            return self._equation(depth)
        fitting = [(r, stem, m) for r, stem, m in self.loops if m.kind in ("linear", "network") and "1" not in (m.type.a, m.type.b)]
        kind = self.choice.pick(["params", "memory", "block", "loop"])
        node = f"~{c}"
        if kind == "block" and self.parts:
            part, outs = self.file_part()
            layer = Value(f"{part}(norm({c}))", start.deps)
            if len(outs) > 1:
                name = self.e.names.new("b")
                inner.lines.append(f"{name} = {layer}")
                layer = Value(f"{name}.{self.choice.pick(outs)}", layer.deps)
            deps = layer.deps | start.deps
        else:
            self.e.flow.edges[node] = set(start.deps)
            inner.streams.append((Value(c, frozenset({node})), vector(n)))
            if kind == "loop" and fitting:
                over, stem, m = self.choice.pick(fitting)
                read = Value(f"last {stem}[{i}]({self.to(of('norm({0})', Value(c)), n, m.type.a)})", frozenset({m.node, node}))
                self.e.flow.add(m.node, {node})
                layer = self.to(read, m.type.b, n)
            elif kind == "memory" and depth > 1:
                body = Body(inner, self.file, parts=self.parts)
                step = body.memories.announce()
                body.memories.write(step)
                layer = body.answer(step.memory, n)
            else:
                layer = inner.vector(n)
            self.e.flow.add(node, layer.deps)
            deps = frozenset({node})
        lines = [*inner.lines, f"{c} = {c} + {layer.tight}"]
        self.e.lines += [f"chain {c} = {start} over {i} in {over} {{", *(f"  {line}" for line in lines), "}"]
        self.e.streams.append((Value(c, deps), vector(n)))

    # --- other blocks --------------------------------------------------------------------------------

    def file_part(self) -> tuple[str, list[str]]:
        return part_block(self.choice, self.file)

    def _use(self, depth: int) -> None:
        """A block with memories of its own, used like a function."""
        n = self.e.any_size()
        x = self.e.vector(n, 1)
        if not self.parts:
            return self._equation(depth)
        part, outs = self.file_part()
        name = self.e.names.new("b") + self.e.suffix
        self.e.lines.append(f"{name} = {part}({x})")
        for out in outs:
            text = name if len(outs) == 1 else f"{name}.{out}"
            self.e.streams.append((Value(text, x.deps), vector(n)))

    # --- outputs -----------------------------------------------------------------------------------

    def outputs(self, first: int) -> list[str]:
        """The output y reads every memory and every stream that nothing else reads; there may be more. Streams before `first` are inputs."""
        n = self.e.streams[0][1].b
        parts = [self.answer(m, n) for m in self.e.memories if m.kind != "computed"]
        for value, type in self.e.streams[first:]:
            word = re.escape(value.text)
            lines = [line for line in self.e.lines if not re.match(rf"\s*{word} =", line)]
            read = any(re.search(rf"(?<![\w.]){word}(?!\w)", t) for t in (*lines, *(p.text for p in parts)))
            if not read and type.kind != "map":
                parts.append(self.to(value, type.b, n))
        found = Value(" + ".join(p.tight for p in parts) or self.e.vector(n).text, loose=True)
        lines = [f"out y = {found}"]
        names = ["y"]
        while self.choice.chance(4) and len(names) < 3:
            size = self.choice.pick([n, "1"])
            names.append(f"r{len(names)}")
            lines.append(f"out {names[-1]} = {self.e.vector(size)}")
        self.e.lines += lines
        return names


def part_block(choice: Draw, file: File) -> tuple[str, list[str]]:
    """A block that is used by others: its name and outputs. All of them are real[d], as its input."""
    known = [n for n in file.items if n.startswith("part")]
    if known and not choice.chance(2):
        name = choice.pick(known)
        return name, re.findall(r"\n  out (\w+)", file.items[name])
    place = Expressions(choice, Names(), Flow(), dict(SIZES), [(Value("x"), vector("d"))])
    body = Body(place, file, parts=False)
    body.write(1, 1 if choice.chance(3) else 0)
    n = place.streams[0][1].b
    reads = [body.answer(m, n).tight for m in place.memories if m.kind != "computed"]
    place.lines.append(f"out y = {' + '.join(reads)}")
    if choice.chance(3):
        place.lines.append(f"out z = {place.vector(n, 1)}")
    name = f"part{len(known) + 1}"
    lines = "".join(f"  {line}\n" for line in ["in x : real[d]", *place.lines])
    file.items[name] = f"block {name}(d, e = 2, n = 2) {{\n{lines}}}\n"
    return name, re.findall(r"\n  out (\w+)", file.items[name])


def main_block(choice: Draw, file: File, memories: int) -> str:
    sizes = dict(SIZES)
    if choice.chance(3):
        sizes["f"] = 4
    inputs, streams = ["in x : real[d]"], [(Value("x"), vector("d"))]
    tokens: list[tuple[str, str]] = []
    if choice.chance(4):
        inputs.append("in u : real[e]")
        streams.append((Value("u"), vector("e")))
    if choice.chance(6):
        inputs.append("in s : real")
        streams.append((Value("s"), NUMBER))
    if choice.chance(4):
        inputs.append("in token : int[e]")
        tokens.append(("token", "e"))
    formals = {**sizes, "n": 2}
    windows = ["2", "3", "4"]
    if choice.chance(4):
        formals["chunk"] = 4
        windows.append("chunk")
    place = Expressions(choice, Names(), Flow(), sizes, streams, windows=tuple(windows), tokens=tokens, layer=file.layer)
    first = len(place.streams)
    for stem, n in (("k", "d"), ("v", "d"), ("q", "e")):
        if choice.chance(2):
            place.equation(of(choice.pick([f"{place.operator('d', n)}({{0}})", f"unit({place.operator('d', n)}({{0}}))"]), streams[0][0]), vector(n), stem)
    body = Body(place, file)
    body.write(memories, 2)
    body.outputs(first)
    text = "".join(f"  {line}\n" for line in [*inputs, *place.lines])
    return f"block main({', '.join(f'{n} = {v}' for n, v in formals.items())}) {{\n{text}}}\n"


__all__ = ["Body", "Type", "main_block", "part_block"]
