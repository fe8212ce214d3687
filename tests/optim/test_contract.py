"""What every generated optimizer promises, on random parameters, groups, schedules and checkpoints."""

from __future__ import annotations

import copy
import functools
import io
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nldsl
import nldsl_torch.optim.build as build
from nldsl.lower.rule import plan_rule
from nldsl.optimizers import library_program
from nldsl_interpreter import run_rule
from nldsl_torch.optim import native

Parameter = nn.Parameter
class_of = functools.cache(nldsl.optimizer_class)

VECTORS = ["adamw", "sgd", "lion", "ademamix", "nadam", "adagrad", "rmsprop", "radam", "signum", "adam_sums", "diagonal_delta_momentum"]
# rules of matrices, and with what periods and switches they are tried
# With eps at their defaults shampoo and soap divide by what rounding leaves of the null space of g g^T: no two processors agree there.
MATRICES: dict[str, dict[str, Any]] = {
    "m3": {"frequency": 3}, "m3_ema": {"frequency": 2}, "soap": {"frequency": 3, "eps": 0.01}, "shampoo": {"frequency": 2, "eps": 0.01},
    "adafactor": {}, "muon": {},
    "muon_exact": {}, "delta_momentum": {}, "deep_momentum": {}, "preconditioned_momentum": {}, "nadam": {}, "rmsprop": {"centered": 1, "momentum": 0.5},
    "adamw": {"every": 3}, "lion": {"every": 2, "over": "mean"}, "adam": {"amsgrad": 1},
}  # fmt: skip


def made(rule: str, params: Any, **numbers: Any) -> Any:
    return class_of(rule)(params, **numbers)


@functools.cache
def of_size(rule: str, n: int) -> Any:
    return library_program().rule(rule, {"n": n})


# --- parameters of any layout ---------------------------------------------------------------------------------------

LAYOUTS = ("plain", "slice", "gaps", "transposed", "channels_last", "tail", "reversed blocks")


