"""Mermaid: `flowchart` text that GitHub and most editors draw."""

from __future__ import annotations

import networkx as nx

from nldsl.render.bands import bands, joins, words

SHAPES = {"memory": ('["', '"]'), "store": ('[("', '")]'), "param": ('(["', '"])'), "input": ('>"', '"]'), "output": ('(("', '"))')}
ARROWS = {"now": "-->", "last": "-. last .->", "gradient": "== gradient ==>", "initialisation": "-. start .->"}


def to_mermaid(graph: nx.MultiDiGraph) -> str:
    """A flowchart with one subgraph a level."""
    ids = {node: f"n{i}" for i, node in enumerate(graph)}
    lines = ["flowchart TB"]
    for number, band in enumerate(bands(graph)):
        lines.append(f'  subgraph level{number} ["{band.title}"]')
        for node in band.nodes:
            data = graph.nodes[node]
            before, after = SHAPES.get(data["kind"], ('["', '"]'))
            lines.append(f"    {ids[node]}{before}{_text(*words(data))}{after}")
        lines.append("  end")
    lines += [f"  {ids[a]} {ARROWS[kind]} {ids[b]}" for a, b, kind in joins(graph)]
    return "\n".join(lines) + "\n"


def _text(label: str, small: str) -> str:
    text = f"{label} : {small}" if small else label
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
