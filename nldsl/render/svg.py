"""SVG: levels as horizontal bands, slowest on top; time flows from left to right, edges are drawn by kind."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import networkx as nx

from nldsl.render.bands import Band, bands, joins, words
from nldsl.render.layout import Box, Layout, place

STYLES = {
    "memory": ("#dbeafe", "#2563eb"),
    "store": ("#fef3c7", "#d97706"),
    "param": ("#f1f5f9", "#64748b"),
    "input": ("#ecfdf5", "#059669"),
    "output": ("#ecfdf5", "#059669"),
    "stream": ("#ffffff", "#cbd5e1"),
}
EDGES = {
    "now": ("#64748b", "", "value of this tick"),
    "last": ("#64748b", "6 4", "value before this tick"),
    "gradient": ("#c2410c", "", "through a gradient"),
    "initialisation": ("#1d4ed8", "2 3", "first value"),
}
SHADES = ("#f8fafc", "#ffffff")
FONT = "font-family='ui-sans-serif, system-ui, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Point:
    x: float
    y: float


def to_svg(graph: nx.MultiDiGraph) -> str:
    """One self-contained drawing."""
    order = bands(graph)
    layout = place(graph, order)
    body = [*_bands(layout, order), *_edges(graph, layout), *_nodes(graph, layout), *_legend(graph, layout)]
    w, h = layout.width, layout.height
    head = (f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {w:.0f} {h:.0f}' width='{w:.0f}' height='{h:.0f}' {FONT}>"
            f"<title>{escape('nesting graph of ' + str(graph.graph.get('block', '')))}</title>"
            f"<rect width='{w:.0f}' height='{h:.0f}' fill='#ffffff'/>")  # fmt: skip
    return "\n".join([head, _markers(), *body, "</svg>"]) + "\n"


def _markers() -> str:
    arrows = "".join(
        f"<marker id='{kind}' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto-start-reverse'>"
        f"<path d='M0 0.5 L7.5 4 L0 7.5 z' fill='{color}'/></marker>"
        for kind, (color, _, _) in EDGES.items()
    )
    return f"<defs>{arrows}</defs>"


def _bands(layout: Layout, order: list[Band]) -> list[str]:
    out = []
    for n, (band, (top, height)) in enumerate(zip(order, layout.bands, strict=True)):
        out.append(f"<rect x='0' y='{top:.0f}' width='{layout.width:.0f}' height='{height:.0f}' fill='{SHADES[n % 2]}'/>")
        out.append(f"<line x1='0' y1='{top + height:.0f}' x2='{layout.width:.0f}' y2='{top + height:.0f}' stroke='#e2e8f0'/>")
        clock, _, depth = band.title.partition(", ")
        out.append(svg_text(14, top + height / 2 - (7 if depth else 0), clock, 13, "#0f172a", weight=600))
        if depth:
            out.append(svg_text(14, top + height / 2 + 11, depth, 11, "#64748b"))
    return out


def _nodes(graph: nx.MultiDiGraph, layout: Layout) -> list[str]:
    out = []
    for node, box in layout.boxes.items():
        data = graph.nodes[node]
        fill, line = STYLES[data["kind"]]
        radius = box.height / 2 if data["kind"] in ("input", "output") else 7
        hint = escape(", ".join(data["members"]) + (f" ({data['where']})" if data["where"] else ""))
        out.append(f"<g><title>{hint}</title><rect x='{box.x:.1f}' y='{box.y:.1f}' width='{box.width:.1f}' height='{box.height:.1f}' "
                   f"rx='{radius:.0f}' fill='{fill}' stroke='{line}' stroke-width='1.3'/>")  # fmt: skip
        lines = box.lines
        top = box.y + box.height / 2 - 8 * (len(lines) - 1)
        for n, line_text in enumerate(lines):
            small = n == len(lines) - 1 and bool(words(data)[1])
            out.append(svg_text(box.x + box.width / 2, top + 16 * n, line_text, 11 if small else 13, "#64748b" if small else "#0f172a", "middle"))
        out.append("</g>")
    return out


def _edges(graph: nx.MultiDiGraph, layout: Layout) -> list[str]:
    """Curves from side to side; where many meet, they are spread over the side."""
    edges = [(a, b, kind) for a, b, kind in joins(graph) if a in layout.boxes and b in layout.boxes]
    ends = _spread(edges, layout)
    out = []
    for edge in edges:
        color, dash, _ = EDGES[edge[2]]
        path = _curve(ends[edge, 0], ends[edge, 1], layout.boxes[edge[0]], layout.boxes[edge[1]])
        dashes = f" stroke-dasharray='{dash}'" if dash else ""
        width = 1.7 if edge[2] == "gradient" else 1.3
        out.append(f"<path d='{path}' fill='none' stroke='#ffffff' stroke-width='4' stroke-opacity='0.7'/>")
        out.append(f"<path d='{path}' fill='none' stroke='{color}' stroke-width='{width}'{dashes} marker-end='url(#{edge[2]})'/>")
    return out


Edge = tuple[str, str, str]


def _side(a: Box, b: Box) -> tuple[str, str]:
    """The sides an edge leaves from and arrives at: across bands top and bottom, within one left and right."""
    if a.band == b.band and not (a.x < b.x + b.width and b.x < a.x + a.width):
        return ("right", "left") if b.x > a.x else ("left", "right")
    if b.y > a.y + a.height:
        return "bottom", "top"
    if b.y + b.height < a.y:
        return "top", "bottom"
    return ("right", "left") if b.x >= a.x else ("left", "right")


def _spread(edges: list[Edge], layout: Layout) -> dict[tuple[Edge, int], Point]:
    """Where each edge leaves (0) and arrives (1): all ends on one side of a box, in the order of their other ends."""
    groups: dict[tuple[str, str], list[tuple[Edge, int]]] = {}
    for edge in edges:
        sides = _side(layout.boxes[edge[0]], layout.boxes[edge[1]])
        for end in (0, 1):
            groups.setdefault((edge[end], sides[end]), []).append((edge, end))
    points = {}
    for (node, side), members in groups.items():
        box, across = layout.boxes[node], side in ("top", "bottom")

        def other(member: tuple[Edge, int], across: bool = across) -> tuple[float, float]:
            far = layout.boxes[member[0][1 - member[1]]]
            return (far.x + far.width / 2, far.y) if across else (far.y, far.x)

        for n, member in enumerate(sorted(members, key=other), 1):
            part = n / (len(members) + 1)
            x = box.x + box.width * part if across else box.x + (box.width if side == "right" else 0)
            y = box.y + box.height * part if not across else box.y + (box.height if side == "bottom" else 0)
            points[member] = Point(x, y)
    return points


def _curve(p: Point, q: Point, a: Box, b: Box) -> str:
    side = _side(a, b)[0]
    if side in ("top", "bottom"):
        reach = (q.y - p.y) * 0.5
        return f"M{p.x:.1f} {p.y:.1f} C{p.x:.1f} {p.y + reach:.1f} {q.x:.1f} {q.y - reach:.1f} {q.x:.1f} {q.y:.1f}"
    reach = max(24.0, abs(q.x - p.x) * 0.4) * (1 if side == "right" else -1)
    return f"M{p.x:.1f} {p.y:.1f} C{p.x + reach:.1f} {p.y:.1f} {q.x - reach:.1f} {q.y:.1f} {q.x:.1f} {q.y:.1f}"


def _legend(graph: nx.MultiDiGraph, layout: Layout) -> list[str]:
    used = {kind for _, _, kind in joins(graph)}
    out, x, y = [], 16.0, layout.height - 18
    for kind, (color, dash, text) in EDGES.items():
        if kind not in used:
            continue
        dashes = f" stroke-dasharray='{dash}'" if dash else ""
        out.append(f"<line x1='{x:.0f}' y1='{y - 4:.0f}' x2='{x + 30:.0f}' y2='{y - 4:.0f}' stroke='{color}' "
                   f"stroke-width='1.5'{dashes} marker-end='url(#{kind})'/>")  # fmt: skip
        out.append(svg_text(x + 38, y - 4, text, 11, "#475569"))
        x += 58 + 6.2 * len(text)
    return out


def svg_text(x: float, y: float, text: str, size: int, color: str, anchor: str = "start", weight: int = 400) -> str:
    """Text with its middle at y."""
    return f"<text x='{x:.1f}' y='{y + size * 0.35:.1f}' font-size='{size}' fill='{color}' text-anchor='{anchor}' font-weight='{weight}'>{escape(text)}</text>"
