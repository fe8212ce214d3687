"""What is said about a syntax error: from the tokens that could stand there, in the words of the language."""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import Any

from nldsl.diagnostics import Diagnostic, Label, did_you_mean
from nldsl.parse_lex import Token
from nldsl.parse_scan import CLOSERS, OPENERS, Scanned
from nldsl.parse_stack import Stack
from nldsl.parse_table import END, tables
from nldsl.source import Span

_OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX", "DOTS", "LPAR", "LSQB"}
_GROUPS = (
    ({"REAL", "INT"}, {"REAL", "INT", "BOOL", "STORE", "LIKE", "NAME", "DOTTED", "NUMBER", "STRING", "MINUS", "LPAR",
                       "LSQB", "LAST", "START"}, "a type"),
    ({"NUMBER"}, {"NAME", "DOTTED", "NUMBER", "STRING", "MINUS", "LPAR", "LSQB", "LAST", "START"}, "an expression"),
    ({"PARAM"}, {"IN", "PARAM", "MEMORY", "EACH", "FOR", "CHAIN", "OUT", "UPDATE", "MINIMIZE", "SCHEDULE", "NAME"},
     "a statement"),
    ({"KEY"}, {"KEY", "VALUE", "RESET", "UPDATE", "MINIMIZE", "WRITES", "FLUSH", "SHARED"},
     "a clause (key, value, minimize, update, reset, writes, flush or shared)"),
    ({"BLOCK"}, {"IMPORT", "CONST", "BLOCK", "RULE", "SCHEDULE", "TRAIN", END},
     "an item (import, const, block, rule, schedule or train)"),
)  # fmt: skip

_CLAUSES = frozenset({"KEY", "VALUE", "RESET", "UPDATE", "MINIMIZE", "WRITES", "FLUSH", "SHARED"})
_STATEMENTS = frozenset({"IN", "PARAM", "MEMORY", "EACH", "FOR", "CHAIN", "OUT"})

# Words of other languages -> what to write; "block" also stands for it, "" is left out.
FOREIGN = {
    "def": "block", "fn": "block", "func": "block", "function": "block", "class": "block", "module": "block",
    "let": "", "var": "", "val": "", "lambda": "-", "return": "-", "if": "-", "while": "-",
}  # fmt: skip
_ADVICE = {
    "block": "write `block NAME(parameters) { ... }`",
    "lambda": "write a block, or an equation with a name",
    "return": "write `out NAME = ...`",
    "": "write `NAME = ...`",
    "-": "an equation holds always; there are no branches and no loops besides `each`, `for` and `chain`",
}


class Where:
    """An error: the stack that does not take tokens[index]."""

    def __init__(self, stack: Stack, scanned: Scanned, index: int):
        self.stack, self.scanned, self.index = stack, scanned, index
        self.token = scanned.tokens[index]
        self.previous = scanned.tokens[index - 1] if index else None
        self.new_line = index in scanned.first or self.token.kind == END
        self.top: Any = stack.values[-1] if stack.values else None

    @cached_property
    def accepted(self) -> set[str]:
        return self.stack.accepted()

    @cached_property
    def opener(self) -> Token | None:
        """The innermost open bracket."""
        for value in reversed(self.stack.values):
            if isinstance(value, Token) and value.kind in OPENERS:
                return value
        return None

    @cached_property
    def statement(self) -> Token | None:
        """The first word of the statement in progress."""
        base = self.stack.boundary()
        value = self.stack.values[base] if base < len(self.stack.values) else None
        return value if isinstance(value, Token) else None

    @cached_property
    def routed(self) -> bool:
        """Whether this is in a `minimize` of a `train` block."""
        inside = any(isinstance(value, Token) and value.kind == "TRAIN" for value in self.stack.values)
        return inside and self.statement is not None and self.statement.kind == "MINIMIZE"

    def span(self, token: Token) -> Span:
        return Span(self.stack.source, token.start, max(token.end, token.start))

    def gap(self) -> Span:
        """Where something is missing: the token found there, or what stands before it on an earlier line."""
        if self.new_line and self.previous and self.previous.end > self.previous.start:
            return self.span(self.previous)
        return self.span(self.token)

    def report(self, diagnostic: Diagnostic) -> None:
        """Say it, unless an unknown character beside it was reported: that is the mistake."""
        start = self.scanned.tokens[max(0, self.index - 2)].start if self.index else 0
        noise = self.scanned.noise
        at = bisect_left(noise, start)
        if at < len(noise) and noise[at] <= self.token.start:
            return
        self.stack.diagnostics.append(diagnostic)


