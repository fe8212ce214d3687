"""Rules go downhill: Rosenbrock, an ill-conditioned quadratic, the toy of Nested Learning (53), the digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nldsl

Loss = Callable[[Tensor], Tensor]


def losses(rule: str, start: Tensor, loss: Loss, steps: int, **numbers: Any) -> list[float]:
    p = torch.nn.Parameter(start.clone())
    optimizer = nldsl.optimizer(rule, [p], **numbers)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(p)
        value.backward()
        found.append(float(value.detach()))
        optimizer.step()
    return [*found, float(loss(p.detach()))]


def rosenbrock(p: Tensor) -> Tensor:
    x, y = p.flatten()
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def quadratic(p: Tensor) -> Tensor:
    """Condition number 1,000 over the rows, minimum 0."""
    return 0.5 * (torch.logspace(-3, 0, len(p), dtype=p.dtype)[:, None] * (p - 1) ** 2).sum()


ENTRYWISE = {
    "sgd": {"lr": 1e-3, "momentum": 0.9}, "classical_momentum": {"lr": 1e-3}, "ema_momentum": {"lr": 2e-3}, "nesterov": {"lr": 1e-3},
    "momentum": {"rate": 1e-3}, "adagrad": {"lr": 0.5}, "rmsprop": {"lr": 0.01}, "adadelta": {"lr": 10.0}, "adam": {"lr": 0.05},
    "adamw": {"lr": 0.05}, "amsgrad": {"lr": 0.1}, "adam_sums": {"lr": 0.1}, "nadam": {"lr": 0.05}, "radam": {"lr": 0.002},
    "adamax": {"lr": 0.05}, "ademamix": {"lr": 0.005}, "signsgd": {"lr": 0.005}, "signum": {"lr": 0.005}, "lion": {"lr": 0.005},
    "adafactor_vector": {"lr": 0.05}, "diagonal_delta_momentum": {"lr": 1e-3, "erase": 1e-3}, "feature_momentum": {"lr": 5e-3},
    "sgd_clip_value": {"lr": 5e-3}, "sgd_clip_norm": {"lr": 5e-3}, "adamw_clip_norm": {"lr": 0.05}, "adamw_warmup": {"lr": 0.05},
}  # fmt: skip

MATRIX = {
    "adafactor": {"lr": 0.05}, "shampoo": {"lr": 0.5}, "soap": {"lr": 0.05}, "muon": {"lr": 0.02, "weight_decay": 0.0},
    "muon_exact": {"lr": 0.02, "weight_decay": 0.0}, "preconditioned_momentum": {"lr": 0.1}, "delta_momentum": {"lr": 0.1},
    "deep_momentum": {"lr": 0.1}, "m3_ema": {"lr": 0.005, "frequency": 10},
}  # fmt: skip

GENTLER = {"radam": 0.05, "ema_momentum": 0.02, "sgd_clip_norm": 0.02}  # its slopes are less steep than those of Rosenbrock


@pytest.mark.parametrize("rule", ENTRYWISE)
def test_rosenbrock(rule: str) -> None:
    found = losses(rule, torch.tensor([-1.5, 2.0], dtype=torch.float64), rosenbrock, 400, **ENTRYWISE[rule])
    assert found[-1] < 0.5 * found[0], found[::50]


@pytest.mark.parametrize("rule", [*ENTRYWISE, *MATRIX])
def test_ill_conditioned_quadratic(rule: str) -> None:
    numbers = (ENTRYWISE | MATRIX)[rule] | ({"lr": GENTLER[rule]} if rule in GENTLER else {})
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    found = losses(rule, start, quadratic, 400, **numbers)
    assert found[-1] < 0.5 * found[0], found[::50]


def test_m3_to_the_letter_slows_down() -> None:
    """Its sums never forget: it descends, and under one gradient its step falls as t^(-1/2), four times the steps for half of it."""
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    found = losses("m3", start, lambda p: 0.5 * (p - 1).square().sum(), 400, lr=0.3, frequency=10)
    assert found[-1] < 0.5 * found[0], found[::50]
    p = torch.nn.Parameter(start.clone())
    optimizer = nldsl.optimizer("m3", [p], lr=0.3, frequency=10)
    steps = []
    for _ in range(400):
        p.grad, before = start.clone(), p.detach().clone()
        optimizer.step()
        steps.append(float((p.detach() - before).norm()))
    assert steps[399] / steps[99] == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("rule", ["delta_gradient_descent", "delta_gradient_descent_wide"])
def test_delta_gradient_descent_goes_half_the_way(rule: str) -> None:
    """The targets of a layer are -Delta, so that where it rests W x = -Delta = y - W x: it has learned half of y, from any start."""
    made = torch.Generator().manual_seed(2)
    x, truth = torch.randn(32, 6, generator=made), torch.randn(3, 6, generator=made)
    layer = torch.nn.Linear(6, 3, bias=False)
    optimizer = nldsl.optimizer(rule, layer, lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (0.5 * (layer(x) - x @ truth.T).square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), truth / 2, rtol=1e-4, atol=1e-4)


# --- the toy of Nested Learning ------------------------------------------------------------------------


def toy(p: Tensor, k: float = 1.0, a: float = 1.0, omega: float = 2.0) -> Tensor:
    """(53), from (-3.5, 2). The paper gives no k, a, omega and no rates; these are ours."""
    r, theta = p.flatten()
    return r**2 + k * (r - theta + a * torch.sin(omega * r)) ** 2


@pytest.mark.parametrize(("beta", "lr"), [(0.95, 0.03), (0.99, 0.01)])
def test_delta_momentum_reaches_the_optimum_of_the_toy_before_momentum(beta: float, lr: float) -> None:
    """Steps until the loss stays under 0.01, at one rate for all: 0.03 is the best of six for each at beta = 0.95."""
    start = torch.tensor([[-3.5, 2.0]], dtype=torch.float64)

    def arrival(rule: str, **numbers: Any) -> int:
        above = [t for t, value in enumerate(losses(rule, start, toy, 600, lr=lr, **numbers)) if value >= 0.01]
        return above[-1]

    momentum, delta = arrival("classical_momentum", beta=beta), arrival("delta_momentum", beta=beta)
    diagonal = arrival("diagonal_delta_momentum", beta=beta)
    assert delta < diagonal < momentum
    assert delta < 0.5 * momentum


# --- digits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [("adamw", {"lr": 0.02}), ("sgd", {"lr": 0.2, "momentum": 0.9}), ("lion", {"lr": 0.003}), ("matrices by muon(lr = 0.05), rest by adamw(lr = 0.02)", {}),
     ("soap", {"lr": 0.02}), ("shampoo", {"lr": 0.05}), ("adafactor", {"lr": 0.05}), ("delta_momentum", {"lr": 0.2}),
     ("deep_momentum", {"lr": 0.2}), ("matrices by m3_ema(lr = 3e-4, frequency = 10), rest by adamw()", {}), ("ademamix", {"lr": 0.005})],
)  # fmt: skip
def test_digits(rule: str, numbers: dict[str, Any]) -> None:
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    optimizer = nldsl.optimizer(rule, net, **numbers)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    train, test = order[:1500], order[1500:]
    for step in range(100):
        batch = train[(step * 128) % 1408 :][:128]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    accuracy = float((net(x[test]).argmax(1) == y[test]).float().mean())
    assert accuracy > 0.85, accuracy
