"""Two gloo processes: a compiled model under DistributedDataParallel and fully_shard; prints what differs from one process.

`torchrun --nproc_per_node 2 sharded.py`: one line a case, `NAME DIFFERENCE`, or `NAME refused: MESSAGE`.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import nldsl

TEXT = """
block cell(d) {
  in x : real[d]
  param Wk, Wv : d -> d
  k = unit(Wk(x))
  memory S : d -> d = learned { minimize 0.5 * sqnorm(S(k) - Wv(x)) by gd(0.5) }
  out y = S(k)
}
block lm(d) {
  in x : int[32]
  param E : 32 -> d
  param b : real[d]
  param H : d -> 32
  h = E(x) + b
  chain g = h over i in 0 .. 2 { g = g + cell(norm(g)) }
  out y = H(norm(g))
}
"""
RULES = {
    "adamw": {"lr": 1e-2},
    "sgd_clip_norm": {"lr": 0.1, "max_norm": 1e-2},  # the norm of a whole tensor
    "muon_exact": {"lr": 1e-2},
    "preconditioned_momentum": {},  # makes a matrix of its own
}
WAYS = {"ddp": DistributedDataParallel, "fsdp": lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))}


def losses(way: str | None, rule: str) -> list[float]:
    """Ten steps in float64, of whole batches in this process or of its part of them."""
    torch.manual_seed(0)
    model = nldsl.load(TEXT).module("lm", d=8, dtype=torch.float64)
    if way is not None:
        model = WAYS[way](model)
    params = [p for p in model.parameters() if p.ndim == 2 or rule not in ("muon_exact", "preconditioned_momentum")]
    make = torch.optim.AdamW if rule == "torch" else lambda params, **numbers: nldsl.optimizer(rule, params, **numbers)
    optimizer = make(params, **RULES.get(rule, {"lr": 1e-2}))
    rows = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2) if way is not None else slice(None)
    found = []
    for step in range(10):
        tokens = torch.randint(0, 32, (4, 17), generator=torch.Generator().manual_seed(step))[rows]
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        if way is not None:
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        found.append(mean.item())
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for rule in ("torch", *RULES):
        alone = losses(None, rule)
        assert alone[0] != alone[-1]
        for way in WAYS:
            try:
                shown = str(max(abs(a - b) for a, b in zip(alone, losses(way, rule), strict=True)))
            except TypeError as error:
                shown = f"refused: {error}"
            if dist.get_rank() == 0:
                print(f"{way} {rule} {shown}", flush=True)
    dist.destroy_process_group()
