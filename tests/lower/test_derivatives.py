"""Every pullback against autograd: the torch backend differentiates symbolically, the interpreter by autograd."""

from __future__ import annotations

import pytest
import torch

import nldsl
from nldsl.lower.differentiate import PULLBACKS
from nldsl.vocabulary import WORDS

# An objective for each operation that reads the memory through it; r stands for S(k), a vector.
OBJECTIVES = {
    "add": "sum((r + v) * v)",
    "sub": "sqnorm(v - r)",
    "neg": "dot(-r, v)",
    "copy": "dot(r, v)",
    "mul": "sum(r * r * v)",
    "div": "sum(v / (2 + r * r)) + sum(r / 3)",
    "pow": "sum((1 + r * r) ^ 1.5)",
    "exp": "sum(exp(0.3 * r))",
    "log": "sum(log(1 + r * r))",
    "sqrt": "sum(sqrt(1 + r * r))",
    "abs": "sum(abs(r - v))",
    "sign": "sum(sign(r) * r)",
    "tanh": "sum(tanh(r) * v)",
    "sigmoid": "dot(sigmoid(r), v)",
    "softplus": "sum(softplus(r - v))",
    "silu": "sum(silu(r))",
    "gelu": "sum(gelu(r) * v)",
    "relu": "sqnorm(relu(r - v))",
    "max": "sum(max(r, v))",
    "min": "sum(min(v, r))",
    "stop": "dot(stop(r), r)",
    "dot": "dot(r, r) * 0.5 - dot(v, r)",
    "sqnorm": "0.5 * sqnorm(r - v)",
    "sum": "sum(r) * sum(v)",
    "mean": "mean(r) * mean(r)",
    "unit": "dot(unit(r), v)",
    "norm": "dot(norm(r), v)",
    "softmax": "dot(softmax(r), v)",
    "apply": "0.5 * sqnorm(W(r) - v)",
    "transpose": "0.5 * sqnorm(transpose(S)(v) - k)",
    "outer": "0.1 * sqnorm(outer(r, k) - outer(v, k))",
    "matmul": "0.1 * sqnorm(matmul(S, transpose(S)) - W) + 0.1 * sqnorm(matmul(W, S) - matmul(S, W))",
    "where": "sum(where(k, S(k) * S(k), v * S(k))) + sum(where(S(k) - v, S(k), 2 * S(k)))",
    "identity": "sqnorm(identity(S) - S)",
    "row_mean": "0.5 * sqnorm(row_mean(S) - row_mean(W)) + 0.1 * sqnorm(row_mean(matmul(S, W)))",
    "column_mean": "0.5 * sqnorm(column_mean(S)) - dot(column_mean(S), column_mean(W))",
    "solve": "0.1 * dot(solve(A, S(k)), v) + 0.1 * sqnorm(solve(2 * A + 0.1 * S, v)) + 0.1 * sqnorm(solve(A + 0.1 * S, S))",
    "bfloat16": "dot(bfloat16(S(k)), bfloat16(v))",
    "scale_values": "0.5 * sqnorm(scale_values(v, S)(k) - v)",
}
# Reached as a part of other derivatives, or of objectives that are streams (tests/torch/test_random_windows.py).
INNER = {"entry", "fill", "pool", "gelu_pull", "cross_entropy", "flatten", "unflatten", "sum_copies", "turn", "turn_back"}


def program(objective: str) -> str:
    body = objective.replace("r", "\0").replace("\0", "r")
    return f"""
block b(d) {{
  in x : real[d]
  param Wk, Wv, W : d -> d
  k = unit(Wk(x))
  v = Wv(x)
  A = 2 * identity(W) + 0.1 * W
  memory S : d -> d = learned(normal(0.5)) {{ minimize {_reading(body)} by decay(0.9), gd(0.1) }}
  out y = S(k)
}}"""


def _reading(text: str) -> str:
    """The objective with S(k) for every r that is a name of its own."""
    import re

    return re.sub(r"\br\b", "S(k)", text)


def test_every_pullback_has_an_objective() -> None:
    assert set(OBJECTIVES) | INNER == set(PULLBACKS)
    assert set(PULLBACKS) <= set(WORDS)


@pytest.mark.parametrize("op", OBJECTIVES)
def test_symbolic_derivative_is_that_of_autograd(op: str) -> None:
    loaded = nldsl.load(program(OBJECTIVES[op]))
    torch.manual_seed(0)
    module = loaded.module("b", d=4, dtype=torch.float64)
    interpreter = loaded.interpreter("b", d=4)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    wanted, _ = interpreter.run(dict(module.named_parameters()), {"x": x})
    assert torch.allclose(module(x), wanted["y"], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(module(x)[:, 1:], torch.zeros(()).double())
