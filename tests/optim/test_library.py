"""Every rule of the library against torch.optim, against independent loops, and against other libraries."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import nldsl
from tests.optim import oracles

STEPS = 50
PRECISION = {torch.float64: 1e-12, torch.float32: 1e-6}
MATRICES = [(6, 3), (3, 6), (5, 5)]
ANY = [(7,), (1,), *MATRICES, (2, 3, 4)]

# rule, class of torch.optim, numbers, shapes
TORCH: list[tuple[str, str, dict[str, Any], list[tuple[int, ...]]]] = [
    ("adam", "Adam", {}, ANY),
    ("adam", "Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}, ANY),
    ("adam", "Adam", {"weight_decay": 0.1, "amsgrad": True}, ANY),
    ("adam", "Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}, ANY),
    ("amsgrad", "Adam", {"weight_decay": 0.1, "amsgrad": True}, ANY),
    ("adamw", "AdamW", {}, ANY),
    ("adamw", "AdamW", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3}, ANY),
    ("adamw", "AdamW", {"amsgrad": True}, ANY),
    ("sgd", "SGD", {"lr": 0.02}, ANY),
    ("sgd", "SGD", {"lr": 0.02, "weight_decay": 0.1}, ANY),
    ("sgd", "SGD", {"lr": 0.02, "momentum": 0.9}, ANY),
    ("sgd", "SGD", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}, ANY),
    ("sgd", "SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, ANY),
    ("adagrad", "Adagrad", {}, ANY),
    ("adagrad", "Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}, ANY),
    ("rmsprop", "RMSprop", {}, ANY),
    ("rmsprop", "RMSprop", {"alpha": 0.9, "weight_decay": 0.1, "momentum": 0.9}, ANY),
    ("rmsprop", "RMSprop", {"alpha": 0.9, "centered": True, "eps": 1e-2}, ANY),
    ("rmsprop", "RMSprop", {"alpha": 0.9, "centered": True, "momentum": 0.5, "weight_decay": 0.1, "eps": 1e-2}, ANY),
    ("adadelta", "Adadelta", {}, ANY),
    ("adadelta", "Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1}, ANY),
    ("adamax", "Adamax", {}, ANY),
    ("adamax", "Adamax", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}, ANY),
    ("nadam", "NAdam", {}, ANY),
    ("nadam", "NAdam", {"lr": 0.02, "weight_decay": 0.1, "momentum_decay": 0.1}, ANY),
    ("nadam", "NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}, ANY),
    ("radam", "RAdam", {}, ANY),
    ("radam", "RAdam", {"lr": 0.02, "betas": (0.9, 0.9), "weight_decay": 0.1}, ANY),
    ("radam", "RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}, ANY),
    ("adafactor", "Adafactor", {"eps": (1e-7, 1e-3)}, [(7,), *MATRICES, (2, 3, 4), (1, 3, 2), (2, 3, 4, 5)]),
    ("adafactor", "Adafactor", {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 2.0, "weight_decay": 0.1}, [(7,), *MATRICES, (2, 3, 4), (1, 3, 2), (2, 3, 4, 5)]),
    ("muon", "Muon", {}, MATRICES),
    ("muon", "Muon", {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.3, "ns_steps": 3, "eps": 1e-5}, MATRICES),
    ("muon", "Muon", {"nesterov": False, "ns_coefficients": (2.0, -1.5, 0.5)}, MATRICES),
    ("muon", "Muon", {"adjust_lr_fn": "match_rms_adamw"}, MATRICES),
]  # fmt: skip

# Options of torch's classes that are a rule of their own, a number of the structure, or a word here.
FIXED = {"amsgrad", "ns_steps", "adjust_lr_fn"}

# rule, numbers, shapes, factor on the precision in float32
LOOPS: list[tuple[str, dict[str, Any], list[tuple[int, ...]], float]] = [
    ("classical_momentum", {"lr": 0.02}, ANY, 1),
    ("ema_momentum", {"lr": 0.02, "beta": 0.7}, ANY, 1),
    ("nesterov", {"lr": 0.02, "beta": 0.7}, ANY, 1),
    ("adam_sums", {"lr": 0.02, "betas": (0.8, 0.9)}, ANY, 1),
    ("signsgd", {"lr": 0.02, "weight_decay": 0.1}, ANY, 1),
    ("signum", {"lr": 0.02, "weight_decay": 0.1}, ANY, 1),
    ("lion", {"lr": 0.02, "weight_decay": 0.1}, ANY, 1),
    ("ademamix", {"lr": 0.02, "weight_decay": 0.1}, ANY, 1),
    ("ademamix", {"lr": 0.02, "betas": (0.8, 0.99, 0.999), "alpha": 2.0, "t_alpha_beta3": 30.0}, ANY, 1),
    ("shampoo", {"lr": 0.02, "eps": 1e-2}, MATRICES, 2),
    ("shampoo", {"lr": 0.02, "eps": 1e-2, "weight_decay": 0.1, "frequency": 7}, MATRICES, 2),
    ("soap", {"lr": 0.02, "frequency": 7, "eps": 1e-3}, [(5, 5)], 10),
    ("soap", {"lr": 0.02, "frequency": 1, "shampoo_beta": 0.8, "eps": 1e-3}, [(5, 5), (4, 5)], 10),
    ("muon_exact", {"lr": 0.02}, MATRICES, 2),
    ("muon_exact", {"lr": 0.02, "nesterov": 0, "ns_steps": 3, "match_rms_adamw": 1}, MATRICES, 2),
    ("preconditioned_momentum", {"lr": 0.02}, MATRICES, 1),
    ("preconditioned_momentum", {"lr": 0.02, "beta": 0.5, "zeta": 0.02}, MATRICES, 1),
    ("delta_momentum", {"lr": 0.02}, MATRICES, 1),
    ("delta_momentum", {"lr": 0.02, "beta": 0.95, "erase": 0.3}, MATRICES, 1),
    ("diagonal_delta_momentum", {"lr": 0.02, "beta": 0.95, "erase": 0.7}, ANY, 1),
    ("deep_momentum", {"lr": 0.02}, MATRICES, 1),
    ("deep_momentum", {"lr": 0.02, "beta": 0.8, "rates": (0.02, 0.5), "curve": 0.5}, MATRICES, 1),
    ("feature_momentum", {"lr": 0.02, "bound": 0.7}, ANY, 1),
    ("m3", {"lr": 0.02, "frequency": 7}, MATRICES, 2),
    ("m3", {"lr": 0.02, "frequency": 50, "ns_steps": 3, "betas": (0.5, 0.5, 0.5), "alpha": 0.3}, MATRICES, 2),
    ("m3", {"lr": 0.02, "frequency": 1}, MATRICES, 2),
    ("m3_ema", {"lr": 0.02, "frequency": 7}, MATRICES, 2),
    ("m3_ema", {"lr": 0.02, "frequency": 1, "floor": 0.5, "weight_decay": 0.1}, MATRICES, 2),
    ("sgd_clip_value", {"lr": 0.02, "clip": 0.5}, ANY, 1),
    ("sgd_clip_norm", {"lr": 0.02, "max_norm": 1.5}, ANY, 1),
    ("adamw_clip_norm", {"lr": 0.02, "max_norm": 1.5}, ANY, 1),
    ("adamw_warmup", {"lr": 0.02, "warmup": 10}, ANY, 1),
    ("adamw_warmup", {"lr": 0.02, "warmup": 10, "cooldown": 20, "steps": 45}, ANY, 1),
]  # fmt: skip


def problem(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, steps: int = STEPS) -> tuple[Tensor, list[Tensor]]:
    """A start and gradients of several sizes with a common part."""
    made = torch.Generator().manual_seed(sum(n * 10**i for i, n in enumerate(shape)))
    draw = lambda: torch.randn(shape, generator=made, dtype=torch.float64)  # noqa: E731
    w, common = draw(), draw()
    return w.to(dtype), [((0.5 * common + draw()) * (1 + math.sin(t))).to(dtype) for t in range(steps)]


def descend(optimizer: torch.optim.Optimizer, p: Tensor, grads: list[Tensor]) -> Tensor:
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


def ours(rule: str, w: Tensor, grads: list[Tensor], **numbers: Any) -> Tensor:
    p = torch.nn.Parameter(w.clone())
    return descend(nldsl.optimizer(rule, [p], **numbers), p, grads)


def close(found: Tensor, expected: Tensor, precision: float) -> None:
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    assert error <= precision, f"{error:.2e} > {precision:.0e}"


def of_torch(name: str, params: list[Tensor], numbers: dict[str, Any]) -> torch.optim.Optimizer:
    foreach = {} if name == "Muon" else {"foreach": False}
    return getattr(torch.optim, name)(params, **numbers, **foreach)


def as_ours(rule: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Torch's numbers in our spelling."""
    rest = {k: v for k, v in numbers.items() if k not in ("adjust_lr_fn", rule)}
    return rest | ({"match_rms_adamw": 1} if numbers.get("adjust_lr_fn") == "match_rms_adamw" else {})


