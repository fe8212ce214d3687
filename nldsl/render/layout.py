"""Where the boxes of the SVG go: a row of stacks in each band, columns by the longest way from the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx

from nldsl.render.bands import Band, joins, words

LEFT = 150.0  # room for the titles of the bands
GAP_X, GAP_Y, PAD = 56.0, 14.0, 24.0
LINE = 32  # characters of one line of a label
ROW = 4  # boxes side by side in one column
Sizes = dict[str, tuple[float, float, tuple[str, ...]]]


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    band: int


@dataclass(frozen=True)
class Layout:
    boxes: dict[str, Box]
    bands: list[tuple[float, float]]  # top and height
    width: float
    height: float


def place(graph: nx.MultiDiGraph, order: list[Band]) -> Layout:
    """A box for every node."""
    columns = column_of(graph)
    sizes = {node: _size(graph, node) for node in graph}
    used = sorted(set(columns.values()))
    stacks = [_stacks(band, columns) for band in order]
    widths = {c: max(_row_width(rows.get(c, ()), sizes) for rows in stacks) for c in used}
    left, x = {}, LEFT
    for column in used:
        left[column] = x
        x += widths[column] + GAP_X
    boxes: dict[str, Box] = {}
    tops, y = [], 0.0
    for number, rows in enumerate(stacks):
        tall = max((_stack_height(stack, sizes) for stack in rows.values()), default=0.0)
        # Every second band is shifted a little, so that long vertical edges pass beside its boxes.
        shift = 0.35 * GAP_X * (number % 2)
        for column, stack in rows.items():
            at = y + PAD + (tall - _stack_height(stack, sizes)) / 2
            for row in stack:
                x = left[column] + shift + (widths[column] - _row_width([row], sizes)) / 2
                high = max(sizes[n][1] for n in row)
                for node in row:
                    width, height, lines = sizes[node]
                    boxes[node] = Box(x, at + (high - height) / 2, width, height, lines, number)
                    x += width + GAP_X / 2
                at += high + GAP_Y
        tops.append((y, tall + 2 * PAD))
        y += tall + 2 * PAD
    x = max(box.x + box.width for box in boxes.values()) if boxes else 0.0
    return Layout(boxes, tops, max(x + 2 * PAD, 640.0), y + 40)


Rows = Sequence[Sequence[str]]


def _stacks(band: Band, columns: dict[str, int]) -> dict[int, list[list[str]]]:
    """The rows of each column: members of a level stand side by side, streams above each other."""
    found: dict[int, list[list[str]]] = {}
    for node in band.nodes:
        rows = found.setdefault(columns[node], [])
        if band.title == "streams" or not rows or len(rows[-1]) >= ROW:
            rows.append([node])
        else:
            rows[-1].append(node)
    return found


def _row_width(rows: Rows, sizes: Sizes) -> float:
    return max((sum(sizes[n][0] + GAP_X / 2 for n in row) - GAP_X / 2 for row in rows), default=0.0)


def _stack_height(rows: Rows, sizes: Sizes) -> float:
    return sum(max(sizes[n][1] for n in row) + GAP_Y for row in rows) - GAP_Y


def column_of(graph: nx.MultiDiGraph) -> dict[str, int]:
    """The column of each node: components of mutual reads share one, params stand above their first reader."""
    flow: nx.DiGraph = nx.DiGraph()
    params = [n for n, d in graph.nodes(data=True) if d["kind"] == "param"]
    flow.add_nodes_from(n for n in graph if n not in set(params))
    flow.add_edges_from((a, b) for a, b, kind in joins(graph) if a in flow and b in flow and kind != "last")
    condensed = nx.condensation(flow)
    depth: dict[int, int] = {}
    for component in nx.topological_sort(condensed):
        depth[component] = max((depth[p] + 1 for p in condensed.predecessors(component)), default=0)
    columns = {node: depth[condensed.graph["mapping"][node]] for node in flow}
    for param in params:
        columns[param] = min((columns[reader] for reader in graph.successors(param) if reader in columns), default=0)
    return columns


def _size(graph: nx.MultiDiGraph, node: str) -> tuple[float, float, tuple[str, ...]]:
    label, small = words(graph.nodes[node])
    lines = [*_wrapped(label), *([small] if small else [])]
    return max(56.0, 24 + 7.2 * max(map(len, lines))), 18 + 16.0 * len(lines), tuple(lines)


def _wrapped(label: str) -> list[str]:
    """A long list of names on several lines."""
    lines = [""]
    for part in label.split(", "):
        added = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(added) > LINE and lines[-1]:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = added
    return lines
