"""One page of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """What `nldsl explain CODE` prints.

    Attributes:
        severity: error or warning.
        title: what is wrong, in a few words.
        text: why it is, and what to do.
        wrong, right: two small files; the first gives this code, the second nothing.
    """

    severity: str
    title: str
    text: str
    wrong: str = ""
    right: str = ""


def error(title: str, text: str, wrong: str = "", right: str = "") -> Code:
    return Code("error", title, " ".join(text.split()), wrong.strip("\n"), right.strip("\n"))


def warning(title: str, text: str, wrong: str = "", right: str = "") -> Code:
    return Code("warning", title, " ".join(text.split()), wrong.strip("\n"), right.strip("\n"))
