"""Slopes where a word has a kink, at 0 and at ties: the interpreter, torch and the compiler's own derivatives have one meaning."""

import pytest
import torch
from test_torch_compiled import compiled
from torch_cases import case, distance

from nldsl_torch.optim.numbers import _max, _min

# Expressions of z = (0, 1, -2), with p = (0, 0, 0) and n = 0 -> the slopes of their sum with respect to z. In an objective they
# are slopes with respect to a memory.
NAN, INF = float("nan"), float("inf")
SLOPES = {
    "abs(z)": [0, 1, -1],
    "sign(z)": [0, 0, 0],
    "relu(z)": [0, 1, 0],
    "max(z, 0)": [0.5, 1, 0],
    "max(0, z)": [0.5, 1, 0],
    "min(z, 0)": [0.5, 0, 1],
    "min(max(z, 0), 0)": [0.25, 0, 0],
    "max(z, p)": [0.5, 1, 0],
    "min(p, z)": [0.5, 0, 1],
    "max(z, n)": [0.5, 1, 0],
    "max(z, z)": [1, 1, 1],
    "sqrt(abs(z))": [0, 0.5, -(2**-1.5)],
    "sqrt(z * z)": [0, 1, -1],
    "sqrt(z)": [0, 0.5, NAN],
    "where(z, sqrt(abs(z)), 2 * z)": [2, 0.5, 2],
    "where(z, z, 2 * z)": [2, 1, 2],
    "z ^ 2": [0, 2, -4],
    "z ^ 1": [1, 1, 1],
    "z ^ 0": [0, 0, 0],
    "z ^ n": [0, 0, 0],
    "abs(z) ^ 1.5": [0, 1.5, -1.5 * 2**0.5],
    "abs(z) ^ (n + 1.5)": [0, 1.5, -1.5 * 2**0.5],
    "z ^ (0 - 1)": [-INF, -1, -0.25],
    "1 / z": [-INF, -1, -0.25],
    "log(z)": [INF, 1, -0.5],
    "softplus(z)": [0.5, 1 / (1 + torch.e**-1), 1 / (1 + torch.e**2)],
    "silu(z)": [0.5, None, None],
    "gelu(z)": [0.5, None, None],
    "tanh(z)": [1, None, None],
    "unit(z)": [None, None, None],
    "norm(z)": [None, None, None],
    "softmax(z)": [0, 0, 0],
}
Z = torch.tensor([[[0.0, 1.0, -2.0]]], dtype=torch.float64)


def program(out: str) -> str:
    return f"block m(d) {{ in x : real[d]  param p : real[d] = zeros  param n : real = zeros  {out} }}"


def still(text: str):
    """Its module and its interpreter, with parameters 0."""
    c = case(text, "m", d=3)
    params = {n: torch.zeros_like(v) for n, v in c.module.state_dict().items()}
    c.module.load_state_dict(params)
    return c.module, lambda x: c.interpreter.run(params, {"x": x})[0]["y"]


def expect(found, wanted, what):
    known = torch.tensor([v if w is None else w for v, w in zip(found.flatten().tolist(), wanted, strict=True)])
    assert torch.allclose(found.flatten(), known.double(), equal_nan=True, rtol=1e-7, atol=1e-12), (what, found, wanted)


@pytest.mark.parametrize("word", SLOPES)
def test_of_a_stream(word):
    found = {}
    for name, run in zip(("torch", "interpreter"), still(program(f"out y = {word.replace('z', 'x')}")), strict=True):
        x = Z.clone().requires_grad_()
        y = run(x).sum()
        found[name] = torch.autograd.grad(y, x)[0] if y.requires_grad else torch.zeros_like(x)
        expect(found[name], SLOPES[word], name)
    assert torch.allclose(found["torch"], found["interpreter"], equal_nan=True)


