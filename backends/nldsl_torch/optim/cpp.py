"""An entrywise pass as C++ statements of one element: reads and scalars are `const T NAME`, results are left in `new_NAME`."""

from __future__ import annotations

from collections.abc import Callable

from nldsl.core import Atom, Equation, Num
from nldsl.lower.numbers import number

RESERVED = frozenset(
    """T maximum minimum sign auto bool break case catch char class const continue default delete do double else enum extern
    false float for friend goto if inline int long namespace new operator private protected public register return short
    signed sizeof static std struct switch template this throw true try typedef union unsigned using virtual void volatile
    while xor not and or memcpy errno y0 y1 j0 j1 isnan abs sqrt exp log pow tanh""".split()
)
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
FUNCTIONS = {
    "exp": "std::exp({0})", "log": "std::log({0})", "sqrt": "std::sqrt({0})", "abs": "std::abs({0})", "sign": "sign({0})",
    "tanh": "std::tanh({0})", "sigmoid": "T(1) / (T(1) + std::exp(-{0}))", "silu": "{0} / (T(1) + std::exp(-{0}))",
    "softplus": "({0} > T(20) ? {0} : std::log1p(std::exp({0})))", "relu": "maximum({0}, T(0))",
    "gelu": "T(0.5) * {0} * (T(1) + std::erf({0} * T(0.70710678118654752440)))",
    "max": "maximum({0}, {1})", "min": "minimum({0}, {1})", "where": "({0} > T(0) ? {1} : {2})",
    "neg": "-{0}", "copy": "{0}", "stop": "{0}", "fill": "{0}", "bfloat16": "{0}",
}  # fmt: skip


def literal(value: float) -> str:
    """A number as a constant of the compute type."""
    text = repr(value)
    text = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(text, text)
    return f"T({text})"


def expression(e: Equation, text: Callable[[Atom], str]) -> str:
    """The value of an equation; operands are names, constants or parenthesised."""
    args = [literal(number(a) or 0.0) if isinstance(a, Num) else text(a) for a in (e.args[:1] if e.op == "fill" else e.args)]
    if e.op in INFIX:
        return f"{args[0]} {INFIX[e.op]} {args[1]}"
    if e.op in ("max", "min") and any(isinstance(a, Num) for a in e.args):  # one comparison; a NaN stays one
        known, other = (args[0], args[1]) if isinstance(e.args[0], Num) else (args[1], args[0])
        return f"({other} {'<' if e.op == 'max' else '>'} {known} ? {known} : {other})"
    if e.op == "pow":
        return _power(args[0], e.args[1], args[1])
    return FUNCTIONS[e.op].format(*args)


def _power(base: str, exponent: Atom, text: str) -> str:
    match number(exponent):
        case 2.0:
            return f"{base} * {base}"
        case 3.0:
            return f"{base} * {base} * {base}"
        case 0.5:
            return f"std::sqrt({base})"
        case -1.0:
            return f"T(1) / {base}"
    return f"std::pow({base}, {text})"


def repeats(e: Equation, position: int) -> bool:
    """Whether the C++ of an equation holds an argument more than once, or takes names only."""
    return e.op in ("silu", "softplus", "gelu", "max", "min") or (e.op == "pow" and position == 0 and number(e.args[1]) in (2.0, 3.0))
