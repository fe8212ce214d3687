"""`nldsl explain FILE|CODE`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from nldsl.cli.common import Block, Sizes, open_program, parse_sizes, pick_block
from nldsl.codes import CODES, Code
from nldsl.diagnostics import Diagnostic, NlError, did_you_mean


@click.command()
@click.argument("subject", metavar="FILE|CODE")
@Block
@Sizes
def command(subject: str, block: str | None, sizes: tuple[str, ...]) -> None:
    """Say what the compiler makes of a file, or what the code of a diagnostic means."""
    if re.fullmatch(r"(?i)nl-?\d+", subject) and not Path(subject).exists():
        click.echo(page(subject.upper().replace("-", "")))
        return
    from nldsl.program import backend

    given = parse_sizes(sizes)
    program = open_program(subject)
    explain = backend("nldsl.explain")
    one = block is not None or given
    click.echo(explain.explain_block(program, pick_block(program, block), given) if one else explain.explain(program))


def page(code: str) -> str:
    """The page of a code.

    Raises:
        NlError: NL812, there is none.
    """
    if code not in CODES:
        near = did_you_mean(code, CODES)
        raise NlError(
            Diagnostic("NL812", f"there is no diagnostic `{code}`", expected=f"{min(CODES)} to {max(CODES)}", found=f"`{code}`",
                       help=f"did you mean `{near}`?" if near else None))  # fmt: skip
    return text(code, CODES[code])


def text(code: str, entry: Code) -> str:
    """A page as plain text of at most 88 columns."""
    from textwrap import fill, indent

    parts = [f"{code} ({entry.severity}): {entry.title}", fill(entry.text, 88)]
    for title, example in (("Wrong:", entry.wrong), ("Right:", entry.right)):
        if example:
            parts.append(f"{title}\n{indent(example, '    ')}")
    return "\n\n".join(parts)
