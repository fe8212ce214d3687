"""The end of a run: held-out score, baseline, sample, curve and `summary.json`."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .baseline import order3_bits_per_byte
from .checkpoint import spec_sha256
from .curve import draw_curve
from .errors import folder_unusable
from .evaluate import PROMPT_BYTES, continue_text, heldout_bits_per_byte, printable
from .folder import RunFolder
from .run import Run
from .runlog import RunLog, read_log
from .spec import Status

CONTEXT_BYTES = 1 << 16
"""Held-out bytes that the evaluation at each context length covers."""


@dataclass(frozen=True)
class Report:
    """The numbers and the text that a run ends with."""

    status: Status
    step: int
    heldout_bpb: float
    baseline_bpb: float
    smoothed_baseline_bpb: float
    tokens_per_s: float | None
    contexts: dict[str, float]
    sample: str


def write_report(run: Run, model: nn.Module, folder: RunFolder, log: RunLog, status: Status) -> Report:
    """Score the run's `model` and leave sample, curve and summary in the run folder."""
    spec, data = run.spec, run.data
    heldout_bpb = heldout_bits_per_byte(model, data, spec.device, spec.wiring)
    log.write("eval", run.step, bpb=heldout_bpb, loss=bits_to_nats(heldout_bpb))
    contexts = {
        str(context): heldout_bits_per_byte(model, data, spec.device, spec.wiring, CONTEXT_BYTES, context)
        for context in spec.context_lengths
    }
    baseline_bpb = order3_bits_per_byte(data.train_text, data.heldout_text, "half")
    smoothed_bpb = order3_bits_per_byte(data.train_text, data.heldout_text, "witten-bell")
    prompt = data.heldout_text[:PROMPT_BYTES]
    drawn = continue_text(
        model, prompt, spec.sample_bytes, temperature=spec.temperature, seed=spec.seed, device=spec.device, wiring=spec.wiring
    )
    sample = f"--- prompt (held-out text)\n{printable(prompt)}\n--- model\n{printable(drawn)}\n"
    records = read_log(folder.log)
    rates = [record["tokens_per_s"] for record in records if "tokens_per_s" in record]
    rate = statistics.median(rates) if rates else None
    report = Report(status, run.step, heldout_bpb, baseline_bpb, smoothed_bpb, rate, contexts, sample)
    try:
        folder.sample.write_text(sample, "utf-8")
        title = f"{spec.name}: {_size(run)} parameters, {heldout_bpb:.3f} bits per held-out byte"
        draw_curve(folder.curve, records, baseline_bpb, title)
        _write_summary(folder, {**_summary(run), **report.__dict__})
    except OSError as error:
        raise folder_unusable(folder.path, error.strerror or str(error)) from None
    return report


def read_finished(folder: RunFolder, step: int) -> Report | None:
    """The report of a run that finished at `step`, if it was written."""
    try:
        summary = json.loads(folder.summary.read_text("utf-8"))
        report = Report(**{name: summary[name] for name in Report.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if report.status == "finished" and report.step == step else None


def parameter_count(run: Run) -> int:
    return sum(parameter.numel() for parameter in run.parameters)


def bits_to_nats(bits: float) -> float:
    return bits * 0.6931471805599453


def _summary(run: Run) -> dict[str, Any]:
    spec = run.spec
    return {
        "name": spec.name,
        "spec_file": spec.spec_file,
        "spec_sha256": spec_sha256(spec.spec_text),
        "steps": spec.steps,
        "tokens": run.step * spec.batch * spec.length,
        "parameters": parameter_count(run),
        "train_bytes": run.data.train_size,
        "heldout_bytes": run.data.heldout_size,
        "device": spec.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _write_summary(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Last of all files, and whole: it says that the run is finished."""
    unfinished = folder.summary.with_name("summary.json.tmp")
    unfinished.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    os.replace(unfinished, folder.summary)


def _size(run: Run) -> str:
    count = parameter_count(run)
    return f"{count / 1e6:.2f}M" if count >= 1e5 else f"{count:,}"
