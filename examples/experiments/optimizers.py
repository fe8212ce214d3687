"""Optimizers of Nested Learning beside AdamW and Muon: the paper's toy (53), and the digits of scikit-learn.

The toy is psi(r, theta) = r^2 + k (r - theta + a sin(w r))^2 from (-3.5, 2). The paper says neither k, a, w nor the rates: here
k = 5, a = 1, w = 3; a seed moves the start by a normal of 0.1; counted are the steps until psi stays below 0.001. The digits are
trained for three epochs of batches of 32 with a constant rate. Each rule has the best rate of a grid: the one with the fewest
steps, or with the least validation loss, on seeds other than those of the table.
"""

from __future__ import annotations

import math
import statistics

import torch
from experiment import COLOURS, options, picture, program, side_by_side, spread, write_table
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

import nldsl

NAMES = {
    "classical_momentum": "momentum",
    "delta_momentum": "delta momentum",
    "adamw": "AdamW",
    "muon": "Muon",
    "m3": "M3, Algorithm 1",
    "m3_ema": "M3, with means",
}
TOY = {
    "classical_momentum": [1e-3, 3e-3, 5e-3, 1e-2, 2e-2],
    "delta_momentum": [3e-3, 1e-2, 1.5e-2, 2e-2, 3e-2],
    "adamw": [1e-1, 3e-1, 1, 3],
}
DIGITS = {
    "classical_momentum": [1e-2, 3e-2, 1e-1, 3e-1],
    "delta_momentum": [1e-2, 3e-2, 1e-1, 3e-1],
    "adamw": [1e-3, 3e-3, 1e-2, 3e-2],
    "muon": [3e-3, 1e-2, 3e-2, 1e-1],
    "m3": [3e-4, 1e-3, 3e-3, 1e-2],
    "m3_ema": [3e-5, 1e-4, 3e-4, 1e-3],
}
FIXED = {
    "adamw": {"weight_decay": 0},
    "muon": {"weight_decay": 0},
    "m3": {"frequency": 10, "eps": 1e-3},  # with 1e-8 entries whose gradients are near 0 explode at all rates from 1e-6 on
    "m3_ema": {"frequency": 10},
}
REACHED = 1e-3
TUNING = 100
"""Seeds from here on choose the rates."""


def psi(place: Tensor, k: float = 5.0, a: float = 1.0, w: float = 3.0) -> Tensor:
    r, theta = place.flatten()
    return r**2 + k * (r - theta + a * torch.sin(w * r)) ** 2


