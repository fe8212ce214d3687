"""Networks as memories, windows, steps with a period, resets to memories: what elaboration and the passes refuse, and where."""

import pytest
import torch

import nldsl
from nldsl.check.levels import levels
from nldsl.check.reading import Reading
from nldsl.pipeline import check_source
from nldsl.source import Source

BLOCKS = """\
block mlp(d, h = 2 * d) { in x : real[d]  param up : d -> h  param down : h -> d  out y = down(gelu(up(x))) }
block line(d) { in x : real[d]  param W : d -> d  out y = W(x) }
block halve(d) { in x : real[d]  out y = 0.5 * x }
block scale(d) { in x : real[d]  param a : real[d] = ones  out y = a * x }
block pair(d) { in x, z : real[d]  param W : d -> d  out y = W(x) + z }
block twins(d) { in x : real[d]  param W : d -> d  out y = W(x)  out z = x }
rule smaller(a) { update a * last w }
"""
L2 = "minimize 0.5 * sqnorm(M(k) - x)"


def said(body: str, out: str = "M(k)", more: str = "") -> list[tuple[str, str]]:
    """Codes and the texts they point at, of a block with input x and unit key k; each is one line and none points into the library."""
    text = BLOCKS + more + f"block b(d) {{\n  in x : real[d]\n  k = unit(x)\n  {body}\n  out y = {out}\n}}\n"
    found = check_source(Source("t.nl", text)).diagnostics
    for d in found:
        assert d.spans[0].span.source.name == "t.nl"
        assert "\n" not in d.message + (d.help or "") + (d.expected or "")
        assert d.render()
    return [(d.code, d.spans[0].span.text) for d in found]


def net(clauses: str = f"{L2} by gd(0.1)", type: str = "mlp(d)", init: str = "= learned", clock: str = "", name: str = "M") -> str:
    return f"memory {name} : {type} {init} {clock} {{ {clauses} }}  "


def mat(clauses: str = f"{L2} by gd(0.1)", clock: str = "", name: str = "M") -> str:
    return net(clauses, "d -> d", "", clock, name)


GOOD = [
    net(),
    net(type="mlp(d, 3)"),
    net(type="mlp(d, h = 4 * d)"),
    net(init=""),
    net(init="= normal(0.1)"),
    net(init="= learned(zeros)"),
    net(type="scale(d)"),
    net(f"key k  value x  {L2} by gd(0.1)"),
    net(f"{L2} by momentum(0.1)"),
    net(f"{L2} by muon()"),
    net(f"{L2} at start(4) by gd(0.1)"),
    net(f"{L2} by decay(0.9), gd(0.1), decay(0.5)"),
    net(f"{L2} by gd(0.1), smaller(0.5) every 4, smaller(0.9) every 4"),
    net(f"{L2} at start(4) by gd(0.1), smaller(0.5) every 4"),
    net(f"{L2} by gd(0.1)  writes first_order"),
    net(f"{L2} by gd(0.1)  writes through"),
    net(f"{L2} by gd(0.1)  reset every 4"),
    net("minimize sqnorm(M(k) - stop(start(4) M(x))) by gd(0.1)"),
    net("minimize sqnorm(M(k) - last M(x)) by gd(0.1)"),
    net(clock="every 4"),
    net(clock="every 4 offset 1"),
    "e = sqnorm(last M(k) - x)  " + net("minimize e by gd(0.1)"),
    mat("minimize -dot(M(k), x) by gd(0.1), smaller(0.5) every 4"),
    mat("update last M + outer(x, k) over last", "every 4"),
    mat(name="F", clauses="minimize -dot(F(k), x) by gd(0.1)", clock="every 4") + mat(f"{L2} by gd(0.1)  reset every 4 to F"),
    mat(f"{L2} by gd(0.1)  reset every 4 to F") + mat("minimize -dot(F(k), x) by gd(0.1)", "every 4", "F"),
    mat(f"{L2} at start(4) by gd(0.1)  reset every 8"),
    "for p in [4, 16] { memory F[p] : d -> d every p { minimize -dot(F[p](k), x) by gd(0.1) } }  " + mat(f"{L2} by gd(0.1) reset every 4 to F[4]"),
]


