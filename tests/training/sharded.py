"""Two gloo processes: a compiled model under DistributedDataParallel and fully_shard; prints what differs from one process.

`torchrun --nproc_per_node 2 sharded.py [all]`: one line a case, `WAY RULE DIFFERENCE`; with `all`, every rule of the library.
Sizes are odd, so hardly a tensor is cut in equal parts.
"""

from __future__ import annotations

import sys
import warnings

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
  in x : int[33]
  param E : 33 -> d
  param b : real[d]
  param Q : d -> 3 * d
  param R : 3 * d -> d
  param H : d -> 33
  each h in 3 { param K : d -> 5  k = K(E(x) + b) }
  param P : 15 -> d
  chain g = P(flatten(k)) over i in 0 .. 2 { g = g + cell(norm(g)) }
  out y = H(norm(g + R(silu(Q(norm(g))))))
}
"""
SEEING = ("delta_gradient_descent", "delta_gradient_descent_wide")  # what a layer saw: refused in several processes
MORE = ["all by sgd_clip_norm(lr = 0.1, max_norm = 0.01)", 'split("*Q", 3) by muon_exact(), rest by adamw()', "all by adamw() every 2"]
FEW = ["adamw", "adafactor", "muon", "shampoo"]
WAYS = {"ddp": DistributedDataParallel, "fsdp": lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))}


def trained(way: str | None, rule: str) -> tuple[list[float], list[torch.Tensor]]:
    """Five steps in float64, of whole batches in this process or of its part of them: losses and parameters."""
    torch.manual_seed(0)
    model = nldsl.load(TEXT).module("lm", d=7, dtype=torch.float64)
    if way is not None:
        model = WAYS[way](model)
    optimizer = torch.optim.AdamW(model.parameters()) if rule == "torch" else nldsl.optimizer(rule, model)
    rows = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2) if way is not None else slice(None)
    found = []
    for step in range(5):
        tokens = torch.randint(0, 33, (4, 17), generator=torch.Generator().manual_seed(step))[rows]
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        if way is not None:
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        found.append(mean)
    return found, [(p.full_tensor() if way == "fsdp" else p).detach() for p in model.parameters()]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    library = {name for name, rule in nldsl.load(TEXT).all_rules.items() if rule.span.source.name.endswith("optimizers.nl")}
    rules = sorted(library - set(SEEING)) if sys.argv[1:] == ["all"] else FEW
    cases = ["torch", *(f"matrices by {name}(), rest by adamw()" for name in rules), *MORE]
    for way in WAYS:
        for rule in cases:
            (losses, parameters), (others, theirs) = trained(None, rule), trained(way, rule)
            apart = max((a - b).abs().max().item() for a, b in zip([*losses, *parameters], [*others, *theirs], strict=True))
            if dist.get_rank() == 0:
                print(way, rule.replace(" ", "_"), apart, flush=True)
    dist.destroy_process_group()
