"""A model spread over the processes by torch's `fully_shard` (FSDP2): `torchrun ... nldsl train FILE --sharded`.

Each process keeps a part of every parameter, of its gradient and of the optimizer's states like it. For a step the whole
parameters come together, and gradients are averaged where they are cut. Numbers (params without dimensions) are not cut: all
processes hold them. A checkpoint has whole tensors, so it does not depend on how many processes wrote it, or in which way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nldsl_torch.optim.perform import part_of, sharded, whole

from .ranks import Ranks


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Spread the parameters over the processes, which all hold the same; the model has new ones afterwards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # torch fears for writes into a model's outputs; objectives of `.nl` make none
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    mesh = init_device_mesh(torch.device(ranks.device).type, (ranks.size,))
    fully_shard(model, mesh=mesh, ignored_params={p for p in model.parameters() if p.ndim == 0})


def whole_on(keep: bool, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The whole tensors, one after the other, on the CPU of the processes that `keep` them; what is no tensor is as it was."""
    made: dict[str, Any] = {}
    for name, value in tensors.items():
        full = whole(value.detach()) if isinstance(value, Tensor) else value
        if keep:
            made[name] = full.to("cpu") if isinstance(full, Tensor) else full
    return made


def parts_of(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's parts of whole tensors, cut as those of the same names are."""
    return {name: part_of(value, like[name]) if name in like else value for name, value in values.items()}


def states_on(keep: bool, state: Mapping[str, Any]) -> dict[str, Any]:
    """The `state_dict` of an optimizer with whole tensors, in the processes that `keep` them."""
    return {**state, "state": {parameter: whole_on(keep, entries) for parameter, entries in state["state"].items()}}


def parts_of_states(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A whole `state_dict` cut as the optimizer's parameters are; they are in the order of its groups."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def cut(entries: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
        return {name: part_of(value, like) if isinstance(value, Tensor) else value for name, value in entries.items()}

    return {**state, "state": {n: cut(entries, parameters[n]) for n, entries in state["state"].items()}}


def clip(parameters: Iterable[Tensor], most: float) -> float:
    """Shorten the gradient to a norm of at most `most`; the norm that it had, over all parameters and processes."""
    given = [p for p in parameters if p.grad is not None]
    kinds = [some for kind in (True, False) if (some := [p for p in given if sharded(p) is kind])]
    norms = [whole(nn.utils.get_total_norm([p.grad for p in some if p.grad is not None])) for some in kinds]
    norm = norms[0] if len(norms) == 1 else nn.utils.get_total_norm(norms)
    for some in kinds:
        nn.utils.clip_grads_with_norm_(some, most, norm)
    return norm.item()
