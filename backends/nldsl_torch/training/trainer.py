"""`fit`: train, resume, stop and report, one run folder at a time."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TextIO

import torch

from .data import ByteData, embedded_text, load_text
from .display import Display
from .errors import out_of_memory
from .evaluate import heldout_bits_per_byte
from .folder import RunFolder
from .ranks import Ranks, joined
from .report import Report, bits_to_nats, parameter_count, read_finished, write_report
from .run import Run
from .runlog import RunLog
from .signals import StopSignals
from .spec import Result, Status, TrainSpec, validate

EVAL_BYTES = 1 << 16
"""Held-out bytes that an evaluation inside the run covers; the one at its end covers all."""

RATE_STEPS = 10
"""Tokens per second are taken over this many last steps."""


def fit(spec: TrainSpec, *, fresh: bool = False, quiet: bool = False, stream: TextIO | None = None) -> Result:
    """Train `spec` in its run folder, going on from the folder's last checkpoint.

    A resumed run gives the numbers of an uninterrupted one, bit for bit. SIGINT and SIGTERM end the
    step, save a checkpoint and return with `exit_code` 130 or 143. `fresh` moves an earlier run into
    a subfolder and starts over. Everything that a user should read is shown on `stream` (standard
    output by default) unless `quiet`; mistakes raise `NlError` with one of the codes NL701 to NL719.
    """
    with joined(spec.device) as ranks:
        return _fit_in(replace(spec, device=ranks.device), ranks, fresh, Display(stream or sys.stdout, quiet=quiet or not ranks.first))


def _fit_in(spec: TrainSpec, ranks: Ranks, fresh: bool, display: Display) -> Result:
    """`fit` in one process of several."""
    validate(spec)
    ranks.check(spec.batch, spec.sharded)
    data = load_data(spec)
    with (
        _threads(spec.threads),
        RunFolder(spec.run_dir, locked=ranks.first) as folder,
        StopSignals() as stop,
        display,
    ):
        if fresh and ranks.first and (kept := folder.set_aside()) is not None:
            display.say(f"the earlier run is kept in {kept}")
        try:
            return _fit(spec, data, folder, ranks, stop, display)
        except KeyboardInterrupt:
            message = "stopped before the first step; nothing has changed. Run the same command again."
            display.say(message)
            return Result("interrupted", 0, spec.steps, folder.path, message, stop.exit_code or 130)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise out_of_memory(spec.batch, spec.length, str(error).partition("\n")[0] or None) from None


def _fit(spec: TrainSpec, data: ByteData, folder: RunFolder, ranks: Ranks, stop: StopSignals, display: Display) -> Result:
    run = Run(spec, data, folder, ranks)
    with ranks.one_by_one():  # the first puts a damaged checkpoint aside before the others look
        if (note := run.resume()) is not None:
            display.say(note)
    report = read_finished(folder, run.step) if ranks.first and run.step >= spec.steps else None
    if ranks.any(report is not None):
        return _end(run, folder, display, "already finished", 0, report)
    display.say(_opening(run))
    if (table := run.table()) is not None:
        display.say(table)
    log = RunLog(folder.log, through=run.step) if ranks.first else None
    try:
        status = _train(run, log, stop, display)
        if status == "interrupted":
            return _end(run, folder, display, status, stop.exit_code or 130, None, stop.received)
        display.say("scoring the held-out text and writing a sample")
        reader = run.reader()
        report = write_report(run, reader, folder, log, status) if log is not None else None
        ranks.wait()
    except KeyboardInterrupt:
        return _end(run, folder, display, "interrupted", stop.exit_code or 130, None, stop.received)
    return _end(run, folder, display, status, 0, report)


def _train(run: Run, log: RunLog | None, stop: StopSignals, display: Display) -> Status:
    """Take steps until the last one, a signal or the end of the time budget; leave a checkpoint.

    However small the budget, one step is taken: repeated calls reach the end. Of several processes all stop after the
    same step, and the one with a log evaluates.
    """
    spec = run.spec
    deadline = math.inf if spec.time_budget is None else time.monotonic() + spec.time_budget
    seconds: deque[float] = deque(maxlen=RATE_STEPS)
    display.start(run.step, spec.steps)
    status: Status = "finished"
    while run.step < spec.steps:
        if run.ranks.any(stop.received is not None):
            status = "interrupted"
            break
        if run.ranks.any(bool(seconds) and time.monotonic() >= deadline):
            status = "out of time"
            break
        started = time.perf_counter()
        numbers = run.train_step()
        seconds.append(time.perf_counter() - started)
        nats = numbers.pop("nats")
        bpb, rate = nats / math.log(2), len(seconds) * spec.batch * spec.length / sum(seconds)
        display.update(run.step, numbers["loss"], bpb, rate)
        if log is not None and (run.step == 1 or run.step % spec.log_every == 0 or run.step == spec.steps):
            log.write("train", run.step, bpb=bpb, tokens_per_s=rate, **numbers)
        if run.step % spec.eval_every == 0 and run.step < spec.steps:
            reader = run.reader()
            if log is not None:
                heldout_bpb = heldout_bits_per_byte(reader, run.data, spec.device, spec.wiring, limit=EVAL_BYTES)
                log.write("eval", run.step, bpb=heldout_bpb, loss=bits_to_nats(heldout_bpb))
                display.say(f"step {run.step}/{spec.steps}  held-out {heldout_bpb:.3f} bits/byte")
        if run.step % spec.checkpoint_every == 0:
            run.save()
    run.save()
    display.stop()
    return status


def _end(
    run: Run,
    folder: RunFolder,
    display: Display,
    status: Status,
    exit_code: int,
    report: Report | None,
    received: int | None = None,
) -> Result:
    """Show how the run ended and return it."""
    display.stop()
    spec = run.spec
    if status == "interrupted":
        name = "a second signal" if received is None else signal.Signals(received).name
        kept = "no checkpoint yet" if run.saved_step is None else f"checkpoint of step {run.saved_step} saved"
        message = (
            f"stopped by {name} at step {run.step} of {spec.steps}; {kept} in {folder.path}.\n"
            "Run the same command again to go on from there."
        )
    elif status == "out of time":
        message = (
            f"the time budget of {spec.time_budget:g} s ended at step {run.step} of {spec.steps}; "
            f"results are in {folder.path}.\nRun the same command again to go on from there."
        )
    elif status == "already finished":
        message = (
            f"this run is finished: it has taken {run.step} of {spec.steps} steps; "
            f"its results are in {folder.path}.\n"
            f"Go on with a larger `--steps`, say {2 * run.step}, or start over with `--fresh`."
        )
    else:
        message = f"finished {run.step} steps; checkpoint, curve, sample and log are in {folder.path}."
    if report is not None:
        display.say(_results(report, with_sample=status != "already finished"))
    display.say(message)
    names = ("heldout_bpb", "baseline_bpb", "tokens_per_s", "sample")
    scores: dict[str, Any] = {} if report is None else {name: getattr(report, name) for name in names}
    return Result(status, run.step, spec.steps, folder.path, message, exit_code, **scores)


def _opening(run: Run) -> str:
    spec, data = run.spec, run.data
    return (
        f"{'training' if run.step == 0 else f'resuming at step {run.step}:'} {spec.name} ({spec.spec_file}): "
        f"{parameter_count(run):,} parameters, {data.train_size:,} bytes of text and {data.heldout_size:,} held out, "
        f"{spec.steps} steps of {spec.batch} x {spec.length} bytes{f' in {run.ranks.size} processes' * (run.ranks.size > 1)}{', sharded' * spec.sharded}"
    )


def _results(report: Report, *, with_sample: bool) -> str:
    rate = "" if report.tokens_per_s is None else f"\ntraining speed   {report.tokens_per_s:,.0f} tokens/s"
    sample = f"\n\n{report.sample}" if with_sample else ""
    contexts = ", ".join(f"{bpb:.3f} at {context}" for context, bpb in report.contexts.items())
    return (
        f"held-out text    {report.heldout_bpb:.3f} bits per byte, loss {bits_to_nats(report.heldout_bpb):.3f} nats\n"
        f"context lengths  {contexts} bytes\n"
        f"order-3 context  {report.baseline_bpb:.3f} bits per byte (orders mixed evenly; "
        f"{report.smoothed_baseline_bpb:.3f} with Witten-Bell weights){rate}{sample}"
    )


def load_data(spec: TrainSpec) -> ByteData:
    text = embedded_text() if spec.data is None else load_text(spec.data)
    origin = "the embedded text" if spec.data is None else f"the text file '{spec.data}'"
    return ByteData(text, batch=spec.batch, length=spec.length, seed=spec.seed, origin=origin)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Run on `count` threads; torch's own choice where it is None."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)