def lay(shape: tuple[int, ...], layout: str, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """A tensor of a shape, and all the memory it is in."""
    made = torch.Generator().manual_seed(seed)
    draw = lambda *s: torch.randn(s, generator=made, dtype=dtype)  # noqa: E731
    if layout == "slice":
        base = draw(*shape, 3)
        return base[..., 1], base
    if layout == "gaps" and shape:
        base = draw(*shape[:-1], 2 * shape[-1] + 1)
        return base[..., 1::2], base
    if layout == "transposed" and shape:
        base = draw(*reversed(shape))
        return base.permute(*reversed(range(len(shape)))), base
    if layout == "channels_last" and len(shape) == 4:
        base = draw(*shape).contiguous(memory_format=torch.channels_last)
        return base, base
    if layout == "tail":
        size = int(np.prod(shape))
        base = draw(size + 5)
        return base[3 : 3 + size].view(shape), base
    if layout == "reversed blocks" and len(shape) > 1:
        base = draw(*shape[1:], shape[0] + 1)
        return base.movedim(-1, 0)[: shape[0]], base
    base = draw(*shape)
    return base, base


SHAPES = st.sampled_from([(), (0,), (1,), (7,), (3, 4), (1, 5), (0, 3), (2, 3, 4), (2, 3, 1, 5), (40, 7)])


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    """Parameters in groups, which of them have a gradient at each step, and what happens in between."""
    shapes = draw(st.lists(st.tuples(SHAPES, st.sampled_from(LAYOUTS)), min_size=1, max_size=4))
    steps = draw(st.integers(1, 6))
    return {
        "shapes": shapes,
        "groups": draw(st.lists(st.integers(0, 2), min_size=len(shapes), max_size=len(shapes))),
        "present": draw(st.lists(st.lists(st.booleans() | st.just(True), min_size=len(shapes), max_size=len(shapes)), min_size=steps, max_size=steps)),
        "copied": draw(st.dictionaries(st.integers(0, 5), st.sampled_from(["state_dict", "file", "deepcopy", "pickle"]), max_size=2)),
        "options": draw(st.sampled_from([{}, {}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}])),
        "fresh": draw(st.booleans()),
        "grad_layout": draw(st.sampled_from(["plain", "like", "strided"])),
        "maximize": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


NUMBERS = [{"lr": 0.1}, {"lr": 0.02, "weight_decay": 0.2}, {"lr": 0.05, "betas": (0.7, 0.9)}]


def numbers_of(rule: str, k: int) -> dict[str, Any]:
    known = {h.name: h.default for h in library_program().rule(rule).hypers}
    own = {n: v for n, v in NUMBERS[k].items() if n in known}
    if "betas" in own:
        own["betas"] = (*own["betas"], *known["betas"][2:])
    if rule == "sgd" and k:
        own |= {"momentum": 0.9, "nesterov": k - 1}
    return own


def moved(params: list[Tensor], optimizer: Any, how: str | None) -> Any:
    """The optimizer, or a copy of it on the same parameters."""
    if how in ("state_dict", "file"):
        saved = optimizer.state_dict()
        if how == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        where = {id(p): i for i, p in enumerate(params)}
        groups = [[where[id(p)] for p in g["params"]] for g in optimizer.param_groups]
        fresh = type(optimizer)([{"params": [params[i] for i in g]} for g in groups], lr=123.0)
        fresh.load_state_dict(saved)
        return fresh
    if how in ("deepcopy", "pickle"):
        twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        for group, old in zip(twin.param_groups, optimizer.param_groups):
            for i, (q, p) in enumerate(zip(group["params"], old["params"])):
                assert torch.equal(q, p) and q is not p
                if q in twin.state:
                    twin.state[p] = twin.state.pop(q)
                group["params"][i] = p
        return twin
    return optimizer


def arrange(g: Tensor, p: Tensor, layout: str) -> Tensor:
    if layout == "like":
        return torch.empty_like(p, requires_grad=False).copy_(g)
    return torch.stack([g, g * 5], -1)[..., 0] if layout == "strided" else g


def run(rule: str, problem: dict[str, Any], dtype: torch.dtype, *, plain: bool = False, **options: Any) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The parameters after the steps, and the gradients that each has seen; checks what no step may touch."""
    laid = [lay(shape, layout, dtype, problem["seed"] + i) for i, (shape, layout) in enumerate(problem["shapes"])]
    params = [Parameter(t.contiguous() if plain else t) for t, _ in laid]
    outside = [base.clone() for _, base in laid]
    groups = [{"params": [p for p, k in zip(params, problem["groups"]) if k == n], **numbers_of(rule, n)} for n in range(3)]
    options = {"maximize": problem["maximize"], **({} if plain else problem["options"]), **options}
    optimizer = made(rule, [g for g in groups if g["params"]], **options)
    seen: list[list[Tensor]] = [[] for _ in params]
    make = torch.Generator().manual_seed(problem["seed"])
    for i, present in enumerate(problem["present"]):
        if not plain:
            optimizer = moved(params, optimizer, problem["copied"].get(i))
        held = []
        for p, there, kept in zip(params, present, seen):
            g = torch.randn(p.shape, generator=make, dtype=dtype)
            if not there:
                p.grad = None
                continue
            kept.append(g)
            if p.grad is None or problem["fresh"] or plain:
                p.grad = g.clone() if plain else arrange(g.clone(), p, problem["grad_layout"])
            else:
                p.grad.copy_(g)
            held.append((p, p.grad, p.grad.clone()))
        optimizer.step()
        for p, g, before in held:
            assert p.grad is g and torch.equal(g, before), "a step left a gradient changed"
    if not plain:
        for (t, base), before in zip(laid, outside):
            inside = torch.zeros_like(base, dtype=torch.bool)
            inside.as_strided(t.shape, t.stride(), t.storage_offset()).fill_(True)
            assert torch.equal(base.detach()[~inside], before[~inside]), "a step wrote beside a parameter"
    for p, kept in zip(params, seen):
        assert float(optimizer.state[p]["step"] if p in optimizer.state else 0) == len(kept)
    return [p.detach() for p in params], seen


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * (1 + float(b.abs().max()) if b.numel() else 1))


@pytest.mark.parametrize("rule", VECTORS)
@settings(max_examples=20)
@given(problem=problems(), dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]))
def test_any_parameters_are_the_interpreters(rule: str, problem: dict[str, Any], dtype: torch.dtype) -> None:
    found, seen = run(rule, problem, dtype)
    for i, (p, grads) in enumerate(zip(found, seen)):
        start = lay(*problem["shapes"][i], dtype, problem["seed"] + i)[0]
        if not grads or not p.numel():
            assert torch.equal(p, start)
            continue
        sign = -1 if problem["maximize"] else 1
        flat = torch.stack([sign * g.reshape(-1).double() for g in grads])
        expected = run_rule(of_size(rule, p.numel()), start.reshape(-1).double(), flat, numbers_of(rule, problem["groups"][i]))[-1]
        close(p.reshape(-1).double(), expected, 1e-11 if dtype == torch.float64 else 1e-5)


ULP = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 2**-7, torch.float16: 2**-9, torch.complex64: 1e-6}


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lion", "nadam"])
@settings(max_examples=25)
@given(problem=problems(), dtype=st.sampled_from(sorted(ULP, key=str)))
def test_any_dtype_and_layout_is_the_plain_one(rule: str, problem: dict[str, Any], dtype: torch.dtype) -> None:
    """Of dense copies that nothing happens to, run by torch operations."""
    found, _ = run(rule, problem, dtype)
    expected, _ = run(rule, problem, dtype, plain=True, fused=False)
    for a, b in zip(found, expected):
        assert a.dtype == dtype
        if rule == "lion" and dtype in (torch.bfloat16, torch.float16):
            continue  # a sign near zero turns with the last place
        torch.testing.assert_close(a, b, rtol=2 * ULP[dtype], atol=2 * ULP[dtype])


@pytest.mark.parametrize("rule", MATRICES)
@settings(max_examples=8)
@given(
    layouts=st.lists(st.tuples(st.sampled_from([(3, 4), (5, 2), (1, 3), (4, 1), (0, 2)]), st.sampled_from(LAYOUTS)), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64]), gradient=st.sampled_from(["plain", "like", "strided"]), seed=st.integers(0, 9),
)  # fmt: skip
def test_matrices_of_any_layout_are_the_plain_ones(rule: str, layouts: Any, dtype: torch.dtype, gradient: str, seed: int) -> None:
    laid = [lay(shape, layout, dtype, seed + i) for i, (shape, layout) in enumerate(layouts)]
    params, plain = [Parameter(t) for t, _ in laid], [Parameter(t.detach().clone(memory_format=torch.contiguous_format)) for t, _ in laid]
    outside = [base.clone() for _, base in laid]
    x, y = made(rule, params, **MATRICES[rule]), made(rule, plain, **MATRICES[rule], fused=False)
    make = torch.Generator().manual_seed(seed)
    for _ in range(5):
        for p, q in zip(params, plain):
            g = torch.randn(p.shape, generator=make, dtype=dtype)
            p.grad, q.grad = arrange(g, p, gradient), g.clone()
        x.step(), y.step()
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(params, plain))
    for (t, base), before, p, q in zip(laid, outside, params, plain):
        inside = torch.zeros_like(base, dtype=torch.bool)
        inside.as_strided(t.shape, t.stride(), t.storage_offset()).fill_(True)
        assert torch.equal(base.detach()[~inside], before[~inside])
        close(p.detach(), q.detach(), 0.02 if rule == "muon" else 1e-3 if dtype == torch.float32 else 1e-9)


def test_all_dtypes_in_one_group() -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.complex64, torch.float32, torch.complex128]
    make = torch.Generator().manual_seed(0)
    together = [Parameter(torch.randn(5, 3, generator=make, dtype=d)) for d in dtypes]
    apart = [Parameter(p.detach().clone()) for p in together]
    one, many = made("adamw", together, lr=0.1), [made("adamw", [p], lr=0.1) for p in apart]
    for _ in range(4):
        for p, q in zip(together, apart):
            p.grad = torch.randn(5, 3, generator=make, dtype=p.dtype)
            q.grad = p.grad.clone()
        one.step()
        for o in many:
            o.step()
    for p, q, d in zip(together, apart, dtypes):
        assert p.dtype == d and torch.equal(p, q) and one.state[p]["exp_avg"].dtype == d


# --- checkpoints ----------------------------------------------------------------------------------------------------


def training(rule: str, dtype: torch.dtype, seed: int) -> list[Parameter]:
    make = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(s, generator=make, dtype=dtype)) for s in ((4, 3), (3, 5), (2, 2))]


def step(params: list[Any], optimizer: Any, i: int) -> None:
    make = torch.Generator().manual_seed(500 + i)
    for k, p in enumerate(params):
        g = torch.randn(p.shape, generator=make, dtype=p.dtype)
        p.grad = None if (i + k) % 4 == 3 else g
    optimizer.step()


@pytest.mark.parametrize("rule", MATRICES)
@settings(max_examples=8)
@given(
    point=st.integers(0, 7), more=st.integers(1, 5), how=st.sampled_from(["state_dict", "file", "deepcopy", "pickle"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_point_is_taken_up_bit_for_bit(rule: str, point: int, more: int, how: str, dtype: torch.dtype, seed: int) -> None:
    if rule in ("soap", "shampoo") and dtype == torch.bfloat16:
        dtype = torch.float32
    a = training(rule, dtype, seed)
    x = made(rule, a, **MATRICES[rule])
    for i in range(point):
        step(a, x, i)
    b = [Parameter(p.detach().clone()) for p in a]
    if how in ("state_dict", "file"):
        y = made(rule, b)
        saved = x.state_dict()
        if how == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        y.load_state_dict(saved)
    else:
        y = copy.deepcopy(x) if how == "deepcopy" else pickle.loads(pickle.dumps(x))
        b = y.param_groups[0]["params"]
    for i in range(point, point + more):
        step(a, x, i), step(b, y, i)
    for p, q in zip(a, b):
        assert torch.equal(p, q)
        assert list(x.state[p]) == list(y.state[q])
        assert all(torch.equal(u, v) and u.dtype == v.dtype for u, v in zip(x.state[p].values(), y.state[q].values()))


def elsewhere(optimizer: Any, file: bytes) -> list[Any]:
    """In another process: three steps of the optimizer, and of one read from a file."""
    torch.set_num_threads(1)
    found = []
    for o in (optimizer, torch.load(io.BytesIO(file), weights_only=False)):
        params = o.param_groups[0]["params"]
        for i in range(5, 8):
            step(params, o, i)
        found.append([p.detach().numpy() for p in params])
    return found


def test_it_goes_on_in_another_process() -> None:
    params = training("m3", torch.float32, 0)
    optimizer = nldsl.load(RULE).optimizer("leaky", params, lr=0.1, frequency=2)
    for i in range(5):
        step(params, optimizer, i)
    file = io.BytesIO()
    torch.save(optimizer, file)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(elsewhere, (copy.deepcopy(optimizer), file.getvalue()))
    for i in range(5, 8):
        step(params, optimizer, i)
    for there in found:
        for p, q in zip(params, there):
            assert np.array_equal(p.detach().numpy(), q)


RULE = """
rule leaky(lr = 0.1, beta = 0.9, frequency = 3) {
  memory slow : like(w) = zeros every frequency { minimize -dot(slow, g) by gd(1, keep = beta) }
  update last w - lr * (g + slow)
}
"""


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("rule", ["m3", "adamw", "nadam", "soap", "lion"])
def test_distributed_checkpoints(rule: str, flatten: bool) -> None:
    """torch's own way of naming states by parameter, which makes a step with lr 0 to learn what there is."""
    checkpoint = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    options = checkpoint.StateDictOptions(flatten_optimizer_state_dict=flatten)

    def train(model: nn.Module, optimizer: Any, start: int, steps: int) -> None:
        for i in range(start, start + steps):
            optimizer.zero_grad()
            model(torch.full((2, 3), float(i + 1))).pow(2).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False))
    x = made(rule, a.parameters(), **MATRICES.get(rule, {}))
    train(a, x, 0, 4)
    saved = copy.deepcopy(checkpoint.get_optimizer_state_dict(a, x, options=options))
    b = copy.deepcopy(a)
    y = made(rule, b.parameters(), **MATRICES.get(rule, {}))
    checkpoint.set_optimizer_state_dict(b, y, saved, options=options)
    train(a, x, 4, 4), train(b, y, 4, 4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("rule", ["adamw", "m3", "nadam", "adafactor"])
def test_states_may_be_moved_under_their_names(rule: str) -> None:
    """As the usual function that sends an optimizer to a device does: `value.data = value.data.to(device)`."""
    a, b = training(rule, torch.float32, 0), training(rule, torch.float32, 0)
    x, y = made(rule, a), made(rule, b)
    for i in range(12):
        step(a, x, i), step(b, y, i)
        for state in x.state.values():
            for name, value in state.items():
                if i % 3 == 0:
                    value.data = value.data.clone()
                elif i % 3 == 1:
                    state[name] = value.clone()
    assert all(torch.equal(p, q) for p, q in zip(a, b))


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize(
    "change", [lambda t: t.t(), lambda t: t.clone(), lambda t: t.t().contiguous().t(), lambda t: t.expand(2, 4, 4)[0]], ids=["t", "clone", "columns", "expand"]
)  # fmt: skip
def test_parameters_and_gradients_may_be_moved_too(change: Any, fused: bool | None) -> None:
    ends = []
    for make in (lambda p: made("sgd", p, momentum=0.9, fused=fused), lambda p: torch.optim.SGD(p, momentum=0.9, foreach=False)):
        p = Parameter(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        optimizer = make([p])
        for i in range(9):
            if i in (3, 6):
                p.data = change(p.data)
            if i in (4, 6):
                p.grad.data = change(p.grad.data)
            elif i in (0, 1, 7):
                p.grad = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
            optimizer.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


def test_parameters_that_shrink_in_place_are_not_overrun() -> None:
    base = torch.ones(10)
    p = Parameter(base)
    optimizer = made("adamw", [p], lr=0.1)
    p.grad = torch.ones(10)
    for _ in range(3):
        optimizer.step()
    p.data, before = p.data[:5], base.clone()
    p.grad = None
    p.grad = torch.ones(5)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()
    assert torch.equal(base[5:], before[5:])


def test_steps_in_inference_mode_leave_states_for_later() -> None:
    a, b = training("adamw", torch.float32, 0), training("adamw", torch.float32, 0)
    x, y = made("adamw", a), made("adamw", b)
    for i in range(4):
        with torch.inference_mode(i % 2 == 0):
            step(a, x, i)
        step(b, y, i)
    assert all(torch.equal(p, q) for p, q in zip(a, b))
    assert not any(v.is_inference() for s in x.state.values() for v in s.values())


def test_lists_and_states_are_the_users() -> None:
    """Lists of parameters that grow, states that are cleared or given up, groups that are taken away."""
    p, q, r = training("adamw", torch.float32, 0)
    p.grad, q.grad, r.grad = torch.ones(4, 3), torch.ones(3, 5), torch.ones(2, 2)
    optimizer = made("adamw", [p, r])
    clocks = lambda: [float(optimizer.state[t]["step"]) for t in (p, q, r)]  # noqa: E731
    optimizer.step()
    optimizer.param_groups[0]["params"].append(q)
    optimizer.step()
    assert clocks() == [2, 1, 2]
    optimizer.state.clear()
    optimizer.step()
    assert clocks() == [1, 1, 1]
    optimizer.param_groups[0]["params"].pop(0)
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before) and clocks() == [1, 2, 2]
    optimizer.param_groups.append({**optimizer.param_groups.pop(), "lr": 0.5})
    optimizer.step()
    assert torch.equal(p, before) and clocks() == [1, 3, 3]


def test_views_of_one_buffer_and_gradients_in_common() -> None:
    flat = torch.zeros(12)
    params = [Parameter(flat[:5]), Parameter(flat[5:9].view(2, 2)), Parameter(flat[9:])]
    optimizer = made("adamw", params, lr=0.1)
    shared = torch.ones(5)
    params[0].grad, params[1].grad, params[2].grad = shared, shared[:4].view(2, 2), shared[2:]
    optimizer.step()
    assert torch.allclose(flat, torch.full((12,), -0.1)) and torch.equal(shared, torch.ones(5))


# --- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", sorted(set(VECTORS) | set(MATRICES)))
def test_no_randomness_is_used(rule: str) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        params = training(rule, torch.float32, 0)
        optimizer = made(rule, params, **MATRICES.get(rule, {}))
        before = torch.get_rng_state()
        for i in range(4):
            step(params, optimizer, i)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*found))


