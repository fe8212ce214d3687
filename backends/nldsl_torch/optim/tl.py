"""An entrywise pass as Triton statements of a block of elements: reads and scalars have names, results are left in `new_NAME`.

The functions that the text calls, `T` for constants and `nl_*`, are the runtime's: what they are depends on the compute type.
"""

from __future__ import annotations

from collections.abc import Callable

from nldsl.core import Atom, Equation, Num
from nldsl.lower.numbers import number

FUNCTIONS = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "nl_div({0}, {1})", "neg": "T(-1.0) * {0}",
    "exp": "nl_exp({0})", "log": "nl_log({0})", "sqrt": "nl_sqrt({0})", "abs": "nl_abs({0})", "sign": "nl_sign({0})",
    "tanh": "nl_tanh({0})", "sigmoid": "nl_div(T(1.0), T(1.0) + nl_exp(T(-1.0) * {0}))",
    "silu": "nl_div({0}, T(1.0) + nl_exp(T(-1.0) * {0}))", "softplus": "nl_where({0} - T(20.0), {0}, nl_log1p(nl_exp({0})))",
    "relu": "nl_max({0}, T(0.0))", "gelu": "T(0.5) * {0} * (T(1.0) + nl_erf({0} * T(0.7071067811865476)))",
    "max": "nl_max({0}, {1})", "min": "nl_min({0}, {1})", "where": "nl_where({0}, {1}, {2})", "pow": "nl_pow({0}, {1})",
    "copy": "{0}", "stop": "{0}", "fill": "{0}", "bfloat16": "{0}",
}  # fmt: skip
POWERS = {2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", 0.5: "nl_sqrt({0})", -1.0: "nl_div(T(1.0), {0})"}


def literal(value: float) -> str:
    """A number as a constant of the compute type."""
    text = repr(value)
    return f'T(float("{text}"))' if text in ("inf", "-inf", "nan") else f"T({text})"


def expression(e: Equation, text: Callable[[Atom], str]) -> str:
    """The value of an equation; operands are names, constants or parenthesised."""
    args = [literal(number(a) or 0.0) if isinstance(a, Num) else text(a) for a in (e.args[:1] if e.op == "fill" else e.args)]
    form = POWERS.get(number(e.args[1]) or 0.0) if e.op == "pow" else None
    return (form or FUNCTIONS[e.op]).format(*args)


def writes(e: Equation) -> bool:
    """Whether an equation has a text."""
    return e.op in FUNCTIONS
