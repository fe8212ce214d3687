"""Rules that say their roles: of a model each parameter goes once, to the first rule of the chain that takes it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nldsl
from nldsl import NlError
from nldsl_torch.optim.build import optimizer_source
from nldsl_torch.optim.routing import RouteWarning

TEXT = """
rule mine(lr = 0.02, beta = 0.5) on matrices d -> e else tables {
  memory m : like(w) = zeros { update beta * last m + g }
  update last w - lr * m
}
rule tables(lr = 0.3) on embeddings, heads else plain { update last w - lr * sign(g) }
rule plain(lr = 0.1, far = 2) { update last w - far * lr * g }
rule strict(lr = 0.02) on matrices d -> e { update last w - lr * g }
rule layered(lr = 0.02) on heads d -> e else plain { update last w - lr * matmul(delta, transpose(x)) + 0 * g }
rule wide(lr = 0.02) on convolutions, matrices d -> e stacked else plain { update last w - lr * matmul(matmul(g, transpose(g)), g) }
"""


class Small(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.inner = nn.Embedding(12, 4), nn.Linear(4, 4)
        self.conv, self.norm = nn.Conv1d(4, 4, 3), nn.LayerNorm(4)
        self.head = nn.Linear(4, 12, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def rules_by_name(made: torch.optim.Optimizer) -> dict[str, str]:
    return {name: group["rule"] for group in made.param_groups for name in group["param_names"]}


def spread(made: torch.optim.Optimizer, model: nn.Module) -> dict[str, str]:
    """The rule of each parameter of a model, each once."""
    names = {id(p): name for name, p in model.named_parameters()}
    taken = [(names[id(p)], group["rule"]) for group in made.param_groups for p in group["params"]]
    assert sorted(name for name, _ in taken) == sorted(names.values())
    return dict(taken)


EXPECTED = {
    "embed.weight": "tables", "inner.weight": "mine", "inner.bias": "plain", "conv.weight": "plain", "conv.bias": "plain",
    "norm.weight": "plain", "norm.bias": "plain", "head.weight": "tables",
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
def test_one_optimizer_by_one_rule(tied: bool) -> None:
    program, model = nldsl.load(TEXT), Small(tied)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = program.optimizer("mine", model, lr=0.5)
    wanted = {k: v for k, v in EXPECTED.items() if not tied or k != "head.weight"}
    assert isinstance(made, torch.optim.Optimizer) and spread(made, model) == wanted == rules_by_name(made)
    table = str(made.assignment)
    assert f"in all: {len(wanted)} tensors" in table and ("embedding and head" in table) == tied
    assert [made.assignment.rule_of(name) for name in wanted] == list(wanted.values())


def test_a_step_is_the_steps_of_its_rules() -> None:
    torch.manual_seed(0)
    model = Small()
    made = nldsl.load(TEXT).optimizer("mine", model, lr=0.25)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    mean = torch.zeros(4, 4)
    for _ in range(3):
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p)
            if name == "inner.weight":
                mean = 0.5 * mean + p.grad
            move = {"mine": mean, "tables": p.grad.sign(), "plain": 2 * p.grad}[EXPECTED[name]]  # the number `lr` is that of the first rule
            expected[name] = expected[name] - 0.25 * move
        made.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], msg=name)
    assert len(made.state_dict()["state"]) == len(expected)


def test_its_state_goes_on() -> None:
    program, start = nldsl.load(TEXT), Small()
    one, other = copy.deepcopy(start), copy.deepcopy(start)
    first = program.optimizer("mine", one)

    def train(made: torch.optim.Optimizer, model: nn.Module, seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            made.step()

    train(first, one, range(2))
    other.load_state_dict(one.state_dict())
    second = program.optimizer("mine", other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    third = pickle.loads(pickle.dumps((one, first)))
    for made, model in ((first, one), (second, other), (third[1], third[0])):
        train(made, model, range(2, 4))
    for p, q, r in zip(one.parameters(), other.parameters(), third[0].parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)


def test_without_a_model_the_shape_tells() -> None:
    program, model = nldsl.load(TEXT), Small()
    by_shape = {name: "mine" if p.ndim == 2 else "plain" for name, p in model.named_parameters()}
    named, bare = list(model.named_parameters()), list(model.parameters())
    assert spread(program.optimizer("mine", iter(named)), model) == by_shape
    assert spread(program.optimizer("mine", bare), model) == by_shape == spread(program.optimizer_class("mine")(bare), model)
    assert spread(program.optimizer("mine", [{"params": bare, "lr": 3.0}]), model) == by_shape


def test_a_group_that_names_its_rule_is_taken_at_its_word() -> None:
    program, model = nldsl.load(TEXT), Small()
    tables = {"params": [model.embed.weight, model.head.weight], "rule": "tables"}
    rest = [p for name, p in model.named_parameters() if EXPECTED[name] != "tables"]
    made = program.optimizer_class("mine")([tables, {"params": rest, "lr": 0.7}])
    assert spread(made, model) == EXPECTED
    assert {g["rule"]: g["lr"] for g in made.param_groups} == {"tables": 0.3, "mine": 0.7, "plain": 0.7}
    matrices = program.optimizer_class("tables")([{"params": [model.inner.weight], "rule": "tables"}])
    assert [g["rule"] for g in matrices.param_groups] == ["tables"]


def test_a_group_added_later_is_typed_or_refused_as_a_whole() -> None:
    program, model = nldsl.load(TEXT), Small()
    made = program.optimizer_class("mine")([model.inner.weight])
    made.add_param_group({"params": [model.head.weight, model.conv.weight]})
    assert [g["rule"] for g in made.param_groups] == ["mine", "mine", "plain"]
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        made.add_param_group({"params": [model.inner.bias, model.embed.weight, model.conv.weight]})
    assert len(made.param_groups) == 3
    with pytest.raises(ValueError, match=r"strict is a rule for matrices, and parameter 1 of the group has shape \(4,\)"):
        program.optimizer_class("strict")(model.inner.parameters())


def test_what_no_rule_takes_is_refused_with_routes_that_take_it() -> None:
    program, model = nldsl.load(TEXT), Small()
    with pytest.raises(NlError) as caught:
        program.optimizer("strict", model)
    (one,) = caught.value.diagnostics
    assert one.code == "NL728" and one.expected == "matrices" and one.found.startswith("embedding, vector, convolution, head")
    assert "`embed.weight`" in one.message and "`inner.weight`" not in one.message
    made = program.optimizer(one.help, model)
    assert spread(made, model) == {name: "strict" if rule == "mine" else "adamw" for name, rule in EXPECTED.items()}


def test_routes_know_the_roles_of_rules() -> None:
    program, model = nldsl.load(TEXT), Small(tied=True)
    wanted = {k: v for k, v in EXPECTED.items() if k != "head.weight"}
    assert spread(program.optimizer("all by mine()", model), model) == wanted
    made = program.optimizer("vectors by adamw(), heads by tables(lr = 0.5), rest by mine()", model)
    assert spread(made, model) == {k: "adamw" if v == "plain" and k != "conv.weight" else v for k, v in wanted.items()}
    by_name = program.optimizer('"*.weight" by mine(), rest by adamw()', model)
    assert rules_by_name(by_name)["embed.weight"] == "tables" and rules_by_name(by_name)["norm.weight"] == "plain"
    for text in ("heads by strict(), rest by adamw()", "embeddings by strict(), rest by adamw()"):
        with pytest.raises(NlError) as caught:
            program.optimizer(text, model)
        (one,) = caught.value.diagnostics
        assert one.code == "NL728" and one.expected == "matrices" and one.found == f"`{text.split()[0]}`"


def test_a_tied_head_is_both() -> None:
    program = nldsl.load("rule t(lr = 1) on embeddings { update last w - lr * g }")
    made = program.optimizer("heads by t(), rest by adamw()", Small(tied=True))
    assert rules_by_name(made)["embed.weight"] == "t"


def test_the_fused_parts_and_the_heads_of_a_matrix() -> None:
    program, model = nldsl.load(TEXT), nn.ModuleDict({"qkv": nn.Linear(4, 12), "out": nn.Linear(4, 4)})
    made = program.optimizer('split("qkv.weight", 3) by mine(), rest by mine()', model)
    assert {name: g["split"] for g in made.param_groups for name in g["param_names"] if g["rule"] == "mine"} == {"qkv.weight": 3, "out.weight": 1}
    each = nldsl.load("""