@pytest.mark.parametrize("body", GOOD)
def test_it_is_accepted(body):
    assert said(body) == []


BAD = [
    # the structure
    (net(type="mpl(d)"), [("NL101", "mpl")]),
    (net(type="3"), [("NL121", "3")]),
    (net(type="d + 1"), [("NL121", "d + 1")]),
    (net(type="d"), [("NL121", "d")]),
    (net(type="k"), [("NL121", "k")]),
    (net(type="unit(d)"), [("NL121", "unit(d)")]),
    (net(type="gd(1)"), [("NL121", "gd(1)")]),
    (net(type="halve(d)"), [("NL121", "halve(d)")]),
    (net(type="pair(d)"), [("NL121", "pair(d)")]),
    (net(type="twins(d)"), [("NL121", "twins(d)")]),
    (net(type="mlp"), [("NL110", "mlp")]),
    (net(type="mlp(h = 3)"), [("NL110", "mlp(h = 3)")]),
    (net(type="mlp(d, d, d)"), [("NL110", "d")]),
    (net(type="mlp(d, hh = 3)"), [("NL110", "hh = 3")]),
    (net(type="mlp(d, d = d)"), [("NL110", "d = d")]),
    (net(type="mlp(x)"), [("NL105", "x")]),
    (net(type="line(0.5)"), [("NL201", "d")]),
    (net(init="= x"), [("NL303", "x")]),
    (net(init="= eye"), [("NL303", "M")]),
    ("memory A : store(mlp(d) -> d) { key k  value x }  " + net(), [("NL201", "mlp(d)")]),
    ("memory N : like(M) { minimize -dot(N(k), x) by gd(1) }  " + net(), [("NL106", "like(M)")]),
    # clauses
    (net("key k"), [("NL401", "M")]),
    (net("update last M"), [("NL401", "M")]),
    (net(f"{L2} by gd(0.1)  writes maybe"), [("NL402", "writes maybe")]),
    (net(f"{L2} by gd(0.1)  writes stop  writes stop"), [("NL402", "writes stop")]),
    (mat("update outer(x, k)  writes stop"), [("NL402", "writes stop")]),
    ("memory A : store(d -> d) { key k  value x  writes stop }  " + net(), [("NL402", "writes stop")]),
    (net("minimize M(k) - x by gd(0.1)"), [("NL407", "M(k) - x")]),
    (net("minimize sqnorm(x) by gd(0.1)"), [("NL404", "sqnorm(x)")]),
    ("e = sqnorm(M(k) - x)  " + net("minimize e by gd(0.1)"), [("NL404", "e")]),
    (net("minimize sqnorm(M) by gd(0.1)"), [("NL106", "M")]),
    (net(f"{L2} by gd(x * last M)"), [("NL106", "last M")]),
    (net(f"{L2} by gd(sigmoid(sum(x)))", clock="every 4"), [("NL304", "sigmoid(sum(x))")]),
    (net("minimize sqnorm(M(k) - x) by muon()", "scale(d)"), [("NL430", "muon()")]),
    # windows
    (net(f"{L2} at start(0) by gd(0.1)"), [("NL301", "0")]),
    (net(f"{L2} at start(-1) by gd(0.1)"), [("NL301", "-1")]),
    (net(f"{L2} at start(0.5) by gd(0.1)"), [("NL301", "0.5")]),
    (net(f"{L2} at start(x) by gd(0.1)"), [("NL301", "x")]),
    (mat(f"{L2} at start(4) by gd(0.1)  reset every 6"), [("NL306", "M")]),
    # steps with a period
    (mat(f"{L2} by gd(0.1) every 4"), [("NL405", "gd(0.1) every 4")]),
    (mat(f"{L2} by smaller(0.5) every 4, gd(0.1)"), [("NL405", "smaller(0.5) every 4")]),
    (mat(f"{L2} by gd(0.1), smaller(0.5) every 4, smaller(0.5) every 8"), [("NL405", "smaller(0.5) every 4")]),
    (mat(f"{L2} by gd(0.1), smaller(0.5) every 4  reset every 8"), [("NL405", "smaller(0.5) every 4")]),
    (mat(f"{L2} by gd(0.1), smaller(0.5) every 4", "every 2"), [("NL405", "smaller(0.5) every 4")]),
    (mat(f"{L2} by gd(0.1), gd(0.1) every 4"), [("NL406", "gd(0.1) every 4")]),
    (net(f"{L2} by gd(0.1), momentum(0.1) every 4"), [("NL406", "momentum(0.1) every 4")]),
    (mat(f"{L2} by gd(0.1), smaller(0.5) every 0"), [("NL301", "0")]),
    # what an operator is applied to, where that is not one thing
    (mat("minimize 0.5 * sqnorm(M(k) - M(x)) by dgd(0.1)"), [("NL406", "dgd(0.1)")]),
    (mat("minimize 0.5 * sqnorm(M(M(k)) - x) by dgd(0.1)"), [("NL406", "dgd(0.1)")]),
    (mat("minimize 0.5 * sqnorm(transpose(M)(k) - x) by dgd(0.1)"), [("NL406", "dgd(0.1)")]),
    (mat(f"{L2} over sum by dgd(0.1)", "every 2"), [("NL406", "dgd(0.1)")]),
    (mat(f"{L2} by gd(0.1), dgd(0.1) every 4"), [("NL406", "dgd(0.1) every 4")]),
    (mat(f"{L2} by gd(0.1), smaller(0.5) every x"), [("NL301", "x")]),
    # resets
    (net(f"{L2} by gd(0.1)  reset every 4 to M", init=""), [("NL403", "M")]),
    (net(f"{L2} by gd(0.1)  reset every 4 to F"), [("NL101", "F")]),
    (net(f"{L2} by gd(0.1)  reset every 4 to k"), [("NL403", "k")]),
    (net(f"{L2} by gd(0.1)  reset every 0"), [("NL403", "reset every 0")]),
    ("param W : d -> d  " + mat(f"{L2} by gd(0.1)  reset every 4 to W"), [("NL403", "W")]),
    ("memory A : store(d -> d) { key k  value x }  " + mat(f"{L2} by gd(0.1)  reset every 4 to A"), [("NL403", "A")]),
    ("memory r : real[d] { update last r + x }  " + mat(f"{L2} by gd(0.1)  reset every 4 to r"), [("NL403", "M")]),
    (net("minimize sqnorm(F(k) - x) by gd(0.1)", "mlp(d, 3)", name="F") + net(f"{L2} by gd(0.1)  reset every 4 to F", init=""), [("NL403", "M")]),
    (mat("minimize -dot(F(k), x) by gd(0.1)", name="F") + net(f"{L2} by gd(0.1)  reset every 4 to F"), [("NL403", "F")]),
    ("each h in 2 { memory F : d -> d { minimize -dot(F(k), x) by gd(0.1) } }  " + mat(f"{L2} by gd(0.1)  reset every 4 to F"), [("NL403", "M")]),
    (mat("minimize sqnorm(F(k) - x) by gd(0.1)", name="F") + net(f"{L2} by gd(0.1)  reset every 4 to F", "d -> d"), [("NL403", "learned")]),
    (net("minimize sqnorm(F(k) - x) by gd(0.1)  reset every 8 to M", init="", name="F") + net(f"{L2} by gd(0.1)  reset every 4 to F", init=""), [("NL403", "F")]),
    (net("minimize -dot(F(k), x) by gd(0.1)", "mpl(d)", name="F") + net(f"{L2} by gd(0.1)  reset every 4 to F"), [("NL101", "mpl")]),
]  # fmt: skip


