"""Time: clocks, folds, delays, filters, `last`, resets, and sequences in several calls."""

import pytest
import torch
from machines import machine, randn, random_parameters


def run(text, x, params=None, **sizes):
    m = machine(text, **sizes)
    return m.run(m.parameters() if params is None else params, {"x": x})[0]["y"]


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1)


def counter(clauses):
    return f"block f {{ in x : real  memory n : real = zeros {clauses}  out y = n }}"


def test_a_clock_holds_between_its_ticks():
    x = numbers(1, 2, 3, 4, 5, 6, 7)
    assert run(counter("every 3 { update last n + x }"), x).tolist() == [[0, 0, 3, 3, 3, 9, 9]]


def test_an_offset_moves_the_clock():
    x = numbers(1, 2, 3, 4, 5, 6, 7)
    assert run(counter("every 3 offset 1 { update last n + x }"), x).tolist() == [[1, 1, 1, 5, 5, 5, 12]]


def test_reset_comes_before_the_tick():
    x = numbers(1, 2, 3, 4, 5)
    assert run(counter("{ update last n + x  reset every 2 }"), x).tolist() == [[1, 3, 3, 7, 5]]


def test_reset_takes_the_learned_value():
    text = "block f { in x : real  memory n : real = learned { update last n + x  reset every 2 }  out y = n }"
    m = machine(text)
    assert m.run({"n_init": torch.tensor(10.0).double()}, {"x": numbers(1, 2, 3)})[0]["y"].tolist() == [[11, 13, 13]]


@pytest.mark.parametrize(("over", "share"), [("sum", 1), ("mean", 1 / 3)])
def test_the_gradient_of_a_slow_memory_is_folded(over, share):
    text = f"block f {{ in x : real  memory n : real = zeros every 3 {{ minimize -n * x over {over} by gd(1) }}  out y = n }}"
    x = numbers(1, 2, 3, 4, 5, 6, 7)
    assert torch.allclose(run(text, x), share * numbers(0, 0, 6, 6, 6, 21, 21))


def test_a_fold_with_an_offset_starts_with_what_there_is():
    text = "block f { in x : real  memory n : real = zeros every 3 offset 1 { minimize -n * x by gd(1) }  out y = n }"
    assert run(text, numbers(1, 2, 3, 4, 5)).tolist() == [[1, 1, 1, 10, 10]]


def test_a_memory_of_a_rule_has_the_clock_of_its_learner():
    text = "block f { in x : real  memory n : real = zeros every 2 offset 1 { minimize -n * x by momentum(1, 0.5) }  out y = n }"
    # g = -1, -(2 + 3), -(4 + 5);  m = -1, -5.5, -11.75
    assert run(text, numbers(1, 2, 3, 4, 5)).tolist() == [[1, 1, 6.5, 6.5, 18.25]]


def test_momentum_as_an_objective_is_momentum():
    rule = "rule mine(r, beta) { memory m : like(w) = zeros { minimize -dot(m, g) by decay(beta), gd(1) }  update last w - r * m }"
    text = "block f(d) {{ in x : real[d]  memory S : d -> d = zeros every 2 {{ minimize 0.5 * sqnorm(S(x) - x) by {} }}  out y = S(x) }}"
    x = randn(2, 7, 3)
    wanted = run(text.format("momentum(0.1, 0.7)"), x, d=3)
    assert torch.allclose(run(rule + text.format("mine(0.1, 0.7)"), x, d=3), wanted, atol=1e-12)


def test_delay_is_zero_at_first():
    assert run("block f { in x : real  out y = delay(x, 2) }", numbers(1, 2, 3, 4)).tolist() == [[0, 0, 1, 2]]


def test_delay_of_an_index():
    m = machine("block f(n) { in x : int[n]  param E : n -> 1  out y = sum(E(delay(x, 1))) }", n=4)
    y = m.run({"E": torch.tensor([[10.0, 11, 12, 13]])}, {"x": torch.tensor([[3, 1, 2]])})[0]["y"]
    assert y.tolist() == [[10, 13, 11]]


