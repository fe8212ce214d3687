"""Deep memories and many clocks: interpreter = literal loop, torch = interpreter, splits, batch, causality, update counts."""

import sys
from functools import cache
from pathlib import Path

import nested_references
import pytest
import torch
from test_oracles import SCALE, fla, same, streams

import nldsl

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "torch"))

from torch_cases import Case, distance  # noqa: E402

LEVELS = {"d": 4, "vocab": 5, "periods": [2, 4, 8]}
SIZES: dict[str, dict] = {
    "mesa_net": {"d": 8, "heads": 2},
    "trellis": {"d": 8, "heads": 2, "slots": 5},
    "transformer_pp": {"d": 8, "heads": 2, "layers": 2},
    "llama": {"d": 8, "vocab": 5, "layers": 2, "heads": 2, "group": 2},
    "tnt": {"d": 4, "heads": 2, "coarse": 6, "fine": [4, 2], "shard": 8},
    "self_modifying": {"d": 6, "heads": 2, "C": [2, 2, 4, 2, 2]},
    "cms_sequential": LEVELS,
    "cms_independent": LEVELS,
    "cms_nested": {"d": 4, "vocab": 5, "fast": 2, "middle": 4, "slow": 8},
    "hope": {**LEVELS, "heads": 2, "C": [2, 2, 4, 2, 2]},
    "hope_attention": {**LEVELS, "heads": 2, "layers": 2},
}
# Parameters that the reference needs too.
CLOCKS = ("C", "periods", "coarse", "fine", "shard", "fast", "middle", "slow")
# The period of every memory that changes at the ends of periods only.
PERIODS = {
    "tnt": {"V.": 6},
    "cms_nested": {"F.": 2, "G.": 4, "H.": 8},
    **{name: {f"F.{n}.": n for n in (2, 4, 8)} for name in ("cms_sequential", "cms_independent", "hope", "hope_attention")},
}
T = 11

each = pytest.mark.parametrize("name", SIZES)


@cache
def case(name: str) -> Case:
    return Case(ROOT / "examples" / f"{name}.nl", name, SIZES[name])


def inputs(name: str, seed: int = 5, batch: int = 2) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def one(i) -> torch.Tensor:
        if i.type.kind == "int":
            return torch.randint(0, int(i.type.bound.integer), (batch, T), generator=draw)
        return torch.randn(batch, T, *(n.integer for n in i.type.shape), generator=draw).double()

    return [one(i) for i in case(name).elaborated.unit.inputs]


def named(name: str, y) -> dict[str, torch.Tensor]:
    """Outputs by their names, whether or not there are several."""
    return y if isinstance(y, dict) else {case(name).elaborated.unit.outputs[0][0]: y}


def gradients(y: dict[str, torch.Tensor], leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(9)
    loss = sum((y[n] * torch.randn(y[n].shape, generator=draw).double()).sum() for n in sorted(y))
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True), strict=True))


@cache
def interpreted(name: str):
    """Params, inputs, outputs and gradients of the interpreter."""
    params = {k: v.detach().clone().requires_grad_() for k, v in case(name).module.named_parameters()}
    given = [x.requires_grad_(x.is_floating_point()) for x in inputs(name)]
    unit = case(name).elaborated.unit
    y, _ = case(name).interpreter.run(params, {i.name: x for i, x in zip(unit.inputs, given, strict=True)})
    leaves = params | {f"input {n}": x for n, x in enumerate(given) if x.requires_grad}
    return params, given, leaves, y, gradients(y, leaves)


@each
def test_check_is_clean(name):
    found = nldsl.load(ROOT / "examples" / f"{name}.nl").diagnostics
    assert not found, "\n".join(d.render() for d in found)


@each
def test_interpreter_is_the_literal_loop(name):
    params, given, leaves, y, got = interpreted(name)
    clocks = {k: v for k, v in SIZES[name].items() if k in CLOCKS}
    wanted = named(name, getattr(nested_references, name)(params, *given, **clocks))
    assert set(wanted) == set(y)
    for n, v in wanted.items():
        assert distance(y[n], v) < 1e-10, n
    for n, g in gradients(wanted, leaves).items():
        assert g.abs().max() > 0, f"the reference does not depend on {n}"
        assert distance(got[n], g) < 1e-10, n


