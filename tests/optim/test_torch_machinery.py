"""Torch's own description of its optimizers (OptimizerInfo: inputs, wrong inputs, schedulers) run against ours.

What torch's suite asks of every optimizer is asked here, of the rules that torch has and of Lion. Left out: all that needs an
accelerator, and torch's comparisons of its own implementations with each other.
"""

from __future__ import annotations

import copy
import functools
import gc
import io
import re
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

pytest.importorskip("expecttest")  # which torch's machinery imports

import nldsl

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_optimizers as machinery
    from torch.testing._internal.common_optimizers import (
        ErrorOptimizerInput,
        OptimizerErrorEnum,
        OptimizerInfo,
        OptimizerInput,
    )

RULES = {
    "adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adadelta": "Adadelta", "adamax": "Adamax",
    "nadam": "NAdam", "radam": "RAdam", "adafactor": "Adafactor", "muon": "Muon",
}  # fmt: skip
THEIRS = {info.name: info for info in machinery.optim_db}
Parameter = nn.Parameter


def made(rule: str, params: Any, **numbers: Any) -> Any:
    """As `nldsl.optimizer`, by way of the class."""
    known = nldsl.optimizers.library_program().rule(rule).structure
    structure = {k: numbers.pop(k) for k in known if k in numbers}
    return class_of(rule, **structure)(params, **numbers)


class_of = functools.cache(nldsl.optimizer_class)


def ours(rule: str) -> OptimizerInfo:
    """Torch's info with our optimizer in the place of torch's."""
    info = copy.copy(THEIRS[RULES[rule]])
    info.rule, info.reference = rule, info.optim_cls
    info.optim_cls = functools.partial(made, rule)
    info.optim_cls.__name__ = rule
    info.supported_impls, info.supports_fused_on = ("foreach", "fused", "differentiable"), ("cpu",)
    info.not_og_supported_flags = (*info.supported_impls, "maximize", "capturable")
    return info


def lion() -> OptimizerInfo:
    def inputs(device: str, dtype: Any = None) -> list[OptimizerInput]:
        values: list[dict[str, Any]] = [
            {}, {"lr": 0.01}, {"lr": torch.tensor(0.001)}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}, {"betas": (0.8, 0.9)},
        ]  # fmt: skip
        return [OptimizerInput(params=None, kwargs=v, desc=" ".join(v) or "default") for v in values]

    info = ours("adamw")
    info.rule, info.reference = "lion", None
    info.optim_cls = functools.partial(made, "lion")
    info.optim_cls.__name__, info.optim_inputs_func = "lion", inputs
    return info


INFOS = [*map(ours, RULES), lion()]
each = pytest.mark.parametrize("info", INFOS, ids=[i.rule for i in INFOS])


def named(rules: str) -> Any:
    chosen = [i for i in INFOS if i.rule in rules.split()]
    return pytest.mark.parametrize("info", chosen, ids=[i.rule for i in chosen])


def inputs_of(info: OptimizerInfo) -> list[dict[str, Any]]:
    return [i.kwargs for i in info.optim_inputs_func("cpu")]


def with_flags(info: OptimizerInfo, *skip: str) -> list[dict[str, Any]]:
    """Inputs with each of `foreach`, `fused`, `differentiable` on, and none."""
    return [i.kwargs for i in machinery._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info, skip=skip)]


def gradients(params: list[Any], step: int) -> None:
    made = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=made, dtype=p.dtype)


def drive(optimizer: Any, params: list[Any], steps: int, start: int = 0) -> Any:
    for i in range(start, start + steps):
        gradients(params, i)
        optimizer.step()
    return optimizer


def matrices(dtype: torch.dtype = torch.float32, shapes: Any = ((10, 5), (4, 3))) -> list[Parameter]:
    made = torch.Generator().manual_seed(7)
    return [Parameter(torch.randn(s, generator=made, dtype=dtype)) for s in shapes]


