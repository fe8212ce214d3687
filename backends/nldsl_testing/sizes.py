"""Small sizes at which a block of any program can be run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from nldsl.diagnostics import Diagnostic, Label, NlError
from nldsl.dims import Dim
from nldsl.lower.plan import plan
from nldsl.program import Elaborated, Program

REQUIRED, OPTIONAL = (4, 6, 2, 8, 3, 12, 16, 32), (3, 2, 4, 3, 1)
TRIES = 60


def small_sizes(program: Program, block: str, fixed: Mapping[str, Any], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Up to `count` assignments to the parameters of a block, the smallest first; `fixed` ones are kept.

    Parameters without a default get small whole numbers; whole numbers and lists of them with a default are made smaller,
    where the block still holds. Nothing else is changed.

    Raises:
        NlError: no small sizes fit; with what the last ones would have needed.
    """
    found: list[dict[str, Any]] = []
    refused: NlError | None = None
    seen: set[str] = set()
    for number, (regular, sizes) in enumerate(_candidates(program, block, fixed, random.Random(seed))):
        if len(found) == count or number == TRIES:
            break
        if regular and found:
            continue
        try:
            elaborated = program.elaborate(block, sizes)
            _plans(elaborated)
        except NlError as error:
            refused = refused or error
            continue
        if elaborated.key not in seen:
            seen.add(elaborated.key)
            found.append({n: tuple(v) if isinstance(v, list) else v for n, v in sizes.items()})
    if not found and refused is not None:
        node = program.block(block)
        names = ", ".join(f"-D {f.name}=..." for f in node.formals if f.default is None and f.name not in fixed)
        raise NlError(
            Diagnostic("NL816", f"no small sizes were found at which `{block}` holds", (Label(node.span),),
                       expected="parameters at which it can run", help=names or None), *refused.diagnostics)  # fmt: skip
    return found


def _plans(elaborated: Elaborated) -> None:
    """Refuse what has no plan; where the compiler crashes, the properties say so.

    Raises:
        NlError: from the compiler.
    """
    for key in elaborated.units:
        try:
            plan(elaborated.units[key], elaborated.types[key])
        except NlError:
            raise
        except Exception:
            return


def _candidates(program: Program, block: str, fixed: Mapping[str, Any], draw: random.Random) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Regular ones, then random ones without end."""
    node = program.block(block)
    required = [f.name for f in node.formals if f.default is None and f.name not in fixed]
    defaults: dict[str, Any] = {}
    for first in REQUIRED:
        try:
            defaults = _defaults(program.elaborate(block, {**dict.fromkeys(required, first), **fixed}))
            break
        except NlError:
            continue
    written = {f.name for f in node.formals if f.default is not None and f.default.span.text.lstrip("[(").strip()[:1].isdigit()}
    free = {n: v for n, v in defaults.items() if n in written and n not in fixed}
    for scale in (1, 0, 4, 8, 16, 2):
        for first, others in ((4, 2), (4, 4), (8, 8), (2, 2), (6, 6)):
            yield True, {**{n: others if i else first for i, n in enumerate(required)}, **{n: _smaller(v, scale) for n, v in free.items()}, **fixed}
    while True:
        less = {n: draw.choice(OPTIONAL) if isinstance(v, int) else _smaller(v, draw.choice((1, 2, 4, 8, 16))) for n, v in free.items()}
        yield False, {**{n: draw.choice(REQUIRED[: 5 if i == 0 else 3]) for i, n in enumerate(required)}, **less, **fixed}


def _defaults(elaborated: Elaborated) -> dict[str, Any]:
    """The whole numbers and lists of them among the parameters."""
    found: dict[str, Any] = {}
    for name, value in elaborated.unit.formals:
        parts = value if isinstance(value, tuple) else (value,)
        whole = [v.integer if isinstance(v, Dim) else None for v in parts]
        if parts and all(w is not None for w in whole):
            found[name] = whole if isinstance(value, tuple) else whole[0]
    return found


def _smaller(value: Any, scale: int) -> Any:
    """Numbers above 4 divided by the scale, in lists too; 1 stands for the smallest that keep their order, 0 for those with 4 for what is large."""
    if isinstance(value, list):
        if scale > 1:
            return [max(1, v // scale) for v in value]
        ranks = {v: 2 ** (n + 1) if len(set(value)) > 1 else min(v, 2) for n, v in enumerate(sorted(set(value)))}
        return [v if max(value) <= 4 else ranks[v] for v in value]
    if scale > 1:
        return value if value <= 4 else max(2, value // scale)
    return min(value, 2) if scale or value <= 4 else 4
