"""The tokens of one statement as lines: on one line where they fit, else broken at operators, clauses and commas."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

WIDTH = 100
INDENT = 2
CONTINUED = 4  # further in, for the lines of a statement after its first

_OPERAND_END = frozenset({"NAME", "DOTTED", "NUMBER", "STRING", "RPAR", "RSQB", "REAL", "INT", "BOOL"})
_APPLIED = _OPERAND_END | {"STORE", "LIKE", "START"}
_BREAKS = frozenset({"PLUS", "STAR", "SLASH", "BY", "OVER", "AT", "EVERY", "OFFSET", "TO", "ARROW", "FOR", "DOTS", "ON", "ELSE"})
_OPEN = frozenset({"LPAR", "LSQB"})
_CLOSE = frozenset({"RPAR", "RSQB"})


@dataclass(frozen=True)
class Piece:
    """A token or comment, its line, whether it is the first of its line, and whether a blank line is before it."""

    kind: str
    text: str
    start: int
    line: int
    own_line: bool
    blank: bool

    @property
    def is_comment(self) -> bool:
        return self.kind == "COMMENT"


def flat(pieces: list[Piece]) -> str | None:
    """The pieces on one line; None when a comment is among them."""
    if any(piece.is_comment for piece in pieces) and len(pieces) > 1:
        return None
    out = ""
    tokens = _without_last_commas(pieces)
    for number, piece in enumerate(tokens):
        if number and _spaced(tokens, number):
            out += " "
        out += piece.text
    return out


def _without_last_commas(pieces: list[Piece]) -> list[Piece]:
    kinds = [piece.kind for piece in pieces] + [""]
    return [p for i, p in enumerate(pieces) if not (p.kind == "COMMA" and kinds[i + 1] in _CLOSE)]


def _unary(pieces: list[Piece], at: int) -> bool:
    """Whether the minus at an index is a sign."""
    at -= 1
    while at >= 0 and pieces[at].is_comment:
        at -= 1
    return at < 0 or pieces[at].kind not in _OPERAND_END


def _spaced(pieces: list[Piece], at: int) -> bool:
    """Whether a space stands before pieces[at] on a line."""
    before, piece = pieces[at - 1], pieces[at]
    if piece.kind in ("COMMA", "RPAR", "RSQB", "CIRCUMFLEX") or before.kind in ("LPAR", "LSQB", "CIRCUMFLEX"):
        return False
    if before.kind == "MINUS" and _unary(pieces, at - 1):
        return False
    return not (piece.kind in _OPEN and before.kind in _APPLIED)


class _Lines:
    """Lines being written; `text` is added to the last one."""

    def __init__(self, indent: int):
        self.lines = [" " * indent]
        self.closed = False  # a comment ends the last line

    @property
    def column(self) -> int:
        return len(self.lines[-1])

    @property
    def empty(self) -> bool:
        return not self.lines[-1].strip()

    def new(self, indent: int) -> None:
        if self.empty and not self.closed:
            self.lines[-1] = " " * indent
        else:
            self.lines.append(" " * indent)
        self.closed = False

    def add(self, text: str, space: bool, indent: int) -> None:
        if self.closed:
            self.new(indent)
        self.lines[-1] += (" " if space and not self.empty else "") + text

    def comment(self, piece: Piece, indent: int) -> None:
        if piece.own_line or self.closed:
            self.new(indent)
        self.lines[-1] += ("" if self.empty else "  ") + piece.text
        self.closed = True


def broken(pieces: list[Piece], indent: int, room: int = 0) -> list[str]:
    """The pieces on several lines; `room` characters are kept free at the end."""
    out = _Lines(indent)
    pieces = _without_last_commas(pieces)
    starts = _routes(pieces)
    inner = indent + CONTINUED
    if not starts:
        _fill(out, pieces, indent, inner, room)
        return out.lines
    for start, end in pairwise([0, *starts, len(pieces)]):
        last = end
        while end < len(pieces) and pieces[last - 1].is_comment and pieces[last - 1].own_line:
            last -= 1
        if start:
            out.new(inner)
        at = inner if start else indent
        _fill(out, pieces[start:last], at, at + CONTINUED, 0)
        for piece in pieces[last:end]:  # of the route below them
            out.comment(piece, inner)
    return out.lines


def _routes(pieces: list[Piece]) -> list[int]:
    """Where the routes of a `minimize` start: names and strings stand behind an operand nowhere else in it."""
    starts: list[int] = []
    if next((p.kind for p in pieces if not p.is_comment), "") != "MINIMIZE":
        return starts
    before, opened = "", [""]  # what stands before each open bracket
    for i, piece in enumerate(pieces):
        if piece.is_comment:
            continue
        first = piece.kind in ("NAME", "STRING") and before in _OPERAND_END
        if len(opened) == 1 and (before == "COMMA" if starts else first):
            starts.append(i)
        if piece.kind in _OPEN:
            opened.append(before)
        ends = opened.pop() if piece.kind in _CLOSE else ""
        before = ends if ends == "START" else piece.kind  # `start(C)` is no operand: a memory follows
    return starts


def _fill(out: _Lines, pieces: list[Piece], indent: int, inner: int, room: int) -> None:
    """Write chunk by chunk, on a new line (at `inner`) where the next does not fit."""
    for number, (start, end) in enumerate(chunks := _chunks(pieces)):
        chunk = pieces[start:end]
        space = start > 0 and _spaced(pieces, start)
        tail = room if number == len(chunks) - 1 else 0
        if not any(piece.is_comment for piece in chunk):
            text = _chunk_text(pieces, start, end)
            if out.column + space + len(text) + tail <= WIDTH:
                out.add(text, space, inner)
                continue
            if number and inner + len(text) + tail <= WIDTH:
                out.new(inner)
                out.add(text, False, inner)
                continue
        _write(out, pieces, start, end, inner)


def _chunk_text(pieces: list[Piece], start: int, end: int) -> str:
    """pieces[start:end] on one line, spaced as in the whole."""
    text = pieces[start].text
    for i in range(start + 1, end):
        text += (" " if _spaced(pieces, i) else "") + pieces[i].text
    return text


def _chunks(pieces: list[Piece]) -> list[tuple[int, int]]:
    """Ranges of pieces between the places outside brackets where a line may be broken."""
    cuts = [0]
    depth = 0
    accepted = False  # what a rule learns on stays in one piece
    for i, piece in enumerate(pieces):
        if depth == 0 and i and piece.kind not in ("COMMA",):
            before = pieces[i - 1]
            minus = piece.kind == "MINUS" and not _unary(pieces, i)
            if (piece.kind in _BREAKS and not (accepted and piece.kind == "ARROW")) or minus or before.kind == "COMMA" or piece.is_comment or before.is_comment:
                cuts.append(i)
        accepted |= piece.kind == "ON"
        depth += piece.kind in _OPEN
        depth -= piece.kind in _CLOSE
    cuts.append(len(pieces))
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def _write(out: _Lines, pieces: list[Piece], start: int, end: int, indent: int) -> None:
    """Write a chunk that does not fit on a line or has comments: the brackets in it are opened over several lines."""
    i = start
    while i < end:
        piece = pieces[i]
        if piece.is_comment:
            out.comment(piece, indent)
            i += 1
            continue
        out.add(piece.text, i > 0 and _spaced(pieces, i), indent)
        i += 1
        if piece.kind in _OPEN:
            close = _partner(pieces, i - 1)
            inside = pieces[i:close]
            text = flat(inside)
            if not inside:
                continue
            if text is not None and not inside[0].is_comment and out.column + len(text) + 1 <= WIDTH:
                out.add(text, False, indent)
            else:
                base = _indent_of(out)
                _items(out, inside, base + INDENT)
                out.new(base)
            i = close


def _indent_of(out: _Lines) -> int:
    line = out.lines[-1]
    return len(line) - len(line.lstrip(" "))


def _partner(pieces: list[Piece], at: int) -> int:
    depth = 0
    for i in range(at, len(pieces)):
        depth += (pieces[i].kind in _OPEN) - (pieces[i].kind in _CLOSE)
        if depth == 0:
            return i
    raise AssertionError("brackets of a text without errors match")


def _items(out: _Lines, inside: list[Piece], indent: int) -> None:
    """The members of a bracket, each on lines of its own; commas stand before comments."""
    depth = 0
    members: list[tuple[list[Piece], bool]] = []
    member: list[Piece] = []
    for piece in inside:
        if piece.kind == "COMMA" and depth == 0:
            members.append((member, True))
            member = []
            continue
        depth += (piece.kind in _OPEN) - (piece.kind in _CLOSE)
        if piece.is_comment and not piece.own_line and not member and members:
            members[-1][0].append(piece)
            continue
        member.append(piece)
    members.append((member, False))
    last = max((i for i, (m, _) in enumerate(members) if any(not p.is_comment for p in m)), default=-1)
    for number, (member, comma) in enumerate(members):
        end = max((i + 1 for i, p in enumerate(member) if not p.is_comment), default=0)
        comma = comma and number < last
        begin = next((i for i, p in enumerate(member) if not p.is_comment), len(member))
        for piece in member[:begin]:
            out.comment(piece, indent)
        if end:
            out.new(indent)
            _fill(out, member[begin:end], indent, indent + INDENT, comma)
            if comma:
                out.add(",", False, indent)
        for piece in member[max(begin, end) :]:
            out.comment(piece, indent)
