"""The names of a file: its blocks, rules and constants, above those of the standard library."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nldsl import tree
from nldsl.diagnostics import Diagnostic, Label
from nldsl.elaborate.constants import constant, undefined
from nldsl.elaborate.scope import Constant, Scope
from nldsl.parse import parse
from nldsl.source import Source

LIBRARY = Path(__file__).parent.parent / "library"


@cache
def library() -> Scope:
    """The scope of `std.nl`."""
    text = (LIBRARY / "std.nl").read_text(encoding="utf-8")
    file, wrong = parse(Source("std.nl", text))
    assert not wrong, wrong
    scope, wrong = top_scope(file, None)
    assert not wrong, wrong
    return scope


def top_scope(file: tree.File, parent: Scope | None) -> tuple[Scope, list[Diagnostic]]:
    """Declare the items of a file; later constants may use earlier ones."""
    scope = Scope({}, parent)
    diagnostics: list[Diagnostic] = []

    def declare(name: str, value: object, item: tree.Block | tree.Rule | tree.Const) -> None:
        if name in scope.names:
            first = scope.names[name].span
            because = (Label(first, "the first definition"),) if first is not None else ()
            diagnostics.append(
                Diagnostic("NL102", f"`{name}` is defined twice", (Label(item.span, "the second"), *because),
                           expected="one definition a name", found="a second one"))  # fmt: skip
            return
        scope.names[name] = Constant(value, item.span)

    for item in file.items:
        match item:
            case tree.Block(name) | tree.Rule(name):
                declare(name, item, item)
            case tree.Const(name, expr):
                value = constant(expr, scope)
                if value is None and (wrong := undefined(expr, scope)) is not None:
                    diagnostics.append(
                        Diagnostic("NL120", f"the constant `{name}` cannot be computed: {wrong[0]}", (Label(wrong[1]),), expected="a real number"))
                elif value is None:
                    diagnostics.append(
                        Diagnostic("NL105", f"the constant `{name}` cannot be computed", (Label(expr.span),),
                                   expected="numbers and earlier constants"))  # fmt: skip
                else:
                    declare(name, value, item)
            case tree.Import(path):
                if path not in ("std", "std.rules"):
                    diagnostics.append(
                        Diagnostic("NL119", f"there is no module `{path}`", (Label(item.span),), expected="std",
                                   help="import std"))  # fmt: skip
    return scope, diagnostics
