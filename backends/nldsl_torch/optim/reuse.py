"""Local names of straight lines used again once their value is no longer read: less to read, and memory is free sooner."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

# A name that is a variable: no attribute, no text, no keyword of a call.
VARIABLE = re.compile(r"""("[^"]*"|'[^']*')|(?<![\w.])([A-Za-z_]\w*)(?!\w)(?!=(?!=))""")


def reuse_names(lines: Sequence[str], fixed: Collection[str]) -> list[str]:
    """Lines of assignments, comments and a return with as few names as their values need; `fixed` stay as they are.

    >>> reuse_names(["x = f(w)", "x_1 = f(x)", "y = g(x_1, x)", "x_2 = f(y)", "return x_2"], ["w"])
    ['x = f(w)', 'x_1 = f(x)', 'y = g(x_1, x)', 'x = f(y)', 'return x']
    """
    made = {name for line in lines for name in _targets(line)} - set(fixed)
    last = {name: n for n, line in enumerate(lines) for name in _read(line) if name in made}
    taken = {name for line in lines for name in _read(line)} - made | set(fixed)
    now: dict[str, str] = {}  # the name a value has got
    busy: dict[str, str] = {}  # the value a name stands for
    out = []
    for n, line in enumerate(lines):
        head, _, body = line.partition(" = ") if _targets(line) else ("", "", line)
        body = body if line.lstrip().startswith("#") else _each(body, lambda name: now.get(name, name))
        if not head:
            out.append(body)
            continue
        for new in [name for name, value in busy.items() if last.get(value, -1) <= n]:
            del busy[new]
        for value in _targets(line):
            if value in made and value not in now:
                base = re.sub(r"(_\d+)+$", "", value)
                new, number = base, 0
                while new in busy or new in taken or (new in made and new != base and new != value and new not in now.values()):
                    number += 1
                    new = f"{base}_{number}"
                now[value], busy[new] = new, value
        out.append(f"{_each(head, lambda name: now.get(name, name))} = {body}")
    return out


def _targets(line: str) -> list[str]:
    head = re.match(r"^\s*\(?([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*),?\)? = ", line)
    return head[1].split(", ") if head else []


def _read(line: str) -> list[str]:
    body = line.partition(" = ")[2] if _targets(line) else line
    return [] if line.lstrip().startswith("#") else [m[2] for m in VARIABLE.finditer(body) if m[2]]


def _each(text: str, name: Callable[[str], str]) -> str:
    return VARIABLE.sub(lambda m: m[0] if m[1] else name(m[2]), text)
