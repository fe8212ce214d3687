"""The end of a stream: `flush` and `finish`, in torch and in the interpreter, against loops written out with autograd."""

import re

import pytest
import torch
from torch_cases import EXACT, Case, distance, outputs

import nldsl

NET = "block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }\n"
LOSS = "minimize 0.5 * sqnorm(M(x) - x)"


def memory(clauses, type="net(d) = learned", more="", out="M(x)"):
    return NET + f"block m(d) {{ in x : real[d]  memory M : {type} {clauses}  {more}  out y = {out} }}"


NESTED = f"""{NET}
block m(d) {{
  in x : real[d]
  k = unit(x)
  memory F : d -> d every 2 {{ minimize 0.5 * sqnorm(F(k) - x) over mean by momentum(0.3)  reset every 8 to G  flush apply }}
  memory G : d -> d = learned every 4 {{ minimize 0.5 * sqnorm(G(k) - x) by gd(0.2)  flush HOW }}
  out y = F(k) + G(k)
}}"""

# What a window begins anew from where nothing reads what the memory was a tick before.
AFRESH = """rule r() { update WHAT }
block m(d) { in x : real[d]  memory B : real[d] { minimize 0.5 * sqnorm(B - x) at start(3) by r()  flush HOW }  out y = READ }"""


def afresh(what, how="apply", read="B"):
    return AFRESH.replace("WHAT", what).replace("HOW", how).replace("READ", read)


INSTANCES = f"""{memory(f"every 4 {{ {LOSS} by gd(0.1)  flush apply }}").replace("block m(d)", "block inner(d)")}
block between(d) {{ in x : real[d]  memory c : real[d] every 3 {{ minimize 0.5 * sqnorm(c - x) by gd(0.3)  flush drop }}  out y = inner(norm(x)) + c }}
block m(d) {{ in x : real[d]  out y = x + between(x) }}"""

CASES = {
    "sum": memory(f"every 4 {{ {LOSS} by gd(0.1, keep = 0.9)  flush apply }}"),
    "mean": memory(f"every 4 {{ {LOSS} over mean by momentum(0.1)  flush apply }}"),
    "adam": memory(f"every 4 {{ {LOSS} by adam(lr = 0.1)  flush apply }}"),
    "offset": memory(f"every 5 offset 2 {{ {LOSS} over mean by momentum(0.1)  flush apply }}"),
    "reset": memory(f"every 4 {{ {LOSS} by momentum(0.1)  reset every 8  flush apply }}"),
    "frozen": memory(f"every 4 {{ {LOSS} at start(8) by momentum(0.1)  flush apply }}"),
    "read at start": memory(f"every 2 {{ {LOSS} by gd(0.1)  flush apply }}", out="start(4) M(x) + last M(x)"),
    "window": memory(f"{{ {LOSS} at start(4) by momentum(0.1)  flush apply }}"),
    "dropped sum": memory(f"every 4 {{ {LOSS} by momentum(0.1)  flush drop }}"),
    "dropped window": memory(f"{{ {LOSS} at start(4) by momentum(0.1)  flush drop }}"),
    "dropped operator": memory("{ minimize 0.5 * sqnorm(M(k) - x) at start(4) by gd(0.5, keep = 0.9)  flush drop }", "d -> d = learned", "k = unit(x)"),
    "carried": memory(f"every 4 {{ {LOSS} by gd(0.1)  flush carry }}"),
    "vector": memory("every 3 { minimize 0.5 * sqnorm(M - x) by momentum(0.2)  flush apply }", "real[d]", out="M"),
    "heads": """block m(d) { in x : real[d]  each h in 2 { param W : d -> 2  param r : real  k = unit(W(x))
      memory M : 2 -> 2 every 4 { minimize 0.5 * sqnorm(M(k) - W(x)) by gd(sigmoid(r + 0.1 * h))  flush apply }  o = M(k) }  out y = flatten(o) }""",
    "heads by adam": """block m(d) { in x : real[d]  each h in 2 { param W : d -> 2  k = unit(W(x))
      memory M : 2 -> 2 every 4 { minimize 0.5 * sqnorm(M(k) - W(x)) over mean by adam(lr = 0.1)  flush apply }  o = M(k) }  out y = flatten(o) }""",
    "stream": """block m(d) { in x : real[d]  memory M : d -> d = learned every 4 { minimize e by gd(0.1)  flush apply }
      h = norm(x + last M(norm(x)))  e = 0.5 * sqnorm(h - x)  out y = h }""",
    "apart": memory(  # clocks without a window in common: a loop
        f"every 3 {{ {LOSS} by gd(0.1)  flush apply }}",
        more="memory S : d -> d every 4 { minimize 0.5 * sqnorm(S(last M(x)) - x) by gd(0.1)  flush apply }", out="M(x) + S(x)"),
    "afresh": afresh("-0.5 * g"),
    "dropped afresh": afresh("-0.5 * g", "drop"),
    "counted": afresh("count() + 0 * g"),
    "counted and its start": afresh("count() + 0 * g", read="B + start(2) B"),
    "gradients alone": afresh("-0.5 * g", read="start(6) B"),
    "nested": NESTED.replace("HOW", "apply"),
    "one of two": NESTED.replace("HOW", "carry"),
    "instances": INSTANCES,
}  # fmt: skip