def same(a: Any, b: Any) -> None:
    """Equal in value and in type, all the way down."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    else:
        assert a == b


@pytest.fixture
def double() -> Any:
    """torch keeps some of its numbers in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- steps ----------------------------------------------------------------------------------------------------------


def to_torch(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("foreach", "fused", "differentiable")}


@each
def test_every_input_with_every_flag_is_torchs_loop(info: OptimizerInfo, double: None) -> None:
    if info.reference is None:
        pytest.skip("torch has no Lion: tests/optim/test_library.py compares it with others")
    for kwargs in with_flags(info):
        mine, theirs = matrices(torch.float64), matrices(torch.float64)
        if kwargs.get("differentiable"):
            mine = [p.detach().clone() for p in mine]  # leaves are not changed under autograd
        numbers = to_torch(kwargs)
        maximize = numbers.pop("maximize", False) if info.rule == "muon" else False  # torch's has no `maximize`
        if info.rule == "adafactor":
            numbers["eps"] = (torch.finfo(torch.float32).eps, 1e-3)  # ours; torch's depends on the dtype of w
        reference = info.reference(theirs, **numbers, **({} if info.rule == "muon" else {"foreach": False}))
        optimizer = info.optim_cls(mine, **kwargs)
        for i in range(7):
            gradients(mine, i), gradients(theirs, i)
            if maximize:
                theirs[0].grad, theirs[1].grad = -theirs[0].grad, -theirs[1].grad
            if i == 3:  # a gradient that is not there
                mine[0].grad = theirs[0].grad = None
            optimizer.step(), reference.step()
        for p, q in zip(mine, theirs):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-11, atol=1e-13)


@each
@pytest.mark.parametrize("contiguous", [True, False])
def test_every_input_goes_the_right_way_with_schedulers(info: OptimizerInfo, contiguous: bool) -> None:
    made = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=made)  # noqa: E731
    for n, kwargs in enumerate(with_flags(info, "differentiable", "foreach")):
        for schedulers in [(), *info.scheduler_inputs][: None if n < 2 else 1 + n % 2]:
            shape = (10, 1) if info.rule == "muon" else (10,)
            weight, bias = (draw(10, 5), draw(*shape)) if contiguous else (draw(10, 5, 2)[..., 0], draw(*shape, 2)[..., 0])
            w, b, x = Parameter(weight), Parameter(bias), draw(5)
            assert w.is_contiguous() == contiguous
            optimizer = info.optim_cls([w, b], **kwargs)
            running = [make(optimizer) for make in schedulers]

            def closure(o: Any = optimizer, w: Any = w, b: Any = b, x: Any = x) -> Any:
                o.zero_grad()
                loss = (w.mv(x) + b.flatten()).pow(2).sum()
                loss.backward()
                return loss

            first = closure().item()
            for _ in range(10):
                loss = optimizer.step(closure)
                for s in running:
                    s.step(loss.item()) if isinstance(s, lrs.ReduceLROnPlateau) else s.step()
            assert (closure().item() > first) if kwargs.get("maximize") else (closure().item() < first)


@each
def test_a_step_without_gradients_does_nothing(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info):
        params = matrices()
        before = copy.deepcopy(params)
        optimizer = info.optim_cls(params, **kwargs)
        optimizer.step()
        assert not optimizer.state
        same(params, before)


@each
def test_zero_gradients_move_nothing_but_by_decay(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info, "differentiable"):
        if kwargs.get("weight_decay", 0) != 0:
            continue
        params = matrices()
        before = copy.deepcopy(params)
        optimizer = info.optim_cls(params, **{**kwargs, **({"weight_decay": 0.0} if info.rule in ("adamw", "muon") else {})})
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        same(params, before)


@each
def test_empty_and_absent_parameters(info: OptimizerInfo) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        info.optim_cls([])
    for kwargs in with_flags(info, "differentiable"):
        p = Parameter(torch.randn(0, 5))
        optimizer = info.optim_cls([p], **kwargs)
        p.grad = torch.randn(0, 5)
        optimizer.step()
        assert p.shape == (0, 5) and float(optimizer.state[p]["step"]) == 1


