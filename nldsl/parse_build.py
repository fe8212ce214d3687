"""One builder for each rule or alternative of `grammar/nl.lark`: from the values of its right side to a tree node.

A builder sees every symbol of the right side in order, tokens too, with repetitions spliced in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nldsl import tree
from nldsl.parse_lex import Token, number_value
from nldsl.source import Span

EXPRS = (
    tree.Num, tree.Str, tree.Name, tree.Index, tree.Call, tree.Unary, tree.Binary,
    tree.Last, tree.Start, tree.ListOf, tree.Range, tree.Sum,
)  # fmt: skip
TYPES = (tree.RealType, tree.IntType, tree.BoolType, tree.MapType, tree.StoreType, tree.LikeType)
STATEMENTS = (
    tree.In, tree.Param, tree.Memory, tree.Equation, tree.Each, tree.For, tree.Chain,
    tree.Out, tree.Update, tree.Minimize,
)  # fmt: skip
CLAUSES = (tree.Key, tree.Value, tree.Minimize, tree.Update, tree.Reset, tree.Writes, tree.Flush, tree.Shared)
ASKS = (tree.Ask,)
ITEMS = (tree.Import, tree.Const, tree.Block, tree.Rule, tree.Schedule, tree.Train)

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class Body(tuple):
    """The statements or clauses between two braces."""


class Formals(tuple):
    """The parameters of a block or rule."""


class Accepts(tuple):
    """What a rule learns on, and the rule for the rest: the last fields of a `tree.Rule`."""


class Roles(tuple):
    """What the parameters of a rule are for."""


class Dropped:
    """Stands where a broken statement was; bodies leave it out."""


DROPPED = Dropped()


def only(kids: list, kinds: type | tuple[type, ...]) -> tuple:
    return tuple(kid for kid in kids if isinstance(kid, kinds))


def first(kids: list, kinds: type | tuple[type, ...]) -> Any:
    return next((kid for kid in kids if isinstance(kid, kinds)), None)


def after(kids: list, kind: str) -> Any:
    """The value after the first token of a kind, or None."""
    for i, kid in enumerate(kids):
        if isinstance(kid, Token) and kid.kind == kind:
            return kids[i + 1]
    return None


def first_of(kids: list, kind: str) -> Token | None:
    """The first token of a kind."""
    return next((kid for kid in kids if isinstance(kid, Token) and kid.kind == kind), None)


def unescape(text: str) -> str:
    """The value of a string token."""
    out, chars = [], iter(text[1:-1])
    for char in chars:
        if char == "\\":
            char = next(chars, "\\")
            char = _ESCAPES.get(char, char)
        out.append(char)
    return "".join(out)


def _number(kids: list, span: Span) -> tree.Num:
    text = kids[0].text
    value = number_value(text) if len(text) <= 40 else 0
    return tree.Num(value if math.isfinite(value) else 0, span)


def _sum(kids: list, span: Span) -> tree.Sum:
    return tree.Sum(kids[2], kids[4].text, kids[6], span)


def _reset(kids: list, span: Span) -> tree.Reset:
    return tree.Reset(kids[1].text, kids[2] if len(kids) > 2 else None, span, after(kids, "TO"))


def _memory(kids: list, span: Span) -> tree.Memory:
    return tree.Memory(
        kids[1], kids[3], after(kids, "EQUAL"), after(kids, "EVERY"), after(kids, "OFFSET"), tuple(kids[-1]), span
    )


def _minimize(kids: list, span: Span) -> tree.Minimize:
    over = after(kids, "OVER")
    steps = kids[kids.index(by) + 1 :] if (by := first_of(kids, "BY")) else []
    start = kids[kids.index(at) + 3] if (at := first_of(kids, "AT")) else None
    return tree.Minimize(kids[1], over.text if over else None, only(steps, (*EXPRS, tree.Step)), span, only(kids, tree.Route), start)


def _accepts(kids: list, span: Span) -> Accepts:
    other = after(kids, "ELSE")
    word = first_of([kid for kid in kids if kid is not other], "NAME")
    return Accepts((first(kids, TYPES), other.text if other else None, word.text if word else None, first(kids, Roles) or ()))


def _roles(kids: list, span: Span) -> Roles:
    return Roles(tree.Name(kid.text, Span(span.source, kid.start, kid.end)) for kid in kids if kid.kind == "NAME")


def _rule(kids: list, span: Span) -> tree.Rule:
    accepts = first(kids, Accepts) or ()
    return tree.Rule(kids[1].text, tuple(first(kids, Formals) or ()), tuple(kids[-1]), span, *accepts)


def _selected(kids: list, span: Span) -> tree.Call:
    return tree.Call(tree.Name(kids[0].text, Span(span.source, span.start, span.start + len(kids[0].text))), only(kids, tree.Arg), span)


def _setting(kids: list, span: Span) -> tree.Equation:
    """A setting whose name is a word of the language."""
    word = kids[0].text
    return tree.Equation(tree.Declared(word, None, Span(span.source, span.start, span.start + len(word))), kids[2], span)


def _how(kids: list, span: Span) -> tree.How:
    value = kids[-1] if len(kids) > 1 else None
    if isinstance(value, Token):
        value = tree.Name(value.text, Span(span.source, value.start, value.end))
    return tree.How(kids[0].text, value, span)


def _block(make: Callable) -> Callable:
    return lambda kids, span: make(kids[1].text, tuple(first(kids, Formals) or ()), tuple(kids[-1]), span)


def _loop(make: Callable) -> Callable:
    return lambda kids, span: make(kids[1].text, kids[3], tuple(kids[-1]), span)


BUILDERS: dict[str, Callable[[list, Span], Any]] = {
    "file": lambda kids, span: tree.File(only(kids, ITEMS), span),
    "import_": lambda kids, span: tree.Import(kids[1].text, span),
    "const": lambda kids, span: tree.Const(kids[1].text, kids[3], span),
    "block": _block(tree.Block),
    "rule": _rule,
    "train": lambda kids, span: tree.Train(kids[1].text, tuple(kids[-1]), span),
    "schedule": lambda kids, span: tree.Schedule(kids[1].text, tuple(kids[-1]), span),
    "asks": lambda kids, span: Body(only(kids, ASKS)),
    "ask": lambda kids, span: tree.Ask(first(kids[:1], EXPRS), only(kids, tree.How), span),
    "how": _how,
    "formals": lambda kids, span: Formals(only(kids, tree.Formal)),
    "formal": lambda kids, span: tree.Formal(kids[0].text, after(kids, "EQUAL"), span),
    "body": lambda kids, span: Body(only(kids, STATEMENTS)),
    "clauses": lambda kids, span: Body(only(kids, CLAUSES)),
    "declared": lambda kids, span: tree.Declared(kids[0].text, after(kids, "LSQB"), span),
    "in_": lambda kids, span: tree.In(only(kids, tree.Declared), kids[-1], span),
    "param": lambda kids, span: tree.Param(only(kids, tree.Declared), after(kids, "COLON"), after(kids, "EQUAL"), span),
    "memory": _memory,
    "equation": lambda kids, span: tree.Equation(kids[0], kids[2], span),
    "setting": _setting,
    "each": _loop(tree.Each),
    "for_": _loop(tree.For),
    "chain": lambda kids, span: tree.Chain(kids[1].text, kids[3], kids[5].text, kids[7], tuple(kids[-1]), span),
    "out": lambda kids, span: tree.Out(kids[1], after(kids, "EQUAL"), span),
    "key": lambda kids, span: tree.Key(kids[1], span),
    "value": lambda kids, span: tree.Value(kids[1], span),
    "reset": _reset,
    "writes": lambda kids, span: tree.Writes(kids[1].text, span),
    "flush": lambda kids, span: tree.Flush(kids[1].text, span),
    "shared": lambda kids, span: tree.Shared(kids[1].text, span),
    "update": lambda kids, span: tree.Update(kids[1], span, len(kids) > 2),
    "minimize": _minimize,
    "paced": lambda kids, span: tree.Step(kids[0], kids[2], span),
    "route": lambda kids, span: tree.Route(kids[0], kids[2], after(kids, "EVERY"), span),
    "selected": _selected,
    "accepts": _accepts,
    "roles": _roles,
    "real": lambda kids, span: tree.RealType(only(kids, EXPRS), span),
    "int_": lambda kids, span: tree.IntType(after(kids, "LSQB"), span),
    "bool_": lambda kids, span: tree.BoolType(span),
    "store": lambda kids, span: tree.StoreType(kids[2], only(kids, tree.Arg), span),
    "like": lambda kids, span: tree.LikeType(kids[2].text, span),
    "structure": lambda kids, span: tree.StructureType(kids[0], span),
    "map": lambda kids, span: tree.MapType(kids[0], kids[2], span),
    "range": lambda kids, span: tree.Range(kids[0], kids[2], span),
    "binary": lambda kids, span: tree.Binary(kids[1].text, kids[0], kids[2], span),
    "negative": lambda kids, span: tree.Unary("-", kids[1], span),
    "last": lambda kids, span: tree.Last(kids[1], span),
    "start": lambda kids, span: tree.Start(kids[2], kids[4], span),
    "call": lambda kids, span: tree.Call(kids[0], only(kids, tree.Arg), span),
    "sum": _sum,
    "index": lambda kids, span: tree.Index(kids[0], kids[2], span),
    "arg": lambda kids, span: tree.Arg(kids[0].text if len(kids) > 1 else None, kids[-1], span),
    "num": _number,
    "str": lambda kids, span: tree.Str(unescape(kids[0].text), span),
    "name": lambda kids, span: tree.Name(kids[0].text, span),
    "group": lambda kids, span: kids[1],
    "list": lambda kids, span: tree.ListOf(only(kids, EXPRS), span),
}
