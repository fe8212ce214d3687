"""`train` blocks whose parameters go to several rules: rates, frequencies, checkpoints, what is shown and what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch

import nldsl
from nldsl.pipeline import check_source
from nldsl.source import Source
from nldsl_torch.training import fit, load_checkpoint, rate_factor
from nldsl_torch.training.cli import choose, train_spec

TEXT = """
rule slow_sgd(rate = 0.1) { update last w - rate * g }
block lm(d) {
  in x : int[256]
  param embed : 256 -> d = normal(0.5)
  param head : d -> 256
  param W : d -> d
  param b : real[d] = zeros
  h = embed(x)
  out logits = head(norm(h + W(h) + b))
}
train routed {
  model = lm(d = 8)
  minimize cross_entropy(model(byte), next)
      matrices by muon(lr = 0.02), heads by adamw(lr = 2e-3, betas = [0.9, 0.95]) every 3, vectors by slow_sgd(), rest by adam(lr = 4e-3)
  steps = 8  batch = 2  length = 8  warmup = 2  checkpoint_every = 100
}
train plain {
  model = lm(d = 8)
  minimize cross_entropy(model(byte), next) by adamw(lr = 4e-3)
  steps = 3  batch = 2  length = 8
}
"""


@pytest.fixture
def run(text_file, tmp_path):
    program = nldsl.load(TEXT)

    def make(folder: str, name: str = "routed", **changes):
        spec = train_spec(program, choose(program, name), {}, data=str(text_file), steps=None, run_dir=str(tmp_path / folder), device="cpu", threads=1)
        return replace(spec, log_every=1, sample_bytes=4, **changes)

    return make


def test_a_routed_run_resumes_bit_for_bit(run, losses) -> None:
    """Also in the middle of the period of a slow rule."""
    whole = fit(run("whole"), quiet=True)
    for _ in range(4):
        parts = fit(run("parts", time_budget=1e-9), quiet=True)
    assert (parts.step, fit(run("parts"), quiet=True).step) == (4, 8)
    assert losses(parts.run_dir) == losses(whole.run_dir)
    a, b = (load_checkpoint(result.run_dir / "checkpoint.safetensors") for result in (whole, parts))
    assert all(torch.equal(a.model[name], b.model[name]) for name in a.model)
    assert a.optimizer["state"].keys() == b.optimizer["state"].keys() and a.optimizer["param_groups"] == b.optimizer["param_groups"]
    assert [group["betas"] for group in a.optimizer["param_groups"] if group["rule"] == "adamw"] == [(0.9, 0.95)]
    for key, state in a.optimizer["state"].items():
        assert all(torch.equal(value, b.optimizer["state"][key][name]) for name, value in state.items())


def test_the_schedule_is_of_every_rate(run) -> None:
    result = fit(run("run", schedule="constant", steps=1), quiet=True)
    groups = {g["rule"]: g for g in load_checkpoint(result.run_dir / "checkpoint.safetensors").optimizer["param_groups"]}
    assert {name: g["lr"] for name, g in groups.items() if name != "slow_sgd"} == {"muon": 0.01, "adamw": 0.001, "adam": 0.002}
    assert groups["slow_sgd"]["rate"] == 0.1
    record = json.loads((result.run_dir / "log.jsonl").read_text().splitlines()[0])
    assert record["lr"] == 0.01


def test_rate_factor() -> None:
    settings = {"steps": 10, "warmup": 2, "final_fraction": 0.1}
    assert [rate_factor(step, schedule="constant", **settings) for step in (1, 2, 3, 10)] == [0.5, 1.0, 1.0, 1.0]
    found = [rate_factor(step, schedule="cosine", **settings) for step in range(1, 12)]
    assert found[1] == 1.0 and found[-1] == found[-2] == pytest.approx(0.1) and found[2:] == sorted(found[2:], reverse=True)


def test_the_assignment_is_shown_once(run) -> None:
    stream = io.StringIO()
    fit(run("run", steps=1), stream=stream)
    shown = stream.getvalue()
    assert shown.count("vectors by slow_sgd(): 1 tensor, 8 parameters\n  b  8  vector  slow_sgd  8\n") == 1
    assert shown.count("in all: 4 tensors, 4,168 parameters") == 1
    stream = io.StringIO()
    fit(run("plain", "plain", steps=1), stream=stream)
    assert "in all" not in stream.getvalue()


def test_one_rule_with_roles(run, mistake) -> None:
    """Its assignment is shown; what no rule of its chain takes is told at the place of the rule."""
    rule = "rule typed(lr = 0.01) on matrices d -> e{} {{ update last w - lr * g }}\n"
    text = TEXT.replace("by adamw(lr = 4e-3)\n", "by typed()\n")
    spec = run("run", "plain")

    def spec_of(other: str):
        program = nldsl.load(rule.format(other) + text)
        training = choose(program, "plain")
        return train_spec(program, training, {}, data=str(spec.data), steps=1, run_dir=str(spec.run_dir), device="cpu", threads=1)

    stream = io.StringIO()
    fit(spec_of(" else adamw"), stream=stream)
    rows = [line.split() for line in stream.getvalue().splitlines()]
    assert ["W", "8", "x", "8", "matrix", "typed", "64"] in rows and ["head", "256", "x", "8", "head", "adamw", "2,048"] in rows
    assert "all by typed(): 4 tensors, 4,168 parameters" in stream.getvalue()
    found = mistake(fit, replace(spec_of(""), run_dir=f"{spec.run_dir}-other"), quiet=True)
    assert found.code == "NL728" and found.spans[0].span.text == "typed()" and "`W`" not in found.message
    assert found.help == "embeddings by adamw(), heads by adamw(), vectors by adamw(), all by typed()"


def test_a_route_without_parameters_is_told(run, recwarn) -> None:
    program = nldsl.load(TEXT.replace("rest by adam(lr = 4e-3)", '"nothing.*" by adam(), rest by adam()'))
    training = choose(program, "routed")
    spec = run("run", steps=1)
    other = train_spec(program, training, {}, data=str(spec.data), steps=1, run_dir=str(spec.run_dir), device="cpu", threads=1)
    stream = io.StringIO()
    fit(other, stream=stream)
    assert 'no parameter is left for `"nothing.*" by adam()`' in stream.getvalue()
    assert not [w for w in recwarn if "no parameter" in str(w.message)]


def test_a_model_with_a_parameter_for_no_rule(run, mistake) -> None:
    program = nldsl.load(TEXT.replace(", rest by adam(lr = 4e-3)", ""))
    spec = run("run")
    other = train_spec(program, choose(program, "routed"), {}, data=str(spec.data), steps=1, run_dir=str(spec.run_dir), device="cpu", threads=1)
    found = mistake(fit, other, quiet=True)
    assert found.code == "NL729" and "`embed`" in found.message and found.spans[0].span.text.startswith("vectors by")


def test_a_rule_that_cannot_train_the_model(run, mistake) -> None:
    program = nldsl.load(TEXT.replace("matrices by muon(lr = 0.02)", "matrices by delta_gradient_descent()"))
    spec = run("run")
    other = train_spec(program, choose(program, "routed"), {}, data=str(spec.data), steps=1, run_dir=str(spec.run_dir), device="cpu", threads=1)
    found = mistake(fit, other, quiet=True)
    assert found.code == "NL728" and "`W`" in found.message and found.spans[0].span.text.startswith("matrices by")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("by adamw(lr = 4e-3)", "by adamw(beta1 = 0.9)", "NL726"),
        ("by adamw(lr = 4e-3)", "by adamx()", "NL722"),
        ("by adamw(lr = 4e-3)", "by sgd(), adamw()", "NL722"),
        ("vectors by", "vector by", "NL725"),
        ("every 3", "every heads", "NL727"),
        ("heads by adamw", "all by adamw", "NL730"),
    ],
)
def test_mistakes_are_found_by_check(old: str, new: str, code: str) -> None:
    assert old in TEXT
    assert {d.code for d in check_source(Source("a.nl", TEXT.replace(old, new))).diagnostics} == {code}
