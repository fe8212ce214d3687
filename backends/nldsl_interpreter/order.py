"""In which order the equations of a tick are computed: the strongly connected components, each after what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Set

from nldsl.core import Equation, Ref, refs


def reads(equation: Equation) -> set[str]:
    """The names an equation reads at this tick; of a gradient also those of its objective."""
    names = set(refs(equation.args))
    objective = equation.attr("objective")
    if objective is not None:
        for part in objective.equations:
            names |= reads(part)
        if isinstance(objective.result, Ref):
            names.add(objective.result.name)
        names -= {objective.self, *(e.name for e in objective.equations)}
    return names


def components(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """Tarjan's algorithm with an explicit stack, for chains can be long."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []
    for root in graph:
        work = [] if root in index else [(root, iter(()))]
        while work:
            name, rest = work[-1]
            if name not in index:
                index[name] = low[name] = len(index)
                path.append(name)
                work[-1] = (name, rest := iter([n for n in graph[name] if n in graph]))
            for read in rest:
                if read not in index:
                    work.append((read, iter(())))
                    break
                if read in path:
                    low[name] = min(low[name], low[read])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    at = path.index(name)
                    found.append(path[at:])
                    del path[at:]
    return found