@pytest.mark.parametrize("rule", VECTORS)
def test_threads_change_no_bit(rule: str) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            make = torch.Generator().manual_seed(0)
            params = [Parameter(torch.randn(s, generator=make)) for s in ((150, 301), (5,), (40_000,), (0,))]
            optimizer = made(rule, params)
            for _ in range(2):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=make)
                optimizer.step()
            found.append(params)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(p, q) for p, q in zip(found[0], other))


# --- what costs nothing ---------------------------------------------------------------------------------------------


@contextmanager
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No source is generated, and no kernel compiled or loaded."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was compiled")

    with monkeypatch.context() as patch:
        for module, name in ((native, "compiled"), (native, "kernel_source"), (build, "rules_source"), (torch, "compile")):
            patch.setattr(module, name, refuse)
        before = native.kernel.cache_info().misses, {m for m in sys.modules if m.startswith("nldsl_generated")}
        yield
        assert before == (native.kernel.cache_info().misses, {m for m in sys.modules if m.startswith("nldsl_generated")})


COUNTED: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "adamw": ({}, {"lr": [0.1, 0.2, torch.tensor(0.3), np.float32(0.1), np.float64(0.2)], "betas": [(0.8, 0.9), (0.5, 0.99), [0.1, 0.2]], "weight_decay": [0.3, 0.0, 1]}),
    "adamw every": ({"every": 2}, {"every": [3, 2, 5], "lr": [0.1, 0.2], "over": ["mean", "sum"]}),
    "sgd": ({"momentum": 0.9}, {"momentum": [0.5, 0.8, 0.95], "lr": [0.3, 0.2], "nesterov": [1, 0, True], "maximize": [True, False]}),
    "m3": ({"frequency": 2}, {"frequency": [3, 2, 1, 4], "alpha": [0.5, 0.1], "lr": [0.1, 0.01]}),
    "soap": ({"frequency": 2}, {"frequency": [3, 2, 1, 4], "lr": [0.1, 0.01]}),
    "muon": ({}, {"lr": [0.1, 0.2], "momentum": [0.5, 0.8], "nesterov": [0, 1], "ns_coefficients": [(2.0, -1.5, 0.5)]}),
    "adafactor": ({}, {"lr": [0.1, 0.2], "d": [2.0, 1.5]}),
}