@pytest.mark.parametrize("body, expected", BAD, ids=[body for body, _ in BAD])
def test_one_mistake_gets_one_message(body, expected):
    assert said(body) == expected


@pytest.mark.parametrize(
    "out, expected",
    [
        ("M", [("NL106", "M")]),
        ("last M", [("NL106", "last M")]),
        ("start(4) M", [("NL106", "start(4) M")]),
        ("transpose(M)(k)", [("NL106", "M")]),
        ("M(k, x)", [("NL110", "M(k, x)")]),
        ("M()", [("NL110", "M()")]),
        ("M(x = k)", [("NL110", "x = k")]),
        ("start(0) M(k)", [("NL301", "0")]),
        ("start(4) x + M(k)", [("NL109", "start(4) x")]),
        ("start(4) halve(x) + M(k)", [("NL109", "start(4) halve")]),
        ("start(4) N(k)", [("NL101", "N")]),
        ("start(4) M(k) + last M(x) + M(k)", []),
    ],
)
def test_reads(out, expected):
    assert said(net(), out) == expected


def test_a_store_has_no_start():
    assert said("memory A : store(d -> d) { key k  value x }", "start(4) A(k)") == [("NL109", "start(4) A")]


def test_a_rule_has_no_start_of_w():
    rule = "rule r(lr) { update last w - lr * start(4) w }\n"
    assert said(mat(f"{L2} by r(0.1)"), more=rule) == [("NL109", "start(4) w")]


