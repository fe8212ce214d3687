"""What runs keeps to the timeline and to the proven lags: the interpreter and the torch module, on every example and on random programs.

The state after each prefix is compared with that after the prefix before: a memory changes at its writes and at its resets, and
at no other tick. The outputs are compared under a change of each tick's input: nothing moves before its lag, something does at it.
"""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from torch_cases import ROOT, ZOO, Case, outputs

import nldsl
from nldsl.proof import prove
from nldsl.timeline import Timeline, timeline

sys.path.insert(0, str(ROOT / "tests" / "graph"))
from timeline_specs import SPECS, programs

SAME = 1e-11  # prefixes of two lengths round differently
# Small sizes and short periods, so that a hyperperiod is short.
SMALL = {
    "byte_lm": {"d": 8, "layers": 1},
    "cms_independent": {"d": 4, "vocab": 5, "periods": [2, 4, 8]},
    "cms_nested": {"d": 4, "vocab": 5, "fast": 2, "middle": 4, "slow": 8},
    "cms_sequential": {"d": 4, "vocab": 5, "periods": [2, 4, 8]},
    "hope": {"d": 8, "vocab": 5, "C": [2, 2, 4, 2, 2], "periods": [2, 4, 8]},
    "hope_attention": {"d": 8, "vocab": 5, "periods": [2, 4, 8]},
    "hope_lm": {"d": 8, "layers": 1, "heads": 2, "C": 4, "outer": [1, 2], "inner": [4, 8]},
    "llama": {"d": 8, "vocab": 5, "layers": 1},
    "longhorn": {"d": 4, "heads": 2},
    "self_modifying": {"d": 8, "heads": 2, "C": [2, 2, 4, 2, 2]},
    "sliding_window": {"d": 8, "heads": 2, "window": 5},
    "tnt": {"d": 8, "heads": 2, "coarse": 8, "fine": [4, 2], "shard": 8},
}


@cache
def example(name: str) -> Case:
    program = nldsl.load(Path(ROOT / "examples" / f"{name}.nl"))
    block = name if name in program.blocks else program.blocks[-1]
    formals = {f.name for f in program.block(block).formals}
    sizes = SMALL.get(name, {n: v for n, v in {"d": 8, "heads": 2}.items() if n in formals})
    return Case(ROOT / "examples" / f"{name}.nl", block, sizes)


def inputs(c: Case, batch: int, ticks: int, seed: int = 5) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for i in c.elaborated.unit.inputs:
        shape = [batch, ticks, *(n.integer for n in i.type.shape)]
        if i.type.kind == "int":
            found[i.name] = torch.randint(i.type.bound.integer, shape, generator=draw)
        else:
            found[i.name] = torch.randn(shape, generator=draw).double()
    return found


