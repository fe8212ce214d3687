"""Equations of a rule as lines of Python: numbers of the prologue, passes, and operations on whole tensors.

A number computed from the entries of a matrix is a matrix of one entry; of any other tensor, a tensor without dimensions,
also of a stack of matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nldsl.core import Atom, Equation, Last, Num, Ref, Type
from nldsl.dims import Dim
from nldsl.lower.equation import closes
from nldsl.lower.numbers import number as constant
from nldsl.names import identifier
from nldsl.vocabulary import is_number
from nldsl_torch import ops
from nldsl_torch.body import Body, Names
from nldsl_torch.optim import cpp, tl

HELPERS = "_abs _addmm _div _exp _gram _identity _log _max _min _norm _pow _sigmoid _sign _sqrt _tanh _where".split()
MATRICES = "eigenvectors matmul matrix_power solve".split()
OWN = frozenset("h t numbers run arrays shape torch Program RuleOptimizer Segment State Tick Variant".split()) | frozenset(MATRICES) | cpp.RESERVED
NUMBERS = {"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "neg": "-{}", "copy": "{}", "stop": "{}", "fill": "{}"} | {
    op: f"_{op}({{}})" for op in ("exp", "log", "sqrt", "abs", "sign", "tanh", "sigmoid")} | {
    "max": "_max({}, {})", "min": "_min({}, {})", "where": "_where({}, {}, {})"}  # fmt: skip
WHOLE = {
    "matmul": "matmul({}, {})", "solve": "solve({}, {})", "matrix_power": "matrix_power({}, {})", "eigenvectors": "eigenvectors({})",
    "identity": "_identity({})", "transpose": "{}.mT", "bfloat16": "{}.bfloat16()", "row_mean": "{}.mean(-1, keepdim=True)",
    "column_mean": "{}.mean(-2, keepdim=True)", "apply": "matmul({}, {}.unsqueeze(-1)).squeeze(-1)",
    "silu": "torch.nn.functional.silu({})", "softplus": "torch.nn.functional.softplus({})", "gelu": "torch.nn.functional.gelu({})",
    "unit": "{0} / ({0} * {0}).sum().add(1e-6).sqrt()", "norm": "{0} / ({0} * {0}).mean().add(1e-6).sqrt()",
    "softmax": "{0}.flatten().softmax(0).view_as({0})", "where": "_where({}, {}, {})", "max": "_max({}, {})", "min": "_min({}, {})",
}  # fmt: skip


def pretty(name: str, number: bool = False) -> str:
    """A readable name: what the author named, or `u` for what has no name, `c` for a number."""
    parts = [p for p in name.split(".") if not p.isdigit() and p not in ("w", "g", "number", "t", "size") or p == name]
    parts = parts or [p for p in name.split(".")[1:] if p in ("t", "size")]
    return identifier("_".join(parts)) if parts else "c" if number else "u"


@dataclass
class RuleNames(Names):
    """Names by what the author called things, given when they are first needed."""

    types: Mapping[str, Type] = field(default_factory=dict)

    def of(self, name: str) -> str:
        if name not in self.taken:
            base = text = pretty(name, is_number(self.types[name]))
            n = 0
            while text in self.taken.values() or text in self.reserved:
                n += 1
                text = f"{base}_{n}"
            self.taken[name] = text
        return self.taken[name]


def short(name: str) -> str:
    """A state as it is called outside: `w.exp_avg` is `exp_avg`, `w.double` is `double_`."""
    if name == "w":
        return name
    text = identifier(name.removeprefix("w."))
    return f"{text}_" if text in OWN or text in ("w", "g", "x", "delta") or text.startswith(("new_", "nl_")) else text


def dim_text(dim: Dim, names: Mapping[str, str]) -> str:
    """A size as Python."""
    parts = []
    for monomial, coefficient in sorted(dim.terms, key=lambda term: term[1] < 0):
        over = [names.get(n, n) + (f"**{p}" if p > 1 else "") for n, p in monomial if p > 0]
        under = [names.get(n, n) + (f"**{-p}" if p < -1 else "") for n, p in monomial if p < 0]
        top, bottom = abs(coefficient.numerator), coefficient.denominator
        over = over if over and top == 1 else [str(top), *over]
        under = under if bottom == 1 else [str(bottom), *under]
        parts.append((" - " if coefficient < 0 else " + ") + " * ".join(over) + "".join(f" / {u}" for u in under))
    text = "".join(parts)
    return "0" if not text else f"-{text[3:]}" if text.startswith(" - ") else text[3:]


class RuleBody(Body):
    """Lines of one function of a rule; `given` are names that have a text of their own outside."""

    def __init__(self, names: Names, types: Mapping[str, Type], equations: Sequence[Equation], outputs: Iterable[str], given: Mapping[str, str]):
        super().__init__(names, types, set(), equations, outputs)
        self.given = dict(given)
        self.cautious: set[str] = set()  # numbers behind a `where`, computed even where they are not chosen
        self.like: str | None = None  # an array of the shape of a pass
        self.matrix = any(t.kind == "map" for t in types.values())

    def text(self, atom: Atom) -> str:
        if isinstance(atom, Num) and isinstance(atom.value, Dim) and atom.value.constant is None:
            return f"({dim_text(atom.value, {})})"
        key = "" if isinstance(atom, Num) else f"last {atom.name}" if isinstance(atom, Last) else atom.name
        if key in self.given and key not in self.inside:
            return self.given[key]
        return super().text(atom)

    def bare(self, atom: Atom) -> str:
        """An argument of a function: brackets around it are not needed."""
        text = self.text(atom)
        return text[1:-1] if text.startswith("(") and closes(text) else text

    def expression(self, e: Equation) -> str:
        number = is_number(self.types[e.name])
        if e.op == "count":
            return "t"
        if e.op == "pow" and number:
            a, b = (self.text(x) for x in e.args)
            return f"_pow({a}, {b})" if e.name in self.cautious else f"{a} ** {b}"
        if e.op == "div" and number:
            a, b = (self.text(x) for x in e.args)
            return f"_div({a}, {b})" if e.name in self.cautious else f"{a} / {b}"
        if e.op in ("copy", "fill") and self.like is not None and not number and is_number(self.type(e.args[0])):
            zeros = f"torch.zeros_like({self.like})"
            return zeros if constant(e.args[0]) == 0 else f"{zeros} + {self.text(e.args[0])}"
        if e.op == "copy":
            return self.bare(e.args[0])
        if number and e.op in NUMBERS and all(is_number(self.type(a)) for a in e.args):
            return self._call(NUMBERS[e.op], e)
        return self._tensor(e)

    def _call(self, form: str, e: Equation) -> str:
        call = form.startswith(("_", "m", "s", "e", "t"))
        return form.format(*(self.bare(a) if call else self.text(a) for a in e.args))

    def _tensor(self, e: Equation) -> str:
        args = [self.text(a) for a in e.args]
        keep = "(-2, -1), keepdim=True" if self.matrix else ""
        match e.op:
            case "sqnorm":
                return f"({args[0]} * {args[0]}).sum({keep})"
            case "dot":
                return f"({args[0]} * {args[1]}).sum({keep})"
            case "sum" | "mean":
                return f"{args[0]}.{e.op}({keep})"
            case "vector_norm":
                return f"_norm({self.bare(e.args[0])})" if self.matrix else f"torch.linalg.vector_norm({self.bare(e.args[0])})"
            case "addmm":
                factors = [f", {n}={t}" for n, t in (("beta", self.bare(e.args[3])), ("alpha", self.bare(e.args[4]))) if t not in ("1", "1.0")]
                return f"_addmm({', '.join(self.bare(a) for a in e.args[:3])}{''.join(factors)}{', symmetric=True' if e.attr('symmetric') else ''})"
            case "matmul" if e.attr("symmetric"):
                return f"_gram({self.bare(e.args[0])})"
            case "fill":
                return f"torch.full_like({args[1]}, {args[0]})" if isinstance(e.args[0], Num) else f"{args[0]} * torch.ones_like({args[1]})"
            case "sqrt" | "exp" | "log" | "abs" | "sign" | "tanh" | "sigmoid" if self.is_scalar(e.args[0]):
                return f"_{e.op}({self.bare(e.args[0])})"
        if e.op in WHOLE:
            return self._call(WHOLE[e.op], e)
        result = self.types[e.name]
        return ops.express(e, result, self.text, lambda a: result if self.is_scalar(a) else self.type(a))

    def is_scalar(self, a: Atom) -> bool:
        return is_number(self.type(a)) and not (isinstance(a, Ref) and self.type(a).kind == "map")


class Statements(Body):
    """The C++ statements of a pass."""

    def __init__(self, names: Names, types: Mapping[str, Type], equations: Sequence[Equation], outputs: Iterable[str], given: Mapping[str, str]):
        super().__init__(names, types, set(), equations, outputs)
        self.given = dict(given)
        again = {a.name for e in equations for i, a in enumerate(e.args) if isinstance(a, Ref) and cpp.repeats(e, i)}
        for name in again:
            self.uses[name] = self.uses.get(name, 0) + 1

    def text(self, atom: Atom) -> str:
        key = "" if isinstance(atom, Num) else f"last {atom.name}" if isinstance(atom, Last) else atom.name
        return self.given[key] if key in self.given and key not in self.inside else super().text(atom)

    def expression(self, e: Equation) -> str:
        return cpp.expression(e, self.text)

    def statements(self) -> list[str]:
        """With types, and without the comments."""
        return [f"const T {line};" for line in self.lines if not line.startswith("#")]


class Blocks(Statements):
    """The Triton statements of a pass; none where an operation has no Triton."""

    def expression(self, e: Equation) -> str:
        return tl.expression(e, self.text) if tl.writes(e) else ""

    def statements(self) -> list[str]:
        return [line for line in self.lines if not line.startswith("#")]


__all__ = ["HELPERS", "MATRICES", "OWN", "Blocks", "RuleBody", "RuleNames", "Statements", "dim_text", "pretty", "short"]
