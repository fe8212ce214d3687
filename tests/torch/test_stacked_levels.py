"""Ad-hoc level stacking (Nested Learning, 7.3): the MLPs of a trained model as levels of several periods, against a loop with autograd."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nldsl

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "memories.md"
D, VOCAB, T, PERIODS, LR = 4, 5, 19, [4, 2, 8], 0.3
STATES = ("up", "b", "down", "c")  # in the order of an MLP's own parameters


def norm(h):
    return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.fixture
def trained(tmp_path):
    """A model of three MLPs and a head, the page's text beside its file, and a batch."""
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "layers": nn.ModuleList(nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D)) for _ in PERIODS),
        "head": nn.Linear(D, VOCAB, bias=False),
    }).double()  # fmt: skip
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (text,) = re.findall(r"## Levels from pre-trained MLPs.*?```nl\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "stacked.nl").write_text(text)
    x, target = torch.randn(2, T, D, dtype=torch.float64), torch.randint(0, VOCAB, (2, T))
    return model, nldsl.load(tmp_path / "stacked.nl"), x, target


def stacked(program, lr, learned=True):
    if not learned:
        text = re.sub(r"learned\((pretrained\(.*?\))\)", r"\1", Path(program.source.name).read_text())
        Path(program.source.name).write_text(text)
        program = nldsl.load(program.source.name)
    sizes = {"d": D, "vocab": VOCAB, "periods": PERIODS, "lr": lr}
    return program.module("stacked", dtype=torch.float64, **sizes), program.interpreter("stacked", **sizes)


def loop(model, x, target, lr):
    """Token by token, each sequence alone: logits by the weights that hold, then their gradient; a step once in each period."""
    logits, losses, updates = [], [], [0] * len(PERIODS)
    for b in range(len(x)):
        weights = [list(mlp.parameters()) for mlp in model["layers"]]
        sums = [[torch.zeros_like(w) for w in level] for level in weights]
        for t in range(T):
            h, here = x[b, t], [[w.clone() for w in level] for level in weights]  # of this tick: how it came to be is not in its gradient
            for up, bias, down, shift in here:
                h = h + down @ nn.functional.gelu(up @ norm(h) + bias) + shift
            logits.append(model["head"].weight @ norm(h))
            losses.append(nn.functional.cross_entropy(logits[-1], target[b, t]))
            grads = iter(torch.autograd.grad(losses[-1], [w for level in here for w in level], create_graph=True))
            sums = [[s + next(grads) for s in level] for level in sums]
            for i, period in enumerate(PERIODS):
                if (t + 1) % period == 0:
                    weights[i] = [w - lr * s for w, s in zip(weights[i], sums[i], strict=True)]
                    sums[i] = [torch.zeros_like(s) for s in sums[i]]
                    updates[i] += b == 0
    assert updates == [T // period for period in PERIODS]
    return torch.stack(logits).view(2, T, VOCAB), torch.stack(losses).view(2, T)


def test_without_a_rate_it_is_the_pretrained_model(trained):
    model, program, x, target = trained
    h = x
    for mlp in model["layers"]:
        h = h + mlp(norm(h))
    torch.testing.assert_close(stacked(program, 0)[0](x, target)["logits"], model["head"](norm(h)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("learned", [True, False])
def test_each_level_learns_at_its_own_period(trained, learned):
    """Values, and what the outer objective says to the pre-trained weights, inputs and head, through all steps."""
    model, program, x, target = trained
    module, machine = stacked(program, LR, learned)
    x.requires_grad_()
    wanted = loop(model, x, target, LR)
    leaves = {"x": x, "head": model["head"].weight}
    if learned:
        leaves |= {f"F_{i}_{n}_init": p for i, mlp in enumerate(model["layers"]) for n, p in zip(STATES, mlp.parameters(), strict=True)}
    slopes = torch.autograd.grad(wanted[1].sum() + wanted[0].square().sum(), list(leaves.values()))
    params = {n: p.detach().clone().requires_grad_() for n, p in machine.parameters().items()}
    assert {n for n, _ in module.named_parameters()} == leaves.keys() - {"x"}
    for y, own in ((module(x, target), dict(module.named_parameters())), (machine.run(params, {"x": x, "target": target})[0], params)):
        torch.testing.assert_close(y["logits"], wanted[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(y["loss"], wanted[1], rtol=0, atol=1e-10)
        found = torch.autograd.grad(y["loss"].sum() + y["logits"].square().sum(), [x if n == "x" else own[n] for n in leaves])
        for name, a, b in zip(leaves, found, slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_a_level_changes_at_the_ends_of_its_periods_and_at_no_other_tick(trained):
    _, program, x, target = trained
    module, _ = stacked(program, LR)
    state, changes = module.initial_state(2), {i: [] for i in range(len(PERIODS))}
    for t in range(T):
        _, after = module.step(x[:, t], target[:, t], state)
        for i in changes:
            changes[i] += [t + 1] * any(not torch.equal(after[f"F.{i}.{n}"], state[f"F.{i}.{n}"]) for n in STATES)
        state = after
    assert changes == {i: list(range(p, T + 1, p)) for i, p in enumerate(PERIODS)}
    assert [len(ticks) for ticks in changes.values()] == [T // p for p in PERIODS]
