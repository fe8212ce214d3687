"""Memories that the sequences of a batch share, in torch and in the interpreter, against loops written out with autograd."""

import pytest
import torch
from torch_cases import EXACT, Case, distance, outputs

import nldsl

LOSS = "minimize 0.5 * sqnorm(M(k) - x)"


def block(clauses, more="", out="M(k)", type="d -> d = learned"):
    return f"block m(d) {{ in x : real[d]  k = unit(x)  memory M : {type} {clauses}  {more}  out y = {out} }}"


def kept(c):
    """The keys of the memories that the module has: one that nothing reads is left out."""
    return [k for k in c.module.initial_state(1) if k in c.states]


def gd(state, g, t):
    return -0.1 * g


def momentum(state, g, t):
    state["m"] = 0.8 * state.get("m", 0) + g
    return -0.1 * state["m"]


def adam(state, g, t):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * g * g
    return -0.1 * (state["m"] / (1 - 0.9**t)) / ((state["v"] / (1 - 0.99**t)).sqrt() + 1e-8)


RULES = {"gd(0.1)": gd, "momentum(0.1, beta = 0.8)": momentum, "adam(lr = 0.1, betas = [0.9, 0.99])": adam}
CLOCKS = {"each tick": ("", "", 1, None), "every": ("every 4", "", 4, None), "window": ("", "at start(4)", 1, 4), "both": ("every 2", "at start(4)", 2, 4)}


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def loop(W, x, rule, every, start, over, shared, read):
    """One weight for the whole batch; the loss of a tick is 0.5 |read(W, x) - x|^2 of each sequence."""
    held, anchor, total, steps, ys = {}, W, 0, 0, []
    pooled = torch.sum if shared == "sum" else torch.mean
    for t in range(x.shape[1]):
        at = anchor if start else W
        before = W
        each = [torch.autograd.grad(0.5 * (read(at, row) - row).square().sum(), at, create_graph=True)[0] for row in x[:, t]]
        total = total + torch.stack(each)
        if (t + 1) % every == 0:
            steps += 1
            W = W + rule(held, pooled(total / (every if over == "mean" else 1), 0), steps)
            total = 0
        if start and (t + 1) % start == 0:
            anchor = W
        ys.append(torch.stack([read(before, row) - read(W, row) for row in x[:, t]]))
    return torch.stack(ys, 1), W


@pytest.mark.parametrize("shared", ["sum", "mean"])
@pytest.mark.parametrize("over", ["sum", "mean"])
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("rule", RULES)
def test_it_is_a_loop_over_a_batch_with_one_weight(rule, clock, over, shared):
    """Outputs before and after each step, the last state, and the gradients of both; torch, interpreter and the loop."""
    every, start, ticks, window = CLOCKS[clock]
    c = Case(block(f"{every} {{ {LOSS} over {over} {start} by {rule}  shared {shared} }}", out="last M(k) - M(k)"), "m", {"d": 3})
    (W,) = c.module.parameters()
    results = []
    for backend in (c.module, c.interpreter, None):
        x = c.input(3, 10).requires_grad_()
        if backend is None:
            y, end = loop(W, x, RULES[rule], ticks, window, over, shared, lambda w, row: w @ unit(row))
        else:
            y, state = backend(x, return_state=True) if backend is c.module else backend.run(dict(c.module.named_parameters()), {"x": x})
            y = outputs(y)["y"]
            assert all(torch.equal(state[k], state[k][:1].expand_as(state[k])) for k in kept(c))
            end = state["M"][0]
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).double()
        results.append([y, end, *torch.autograd.grad((weights * y).sum() + end.square().sum(), [x, W])])
    torch_, interpreter, wanted = results
    for found in (torch_, interpreter):
        assert all(distance(a, b) < EXACT for a, b in zip(found, wanted, strict=True))


STREAM = block("every 3 { minimize e by gd(0.1)  shared mean }", more="h = x + last M(k)  e = 0.5 * sqnorm(tanh(h) - x)", out="h")


def test_an_objective_that_is_a_stream():
    c = Case(STREAM, "m", {"d": 3})
    (W,) = c.module.parameters()
    x = c.input(3, 8)
    ys, w, total = [], W, 0
    for t in range(8):
        row = x[:, t]
        ys.append(row + unit(row) @ w.T)
        total = total + torch.autograd.grad(0.5 * (torch.tanh(ys[-1]) - row).square().sum(), w, create_graph=True)[0]
        if t % 3 == 2:
            w, total = w - 0.1 * total / 3, 0  # the mean over three sequences
    assert distance(c.module(x), torch.stack(ys, 1)) < EXACT
    ours, theirs = (torch.autograd.grad(y.square().sum(), W)[0] for y in (c.module(x), torch.stack(ys, 1)))
    assert distance(ours, theirs) < EXACT


