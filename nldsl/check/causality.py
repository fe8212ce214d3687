"""Causality: within one tick no value depends on itself.

Refused:   memory S : d -> d { update last S + outer(S(x), x) }         S of this tick needs S of this tick
Accepted:  memory S : d -> d { update last S + outer(last S(x), x) }    it needs S of the tick before

The one exception is an implicit step: `grad(at = w)` may be taken at the state that is being computed.

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = "block b(d) { in x : real[d]  memory S : d -> d { update last S + outer(%s, x) }  out y = S(x) }"
>>> [d.code for d in check_source(Source("b.nl", text % "S(x)")).errors]
['NL310']
>>> check_source(Source("b.nl", text % "last S(x)")).errors
()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from nldsl.check.reading import Reading, shown
from nldsl.check.shapes import Types
from nldsl.core import Equation, Ref, Unit
from nldsl.diagnostics import Diagnostic, Label

Edges = dict[str, dict[str, Ref]]  # reader -> what it reads at this tick, and where


def causality(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL310 for each cycle of reads within one tick."""
    edges = same_tick(unit)
    core = cyclic_core(edges)
    if not core:
        return []
    import networkx as nx

    graph = nx.DiGraph([(a, b) for a in core for b in edges[a] if b in core])
    components = [c for c in nx.strongly_connected_components(graph) if len(c) > 1 or any(n in edges[n] for n in c)]
    return [_report(Reading.of(unit), edges, shortest_cycle(edges, component)) for component in components]


def same_tick(unit: Unit) -> Edges:
    """Every read within a tick; an instance's outputs read all its arguments, an implicit step's own state is left out."""
    reading, implicit = Reading.of(unit), implicit_states(unit)
    edges: Edges = {}
    for name in (*reading.equations, *reading.instances):
        reads = [a for a in reading.atoms(name) if isinstance(a, Ref)]
        if name in reading.equations and (at := implicit_at(reading.equations[name], implicit)) is not None:
            reads.remove(at)
        edges[name] = {a.name: a for a in reversed(reads) if a.name in reading.equations or a.name in reading.instances}
    return edges


def implicit_states(unit: Unit) -> set[str]:
    """States, and the results of steps on the way to them: where an implicit step may take its gradient."""
    names = {s.name for s in unit.states}
    rules = {m.name: {step.split("(")[0].strip() for step in m.steps} for m in unit.memories}
    for equation in unit.equations:
        at = equation.args[0] if equation.op == "grad" else None
        parts = at.name.split(".") if isinstance(at, Ref) else []
        if any(part in rules.get(".".join(parts[:n]), ()) for n, part in enumerate(parts)):
            names.add(".".join(parts))
    return names


def implicit_at(equation: Equation, implicit: set[str]) -> Ref | None:
    """The state a gradient is taken at, when that is one of this tick."""
    at = equation.args[0] if equation.op == "grad" else None
    return at if isinstance(at, Ref) and at.name in implicit else None


def cyclic_core(edges: Mapping[str, Mapping[str, object]]) -> set[str]:
    """The names left after taking away, again and again, those that read none of the others."""
    readers: dict[str, list[str]] = {name: [] for name in edges}
    missing = {name: len(reads) for name, reads in edges.items()}
    for name, reads in edges.items():
        for read in reads:
            readers[read].append(name)
    ready = [name for name, count in missing.items() if count == 0]
    done = 0
    while done < len(ready):
        for reader in readers[ready[done]]:
            missing[reader] -= 1
            if missing[reader] == 0:
                ready.append(reader)
        done += 1
    return edges.keys() - set(ready)


def shortest_cycle(edges: Mapping[str, Mapping[str, object]], component: set[str], start: str | None = None) -> list[str]:
    """The names of a shortest cycle through `start`, by default the first written name of a component, in reading order."""
    start = min(component, key=lambda name: (not shown(name), name)) if start is None else start
    previous: dict[str, str] = {}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        for read in edges[name]:
            if read == start:
                path = [name]
                while path[-1] != start:
                    path.append(previous[path[-1]])
                return path[::-1]
            if read in component and read not in previous:
                previous[read] = name
                queue.append(read)
    raise AssertionError("a strongly connected component has a cycle through each of its names")


def _report(reading: Reading, edges: Edges, cycle: list[str]) -> Diagnostic:
    def own(name: str) -> bool:
        """Whether the author wrote it: `y.1` is a copy of `y[1]`, or a part of the equation of `y`."""
        return shown(name) and name.split(".")[0] not in reading.equations.keys() - {name}

    steps = list(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    written = [name for name in cycle if own(name)] or [cycle[0].split(".")[0]]
    breaks = next((pair for pair in steps if pair[1] in reading.states), next((p for p in steps if own(p[1])), steps[0]))
    reader, read = breaks
    where = edges[reader][read].span
    place = reading.equations[reader].span if reader in reading.equations else where
    around = [*written, written[0]]
    read = read if own(read) else read.split(".")[0]
    labels = [Label(where, f"reads `{read}` of this tick")]
    for name in cycle:
        span = reading.equations[name].span if name in reading.equations else reading.instances[name].span
        if span != where and all(label.span != span for label in labels) and len(labels) < 6:
            labels.append(Label(span, f"`{name}` is computed here" if own(name) else ""))
    code = place.text
    applied = code.startswith(f"{read}(") or code == read
    return Diagnostic(
        "NL310",
        f"`{written[0]}` depends on itself within one tick",
        tuple(labels),
        expected="a `last` somewhere on the cycle",
        found=" reads ".join(f"`{n}`" for n in around),
        help=f"last {code}" if applied else f"last {read}",
    )