def run_toy(rule: str, lr: float, seed: int, steps: int) -> list[float]:
    """psi before the first step and after each; it ends where psi is no number any more."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.nn.Parameter(torch.tensor([[-3.5, 2.0]]) + 0.1 * torch.randn(1, 2, generator=generator))
    optimizer = nldsl.optimizer(rule, [place], lr=lr, **FIXED.get(rule, {}))
    values = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        value = psi(place)
        value.backward()
        values.append(min(value.item(), 1e6) if math.isfinite(value.item()) else 1e6)
        optimizer.step()
    return values


def steps_needed(values: list[float]) -> int:
    """The steps after which psi stays below REACHED; all of them where it does not."""
    return max((t + 1 for t, value in enumerate(values) if value >= REACHED), default=0)


def slowness(values: list[float]) -> float:
    """The steps needed; among rates that do not get there, what is left."""
    return steps_needed(values) + values[-1] * 1e-7


def run_digits(rule: str, lr: float, seed: int, epochs: int) -> tuple[list[float], float, float]:
    """The training loss of each step, the validation loss, and the share of right answers on the test pictures."""
    pictures, names = load_digits(return_X_y=True)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(pictures, dtype=torch.float32)[order] / 16
    y = torch.tensor(names)[order]
    parts = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
    torch.manual_seed(seed)
    model = program("digits.nl").module("digits")
    optimizer = nldsl.optimizer(rule, model.parameters(), lr=lr, **FIXED.get(rule, {}))
    losses = []
    for _ in range(epochs):
        for chosen in torch.randperm(1200).split(32):
            optimizer.zero_grad()
            loss = cross_entropy(model(x[parts["train"]][chosen][None])[0], y[parts["train"]][chosen])
            loss.backward()
            optimizer.step()
            losses.append(min(loss.item(), 1e6) if math.isfinite(loss.item()) else 1e6)
    with torch.no_grad():
        validation = cross_entropy(model(x[parts["validation"]][None])[0], y[parts["validation"]]).item()
        right = (model(x[parts["test"]][None])[0].argmax(1) == y[parts["test"]]).float().mean().item()
    return losses, validation if math.isfinite(validation) else 1e6, right


def tuned(task, grids: dict[str, list[float]], score, amount: int, seeds: int, jobs: int):
    """For each rule its best rate and, with that, the results of each seed."""
    cases = [(rule, lr, TUNING + seed, amount) for rule, grid in grids.items() for lr in grid for seed in range(seeds)]
    scores: dict[tuple, list[float]] = {}
    for (rule, lr, *_), result in zip(cases, side_by_side(task, cases, jobs)):
        scores.setdefault((rule, lr), []).append(score(result))
    best = {rule: min(grid, key=lambda lr: statistics.fmean(scores[rule, lr])) for rule, grid in grids.items()}
    finals = [(rule, lr, seed, amount) for rule, lr in best.items() for seed in range(seeds)]
    results = side_by_side(task, finals, jobs)
    return {rule: (lr, [r for case, r in zip(finals, results) if case[0] == rule]) for rule, lr in best.items()}


def main() -> None:
    chosen = options(__doc__)
    few = slice(1 if chosen.quick else None)
    grids, steps = {rule: grid[few] for rule, grid in TOY.items()}, 20 if chosen.quick else 500
    toy = tuned(run_toy, grids, slowness, steps, chosen.seeds, chosen.jobs)
    grids, epochs = {rule: grid[few] for rule, grid in DIGITS.items()}, 1 if chosen.quick else 3
    digits = tuned(run_digits, grids, lambda result: result[1], epochs, chosen.seeds, chosen.jobs)

    rows = [
        [NAMES[rule], lr, spread(map(steps_needed, runs), 0), f"{statistics.fmean(r[-1] for r in runs):.1e}"]
        for rule, (lr, runs) in toy.items()
    ]
    write_table(chosen.out / "optimizers_toy", ["rule", "rate", "steps to 0.001", "last psi"], rows)
    rows = [
        [
            NAMES[rule],
            lr,
            spread((statistics.fmean(losses[-20:]) for losses, _, _ in runs), 3),
            spread((validation for _, validation, _ in runs), 3),
            spread((100 * right for *_, right in runs), 1),
        ]
        for rule, (lr, runs) in digits.items()
    ]
    write_table(chosen.out / "optimizers", ["rule", "rate", "training loss", "validation loss", "test, % right"], rows)

    figure, (left, right) = picture(2, width=9)
    for colour, rule in zip(COLOURS, NAMES):
        for axes, curves in (
            (left, toy.get(rule, (0, []))[1]),
            (right, [smooth(losses) for losses, _, _ in digits[rule][1]]),
        ):
            for number, curve in enumerate(curves):
                axes.plot(curve, color=colour, linewidth=1.2, alpha=0.8, label=None if number else NAMES[rule])
    left.set(title="toy (53)", xlabel="step", ylabel="psi", yscale="log", ylim=(1e-8, 1e3))
    right.set(title="digits", xlabel="step", ylabel="training loss", yscale="log")
    right.legend(frameon=False, fontsize=8)
    figure.savefig(chosen.out / "optimizers.png")


def smooth(values: list[float], reach: int = 15) -> list[float]:
    """The mean of each value and those shortly before it."""
    return [statistics.fmean(values[max(0, t - reach) : t + 1]) for t in range(len(values))]


if __name__ == "__main__":
    main()
