"""The runtime of rule optimizers: everything that a `torch.optim.Optimizer` promises, with programs written by hand."""

import ast
import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_programs import ADAMW, MIX, AdamW, Clocks, Delta, Muon, NAdam, Sgd, optimizer_class

from nldsl_torch.optim import native
from nldsl_torch.optim.native import kernel, kernel_source
from nldsl_torch.optim.optimizer import RuleOptimizer

SHAPES = [(3, 4), (7,), (), (2, 3, 5), (0, 4), (1,)]


def parameters(shapes=SHAPES, dtype=torch.float32, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=make, dtype=dtype)) for s in shapes]


def gradients(params, step, *, fresh=True):
    make = torch.Generator().manual_seed(1000 + step)
    for p in params:
        g = torch.randn(p.shape, generator=make, dtype=p.dtype)
        if fresh or p.grad is None:
            p.grad = g
        else:
            p.grad.copy_(g)


def run(opt, params, steps, *, start=0, fresh=True):
    for i in range(start, start + steps):
        gradients(params, i, fresh=fresh)
        opt.step()
    return params


def equal(a, b):
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a, b, tolerance):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


ULPS = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2**-7, torch.float16: 2**-10}
PAIRS = {
    "adamw": (AdamW, torch.optim.AdamW),
    "sgd": (Sgd, lambda p: torch.optim.SGD(p, lr=1e-3)),
    "momentum": (lambda p, **k: Sgd(p, momentum=0.9, dampening=0.1, **k), lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, dampening=0.1)),
    "nadam": (NAdam, torch.optim.NAdam),
}


