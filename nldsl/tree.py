"""The syntax tree: what the author wrote, nothing resolved.

    file   = (Import | Const | Block | Rule | Schedule | Train)*
    stmt   = In | Param | Memory | Equation | Each | For | Chain | Out | Update
    clause = Key | Value | Minimize | Update | Reset | Writes | Flush | Shared
    type   = RealType | IntType | BoolType | MapType | StoreType | LikeType | StructureType
    expr   = see `nldsl.tree_expr`

Every node is a frozen dataclass with a span; spans do not take part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass

from nldsl.source import Span
from nldsl.tree_expr import Arg, Binary, Call, Expr, Index, Last, ListOf, Name, Num, Range, Start, Str, Sum, Unary
from nldsl.tree_expr import span_field as _span

__all__ = [
    "Arg", "Ask", "Binary", "Block", "BoolType", "Call", "Chain", "Clause", "Const", "Declared", "Each", "Equation",
    "Expr", "File", "Flush", "For", "Formal", "How", "Import", "In", "Index", "IntType", "Item", "Key", "Last", "LikeType",
    "ListOf", "MapType", "Memory", "Minimize", "Name", "Num", "Out", "Param", "Range", "RealType", "Reset", "Route",
    "Rule", "Schedule", "Start", "Step", "Stmt", "StoreType", "Str", "StructureType", "Sum", "Train", "Type", "Unary", "Update",
    "Value", "Writes", "inputs",
]  # fmt: skip


# --- types -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RealType:
    dims: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True)
class IntType:
    """`int[n]`: an integer in 0 .. n; an operator with domain n applied to it picks a column."""

    bound: Expr | None
    span: Span = _span()


@dataclass(frozen=True)
class BoolType:
    span: Span = _span()


@dataclass(frozen=True)
class MapType:
    """`A -> B`: a linear operator."""

    domain: Expr
    codomain: Expr
    span: Span = _span()


@dataclass(frozen=True)
class StoreType:
    """`store(A -> B, window = w)`: a non-parametric memory."""

    map: MapType
    args: tuple[Arg, ...]
    span: Span = _span()


@dataclass(frozen=True)
class LikeType:
    name: str
    span: Span = _span()


@dataclass(frozen=True)
class StructureType:
    """A block as the structure of a memory: `mlp(d, 4 * d, d)`, or its name alone."""

    expr: Expr
    span: Span = _span()


Type = RealType | IntType | BoolType | MapType | StoreType | LikeType | StructureType


# --- clauses of a memory -----------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    expr: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Value:
    expr: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Route:
    """`SELECTOR by STEP [every N]` of a `train` block: the rule of some parameters."""

    selector: Expr
    step: Expr
    every: Expr | None
    span: Span = _span()


@dataclass(frozen=True)
class Step:
    """`STEP every N`: a step at the last tick of every N."""

    rule: Expr
    every: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Minimize:
    """`minimize E [over sum|mean] [at start(C)] by STEP, STEP`; steps are calls of rules, applied left to right.

    In a `train` block `minimize E SELECTOR by STEP, ...` has routes instead of steps.
    """

    objective: Expr
    over: str | None
    steps: tuple[Expr | Step, ...]
    span: Span = _span()
    routes: tuple[Route, ...] = ()
    start: Expr | None = None


@dataclass(frozen=True)
class Update:
    """`update E [over last]`; of a slow memory with `over last`, E is what it is at the last tick of a period."""

    expr: Expr
    span: Span = _span()
    sampled: bool = False


@dataclass(frozen=True)
class Reset:
    """`reset sequence | never | every N [to M]`."""

    when: str  # sequence, never, every
    period: Expr | None
    span: Span = _span()
    to: Expr | None = None


@dataclass(frozen=True)
class Writes:
    """`writes through | first_order | straight_through | stop`: which outer gradients pass through a memory."""

    how: str
    span: Span = _span()


@dataclass(frozen=True)
class Flush:
    """`flush apply | drop | carry`: what becomes of a period that is not complete where the stream ends."""

    how: str
    span: Span = _span()


@dataclass(frozen=True)
class Shared:
    """`shared sum | mean`: one state for all sequences of a batch, and how it takes their gradients together."""

    how: str
    span: Span = _span()


Clause = Key | Value | Minimize | Update | Reset | Writes | Flush | Shared


# --- statements --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declared:
    """A declared name, `NAME` or `NAME[EXPR]`."""

    id: str
    index: Expr | None
    span: Span = _span()


@dataclass(frozen=True)
class In:
    names: tuple[Declared, ...]
    type: Type
    span: Span = _span()


@dataclass(frozen=True)
class Param:
    names: tuple[Declared, ...]
    type: Type
    init: Expr | None
    span: Span = _span()


@dataclass(frozen=True)
class Memory:
    name: Declared
    type: Type
    init: Expr | None
    every: Expr | None
    offset: Expr | None
    clauses: tuple[Clause, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Equation:
    name: Declared
    expr: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Each:
    """Identical copies with one leading axis."""

    var: str
    range: Expr
    body: tuple[Stmt, ...]
    span: Span = _span()


@dataclass(frozen=True)
class For:
    """Different copies, unrolled at elaboration."""

    var: str
    range: Expr
    body: tuple[Stmt, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Chain:
    """`chain h = E over i in R { ... h = ... }`: the copies of the body threaded through `h`."""

    name: str
    init: Expr
    var: str
    range: Expr
    body: tuple[Stmt, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Out:
    name: Declared
    expr: Expr | None
    span: Span = _span()


Stmt = In | Param | Memory | Equation | Each | For | Chain | Out | Update | Minimize


# --- items -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formal:
    """A parameter of a block or rule; required when `default` is None."""

    name: str
    default: Expr | None
    span: Span = _span()


@dataclass(frozen=True)
class Import:
    path: str
    span: Span = _span()


@dataclass(frozen=True)
class Const:
    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Block:
    name: str
    formals: tuple[Formal, ...]
    body: tuple[Stmt, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Rule:
    """A learner. Its body is equations, chains, memories and one `update`.

    `on` is what it learns on, `d -> e` or `real[n]`, where it is not any tensor; `otherwise` the rule for the rest.
    `word` is `stacked` where it learns on stacks of operators too; `roles` are what its parameters are for, none for any.
    """

    name: str
    formals: tuple[Formal, ...]
    body: tuple[Stmt, ...]
    span: Span = _span()
    on: Type | None = None
    otherwise: str | None = None
    word: str | None = None
    roles: tuple[Name, ...] = ()


@dataclass(frozen=True)
class Train:
    """`NAME = EXPR` settings and one `minimize E by STEP`."""

    name: str
    body: tuple[Stmt, ...]
    span: Span = _span()


@dataclass(frozen=True)
class How:
    """`by FORM`, `chunk = N` or `recompute`: `word` is `by` or the name, `value` what stands behind it."""

    word: str
    value: Name | Num | None
    span: Span = _span()


@dataclass(frozen=True)
class Ask:
    """`MEMORY how, how`; no memory is `*`, every one of the block."""

    memory: Expr | None
    how: tuple[How, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Schedule:
    """How the block `name` is to run."""

    name: str
    body: tuple[Ask, ...]
    span: Span = _span()


Item = Import | Const | Block | Rule | Schedule | Train


@dataclass(frozen=True)
class File:
    items: tuple[Item, ...]
    span: Span = _span()


def inputs(body: tuple[Stmt, ...]) -> list[In]:
    """The input statements of a body, those inside an `each` too."""
    found: list[In] = []
    for stmt in body:
        if isinstance(stmt, In):
            found.append(stmt)
        elif isinstance(stmt, Each):
            found += inputs(stmt.body)
    return found
