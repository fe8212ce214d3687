"""The deep memories of the zoo: interpreter = literal loop, torch = interpreter, windows are whole, nothing from elsewhere."""

import sys
from functools import cache
from pathlib import Path

import deep_references
import miras_references
import pytest
import torch

import nldsl

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("interpreter", "torch")]

import torch_cases  # noqa: E402
from machines import machine, randn, random_parameters  # noqa: E402
from torch_cases import EXACT, check, distance, gradients, outputs, split, weights  # noqa: E402

T = 11  # no multiple of a window
SIZES = {
    "ttt_linear": {"window": 4}, "ttt_mlp": {"window": 4}, "titans_lmm": {"chunk": 4}, "titans_mac": {"segment": 4, "persistent": 2},
    "titans_mag": {"chunk": 4, "window": 5}, "titans_mal": {"chunk": 4, "window": 5}, "moneta": {"window": 4}, "yaad": {"window": 3, "rank": 3},
    "memora": {"window": 3}, "dla": {"chunk": 3}, "swla": {}, "omega_net": {"c": 3}, "atlas": {"chunk": 4, "c": 3},
}  # fmt: skip
WINDOW = {n: next((s[k] for k in ("chunk", "segment", "window", "c") if k in s), 1) for n, s in SIZES.items()}
MEMORY = {n: "f" if n.startswith("ttt") else "M" for n in SIZES}
each = pytest.mark.parametrize("name", SIZES)
PLAIN = ("swla", "omega_net")  # the gradient of every token is taken at the state before it
windowed = pytest.mark.parametrize("name", [n for n in SIZES if n not in PLAIN])


def reference(name):
    return getattr(deep_references, name, None) or getattr(miras_references, name)


def sizes(name):
    return {"d": 8, "heads": 2, **SIZES[name]}


@cache
def layer(name):
    return torch_cases.case(ROOT / "examples" / f"{name}.nl", name, **sizes(name))


@each
def test_nothing_is_wrong_with_it(name):
    assert not nldsl.load(ROOT / "examples" / f"{name}.nl").diagnostics


@each
def test_interpreter_is_the_literal_loop(name):
    zoo = machine(ROOT / "examples" / f"{name}.nl", name, **sizes(name))
    params, x = random_parameters(zoo), randn(2, T, 8).requires_grad_()
    leaves = [*params.values(), x]
    y = zoo.run(params, {"x": x})[0]["y"]
    wanted = reference(name)(params, x, WINDOW[name])
    assert distance(y, wanted) < 1e-10
    weight = randn(*y.shape, seed_=5)
    got, expected = (torch.autograd.grad((z * weight).sum(), leaves) for z in (y, wanted))
    for n, a, b in zip([*params, "x"], got, expected, strict=True):
        assert b.abs().max() > 0, f"the reference does not depend on {n}"
        assert distance(a, b) < 1e-10, n


@each
def test_torch_is_the_interpreter(name):
    # With one tick Newton-Schulz takes away what the gates of atlas scale: their gradients are rounding.
    check(layer(name), [2 if name == "atlas" else 1, 5, T], 2, 1e-9)


@each
def test_calls_and_steps_may_be_mixed(name):
    """Values, states and gradients of every split are those of one call."""
    m = layer(name).module
    x = layer(name).input(2, T).requires_grad_()
    whole, end = m(x, return_state=True)
    whole = outputs(whole)
    expected = gradients(m, x, whole, weights(whole))
    for cuts in ([5, 6], [3, 1, 7], [1] * T):
        parts, state = split(m, x, cuts)
        assert distance(parts["y"], whole["y"]) < EXACT
        assert set(state) == set(end) and all(distance(state[n], end[n]) < EXACT for n in end)
        for n, g in gradients(m, x, parts, weights(whole)).items():
            assert distance(g, expected[n]) < 1e-9, n
    state = m.initial_state(2)
    for t in range(T):
        y, state = m.step(x[:, t], state)
        assert distance(y, whole["y"][:, t]) < EXACT, t


@each
def test_nothing_from_the_future_and_nothing_from_another_sequence(name):
    m, x = layer(name).module, layer(name).input(3, T)
    with torch.no_grad():
        y = m(x)
        for t in (1, WINDOW[name], 6):
            other = torch.cat((x[:, :t], 3 * randn(3, T - t, 8, seed_=7)), 1)
            assert torch.equal(m(other)[:, :t], y[:, :t]), t
        other = x.clone()
        other[1] = 2 * randn(T, 8, seed_=8)
        z = m(other)
        assert torch.equal(z[0], y[0]) and torch.equal(z[2], y[2]) and not torch.equal(z[1], y[1])
        assert distance(m(x[1:2]), y[1:2]) < 1e-12


@each
def test_every_memory_changes_as_often_as_it_says(name):
    """The running state at each token, what is kept of a window floor(T / window) times."""
    m, x = layer(name).module, layer(name).input(1, T)
    state, changed = m.initial_state(1), {}
    own = [n for n in state if n.split(".")[0] == MEMORY[name] and ":" not in n]
    for t in range(T):
        _, after = m.step(x[:, t], state)
        for n in own:
            changed.setdefault(n, []).append(not torch.equal(after[n], state[n]))
        state = after
    kept = ".lq_normalise" if name == "moneta" else f".start{WINDOW[name]}"  # an anchor of moneta is overwritten when its window begins
    slow = {n: sum(c) for n, c in changed.items() if n.endswith(kept)}
    assert set(slow.values()) == ({T // WINDOW[name]} if name not in PLAIN else set())
    running = [n for n in changed if ".start" not in n and n not in slow]
    assert running and all(all(changed[n]) for n in running)


@windowed
def test_the_window_matters(name):
    """The reference with another window is another function, so the comparisons above see where gradients are taken."""
    zoo = machine(ROOT / "examples" / f"{name}.nl", name, **sizes(name))
    params, x = random_parameters(zoo), randn(2, T, 8)
    y = zoo.run(params, {"x": x})[0]["y"]
    assert distance(y, reference(name)(params, x, WINDOW[name] - 1)) > 1e-6
