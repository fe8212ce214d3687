"""The expressions of the syntax tree.

    expr = Num | Str | Name | Index | Call | Unary | Binary | Last | Start | ListOf | Range | Sum
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nldsl.source import Span


def span_field() -> Span:
    """The span of a node, which does not take part in equality."""
    return field(compare=False, repr=False)


@dataclass(frozen=True)
class Num:
    value: int | float
    span: Span = span_field()


@dataclass(frozen=True)
class Str:
    value: str
    span: Span = span_field()


@dataclass(frozen=True)
class Name:
    id: str
    span: Span = span_field()


@dataclass(frozen=True)
class Index:
    """`F[p]`: the copy of `F` made for `p` by an enclosing `for`."""

    base: Expr
    index: Expr
    span: Span = span_field()


@dataclass(frozen=True)
class Arg:
    """One argument of a call; `name` is None for a positional one."""

    name: str | None
    value: Expr
    span: Span = span_field()


@dataclass(frozen=True)
class Call:
    fn: Expr
    args: tuple[Arg, ...]
    span: Span = span_field()


@dataclass(frozen=True)
class Unary:
    op: str  # "-"
    operand: Expr
    span: Span = span_field()


@dataclass(frozen=True)
class Binary:
    op: str  # + - * / ^
    left: Expr
    right: Expr
    span: Span = span_field()


@dataclass(frozen=True)
class Last:
    """`last M`: the value before this tick. Binds tighter than application: `last M(q)` reads `last M` at `q`."""

    operand: Expr  # Name or Index
    span: Span = span_field()


@dataclass(frozen=True)
class Start:
    """`start(C) M`: the state of M when the current window of C ticks began. Binds like `last M`."""

    ticks: Expr
    operand: Expr  # Name or Index
    span: Span = span_field()


@dataclass(frozen=True)
class ListOf:
    items: tuple[Expr, ...]
    span: Span = span_field()


@dataclass(frozen=True)
class Range:
    """`lo .. hi`: lo, lo + 1, ..., hi - 1."""

    low: Expr
    high: Expr
    span: Span = span_field()


@dataclass(frozen=True)
class Sum:
    """`sum(E for j in R)`: unrolled at elaboration."""

    body: Expr
    var: str
    range: Expr
    span: Span = span_field()


Expr = Num | Str | Name | Index | Call | Unary | Binary | Last | Start | ListOf | Range | Sum
