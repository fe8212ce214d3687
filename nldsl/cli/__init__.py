"""The command `nldsl`. Each command is a module of this package, imported when it is used.

Exit codes: 0 done, 1 the spec or the data is wrong, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from nldsl.diagnostics import Diagnostic, NlError

COMMANDS = {
    "check": "Report every mistake in the files.",
    "fmt": "Write the files in the standard form.",
    "graph": "Draw the nesting graph of a block or a rule.",
    "explain": "Say what the compiler makes of a file or a rule, or what a code means.",
    "show": "Print one stage of the compiler.",
    "build": "Write a block, or a rule as an optimizer, as PyTorch that runs on its own.",
    "verify": "Try to falsify what every spec promises, on generated inputs and sizes.",
    "train": "Train the model of a file on text.",
    "compare": "Train several specs on the same text and set them side by side.",
    "new": "Write a small spec to start from.",
}

# Mistakes in the command line itself: blocks, stages and parameters that are not there, places that cannot be written.
COMMAND_LINE = {"NL803", "NL805", "NL807", "NL810", "NL811", "NL813", "NL815", "NL816", "NL817"}


class Commands(click.Group):
    """Loads a command's module when it is asked for, so that `nldsl check` imports nothing it does not use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"nldsl.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from nldsl.diagnostics import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = did_you_mean(args[0], COMMANDS)
            ctx.fail(f"there is no command '{args[0]}'" + (f"; did you mean '{near}'?" if near else ""))
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from nldsl import __version__

        click.echo(f"nldsl {__version__}")
        ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version.")
def app() -> None:
    """nldsl compiles .nl files (memories that learn while they run) to PyTorch."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every failure is one clear message, never a traceback."""
    try:
        code = app.main(args=None if arguments is None else list(arguments), prog_name="nldsl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except NlError as error:
        click.echo(str(error), err=True)
        return 2 if all(d.code in COMMAND_LINE for d in error.diagnostics) else 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader has gone; what Python still wants to flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("NLDSL_DEBUG") == "1":
            raise
        click.echo(_internal(error).render(), err=True)
        return 1


def _internal(error: Exception) -> Diagnostic:
    said = str(error).splitlines()
    return Diagnostic(
        "NL899",
        "nldsl made a mistake; your file may be right",
        found=f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__,
        help="run again with NLDSL_DEBUG=1, and report its output with the file",
    )
