"""Syntax that no LALR rule says: which statements and types stand where."""

from __future__ import annotations

from collections.abc import Iterator

from nldsl import tree
from nldsl.diagnostics import Diagnostic, Label
from nldsl.parse_table import tables
from nldsl.source import Span


def check(file: tree.File) -> Iterator[Diagnostic]:
    for item in file.items:
        if isinstance(item, (tree.Block, tree.Rule, tree.Train)):
            yield from _body(item, item.body)


def _body(item: tree.Item, body: tuple[tree.Stmt, ...]) -> Iterator[Diagnostic]:
    for stmt in body:
        if isinstance(item, tree.Train):
            if not isinstance(stmt, (tree.Equation, tree.Minimize)):
                yield _place(stmt, "a `train` has settings `NAME = ...` and one `minimize`, not this")
            elif isinstance(stmt, tree.Minimize) and (stmt.over is not None or stmt.start is not None):
                yield _place(stmt, "`over` and `at start(...)` stand in a `minimize` of a memory; a `train` has neither")
        elif isinstance(stmt, tree.Equation) and stmt.name.id in tables().words:
            yield Diagnostic(
                "NL007", f"`{stmt.name.id}` is a word of the language and cannot be a name", (Label(stmt.name.span),), "a name",
                f"`{stmt.name.id}`", f"call it `{stmt.name.id}_`")  # fmt: skip
        elif isinstance(stmt, tree.Update) and not isinstance(item, tree.Rule):
            yield _place(stmt, "an `update` stands in a rule or in the braces of a memory")
        elif isinstance(stmt, tree.Minimize):
            yield _place(stmt, "a `minimize` stands in the braces of a memory or in a `train`")
        elif isinstance(stmt, tree.Memory):
            for clause in stmt.clauses:
                if isinstance(clause, tree.Minimize) and clause.routes:
                    message = "routes stand in a `train`; in the braces of a memory all of it takes the steps after `by`"
                    yield Diagnostic("NL010", message, (Label(clause.routes[0].selector.span),), help="leave the selector out")
        elif isinstance(stmt, (tree.In, tree.Param)) and isinstance(stmt.type, tree.StructureType):
            yield _operator(stmt.type)
        if isinstance(stmt, (tree.Each, tree.For, tree.Chain)):
            yield from _body(item, stmt.body)


def _place(stmt: tree.Stmt, message: str) -> Diagnostic:
    word = stmt.span.text.split(None, 1)[0]
    start = stmt.span.start
    return Diagnostic("NL010", message, (Label(Span(stmt.span.source, start, start + len(word))),))


def _operator(type: tree.StructureType) -> Diagnostic:
    """A type without `->` where no memory is declared, which alone may have a block as its structure."""
    help = f"memory M : {type.span.text} = learned {{ ... }}" if isinstance(type.expr, tree.Call) else None
    message = "the type of an operator needs `->` between its domain and its codomain"
    return Diagnostic("NL009", message, (Label(type.span),), "d -> e, or real[n]", f"`{type.span.text}`", help)
