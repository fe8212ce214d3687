"""Runs: resumed bit for bit, stopped, refused and reported."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nldsl_torch.training import cross_entropy, fit, load_checkpoint

FILES = ("checkpoint.safetensors", "curve.png", "log.jsonl", "sample.txt", "summary.json")


def when(step: int, act):
    """The default objective, which calls `act` before the loss of its call number `step`."""
    calls = 0

    def objective(logits, y):
        nonlocal calls
        calls += 1
        return cross_entropy(logits, y) * (act() or 1.0 if calls == step else 1.0)

    return objective


def same_tensors(left: Path, right: Path) -> bool:
    a, b = (load_checkpoint(folder / "checkpoint.safetensors") for folder in (left, right))
    return a.step == b.step and all(torch.equal(a.model[name], b.model[name]) for name in a.model)


def test_a_run_leaves_its_results(spec, losses) -> None:
    stream = io.StringIO()
    result = fit(spec(), stream=stream)
    assert (result.status, result.step, result.exit_code) == ("finished", 12, 0)
    assert all((result.run_dir / name).stat().st_size > 0 for name in FILES)
    assert list(losses(result.run_dir)) == list(range(1, 13))
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary["heldout_bpb"] == result.heldout_bpb and summary["baseline_bpb"] == result.baseline_bpb
    shown = stream.getvalue()
    assert "bits per byte" in shown and "tokens/s" in shown and result.sample in shown
    assert (result.run_dir / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_training_learns(spec, losses) -> None:
    steps = losses(fit(spec(steps=60, eval_every=60), quiet=True).run_dir)
    assert steps[60] < 0.8 * steps[1]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_then_resume_is_bit_for_bit(spec, losses, number, code) -> None:
    before = signal.getsignal(signal.SIGINT)
    whole = fit(spec("whole"), quiet=True)
    stopped = fit(spec(objective=when(5, lambda: signal.raise_signal(number))), quiet=True)
    assert (stopped.status, stopped.step, stopped.exit_code) == ("interrupted", 5, code)
    assert "Run the same command again" in stopped.message
    assert signal.getsignal(signal.SIGINT) is before
    resumed = fit(spec(), quiet=True)
    assert losses(resumed.run_dir) == losses(whole.run_dir)
    assert same_tensors(resumed.run_dir, whole.run_dir)
    assert (resumed.heldout_bpb, resumed.sample) == (whole.heldout_bpb, whole.sample)


def test_second_signal_keeps_the_last_checkpoint(spec, losses) -> None:
    def insist() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stopped = fit(spec(objective=when(5, insist)), quiet=True)
    assert (stopped.status, stopped.exit_code) == ("interrupted", 130)
    assert load_checkpoint(stopped.run_dir / "checkpoint.safetensors").step == 3
    assert losses(fit(spec(), quiet=True).run_dir) == losses(fit(spec("whole"), quiet=True).run_dir)


def test_killed_process_resumes_bit_for_bit(spec, stub, text_file, losses, tmp_path) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, stub.__file__, str(tmp_path / "run"), str(text_file)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 30
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = load_checkpoint(checkpoint).step
    steps = reached + 4
    killed = fit(spec(steps=steps, schedule="cosine", objective=cross_entropy), quiet=True)
    assert killed.status == "finished" and list(losses(killed.run_dir)) == list(range(1, steps + 1))
    straight = fit(spec("straight", steps=100_000, objective=when(reached, lambda: signal.raise_signal(2))), quiet=True)
    assert straight.step == reached
    ended = fit(spec("straight", steps=steps), quiet=True)
    assert losses(ended.run_dir) == losses(killed.run_dir)
    assert same_tensors(ended.run_dir, killed.run_dir)


def test_time_budget_reports_and_goes_on(spec, losses) -> None:
    paused = fit(spec(time_budget=1e-9, steps=12), quiet=True)
    assert paused.status == "out of time" and paused.step == 1 and paused.heldout_bpb is not None
    assert fit(spec(), quiet=True).status == "finished"
    assert losses(paused.run_dir) == losses(fit(spec("whole"), quiet=True).run_dir)


def test_finished_run_says_so_and_can_go_on(spec, losses) -> None:
    first = fit(spec(), quiet=True)
    before = {name: (first.run_dir / name).read_bytes() for name in FILES}
    again = fit(spec(), quiet=True)
    assert again.status == "already finished" and "--steps" in again.message
    assert again.heldout_bpb == first.heldout_bpb
    assert before == {name: (first.run_dir / name).read_bytes() for name in FILES}
    longer = fit(spec(steps=15), quiet=True)
    assert longer.status == "finished" and list(losses(longer.run_dir)) == list(range(1, 16))


def test_report_is_made_up_for(spec) -> None:
    first = fit(spec(), quiet=True)
    (first.run_dir / "summary.json").unlink()
    again = fit(spec(), quiet=True)
    assert (again.status, again.heldout_bpb, again.sample) == ("finished", first.heldout_bpb, first.sample)


def test_fresh_keeps_the_earlier_run(spec, losses) -> None:
    first = fit(spec(), quiet=True)
    old = (first.run_dir / "checkpoint.safetensors").read_bytes()
    fit(spec(seed=1), fresh=True, quiet=True)
    assert (first.run_dir / "earlier-1" / "checkpoint.safetensors").read_bytes() == old
    assert list(losses(first.run_dir)) == list(range(1, 13))


def test_damaged_checkpoint_falls_back_to_the_one_before(spec, losses, mistake) -> None:
    folder = fit(spec(steps=9), quiet=True).run_dir
    checkpoint, previous = folder / "checkpoint.safetensors", folder / "checkpoint.previous.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    stream = io.StringIO()
    resumed = fit(spec(steps=9), stream=stream)
    assert resumed.status == "finished" and "resuming at step 6" in stream.getvalue()
    assert "is damaged" in stream.getvalue() and (folder / "checkpoint.damaged.safetensors").exists()
    assert losses(folder) == losses(fit(spec("whole", steps=9), quiet=True).run_dir)
    previous.write_bytes(b"")
    checkpoint.write_bytes(b"")
    assert mistake(fit, spec(steps=9), quiet=True).code == "NL708"
    previous.unlink()
    diagnostic = mistake(fit, spec(steps=9), quiet=True)
    assert diagnostic.code == "NL708" and "--fresh" in diagnostic.help


def test_other_spec_settings_text_or_model(spec, stub, mistake, tmp_path) -> None:
    folder = fit(spec(), quiet=True).run_dir
    before = (folder / "checkpoint.safetensors").read_bytes()
    other = replace(spec(), spec_text="train other {}\n")
    diagnostic = mistake(fit, other, quiet=True)
    assert diagnostic.code == "NL709" and "--fresh" in diagnostic.help
    assert load_checkpoint(folder / "checkpoint.safetensors").spec_sha256 in diagnostic.found
    assert diagnostic.expected != diagnostic.found
    diagnostic = mistake(fit, spec(batch=5, optimizer=stub.adamw(1.0)), quiet=True)
    assert (diagnostic.code, diagnostic.found) == ("NL712", "optimizer.lr = 1.0, batch = 5")
    text = tmp_path / "other.txt"
    text.write_bytes(stub.TEXT + b"!")
    assert mistake(fit, spec(data=text), quiet=True).code == "NL712"
    assert mistake(fit, spec(build=lambda: stub.Gru(8)), quiet=True).code == "NL711"
    assert (folder / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_run_keeps_the_last_good_checkpoint(spec, losses, mistake, value) -> None:
    bad = spec(objective=when(8, lambda: value))
    diagnostic = mistake(fit, bad, quiet=True)
    assert diagnostic.code == "NL713" and "step 8" in diagnostic.message and "step 6" in diagnostic.found
    assert load_checkpoint(Path(bad.run_dir) / "checkpoint.safetensors").step == 6
    assert losses(fit(spec(), quiet=True).run_dir) == losses(fit(spec("whole"), quiet=True).run_dir)


def test_log_cut_short_by_a_kill(spec, losses) -> None:
    folder = fit(spec(steps=6), quiet=True).run_dir
    log = folder / "log.jsonl"
    log.write_text(log.read_text() + '{"kind": "train", "step": 7, "loss": 1.0}\n{"kind": "tra')
    assert losses(fit(spec(), quiet=True).run_dir)[7] != 1.0


@pytest.mark.parametrize(
    "code, changes",
    [
        ("NL701", {"data": "absent.txt"}),
        ("NL702", {"length": 10_000}),
        ("NL704", {"schedule": "cosin"}),
        ("NL705", {"steps": 0}),
        ("NL705", {"batch": "four"}),
        ("NL705", {"batch": 10**12}),
        ("NL706", {"device": "abacus"}),
        ("NL716", {"build": lambda: torch.nn.Embedding(256, 8)}),
        ("NL716", {"objective": lambda logits, y: logits.sum(-1)}),
        ("NL718", {"build": torch.nn.Identity}),
    ],
)
def test_wrong_requests(spec, mistake, code, changes) -> None:
    diagnostic = mistake(fit, spec(**changes), quiet=True)
    assert diagnostic.code == code and diagnostic.message


def test_did_you_mean(spec, mistake) -> None:
    assert mistake(fit, spec(schedule="cosin")).help == "did you mean `cosine`?"


def test_run_folder_is_a_file_or_in_use(spec, mistake, tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    assert mistake(fit, spec("taken"), quiet=True).code == "NL714"
    inner = []
    fit(spec(objective=when(2, lambda: inner.append(mistake(fit, spec(), quiet=True)))), quiet=True)
    assert inner[0].code == "NL715"


def test_closed_output_does_not_stop_training(spec) -> None:
    stream = io.StringIO()
    stream.close()
    assert fit(spec(), stream=stream).status == "finished"
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert fit(spec("ascii"), stream=ascii_only).status == "finished"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_in_a_terminal(spec) -> None:
    stream = Terminal()
    fit(spec(), stream=stream)
    assert "tokens/s" in stream.getvalue() and "12/12" in stream.getvalue()


def test_interrupted_before_the_first_step(spec, stub) -> None:
    def impatient() -> torch.nn.Module:
        signal.raise_signal(signal.SIGINT)
        return stub.Gru()

    stopped = fit(spec(build=impatient), quiet=True)
    assert (stopped.status, stopped.step, stopped.exit_code) == ("interrupted", 0, 130)
    assert fit(spec(), quiet=True).status == "finished"


def test_out_of_memory(spec, mistake) -> None:
    greedy = spec(objective=when(2, lambda: torch.empty(1 << 55)))
    diagnostic = mistake(fit, greedy, quiet=True)
    assert diagnostic.code == "NL717" and "allocate" in diagnostic.found


def test_evaluation_does_not_change_training(spec, losses) -> None:
    often = fit(spec("often", eval_every=1, checkpoint_every=1), quiet=True)
    assert losses(often.run_dir) == losses(fit(spec(eval_every=100), quiet=True).run_dir)


def test_kill_between_the_two_renames_of_a_save(spec, losses) -> None:
    folder = fit(spec(steps=9), quiet=True).run_dir
    (folder / "checkpoint.safetensors").unlink()
    assert fit(spec(steps=9), quiet=True).status == "finished"
    assert losses(folder) == losses(fit(spec("whole", steps=9), quiet=True).run_dir)