# --- values
@pytest.mark.parametrize("fresh", [True, False], ids=["new", "same"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", PAIRS)
def test_steps_are_those_of_torch(rule, dtype, fresh, monkeypatch):
    ours, theirs = PAIRS[rule]
    a, b = parameters(dtype=dtype), parameters(dtype=dtype)
    torch.set_default_dtype(dtype)  # torch keeps NAdam's product of momenta in it
    try:
        x, y = ours(a), theirs(b)
        run(x, a, 20, fresh=fresh)
        run(y, b, 20, fresh=fresh)
    finally:
        torch.set_default_dtype(torch.float32)
    close(a, b, 1e-12 if dtype == torch.float64 else 1e-6)
    for p, q in zip(a, b):
        for name, value in y.state[q].items():
            torch.testing.assert_close(x.state[p][name].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [Clocks, lambda p, **k: Sgd(p, momentum=0.9, **k), lambda p, **k: Sgd(p, every=3, over="mean", **k), AdamW, NAdam])
def test_native_passes_are_the_eager_ones_bit_for_bit(cls, dtype, maximize):
    """All but square roots, which are rounded correctly in C++ and not always in torch."""
    alike = equal if cls not in (AdamW, NAdam) else lambda x, y: close(x, y, ULPS[dtype]) is None
    a, b = parameters(dtype=dtype), parameters(dtype=dtype)
    x, y = cls(a, maximize=maximize), cls(b, maximize=maximize, fused=False)
    run(x, a, 9)
    run(y, b, 9)
    assert any(bucket.native and any(bucket.launches.values()) for bucket in x._table.buckets)
    assert not any(bucket.native for bucket in y._table.buckets)
    assert alike(a, b)
    for p, q in zip(a, b):
        assert list(x.state[p]) == list(y.state[q])
        assert alike(x.state[p].values(), y.state[q].values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_matrix_rule_of_two_passes(dtype):
    shapes = [(4, 3), (5, 5), (2, 6)]
    a, b, c = (parameters(shapes, dtype) for _ in range(3))
    x, y = Muon(a), Muon(b, fused=False)
    run(x, a, 4)
    run(y, b, 4)
    assert equal(a, b)
    if dtype == torch.float64:
        from rule_programs import orthogonal

        buffers = [torch.zeros_like(p) for p in c]
        for i in range(4):
            gradients(c, i)
            with torch.no_grad():
                for p, m in zip(c, buffers):
                    m.mul_(0.95).add_(p.grad)
                    p.mul_(1 - 2e-2 * 0.1).sub_(orthogonal(p.grad + 0.95 * m), alpha=2e-2)
        close(a, c, 1e-12)
    state = x.state[a[0]]
    assert {k: v.shape for k, v in state.items()} == {"step": (), "momentum_buffer": (4, 3), "rows": (4, 1), "left": (4, 4)}
    assert state["momentum_buffer"].dtype == dtype and torch.equal(state["left"], torch.eye(4, dtype=dtype) / 16)
    assert float(state["rows"][0]) == 4


def test_clocks_fire_at_their_phase_and_a_schedule_of_the_period_needs_nothing_new():
    (p,) = parameters([(6,)], torch.float64)
    w, slow, fold, slower = p.detach().clone(), 0.0, 0.0, 0
    opt = Clocks([p], lr=0.1)
    for t in range(1, 25):
        opt.param_groups[0]["period"] = 4 if t < 12 else 3
        gradients([p], t, fresh=False)
        opt.step()
        fold = fold + p.grad
        if t % (4 if t < 12 else 3) == 0:
            slow, fold = slow * 0.5 + fold, 0.0
        slower += (t - 2) % 3 == 0
        w = w - 0.1 * (p.grad + slow * 0.5)
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)
        assert float(opt.state[p]["slower"][0]) == slower


def test_half_precision_is_rounded_once_a_step():
    (a,), (b,) = parameters([(1000,)], torch.bfloat16), parameters([(1000,)], torch.bfloat16)
    opt = AdamW([a], lr=0.1)
    state = {"exp_avg": torch.zeros(1000), "exp_avg_sq": torch.zeros(1000)}
    for i in range(5):
        gradients([a], i)
        opt.step()
        tick = ADAMW.variants[()].ticks[0]
        s = tick.prologue(i + 1.0, {"lr": 0.1, "betas.0": 0.9, "betas.1": 0.999, "eps": 1e-8, "weight_decay": 1e-2})
        w, m, v = tick.segment.function(b.detach().float(), a.grad.float(), *state.values(), *(s[n] for n in tick.segment.scalars))
        b.data.copy_(w)
        state = {"exp_avg": m.bfloat16().float(), "exp_avg_sq": v.bfloat16().float()}
        close([a], [b], 2**-7)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.39e38, 1e-40], dtype=torch.bfloat16)
    c, d = torch.nn.Parameter(special.clone()), torch.nn.Parameter(special.clone())
    c.grad, d.grad = torch.ones_like(c), torch.ones_like(d)
    AdamW([c]).step()
    AdamW([d], fused=False).step()
    torch.testing.assert_close(c, d, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("rule", ["adamw", "sgd", "momentum"])
def test_complex_parameters_run_entry_by_entry(rule, dtype):
    ours, theirs = PAIRS[rule]
    a, b, c = (parameters([(3, 2), (5,)], dtype) for _ in range(3))
    x, y, z = ours(a), theirs(b), ours(c, fused=False)
    for i in range(6):
        for params in (a, b, c):
            gradients(params, i)
        a[0].grad = a[0].grad.conj().resolve_conj().conj()  # a lazy conjugate of what it was
        assert a[0].grad.is_conj()
        for opt in (x, y, z):
            opt.step()
    close(a, b, 1e-6)
    close(a, c, 1e-6)
    assert all(v.dtype == dtype for k, v in x.state[a[0]].items() if k != "step")


def test_complex_matrices_are_refused_by_a_matrix_rule():
    with pytest.raises(ValueError, match="complex"):
        Muon(parameters([(2, 2)], torch.complex64))


# --- memory
def layouts():
    base = torch.arange(48.0).reshape(4, 3, 4)
    yield "slice", base.clone()[..., 0]
    yield "transposed", torch.randn(4, 3).t()
    yield "permuted", torch.randn(2, 3, 4).permute(1, 2, 0)
    yield "channels_last", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    yield "gap", torch.randn(10)[::2]
    yield "tail", torch.randn(10)[3:]


@pytest.mark.parametrize("gradient", ["plain", "like", "expanded", "negated", "strided"])
@pytest.mark.parametrize("layout", [name for name, _ in layouts()])
def test_any_layout_of_parameters_and_gradients(layout, gradient):
    t = dict(layouts())[layout]
    base = t._base if t._base is not None else t
    p = torch.nn.Parameter(t)
    q = torch.nn.Parameter(t.detach().clone(memory_format=torch.contiguous_format))
    outside = base.detach().clone()
    x, y = AdamW([p]), torch.optim.AdamW([q])
    for i in range(4):
        g = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        q.grad = g.clone()
        if gradient == "like":
            g = torch.empty_like(p, requires_grad=False).copy_(g)
        elif gradient == "expanded":
            q.grad = torch.ones(p.shape) * (i + 1.0)
            g = torch.tensor(i + 1.0).expand(p.shape)
        elif gradient == "negated":
            g = torch._neg_view(-g)
        elif gradient == "strided":
            g = torch.stack([g, g * 5], -1)[..., 0]
        p.grad = g
        before = g.clone()
        x.step()
        y.step()
        assert torch.equal(p.grad, before)
    close([p], [q], 1e-6)
    if base is not t:  # what lies between the entries stays
        mine = torch.zeros_like(base, dtype=torch.bool)
        mine.as_strided(t.shape, t.stride(), t.storage_offset()).fill_(True)
        assert torch.equal(base.detach()[~mine], outside[~mine])


def test_storage_and_gradient_swaps_are_seen():
    a, b = parameters(), parameters()
    x, y = AdamW(a, lr=0.1), AdamW(b, lr=0.1, fused=False)
    for i in range(12):
        for params in (a, b):
            gradients(params, i, fresh=i in (0, 7))
        if i == 3:
            a[0].data = a[0].data.clone()
            a[3].data = a[3].data.permute(0, 2, 1).contiguous().permute(0, 2, 1)
        if i == 4:
            x.state[a[1]]["exp_avg"] = x.state[a[1]]["exp_avg"].clone()
        if i == 5:
            for opt, params in ((x, a), (y, b)):
                opt.state[params[0]]["step"].fill_(40)
                del opt.state[params[1]]
        if i == 6:
            a[0].grad.data = a[0].grad.data.clone()
        if i == 8:
            a[0].grad = a[0].grad.double().float().t().contiguous().t()
        if i == 9:
            for opt in (x, y):
                opt.param_groups[0]["maximize"] = True
        x.step()
        y.step()
        close(a, b, 1e-6)
    assert float(x.state[a[0]]["step"]) == 47 and float(x.state[a[1]]["step"]) == 7


def test_gradients_that_zero_grad_frees_are_not_held():
    params = parameters()
    opt = AdamW(params)
    for i in range(4):
        gradients(params, i)
        refs = [weakref.ref(p.grad) for p in params]
        opt.step()
        opt.zero_grad()
        gc.collect()
        assert not any(r() is not None for r in refs)


def test_a_parameter_that_becomes_a_part_of_itself():
    a, b = parameters([(4, 3), (2,)]), parameters([(4, 3), (2,)])
    x, y = AdamW(a), AdamW(b, fused=False)
    for i in range(8):
        if i == 3:
            a[0].data = a[0].data.t()
            b[0].data = b[0].data.t()
        if i == 6:
            for opt, params in ((x, a), (y, b)):
                params[0].data = params[0].data[:2]
                params[0].grad = None
                for name in ("exp_avg", "exp_avg_sq"):
                    opt.state[params[0]][name] = opt.state[params[0]][name][:2]
        for opt, params in ((x, a), (y, b)):
            if i == 3:
                params[0].grad = None
                for name in ("exp_avg", "exp_avg_sq"):
                    opt.state[params[0]][name] = opt.state[params[0]][name].t().clone(memory_format=torch.contiguous_format)
            gradients(params, i, fresh=i in (3, 6))
            opt.step()
        close(a, b, 1e-6)


@settings(max_examples=25)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=8), st.booleans())
def test_a_missing_gradient_stops_the_clock_of_its_parameter(pattern, switch):
    ours, theirs = PAIRS["momentum" if switch else "adamw"]
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    x, y = ours(a), theirs(b)
    for i, present in enumerate(pattern):
        for params in (a, b):
            gradients(params, i)
            for p, there in zip(params, present):
                p.grad = p.grad if there else None
        x.step()
        y.step()
    close(a, b, 1e-12)
    for k, p in enumerate(a):
        assert float(x.state[p]["step"]) if p in x.state else 0.0 == sum(row[k] for row in pattern)


