"""Any rule of the library is the learner of a memory: the generated module is the interpreter's meaning, values and gradients."""

import pytest
import torch

import nldsl
from nldsl.lower.plan import plan

TEXT = """
block b(d) {{
  in x : real[d]
  param K : d -> d
  param V : d -> d
  k = unit(K(x))
  v = V(x)
  memory S : d -> d {every} {{ minimize 0.5 * sqnorm(S(k) - v) by {rule} }}
  out y = S(k)
}}
"""
LOOP = [
    "adam(0.05)", "adamw(lr = 0.05, amsgrad = 1)", "lion(0.05)", "muon_exact(0.05)", "rmsprop(0.05, centered = 1)", "signum(0.1)", "nadam(0.1)",
    "delta_momentum(0.1)", "m3(0.01, frequency = 3, ns_steps = 2)", "adafactor(0.1)", "deep_momentum(0.1)", "adagrad(0.1)", "adamax(0.1)",
    "radam(0.1)", "ademamix(0.01)", "adadelta(0.5)", "feature_momentum(0.1)", "adamw_warmup(0.1, warmup = 4)",
]  # fmt: skip
LINEAR = ["sgd(0.1)", "sgd(0.1, momentum = 0.9)", "sgd(0.1, momentum = 0.9, nesterov = 1)", "ema_momentum(0.3)", "classical_momentum(0.1)", "nesterov(0.1)"]


def both(rule, every=""):
    program = nldsl.load(TEXT.format(rule=rule, every=every))
    torch.manual_seed(0)
    module, meaning = program.module("b", d=4, dtype=torch.float64), program.interpreter("b", d=4)
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    return program, module, x, meaning.run(dict(module.named_parameters()), {"x": x})[0]["y"]


@pytest.mark.parametrize("rule", LOOP + LINEAR)
def test_a_rule_learns_inside_a_memory(rule):
    _, module, x, wanted = both(rule)
    found = module(x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), list(module.parameters())) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


NETWORK = """
block net(d) {{ in x : real[d]  param up : d -> 5  param down : 5 -> d  out y = down(tanh(up(x))) }}
block b(d) {{
  in x : real[d]
  param K, V : d -> d
  param wa : d -> 1
  k = K(x)
  memory M : net(d) = learned {{ minimize 0.5 * sqnorm(M(k) - V(x)) {at} by {rule} }}
  out y = M(x)
}}
"""


@pytest.mark.parametrize(("at", "window"), [("", 1), ("at start(3)", 3)])
@pytest.mark.parametrize("exact", [False, True])
def test_delta_gradient_descent_in_each_layer(at, window, exact):
    """NL (93), (56) for each operator with its own input, against a loop over tokens: autograd's gradient, and an erase."""
    rule = f"{'dgd_implicit' if exact else 'dgd'}(0.3 * sigmoid(wa(x)), keep = 0.9)"
    program = nldsl.load(NETWORK.format(at=at, rule=rule))
    torch.manual_seed(0)
    module = program.module("b", d=3, dtype=torch.float64)
    x = torch.randn(1, 11, 3, dtype=torch.float64)
    p = dict(module.named_parameters())
    M = start = p["M_up_init"], p["M_down_init"]
    wanted = []
    for t, u in enumerate(x[0]):
        start = M if t % window == 0 else start
        k, rate, hidden = p["K"] @ u, 0.3 * (p["wa"] @ u).sigmoid(), (start[0] @ p["K"] @ u).tanh()
        loss = lambda up, down: 0.5 * (down @ (up @ k).tanh() - p["V"] @ u).square().sum()  # noqa: B023, E731
        g = torch.func.grad(loss, (0, 1))(*start)
        rates = [rate / (1 + rate * (s * s).sum()) if exact else rate for s in (k, hidden)]
        M = tuple(0.9 * W - r * dW - r * torch.outer(W @ s, s) for W, dW, r, s in zip(M, g, rates, (k, hidden), strict=True))
        wanted.append(M[1] @ (M[0] @ u).tanh())
    torch.testing.assert_close(module(x)[0], torch.stack(wanted), rtol=1e-10, atol=1e-12)
    made = program.elaborate("b", d=3)
    assert plan(made.unit, made.types[made.key]).forms["M.up"].name == ("windows" if at else "loop")


@pytest.mark.parametrize("writes", ["stop", "first_order"])
def test_what_a_rule_saw_is_given_where_the_writes_are(writes):
    program = nldsl.load(NETWORK.format(at="at start(3)", rule="dgd(0.3)").replace("by dgd(0.3)", f"by dgd(0.3)  writes {writes}"))
    torch.manual_seed(0)
    module, meaning = program.module("b", d=3, dtype=torch.float64), program.interpreter("b", d=3)
    x = torch.randn(1, 7, 3, dtype=torch.float64)
    params = dict(module.named_parameters())
    found, wanted = module(x), meaning.run(params, {"x": x})[0]["y"]
    ours, theirs = (torch.autograd.grad(y.square().sum(), list(params.values()), materialize_grads=True) for y in (found, wanted))
    for name, a, b in zip(params, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
        assert b.any() == (writes == "first_order" and name.startswith("M_")), name  # what makes keys and values is not trained through a write


REPEATED = [
    "shampoo(0.1)", "shampoo(0.1, eps = 0.01)", "soap(0.1, eps = 0.001)", "soap(0.1, frequency = 1, eps = 0.001)",
    "soap(0.1, frequency = 2, eps = 0.001)",
]  # fmt: skip


@pytest.mark.parametrize("rule", REPEATED)
def test_repeated_eigenvalues_of_the_first_steps_have_values_and_gradients(rule):
    """Gradients of a memory have rank one, so their sums have repeated eigenvalues: both backends and differences agree."""
    _, module, x, wanted = both(rule)
    found, params = module(x), list(module.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    ours, theirs = (torch.autograd.grad(y.square().sum(), params) for y in (found, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    line, h = [torch.randn_like(p) for p in params], 1e-5
    with torch.no_grad():
        moved = [p.clone() for p in params]
        ends = []
        for side in (h, -h):
            for p, start, d in zip(params, moved, line, strict=True):
                p.copy_(start + side * d)
            ends.append(module(x).square().sum())
    slope = sum((a * d).sum() for a, d in zip(ours, line, strict=True))
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-4, atol=1e-6)


def test_soap_with_its_own_eps_is_as_exact_as_that_eps_allows():
    """In the spaces without a gradient it divides rounding by eps = 1e-8."""
    _, module, x, wanted = both("soap(0.1)")
    found = module(x)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), list(module.parameters())) for y in (found, wanted)), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", LINEAR)
