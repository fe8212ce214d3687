"""Rules whose definition heavyball shares, against heavyball, eager and in float64, which its numbers have by default only.

Its definitions differ from ours as follows.

* It divides by max(sqrt(v), eps), we by sqrt(v) + eps: with eps = 1e-30 the two are one.
* Its moments are corrected means, ours sums of weights (1 - beta) corrected when they are read: the same numbers.
* AdEMAMix: its slow half-life grows by another formula (beta + 1e-8, half-lives less 1), so schedules are not compared.
* NAdam: its coupled weight decay is taken out of the step again, ours and torch's is not, so the decoupled one is compared.
* Muon: our mean (1 - beta) m of its momentum m has the same direction, which is all that Newton-Schulz sees; its nesterov
  with means, g + m', has another, so the form with heavy-ball momentum is compared. The quintic of Jordan's post is its
  `legacy_newtonschulz`, which it takes for square matrices only.
* SOAP is not compared: the bases are one step of orthogonal iteration (QR) from those before, ours an exact decomposition; the
  first moment is kept in the bases; the first step is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.optim.test_library import ANY, close, descend, ours, problem

EPS = 1e-30
# rule, its numbers, class of heavyball, its numbers where they have other names, shapes
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any], list[tuple[int, ...]]]] = [
    ("adamw", {"betas": (0.8, 0.95), "eps": EPS, "weight_decay": 0.1}, "AdamW", {}, ANY),
    ("nadam", {"betas": (0.8, 0.95), "eps": EPS, "momentum_decay": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}, "NAdam", {}, ANY),
    ("ademamix", {"betas": (0.8, 0.95, 0.99), "alpha": 3.0, "eps": EPS, "weight_decay": 0.1}, "AdEMAMix", {}, ANY),
    ("classical_momentum", {"beta": 0.8}, "SGD", {}, ANY),
    ("muon_exact", {"momentum": 0.9, "weight_decay": 0.1}, "Muon", {"betas": (0.9, 0.0), "heavyball_momentum": True}, [(5, 5)]),
    ("muon_exact", {"momentum": 0.9, "nesterov": 0}, "Muon",
     {"betas": (0.9, 0.0), "heavyball_momentum": True, "nesterov": False, "weight_decay": 0.1}, [(5, 5)]),
]  # fmt: skip


@pytest.fixture
def wide() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{len(case[1])}")
def test_as_in_heavyball(case: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    heavyball = pytest.importorskip("heavyball")
    monkeypatch.setattr(heavyball.utils, "compile_mode", None)
    monkeypatch.setattr(heavyball.utils, "zeroth_power_mode", "legacy_newtonschulz")
    rule, numbers, name, others, shapes = case
    theirs = {**{k: v for k, v in numbers.items() if k != "momentum"}, **others}
    for shape in shapes:
        w, grads = problem(shape)
        p = torch.nn.Parameter(w.clone())
        expected = descend(getattr(heavyball, name)([p], lr=0.02, storage_dtype="float64", **theirs), p, grads)
        close(ours(rule, w, grads, lr=0.02, **numbers), expected, 1e-12)
