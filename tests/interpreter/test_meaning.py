"""Space: gradients, implicit steps, copies, layout, instances, initial values."""

import pytest
import torch
from machines import machine, randn, random_parameters, seed
from torch.autograd import gradcheck

from nldsl.core import Axis, Type
from nldsl.dims import Dim
from nldsl_interpreter import initial_value


def memory(clause, type="d -> d", init="learned(normal(0.5))", before=""):
    return f"block f(d) {{ in x, v : real[d]  {before}  memory S : {type} = {init} {{ {clause} }}  out y = S(x) }}"


def one_step(text, d=3):
    """S before, x, v and S after one tick."""
    m = machine(text, d=d)
    params, x, v = random_parameters(m), randn(2, 1, d, seed_=3), randn(2, 1, d, seed_=4)
    _, state = m.run(params, {"x": x, "v": v})
    return params["S_init"], x[:, 0], v[:, 0], state["S"]


def outer(a, b):
    return a[..., :, None] * b[..., None, :]


def test_gradients_are_those_by_hand():
    S, x, v, new = one_step(memory("minimize 0.5 * sqnorm(S(x) - v) by gd(0.1)"))
    assert torch.allclose(new, S - 0.1 * outer(x @ S.T - v, x))
    S, x, v, new = one_step(memory("minimize sum(tanh(S(x)) * v) by gd(0.1)"))
    assert torch.allclose(new, S - 0.1 * outer(v / torch.cosh(x @ S.T) ** 2, x))


def test_no_gradient_passes_through_other_uses_of_the_state():
    S, x, v, new = one_step(memory("minimize dot(S(x), last S(v)) by gd(0.1)"))
    assert torch.allclose(new, S - 0.1 * outer(v @ S.T, x))


def test_steps_apply_left_to_right():
    S, x, v, new = one_step(memory("minimize 0.5 * sqnorm(S(x) - v) by decay(0.5), gd(0.1)"))
    assert torch.allclose(new, 0.5 * S - 0.1 * outer(x @ (0.5 * S).T - v, x))
    S, x, v, new = one_step(memory("minimize 0.5 * sqnorm(S(x) - v) by gd(0.1), decay(0.5)"))
    assert torch.allclose(new, 0.5 * (S - 0.1 * outer(x @ S.T - v, x)))


def test_the_outer_gradient_passes_through_the_write():
    m = machine(memory("minimize 0.25 * sqnorm(S(x) - v) ^ 2 by decay(0.9), gd(0.1)"), d=2)
    x, v = randn(1, 3, 2), randn(1, 3, 2, seed_=1).requires_grad_()
    S = randn(2, 2, seed_=2).requires_grad_()
    assert gradcheck(lambda S, v: m.run({"S_init": S}, {"x": x, "v": v})[0]["y"], (S, v))


# --- implicit steps --------------------------------------------------------------------------------


def test_an_implicit_step_is_the_proximal_step():
    S, x, v, new = one_step(memory("minimize 0.5 * sqnorm(S(x) - v) by implicit(0.7)"))
    rate = (0.7 / (1 + 0.7 * (x * x).sum(-1)))[:, None, None]
    assert torch.allclose(new, S - rate * outer(x @ S.T - v, x), atol=1e-12)


def test_an_implicit_step_of_a_curved_objective_solves_its_equation():
    S, x, v, new = one_step(memory("minimize 0.25 * sqnorm(S(x) - v) ^ 2 by implicit(0.7)"))
    r = (new * x[:, None]).sum(-1) - v
    assert torch.allclose(new, S - 0.7 * (r * r).sum(-1)[:, None, None] * outer(r, x), atol=1e-10)


def test_implicit_steps_follow_each_other():
    S, x, v, new = one_step(memory("minimize 0.5 * sqnorm(S(x) - v) by implicit(0.7), implicit(0.2)"))
    for rate in (0.7, 0.2):
        S = S - (rate / (1 + rate * (x * x).sum(-1)))[:, None, None] * outer((S * x[:, None]).sum(-1) - v, x)
    assert torch.allclose(new, S, atol=1e-12)


def test_two_memories_may_wait_for_each_other_through_their_gradients():
    text = """block f { in x : real
      memory a : real = zeros { minimize 0.5 * (a - x) * (a - x) + a * b by implicit(1) }
      memory b : real = zeros { minimize 0.5 * (b - a) * (b - a) by implicit(1) }
      out y = a   out z = b }"""
    out, _ = machine(text).run({}, {"x": torch.ones(1, 1).double()})
    # a = -(a - 1 + b), b = -(b - a):  2 a + b = 1, 2 b = a
    assert torch.allclose(out["y"], torch.tensor(0.4).double()) and torch.allclose(out["z"], torch.tensor(0.2).double())


