"""Recurrences: what a value is computed from over any number of ticks holds no block that is a function of whole streams.

Calls of blocks in a recurrence are written out (elaborate/instances.py); a block whose inputs stand in copies of its own cannot be.
All reads of one operator memory belong to its recurrence, and so does a memory that goes back to it: none of these stands between.

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = "block all(d) { each h in 2 { in q : real[d] }  out y = flatten(q) }\\n" \\
...        "block b(d) { in x : real[d]  param W : 2 * d -> d  memory m : real[2 * d] = 0 { update 0.5 * last m + u } " \\
...        "each h in 2 { p = x + W(%s) }  u = all(p)  out y = m }"
>>> [d.code for d in check_source(Source("b.nl", text % "last m")).errors]
['NL311']
>>> check_source(Source("b.nl", text % "flatten(p)")).errors[0].code
'NL310'
>>> check_source(Source("b.nl", (text % "last m").replace("all(p)", "flatten(p)"))).errors
()
"""

from __future__ import annotations

from collections.abc import Iterator

from nldsl.check.causality import cyclic_core, same_tick, shortest_cycle
from nldsl.check.reading import Reading, shown
from nldsl.check.shapes import Types
from nldsl.core import Atom, Instance, Last, Num, Ref, Unit
from nldsl.diagnostics import Diagnostic, Label


def recurrences(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL311 for each block instance that its own result reaches again, now or later."""
    return [_report(reading, edges, shortest_cycle(edges, ring, name)) for reading, edges, ring, name in _rings(unit, types)]


def blocks(unit: Unit, types: Types) -> list[Instance]:
    """The instances that are part of a recurrence, where a function of whole streams cannot stand."""
    return [reading.instances[name] for reading, _, _, name in _rings(unit, types)]


def _rings(unit: Unit, types: Types) -> Iterator[tuple[Reading, dict[str, dict[str, Atom]], set[str], str]]:
    """Each recurrence with instances in it: what reads what, its names, and one of these."""
    reading = Reading.of(unit)
    whole = set(reading.instances)
    if not whole:
        return
    names = reading.equations.keys() | reading.instances.keys()
    edges: dict[str, dict[str, Atom]] = {
        n: {a.name: a for a in reversed(reading.atoms(n)) if not isinstance(a, Num) and a.name in names} for n in names
    }
    for operator in _operators(reading, unit, types):
        # What makes or reads an operator of a memory is one recurrence with it: it exists only tick by tick.
        for reader in names:
            if operator in edges[reader] and operator in edges:
                edges[operator].setdefault(reader, Ref(reader))
    for s in unit.states:
        # So is a memory with the one it goes back to.
        if s.base in edges and s.name in edges:
            edges[s.name].setdefault(s.base, Last(s.base))
            edges[s.base].setdefault(s.name, Ref(s.name))
    core = cyclic_core(edges)
    if not core & whole:
        return
    import networkx as nx

    graph = nx.DiGraph([(a, b) for a in core for b in edges[a] if b in core])
    within = cyclic_core(same_tick(unit))  # NL310 has these
    rings = [c for c in nx.strongly_connected_components(graph) if len(c) > 1 or any(n in edges[n] for n in c)]
    for ring in rings:
        if not ring & within:
            yield from ((reading, edges, ring, name) for name in sorted(ring & whole))


def _operators(reading: Reading, unit: Unit, types: Types) -> set[str]:
    """Memories that are operators, and operators computed from them."""
    found = {s.name for s in unit.states if s.type.kind == "map"}
    waiting = [n for n in reading.equations if n in types and types[n].kind == "map"]
    while more := {n for n in waiting if n not in found and any(not isinstance(a, Num) and a.name in found for a in reading.atoms(n))}:
        found |= more
    return found


def _report(reading: Reading, edges: dict[str, dict[str, Atom]], cycle: list[str]) -> Diagnostic:
    """The cycle starts with what cannot be in it."""
    name = cycle[0]
    instance = reading.instances[name]
    text, labels = [f"`{instance.block}(...)`"], [Label(instance.span, "its result reaches it again")]
    for reader, read in zip(cycle, [*cycle[1:], name], strict=True):
        atom = edges[reader][read]
        if read == name:
            text.append(text[0])
        elif shown(read):
            text.append(f"`last {read}`" if isinstance(atom, Last) else f"`{read}`")
        if isinstance(atom, Last) and atom.span.source is instance.span.source:
            labels.append(Label(atom.span, f"the value of `{read}` before this tick" if shown(read) else ""))
    return Diagnostic("NL311", f"this block cannot be part of a recurrence: `{instance.block}`", tuple(labels[:6]),
                      expected="arguments that do not depend on its result, not even through `last`, or a block whose inputs stand outside every `each`",
                      found=" reads ".join(text), help=f"write the body of `{instance.block}` in place")  # fmt: skip
