"""`nldsl explain FILE|CODE`, `nldsl explain --rule NAME`, `nldsl explain FILE --schedule`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nldsl.cli.common import (
    Block,
    Rule,
    Sizes,
    elaborate,
    emit,
    open_rules,
    parse_sizes,
    parse_structure,
    pick_block,
    pick_rule,
)
from nldsl.codes import CODES, Code
from nldsl.diagnostics import Diagnostic, NlError, did_you_mean

if TYPE_CHECKING:
    from nldsl.program import Program


@click.command()
@click.argument("subject", metavar="FILE|CODE", required=False)
@Block
@Rule
@Sizes
@click.option("--schedule", is_flag=True, help="The ticks at which memories write, fold and start anew, and the proof of causality.")
@click.option("-o", "--output", metavar="PATH", help="With --schedule: draw it there, as SVG.")
def command(
    subject: str | None, block: str | None, rule: str | None, sizes: tuple[str, ...], schedule: bool, output: str | None
) -> None:
    """Say what the compiler makes of a file or of a rule, or what the code of a diagnostic means."""
    if output is not None and not (schedule and Path(output).suffix == ".svg"):
        raise click.UsageError("-o draws the timeline: --schedule -o FILE.svg")
    if schedule:
        _schedule(open_rules(subject, rule, block), block, rule, sizes, output)
        return
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


def _schedule(program: Program, block: str | None, rule: str | None, sizes: tuple[str, ...], output: str | None) -> None:
    """The timeline of a block, or of a rule, whose ticks are steps, and the proof."""
    from nldsl.graph import rule_elaborated
    from nldsl.proof import prove
    from nldsl.render import timeline_svg, timeline_text
    from nldsl.timeline import timeline

    named = pick_rule(program, rule, block)
    if named is not None:
        elaborated, words = rule_elaborated(program.rule(named, **parse_structure(sizes))), ("rule", "step")
    else:
        elaborated, words = elaborate(program, pick_block(program, block), sizes), ("block", "tick")
    found = timeline(elaborated)
    if output is not None:
        emit(timeline_svg(found, *words), output)
        return
    proof = prove(elaborated)
    click.echo(timeline_text(found, *words))
    if not proof.holds:
        raise NlError(*proof.violations)
    click.echo("\n".join(proof.text(words[1])))


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