def test_the_outer_gradient_passes_through_an_implicit_step():
    m = machine(memory("minimize 0.25 * sqnorm(S(x) - v) ^ 2 by implicit(0.3)"), d=2)
    x, v, S = randn(1, 2, 2), randn(1, 2, 2, seed_=1).requires_grad_(), randn(2, 2, seed_=2).requires_grad_()
    assert gradcheck(lambda S, v: m.run({"S_init": S}, {"x": x, "v": v})[0]["y"], (S, v))


def test_an_implicit_step_of_a_slow_memory():
    text = "block f { in x : real  memory n : real = zeros every 2 { minimize 0.5 * (n - x) * (n - x) by implicit(1) }  out y = n }"
    y = machine(text).run({}, {"x": torch.tensor([[1.0, 5, 0]]).double()})[0]["y"]
    # tick 1: the gradient at n = 0 is -1; tick 2: n = 0 - (-1 + n - 5)
    assert torch.allclose(y, torch.tensor([[0.0, 3, 3]]).double())


# --- what has no meaning -----------------------------------------------------------------------------


def test_a_cycle_without_a_gradient_has_no_meaning():
    text = """block f { in x : real  memory a : real = zeros { update b + x }  memory b : real = zeros { update a }  out y = a }"""
    with pytest.raises(ValueError, match="depend on each other: a"):
        machine(text).run({}, {"x": torch.ones(1, 1)})


def test_a_delay_of_what_is_optimised_has_no_meaning():
    with pytest.raises(AssertionError, match="kept from tick to tick"):
        machine(memory("minimize 0.5 * sqnorm(delay(S(x), 1) - v) by gd(1)"), d=2)


# --- copies and layout -------------------------------------------------------------------------------


def test_copies_are_independent():
    text = """block f(d, heads = 3) { in x : real[d]
      each h in heads { param W : d -> 2   memory S : d -> 2 = zeros { minimize 0.5 * sqnorm(S(x) - W(x)) by gd(0.3) }  o = S(x) / (h + 1) }
      out y = flatten(o) }"""
    m, single = machine(text, d=4), machine(text, d=4, heads=1)
    params, x = random_parameters(m), randn(2, 5, 4)
    y = m.run(params, {"x": x})[0]["y"]
    for h in range(3):
        alone = single.run({"W": params["W"][h : h + 1]}, {"x": x})[0]["y"]
        assert torch.allclose(y[..., 2 * h : 2 * h + 2], alone / (h + 1), atol=1e-12)


def test_copies_of_one_each_seen_from_another():
    text = """block f(d) { in x : real[d]
      each h in 2 { param W : d -> 3  a = W(x) }
      each g in 4 { param V : 6 -> 1  b = V(flatten(a)) }
      out y = flatten(b) }"""
    m = machine(text, d=5)
    params, x = random_parameters(m), randn(2, 3, 5)
    wanted = torch.einsum("gof,btf->btgo", params["V"], torch.einsum("hoi,bti->btho", params["W"], x).flatten(2))
    assert torch.allclose(m.run(params, {"x": x})[0]["y"], wanted.flatten(2))


def test_what_no_copy_changes_is_repeated():
    text = "block f(d) { in x : real[d]  each h in 3 { a = 2 * x }  out y = flatten(a) }"
    x = randn(2, 2, 2)
    assert torch.equal(machine(text, d=2).run({}, {"x": x})[0]["y"], (2 * x).repeat(1, 1, 3))


def test_channels_of_an_operator():
    text = """block f(d) { in x : real[d]  in v : real[2]
      memory S : d -> 2 = zeros { update x * last S + scale_values(v, outer(v, x)) - 0.5 * transpose(outer(x, v)) }
      out y = S(x) }"""
    m = machine(text, d=3)
    x, v = randn(2, 4, 3), randn(2, 4, 2)
    _, state = m.run({}, {"x": x, "v": v})
    S = torch.zeros(2, 2, 3).double()
    for t in range(4):
        S = S * x[:, t, None] + (v[:, t] ** 2 - 0.5 * v[:, t])[..., None] * x[:, t, None]
    assert torch.allclose(state["S"], S)


def test_a_column_and_cross_entropy():
    m = machine("block f(n) { in i : int[n]  in x : real[n]  param E : n -> 2  out y = E(i)  out z = cross_entropy(x, i) }", n=5)
    params, i, x = random_parameters(m), torch.randint(5, (2, 3), generator=seed(0)), randn(2, 3, 5)
    out, _ = m.run(params, {"i": i, "x": x})
    assert torch.equal(out["y"], params["E"].T[i])
    assert torch.allclose(out["z"], torch.nn.functional.cross_entropy(x.mT, i, reduction="none"))


