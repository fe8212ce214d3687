"""`nldsl build FILE -o out.py`."""

from __future__ import annotations

import click

from nldsl.cli.common import (
    Block,
    OptionalFile,
    Output,
    Rule,
    Sizes,
    emit,
    open_rules,
    parse_sizes,
    parse_structure,
    pick_block,
    pick_rule,
)


@click.command()
@OptionalFile
@Output
@Block
@Rule
@Sizes
def command(file: str | None, output: str | None, block: str | None, rule: str | None, sizes: tuple[str, ...]) -> None:
    """Write a block as readable PyTorch that runs on its own, or a rule as a `torch.optim.Optimizer`."""
    from nldsl.program import backend

    program = open_rules(file, rule, block)
    chosen = pick_rule(program, rule, block)
    if chosen is not None:
        structure = parse_structure(sizes)
        program.rule(chosen, **structure)
        emit(backend("nldsl_torch.optim.build").optimizer_source(program, chosen, structure), output)
        return
    elaborated = program.elaborate(pick_block(program, block), **parse_sizes(sizes))
    emit(backend("nldsl_torch").build_source(*elaborated.parts), output)
