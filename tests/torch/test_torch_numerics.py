"""Where rounding, overflow and padding could show: forgetting from e^0 to e^-30 a tick, zero and repeated keys, long sequences."""

import pytest
import torch
from torch_cases import EXACT, SINGLE, Reference, case, compare, distance, gradients, outputs, weights
from torch_programs import memory

import nldsl
from nldsl_interpreter import Interpreter

OBJECTIVES = {"solve": "0.5 * sqnorm(S(k) - v)", "closed": "-dot(S(k), v)"}
# Per tick and head (or channel): even, uneven, and some ticks that keep everything beside some that keep nothing.
DECAYS = {
    "even": "exp(-s * sigmoid({} / 8))",
    "uneven": "exp(-s * relu({}))",
    "sigmoid": "sigmoid(s * {})",
    "complement": "1 - sigmoid(s * {})",
    "root": "sigmoid(4 * s * {}) ^ (1 / 4)",
    "product": "exp(-s * relu({0})) * sigmoid(s * {0})",
}
STRENGTHS = [1e-6, 2.0, 30.0]


def forgetting(kind: str, channels: bool, form: str, s: float):
    text = memory(
        f"decay({DECAYS[kind].format('Wa(x)' if channels else 'wa(x)')}), gd(b)",
        OBJECTIVES[form],
        out="S(q) + last S(x)",
    )
    return case(text.replace("block m(d)", "block m(d, s)"), "m", d=4, s=s)


@pytest.mark.parametrize("form", OBJECTIVES)
@pytest.mark.parametrize(
    ("kind", "channels"),
    [(k, False) for k in DECAYS]
    + [(k, True) for k in ("even", "uneven", "root")]
    + [pytest.param(k, True, marks=pytest.mark.soak) for k in ("sigmoid", "complement", "product")],
)
def test_any_forgetting(kind, channels, form):
    for s in STRENGTHS:
        c = forgetting(kind, channels, form, s)
        assert c.names == form, c.forms
        reference = Reference(c, c.input(1, 70), [70])
        compare(c, reference, [(c.module, 10 * EXACT), (c.single(), SINGLE)], 70, 1)


@pytest.mark.parametrize(
    "steps",
    [
        "decay(0), gd(0.5)",
        "decay(1), gd(0.5)",
        "gd(0.5), decay(0)",
        "decay(1), momentum(0.2, 1)",
        "decay(1), momentum(0.2, 0)",
        "titans(0.2, 0, 1)",
    ],
)
@pytest.mark.parametrize("form", OBJECTIVES)
def test_all_or_nothing_is_kept(steps, form):
    c = case(memory(steps, OBJECTIVES[form], init="learned", out="S(q) + last S(x)"), "m", d=4)
    assert c.names == form
    reference = Reference(c, c.input(1, 70), [70])
    compare(c, reference, [(c.module, 10 * EXACT), (c.single(), SINGLE)], 70, 1)


@pytest.mark.parametrize(
    "steps", ["decay(a), gd(b)", "decay(A), gd(1)", "momentum(0.2, 0.7)", "decay(a), momentum(0.2, 0.7)"]
)
@pytest.mark.parametrize("what", ["zero", "some zero", "repeated", "huge", "tiny"])
def test_keys(what, steps):
    c = case(memory(steps), "m", d=4)
    x = c.input(1, 70)
    x = {"zero": x * 0, "some zero": x * (torch.arange(70) % 3 > 0).double()[:, None], "repeated": x[:, :1].expand(-1, 70, -1), "huge": 1e6 * x,
         "tiny": 1e-9 * x}[what]  # fmt: skip
    reference = Reference(c, x, [70])
    # The unit of a tiny key is x / 0.001: what it loses is lost in the interpreter too.
    compare(c, reference, [(c.module, 10 * EXACT), (c.single(), SINGLE)], 70, 1)


