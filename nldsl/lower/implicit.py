"""Implicit steps solved: a gradient taken at the state it leads to becomes an explicit one.

A same-tick ring goes through one read r = M(k) of the new state M and one write. On the ring M is
base + c * outer(u, a) with u = alpha * r + beta, so r = base(k) + kappa * u with kappa = c * <a, k>, and

    u = (alpha * base(k) + beta) / (1 - kappa * alpha).

For the l2 objective this is Longhorn's step e / (1 + e |k|^2); nothing here knows that objective.
"""

from __future__ import annotations

import networkx as nx

from nldsl.core import Atom, Equation, Last, Num, Ref, Type, Unit
from nldsl.lower.affine import Factor, NotLinear, Operator, Vector, _Domain
from nldsl.lower.rewrite import Rewriter


def solve_implicit(unit: Unit, types: dict[str, Type]) -> tuple[Unit, dict[str, Type]]:
    """Make every same-tick ring of a unit explicit.

    Raises:
        NotLinear: for a ring whose gradient is not affine in one read of the state.
    """
    work = Rewriter(unit, types)
    graph = nx.DiGraph()
    for e in unit.equations:
        graph.add_edges_from((a.name, e.name) for a in e.args if isinstance(a, Ref) and a.name in work.equations)
    for ring in nx.strongly_connected_components(graph):
        if len(ring) > 1:
            _solve(work, ring)
    return work.finish()


def _solve(work: Rewriter, ring: set[str]) -> None:
    reads = [
        e for n in ring if (e := work.equations[n]).op == "apply" and isinstance(e.args[0], Ref) and e.args[0].name in ring
    ]
    span = work.equations[min(ring)].span
    if len(reads) != 1:
        raise NotLinear("an implicit step reads the new state in several places", span)
    (read,) = reads
    assert isinstance(read.args[0], Ref)
    domain = _Ring(work, ring)
    domain.vectors[read.name] = Vector(((read.name, Num(1.0)),))
    for e in _order(work, ring, read):
        domain.run(e)
    operator = domain.operators[read.args[0].name]
    work.at(read.span)
    probe = read.args[1]
    written = {w.name: w for w in domain.writes}
    base: Atom | None = None
    for name, factor in operator.terms:
        if name not in written:
            part = _base_read(work, domain.bases[name], factor, probe, operator.transposed)
            base = part if base is None else work.add(base, part, read.name)
    write = next((written[n] for n, _ in operator.terms if n in written and written[n].unknown is not None), None)
    if write is None or base is None:
        raise NotLinear("an implicit step does not move the state it reads", span)
    aligned = write.unknown == ("right" if operator.transposed else "left")
    others = [n for n, _ in operator.terms if n in written and n != write.name]
    if not aligned or others:
        raise NotLinear("an implicit step with several writes, or read across its write", span)
    found = operator.get(write.name)
    assert found is not None
    factor = found
    unknown = write.left if write.unknown == "left" else write.right
    ((_, alpha),) = unknown.reads
    kappa = _times(work, factor, work.emit("dot", _channels(work, factor, write.known_side, operator.transposed), probe))
    numerator = work.mul(alpha, base)
    if unknown.constant is not None:
        numerator = work.add(numerator, unknown.constant, read.name)
    denominator = work.emit("sub", Num(1.0), work.mul(kappa, alpha), hint=f"{read.name}.implicit")
    side = work.equations[write.name].args[0 if write.unknown == "left" else 1]
    assert isinstance(side, Ref)
    work.define(side.name, "div", (numerator, denominator))


class _Ring(_Domain):
    """The domain with every operator made outside the ring as an opaque base."""

    def __init__(self, work: Rewriter, ring: set[str]):
        super().__init__(work, ring, set())
        self.bases: dict[str, Atom] = {}

    def operator(self, atom: Atom, span):  # type: ignore[no-untyped-def]
        if isinstance(atom, Last) or (isinstance(atom, Ref) and atom.name not in self.inside):
            key = f"last {atom.name}" if isinstance(atom, Last) else atom.name
            self.bases[key] = atom
            return Operator(((key, Factor()),))
        return super().operator(atom, span)


def _order(work: Rewriter, ring: set[str], read: Equation) -> list[Equation]:
    graph = nx.DiGraph()
    graph.add_nodes_from(ring - {read.name})
    for name in ring - {read.name}:
        for a in work.equations[name].args:
            if isinstance(a, Ref) and a.name in ring and a.name != read.name:
                graph.add_edge(a.name, name)
    try:
        return [work.equations[n] for n in nx.lexicographical_topological_sort(graph)]
    except nx.NetworkXUnfeasible:
        raise NotLinear("an implicit step inside another", read.span) from None


def _base_read(work: Rewriter, base: Atom, factor: Factor, probe: Atom, transposed: bool) -> Atom:
    """number * Diag(values) base(Diag(keys) probe), or the transpose of that."""
    inner, outer = (factor.values, factor.keys) if transposed else (factor.keys, factor.values)
    operator = work.emit("transpose", base) if transposed else base
    value = work.emit("apply", operator, probe if inner is None else work.mul(inner, probe))
    if outer is not None:
        value = work.mul(outer, value)
    return _times(work, factor, value)


def _channels(work: Rewriter, factor: Factor, known: Atom, transposed: bool) -> Atom:
    channels = factor.values if transposed else factor.keys
    if (factor.keys if transposed else factor.values) is not None:
        raise NotLinear("an implicit step whose write is scaled by channel on the unknown side", work.span)
    return known if channels is None else work.mul(channels, known)


def _times(work: Rewriter, factor: Factor, value: Atom) -> Atom:
    return work.mul(factor.number, value)
