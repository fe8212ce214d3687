"""A word on rounded values is exact at them and rounded once: in the module and in the interpreter."""

import pytest
import torch

import nldsl
from nldsl_interpreter import Interpreter
from nldsl_testing.example import Example
from nldsl_testing.properties import PROPERTIES
from nldsl_testing.subject import Subject

EXACT = {
    "unit(h)": lambda h, j, c, s: h / (h.square().sum(-1, keepdim=True) + 1e-6).sqrt(),
    "norm(h)": lambda h, j, c, s: h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt(),
    "softmax(h)": lambda h, j, c, s: h.softmax(-1),
    "cross_entropy(h, c)": lambda h, j, c, s: h.logsumexp(-1) - h.gather(-1, c[..., None])[..., 0],
    "dot(h, j)": lambda h, j, c, s: (h * j).sum(-1),
    "sqnorm(h)": lambda h, j, c, s: h.square().sum(-1),
    "mean(h)": lambda h, j, c, s: h.mean(-1),
    "h ^ 3": lambda h, j, c, s: h**3,
    "h + 0.1": lambda h, j, c, s: h + 0.1,
    "0.1 - h": lambda h, j, c, s: 0.1 - h,
    "0.3 / h": lambda h, j, c, s: 0.3 / h,
    "0.3 * h": lambda h, j, c, s: 0.3 * h,
    "h / j": lambda h, j, c, s: h / j,
    "h + s": lambda h, j, c, s: h + s[..., None],
    "tanh(h)": lambda h, j, c, s: h.tanh(),
    "silu(h)": lambda h, j, c, s: h * h.sigmoid(),
    "bfloat16(W)(h)": lambda h, j, c, s: h @ WEIGHT.bfloat16().double().mT,
}
WEIGHT = torch.randn(8, 8, generator=torch.Generator().manual_seed(4)).double()
HEAD = "in x : real[d]  in z : real[d]  in c : int[d]  in s : real  param W : d -> d  h = bfloat16(x)  j = bfloat16(z)"


@pytest.mark.parametrize("word", EXACT)
def test_a_word_on_rounded_values_is_rounded_once(word: str) -> None:
    random = torch.Generator().manual_seed(5)
    x, z, s = (torch.randn(16, 20, *shape, generator=random).double() for shape in ((8,), (8,), ()))
    c = torch.randint(8, (16, 20), generator=random)
    e = nldsl.load(f"block m(d) {{ {HEAD}  out y = {word} }}").elaborate("m", d=8)
    module = nldsl.load(f"block m(d) {{ {HEAD}  out y = {word} }}").module("m", d=8).double()
    module.load_state_dict({"W": WEIGHT}, strict=False)
    exact = EXACT[word](x.bfloat16().double(), z.bfloat16().double(), c, s).bfloat16()
    given, _ = Interpreter(*e.parts).run({"W": WEIGHT}, {"x": x, "z": z, "c": c, "s": s})
    for y in (module(x, z, c, s), given["y"]):
        assert (y.bfloat16() == y).all()
        assert (y != exact).double().mean() < 1e-3  # an exact value between two of float32 may be a tie there


def test_a_turn_is_rounded_once() -> None:
    text = "block m(d) { in x : real[d]  out y = rope(bfloat16(x)) }"
    x = torch.randn(4, 9, 8, generator=torch.Generator().manual_seed(5)).double()
    exact = nldsl.load(text.replace("bfloat16", "")).module("m", d=8).double()(x.bfloat16().double()).bfloat16()
    given, _ = Interpreter(*nldsl.load(text).elaborate("m", d=8).parts).run({}, {"x": x})
    for y in (nldsl.load(text).module("m", d=8).double()(x), given["y"]):
        assert (y != exact).double().mean() < 1e-3


@pytest.mark.parametrize("body", [
    "out y = unit(bfloat16(x))",
    "k = unit(bfloat16(x))  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by gd(0.5) }  out y = S(k)",
    "memory s : real every 2 { update dot(bfloat16(x), bfloat16(x)) + 0.1 over last }  out y = s * x",
    "memory s : real[d] { update 0.1 + bfloat16(x) }  out y = s + last s",
    "param p : real[d]  each i in 2 { memory s : real[d] every 2 { update 0.1 - bfloat16(p) }  t = s * x }  out y = flatten(t)",
])  # fmt: skip
def test_module_and_interpreter_agree(body: str) -> None:
    of, example = Subject(nldsl.load(f"block m(d) {{ in x : real[d]  {body} }}"), "m", {"d": 8}), Example((("d", 8),), batch=2, cuts=(5, 1, 4))
    for item in (p for p in PROPERTIES if p.name in ("lowerings", "splits", "precision")):
        item.check(of, example)
