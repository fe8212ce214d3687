"""`nldsl show --stage NAME FILE`."""

from __future__ import annotations

import click

from nldsl.cli.common import Block, File, Output, Sizes, emit, open_program, parse_sizes, pick_block


@click.command()
@click.option("--stage", required=True, metavar="NAME", help="tree, core, types, graph, plan, source or fx.")
@File
@Block
@Sizes
@Output
def command(stage: str, file: str, block: str | None, sizes: tuple[str, ...], output: str | None) -> None:
    """Print one stage of the compiler. Up to the graph, parameters without a value are symbols."""
    from nldsl.stages import show, stage_named

    stage_named(stage)
    program = open_program(file)
    emit(show(program, stage, pick_block(program, block) if stage != "tree" or block else None, parse_sizes(sizes)), output)
