"""What does not fit is refused with words that help; slow learners and constants mean in an optimizer what they mean elsewhere."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import nldsl
from nldsl_interpreter import run_rule
from nldsl_torch.optim import standalone

SAME = {
    "a slow learner counts its own steps": (
        "rule r(lr = 0.1, f = 2) { memory a : like(w) every f { minimize 0.5 * sqnorm(a - g) over sum by adam(lr = 0.1) }  update last w - lr * a }",
        {"n": 12}, {"f": 2}),
    "and those after an offset": (
        "rule r(lr = 0.1) { memory a : like(w) every 3 offset 1 { minimize 0.5 * sqnorm(a - g) by adam(lr = 0.1) }  update last w - lr * a }",
        {"n": 12}, {}),
    "a matrix of one number": (
        "rule r(lr = 0.1) on d -> e { update last w - lr * (g - matmul(row_mean(g), column_mean(g * 0 + 1))) }", {"d": 3, "e": 4}, {}),
    "a memory called new_w": (
        "rule r(lr = 0.1) { memory new_w : like(w) { update 0.9 * last new_w + g }  new_g = 2 * new_w  update last w - lr * new_g }", {"n": 12}, {}),
}  # fmt: skip


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("text, sizes, periods", SAME.values(), ids=SAME)
def test_it_means_what_the_interpreter_says(text, sizes, periods, fused):
    torch.manual_seed(0)
    program, matrix = nldsl.load(text), "d" in sizes
    w, grads = torch.randn(4, 3, dtype=torch.float64), torch.randn(11, 4, 3, dtype=torch.float64)
    shape = (4, 3) if matrix else (12,)
    wanted = run_rule(program.rule("r", sizes, **periods), w.reshape(shape), grads.reshape(11, *shape))[-1]
    p = nn.Parameter(w.clone())
    optimizer = program.optimizer("r", [p], fused=fused)
    for g in grads:
        p.grad = g
        optimizer.step()
    torch.testing.assert_close(p.detach().reshape(shape), wanted, rtol=1e-12, atol=1e-13)


P = [nn.Parameter(torch.zeros(3, 2))]
REFUSED = {
    "a misspelled number": (lambda: nldsl.optimizer("adamw", P, betta=0.9), nldsl.NlError, "NL805"),
    "a number beside routes": (lambda: nldsl.optimizer("rest by adamw()", P, lr=0.1), nldsl.NlError, "NL805"),
    "half a Newton-Schulz step": (lambda: nldsl.optimizer("muon", P, ns_steps=1.5), ValueError, "ns_steps"),
    "a negative one": (lambda: nldsl.optimizer("muon", P, ns_steps=-1), ValueError, "ns_steps"),
    "half a period": (lambda: nldsl.optimizer("shampoo", P, frequency=1.5), ValueError, "frequency"),
    "a word for an option": (lambda: nldsl.optimizer("adamw", P, fused="x"), TypeError, "fused"),
    "a word for a period": (lambda: nldsl.optimizer("adamw", P, every="x"), ValueError, "every"),
    "a text that is no route": (lambda: nldsl.optimizer("matrices adamw()", P), nldsl.NlError, "NL0"),
    "a vector for muon": (lambda: nldsl.optimizer("muon", [nn.Parameter(torch.zeros(3))]), ValueError, "matrices by muon"),
}  # fmt: skip


@pytest.mark.parametrize("make, kind, words", REFUSED.values(), ids=REFUSED)
def test_it_is_refused(make, kind, words):
    with pytest.raises(kind) as raised:
        make()
    assert re.search(words, str(raised.value)), raised.value


def test_the_state_of_another_rule_is_refused():
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    other = nldsl.optimizer("sgd", [p], momentum=0.9)
    other.step()
    with pytest.raises(ValueError, match="the rule 'sgd', and this optimizer has adamw"):
        nldsl.optimizer("adamw", [p]).load_state_dict(other.state_dict())
    theirs = torch.optim.SGD([p], momentum=0.9)
    theirs.step()
    with pytest.raises(ValueError, match="another optimizer: it has momentum_buffer, and adamw keeps exp_avg"):
        nldsl.optimizer("adamw", [p]).load_state_dict(theirs.state_dict())


def test_an_embedding_given_to_a_rule_of_matrices_is_told():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4, bias=False))
    with pytest.warns(UserWarning, match=r"`0.weight` for a matrix.*matrices by muon"):
        nldsl.optimizer("muon", model)


def test_a_word_of_another_optimizer_is_not_lost_silently():
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2)
    theirs = torch.optim.Muon([p], adjust_lr_fn="match_rms_adamw")
    theirs.step()
    with pytest.warns(UserWarning, match="adjust_lr_fn = 'match_rms_adamw'"):
        nldsl.optimizer("muon", [p]).load_state_dict(theirs.state_dict())
    ours = nldsl.optimizer("muon", [p])
    ours.step()
    theirs.load_state_dict(ours.state_dict())
    theirs.param_groups[0]["adjust_lr_fn"] = None
    theirs.step()


def test_names_of_a_standalone_file_do_not_meet():
    """The parts of the runtime become one file: a name stands for one thing in all of them."""
    home: dict[str, str] = {}
    for part in standalone.PARTS:
        text = (Path(standalone.HERE) / f"{part}.py").read_text(encoding="utf-8")
        for name in re.findall(r"^(?:def|class) (\w+)|^([A-Za-z_]\w*)(?:: [^=]*)? = ", text, re.MULTILINE):
            name = name[0] or name[1]
            assert home.setdefault(name, part) == part, f"{name} is in {home[name]} and in {part}"
