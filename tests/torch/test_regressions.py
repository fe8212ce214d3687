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


@pytest.mark.parametrize("name", [n for n in ZOO if vector_input(n)])
def test_a_module_in_half_precision(name):
    """Any number of ticks, gradients too, near float32."""
    c = zoo(name)
    x = c.input(2, 9)
    exact = outputs(c.single()(x.float()))
    module = c.single().bfloat16()
    x = x.bfloat16().requires_grad_()
    y, state = module(x, return_state=True)
    assert all(v.dtype in (torch.bfloat16, torch.int64) for v in state.values())
    for n, v in outputs(y).items():
        assert v.dtype == torch.bfloat16 and distance(v, exact[n]) < 0.2, n
    first, state = module(x[:, :2], return_state=True)
    again = outputs(module(x[:, 2:], state=state))
    for n, v in outputs(y).items():
        assert distance(torch.cat([outputs(first)[n], again[n]], 1), v) < 0.2, n
    sum((v.float() * w).sum() for v, w in zip(outputs(y).values(), weights(outputs(y)).values(), strict=True)).backward()
    for n, p in module.named_parameters():
        assert p.grad is None or (p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all()), n
