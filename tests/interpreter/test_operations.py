"""Every operation of the language, and every one that a pass may write, runs in the interpreter, so that each pass is checked against it."""

import itertools

import pytest
import torch
from machines import machine, randn

from nldsl.core import Axis, Equation, Ref, Type
from nldsl.dims import Dim
from nldsl.lower.explicit import explicit
from nldsl.source import NOWHERE
from nldsl.vocabulary import WORDS, Mismatch
from nldsl_interpreter import Interpreter
from nldsl_interpreter.interpreter import _Machine, _Tick
from nldsl_interpreter.values import sizes

D, B, H = Dim.of(3), 2, Axis("h", Dim.of(4), 0)
REAL = [Type("real", shape, axes) for axes in ((), (H,)) for shape in ((), (D,))]
CLASS, TABLE = Type("int", (), (), D), Type("real", (D, D))
TYPES = [*REAL, TABLE, Type("map", (D, D)), Type("map", (D, D), (H,))]
# What passes write only where the types fit each other, or what takes the number of a class.
FITTING = {
    "apply": [(Type("map", (D, D)), CLASS), *itertools.product(TYPES[-2:], REAL[1::2])], "cross_entropy": [(t, CLASS) for t in REAL[1::2]],
    "column": [(CLASS, t) for t in REAL[:2]], "one_hot": [(CLASS, t) for t in REAL[1::2]], "unflatten": [(Type("real", (D * D,), t.axes), TABLE) for t in REAL[1::2]],
    "fill": [(number, t) for number in REAL[::2] for t in TYPES if set(number.axes) <= set(t.axes)], "ungather": [(Type("real", (H.size, D)),)],
}  # fmt: skip
PAIRS = [Type("real", (Dim.of(4),), t.axes) for t in REAL[1::2]]
FITTING |= {"turn": [*itertools.product(PAIRS, PAIRS[:1])], "turn_back": [(PAIRS[0], PAIRS[0])], "angles": [(t,) for t in TYPES], "tap": [(TABLE,)]}
ATTRS = {"gather": {"axis": H}, "ungather": {"axis": H}, "sum_copies": {"axis": H}, "angles": {"size": Dim.of(4)}}
# Those that look at other ticks, or that an equation alone does not tell: each has tests of its own, here and in test_meaning.
OVER_TIME = {"count": "out y = x * count()", "delay": "out y = delay(x, 2)", "conv": "out y = conv(x, 2)", "rope": "out y = rope(x)",
             "attend": "memory A : store(d -> d) { key x  value x }  out y = A(x)", "index": "each h in 2 { z = h * x }  out y = flatten(z)",
             "fold": "memory A : d -> d = zeros every 2 { minimize 0.5 * sqnorm(A(x) - x) over mean by gd(1) }  out y = A(x)",
             "pool": "memory A : d -> d = zeros { minimize 0.5 * sqnorm(A(x) - x) by gd(0.1)  shared mean }  out y = A(x)"}  # fmt: skip
# What the gradient of an objective writes that passes these.
BEHIND = {"attend_pull": "memory A : store(d -> d) { key r  value x + r }  z = A(x - r)", "tap": "z = conv(r, 3)", "turn_back": "z = rope(r)"}


def arguments(op: str):
    """Types that an operation takes, and that of its result."""
    word = WORDS[op]
    for types in FITTING.get(op) or itertools.product(TYPES, repeat=word.arity):
        attrs = ATTRS.get(op, {})
        try:
            yield types, attrs, word.rule(list(types), attrs)
        except (Mismatch, IndexError):
            continue


def value(t: Type) -> torch.Tensor:
    return torch.randint(3, (B, *sizes(t))) if t.kind == "int" else randn(B, *sizes(t)).abs()


@pytest.mark.parametrize("op", sorted(WORDS.keys() - OVER_TIME.keys() - {"attend_pull"}))
def test_every_operation_runs(op):
    """On all types it takes, with the shape of its type."""
    found = list(arguments(op))
    assert found
    for types, attrs, result in found:
        names = [f"a{n}" for n in range(len(types))]
        m = object.__new__(_Machine)
        m.params, m.states, m.of_the_tick, m.types = {}, {}, frozenset(), {**dict(zip(names, types, strict=True)), "y": result}
        tick = object.__new__(_Tick)
        tick.m, tick.batch, tick.dtype, tick.t, tick.low = m, B, torch.float64, 0, set()
        e = Equation("y", op, tuple(Ref(n, NOWHERE) for n in names), NOWHERE, tuple(attrs.items()))
        y = tick.equation(e, {n: value(t) for n, t in zip(names, types, strict=True)})
        torch.broadcast_to(y, (B, *sizes(result)))
        assert y.dim() == 1 + len(sizes(result)), (types, y.shape)


@pytest.mark.parametrize("op", OVER_TIME)
def test_every_operation_over_time_runs(op):
    m = machine(f"block m(d) {{ in x : real[d]  {OVER_TIME[op]} }}", d=4)
    assert any(e.op == op for e in m.top.unit.equations)
    assert m.run(m.parameters(), {"x": randn(2, 3, 4)})[0]["y"].isfinite().all()


@pytest.mark.parametrize("op", ["fill", "one_hot", "gelu_pull", "sign", "softmax", "where"])
def test_a_derived_update_is_the_gradient(op):
    objective = {
        "fill": "mean(S(x)) + sum(S(x)) * mean(S(x))",
        "one_hot": "cross_entropy(S(x), i)",
        "gelu_pull": "sum(gelu(S(x)))",
        "sign": "sum(abs(S(x)) ^ 1.5)",
        "softmax": "sqnorm(softmax(S(x)))",
        "where": "sum(where(S(x), S(x) ^ 2, sqrt(abs(S(x)))))",
    }[op]
    m = machine(f"block m(d) {{ in x : real[d]  in i : int[d]  memory S : d -> d = learned(normal(1)) {{ minimize {objective} by gd(0.1) }}  out y = S(x) }}", d=3)
    unit, types = explicit(m.top.unit, dict(m.top.types))
    assert any(e.op == op for e in unit.equations) and not any(e.op == "grad" for e in unit.equations)
    derived = Interpreter({"m": unit}, {"m": types}, "m")
    params, x = m.parameters(), {"x": randn(2, 4, 3), "i": torch.randint(3, (2, 4))}
    assert torch.allclose(derived.run(params, x)[0]["y"], m.run(params, x)[0]["y"], rtol=1e-12)


@pytest.mark.parametrize("op", BEHIND)
def test_a_derived_update_is_the_gradient_of_its_tick(op):
    """What has been kept of earlier ticks is given, in the derived update as in the gradient."""
    text = f"r = last S(x)  {BEHIND[op]}  memory S : d -> d = learned(normal(1)) {{ minimize e by gd(0.1) }}  e = sqnorm(tanh(z) - 0.1 * x)  out y = z"
    m = machine(f"block m(d) {{ in x : real[d]  {text} }}", d=4)
    unit, types = explicit(m.top.unit, dict(m.top.types))
    assert any(e.op == op for e in unit.equations) and not any(e.op == "grad" for e in unit.equations)
    derived = Interpreter({"m": unit}, {"m": types}, "m")
    params, x = m.parameters(), {"x": randn(2, 6, 4)}
    assert torch.allclose(derived.run(params, x)[0]["y"], m.run(params, x)[0]["y"], rtol=1e-12)
