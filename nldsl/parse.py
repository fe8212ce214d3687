"""Texts to trees: `parse` returns a tree and all syntax errors of a file, and raises on no text.

The parser runs the LALR table of `grammar/nl.lark`. On an error it looks for a small repair (a token to insert, replace
or leave out) after which the text goes on, and otherwise skips to the next statement (`nldsl.parse_recover`).
A statement that needed an invented part is left out of the tree.
"""

from __future__ import annotations

from nldsl import tree
from nldsl.diagnostics import Diagnostic
from nldsl.parse_check import check
from nldsl.parse_lex import lex
from nldsl.parse_recover import recover
from nldsl.parse_scan import MAX_TEXT, Scanned, scan, too_deep, too_large
from nldsl.parse_stack import Stack
from nldsl.source import Source, Span

MAX_ERRORS = 100


def parse(source: Source) -> tuple[tree.File, list[Diagnostic]]:
    """The tree of a text, without its broken statements, and the errors in order of place."""
    empty = tree.File((), Span(source, 0, len(source.text)))
    if len(source.text) > MAX_TEXT:
        return empty, [too_large(source)]
    lexed = lex(source)
    deep = too_deep(source, lexed.tokens)
    if deep:
        return empty, [deep]
    scanned = scan(source, lexed)
    diagnostics = lexed.diagnostics + scanned.diagnostics
    stack = Stack(source, diagnostics)
    file = _run(stack, scanned) or empty
    file = tree.File(file.items, empty.span)
    broken = {d.spans[0].span.start for d in diagnostics}
    diagnostics.extend(d for d in check(file) if d.spans[0].span.start not in broken)
    return file, _select(diagnostics)


def parse_text(text: str, name: str = "<text>") -> tuple[tree.File, list[Diagnostic]]:
    return parse(Source(name, text))


def _run(stack: Stack, scanned: Scanned) -> tree.File | None:
    tokens = scanned.tokens
    index = 0
    errors = 0
    while index < len(tokens):
        token = tokens[index]
        if stack.feed(token):
            index += 1
            continue
        errors += 1
        if errors > MAX_ERRORS:
            return None
        index = recover(stack, scanned, index)
    return stack.result


def _select(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """In order of place, each place once, at most MAX_ERRORS."""
    seen = set()
    out = []
    for diagnostic in sorted(diagnostics, key=Diagnostic.sort_key):
        key = (diagnostic.code, diagnostic.spans[0].span.start)
        if key not in seen:
            seen.add(key)
            out.append(diagnostic)
    return out[:MAX_ERRORS]