@each
@pytest.mark.parametrize("number", ["lr", "weight_decay"])
def test_groups_have_numbers_of_their_own(info: OptimizerInfo, number: str, double: None) -> None:
    if info.reference is None or (info.rule == "adafactor"):
        pytest.skip("lion: no counterpart; adafactor: torch's eps depends on the dtype, and tests/optim/test_library.py gives it")
    for value in (0.0, 0.1):
        mine, theirs = matrices(torch.float64), matrices(torch.float64)
        a, b = (
            make([{"params": [p[0]]}, {"params": [p[1]], number: value}], **({"lr": 0.01} if number == "lr" else {}))
            for make, p in ((info.optim_cls, mine), (info.reference, theirs))
        )
        drive(a, mine, 5), drive(b, theirs, 5)
        for p, q in zip(mine, theirs):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-11, atol=1e-13)
        assert [g[number] for g in a.param_groups] == [g[number] for g in b.param_groups]


@each
def test_lr_is_a_number_or_a_tensor(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info, "differentiable"):
        found = []
        for lr in (0.01, torch.tensor(0.01, dtype=torch.float64), torch.tensor([[0.01]], dtype=torch.float64)):
            params = matrices()
            drive(info.optim_cls(params, **{**kwargs, "lr": lr}), params, 3)
            found.append(params)
            assert float(lr) == 0.01
        same(found[0], found[1])
        same(found[0], found[2])


@each
def test_a_schedule_of_a_tensor_lr(info: OptimizerInfo) -> None:
    """torch's schedulers write into the tensor."""
    a, b = matrices(), matrices()
    x, y = info.optim_cls(a, lr=torch.tensor(0.1, dtype=torch.float64)), info.optim_cls(b, lr=0.1)
    pairs = [(o, lrs.ExponentialLR(o, 0.5)) for o in (x, y)]
    kept = x.param_groups[0]["lr"]
    for i in range(4):
        for params, (o, s) in zip((a, b), pairs):
            drive(o, params, 1, i)
            s.step()
    assert x.param_groups[0]["lr"] is kept
    same(a, b)


COMPLEX = "adam adamw sgd adagrad rmsprop adadelta adamax nadam radam lion"


