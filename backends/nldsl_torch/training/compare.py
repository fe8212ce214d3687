"""`nldsl compare`: several specs on the same bytes in the same order, in one table and one picture.

Each spec and seed is a run of its own in a subfolder, so what was stopped goes on and what is finished is not done again.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldsl.diagnostics import Diagnostic, NlError
from nldsl.program import Program

from .cli import choose, train_spec
from .comparison_curve import Curve, draw_comparison
from .display import Display
from .errors import cannot_share, compares_nothing, folder_unusable, not_comparable, unequal_parameters
from .evaluate import evaluating
from .feeding import fed
from .folder import RunFolder
from .ranks import processes
from .runlog import read_log
from .spec import Result, TrainSpec, validate
from .trainer import fit, load_data

EQUAL = ("steps", "batch", "length", "data")
"""What must be one for all specs: with the seed it decides which bytes are read, and when."""


@dataclass(frozen=True)
class Entrant:
    """A spec and what is known of it before it is trained."""

    name: str
    spec: TrainSpec
    parameters: int
    state_bytes: int


@dataclass(frozen=True)
class Row:
    """A line of the table: one spec over its seeds. The numbers are None where no run came to its end."""

    name: str
    parameters: int
    state_bytes: int
    runs: int
    failed: int
    tokens_per_s: float | None
    bpb: float | None
    spread: float | None
    values: tuple[float, ...]


def compare(
    programs: Sequence[Program], *, seeds: int = 3, steps: int | None = None, batch: int | None = None, length: int | None = None,
    data: str | None = None, tolerance: float = 0.05, run_dir: str = "runs/compare", fresh: bool = False, device: str = "cpu",
    threads: int | None = None, quiet: bool = False,
) -> int:  # fmt: skip
    """Train every `train` block of the programs with seeds 0, 1, ...; returns the exit code."""
    if processes() > 1:
        raise cannot_share("`nldsl compare` trains one spec after the other, in one process")
    shared = {"steps": steps, "batch": batch, "length": length}
    given: dict[str, Any] = {name: value for name, value in shared.items() if value is not None}
    specs = {name: replace(spec, **given, time_budget=None) for name, spec in _specs(programs, data, device, threads).items()}
    for spec in specs.values():
        validate(spec)
        load_data(spec)
    _check_equal(specs)
    entrants = [_entrant(name, spec) for name, spec in specs.items()]
    _check_parameters(entrants, tolerance)
    folder = Path(run_dir)
    results: dict[str, list[Result | None]] = {e.name: [] for e in entrants}
    with Display(sys.stdout, quiet=quiet) as display:
        display.say(_opening(entrants, seeds))
        for seed in range(seeds):
            for e in entrants:
                run = replace(e.spec, seed=seed, run_dir=folder / f"{e.name}-{seed}")
                result = _run(run, fresh, display, f"{e.name}, seed {seed}")
                results[e.name].append(result)
                if result is not None and result.status == "interrupted":
                    display.say("stopped; run the same command again to go on from there")
                    return result.exit_code
        rows = [_row(e, results[e.name]) for e in entrants]
        display.say("\n" + table(rows))
        try:
            _write(folder, rows, entrants, results)
        except OSError as error:
            raise folder_unusable(folder, error.strerror or str(error)) from None
        display.say(f"\ntable.md, comparison.json, curves.png and the runs are in {folder}")
    return 0


def _specs(programs: Sequence[Program], data: str | None, device: str, threads: int | None) -> dict[str, TrainSpec]:
    """Every `train` block under a name of its own: that of the block, or FILE.BLOCK where two have the same."""
    found = [(program, name) for program in programs for name in program.trains]
    if len(found) < 2:
        raise compares_nothing(len(found))
    often = Counter(name for _, name in found)
    specs: dict[str, TrainSpec] = {}
    for program, name in found:
        label = name if often[name] == 1 else f"{Path(program.source.name).stem}.{name}"
        if label in specs:
            raise NlError(Diagnostic("NL733", f"`{label}` takes part twice", expected="specs that differ in the name of their file or block"))
        training = choose(program, name)
        specs[label] = train_spec(program, training, {}, data=data, steps=None, run_dir=None, device=device, threads=threads)
    return specs


def _check_equal(specs: dict[str, TrainSpec]) -> None:
    """NL733 where the specs would not read the same bytes."""
    for setting in EQUAL:
        values = {name: getattr(spec, setting) for name, spec in specs.items()}
        if len(set(map(str, values.values()))) > 1:
            raise not_comparable(setting, values)


def _entrant(name: str, spec: TrainSpec) -> Entrant:
    model = spec.build().to(spec.device)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    x = torch.zeros(1, spec.length, dtype=torch.int64, device=spec.device)
    with evaluating(model, spec.device):
        _, state = model(*fed(spec.wiring, x, x), return_state=True)
    return Entrant(name, spec, parameters, sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, Tensor)))


def _check_parameters(entrants: Sequence[Entrant], tolerance: float) -> None:
    """NL732 where the largest spec has more than (1 + tolerance) times the parameters of the smallest."""
    counts = {e.name: e.parameters for e in entrants}
    if min(counts.values()) == 0 or max(counts.values()) / min(counts.values()) - 1 > tolerance:
        raise unequal_parameters(counts, tolerance)


def _run(spec: TrainSpec, fresh: bool, display: Display, what: str) -> Result | None:
    """One run; None where it diverged, which the others need not know."""
    display.say(f"{what}: {spec.run_dir}")
    try:
        result = fit(spec, fresh=fresh, quiet=True)
    except NlError as error:
        if error.diagnostics[0].code != "NL713":
            raise
        display.say(f"{what}: {error.diagnostics[0].message}")
        return None
    if result.heldout_bpb is not None:
        rate = "" if result.tokens_per_s is None else f", {result.tokens_per_s:,.0f} tokens/s"
        display.say(f"{what}: {result.heldout_bpb:.3f} bits per held-out byte{rate}")
    return result


def _row(entrant: Entrant, results: Sequence[Result | None]) -> Row:
    values = tuple(r.heldout_bpb for r in results if r is not None and r.heldout_bpb is not None)
    rates = [r.tokens_per_s for r in results if r is not None and r.tokens_per_s is not None]
    return Row(
        entrant.name, entrant.parameters, entrant.state_bytes, len(results), len(results) - len(values),
        statistics.median(rates) if rates else None, statistics.mean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None, values,
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown, best first; the spread is the standard deviation over the seeds."""
    head = ["spec", "parameters", "tokens/s", "held-out bits per byte", "seeds", "state bytes"]
    lines = [head]
    for row in sorted(rows, key=lambda row: float("inf") if row.bpb is None else row.bpb):
        spread = "" if row.spread is None else f" ± {row.spread:.3f}"
        failed = f" ({row.failed} diverged)" if row.failed else ""
        bpb, rate = "-" if row.bpb is None else f"{row.bpb:.3f}{spread}", "-" if row.tokens_per_s is None else f"{row.tokens_per_s:,.0f}"
        lines.append([row.name, f"{row.parameters:,}", rate, bpb, f"{row.runs}{failed}", f"{row.state_bytes:,}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in [head, rule, *lines[1:]])


def _write(folder: Path, rows: Sequence[Row], entrants: Sequence[Entrant], results: dict[str, list[Result | None]]) -> None:
    """The table, its numbers, and the curves of all runs."""
    spec = entrants[0].spec
    tokens = spec.batch * spec.length
    folder.mkdir(parents=True, exist_ok=True)
    note = (
        f"{spec.steps} steps of {spec.batch} x {spec.length} bytes ({spec.steps * tokens:,} in all), the same in the same order for every spec; "
        "± is the standard deviation over seeds; state bytes are those of one sequence after one window."
    )
    _replace(folder / "table.md", f"{table(rows)}\n\n{note}\n")
    summary = {"steps": spec.steps, "batch": spec.batch, "length": spec.length, "tokens": spec.steps * tokens,
               "data": None if spec.data is None else str(spec.data), "specs": [row.__dict__ for row in rows]}  # fmt: skip
    _replace(folder / "comparison.json", json.dumps(summary, indent=2) + "\n")
    curves = [
        Curve(e.name, [read_log(RunFolder(r.run_dir).log) for r in results[e.name] if r is not None]) for e in entrants
    ]
    draw_comparison(folder / "curves.png", curves, tokens)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, path)


def _opening(entrants: Sequence[Entrant], seeds: int) -> str:
    spec = entrants[0].spec
    names = ", ".join(f"{e.name} ({e.parameters:,} parameters)" for e in entrants)
    return f"{names}: {seeds} seed{'s' * (seeds > 1)}, {spec.steps} steps of {spec.batch} x {spec.length} bytes each"
