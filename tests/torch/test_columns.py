"""Memories of indices: the key of `S(t)` is the column it picks, in every form, and the embedding of a model may learn as it runs."""

import pytest
import torch
from torch_cases import case

import nldsl
from nldsl.testing import assert_property

OF = "block m(d, n = 6, C = 3) { in t : int[n]  in v : real[d]  memory S : n -> d = %s  out y = S(t) }"
L2 = "minimize 0.5 * sqnorm(S(t) - v)"
RULES = {
    "closed": ("zeros { minimize -dot(S(t), v) by decay(0.9), gd(0.5) }", "closed"),
    "delta": (f"zeros {{ {L2} by gd(0.5) }}", "solve"),
    "momentum": (f"zeros {{ {L2} by momentum(0.1, 0.9) }}", "solve"),
    "implicit": (f"zeros {{ {L2} by implicit(0.5) }}", "solve"),
    "erase": (f"zeros {{ {L2} by dgd(0.4, keep = 0.9) }}", "solve"),
    "erase in windows": (f"learned {{ {L2} at start(C) by dgd(0.4, keep = 0.9) }}", "windows"),
    "written": ("zeros { update 0.9 * last S + outer(v, t) }", "closed"),
    "written and read": ("zeros { update last S + 0.5 * outer(v - last S(t), t) }", "solve"),
    "anchored": (f"learned {{ {L2} at start(C) by gd(0.5) }}", "windows"),
    "slow": (f"zeros every C {{ {L2} over sum by gd(0.5) }}", "windows"),
    "loop": (f"zeros {{ {L2} by adam(0.1) }}", "loop"),
}


@pytest.mark.parametrize("name", RULES)
def test_every_form_of_a_memory_of_indices(name):
    memory, form = RULES[name]
    assert {f.name for f in case(OF % memory, "m", d=3).forms.values()} == {form}
    assert_property(OF % memory, ["lowerings", "derivatives", "splits", "causality", "finite"], examples=4, seconds=20)


def test_a_step_at_an_index_moves_its_column_alone():
    """S'[:, t] = S[:, t] - rate (S[:, t] - v)."""
    module = nldsl.load(OF % f"zeros {{ {L2} by gd(0.25) }}").module("m", d=3).double()
    t, v = torch.tensor([[4, 1, 4, 0, 1, 4]]), torch.randn(1, 6, 3, dtype=torch.float64)
    y = module(t, v)
    table = torch.zeros(6, 3, dtype=torch.float64)
    for n, i in enumerate(t[0].tolist()):
        table[i] += 0.25 * (v[0, n] - table[i])
        torch.testing.assert_close(y[0, n], table[i])


def test_an_outer_product_with_an_index_counts():
    """C'[:, t] = C[:, t] + v; only what has a bound is the index of a column."""
    module = nldsl.load(OF % "zeros { update last S + outer(v, t) }").module("m", d=2).double()
    y = module(torch.tensor([[3, 0, 3]]), torch.ones(1, 3, 2, dtype=torch.float64))
    assert y[0, :, 0].tolist() == [1.0, 1.0, 2.0]
    with pytest.raises(nldsl.NlError, match="NL202"):
        nldsl.load("block m(d, n) { in t : int[n]  in v : real[d]  out y = outer(t, v)(v) }").elaborate("m", d=2, n=2)


EMBEDDING = """
block table(d, n) {
  in t : int[n]
  param E : n -> d
  param W : d -> n
  out y = W(gelu(E(t)))
}
block m(d = 4, n = 5, C = 3) {
  in t, u : int[n]
  memory M : table(d, n) = learned { minimize cross_entropy(M(t), u) at start(C) by gd(0.5) }
  out y = last M(t)
}
"""


def test_the_embedding_of_a_model_learns_as_it_runs():
    assert_property(EMBEDDING, ["lowerings", "derivatives", "splits", "causality", "slopes"], examples=4, seconds=20)
