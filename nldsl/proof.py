"""The proof of causality and cadence: every read is of an earlier value, and how old what is read may be.

Write B for a number above that of all values of a tick. The value v of tick t is given the time B t + step(v) with
0 <= step(v) < B, and each read gives one inequality between two times:

    reader of t reads v of t - lag        step(v) + 1 <= step(reader) + B lag

Inequalities between differences are a graph, a difference-bound graph; they have a solution if and only if no cycle of it is
negative, which Bellman and Ford decide. The shortest distances are the solution, so they are the certificate: an order of the
tick in which everything is there before it is read. A negative cycle is the opposite, a value that needs itself.

A state whose clock does not tick reads nothing but what it holds. So the inequalities of a tick are those of the clocks that
tick there, and it is enough to look at each largest set of clocks that do tick together. The one exception is an implicit
step: its gradient and the state it leads to are solved together, and `implicit` lists them.

This asks neither `nldsl.check.causality` nor the lowering; all of it follows from `nldsl.check.dependences`.

>>> import nldsl
>>> text = "block b(d) { in x : real[d]  memory m : real[d] every 4 { update 0.5 * last m + x over last }  out y = last m }"
>>> found = prove(nldsl.load(text).symbolic("b"))
>>> found.holds, found.lags, found.staleness
(True, {('y', 'x'): 1}, {'m': 4})
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from math import gcd
from typing import TYPE_CHECKING, Any

from nldsl.check.dependences import EACH_TICK, Periodic, Read, before, clock_of, first_common, reads, resets_of
from nldsl.check.flat import parts
from nldsl.check.reading import shown
from nldsl.core import Last, Num
from nldsl.diagnostics import Diagnostic, Label
from nldsl.timeline import timeline

if TYPE_CHECKING:
    import networkx as nx

    from nldsl.program import Elaborated

TOLD = 8  # violations are reported at most
LISTED = 64  # classes of ticks, whose number may be exponential in that of the clocks
BEGIN = ""  # the beginning of the tick, before every value of it


@dataclass(frozen=True)
class TickClass:
    """Clocks, of writes and of resets, that tick together, and no further clock with all of them; `tick` is the first such tick."""

    clocks: frozenset[Periodic]
    tick: int


@dataclass(frozen=True)
class Proof:
    """What was proven, or why it does not hold.

    Attributes:
        violations: the cycles of reads that have no order in time.
        order: for each class of ticks (the first `LISTED` of them), the values in micro-steps: each value reads only those of
            earlier ones. Empty where it does not hold.
        implicit: the gradients of implicit steps, which are solved together with the state they lead to.
        lags: for each output and input of the block, the shortest time in ticks from a value of the input to one of the output it
            can matter to; None where there is none. A lower bound: no tick may attain it where values pass through three clocks
            or more, or where all of them are forgotten at a reset. Empty where the proof does not hold.
        staleness: for each memory with a period, how many ticks old its last write is at most when it is read with `last`; the
            state after the tick is one tick younger.
        reads: how many there are.
    """

    block: str
    violations: tuple[Diagnostic, ...]
    order: Mapping[TickClass, tuple[tuple[str, ...], ...]]
    implicit: tuple[str, ...]
    lags: Mapping[tuple[str, str], int | None]
    staleness: Mapping[str, int]
    reads: int

    @property
    def holds(self) -> bool:
        return not self.violations

    def text(self, tick: str = "tick") -> list[str]:
        """The result in lines; of a rule, whose ticks are steps, with the word `step`."""
        if not self.holds:
            return [line for d in self.violations for line in d.render().splitlines()]
        one = len(set(self.order.values())) == 1
        lines = [f"proof     {self.reads} reads, each of an earlier value: "
                 + (f"one order fits every {tick}" if one else f"{len(self.order)} kinds of {tick}s have an order each")]  # fmt: skip
        lines += [f"          but {name}: an implicit step, solved for the state it leads to" for name in self.implicit]
        lines += _headed("lags", _lag_lines(self.lags, tick))
        return lines + _headed("held", _staleness_lines(self.staleness, tick))


def prove(elaborated: Elaborated) -> Proof:
    """The proof for a block with everything inside it; units that the checker refuses can be asked about too."""
    found = list(reads(elaborated.units, elaborated.key))
    nodes = list(dict.fromkeys(name for r in found for name in (r.reader, r.read)))
    wrong: dict[object, Diagnostic] = {}
    order: dict[TickClass, tuple[tuple[str, ...], ...]] = {}
    steps = _times(nodes, found)
    if steps is not None:
        # An order for all clocks at once, which may never tick together, is one for each class of ticks.
        order = dict.fromkeys(islice(tick_classes(elaborated), LISTED), _levels(steps))
    else:
        for kind in tick_classes(elaborated):
            here = [r for r in found if r.when in kind.clocks]
            steps = _times(nodes, here)
            if steps is not None and len(order) < LISTED:
                order[kind] = _levels(steps)
            for cycle in _cycles(nodes, here) if steps is None else ():
                wrong.setdefault(frozenset(cycle), _report(cycle, kind))
            if len(wrong) >= TOLD:
                break
    violations = tuple(wrong.values())[:TOLD]
    solved = tuple(r.reader for r in found if r.kind == "solved")
    lags = _lags(elaborated, found) if not violations else {}
    stale = {k.path: k.clock.period for k in timeline(elaborated).kept if k.clock.period > 1}
    told = sum(r.kind in ("value", "solved") for r in found)
    return Proof(elaborated.unit.block, violations, order if not violations else {}, solved, lags, stale, told)


def tick_classes(elaborated: Elaborated) -> Iterator[TickClass]:
    """The largest sets of clocks that tick together: cliques of those that meet pairwise, as these meet all at one tick."""
    import networkx as nx

    states = [s for part in parts(elaborated.units, elaborated.key) for _, s in part.states]
    clocks = sorted({EACH_TICK} | {c for s in states for c in (clock_of(s), resets_of(s)) if c is not None})
    graph: nx.Graph = nx.Graph()
    graph.add_nodes_from(clocks)
    graph.add_edges_from((a, b) for a in clocks for b in clocks if a < b and a.meets(b))
    return (TickClass(frozenset(c), first_common(c)) for c in nx.find_cliques(graph))


def _graph(nodes: Iterable[str], found: Iterable[Read]) -> nx.DiGraph:
    """The difference-bound graph: an edge (a, b, w) says -step(b) <= -step(a) + w."""
    import networkx as nx

    graph: nx.DiGraph = nx.DiGraph()
    names = list(nodes)
    bound = len(names) + 1
    for name in names:
        graph.add_edge(BEGIN, name, weight=0, read=None)  # not before its tick
        graph.add_edge(name, BEGIN, weight=bound - 1, read=None)  # and not after it
    for r in found:
        weight = bound * r.lag - 1
        if r.kind != "solved" and not (graph.has_edge(r.read, r.reader) and graph.edges[r.read, r.reader]["weight"] <= weight):
            graph.add_edge(r.read, r.reader, weight=weight, read=r)
    return graph


def _times(nodes: Iterable[str], found: Iterable[Read]) -> dict[str, int] | None:
    """The earliest micro-step of every value, or None: there is no order."""
    import networkx as nx

    graph = _graph(nodes, found)
    try:
        return {name: -int(distance) for name, distance in nx.single_source_bellman_ford_path_length(graph, BEGIN).items() if name != BEGIN}
    except nx.NetworkXUnbounded:
        return None


def _levels(steps: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Streams by their micro-step; what only stands for a value before the tick, or for a call, has none of its own."""
    levels: dict[int, list[str]] = {}
    for name, step in steps.items():
        if not name.startswith("last ") and not name.endswith("/"):
            levels.setdefault(step, []).append(name)
    return tuple(tuple(levels[step]) for step in sorted(levels))


