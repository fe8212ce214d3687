"""`nldsl graph FILE`."""

from __future__ import annotations

import click

from nldsl.cli.common import Block, File, Output, Sizes, elaborate, emit, open_program, pick_block


@click.command()
@File
@click.option("--format", "form", type=click.Choice(["mermaid", "dot", "svg"]), help="What to write; SVG for an output that ends with .svg, else Mermaid.")
@Output
@Block
@Sizes
@click.option("--full", is_flag=True, help="Draw every stream, not only memories, params, inputs and outputs.")
def command(file: str, form: str | None, output: str | None, block: str | None, sizes: tuple[str, ...], full: bool) -> None:
    """Draw the nesting graph of a block: its levels, and who reads whom."""
    program = open_program(file)
    chosen = elaborate(program, pick_block(program, block), sizes)
    from nldsl.graph import nesting_graph, reduced
    from nldsl.render import RENDERERS

    graph = nesting_graph(chosen)
    suffix = {".svg": "svg", ".dot": "dot", ".gv": "dot"}
    wanted = form or next((kind for end, kind in suffix.items() if (output or "").endswith(end)), "mermaid")
    emit(RENDERERS[wanted](graph if full else reduced(graph)), output)
