"""`nldsl fmt FILE... [--check]`."""

from __future__ import annotations

from pathlib import Path

import click

from nldsl.cli.common import write_file
from nldsl.diagnostics import Diagnostic, NlError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Change nothing; fail if a file is not in the standard form.")
def command(files: tuple[str, ...], check: bool) -> int:
    """Write the files in the standard form. Comments are kept; a file with syntax errors is left as it is."""
    wrong: list[Diagnostic] = []
    for file in files:
        try:
            wrong += format_file(Path(file), check)
        except NlError as error:
            wrong += error.diagnostics
    for diagnostic in wrong:
        click.echo(diagnostic.render() + "\n", err=True)
    return 1 if wrong else 0


def format_file(path: Path, check: bool) -> list[Diagnostic]:
    from nldsl.format import format_text
    from nldsl.program import read_source

    source = read_source(path)
    text = format_text(source)
    if text == source.text:
        return []
    if check:
        return [Diagnostic("NL814", f"'{path}' is not in the standard form", help=f"nldsl fmt {path}")]
    write_file(path, text, replaces=lambda _: True)
    click.echo(f"formatted {path}")
    return []