WORDS = {"unit": lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt(),
         "norm": lambda x: torch.nn.functional.rms_norm(x, (3,), eps=1e-6), "softmax": lambda x: x.softmax(-1),
         "gelu": torch.nn.functional.gelu, "softplus": torch.nn.functional.softplus, "silu": torch.nn.functional.silu,
         "sign": torch.sign, "abs": torch.abs, "relu": torch.relu}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words(word):
    x = randn(2, 2, 3)
    assert torch.allclose(machine(f"block f(d) {{ in x : real[d]  out y = {word}(x) }}", d=3).run({}, {"x": x})[0]["y"], WORDS[word](x))


@pytest.mark.parametrize(("word", "wanted"), [("sum(x)", 6), ("mean(x)", 2), ("sqnorm(x)", 14), ("dot(x, x)", 14), ("sum(max(x, 2))", 7)])
def test_sums(word, wanted):
    x = torch.tensor([1.0, 2, 3]).expand(1, 1, 3)
    assert machine(f"block f(d) {{ in x : real[d]  out y = {word} }}", d=3).run({}, {"x": x})[0]["y"].item() == wanted


# --- instances ---------------------------------------------------------------------------------------


def test_instances_have_their_own_params_and_states():
    text = """block cell(d) { in x : real[d]  param W : d -> d  memory b : real[d] = zeros { update 0.5 * last b + W(x) }  out y = b }
      block f(d) { in x : real[d]  out y = cell(cell(x)) }"""
    m = machine(text, "f", d=2)
    params, x = random_parameters(m), randn(1, 4, 2)
    assert sorted(params) == ["cell.W", "cell_1.W"]
    y, state = m.run(params, {"x": x})
    assert sorted(state) == [":tick", "cell.b", "cell_1.b"]

    def cell(W, x):
        b, out = torch.zeros(1, 2).double(), []
        for t in range(4):
            b = 0.5 * b + x[:, t] @ W.T
            out.append(b)
        return torch.stack(out, 1)

    # An expression makes its instances from the outside in, or the inside out: both orders are compared.
    a, b = params["cell.W"], params["cell_1.W"]
    assert any(torch.allclose(y["y"], cell(p, cell(q, x))) for p, q in ((a, b), (b, a)))


def test_an_instance_with_several_outputs():
    text = """block two(d) { in a, b : real[d]  out s = a + b  out p = a * b }
      block f(d) { in x : real[d]  m = two(b = 2 * x, a = x)  out y = m.s - m.p }"""
    x = randn(1, 2, 3)
    assert torch.allclose(machine(text, "f", d=3).run({}, {"x": x})[0]["y"], 3 * x - 2 * x * x)


# --- initial values ------------------------------------------------------------------------------------


def made(init, *shape, axes=()):
    type = Type("real", tuple(map(Dim.of, shape)), tuple(Axis(n, Dim.of(s)) for n, s in axes))
    return initial_value(init, type, torch.float64, seed(0))


def test_initial_values():
    assert made(("zeros",), 2).tolist() == [0, 0] and made(("ones",), 2).tolist() == [1, 1]
    assert made(("eye",), 2, 2).tolist() == [[1, 0], [0, 1]] and made(2.5).item() == 2.5
    assert made(("eye",), 2, 2, axes=[("h", 3)]).shape == (3, 2, 2)
    assert made(("-", 1.0, ("^", 2.0, ("-", ("neg", 5.0), ("index", "h")))), axes=[("h", 2)]).tolist() == [1 - 2**-5, 1 - 2**-6]
    assert made(("index", "h"), 2, axes=[("h", 2), ("g", 1)]).tolist() == [[[0, 0]], [[1, 1]]]
    assert made(("constant", 3.0), 1).tolist() == [3]
    normal, uniform = made(("normal", ("^", Dim.of(4), -0.5)), 4000), made(("log", ("uniform", 1.0, 16.0)), 4000)
    assert abs(normal.std() - 0.5) < 0.02 and 0 <= uniform.min() < 0.01 and 2.7 < uniform.max() <= torch.log(torch.tensor(16.0))
    assert torch.equal(made(("normal", 1.0), 3), made(("normal", 1.0), 3))


def test_a_param_per_copy_is_drawn_per_copy():
    m = machine("block f(d) { in x : real[d]  each h in 2 { param W : d -> d  o = W(x) }  out y = flatten(o) }", d=3)
    W = m.parameters(torch.float64, seed(0))["W"]
    assert W.shape == (2, 3, 3) and not torch.equal(W[0], W[1])