@each
def test_torch_is_the_interpreter(name):
    _, given, _, wanted, expected = interpreted(name)
    module = case(name).module
    fresh = [x.detach().requires_grad_(x.is_floating_point()) for x in given]
    y = named(name, module(*fresh))
    for n, v in wanted.items():
        assert distance(y[n], v) < 1e-9, n
    leaves = dict(module.named_parameters()) | {f"input {n}": x for n, x in enumerate(fresh) if x.requires_grad}
    for n, g in gradients(y, leaves).items():
        assert distance(g, expected[n]) < 1e-9, n


@each
def test_two_calls_and_steps_are_one_call(name):
    module, given = case(name).module, inputs(name)
    whole, end = module(*given, return_state=True)
    for cuts in ([5, 6], [1] * T):
        parts, state = [], None
        for piece in zip(*(x.split(cuts, 1) for x in given), strict=True):
            y, state = module(*piece, state=state, return_state=True)
            parts.append(named(name, y))
        for n, v in named(name, whole).items():
            assert distance(torch.cat([p[n] for p in parts], 1), v) < 1e-9, (n, cuts)
        assert set(state) == set(end)
        for n, v in end.items():
            assert distance(state[n], v) < 1e-9, (n, cuts)


@each
def test_steps_have_the_same_gradients(name):
    *_, expected = interpreted(name)
    module, given = case(name).module, [x.requires_grad_(x.is_floating_point()) for x in inputs(name)]
    parts, state = [], module.initial_state(2)
    for piece in zip(*(x.unbind(1) for x in given), strict=True):
        y, state = module.step(*piece, state)
        parts.append(named(name, y))
    y = {n: torch.stack([p[n] for p in parts], 1) for n in parts[0]}
    leaves = dict(module.named_parameters()) | {f"input {n}": x for n, x in enumerate(given) if x.requires_grad}
    for n, g in gradients(y, leaves).items():
        assert distance(g, expected[n]) < 1e-9, n


@each
def test_nothing_from_the_future_and_no_other_sequence(name):
    module, given, other = case(name).module, inputs(name), inputs(name, seed=6)
    with torch.no_grad():
        y = named(name, module(*given))
        for t in (1, 4, 7):
            changed = named(name, module(*(torch.cat([a[:, :t], b[:, t:]], 1) for a, b in zip(given, other, strict=True))))
            for n, v in y.items():
                assert torch.equal(changed[n][:, :t], v[:, :t]), (n, t)
                assert not torch.equal(changed[n][:, t:], v[:, t:]), (n, t)
        changed = named(name, module(*(torch.stack([a[0], b[1]]) for a, b in zip(given, other, strict=True))))
        alone = named(name, module(*(x[:1] for x in given)))
        for n, v in y.items():
            assert torch.equal(changed[n][0], v[0]) and not torch.equal(changed[n][1], v[1]), n
            assert distance(alone[n], v[:1]) < 1e-12, n


@pytest.mark.parametrize("name", PERIODS)
def test_a_slow_memory_changes_at_the_ends_of_its_periods(name):
    """floor(T / period) times, after ticks N, 2N, ...; one that starts again from a slower one has that one's value then."""
    module, given = case(name).module, inputs(name)
    states = [module.initial_state(2)]
    with torch.no_grad():
        for piece in zip(*(x.unbind(1) for x in given), strict=True):
            states.append(module.step(*piece, states[-1])[1])
    for prefix, period in PERIODS[name].items():
        mine = [n for n in states[0] if n.startswith(prefix) and n.rpartition(".")[2] in ("up", "down")]
        assert len(mine) == 2 * SIZES[name].get("layers", 1)
        for n in mine:
            changes = {t for t in range(2, T + 1) if not torch.equal(states[t][n], states[t - 1][n])}
            resets = {t + 1 for t in range(2 * period, T, 2 * period)} if name == "cms_nested" and period < 8 else set()
            assert changes == resets | set(range(period, T + 1, period)), n


def test_fla_mesa_net():
    q, k, v, _, g, b = streams(dv=6)
    lam = 0.25 + torch.rand(2, 6, generator=torch.Generator().manual_seed(1)).double()
    ours = nested_references.mesa_core(q * SCALE, k, v, g, b, lam)
    same(ours, fla("mesa_net").naive_mesa_net_exact(q * SCALE, k, v, g.log(), lam, b)[0])
