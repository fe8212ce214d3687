"""Every member of the zoo says what its paper says: interpreter = oracle, oracle core = published reference."""

import importlib.util
import sys
from pathlib import Path

import oracles
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "interpreter"))

from machines import machine, randn, random_parameters  # noqa: E402

ZOO = list(oracles.LAYERS)
SIZES = {"sliding_window": {"window": 5}}


@pytest.mark.parametrize("name", ZOO)
def test_interpreter_equals_oracle(name):
    zoo = machine(ROOT / "examples" / f"{name}.nl", name, d=8, heads=2, **SIZES.get(name, {}))
    params, x = random_parameters(zoo), randn(2, 9, 8).requires_grad_()
    leaves = [*params.values(), x]
    y = zoo.run(params, {"x": x})[0]["y"]
    wanted = oracles.LAYERS[name](params, x)
    weight = randn(*y.shape, seed_=5)
    assert torch.allclose(y, wanted, rtol=0, atol=1e-10)
    got, expected = (torch.autograd.grad((z * weight).sum(), leaves) for z in (y, wanted))
    for n, a, b in zip([*params, "x"], got, expected, strict=True):
        assert b.abs().max() > 0, f"the oracle does not depend on {n}"
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10), n


@pytest.mark.parametrize("name", ZOO)
def test_a_sequence_may_be_split(name):
    zoo = machine(ROOT / "examples" / f"{name}.nl", name, d=8, heads=2, **SIZES.get(name, {}))
    params, x = zoo.parameters(torch.float64, torch.Generator().manual_seed(0)), randn(2, 7, 8)
    whole = zoo.run(params, {"x": x})[0]["y"]
    parts, state = [], None
    for cut in x.split([1, 4, 2], dim=1):
        outputs, state = zoo.run(params, {"x": cut}, state)
        parts.append(outputs["y"])
    assert torch.equal(torch.cat(parts, 1), whole)
    assert not whole.requires_grad


# --- published references, float32 inside -------------------------------------------------------------


def fla(path: str):
    """A file of fla-core by its path: importing the package needs triton."""
    spec = importlib.util.find_spec("fla")
    if spec is None or importlib.util.find_spec("einops") is None:
        pytest.skip("fla-core is not installed")
    file = Path(next(iter(spec.submodule_search_locations))) / "ops" / path / "naive.py"
    if not file.exists():
        pytest.skip(f"this fla-core has no {path}")
    made = importlib.util.spec_from_file_location("fla_" + path.replace("/", "_"), file)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


def streams(T=12, H=2, dk=6, dv=5):
    """q (unscaled), k (unit), v, a per key channel, a per head, b."""
    q, k, v = randn(2, T, H, dk), oracles.unit(randn(2, T, H, dk, seed_=1)), randn(2, T, H, dv, seed_=2)
    a, b = torch.sigmoid(randn(2, T, H, dk, seed_=3)), torch.sigmoid(randn(2, T, H, seed_=4))
    return q, k, v, a, a[..., 0], b


def same(ours, theirs):
    assert torch.allclose(ours.float(), theirs.float(), rtol=1e-5, atol=1e-5)


def swap(*xs):
    return [x.transpose(1, 2).contiguous() for x in xs]


SCALE = 6**-0.5  # fla scales the query by 1/sqrt(dk)


def test_fla_linear_attention():
    q, k, v, *_, b = streams()
    ours = oracles.additive_core(q * SCALE, k, v, torch.ones_like(b)[..., None], torch.ones_like(b))
    same(ours, fla("linear_attn").naive_recurrent_linear_attn(q.float(), k.float(), v.float())[0])


def test_fla_retention():
    q, k, v, *_, b = streams()
    gamma = (1 - 2.0 ** (-5 - torch.arange(2))) * torch.ones_like(b)
    ours = oracles.additive_core(q * SCALE, k, v, gamma[..., None], torch.ones_like(b))
    same(ours, fla("retention").naive_retention(*swap(q, k, v)).transpose(1, 2))


def test_fla_gla():
    q, k, v, a, _, b = streams()
    ours = oracles.additive_core(q * SCALE, k, v, a, torch.ones_like(b))
    same(ours, fla("gla").naive_recurrent_gla(q.float(), k.float(), v.float(), a.log().float())[0])


def test_fla_simple_gla_is_mamba2():
    """Mamba-2 is scalar retention with dt folded into the value."""
    q, k, v, _, a, dt = streams()
    ours = oracles.additive_core(q * SCALE, k, v, a[..., None], dt)
    same(ours, fla("simple_gla").naive_recurrent_simple_gla(q, k, dt[..., None] * v, a.log())[0])


def test_fla_delta_rule():
    q, k, v, *_, b = streams()
    ours = oracles.delta_core(q * SCALE, k, v, torch.ones_like(b)[..., None], b)
    same(ours, fla("delta_rule").delta_rule_recurrence(*swap(q, k, v, b))[0].transpose(1, 2))


def test_fla_gated_delta_rule():
    q, k, v, _, a, b = streams()
    ours = oracles.delta_core(q * SCALE, k, v, a[..., None], b)
    same(ours, fla("gated_delta_rule").naive_recurrent_gated_delta_rule(q, k, v, beta=b, g=a.log())[0])


def test_fla_kda():
    q, k, v, a, _, b = streams()
    same(oracles.delta_core(q * SCALE, k, v, a, b), fla("kda").naive_recurrent_kda(q, k, v, g=a.log(), beta=b)[0])


def test_fla_comba():
    """The chunked reference: it reads before the decay as the kernels do, the recurrent one does not."""
    q, k, v, _, a, b = streams()
    p = 0.7 * k
    reference = fla("comba").naive_chunk_comba(q=q.float(), k=k.float(), v=v.float(), p=p.float(), g=a.log().float(), beta=b.float())[0]
    same(oracles.comba_core(q * SCALE, k, v, p, a, b), reference)


def test_fla_dplr_is_rwkv7():
    q, e, v, w, _, _ = streams()
    k, a = randn(2, 12, 2, 6, seed_=8), torch.sigmoid(randn(2, 12, 2, 6, seed_=9))
    theirs = fla("generalized_delta_rule/dplr").dplr_recurrence(*(s.float() for s in swap(q, k, v, -e, e * a, w.log())))[0]
    same(oracles.rwkv7_core(q * SCALE, e, k, v, w, a), theirs.transpose(1, 2))


def test_fla_momentum_delta_rule_is_titans():
    q, k, v, _, eta, theta = streams()
    alpha = torch.sigmoid(randn(2, 12, 2, seed_=7))
    reference = fla("momentum_delta_rule").recurrent_momentum_delta_rule_ref
    theirs = reference(q, k, v, log_alpha=torch.log1p(-alpha), log_mu=eta.log(), p=k, beta=torch.ones_like(theta), eta=theta)[0]
    same(oracles.titans_core(q * SCALE, k, v, theta, eta, alpha), theirs)