def _cycles(nodes: Iterable[str], found: Iterable[Read]) -> Iterator[tuple[Read, ...]]:
    """Negative cycles with no read in common, in reading order."""
    import networkx as nx

    graph = _graph(nodes, found)
    for _ in range(TOLD):
        try:
            around = nx.find_negative_cycle(graph, BEGIN)
        except nx.NetworkXError:
            return
        steps = [graph.edges[edge]["read"] for edge in pairwise(around)]
        cycle = tuple(r for r in steps if r is not None)
        graph.remove_edges_from([(r.read, r.reader) for r in cycle])
        yield cycle


def _report(cycle: tuple[Read, ...], kind: TickClass) -> Diagnostic:
    """A cycle in words: each value is read by the next, the last one by the first."""
    future = next((r for r in cycle if r.lag < 0), None)
    names = [r.reader for r in cycle]
    plain = [n for n in dict.fromkeys(n.removeprefix("last ") for n in names) if shown(n.rpartition("/")[2])] or [names[0].removeprefix("last ").rstrip("/")]
    labels: list[Label] = []
    for r in sorted(cycle, key=lambda r: r is not future):
        said = f"{r.reader.rstrip('/')} reads `{r.read.rstrip('/')}`" + (f" of {-r.lag} ticks later" if r.lag < 0 else "")
        if all(label.span != r.span for label in labels) and len(labels) < 6:
            labels.append(Label(r.span, said))
    if future is not None:
        message = f"`{plain[0]}` needs a value of a later tick"
    else:
        message = f"`{plain[0]}` depends on itself within one tick"
    return Diagnostic("NL310", message, tuple(labels), expected="every read of an earlier value",
                      found=f"no order of the values of tick {kind.tick}")  # fmt: skip