@pytest.mark.parametrize("every", ["", " every 2"])
@pytest.mark.parametrize("word", SLOPES)
def test_of_a_memory(word, every):
    """A step of -1 from 0 is the slope of the objective; tick by tick, and in windows."""
    step = f"memory S : real[d] = zeros{every} {{ minimize sum({word.replace('z', '(S + x)')}) by gd(0 - 1) }}  out y = S"
    x = Z.expand(1, 2 if every else 1, 3)
    for name, run in zip(("torch", "interpreter"), still(program(step)), strict=True):
        expect(run(x)[:, -1] / (2 if every else 1), SLOPES[word], name)


@pytest.mark.parametrize("word", ["sqrt(z * z)", "max(z, 0)", "1 / (z + 1)", "min(z, n) * sqrt(abs(z))"])
def test_in_a_compiled_region(word):
    module, interpreter = still(program(f"u = {word.replace('z', 'x')} + tanh(x) * sigmoid(x) + exp(x)  out y = u"))
    x = Z.expand(2, 4, 3).clone().requires_grad_()
    wanted = torch.autograd.grad(interpreter(x).sum(), x)[0]
    with compiled("aot_eager"):
        found = torch.autograd.grad(module(x).sum(), x)[0]
    assert distance(found, wanted) < 1e-12


@pytest.mark.parametrize("word", ["sqrt(abs(x))", "1 / (x + 3)", "max(x, 0.3)"])
def test_second_derivatives(word):
    module, _ = still(program(f"out y = {word}"))
    assert torch.autograd.gradgradcheck(module, (Z.clone()[:, :, 1:].repeat(1, 1, 2)[:, :, :3].requires_grad_(),))


@pytest.mark.parametrize("rule", ["adam(lr = 0.05, eps = 0.1)", "adagrad(lr = 0.05)"])
def test_a_learner_whose_first_gradient_is_zero(rule):
    """Its square root of 0 would have an infinite slope, times 0."""
    text = (
        "block m(d) {\n  in x : real[d]\n  memory A : real[d] { minimize 0.5 * sqnorm(A - x) by gd(0.2) }\n"
        f"  memory B : d -> d = learned(normal(0.3)) {{ minimize -dot(B(unit(x)), last A) by {rule} }}\n  out y = B(x)\n}}"
    )
    c = case(text, "m", d=3)
    x = c.input(2, 4).requires_grad_()
    params = {n: p.detach().clone().requires_grad_() for n, p in c.module.named_parameters()}
    wanted = torch.autograd.grad(c.interpreter.run(params, {"x": x})[0]["y"].square().sum(), [x, *params.values()])
    found = torch.autograd.grad(c.module(x).square().sum(), [x, *c.module.parameters()])
    for a, b in zip(found, wanted, strict=True):
        assert b.isfinite().all() and distance(a, b) < 1e-10


def test_the_reverse_of_a_window_has_the_same_slopes():
    """The reverse of a window is written by the compiler, by rules of its own."""
    text = (
        "block m(d) {\n  in x : real[d]\n  memory S : d -> d = zeros every 2 { minimize sum(sqrt(abs(S(x)))) + sum(1 / (2 + max(S(x), 0))) by gd(0.1) }\n"
        "  out y = sqrt(abs(S(x)))\n}"
    )
    c = case(text, "m", d=3)
    assert c.names == "windows"
    x = c.input(2, 5).requires_grad_()
    wanted = torch.autograd.grad(c.interpreter.run({}, {"x": x})[0]["y"].sum(), x)[0]
    found = torch.autograd.grad(c.module(x).sum(), x)[0]
    assert wanted.isfinite().all() and distance(found, wanted) < 1e-10


def test_max_of_a_step_that_is_differentiated():
    for f, wanted in ((_max, [0.5, 1, 0]), (_min, [0.5, 0, 1])):
        for order in (1, -1):
            z = Z.clone().requires_grad_()
            y = f(*(z, 0.0)[::order])
            expect(torch.autograd.grad(y.sum(), z)[0], wanted, f.__name__)
            assert torch.equal(y, f(*(Z, 0.0)[::order]))