def interpreted(c: Case, x: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The interpreter's state after each prefix, the empty one first; before the first tick what a memory starts from is not said."""
    params, state, found = dict(c.module.state_dict()), None, [c.module.initial_state(1)]
    for t in range(next(iter(x.values())).shape[1]):
        _, state = c.interpreter.run(params, {n: v[:, t : t + 1] for n, v in x.items()}, state)
        found.append(state)
    return found


def compiled(c: Case, x: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The module's state after one call on each prefix."""
    ticks = next(iter(x.values())).shape[1]
    calls = (c.module(*(v[:, :t] for v in x.values()), return_state=True)[1] for t in range(1, ticks + 1))
    with torch.no_grad():
        return [c.module.initial_state(1), *calls]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= SAME * (1 + b.abs().max()))


def check_cadence(t: Timeline, states: list[dict[str, torch.Tensor]]) -> int:
    """Every state against the timeline; the number of changes that were seen."""
    first, wrong, changes = states[0], [], 0
    by_path = {path: t.state(path) for path in t.memories}
    for path, key in by_path.items():
        kept = t.memory(path)
        for tick in range(len(states) - 1):
            old, new = states[tick][key], states[tick + 1][key]
            turn = tick % t.period
            writes, resets = turn in t.writes(path), turn in t.resets(path)
            if writes and kept.window is not None:
                of = path.replace(f"start({kept.window}) ", "")
                right = same(new, states[tick + 1][by_path[of]])
            elif writes:
                right = resets or not same(new, old)
                changes += not resets
            elif resets:
                right = same(new, before(t, first, states, path, tick))
            else:
                right = same(new, old)
            if not right:
                wrong.append(f"{path} at tick {tick}")
            for name in kept.sums:
                total = states[tick + 1][name]
                grown = not same(total, states[tick][name]) if name in states[tick] else bool(total.any())
                assert bool(total.any()) != writes and (writes or grown), f"the sum {name} at tick {tick}"
    assert not wrong, ", ".join(wrong)
    return changes


def before(t: Timeline, first, states, path: str, tick: int) -> torch.Tensor:
    """The value before a tick, by the definition."""
    if tick % t.period not in t.resets(path):
        return states[tick][t.state(path)]
    base = t.memory(path).base
    return before(t, first, states, base, tick) if base is not None else first[t.state(path)]


@pytest.mark.parametrize("name", ZOO)
def test_the_memories_of_an_example_change_at_their_ticks(name):
    c = example(name)
    t = timeline(c.elaborated)
    assert t.period <= 16
    x = inputs(c, 1, 2 * t.period + 1 if t.period < 16 else t.period + 2)
    seen = check_cadence(t, interpreted(c, x))
    assert check_cadence(t, compiled(c, x)) == seen and (seen or not t.memories)


@pytest.mark.parametrize("name", SPECS)
def test_the_memories_of_a_spec_change_at_their_ticks(name):
    c = Case(SPECS[name], "b", {"d": 3})
    t = timeline(c.elaborated)
    x = inputs(c, 1, 2 * t.period + 1)
    assert check_cadence(t, interpreted(c, x)) == check_cadence(t, compiled(c, x)) > 0


def moved(c: Case, x: dict[str, torch.Tensor], name: str, run) -> dict[str, torch.Tensor]:
    """For each output a table [T, T]: whether its value of tick t moves with the input of tick s, at [s, t]."""
    value = x[name]
    ticks = value.shape[1]
    changed = value.expand(ticks + 1, *value.shape[1:]).clone()
    for s in range(ticks):
        changed[s, s] = (changed[s, s] + 1) % (value.max() + 1) if not value.is_floating_point() else changed[s, s] + 0.3
    y = run({n: changed if n == name else v.expand(ticks + 1, *v.shape[1:]) for n, v in x.items()})
    return {n: ((v[:-1] - v[-1:]).abs().flatten(2).amax(2) if v.dim() > 2 else (v[:-1] - v[-1:]).abs()) > SAME for n, v in y.items()}


def by_module(c: Case):
    return lambda x: {n if n != "y" or len(c.elaborated.unit.outputs) > 1 else c.elaborated.unit.outputs[0][0]: v for n, v in outputs(c.module(*x.values())).items()}


def by_interpreter(c: Case):
    return lambda x: c.interpreter.run(dict(c.module.state_dict()), x)[0]


def check_lags(c: Case, ticks: int, run, tight: bool = True) -> int:
    """Nothing moves before its lag; at its lag something does. The number of pairs that were attained."""
    x, lags, attained = inputs(c, 1, ticks), prove(c.elaborated).lags, 0
    with torch.no_grad():
        for i in c.elaborated.unit.inputs:
            for output, table in moved(c, x, i.name, run).items():
                lag = lags[output, i.name]
                ages = {t - s for s, t in table.nonzero().tolist()}
                assert lag is not None or not ages, (output, i.name, ages)
                assert not ages or min(ages) >= lag, (output, i.name, lag, min(ages))
                if lag is not None and lag < ticks:
                    assert not tight or (ages and min(ages) == lag), (output, i.name, lag, sorted(ages)[:3])
                    attained += bool(ages)
    return attained


@pytest.mark.parametrize("name", ZOO)
def test_the_outputs_of_an_example_have_their_lags(name):
    c = example(name)
    ticks = min(timeline(c.elaborated).period, 8) + 3
    assert check_lags(c, ticks, by_interpreter(c)) == check_lags(c, ticks, by_module(c)) > 0


@pytest.mark.parametrize("name", SPECS)
def test_the_outputs_of_a_spec_have_their_lags(name):
    c = Case(SPECS[name], "b", {"d": 3})
    ticks = timeline(c.elaborated).period + 5
    assert check_lags(c, ticks, by_interpreter(c)) == check_lags(c, ticks, by_module(c)) > 0


@pytest.mark.parametrize("name", ["two clocks", "delays", "nested", "reset"])
def test_gradients_have_the_same_lags(name):
    """The gradient of y_t by x_s is zero for s > t - lag, and is not for some s = t - lag."""
    c = Case(SPECS[name], "b", {"d": 3})
    lags, x = prove(c.elaborated).lags, inputs(c, 1, 13)
    for run in (by_interpreter(c), by_module(c)):
        for i in x:
            leaf = x[i].clone().requires_grad_()
            y = run({**x, i: leaf})
            for output, value in y.items():
                ages = set()
                for t in range(13):
                    (g,) = torch.autograd.grad(value[:, t].sum(), leaf, retain_graph=True, allow_unused=True)
                    ages |= {t - s for s in range(13) if g is not None and g[:, s].any()}
                assert min(ages, default=None) == lags[output, i]


@settings(max_examples=12)
@given(text=programs())
def test_random_programs(text):
    """Both run at the ticks of the timeline and never before their lag."""
    c = Case(text, "b", {"d": 2})
    t = timeline(c.elaborated)
    assume(t.period <= 12)
    x = inputs(c, 1, t.period + 3)
    live = check_cadence_of_random(t, interpreted(c, x))
    assert check_cadence_of_random(t, compiled(c, x)) == live
    check_lags(c, t.period + 3, by_interpreter(c), tight=False)
    check_lags(c, t.period + 3, by_module(c), tight=False)


def check_cadence_of_random(t: Timeline, states) -> dict[str, list[int]]:
    """The ticks at which each state changes: some may stand still by chance, none moves where it may not."""
    found = {}
    for path in t.memories:
        key = t.state(path)
        found[path] = [n for n in range(len(states) - 1) if not same(states[n + 1][key], states[n][key])]
        assert all(n % t.period in t.writes(path) | t.resets(path) for n in found[path]), (path, found[path])
    return found
