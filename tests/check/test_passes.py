"""Each pass: what it refuses, what it lets pass, and where it points."""

import pytest

from nldsl.check.ownership import ownership
from nldsl.core import Input, Param, Type, Unit
from nldsl.pipeline import check_source
from nldsl.source import NOWHERE, Source

L2 = "minimize 0.5 * sqnorm(S(k) - x) by"
DOT = "minimize -dot(S(k), x) by"


def memory(clauses: str, type: str = "d -> d", clock: str = "") -> str:
    return f"memory S : {type} {clock} {{ {clauses} }}"


@pytest.mark.parametrize(
    ("clauses", "clock", "expected"),
    [
        (f"{DOT} gd(1)", "every 4", []),
        (f"{DOT} decay(0.9), gd(1)", "every 4", []),
        (f"{DOT} gd(sigmoid(alpha))", "every 4", ["NL304"]),
        (f"{DOT} decay(sigmoid(alpha)), gd(1)", "every 4", ["NL304"]),
        (f"{DOT} momentum(sigmoid(alpha))", "every 4", ["NL304"]),
        (f"{DOT} momentum(1)", "every 4 offset 2", []),
        (f"{DOT} gd(sigmoid(alpha))", "every 1", []),
        ("update last S + outer(x, k)", "every 4", ["NL304", "NL304"]),
        (f"{DOT} gd(1) reset every 6", "every 4", ["NL306"]),
        (f"{DOT} gd(1) reset every 8", "every 4", []),
    ],
)
def test_clocks(block, clauses, clock, expected):
    assert block(memory(clauses, clock=clock)) == expected


@pytest.mark.parametrize(("clock", "expected"), [("every 4", ["NL304"]), ("every 1", [])])
def test_a_stream_of_a_rule_that_carries_gradients_on_at_each_tick(codes, clock, expected):
    """It would add what a period has added up so far, tick after tick; a memory of the rule changes with the step."""
    text = (
        "rule r() { SLOW  update last w - 0.1 * y }\n"
        f"block b(d) {{ in x : real[d]  memory S : real[d] {clock} {{ minimize 0.5 * sqnorm(S - x) by r() }}  out o = S }}"
    )
    assert codes(text.replace("SLOW", "y = 0.5 * last y + g")) == expected
    assert codes(text.replace("SLOW", "memory y : like(w) = zeros { update 0.5 * last y + g }")) == []


def test_an_update_that_is_too_fast_is_said_where_it_reads_and_works_over_last():
    rule = "rule r(f = 4) {\n  memory m : like(w) = zeros every f { update 0.9 * last m + g }\n  update last w + 0.1 * last m\n}\n"
    text = f"{rule}block b(d) {{ in x : real[d]  {memory('minimize 0.5 * sqnorm(S(x) - x) by r(4)')}  out y = S(x) }}"
    (wrong,) = check_source(Source("t.nl", text)).errors
    span = wrong.spans[0].span
    assert (wrong.code, span.text, span.start) == ("NL304", "g", text.index("g }")) and wrong.help.startswith("update ... over last")
    assert not check_source(Source("t.nl", text.replace("+ g }", "+ g over last }"))).errors


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [("every 4 offset 1", "S : d", "every 4 offset 1"), ("every 4", "b : like", "every 3 offset 2"), ("every 4", "", "")],
)
def test_an_offset_that_no_sum_of_steps_has_is_said_where_it_stands(text, where, found):
    rules = """rule inner(f = 3) {\n  memory a : like(w) every f { minimize 0.5 * sqnorm(a - g) by gd(0.5) }\n  update last w - a\n}
rule outer(f = 3) {\n  memory b : like(w) every fOFFSET { minimize 0.5 * sqnorm(b - g) by inner() }\n  update last w - b\n}\n"""
    rules = rules.replace("OFFSET", " offset 2" if where.startswith("b") else "")
    text = f"{rules}block b(d) {{ in x : real[d]  {memory('minimize -dot(S(x), x) by outer()', clock=text)}  out y = S(x) }}"
    wrong = check_source(Source("t.nl", text)).errors
    assert [(d.code, d.found, d.spans[0].span.start) for d in wrong] == ([("NL305", found, text.index(where))] if where else [])


def test_a_slow_memory_is_read_at_every_tick(block):
    assert block(f"memory F : d -> d every 8 {{ minimize -dot(F(k), x) by gd(1) }}  {memory(f'{DOT} decay(0.5), gd(1)')}", "(S(k) + last F(k))") == []


