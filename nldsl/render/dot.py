"""DOT: the text that Graphviz draws."""

from __future__ import annotations

import networkx as nx

from nldsl.render.bands import bands, joins, words

SHAPES = {"memory": "box", "store": "cylinder", "param": "box", "input": "plaintext", "output": "plaintext", "stream": "plaintext"}
FILLS = {"memory": "#dbeafe", "store": "#fef3c7", "param": "#e5e7eb"}
EDGES = {
    "now": 'color="#475569"',
    "last": 'color="#475569" style=dashed',
    "gradient": 'color="#c2410c" penwidth=1.6',
    "initialisation": 'color="#1d4ed8" style=dotted penwidth=1.6',
}


def to_dot(graph: nx.MultiDiGraph) -> str:
    """A digraph with one cluster a level."""
    lines = ["digraph nesting {", '  rankdir=TB; fontname="sans-serif"; node [fontname="sans-serif" fontsize=11];']
    for number, band in enumerate(bands(graph)):
        lines.append(f"  subgraph cluster_{number} {{")
        lines.append(f'    label={_quoted(band.title)}; labeljust=l; color="#cbd5e1"; fontsize=10; fontname="sans-serif";')
        lines += [f"    {_quoted(node)} [{_style(graph.nodes[node])}];" for node in band.nodes]
        lines.append("  }")
    lines += [f"  {_quoted(a)} -> {_quoted(b)} [{EDGES[kind]}];" for a, b, kind in joins(graph)]
    return "\n".join([*lines, "}"]) + "\n"


def _style(data: dict[str, str]) -> str:
    label, small = words(data)
    kind = data["kind"]
    fill = f' style="rounded,filled" fillcolor="{FILLS[kind]}"' if kind in FILLS else ""
    return f"label={_quoted(label + (chr(10) + small if small else ''))} shape={SHAPES[kind]}{fill}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
