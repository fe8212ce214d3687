"""Tokens and comments to units: statements with their bodies and the comments that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nldsl import tree
from nldsl.format_line import Piece
from nldsl.parse_build import ASKS, CLAUSES, ITEMS, STATEMENTS
from nldsl.parse_lex import lex
from nldsl.source import Source

_WHOLE = STATEMENTS + CLAUSES + ASKS + ITEMS


@dataclass
class Unit:
    """A statement, clause or item, or a comment on lines of its own.

    Attributes:
        pieces: the tokens before the brace, with the comments among them.
        blank: the author left a blank line before it.
        joined: the author put it on the line where the unit before it ends.
        braces, opened, body: whether it has a body, the comments behind `{`, and its units.
        short: the author wrote the body on one line.
        after: comments behind its end.
    """

    pieces: list[Piece]
    blank: bool = False
    joined: bool = False
    braces: bool = False
    short: bool = False
    opened: list[Piece] = field(default_factory=list)
    body: list[Unit] = field(default_factory=list)
    after: list[Piece] = field(default_factory=list)


def units(source: Source, file: tree.File) -> list[Unit]:
    """The units of a text without syntax errors."""
    return _Reader(source, file).read_body()


def _starts(node: Any, found: set[int]) -> set[int]:
    """Where the statements, clauses and items in a tree start."""
    if isinstance(node, _WHOLE):
        found.add(node.span.start)
    for name in ("items", "body", "clauses"):
        part = getattr(node, name, ())
        if isinstance(part, tuple):
            for kid in part:
                if isinstance(kid, _WHOLE):
                    _starts(kid, found)
    return found


class _Reader:
    def __init__(self, source: Source, file: tree.File):
        lexed = lex(source)
        self.source = source
        self.starts = _starts(file, set())
        pieces = []
        end_line = 0
        for token in sorted(lexed.tokens[:-1] + lexed.comments, key=lambda token: token.start):
            line = source.position(token.start)[0]
            pieces.append(
                Piece(token.kind, token.text.rstrip(), token.start, line, line > end_line, line > end_line + 1)
            )
            end_line = line
        self.pieces = pieces
        self.at = 0

    def read_body(self) -> list[Unit]:
        """Units up to the closing brace or the end, which is left."""
        out: list[Unit] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            if piece.kind == "RBRACE":
                break
            if piece.is_comment:
                self.at += 1
                if piece.own_line or not out:
                    out.append(Unit([piece], blank=piece.blank))
                else:
                    out[-1].after.append(piece)
                continue
            before = self.pieces[self.at - 1] if self.at else None
            joined = before is not None and not piece.own_line and not before.is_comment and bool(out)
            out.append(self.read_unit(piece.blank, joined))
        return out

    def read_unit(self, blank: bool, joined: bool) -> Unit:
        first = self.at
        end = self.at + 1  # after the last token of the unit
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            if piece.kind in ("LBRACE", "RBRACE") or (self.at > first and piece.start in self.starts):
                break
            self.at += 1
            if not piece.is_comment:
                end = self.at
        if self.at == len(self.pieces) or self.pieces[self.at].kind != "LBRACE":
            self.at = end
            return Unit(self.pieces[first:end], blank, joined)
        unit = Unit(self.pieces[first : self.at], blank, joined, braces=True)
        opener = self.pieces[self.at]
        self.at += 1
        while self.at < len(self.pieces) and self.pieces[self.at].is_comment and not self.pieces[self.at].own_line:
            unit.opened.append(self.pieces[self.at])
            self.at += 1
        unit.body = self.read_body()
        unit.short = self.pieces[self.at].line == opener.line
        self.at += 1
        return unit
