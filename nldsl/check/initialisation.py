"""Initialisation: a first value exists, is finite and is of the state's kind.

Elaboration refuses initial values that depend on streams; this pass refuses those without a value.

Refused:   param a : real = log(normal(1))       a logarithm of a number that may be negative
Accepted:  param a : real = log(uniform(1, 16))

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> text = "block b(d) { in x : real[d]  param a : real = %s  out y = a * x }"
>>> [d.code for d in check_source(Source("b.nl", text % "log(normal(1))")).errors]
['NL303']
>>> check_source(Source("b.nl", text % "log(uniform(1, 16))")).errors
()
"""

from __future__ import annotations

from nldsl.check.interval import (
    ALL,
    EXP,
    LOG,
    SIGMOID,
    SOFTPLUS,
    SQRT,
    Interval,
    dim_interval,
    divide,
    monotone,
    times,
    to_power,
)  # fmt: skip
from nldsl.check.shapes import Types
from nldsl.core import Init, Param, State, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.dims import Dim


class _Wrong(Exception):
    """(message, expected, found)"""


def initialisation(unit: Unit, types: Types) -> list[Diagnostic]:
    """NL303: no such number, or not one of the state's kind."""
    found = []
    both: tuple[Param | State, ...] = (*unit.params, *unit.states)
    for declared in both:
        try:
            value = init_interval(declared.init)
            if declared.type.kind in ("int", "bool") and not (value.low == value.high and value.low == int(value.low)):
                raise _Wrong(f"`{declared.name}` starts as something that is not a whole number", "a whole number", _text(declared.init))
        except _Wrong as wrong:
            message, expected, given = wrong.args
            found.append(Diagnostic("NL303", message, (Label(declared.span),), expected=expected, found=given))
    return found


def init_interval(init: Init) -> Interval:
    """Bounds of an initial value.

    Raises:
        _Wrong: it has none.
    """
    if isinstance(init, Dim):
        return dim_interval(init)
    if isinstance(init, (int, float)):
        return Interval(float(init), float(init))
    name, *args = init
    match name:
        case "zeros" | "ones":
            return Interval(0.0, 0.0) if name == "zeros" else Interval(1.0, 1.0)
        case "eye":
            return Interval(0.0, 1.0)
        case "pretrained":
            return ALL
        case "index":
            return Interval(0.0, float("inf"))
    bounds = [init_interval(a) for a in args]
    match name, bounds:
        case "normal", [scale]:
            return ALL if scale.high > 0 else Interval(0.0, 0.0)
        case "uniform", [a, b]:
            if a.low > b.high:
                raise _Wrong("a uniform initial value needs its lower bound first", "uniform(low, high)", _text(init))
            return Interval(a.low, b.high)
        case "constant", [a]:
            return a
        case "neg", [a]:
            return Interval(-a.high, -a.low)
        case "+", [a, b]:
            return Interval(a.low + b.low, a.high + b.high)
        case "-", [a, b]:
            return Interval(a.low - b.high, a.high - b.low)
        case "*", [a, b]:
            return times(a, b)
        case "/", [a, b]:
            if b.low == b.high == 0:
                raise _Wrong("an initial value is divided by zero", "a divisor other than 0", _text(init))
            return divide(a, b)
        case "^", [a, b]:
            return to_power(a, b)
        case ("log" | "sqrt"), [a]:
            if a.low < 0 or (name == "log" and a.high == 0):
                raise _Wrong(f"the {'logarithm' if name == 'log' else 'square root'} of a number that may be negative",
                             "a number above 0", _text(init))  # fmt: skip
            return monotone(LOG if name == "log" else SQRT, a)
        case ("exp" | "sigmoid" | "softplus"), [a]:
            return monotone({"exp": EXP, "sigmoid": SIGMOID, "softplus": SOFTPLUS}[name], a)
    return ALL


def _text(init: Init) -> str:
    if isinstance(init, tuple):
        name, *args = init
        return f"{name}({', '.join(_text(a) for a in args)})" if args else str(name)
    return str(init)
