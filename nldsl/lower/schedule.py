"""The nesting graph condensed: which equations run for all ticks at once, and which form a recurrence.

Nodes are equations and instances; an edge for every read, of this tick or the one before. Strongly connected
components are recurrences; the rest are maps. Operators of a memory exist only tick by tick, so an equation that
makes or reads one belongs to the memory's recurrence; but for those that are said to stand at every tick.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from nldsl.core import Equation, Instance, Last, Num, Ref, Type, Unit


@dataclass(frozen=True)
class Region:
    """Equations that run for all ticks at once, in order."""

    equations: tuple[Equation, ...]


@dataclass(frozen=True)
class Recurrence:
    """Equations of one tick, in order where no implicit step stands between them, and the states they advance."""

    equations: tuple[Equation, ...]
    states: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Attention:
    """A read of a store."""

    equation: Equation


@dataclass(frozen=True)
class Call:
    """An instance of another unit."""

    instance: Instance


Step = Region | Recurrence | Attention | Call


def schedule(
    unit: Unit, types: dict[str, Type], needs: Mapping[str, set[str]] | None = None, streams: Collection[str] = ()
) -> tuple[Step, ...]:
    """The steps of a unit in the order in which they run; `needs` are what an equation reads besides its arguments, `streams` operators at every tick."""
    graph, nodes = _graph(unit)
    for name, read in (needs or {}).items():
        graph.add_edges_from((s, name) for s in read if s in graph)
    group_of = _groups(unit, types, graph, streams)
    merged = nx.DiGraph()
    for name in graph:
        merged.add_node(group_of[name])
    for a, b in graph.edges:
        if group_of[a] != group_of[b]:
            merged.add_edge(group_of[a], group_of[b])
    members: dict[str, list[str]] = {}
    for name in graph:
        members.setdefault(group_of[name], []).append(name)
    recurrent = {g for g, names in members.items() if g.startswith("*")}
    steps: list[tuple[int, int, Step]] = []
    depth: dict[str, int] = {}
    maps: dict[int, list[str]] = {}
    used = _used(unit)
    for name, read in (needs or {}).items():
        for stream in read:
            used.setdefault(stream, set()).add(name)
    for group in nx.lexicographical_topological_sort(merged):
        node = nodes.get(group)
        plain = group not in recurrent and isinstance(node, Equation) and node.op != "attend"
        before = max((depth[p] + (0 if plain and _is_map(p, recurrent, nodes) else 1) for p in merged.predecessors(group)), default=0)
        depth[group] = before
        if plain:
            maps.setdefault(before, []).append(group)
        else:
            steps.append((before, 1, _step(group, members[group], nodes, graph, unit, used, group in recurrent)))
    for level, names in maps.items():
        steps.append((level, 0, Region(tuple(e for e in map(nodes.__getitem__, names) if isinstance(e, Equation)))))
    steps.sort(key=lambda s: (s[0], s[1]))
    return tuple(step for _, _, step in steps)


def _is_map(group: str, recurrent: set[str], nodes: dict) -> bool:
    return group not in recurrent and isinstance(nodes[group], Equation) and nodes[group].op != "attend"


def _graph(unit: Unit) -> tuple[nx.DiGraph, dict[str, Equation | Instance]]:
    """Nodes by name; an instance is one node, whatever its outputs."""
    nodes: dict[str, Equation | Instance] = {e.name: e for e in unit.equations}
    owner = {e.name: e.name for e in unit.equations}
    for instance in unit.instances:
        nodes[f"{instance.name}()"] = instance
        owner.update({f"{instance.name}.{o}": f"{instance.name}()" for o in instance.outputs})
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    for name, node in nodes.items():
        args = node.args if isinstance(node, Equation) else tuple(a for _, a in node.args)
        for arg in args:
            if not isinstance(arg, Num) and arg.name in owner:
                graph.add_edge(owner[arg.name], name)
    graph.add_edges_from((s.base, s.name) for s in unit.states if s.base is not None and s.base in nodes and s.name in nodes)
    # Who looks at a store on the way to an objective sees what its reads keep.
    looks = [e for e in unit.equations if e.op in ("attend", "attend_pull") and e.attr("of") is not None]
    reads = [e for e in unit.equations if e.op == "attend" and e.attr("of") is None]
    graph.add_edges_from((r.name, e.name) for e in looks for r in reads if r.attr("memory") == e.attr("memory"))
    return graph, nodes


def _groups(unit: Unit, types: dict[str, Type], graph: nx.DiGraph, streams: Collection[str]) -> dict[str, str]:
    """Each node's group: its own name, or `*name` of a recurrence."""
    params = {p.name for p in unit.params}
    ties = nx.Graph()
    ties.add_nodes_from(graph)
    fixed = _settled(unit, types, params) | {*streams}
    for e in unit.equations:
        for arg in e.args:
            if isinstance(arg, Num) or arg.name not in graph:
                continue
            if isinstance(arg, Last) or (types[arg.name].kind == "map" and arg.name not in fixed):
                ties.add_edge(arg.name, e.name)
    ties.add_edges_from((e.name, e.attr("memory")) for e in unit.equations if e.op == "fold" and e.attr("memory") in graph)
    ties.add_edges_from((s.base, s.name) for s in unit.states if s.base in graph and s.name in graph)
    for component in nx.strongly_connected_components(graph):
        first, *others = component
        ties.add_edges_from((first, other) for other in others)
    states = {s.name for s in unit.states}
    while True:
        group_of: dict[str, str] = {}
        for part in nx.connected_components(ties):
            # Operators that no state takes part in are streams like any other.
            label = f"*{min(part)}" if part & states else ""
            for name in part:
                group_of[name] = label or name
        merged = nx.DiGraph((group_of[a], group_of[b]) for a, b in graph.edges if group_of[a] != group_of[b])
        rings = [c for c in nx.strongly_connected_components(merged) if len(c) > 1]
        if not rings:
            return group_of
        # Something between two reads of one memory: it belongs to the recurrence too.
        for ring in rings:
            names = [n for n in graph if group_of[n] in ring]
            ties.add_edges_from((names[0], n) for n in names[1:])