block b(d) {
  in x : real[d]
  each h in 2 { param A : d -> 3  q = A(x) }
  param O : 6 -> d
  out y = O(flatten(q))
}
""").module("b", d=4)
    made = program.optimizer("mine", each)
    assert {name: (g["rule"], g["split"]) for g in made.param_groups for name in g["param_names"]} == {"A": ("mine", 2), "O": ("tables", 1)}


def test_stacks_and_layers() -> None:
    program, model = nldsl.load(TEXT), Small()
    made = program.optimizer("wide", model)
    assert {name for name, rule in spread(made, model).items() if rule == "wide"} == {"conv.weight", "inner.weight"}
    made = program.optimizer("layered", model)
    assert {name for name, rule in spread(made, model).items() if rule == "layered"} == {"head.weight"} and model.head.weight in made.providers
    x, before = torch.randn(3, 4), model.head.weight.detach().clone()
    model.head(x).sum().backward()
    made.step()
    torch.testing.assert_close(model.head.weight.detach(), before - 0.02 * x.sum(0).expand(12, 4))


def test_a_warning_about_tables_is_for_rules_without_roles() -> None:
    program = nldsl.load("rule r(lr = 0.1) on d -> e else sgd { update last w - lr * g }")
    with pytest.warns(RouteWarning, match="takes `embed.weight` for a matrix"):
        program.optimizer("r", Small())


def test_the_standalone_file_says_what_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(optimizer_source(nldsl.load(TEXT), "mine"), encoding="utf-8")
    code = """
