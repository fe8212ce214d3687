"""Rules as straight lines: how many passes they make, what they keep, and what slow states cost."""

from __future__ import annotations

import pytest

from nldsl.core import Last, Num, Ref
from nldsl.lower.algebra import simplify
from nldsl.lower.order import ordered
from nldsl.lower.rule import RulePlan, Variant, plan_rule
from nldsl.lower.segments import Segment, Step, Whole
from nldsl.program import Program, load

LIBRARY = load("rule nothing(lr = 1) { update last w - lr * g }")


def planned(text: str, name: str = "r") -> RulePlan:
    return plan_rule(load(text).rule(name))


def only(plan: RulePlan) -> Variant:
    (variant,) = plan.variants.values()
    return variant


def passes(steps: tuple[Step, ...]) -> list[Segment]:
    return [s for s in steps if isinstance(s, Segment)]


def names(variant: Variant) -> list[str]:
    return [s.name for s in variant.states]


@pytest.mark.parametrize("rule, arrays", [("adamw", 7), ("lion", 5), ("signsgd", 3), ("ademamix", 9), ("nadam", 7)])
def test_an_entrywise_rule_is_one_pass_over_what_it_keeps(rule: str, arrays: int) -> None:
    plan = plan_rule(LIBRARY.rule(rule))
    first = next(iter(plan.variants))
    tick = plan.variants[first].ticks[0]
    assert tick.segment is not None
    assert len(tick.segment.reads) + len(tick.segment.writes) == arrays
    assert plan.moved_per_parameter(first, 0)[()].integer == 4 * arrays


def test_muon_is_two_passes_and_products() -> None:
    tick = only(plan_rule(LIBRARY.rule("muon"))).ticks[0]
    assert tick.segment is None and len(tick.conditions) == 1 and len(tick.lines) == 2
    for steps in tick.lines.values():
        assert len(passes(steps)) == 2
        ops = [s.equation.op for s in steps if isinstance(s, Whole)]
        assert ops.count("matmul") == 5 and ops.count("addmm") == 10 and ops.count("vector_norm") == 1


def test_clipping_by_norm_reads_the_gradient_and_makes_one_pass() -> None:
    steps = only(plan_rule(LIBRARY.rule("adamw_clip_norm"))).ticks[0].lines[()]
    first = steps[0]
    assert isinstance(first, Whole) and first.equation.op == "vector_norm"
    assert len(passes(steps)) == 1 and len(passes(steps)[0].reads) == 4


def test_numbers_are_computed_once() -> None:
    tick = plan_rule(LIBRARY.rule("adamw")).variants[False,].ticks[0]
    assert tick.segment is not None
    assert not {"count", "pow"} & {e.op for e in tick.segment.equations}
    assert {"count", "pow"} <= {e.op for e in tick.prologue}


def test_a_switch_that_is_off_keeps_no_state() -> None:
    plan = plan_rule(LIBRARY.rule("sgd"))
    assert plan.switches == ("momentum",)
    assert {key: names(v) for key, v in plan.variants.items()} == {(False,): [], (True,): ["w.momentum_buffer"]}
    both = plan_rule(LIBRARY.rule("rmsprop"))
    assert sorted(both.switches) == ["centered", "momentum"]
    assert sorted(str(both.bytes_per_parameter(key)) for key in both.variants) == ["12", "4", "8", "8"]


def test_equal_memories_are_one() -> None:
    plan = planned("""rule r(lr = 0.1, beta = 0.9) {
      memory a : like(w) = zeros { update beta * last a + g }
      memory b : like(w) = zeros { update g + last b * beta }
      memory c : like(w) = ones { update beta * last c + g }
      memory p : like(w) = zeros { update last p + a }
      memory q : like(w) = zeros { update last q + b }
      update last w - lr * (a + b + c + p * q)
    }""")
    assert names(only(plan)) == ["w.a", "w.c", "w.p"]


def test_memories_that_only_look_equal_stay_apart() -> None:
    plan = planned("""rule r(lr = 0.1, beta = 0.9) {
      memory a : like(w) = zeros { update beta * last a + last b }
      memory b : like(w) = zeros { update beta * last b + g }
      update last w - lr * (a + b)
    }""")
    assert names(only(plan)) == ["w.a", "w.b"]


def test_a_memory_that_stays_what_it_is_is_a_number() -> None:
    plan = planned("""rule r(lr = 0.1) {
      memory a : like(w) = ones { update last a * 1 }
      memory b : like(w) = zeros { update 0 * g + last b * 0 }
      update last w - lr * g * a + b
    }""")
    assert names(only(plan)) == []


SLOW = """rule r(lr = 0.1, frequency = 10) on d -> e {
  memory slow : like(w) = zeros every frequency { minimize -dot(slow, g) over mean by gd(0.5) }
  chain X = slow / (sqrt(sqnorm(slow)) + 1e-7) over i in 0 .. 3 {
    X = 1.5 * X - 0.5 * matmul(matmul(X, transpose(X)), X)
  }
  update last w - lr * (g + X)
}"""


