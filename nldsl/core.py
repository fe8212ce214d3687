"""The core language: one block instance as synchronous equations over streams.

    unit     = inputs, params, states, equations, instances, outputs
    equation = NAME = OP(ATOM, ...) {ATTRS}             one operation, its arguments are atoms
    atom     = Ref NAME | Last NAME | Num VALUE         this tick's value | the value before this tick | a constant
    state    = the stream NAME has a value before its first tick, and a clock

A value of a stream has a `Type`. A linear operator `A -> B` is a value like any other: a memory is a state of
operator type, reading it is `apply`, writing it is arithmetic on operators and outer products. `grad` is the
only operation with a body (an `Objective`); the pass `differentiate` replaces it by its derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nldsl.dims import Dim
from nldsl.schedules import Schedule
from nldsl.source import NOWHERE, Span


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Axis:
    """The leading axis of an `each`; `id` is unique in the unit, `depth` counts the `each`es around it."""

    id: str
    size: Dim
    depth: int = 0


@dataclass(frozen=True)
class Type:
    """What a stream carries at one tick: `real[d]`, an operator `d -> e`, `int[n]`, `bool`; once per copy of `axes`.

    `shape` is the shape of the tensor without axes; of an operator it is (codomain, domain).
    """

    kind: str  # real, map, int, bool
    shape: tuple[Dim, ...] = ()
    axes: tuple[Axis, ...] = ()
    bound: Dim | None = None

    @property
    def is_scalar(self) -> bool:
        return self.kind != "map" and not self.shape

    @property
    def domain(self) -> Dim:
        return self.shape[1]

    @property
    def codomain(self) -> Dim:
        return self.shape[0]

    def __str__(self) -> str:
        each = "".join(f" each {a.id.split('.')[0]}" for a in self.axes)
        if self.kind == "map":
            return f"{self.domain} -> {self.codomain}{each}"
        if self.kind == "int" and self.bound is not None:
            return f"int[{self.bound}]{each}"
        dims = ", ".join(str(s) for s in self.shape)
        return (f"{self.kind}[{dims}]" if self.shape else self.kind) + each


# --- atoms -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ref:
    name: str
    span: Span = _span()


@dataclass(frozen=True)
class Last:
    """The value of a state, or of any stream, before this tick."""

    name: str
    span: Span = _span()


@dataclass(frozen=True)
class Num:
    value: Dim | float
    span: Span = _span()


Atom = Ref | Last | Num


# --- declarations ------------------------------------------------------------------------------

# An initial value is a small expression, evaluated once: ("normal", 0.02), ("log", ("uniform", 1.0, 16.0)), 0.5.
# `index` names an axis and stands for the number of the copy, `input` a number of a rule; ("pretrained", FILE, TENSOR) is read.
Init = float | Dim | tuple[Any, ...]


@dataclass(frozen=True)
class Input:
    name: str
    type: Type
    span: Span = _span()


@dataclass(frozen=True)
class Param:
    """A tensor of the outermost level, trained by the outer objective."""

    name: str
    type: Type
    init: Init
    default_init: bool
    span: Span = _span()
    fixed: bool = False  # drawn or read once and trained by nobody: the first value of a memory


@dataclass(frozen=True)
class State:
    """The stream `name` has a value before the first tick: `init`, or the param `learned`.

    `every` and `offset` are its clock: its equation holds at ticks t with (t + 1 - offset) mod every = 0, t from 0;
    at the others it keeps its value. With `reset` = n the value before tick t is, where t mod n = 0, the first one, or
    that of the state `base` before tick t; a `detached` one takes either as given, without a gradient. What a `sampled` state
    reads is meant as it is when its clock ticks.

    At the end of the stream, in a period that is not complete, the equation of a state with the `flush` "apply" holds once
    more. Of one with "drop", and of one with "apply", the sums of the period are then empty; where there is `begun`, a state
    that holds what this one was when the window began, the state goes back to it. "carry": nothing happens.
    """

    name: str
    type: Type
    init: Init
    span: Span = _span()
    learned: str | None = None
    every: int = 1
    offset: int = 0
    reset: int | None = None
    base: str | None = None
    sampled: bool = False
    flush: str = "carry"
    begun: str | None = None
    detached: bool = False


@dataclass(frozen=True)
class Objective:
    """A scalar as a function of an operator: the equations that depend on the formal `self`, and the result."""

    self: str
    equations: tuple[Equation, ...]
    result: Atom
    span: Span = _span()


@dataclass(frozen=True)
class Equation:
    """`name = op(args)`. Attributes by operation: `grad` has `objective`, `delay` has `ticks`, `index` has `axis`."""

    name: str
    op: str
    args: tuple[Atom, ...]
    span: Span = _span()
    attrs: tuple[tuple[str, Any], ...] = ()

    def attr(self, name: str, default: Any = None) -> Any:
        return dict(self.attrs).get(name, default)


@dataclass(frozen=True)
class Memory:
    """The association view of a state: what tools draw. Lowering reads only states and equations."""

    name: str
    state: str | None  # None for a store
    parent: str | None  # the memory whose learner it is a part of
    key: Atom | None
    value: Atom | None
    objective: str | None
    steps: tuple[str, ...]
    window: int | None
    axes: tuple[Axis, ...]
    span: Span = _span()
    shared: str | None = None  # by the sequences of a batch: the sum or mean of their gradients is what it learns from
    writes: str | None = None  # which outer gradients pass its steps, where the text says it


@dataclass(frozen=True)
class Instance:
    """A block used inside a block: a stateful function from input streams to output streams.

    `formals` are the parameters given by the user; `unit` is the key of the elaborated callee, found when the
    types of the arguments are known; `place` is the call in the text, empty where it cannot be written out.
    """

    name: str
    block: str
    formals: tuple[tuple[str, Any], ...]
    args: tuple[tuple[str | None, Atom], ...]
    outputs: tuple[str, ...]
    span: Span = _span()
    unit: str | None = None
    place: tuple[tuple[str, int, int], ...] = ()  # nldsl/elaborate/builder.py


@dataclass(frozen=True)
class Unit:
    """A block at given parameters."""

    key: str
    block: str
    formals: tuple[tuple[str, Any], ...]
    inputs: tuple[Input, ...]
    params: tuple[Param, ...]
    states: tuple[State, ...]
    equations: tuple[Equation, ...]
    memories: tuple[Memory, ...]
    instances: tuple[Instance, ...]
    outputs: tuple[tuple[str, Atom], ...]
    span: Span = _span()
    schedule: Schedule = Schedule()  # how it is to run; no meaning of it depends on this

    def scheduled(self, schedule: Schedule) -> Unit:
        """The same under another schedule."""
        return self if self.schedule == schedule else replace(self, schedule=schedule)


@dataclass(frozen=True)
class Hyper:
    """A number of a rule that is given at run time: one input, or one for each item of a list."""

    name: str
    default: float | tuple[float, ...] | None  # None: required
    inputs: tuple[str, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Rule:
    """A rule on a tensor, as a unit whose ticks are steps.

    Inputs are the gradient `g` and the numbers, and where the rule reads them `x` and `delta`, the inputs and the
    output gradients of the layer as columns. The state `w` is the tensor; memories are states named `w.NAME`.

    Attributes:
        types: of every stream of the unit.
        periods: of each slow state, the number that is its period, by name or as it stands.
        structure: parameters that the text fixes when it is compiled, by name.
        accepts: any (entry by entry, any shape), vector (one dimension), matrix (two), stack (two or more: matrices in the last
            two, numbers of the whole tensor).
        otherwise: the rule for the tensors this one does not accept.
        roles: what the parameters are for, by the words of `nldsl.roles`; none where any will do.
    """

    name: str
    unit: Unit
    types: dict[str, Type]
    hypers: tuple[Hyper, ...]
    periods: dict[str, str | int]
    structure: dict[str, int]
    accepts: str
    otherwise: str | None
    roles: tuple[str, ...] = ()


def refs(args: tuple[Atom, ...]) -> Iterator[str]:
    """The names read at this tick."""
    return (a.name for a in args if isinstance(a, Ref))
