"""Several processes: the losses of one, or a refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import nldsl
from nldsl.routes import routes_of
from nldsl_torch.training import fit, routed
from nldsl_torch.training.cli import choose, train_spec
from nldsl_torch.training.folder import RunFolder
from nldsl_torch.training.ranks import Ranks
from nldsl_torch.training.run import Run
from nldsl_torch.training.trainer import load_data

gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo")
HERE = Path(__file__).parent
TEXT = """
block lm(d) {
  in token, target : int[256]
  param embed : 256 -> d = normal(0.5)
  param head : d -> 256
  param W : d -> d
  param a : real = 1
  h = norm(embed(token))
  memory S : d -> d = learned { minimize 0.5 * sqnorm(S(unit(h)) - h) by decay(0.9), gd(0.5) }
  memory F : d -> d = learned every 4 { minimize loss over sum by gd(0.3) }
  out logits = head(norm(W(h) + a * S(h) + last F(h)))
  out loss = cross_entropy(logits, target)
}
train told {
  model = lm(d = 9)
  m = model(byte, next)
  minimize m.loss "W" by muon(lr = 0.02) every 2, matrices by adafactor(lr = 0.01), rest by adamw(lr = 1e-2)
  steps = 10  batch = 4  length = 16  log_every = 1  eval_every = 5  checkpoint_every = 6  sample_bytes = 2
}
"""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in two processes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def spec_of(text_file: Path, folder: Path, text: str = TEXT):
    program = nldsl.load(text)
    return train_spec(program, choose(program, None), {}, data=str(text_file), steps=None, run_dir=str(folder), device="cpu", threads=1)


@gloo
@pytest.mark.parametrize("sharded", [(), ("--sharded",)])
def test_two_processes_train_as_one_does(text_file, tmp_path, losses, sharded) -> None:
    """Losses, gradient norms, held-out scores; then both go on from the checkpoint of a run that one process began."""
    file = tmp_path / "told.nl"
    file.write_text(TEXT)
    whole = fit(replace(spec_of(text_file, tmp_path / "one"), spec_text=TEXT), quiet=True)
    begun = fit(replace(spec_of(text_file, tmp_path / "two"), spec_text=TEXT, time_budget=1e-9), quiet=True)
    assert begun.step == 1
    done = torchrun("-m", "--", "nldsl", "train", str(file), "--data", str(text_file), "--run", str(tmp_path / "two"), "--threads", "1", *sharded)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished 10 steps") == 1 and f"2 processes{', sharded' * len(sharded)}\n" in done.stdout
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["heldout_bpb"] == pytest.approx(one["heldout_bpb"], abs=1e-5) == pytest.approx(whole.heldout_bpb)
    assert two["contexts"] == pytest.approx(one["contexts"], abs=1e-5)


RULES = ("muon(lr = 0.02) every 2", "shampoo(lr = 0.01, eps = 0.1)", "deep_momentum()", "sgd_clip_norm()", "lion()")


@gloo
def test_a_sharded_run_is_stopped_and_goes_on(text_file, tmp_path, losses) -> None:
    """Bit for bit in as many processes; in one process, from the same checkpoint, as one that ran there from the beginning."""
    by = f'"W" by {RULES[0]}, "S*" by {RULES[1]}, "F*" by {RULES[2]}, heads by {RULES[3]}, embeddings by {RULES[4]}, rest by adamw()'
    head, _, tail = TEXT.partition('"W" by')
    text = head + by + tail[tail.index("\n") :]
    (tmp_path / "told.nl").write_text(text)
    done = torchrun(str(HERE / "sharded_runs.py"), str(tmp_path / "told.nl"), str(text_file), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "in-place" not in done.stderr
    shares = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert all(0.4 < shares[what] < most for what, most in {"parameters": 0.6, "gradients": 0.6, "states": 0.7}.items())  # matrices of a rule are whole
    whole, stopped = losses(tmp_path / "whole"), losses(tmp_path / "stopped")
    assert len(whole) == 10 and stopped == whole
    fit(spec_of(text_file, tmp_path / "left", text), quiet=True)
    fit(spec_of(text_file, tmp_path / "alone", text), quiet=True)
    assert losses(tmp_path / "left") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)


def test_sharded_in_one_process(spec, mistake) -> None:
    diagnostic = mistake(fit, spec(sharded=True), quiet=True)
    assert diagnostic.code == "NL734" and "there is one" in diagnostic.message and "torchrun" in diagnostic.help


@gloo
@pytest.mark.parametrize(("rules", "cases"), [((), 16), pytest.param(("all",), 70, marks=pytest.mark.soak)])
def test_a_compiled_model_under_ddp_and_fsdp(rules, cases) -> None:
    """The bases of soap follow the last bits of the gradient where eigenvalues are close."""
    done = torchrun(str(HERE / "sharded.py"), *rules)
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split()[:2]): float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith(("ddp", "fsdp"))}
    assert len(found) >= cases
    assert {case: apart for case, apart in found.items() if not apart < (1e-7 if "soap" in case[1] else 1e-11)} == {}


def test_a_batch_that_does_not_divide(mistake) -> None:
    diagnostic = mistake(Ranks(0, 3).check, 8)
    assert diagnostic.code == "NL734" and "3 equal parts" in diagnostic.message
    Ranks(0, 4).check(8)


def test_a_rule_that_reads_the_inputs_of_a_layer(spec, mistake) -> None:
    """Each process has those of its own sequences only."""
    program = nldsl.load(TEXT)
    routes = routes_of('"readout.weight" by delta_gradient_descent(), rest by adamw()', program.top)
    columns = spec(optimizer=routed(program, routes))
    with RunFolder(columns.run_dir) as folder:
        Run(columns, load_data(columns), folder)
        assert mistake(Run, columns, load_data(columns), folder, Ranks(0, 2)).code == "NL734"


def test_a_rule_that_reads_the_inputs_of_a_layer_in_a_loop_of_ones_own(monkeypatch) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = nldsl.optimizer("delta_gradient_descent", layer)
    layer(torch.randn(4, 3)).sum().backward()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="each process has those of its own batch only"):
        optimizer.step()


def test_a_memory_that_the_sequences_of_a_batch_share(text_file, tmp_path, mistake) -> None:
    """Each process has some of the sequences only; one process has them all."""
    text = TEXT.replace("by gd(0.3) }", "by gd(0.3)  shared mean }")
    program = nldsl.load(text)
    shared = train_spec(program, choose(program, None), {}, data=str(text_file), steps=2, run_dir=str(tmp_path / "run"), device="cpu", threads=1)
    assert shared.shared == "F" and spec_of(text_file, tmp_path).shared is None
    with RunFolder(shared.run_dir) as folder:
        Run(shared, load_data(shared), folder)
        diagnostic = mistake(Run, shared, load_data(shared), folder, Ranks(0, 2))
    assert diagnostic.code == "NL734" and "`F` is one memory for all sequences" in diagnostic.message


def test_the_parts_are_the_batch() -> None:
    x, y = torch.arange(12).view(6, 2), torch.arange(6)
    parts = [Ranks(rank, 3).rows(x, y) for rank in range(3)]
    assert torch.equal(torch.cat([part[0] for part in parts]), x) and torch.equal(torch.cat([part[1] for part in parts]), y)


def test_without_gloo(monkeypatch, spec, mistake) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    diagnostic = mistake(fit, spec(), quiet=True)
    assert diagnostic.code == "NL734" and "gloo" in diagnostic.message
