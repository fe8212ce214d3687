"""Random memories with clocks, windows and networks: whatever windows make of them is the interpreter's value."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_cases import case, check, distance, outputs, split
from torch_programs import HEAD

STRUCTURES = {
    "linear": "param W : d -> d  out y = W(x)",
    "affine": "param W : d -> d  param b : real[d]  out y = W(x) + b",
    "mlp": "param up : d -> 4  param down : 4 -> d  out y = down(gelu(up(x)))",
    "residual": "param up : d -> 4  param down : 4 -> d = normal(0.3)  out y = x + norm(down(silu(up(x))))",
    "gated": "param up, gate : d -> 4  param down : 4 -> d  out y = down(tanh(up(x)) * sigmoid(gate(x)))",
    "scaled": "param W : d -> d  param s : real[d] = ones  out y = s * norm(W(x))",
    "gained": "param W : d -> 4  param V : 4 -> d  param g : real = 0.5  out y = (1 + g) * V(tanh(W(x)))",
    "deep": "chain z = x over i in 0 .. 3 { param V : d -> d  z = tanh(V(z)) }  out y = z",
}
BLOCKS = "".join(f"block {name}(d) {{ in x : real[d]  {body} }}\n" for name, body in STRUCTURES.items())
RULES = "rule squash(most) { update most * tanh(last w / most) }\n"

structures = st.sampled_from([*(f"{name}(d)" for name in STRUCTURES), "d -> d"])
numbers = st.sampled_from(["a", "b", "0.9", "1 - 0.5 * c", "1"])
rates = st.sampled_from(["0.3 * b", "0.2", "0.3 * a * c"])
keys = st.sampled_from(["k", "unit(v)", "unit(x)"])
values = st.sampled_from(["v", "x", "A * q"])
objectives = st.one_of(
    st.builds("0.5 * sqnorm({{0}}({}) - {})".format, keys, values),
    st.builds("-dot({{0}}({}), {})".format, keys, values),
    st.builds("b * mean(abs({{0}}({}) - {}))".format, keys, values),
    st.builds("0.5 * sqnorm({{0}}({}) - {}) - 0.1 * dot({{0}}(unit(q)), x)".format, keys, values),
)
steps = st.one_of(
    st.builds("gd({})".format, rates),
    st.builds("gd({}, keep = {})".format, rates, numbers),
    st.builds("titans(theta = {}, eta = {}, alpha = 0.1 * c)".format, rates, numbers),
    st.builds("momentum({}, {})".format, rates, numbers),
    st.builds("decay({}), gd({})".format, numbers, rates),
    st.builds("dgd({}, keep = {})".format, rates, numbers),
)
slow_steps = st.sampled_from(["gd(0.1)", "gd(0.2, keep = 0.9)", "momentum(0.1)", "adam(lr = 0.05)", "decay(0.8), gd(0.1)", "signsgd(lr = 0.05)"])
windows = st.sampled_from([2, 3, 4])


@st.composite
def clauses(draw, name: str, kind: str) -> str:
    """The clock and braces of a memory."""
    objective = draw(objectives).format(name)
    if kind == "anchored":
        more = draw(st.sampled_from(["", "", "reset every 6", "writes first_order", "writes stop"]))
        return f"{{ minimize {objective} at start({draw(windows)}) by {draw(steps)}  {more} }}"
    if kind == "paced":
        return f"{{ minimize {objective} at start({draw(windows)}) by {draw(steps)}, squash(2) every {draw(st.sampled_from([4, 6]))} }}"
    if kind == "slow":
        clock = f"every {draw(windows)}" + draw(st.sampled_from(["", "", " offset 1"]))
        return f"{clock} {{ minimize {objective} over {draw(st.sampled_from(['sum', 'mean']))} by {draw(slow_steps)} }}"
    return f"{{ minimize {objective} by {draw(steps)} }}"


def reads(name: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from([f"{name}(q)", f"last {name}(q)", f"start(3) {name}(x)", f"a * {name}(k)", f"tanh({name}(unit(v)))",
                                     f"dot(last {name}(k), v) * x"]), min_size=1, max_size=3).map(" + ".join)  # fmt: skip


@st.composite
def programs(draw) -> str:
    one, two = draw(structures), draw(structures)
    kind = draw(st.sampled_from(["anchored", "anchored", "slow", "slow", "paced", "every tick"]))
    lines = [f"memory M : {one} = learned(normal(0.5)) {draw(clauses('M', kind))}"]
    out = draw(reads("M"))
    more = draw(st.sampled_from(["", "beside", "below", "base", "loss"]))
    if more in ("beside", "below"):
        body = draw(clauses("N", draw(st.sampled_from(["anchored", "slow"]))))
        key = draw(st.sampled_from(["start(2) M(x)", "last M(x)", "start(4) M(k)"]))
        body = body.replace("N(k)", f"N(unit({key}))") if more == "below" else body
        lines.append(f"memory N : {two} = learned(normal(0.5)) {body}")
        out += " + " + draw(reads("N"))
    elif more == "base":
        lines.append(f"memory P : {one} = learned(normal(0.5)) every 4 {{ minimize 0.5 * sqnorm(P(k) - v) over sum by gd(0.1) }}")
        lines.append(f"memory N : {one} = zeros every 2 {{ minimize 0.5 * sqnorm(N(k) - x) over sum by gd(0.1)  reset every 4 to P }}")
        out += " + last N(q)"
    elif more == "loss":
        lines.append(f"memory F : {two} = learned(normal(0.5)) every {draw(windows)} {{ minimize e over sum by gd(0.1) }}")
        lines.append("z = x + last F(norm(x))  e = 0.5 * sqnorm(z - v)")
        out += " + z"
    body = "".join(f"  {line}\n" for line in lines)
    return f"{BLOCKS}{RULES}block m(d) {{\n{HEAD}{body}  out y = {out}\n}}\n"


def same(text: str) -> None:
    c = case(text, "m", d=3)
    check(c, [1, 11], 2, 5e-9)
    x = c.input(2, 11)
    whole = outputs(c.module(x))
    for cuts in ([5, 1, 1, 4], [1] * 11, [2, 2, 7]):
        parts, _ = split(c.module, x, cuts)
        assert all(distance(parts[n], y) < 5e-9 for n, y in whole.items())
    changed = x.clone()
    changed[:, 7:] += 1
    assert all(bool((outputs(c.module(changed))[n][:, :7] - y[:, :7]).abs().max() == 0) for n, y in whole.items())


BEHIND = BLOCKS + """
block m(d) {
  in x : real[d]
  param Wk, Wv : d -> d
  memory F : mlp(d) = learned every 2 { minimize e over sum by gd(0.3) }
  h = x + last F(norm(x))
  k = unit(Wk(h))  v = Wv(h)
  memory S : d -> d = learned(normal(0.3)) { minimize 0.5 * sqnorm(S(k) - v) by decay(0.9), gd(0.5) }
  memory M : mlp(d) = learned { minimize 0.5 * sqnorm(M(k) - v) at start(2) by gd(0.3) }
  z = h + S(unit(h)) + M(k)
  memory G : mlp(d) = learned every 4 { minimize e over mean by gd(0.3) }
  e = 0.5 * sqnorm(z + last G(norm(z)) - x)
  out y = z + last G(norm(z))
}
"""


COPIES = {
    "shared query": "each h in n { param W : d -> d  memory M : d -> d { minimize 0.5 * sqnorm(M(unit(W(x))) - tanh(x)) at start(3) by gd(0.1) }  o = M(x) }",
    "networks": "each h in n { param W : d -> d  memory M : mlp(d) = learned { minimize 0.5 * sqnorm(M(unit(W(x))) - x) at start(3) by gd(0.1) }  o = M(x) }",
    "one for all, windows": "memory M : d -> d { minimize 0.5 * sqnorm(M(unit(x)) - x) at start(3) by gd(0.2) }  each h in n { param W : d -> d  o = M(W(x)) }",
    "one for all, solve": "memory M : d -> d { minimize 0.5 * sqnorm(M(unit(x)) - x) by gd(0.2) }  each h in n { param W : d -> d  o = M(W(x)) }",
    "one for all, closed": "memory M : d -> d { minimize -dot(M(unit(x)), x) by gd(0.2) }  each h in n { param W : d -> d  o = M(W(x)) }",
    "one loss": "each h in n { param W : d -> d  memory M : mlp(d) = learned every 4 { minimize e over mean by gd(0.1) }  o = last M(W(x)) }\n"
                "param O : n * d -> d  e = 0.5 * sqnorm(O(flatten(o)) - x)",
    "no copies in the gradient": "each h in n { memory B : real[d] { minimize -dot(B, x) by signsgd(lr = 0.1) writes first_order }  o = B }",
    "nor in a stopped one": "each h in n { memory B : d -> d { minimize -dot(B(x), x) at start(2) by gd(0.1) writes first_order }  o = B(x) }",
    "nor in a folded one": "each h in n { memory B : d -> d every 3 { minimize -dot(B(x), x) over mean by gd(0.1) }  o = B(x) }",
    "nor in an update": "each h in n { memory B : real[d] = 1 { update x + unit(x) }  o = last B }",
    "nor in a sample": "each h in n { memory B : real[d] every 2 { update x over last }  o = B + last B }",
    "nor anywhere": "each h in n { o = 2 * x }",
    "a bias with momentum": "each h in n { memory A : affine(d) = learned { minimize 0.5 * sqnorm(A(unit(x)) - x) at start(2) by momentum(0.2, sigmoid(mean(x))) }  o = last A(x) }",
    "numbers": "each h in n { memory A : real { minimize 0.5 * sqnorm(A - mean(x)) by adam(lr = 0.1, eps = 0.1) }  o = A * x }",
    "a gain": "each h in n { memory A : gained(d) every 3 { minimize 0.5 * sqnorm(A(x) - x) over mean by gd(0.1) }  o = A(x) }",
    "a gain in chunks": "each h in n { memory A : gained(d) { minimize 0.5 * sqnorm(A(x) - x) at start(3) by adam(lr = 0.1, eps = 0.1) }  o = A(x) }",
    "drawn": "each h in n { memory A : mlp(d) = normal(0.3) { minimize 0.5 * sqnorm(A(x) - x) at start(3) by gd(0.1) }  o = A(x) }",
    "at every tick": "each h in n { memory A : real[d] { minimize 0.5 * sqnorm(A - x) by gd(0.1), decay(0.7) every 1 }  o = A }",
}  # fmt: skip


@pytest.mark.parametrize("body", COPIES.values(), ids=COPIES)
def test_copies(body: str) -> None:
    same(f"{BLOCKS}block m(d, n = 2) {{\n  in x : real[d]\n  {body}\n  out y = flatten(o)\n}}\n")


def test_an_objective_behind_the_steps_of_other_memories() -> None:
    same(BEHIND)


def test_its_gradient_is_that_of_the_stream() -> None:
    """What F becomes after two ticks, from the literal gradient of both ticks' streams."""
    c = case(BEHIND, "m", d=3)
    x = c.input(1, 2)
    params = {n: p.detach() for n, p in c.module.named_parameters()}
    _, after = c.interpreter.run(params, {"x": x})
    F = [params[f"F_{n}_init"].clone().requires_grad_() for n in ("up", "down")]
    # M's gradients are taken at its first state in both ticks, and so is G's.
    S, M, G = params["S_init"], [params[f"M_{n}_init"] for n in ("up", "down")], [params[f"G_{n}_init"] for n in ("up", "down")]
    start, total = M, 0.0
    for t in range(2):
        h = x[0, t] + network(F, rms(x[0, t]))
        k, v = unit(params["Wk"] @ h), params["Wv"] @ h
        S = 0.9 * S
        S = S - 0.5 * torch.outer(S @ k - v, k)
        at = [w.requires_grad_() for w in start]
        g = torch.autograd.grad(0.5 * (network(at, k) - v).square().sum(), at, create_graph=True)
        M = [w - 0.3 * d for w, d in zip(M, g, strict=True)]
        z = h + S @ unit(h) + network(M, k)
        e = 0.5 * (z + network(G, rms(z)) - x[0, t]).square().sum()
        total = total + torch.autograd.grad(e, F, retain_graph=True)[0]
        S, M = S.detach(), [w.detach() for w in M]
    assert torch.allclose(after["F.up"][0], F[0] - 0.3 * total, rtol=1e-10, atol=1e-12)


def network(w, x):
    return w[1] @ torch.nn.functional.gelu(w[0] @ x)


def rms(x):
    return x / (x.square().mean() + 1e-6).sqrt()


def unit(x):
    return x / (x.square().sum() + 1e-6).sqrt()


some = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@some
@given(programs())
def test_some(text: str) -> None:
    same(text)


@pytest.mark.soak
@settings(some, max_examples=800, derandomize=False)
@given(programs())
def test_many(text: str) -> None:
    same(text)
