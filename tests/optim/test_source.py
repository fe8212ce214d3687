"""Generated rules against the interpreter: the passes as torch operations and as C++, on streams of gradients."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

import nldsl
from nldsl.core import Rule
from nldsl.dims import Dim
from nldsl.program import Program, load
from nldsl.source import Span
from nldsl_interpreter import run_rule
from nldsl_torch.optim.build import optimizer_class, optimizer_source
from nldsl_torch.optim.numbers import _addmm, _gram

STEPS = 11
MATRIX = [(4, 3), (3, 4), (3, 3)]


def at_sizes(node: Any, sizes: dict[str, int]) -> Any:
    """A value of the core with numbers for the symbols."""
    if isinstance(node, Dim):
        return Dim.of(node.value(sizes)) if node.symbols() <= sizes.keys() else node
    if isinstance(node, Span):
        return node
    if is_dataclass(node):
        return replace(node, **{f.name: at_sizes(getattr(node, f.name), sizes) for f in fields(node)})
    if isinstance(node, (tuple, list)):
        return type(node)(at_sizes(n, sizes) for n in node)
    return {k: at_sizes(v, sizes) for k, v in node.items()} if isinstance(node, dict) else node


def concrete(rule: Rule, shape: tuple[int, ...], numbers: dict[str, Any]) -> Rule:
    """A rule at the size of a tensor, its slow states with their periods."""
    dims = rule.types["w"].shape
    sizes = dict(zip((next(iter(d.symbols())) for d in dims), shape[-2:] if len(dims) == 2 else (torch.Size(shape).numel(),), strict=True))
    periods = {h.name: numbers.get(h.name, h.default) for h in rule.hypers}
    every = {s: int(periods[p]) if isinstance(p, str) else p for s, p in rule.periods.items()}
    states = tuple(replace(s, every=every.get(s.name, s.every)) for s in rule.unit.states)
    return at_sizes(replace(rule, unit=replace(rule.unit, states=states)), sizes)


def steps(program: Program, name: str, shape: tuple[int, ...], numbers: dict[str, Any], dtype: torch.dtype, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the interpreter gives and what the generated class does, [T, *shape]."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    g = torch.randn(STEPS, *shape, generator=generator, dtype=torch.float64)
    expected = run_rule(concrete(program.rule(name), shape, numbers), w, g, numbers)
    p = torch.nn.Parameter(w.to(dtype))
    made = optimizer_class(program, name)([p], **numbers, **options)
    found = []
    for gradient in g:
        p.grad = gradient.to(dtype)
        made.step()
        found.append(p.detach().clone())
    return expected, torch.stack(found).double()


def check(program: Program, name: str, shape: tuple[int, ...], numbers: dict[str, Any], **options: Any) -> None:
    expected, found = steps(program, name, shape, numbers, torch.float64, **options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


LIBRARY = load("rule none(lr = 1) { update last w - lr * g }")
NEEDING = {n for n in LIBRARY.all_rules if n.startswith("delta_gradient_descent")}
ROUNDED = {"muon"}
# With eps at their defaults both divide by what rounding leaves of the null space of g g^T: no two processors agree there.
POSED = {"shampoo": {"eps": 0.01}, "soap": {"eps": 0.01}}


def optimizers() -> list[str]:
    found = []
    for name in LIBRARY.all_rules:
        try:
            LIBRARY.rule(name)
        except nldsl.NlError:
            continue
        found.append(name)
    return sorted(set(found) - NEEDING - ROUNDED)


@pytest.mark.parametrize("name", optimizers())
def test_a_rule_of_the_library_is_what_the_interpreter_makes_of_it(name: str) -> None:
    rule = LIBRARY.rule(name)
    shapes = {"matrix": MATRIX, "stack": [*MATRIX, (2, 4, 3), (2, 2, 3, 4)]}.get(rule.accepts, [(5,)])
    required = {h.name: 0.05 for h in rule.hypers if h.default is None}
    period = {"frequency": 3} if any(h.name == "frequency" for h in rule.hypers) else {}
    other = {h.name: 0.3 for h in rule.hypers if h.default == 0}
    required |= POSED.get(name, {})
    for shape in shapes:
        check(LIBRARY, name, shape, {**required, **period}, fused=False)
        check(LIBRARY, name, shape, {**required, **period, **other}, fused=False)


@pytest.mark.parametrize("name", ["adamw", "lion", "nadam", "m3_ema", "shampoo", "adamw_clip_norm"])
def test_native_passes_agree(name: str) -> None:
    period = {**({"frequency": 3} if name in ("m3_ema", "shampoo") else {}), **POSED.get(name, {})}
    check(LIBRARY, name, (4, 3), period, fused=True)
    expected, found = steps(LIBRARY, name, (4, 3), period, torch.float32, fused=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_entrywise_words_have_their_c() -> None:
    words = "tanh(g) + sigmoid(g) + exp(g) + abs(g) + sign(g) + sqrt(abs(g)) + log(abs(g) + 1) + softplus(g) + silu(g) + gelu(g) + relu(g)"
    program = load(f"rule words(lr = 0.1) {{\n  a = {words}\n  b = max(g, min(a, lr)) + g^2 + g^3 + abs(g)^0.5 + abs(g)^lr + where(g, a, lr) - (-g)\n  update last w - lr * b / 3\n}}")
    check(program, "words", (7,), {}, fused=False)
    check(program, "words", (7,), {}, fused=True)


def test_a_choice_by_size_computes_one_side() -> None:
    source = optimizer_source(LIBRARY, "muon", standalone=False)
    step = "\n".join(line for line in source[source.index("def muon_step") :].splitlines() if "#" not in line)
    tall = step.split("\n    else:")[0]
    assert tall.count(" = _gram(") == 5
    assert tall.count("_addmm(") == 10
    assert tall.count("symmetric=True") == 5
    assert len(set(re.findall(r"MUON\w+ = Segment", source))) == 2  # both sides share them


@pytest.mark.parametrize("shape", [(160, 200), (167, 80), (400, 331), (150, 170)])
def test_products_that_are_their_own_transpose_are_made_in_bands(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a in (x, x.mT):
            gram = _gram(a)
            torch.testing.assert_close(gram, a @ a.mT, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gram, gram.mT, rtol=0, atol=1e-12)
            found = _addmm(gram, gram, gram, beta=-4.775, alpha=2.0315, symmetric=True)
            torch.testing.assert_close(found, -4.775 * gram + 2.0315 * gram @ gram, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(_gram(x.float()).double(), x @ x.mT, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(_gram(x.bfloat16()).double(), x @ x.mT, rtol=5e-2, atol=1.0)
    y = x.requires_grad_()
    _gram(y).sum().backward()
    torch.testing.assert_close(y.grad, 2 * x.detach().sum(0).expand_as(x), rtol=1e-12, atol=1e-12)


PRODUCTS = """
rule products(lr = 0.1) on d -> e {
  A = matmul(g, transpose(g))
  memory other : d -> d = eye { update 0.5 * last other + matmul(transpose(g), g) }
  B = 2 * A - A / (1 + sqnorm(g)) + matmul(A, A)
  C = matmul(transpose(g), last w)
  update last w - lr * matmul(B, g) / (1 + sqnorm(B)) - lr * matmul(matmul(g, other), C) / (1 + sqnorm(other) * sqnorm(C))
}
"""


def test_only_products_that_are_their_own_transpose_are_marked() -> None:
    source = optimizer_source(load(PRODUCTS), "products", standalone=False)
    assert source.count(" = _gram(") == 1 and source.count("symmetric=True") == 1  # A and B; `other` may be anything at first
    check(load(PRODUCTS), "products", (4, 3), {})


def test_source_is_repeatable_and_readable() -> None:
    source = optimizer_source(LIBRARY, "adamw", standalone=False)
    assert source == optimizer_source(LIBRARY, "adamw", standalone=False)
    assert 'State("exp_avg", "like", None, lambda h: 0.0)' in source
    assert "def __init__(self, params, lr=0.001, betas=(0.9, 0.999)" in source
    assert max(map(len, source.splitlines())) < 150


def test_a_number_of_a_rule_starts_a_memory() -> None:
    program = load("rule r(lr = 0.1, first = 0.5) { memory s : like(w) = first { update last s + g * g }  update last w - lr * g / sqrt(s) }")
    check(program, "r", (3,), {"first": 2.0}, fused=False)


def test_numbers_are_ieee_where_a_choice_follows() -> None:
    text = "rule r(lr = 0.1) {\n  t = count()\n  c = where(t - 2, sqrt((t - 3) / (t - 2)), 1 / (t - 1))\n  update last w - lr * where(t - 2, c, 1) * g\n}"
    check(load(text), "r", (3,), {}, fused=False)
    check(load("rule r(lr = 0.1) {\n  t = count()\n  update last w - lr * where(t - 1, g / (t - 1), g)\n}"), "r", (3,), {}, fused=False)


HAZARDS = {
    "a state read after it is known": "memory m : like(w) = zeros { update 0.9 * last m + g }\n n = sqrt(sqnorm(m))\n update last w - lr * (m / n + last m)",
    "a state read only after a reduction": "memory m : like(w) = zeros { update g }\n n = sqnorm(m + last m)\n update last w - lr * last m * n",
    "two states exchanged": "memory a : like(w) = ones { update last b }\n memory b : like(w) = zeros { update last a + g }\n update last w - lr * a",
    "two reductions in turn": "a = g / sqrt(sqnorm(g))\n b = a + last w / sqrt(sqnorm(a + last w))\n update last w - lr * b * mean(b) * dot(a, b)",
    "a number that a reduction makes": "memory s : real = 1 { update 0.5 * last s + sqnorm(g) }\n update last w - lr * g / sqrt(s)",
    "equal memories": "memory a : like(w) = zeros { update 0.5 * last a + g }\n memory b : like(w) = zeros { update g + 0.5 * last b }\n update last w - lr * (a + last b)",
    "numbers in the place of tensors": "memory a : like(w) = zeros { update lr + 0 * g }\n memory b : like(w) = ones { update 0 * g + 3 }\n update last w - last a * g - last b",
    "a sum that a derivative spreads": "memory a : like(w) = ones { minimize sum(a) * sum(a) + mean(a * g) by gd(0.1) }\n update last w - lr * a",
    "slow memories": """memory a : like(w) = zeros every 3 { minimize 0.5 * sqnorm(a - g) over mean by gd(0.5) }
      memory b : like(w) = zeros every often { minimize -dot(b, g) by momentum(0.5) }
      memory c : like(w) = zeros every often offset 1 { minimize -dot(c, g * g) over mean by gd(1) }
      memory d : like(w) = zeros { minimize 0.5 * sqnorm(d - g) by momentum(0.1) }
      update last w - lr * (a + last b + c + d + last a)""",
}  # fmt: skip


@pytest.mark.parametrize("case", HAZARDS)
@pytest.mark.parametrize("fused", [False, True])
def test_states_keep_their_meaning(case: str, fused: bool) -> None:
    program = load(f"rule r(lr = 0.1, often = 2) {{\n {HAZARDS[case]}\n}}" if "often" in HAZARDS[case] else f"rule r(lr = 0.1) {{\n {HAZARDS[case]}\n}}")
    check(program, "r", (5,), {}, fused=fused)


def test_what_a_slow_memory_determines_is_the_same_when_it_is_kept() -> None:
    text = """rule r(lr = 0.1, frequency = 3) on d -> e {
      memory slow : like(w) = zeros every frequency { minimize -dot(slow, g) over mean by gd(0.5) }
      memory base : e -> e = eye every frequency { update 0.9 * last base + matmul(g, transpose(g)) }
      chain X = slow / (sqrt(sqnorm(slow)) + 1e-7) over i in 0 .. 3 {
        X = 1.5 * X - 0.5 * matmul(matmul(X, transpose(X)), X)
      }
      update last w - lr * matmul(matrix_power(base, -0.5), g + X)
    }"""
    program = load(text)
    for shape in MATRIX:
        check(program, "r", shape, {}, fused=False)
        check(program, "r", shape, {"frequency": 1}, fused=True)
    source = optimizer_source(program, "r", standalone=False)
    rest = re.sub("#.*", "", source[source.index("def r_step") : source.index("def r_prologue")])
    assert 'State("X", "like"' in source and 'State("base_read", "shaped", lambda shape: (shape[-2], shape[-2]), "eye")' in source
    assert rest.count("matmul(") == 1 and "matrix_power" not in rest


@pytest.mark.parametrize("shape", MATRIX)
def test_rounded_rules_are_near_the_interpreter(shape: tuple[int, ...]) -> None:
    expected, found = steps(LIBRARY, "muon", shape, {}, torch.float64, fused=False)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_rules_named_like_the_runtime_do_not_meet_it() -> None:
    for name in ("table", "state", "probe", "run", "none", "torch", "program"):
        check(load(f"rule {name}(lr = 0.1) {{ update last w - lr * g }}"), name, (2,), {})


def test_a_step_can_be_differentiated() -> None:
    """The derivative of a loss after some steps in the learning rate, against finite differences."""
    made = optimizer_class(LIBRARY, "adamw")

    def loss(lr: torch.Tensor) -> torch.Tensor:
        start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
        p = start.clone()
        optimizer = made([p], lr=lr, differentiable=True)
        for _ in range(3):
            p.grad = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
            optimizer.step()
        return (p * p).sum()

    assert torch.autograd.gradcheck(loss, torch.tensor(0.1, dtype=torch.float64, requires_grad=True))