def found(token: Token) -> str:
    return "the end of the file" if token.kind == END else f"`{short(token.text)}`"


def short(text: str) -> str:
    return text if len(text) <= 30 else text[:26] + " ..."


def expected(accepted: set[str]) -> str:
    """A set of token kinds in words."""
    left = set(accepted)
    words = []
    if "PLUS" in left and left - _OPERATORS:
        left -= _OPERATORS
    elif "PLUS" in left:
        left, words = set(), ["an operator"]
    for marks, members, text in _GROUPS:
        if marks <= left:
            words.append(text)
            left -= members
    names = {"NAME": "a name", "DOTTED": "a dotted name", "STRING": "a string", END: "the end of the file"}
    if {"COMMA", "RPAR"} <= left:
        left -= {"EQUAL", "FOR"}  # possible after the first name of an argument, never what is missing
    if "NAME" in left:
        left.discard("DOTTED")
    order = sorted(left, key=lambda kind: (kind not in names, kind))
    words += [names[kind] if kind in names else f"`{tables().symbols[kind]}`" for kind in order]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "nothing"


def _make(where: Where, code: str, message: str, span: Span, help: str | None = None, *more: Label) -> Diagnostic:
    return Diagnostic(code, message, (Label(span), *more), expected(where.accepted), found(where.token), help)


def plain(where: Where) -> Diagnostic:
    """An error without a repair."""
    token, previous = where.token, where.previous
    if where.index in where.scanned.strays:
        return _make(where, "NL006", f"this {found(token)} closes nothing", where.span(token), "leave it out")
    if token.kind in _CLAUSES and "PARAM" in where.accepted:
        return _make(where, "NL010", f"`{token.text}` stands in the braces of a memory", where.span(token))
    if token.kind in _STATEMENTS and "KEY" in where.accepted:
        message = f"`{token.text}` cannot stand in the braces of a memory"
        return _make(where, "NL010", message, where.span(token), "write it before the `memory`")
    if token.kind in (_STATEMENTS | _CLAUSES) - {"UPDATE"} and "BLOCK" in where.accepted:
        message = f"`{token.text}` stands inside a block, not by itself"
        return _make(where, "NL010", message, where.span(token), "write `block NAME { ... }` around it")
    message = f"{found(token)} cannot stand here" if token.kind != END else "the file ends in the middle of a statement"
    if previous is not None and token.kind != END:
        message = f"{found(token)} cannot stand after {found(previous)}"
    help = None
    if token.kind == "NAME" and ("BLOCK" in where.accepted or "KEY" in where.accepted):
        words = [text for text, kind in tables().words.items() if kind in where.accepted]
        near = did_you_mean(token.text, words)
        help = f"did you mean `{near}`?" if near else None
    elif token.kind == "ELSE":
        help = _ADVICE["-"]
    return _make(where, "NL001", message, where.span(token), help)


def repaired(where: Where, repair: Any) -> Diagnostic:
    """An error that a repair gets past."""
    token, words = where.token, repair.words
    if where.index in where.scanned.strays and repair.skip and token.kind in CLOSERS:
        return _stray(where, words)
    if token.kind == "BY" and any(isinstance(value, Token) and value.kind == "SCHEDULE" for value in where.stack.values):
        message = f"a `,` joins what is asked of one memory, and {found(where.previous or token)} is another"
        return _make(where, "NL001", message, where.span(where.previous or token), "leave out the `,` before it")
    if repair.pop:
        return _reserved(where, where.top)
    if words == ("NAME",):
        if repair.skip and token.text in tables().words:
            return _reserved(where, token)
        if repair.skip:
            help = "a declared name has no dots" if token.kind == "DOTTED" else None
            return _make(where, "NL001", f"{found(token)} cannot stand where a name is due", where.span(token), help)
        return _missing_value(where)
    if repair.skip and words:
        message = f"{_text(words[0])} stands here, not {found(token)}"
        return _make(where, "NL001", message, where.span(token), _example(where, words[0]))
    if not words:
        return plain(where)
    return _missing(where, words[0])


def _stray(where: Where, words: tuple[str, ...]) -> Diagnostic:
    token, opener = where.token, where.opener
    if words and opener:
        message = f"`{opener.text}` is closed by `{token.text}`"
        label = Label(where.span(opener), "opened here")
        return _make(where, "NL006", message, where.span(token), f"write {_text(words[0])}", label)
    return _make(where, "NL006", f"this `{token.text}` closes nothing", where.span(token), "leave it out")


