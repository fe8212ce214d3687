"""Models that are told the next byte: what feeds them, what is refused, evaluation with carried state, exact samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nldsl
from nldsl.pipeline import check_source
from nldsl.source import Source
from nldsl.train import read_train
from nldsl_torch.training import ByteData, continue_text, fit, heldout_bits_per_byte
from nldsl_torch.training.cli import choose, train_spec
from nldsl_torch.training.feeding import outputs_of

ROOT = Path(__file__).parents[2]
TEXT = """
block lm(d) {
  in token, target : int[256]
  param embed : 256 -> d = normal(0.5)
  param head : d -> 256
  h = norm(embed(token))
  memory S : d -> d = zeros { minimize 0.5 * sqnorm(S(unit(h)) - h) by decay(0.9), gd(0.5) }
  memory F : d -> d = learned every 4 { minimize loss over sum by gd(0.3) }
  out logits = head(norm(h + S(h) + last F(h)))
  out loss = cross_entropy(logits, target)
}
train told {
  model = lm(d = 8)
  USE
  steps = 6  batch = 2  length = 16  contexts = [4, 16, 40]  log_every = 1  sample_bytes = 12
}
"""
USE = "m = model(byte, next)  minimize m.loss by adamw(lr = 1e-2)"


def text(use: str = USE) -> str:
    return TEXT.replace("USE", use)


@pytest.fixture
def run(text_file, tmp_path):
    def make(folder: str = "run", use: str = USE):
        program = nldsl.load(text(use))
        return train_spec(program, choose(program, None), {}, data=str(text_file), steps=None, run_dir=str(tmp_path / folder), device="cpu", threads=1)

    return make


@pytest.fixture
def model(run):
    torch.manual_seed(3)
    return run().build()


@pytest.mark.parametrize(
    "use, inputs, read",
    [
        (USE, ("byte", "next"), ("loss",)),
        ("r = model(byte, target = next)  minimize r.loss + 0.1 * cross_entropy(r.logits, next) by adamw()", ("byte", "next"), ("logits", "loss")),
        ("r = model(target = next, token = byte)  minimize cross_entropy(r.logits, next) by adamw()", ("byte", "next"), ("logits",)),
    ],
)
def test_how_a_model_is_wired(use, inputs, read) -> None:
    program = nldsl.load(text(use))
    training, found = read_train(program.trains["told"], program.top)
    assert training is not None and not found
    assert (training.wiring.inputs, training.wiring.logits, training.wiring.read) == (inputs, "logits", read)


@pytest.mark.parametrize(
    "use, code, part",
    [
        ("m = model(next, byte)  minimize m.loss by adamw()", "NL731", "knows the byte it has to predict"),
        ("m = model(byte, byte)  minimize m.loss by adamw()", "NL721", "as they are"),
        ("m = model(byte, next)  minimize cross_entropy(next, next) by adamw()", "NL721", "must use the model once"),
        ("m = model(byte, next)  n = model(byte, next)  minimize m.loss + n.loss by adamw()", "NL721", "once"),
        ("minimize model(byte, next) by adamw()", "NL107", "2 outputs"),
        ("m = model(byte)  minimize m.loss by adamw()", "NL110", "needs `target`"),
        ("m = model(byte, next)  minimize m.lost by adamw()", "NL101", "no output `lost`"),
    ],
)
def test_what_is_refused(use, code, part) -> None:
    (diagnostic, *_) = check_source(Source("t.nl", text(use))).errors
    assert diagnostic.code == code and part in diagnostic.message


def test_contexts_are_a_list_of_whole_numbers() -> None:
    (diagnostic,) = check_source(Source("t.nl", text().replace("[4, 16, 40]", "[4, 0.5]"))).errors
    assert diagnostic.code == "NL723" and "whole numbers" in diagnostic.expected


def test_logits_of_the_wrong_size_or_none() -> None:
    (wide,) = check_source(Source("t.nl", text().replace("out logits = head(", "out logits = 2 * (h + ").replace("cross_entropy(logits,", "cross_entropy(head(logits),"))).errors
    assert wide.code == "NL716" and wide.found == "real[8]"
    (unnamed,) = check_source(Source("t.nl", text().replace("logits", "guess"))).errors
    assert unnamed.code == "NL721" and "`logits`" in unnamed.message


def test_an_answer_seen_through_another_block() -> None:
    """The way from `next` to the logits passes an instance; a second output of it is clean."""
    inner = "block two(d) {\n  in x, t : int[256]\n  param E, V : 256 -> d\n  out a = E(x)\n  out b = V(t)\n}\n"
    outer = "block lm(d) {\n  in x, t : int[256]\n  param H : d -> 256\n  w = two(x, t, d = d)\n  out logits = H(w.%s)\n  out loss = cross_entropy(H(w.b), t)\n}\n"
    train = "train t {\n  model = lm(d = 4)\n  m = model(byte, next)\n  minimize m.loss by adamw()\n}\n"
    assert [d.code for d in check_source(Source("t.nl", inner + outer % "b" + train)).errors] == ["NL731"]
    assert check_source(Source("t.nl", inner + outer % "a" + train)).errors == ()


def test_it_trains_resumes_and_reports(run, losses) -> None:
    whole = fit(run("whole"), quiet=True)
    summary = json.loads((whole.run_dir / "summary.json").read_text())
    assert list(summary["contexts"]) == ["4", "16", "40"]
    assert summary["contexts"]["16"] == pytest.approx(whole.heldout_bpb)
    for _ in range(2):
        parts = fit(replace(run("parts"), time_budget=1e-9), quiet=True)
    assert parts.step == 2
    assert losses(fit(run("parts"), quiet=True).run_dir) == losses(whole.run_dir)


def test_the_objective_is_the_loss_of_the_model(run, losses) -> None:
    """By the model's own stream or from its logits: the same training."""
    use = "r = model(byte, next)  minimize cross_entropy(r.logits, next) by adamw(lr = 1e-2)"
    own, outer = (losses(fit(run(folder, use), quiet=True).run_dir) for folder, use in (("own", USE), ("outer", use)))
    assert own == pytest.approx(outer, abs=1e-5)