INSIDE = [
    ("memory S : d -> d { minimize -dot(S(x), x) by gd(1) }  out y = W(x) + S(x)", "NL121"),
    ("each h in 2 { o = W(x) }  out y = flatten(o)", "NL121"),
    ("out y = W(conv(x, 4))", "NL121"),
    ("z = delay(x, 2)  out y = W(z)", "NL121"),
    ("z = W(x)  out y = last z", "NL121"),
    ("out y = count() * W(x)", "NL121"),
    ("out y = s(W(x), d = d)", "NL118"),
    ("param V : d -> d  out y = W(x)", "NL121"),
    ("param V : d -> d = learned  out y = W(V(x))", "NL303"),
    ("out y = V(x)", "NL101"),
    ("param v : int[3]  out y = v * W(x)", "NL121"),
    ("param V : like(W)  param a : like(x)  out y = a * W(V(x))", None),
    ("chain h = W(x) over i in 0 .. 3 { param V : d -> d  h = h + V(h) }  out y = h", None),
    ("for i in 0 .. 2 { param V[i] : d -> d }  out y = W(V[0](V[1](x)))", None),
    ("z = mlp(x, d = d)  out y = W(z) + mlp(z, d = d, h = 3)", None),
    ("param w, g, M : d -> d  out y = W(w(g(M(x))))", None),
]


def test_blocks_that_contain_each_other():
    more = "block p(d) { in x : real[d]  param W : d -> d  out y = q(W(x), d = d) }\nblock q(d) { in x : real[d]  out y = p(x, d = d) }\n"
    assert {code for code, _ in said(net(type="p(d)"), more=more)} == {"NL118"}


@pytest.mark.parametrize("body, code", INSIDE, ids=[body for body, _ in INSIDE])
def test_what_a_structure_may_contain(body, code):
    found = said(net(type="s(d)"), more=f"block s(d) {{ in x : real[d]  param W : d -> d  {body} }}\n")
    assert [c for c, _ in found if c not in ("NL190", "NL191", "NL420")] in ([code] if code else [], [code, code])


def test_the_states_are_named_by_their_place():
    more = "block s(d) { in x : real[d]  chain h = x over i in 0 .. 2 { param V : d -> d  h = V(h) }  for i in 0 .. 2 { param U[i] : d -> d }"
    more += "  out y = mlp(U[0](U[1](h)), d = d) + mlp(h, d = d) }\n"
    text = BLOCKS + more + f"block b(d) {{ in x : real[d]  k = unit(x)  {net(type='s(d)')}  out y = M(k) }}"
    names = [s.name for s in nldsl.load(text).elaborate("b", d=4).unit.states]
    assert names == ["M.U.0", "M.U.1", "M.V.0", "M.V.1", "M.mlp.up", "M.mlp.down", "M.mlp.up.2", "M.mlp.down.2"]