def test_a_slow_memory_may_feed_a_slower_one(block):
    slow = "memory r : real[d] every 2 { minimize -dot(r, x) by gd(1) }"
    slower = "memory S : real[d] every 4 { minimize -dot(S, x) by gd(sigmoid(r)) }"
    assert "NL304" in block(f"{slow}  {slower}", "S")
    assert "NL304" not in block(f"{slow.replace('every 2', 'every 8')}  {slower}", "S")


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ("update 0.9 * last S + outer(S(k), k)", ["NL310"]),
        ("update 0.9 * last S + outer(last S(k), k)", []),
        (f"{L2} gd(sigmoid(sum(S(k))))", ["NL310"]),
        (f"{L2} gd(sigmoid(sum(last S(k))))", []),
        (f"{L2} implicit(0.5)", []),
        (f"{L2} decay(0.9), implicit(0.5)", []),
        (f"{L2} implicit(0.5), decay(0.9)", []),
        (f"{L2} implicit(sigmoid(sum(S(k))))", ["NL310"]),
        ("minimize 0.5 * sqnorm(S(k) - z) by gd(0.5)", ["NL310"]),
    ],
)
def test_causality(block, clauses, expected):
    assert block(memory(clauses) + ("  z = 2 * S(x)" if "z)" in clauses else "")) == expected


def test_a_cycle_without_a_memory_is_one_error(codes):
    assert codes("block b(d) {\n  in x : real[d]\n  u = x + v\n  v = 2 * u\n  out y = v\n}") == ["NL310"]


def test_a_cycle_through_a_block_is_an_error(codes):
    half = "block half(d) { in x : real[d]  out y = 0.5 * x }\n"
    assert codes(half + "block b(d) { in x : real[d]  u = half(x + v)  v = 2 * u  out y = v }") == ["NL310"]


def test_the_message_names_the_cycle_and_where_last_breaks_it():
    text = "block b(d) {\n  in x : real[d]\n  memory S : d -> d { update last S + outer(v, x) }\n  v = S(x)\n  out y = v\n}"
    (found,) = check_source(Source("t.nl", text)).errors
    assert "`S`" in found.found and "`v`" in found.found
    assert found.help == "last S(x)"
    assert found.spans[0].span.line == 4


@pytest.mark.parametrize(
    ("init", "expected"),
    [("log(normal(1))", ["NL303"]), ("sqrt(-1)", ["NL303"]), ("uniform(2, 1)", ["NL303"]), ("log(uniform(1, 16))", []), ("exp(normal(1))", [])],
)
def test_initialisation(codes, init, expected):
    assert codes(f"block b(d) {{ in x : real[d]  param p : real[d] = {init}  out y = p * x }}") == expected



READS = "cannot depend on `%s`: it is computed once, when a module is made"


@pytest.mark.parametrize(
    ("declared", "message", "help"),
    [
        ("memory S : d -> d = 0.5 * W", READS % "W", "start at zeros, and add `W`"),
        ("memory S : d -> d = learned(W)", READS % "W", "start at zeros, and add `W`"),
        ("memory S : d -> d = p", READS % "p", "start at zeros, and add `p`"),
        ("memory S : d -> d = W(x)", READS % "W", "start at zeros, and add `W`"),
        ("memory S : d -> d = 2 * x", READS % "x", None),
        ("memory S : d -> d = T", READS % "T", None),
        ("memory S : net(d) = W", READS % "W", None),
        ("memory S : d -> d = V", "`V` is not an initial value", None),
        ("memory S : d -> d = zeroes", "`zeroes` is not an initial value", "did you mean `zeros`?"),
        ("memory S : d -> d = tanh(1)", "`tanh` is not an initial value", None),
        ("param S : d -> d = 0.5 * W", READS % "W", "leave out `param`"),
        ("param S : d -> d = x", READS % "x", None),
    ],
)
def test_a_first_value_says_what_it_cannot_be(declared, message, help):
    body = " { minimize -dot(S(k), x) by gd(1) }" if "memory" in declared else ""
    text = (
        "block net(d) { in x : real[d]  param U : d -> d  out y = U(x) }\n"
        "block b(d) { in x : real[d]  param W : d -> d  param p : real[d]  k = unit(x)  memory T : d -> d { update outer(x, p) }\n"
        f"{declared}{body}\nout y = S(k) + T(k) + W(k) }}"
    )
    (found,) = check_source(Source("t.nl", text)).errors
    assert found.code == "NL303" and message in found.message and found.spans[0].span.line == 3
    assert (found.help or "").startswith(help or "") and bool(found.help) == bool(help)


