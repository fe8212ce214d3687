"""A `train` block runs its model as the file's schedules say, and a run goes on under other ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

import nldsl
from nldsl.diagnostics import NlError
from nldsl_torch.training import fit
from nldsl_torch.training.cli import choose, train_spec

TEXT = """\
block cell(d) {
  in x : real[d]
  param Wk : d -> d
  k = unit(Wk(x))
  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by decay(0.9), gd(0.5) }
  out y = S(k)
}
block lm(d) {
  in x : int[256]
  param embed : 256 -> d = normal(0.5)
  param head : d -> 256
  out logits = head(cell(embed(x)))
}
train t {
  model = lm(d = 8)
  minimize cross_entropy(model(byte), next) by adamw(lr = 4e-3)
  schedule = constant  steps = 6  batch = 2  length = 40  warmup = 2
}
"""
LOOP = "schedule cell { S by loop }\n"


@pytest.fixture
def run(text_file, tmp_path):
    def make(text: str, folder: str = "run", **changes):
        program = nldsl.load(text)
        spec = train_spec(program, choose(program, None), {}, data=str(text_file), steps=None, run_dir=str(tmp_path / folder), device="cpu", threads=1)
        return replace(spec, log_every=1, sample_bytes=4, **changes)

    return make


def test_a_run_goes_on_under_another_schedule(run, losses) -> None:
    whole = losses(fit(run(TEXT, "whole"), quiet=True).run_dir)
    for text in (TEXT, TEXT + LOOP, TEXT + LOOP.replace("by loop", "chunk = 8"), LOOP + TEXT):
        part = fit(run(text, time_budget=1e-9), quiet=True)
    assert part.step == 4
    assert losses(fit(run(TEXT), quiet=True).run_dir) == pytest.approx(whole, abs=1e-5)


def test_the_model_of_a_run_is_scheduled(run) -> None:
    assert "S: loop form; by schedule" in run(TEXT + LOOP).build().source
    assert "S: solve form" in run(TEXT).build().source


def test_another_text_is_another_run(run) -> None:
    fit(run(TEXT, time_budget=1e-9), quiet=True)
    with pytest.raises(NlError) as refused:
        fit(run(TEXT.replace("decay(0.9)", "decay(0.8)") + LOOP), quiet=True)
    assert [d.code for d in refused.value.diagnostics] == ["NL709"]
