"""All nodes of a tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from nldsl import tree
from nldsl.source import Span


def walk(node: object) -> Iterator[Any]:
    """A node and all nodes below it; also those in a tuple of nodes."""
    stack = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, tuple):
            stack += part
        elif is_dataclass(part) and not isinstance(part, Span):
            yield part
            stack += [v for k, v in vars(part).items() if k != "span"]


def range_names(node: object) -> set[str]:
    """The names in the ranges of every `for`, `chain` and `sum`."""
    ranges = tuple(part.range for part in walk(node) if isinstance(part, (tree.For, tree.Chain, tree.Sum)))
    return {part.id for part in walk(ranges) if isinstance(part, tree.Name)}