@pytest.mark.parametrize("case", COUNTED)
def test_schedules_and_the_like_compile_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules of every number, missing gradients, loading, copies, and groups of a dtype that is known."""
    start, changes = COUNTED[case]
    rule = case.split()[0]
    params = training(rule, torch.float32, 0)
    optimizer = made(rule, params[:2], **start)
    for i in range(4):
        step(params[:2], optimizer, i)
    with nothing_is_made(monkeypatch):
        i = 4
        for name, values in changes.items():
            for value in values:
                optimizer.param_groups[0][name] = value
                for _ in range(3):
                    step(params[:2], optimizer, i)
                    i += 1
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step(params[:2], optimizer, i)
        optimizer.add_param_group({"params": params[2:], "lr": 0.5})
        optimizer.add_param_group({"params": Parameter(torch.randn(9, 2))})
        for k in range(4):
            step([*params, *optimizer.param_groups[2]["params"]], optimizer, i + k)
        twin = copy.deepcopy(optimizer)
        step([p for g in twin.param_groups for p in g["params"]], twin, i)
        again = made(rule, params, **start)
        for k in range(4):
            step(params, again, k)
    assert all(torch.isfinite(p).all() for p in params)


def test_numbers_of_numpy_are_numbers() -> None:
    """As the functions of schedules return them."""
    found = []
    for lr in (0.125, np.float32(0.125), np.float64(0.125), torch.tensor(0.125)):
        p = Parameter(torch.ones(3))
        optimizer = made("adamw", [p], lr=lr)
        p.grad = torch.ones(3)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        found.append(p.detach())
    assert all(torch.equal(p, found[0]) for p in found)


def test_a_list_is_no_number() -> None:
    with pytest.raises(TypeError, match="lr"):
        made("adamw", [Parameter(torch.ones(3))], lr=[0.1])
    with pytest.raises(ValueError, match="betas"):
        made("adamw", [Parameter(torch.ones(3))], betas=0.9)


MATRIX = {"d": 96, "e": 64}
SIZES = {"muon": MATRIX, "m3": MATRIX, "shampoo": MATRIX, "adafactor": {"columns": 96, "rows": 64}}
# rule, numbers, bytes of float32 state for each parameter of an [e, d] matrix
BYTES: list[tuple[str, dict[str, Any], float]] = [
    ("adamw", {}, 8), ("adam", {}, 8), ("adam", {"amsgrad": 1}, 12), ("sgd", {}, 0), ("sgd", {"momentum": 0.9}, 4), ("lion", {}, 4), ("signsgd", {}, 0),
    ("adagrad", {}, 4), ("rmsprop", {}, 4), ("rmsprop", {"centered": 1}, 8), ("rmsprop", {"centered": 1, "momentum": 0.9}, 12), ("adadelta", {}, 8),
    ("adamax", {}, 8), ("nadam", {}, 8), ("radam", {}, 8), ("ademamix", {}, 12), ("muon", {}, 4), ("adafactor", {}, 4 * (64 + 96) / (64 * 96)),
    ("m3", {}, 20), ("adamw", {"every": 4}, 12), ("shampoo", {}, 8 * (64**2 + 96**2) / (64 * 96)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "numbers", "expected"), BYTES, ids=lambda v: "-".join(v) if isinstance(v, dict) else str(v))
def test_state_is_as_small_as_it_can_be(rule: str, numbers: dict[str, Any], expected: float) -> None:
    """Memory held by states, without the number of the step, and what the plan says of it."""
    e, d = 64, 96
    p = Parameter(torch.randn(e, d))
    optimizer = made(rule, [p], **numbers)
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        if dtype == torch.bfloat16 and rule == "shampoo":
            continue
        p.data = p.data.to(dtype)
        optimizer = made(rule, [p], **numbers)
        for _ in range(5):
            p.grad = torch.randn(e, d, dtype=dtype)
            optimizer.step()
        held = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in optimizer.state[p].values() if v.dim()}
        assert sum(held.values()) / (e * d) == pytest.approx(expected * size / 4)
        rest = sum(v.untyped_storage().nbytes() for v in optimizer.state[p].values() if not v.dim())
        assert rest <= 24
    plan = plan_rule(library_program().rule(rule, SIZES.get(rule, {"n": e * d})))
    on = tuple(bool(numbers.get(s, 0)) for s in plan.switches)
    assert float(plan.bytes_per_parameter(on).value({})) + 4 * ("every" in numbers) == pytest.approx(expected, abs=1e-2)
