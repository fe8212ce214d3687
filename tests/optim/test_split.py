"""A tensor that is several matrices: fused projections, heads, stacks."""

import pytest
import torch
from torch import nn

import nldsl


@pytest.mark.parametrize("rule", ["muon_exact", "shampoo", "m3_ema", "adafactor", "delta_momentum"])
@pytest.mark.parametrize("shape, split", [((12, 5), 3), ((3, 4, 5), 3), ((2, 6, 5), 6)])
def test_each_matrix_of_a_split_tensor_makes_its_own_step(rule, shape, split):
    torch.manual_seed(0)
    whole = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    parts = [nn.Parameter(p.clone()) for p in whole.detach().reshape(split, -1, shape[-1])]
    made = nldsl.optimizer_class(rule)
    one, many = made([{"params": [whole], "split": split}], lr=0.02), made(parts, lr=0.02)
    for step in range(7):
        if step == 4:  # a checkpoint in between
            saved = one.state_dict()
            one = made([{"params": [whole], "split": split}], lr=0.02)
            one.load_state_dict(saved)
        whole.grad = torch.randn_like(whole)
        for p, g in zip(parts, whole.grad.reshape(split, -1, shape[-1]), strict=True):
            p.grad = g.clone()
        one.step()
        many.step()
    torch.testing.assert_close(whole.detach().reshape(split, -1, shape[-1]), torch.stack([p.detach() for p in parts]), rtol=1e-6, atol=1e-8)


def test_a_differentiable_step_of_a_split_tensor():
    w = torch.randn(6, 4, dtype=torch.float64)
    results = []
    for differentiable in (False, True):
        p = nn.Parameter(w.clone()) if not differentiable else w.clone()
        p.grad = torch.ones_like(w)
        optimizer = nldsl.optimizer_class("muon_exact")([{"params": [p], "split": 2}], differentiable=differentiable)
        optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape, split", [((7, 5), 3), ((6,), 3)])
def test_what_cannot_be_split_is_refused(shape, split):
    with pytest.raises(ValueError, match=r"not 3 matrices|rule for matrices"):
        nldsl.optimizer_class("muon")([{"params": [nn.Parameter(torch.zeros(shape))], "split": split}])


def test_heads_of_an_attention_are_matrices_of_their_own():
    model = nn.ModuleDict({"qkv": nn.Linear(8, 24, bias=False), "out": nn.Linear(8, 8)})
    optimizer = nldsl.optimizer('split("qkv.weight", 3) by muon_exact(lr = 0.1), matrices by muon_exact(), rest by adamw()', model)
    assert "3 matrices" in str(optimizer.assignment)
    before = model["qkv"].weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    change = (before - model["qkv"].weight.detach()).reshape(3, 8, 8)
    singular = torch.linalg.svdvals(change)
    assert (singular > 0.04).all() and (singular < 0.2).all()  # each third is close to orthogonal, times the rate


def test_a_number_the_class_fixes_is_in_the_groups_and_not_to_be_changed():
    optimizer = nldsl.optimizer("muon", [nn.Parameter(torch.zeros(2, 2))], ns_steps=3)
    assert optimizer.param_groups[0]["ns_steps"] == 3
    with pytest.raises(ValueError, match="ns_steps is 3 in this class"):
        type(optimizer)([nn.Parameter(torch.zeros(2, 2))], ns_steps=5)


def test_shampoo_stays_finite_where_gradients_have_one_direction():
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = nldsl.optimizer("shampoo", [p], lr=0.125)
    for _ in range(6):
        p.grad = 1 + p.detach()
        optimizer.step()
    assert p.isfinite().all()


def test_a_checkpoint_is_matched_by_name():
    torch.manual_seed(0)
    first, other = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
    made = nldsl.optimizer_class("adamw")
    saved = made([("a", first), ("b", other)])
    for p in (first, other):
        p.grad = torch.randn(3)
    saved.step()
    loaded = made([("b", other), ("a", first)])
    loaded.load_state_dict(saved.state_dict())
    for p in (first, other):
        assert torch.equal(loaded.state[p]["exp_avg"], saved.state[p]["exp_avg"])
    assert loaded.param_groups[0]["param_names"] == ["b", "a"]
