"""Texts of typed expressions with what they depend on.

A value is a text and the set of memories it reads, at this tick or an earlier one. `Flow` is the graph of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Value:
    """The text of an expression; `loose` texts need parentheses inside another one."""

    text: str
    deps: frozenset[str] = NOTHING
    loose: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def tight(self) -> str:
        return f"({self.text})" if self.loose else self.text


def of(form: str, *parts: Value, loose: bool = False) -> Value:
    """An expression of expressions: `{0}` stands alone, `{0.tight}` beside an operator."""
    return Value(form.format(*parts), frozenset().union(*(p.deps for p in parts)), loose)


@dataclass(frozen=True)
class Type:
    """What a value is: a number, a `vector` of b entries, or a `map` from a to b."""

    kind: str
    b: str = "1"
    a: str = "1"

    def __str__(self) -> str:
        return {"number": "real", "vector": f"real[{self.b}]"}.get(self.kind, f"{self.a} -> {self.b}")


NUMBER = Type("number")


def vector(n: str) -> Type:
    return NUMBER if n == "1" else Type("vector", n)


def operator(a: str, b: str) -> Type:
    return Type("map", b, a)


@dataclass
class Memory:
    """A memory of a block; `open` until its text is written, when it may be read by `last` and `start(C)` only.

    Attributes:
        type: of its state; of a network or a store, from keys to values.
        kind: linear, vector, number, network or store.
        node: what stands for it in the flow: all copies of a `for` are one node.
    """

    name: str
    type: Type
    kind: str
    node: str
    structure: str = ""
    every: str = ""
    open: bool = True


@dataclass
class Flow:
    """Who reads whom, over any number of ticks."""

    edges: dict[str, set[str]] = field(default_factory=dict)

    def reach(self, nodes: Iterable[str]) -> set[str]:
        found, stack = set(), list(nodes)
        while stack:
            node = stack.pop()
            if node not in found:
                found.add(node)
                stack += self.edges.get(node, ())
        return found

    def add(self, memory: str, deps: Iterable[str]) -> None:
        self.edges.setdefault(memory, set()).update(deps)