@pytest.mark.parametrize("context", [4, 16, 40])
def test_evaluation_at_a_context_length(run, model, stub, context) -> None:
    """Against one window after the other, each read byte by byte from an empty state."""
    wiring = run().wiring
    data = ByteData(stub.TEXT, batch=2, length=16, seed=0)
    start, bits = data.train_size, []
    with torch.no_grad():
        for n in range(data.heldout_size):
            if n % context == 0:
                state = model.initial_state(1)
            byte, target = stub.TEXT[start + n - 1], stub.TEXT[start + n]
            out, state = model.step(torch.tensor([byte]), torch.tensor([target]), state)
            bits.append(-out["logits"][0].log_softmax(-1)[target].item() / math.log(2))
    assert heldout_bits_per_byte(model, data, "cpu", wiring, None, context) == pytest.approx(sum(bits) / len(bits), abs=1e-5)
    end = covered(20, context)
    assert heldout_bits_per_byte(model, data, "cpu", wiring, 20, context) == pytest.approx(sum(bits[:end]) / end, abs=1e-5)


def covered(limit: int, context: int) -> int:
    """How many bytes the whole batches of about 2 x 16 bytes have that cover `limit`."""
    area = max(1, 32 // min(context, limit)) * min(context, limit)
    return -(-limit // area) * area


def test_a_sample_learns_from_what_it_draws(run, model) -> None:
    """At a low temperature each byte drawn is the best one under the model that has read all before it, with their answers."""
    prompt, wiring = b"99 bottles of", run().wiring
    drawn = continue_text(model, prompt, 30, temperature=1e-4, seed=0, device="cpu", wiring=wiring)
    whole = torch.tensor([[*prompt, *drawn]])
    with torch.no_grad():
        logits = outputs_of(model, wiring, whole[:, :-1], whole[:, 1:])["logits"][0]
    assert logits[len(prompt) - 1 :].argmax(-1).tolist() == list(drawn)


def test_the_sample_is_not_that_of_a_model_that_never_learns(run, model) -> None:
    """F has learned from the bytes drawn: with the first F throughout, other bytes would be the best."""
    prompt, wiring = b"99 bottles of", run().wiring
    drawn = continue_text(model, prompt, 60, temperature=1e-4, seed=0, device="cpu", wiring=wiring)
    bytes_, state, same = [*prompt, *drawn], model.initial_state(1), []
    with torch.no_grad():
        first = state["F"]
        for n, byte in enumerate(bytes_[:-1]):
            out, state = model.step(torch.tensor([byte]), torch.tensor([0]), {**state, "F": first})
            same.append(int(out["logits"].argmax()) == bytes_[n + 1])
    assert not all(same[len(prompt) - 1 :])


def test_the_small_hope_of_the_examples(text_file, tmp_path) -> None:
    """It is told what comes next, has four clocks, and one small step of it runs."""
    program = nldsl.load(ROOT / "examples" / "hope_lm.nl")
    spec = train_spec(program, choose(program, None), {"d": 8, "layers": 2, "C": 8, "inner": [8, 16]}, data=str(text_file), steps=2,
                      run_dir=str(tmp_path / "hope"), device="cpu", threads=1)  # fmt: skip
    assert spec.wiring.answers and spec.optimizer.identity["optimizer"].count(" by ") == 3
    result = fit(replace(spec, batch=2, length=32, sample_bytes=2, checkpoint_every=1), quiet=True)
    assert result.status == "finished" and result.heldout_bpb < 9


@pytest.fixture(scope="module")
def small_hope():
    """The small Hope at tiny sizes in float64, and streams that end within its periods."""
    program, sizes = nldsl.load(ROOT / "examples" / "hope_lm.nl"), {"d": 4, "layers": 2, "heads": 2, "C": 4, "inner": [4, 8]}
    torch.manual_seed(1)
    text = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(2))
    return program.module("hope_lm", sizes, dtype=torch.float64), program.interpreter("hope_lm", sizes), text[:, :-1], text[:, 1:]


def test_the_small_hope_is_what_the_interpreter_computes(small_hope) -> None:
    module, interpreter, token, target = small_hope
    params = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    expected, _ = interpreter.run(params, {"token": token, "target": target})
    found = module(token, target)
    assert torch.allclose(found["logits"], expected["logits"], atol=1e-10) and torch.allclose(found["loss"], expected["loss"], atol=1e-10)
    wanted = torch.autograd.grad(expected["loss"].mean(), list(params.values()))
    got = torch.autograd.grad(found["loss"].mean(), list(module.parameters()))
    for name, a, b in zip(params, got, wanted, strict=True):
        assert b.abs().max() > 0 and torch.allclose(a, b, atol=1e-10), name


def test_the_small_hope_in_parts_and_its_answers(small_hope) -> None:
    """Parts with carried state are the whole; another answer changes the logits after it, from the end of a period on."""
    module, _, token, target = small_hope
    with torch.no_grad():
        whole = module(token, target)["logits"]
        state, parts = module.initial_state(2), []
        for cut in (slice(0, 5), slice(5, 6), slice(6, 11)):
            out, state = module(token[:, cut], target[:, cut], state=state, return_state=True)
            parts.append(out["logits"])
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10)
        other = target.clone()
        other[:, 2] = (other[:, 2] + 1) % 256
        changed = (module(token, other)["logits"] - whole).abs().amax((0, 2)) > 1e-9
    assert changed.tolist() == [t >= 4 for t in range(11)]
