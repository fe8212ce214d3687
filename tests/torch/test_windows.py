"""Memories in windows: the reverse of a window is torch's own, at every split and clock, in memory linear in time."""

import re

import pytest
import torch
from torch_cases import EXACT, ZOO, Case, distance, outputs, split, vector_input, zoo

from nldsl_torch.functions import Reversible, taped

WINDOWED = [n for n in ZOO if vector_input(n) and any(f.windows is not None for f in zoo(n).forms.values())]


def grads(module, x, create_graph=False):
    """Loss and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    ys = outputs(module(x)).values()
    loss = sum((y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum() for y in ys)
    return torch.autograd.grad(loss, [x, *module.parameters()], create_graph=create_graph, allow_unused=True, materialize_grads=True)


def same_as_torch(module, x, monkeypatch):
    ours = grads(module, x)
    with monkeypatch.context() as plain:
        plain.setattr(Reversible, "__call__", lambda self, *args: self.fn(*args)[0])
        theirs = grads(module, x)
    for a, b in zip(ours, theirs, strict=True):
        assert distance(a, b) < EXACT


@pytest.mark.parametrize("name", WINDOWED)
def test_the_reverse_is_that_of_torch(name, monkeypatch):
    c = zoo(name)
    same_as_torch(c.module, c.input(2, 37), monkeypatch)


CLOCKS = {
    "offset": "every 5 offset 2 { minimize 0.5 * sqnorm(M(x) - x) over mean by momentum(0.1) }",
    "several": "every 6 { minimize 0.5 * sqnorm(M(x) - x) over sum by gd(0.1)  reset every 12 }",
    "anchored": "{ minimize 0.5 * sqnorm(M(x) - x) at start(4) by gd(0.1) }",
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_parts_of_windows_at_every_place(clock, monkeypatch):
    """One call is two calls, wherever the cut falls, and gradients pass through it."""
    text = "block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }\n"
    text += f"block m(d) {{ in x : real[d]  memory M : net(d) = learned {CLOCKS[clock]}  out y = M(x) }}"
    c = Case(text, "m", {"d": 3})
    x = c.input(2, 19)
    whole = outputs(c.module(x))
    for cut in range(1, 19):
        parts, _ = split(c.module, x, [cut, 19 - cut])
        assert all(distance(parts[n], y) < EXACT for n, y in whole.items())
        same_as_torch(in_two(c.module, cut), x, monkeypatch)


TURNS = """
block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }
block m(d) {
  in x : real[d]
  memory A : net(d) = learned every 4 { minimize loss over mean by momentum(0.1) }
  memory B : net(d) = learned every 6 offset 2 { minimize loss over sum by gd(0.1)  reset every 12 }
  z = x + last B(x + last A(x))
  loss = sqnorm(z - 1)
  out y = z
}
"""


def test_memories_of_several_periods_step_in_turns(monkeypatch):
    """Their windows are one function, whoever steps at the end; what they become is left to torch."""
    c = Case(TURNS, "m", {"d": 3})
    (inside,) = re.findall(r"def \w+_inside\(n_, .*?\n    return", c.module.source, re.S)
    assert "done" not in inside and "tick" not in inside
    x = c.input(2, 27)
    found, (wanted, _) = outputs(c.module(x)), c.interpreter.run(dict(c.module.named_parameters()), {"x": x})
    assert all(distance(found[n], y) < EXACT for n, y in wanted.items())
    same_as_torch(c.module, x, monkeypatch)
    for cut in range(1, 14):
        same_as_torch(in_two(c.module, cut), x, monkeypatch)


def test_windows_with_hardly_anything_in_them_have_no_reverse_of_their_own():
    text = "block m(d) { in x : real[d]  memory pool : real[d] every 4 { minimize 0.5 * sqnorm(pool - x) over mean by gd(1) }  out y = pool + x }"
    c = Case(text, "m", {"d": 3})
    assert c.forms["pool"].name == "windows" and "@reversible(" not in c.module.source.partition("_tick(")[2]
    x = c.input(2, 11)
    found, (wanted, _) = outputs(c.module(x)), c.interpreter.run(dict(c.module.named_parameters()), {"x": x})
    assert all(distance(found[n], y) < EXACT for n, y in wanted.items())


def in_two(module, cut):
    """The module as one that runs in two calls."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            a, state = self.inner(x[:, :cut], return_state=True)
            return torch.cat([a, self.inner(x[:, cut:], state=state)], 1)

    return Two()