@named(COMPLEX)
def test_complex_is_the_view_as_real(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info, "differentiable"):
        start = torch.randn(5, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        whole, pair = Parameter(start.clone()), Parameter(torch.view_as_real(start).clone())
        re_part, im_part = Parameter(start.real.clone()), Parameter(start.imag.clone())
        optimizers = [info.optim_cls([whole], **kwargs), info.optim_cls([pair], **kwargs), info.optim_cls([re_part, im_part], **kwargs)]
        for i in range(4):
            gradients([whole], i)
            pair.grad = torch.view_as_real(whole.grad).clone()
            re_part.grad, im_part.grad = whole.grad.real.clone(), whole.grad.imag.clone()
            for o in optimizers:
                o.step()
            same(torch.view_as_real(whole.data), pair.data)
            torch.testing.assert_close(whole.data, torch.complex(re_part.data, im_part.data), rtol=1e-6, atol=1e-7)


@each
def test_gradient_scaling(info: OptimizerInfo) -> None:
    """Gradients that were scaled and unscaled by a power of two, and a step that a NaN cancels."""
    a, b = matrices(), matrices()
    x, y = info.optim_cls(a), info.optim_cls(b)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for i in range(4):
        gradients(a, i), gradients(b, i)
        for p in a:
            p.grad *= scaler.scale(torch.ones(()))
        if i == 2:
            a[0].grad[0, 0] = float("nan")
            before = copy.deepcopy(a)
            scaler.step(x)
            same(a, before)
        else:
            scaler.step(x)
            y.step()
        scaler.update(256.0)
    same(a, b)


@each
def test_sparse_gradients_are_refused(info: OptimizerInfo) -> None:
    p = Parameter(torch.randn(3, 4))
    p.grad = torch.randn(3, 4).to_sparse()
    optimizer, before = info.optim_cls([p]), p.detach().clone()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(p, before)


# --- wrong inputs ---------------------------------------------------------------------------------------------------

# what torch refuses and we take, or say otherwise: (a part of torch's description, what we do)
TAKES = "we take it: one path serves all flags, and every number may be a tensor"
OTHERWISE = {
    "lr as Tensor doesn't work with foreach": TAKES,
    "betas must be either both floats": TAKES,
    "as a Tensor is not supported for capturable=False": TAKES,
    "only support 2D parameters": "refused in other words",
    "invalid beta2_decay": "we take it: a rule does not say the range of a number of its own",
    "invalid d": "we take it: a rule does not say the range of a number of its own",
    "only support `original`": "refused as a number that the rule does not have",
    "epsilon1 should be": "refused in other words",
    "does not support complex parameters": "refused when it is made, not at the step",
}


@each
def test_torchs_wrong_inputs(info: OptimizerInfo) -> None:
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        assert isinstance(case, ErrorOptimizerInput)
        given = case.optimizer_error_input
        params = given.params if given.params is not None else [Parameter(torch.randn(1, 1))]
        reason = next((r for part, r in OTHERWISE.items() if part in given.desc), None)
        if "we take it" in (reason or ""):
            info.optim_cls(params, **given.kwargs).step()
        elif reason:
            with pytest.raises((ValueError, TypeError, nldsl.NlError)):
                info.optim_cls(params, **given.kwargs)
        elif case.error_type is UserWarning:
            with pytest.warns(UserWarning, match=case.error_regex):
                info.optim_cls(params, **given.kwargs)
        else:
            assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
            with pytest.raises(case.error_type, match=case.error_regex):
                info.optim_cls(params, **given.kwargs)


@each
def test_flags_that_exclude_each_other(info: OptimizerInfo) -> None:
    for flags, message in (({"foreach": True, "fused": True}, "cannot be `True` together"), ({"fused": True, "differentiable": True}, "does not support")):
        with pytest.raises(RuntimeError, match=message):
            info.optim_cls(matrices(), **flags)


# --- groups and state -----------------------------------------------------------------------------------------------


@each
def test_groups_are_added(info: OptimizerInfo) -> None:
    for kwargs in inputs_of(info):
        first, second = matrices(), matrices()
        optimizer = drive(info.optim_cls([first[0]], **kwargs), first[:1], 1)
        optimizer.add_param_group({"params": first[1], "lr": 0.5})
        optimizer.add_param_group({"params": second})
        assert optimizer.param_groups[1]["lr"] == 0.5
        for key in ("lr", "maximize", "foreach", "every"):
            assert optimizer.param_groups[2][key] == optimizer.defaults[key]
        drive(optimizer, [*first, *second], 2)
        assert [float(optimizer.state[p]["step"]) for p in (*first, *second)] == [3, 2, 2, 2]
        with pytest.raises(ValueError, match="more than one parameter group"):
            optimizer.add_param_group({"params": first[0]})
        with pytest.raises(ValueError, match="non-leaf"):
            optimizer.add_param_group({"params": first[0] * 2})
        with pytest.raises(TypeError, match="param_group must be a dict"):
            optimizer.add_param_group([first[0]])


@each
def test_state_is_not_empty_after_a_step(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info, "differentiable"):
        params = matrices()
        optimizer = drive(info.optim_cls(params, **kwargs), params, 1)
        assert len(optimizer.state) == 2 and all(isinstance(v, torch.Tensor) for s in optimizer.state.values() for v in s.values())
        assert "step" in optimizer.state[params[0]]


@each
def test_state_dicts_are_deterministic(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info, "differentiable"):
        a = matrices(torch.float64)
        x = drive(info.optim_cls(a, **kwargs), a, 5)
        b = copy.deepcopy(a)
        y = info.optim_cls(b, **kwargs)
        saved = copy.deepcopy(x.state_dict())
        given = copy.deepcopy(saved)
        y.load_state_dict(given)
        same(given, saved)
        for i in range(5, 9):
            drive(x, a, 1, i), drive(y, b, 1, i)
            same(a, b)
        same(given, saved)
        same(x.state_dict(), y.state_dict())
        y.param_groups.extend(y.param_groups)
        same(x.state_dict()["param_groups"][-1], y.state_dict()["param_groups"][-1])


@each
def test_older_state_dicts(info: OptimizerInfo) -> None:
    """Without one of the flags, without all of them, with step counts that are not tensors."""
    for kwargs in inputs_of(info):
        params = matrices()
        optimizer = drive(info.optim_cls(params, **kwargs), params, 2)
        known = [f for f in (*info.not_og_supported_flags, "every", "over", "rule") if f in optimizer.param_groups[0]]
        for flags in [*([f] for f in known), known]:
            saved = copy.deepcopy(optimizer.state_dict())
            for group in saved["param_groups"]:
                for flag in flags:
                    del group[flag]
            optimizer.load_state_dict(saved)
            optimizer.step()
        saved = optimizer.state_dict()
        for state in saved["state"].values():
            state["step"] = state["step"].item()
        optimizer.load_state_dict(saved)
        assert all(isinstance(s["step"], torch.Tensor) for s in optimizer.state.values())
        optimizer.step()
        assert float(optimizer.state[params[0]]["step"]) == 4 + len(known)


@each
def test_saving_with_weights_only(info: OptimizerInfo) -> None:
    for kwargs in with_flags(info, "differentiable"):
        a = matrices()
        x = drive(info.optim_cls(a, **kwargs), a, 3)
        file = io.BytesIO()
        torch.save(x.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        same(loaded, x.state_dict())
        y = info.optim_cls(matrices(), **kwargs)
        y.load_state_dict(loaded)
        same(y.state_dict(), x.state_dict())


@each
def test_deepcopy_has_all_that_is_public(info: OptimizerInfo) -> None:
    public = lambda o: {k for k in o.__dict__ if not k.startswith("_")}  # noqa: E731
    for kwargs in with_flags(info, "differentiable"):
        params = matrices()
        optimizer = drive(info.optim_cls(params, **kwargs), params, 2)
        assert public(optimizer) == public(copy.deepcopy(optimizer))


@each
def test_named_parameters(info: OptimizerInfo) -> None:
    names = ["a.weight", "b.weight"]
    a, b = matrices(), matrices()
    x, y = info.optim_cls(zip(names, a)), info.optim_cls(b)
    drive(x, a, 2), drive(y, b, 2)
    assert x.state_dict()["param_groups"][0]["param_names"] == names and "param_names" not in y.state_dict()["param_groups"][0]
    before = copy.deepcopy(y.state_dict())
    y.load_state_dict(x.state_dict())  # names come with what is loaded, unless there are some
    x.load_state_dict(before)
    assert x.param_groups[0]["param_names"] == names
    other = info.optim_cls(zip(["c", "d"], matrices()))
    other.load_state_dict(x.state_dict())
    assert other.param_groups[0]["param_names"] == names
    drive(other, other.param_groups[0]["params"], 1)


@each
@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_the_default_dtype_is_of_no_concern(info: OptimizerInfo, default: torch.dtype) -> None:
    a, b = matrices(), matrices()
    for kwargs in inputs_of(info)[:3]:
        x = drive(info.optim_cls(a, **kwargs), a, 3)
        torch.set_default_dtype(default)
        try:
            y = info.optim_cls(b, **kwargs)
            for i in range(3):
                torch.set_default_dtype(torch.float32)
                gradients(b, i)
                torch.set_default_dtype(default)
                y.step()
        finally:
            torch.set_default_dtype(torch.float32)
        same(x.state_dict()["state"], y.state_dict()["state"])
        same(a, b)


@each
def test_no_cycles_keep_it_alive(info: OptimizerInfo) -> None:
    params = matrices()
    optimizer = drive(info.optim_cls(params), params, 2)
    alive = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert alive() is None
    finally:
        gc.enable()


# --- hooks ----------------------------------------------------------------------------------------------------------


@each
def test_step_hooks_of_one_and_of_all(info: OptimizerInfo) -> None:
    params, seen = matrices(), []
    optimizer = info.optim_cls(params)
    note = lambda word: lambda o, args, kwargs: seen.append((word, o is optimizer))  # noqa: E731
    handles = [
        optimizer.register_step_pre_hook(note("pre")), optimizer.register_step_post_hook(note("post")),
        register_optimizer_step_pre_hook(note("all pre")),
        register_optimizer_step_post_hook(note("all post")),
    ]  # fmt: skip
    try:
        drive(optimizer, params, 1)
        copied = copy.deepcopy(optimizer)
    finally:
        for h in handles:
            h.remove()
    assert seen == [("all pre", True), ("pre", True), ("post", True), ("all post", True)]
    drive(optimizer, params, 1)
    drive(copied, copied.param_groups[0]["params"], 1)
    assert len(seen) == 4


@each
def test_a_pre_hook_may_change_gradients_and_arguments(info: OptimizerInfo) -> None:
    a, b = matrices(), matrices()
    x, y = info.optim_cls(a), info.optim_cls(b)

    def halve(o: Any, args: Any, kwargs: Any) -> Any:
        for p in o.param_groups[0]["params"]:
            p.grad = p.grad / 2
        return args, kwargs

    x.register_step_pre_hook(halve)
    for i in range(3):
        gradients(a, i), gradients(b, i)
        for p in b:
            p.grad = p.grad / 2
        x.step(), y.step()
    same(a, b)


@each
def test_hooks_of_checkpoints(info: OptimizerInfo) -> None:
    params, seen = matrices(), []
    optimizer = drive(info.optim_cls(params), params, 1)

    def double_lr(o: Any, found: dict[str, Any]) -> dict[str, Any]:
        found["param_groups"][0]["lr"] = found["param_groups"][0]["lr"] * 2
        seen.append("load")
        return found

    handles = [
        optimizer.register_state_dict_pre_hook(lambda o: seen.append("before")),
        optimizer.register_state_dict_post_hook(lambda o, found: {**found, "more": 1}),
        optimizer.register_state_dict_pre_hook(lambda o: seen.append("first"), prepend=True),
        optimizer.register_load_state_dict_pre_hook(double_lr),
        optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded")),
    ]
    saved, lr = optimizer.state_dict(), optimizer.param_groups[0]["lr"]
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
    assert seen == ["first", "before", "load", "loaded"] and optimizer.param_groups[0]["lr"] == 2 * lr
    for h in handles:
        h.remove()
    assert "more" not in optimizer.state_dict()
    drive(optimizer, params, 1)


@each
def test_a_loaded_state_may_be_replaced_by_a_hook(info: OptimizerInfo) -> None:
    """The hook's dict is what is loaded, in the precision it has."""
    a = matrices()
    x = drive(info.optim_cls(a), a, 3)
    saved = copy.deepcopy(x.state_dict())
    y = info.optim_cls(matrices())
    y.register_load_state_dict_pre_hook(lambda o, found: saved)
    y.load_state_dict({"state": {}, "param_groups": copy.deepcopy(saved["param_groups"])})
    same(y.state_dict(), x.state_dict())


# --- schedules ------------------------------------------------------------------------------------------------------

SCHEDULES: dict[str, Any] = {
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda i: 0.9**i),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda i: 0.95),
    "StepLR": lambda o: lrs.StepLR(o, 3),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [2, 5], 0.3),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.4, 4),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.4, total_iters=4),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 8, 0.9),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.001, 0.1, 3, base_momentum=0.7, max_momentum=0.95),
    "CyclicLR without": lambda o: lrs.CyclicLR(o, 0.001, 0.1, 3, mode="triangular2", cycle_momentum=False),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.1, 13),
    "OneCycleLR without": lambda o: lrs.OneCycleLR(o, 0.1, 13, cycle_momentum=False, three_phase=True),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, patience=1),
    "ChainedScheduler": lambda o: lrs.ChainedScheduler([lrs.LinearLR(o, 0.4, total_iters=3), lrs.ExponentialLR(o, 0.9)]),
    "SequentialLR": lambda o: lrs.SequentialLR(o, [lrs.ConstantLR(o, 0.1, 3), lrs.ExponentialLR(o, 0.7)], [4]),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.02, 4),
}


