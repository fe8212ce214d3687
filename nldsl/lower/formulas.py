"""Equations of a rule as formulas for people, and as a linear form of one memory: coefficient * last m + rest.

`m` is a memory before the step, `m'` after it. Products of matrices stand side by side; `*` is entry by entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from nldsl.core import Atom, Equation, Last, Num, Ref, Rule, Type, Unit
from nldsl.dims import Dim
from nldsl.vocabulary import is_number

SUM, NEGATIVE, PRODUCT, BESIDE, POWER, ATOM = range(6)  # how tightly the outermost operation binds
ONE = Dim.of(1)
Formula = tuple[str, int]


@dataclass(frozen=True)
class Term:
    """`left M right`, times factors entry by entry, where M is the memory; or, without it, the atom `rest`."""

    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    rest: Atom | None = None
    around: str = "{}"


Linear = dict[Term, Dim]


class Formulas:
    """Text of the atoms of a unit. What the author named stands under its name; `used` collects these names."""

    def __init__(self, rule: Rule, unit: Unit, types: Mapping[str, Type]):
        self.unit, self.types = unit, types
        self.equations = {e.name: e for e in unit.equations}
        self.states = {s.name for s in unit.states}
        self.inputs = {i: f"{h.name}[{n}]" if isinstance(h.default, tuple) else h.name for h in rule.hypers for n, i in enumerate(h.inputs)}
        self.names = author_names(unit)
        self.used: dict[str, Equation] = {}

    # --- text --------------------------------------------------------------------------------------------

    def text(self, atom: Atom, binding: int = SUM) -> str:
        """A formula, in brackets where it binds less tightly than asked."""
        return _bracketed(self.formula(atom), binding)

    def formula(self, atom: Atom) -> Formula:
        if isinstance(atom, Num):
            value = atom.value
            text = number_text(value) if isinstance(value, Dim) else float_text(value)
            return text, NEGATIVE if text.startswith("-") else ATOM if text.replace(".", "").isalnum() or "e" in text else SUM
        if isinstance(atom, Last):
            return plain(atom.name), ATOM
        if atom.name in self.states:
            return f"{plain(atom.name)}'", ATOM
        e = self.equations.get(atom.name)
        if e is None:
            return self.inputs.get(atom.name, atom.name), ATOM
        if e.name in self.names:
            self.used.setdefault(e.name, e)
            return self.names[e.name], ATOM
        return self.operation(e)

    def operation(self, e: Equation) -> Formula:
        """The right side of an equation."""
        f = [self.formula(a) for a in e.args]
        match e.op:
            case "copy" | "stop" | "fill":
                return f[0]
            case "add" | "sub":
                right, binding = f[1]
                minus = e.op == "sub"
                if binding == NEGATIVE:
                    minus, right = not minus, right[1:]
                else:
                    right = _bracketed(f[1], PRODUCT if minus or right.startswith("-") else SUM)
                return f"{f[0][0]} {'-' if minus else '+'} {right}", SUM
            case "neg":
                return self._negative(f[0])
            case "mul":
                if "1" in (f[0][0], f[1][0]):
                    return f[1] if f[0][0] == "1" else f[0]
                if f[0][0] == "-1":
                    return self._negative(f[1])
                left = f[0][0] if f[0][1] == NEGATIVE else _bracketed(f[0], PRODUCT)
                return f"{left} * {_bracketed(f[1], PRODUCT)}", NEGATIVE if f[0][1] == NEGATIVE else PRODUCT
            case "div":
                left = f[0][0] if f[0][1] == NEGATIVE else _bracketed(f[0], PRODUCT)
                return f"{left} / {_bracketed(f[1], BESIDE)}", NEGATIVE if f[0][1] == NEGATIVE else PRODUCT
            case "pow":
                return f"{_bracketed(f[0], ATOM)}^{_bracketed(f[1], ATOM)}", POWER
            case "matmul" | "apply":
                return f"{_bracketed(f[0], BESIDE)} {_bracketed(f[1], BESIDE)}", BESIDE
            case "outer":
                return f"{_bracketed(f[0], BESIDE)} {_transposed(f[1])}", BESIDE
            case "identity":
                return "I", ATOM
            case "transpose":
                return _transposed(f[0]), POWER
            case "fold":
                return f"{e.attr('over')} of {_bracketed(f[0], BESIDE)} over the period", SUM
        return f"{e.op}({', '.join(text for text, _ in f)})", ATOM

    def _negative(self, f: Formula) -> Formula:
        return (f[0][1:], PRODUCT) if f[1] == NEGATIVE else (f"-{_bracketed(f, PRODUCT)}", NEGATIVE)

    def definitions(self) -> Iterator[tuple[str, str]]:
        """What the names in the formulas so far stand for; of a chain, where it is."""
        done: set[str] = set()
        while waiting := [e for e in self.used.values() if self.names[e.name] not in done]:
            e = waiting[0]
            name = self.names[e.name]
            done.add(name)
            if list(self.names.values()).count(name) > 1:
                yield name, f"what its chain ends with, {e.span.where}"
            elif e.op == "count":
                yield name, "the number of this step, from 1"
            else:
                yield name, self.operation(e)[0]

    # --- linear forms ----------------------------------------------------------------------------------------

    def linear(self, atom: Atom, memory: Atom, through: bool = False) -> Linear | None:
        """An atom as a sum of terms in `memory`; None where it is not linear. Names hide what is behind them unless `through`."""
        if atom == memory:
            return {Term(): ONE}
        e = self.equations.get(atom.name) if isinstance(atom, Ref) and atom.name not in self.states else None
        if e is None or (e.name in self.names and not (through and self.reads(atom, memory, through))):
            return {Term(rest=atom): ONE}
        args = e.args
        match e.op:
            case "copy" | "stop":
                return self.linear(args[0], memory, through)
            case "neg":
                return _scaled(self.linear(args[0], memory, through), Dim.of(-1))
            case "add" | "sub":
                a, b = (self.linear(x, memory, through) for x in args)
                return _added(a, _scaled(b, Dim.of(-1 if e.op == "sub" else 1)))
            case "mul" if self.is_scalar(args[0], memory, through):
                return _scaled(self.linear(args[1], memory, through), self.scalar(args[0]))
            case "mul" | "div" if self.is_scalar(args[1], memory, through):
                by = self.scalar(args[1])
                return _scaled(self.linear(args[0], memory, through), by if e.op == "mul" else self.inverse(by))
        if e.op == "fold":
            return self._folded(e, memory, through)
        if not self.reads(atom, memory, through):
            return {Term(rest=atom): ONE}
        match e.op:
            case "mul":
                for x, y in (args, args[::-1]):
                    if not self.reads(x, memory, through):
                        return self._mapped(y, memory, through, f"{self.text(x, PRODUCT)} * {{}}", factors=(self.text(x, PRODUCT),))
            case "matmul" | "apply" | "outer" if not self.reads(args[1], memory, through):
                right = _transposed(self.formula(args[1])) if e.op == "outer" else self.text(args[1], BESIDE)
                return self._mapped(args[0], memory, through, f"{{}} {right}", right=(right,))
            case "matmul" if not self.reads(args[0], memory, through):
                left = self.text(args[0], BESIDE)
                return self._mapped(args[1], memory, through, f"{left} {{}}", left=(left,))
        return None

    def _folded(self, e: Equation, memory: Atom, through: bool) -> Linear | None:
        """A sum or mean over a period, in which the memory is the same."""
        inner = self.linear(e.args[0], memory, through)
        own = any(term.rest is None for term in inner or {})
        if inner is None or (own and e.attr("over") == "sum"):
            return None
        around = f"({e.attr('over')} of {{}} over the period)"
        return {t if t.rest is None else replace(t, around=around.format(t.around)): c for t, c in inner.items()}

    def _mapped(self, inner: Atom, memory: Atom, through: bool, around: str, left: tuple[str, ...] = (), right: tuple[str, ...] = (),
                factors: tuple[str, ...] = ()) -> Linear | None:  # fmt: skip
        found = self.linear(inner, memory, through)
        if found is None:
            return None
        out: Linear = {}
        for term, factor in found.items():
            if term.rest is None:
                key = Term((*left, *term.left), (*term.right, *right), (*term.factors, *factors))
            else:
                key = replace(term, around=around.format(term.around))
            out[key] = out.get(key, Dim.of(0)) + factor
        return out

    def reads(self, atom: Atom, memory: Atom, through: bool) -> bool:
        """Whether a formula contains a memory; with `through`, or what its names stand for."""
        seen: set[str] = set()
        stack = [atom]
        while stack:
            a = stack.pop()
            if a == memory:
                return True
            hidden = isinstance(a, Ref) and a.name in self.names and not through
            if isinstance(a, Ref) and a.name not in seen and a.name in self.equations and a.name not in self.states and not hidden:
                seen.add(a.name)
                stack += self.equations[a.name].args
        return False

    def is_scalar(self, a: Atom, memory: Atom, through: bool) -> bool:
        return (isinstance(a, Num) or is_number(self.types[a.name])) and not self.reads(a, memory, through)

    def scalar(self, atom: Atom) -> Dim:
        """A number as a polynomial of names and of formulas that are none."""
        if isinstance(atom, Num):
            return atom.value if isinstance(atom.value, Dim) else Dim.of(Fraction(repr(atom.value)))
        e = self.equations.get(atom.name) if isinstance(atom, Ref) and atom.name not in self.states else None
        if e is not None and e.name not in self.names:
            match e.op:
                case "copy" | "stop":
                    return self.scalar(e.args[0])
                case "neg":
                    return -self.scalar(e.args[0])
                case "add":
                    return self.scalar(e.args[0]) + self.scalar(e.args[1])
                case "sub":
                    return self.scalar(e.args[0]) - self.scalar(e.args[1])
                case "mul":
                    return self.scalar(e.args[0]) * self.scalar(e.args[1])
                case "div":
                    return self.scalar(e.args[0]) * self.inverse(self.scalar(e.args[1]))
        return Dim.symbol(self.text(atom, POWER))

    def inverse(self, value: Dim) -> Dim:
        return ONE / value if len(value.terms) == 1 else ONE / Dim.symbol(f"({number_text(value)})")

    # --- linear forms as text ----------------------------------------------------------------------------------

    def combination(self, terms: Linear, memory: str) -> str:
        """A linear form as a sum, the memory's own terms first."""
        text = ""
        for term, factor in sorted(terms.items(), key=lambda item: item[0].rest is not None):
            negative = len(factor.terms) == 1 and factor.terms[0][1] < 0
            body = self._term(term, memory)
            scale = _bracketed((number_text(-factor if negative else factor), SUM if len(factor.terms) > 1 else PRODUCT), PRODUCT)
            body = body if scale == "1" else f"{scale} * {body}"
            text += (" - " if negative else " + ") + body if text else ("-" if negative else "") + body
        return text or "0"

    def _term(self, term: Term, memory: str) -> str:
        if term.rest is not None:
            plain_rest = term.around == "{}"
            return self.text(term.rest, PRODUCT) if plain_rest else term.around.format(self.text(term.rest, BESIDE))
        return " * ".join([*term.factors, " ".join([*term.left, memory, *term.right])])


