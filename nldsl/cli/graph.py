"""`nldsl graph FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from nldsl.cli.common import (
    Block,
    OptionalFile,
    Output,
    Rule,
    Sizes,
    elaborate,
    emit,
    open_rules,
    parse_structure,
    pick_block,
    pick_rule,
)

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
@OptionalFile
@click.option("--format", "form", type=click.Choice(["mermaid", "dot", "svg"]), help="What to write; SVG for an output that ends with .svg, else Mermaid.")
@Output
@Block
@Rule
@Sizes
@click.option("--full", is_flag=True, help="Draw every stream, not only memories, params, inputs and outputs.")
def command(file: str | None, form: str | None, output: str | None, block: str | None, rule: str | None, sizes: tuple[str, ...], full: bool) -> None:
    """Draw the nesting graph of a block or a rule: its levels, and who reads whom."""
    if form is None:
        kind_of(output)
    from nldsl.graph import nesting_graph, reduced, rule_graph
    from nldsl.render import RENDERERS

    program = open_rules(file, rule, block)
    named = pick_rule(program, rule, block)
    if named is not None:
        graph = rule_graph(program.rule(named, **parse_structure(sizes)), full=full)
    else:
        graph = nesting_graph(elaborate(program, pick_block(program, block), sizes))
    emit(RENDERERS[form or kind_of(output)](graph if full else reduced(graph)), output)
