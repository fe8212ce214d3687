"""Implicit steps: the gradient at a state that is computed from that very gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

STEPS = 50


def fixed_point(f: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """G with G = f(G), by Newton's method: one step where f is affine. Once differentiable in what f depends on.

    Raises:
        ArithmeticError: no convergence in 50 steps.
    """
    with torch.enable_grad():
        unit = torch.eye(len(start), dtype=start.dtype)

        def newton(g: Tensor) -> Tensor:
            return g - torch.linalg.solve(unit - jacobian(f, g), g - f(g))

        g = start.detach()
        tolerance = 64 * torch.finfo(g.dtype).eps
        for _ in range(STEPS):
            new = newton(g).detach()
            moved, g = (new - g).abs().max(), new
            if not moved.isfinite():
                break
            if moved <= tolerance * (1 + g.abs().max()):
                return newton(g)  # from the solution, one more step has the derivative of the solution
        raise ArithmeticError("an implicit step did not converge")