def test_every_scheduler_of_torch_is_here() -> None:
    classes = {n for n, c in vars(lrs).items() if isinstance(c, type) and issubclass(c, lrs.LRScheduler) and not n.startswith("_")}
    assert classes - {"LRScheduler"} <= {s.split()[0] for s in SCHEDULES}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("rule", "numbers"), [("adamw", {"weight_decay": 0.1}), ("sgd", {"momentum": 0.9, "nesterov": True})])
def test_schedulers_lead_along_torchs_path(rule: str, numbers: dict[str, Any], schedule: str, double: None) -> None:
    a, b = matrices(torch.float64), matrices(torch.float64)
    x = nldsl.optimizer(rule, [{"params": a[:1]}, {"params": a[1:], "lr": 0.02}], lr=0.05, **numbers)
    y = getattr(torch.optim, RULES[rule])([{"params": b[:1]}, {"params": b[1:], "lr": 0.02}], lr=0.05, foreach=False, **numbers)
    pairs = [(o, SCHEDULES[schedule](o)) for o in (x, y)]
    for i in range(12):
        for params, (o, s) in zip((a, b), pairs):
            drive(o, params, 1, i)
            s.step(1.0 + i % 3) if schedule == "ReduceLROnPlateau" else s.step()
        assert [(g["lr"], g.get("betas"), g.get("momentum")) for g in x.param_groups] == [
            (g["lr"], g.get("betas"), g.get("momentum")) for g in y.param_groups
        ]
        if i == 6:  # the schedule and the optimizer are taken up elsewhere
            a = copy.deepcopy(a)
            x = nldsl.optimizer(rule, [{"params": a[:1]}, {"params": a[1:], "lr": 0.02}], lr=0.05, **numbers)
            made = SCHEDULES[schedule](x)
            x.load_state_dict(pairs[0][0].state_dict())
            made.load_state_dict(pairs[0][1].state_dict())
            pairs[0] = (x, made)
    for p, q in zip(a, b):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-14)


