"""The live state of a training run: what one step changes and a checkpoint holds."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nldsl.diagnostics import NlError
from nldsl_torch.optim.perform import sharded

from .checkpoint import (
    Checkpoint,
    check_same_spec,
    load_checkpoint,
    previous_of,
    save_checkpoint,
)
from .data import ByteData
from .errors import (
    cannot_share,
    checkpoint_does_not_fit,
    folder_unusable,
    model_unfit,
    not_finite,
    nothing_to_train,
    settings_changed,
)
from .feeding import check_logits, logits_of, outputs_of, shape
from .folder import RunFolder, damaged_of
from .optimizers import rate_factor
from .ranks import ALONE, Ranks
from .shards import clip, parts_of, parts_of_states, shard, states_on, whole_on
from .spec import TrainSpec, cross_entropy


class Run:
    """Model, optimizer and the number of finished steps, with the checkpoint that follows them."""

    def __init__(self, spec: TrainSpec, data: ByteData, folder: RunFolder, ranks: Ranks = ALONE) -> None:
        torch.manual_seed(spec.seed)
        self.spec = spec
        self.data = data
        self.ranks = ranks
        self.path = folder.checkpoint
        self.model = spec.build().to(spec.device)
        self._copy = copy.deepcopy(_unwrapped(self.model)) if spec.sharded and ranks.first else None
        if spec.sharded:
            shard(_unwrapped(self.model), ranks)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise nothing_to_train()
        self.optimizer = spec.optimizer.make(_unwrapped(self.model))
        if ranks.size > 1 and getattr(self.optimizer, "providers", None):
            raise cannot_share("a rule reads the inputs of a layer, and each process has those of its own sequences only")
        if ranks.size > 1 and spec.shared is not None:
            raise cannot_share(f"`{spec.shared}` is one memory for all sequences of a batch, and each process has its own sequences only")
        self.rates = [group.get("lr") for group in self.optimizer.param_groups]
        self.step = 0
        self.saved_step: int | None = None
        self._identity = spec.identity(hashlib.sha256(data.text).hexdigest())

    def train_step(self) -> dict[str, float]:
        """Take one step; its numbers. Nothing has changed when it raises."""
        spec, step = self.spec, self.step + 1
        x, y = (tensor.to(spec.device) for tensor in self.ranks.rows(*self.data.batch(self.step)))
        self.model.train()
        outputs = outputs_of(self.model, spec.wiring, x, y)
        logits = logits_of(outputs, spec.wiring)
        check_logits(logits, x)
        loss = spec.objective(outputs, y)
        if loss.ndim != 0:
            raise model_unfit("the objective's value", "a scalar", shape(loss))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nats = loss.detach() if spec.objective is cross_entropy else cross_entropy(logits.detach(), y)
        numbers = torch.stack([loss.detach().double(), nats.double()])
        self.ranks.mean([numbers])
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.ranks.mean([grad for grad in grads if not sharded(grad)])  # of the others each process has a part of the mean
        grad_norm = clip(self.parameters, float("inf") if spec.grad_clip is None else spec.grad_clip)
        value, entropy = numbers.tolist()
        self._check_finite(step, "loss", value)
        self._check_finite(step, "gradient norm", grad_norm)
        factor = rate_factor(
            step, steps=spec.steps, warmup=spec.warmup, schedule=spec.schedule, final_fraction=spec.final_fraction
        )
        rates = [None if rate is None else rate * factor for rate in self.rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if rate is not None:
                group["lr"] = rate
        self.optimizer.step()
        self.step = step
        first = next((rate for rate in rates if rate is not None), factor)
        return {"loss": value, "nats": entropy, "lr": first, "grad_norm": grad_norm}

    def table(self) -> str | None:
        """Which rule trains which parameter, where there are several."""
        table = self.spec.optimizer.table
        return None if table is None else table(_unwrapped(self.model))

    def reader(self) -> nn.Module:
        """The model that the first process reads with alone; all processes ask for it together."""
        if not self.spec.sharded:
            return self.model
        weights = whole_on(self.ranks.first, _weights(self.model))
        if self._copy is None:
            return self.model
        self._copy.load_state_dict(weights)
        return self._copy

    def save(self) -> None:
        """Write the checkpoint of this step, unless it is there already; all processes come here together."""
        if self.saved_step == self.step:
            return
        first, model, optimizer = self.ranks.first, _weights(self.model), self.optimizer.state_dict()
        if self.spec.sharded:
            model, optimizer = whole_on(first, model), states_on(first, optimizer)
        if first:
            settings = {**self._identity, "name": self.spec.name, "spec file": self.spec.spec_file}
            rng = _rng_state(self.spec.device)
            save_checkpoint(self.path, Checkpoint(self.step, self.spec.spec_text, settings, model, optimizer, rng))
        self.saved_step = self.step

    def resume(self) -> str | None:
        """Take up the last good checkpoint, if there is one; a note where it is not the newest file."""
        path, previous = self.path, previous_of(self.path)
        if not path.exists() and not previous.exists():
            return None
        checkpoint, note = _load_last_good(path, previous)
        check_same_spec(path, checkpoint, self.spec.spec_text)
        changes = _changes(checkpoint.settings, self._identity)
        if changes:
            raise settings_changed(path, changes)
        try:
            weights, optimizer = checkpoint.model, checkpoint.optimizer
            if self.spec.sharded:
                weights, optimizer = parts_of(weights, _weights(self.model)), parts_of_states(optimizer, self.optimizer)
            _unwrapped(self.model).load_state_dict(weights)
            self.optimizer.load_state_dict(optimizer)
            _set_rng_state(checkpoint.rng, self.spec.device)
        except (RuntimeError, ValueError, LookupError) as error:
            raise checkpoint_does_not_fit(path, " ".join(str(error).split())) from None
        self.step = checkpoint.step
        self.saved_step = checkpoint.step
        return note

    def _check_finite(self, step: int, what: str, value: float) -> None:
        if not -float("inf") < value < float("inf"):
            raise not_finite(step, what, value, self.path if self.path.exists() else None, self.saved_step)


def _load_last_good(path: Path, previous: Path) -> tuple[Checkpoint, str | None]:
    """The checkpoint at `path`, or where that is missing or damaged the one before it."""
    try:
        return load_checkpoint(path), None
    except NlError as error:
        if error.diagnostics[0].code not in ("NL707", "NL708") or not previous.exists():
            raise
        reason = error.diagnostics[0].message
        checkpoint = load_checkpoint(previous)
    try:
        if path.exists():
            path.replace(damaged_of(path))
            reason += f"; it is kept as '{damaged_of(path)}'"
        previous.replace(path)
    except OSError as error:
        raise folder_unusable(path.parent, error.strerror or str(error)) from None
    return checkpoint, f"{reason}. Going on from the one before it."


def _changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    return {name: (saved.get(name), value) for name, value in now.items() if saved.get(name) != value}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside a `torch.compile` wrapper: checkpoints name its parameters, not the wrapper's."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return dict(_unwrapped(model).state_dict())


def _rng_state(device: str) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: Mapping[str, Tensor], device: str) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)

