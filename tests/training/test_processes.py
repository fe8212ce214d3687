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
  h = norm(embed(token))
  memory S : d -> d = learned { minimize 0.5 * sqnorm(S(unit(h)) - h) by decay(0.9), gd(0.5) }
  memory F : d -> d = learned every 4 { minimize loss over sum by gd(0.3) }
  out logits = head(norm(W(h) + S(h) + last F(h)))
  out loss = cross_entropy(logits, target)
}
train told {
  model = lm(d = 8)
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


def spec_of(text_file: Path, folder: Path):
    program = nldsl.load(TEXT)
    return train_spec(program, choose(program, None), {}, data=str(text_file), steps=None, run_dir=str(folder), device="cpu", threads=1)


@gloo
def test_two_processes_train_as_one_does(text_file, tmp_path, losses) -> None:
    """Losses, gradient norms, held-out scores; then both go on from the checkpoint of a run that one process began."""
    file = tmp_path / "told.nl"
    file.write_text(TEXT)
    whole = fit(replace(spec_of(text_file, tmp_path / "one"), spec_text=TEXT), quiet=True)
    begun = fit(replace(spec_of(text_file, tmp_path / "two"), spec_text=TEXT, time_budget=1e-9), quiet=True)
    assert begun.step == 1
    done = torchrun("-m", "--", "nldsl", "train", str(file), "--data", str(text_file), "--run", str(tmp_path / "two"), "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished 10 steps") == 1 and "2 processes" in done.stdout
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["heldout_bpb"] == pytest.approx(one["heldout_bpb"], abs=1e-5) == pytest.approx(whole.heldout_bpb)
    assert two["contexts"] == pytest.approx(one["contexts"], abs=1e-5)


@gloo
def test_a_compiled_model_under_ddp_and_fsdp() -> None:
    done = torchrun(str(HERE / "sharded.py"))
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split()[:2]): line.split(maxsplit=2)[2] for line in done.stdout.splitlines() if line.startswith(("ddp", "fsdp"))}
    assert len(found) == 10
    refused = found.pop(("fsdp", "preconditioned_momentum"))
    assert refused.startswith("refused: PreconditionedMomentum does not run on sharded parameters")
    assert {case: difference for case, difference in found.items() if float(difference) > 1e-12} == {}


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
