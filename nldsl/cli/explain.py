"""`nldsl explain FILE|CODE`, `nldsl explain --rule NAME`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from nldsl.cli.common import Block, Rule, Sizes, open_rules, parse_sizes, parse_structure, pick_block
from nldsl.codes import CODES, Code
from nldsl.diagnostics import Diagnostic, NlError, did_you_mean


@click.command()
@click.argument("subject", metavar="FILE|CODE", required=False)
@Block
@Rule
@Sizes
def command(subject: str | None, block: str | None, rule: str | None, sizes: tuple[str, ...]) -> None:
    """Say what the compiler makes of a file or of a rule, or what the code of a diagnostic means."""
    if subject is not None and re.fullmatch(r"(?i)nl-?\d+", subject) and not Path(subject).exists():
        click.echo(page(subject.upper().replace("-", "")))
        return
    from nldsl.program import backend

    program = open_rules(subject, rule, block)
    explain, rules = backend("nldsl.explain"), backend("nldsl.explain_rule")
    if rule is not None:
        click.echo(rules.explain_rule(program, rule, parse_structure(sizes)))
        return
    given = parse_sizes(sizes)
    if block is not None or given:
        click.echo(explain.explain_block(program, pick_block(program, block), given))
        return
    click.echo("\n\n".join([*filter(None, [explain.explain(program)]), *rules.explain_rules(program)]))


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
