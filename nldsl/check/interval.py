"""Closed intervals of real numbers, with infinite ends for what is not known."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

from nldsl.dims import Dim

INF = math.inf


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`, both included."""

    low: float
    high: float

    def within(self, low: float, high: float) -> bool:
        return low <= self.low and self.high <= high

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def __str__(self) -> str:
        return f"[{_number(self.low)}, {_number(self.high)}]"


ALL = Interval(-INF, INF)
ZERO = Interval(0.0, 0.0)
ONE = Interval(1.0, 1.0)
POSITIVE = Interval(0.0, INF)


def _number(x: float) -> str:
    return ("inf" if x > 0 else "-inf") if math.isinf(x) else f"{x:.4g}"


def hull(*parts: Interval) -> Interval:
    return Interval(min(p.low for p in parts), max(p.high for p in parts))


def plus(a: Interval, b: Interval) -> Interval:
    return Interval(a.low + b.low, a.high + b.high)


def negative(a: Interval) -> Interval:
    return Interval(-a.high, -a.low)


def minus(a: Interval, b: Interval) -> Interval:
    return plus(a, negative(b))


def _product(x: float, y: float) -> float:
    """An end of an interval is a limit: zero times a bound that is not known is zero."""
    return 0.0 if x == 0 or y == 0 else x * y


def times(a: Interval, b: Interval) -> Interval:
    ends = [_product(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Interval(min(ends), max(ends))


def square(a: Interval) -> Interval:
    high = _product(a.size, a.size)
    return Interval(0.0 if a.low <= 0 <= a.high else min(a.low * a.low, a.high * a.high), high)


def divide(a: Interval, b: Interval) -> Interval:
    if b.low < 0 < b.high or b.low == b.high == 0:
        return ALL
    ends = [_inverse(b.low, above=True), _inverse(b.high, above=False)]
    return times(a, Interval(min(ends), max(ends)))


def _inverse(x: float, above: bool) -> float:
    """1 / x, where x = 0 is the end of an interval above or below it."""
    if x == 0:
        return INF if above else -INF
    return 1 / x


def monotone(fn: Callable[[float], float], a: Interval) -> Interval:
    """The image under a growing function."""
    return Interval(fn(a.low), fn(a.high))


def EXP(x: float) -> float:
    return math.exp(x) if x < 700 else INF


def LOG(x: float) -> float:
    return math.log(x) if 0 < x < INF else (-INF if x <= 0 else INF)


def SQRT(x: float) -> float:
    return math.sqrt(x) if x > 0 else 0.0


def SIGMOID(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def SOFTPLUS(x: float) -> float:
    return x if x > 30 else math.log1p(math.exp(x)) if x > -700 else 0.0


def bfloat16(x: float) -> float:
    """The nearest number with 8 binary digits, ties to an even last one."""
    if math.isinf(x) or math.isnan(x):
        return x
    if abs(x) > 3.4028234e38:
        return math.copysign(INF, x)
    (bits,) = struct.unpack("<I", struct.pack("<f", x))
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    (rounded,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(rounded)


def to_power(a: Interval, b: Interval) -> Interval:
    """a ^ b: exact ends for a base that is not negative, the sign for whole powers."""
    if b.low == b.high and b.low == int(b.low if abs(b.low) < INF else 0):
        n = int(b.low)
        if n < 0:
            return divide(ONE, to_power(a, Interval(-n, -n)))
        if n % 2 == 0:
            size = Interval(math.sqrt(square(a).low), a.size)
            return Interval(_power(size.low, n), _power(size.high, n)) if n else ONE
        return Interval(_power(a.low, n), _power(a.high, n))
    if a.low < 0:
        return ALL
    exponent = times(b, Interval(LOG(a.low), LOG(a.high)))
    return monotone(EXP, exponent)


def _power(x: float, n: int) -> float:
    try:
        return float(x**n)
    except OverflowError:
        return INF if x > 0 or n % 2 == 0 else -INF


def dim_interval(dim: Dim) -> Interval:
    """A size: its symbols are whole numbers from 1."""
    total = ZERO
    for monomial, coefficient in dim.terms:
        term = Interval(float(coefficient), float(coefficient))
        for _, power in monomial:
            term = times(term, Interval(1.0, INF) if power > 0 else Interval(0.0, 1.0))
        total = plus(total, term)
    return total