def test_schedulers_know_that_a_step_was_made() -> None:
    params = matrices()
    optimizer = nldsl.optimizer("adamw", params)
    schedule = lrs.StepLR(optimizer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(3):
            drive(optimizer, params, 1, i)
            schedule.step()
    late = lrs.StepLR(nldsl.optimizer("adamw", matrices()), 2)
    with pytest.warns(UserWarning, match=re.escape("lr_scheduler.step()")):
        late.step()


# --- through steps with autograd ------------------------------------------------------------------------------------

THROUGH: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}), ("adam", {"amsgrad": True, "weight_decay": 0.1}), ("adamw", {}), ("nadam", {}),
    ("radam", {"betas": (0.9, 0.7)}), ("adamax", {}), ("adagrad", {}), ("rmsprop", {"centered": True, "momentum": 0.5}), ("adadelta", {}),
    ("lion", {"weight_decay": 0.1}), ("ademamix", {}), ("delta_momentum", {}), ("adafactor", {}), ("classical_momentum", {}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "numbers"), THROUGH, ids=[f"{r}-{'-'.join(n)}" for r, n in THROUGH])
def test_gradients_of_steps(rule: str, numbers: dict[str, Any]) -> None:
    """With respect to the parameter, the gradients of two steps, and the learning rate as a tensor."""
    made = torch.Generator().manual_seed(2)
    w, *grads = (torch.randn(3, 2, generator=made, dtype=torch.float64).requires_grad_() for _ in range(3))
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def steps(w: Any, first: Any, second: Any, lr: Any) -> tuple[Any, ...]:
        p = w.clone()
        optimizer = nldsl.optimizer(rule, [p], lr=lr, differentiable=True, **numbers)
        for g in (first, second):
            p.grad = g
            optimizer.step()
        return (p, *(v for v in optimizer.state[p].values() if v.requires_grad))

    assert torch.autograd.gradcheck(steps, (w, *grads, lr), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "value"), [("betas", (0.9, 0.99)), ("weight_decay", 0.1), ("eps", 1e-3)])