import sys, torch, mine
assert not [name for name in sys.modules if name.startswith("nldsl")]
assert "`mine` learns on matrices" in mine.Mine.__doc__ and "taken at its word" in mine.Mine.__doc__
table, matrix, bias = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((5, 4), (4, 4), (4,)))
made = mine.Mine([{"params": [table], "rule": "tables"}, {"params": [matrix, bias]}], fused=False)
assert [g["rule"] for g in made.param_groups] == ["tables", "mine", "plain"]
for p in (table, matrix, bias):
    p.grad = torch.full_like(p, 2.0)
made.step()
print(round(float(table[0, 0]), 5), round(float(matrix[0, 0]), 5), round(float(bias[0]), 5))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False)
    assert ran.stdout.split() == ["0.7", "0.96", "0.92"], ran.stderr


# --- any model, any chain ------------------------------------------------------------------------

LAYERS = ("linear", "embedding", "norm", "conv", "scalar", "bilinear")
SHAPES = {"": (), " d -> e": ("matrices", "embeddings", "heads"), " d -> e stacked": ("matrices", "embeddings", "heads", "convolutions"),
          " real[n]": ("vectors",)}  # fmt: skip
WORDS = ("matrices", "vectors", "embeddings", "heads", "convolutions")
VOCABULARY, WIDTH = 12, 4