CELL = "block use(d, cell) { in x : real[d]  k = unit(x)  memory M : %s = learned { minimize sqnorm(M(k) - x) by gd(0.1) }  out y = M(k) }\n"


@pytest.mark.parametrize(
    "type, cell, expected",
    [
        ("cell(d)", "mlp", []),
        ("cell(d)", "halve", [("NL121", "cell(d)")]),
        ("cell", "mlp", [("NL110", "cell")]),
    ],
)
def test_a_structure_may_be_a_parameter(type, cell, expected):
    assert said("", f"use(unit(k), cell = {cell})", CELL % type) == expected


def test_inside_each_and_for():
    assert said(f"each h in 2 {{ {net()}  o = start(4) M(k) + last M(k) }}", "flatten(o)") == []
    assert said(f"each h in 2 {{ {net()} }}", "flatten(M(k))") == [("NL202", "M")]
    many = "for p in [1, 4] { memory F[p] : mlp(d) = learned every p { minimize sqnorm(F[p](k) - x) at start(16) by gd(0.1) } }"
    assert said(many, "sum(start(p) F[p](k) for p in [1, 4]) + last F[4](k)") == []
    assert said(many, "F[2](k) + F[1](k) + F[4](k)") == [("NL101", "F[2]")]


def test_a_network_may_be_a_part_of_a_rule():
    more = "rule r(lr) { memory N : mlp(3) { minimize sqnorm(N(g) - g) by gd(0.1) }  update last w - lr * N(g) }\n"
    more += "block c { in x : real[3]  memory M : real[3] { minimize sqnorm(M - x) by r(0.1) }  out y = M }\n"
    assert said(mat(), more=more) == []


def test_a_memory_that_is_reset_to_another_has_no_first_value_to_learn():
    text = net("minimize sqnorm(F(k) - x) by gd(0.1)", clock="every 4", name="F") + net(f"{L2} by gd(0.1)  reset every 4 to F", init="")
    unit = nldsl.load(BLOCKS + f"block b(d) {{ in x : real[d]  k = unit(x)  {text}  out y = M(k) }}").elaborate("b", d=4).unit
    assert [p.name for p in unit.params] == ["F.up.init", "F.down.init"]


@pytest.mark.parametrize(
    "body, expected",
    [
        # one step at a unit key: the error is scaled by 1 - rate, whatever state the gradient is taken at
        (mat(f"{L2} at start(4) by gd(2.5)"), ["NL502"]),
        (mat(f"{L2} at start(4) by gd(0.5)"), []),
        (net(f"{L2} by gd(2.5)", "line(d)"), ["NL502"]),
        (net(f"{L2} at start(4) by gd(2.5)", "line(d)"), ["NL502"]),
        (net(f"{L2} by gd(2.5)  writes first_order", "line(d)"), ["NL502"]),
        (net("minimize 0.5 * sqnorm(M(x) - x) by gd(0.1)", "line(d)"), ["NL502"]),
        # the inner keys of a network have no bound that a text could give
        (net(f"{L2} by gd(2.5)"), []),
        # the rule erases, and the gradient of an l2 objective erases again: the read goes to v / 2
        (mat(f"{L2} by dgd(0.6)"), ["NL504"]),
        (mat(f"{L2} at start(4) by dgd(0.6)"), ["NL504"]),
        (net(f"{L2} by dgd(0.6)", "line(d)"), ["NL504"]),
        (net(f"{L2} at start(4) by dgd(0.6)", "line(d)"), ["NL504"]),
        (mat(f"{L2} at start(4) by dgd(0.5)"), []),
        (mat("minimize -dot(M(k), x) at start(4) by dgd(0.6)"), []),
        (net(f"{L2} at start(4) by dgd(0.6)"), []),
        (net(f"{L2} by gd(-0.1)"), ["NL503"]),
        (net(f"{L2} by decay(1.5), gd(0.1)"), ["NL501"]),
        (net(f"{L2} at start(4) by decay(1.5), gd(0.1)"), ["NL501"]),
        (mat(f"{L2} by gd(0.1), smaller(1.5) every 4"), []),
    ],
)
def test_stability(body, expected):
    assert [code for code, _ in said(body)] == expected


