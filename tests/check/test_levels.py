"""Levels: the cases of the reference, section 1.3 b."""

import nldsl
from nldsl.check.levels import levels

ADAM = """
rule adam(lr = 1e-3, b1 = 0.9, b2 = 0.999, eps = 1e-8) {
  memory m : like(w) = zeros { minimize 0.5 * sqnorm(m - g) by gd(1 - b1) }
  memory v : like(w) = zeros { minimize 0.5 * sqnorm(v - g * g) by gd(1 - b2) }
  t = count()
  update last w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
}
"""


def table(body: str, more: str = "") -> list[tuple[object, int, tuple[str, ...]]]:
    program = nldsl.load(more + "block b(d) { in x : real[d]  k = unit(x)  " + body + " }")
    e = program.symbolic("b")
    return [(level.period, level.depth, level.members) for level in levels(e.units, e.key)]


def memory(step: str, clock: str = "", name: str = "W") -> str:
    return f"memory {name} : d -> d {clock} {{ minimize -dot({name}(k), x) by {step} }}  "


def test_gradient_descent_is_one_level():
    assert table(memory("gd(1)") + "out y = W(k)") == [(1, 0, ("W",))]


def test_momentum_adds_a_level_at_the_same_frequency():
    assert table(memory("momentum(1)") + "out y = W(k)") == [(1, 0, ("W.m",)), (1, 1, ("W",))]


def test_the_moments_of_adam_share_a_level():
    assert table(memory("adam()") + "out y = W(k)", ADAM) == [(1, 0, ("W.m", "W.v")), (1, 1, ("W",))]


def test_linear_attention_in_a_trained_model_has_two_levels():
    assert table("param Wq : d -> d  " + memory("gd(1)", name="S") + "out y = S(Wq(x))") == [(1, 0, ("S",)), (None, 0, ("Wq",))]


def test_slower_is_further_out_and_stores_are_innermost():
    body = memory("gd(1)", "every 16", "F") + memory("gd(1)", "every 4", "G") + "memory A : store(d -> d) { key k value x }  "
    assert table(body + "out y = F(k) + G(k) + A(k)") == [(0, 0, ("A",)), (4, 0, ("G",)), (16, 0, ("F",))]


def test_a_memory_that_reads_another_of_this_tick_is_above_it():
    reads = "memory T : d -> d { minimize -dot(T(k), %s) by gd(1) }  out y = T(k)"
    assert table(memory("gd(1)", name="S") + reads % "S(k)") == [(1, 0, ("S",)), (1, 1, ("T",))]
    assert table(memory("gd(1)", name="S") + reads % "last S(k)") == [(1, 0, ("S", "T"))]


def test_members_are_paths_through_instances():
    inner = "block inner(d) { in x : real[d]  memory S : d -> d = learned { minimize -dot(S(x), x) by gd(1) }  out y = S(x) }\n"
    assert table("h = inner(k)  out y = inner(h)", inner) == [
        (1, 0, ("inner/S",)),
        (1, 1, ("inner.1/S",)),
        (None, 0, ("inner/S.init", "inner.1/S.init")),
    ]


def test_an_implicit_step_does_not_depend_on_itself():
    assert table("memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by implicit(0.5) }  out y = S(k)") == [(1, 0, ("S",))]
