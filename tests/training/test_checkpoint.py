"""Checkpoints: whole, or refused with a diagnostic."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from nldsl.diagnostics import NlError
from nldsl_torch.training import Checkpoint, load_checkpoint, save_checkpoint, spec_sha256
from nldsl_torch.training import checkpoint as module


@pytest.fixture
def saved(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.8, 0.9))
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    model.register_buffer("tied", model.weight.detach())
    checkpoint = Checkpoint(
        3, "spec text é\n", {"seed": 1}, model.state_dict(), optimizer.state_dict(), {"cpu": torch.get_rng_state()}
    )
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, checkpoint)
    return path, checkpoint, optimizer


def test_round_trip(saved) -> None:
    path, checkpoint, optimizer = saved
    back = load_checkpoint(path)
    assert (back.step, back.spec_text, back.settings) == (3, checkpoint.spec_text, {"seed": 1})
    assert back.spec_sha256 == spec_sha256("spec text é\n")
    assert all(torch.equal(back.model[name], tensor) for name, tensor in checkpoint.model.items())
    assert torch.equal(back.rng["cpu"], checkpoint.rng["cpu"])
    before = optimizer.state_dict()["state"]
    optimizer.load_state_dict(back.optimizer)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][name], before[i][name]) for i in before for name in before[i])


def test_replaced_checkpoint_is_kept(saved) -> None:
    path, checkpoint, _ = saved
    first = path.read_bytes()
    save_checkpoint(path, Checkpoint(4, "other", {}, checkpoint.model, checkpoint.optimizer))
    assert load_checkpoint(path).step == 4
    assert module.previous_of(path).read_bytes() == first


def test_any_damage_is_found(saved, mistake) -> None:
    path, _, _ = saved
    whole = path.read_bytes()
    choose = random.Random(0)
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert mistake(load_checkpoint, path).code == "NL708"
    for _ in range(200):
        place = choose.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << choose.randrange(8)]) + whole[place + 1 :])
        try:
            back = load_checkpoint(path)
        except NlError as error:
            assert error.diagnostics[0].code in ("NL708", "NL710")
        else:
            assert back.step == 3, "only padding of the header may change unseen"
    path.write_bytes(b"not a checkpoint, but longer than eight bytes")
    assert mistake(load_checkpoint, path).code == "NL708"
    path.unlink()
    assert mistake(load_checkpoint, path).code == "NL707"


def test_other_version_and_other_file(saved, mistake, monkeypatch) -> None:
    path, _, _ = saved
    monkeypatch.setattr(module, "VERSION", 2)
    diagnostic = mistake(load_checkpoint, path)
    assert diagnostic.code == "NL710" and diagnostic.found == "format version 1"
    monkeypatch.setattr(module, "FORMAT", "something-else")
    assert mistake(load_checkpoint, path).code == "NL708"


def test_full_disk_loses_nothing(saved, mistake, monkeypatch) -> None:
    path, checkpoint, _ = saved

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    assert mistake(save_checkpoint, path, checkpoint).code == "NL714"
    assert load_checkpoint(path).step == 3
