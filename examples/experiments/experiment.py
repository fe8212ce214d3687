"""What the experiments share: options, a training loop, runs side by side, the table and the picture."""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import nldsl

HERE = Path(__file__).resolve().parent
COLOURS = ("#4c78a8", "#d1495b", "#3f8f5f", "#e0a030", "#7a5ba8", "#555555", "#2ab0b8", "#b07040")


def options(document: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: shows that it runs")
    parser.add_argument("--seeds", type=int, default=None, help="runs of each case; 3, with --quick 1")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each; with --quick always 1")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder of the table and the picture")
    chosen = parser.parse_args()
    chosen.seeds = chosen.seeds or (1 if chosen.quick else 3)
    chosen.jobs = 1 if chosen.quick else chosen.jobs
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def program(*files: str) -> nldsl.Program:
    """The texts of these files of `examples/experiments` and `examples`, one after the other."""
    folders = (HERE, HERE.parent)
    return nldsl.load("\n".join(next(f / name for f in folders if (f / name).exists()).read_text() for name in files))


def side_by_side(run: Callable[..., Any], cases: Sequence[tuple], jobs: int) -> list[Any]:
    """`run(*case)` of every case, in the order of the cases."""
    started = time.monotonic()
    if jobs == 1:
        results = [run(*case) for case in cases]
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            results = list(pool.map(run, *zip(*cases)))
    print(f"{len(cases)} runs, {time.monotonic() - started:.0f} s", flush=True)
    return results


def train(loss: Callable[[int], torch.Tensor], optimizer: torch.optim.Optimizer, steps: int, clip: float = 1.0) -> float:
    """Minimise `loss(step)` with a rate that rises over a tenth of the steps and falls as a cosine; the last loss."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    warm = max(1, steps // 10)
    shape = lambda t: min((t + 1) / warm, 0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * t / steps)).item())  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    value = torch.tensor(0.0)
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        schedule.step()
    return value.item()


def spread(values: Iterable[float], digits: int = 2) -> str:
    """The mean of the seeds and, behind it, their standard deviation."""
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print the table and write it as Markdown and, beside it, as CSV."""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *rows)]
    text = "\n".join(lines)
    print(text, flush=True)
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def picture(columns: int = 1, width: float = 7.0, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=84, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.grid(axis="y", alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes
