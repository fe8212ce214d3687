"""Equations as lines of Python: nested where a value is used once, with the `.nl` line above each group."""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nldsl.core import Atom, Equation, Last, Num, Ref, Type
from nldsl.lower.numbers import number
from nldsl.lower.rounding import is_rounded
from nldsl.names import identifier
from nldsl.source import NOWHERE, Span
from nldsl_torch import ops

WIDTH = 100


@dataclass
class Names:
    """Unique Python names of core names."""

    taken: dict[str, str] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()

    def of(self, name: str) -> str:
        if name not in self.taken:
            base = text = identifier(name)
            n = 0
            while text in self.taken.values() or text in RESERVED or text in self.reserved:
                n += 1
                text = f"{base}_{n}"
            self.taken[name] = text
        return self.taken[name]

    def fresh(self, hint: str) -> str:
        """A name of its own."""
        n = 0
        while f"{hint} {n}" in self.taken:
            n += 1
        self.taken[f"{hint} {n}"] = text = Names(reserved=self.reserved | frozenset(self.taken.values())).of(hint)
        return text


# What generated functions use by name: primitives, their own variables, and Python's builtins.
RESERVED = frozenset(dir(builtins)) | frozenset(
    """torch F nn Tensor self state new B T C xs s reads k_ v_ y_ part_ z batch return_state tick done ends fresh n_ add_product add_product_ again angles
    apply at_least at_most attention_look attention_pull beside causal_conv chunk chunk_solve channel_factors channel_kernel cross_entropy decay_ends
    decay_ends_back decay_kernel decay_kernel_back delay expect filtered fitting gelu_curve gelu_pull gelu_slope held from_memory inverse latest like
    linear_scan loop norm norm_back norm_scale matmul solve matrix_power eigenvectors part past plus pooled pretrained region FILES remember reversible
    root segments sequences shift_down shift_up spread taped turn turn_back windows ticks to_memory together unchunk unit unit_back unit_scale unit_solve
    unit_solve_back whole window_attention linear_scan_back greater cross_entropy_back""".split()
)


# Names that the chunk form gives its own values; numbered ones (K1_1, L1, n1, o0) are reserved by their first letter.
CHUNK_LOCALS = frozenset("A W c E P F Q O r g s U head tail zero eye lead valid out reads u starts Q_raw O_raw".split()) | {
    f"{letter}{n}" for letter in "KLpnoxmb" for n in range(100)
}  # fmt: skip


class Body:
    """The lines of one function.

    Attributes:
        lines: what has been written.
        reads: core names the function needs from outside, `last S` for a state before the tick.
    """

    def __init__(self, names: Names, types: Mapping[str, Type], params: set[str], equations: Sequence[Equation], outputs: Iterable[str],
                 rounded: frozenset[str] = frozenset()):  # fmt: skip
        self.names, self.types, self.params, self.rounded = names, types, params, rounded
        self.lines: list[str] = []
        self.reads: dict[str, None] = {}
        self.outputs = set(outputs)
        self.inside = {e.name for e in equations}
        self.inlined: dict[str, str] = {}
        self.comment: Span = NOWHERE
        self.uses: dict[str, int] = {}
        for e in equations:
            for a in e.args:
                if isinstance(a, Ref):
                    self.uses[a.name] = self.uses.get(a.name, 0) + 1

    def type(self, atom: Atom) -> Type:
        return Type("real") if isinstance(atom, Num) else self.types[atom.name]

    def text(self, atom: Atom) -> str:
        if isinstance(atom, Num):
            return ops.literal(atom.value) if not ops.literal(atom.value).startswith("-") else f"({ops.literal(atom.value)})"
        if isinstance(atom, Last):
            self.reads[f"last {atom.name}"] = None
            return self.names.of(f"last {atom.name}")
        if atom.name in self.inlined:
            return f"({self.inlined[atom.name]})" if _compound(self.inlined[atom.name]) else self.inlined[atom.name]
        if atom.name not in self.inside:
            self.reads[atom.name] = None
        return self.names.of(atom.name)

    def note(self, span: Span) -> None:
        """The `.nl` line a group of lines comes from, once."""
        if span is NOWHERE or (span.source, span.line) == (self.comment.source, self.comment.line if self.comment is not NOWHERE else 0):
            return
        self.comment = span
        self.lines.append(f"# {span.where}  {span.source.line(span.line).strip()}"[: WIDTH + 10])

    def equation(self, e: Equation) -> None:
        """Write one equation, or keep its expression for its only reader."""
        text = self.expression(e)
        if self.uses.get(e.name) == 1 and e.name not in self.outputs and len(text) < 48:
            self.inlined[e.name] = text
            return
        self.note(e.span)
        self.lines.append(f"{self.names.of(e.name)} = {text}")

    def _is_rounded(self, atom: Atom) -> bool:
        """Whether the value is bfloat16 where the module need not be."""
        return isinstance(atom, Ref) and atom.name in self.rounded

    def expression(self, e: Equation) -> str:
        if e.op == "apply" and isinstance(e.args[0], Ref) and e.args[0].name in self.params:
            W, X = self.type(e.args[0]), self.type(e.args[1])
            return ops.apply_param(W, X, self.text(e.args[0]), self.text(e.args[1]), self._is_rounded(e.args[1]))
        if e.op == "div" and number(e.args[0]) == 1.0:
            text = f"inverse({self.text(e.args[1])})"
        elif e.op == "sqrt":
            text = f"root({self.text(e.args[0])})"
        else:
            return self.express(e, self.types[e.name])
        return f"({text}).bfloat16()" if self._widens(e) else text

    def express(self, e: Equation, result: Type) -> str:
        """A value of this type; what torch would round more than once on its way is computed in float32."""
        if not self._gives_rounded(e) or not _in_steps(e):
            text = ops.express(e, result, self.text, self.type)
            return f"({text}).bfloat16()" if self._widens(e) else text
        return f"({ops.express(e, result, self._wide, self.type)}).bfloat16()"

    def _gives_rounded(self, e: Equation) -> bool:
        return bool(self.rounded) and e.op != "bfloat16" and is_rounded(e, self.rounded, self.types)

    def _widens(self, e: Equation) -> bool:
        """Whether torch widens a rounded result: for a number of each tick it does, unlike for a constant."""
        return self._gives_rounded(e) and any(not isinstance(a, Num) and not self._is_rounded(a) for a in e.args[e.op == "where" :])

    def _wide(self, atom: Atom) -> str:
        """A rounded value in float32, another one as it is."""
        return f"{self.text(atom)}.float()" if self._is_rounded(atom) else self.text(atom)


def _in_steps(e: Equation) -> bool:
    """Whether torch rounds a constant, or between the operations that a word is made of, where the values are bfloat16."""
    constant = any(isinstance(a, Num) for a in e.args)
    return e.op in ("dot", "sqnorm", "cross_entropy", "turn", "turn_back") or (constant and e.op in ("add", "sub", "div", "pow"))


def _compound(text: str) -> bool:
    """Whether an operator stands outside all brackets."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char in "+-*/@" and (i > 0 or char == "-") and not (char == "-" and text[i - 1 : i] == "e"):
            return True
    return False


def renamed(code: str, local: set[str]) -> str:
    """Code with its local names numbered as they appear: equal for functions that differ in them only."""
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        name = found[0]
        return numbers.setdefault(name, f"_{len(numbers)}") if name in local else name

    # Not in comments and strings, not attributes, not keywords of a call.
    return re.sub(r'#.*|"[^"]*"|(?<![\w.])[A-Za-z_]\w*+(?!=)', number, code)


MATRICES = frozenset({"matmul", "solve", "matrix_power", "eigenvectors", "identity"})


def worth_fusing(equations: Sequence[Equation], rounded: Collection[str]) -> bool:
    """Whether a region has at least four entrywise operations: a compilation takes seconds, a matrix product gains nothing.

    Fused code would not round between operations on bfloat16.
    """
    plain = ("apply", "gather", "flatten", "index", "copy", "transpose", "stop", *MATRICES)
    return sum(e.op not in plain for e in equations) >= 4 and not any(e.name in rounded for e in equations)