def run(c, cuts, ends, x, backend):
    """Outputs and the last state of calls of so many ticks; the stream ends after those in `ends`."""
    state, parts = None, []
    params = dict(c.module.state_dict(keep_vars=True).items())
    for n, piece in enumerate(x.split(cuts, 1)):
        if backend == "torch":
            y, state = c.module(piece, state=state, return_state=True)
            state = c.module.finish(state) if n in ends else state
        else:
            y, state = c.interpreter.run(params, {"x": piece}, state)
            state = c.interpreter.finish(params, state) if n in ends else state
        parts.append(outputs(y)["y"])
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", [1, 3, 4, 6, 8, 9, 11])
def test_finish_is_that_of_the_interpreter(name, cut):
    """Outputs, states and gradients, with the end of a stream in the middle, twice at one place, and at the end."""
    c = Case(CASES[name], "m", {"d": 3})
    results = []
    for backend in ("torch", "interpreter"):
        x = c.input(2, 17).requires_grad_()
        y, state = run(c, [cut, 2, 15 - cut], {0, 1, 2}, x, backend)
        values = [state[k] for k in c.module.initial_state(1) if not k.startswith(":") and k in c.states]
        weights = torch.Generator().manual_seed(3)
        loss = sum((v * torch.randn(v.shape, generator=weights).double()).sum() for v in (y, *values))
        gradients = torch.autograd.grad(loss, [x, *c.module.parameters()], allow_unused=True)
        results.append([y, *values, *gradients])
    assert len(results[0]) == len(results[1])
    assert all(distance(a, b) < EXACT for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_ends_and_calls(name):
    """The end of the stream is where it is said, however the ticks are cut into calls; a second end changes nothing."""
    c = Case(CASES[name], "m", {"d": 3})
    x = c.input(2, 17)
    one, state = run(c, [7, 10], {0}, x, "torch")
    many, other = run(c, [1, 2, 1, 3, 1, 9], {3}, x, "torch")
    assert distance(many, one) < EXACT and all(distance(other[k], v) < EXACT for k, v in state.items())
    end = c.module.finish(state)
    again = c.module.finish(end)
    assert end.keys() == state.keys() == again.keys()
    assert all(torch.equal(again[k], v) for k, v in end.items())
    start = c.module.initial_state(2)
    assert all(torch.equal(v, start[k]) for k, v in c.module.finish(start).items())


def net(x, W):
    return W[1] @ torch.tanh(W[0] @ x)


def test_apply_is_one_more_step():
    """The loop as one would write it: momentum over periods of 4, two streams of 6 and 5 ticks, each ended."""
    c = Case(memory(f"every 4 {{ {LOSS} over mean by momentum(0.1, beta = 0.8)  flush apply }}"), "m", {"d": 3})
    x = c.input(1, 11)
    first = [p for _, p in c.module.named_parameters()]
    W = list(first)
    m, total, ys = [torch.zeros_like(w) for w in W], [torch.zeros_like(w) for w in W], []
    count = 0
    for t in range(11):
        gs = torch.autograd.grad(0.5 * (net(x[0, t], W) - x[0, t]).square().sum(), W, create_graph=True)
        total = [a + g for a, g in zip(total, gs, strict=True)]
        if t in (3, 5, 7, 10):  # two period ends; two ends of streams, at 6 and 11 ticks
            m = [0.8 * a + s / 4 for a, s in zip(m, total, strict=True)]
            W = [w - 0.1 * a for w, a in zip(W, m, strict=True)]
            total = [torch.zeros_like(a) for a in total]
            count += 1
        ys.append(net(x[0, t], W) if t not in (5, 10) else None)
    y, state = run(c, [6, 5], {0, 1}, x, "torch")
    kept = [t for t in range(11) if ys[t] is not None]
    assert distance(y[0, kept], torch.stack([ys[t] for t in kept])) < EXACT
    assert [distance(state[n][0], w) < EXACT for n, w in zip(("M.up", "M.down"), W, strict=True)] == [True, True]
    assert count == 11 // 4 + 2
    ours = torch.autograd.grad(sum(state[n].square().sum() for n in ("M.up", "M.down")), first)
    assert all(distance(a, b) < EXACT for a, b in zip(ours, torch.autograd.grad(sum(w.square().sum() for w in W), first), strict=True))


@pytest.mark.parametrize("T", [1, 4, 7, 8, 13])
@pytest.mark.parametrize("how", ["apply", "drop", "carry"])
def test_a_memory_changes_once_a_period_and_at_the_end(T, how):
    c = Case(memory(f"every 4 {{ {LOSS} by gd(0.1)  flush {how} }}"), "m", {"d": 3})
    state, changes = c.module.initial_state(1), 0
    for x in c.input(1, T).unbind(1):
        before, (_, state) = state, c.module.step(x, state)
        changes += not torch.equal(before["M.up"], state["M.up"])
    assert changes == T // 4
    end = c.module.finish(state)
    assert torch.equal(end["M.up"], state["M.up"]) == (how != "apply" or T % 4 == 0)
    sums = [k for k in state if k.endswith(":sum")]
    assert sums and all((end[k].abs().max() == 0) == (how != "carry" or T % 4 == 0) for k in sums)


def test_a_dropped_window_leaves_no_trace():
    c = Case(CASES["dropped window"], "m", {"d": 3})
    x = c.input(2, 11)
    _, whole = run(c, [8], {0}, x[:, :8], "torch")
    _, more = run(c, [11], {0}, x, "torch")
    assert all(distance(more[k], v) < EXACT for k, v in whole.items() if k.startswith("M"))


def test_an_applied_window_begins_anew():
    c = Case(CASES["window"], "m", {"d": 3})
    _, state = run(c, [6], {0}, c.input(2, 6), "torch")
    assert torch.equal(state["M.up"], state["M.up.start4"])


# What "apart" and "instances" compute is a loop anyway, and what only an end of the stream reads of a memory makes it a state.
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("apart", "instances") and "rule r()" not in CASES[n]])
def test_the_form_is_that_without_a_flush(name):
    plain = re.sub(r"flush \w+", "", CASES[name])
    assert {f.name for f in Case(CASES[name], "m", {"d": 3}).forms.values()} == {f.name for f in Case(plain, "m", {"d": 3}).forms.values()}


