"""Dimensions: Laurent polynomials over block parameters with rational coefficients.

`heads * (d / heads)` and `d` have the same normal form, so shapes are compared by equality. A symbol carries
a sample value, used only where a number is needed before one is given (how many copies a `for` unrolls).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

Monomial = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Dim:
    """A sum of monomials; `terms` is sorted and has no zero coefficient."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(value: int | Fraction) -> Dim:
        return Dim((((), Fraction(value)),)) if value else Dim(())

    @staticmethod
    def symbol(name: str) -> Dim:
        return Dim(((((name, 1),), Fraction(1)),))

    @property
    def constant(self) -> Fraction | None:
        """The value, when no symbol occurs."""
        if not self.terms:
            return Fraction(0)
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def integer(self) -> int | None:
        value = self.constant
        return int(value) if value is not None and value.denominator == 1 else None

    def __add__(self, other: Dim) -> Dim:
        return _collect(self.terms + other.terms)

    def __neg__(self) -> Dim:
        return Dim(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: Dim) -> Dim:
        return self + -other

    def __mul__(self, other: Dim) -> Dim:
        return _collect(tuple((_times(a, b), x * y) for a, x in self.terms for b, y in other.terms))

    def __truediv__(self, other: Dim) -> Dim:
        """Exact division by a single monomial.

        Raises:
            ZeroDivisionError: the divisor is 0.
            ValueError: the divisor has more than one term.
        """
        if not other.terms:
            raise ZeroDivisionError
        if len(other.terms) > 1:
            raise ValueError("division by a sum")
        monomial, coefficient = other.terms[0]
        inverse = tuple((name, -power) for name, power in monomial)
        return self * Dim(((inverse, 1 / coefficient),))

    def power(self, exponent: int) -> Dim:
        result = Dim.of(1)
        for _ in range(abs(exponent)):
            result = result * self
        return Dim.of(1) / result if exponent < 0 else result

    def value(self, sizes: Mapping[str, int]) -> Fraction:
        """The value for given symbol values."""
        return sum(
            (c * prod((Fraction(sizes[s]) ** p for s, p in m), start=Fraction(1)) for m, c in self.terms), Fraction(0)
        )

    def symbols(self) -> set[str]:
        return {name for monomial, _ in self.terms for name, _ in monomial}

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = " + ".join(_show(m, c) for m, c in self.terms)
        return text.replace("+ -", "- ")

    __repr__ = __str__


def _collect(terms: tuple[tuple[Monomial, Fraction], ...]) -> Dim:
    total: dict[Monomial, Fraction] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return Dim(tuple(sorted((m, c) for m, c in total.items() if c)))


def _times(a: Monomial, b: Monomial) -> Monomial:
    powers = dict(a)
    for name, power in b:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted((n, p) for n, p in powers.items() if p))


def _show(monomial: Monomial, coefficient: Fraction) -> str:
    over = [n if p == 1 else f"{n}^{p}" for n, p in monomial if p > 0]
    under = [n if p == -1 else f"{n}^{-p}" for n, p in monomial if p < 0]
    if abs(coefficient.numerator) != 1 or not over:
        over.insert(0, str(abs(coefficient.numerator)))
    if coefficient.denominator != 1:
        under.insert(0, str(coefficient.denominator))
    text = " * ".join(over) + "".join(f" / {u}" for u in under)
    return f"-{text}" if coefficient < 0 else text