def test_a_rule_that_is_linear_in_the_gradient_keeps_its_parallel_form(rule):
    program, *_ = both(rule)
    elaborated = program.elaborate("b", d=4)
    forms = plan(elaborated.unit, dict(elaborated.types[elaborated.key])).forms
    assert {form.name for form in forms.values()} == {"solve"}


def test_with_an_offset_the_first_step_is_the_first():
    _, module, x, wanted = both("adam(0.05)", "every 3 offset 2")
    assert wanted.isfinite().all()
    torch.testing.assert_close(module(x), wanted, rtol=1e-10, atol=1e-12)


def test_a_slow_learner_counts_its_own_steps():
    """Adam's correction in a memory that changes every third tick is that of its updates, not of the ticks."""
    _, module, x, wanted = both("adam(0.05)", "every 3")
    torch.testing.assert_close(module(x), wanted, rtol=1e-10, atol=1e-12)
    K, V = (dict(module.named_parameters())[n].detach() for n in ("K", "V"))
    W, expected = torch.zeros(2, 4, 4, dtype=torch.float64), []
    weights = [torch.nn.Parameter(w) for w in W]
    learners = [torch.optim.Adam([w], lr=0.05) for w in weights]
    for t in range(x.shape[1]):
        k = x[:, t] @ K.T
        k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        for w, key, v in zip(weights, k, x[:, t] @ V.T, strict=True):
            (0.5 * (w @ key - v).square().sum()).backward()  # sums over the ticks of a period
        if t % 3 == 2:
            for learner in learners:
                learner.step()
                learner.zero_grad()
        expected.append(torch.stack([w.detach() @ key for w, key in zip(weights, k, strict=True)]))
    torch.testing.assert_close(wanted.detach(), torch.stack(expected, 1), rtol=1e-9, atol=1e-11)


def test_a_rule_on_operators_is_refused_for_a_vector():
    text = "block b(d) { in x : real[d]  memory m : real[d] = zeros { minimize 0.5 * sqnorm(m - x) by muon(0.1) }  out y = m }"
    with pytest.raises(nldsl.NlError) as raised:
        nldsl.load(text)
    assert [d.code for d in raised.value.diagnostics] == ["NL430"]


SLOW = ["m3(0.01, frequency = 2, ns_steps = 2)", "m3_ema(0.01, frequency = 3, ns_steps = 2)", "soap(0.1, frequency = 2, eps = 0.01)", "shampoo(0.1, frequency = 3, eps = 0.01)"]


@pytest.mark.parametrize("form", ["windows", "loop"])
@pytest.mark.parametrize("every", ["every 2", "every 3 offset 1"])
@pytest.mark.parametrize("rule", SLOW)
def test_a_rule_with_a_period_counts_the_steps_of_a_memory_with_a_period(rule, every, form):
    """Each period of a rule is so many steps, as in its optimizer, which takes the same gradients here: sums over the ticks of a step."""
    n, first = int(every.split()[1]), int(every.partition("offset ")[2] or 0)
    if first and rule.startswith("m3"):
        with pytest.raises(nldsl.NlError, match="NL305"):
            nldsl.load(TEXT.format(rule=rule, every=every)).module("b", d=4)
        return
    program = nldsl.load(TEXT.format(rule=rule, every=every))
    torch.manual_seed(0)
    module = program.module("b", d=4, dtype=torch.float64, schedule=f"* by {form}")
    x = torch.randn(1, 29, 4, dtype=torch.float64)
    name, _, rest = rule.partition("(")
    lr, *options = rest.rstrip(")").split(", ")
    S = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = nldsl.optimizer(name, [S], lr=float(lr), **{key: float(v) if "." in v else int(v) for key, v in (o.split(" = ") for o in options)})
    wanted, sum_of_gradients = [], torch.zeros_like(S)
    for t, u in enumerate(x[0]):
        k, v = module.K @ u, module.V @ u
        k = k / (k.square().sum() + 1e-6).sqrt()
        sum_of_gradients = sum_of_gradients + torch.outer(S @ k - v, k).detach()
        if (t + 1 - first) % n == 0:
            S.grad, sum_of_gradients = sum_of_gradients, torch.zeros_like(S)
            optimizer.step()
        wanted.append((S @ k).detach())
    torch.testing.assert_close(module(x)[0], torch.stack(wanted), rtol=1e-7, atol=1e-9)