@pytest.mark.parametrize(("rate", "warned"), [(0.4, False), (0.9, True), (1.05, True)])
def test_delta_gradient_descent_on_a_unit_key_goes_half_the_way(rate, warned):
    """S k' = (1 - 2 rate) S k + rate v: to v / 2, without a swing up to a rate of 1/2, with one below 1, and nowhere from there on."""
    text = f"block b(d) {{ in k, v : real[d]  memory S : d -> d {{ minimize 0.5 * sqnorm(S(unit(k)) - v) by dgd({rate}) }}  out y = S(unit(k)) }}"
    assert [d.code for d in nldsl.load(text).diagnostics] == ["NL504"] * warned
    k, v = torch.tensor([3.0, 0.0, 4.0]).double().expand(1, 200, 3), torch.tensor([1.0, -2.0, 0.5]).double().expand(1, 200, 3)
    end = nldsl.load(text).module("b", d=3, dtype=torch.float64)(k, v)[0, -1]
    assert torch.allclose(end, v[0, 0] / 2, atol=1e-6) if rate < 1 else end.norm() > 1e6


TOOLS = BLOCKS + f"""block b(d) {{
  in x : real[d]
  k = unit(x)
  {net(f"{L2} at start(16) by gd(0.1)")}
  memory S : d -> d {{ minimize 0.5 * sqnorm(S(k) - x) by gd(0.1), smaller(0.5) every 8, smaller(0.9) every 8 }}
  memory F : mlp(d) every 4 {{ minimize sqnorm(F(k) - x) by gd(0.1)  reset every 64 to M }}
  out y = start(16) M(x) + start(4) S(k) + last F(k)
}}
"""


def test_levels_have_memories_only():
    e = nldsl.load(TOOLS).symbolic("b")
    assert [(level.clock, level.members) for level in levels(e.units, e.key)] == [
        ("each tick", ("M.up", "M.down", "S")),
        ("every 4 ticks", ("F.up", "F.down")),
        ("outer step", ("M.up.init", "M.down.init")),
    ]


def test_starts_and_steps_with_a_period_are_known_for_what_they_are():
    reading = Reading.of(nldsl.load(TOOLS).symbolic("b").unit)
    assert reading.starts == {"M.up.start16": "M.up", "M.down.start16": "M.down", "S.start4": "S"}
    assert reading.paced == {"S.smaller": "S", "S.smaller.1": "S"}


def test_a_stream_is_an_objective_wherever_its_gradient_is_taken():
    from nldsl.check.objectives import differentiable

    rule = "rule nested(lr) { z = last w - lr * g  update z - lr * grad(at = z) }\n"
    text = rule + "block b(d) { in x : real[d]  e = sqnorm(last M(x) - x)  memory M : d -> d { minimize e by nested(0.1) }  out y = M(x) }"
    unit = nldsl.load(text).symbolic("b").unit
    objectives = [o for e in unit.equations if (o := e.attr("objective")) is not None]
    assert len(objectives) == 2 and all(map(differentiable, objectives))


def test_explain_says_what_they_are():
    from nldsl.explain import explain_block

    text = explain_block(nldsl.load(TOOLS), "b")
    named = [name for line in text.splitlines() if line.startswith("  memory ") for name in line.split()[1:] if not name.startswith(":")]
    assert "S" in named and not any(".start" in name or ".smaller" in name for name in named)
    assert "M.up.start16: the state of M.up when the window of 16 ticks began" in text
    assert "S.smaller:" not in text and "S.start4: a partial" not in text