def test_the_number_of_adams_steps():
    """Bias is corrected by the steps that were taken, those at the ends of streams too."""
    c = Case(CASES["adam"], "m", {"d": 3})
    _, state = run(c, [2, 1, 3], {0, 1, 2}, c.input(1, 6), "torch")  # ends after 2, 3 and 6 ticks, a period after 4
    assert {float(state[k]) for k in state if k.endswith(".count")} == {4.0}


def test_without_a_flush_nothing_happens():
    c = Case(memory(f"every 4 {{ {LOSS} by gd(0.1) }}"), "m", {"d": 3})
    _, state = c.module(c.input(1, 6), return_state=True)
    assert c.module.finish(state) is state
    _, state = c.interpreter.run(c.module.state_dict(), {"x": c.input(1, 6)})
    assert c.interpreter.finish(c.module.state_dict(), state) is state


def test_standalone_source_finishes():
    c = Case(INSTANCES, "m", {"d": 3})
    space = {"__name__": "standalone"}
    exec(compile(c.source(), "standalone.py", "exec"), space)
    made = space["M"]().double()
    made.load_state_dict(c.module.state_dict())
    _, state = made(c.input(1, 6), return_state=True)
    _, ours = run(c, [6], {0}, c.input(1, 6), "torch")
    assert all(torch.equal(v, ours[k]) for k, v in made.finish(state).items())


@pytest.mark.parametrize("clauses", [
    "{ minimize -dot(M(x), x) by gd(0.1)  flush apply }",
    "every 4 { minimize -dot(M(x), x) by gd(0.1)  flush sometimes }",
    "every 4 { update outer(x, x) over last  flush drop }",
    "{ minimize -dot(M(x), x) by gd(0.1), decay(0.5) every 4  flush apply }",
    "every 4 { minimize -dot(M(x), x) by mine(0.1)  flush apply }",
    "{ minimize -dot(M(x), x) at start(8) by slow(0.1)  flush drop }",
])  # fmt: skip
def test_where_there_is_nothing_to_flush(clauses):
    mine = "rule mine(a) { memory m : like(w) { minimize 0.5 * sqnorm(m - g) by gd(0.5)  flush apply }  update last w - a * m }\n"
    slow = "rule slow(a) { memory m : like(w) every 2 { minimize 0.5 * sqnorm(m - g) by gd(0.5) }  update last w - a * m }\n"
    rules = (mine if "mine" in clauses else "") + (slow if "slow" in clauses else "")
    text = f"{rules}block m(d) {{ in x : real[d]  memory M : d -> d {clauses}  out y = M(x) }}"
    with pytest.raises(nldsl.NlError) as wrong:
        nldsl.load(text)
    assert [d.code for d in wrong.value.diagnostics if d.severity == "error"] == ["NL412"]
