"""`nldsl verify FILE [--block B] [--rule R]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from nldsl.cli.common import Block, OptionalFile, Rule, Sizes, open_rules, parse_sizes, write_file
from nldsl.diagnostics import Diagnostic, NlError, did_you_mean


@click.command()
@OptionalFile
@Block
@Rule
@Sizes
@click.option("--quick", is_flag=True, help="A few examples, in seconds.")
@click.option("--examples", type=click.IntRange(1), metavar="N", help="Examples of the first property; others have a share of them.")
@click.option("--seconds", type=click.FloatRange(0), metavar="S", help="The most time for a block.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S", help="Other examples with another seed.")
@click.option("--property", "names", multiple=True, metavar="NAME", help="Only this property; may be repeated.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtypes of `precision`.")
@click.option("--compile", "compiled", is_flag=True, help="With `torch.compile` as a lowering too; takes minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--junit", metavar="PATH", help="Write the report as JUnit XML.")
def command(
    file: str | None, block: str | None, rule: str | None, sizes: tuple[str, ...], quick: bool, examples: int | None, seconds: float | None, seed: int,
    names: tuple[str, ...], dtypes: tuple[str, ...], compiled: bool, as_json: bool, junit: str | None,
) -> int:  # fmt: skip
    """Try to falsify what every spec promises, on generated inputs, sizes and splits."""
    from nldsl.program import backend

    program = open_rules(file, rule, block)
    verify, report = backend("nldsl_testing.verify"), backend("nldsl_testing.report")
    if unknown := [n for n in names if n not in verify.NAMES]:
        near = did_you_mean(unknown[0], verify.NAMES)
        raise NlError(
            Diagnostic("NL817", f"there is no property `{unknown[0]}`", expected=", ".join(verify.NAMES), found=f"`{unknown[0]}`",
                       help=f"did you mean `{near}`?" if near else None))  # fmt: skip
    budget = verify.Budget.of(quick=quick, examples=examples, seconds=seconds)
    found = verify.Report(program.source.name, seed)
    with backend("nldsl_testing.display").Display(sys.stderr) as display:
        run = verify.verify(
            program, block=block, rule=rule, sizes=parse_sizes(sizes), budget=budget, seed=seed, only=names or None, dtypes=dtypes or None,
            compile=compiled, progress=display.trying,
        )  # fmt: skip
        subject = None
        for outcome in run:
            found.outcomes.append(outcome)
            if not as_json:
                if outcome.subject != subject:
                    click.echo(f"{outcome.subject}  ({outcome.where})")
                    subject = outcome.subject
                click.echo(report.line(outcome))
                if outcome.failure is not None:
                    click.echo(report.details(found.file, outcome))
    if junit is not None:
        write_file(Path(junit), report.to_junit(found), replaces=lambda path: path.suffix == ".xml")
    click.echo(json.dumps(report.to_json(found), indent=2) if as_json else report.summary(found))
    return 0 if found.holds else 1