def test_parameters_of_one_clock_are_one_bucket():
    params = parameters([(8, 16)] * 50)
    opt = AdamW(params)
    run(opt, params, 2)
    assert len(opt._table.buckets) == 1
    table = opt._table
    run(opt, params, 3)
    assert opt._table is table, "gradients that are only new objects change no table"
    assert len({opt.state[p]["step"]._base.data_ptr() for p in params}) == 1
    gradients(params, 9)
    params[0].grad = None
    opt.step()
    run(opt, params, 1)
    assert sorted(len(b.rows) for b in opt._table.buckets) == [1, 49]
    assert [float(opt.state[p]["step"]) for p in params] == [6.0] + [7.0] * 49


def test_results_do_not_depend_on_threads():
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            params = parameters([(300, 301), (5,), (100_000,), (0,), (77,)])
            found.append(run(AdamW(params), params, 3))
    finally:
        torch.set_num_threads(before)
    assert equal(found[0], found[1]) and equal(found[0], found[2])


def test_autograd_sees_that_parameters_changed():
    params = parameters()
    gradients(params, 0)
    opt = AdamW(params)
    y = (params[0] ** 2).sum()
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


# --- groups, schedules, closures
def test_groups_have_hypers_of_their_own_and_schedules_compile_nothing():
    a, b = parameters(), parameters()
    split = lambda p: [{"params": p[:2], "lr": 0.1, "betas": (0.8, 0.9)}, {"params": p[2:4], "weight_decay": 0.3}, {"params": p[4:]}]  # noqa: E731
    x, y = AdamW(split(a)), torch.optim.AdamW(split(b))
    run(x, a, 1), run(y, b, 1)
    kernels = kernel.cache_info().misses
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 10) for o in (x, y)]
    for i in range(1, 8):
        for o in (x, y):
            o.param_groups[1]["weight_decay"] *= 0.5
            o.param_groups[2]["betas"] = (0.5 + i / 20, 0.9)
        run(x, a, 1, start=i), run(y, b, 1, start=i)
        for s in schedules:
            s.step()
    close(a, b, 1e-6)
    extra, other = parameters([(4,)], seed=5), parameters([(4,)], seed=5)
    x.add_param_group({"params": extra}), y.add_param_group({"params": other})
    run(x, a + extra, 2, start=20), run(y, b + other, 2, start=20)
    close(a + extra, b + other, 1e-6)
    assert kernel.cache_info().misses == kernels


