"""`curves.png`: the loss of several specs over the bytes they have read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .curve import smooth
from .runlog import Record

COLOURS = ("#4c78a8", "#d1495b", "#3a9d6a", "#e3a02b", "#7b5ea7", "#4f4f4f", "#36a2b5", "#b5688b")


@dataclass(frozen=True)
class Curve:
    """A spec and the logs of its runs."""

    name: str
    logs: Sequence[Sequence[Record]]

    def points(self, kind: str) -> list[tuple[int, list[float]]]:
        """The bits per byte of each step that every run has logged."""
        runs = [{r["step"]: r["bpb"] for r in log if r["kind"] == kind} for log in self.logs]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        return [(step, [run[step] for run in runs]) for step in steps]


def draw_comparison(path: Path, curves: Sequence[Curve], tokens: int) -> None:
    """Training loss (thin, the mean over seeds) and held-out loss (thick, with the range over seeds); `tokens` a step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    late: list[float] = []
    for n, curve in enumerate(curves):
        colour = COLOURS[n % len(COLOURS)]
        train, heldout = curve.points("train"), curve.points("eval")
        if train:
            means = smooth([sum(v) / len(v) for _, v in train])
            axes.plot([step * tokens for step, _ in train], means, color=colour, alpha=0.45, linewidth=1)
            late += means[len(means) // 10 :]
        if heldout:
            x, means = [step * tokens for step, _ in heldout], [sum(v) / len(v) for _, v in heldout]
            axes.plot(x, means, color=colour, linewidth=1.8, marker="o", markersize=4, label=f"{curve.name} ({means[-1]:.3f})")
            axes.fill_between(x, [min(v) for _, v in heldout], [max(v) for _, v in heldout], color=colour, alpha=0.15, linewidth=0)
            late += means
    if late:
        margin = 0.06 * (max(late) - min(late)) + 1e-3
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.set_xlim(left=0)
    axes.set_xlabel("bytes read")
    axes.set_ylabel("bits per byte")
    axes.set_title("held-out (thick, range over seeds) and training (thin)", loc="left", fontsize=11)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, format="png")
