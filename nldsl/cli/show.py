"""`nldsl show --stage NAME FILE`."""

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
@click.option("--stage", required=True, metavar="NAME", help="tree, core, types, graph, plan, source or fx.")
@OptionalFile
@Block
@Rule
@Sizes
@Output
def command(stage: str, file: str | None, block: str | None, rule: str | None, sizes: tuple[str, ...], output: str | None) -> None:
    """Print one stage of the compiler. Up to the graph, parameters of a block without a value are symbols."""
    from nldsl.stages import show, show_rule, stage_named

    stage_named(stage)
    program = open_rules(file, rule, block)
    whole = stage == "tree" and rule is None
    named = None if whole else pick_rule(program, rule, block)
    if named is not None:
        emit(show_rule(program, stage, named, parse_structure(sizes)), output)
        return
    emit(show(program, stage, pick_block(program, block) if stage != "tree" or block else None, parse_sizes(sizes)), output)