# --- how old what is read is -----------------------------------------------------------------------


def _lags(elaborated: Elaborated, found: Iterable[Read]) -> dict[tuple[str, str], int | None]:
    """The shortest way in ticks from each input to each output.

    A slow state takes what it reads at its own ticks and keeps it, so between the ticks of two clocks some time passes:
    a way of L ticks from a tick of one clock to a tick of the other takes the first L' >= L that fits both phases.
    """
    import networkx as nx

    unit = elaborated.unit
    graph, clocks = _ways(elaborated, found)
    inputs = [i.name for i in unit.inputs]
    outputs = {name: None if isinstance(a, Num) else before(a.name) if isinstance(a, Last) else a.name for name, a in unit.outputs}
    ends = {("in", name): clock for name, clock in clocks.items()} | {n: EACH_TICK for n in outputs.values() if n is not None}
    reduced: nx.DiGraph = nx.DiGraph()
    for source in [*inputs, *(("out", name) for name in clocks)]:
        start = clocks[source[1]] if isinstance(source, tuple) else EACH_TICK
        if source not in graph:
            continue
        for node, length in nx.single_source_dijkstra_path_length(graph, source).items():
            if node in ends:
                reduced.add_edge(source, ("end", node), weight=_rounded(int(length), start, ends[node]))
    reduced.add_edges_from((("end", ("in", name)), ("out", name), {"weight": 0}) for name in clocks)
    lags: dict[tuple[str, str], int | None] = {}
    for source in inputs:
        reached = nx.single_source_dijkstra_path_length(reduced, source) if source in reduced else {}
        lags |= {(name, source): reached.get(("end", node)) for name, node in outputs.items()}
    return lags


def _rounded(length: int, start: Periodic, end: Periodic) -> int:
    """The least time from a tick of one clock to a tick of another that is not below a length."""
    return length + (end.phase - start.phase - length) % gcd(start.period, end.period)


def _ways(elaborated: Elaborated, found: Iterable[Read]) -> tuple[nx.DiGraph, dict[str, Periodic]]:
    """Who reads whom with the time it takes, cut where a clock has to tick: `in` what is done at its ticks, `out` what comes of it.

    At `write S` a slow state takes its step, at `reset S` a state takes the value of another.
    """
    import networkx as nx

    slow = {name: clock_of(s) for part in parts(elaborated.units, elaborated.key) for name, s in part.states if s.every > 1}
    clocks: dict[str, Periodic] = {f"write {name}": clock for name, clock in slow.items()}
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_edges_from((("out", f"write {name}"), name, {"weight": 0}) for name in slow)

    def flows(a: Any, b: Any, lag: int) -> None:
        if not (graph.has_edge(a, b) and graph.edges[a, b]["weight"] <= lag):
            graph.add_edge(a, b, weight=lag)

    for r in found:
        if r.kind == "reset":
            clocks[f"reset {r.reader}"] = r.when
            flows(r.read, ("in", f"reset {r.reader}"), r.lag)
            flows(("out", f"reset {r.reader}"), r.reader, 0)
        elif r.kind != "call" and not (r.kind == "held" and r.reader not in slow):
            flows(r.read, ("in", f"write {r.reader}") if r.kind != "held" and r.reader in slow else r.reader, r.lag)
    return graph, clocks


# --- words -----------------------------------------------------------------------------------------


def _headed(head: str, lines: list[str]) -> list[str]:
    return [f"{head if n == 0 else '':<10}{line}" for n, line in enumerate(lines)]


def _lag_lines(lags: Mapping[tuple[str, str], int | None], tick: str) -> list[str]:
    grouped: dict[tuple[str, int | None], list[str]] = {}
    for (output, source), lag in lags.items():
        grouped.setdefault((output, lag), []).append(source)
    return [_lag_text(output, ", ".join(sources), lag, tick) for (output, lag), sources in grouped.items()]


def _lag_text(output: str, sources: str, lag: int | None, tick: str) -> str:
    if lag is None:
        return f"{output} does not read {sources}"
    if lag == 0:
        return f"{output} reads {sources} of this {tick} and before"
    return f"{output} reads {sources} up to {lag} {tick}{'s' if lag > 1 else ''} before"


def _staleness_lines(stale: Mapping[str, int], tick: str) -> list[str]:
    grouped: dict[int, list[str]] = {}
    for path, ticks in stale.items():
        grouped.setdefault(ticks, []).append(path)
    lines = []
    for ticks, paths in grouped.items():
        names = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        lines.append(f"{names}: what was seen up to the end of the last period of {ticks} {tick}s, at most {ticks} {tick}s old")
    return lines


__all__ = ["Proof", "TickClass", "prove", "tick_classes"]