def spell(case: tuple[Any, ...]) -> str:
    numbers = next(part for part in case if isinstance(part, dict))
    return "-".join([case[0], *(f"{k}={v}" for k, v in numbers.items())]).replace(" ", "")


@pytest.fixture(params=PRECISION, ids=str)
def dtype(request: pytest.FixtureRequest) -> Any:
    """The type of the tensors; torch keeps its numbers of steps in the default type, which is as wide here."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", TORCH, ids=spell)
def test_as_in_torch(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    rule, name, numbers, shapes = case
    starts = [problem(shape, dtype) for shape in shapes]
    mine, theirs = ([torch.nn.Parameter(w.clone()) for w, _ in starts] for _ in range(2))
    optimizer, other = nldsl.optimizer(rule, mine, **as_ours(rule, numbers)), of_torch(name, theirs, numbers)
    for t in range(STEPS):
        for p, q, (_, grads) in zip(mine, theirs, starts):
            p.grad, q.grad = grads[t].clone(), grads[t].clone()
        optimizer.step()
        other.step()
    for p, q in zip(mine, theirs):
        close(p.detach(), q.detach(), PRECISION[dtype])
        for key, value in other.state[q].items():
            if isinstance(value, Tensor):
                close(optimizer.state[p][key].double(), value.double(), 4 * PRECISION[dtype])


@pytest.mark.parametrize(("rule", "name"), sorted({case[:2] for case in TORCH}))
def test_numbers_of_torch_have_their_names_and_defaults(rule: str, name: str) -> None:
    plain = of_torch(name, [torch.nn.Parameter(torch.zeros(2, 2))], {}).defaults
    mine = nldsl.optimizer(rule, [torch.nn.Parameter(torch.zeros(2, 2))]).defaults
    for key in plain.keys() - FIXED - ({"decoupled_weight_decay"} if rule in ("adamw", "amsgrad") else set()):
        if key == "eps" and name == "Adafactor":
            assert mine[key] == (torch.finfo(torch.float32).eps, plain[key][1])
        elif key != "foreach":
            assert mine[key] == plain[key], key


@pytest.mark.parametrize("case", LOOPS, ids=spell)
def test_as_in_the_paper(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    """The loops run in float64: 1 - lr * weight_decay, rounded to float32, is off by 1e-6 after 50 steps."""
    rule, numbers, shapes, factor = case
    for shape in shapes:
        w, grads = problem(shape, dtype)
        wide = [g.double() for g in grads]
        expected = getattr(oracles, rule)(w.double(), wide, **numbers)
        close(ours(rule, w, grads, **numbers).double(), expected, 1e-12 if dtype == torch.float64 else factor * 2e-6)


def test_muon_in_full_precision_is_near_muon() -> None:
    w, grads = problem((6, 3))
    close(ours("muon_exact", w, grads, lr=0.02), ours("muon", w, grads, lr=0.02), 0.05)


# --- a layer's inputs and output gradients ---------------------------------------------------------


@pytest.mark.parametrize("rule", ["delta_gradient_descent", "delta_gradient_descent_wide"])
@pytest.mark.parametrize("samples", [1, 4, 9])
@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_delta_gradient_descent(rule: str, samples: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    e, d = shape
    w, _ = problem(shape, dtype)
    made = torch.Generator().manual_seed(samples)
    batches = [
        (torch.randn(d, samples, generator=made, dtype=dtype), torch.randn(e, samples, generator=made, dtype=dtype)) for _ in range(STEPS)
    ]
    layer = torch.nn.Linear(d, e, bias=False, dtype=dtype)
    layer.weight.data.copy_(w)
    optimizer = nldsl.optimizer(rule, layer, lr=0.3)
    for x, delta in batches:
        optimizer.zero_grad()
        (layer(x.T) * delta.T).sum().backward()
        optimizer.step()
    expected = oracles.delta_gradient_descent(w.double(), [(x.double(), delta.double()) for x, delta in batches], 0.3)
    close(layer.weight.detach().double(), expected, 10 * PRECISION[dtype])


@pytest.mark.parametrize("way", ["scaled", "clipped", "maximized"])
@pytest.mark.parametrize("rule", ["delta_gradient_descent", "delta_gradient_descent_wide"])
def test_delta_gradient_descent_takes_the_gradient_it_is_given(rule: str, way: str) -> None:
    """What a scaler divides the gradient by, clipping takes of it and `maximize` turns round holds for `delta` too."""
    made = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, 4, generator=made, dtype=torch.float64), torch.randn(5, 3, generator=made, dtype=torch.float64)

    def after(factor: float, way: str) -> Tensor:
        layer = torch.nn.Linear(4, 3, bias=False, dtype=torch.float64)
        layer.weight.data.copy_(torch.arange(12.0).reshape(3, 4) / 10)
        optimizer = nldsl.optimizer(rule, layer, lr=0.3, maximize=way == "maximized")
        for _ in range(2):
            optimizer.zero_grad()
            (factor * (layer(x) - y).square().sum()).backward()
            if way in ("scaled", "clipped"):
                layer.weight.grad *= {"scaled": 1 / factor, "clipped": 0.5}[way]
            optimizer.step()
        return layer.weight.detach()

    given = {"scaled": 8.0, "clipped": 1.0, "maximized": -1.0}[way]
    torch.testing.assert_close(after(given, way), after(0.5 if way == "clipped" else 1.0, "plain"), rtol=1e-12, atol=1e-12)


def test_delta_gradient_descent_leaves_vectors_to_sgd() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    biases = [net[0].bias, net[2].bias]
    optimizer = nldsl.optimizer("delta_gradient_descent", net, lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
        expected = [b.detach() - 0.3 * b.grad for b in biases]
        optimizer.step()
        for b, e in zip(biases, expected):
            close(b.detach(), e, 1e-14)


def test_delta_gradient_descent_of_one_column() -> None:
    """(57) with lr / (1 + lr |x|^2)."""
    w, _ = problem((3, 4))
    x, delta = torch.randn(4, 1, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    rate = 0.5 / (1 + 0.5 * x.square().sum())
    close(oracles.delta_gradient_descent(w, [(x, delta)], 0.5), w - rate * (w @ x + delta) @ x.T, 1e-12)


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ("deep_momentum", {"rates": (0.0, 1.0), "curve": 0.0}),
        ("delta_momentum", {"erase": 0.0}),
        ("diagonal_delta_momentum", {"erase": 0.0}),
        ("preconditioned_momentum", {"zeta": 0.0}),
        ("feature_momentum", {"bound": 1e8}),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_without_what_it_adds_it_is_momentum(rule: str, numbers: dict[str, Any], shape: tuple[int, int]) -> None:
    w, grads = problem(shape)
    close(ours(rule, w, grads, lr=0.02, **numbers), oracles.classical_momentum(w, grads, 0.02), 1e-12)


def test_one_sided_limits() -> None:
    w, grads = problem((4, 6))
    close(ours("ademamix", w, grads, lr=0.02, alpha=0.0), ours("adamw", w, grads, lr=0.02, weight_decay=0.0), 1e-12)
    close(ours("muon_exact", w, grads, ns_steps=0, momentum=0.0, nesterov=0, weight_decay=0.0),
          ours("sgd_clip_norm", w, [g / g.norm() for g in grads], max_norm=2.0), 1e-12)  # fmt: skip
    close(ours("signum", w, grads, momentum=0.0), ours("signsgd", w, grads), 1e-12)
    close(ours("momentum", w, grads, rate=0.02), ours("classical_momentum", w, grads, lr=0.02), 1e-12)


@pytest.mark.parametrize("rule", ["m3", "m3_ema"])
def test_without_its_slow_memory_m3_does_not_know_its_period(rule: str) -> None:
    w, grads = problem((4, 6))
    close(ours(rule, w, grads, alpha=0.0, frequency=3), ours(rule, w, grads, alpha=0.0, frequency=20), 1e-14)
    assert not torch.equal(ours(rule, w, grads, frequency=3), ours(rule, w, grads, frequency=20))


# --- vectors given to rules of matrices ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "other"),
    [("soap", "adamw"), ("shampoo", "adagrad"), ("adafactor", "adafactor_vector"), ("preconditioned_momentum", "classical_momentum"), ("delta_momentum", "diagonal_delta_momentum"),
     ("deep_momentum", "classical_momentum")],
)  # fmt: skip
def test_vectors_go_to_the_other_rule(rule: str, other: str) -> None:
    """Numbers of one name are one number of the group; the others have their defaults."""
    w, grads = problem((7,))
    group = nldsl.optimizer(rule, [torch.zeros(3, 2)], lr=0.02).param_groups[0]
    own = nldsl.optimizer(other, [torch.zeros(3)]).param_groups[0]
    shared = {k: group[k] for k in own if k in group and k not in ("params", "rule")}
    if "betas" in shared:
        shared["betas"] = shared["betas"][: len(own["betas"])]
    close(ours(rule, w, grads, lr=0.02), ours(other, w, grads, **shared), 1e-14)


@pytest.mark.parametrize("rule", ["muon", "muon_exact", "m3", "m3_ema", "delta_gradient_descent_wide"])
def test_vectors_are_refused_with_a_way_out(rule: str) -> None:
    model = torch.nn.Linear(3, 2)
    if rule.startswith("delta"):
        nldsl.optimizer(rule, model)  # goes on to sgd
        return
    with pytest.raises(ValueError, match=r"`bias` has shape \(2,\).*matrices by"):
        nldsl.optimizer(rule, model)
    nldsl.optimizer(f"matrices by {rule}(lr = 0.02), rest by adamw()", model)


# --- checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", TORCH, ids=spell)
@pytest.mark.parametrize("way", ["from torch", "to torch"])
def test_checkpoints(case: tuple[Any, ...], way: str) -> None:
    """20 steps with one, its state given to a fresh other one, and 10 more steps with both."""
    rule, name, numbers, shapes = case
    torch.set_default_dtype(torch.float64)
    try:
        for shape in shapes[::2]:
            w, grads = problem(shape, steps=30)
            p, q = torch.nn.Parameter(w.clone()), torch.nn.Parameter(w.clone())
            mine, theirs = nldsl.optimizer(rule, [p], **as_ours(rule, numbers)), of_torch(name, [q], numbers)
            (first, at), (second, to) = [(theirs, q), (mine, p)][:: 1 if way == "from torch" else -1]
            descend(first, at, grads[:20])
            to.data.copy_(at.data)
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            if second is theirs:  # what is fixed in our class is no number of our groups
                plain = of_torch(name, [q], numbers).param_groups[0]
                theirs.param_groups[0] |= {k: plain[k] for k in FIXED & plain.keys() - mine.param_groups[0].keys()}
            close(descend(second, to, grads[20:]), descend(first, at, grads[20:]), 1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


# --- other libraries ----------------------------------------------------------------------------------


def test_as_in_pytorch_optimizer() -> None:
    other = pytest.importorskip("pytorch_optimizer")
    decay = {"weight_decay": 0.1, "weight_decouple": True}
    cases = [
        ("lion", other.Lion, {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1}, decay),
        ("ademamix", other.AdEMAMix, {"lr": 0.02, "weight_decay": 0.1}, decay),
        ("ademamix", other.AdEMAMix, {"lr": 0.02, "weight_decay": 0.1, "t_alpha_beta3": 30.0}, decay),
        ("signum", other.SignSGD, {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.1}, decay),
        ("signsgd", other.SignSGD, {"lr": 0.02, "weight_decay": 0.1}, {"momentum": 0.0, **decay}),
    ]  # fmt: skip
    for rule, theirs, numbers, options in cases:
        for shape in ANY:
            w, grads = problem(shape)
            p = torch.nn.Parameter(w.clone())
            expected = descend(theirs([p], foreach=False, **{**numbers, **options}), p, grads)
            close(ours(rule, w, grads, **numbers), expected, 1e-12)
    for shape in MATRICES:
        w, grads = problem(shape)
        p = torch.nn.Parameter(w.clone())
        expected = descend(other.Shampoo([p], lr=0.02, matrix_eps=1e-2), p, grads)
        close(ours("shampoo", w, grads, lr=0.02, eps=1e-2), expected, 1e-11)


def test_as_in_optax() -> None:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    cases = [
        ("lion", optax.lion(0.02, b1=0.8, b2=0.95, weight_decay=0.1), {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1}),
        ("signsgd", optax.sign_sgd(0.02), {"lr": 0.02}),
        ("ademamix", optax.contrib.ademamix(0.02, weight_decay=0.1), {"lr": 0.02, "weight_decay": 0.1}),
        ("classical_momentum", optax.sgd(0.02, momentum=0.9), {"lr": 0.02}),
        ("nesterov", optax.sgd(0.02, momentum=0.9, nesterov=True), {"lr": 0.02}),
    ]  # fmt: skip
    with jax.enable_x64(True):
        for rule, theirs, numbers in cases:
            w, grads = problem((4, 6))
            state, at = theirs.init(w.numpy()), w.numpy()
            for g in grads:
                change, state = theirs.update(g.numpy(), state, at)
                at = optax.apply_updates(at, change)
            close(ours(rule, w, grads, **numbers), torch.tensor(at), 1e-12)
