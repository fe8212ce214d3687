"""The canonical layout of `.nl` texts.

* Two spaces of indentation, lines of at most 100 characters where the text can be broken, one statement a line.
* Statements that the author put on one line stay on it, two spaces apart, while they fit.
* A body in braces on one line stays on it when the whole statement fits and has no comments.
* A blank line between statements stays, one at most.
* All comments stay: one on its own line keeps its own line, one behind text stays behind that text.
* The routes of a `minimize` that does not fit on a line stand on lines of their own.
* Round brackets are kept as written; a comma before a closing bracket is left out.

The layout depends on tokens, comments and, of the author's white space, only on these choices: hence it is idempotent.
"""

from __future__ import annotations

from nldsl import tree
from nldsl.diagnostics import NlError
from nldsl.format_line import INDENT, WIDTH, Piece, broken, flat
from nldsl.format_units import Unit, units
from nldsl.parse import parse
from nldsl.printer import print_expr, print_item
from nldsl.source import Source

__all__ = ["format_text", "print_expr", "print_file"]


def format_text(source: Source) -> str:
    """The text in canonical layout; a text with syntax errors raises `NlError` with them."""
    file, diagnostics = parse(source)
    if diagnostics:
        raise NlError(*diagnostics)
    lines = _body(units(source, file), 0)
    return "".join(f"{line}\n" for line in lines)


def print_file(file: tree.File) -> str:
    """A tree as text in canonical layout."""
    text = "\n\n".join(print_item(item) for item in file.items)
    return format_text(Source("<tree>", text))


def _body(members: list[Unit], indent: int) -> list[str]:
    lines: list[str] = []
    open_line = False  # the last line holds whole statements that another may follow
    for number, unit in enumerate(members):
        if unit.blank and number:
            lines.append("")
        text = _one_line(unit)
        if text is not None and unit.joined and open_line and not unit.braces:
            if len(lines[-1]) + 2 + len(text) <= WIDTH:
                lines[-1] += "  " + text
                open_line = not _comment(lines, unit.after, indent)
                continue
        if text is not None and (indent + len(text) <= WIDTH or unit.pieces[0].is_comment):
            lines.append(" " * indent + text)
            open_line = not unit.braces
        else:
            lines += _long(unit, indent)
            open_line = False
        open_line = not _comment(lines, unit.after, indent) and open_line
    return lines


def _comment(lines: list[str], comments: list[Piece], indent: int) -> bool:
    """Put comments behind the last line, or below it where one is there."""
    for number, comment in enumerate(comments):
        if number or not lines or comment.own_line:
            lines.append(" " * indent + comment.text)
        else:
            lines[-1] += "  " + comment.text
    return bool(comments)


def _one_line(unit: Unit) -> str | None:
    """The unit on one line, or None where comments or the author have it on several."""
    text = flat(unit.pieces)
    if text is None or not unit.braces:
        return text
    if not unit.body and not unit.opened:
        return text + " {}"
    if not unit.short or unit.opened:
        return None
    parts = []
    for part in unit.body:
        line = None if part.after else _one_line(part)
        if line is None:
            return None
        parts.append(line)
    return f"{text} {{ {'  '.join(parts)} }}"


def _long(unit: Unit, indent: int) -> list[str]:
    if not unit.pieces:
        return [" " * indent]
    lines = broken(unit.pieces, indent, 2 if unit.braces else 0)
    if unit.braces:
        if unit.pieces[-1].is_comment:
            lines.append(" " * indent + "{")
        else:
            lines[-1] += " {"
        _comment(lines, unit.opened, indent + INDENT)
        lines += _body(unit.body, indent + INDENT)
        lines.append(" " * indent + "}")
    return lines
