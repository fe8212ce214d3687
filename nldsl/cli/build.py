"""`nldsl build FILE -o out.py`."""

from __future__ import annotations

import click

from nldsl.cli.common import Block, File, Output, Sizes, emit, open_program, parse_sizes, pick_block


@click.command()
@File
@Output
@Block
@Sizes
def command(file: str, output: str | None, block: str | None, sizes: tuple[str, ...]) -> None:
    """Write a block as readable PyTorch that runs on its own."""
    from nldsl.program import backend

    program = open_program(file)
    elaborated = program.elaborate(pick_block(program, block), **parse_sizes(sizes))
    emit(backend("nldsl_torch").build_source(*elaborated.parts), output)
