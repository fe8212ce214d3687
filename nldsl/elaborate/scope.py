"""What a name can stand for while a block is elaborated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nldsl import tree
from nldsl.core import Atom, Axis, Init, Objective, Type
from nldsl.dims import Dim
from nldsl.schedules import Schedule
from nldsl.source import Span


@dataclass(frozen=True)
class Constant:
    """Known before any tick: a Dim, float, str, list of these, tree.Block or tree.Rule."""

    value: Any
    span: Span | None = None


@dataclass(frozen=True)
class Stream:
    """An input, an equation, or an argument given for a formal."""

    atom: Atom
    axes: tuple[Axis, ...]
    span: Span | None = None


@dataclass(frozen=True)
class Operator:
    """A param of operator type: applied, or used as a value."""

    name: str
    axes: tuple[Axis, ...]
    span: Span | None = None


@dataclass(frozen=True)
class Leaf:
    """A param of a block that is the structure of a memory: its place in the block, and its own first value."""

    path: str
    type: Type
    init: Init


@dataclass(frozen=True)
class Structure:
    """A block whose params are the state of a memory; to read the memory is to run the block.

    Without leaves it is wrong, and reported.
    """

    block: tree.Block
    formals: Mapping[str, Binding]
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True)
class Remembered:
    """A memory. `pairs` holds (key, value, window) of a store, filled in when its clauses are elaborated."""

    name: str
    axes: tuple[Axis, ...]
    node: tree.Memory | None
    span: Span | None = None
    pairs: list[Any] | None = None
    structure: Structure | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """The names of its states: one, or one for each param of its structure."""
        return (self.name,) if self.structure is None else tuple(f"{self.name}.{leaf.path}" for leaf in self.structure.leaves)


@dataclass(frozen=True)
class Variable:
    """The memory inside its own objective: `atoms` are its states as the gradient sees them, `memory` what it is outside."""

    atoms: tuple[Atom, ...]
    memory: Remembered
    axes: tuple[Axis, ...]
    span: Span | None = None


@dataclass(frozen=True)
class Called:
    """A block instance with several outputs: `m = f(x)`, then `m.y`."""

    outputs: Mapping[str, Atom]
    axes: tuple[Axis, ...]
    span: Span | None = None


@dataclass(frozen=True)
class Learner:
    """`w`, `g` and `grad` inside a rule: the state reached so far, the state after this rule, the gradient.

    `every` and `offset` are the clock a memory of the rule inherits; `folds` says that the gradient is folded over it.
    `at` is where `g` is taken if not at `last`; with `cut` no outer gradient passes through it, with `given` none through the arguments
    of the steps either. `flush` and `window` are what
    becomes of a partial period, and the window that may be one; `shared`, how gradients of several sequences are one.
    `within` is the learner whose steps a period of this one counts, where these have a period themselves.
    """

    last: Atom
    now: Atom
    memory: str
    objective: Callable[[], Objective] | None
    axes: tuple[Axis, ...]
    every: int = 1
    offset: int = 0
    folds: bool = False
    over: str = "sum"
    at: Atom | None = None
    cut: bool = False
    given: bool = False
    flush: str = "carry"
    window: int | None = None
    shared: str | None = None
    within: Learner | None = None
    gradients: dict[Atom, Atom] = field(default_factory=dict)


Binding = Constant | Stream | Operator | Remembered | Variable | Called


@dataclass
class Scope:
    """Names of one brace level. `axes` are those of the enclosing `each`es, outermost first; `schedules` those of a file, by block."""

    names: dict[str, Binding]
    parent: Scope | None = None
    axes: tuple[Axis, ...] = ()
    learner: Learner | None = None
    suffix: str = ""
    schedules: Mapping[str, Schedule] = field(default_factory=dict)

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def find_learner(self) -> Learner | None:
        scope: Scope | None = self
        while scope is not None:
            if scope.learner is not None:
                return scope.learner
            scope = scope.parent
        return None

    def defines(self, name: str) -> bool:
        """Whether the rule around this scope gives `name` a meaning of its own, so that it is not `w` or `g`."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True
            if scope.learner is not None:
                return False
            scope = scope.parent
        return False

    def visible(self) -> set[str]:
        names: set[str] = set()
        scope: Scope | None = self
        while scope is not None:
            names |= scope.names.keys()
            scope = scope.parent
        return names

    def inner(self, axes: tuple[Axis, ...] | None = None, suffix: str = "") -> Scope:
        return Scope({}, self, self.axes if axes is None else axes, None, self.suffix + suffix)


@dataclass(frozen=True)
class Sizes:
    """Sample values of symbols, used where elaboration needs a number that is not given."""

    values: Mapping[str, int]

    def whole(self, dim: Dim) -> int | None:
        """The number, None where the sizes given make it a fraction."""
        exact = dim.constant
        return None if exact is not None and exact.denominator != 1 else self.integer(dim)

    def integer(self, dim: Dim) -> int | None:
        exact = dim.integer
        if exact is not None:
            return exact
        value = dim.value(self.values)
        return int(value) if value.denominator == 1 else max(1, int(value))
