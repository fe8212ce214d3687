"""Constant expressions: numbers, dimensions, lists, names of blocks and rules."""

from __future__ import annotations

import math
from typing import Any

from nldsl import tree
from nldsl.dims import Dim
from nldsl.elaborate.scope import Constant, Scope
from nldsl.source import Span

FUNCTIONS = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "abs": abs,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


def constant(expr: tree.Expr, scope: Scope) -> Any:
    """The value of an expression that needs no stream, or None.

    Whole numbers and sizes are `Dim`; anything else numeric is a float.
    """
    match expr:
        case tree.Num(value):
            return Dim.of(value) if isinstance(value, int) else value
        case tree.Str(value):
            return value
        case tree.Name(id):
            found = scope.find(id)
            return found.value if isinstance(found, Constant) else None
        case tree.Index(tree.Name(id), index):
            found, at = scope.find(id), constant(index, scope)
            items = found.value if isinstance(found, Constant) else None
            place = at.integer if isinstance(at, Dim) else None
            return items[place] if isinstance(items, (list, tuple)) and place is not None and 0 <= place < len(items) else None
        case tree.Unary("-", operand):
            value = constant(operand, scope)
            return -value if isinstance(value, (Dim, float)) else None
        case tree.Binary(op, left, right):
            return arithmetic(op, constant(left, scope), constant(right, scope))
        case tree.ListOf(items):
            values = [constant(item, scope) for item in items]
            return None if any(v is None for v in values) else values
        case tree.Call(tree.Name(name), (tree.Arg(None, argument),)) if name in FUNCTIONS and scope.find(name) is None:
            number = as_float(constant(argument, scope))
            return None if number is None else evaluate(FUNCTIONS[name], number)
    return None


def as_float(value: Any) -> float | None:
    if isinstance(value, Dim):
        exact = value.constant
        return None if exact is None else float(exact)
    return value if isinstance(value, float) else None


def evaluate(fn: Any, *args: float) -> float | None:
    try:
        result = fn(*args)
    except (ArithmeticError, ValueError, TypeError):  # a TypeError: a complex number is no float
        return None
    return result if isinstance(result, float) else None


def undefined(expr: tree.Expr, scope: Scope) -> tuple[str, Span] | None:
    """Why an expression over known numbers has no value, and where: `1 / 0`, a root of a negative number."""
    match expr:
        case tree.Unary("-", operand):
            return undefined(operand, scope)
        case tree.Call(tree.Name(name), (tree.Arg(None, argument),)) if name in FUNCTIONS and scope.find(name) is None:
            number = as_float(constant(argument, scope))
            if number is not None and constant(expr, scope) is None:
                return f"`{name}` has no value here", expr.span
            return undefined(argument, scope)
        case tree.Binary(op, left, right):
            inner = undefined(left, scope) or undefined(right, scope)
            a, b = as_float(constant(left, scope)), as_float(constant(right, scope))
            if inner is not None or a is None or b is None or constant(expr, scope) is not None:
                return inner
            if b == 0 and op == "/" or a == 0 and op == "^":
                return "division by zero", expr.span
            root = op == "^" and a < 0 and b != int(b)
            return "a root of a negative number is not a real number" if root else "this number is too large", expr.span
    return None


def arithmetic(op: str, a: Any, b: Any) -> Dim | float | None:
    """Exact over sizes, floating point otherwise; None when an operand is not a number or symbols meet floats."""
    if isinstance(a, Dim) and isinstance(b, Dim):
        exact = _exact(op, a, b)
        if exact is not None:
            return exact
    x, y = as_float(a), as_float(b)
    if x is None or y is None:
        return None
    match op:
        case "+":
            return x + y
        case "-":
            return x - y
        case "*":
            return x * y
        case "/":
            return evaluate(lambda: x / y)
        case "^":
            return evaluate(lambda: float(x**y)) if abs(y) < 1024 else None
    return None


def _exact(op: str, a: Dim, b: Dim) -> Dim | None:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            try:
                return a / b
            except (ZeroDivisionError, ValueError):
                return None
        case "^":
            power = b.integer
            if power is not None and abs(power) <= 64 and (power >= 0 or a.terms) and len(a.terms) <= 1:
                return a.power(power)
    return None
