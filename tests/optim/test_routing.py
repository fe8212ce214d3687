"""Routing: what parameters are, which route takes them, and what is refused."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nldsl
from nldsl import NlError
from nldsl.elaborate.top import library
from nldsl.optimizers import library_program
from nldsl.pipeline import check_source
from nldsl.routes import SELECTORS, routes_of
from nldsl.source import Source
from nldsl_torch.optim.build import optimizer_for
from nldsl_torch.optim.routing import RouteWarning, assign, parts


class Layer(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d, bias=False)
        self.norm = nn.LayerNorm((2, d))


class Gpt(nn.Module):
    def __init__(self, d: int = 4, tied: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(12, d), nn.Embedding(8, d)
        self.conv = nn.Conv1d(d, d, 3)
        self.h = nn.ModuleList(Layer(d) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(d, d), requires_grad=False)
        self.head = nn.Linear(d, 12, bias=False)
        if tied:
            self.head.weight = self.wte.weight


def routes(text: str, top=None):
    return routes_of(text, top or library())


def roles(model) -> dict[str, str]:
    return {part.names[0]: " and ".join(part.roles) for part in parts(model)}


def codes(call, *args) -> list[str]:
    with pytest.raises(NlError) as caught:
        call(*args)
    return [d.code for d in caught.value.diagnostics]


# --- roles -------------------------------------------------------------------------------------


def test_roles_of_a_torch_model() -> None:
    found = roles(Gpt())
    assert found.pop("head.weight") == "head"
    assert {found.pop(n) for n in ("wte.weight", "wpe.weight")} == {"embedding"}
    assert found.pop("conv.weight") == "convolution"
    matrices = {n for n, role in found.items() if role == "matrix"}
    assert matrices == {f"h.{i}.{n}.weight" for i in range(2) for n in ("qkv", "out")}
    assert {role for n, role in found.items() if n not in matrices} == {"vector"} and "frozen" not in found


def test_a_tied_head_is_one_parameter_with_two_roles() -> None:
    model = Gpt(tied=True)
    (part,) = [p for p in parts(model) if "wte.weight" in p.names]
    assert part.names == ("wte.weight", "head.weight") and part.roles == ("embedding", "head")
    for selector in ("heads", "embeddings", '"head.*"', '"wte.*"'):
        assert assign(model, routes(f"{selector} by lion(), rest by adamw()")).rule_of("wte.weight") == "lion"


def test_a_layer_as_wide_as_the_text_has_positions_is_no_head() -> None:
    assert roles(Gpt(d=8, tied=True))["h.1.out.weight"] == "matrix"


BLOCKS = """
block readout(d) { in x : real[d]  param W : d -> 9  param bias : real[9] = zeros  out y = 2 * W(x) + bias }
block heads(d) {
  in x : real[d]
  each h in 2 {
    param A : d -> 3
    param b : real[3] = zeros
    q = conv(A(x), 4) + b
  }
  param O : 6 -> d
  out y = O(flatten(q))
}
block lm(d) {
  in x : int[9]
  param E : 9 -> d
  param g : real[d] = ones
  h = g * E(x)
  out y = readout(h + heads(h))
}
block tied(d) {
  in x : int[9]
  param E : 9 -> d
  out y = transpose(E)(E(x))
}
"""


def test_roles_of_generated_modules() -> None:
    program = nldsl.load(BLOCKS)
    model = program.module("lm", d=4)
    assert roles(model) == {
        "E": "embedding", "g": "vector", "heads.A": "matrix", "heads.b": "vector", "heads.q_filter": "convolution",
        "heads.O": "matrix", "readout.W": "head", "readout.bias": "vector",
    }  # fmt: skip
    assert {p.names[0]: p.stack for p in parts(model) if p.stack > 1} == {"heads.A": 2}
    assert roles(program.module("tied", d=4)) == {"E": "embedding and head"}
    inside = nn.ModuleDict({"lm": model, "more": program.module("heads", d=4)})
    found = roles(inside)
    assert (found["lm.readout.W"], found["lm.heads.O"], found["more.O"]) == ("head", "matrix", "matrix")


def test_roles_by_shape_alone() -> None:
    model = Gpt()
    by_name, bare = list(model.named_parameters()), list(model.parameters())
    assert set(roles(by_name).values()) == set(roles(bare).values()) == {"matrix", "vector", "tensor"}
    assert roles(by_name)["wte.weight"] == "matrix"
    made = assign(iter(by_name), routes("matrices by muon(), rest by adamw()")).groups()
    assert "wte.weight" in [name for name, _ in made[0]["params"]]
    assert all(isinstance(p, torch.Tensor) for group in assign(iter(bare), routes("all by adamw()")).groups() for p in group["params"])
    with pytest.raises(TypeError, match="param groups"):
        assign([{"params": bare}], routes("all by adamw()"))


def test_a_parameter_without_a_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`0\.weight` has no shape yet"):
        parts(nn.Sequential(nn.LazyLinear(3)))


# --- assignment --------------------------------------------------------------------------------

TEXTS = [*(f"{s} by lion(lr = 0.1)" for s in SELECTORS), '"h.*.qkv.*" by signum()', '"*.weight" by adam() every 2', 'split("*.qkv.weight", 3) by muon()']


@given(st.lists(st.sampled_from(TEXTS), max_size=4), st.booleans())
def test_every_parameter_is_in_one_group(texts: list[str], tied: bool) -> None:
    model = Gpt(tied=tied)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RouteWarning)
        found = assign(model, routes(", ".join([*texts, "rest by adamw()"])))
    given_ = [p for p in model.parameters() if p.requires_grad]
    taken = [p for group in found.groups() for _, p in group["params"]]
    assert sorted(map(id, taken)) == sorted(map(id, given_))
    assert f"in all: {len(given_)} tensors, {sum(p.numel() for p in given_):,} parameters" in str(found)


def test_the_first_route_that_matches_takes_a_parameter() -> None:
    found = assign(Gpt(), routes('"h.0.*" by sgd(), matrices by muon(), "*.bias" by lion(), rest by adamw()'))
    for item in found.items:
        name = item.part.names[0]
        expected = "sgd" if fnmatchcase(name, "h.0.*") else "muon" if "matrix" in item.part.roles else "lion" if name.endswith("bias") else "adamw"
        assert item.by.rule == found.rule_of(name) == expected


def test_groups_have_all_their_numbers() -> None:
    text = 'split("*.qkv.weight", 3) by muon(lr = 0.5), matrices by muon(), heads by adamw(betas = [0.5, 0.75]) every 8, rest by adamw()'
    first, second, third, last = assign(Gpt(), routes(text)).groups()
    assert (first["rule"], first["split"], first["lr"], len(first["params"])) == ("muon", 3, 0.5, 2)
    assert second["lr"] != 0.5 and "split" not in second and "every" not in second
    assert (third["every"], third["betas"], third["lr"]) == (8, (0.5, 0.75), 0.001)
    assert [n for n, _ in third["params"]] == ["head.weight"] and last["betas"] == (0.9, 0.999)


def test_stacked_matrices_of_each_are_split() -> None:
    model = nldsl.load(BLOCKS).module("lm", d=4)
    groups = assign(model, routes("matrices by muon(), rest by adamw()")).groups()
    assert {(n, group.get("split")) for group in groups if group["rule"] == "muon" for n, _ in group["params"]} == {("heads.A", 2), ("heads.O", None)}


RULES = check_source(Source("rules", """
rule strict(lr = 0.1) on d -> e { update last w - lr * g }
rule lenient(lr = 0.2) on d -> e else vectors_only { update last w - lr * g }
rule vectors_only(lr = 0.3) on real[n] else sgd { update last w - lr * g }
""")).top  # fmt: skip


def test_what_a_rule_does_not_accept_goes_to_its_else() -> None:
    found = assign(Gpt(), routes("all by lenient(lr = 1) every 2", RULES))
    kinds = {item.part.names[0]: item.by.rule for item in found.items}
    assert (kinds["h.0.out.weight"], kinds["h.0.qkv.bias"], kinds["h.0.norm.weight"], kinds["scale"], kinds["conv.weight"]) == (
        "lenient", "vectors_only", "sgd", "sgd", "sgd")  # fmt: skip
    groups = {group["rule"]: group for group in found.groups()}
    assert {name: group["lr"] for name, group in groups.items()} == {"lenient": 1.0, "vectors_only": 0.3, "sgd": 0.001}
    assert all(group["every"] == 2 for group in groups.values())


def test_what_no_route_takes_is_an_error() -> None:
    with pytest.raises(NlError) as caught:
        assign(Gpt(), routes("matrices by muon(), vectors by adamw()"))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "NL729" and "rest by adamw()" in diagnostic.help
    assert all(f"`{n}`" in diagnostic.message for n in ("wte.weight", "wpe.weight", "conv.weight", "head.weight"))


def test_what_a_rule_does_not_accept_is_an_error() -> None:
    with pytest.raises(NlError) as caught:
        assign(Gpt(), routes('"h.*" by strict(), rest by adamw()', RULES))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "NL728" and "`h.0.qkv.bias`" in diagnostic.message and "`h.0.qkv.weight`" not in diagnostic.message
    assert codes(assign, Gpt(), routes('split("*.qkv.weight", 5) by muon(), rest by adamw()')) == ["NL728"]


def test_a_route_without_parameters_is_a_warning() -> None:
    with pytest.warns(RouteWarning, match='no parameter is left for `"heed.*" by lion'):
        found = assign(Gpt(), routes('"heed.*" by lion(), rest by adamw()'))
    assert [d.code for d in found.notes] == ["NL730"] and found.notes[0].message in str(found)


TABLE = """\
split("*.qkv.weight", 3) by muon(): 2 tensors, 96 parameters
  h.*.qkv.weight (2 times)  12 x 4, 3 matrices  matrix  muon  96
