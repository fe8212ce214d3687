"""`nldsl train FILE`."""

from __future__ import annotations

from typing import Any

import click

from nldsl.cli.common import File, Sizes, open_program, parse_sizes


@click.command()
@File
@click.option("--train", "name", metavar="NAME", help="The `train` block, if the file has several.")
@click.option("--data", metavar="FILE", help="A text to train on, instead of the one the spec names.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after N steps.")
@click.option("--run", "run_dir", metavar="DIR", help="The folder of the run: checkpoint, curve, log.")
@click.option("--fresh", is_flag=True, help="Start over; the old run is kept in a subfolder.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:0 ...")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.")
@click.option("--compile", is_flag=True, help="Fuse maps with torch.compile: slow to start, pays on a GPU.")
@click.option("--sharded", is_flag=True, help="Under torchrun: spread params and optimizer states over the processes (FSDP2).")
@Sizes
def command(file: str, sizes: tuple[str, ...], **options: Any) -> int:
    """Train the model of a file on text. A run that was stopped goes on from its last checkpoint."""
    program = open_program(file)
    return train(program, parse_sizes(sizes), **options)


def train(program: Any, sizes: dict[str, Any], **options: Any) -> int:
    """Hand over to the torch backend: `cli(program, sizes, name, data, steps, run_dir, fresh, device, threads)`."""
    from nldsl.program import backend

    code = backend("nldsl_torch.training.cli").cli(program, sizes, **options)
    return int(code or 0)