def test_conv_is_a_filter_for_each_channel():
    m = machine("block f(d) { in x : real[d]  out y = conv(x, 3) }", d=2)
    (name,) = m.parameters()
    w, x = torch.tensor([[1.0, 10, 100], [1, 0, 2]]).double(), torch.arange(1.0, 5).double()[None, :, None].expand(1, 4, 2)
    assert m.run({name: w}, {"x": x})[0]["y"][0].T.tolist() == [[1, 12, 123, 234], [1, 2, 5, 8]]


def test_last_of_a_stream_starts_at_zero():
    assert run("block f { in x : real  z = 2 * x  out y = last z + x }", numbers(1, 2, 3)).tolist() == [[1, 4, 7]]


@pytest.mark.parametrize("use", ["memory n : real = zeros { minimize -n * last z by gd(1) }  out y = n", "out y = last z",
                                 "out y = same(last z)"])  # fmt: skip
def test_last_of_a_stream_wherever_it_stands(use):
    text = "block same { in a : real  out b = 1 * a }\nblock f { in x : real  z = 2 * x  " + use + " }"
    assert run(text, numbers(1, 2, 3))[0, 1] == 2


def test_count_begins_with_one_and_rope_with_no_turn():
    assert run("block f { in x : real  out y = count() * x }", numbers(1, 1, 1)).tolist() == [[1, 2, 3]]
    y = run("block f(d) { in x : real[d]  out y = rope(x) }", torch.tensor([1.0, 0, 0, 0]).double().expand(1, 3, 4), d=4)
    t = torch.arange(3.0).double()
    assert torch.allclose(y[0], torch.stack((t.cos(), 0 * t, t.sin(), 0 * t), 1))


def test_a_store_forgets_what_left_its_window():
    text = "block f(d) { in x : real[d]  memory A : store(d -> d, window = 2) { key 0 * x  value x }  out y = A(x) }"
    x = randn(1, 5, 3)
    wanted = torch.stack([x[:, max(t - 1, 0) : t + 1].mean(1) for t in range(5)], 1)
    assert torch.allclose(run(text, x, d=3), wanted)


EVERYTHING = """
block inner(d) {
  in x : real[d]
  memory b : real[d] = learned every 2 offset 1 { minimize 0.5 * sqnorm(b - x) over mean by momentum(0.3) }
  out y = x + b + last x
}
block f(d, heads = 2) {
  in x : real[d]
  h = inner(conv(rope(x), 3))
  each i in heads {
    param W : d -> d
    memory S : d -> d = eye every 3 { minimize 0.5 * sqnorm(S(delay(h, 2)) - W(h)) by decay(0.9), implicit(0.1)  reset every 6 }
    memory A : store(d -> d, window = 3) { key S(h)   value W(h) }
    o = A(h) * count() / (i + 1)
  }
  out y = flatten(o)
  out z = last h
}
"""


@pytest.mark.parametrize("cuts", [[1] * 11, [3, 8], [6, 5], [10, 1]])
def test_any_split_gives_the_same_numbers(cuts):
    m = machine(EVERYTHING, d=4)
    params, x = random_parameters(m), randn(2, 11, 4)
    with torch.no_grad():
        whole, end = m.run(params, {"x": x})
        state, parts = None, []
        for cut in x.split(cuts, 1):
            outputs, state = m.run(params, {"x": cut}, state)
            parts.append(outputs)
    for name in whole:
        assert torch.equal(torch.cat([p[name] for p in parts], 1), whole[name])
    assert end.keys() == state.keys() and all(torch.equal(end[n], state[n]) for n in end)
    assert not any(v.requires_grad for v in (*whole.values(), *end.values()))


def test_a_call_without_ticks_changes_nothing():
    m = machine(EVERYTHING, d=4)
    params = m.parameters()
    _, state = m.run(params, {"x": randn(2, 3, 4)})
    outputs, after = m.run(params, {"x": randn(2, 0, 4)}, state)
    assert outputs["y"].shape == (2, 0, 8) and after is state


def test_single_precision():
    m = machine(EVERYTHING, d=4)
    params, x = m.parameters(torch.float32, torch.Generator().manual_seed(0)), randn(2, 6, 4)
    y = m.run(params, {"x": x.float()})[0]["y"]
    assert y.dtype == torch.float32
    wanted = m.run({k: v.double() for k, v in params.items()}, {"x": x})[0]["y"]
    assert torch.allclose(y.double(), wanted, atol=1e-4)
