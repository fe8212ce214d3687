"""The property of the end of a stream: it holds, and what breaks `finish` is found."""

import nldsl
from nldsl_testing.subject import Subject
from nldsl_testing.verify import Budget, verify

TEXT = """
block m(d = 4, C = 3) {
  in x : real[d]
  param Wk : d -> d
  k = unit(Wk(x))
  memory F : d -> d = learned every C { minimize 0.5 * sqnorm(F(k) - x) over sum by momentum(0.2)  flush apply }
  memory H : d -> d = learned { minimize 0.5 * sqnorm(H(k) - x) at start(C) by gd(0.3)  flush drop }
  memory K : d -> d = learned every C { minimize 0.5 * sqnorm(K(k) - x) over mean by gd(0.3) }
  out y = F(x) + H(x) + K(x)
}
"""


def outcome():
    (found,) = verify(nldsl.load(TEXT), budget=Budget(examples=15, seconds=20), only=["endings"])
    return found


def test_it_holds():
    found = outcome()
    assert found.failure is None and found.examples >= 3


def test_an_end_that_is_forgotten_is_found(monkeypatch):
    monkeypatch.setattr(Subject, "finish", lambda self, module, state: state)
    found = outcome()
    assert found.failure is not None and "the end of the stream and the interpreter's" in found.failure.what
    assert found.failure.example.ticks % 3 and found.failure.example.ticks <= 4


def test_an_end_that_comes_twice_is_found(monkeypatch):
    monkeypatch.setattr(Subject, "finish", lambda self, module, state: {n: v + 1 if v.is_floating_point() else v for n, v in state.items()})
    assert outcome().failure is not None