def test_lr_may_be_a_tensor():
    a, b = parameters(), parameters()
    lr = torch.tensor(0.1)
    x, y = AdamW(a, lr=lr), AdamW(b, lr=float(lr))
    run(x, a, 2), run(y, b, 2)
    lr.mul_(0.5)
    y.param_groups[0]["lr"] = float(lr)
    run(x, a, 2), run(y, b, 2)
    assert equal(a, b)
    schedule = torch.optim.lr_scheduler.ExponentialLR(x, 0.5)
    run(x, a, 1), run(y, b, 1)
    schedule.step()
    y.param_groups[0]["lr"] = float(lr)
    assert float(lr) == pytest.approx(0.025)
    run(x, a, 1), run(y, b, 1)
    assert equal(a, b)


def test_closures_and_hooks_and_named_parameters():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    opt = AdamW(model.named_parameters(), lr=0.1)
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    calls = []
    opt.register_step_pre_hook(lambda *a: calls.append("pre"))
    opt.register_step_post_hook(lambda *a: calls.append("post"))
    x = torch.randn(5, 3)

    def closure():
        assert torch.is_grad_enabled()
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    losses = [float(opt.step(closure).detach()) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert calls == ["pre", "post"] * 5


def test_a_switch_adds_its_state_when_it_is_turned():
    a, b = parameters(), parameters()
    x, y = Sgd(a), torch.optim.SGD(b)
    for i in range(6):
        for opt in (x, y):
            opt.param_groups[0]["momentum"] = 0.9 if i >= 3 else 0.0
        run(x, a, 1, start=i)
        assert ("momentum_buffer" in x.state[a[0]]) == (i >= 3)
        assert list(x.state[a[0]]) == (["step", "momentum_buffer"] if i >= 3 else ["step"])


def test_gradient_scaler_and_accumulation():
    a, b = parameters([(3, 2)]), parameters([(3, 2)])
    x, y = AdamW(a), torch.optim.AdamW(b)
    for params, opt in ((a, x), (b, y)):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for i in range(4):
            opt.zero_grad()
            for k in range(2):
                scaler.scale((params[0] * (i + k + 1.0) * (float("inf") if i == 2 else 1)).sum()).backward()
            scaler.step(opt)
            scaler.update()
    close(a, b, 1e-6)
    assert float(x.state[a[0]]["step"]) == 3


# --- every
@pytest.mark.parametrize("over", ["sum", "mean"])
def test_a_rule_of_every_third_step_is_the_rule_on_the_sum(over):
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    x, y = AdamW(a, every=3, over=over), torch.optim.AdamW(b)
    for i in range(10):
        before = [p.detach().clone() for p in a]
        gradients(a, i)
        x.step()
        for p, q in zip(a, b):
            q.grad = p.grad.clone() if i % 3 == 0 else q.grad + p.grad
        if i % 3 == 2:
            for q in b:
                q.grad = q.grad / 3 if over == "mean" else q.grad
            y.step()
        else:
            assert equal(a, before)
    close(a, b, 1e-12)
    assert list(x.state[a[0]]) == ["step", "exp_avg", "exp_avg_sq", "tick", "grad_sum"]
    assert float(x.state[a[0]]["step"]) == 3 and float(x.state[a[0]]["tick"]) == 1


def test_a_sum_that_was_begun_is_used_when_the_frequency_changes():
    a, b = parameters([(3,)], torch.float64), parameters([(3,)], torch.float64)
    x, y = Sgd(a, every=4), torch.optim.SGD(b, lr=1e-3)
    for i in range(9):
        x.param_groups[0]["every"] = 4 if i < 6 else 1
        run(x, a, 1, start=i)
        b[0].grad = a[0].grad.clone() if i in (0, 4, 7, 8) else b[0].grad + a[0].grad
        if i in (3, 6, 7, 8):
            y.step()
    close(a, b, 1e-12)


# --- checkpoints
MAKERS = {
    "adamw": AdamW, "sgd": lambda p: Sgd(p, momentum=0.9), "nadam": NAdam, "clocks": Clocks,
    "every": lambda p: AdamW(p, every=4), "muon": lambda p: Muon([{"params": p[:1]}, {"params": p[1:], "rule": "adamw"}]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["state_dict", "file", "deepcopy", "pickle"])
@pytest.mark.parametrize("rule", MAKERS)
def test_every_copy_goes_on_bit_for_bit(rule, how, dtype):
    make = MAKERS[rule]
    for cut in (1, 2, 3, 5):
        a = parameters(dtype=dtype)
        x = make(a)
        run(x, a, cut)
        if how in ("deepcopy", "pickle"):
            both = (x, a)
            y, b = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
            y.param_groups = [{**g} for g in y.param_groups]
            assert type(y) is type(x) and y.param_groups[0]["params"][0] is b[0]
        else:
            b = [torch.nn.Parameter(p.detach().clone()) for p in a]
            y = make(b)
            saved = x.state_dict()
            if how == "file":
                file = io.BytesIO()
                torch.save(saved, file)
                file.seek(0)
                saved = torch.load(file, weights_only=True)
            y.load_state_dict(saved)
        run(x, a, 6, start=cut)
        run(y, b, 6, start=cut)
        assert equal(a, b)
        for p, q in zip(a, b):
            assert equal(x.state[p].values(), y.state[q].values())


def test_a_class_that_cannot_be_imported_names_what_makes_it():
    cls = optimizer_class("Adrift", ADAMW)
    params = parameters()
    opt = cls(params)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(opt)
    cls.revive = (_revived, ("AdamW",))
    run(opt, params, 2)
    y, b = pickle.loads(pickle.dumps((opt, params)))
    assert type(y) is AdamW
    assert equal(run(opt, params, 2, start=2), run(y, b, 2, start=2))


def _revived(name):
    cls = {"AdamW": AdamW}[name]
    return cls.__new__(cls)


@pytest.mark.parametrize("rule", PAIRS)
def test_checkpoints_move_to_torch_and_back(rule):
    ours, theirs = PAIRS[rule]
    torch.set_default_dtype(torch.float64)
    try:
        a, b, c = (parameters(dtype=torch.float64) for _ in range(3))
        reference = theirs(a)
        run(reference, a, 10)
        y = theirs(b)
        run(y, b, 3)
        for p, q in zip(c, b):
            p.data.copy_(q)
        x = ours(c)
        x.load_state_dict(y.state_dict())
        assert x.param_groups[0]["rule"] == x.default and x.param_groups[0]["every"] == 1
        assert "foreach" in x.param_groups[0] and all(k in x.param_groups[0] for k in y.param_groups[0])
        run(x, c, 4, start=3)
        for p, q in zip(c, b):
            q.data.copy_(p)
        y = theirs(b)
        y.load_state_dict(x.state_dict())
        run(y, b, 3, start=7)
    finally:
        torch.set_default_dtype(torch.float32)
    close(b, a, 1e-12)


def test_loading_copies_and_lost_keys_come_back():
    a, b = parameters(), parameters()
    x, y = Sgd(a, momentum=0.9), Sgd(b, momentum=0.9)
    run(x, a, 3)
    saved = x.state_dict()
    for s in saved["state"].values():
        del s["step"]
    for g in saved["param_groups"]:
        del g["dampening"], g["rule"], g["maximize"]
        g["foreign"] = "kept"
    y.load_state_dict(saved)
    group = y.param_groups[0]
    assert (group["dampening"], group["rule"], group["maximize"], group["foreign"]) == (0.0, "sgd", False, "kept")
    assert all(float(y.state[p]["step"]) == 1.0 for p in b)
    before = saved["state"][0]["momentum_buffer"].clone()
    run(y, b, 2)
    assert torch.equal(saved["state"][0]["momentum_buffer"], before)
    y.load_state_dict({**saved, "state": {i: {"momentum_buffer": None} for i in range(len(b))}})
    run(y, b, 2)


def test_number_states_keep_their_precision_through_half_checkpoints():
    (a,) = parameters([(4,)], torch.bfloat16)
    x = NAdam([a])
    run(x, [a], 5)
    y = NAdam([torch.nn.Parameter(a.detach().clone())])
    y.load_state_dict(x.state_dict())
    (p,) = y.param_groups[0]["params"]
    assert y.state[p]["mu_product"].dtype == torch.float64
    assert float(y.state[p]["mu_product"]) == float(x.state[a]["mu_product"])


# --- what is refused
@pytest.mark.parametrize(
    "values, message",
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ({"betas": (0.9,)}, "Invalid betas value"),
        ({"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
        ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"every": 0}, "Invalid every value: 0"),
        ({"over": "max"}, "Invalid over value: 'max'"),
    ],
)
def test_hypers_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        AdamW(parameters(), **values)
    opt = AdamW(parameters())
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": parameters(), **values})
    assert len(opt.param_groups) == 1


def test_other_mistakes():
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        AdamW([])
    AdamW([{"params": []}]).step()
    AdamW(parameters()).step()
    with pytest.raises(TypeError, match="no option nestrov"):
        AdamW(parameters(), nestrov=True)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        AdamW(parameters(), foreach=True, fused=True)
    with pytest.raises(ValueError, match="int64"):
        AdamW([torch.ones(3, dtype=torch.int64)])


def test_sparse_gradients_are_refused_and_nothing_moves():
    table = torch.nn.Embedding(5, 2, sparse=True)
    other = torch.nn.Parameter(torch.ones(3))
    opt = AdamW([other, table.weight])
    before = other.detach().clone()
    for i in range(3):
        opt.zero_grad()
        if i == 1:
            table.weight.grad, other.grad = torch.ones(5, 2), torch.ones(3)
            opt.step()
            before = other.detach().clone()
            continue
        table(torch.tensor([1, 2])).sum().backward()
        other.grad = torch.ones(3)
        with pytest.raises(RuntimeError, match="adamw does not support sparse gradients"):
            opt.step()
        assert torch.equal(other, before)


def test_a_matrix_rule_takes_matrices_only():
    with pytest.raises(ValueError, match=r"muon is a rule for matrices .*parameter `bias` has shape \(2,\).*matrices by muon\(\.\.\.\), rest by adamw"):
        Muon(torch.nn.Linear(3, 2).named_parameters())
    with pytest.raises(ValueError, match=r"parameter 0 of the group has shape \(2, 3, 4\)"):
        Muon(parameters([(2, 3, 4)]))


def test_two_rules_in_one_optimizer():
    a, b, c = parameters([(3, 4), (7,)]), parameters([(3, 4)]), parameters([(3, 4), (7,)])[1:]
    x = Muon([{"params": a[:1]}, {"params": a[1:], "rule": "adamw", "every": 2}])
    assert x.param_groups[1]["lr"] == 1e-3 and x.param_groups[1]["betas"] == (0.9, 0.999)
    y, z = Muon(b), AdamW(c, every=2)
    for i in range(5):
        gradients(a, i)
        b[0].grad, c[0].grad = a[0].grad.clone(), a[1].grad.clone()
        x.step(), y.step(), z.step()
    assert equal(a, b + c)
    with pytest.raises(ValueError, match="no rule is called 'lion'"):
        x.add_param_group({"params": parameters(), "rule": "lion"})


def test_a_rule_that_reads_its_layer():
    model = torch.nn.Linear(3, 2)
    opt = Delta(model.parameters(), lr=0.5)
    model(torch.ones(4, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="delta needs"):
        opt.step()
    x, delta = torch.randn(3, 4), torch.randn(2, 4)
    opt.providers[model.weight] = lambda: (x, delta)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    opt.step()
    torch.testing.assert_close(model.weight.detach(), weight - 0.5 * delta @ x.T)
    assert torch.allclose(model.bias.detach(), bias - 0.5 * 4, atol=0.5 * 4)  # by sgd


# --- differentiable
@pytest.mark.parametrize("rule", ["adamw", "momentum", "nadam"])
def test_autograd_goes_through_steps(rule):
    ours, theirs = PAIRS[rule]

    def unrolled(make, start, lr):
        w = start.clone()
        opt = make([w], differentiable=True)
        opt.param_groups[0]["lr"] = lr
        for i in range(3):
            w.grad = torch.sin(w * (i + 1)) if i == 0 else torch.sin(start * (i + 1))
            opt.step()
        return w

    start = torch.randn(4, dtype=torch.float64, requires_grad=True)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, l: unrolled(ours, s, l), (start, lr))
    torch.set_default_dtype(torch.float64)
    try:
        plain = [torch.nn.Parameter(start.detach().clone())]
        opt = theirs(plain)
        opt.param_groups[0]["lr"] = 0.1
        for i in range(3):
            plain[0].grad = torch.sin(start.detach() * (i + 1))
            opt.step()
    finally:
        torch.set_default_dtype(torch.float32)
    close([unrolled(ours, start, 0.1).detach()], plain, 1e-12)


# --- accelerators
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}], ids=["eager", "fused", "capturable"])
@pytest.mark.parametrize("cls", [AdamW, NAdam, Clocks])
def test_steps_on_a_gpu(cls, options):
    a = [torch.nn.Parameter(p.detach().cuda()) for p in parameters()]
    b = parameters()
    x, y = cls(a, **options), cls(b)
    for i in range(6):
        gradients(b, i)
        for p, q in zip(a, b):
            p.grad = q.grad.cuda()
        x.step(), y.step()
    close([p.detach().cpu() for p in a], b, 1e-5)
    assert x.state[a[0]]["step"].is_cuda == bool(options.get("capturable"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_step_goes_on_counting():
    (p,), (q,) = parameters([(5,)]), parameters([(5,)])
    p = torch.nn.Parameter(p.detach().cuda())
    x, y = NAdam([p], capturable=True), NAdam([q])
    p.grad, q.grad = torch.ones(5, device="cuda"), torch.ones(5)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.step()
    for _ in range(4):
        graph.replay()
    for _ in range(5):
        y.step()
    close([p.detach().cpu()], [q], 1e-5)
    assert float(x.state[p]["step"]) == 5


# --- the compiler
def test_one_kernel_for_a_segment_and_a_dtype(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._folder.cache_clear()
    try:
        source = kernel_source(MIX, (torch.float32,) * 4)
        for _ in range(2):
            assert native.compiled(source, "mix") is not None
        files = list((tmp_path / "nldsl" / "kernels").iterdir())
        assert len(files) == 1 and files[0].suffix == ".so"
        files[0].unlink()
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: native.compiled(source, "mix"), range(4)))
        assert list((tmp_path / "nldsl" / "kernels").iterdir()) == files
    finally:
        native._folder.cache_clear()


ALONE = """
import warnings, torch
warnings.simplefilter("always")
from rule_programs import AdamW, Muon
with warnings.catch_warnings(record=True) as caught:
    for cls in (AdamW, Muon):
        p = torch.nn.Parameter(torch.ones(3, 2)); opt = cls([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.ones(3, 2); opt.step()
        p.grad = p.grad; opt.step(); opt.step()
print([str(w.message) for w in caught if w.category is RuntimeWarning])
"""


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"])
def test_without_a_compiler_rules_run_eagerly_with_one_warning(compiler, tmp_path):
    paths = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", ALONE], env={**os.environ, "CXX": compiler, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (warned,) = ast.literal_eval(done.stdout)
    assert warned.startswith("optimizer rules run as eager torch operations")
    assert ("no C++ compiler" if compiler.startswith("/") else "false cannot compile") in warned


def test_the_class_is_an_optimizer_with_the_usual_signature():
    opt = AdamW(parameters())
    assert isinstance(opt, torch.optim.Optimizer) and isinstance(opt, RuleOptimizer)
    assert {"lr", "betas", "eps", "weight_decay", "maximize", "differentiable", "capturable", "foreach", "fused"} <= opt.param_groups[0].keys()
    assert "AdamW (" in repr(opt) and "rule: adamw" in repr(opt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        double = AdamW([opt.param_groups[0]["params"][0]] * 2)
    double.step()