def _reserved(where: Where, token: Token) -> Diagnostic:
    message = f"`{token.text}` is a word of the language and cannot be a name"
    return Diagnostic(
        "NL007", message, (Label(where.span(token)),), "a name", f"`{token.text}`", f"call it `{token.text}_`"
    )


def _missing_value(where: Where) -> Diagnostic:
    if where.token.kind == "ARROW" and {"ELSE", "COMMA"} <= where.accepted and where.previous:
        message = f"`{where.previous.text}` stands in the list of roles, and before `->` it is a size"
        return _make(where, "NL009", message, where.gap(), f"no `,` before the type: on matrices {where.previous.text} -> e")
    what = "an expression" if "NUMBER" in where.accepted else "a name"
    if "REAL" in where.accepted:
        what = "a type"
    place = f"after {found(where.previous)}" if where.previous else "here"
    return _make(where, "NL009", f"{what} is missing {place}", where.gap())


def _missing(where: Where, kind: str) -> Diagnostic:
    text = _text(kind)
    statement = where.statement
    opener = where.opener
    if kind in CLOSERS and opener:
        label = Label(where.span(opener), f"this `{opener.text}` is not closed")
        message = f"{text} is missing before {found(where.token)}"
        return _make(where, "NL006", message, where.gap(), None, label)
    gap = where.gap()
    if kind == "BY" and where.routed:
        message = "a `minimize` needs `by` and its rule" if where.previous is None else f"`by` and a rule are missing after {found(where.previous)}"
    elif kind == "BY":
        message = "a `minimize` needs `by` and its steps"
        after = where.stack.boundary() + 2  # `minimize`, the objective, and what stands where `by` is due
        if after < len(where.stack.starts):
            gap = Span(gap.source, where.stack.starts[after], where.stack.ends[-1])
    elif kind == "ARROW":
        message = "the type of an operator needs `->` between its domain and its codomain"
    elif kind == "COLON" and statement:
        message = f"`:` and a type are missing in this `{statement.text}`"
        if where.token.kind not in ("EQUAL", "LBRACE", "EVERY") and not where.new_line:
            message = f"`:` is missing between the name and the type in this `{statement.text}`"
    elif kind == "EQUAL" and where.previous:
        message = f"`=` is missing after {found(where.previous)}"
    elif where.previous:
        message = f"{text} is missing between {found(where.previous)} and {found(where.token)}"
    else:
        message = f"{text} is missing here"
    return _make(where, "NL009", message, gap, _example(where, kind))


def _example(where: Where, kind: str) -> str | None:
    """What the statement looks like when right."""
    statement = where.statement
    word = statement.text if statement else ""
    if kind == "COLON":
        return {
            "in": "write `in x : real[d]`",
            "param": "write `param W : d -> e = INIT`",
            "memory": "write `memory M : d -> e = INIT { ... }`",
        }.get(word)
    examples = {
        "ARROW": "write `DOMAIN -> CODOMAIN`, or `real[...]` for a vector",
        "BY": "write `minimize EXPR matrices by muon(), rest by adamw()`" if where.routed else "write `minimize EXPR by gd(0.1)`",
        "LBRACE": f"write `{word} ... {{ ... }}`",
    }
    if kind == "IN" and word in ("each", "for"):
        return f"write `{word} NAME in RANGE {{ ... }}`"
    if kind in ("IN", "OVER") and word == "chain":
        return "write `chain h = EXPR over i in RANGE { ... }`"
    return examples.get(kind)


def _text(kind: str) -> str:
    return f"`{tables().symbols[kind]}`"


def last_brackets(where: Where, name: str | None) -> Diagnostic:
    message = "`last` stands before a name, without brackets"
    help = f"write `last {name}`" if name else "give the expression a name and write `last NAME`"
    return Diagnostic("NL012", message, (Label(where.span(where.token)),), "a name", "`(`", help)


def foreign(where: Where, word: Token) -> Diagnostic:
    kind = FOREIGN[word.text]
    help = _ADVICE.get(word.text) or _ADVICE[kind]
    return Diagnostic("NL008", f"there is no `{word.text}` in this language", (Label(where.span(word)),), help=help)


def side_by_side(where: Where, left: Token, right: Token) -> Diagnostic:
    message = f"{found(left)} and {found(right)} stand side by side"
    help = f"apply with brackets, `{short(left.text)}({short(right.text)})`, or write an operator between them"
    if left.kind != "NAME":
        help = "write an operator or `,` between them"
    return Diagnostic(
        "NL001", message, (Label(where.span(right)),), "an operator or the next statement", found(right), help
    )
