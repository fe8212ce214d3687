"""Faults that `nldsl verify` found, each as the smallest program or example that showed it."""

import pytest
import torch
from torch_cases import ZOO, case, distance, outputs, vector_input, weights, zoo

from nldsl_torch.reverse import gelu_curve

NETWORK = "block net(d) {\n  in x : real[d]\n  param U : d -> 2 * d\n  param D : 2 * d -> d\n  out y = x + D(silu(U(x)))\n}\n"
NETWORK += (
    "block m(d) {\n  in x : real[d]\n  param W : d -> d\n"
    "  memory N : net(d) = learned every 2 { minimize 0.5 * sqnorm(N(x) - W(x)) by gd(0.1) }\n  out y = N(x)\n}"
)
SHARES = (
    "block m(d) {\n  in x : real[d]\n  memory P : d -> d = zeros { update last P + outer(x, x) / sqnorm(x)  reset every 2 }\n"
    "  out y = P(x)\n}"
)


@pytest.mark.parametrize("program", [NETWORK, SHARES], ids=["network", "shares"])
def test_a_kept_graph_serves_twice(program):
    c = case(program, "m", d=3)
    x = c.input(2, 7).requires_grad_()
    loss = c.module(x).square().sum()
    leaves = [x, *c.module.parameters()]
    first, second, third = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(3))
    assert all(torch.equal(a, b) and torch.equal(a, d) for a, b, d in zip(first, second, third, strict=True))