def test_second_derivatives_are_those_of_the_loop():
    text = "block m(d) { in x : real[d]  memory M : d -> d = learned every 2 { minimize 0.5 * sqnorm(tanh(M(x)) - x) over sum by gd(0.3) }  out y = M(x) }"
    module = Case(text, "m", {"d": 2}).module
    x = 0.5 * torch.randn(1, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradgradcheck(module, x.requires_grad_())


@pytest.mark.parametrize("name", WINDOWED)
def test_a_graph_that_is_kept_gives_the_same_gradients_again(name):
    c = zoo(name)
    x = c.input(1, 20).requires_grad_()
    loss = sum(y.square().sum() for y in outputs(c.module(x)).values())
    leaves = [x, *c.module.parameters()]
    first, second = (torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True) for _ in range(2))
    assert all(distance(a, b) == 0 for a, b in zip(first, second, strict=True))


def held_by(module, x):
    """Numbers that a forward pass keeps for the backward pass."""
    sizes = {}

    def keep(t):
        sizes[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = module(x)
    assert y.requires_grad
    return sum(sizes.values())


def test_what_is_kept_is_linear_in_time():
    c = zoo("titans_lmm")
    kept = []
    for T in (256, 512, 1024):
        kept.append(held_by(c.module, c.input(1, T)))
    assert kept[2] - kept[1] < 2.1 * (kept[1] - kept[0])


def test_a_tape_of_several_values_serves_twice():
    """Values of a generator come from one run of it, under the tape, however often their gradients are asked for."""
    x = torch.randn(3, dtype=torch.float64)
    with torch.no_grad():
        (a, b), pull = taped(lambda x: (f(x) for f in (torch.sin, torch.cos)), x)
    assert torch.equal(a, x.sin()) and torch.equal(b, x.cos())
    for _ in range(2):
        assert torch.allclose(pull((torch.ones(3), torch.ones(3)))[0], x.cos() - x.sin())
        assert torch.allclose(pull((None, torch.ones(3)))[0], -x.sin())


ORTHOGONAL = """
rule ns(rate, theta) on d -> e {
  memory S : like(w) = zeros { update theta * last S - g }
  update 0.9 * last w + rate * newton_schulz(S, d = d, e = e)
}
block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }
block m(d) {
  in x : real[d]
  param K : d -> d
  param wt : d -> 1
  memory M : net(d) = learned { minimize 0.5 * sqnorm(M(K(x)) - x) at start(4) by ns(0.1, sigmoid(wt(x))) }
  memory V : d -> d = learned { minimize 0.5 * sqnorm(V(K(x)) - x) at start(4) by gd(0.1), RULE }
  out y = M(x) + V(x)
}
"""


def test_operators_stand_at_every_tick_of_a_window(monkeypatch):
    """What is made of an operator besides a read is a map where a window has one for each tick; the meaning stays."""
    c = Case(ORTHOGONAL.replace("RULE", "decay(0.9)"), "m", {"d": 3})
    forms = {state: form for state, form in c.forms.items() if form.windows is not None}
    inside = {s: f.name for form in forms.values() for s, f in form.forms.items()}
    assert {f for s, f in inside.items() if s.startswith("M.")} == {"scan"} and inside["V"] == "closed"
    x = c.input(2, 19)
    same_as_torch(c.module, x, monkeypatch)
    for cut in (3, 8, 18):
        same_as_torch(in_two(c.module, cut), x, monkeypatch)
    found, (wanted, _) = outputs(c.module(x)), c.interpreter.run(dict(c.module.named_parameters()), {"x": x})
    assert all(distance(found[n], y) < EXACT for n, y in wanted.items())


SOLVED = {
    "erase": "memory M : net(d) = learned { minimize 0.5 * sqnorm(M(K(x)) - v) at start(4) by dgd(b, keep = a) }  out y = M(x)",
    "erase, read before": "memory M : net(d) = learned { minimize 0.5 * sqnorm(M(K(x)) - v) at start(4) by dgd(b, keep = a) }  out y = last M(x)",
    "keys of a slow memory": "memory V : d -> d = learned { minimize 0.5 * sqnorm(V(k) - v) by gd(b, keep = a) }  out y = V(x)",
    "retention of a slow memory": "memory V : d -> d = learned { minimize 0.5 * sqnorm(V(k) - v) by decay(sigmoid(wt(k))), gd(b) }  out y = last V(k)",
    "a learner with a memory": "memory V : d -> d = learned { minimize 0.5 * sqnorm(V(k) - v) by momentum(b, a) }  out y = V(x)",
    "written to twice": "memory V : d -> d = learned { update a * last V - b * outer(last V(k), k) + b * outer(v, k) + outer(b * x, k) }  out y = V(k)",
    "its own write": "memory V : d -> d = learned { update a * U - b * outer(U(k), k) }  U = last V + sigmoid(wt(k)) * outer(v, k)  out y = last V(x)",
    "turned": "memory V : d -> d = learned { update a * last V - b * outer(k, transpose(last V)(k)) + b * outer(k, v) }  out y = transpose(V)(x)",
    "across": "memory V : d -> d = learned { minimize 0.5 * sqnorm(V(k) - v) by gd(b, keep = a) }  out y = transpose(V)(x) + V(k)",
}
SOLVED_TEXT = """
block net(d) {{ in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }}
block m(d) {{
  in x : real[d]
  param K : d -> d
  param wt : d -> 1
  a = sigmoid(2 + wt(x))  b = 0.3 * sigmoid(wt(x))  v = tanh(2 * x)
  memory S : d -> d = learned every 4 {{ minimize 0.5 * sqnorm(S(x) - {}) over sum by gd(0.1) }}
  k = unit(last S(K(x)))
  {}
}}
"""


@pytest.mark.parametrize("name", SOLVED)
def test_writes_that_read_what_they_write_to(name, monkeypatch):
    """A window solves for them all at once: one triangular solve, whose reverse is another, and no loop over chunks."""
    target = "last V(v)" if "memory V" in SOLVED[name] else "last M(v)"
    c = Case(SOLVED_TEXT.format(target, SOLVED[name]), "m", {"d": 3})
    assert "unit_solve(" in c.module.source and "segments(" not in c.module.source and "taped(" not in c.module.source
    x = c.input(2, 11)
    found, (wanted, _) = outputs(c.module(x)), c.interpreter.run(dict(c.module.named_parameters()), {"x": x})
    assert all(distance(found[n], y) < EXACT for n, y in wanted.items())
    same_as_torch(c.module, x, monkeypatch)
    for cut in (3, 4, 10):
        same_as_torch(in_two(c.module, cut), x, monkeypatch)


def test_an_operator_that_is_no_scan_is_a_loop():
    c = Case(ORTHOGONAL.replace("RULE", "mirror(0.1)"), "m", {"d": 3})
    assert c.forms["V"].name == "loop" and "in a window of 4 ticks" in c.forms["V"].why


# Of what is read of a memory inside a window, m, what it learns: word by word.
WORDS = {
    "silu": "silu(m)", "relu": "relu(m)", "log": "log(1.5 + sqnorm(m)) * x", "sqrt": "sqrt(0.3 + sqnorm(m)) * x", "root of a square": "sqrt(m * m)",
    "at least": "max(m, 0.1)", "at most": "min(0.1, m)", "max": "max(m, x)", "min": "min(x, m)", "equal": "max(m, 1 * m)",
    "where": "where(sum(m), m, x * m)", "where, a number": "where(x, 0, m)", "power": "(1 + sqnorm(m))^1.5 * x", "abs": "abs(m)",
    "softplus": "softplus(m)", "quotient": "x / (1 + sqnorm(m))", "softmax": "softmax(m)", "by a param": "W(m)", "tanh": "tanh(m) * exp(-m)",
    "composed": "matmul(start(3) M, transpose(start(3) M))(x)", "a scan": "last s + m", "a scan's factor": "s - m", "directions": "unit(m) + norm(m)",
    "a loss": "cross_entropy(W(m), token) * x",
}  # fmt: skip
WORDS_TEXT = """
block m(d) {{
  in x : real[d]
  in token : int[d]
  param W : d -> d
  m = start(3) M(x)
  memory s : real[d] {{ update sigmoid(m) * last s + 0.5 * m }}
  memory M : d -> d = learned {{ minimize 0.5 * sqnorm(M(x) - t) at start(3) by gd(0.2, keep = 0.9) }}
  t = {}
  out y = M(x)
}}
"""


@pytest.mark.parametrize("name", WORDS)
def test_every_word_has_its_reverse(name, monkeypatch):
    """No word keeps a window from being compiled, but for the functions of matrices; and none has other gradients than torch gives."""
    c = Case(WORDS_TEXT.format(WORDS[name]), "m", {"d": 3})
    assert "taped(" not in c.module.source and "ticks=3" in c.module.source
    draw = torch.Generator().manual_seed(0)
    x, token = torch.randn(2, 11, 3, generator=draw, dtype=torch.float64), torch.randint(3, (2, 11), generator=draw)
    same_as_torch(with_tokens(c.module, token), x, monkeypatch)
    found = outputs(c.module(x, token))
    wanted, _ = c.interpreter.run(dict(c.module.named_parameters()), {"x": x, "token": token})
    assert all(distance(found[n], y) < EXACT for n, y in wanted.items())


def with_tokens(module, token):
    """The module of its first input alone."""

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x, token)

    return One()
