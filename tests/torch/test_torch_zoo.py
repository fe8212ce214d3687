"""Every layer of the zoo: torch = interpreter, any split, nothing from the future, nothing from another sequence."""

import copy
from functools import cache

import pytest
import torch
import torch_cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_cases import EXACT, SINGLE, ZOO, check, distance, gradients, outputs, split, vector_input, weights

LAYERS = [n for n in ZOO if vector_input(n)]
zoo = cache(torch_cases.zoo)
each = pytest.mark.parametrize("name", LAYERS)

# The form of every memory; a layer that is not here is held to `no loop`.
FORMS = {
    "comba": {"S": "solve"}, "delta_net": {"S": "solve"}, "gated_delta": {"S": "solve"}, "gla": {"S": "closed"}, "kda": {"S": "solve"},
    "linear_attention": {"S": "closed", "z": "scan"}, "longhorn": {"S": "solve"}, "mamba2": {"S": "closed"}, "oja": {"S": "solve"},
    "omega": {"S": "solve"}, "retnet": {"S": "closed"}, "rwkv7": {"S": "solve"}, "sliding_window": {}, "softmax_attention": {},
    "titans_linear": {"S": "solve"}, "mesa_net": {"G": "closed", "H": "closed"}, "swla": {"M": "closed"}, "omega_net": {"M": "solve"},
    # Not linear at each token: Newton-Schulz, softmax, norms.
    "atlas": {"M.W2": "loop"}, "memora": {"M.W2": "loop"}, "trellis": {"K": "loop", "V": "loop"},
}  # fmt: skip
RANK = ["closed", "scan", "solve", "windows", "loop"]


def test_the_zoo_is_whole():
    assert set(FORMS) <= set(LAYERS), set(FORMS) - set(LAYERS)


@each
def test_form(name):
    """As good as in the table, or better; a layer without a recurrence keeps a store."""
    c = zoo(name)
    for first, form in c.forms.items():
        wanted = FORMS.get(name, {}).get(first, "windows")
        assert RANK.index(form.name) <= RANK.index(wanted), f"{first} is a {form.name}: {form.why}"
    assert c.forms or any(e.op == "attend" for unit in c.elaborated.units.values() for e in unit.equations)


@each
def test_torch_is_the_interpreter(name):
    # The interpreter solves implicit steps numerically, and takes gradients of networks tick by tick.
    slow = name == "longhorn" or any(len(form.forms) > 1 or form.name == "loop" for form in zoo(name).forms.values())
    check(zoo(name), [1, 2, 33, 40 if slow else 70], 2 if slow else 3, EXACT, SINGLE)


@each
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(1, 40), min_size=2, max_size=6), batch=st.sampled_from([1, 3]))
def test_any_split(name, cuts, batch):
    c = zoo(name)
    x = c.input(batch, sum(cuts))
    whole, end = c.module(x, return_state=True)
    parts, state = split(c.module, x, cuts)
    for n, y in outputs(whole).items():
        assert distance(parts[n], y) < EXACT, n
    assert set(state) == set(end)
    for n in end:
        assert distance(state[n], end[n]) < EXACT, n


@each
def test_prefill_then_steps_have_the_same_gradients(name):
    c, m = zoo(name), zoo(name).module
    x = c.input(2, 40).requires_grad_()
    whole = outputs(m(x))
    w = weights(whole)
    expected = gradients(m, x, whole, w)
    parts, _ = split(m, x, [33, 1, 1, 1, 1, 1, 1, 1])
    for n, g in gradients(m, x, parts, w).items():
        assert distance(g, expected[n]) < EXACT, n


@each
def test_state_is_a_value(name):
    """A call changes no state it was given; a copy is as good; another dtype comes back as the module's own."""
    c = zoo(name)
    m, x = c.module, c.input(2, 40)
    with torch.no_grad():
        _, state = m(x[:, :21], return_state=True)
        kept = {k: v.clone() for k, v in state.items()}
        y, end = m(x[:, 21:], state=state, return_state=True)
        y1, _ = m.step(x[:, 21], state)
        assert all(torch.equal(state[k], kept[k]) for k in kept)
        again, _ = m(x[:, 21:], state=copy.deepcopy(kept), return_state=True)
        assert torch.equal(again, y) and distance(y1, y[:, 0]) < EXACT
        assert set(m.initial_state(2)) == set(state) == set(end)
        assert all(m.initial_state(2)[k].dtype == v.dtype == end[k].dtype for k, v in state.items())
        single = c.single()
        as_single = {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}
        short, last = single(x[:, 21:].float(), state=as_single, return_state=True)
        assert distance(short, y) < SINGLE and all(distance(last[k], end[k]) < SINGLE for k in end)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_from_the_future(name, dtype):
    """Bit for bit, and no gradient: at ticks inside a chunk, at its border and after it."""
    c = zoo(name)
    m = c.module if dtype == torch.float64 else c.single()
    x = c.input(2, 70).to(dtype)
    for t in (1, 20, 32, 45, 64):
        other = torch.cat([x[:, :t], 3 * torch.randn(2, 70 - t, x.shape[-1], dtype=dtype)], 1)
        assert torch.equal(m(x)[:, :t], m(other)[:, :t]), t
    x.requires_grad_()
    (g,) = torch.autograd.grad(m(x)[:, :45].square().sum(), x)
    assert (g[:, 45:] == 0).all() and (g[:, :45] != 0).any()


@each
def test_sequences_do_not_meet(name):
    c = zoo(name)
    m, x = c.module, c.input(3, 40)
    with torch.no_grad():
        y = m(x)
        other = x.clone()
        other[1] = 2 * torch.randn_like(x[1])
        z = m(other)
        assert torch.equal(z[0], y[0]) and torch.equal(z[2], y[2]) and not torch.equal(z[1], y[1])
        assert distance(m(x[1:2]), y[1:2]) < 1e-12


@each
def test_what_lies_behind_the_input_is_not_read(name):
    c = zoo(name)
    wide = torch.full((2, 100, c.input(1, 1).shape[-1]), torch.nan, dtype=torch.float64)
    wide[:, 20:65] = c.input(2, 45)
    x = wide[:, 20:65].requires_grad_()
    y = c.module(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, c.module(c.input(2, 45))) and g.isfinite().all()
