"""What several commands share: the block that is meant, sizes from `-D`, files that are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nldsl.diagnostics import Diagnostic, NlError

if TYPE_CHECKING:
    from nldsl.program import Elaborated, Program

File = click.argument("file", metavar="FILE")
OptionalFile = click.argument("file", metavar="FILE", required=False)
Rule = click.option("--rule", metavar="NAME", help="A rule of the file; without a file, one of the library.")
Block = click.option("--block", metavar="NAME", help="The block that is meant, if the file has several.")
Output = click.option("-o", "--output", metavar="PATH", help="Write there instead of to the terminal.")
Sizes = click.option("-D", "sizes", multiple=True, metavar="NAME=VALUE", help="A parameter of the block, as -D d=64.")


def open_program(file: str) -> Program:
    """A file's program; its warnings go to the error stream."""
    from nldsl.program import load

    program = load(Path(file))
    for diagnostic in program.diagnostics:
        click.echo(diagnostic.render() + "\n", err=True)
    return program


def pick_block(program: Program, name: str | None) -> str:
    """The block that is named, or the only one that no other block uses.

    Raises:
        NlError: NL803, NL811.
    """
    if name is not None:
        program.block(name)
        return name
    roots = program.root_blocks
    if len(roots) == 1:
        return roots[0]
    listed = ", ".join(f"`{b}`" for b in roots)
    raise NlError(
        Diagnostic("NL811", f"{program.source.name} has {'no block' if not roots else 'several blocks'}",
                   expected=f"one of {listed}" if roots else "a file with a block", help=f"--block {roots[0]}" if roots else None))  # fmt: skip


def open_rules(file: str | None, rule: str | None, block: str | None = None) -> Program:
    """The program of a file; without one, that of the library, if a rule of it is named.

    Raises:
        click.UsageError: neither is there, or a block and a rule.
    """
    if rule is not None and block is not None:
        raise click.UsageError("--block and --rule: one of them")
    if file is not None:
        return open_program(file)
    if rule is None:
        raise click.UsageError("Missing argument 'FILE' (or --rule NAME, for a rule of the library)")
    from nldsl.optimizers import library_program

    return library_program()


def pick_rule(program: Program, name: str | None, block: str | None) -> str | None:
    """The rule that is named, or that of a file with rules and no block; None where a block is meant.

    Raises:
        NlError: NL815, the file has several rules that no other one leads to.
    """
    if name is not None or block is not None or program.blocks or not program.rules:
        return name
    roots = program.root_rules
    if len(roots) == 1:
        return roots[0]
    raise NlError(
        Diagnostic("NL815", f"{program.source.name} has several rules", expected=f"one of {', '.join(f'`{n}`' for n in roots)}",
                   help=f"--rule {roots[0]}"))  # fmt: skip


def parse_structure(texts: Sequence[str]) -> dict[str, int]:
    """`ns_steps=3`: numbers of a rule that are fixed when it is compiled.

    Raises:
        NlError: NL813.
    """
    found = parse_sizes(texts)
    for name, value in found.items():
        if not isinstance(value, int):
            raise NlError(Diagnostic("NL813", f"`{name}` is fixed when a rule is compiled", expected="a whole number", found=f"`{value}`"))
    return found


def parse_sizes(texts: Sequence[str]) -> dict[str, Any]:
    """`d=64`, `rate=0.1`, `periods=[1, 16]`, `cell=gated_delta`.

    >>> parse_sizes(["d=64", "rate=1e-3", "periods=[1, 16]", "cell=gru"])
    {'d': 64, 'rate': 0.001, 'periods': [1, 16], 'cell': 'gru'}

    Raises:
        NlError: NL813.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier() or not value.strip() or name in found:
            what = "is given twice" if name in found else "is not NAME=VALUE"
            raise NlError(Diagnostic("NL813", f"`-D {text}` {what}", expected="NAME=VALUE, each name once", help="-D d=64"))
        found[name] = _value(value.strip(), text)
    return found


def _value(text: str, whole: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_value(part.strip(), whole) for part in text[1:-1].split(",") if part.strip()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.isidentifier():
        return text
    raise NlError(
        Diagnostic("NL813", f"`-D {whole}` has no value that a parameter can have",
                   expected="a number, a list or the name of a block", found=f"`{text}`"))  # fmt: skip


def elaborate(program: Program, block: str, sizes: Sequence[str]) -> Elaborated:
    """The block at the sizes given, or at symbols when none is."""
    given = parse_sizes(sizes)
    return program.elaborate(block, **given) if given else program.symbolic(block)


def emit(text: str, output: str | None) -> None:
    """Print a text, or write it to a file."""
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    write_file(Path(output), text, replaces=_ours)
    click.echo(f"wrote {output}", err=True)


def _ours(path: Path) -> bool:
    """Whether a file may be replaced: drawings and code that nldsl wrote, never a spec or other code."""
    if path.suffix in (".nl", ".py"):
        with open(path, "rb") as file:
            return path.suffix == ".py" and b"nldsl" in file.read(400)
    return True


def write_file(path: Path, text: str, replaces: Callable[[Path], bool]) -> None:
    """Write a file whole or not at all.

    Raises:
        NlError: NL809 for a file that may not be replaced, NL810 when writing fails.
    """
    try:
        if path.exists() and not (path.is_file() and replaces(path)):
            raise NlError(
                Diagnostic("NL809", f"'{path}' is there already and was not written by nldsl", expected="a new file",
                           help="name another file, or remove this one"))  # fmt: skip
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(text, encoding="utf-8", newline="\n")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NlError(Diagnostic("NL810", f"cannot write '{path}': {reason}", help="name a folder that is there and writable")) from None