@pytest.mark.parametrize("learns", ["memory S : d -> d = zeros { minimize sqnorm(S(k) + 0.5 * W(k) - x) by gd(0.5) }", "S = 0.5 * W"])
def test_what_the_help_says_in_place_of_a_first_value(codes, learns):
    assert codes(f"block b(d) {{ in x : real[d]  param W : d -> d  k = unit(x)  {learns}  out y = S(k) + 0.5 * W(k) }}") == []


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        (f"{DOT} decay(alpha), gd(1)", ["NL501"]),
        (f"{DOT} decay(1 - sigmoid(alpha)), gd(1)", []),
        (f"{DOT} decay(exp(-softplus(alpha))), gd(1)", []),
        (f"{DOT} decay(1.01), gd(1)", ["NL501"]),
        (f"{DOT} decay(softmax(x)), gd(1)", []),
        (f"{DOT} titans(0.1, alpha, 0.5)", ["NL501"]),
        (f"{DOT} titans(0.1, 0.5, alpha)", ["NL501"]),
        (f"{DOT} titans(0.1, 0.5, sigmoid(alpha))", []),
        (f"{L2} gd(2)", []),
        (f"{L2} gd(2.5)", ["NL502"]),
        (f"{L2} gd(2 * sigmoid(alpha))", []),
        (f"{L2} decay(0.5), gd(2.5)", ["NL502"]),
        (f"{L2} implicit(softplus(alpha))", []),
        (f"{L2} implicit(5), decay(0.9)", []),
        (f"{L2} implicit(1), decay(0.5), implicit(5)", []),
        (f"{L2} implicit(1), gd(5)", ["NL502"]),
        ("minimize 0.5 * sqnorm(S(x) - x) by gd(0.1)", ["NL502"]),
        ("minimize sqnorm(S(k) - x) by gd(1)", []),
        ("minimize sqnorm(S(k) - x) by gd(1.5)", ["NL502"]),
        ("minimize 0.5 * sqnorm(S(k)) - dot(S(k), x) by gd(2.5)", ["NL502"]),
        (f"{DOT} gd(100)", []),
        (f"{DOT} gd(-1)", ["NL503"]),
        (f"{DOT} gd(alpha)", ["NL503"]),
    ],
)
def test_stability(block, clauses, expected):
    assert block(memory(clauses)) == expected


RULES = (
    "rule sphere(b) {{ z = last w - b * g  update z * sqrt(sqnorm(last w) / max(sqnorm(z), 1e-12)) }}\n"
    "rule on_norm(c) {{ update last w * (c / sqrt(max(sqnorm(last w), 1e-12))) }}\n"
    "block b(d) {{ in x : real[d]  k = unit(x)  memory S : d -> d {{ minimize 0.5 * sqnorm(S(k) - x) by {steps} }}  out y = S(k) }}"
)


@pytest.mark.parametrize("steps", ["sphere(0.5)", "gd(0.5), on_norm(1)", "gd(0.5), lq_normalise(4)"])
def test_what_divides_a_state_by_its_size_is_no_retention(codes, steps):
    assert codes(RULES.format(steps=steps)) == []


@pytest.mark.parametrize(
    "factor",
    ["1 + sqnorm(last S)", "sqnorm(last S)^2", "sqnorm(last S) / sqnorm(x)", "2 / (1 + sqnorm(x))", "1 / (2 + sum(last S))", "1 / sum(k * last S(k))", "-1 / (1 + sqnorm(k))"],
)
def test_other_factors_that_read_their_state_may_leave_the_bounds(codes, factor):
    text = f"block b(d) {{ in x : real[d]  k = unit(x)  memory S : d -> d {{ update ({factor}) * last S + outer(x, k) }}  out y = S(k) }}"
    assert codes(text) == ["NL501"]


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ("last S - 0.01 * last S * 2", []),
        ("0.5 * (2 * last S) + outer(x, k)", []),
        ("0.5 * (3 * last S) + outer(x, k)", ["3"]),
        ("0.5 * (2 * last S) + 2 * last S + outer(x, k)", ["2"]),
        ("sum(x) * (2 * last S) + outer(x, k)", ["2", "sum(x)"]),
    ],
)
def test_factors_that_are_multiplied_are_one_factor(update, expected):
    found = check_source(Source("t.nl", f"block b(d) {{ in x : real[d]  k = unit(x)  {memory(f'update {update}')}  out y = S(k) }}")).diagnostics
    assert sorted(d.spans[0].span.text for d in found if d.code == "NL501") == expected


