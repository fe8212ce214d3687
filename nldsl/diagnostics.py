"""Diagnostics are values: a code, one line that stands alone, places, what was expected and found, one fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from nldsl.codes import CODES
from nldsl.source import Span


@dataclass(frozen=True)
class Label:
    """A place and what to say there (may be empty)."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One mistake or warning.

    Attributes:
        code: `NL` and three digits, described in `nldsl.codes`.
        message: one line that stands alone.
        spans: the place first, then the declarations that are the reason.
        expected, found: what would have been right, and what is there.
        help: one fix, valid `.nl` where it is code.
    """

    code: str
    message: str
    spans: tuple[Label, ...] = ()
    expected: str | None = None
    found: str | None = None
    help: str | None = None

    @property
    def severity(self) -> str:
        return CODES[self.code].severity

    def sort_key(self) -> tuple[str, int, str]:
        first = self.spans[0].span if self.spans else None
        return (first.source.name, first.start, self.code) if first else ("", -1, self.code)

    def to_json(self) -> dict[str, Any]:
        def place(label: Label) -> dict[str, Any]:
            span = label.span
            end_line, end_column = span.source.position(span.end)
            return {
                "file": span.source.name,
                "line": span.line,
                "column": span.column,
                "end_line": end_line,
                "end_column": end_column,
                "text": label.text,
            }

        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "spans": [place(label) for label in self.spans],
            "expected": self.expected,
            "found": self.found,
            "help": self.help,
        }

    def render(self) -> str:
        """The text form: headline, source lines with carets, expected and found, help."""
        out = [f"{self.severity}[{self.code}]: {self.message}"]
        labels = list(self.spans)
        width = max((len(str(label.span.line)) for label in labels), default=1)
        gutter = " " * width
        for number, label in enumerate(labels):
            span = label.span
            line, column = span.source.position(span.start)
            text = span.source.line(line)
            end_line, end_column = span.source.position(span.end)
            stop = end_column if end_line == line else len(text) + 1
            shown, shift = _clip(text, column)
            carets = ("^" if number == 0 else "-") * max(1, min(stop, shift + len(shown) + 1) - column)
            out.append(f"{gutter}{'-->' if number == 0 else ':::'} {span.source.name}:{line}:{column}")
            out.append(f"{gutter} |")
            out.append(f"{line:>{width}} | {shown}")
            pad = "".join("\t" if char == "\t" else " " for char in shown[: column - 1 - shift])
            out.append(f"{gutter} | {pad}{carets} {label.text}".rstrip())
        if self.expected is not None:
            out.append(f"{gutter} = expected: {self.expected}")
        if self.found is not None:
            out.append(f"{gutter} =    found: {self.found}")
        if self.help is not None:
            out.append(f"{gutter} = help: {self.help}")
        return "\n".join(out)


def _clip(text: str, column: int, width: int = 120) -> tuple[str, int]:
    """A part of a long line around the column, and how many characters were cut before it."""
    if len(text) <= width:
        return text, 0
    start = max(0, column - 1 - width // 3)
    return text[start : start + width], start


class NlError(Exception):
    """Carries diagnostics to the caller; its text is their rendering."""

    def __init__(self, *diagnostics: Diagnostic):
        self.diagnostics = diagnostics
        super().__init__("\n\n".join(d.render() for d in diagnostics))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The nearest known name, when one is near enough to be meant."""
    names = sorted(set(known))
    matches = get_close_matches(name, names, n=1, cutoff=0.6)
    if not matches:
        matches = [k for k in names if k.lower() == name.lower()]
    return matches[0] if matches else None
