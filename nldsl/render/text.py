"""The levels as lines of text, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from nldsl.check.levels import Level

WIDTH = 92


def levels_text(levels: Sequence[Level]) -> str:
    """A table with one line a level, slowest first.

    >>> from nldsl.check.levels import Level
    >>> print(levels_text([Level(1, 0, ("layer/S.m",)), Level(1, 1, ("layer/S",)), Level(None, 0, ("W", "E"))]))
    outer step   2 params   W, E
    each tick    1 memory   layer/S
    each tick    1 memory   layer/S.m
    """
    rows = []
    for level in reversed(levels):
        what = {None: "param", 0: "store"}.get(level.period, "memory")
        n = len(level.members)
        plural = {"memory": "memories"}.get(what, what + "s")
        rows.append((level.clock, f"{n} {what if n == 1 else plural}", _members(level.members)))
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}   {b:<{widths[1]}}   {c}" for a, b, c in rows)


def _members(names: Sequence[str]) -> str:
    text = ""
    for n, name in enumerate(names):
        added = f"{text}, {name}" if text else name
        if len(added) > WIDTH - 36 and text:
            return f"{text} and {len(names) - n} more"
        text = added
    return text
