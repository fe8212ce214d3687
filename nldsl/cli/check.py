"""`nldsl check FILE... [--json]`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nldsl.diagnostics import Diagnostic, NlError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print the diagnostics as JSON.")
def command(files: tuple[str, ...], as_json: bool) -> int:
    """Report every mistake in the files."""
    found = [d for file in files for d in check_file(file)]
    errors = sum(d.severity == "error" for d in found)
    if as_json:
        answer = {"files": list(files), "errors": errors, "warnings": len(found) - errors, "diagnostics": [d.to_json() for d in found]}
        click.echo(json.dumps(answer, indent=2))
    else:
        for diagnostic in found:
            click.echo(diagnostic.render() + "\n")
        click.echo(summary(files, errors, len(found) - errors))
    return 1 if errors else 0


def check_file(file: str) -> tuple[Diagnostic, ...]:
    """All diagnostics of one file; one that cannot be read is one of them."""
    from nldsl.pipeline import check_source
    from nldsl.program import read_source

    try:
        return check_source(read_source(Path(file))).diagnostics
    except NlError as error:
        return error.diagnostics


def summary(files: tuple[str, ...], errors: int, warnings: int) -> str:
    where = files[0] if len(files) == 1 else f"{len(files)} files"
    counts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{where}: {' and '.join(counts) or 'no mistakes found'}"
