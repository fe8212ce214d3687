"""Texts to tokens. Lexing never fails: what starts no token becomes a diagnostic and is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nldsl.diagnostics import Diagnostic, Label
from nldsl.parse_table import END, tables
from nldsl.source import Source, Span


class Token(NamedTuple):
    """A token; one that was supplied by a repair has start == end."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Lexed:
    """Tokens (the last is `$END`), comments, places of characters left out, and what the lexer had to say."""

    tokens: list[Token]
    comments: list[Token]
    noise: list[int]
    diagnostics: list[Diagnostic]


def lex(source: Source) -> Lexed:
    table = tables()
    words = table.words
    tokens: list[Token] = []
    comments: list[Token] = []
    diagnostics: list[Diagnostic] = []
    bad: list[Token] = []
    noise: list[int] = []
    for match in table.token.finditer(source.text):
        kind = match.lastgroup or ""
        if kind == "SPACE":
            continue
        text = match.group()
        token = Token(words.get(text, kind) if kind == "NAME" else kind, text, match.start(), match.end())
        if kind == "COMMENT":
            comments.append(token)
        elif kind == "BAD":
            if bad and bad[-1].end == token.start:
                bad[-1] = Token("BAD", "", bad[-1].start, token.end)
            else:
                bad.append(token)
        elif kind == "QUOTED":
            message = "a string stands between double quotes"
            span = Span(source, token.start, token.end)
            diagnostics.append(Diagnostic("NL008", message, (Label(span),), help='write "..."'))
            tokens.append(Token("STRING", f'"{text[1:-1]}"', token.start, token.end))
        elif kind == "UNCLOSED":
            diagnostics.append(_unclosed(source, token))
            noise.append(token.start)
            tokens.append(Token("STRING", text + '"', token.start, token.end))
        else:
            if kind == "NUMBER":
                wrong = _number(source, token)
                diagnostics.extend(wrong)
                noise.extend(token.start for _ in wrong)
            tokens.append(token)
    diagnostics.extend(_unknown(source, token) for token in bad)
    end = len(source.text.rstrip())
    tokens.append(Token(END, "", end, end))
    return Lexed(tokens, comments, sorted(noise + [token.start for token in bad]), diagnostics)


def number_value(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _number(source: Source, token: Token) -> list[Diagnostic]:
    """A number that runs into a word, or that no computer number holds."""
    text = source.text
    end = token.end
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    span = Span(source, token.start, end)
    if end > token.end:
        message = f"`{_short(span.text)}` is not a number, and a name cannot start with a digit"
        fix = f"{token.text} * {text[token.end : end]}" if text[token.end].isalpha() else None
        help = f"for a product write `{_short(fix)}`" if fix else "write the digits without `_`"
        return [Diagnostic("NL004", message, (Label(span),), help=help)]
    if len(token.text) > 40 or number_value(token.text) in (float("inf"),):
        message = f"the number `{_short(token.text)}` is too long or too large"
        return [Diagnostic("NL004", message, (Label(span),), expected="at most 40 characters and at most 1e308")]
    return []


def _unclosed(source: Source, token: Token) -> Diagnostic:
    message = 'this string has no closing `"` on its line'
    return Diagnostic("NL005", message, (Label(Span(source, token.start, token.end)),), help='close it with `"`')


def _unknown(source: Source, token: Token) -> Diagnostic:
    """A run of characters that start no token."""
    text = source.text[token.start : token.end]
    span = (Label(Span(source, token.start, token.end)),)
    code, help = "NL002", None
    if text[0] == ";":
        code, message = "NL008", "statements are not separated by `;`"
        help = "leave it out: a statement ends where the next one starts"
    elif text[0] == "@":
        code, message = "NL008", "there is no operator `@`: a linear operator is applied like a function"
        help = "write `W(x)` for `W @ x`"
    elif text[0] == "\ufffd":
        message = "this is not UTF-8 text"
    elif text[0] == "'":
        code, message, help = "NL008", "a string stands between double quotes", 'write "..."'
    elif text[0] in "<>!&|%?~":
        message = f"there is no operator `{_short(text)}`"
    elif text[0] == ".":
        message = "a `.` joins the parts of a name, a number or a range, without spaces"
        help = "write `data.x`, `0.5` or `0 .. 4`"
    elif text[0].isalpha():
        message = f"a name has only the letters a to z, digits and `_`, not `{_short(text)}`"
    elif text[0].isprintable():
        message = f"`{_short(text)}` starts nothing here"
    else:
        message = f"the character U+{ord(text[0]):04X} starts nothing here"
    return Diagnostic(code, message, span, help=help)


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:20] + " ..."
