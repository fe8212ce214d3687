"""The nesting graph: memories, params and streams of a block with everything inside it, and who reads whom.

Nodes are paths (`layer/S`) with the attributes

    kind     input, output, param, memory, store, stream
    label    the name as the author wrote it
    members  the names it stands for (several params in one node of the reduced view)
    type     what it carries
    cluster  the path of the instance it is in, `` for the block itself
    period, depth   its level, for memories, stores and params (see `nldsl.check.levels`)
    clock    its period in words, in the graph of a rule
    where    file:line

Edges go from what is read to who reads it; their attribute `kind` is now, last, gradient or initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import networkx as nx

from nldsl.check.flat import Part, edges, parts
from nldsl.check.levels import component_levels
from nldsl.check.shapes import Types
from nldsl.core import Memory, Rule, Unit

if TYPE_CHECKING:
    from nldsl.program import Elaborated

KEPT = ("input", "output", "param", "memory", "store")
PRECEDENCE = ("gradient", "initialisation", "now", "last")  # the kind of a pair joined in several ways
ALONG = ("initialisation", "gradient", "last", "now")  # the kind of one way of several reads


def nesting_graph(elaborated: Elaborated) -> nx.MultiDiGraph:
    """The whole graph of a block, every stream a node.

    >>> import nldsl
    >>> text = "block b(d) { in x : real[d]  memory S : d -> d { minimize -dot(S(x), x) by gd(1) }  out y = S(x) }"
    >>> sorted(d["kind"] for _, d in reduced(nesting_graph(nldsl.load(text).symbolic("b"))).nodes(data=True))
    ['input', 'memory', 'output']
    """
    units, types, key = elaborated.units, elaborated.types, elaborated.key
    graph: nx.MultiDiGraph = nx.MultiDiGraph(block=units[key].block, key=key)
    for part in parts(units, key):
        for name, kind, span in _named(part):
            graph.add_node(part.name(name), **_attributes(part, name, kind, span, _types_of(part, units, types, key)))
    for name, (period, depth) in component_levels(units, key).items():
        graph.nodes[name].update(period=period, depth=depth)
    for edge in edges(units, key):
        for end in (edge.read, edge.reader):
            if end not in graph:
                graph.add_node(end, kind="stream", label=end.rsplit("/", 1)[-1], members=(end,), type="", where="",
                               cluster=end.rsplit("/", 1)[0] if "/" in end else "")  # fmt: skip
        graph.add_edge(edge.read, edge.reader, kind=edge.kind)
    for name, atom in units[key].outputs:
        target = getattr(atom, "name", None)
        if target in graph and graph.nodes[target]["kind"] == "stream" and target == name:
            graph.nodes[target]["kind"] = "output"
        else:
            graph.add_node(f"out {name}", kind="output", label=name, members=(name,), type="", where="", cluster="")
            if target in graph:
                graph.add_edge(target, f"out {name}", kind="now")
    graph.remove_nodes_from([n for n in nx.isolates(graph) if graph.nodes[n]["kind"] == "stream"])
    return graph


def rule_graph(rule: Rule, *, full: bool = False) -> nx.MultiDiGraph:
    """The graph of a rule: the tensor `w`, the memories of its gradients, and what a step is given.

    >>> from nldsl.optimizers import library_program
    >>> graph = rule_graph(library_program().rule("adamw"))
    >>> [(d["label"], d["clock"], d["depth"]) for _, d in graph.nodes(data=True) if "depth" in d][:2]
    [('w', 'each step', 2), ('exp_avg', 'each step', 0)]
    """
    graph = nesting_graph(rule_elaborated(rule, full=full))
    clocks = rule_clocks(rule)
    for node, data in graph.nodes(data=True):
        data["label"] = node.removeprefix("w.")
        if "depth" in data:
            data["clock"] = clocks.get(node, "each step")
    return graph


def rule_elaborated(rule: Rule, *, full: bool = True) -> Elaborated:
    """A rule as a block with the memory `w`, whose ticks are steps; without the numbers of a step, unless all is wanted."""
    from nldsl.program import Elaborated

    drawn = _drawn(rule, full)
    return Elaborated(drawn.key, {drawn.key: drawn}, {drawn.key: rule.types})


def rule_levels(rule: Rule) -> list[tuple[str, list[str]]]:
    """The clock and the members of each level of a rule, slowest first."""
    unit, clocks = _drawn(rule, False), rule_clocks(rule)
    found: dict[tuple[int, int, str], list[str]] = {}
    for name, (period, depth) in component_levels({unit.key: unit}, unit.key).items():
        found.setdefault((-(period or 0), -depth, clocks.get(name, "each step")), []).append(name)
    return [(level[2], found[level]) for level in sorted(found)]


def _drawn(rule: Rule, full: bool) -> Unit:
    """The unit of a rule with `w` as a memory; without the numbers of a step, unless all is wanted."""
    unit, numbers = rule.unit, {i for h in rule.hypers for i in h.inputs}
    weights = Memory("w", "w", None, None, None, None, (), None, (), unit.span)
    inputs = tuple(i for i in unit.inputs if full or i.name not in numbers)
    return replace(unit, memories=(weights, *unit.memories), outputs=(), inputs=inputs)


def rule_clocks(rule: Rule) -> dict[str, str]:
    """The clock of each slow memory of a rule in words."""
    offsets = {s.name: s.offset for s in rule.unit.states}
    return {n: f"every {period} steps" + (f", first at step {offsets[n]}" if offsets[n] else "") for n, period in rule.periods.items()}


def _types_of(part: Part, units: Mapping[str, Unit], types: Mapping[str, Types], key: str) -> Types:
    return types.get(part.unit.key, {})


def _named(part: Part) -> list[tuple[str, str, Any]]:
    """Every name of a unit with its kind; inputs of instances are streams."""
    unit = part.unit
    memories = {m.state: m for m in unit.memories if m.state is not None}
    found = [(i.name, "stream" if part.path else "input", i.span) for i in unit.inputs]
    found += [(p.name, "param", p.span) for p in unit.params if not p.fixed]
    found += [(m.name, "memory" if m.state is not None else "store", m.span) for m in unit.memories]
    found += [(e.name, "stream", e.span) for e in unit.equations if e.name not in memories]
    return found


def _attributes(part: Part, name: str, kind: str, span: Any, types: Types) -> dict[str, Any]:
    return {
        "kind": kind,
        "label": name,
        "members": (part.name(name),),
        "type": str(types[name]) if name in types else "",
        "cluster": part.path.rstrip("/"),
        "where": span.where,
    }


def reduced(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """The view for people: streams are contracted, a pair is joined once, params with the same readers are one node."""
    view: nx.MultiDiGraph = nx.MultiDiGraph(**graph.graph)
    for node, data in graph.nodes(data=True):
        if data["kind"] in KEPT:
            view.add_node(node, **data)
    for node in view:
        for reader, kind in _readers(graph, node).items():
            if reader != node:
                view.add_edge(node, reader, kind=kind)
    return _grouped(view)


def _readers(graph: nx.MultiDiGraph, start: str) -> dict[str, str]:
    """Kept nodes that read `start` through streams, and how: the strongest kind on some way."""
    reached: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    stack = [(start, "now")]
    while stack:
        node, before = stack.pop()
        for _, reader, data in graph.out_edges(node, data=True):
            along = min(before, data["kind"], key=ALONG.index)
            if graph.nodes[reader]["kind"] in KEPT:
                found[reader] = min(found.get(reader, along), along, key=PRECEDENCE.index)
            elif (reader, along) not in reached:
                reached.add((reader, along))
                stack.append((reader, along))
    return found


def _grouped(view: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Params of one instance that the same nodes read in the same way become one node."""
    groups: dict[Any, list[str]] = {}
    for node, data in view.nodes(data=True):
        if data["kind"] == "param":
            readers = frozenset((reader, edge["kind"]) for _, reader, edge in view.out_edges(node, data=True))
            groups.setdefault((data["cluster"], readers), []).append(node)
    for members in groups.values():
        first, *rest = members
        view.nodes[first]["members"] = tuple(members)
        view.nodes[first]["label"] = ", ".join(view.nodes[m]["label"] for m in members)
        if rest:
            view.nodes[first]["type"] = ""
        view.remove_nodes_from(rest)
    return view


def strongly_connected(graph: nx.MultiDiGraph) -> list[set[str]]:
    """The condensation in the order of a schedule: a component without a cycle is a map, one with a cycle a recurrence."""
    whole: nx.DiGraph = nx.DiGraph(graph)
    condensed = nx.condensation(whole)
    return [set(condensed.nodes[c]["members"]) for c in nx.topological_sort(condensed)]
