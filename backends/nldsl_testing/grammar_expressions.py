"""Typed expressions of a block: numbers, vectors, operators; gates in (0, 1), rates and keys.

Every choice has its simplest alternative first, which is what hypothesis shrinks to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from nldsl_testing.grammar_values import NUMBER, Flow, Memory, Type, Value, of, operator, vector

T = TypeVar("T")
DEPTH = 2
SMOOTH = ("tanh", "sigmoid", "silu", "gelu", "softplus")
KINKED = ("relu", "abs", "sign")


@dataclass
class Draw:
    """Choices of hypothesis."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    wild: bool = False

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def chance(self, n: int) -> bool:
        """Once in n times."""
        return n <= 1 or self.draw(st.integers(0, n - 1)) == n - 1

    def count(self, least: int, most: int) -> int:
        return int(self.draw(st.integers(least, most)))


@dataclass
class Names:
    """New names of a block; `params` are the lines that declare its params, `body` the other lines."""

    used: dict[str, int] = field(default_factory=dict)

    def new(self, stem: str) -> str:
        self.used[stem] = self.used.get(stem, 0) + 1
        return f"{stem}{self.used[stem]}"


@dataclass
class Expressions:
    """Expressions over what a place in a block can see.

    Attributes:
        sizes: the names of the dimensions, with their values by default.
        streams: named values; the first is a vector input.
        operators: params that may be applied.
        memories: of this place, those not yet written among them.
        suffix: what names get inside a `for`.
        copies: the number of a copy of the `each` around, if any.
        layer: gives the name of a block with params, which may be used anywhere.
    """

    choice: Draw
    names: Names
    flow: Flow
    sizes: dict[str, int]
    streams: list[tuple[Value, Type]] = field(default_factory=list)
    operators: list[tuple[str, str, str]] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    suffix: str = ""
    copies: str = ""
    layer: Callable[[], str] | None = None
    windows: tuple[str, ...] = ("2", "3", "4")
    tokens: list[tuple[str, str]] = field(default_factory=list)

    def inside(self, **changes: Any) -> Any:
        """This place seen from inside a loop: what is added there is not seen here."""
        return replace(self, streams=list(self.streams), operators=list(self.operators), memories=list(self.memories), lines=[], **changes)

    # --- declarations --------------------------------------------------------------------------------

    def param(self, type: Type, init: str = "") -> str:
        name = self.names.new("W" if type.kind == "map" else "p") + self.suffix
        self.lines.append(f"param {name} : {type}{f' = {init}' if init else ''}")
        return name

    def operator(self, a: str, b: str) -> str:
        """A param from a to b, an old one or a new one."""
        known = [name for name, *sides in self.operators if sides == [a, b]]
        if known and not self.choice.chance(3):
            return self.choice.pick(known)
        name = self.param(operator(a, b))
        self.operators.append((name, a, b))
        return name

    def equation(self, value: Value, type: Type, stem: str = "z") -> Value:
        """A named stream."""
        name = self.names.new(stem) + self.suffix
        self.lines.append(f"{name} = {value}")
        named = Value(name, value.deps)
        self.streams.append((named, type))
        return named

    # --- vectors -------------------------------------------------------------------------------------

    def any_size(self) -> str:
        return self.choice.pick(list(self.sizes))

    def known(self, type: Type) -> list[Value]:
        return [v for v, t in self.streams if t == type]

    def plain(self, n: str) -> Value:
        """A vector that depends on no memory."""
        free = [v for v in self.known(vector(n)) if not v.deps]
        first, type = self.streams[0]
        return free[0] if free else of(f"{self.operator(type.b, n)}({{0}})", first)

    def leaf(self, n: str) -> Value:
        known = self.known(vector(n))
        return self.choice.pick(known) if known else self.plain(n)

    def vector(self, n: str, depth: int = DEPTH) -> Value:
        if n == "1":
            return self.number(depth)
        if depth <= 0:
            return self.leaf(n)
        options: list[Callable[[str, int], Value]] = [self._leaf, self._applied, self._activated, self._sum, self._read, self._scaled,
                                                      self._normalised, self._product, self._windowed, self._read, self._chosen, self._last,
                                                      self._layer]  # fmt: skip
        return self.choice.pick(options)(n, depth)

    def _leaf(self, n: str, depth: int) -> Value:
        return self.leaf(n)

    def _applied(self, n: str, depth: int) -> Value:
        if self.tokens and self.choice.chance(4):
            token, classes = self.choice.pick(self.tokens)
            return Value(f"{self.operator(classes, n)}({token})")
        a = self.any_size()
        return of(f"{self.operator(a, n)}({{0}})", self.vector(a, depth - 1))

    def _activated(self, n: str, depth: int) -> Value:
        return of(f"{self.choice.pick(SMOOTH + KINKED)}({{0}})", self.vector(n, depth - 1))

    def _layer(self, n: str, depth: int) -> Value:
        if self.layer is None or not self.choice.chance(2):
            return self.leaf(n)
        return of(f"{self.layer()}({{0}})", self.vector(n, depth - 1))

    def _sum(self, n: str, depth: int) -> Value:
        sign = self.choice.pick("+-")
        return of(f"{{0.text}} {sign} {{1.tight}}", self.vector(n, depth - 1), self.vector(n, depth - 1), loose=True)

    def _scaled(self, n: str, depth: int) -> Value:
        return of("{0.tight} * {1.tight}", self.number(depth - 1), self.vector(n, depth - 1), loose=True)

    def _product(self, n: str, depth: int) -> Value:
        return of("{0.tight} * tanh({1})", self.vector(n, depth - 1), self.vector(n, depth - 1), loose=True)

    def _normalised(self, n: str, depth: int) -> Value:
        return of(f"{self.choice.pick(['norm', 'unit', 'softmax'])}({{0}})", self.vector(n, depth - 1))

    def _chosen(self, n: str, depth: int) -> Value:
        a, b = self.vector(n, depth - 1), self.vector(n, depth - 1)
        if self.choice.chance(2):
            return of("where({0}, {1}, {2})", self.number(depth - 1), a, b)
        return of(f"{self.choice.pick(['max', 'min'])}({{0}}, {{1}})", a, b)

    def _last(self, n: str, depth: int) -> Value:
        known = [v for v in self.known(vector(n)) if not v.text.startswith("sum(")]
        if not known:
            return self.leaf(n)
        value = self.choice.pick(known)
        return Value(f"last {value}", value.deps)

    def _windowed(self, n: str, depth: int) -> Value:
        return self.windowed(self.leaf(n), n)

    def windowed(self, x: Value, n: str) -> Value:
        """A window of ticks."""
        even = self.sizes.get(n, 1) % 2 == 0
        form = self.choice.pick(["delay({0}, 2)", "conv({0}, 3)", "sum(2 ^ -j * delay({0}, j) for j in 0 .. 3)", *(["rope({0})"] * even)])
        return Value(form.format(x), x.deps)

    # --- memories ------------------------------------------------------------------------------------

    def when(self, memory: Memory) -> str:
        """Which state is read: now, before the tick, or when a window began."""
        times = ["last ", "", f"start({self.choice.pick(self.windows)}) "]
        if memory.kind in ("store", "computed"):
            return ""
        if memory.open:
            times.remove("")
        return self.choice.pick(times)

    def index(self, memory: Memory) -> str | None:
        """A whole number as the key of a memory, now and then, where there is one that fits."""
        fitting = [token for token, classes in self.tokens if classes == memory.type.a]
        return self.choice.pick(fitting) if memory.kind == "linear" and fitting and self.choice.chance(3) else None

    def at(self, memory: Memory, argument: Value) -> Value:
        """An argument at which a memory is read."""
        self.flow.add(memory.node, argument.deps)
        return argument

    def _read(self, n: str, depth: int) -> Value:
        giving = [m for m in self.memories if (m.type.b == n and m.kind != "number" and not (m.open and m.kind == "store"))]
        back = [m for m in self.memories if m.kind == "linear" and m.type.a == n and m.type.b != "1"]
        if not giving and not back:
            return self._applied(n, depth)
        m = self.choice.pick([*giving, *back])
        return self.read(m, back=m not in giving or (m in back and self.choice.chance(4)), depth=depth)

    def read(self, m: Memory, back: bool = False, depth: int = DEPTH, when: str | None = None) -> Value:
        when = self.when(m) if when is None else when
        own = frozenset({m.node})
        if m.kind in ("vector", "number"):
            return Value(f"{when}{m.name}", own)
        a, name = (m.type.b, f"transpose({when}{m.name})") if back else (m.type.a, f"{when}{m.name}")
        if not back and (index := self.index(m)) is not None:
            return Value(f"{name}({index})", own)
        argument = self.vector(a, depth - 1)
        self.flow.add(m.node, argument.deps)
        return Value(f"{name}({argument})", own | argument.deps)

    # --- numbers -------------------------------------------------------------------------------------

    def number(self, depth: int = DEPTH) -> Value:
        if depth <= 0:
            return self.choice.pick([Value("0.5"), *self.known(NUMBER), *([Value(f"({self.copies} + 1)")] if self.copies else [])])
        n = self.any_size()
        options: list[Callable[[], Value]] = [
            lambda: self.number(0),
            lambda: of(f"tanh({self.operator(n, '1')}({{0}}))", self.vector(n, depth - 1)),
            lambda: of("mean({0})", self.vector(n, depth - 1)),
            lambda: of("dot({0}, {1})", self.vector(n, depth - 1), self.leaf(n)),
            lambda: of("1 / (1 + sqnorm({0}))", self.vector(n, depth - 1), loose=True),
            lambda: of("sqrt(0.1 + sqnorm({0}))", self.vector(n, depth - 1)),
            lambda: of("log(1 + sqnorm({0}))", self.vector(n, depth - 1)),
            lambda: of("{0.tight} * {1.tight}", self.number(depth - 1), self.number(depth - 1), loose=True),
            lambda: self._number_memory(depth),
            lambda: Value("1 / (1 + count())", loose=True),
            lambda: Value(self.param(NUMBER, self.choice.pick(["0.5", "zeros", "log(uniform(1, 2))"]))),
            lambda: of("min({0}, {1})", self.number(depth - 1), self.number(depth - 1)),
        ]
        return self.choice.pick(options)()

    def _number_memory(self, depth: int) -> Value:
        giving = [m for m in self.memories if m.type.b == "1" and m.kind != "store"]
        return self.read(self.choice.pick(giving), depth=depth) if giving else self.number(depth - 1)

    def gate(self, fixed: bool = False) -> Value:
        """A number in (0, 1); `fixed` ones hold for all ticks."""
        if fixed:
            return Value(self.choice.pick(["0.9", "0.5", "1", f"sigmoid({self.param(NUMBER, '1')})" if self.choice.chance(2) else "0.8"]))
        options: list[Callable[[], Value]] = [
            lambda: Value("0.9"),
            lambda: Value("1 - 0.5 ^ count()", loose=True),
            lambda: of("sigmoid({0})", self.number(1)),
            lambda: of("1 - 0.5 * sigmoid({0})", self.number(1), loose=True),
            lambda: of("exp(-softplus({0}))", self.number(1)),
            lambda: Value("1"),
            lambda: Value(f"1 - 2 ^ (-1 - {self.copies})" if self.copies else "0", loose=bool(self.copies)),
            lambda: of("sigmoid({0} + 2)", self._number_memory(1)),
        ]
        if self.choice.wild:
            options += [lambda: of("exp({0})", self.number(1)), lambda: Value("1.05")]
        return self.choice.pick(options)()

    def gates(self, n: str, fixed: bool = False) -> Value:
        """A vector of gates."""
        if fixed:
            return Value(f"sigmoid({self.param(vector(n), 'ones')})")
        return of(self.choice.pick(["sigmoid({0})", "exp(-softplus({0}))", "1 - 0.3 * sigmoid({0})"]), self.vector(n, 1), loose=True)

    def rate(self, fixed: bool = False) -> Value:
        """A step size."""
        if fixed:
            return Value(self.choice.pick(["0.1", "0.3", f"softplus({self.param(NUMBER, '-2')})" if self.choice.chance(2) else "0.2"]))
        if self.choice.wild:
            return self.choice.pick([lambda: Value("1"), lambda: self.number(1), lambda: Value("3")])()
        return self.choice.pick([lambda: Value("0.3"), lambda: of("0.4 * {0.tight}", self.gate(), loose=True), lambda: Value("0.1")])()

    def key(self, n: str) -> Value:
        """A vector of bounded length."""
        if n == "1":
            return of("tanh({0})", self.number(1))
        if self.choice.wild:
            return self.vector(n, 1)
        form = self.choice.pick(["unit({0})", "unit({0})", "softmax({0})"])
        return of(form, self.vector(n, 1))

    # --- operators -----------------------------------------------------------------------------------

    def map(self, a: str, b: str, depth: int = DEPTH) -> Value:
        known = [Value(name) for name, *sides in self.operators if sides == [a, b]]
        known += [v for v, t in self.streams if t == operator(a, b)]
        if depth <= 0 and known:
            return self.choice.pick(known)
        options: list[Callable[[], Value]] = [
            lambda: of("outer({0}, {1})", self.vector(b, depth - 1), self.key(a)),
            lambda: Value(self.operator(a, b)),
            lambda: of("{0.text} + {1.tight}", self.map(a, b, depth - 1), self.map(a, b, depth - 1), loose=True),
            lambda: of("{0.tight} * {1.tight}", self.number(1), self.map(a, b, depth - 1), loose=True),
            lambda: of("tanh({0})", self.map(a, b, depth - 1)),
        ]
        if "1" in (a, b):
            options = options[1:]
        else:
            middle = self.any_size()
            options += [
                lambda: of("{0.tight} * {1.tight}", self.gates(a), self.map(a, b, depth - 1), loose=True),
                lambda: of("scale_values({0}, {1})", self.gates(b), self.map(a, b, depth - 1)),
                lambda: of("transpose({0})", self.map(b, a, depth - 1)),
                lambda: of("matmul({0}, {1})", self.map(middle, b, depth - 1), self.map(a, middle, depth - 1)),
            ]
        if depth <= 0:
            return options[0]()
        states = [m for m in self.memories if m.kind == "linear" and m.type == operator(a, b)]
        if states:
            options.append(lambda: self._state(self.choice.pick(states)))
        return self.choice.pick(options)()

    def _state(self, m: Memory) -> Value:
        return Value(f"{self.when(m)}{m.name}", frozenset({m.node}))
