"""Intervals: they cover every operation, and contain what the operations give."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nldsl
from nldsl.check.interval import ALL, Interval, bfloat16, divide, times, to_power
from nldsl.check.ranges import TABLE, intervals
from nldsl.vocabulary import WORDS

INF = math.inf


def interval_of(expr: str, name: str = "z") -> Interval:
    text = f"block b(d) {{ in x : real[d]  in s : real  k = unit(x)  z = {expr}  out y = sum(x) * sum(z * x) * s * sum(k) }}"
    e = nldsl.load(text).symbolic("b")
    return intervals(e.unit, e.types[e.key])[name]


def test_every_operation_has_an_interval():
    assert WORDS.keys() | {"grad"} == TABLE.keys()


@pytest.mark.parametrize(
    ("expr", "low", "high"),
    [
        ("sigmoid(s)", 0, 1),
        ("1 - sigmoid(s)", 0, 1),
        ("exp(-softplus(s))", 0, 1),
        ("exp(-exp(s) * softplus(s))", 0, 1),
        ("softplus(s)", 0, INF),
        ("sqnorm(x)", 0, INF),
        ("sqnorm(k)", 0, 1),
        ("sqnorm(2 * k)", 0, 4),
        ("sqnorm(-sigmoid(s) * k)", 0, 1),
        ("dot(k, k)", 0, 1),
        ("dot(k, softmax(x))", -1, 1),
        ("k", -1, 1),
        ("silu(s)", -0.2785, INF),
        ("relu(s)", 0, INF),
        ("tanh(s) * 3 + 1", -2, 4),
        ("s * s", 0, INF),
        ("s ^ 2", 0, INF),
        ("sigmoid(s) ^ 0.5", 0, 1),
        ("0.9 ^ count()", 0, 0.9),
        ("min(max(s, -2), 5)", -2, 5),
        ("delay(exp(s) + 1, 2)", 0, INF),
        ("mean(sigmoid(x))", 0, 1),
        ("sum(sigmoid(x))", 0, INF),
        ("1 / (1 + softplus(s))", 0, 1),
        ("s", -INF, INF),
        ("d", 1, INF),
        ("1 / d", 0, 1),
        ("s - s", 0, 0),
        ("where(s, sigmoid(s), -tanh(s) ^ 2 * 3)", -3, 1),
        ("where(exp(s) + 1, 2, 5)", 2, 2),
        ("where(-relu(s), 2, 5)", 5, 5),
        ("bfloat16(0.3 * sigmoid(s))", 0, 0.30078125),
        ("sqnorm(bfloat16(k))", 0, (1 + 2**-8) ** 2),
        ("sum(identity(outer(x, x)))", 0, INF),
        ("mean(identity(outer(x, x)))", 0, 1),
        ("mean(eigenvectors(outer(x, x)))", -1, 1),
        ("mean(row_mean(outer(x, sigmoid(x) + k)))", -INF, INF),
        ("mean(column_mean(outer(k, k)))", -1, 1),
        ("sqnorm(matmul(outer(k, k), outer(k, 2 * k)))", 0, 4),
        ("mean(solve(outer(x, x), x))", -INF, INF),
        ("mean(matrix_power(outer(x, x), s))", -INF, INF),
    ],
)
def test_known_intervals(expr, low, high):
    found = interval_of(expr)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_number_of_a_copy():
    text = "block b(d, n) { in x : real[d]  each h in n { a = 1 - 2 ^ (-5 - h)  o = a * x }  out y = flatten(o) }"
    program = nldsl.load(text)
    e = program.symbolic("b")
    assert intervals(e.unit, e.types[e.key])["a"] == Interval(1 - 2**-5, 1.0)
    e = program.elaborate("b", d=4, n=3)
    assert intervals(e.unit, e.types[e.key])["a"] == Interval(1 - 2**-5, 1 - 2**-7)


FUNCTIONS = {
    "exp(s)": math.exp, "tanh(s)": math.tanh, "abs(s)": abs, "softplus(s)": lambda x: math.log1p(math.exp(x)),
    "silu(s)": lambda x: x / (1 + math.exp(-x)), "gelu(s)": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "sign(s)": lambda x: (x > 0) - (x < 0), "s ^ 3": lambda x: x**3, "s ^ 2": lambda x: x**2, "relu(s)": lambda x: max(x, 0.0),
    "1 / s": lambda x: 1 / x, "sigmoid(s) / s": lambda x: 1 / (1 + math.exp(-x)) / x,
}  # fmt: skip


@given(st.sampled_from(sorted(FUNCTIONS)), st.floats(-30, 30), st.floats(-30, 30), st.floats(0, 1))
def test_an_interval_contains_the_value(name, a, b, part):
    low, high = sorted((a, b))
    x = min(high, max(low, low + part * (high - low)))
    if x == 0 or abs(x) < 1e-300:
        return
    bounded = f"min(max(s, {low!r}), {high!r})"
    found = interval_of(re.sub(r"\bs\b", bounded, name))
    value = FUNCTIONS[name](x)
    slack = 1e-6 * max(1.0, abs(value))
    assert found.low - slack <= value <= found.high + slack


small = st.floats(-4, 4)


@given(small, small, small, small, st.floats(0, 1), st.floats(0, 1))
def test_products_quotients_and_powers_contain_their_values(a, b, c, d, s, t):
    p, q = Interval(*sorted((a, b))), Interval(*sorted((c, d)))
    x, y = p.low + s * (p.high - p.low), q.low + t * (q.high - q.low)
    assert times(p, q).low - 1e-6 <= x * y <= times(p, q).high + 1e-6
    if abs(y) > 1e-3:
        found = divide(p, q)
        assert found.low - 1e-6 <= x / y <= found.high + 1e-6
    if x > 1e-3:
        found = to_power(Interval(max(p.low, 0.0), max(p.high, 0.0)), q)
        assert found.low * (1 - 1e-6) - 1e-6 <= x**y <= found.high * (1 + 1e-6) + 1e-6


def test_zero_times_unknown_is_zero():
    assert times(Interval(0, 0), ALL) == Interval(0, 0)


@given(st.floats(allow_nan=False) | st.floats(0.9, 1.1) | st.floats(width=32, allow_nan=False))
def test_rounding_is_that_of_torch(x):
    import torch

    assert bfloat16(x) == torch.tensor(x, dtype=torch.float64).bfloat16().item()
