"""The names of a file: its blocks, rules and constants, above those of the standard library."""

from __future__ import annotations

import re
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from nldsl import tree
from nldsl.diagnostics import Diagnostic, Label
from nldsl.elaborate.constants import constant, undefined
from nldsl.elaborate.roles import misread_roles
from nldsl.elaborate.schedules import read_schedules
from nldsl.elaborate.scope import Constant, Scope
from nldsl.parse import parse
from nldsl.source import Source

LIBRARY = Path(__file__).parent.parent / "library"


@cache
def library() -> Scope:
    """The scope of the optimizers, inside that of `std.nl`."""
    return Scope(_Unread(LIBRARY / "optimizers.nl"), _read("std.nl"))


def _read(name: str) -> Scope:
    file, wrong = parse(Source(name, (LIBRARY / name).read_text(encoding="utf-8")))
    assert not wrong, wrong
    scope, wrong = top_scope(file, None)
    assert not wrong, wrong
    return scope


class _Unread(dict[str, Any]):
    """The names of a file, parsed when one of them is first asked for: most texts need none."""

    def __init__(self, path: Path):
        names = re.findall(r"^(?:rule|block) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        super().__init__(dict.fromkeys(names))
        self.path = path

    def __getitem__(self, name: str) -> Any:
        return self.read[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if self.__contains__(name) else default

    def items(self) -> Any:
        return self.read.items()

    def values(self) -> Any:
        return self.read.values()

    @cached_property
    def read(self) -> dict[str, Any]:
        return _read(self.path.name).names


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
                twice = [f for n, f in enumerate(item.formals) if f.name in {before.name for before in item.formals[:n]}]
                diagnostics += [
                    Diagnostic("NL102", f"the parameter `{f.name}` of `{name}` is declared twice", (Label(f.span),), expected="one parameter a name")
                    for f in twice]  # fmt: skip
                diagnostics += misread_roles(item) if isinstance(item, tree.Rule) else ()
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
    scope.schedules, misread = read_schedules(file.items, scope)
    return scope, [*diagnostics, *misread]
