"""The LALR stack: states, values and their places, and what it would accept."""

from __future__ import annotations

from typing import Any

from nldsl import tree
from nldsl.diagnostics import Diagnostic, Label
from nldsl.parse_build import ASKS, BUILDERS, CLAUSES, DROPPED, ITEMS, STATEMENTS
from nldsl.parse_lex import Token
from nldsl.parse_scan import MAX_DEPTH
from nldsl.parse_table import END, tables
from nldsl.source import Source, Span

_SPLICED = "__"
_WHOLE = frozenset(STATEMENTS + CLAUSES + ASKS + ITEMS)


class Stack:
    """A parse in progress.

    Invariant: `values`, `starts` and `ends` have one entry for each state but the first.
    `invented` holds the places of tokens that a repair made up; the innermost statement around such a place is dropped.
    """

    def __init__(self, source: Source, diagnostics: list[Diagnostic]):
        table = tables()
        self.source = source
        self.diagnostics = diagnostics
        self.table_states, self.rules, self.end_state = table.states, table.rules, table.end
        self.states = [table.start]
        self.values: list[Any] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.invented: list[int] = []
        self.result: tree.File | None = None

    def feed(self, token: Token) -> bool:
        """Take a token; False when it cannot stand here (reductions before it may have been made)."""
        states = self.states
        while True:
            action = self.table_states[states[-1]].get(token.kind)
            if action is None:
                return False
            if action >= 0:
                states.append(action)
                self.values.append(token)
                self.starts.append(token.start)
                self.ends.append(token.end)
                if token.kind == END:
                    self.result = self.values[0]
                return True
            self._reduce(*self.rules[-1 - action])
            if token.kind == END and states[-1] == self.end_state:
                self.result = self.values[-1]
                return True

    def _reduce(self, builder: str, left: str, size: int) -> None:
        if size:
            kids, start, end = self.values[-size:], self.starts[-size], self.ends[-1]
            del self.states[-size:], self.values[-size:], self.starts[-size:], self.ends[-size:]
        else:
            kids, start, end = [], 0, 0
        if left.startswith(_SPLICED):
            value: Any = kids
            if isinstance(kids[0], list):
                value = kids[0]
                value.extend(kids[1:])
        elif builder in BUILDERS:
            if any(isinstance(kid, list) for kid in kids):
                kids = [part for kid in kids for part in (kid if isinstance(kid, list) else (kid,))]
            if builder == "sum" and getattr(kids[0], "id", None) != "sum":
                self._only_sum(kids[0])
            value = BUILDERS[builder](kids, Span(self.source, start, end))
            if type(value) in _WHOLE:
                value = self._whole(value)
        else:
            value = kids[0]
        self.states.append(self.table_states[self.states[-1]][left])
        self.values.append(value)
        self.starts.append(start)
        self.ends.append(end)

    def _only_sum(self, fn: Any) -> None:
        message = "`E for j in R` is an argument of `sum` only"
        self.diagnostics.append(Diagnostic("NL011", message, (Label(fn.span),), help="write `sum(E for j in R)`"))
        self.invented.append(fn.span.start)

    def _whole(self, node: Any) -> Any:
        """A statement, clause or item, unless a part of it was made up or is too deep."""
        broken = False
        while self.invented and self.invented[-1] >= node.span.start:
            self.invented.pop()
            broken = True
        if broken:
            return DROPPED
        deep = _too_deep(node)
        if deep:
            message = f"this expression is nested over {MAX_DEPTH} deep"
            help = "give a part of it a name of its own"
            self.diagnostics.append(Diagnostic("NL003", message, (Label(deep),), help=help))
            return DROPPED
        return node

    def boundary(self) -> int:
        """How many values are there without the statement or item in progress."""
        for size in range(len(self.values), 0, -1):
            value = self.values[size - 1]
            if isinstance(value, Token) and value.kind == "LBRACE":
                break
        else:
            size = 0
        return size + (size < len(self.values) and isinstance(self.values[size], list))

    def accepts(self, kind: str) -> bool:
        return Look(self).feed(kind)

    def accepted(self) -> set[str]:
        """The kinds of tokens that can stand here."""
        kinds = self.table_states[self.states[-1]]
        return {kind for kind in kinds if (kind.isupper() or kind == END) and self.accepts(kind)}

    def cut(self, size: int) -> None:
        """Keep the lowest `size` values."""
        del self.states[size + 1 :], self.values[size:], self.starts[size:], self.ends[size:]


class Look:
    """Feeds kinds of tokens to a stack without changing it."""

    def __init__(self, stack: Stack, size: int | None = None):
        self.stack = stack
        self.size = len(stack.states) if size is None else size + 1  # of the part still in force
        self.pushed: list[int] = []

    def feed(self, kind: str) -> bool:
        stack = self.stack
        while True:
            state = self.pushed[-1] if self.pushed else stack.states[self.size - 1]
            action = stack.table_states[state].get(kind)
            if action is None:
                return False
            if action >= 0:
                self.pushed.append(action)
                return True
            _, left, size = stack.rules[-1 - action]
            kept = min(size, len(self.pushed))
            if kept:
                del self.pushed[-kept:]
            self.size -= size - kept
            state = self.pushed[-1] if self.pushed else stack.states[self.size - 1]
            state = stack.table_states[state][left]
            self.pushed.append(state)
            if kind == END and state == stack.end_state:
                return True


def _too_deep(node: Any) -> Span | None:
    """The place of an expression in a statement that is nested too deep; bodies were looked at before."""
    todo = [(kid, 0) for kid in vars(node).values()]
    while todo:
        kid, depth = todo.pop()
        if depth > MAX_DEPTH:
            return node.span if not isinstance(node, tree.Equation) else node.expr.span
        if isinstance(kid, tuple):
            todo.extend((part, depth) for part in kid if type(part) not in _WHOLE)
        elif hasattr(kid, "span"):
            todo.extend((part, depth + 1) for name, part in vars(kid).items() if name != "span")
    return None
