"""No operation mixes devices: everything runs on torch's `meta` device, whose tensors have shapes and no values.

What a GPU would refuse, a constant or a state made on the CPU among tensors that are elsewhere, is refused here, without one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nldsl
from nldsl.optimizers import library_program
from nldsl_testing.example import Example
from nldsl_testing.sizes import small_sizes
from nldsl_testing.subject import Subject

aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
FILES = sorted((Path(__file__).parents[2] / "examples").glob("*.nl"))


def library() -> list[str]:
    found = []
    for name in sorted(library_program().all_rules):
        with contextlib.suppress(nldsl.NlError):  # a rule that is no optimizer
            library_program().rule(name)
            found.append(name)
    return found


class OneDevice(TorchDispatchMode):
    """Fails where an operation takes tensors of the CPU and of `meta`; numbers, which any device takes, may come from the CPU."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors if x.dim() or x.device.type != "cpu"}
        assert operation in MOVES or len(devices) < 2, f"{operation} of tensors on {devices}"
        if operation is aten._local_scalar_dense.default:
            return 0  # the number of ticks before
        return operation(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """`meta` has none, and torch raises where it is asked."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *a: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda *a: torch.float32)
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())


def test_the_test_sees_a_mixture():
    with pytest.raises(AssertionError, match="meta"), OneDevice():
        torch.zeros(2, 2, device="meta") @ torch.zeros(2, 2)


@pytest.mark.parametrize("lowering", ["chosen", "every recurrence by loop"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_module(path, lowering):
    program = nldsl.load(path)
    block = program.blocks[-1]
    (sizes,) = small_sizes(program, block, {}, 1)
    subject = Subject(program, block, sizes)
    if lowering not in subject.schedules:
        pytest.skip("has no recurrence")
    inputs = Example(tuple(sizes.items()), batch=2, cuts=(9,)).inputs(subject)
    module = subject.module(lowering, torch.float32).to("meta")
    xs = [x.to("meta", torch.float32 if x.is_floating_point() else x.dtype) for x in inputs.values()]
    with OneDevice():
        y, state = module(*xs, return_state=True)
        ys = y if isinstance(y, dict) else {"y": y}
        reals = [v for v in ys.values() if v.requires_grad]
        assert {v.device.type for v in [*ys.values(), *(v for k, v in state.items() if k != ":tick")]} == {"meta"}
        torch.autograd.backward([v.square().sum() for v in reals])
        module.step(*(x[:, 0] for x in xs), state)
    assert all(p.grad is None or p.grad.device.type == "meta" for p in module.parameters())


@pytest.mark.parametrize("rule", library())
def test_optimizer(rule):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4, bias=False), torch.nn.Linear(4, 6, bias=False)).to("meta")
    numbers = {h.name: 0.1 for h in library_program().rule(rule).hypers if h.default is None}
    optimizer = nldsl.optimizer(rule, model, **numbers)
    with OneDevice():
        for _ in range(3):
            model(torch.ones(5, 6, device="meta")).square().sum().backward()
            optimizer.step()
    held = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
    assert {v.device.type for v in held} <= {"meta"}