MORE = {
    "stream": STREAM,
    "vector": block("{ minimize 0.5 * sqnorm(M - x) by gd(0.1)  shared sum }", out="M", type="real[d]"),
    "number": block("every 2 { minimize 2 * M by gd(0.1)  shared sum }", out="M * x", type="real"),
    "each": """block m(d) { in x : real[d]  each h in 2 { param W : d -> d  k = unit(W(x))
      memory M : d -> d every 3 { minimize 0.5 * sqnorm(M(k) - x) by momentum(0.1)  shared mean }  z = M(k) }  out y = flatten(z) }""",
    "network": """block net(d) { in x : real[d]  param up : d -> 4  param down : 4 -> d  out y = down(tanh(up(x))) }
      block m(d) { in x : real[d]  memory M : net(d) = learned every 4 { minimize 0.5 * sqnorm(M(x) - x) by adam(lr = 0.1)  shared sum }  out y = M(x) }""",
    "flush": block(f"every 4 {{ {LOSS} by momentum(0.1)  flush apply  shared mean }}"),
    "stop": block(f"every 4 {{ {LOSS} by momentum(0.1)  writes stop  reset every 8  shared mean }}", out="start(4) M(k) + last M(x) + M(x)"),
    "reset to": block(f"every 2 {{ {LOSS} by gd(0.1)  reset every 8 to G  shared mean }}", type="d -> d",
                      more="memory G : d -> d = learned every 4 { minimize 0.5 * sqnorm(G(k) - x) by gd(0.1)  shared sum }"),
    "behind another": block("{ minimize e by gd(0.1)  shared mean }", out="h",
                            more="memory B : d -> d { minimize 0.5 * sqnorm(B(k) - last M(x)) by gd(0.3)  shared sum }  h = B(k) + x  e = 0.5 * sqnorm(h - x)"),
    "before one of its own": block("every 2 { minimize e by gd(0.1) }", out="h",
                                   more="memory B : d -> d { minimize 0.5 * sqnorm(B(k) - last M(x)) by gd(0.3)  shared mean }  h = B(k) + x  e = 0.5 * sqnorm(h - x)"),
    "instance": f"""{block(f"every 4 {{ {LOSS} by gd(0.1)  shared mean }}").replace("block m(d)", "block inner(d)")}
      block m(d) {{ in x : real[d]  out y = x + inner(norm(x)) }}""",
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_torch_is_the_interpreter(name):
    """Outputs, states and gradients, in two calls with an end of the stream behind each."""
    c = Case(MORE[name], "m", {"d": 3})
    params = dict(c.module.state_dict(keep_vars=True))
    results = []
    for backend in ("torch", "interpreter"):
        x, state, ys = c.input(3, 11).requires_grad_(), None, []
        for piece in x.split([6, 5], 1):
            if backend == "torch":
                y, state = c.module(piece, state=state, return_state=True)
                state = c.module.finish(state)
            else:
                y, state = c.interpreter.run(params, {"x": piece}, state)
                state = c.interpreter.finish(params, state)
            ys.append(outputs(y)["y"])
        values = [torch.cat(ys, 1), *(state[k] for k in kept(c))]
        loss = sum((v * v.detach().cos()).sum() for v in values)
        gradients = torch.autograd.grad(loss, [x, *c.module.parameters()], allow_unused=True, materialize_grads=True)
        results.append([*values, *gradients])
    assert all(distance(a, b) < EXACT for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", MORE)
def test_a_batch_of_one_is_as_without(name):
    c, plain = Case(MORE[name], "m", {"d": 3}), Case(MORE[name].replace("shared sum", "").replace("shared mean", ""), "m", {"d": 3})
    x = c.input(1, 11)
    plain.module.load_state_dict(c.module.state_dict())
    for a, b in zip(c.module(x, return_state=True)[1].values(), plain.module(x, return_state=True)[1].values(), strict=True):
        assert distance(a, b) < EXACT
    assert distance(c.module(x), plain.module(x)) < EXACT
    more = c.input(2, 11)
    assert distance(c.module(more), plain.module(more)) > 1e-4 or name == "number"


@pytest.mark.parametrize("name", MORE)
def test_calls_and_steps(name):
    c = Case(MORE[name], "m", {"d": 3})
    x = c.input(3, 11)
    whole, end = c.module(x, return_state=True)
    first, state = c.module(x[:, :5], return_state=True)
    ys = [first]
    for t in range(5, 11):
        y, state = c.module.step(x[:, t], state)
        ys.append(y.unsqueeze(1))
    assert distance(torch.cat(ys, 1), whole) < EXACT
    assert all(distance(state[k], end[k]) < EXACT for k in kept(c))


def test_the_forms():
    """Where whole periods are taken together, windows stay; at every tick there is a loop that says why."""
    assert Case(block(f"every 4 {{ {LOSS} by momentum(0.1)  shared mean }}"), "m", {"d": 3}).names == "windows"
    for clauses in (f"{{ {LOSS} by gd(0.1)  shared mean }}", f"{{ {LOSS} at start(4) by gd(0.1)  shared mean }}"):
        (form,) = Case(block(clauses), "m", {"d": 3}).forms.values()
        assert form.name == "loop" and "the other sequences of the batch" in form.why


def test_standalone_source():
    c = Case(MORE["network"], "m", {"d": 3})
    space = {"__name__": "standalone"}
    exec(compile(c.source(), "standalone.py", "exec"), space)
    made = space["M"]().double()
    made.load_state_dict(c.module.state_dict())
    assert torch.equal(made(c.input(3, 9)), c.module(c.input(3, 9)))


def refused(text):
    with pytest.raises(nldsl.NlError) as wrong:
        nldsl.load(text)
    return [d for d in wrong.value.diagnostics if d.severity == "error"]


@pytest.mark.parametrize("text", [
    block("{ update last M + outer(x, k)  shared mean }"),
    block(f"{{ {LOSS} by gd(0.1)  shared max }}"),
    block("{ key k  value x  shared mean }", type="store(d -> d)"),
    "rule mine(a) { memory m : like(w) { minimize 0.5 * sqnorm(m - g) by gd(0.5)  shared mean }  update last w - a * m }\n" + block(f"{{ {LOSS} by mine(0.1) }}"),
])  # fmt: skip
def test_where_there_are_no_gradients_to_share(text):
    assert [d.code for d in refused(text)] == ["NL413"]


@pytest.mark.parametrize("text", [
    block(f"{{ {LOSS} by gd(a)  shared mean }}", more="param r : d -> 1  a = sigmoid(r(x))"),
    block(f"{{ {LOSS} by gd(0.1, keep = a)  shared mean }}", more="param r : d -> 1  a = sigmoid(r(x))"),
    block("{ minimize 0.5 * sqnorm(M(k) - x) by decay(a)  shared mean }", more="param r : d -> 1  a = sigmoid(r(x))"),
    block(f"every 2 {{ {LOSS} by gd(0.1)  reset every 8 to G  shared mean }}", type="d -> d",
          more="memory G : d -> d = learned every 4 { minimize 0.5 * sqnorm(G(k) - x) by gd(0.1) }"),
])  # fmt: skip
def test_a_step_of_what_each_sequence_has_of_its_own(text):
    found = refused(text)
    assert [d.code for d in found] == ["NL414"] and found[0].found in ("`a`", "`G`")


def test_a_rate_of_another_shared_memory():
    """It is the same for each sequence, so it may stand in the step."""
    more = "param r : real  memory s : real { minimize 0.5 * sqnorm(s - mean(x)) by gd(0.1)  shared mean }"
    text = block(f"{{ {LOSS} by gd(sigmoid(r + last s))  shared mean }}", more=more)
    nldsl.load(text)
    assert [d.code for d in refused(text.replace("gd(0.1)  shared mean }  out", "gd(0.1) }  out"))] == ["NL414"]


@pytest.mark.parametrize("ticks", [1, 9])
def test_several_processes_are_refused(ticks, monkeypatch):
    """Each would have a part of the batch, and another memory, in a loop of one's own too."""
    module = nldsl.load(block(f"every 4 {{ {LOSS} by gd(0.1)  shared mean }}", type="d -> d")).module("m", d=3)
    x = torch.randn(2, ticks, 3)
    module(x)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="each process has only some"):
        module(torch.cat([x] * 4, 1))
