"""Sharded runs in two processes: one whole, one stopped and gone on with, one stopped; and what each process keeps of the first.

`torchrun --nproc_per_node 2 sharded_runs.py SPEC DATA FOLDER`: prints the first process's shares of the tensors as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

import nldsl
from nldsl_torch.training import TrainSpec, fit
from nldsl_torch.training.cli import choose, train_spec
from nldsl_torch.training.folder import RunFolder
from nldsl_torch.training.ranks import joined
from nldsl_torch.training.run import Run
from nldsl_torch.training.trainer import load_data


def spec_of(file: str, data: str, folder: Path) -> TrainSpec:
    program = nldsl.load(file)
    spec = train_spec(program, choose(program, None), {}, data=data, steps=None, run_dir=str(folder), device="cpu", threads=1)
    return replace(spec, sharded=True)


def share(tensors) -> float:
    """The part of all entries that this process holds."""
    tensors = [t for t in tensors if t.ndim > 0]
    return sum(t.to_local().numel() if hasattr(t, "to_local") else t.numel() for t in tensors) / sum(t.numel() for t in tensors)


def one_step(spec: TrainSpec) -> dict[str, float]:
    with joined("cpu") as ranks, RunFolder(spec.run_dir, locked=ranks.first) as folder:
        run = Run(spec, load_data(spec), folder, ranks)
        run.train_step()
        states = [t for state in run.optimizer.state.values() for t in state.values()]
        return {"parameters": share(run.parameters), "gradients": share([p.grad for p in run.parameters]), "states": share(states)}


if __name__ == "__main__":
    file, data, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    dist.init_process_group("gloo")
    fit(spec_of(file, data, folder / "whole"), quiet=True)
    for name in ("stopped", "left"):
        assert fit(replace(spec_of(file, data, folder / name), time_budget=1e-9), quiet=True).step == 1
        assert fit(replace(spec_of(file, data, folder / name), time_budget=1e-9), quiet=True).step == 2
    fit(spec_of(file, data, folder / "stopped"), quiet=True)
    shares = one_step(spec_of(file, data, folder / "shares"))
    if dist.get_rank() == 0:
        print(json.dumps(shares), flush=True)
    dist.destroy_process_group()