def test_what_a_slow_memory_determines_is_computed_when_it_moves() -> None:
    plan = planned(SLOW)
    variant = only(plan)
    assert plan.clocks == (("frequency", 0),)
    states = {s.name: s.init for s in variant.states}
    assert len(states) == 3 and {"w.slow", "w.slow_sum"} < states.keys()
    (kept,) = states.keys() - {"w.slow", "w.slow_sum"}
    assert states[kept] == 0.0
    resting = variant.ticks[0].lines[()]
    assert [type(s) for s in resting] == [Segment]
    assert set(passes(resting)[0].reads) == {Last("w"), Ref("g"), Last(kept), Last("w.slow_sum")}
    assert any(isinstance(s, Whole) for s in variant.ticks[1].lines[()])


def test_a_rule_that_reads_the_slow_memory_alone_keeps_nothing_more() -> None:
    plan = planned("""rule r(lr = 0.1) {
      memory slow : like(w) = zeros every 4 { minimize -dot(slow, g) by gd(1) }
      update last w - lr * sign(slow)
    }""")
    assert plan.clocks == ((4, 0),)
    assert names(only(plan)) == ["w.slow", "w.slow_sum"]
    assert plan.bytes_per_parameter(()).integer == 8


def test_a_mean_of_differences_to_the_memory_sums_the_gradient_alone() -> None:
    variant = only(planned("""rule r(lr = 0.1) {
      memory slow : like(w) = zeros every 4 { minimize 0.5 * sqnorm(slow - g) over mean by gd(0.5) }
      memory other : like(w) = zeros every 4 { minimize -dot(other, g) over mean by gd(1) }
      update last w - lr * (slow + other)
    }"""))
    assert names(variant) == ["w.slow", "w.other", "w.slow_sum"]
    rest = variant.ticks[0].segment
    assert rest is not None and set(rest.writes) == {"w", "w.slow_sum"}


def test_two_clocks_have_four_ticks() -> None:
    variant = only(planned("""rule r(lr = 0.1, often = 2, rarely = 8) {
      memory a : like(w) = zeros every often { minimize -dot(a, g) by gd(1) }
      memory b : like(w) = zeros every rarely { minimize -dot(b, g) by gd(1) }
      update last w - lr * (a + b)
    }"""))
    written = {mask: set(t.segment.writes) - {"w"} for mask, t in variant.ticks.items() if t.segment}
    assert written == {
        0: {"w.a_sum", "w.b_sum"}, 1: {"w.a", "w.a_sum", "w.b_sum"}, 2: {"w.b", "w.a_sum", "w.b_sum"}, 3: {"w.a", "w.b", "w.a_sum", "w.b_sum"},
    }  # fmt: skip


def test_a_state_is_not_overwritten_before_its_last_reader() -> None:
    for text in (
        "memory m : like(w) = zeros { update 0.9 * last m + g }\n n = sqrt(sqnorm(m))\n update last w - lr * (m / n + last m)",
        "memory m : like(w) = zeros { update g }\n n = sqnorm(m + last m)\n update last w - lr * last m * n",
    ):
        variant = only(planned(f"rule r(lr = 0.1) {{\n{text}\n}}"))
        for tick in variant.ticks.values():
            assert_order(tick.lines[()])


@pytest.mark.parametrize("rule", ["adafactor", "soap", "m3_ema", "deep_momentum", "preconditioned_momentum", "shampoo"])
def test_lines_are_in_order(rule: str) -> None:
    for variant in plan_rule(LIBRARY.rule(rule)).variants.values():
        for tick in variant.ticks.values():
            for steps in tick.lines.values():
                assert_order(steps)


def assert_order(steps: tuple[Step, ...]) -> None:
    """Everything is made before it is read, and no state is read after a pass has overwritten it."""
    made: set[str] = set()
    gone: set[str] = set()
    later = {e.name for s in steps for e in (s.equations if isinstance(s, Segment) else (s.equation,))}
    for s in steps:
        reads = s.reads if isinstance(s, Segment) else s.equation.args
        for a in reads:
            if isinstance(a, Last):
                assert a.name not in gone
            elif not isinstance(a, Num):
                assert a.name in made or a.name not in later
        if isinstance(s, Segment):
            gone |= set(s.writes) - s.apart
            made |= set(s.writes)
        else:
            made.add(s.equation.name)


def test_numbers_are_gathered_in_front_of_tensors() -> None:
    rule = LIBRARY.rule("signsgd")
    program: Program = load("rule r(a = 1, b = 2) { update last w - a * (b * (g / a)) + 0 * g + (last w - last w) * 0 }")
    rule = program.rule("r")
    unit, types = simplify(rule.unit, rule.types)
    wide = [e for e in ordered(unit.equations) if types[e.name].shape]
    assert [e.op for e in wide] == ["mul", "sub"]
