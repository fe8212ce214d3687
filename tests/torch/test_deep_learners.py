"""A network as the memory of a rule (deep momentum, Nested Learning (50)) that is the learner of a memory: values and outer
gradients of the interpreter and of the generated module against loops written with autograd."""

import pytest
import torch

import nldsl

D, T = 3, 11
NET = """
block net(n, m) {
  in z : real[n]
  param up : n -> 4
  param down : 4 -> m
  out y = down(tanh(up(z)))
}
"""
# On operators the network maps the key to what the gradient says of it; on vectors it maps the gradient to itself.
RULES = NET + """
rule deep(rate, inner) on d -> e {
  memory N : net(d, e) = learned { minimize 0.5 * sqnorm(N(x) - g(x)) by INNER }
  update 0.95 * last w - rate * outer(N(x), x)
}
rule deep_vector(rate, inner) on real[n] {
  memory N : net(n, n) = learned { minimize 0.5 * sqnorm(N(g) - g) by INNER }
  update 0.95 * last w - rate * N(g)
}
"""
INNER = {"gd": "gd(inner, keep = 0.9)", "momentum": "momentum(inner, beta = 0.8)"}


def run_net(weights, z):
    return weights[1] @ torch.tanh(weights[0] @ z)


class Deep:
    """The network of a rule and its learner: one step on 0.5 |N(z) - goal|^2, then its answer at z."""

    def __init__(self, kind, inner, weights):
        self.kind, self.inner, self.weights = kind, inner, list(weights)
        self.momenta = [torch.zeros_like(w) for w in weights]

    def __call__(self, z, goal):
        here = [w.clone() for w in self.weights]
        grads = torch.autograd.grad(0.5 * (run_net(here, z) - goal).square().sum(), here, create_graph=True)
        if self.kind == "gd":
            self.weights = [0.9 * w - self.inner * g for w, g in zip(self.weights, grads, strict=True)]
        else:
            self.momenta = [0.8 * m + g for m, g in zip(self.momenta, grads, strict=True)]
            self.weights = [w - self.inner * m for w, m in zip(self.weights, self.momenta, strict=True)]
        return run_net(self.weights, z)


def agree(text, loop):
    """Both backends against `loop(params, x of one sequence) -> y`, in float64: values, and gradients of a loss on them."""
    program = nldsl.load(text)
    torch.manual_seed(0)
    module, machine = program.module("b", d=D, dtype=torch.float64), program.interpreter("b", d=D)
    params = dict(module.named_parameters())
    x = torch.randn(2, T, D, dtype=torch.float64, requires_grad=True)
    leaves = [*params.values(), x]
    wanted = torch.stack([loop(params, sequence) for sequence in x])
    slopes = torch.autograd.grad(wanted.square().sum(), leaves)
    for y in (module(x), machine.run(params, {"x": x})[0]["y"]):
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-10)
        for name, a, b in zip([*params, "x"], torch.autograd.grad(y.square().sum(), leaves), slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
            assert b.abs().max() > 1e-6, name
    state = module.initial_state(2)
    ticks = []
    for t in range(T):
        y, state = module.step(x[:, t], state)
        ticks.append(y)
    torch.testing.assert_close(torch.stack(ticks, 1), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", INNER)
def test_a_matrix_memory(kind):
    text = RULES.replace("INNER", INNER[kind]) + """
    block b(d) {
      in x : real[d]
      param K, V : d -> d
      k = unit(K(x))
      memory S : d -> d = learned(normal(0.3)) { minimize 0.5 * sqnorm(S(k) - V(x)) by deep(0.3, 0.2) }
      out y = S(x)
    }"""

    def loop(p, x):
        S, deep, ys = p["S_init"], Deep(kind, 0.2, (p["S_N_up_init"], p["S_N_down_init"])), []
        for u in x:
            k = p["K"] @ u / (p["K"] @ u).square().sum().add(1e-6).sqrt()
            g = torch.outer(S @ k - p["V"] @ u, k)
            S = 0.95 * S - 0.3 * torch.outer(deep(k, g @ k), k)
            ys.append(S @ u)
        return torch.stack(ys)

    agree(text, loop)


@pytest.mark.parametrize("kind", INNER)
@pytest.mark.parametrize("period", [1, 3])
def test_a_vector_memory(kind, period):
    """The rule and its network have the clock of the memory: a step once in a period, on the mean of its gradients."""
    clock, over = (f"every {period}", "over mean") if period > 1 else ("", "")
    text = RULES.replace("INNER", INNER[kind]) + f"""
    block b(d) {{
      in x : real[d]
      param V : d -> d
      memory m : real[d] = learned(normal(1)) {clock} {{ minimize 0.5 * sqnorm(m - tanh(V(x))) {over} by deep_vector(0.3, 0.2) }}
      out y = m * x
    }}"""

    def loop(p, x):
        m, deep, ys, total = p["m_init"], Deep(kind, 0.2, (p["m_N_up_init"], p["m_N_down_init"])), [], 0
        for t, u in enumerate(x):
            total = total + (m - torch.tanh(p["V"] @ u)) / period
            if (t + 1) % period == 0:
                m, total = 0.95 * m - 0.3 * deep(total, total), 0
            ys.append(m * u)
        return torch.stack(ys)

    agree(text, loop)


@pytest.mark.parametrize("kind", INNER)
@pytest.mark.parametrize("window", [1, 4])
def test_a_network_memory(kind, window):
    """A network learns by networks: each of its operators has one of its own, which sees that operator's inputs."""
    at = f"at start({window})" if window > 1 else ""
    text = RULES.replace("INNER", INNER[kind]) + f"""
    block b(d) {{
      in x : real[d]
      param K, V : d -> d
      k = unit(K(x))
      memory M : net(d, d) = learned {{ minimize 0.5 * sqnorm(M(k) - V(x)) {at} by deep(0.3, 0.2) }}
      out y = M(x)
    }}"""

    def loop(p, x):
        M = start = [p["M_up_init"], p["M_down_init"]]
        deep = [Deep(kind, 0.2, (p[f"M_{n}_N_up_init"], p[f"M_{n}_N_down_init"])) for n in ("up", "down")]
        ys = []
        for t, u in enumerate(x):
            start = M if t % window == 0 else start
            k, here = p["K"] @ u / (p["K"] @ u).square().sum().add(1e-6).sqrt(), [w.clone() for w in start]
            seen = k, torch.tanh(here[0] @ k)
            g = torch.autograd.grad(0.5 * (run_net(here, k) - p["V"] @ u).square().sum(), here, create_graph=True)
            M = [0.95 * w - 0.3 * torch.outer(n(s, dw @ s), s) for w, n, s, dw in zip(M, deep, seen, g, strict=True)]
            ys.append(run_net(M, u))
        return torch.stack(ys)

    agree(text, loop)