@pytest.mark.parametrize(
    "steps",
    [
        "decay(a), gd(1)",
        "decay(1 - 0.01 * a), gd(b)",
        "decay(A), gd(b)",
        "titans(theta = 0.3 * b, eta = c, alpha = 0.05 * a)",
    ],
)
def test_long(steps):
    """4096 ticks in float32 are those in float64, and so are the gradients."""
    c = case(memory(steps), "m", d=16)
    x = c.input(1, 4096).requires_grad_()
    exact = outputs(c.module(x))
    w = weights(exact)
    wanted = gradients(c.module, x, exact, w)
    single, z = c.single(), x.detach().float().requires_grad_()
    y = outputs(single(z))
    assert distance(y["y"], exact["y"]) < SINGLE
    for n, g in gradients(single, z, y, w).items():
        assert distance(g, wanted[n]) < 2 * SINGLE, n


@pytest.mark.parametrize("T", [1, 31, 32, 33, 63, 64, 65, 127, 129])
def test_padding_is_nothing(T):
    """Around every border of a chunk: the state after T ticks and one more are those of T + 1 ticks."""
    c = case(memory("decay(a), momentum(0.2, 0.7)", out="S(q) + transpose(S)(v)"), "m", d=4)
    x = c.input(2, T + 1)
    whole, end = c.module(x, return_state=True)
    y, state = c.module(x[:, :T], return_state=True)
    last, after = c.module.step(x[:, T], state)
    assert distance(torch.cat([y, last[:, None]], 1), whole) < EXACT
    assert all(distance(after[k], end[k]) < EXACT for k in end)


def test_segments_do_not_matter():
    """Long batches are computed in stretches that stay in cache: the same numbers as one sequence alone."""
    c = case(memory("decay(a), gd(b)"), "m", d=16)
    x = c.input(8, 2000)
    with torch.no_grad():
        y = c.module(x)
        assert distance(c.module(x[3:4]), y[3:4]) < 1e-12


@pytest.mark.parametrize("first", ["0.3", "log(3)", "sqrt(2) + softplus(0.1)"])
def test_a_first_value_has_the_digits_of_the_module(first):
    c = case(f"block m(d) {{ in x : real[d]  memory m : real[d] = {first} {{ update 0.5 * last m + x }}  out y = last m }}", "m", d=2)
    x = c.input(1, 3)
    assert torch.allclose(c.module(x), c.interpreter.run({}, {"x": x})[0]["y"], rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_numbers_that_only_the_tick_decides_are_exact(dtype):
    """They are rounded once, where they meet what is given: bfloat16 has no 257, and float32 four digits of 1 - 0.999."""
    text = "block m(d) { in x : real[d]  t = count()  out y = x * (1 - 0.999 ^ t)  out z = x / (t - 297.5)  out n = 0 * x + t }"
    program = nldsl.load(text)
    x, t = torch.ones(1, 300, 1, dtype=dtype), torch.arange(1, 301, dtype=torch.float64)
    wanted = {"y": 1 - 0.999**t, "z": 1 / (t - 297.5), "n": t}
    e = program.elaborate("m", d=1)
    for found in (program.module("m", d=1).to(dtype)(x), Interpreter(*e.parts).run({}, {"x": x})[0]):
        for name, value in wanted.items():
            assert found[name].dtype == dtype
            off = ((found[name][0, :, 0].double() - value) / value).abs().max()
            assert off <= max(2 * torch.finfo(dtype).eps, 1e-13), (name, off)


def test_whole_numbers_in_arithmetic_have_the_dtype_of_the_module():
    program = nldsl.load("block m(d) { in x : real[d]  in n : int[9]  out y = 1 / n  out z = exp(n) * sqrt(n) / (n + 1)  out u = 0 * x }")
    n = torch.arange(1, 9)[None]
    for dtype in (torch.float64, torch.float32):
        x, whole = torch.zeros(1, 8, 2, dtype=dtype), n.to(dtype)
        e = program.elaborate("m", d=2)
        for found in (program.module("m", d=2).to(dtype)(x, n), Interpreter(*e.parts).run({}, {"x": x, "n": n})[0]):
            assert found["y"].dtype == dtype and torch.equal(found["y"], 1 / whole)
            torch.testing.assert_close(found["z"], whole.exp() * whole.sqrt() / (whole + 1), rtol=4 * torch.finfo(dtype).eps, atol=0)
