"""Many small tensors: what makes them fast leaves no trace in values, storages, counts of changes or checkpoints."""

from __future__ import annotations

import copy
import io
from itertools import pairwise

import pytest
import torch

import nldsl

SHAPES = [(8, 16), (3,), (), (5, 1)] * 50


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    return made


def test_states_lie_together_and_are_storages_of_their_own() -> None:
    params = parameters()
    optimizer = nldsl.optimizer("adamw", params)
    optimizer.step()
    states = [optimizer.state[p][name] for p in params for name in ("exp_avg", "exp_avg_sq")]
    assert all(s.untyped_storage().nbytes() == s.numel() * s.itemsize and s._base is None for s in states)
    assert all(s.data_ptr() % 64 == 0 for s in states)
    near = sum(0 < b.data_ptr() - a.data_ptr() <= 512 for a, b in pairwise(states))
    assert near > 0.9 * len(states)
    kept, other = copy.deepcopy(states[0]), states[1].clone()
    states[0].zero_()
    assert kept.abs().sum() > 0 and torch.equal(states[1], other)


def test_a_saved_state_holds_its_own_bytes_only() -> None:
    params = parameters()
    optimizer = nldsl.optimizer("adamw", params)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state[params[3]]["exp_avg"], file)
    assert file.tell() < 4096
    file.seek(0)
    assert torch.equal(torch.load(file), optimizer.state[params[3]]["exp_avg"])


def test_every_step_counts_one_change_of_every_parameter() -> None:
    params = parameters()
    optimizer = nldsl.optimizer("adamw", params)
    for _ in range(3):
        before = [p._version for p in params]
        optimizer.step()
        assert [p._version for p in params] == [v + 1 for v in before]


@pytest.mark.parametrize("at", [0, 57, len(SHAPES) - 1])
@pytest.mark.parametrize("what", ["grad", "grad data", "data", "state", "state data", "none"])
def test_anything_that_changes_between_steps_is_seen(what: str, at: int) -> None:
    ours, theirs = parameters(), parameters()
    pairs = [(ours, nldsl.optimizer("adamw", ours)), (theirs, torch.optim.AdamW(theirs))]
    for _ in range(4):
        for _, optimizer in pairs:
            optimizer.step()
    for params, optimizer in pairs:
        p, state = params[at], optimizer.state[params[at]]
        assert p.grad is not None
        match what:
            case "grad":
                p.grad = p.grad * 3
            case "grad data":
                p.grad.data = p.grad * 3
            case "data":
                p.data = p.detach() * 3
            case "state":
                state["exp_avg"] = state["exp_avg"] * 3
            case "state data":
                state["exp_avg_sq"].data = state["exp_avg_sq"] * 3
            case "none":
                p.grad = None
        for _ in range(3):
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
