"""In which order a tick computes its equations, and those that wait for their own gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from nldsl.core import Equation, refs


def reads(equation: Equation) -> set[str]:
    """The names an equation reads at this tick; of a gradient also those of its objective."""
    names, objective = set(refs(equation.args)), equation.attr("objective")
    if objective is not None:
        names |= {name for part in objective.equations for name in reads(part)} | set(refs((objective.result,)))
        names -= {objective.self, *(e.name for e in objective.equations)}
    return names


def components(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """The strongly connected components, each after what it reads. Tarjan with an explicit stack: chains can be long."""
    low: dict[str, int] = {}
    index: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def enter(name: str) -> tuple[str, Iterator[str]]:
        index[name] = low[name] = len(index)
        path.append(name)
        return name, iter([n for n in graph[name] if n in graph])

    for root in graph:
        work = [] if root in index else [enter(root)]
        while work:
            name, rest = work[-1]
            read = next(rest, None)
            if read is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    at = path.index(name)
                    found.append(path[at:])
                    del path[at:]
            elif read not in index:
                work.append(enter(read))
            elif read in path:
                low[name] = min(low[name], index[read])
    return found


def fixed_point(f: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """G with G = f(G), by Newton's method: one step where f is affine. Once differentiable in what f depends on.

    Raises:
        ArithmeticError: no convergence in 50 steps.
    """
    with torch.enable_grad():
        unit, g = torch.eye(len(start), dtype=start.dtype), start
        for _ in range(50):
            new = (g - torch.linalg.solve(unit - jacobian(f, g), g - f(g))).detach()
            moved, g = (new - g).abs().max(), new
            if moved <= 64 * torch.finfo(g.dtype).eps * (1 + g.abs().max()):
                # From the solution, one more step has the derivative of the solution.
                return g - torch.linalg.solve(unit - jacobian(f, g), g - f(g))
    raise ArithmeticError("an implicit step did not converge")
