"""What every drawing shares: the levels as bands, slowest first, and the words on the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

from nldsl.check.levels import Level


@dataclass(frozen=True)
class Band:
    """One level, or the streams (title `streams`), with its nodes."""

    title: str
    nodes: tuple[str, ...]


def bands(graph: nx.MultiDiGraph) -> list[Band]:
    """The nodes by level, slowest level first, then the streams between them."""
    levels: dict[tuple[Any, int, str], list[str]] = {}
    rest = []
    for node, data in graph.nodes(data=True):
        if "depth" in data:
            levels.setdefault((data["period"], data["depth"], data.get("clock", "")), []).append(node)
        else:
            rest.append(node)
    order = sorted(levels, key=lambda key: (key[0] is not None, -(key[0] or 0), -key[1]))
    several = {(period, clock) for period, depth, clock in levels if depth > 0}
    found = [Band(_title(level, several), tuple(levels[level])) for level in order]
    return [*found, Band("streams", tuple(rest))] if rest else found


def _title(level: tuple[int | None, int, str], several: set[Any]) -> str:
    period, depth, clock = level
    title = clock or Level(period, depth, ()).clock
    return f"{title}, depth {depth}" if (period, clock) in several else title


def joins(graph: nx.MultiDiGraph) -> list[tuple[str, str, str]]:
    """The edges as (what is read, who reads it, kind)."""
    return [(a, b, str(data["kind"])) for a, b, data in graph.edges(data=True)]


def words(data: dict[str, Any]) -> tuple[str, str]:
    """The label and the small print of a node; instances are named in front."""
    label = data["label"]
    return (f"{data['cluster']}/{label}" if data["cluster"] else label), data["type"]