@pytest.mark.parametrize(("factor", "help"), [("min(count(), 2)", None), ("sum(x)", None), ("a(x)", "sigmoid(a(x))"), ("2 * sum(W(x))", "sigmoid(2 * sum(W(x)))")])
def test_only_what_is_learned_is_brought_into_bounds(factor, help):
    params = "param a : d -> 1  param W : d -> d"
    text = f"block b(d) {{ in x : real[d]  {params}  k = unit(x)  {memory(f'{DOT} decay({factor}), gd(0.1)')}  out y = S(k) + a(x) * W(x) }}"
    assert [(d.code, d.help) for d in check_source(Source("t.nl", text)).diagnostics] == [("NL501", help)]


@pytest.mark.parametrize(("steps", "code"), [("titans(0.1, 0.5, sum(x))", "NL501"), ("dgd_implicit(sum(x))", "NL503")])
def test_the_steps_of_a_memory_are_no_number_to_bound(steps, code):
    found = [d for d in check_source(Source("t.nl", RULES.format(steps=steps))).diagnostics if d.code == code]
    assert found and all(d.help is None and d.spans[0].span.text == steps for d in found)


def test_adding_up_ticks_adds_up_curvature(block):
    over = "minimize 0.5 * sqnorm(S(k) - x) over %s by gd(1)"
    assert block(memory(over % "sum", clock="every 4")) == ["NL502"]
    assert block(memory(over % "mean", clock="every 4")) == []


def test_one_mistake_in_a_block_used_at_many_sizes_is_reported_once(codes):
    part = "block part(d) { in x : real[d]  param W : d -> d  out y = 2 * x }\n"
    assert codes(part + "block b(d) { in x : real[d]  param D : d -> 2 * d  z = part(D(x))  out y = part(z) }") == ["NL190"]
    wrong = part.replace("2 * x", "W(z)")
    assert codes(wrong + "block b(d) { in x : real[d]  param D : d -> 2 * d  z = part(D(x))  out y = part(z) }") == ["NL101"]


def test_all_mistakes_of_a_file_are_found_in_one_run(codes):
    text = "block b(d) {\n  in x : real[d]\n  u = z\n  param W : e -> d\n  v = W(x)\n  m = x + unit(1)\n  out y = q\n}\nblock c(d) { in x : real[d]  out y = z }"
    assert codes(text) == ["NL101", "NL101", "NL202", "NL101", "NL101"]


def test_unused_rules_are_checked(codes):
    assert codes("rule r(rate) { update last w - rat * g }") == ["NL101"]
    assert codes("rule r(rate) { memory m : like(w) { update 0.9 * last m + g }  update last w - rate * m }") == []


def test_two_owners_of_one_tensor():
    real = Type("real")
    unit = Unit("u", "u", (), (Input("p", real),), (Param("p", real, 0.0, False),), (), (), (), (), (), NOWHERE)
    assert [d.code for d in ownership(unit, {"p": real})] == ["NL411", "NL190", "NL191"]


def test_one_copy_in_use_is_enough(codes):
    text = "block b(d) { in x : real[d]  for p in 0 .. 3 { z[p] = p * x }  out y = z[2] }"
    assert codes(text) == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("z = 3 +* x\n  out y = z", ["NL009"]),
        ("out y = 3 +* x", ["NL009"]),
        ("memory z : real[d] {\n    updat 0.5 * last z + x\n  }\n  out y = z", ["NL001"]),
        ("memory z : real[d] {\n    minimize 0.5 * * by gd(0.1)\n  }\n  out y = z", ["NL001"]),
        ("z = 3 +* x\n  out y = q", ["NL009", "NL101"]),
    ],
)
def test_a_syntax_error_has_no_consequences(codes, broken, expected):
    assert codes(f"block b(d) {{\n  in x : real[d]\n  {broken}\n}}") == expected


def test_a_number_may_become_the_entry_of_a_vector():
    import nldsl

    program = nldsl.load("block b(d) { in x : real[d]  param w : d -> 1  memory n : real { update tanh(last n) + w(x) }  out y = n * x }")
    assert program.diagnostics == ()
    found = program.symbolic("b")
    assert str(found.types[found.key]["n"]) == "real"


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("matmul(W, W)(x)", "not what the first takes"),
        ("matmul(W, x)(x)", "composes two operators"),
        ("identity(W)(x)", "square operator"),
        ("matrix_power(A, mean(x))(x)", None),
        ("matrix_power(W, 2)(x)", "square operator"),
        ("matrix_power(A, x)(x)", "the power of one number"),
        ("eigenvectors(x)(x)", "square operator"),
        ("solve(W, x)", "square operator"),
        ("solve(A, W(x))", "does not fit the operator"),
        ("solve(A, transpose(W))(W(x))", None),
        ("solve(A, W)(x)", "does not fit the operator"),
        ("row_mean(x)(x)", "acts on an operator"),
        ("column_mean(A) + row_mean(A)", "the same shape"),
        ("where(A, x, x)", "the same shape"),
        ("bfloat16(matmul(W, A))(x)", None),
    ],
)
def test_shapes_of_words_over_operators(expr, message):
    text = f"block b(d) {{ in x : real[d]  param W : d -> 2 * d  param A : d -> d  B = {expr}  out y = sum(B) * x }}"
    found = [d.message for d in check_source(Source("b.nl", text)).errors]
    if message is None:
        assert found == []
    else:
        assert any(message in m for m in found), found