# --- names and numbers ---------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """A memory as it is called outside the rule: `w.exp_avg` is `exp_avg`."""
    return name.removeprefix("w.")


def author_names(unit: Unit) -> dict[str, str]:
    """The names the author gave equations: `name =` stands right before them, and they are no arguments of a call."""
    found: dict[tuple[object, int], list[tuple[int, str, str]]] = {}
    for e in unit.equations:
        before = e.span.source.text[max(0, e.span.start - 200) : e.span.start]
        m = re.search(r"(\w+)\s*=\s*$", before)
        parts = e.name.split(".")
        if m is not None and m[1] in parts and "start" not in parts and before[: m.start()].rstrip()[-1:] not in ("(", ","):
            found.setdefault((e.span.source.name, e.span.start), []).append((e.span.end, e.name, m[1]))
    longest = {place: max(end for end, _, _ in group) for place, group in found.items()}
    return {name: shown for place, group in found.items() for end, name, shown in group if end == longest[place]}


def float_text(value: float) -> str:
    """A number as short as it can be: 0.001, 1e-8, 5."""
    text = repr(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    return re.sub(r"e([+-])0", r"e\1", text)


def number_text(value: Dim) -> str:
    """A polynomial, what is added before what is taken away."""
    text = ""
    for monomial, c in sorted(value.terms, key=lambda term: (term[1] < 0, term[0])):
        over = [n if p == 1 else f"{n}^{p}" for n, p in monomial if p > 0]
        under = [n if p == -1 else f"{n}^{-p}" for n, p in monomial if p < 0]
        scale = float_text(float(abs(c)))
        body = " * ".join(over if over and scale == "1" else [scale, *over]) + "".join(f" / {u}" for u in under)
        text += (" - " if c < 0 else " + ") + body if text else ("-" if c < 0 else "") + body
    return text or "0"


def _bracketed(formula: Formula, binding: int) -> str:
    text, own = formula
    return text if own >= binding else f"({text})"


def _transposed(formula: Formula) -> str:
    text, binding = formula
    if text.endswith("^T") and binding == POWER:
        return text[:-2]
    return f"{_bracketed(formula, ATOM)}^T"


def _scaled(terms: Linear | None, factor: Dim) -> Linear | None:
    return None if terms is None else {t: c * factor for t, c in terms.items() if factor.terms}


def _added(a: Linear | None, b: Linear | None) -> Linear | None:
    if a is None or b is None:
        return None
    total = dict(a)
    for term, factor in b.items():
        total[term] = total.get(term, Dim.of(0)) + factor
    return {t: c for t, c in total.items() if c.terms}
