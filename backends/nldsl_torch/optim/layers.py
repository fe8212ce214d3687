"""What a linear layer saw: its inputs and the gradients of its outputs, for rules that read `x` and `delta`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Seen:
    """Keeps the batch of one linear layer between two steps.

    A call of the layer gives its pairs when the backward pass reaches its output. They belong to the gradient that the
    weight accumulates: they are dropped where that is dropped, and taken by the step.
    """

    def __init__(self, layer: nn.Linear):
        self.pairs: list[tuple[Tensor, Tensor]] = []
        layer.register_forward_hook(self._call)

    def _call(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            return
        if layer.weight.grad is None:
            self.pairs.clear()
        x = args[0].detach()
        output.register_hook(lambda delta: self.pairs.append((x, delta.detach())))

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Inputs and output gradients as columns, [d, n] and [e, n], each pair once."""
        if not self.pairs:
            raise RuntimeError("this rule reads what its layer saw, and no backward pass went through the layer since the last step")
        x, delta = (torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).mT for parts in zip(*self.pairs, strict=True))
        self.pairs.clear()
        return x, delta


def providers(model: nn.Module, parameters: set[Tensor], names: Mapping[Tensor, str]) -> dict[Tensor, Any]:
    """What gives `x` and `delta` of each weight.

    Raises:
        ValueError: a parameter is not the weight of one linear layer.
    """
    owners: dict[Tensor, list[nn.Linear]] = {}
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.weight in parameters:
            owners.setdefault(layer.weight, []).append(layer)
    for p in parameters:
        if len(owners.get(p, ())) != 1:
            raise ValueError(
                f"this rule reads the inputs of a linear layer, and `{names.get(p, 'a parameter')}` {tuple(p.shape)} is not the weight of"
                " exactly one: give it another rule"
            )
    return {p: Seen(owners[p][0]) for p in parameters}
