"""What rounding alone decides is no alarm: numbers that are truly 0, what is left of large ones, and what leaves all range."""

from dataclasses import replace

import pytest
import torch

import nldsl
from nldsl_testing import compare, properties, runs
from nldsl_testing.example import Example
from nldsl_testing.noise import Noise
from nldsl_testing.report import line
from nldsl_testing.subject import Subject
from nldsl_testing.verify import Budget, verify

SOME = Budget(examples=6, seconds=60.0, sizes=1, example=0.05)
MEMORY = "memory S : d -> d = learned { minimize 0.5 * sqnorm(S(unit(x)) - x) by decay(0.9), gd(0.3) }"
BODIES = {
    "a gradient that is 0": f"{MEMORY}  out y = sum(softmax(S(x)))",
    "an output that is 0": f"{MEMORY}  param s : real[d]  p = softmax(S(x))  out y = p - (p + s) + s",
    "a retention of 0": "memory S : d -> d = learned { minimize -dot(S(unit(x)), 0 * x) by decay(0), gd(1)  reset every 4 }  out y = S(x)",
    "a retention that is 0 by chance": "memory S : d -> d = learned { minimize -dot(S(unit(x)), 0 * x) by decay(1 - sigmoid(mean(x)) ^ 0), gd(1)  reset every 4 }  out y = S(x)",
    "what is left of two": """param Wk, Wv : d -> d  k = 3 * unit(Wk(x))
        memory S : d -> d { minimize 0.5 * sqnorm(S(k) - Wv(x)) by gd(1) }
        memory T : d -> d { minimize 0.5 * sqnorm(T(k) - Wv(x)) by gd(1) }
        out y = S(x) - T(x) + x""",
}
DIVERGES = """memory S : real[d] = learned { update exp(last S) + x }
  memory T : d -> d = learned { minimize 0.5 * sqnorm(T(x) - S) at start(3) by gd(0.5) }
  out y = T(x)"""


def program(body: str) -> nldsl.Program:
    return nldsl.load(f"block b(d) {{\n  in x : real[d]\n  {body}\n}}\n")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_rounding_decides_is_no_alarm(body: str) -> None:
    found = list(verify(program(body), budget=SOME, only=["lowerings", "derivatives", "splits", "cadence", "precision"]))
    assert not [o for o in found if o.failure is not None or o.diverged]


def test_a_wrong_number_where_0_is_right_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = runs.compiled

    def wrong(*args, **more):
        run = plain(*args, **more)
        return replace(run, y={n: y + 1e-12 for n, y in run.y.items()})

    monkeypatch.setattr(properties, "compiled", wrong)
    for name in ("an output that is 0", "a retention of 0"):
        (found,) = verify(program(BODIES[name]), budget=SOME, only=["lowerings"])
        assert found.failure is not None and "output `y`" in found.failure.what


def test_a_known_retention_of_0_leaves_nothing() -> None:
    subject, example = Subject(program(BODIES["a retention of 0"]), "b", {"d": 4}), Example((("d", 4),), cuts=(7,))
    found = runs.compiled(subject, example)
    assert not found.y["y"].any() and not found.state["S"].any()


def test_what_diverges_says_nothing() -> None:
    found = {o.property: o for o in verify(program(DIVERGES), budget=SOME, only=["lowerings", "splits", "precision"])}
    assert not [o for o in found.values() if o.failure is not None]
    assert 0 < found["lowerings"].diverged < found["lowerings"].examples
    assert line(found["lowerings"]).endswith(f"({found['lowerings'].examples} examples, {found['lowerings'].diverged} of them diverge)")


def test_where_all_diverge_nothing_is_said_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*given: object) -> None:
        raise compare.Diverges

    monkeypatch.setattr(properties, "agree", diverges)
    (found,) = verify(program(MEMORY + "  out y = S(x)"), budget=SOME, only=["splits"])
    assert found.failure is None and "leave the range" in (found.skipped or "") and line(found).split()[1] == "skipped"


def test_noise() -> None:
    x = torch.full((2000,), 3.0, dtype=torch.float64, requires_grad=True)
    with Noise(1e-6, 0):
        y = x * x
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(y.reshape(2, -1).flatten(), y) and torch.equal(torch.arange(3), torch.tensor([0, 1, 2]))
    for found, exact in ((y.detach(), 9.0), (slope, 6.0)):
        assert 0.5e-6 < float((found / exact).std()) < 2.5e-6 and abs(float(found.mean()) / exact - 1) < 1e-6
    assert not (y - (x * x)).eq(0).all()


def test_range() -> None:
    assert compare.within_range([torch.tensor([1e18]), None, torch.tensor([3])], torch.float32)
    assert not compare.within_range([torch.tensor([1e19])], torch.float32) and compare.within_range([torch.tensor([1e19])], torch.float64)
    assert not compare.within_range([torch.tensor([float("nan")])], torch.float64) and compare.within_range([torch.zeros(0)], torch.float64)