def test_gradients_of_other_numbers(name: str, value: Any) -> None:
    w = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (value if isinstance(value, tuple) else (value,)))

    def steps(*leaves: Any) -> Any:
        p = w.clone()
        optimizer = nldsl.optimizer("adamw", [p], lr=0.1, differentiable=True, **{name: leaves if isinstance(value, tuple) else leaves[0]})
        for g in (w * 0.5, w.cos()):
            p.grad = g
            optimizer.step()
        return p

    assert torch.autograd.gradcheck(steps, leaves)


# --- what is built on optimizers ------------------------------------------------------------------------------------


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


def test_averages_of_weights() -> None:
    """Averaged models, exponential averages, and clipped gradients go along torch's path."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

    found = []
    data = [torch.randn(8, 4, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    for make in (lambda p: nldsl.optimizer("adamw", p, lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False)):
        net = model()
        optimizer = make(net.parameters())
        averages = [AveragedModel(net), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)]
        for x in data:
            optimizer.zero_grad()
            net(x).pow(2).sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            for a in averages:
                a.update_parameters(net)
        update_bn(data, averages[0])
        found.append([v for a in averages for v in a.state_dict().values()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_compiled_training_step_calls_it() -> None:
    found = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="eager")):
        net = model()
        optimizer = nldsl.optimizer("adamw", net, lr=torch.tensor(0.01))

        def step(x: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = net(x).pow(2).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        for i in range(4):
            run(torch.randn(8, 4, generator=torch.Generator().manual_seed(i)))
        found.append([v.detach() for v in net.state_dict().values()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_steps_in_the_backward_pass() -> None:
    """One optimizer for each parameter, stepped and freed as its gradient is ready."""
    a, b = model(), model()
    whole = nldsl.optimizer("adamw", a, lr=0.01)
    own = {p: nldsl.optimizer("adamw", [p], lr=0.01) for p in b.parameters()}

    def step_and_free(p: Any) -> None:
        own[p].step()
        own[p].zero_grad()

    for p in b.parameters():
        p.register_post_accumulate_grad_hook(step_and_free)
    for i in range(3):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(i))
        whole.zero_grad()
        a(x).pow(2).sum().backward()
        whole.step()
        b(x).pow(2).sum().backward()
    same(list(a.state_dict().values()), list(b.state_dict().values()))


@pytest.mark.parametrize("rule", ["adamw", "lion", "adafactor"])
def test_distributed_tensors(rule: str) -> None:
    """Parameters that are DTensors, as FSDP gives them, on a mesh of one process."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch is built without distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain = matrices()
        spread = [Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in plain]
        x, y = nldsl.optimizer(rule, spread), nldsl.optimizer(rule, plain)
        for i in range(3):
            gradients(plain, i)
            for p, q in zip(spread, plain):
                p.grad = distribute_tensor(q.grad.clone(), mesh, [Shard(0)])
            x.step(), y.step()
        for p, q in zip(spread, plain):
            assert isinstance(p, DTensor)
            torch.testing.assert_close(p.to_local().detach(), q.detach(), rtol=1e-6, atol=1e-7)
            if rule != "adafactor":
                assert all(isinstance(v, DTensor) for n, v in x.state[p].items() if n != "step")
    finally:
        distributed.destroy_process_group()
