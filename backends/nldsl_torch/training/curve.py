"""`curve.png`: bits per byte over the steps of a run, training and held-out, beside the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .runlog import Record

TRAIN, HELDOUT, BASELINE = "#4c78a8", "#d1495b", "#555555"


def draw_curve(path: Path, records: Sequence[Record], baseline_bpb: float, title: str) -> None:
    """Draw the run that `records` tell, in the order of their steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = [(record["step"], record["bpb"]) for record in records if record["kind"] == "train"]
    heldout = [(record["step"], record["bpb"]) for record in records if record["kind"] == "eval"]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if train:
        steps, values = zip(*train, strict=True)
        axes.plot(steps, values, color=TRAIN, alpha=0.3, linewidth=1)
        axes.plot(steps, smooth(values), color=TRAIN, linewidth=1.8, label="training")
    if heldout:
        steps, values = zip(*heldout, strict=True)
        axes.plot(steps, values, color=HELDOUT, linewidth=1.8, marker="o", markersize=4, label="held-out")
        axes.annotate(
            f"{values[-1]:.3f}",
            (steps[-1], values[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            color=HELDOUT,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )
    axes.axhline(
        baseline_bpb, color=BASELINE, linestyle="--", linewidth=1.2, label=f"order-3 context model ({baseline_bpb:.3f})"
    )
    axes.set_ylim(*_limits([value for _, value in train + heldout], baseline_bpb))
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, format="png")


def smooth(values: Sequence[float]) -> list[float]:
    """The mean over a centred window of about a twentieth of the run, narrower at both ends."""
    reach = max(1, len(values) // 40)
    smooth = []
    for place in range(len(values)):
        near = min(reach, place, len(values) - 1 - place)
        window = values[place - near : place + near + 1]
        smooth.append(sum(window) / len(window))
    return smooth


def _limits(values: Sequence[float], baseline_bpb: float) -> tuple[float, float]:
    """Room for the end of the run and the baseline; the steep first steps may leave at the top."""
    low = min([*values, baseline_bpb])
    late = values[len(values) // 20 :] or [baseline_bpb]
    high = max(min(max(late), 8.5), baseline_bpb + 0.5)
    margin = 0.06 * (high - low)
    return low - margin, high + margin
