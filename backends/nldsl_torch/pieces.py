"""Straight lines in as few pieces as their order allows: functions of fixed shapes, and lines that stand apart, as what they read grows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from nldsl_torch.adjoint_lines import made


def pieces(lines: Sequence[str], apart: Collection[str]) -> list[tuple[bool, list[str]]]:
    """Runs of lines, each with whether it stands apart; a line comes after those that give what it mentions."""
    if not apart:
        return [(False, list(lines))]
    waiting = _with_comments(lines)
    makers = {name: n for n, part in enumerate(waiting) for name in made(part)}
    needs = [{makers[w] for w in re.findall(r"\w+", part[-1].partition(" = ")[2]) if w in makers} - {n} for n, part in enumerate(waiting)]
    found: list[tuple[bool, list[str]]] = []
    left, done, turn = list(range(len(waiting))), set[int](), False
    while left:
        run: list[str] = []
        for n in left:
            if (waiting[n][-1] in apart) is turn and needs[n] <= done:
                run += waiting[n]
                done.add(n)
        left = [n for n in left if n not in done]
        found += [(turn, run)] * bool(run)
        turn = not turn
    return found


def _with_comments(lines: Sequence[str]) -> list[list[str]]:
    """Each line with the comments above it."""
    parts: list[list[str]] = [[]]
    for line in lines:
        parts[-1].append(line)
        if not line.startswith("#"):
            parts.append([])
    return parts[:-1] if not parts[-1] else [*parts[:-2], [*parts[-1], *parts[-2]]]
