"""`nldsl graph FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from nldsl.cli.common import Block, File, Output, Sizes, elaborate, emit, open_program, pick_block

ENDINGS = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".md": "mermaid", ".txt": "mermaid", "": "mermaid"}


def kind_of(output: str | None) -> str:
    """What to write into a file with this ending.

    Raises:
        click.UsageError: the ending says nothing.
    """
    ending = Path(output or "").suffix
    if ending not in ENDINGS:
        raise click.UsageError(f"'{output}' ends with none of {', '.join(e for e in ENDINGS if e)}; say --format mermaid, dot or svg")
    return ENDINGS[ending]


@click.command()
@File
@click.option("--format", "form", type=click.Choice(["mermaid", "dot", "svg"]), help="What to write; SVG for an output that ends with .svg, else Mermaid.")
@Output
@Block
@Sizes
@click.option("--full", is_flag=True, help="Draw every stream, not only memories, params, inputs and outputs.")
def command(file: str, form: str | None, output: str | None, block: str | None, sizes: tuple[str, ...], full: bool) -> None:
    """Draw the nesting graph of a block: its levels, and who reads whom."""
    if form is None:
        kind_of(output)
    program = open_program(file)
    chosen = elaborate(program, pick_block(program, block), sizes)
    from nldsl.graph import nesting_graph, reduced
    from nldsl.render import RENDERERS

    graph = nesting_graph(chosen)
    wanted = form or kind_of(output)
    emit(RENDERERS[wanted](graph if full else reduced(graph)), output)
