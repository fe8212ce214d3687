"""A run on disk: weights, optimizer state, random state and the spec, in one safetensors file.

Nothing in the file is ever executed: tensors are raw bytes and everything else is JSON text in the
header. A digest over both finds damage anywhere in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import (
    checkpoint_corrupt,
    checkpoint_missing,
    checkpoint_of_other_spec,
    checkpoint_version,
    folder_unusable,
)

FORMAT = "nldsl-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything that `step` finished training steps leave behind."""

    step: int
    spec_text: str
    settings: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: dict[str, Tensor] = field(default_factory=dict)

    @property
    def spec_sha256(self) -> str:
        return spec_sha256(self.spec_text)


def spec_sha256(spec_text: str) -> str:
    return hashlib.sha256(spec_text.encode("utf-8", "surrogatepass")).hexdigest()


def previous_of(path: Path) -> Path:
    """Where `save_checkpoint` keeps the checkpoint that it replaces."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` as a whole or not at all; the file it replaces stays as `previous_of(path)`."""
    optimizer_tensors, optimizer_rest = _flatten_optimizer(checkpoint.optimizer)
    tensors = {
        **{f"model.{name}": tensor for name, tensor in checkpoint.model.items()},
        **{f"optimizer.{name}": tensor for name, tensor in optimizer_tensors.items()},
        **{f"rng.{name}": tensor for name, tensor in checkpoint.rng.items()},
    }
    # safetensors refuses tensors that share storage, as tied weights do: each gets its own.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "step": str(checkpoint.step),
        "spec": json.dumps(checkpoint.spec_text),
        "spec_sha256": checkpoint.spec_sha256,
        "settings": json.dumps(checkpoint.settings),
        "optimizer": json.dumps(optimizer_rest),
    }
    metadata["digest"] = _digest(tensors, metadata)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous_of(path))
        os.replace(unfinished, path)
    except OSError as error:
        raise folder_unusable(path.parent, error.strerror or str(error)) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is whole."""
    if not path.exists():
        raise checkpoint_missing(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != FORMAT:
                raise checkpoint_corrupt(path, "it is not a checkpoint that nldsl wrote")
            if metadata.get("version") != str(VERSION):
                raise checkpoint_version(path, str(metadata.get("version")), VERSION)
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if metadata.pop("digest", None) != _digest(tensors, metadata):
            raise checkpoint_corrupt(path, "its digest does not match its content")
        return Checkpoint(
            step=int(metadata["step"]),
            spec_text=str(json.loads(metadata["spec"])),
            settings=dict(json.loads(metadata["settings"])),
            model=_under("model.", tensors),
            optimizer=_unflatten_optimizer(_under("optimizer.", tensors), json.loads(metadata["optimizer"])),
            rng=_under("rng.", tensors),
        )
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise checkpoint_corrupt(path, str(error) or type(error).__name__) from None


def check_same_spec(path: Path, checkpoint: Checkpoint, spec_text: str) -> None:
    """Refuse to go on with a checkpoint that another spec made."""
    if checkpoint.spec_text != spec_text:
        raise checkpoint_of_other_spec(path, checkpoint.spec_sha256, spec_sha256(spec_text))


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimizer's `state_dict`, as `PARAMETER.NAME`, and the rest of it as JSON values."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for parameter, entries in state["state"].items():
        values[str(parameter)] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value
            else:
                values[str(parameter)][name] = value
    return tensors, {"state": values, "param_groups": state["param_groups"]}


def _unflatten_optimizer(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(parameter): dict(values) for parameter, values in rest["state"].items()}
    for key, tensor in tensors.items():
        parameter, name = key.split(".", 1)
        state[int(parameter)][name] = tensor
    return {"state": state, "param_groups": [_group(group) for group in rest["param_groups"]]}


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    """A param group with its lists of numbers as the tuples they were."""
    return {k: tuple(v) if isinstance(v, list) and not k.startswith("param") else v for k, v in group.items()}
