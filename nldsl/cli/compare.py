"""`nldsl compare FILE...`."""

from __future__ import annotations

from typing import Any

import click

from nldsl.cli.common import open_program


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), metavar="N", help="Runs of each spec.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Outer steps, for all specs.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Sequences a step, for all specs.")
@click.option("--length", type=click.IntRange(min=1), metavar="N", help="Bytes a sequence, for all specs.")
@click.option("--data", metavar="FILE", help="A text to train on, for all specs.")
@click.option("--tolerance", default=0.05, show_default=True, type=click.FloatRange(min=0), metavar="F",
              help="By how much parameter counts may differ.")  # fmt: skip
@click.option("--run", "run_dir", default="runs/compare", show_default=True, metavar="DIR", help="The folder of all runs, the table and the picture.")
@click.option("--fresh", is_flag=True, help="Start over; the old runs are kept in subfolders.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:0 ...")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.")
def command(files: tuple[str, ...], **options: Any) -> int:
    """Train the specs of all FILEs on the same bytes in the same order, and set them side by side.

    All `train` blocks of the files take part. What was stopped goes on where it was.
    """
    from nldsl.program import backend

    programs = [open_program(file) for file in files]
    code = backend("nldsl_torch.training.compare").compare(programs, **options)
    return int(code or 0)
