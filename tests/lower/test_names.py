"""Names of the author against names of PyTorch."""

from __future__ import annotations

import torch

import nldsl
from nldsl.names import TAKEN, identifier


def test_names_of_a_module_are_taken() -> None:
    public = {name for name in dir(torch.nn.Module()) if not name.startswith("_")}
    assert public <= TAKEN


def test_any_word_may_be_a_name() -> None:
    text = """
block half(d) { in x : real[d]  param apply, state, B : d -> d  out forward = apply(state(B(x))) }
block type(d) { in self : real[d]  T = half(self)  param eval : real[d] = ones  out step = T * eval }
"""
    module = nldsl.load(text).module("type", d=3)
    assert module(torch.randn(2, 5, 3)).shape == (2, 5, 3)
    assert {n for n, _ in module.named_parameters()} == {"eval_", "half_.apply_", "half_.state", "half_.B"}


def test_two_names_that_meet_in_python_stay_two() -> None:
    text = "block b(d) { in x : real[d]  param q_filter : d -> d  q = conv(q_filter(x), 2)  out y = q }"
    assert len(list(nldsl.load(text).module("b", d=3).parameters())) == 2
    assert identifier("a.b") == identifier("a_b")