def _settled(unit: Unit, types: dict[str, Type], params: set[str]) -> set[str]:
    """Operators computed from params and constants only."""
    settled: set[str] = set()
    changed = True
    while changed:
        changed = False
        for e in unit.equations:
            if e.name not in settled and types[e.name].kind == "map" and e.args and all(
                isinstance(a, Num) or (isinstance(a, Ref) and (a.name in params or a.name in settled)) for a in e.args
            ):
                settled.add(e.name)
                changed = True
    return settled


def _used(unit: Unit) -> dict[str, set[str]]:
    """Who reads each name; an output and an instance count as readers."""
    users: dict[str, set[str]] = {}
    for e in unit.equations:
        for a in e.args:
            if not isinstance(a, Num):
                users.setdefault(a.name, set()).add(e.name)
    for i in unit.instances:
        for _, a in i.args:
            if not isinstance(a, Num):
                users.setdefault(a.name, set()).add(f"{i.name}()")
    for name, a in unit.outputs:
        if not isinstance(a, Num):
            users.setdefault(a.name, set()).add(f"out {name}")
    return users


def _step(
    group: str, names: list[str], nodes: dict, graph: nx.DiGraph, unit: Unit, used: dict[str, set[str]], recurrent: bool
) -> Step:
    node = nodes[names[0]]
    if not recurrent:
        return Call(node) if isinstance(node, Instance) else Attention(node)
    equations = tick_order([nodes[n] for n in names if isinstance(nodes[n], Equation)])
    inside = set(names)
    outputs = tuple(e.name for e in equations if used.get(e.name, set()) - inside)
    states = tuple(s.name for s in unit.states if s.name in inside)
    return Recurrence(tuple(equations), states, outputs)


def tick_order(equations: list[Equation]) -> list[Equation]:
    """An order of one tick: reads of this tick before their readers; an implicit step's ring stays together."""
    by_name = {e.name: e for e in equations}
    graph = nx.DiGraph()
    graph.add_nodes_from(by_name)
    for e in equations:
        graph.add_edges_from((a.name, e.name) for a in e.args if isinstance(a, Ref) and a.name in by_name)
    rings = nx.condensation(graph)
    order: list[Equation] = []
    for ring in nx.lexicographical_topological_sort(rings, key=lambda n: min(rings.nodes[n]["members"])):
        order += [by_name[n] for n in sorted(rings.nodes[ring]["members"])]
    return order
