"""Runs the commands and the doctests of a page in one folder, and compares or replaces their outputs."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

from markdown_blocks import ROOT, Block, blocks

UPDATE = os.environ.get("NLDSL_UPDATE_DOCS") == "1"


def prepare(page: Path, folder: Path) -> dict[str, str]:
    """The folder of a page: its files, the examples, and `nldsl` as a command. Returns the environment."""
    for block in blocks(page):
        if (name := block.option("file")) is not None:
            (folder / name).write_text(block.text, encoding="utf-8")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "docs").symlink_to(ROOT / "docs")
    command = folder / ".bin" / "nldsl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nldsl "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": path, "COLUMNS": "80"}


def run_console(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """The text a console block should have."""
    out: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(["bash", "-c", line[2:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            out += [line, *(done.stdout + done.stderr).rstrip("\n").splitlines()]
    # A page has no spaces at line ends and no trailing empty lines.
    return "\n".join(line.rstrip() for line in out).rstrip("\n") + "\n"


def run_doctest(block: Block, folder: Path, names: dict[str, object]) -> str:
    """What doctest has to say about a block; the empty text if all is well. `names` are those of the page so far."""
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(block.text, names, block.id, str(block.page), block.line - 1)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    before = Path.cwd()
    os.chdir(folder)
    try:
        runner.run(test, out=said.append, clear_globs=False)
        names |= test.globs
    finally:
        os.chdir(before)
    return "".join(said)


def replace(page: Path, old: Block, text: str) -> None:
    """Write the outputs of a console block into its page, unless nldsl itself has failed."""
    assert not any(sign in text for sign in ("NL808", "NL899", "Traceback")), text
    content = page.read_text(encoding="utf-8")
    assert content.count(f"```console\n{old.text}```") == 1, f"{old.id}: this block stands twice"
    page.write_text(content.replace(f"```console\n{old.text}```", f"```console\n{text}```"), encoding="utf-8")
