"""Known numbers: the value of a constant atom, and of an operation on numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

from nldsl.core import Atom, Num
from nldsl.dims import Dim


def number(atom: Atom) -> float | None:
    """The value of a constant atom without symbols."""
    if not isinstance(atom, Num):
        return None
    if isinstance(atom.value, Dim):
        exact = atom.value.constant
        return None if exact is None else float(exact)
    return atom.value


def _gelu_pull(c: float, a: float) -> float:
    return c * (0.5 * (1 + math.erf(a * 0.5**0.5)) + a * math.exp(-a * a / 2) * (2 * math.pi) ** -0.5)


FOLDS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b, "neg": lambda a: -a, "copy": lambda a: a, "stop": lambda a: a, "abs": abs, "max": max, "min": min,
    "sqrt": lambda a: a**0.5, "sign": lambda a: float((a > 0) - (a < 0)), "where": lambda c, a, b: a if c > 0 else b,
    "dot": lambda a, b: a * b, "sqnorm": lambda a: a * a, "sigmoid": lambda a: 0.5 + 0.5 * math.tanh(a / 2),
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))), "silu": lambda a: a * (0.5 + 0.5 * math.tanh(a / 2)),
    "gelu": lambda a: a * 0.5 * (1 + math.erf(a * 0.5**0.5)), "gelu_pull": _gelu_pull,
    "exp": math.exp, "log": math.log, "tanh": math.tanh, "relu": lambda a: max(a, 0.0), "sum": lambda a: a, "mean": lambda a: a,
}  # fmt: skip


def fold(op: str, values: list[float]) -> float | None:
    """The value of an operation on numbers, None where it has none."""
    try:
        result = FOLDS[op](*values)
    except (KeyError, ArithmeticError, ValueError, TypeError):
        return None
    return result if isinstance(result, (int, float)) else None
