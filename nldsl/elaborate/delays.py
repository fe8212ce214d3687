"""A stream that reads a delay of itself: as `last` does, a delay by a tick or more breaks the cycle.

    y = tanh(delay(y, 1) + x)     becomes     y = tanh(last y + x)
    y = tanh(delay(y, 3) + x)     becomes     y = tanh(delay(last y, 2) + x)
"""

from __future__ import annotations

from dataclasses import replace

from nldsl.core import Equation, Last, Ref
from nldsl.elaborate.builder import Builder, read_by


def break_cycles(b: Builder) -> None:
    """Every delay on a cycle of reads within a tick reads what was before this tick."""
    if not any(e.op == "delay" for e in b.equations):
        return
    import networkx as nx

    graph = nx.DiGraph([(e.name, a.name) for e in b.equations for a in read_by(e) if isinstance(a, Ref)])
    graph.add_edges_from((f"{i.name}.{o}", a.name) for i in b.instances for o in i.outputs for _, a in i.args if isinstance(a, Ref))
    cycle = {name: n for n, names in enumerate(nx.strongly_connected_components(graph)) for name in names}
    states = {s.name for s in b.states}
    for at, e in enumerate(list(b.equations)):
        source = e.args[0] if e.op == "delay" else None
        if not isinstance(source, Ref) or cycle[e.name] != cycle[source.name]:
            continue
        if source.name in states:  # what it is before the first tick is not 0
            source = b.emit("copy", (source,), source.span, hint=f"{e.name}.now")
        before, ticks = Last(source.name, source.span), e.attr("ticks") - 1
        b.equations[at] = replace(e, args=(before,), attrs=(("ticks", ticks),)) if ticks else Equation(e.name, "copy", (before,), e.span)