matrices by muon(): 2 tensors, 32 parameters
  h.*.out.weight (2 times)  4 x 4  matrix  muon  32
rest by adamw(): 11 tensors, 189 parameters
  scale                     number     vector              adamw   1
  wte.weight                12 x 4     embedding and head  adamw  48
  wpe.weight                8 x 4      embedding           adamw  32
  conv.weight               4 x 4 x 3  convolution         adamw  48
  conv.bias                 4          vector              adamw   4
  h.*.qkv.bias (2 times)    12         vector              adamw  24
  h.*.norm.weight (2 times) 2 x 4      vector              adamw  16
  h.*.norm.bias (2 times)   2 x 4      vector              adamw  16
in all: 15 tensors, 317 parameters"""


def test_the_table() -> None:
    found = str(assign(Gpt(tied=True), routes('split("*.qkv.weight", 3) by muon(), matrices by muon(), rest by adamw()')))
    assert [line.split() for line in found.splitlines()] == [line.split() for line in TABLE.splitlines()]


def test_one_optimizer_with_one_state() -> None:
    torch.manual_seed(0)
    ours, theirs = Gpt(), Gpt()
    theirs.load_state_dict(ours.state_dict())
    made = optimizer_for(library_program(), routes("vectors by sgd(lr = 0.1), matrices by adam(lr = 0.2), rest by adamw(lr = 0.3) every 2"), ours)
    assert isinstance(made, torch.optim.Optimizer) and len(made.state_dict()["param_groups"]) == 3
    takes = {role: [p.names[0] for p in parts(theirs) if p.roles == (role,)] for role in ("vector", "matrix")}
    named = dict(theirs.named_parameters())
    rest = [p for n, p in named.items() if n not in takes["vector"] + takes["matrix"]]
    own = [torch.optim.SGD([named[n] for n in takes["vector"]], lr=0.1), torch.optim.Adam([named[n] for n in takes["matrix"]], lr=0.2)]
    slow = torch.optim.AdamW(rest, lr=0.3)
    for step in range(1, 5):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            if not p.requires_grad:
                continue
            p.grad, g = torch.randn_like(p), q.grad
            q.grad = p.grad + g if g is not None and any(q is r for r in rest) else p.grad.clone()
        made.step()
        for optimizer in own if step % 2 else [*own, slow]:
            optimizer.step()
        if step % 2 == 0:
            slow.zero_grad()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7, msg=name)


def test_a_rule_on_stacks_takes_convolutions():
    model = nn.Sequential(nn.Conv2d(2, 3, 4), nn.Flatten(), nn.Linear(12, 5))
    optimizer = nldsl.optimizer("rest by adafactor()", model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    shapes = {name: tuple(s.shape) for name, s in optimizer.state[model[0].weight].items()}
    assert shapes == {"step": (), "row_var": (3, 2, 4, 1), "col_var": (3, 2, 1, 4)}
    assert {*optimizer.state[model[2].bias]} == {"step", "variance"}


@pytest.mark.parametrize("rule", ["muon", "shampoo", "adafactor"])
def test_the_matrices_of_a_tensor_train_apart(rule: str) -> None:
    torch.manual_seed(0)
    start, program = torch.randn(3, 4, 5, dtype=torch.float64), library_program()
    fused = nn.Linear(5, 12, bias=False).double()
    fused.weight.data.copy_(start.reshape(12, 5))
    apart = nn.ModuleList(nn.Linear(5, 4, bias=False).double() for _ in range(3))
    for layer, w in zip(apart, start, strict=True):
        layer.weight.data.copy_(w)
    one = optimizer_for(program, routes(f"split(matrices, 3) by {rule}() every 2"), fused)
    many = optimizer_for(program, routes(f"matrices by {rule}() every 2"), apart)
    for _ in range(6):
        g = torch.randn(3, 4, 5, dtype=torch.float64)
        fused.weight.grad = g.reshape(12, 5)
        for layer, part in zip(apart, g, strict=True):
            layer.weight.grad = part.clone()
        one.step()
        many.step()
    torch.testing.assert_close(fused.weight.reshape(3, 4, 5), torch.stack([layer.weight for layer in apart]), rtol=1e-10, atol=1e-12)
    assert not torch.equal(fused.weight.reshape(3, 4, 5), start)


def test_a_rule_of_matrices_trains_the_operators_of_each() -> None:
    model = nldsl.load(BLOCKS).module("lm", d=4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = optimizer_for(library_program(), routes("matrices by muon(), rest by adamw()"), model)
    model(torch.randint(9, (2, 6))).square().sum().backward()
    made.step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


# --- reading -----------------------------------------------------------------------------------


def test_a_single_rule_is_a_route_of_all() -> None:
    (one,) = routes("by adamw(0.5, betas = [0.1, 0.2])")
    assert (one.selector, one.rule, one.text) == ("all", "adamw", "all by adamw(0.5, betas = [0.1, 0.2])")
    assert one.numbers["lr"] == 0.5 and one.numbers["betas"] == (0.1, 0.2) and one.numbers["eps"] == 1e-8
    assert str(one).startswith("all by adamw(lr = 0.5, betas = [0.1, 0.2]")
    assert routes("by adamw")[0].numbers["lr"] == 0.001


def test_structure_is_whole() -> None:
    (one,) = routes("matrices by muon(ns_steps = 2)")
    assert one.numbers["ns_steps"] == 2 and isinstance(one.numbers["ns_steps"], int) and one.accepts == "matrix"
    assert routes("by m3(frequency = 4)")[0].numbers["frequency"] == 4


WRONG = [
    ("matrixes by adamw()", "NL725", "did you mean `matrices`?"),
    ("matrices by adamv()", "NL722", "did you mean `adam`?"),
    ("by 3", "NL722", "a rule of the file"),
    ("by adamw(), sgd()", "NL722", "2 rules"),
    ("by adamw(weight = 1)", "NL726", "did you mean `weight_decay`?"),
    ("by adamw(betas = [0.9])", "NL726", "a list of 2 numbers"),
    ("by adamw(lr = [1, 2])", "NL726", "a number"),
    ("by adamw(lr = 0.1, lr = 0.2)", "NL726", "given twice"),
    ("by signsgd(1, 2, 3)", "NL726", "takes fewer numbers"),
    ("by muon(ns_steps = 0.5)", "NL726", "a whole number"),
    ("by gd()", "NL726", "`rate`"),
    ("by decay(0.5)", "NL432", "does not depend on the gradient"),
    ("all by adamw() every 0", "NL727", "1 or more"),
    ("all by adamw() every 1.5", "NL727", "1 or more"),
    ("all by delta_gradient_descent() every 2", "NL727", "reads x and delta of each step"),
    ("vectors by strict()", "NL728", "vectors by adamw()"),
    ("convolutions by strict()", "NL728", "convolutions by adamw()"),
    ("split(matrices, 2) by adamw()", "NL728", "nothing to split"),
    ("split(vectors, 2) by muon()", "NL725", "no rows"),
    ("split(matrices, 1) by muon()", "NL725", "2 or more"),
    ("splat(matrices, 2) by muon()", "NL725", "split(SELECTOR, PARTS)"),
]


@pytest.mark.parametrize(("text", "code", "words"), WRONG, ids=[text for text, *_ in WRONG])
def test_what_is_refused(text: str, code: str, words: str) -> None:
    with pytest.raises(NlError) as caught:
        routes(text, RULES)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert words in " | ".join(filter(None, (diagnostic.message, diagnostic.expected, diagnostic.found, diagnostic.help)))


def test_mistakes_of_all_routes_are_told_at_once() -> None:
    assert codes(routes, 'matrixes by adamw(), "a" by adamv(), rest by sgd(rate = 1) every 0') == ["NL725", "NL722", "NL726", "NL727"]