def test_an_offset_belongs_to_a_clock(codes):
    assert codes("block b(d) { in x : real[d]  memory M : d -> d offset 2 { minimize sqnorm(M(x) - x) by gd(0.1) }  out y = M(x) }") == ["NL301"]


def test_the_way_to_an_objective_through_a_block_is_named(codes):
    block = "block f(d) { in x : real[d]  param W : d -> d  out y = W(x) }"
    tables = "block t(d, n) { each h in n { in q : real[d]  z = 2 * q }  out y = sum(flatten(z)) }"
    loss = "block b(d) { in x : real[d]  memory M : d -> d { minimize e by gd(0.1) }  h = f(last M(x))  each i in 2 { z = i * h }  e = %s  out y = h + sum(flatten(z)) }"
    assert codes(f"{block}\n{loss % 'sqnorm(h - x)'}") == []
    assert codes(f"{block}\n{tables}\n{loss % 't(z, n = 2)'}") == ["NL404"]


def test_a_clock_is_no_fraction(codes):
    text = "block b(d = 3) { in x : real[d]  memory M : real[d] %s { minimize 0.5 * sqnorm(M - x) %s by gd(0.1) %s }  out y = M }"
    for clock, start, more in (("every {}", "", ""), ("", "at start({})", ""), ("", "", "reset every {}")):
        said = [text % (clock.format(n), start.format(n), more.format(n)) for n in ("3 / 2", "4 / 2")]
        assert [codes(t) for t in said] == [["NL301"] if not more else ["NL403"], []]


def test_an_implicit_step_on_a_stream_ends(codes):
    loss = "memory A : d -> d { minimize e by implicit(0.2) }  e = 0.5 * sqnorm(last A(x) - x)"
    assert codes(f"block b(d) {{ in x : real[d]  {loss}  out y = A(x) }}") == []


def test_what_has_no_derivative_is_said_by_check(codes):
    power = "memory M : d -> d { minimize sqnorm(matrix_power(M, 0.5)) by gd(0.1) }"
    assert codes(f"block b(d) {{ in x : real[d]  {power}  out y = M(x) }}") == ["NL601"]


def test_the_column_an_index_picks_has_length_one(codes):
    """So a rate up to 2 cannot overshoot, and one above may."""
    text = "block b(d) {{ in i : int[7]  in v : real[d]  memory S : 7 -> d {{ minimize 0.5 * sqnorm(S(i) - v) by gd({}) }}  out y = S(i) }}"
    assert [codes(text.format(rate)) for rate in (1.9, 2.1)] == [[], ["NL502"]]


def test_the_gradients_of_a_period_are_added_up():
    text = "block b(d) {{ in x : real[d]  memory S : d -> d every 8 {{ minimize 0.5 * sqnorm(S(unit(x)) - x) over {} by gd(1) }}  out y = S(unit(x)) }}"
    (found,) = check_source(Source("t.nl", text.format("sum"))).diagnostics
    assert found.code == "NL502" and found.found == "up to 8, the sum over 8 ticks" and found.help == "over mean"
    assert not check_source(Source("t.nl", text.format("mean"))).diagnostics


@pytest.mark.parametrize(("step", "code"), [("m3(0.01, frequency = 0)", "NL301"), ("soap(0.1, betas = 0.9)", "NL101"), ("mine(0)", "NL301")])
def test_what_is_wrong_in_a_rule_of_the_library_is_said_at_the_step_too(step, code):
    rule = "rule mine(f = 2) on d -> e { memory m : like(w) { minimize 0.5 * sqnorm(m - g) by m3(0.01, frequency = f) }  update last w - m }\n"
    text = f"{rule}block b(d) {{ in x : real[d]  k = unit(x)  {memory(f'{DOT} {step}')}  out y = S(k) }}"
    (wrong,) = check_source(Source("t.nl", text)).errors
    assert wrong.code == code and wrong.spans[-1].text == "in this step"
    assert wrong.spans[-1].span.source.name == "t.nl" and wrong.spans[-1].span.text == step.replace("mine(0)", "m3(0.01, frequency = f)")
