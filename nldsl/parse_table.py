"""The LALR table and the token patterns of `grammar/nl.lark`, built by Lark once and kept in the user's cache.

The cache is JSON under a name that holds the hash of everything it depends on: it is never stale, and a warm start does
not import Lark. Where the cache cannot be read or written, the table is built anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

END = "$END"
_FORMAT = 1  # of the cached JSON


@dataclass(frozen=True)
class Tables:
    """What the lexer and the parser run on.

    Attributes:
        start, end: the state of an empty stack, and the state in which `$END` accepts.
        states: for each state, symbol -> next state when >= 0, or -1 - r to reduce by rule r.
        rules: (builder, left side, length of the right side); helper rules of repetitions start with "__".
        words: reserved word -> its token kind.
        token: one pattern for all tokens, one named group a kind, in order of precedence.
    """

    start: int
    end: int
    states: list[dict[str, int]]
    rules: list[tuple[str, str, int]]
    words: dict[str, str]
    symbols: dict[str, str]  # token kind -> its fixed text, of words and of punctuation
    token: re.Pattern[str]


def grammar_text() -> str:
    """The grammar, from the installed package or from the checkout."""
    try:
        return resources.files("nldsl.grammar").joinpath("nl.lark").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        return Path(__file__).parent.parent.joinpath("grammar", "nl.lark").read_text(encoding="utf-8")


@cache
def tables() -> Tables:
    """The tables, from the cache when it has them."""
    text = grammar_text()
    path = _cache_path(text)
    data = _read(path)
    if data is None:
        data = _build(text)
        _write(path, data)
    return Tables(
        data["start"],
        data["end"],
        data["states"],
        [tuple(rule) for rule in data["rules"]],
        data["words"],
        data["symbols"],
        re.compile(data["token"]),
    )


def lark_parser(strict: bool = False) -> Any:
    """Lark's own parser of the grammar; `strict` makes conflicts and token collisions errors."""
    import lark

    return lark.Lark(
        grammar_text(),
        parser="lalr",
        lexer="basic",
        start=["file", "junk"],
        strict=strict,
        maybe_placeholders=False,
    )


def _build(text: str) -> dict:
    from lark.parsers.lalr_analysis import Shift

    parser = lark_parser()
    table = parser.parser.parser._parse_table
    rules: list[list] = []
    number: dict = {}
    states: list[dict[str, int]] = [{} for _ in range(1 + max(table.states))]
    for state, actions in table.states.items():
        for symbol, (action, argument) in actions.items():
            if action is Shift:
                states[state][symbol] = argument
                continue
            if argument not in number:
                number[argument] = len(rules)
                left = argument.origin.name
                rules.append([argument.alias or str(left), str(left), len(argument.expansion)])
            states[state][symbol] = -1 - number[argument]

    def fixed(terminal: Any) -> bool:
        return terminal.pattern.type == "str"

    words = {t.pattern.value: t.name for t in parser.terminals if fixed(t) and t.pattern.value.isalpha()}
    symbols = {t.name: t.pattern.value for t in parser.terminals if fixed(t)}
    # The order of Lark's basic lexer: priority, then width, then length of the pattern.
    order = sorted(
        (t for t in parser.terminals if t.name not in words.values()),
        key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name),
    )
    return {
        "start": table.start_states["file"],
        "end": table.end_states["file"],
        "states": states,
        "rules": rules,
        "words": words,
        "symbols": symbols,
        "token": "|".join(f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in order),
    }


def _cache_path(text: str) -> Path | None:
    version = f"{_FORMAT} {sys.version_info[:2]}\n{text}"
    name = f"table-{hashlib.sha256(version.encode()).hexdigest()[:16]}.json"
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(home, "nldsl", name)


def _read(path: Path | None) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None


def _write(path: Path | None, data: dict) -> None:
    """Write whole or not at all: readers in other processes never see a part."""
    if path is None:
        return
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data), encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None