def model_of(layers: list[str], head: str) -> tuple[nn.Module, dict[int, set[str]]]:
    """A model, and the roles of its parameters as they are made. A head needs a table that it is the head of."""
    model, roles = nn.Module(), {}

    def add(name: str, module: nn.Module, **said: str) -> None:
        model.add_module(name, module)
        roles.update({id(p): {said[n]} for n, p in module.named_parameters(recurse=False)})

    if head != "none":
        add("table", nn.Embedding(VOCABULARY, WIDTH), weight="embeddings")
    for n, kind in enumerate(layers):
        name = f"{kind}{n}"
        if kind == "linear":
            add(name, nn.Linear(WIDTH, WIDTH), weight="matrices", bias="vectors")
        elif kind == "embedding":
            add(name, nn.Embedding(7, WIDTH), weight="embeddings")
        elif kind == "norm":
            add(name, nn.LayerNorm((2, WIDTH)) if n % 2 else nn.RMSNorm(WIDTH), weight="vectors", bias="vectors")
        elif kind == "conv":
            add(name, nn.Conv2d(2, 3, 2), weight="convolutions", bias="vectors")
        elif kind == "bilinear":
            add(name, nn.Bilinear(2, 3, WIDTH), weight="none of them", bias="vectors")
        else:
            model.register_parameter(name, nn.Parameter(torch.ones(())))
            roles[id(model.get_parameter(name))] = {"vectors"}
    if head == "own":
        add("head", nn.Linear(WIDTH, VOCABULARY), weight="heads", bias="vectors")
    if head == "tied":
        add("head", nn.Linear(WIDTH, VOCABULARY), weight="heads", bias="vectors")
        model.head.weight = model.table.weight
        roles[id(model.table.weight)] = {"embeddings", "heads"}
    return model, {id(p): roles[id(p)] for p in model.parameters()}


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[tuple[str, ...], str]]:
    """Rules, each with its roles and its shape; what it refuses goes to the next."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from(list(SHAPES)))
        words = draw(st.lists(st.sampled_from(SHAPES[shape] or WORDS), max_size=3, unique=True))
        found.append((tuple(words), shape))
        if not words and not shape:  # takes all there is
            break
    return found


def text_of(chain: list[tuple[tuple[str, ...], str]], end: str) -> str:
    lines = []
    for n, (words, shape) in enumerate(chain):
        on = f" on {', '.join(words)}{shape}" if words or shape else ""
        other = f"r{n + 1}" if n + 1 < len(chain) else end
        lines.append(f"rule r{n}(lr = 0.1){on}{f' else {other}' if other and on else ''} {{ update last w - lr * g }}")
    return "\n".join(lines)


def oracle(chain: list[tuple[tuple[str, ...], str]], end: str, roles: set[str], p: torch.Tensor, bare: bool) -> str | None:
    """The first rule that takes a parameter; `bare` is whether its shape alone says what it is."""
    for n, (words, shape) in enumerate(chain):
        matrix = p.ndim == 2 and (bare or roles != {"vectors"})
        fits = {"": True, " d -> e": matrix, " d -> e stacked": p.ndim >= 2, " real[n]": p.ndim == 1}[shape]
        if fits and (not words or roles & set(words)):
            return f"r{n}"
    return end or None


@settings(max_examples=60)
@given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=6), st.sampled_from(["none", "own", "tied"]), chains(), st.sampled_from(["", "adamw"]))
def test_every_parameter_once_by_the_right_rule(layers, head, chain, end) -> None:
    model, roles = model_of(layers, head)
    program, parameters = nldsl.load(text_of(chain, end)), dict(model.named_parameters())
    wanted = {name: oracle(chain, end, roles[id(p)], p, False) for name, p in parameters.items()}
    one = optimizers_of(program, model, "r0" if any(words for words, _ in chain) else "all by r0()", "all by r0()")
    if None in wanted.values():
        lost = [name for name, rule in wanted.items() if rule is None]
        assert all(isinstance(found, str) and all(f"`{name}`" in found for name in lost[:8]) for found in one)
        assert all(f"`{name}`" not in found for found in one for name in set(wanted) - set(lost))
    else:
        assert all(found == wanted for found in one)

    shapes = {name: {0: {"vectors"}, 1: {"vectors"}, 2: {"matrices"}}.get(p.ndim, {"none of them"}) for name, p in parameters.items()}
    wanted = {name: oracle(chain, end, shapes[name], p, True) for name, p in parameters.items()}
    try:
        found = spread(program.optimizer_class("r0")(model.parameters()), model)
    except ValueError as error:
        assert None in wanted.values(), error
    else:
        if any(words for words, _ in chain):
            assert found == wanted


def optimizers_of(program, model: nn.Module, *texts: str) -> list[dict[str, str] | str]:
    """The rule of every parameter, or the message of the refusal."""
    out: list[dict[str, str] | str] = []
    for text in texts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RouteWarning)
                made = program.optimizer(text, model)
        except NlError as error:
            assert [d.code for d in error.diagnostics] == ["NL728"]
            out.append(error.diagnostics[0].message)
        else:
            found = spread(made, model)
            assert found == {name: made.assignment.rule_of(name) for name in found}
            assert len({id(p) for g in made.param_groups for p in g["params"]}) == len(found)
            out.append(found)
    return out
