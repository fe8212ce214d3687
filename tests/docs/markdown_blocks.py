"""The fenced blocks of a Markdown page, and what the tests of the pages do with them.

    ```nl                      a text of the language; its comments say what the compiler must say about it
    ```nl continued            goes on from the block before under the same heading, as one text
    ```nl run d=4 heads=2      right, and the torch backend computes what the interpreter does
    ```nl file=memory.nl       is there under this name for the commands of the page
    ```console                 lines `$ COMMAND`, each with its output; run with `nldsl` on the path, in one folder a page
    ```pycon                   a doctest in the same folder

Comments in an `nl` block: `# error: NL202`, `# error: NL202 "part of the message"`, `# warning: NL501`, each for its own
line, and `# revealed: NAME : real[d] every 1` for a stream of the block around it. There are no other diagnostics.
`NLDSL_UPDATE_DOCS=1` writes the outputs of the commands into the pages instead of comparing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nldsl.pipeline import Checked, check_source
from nldsl.program import Program
from nldsl.source import Source

ROOT = Path(__file__).parents[2]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ASSERTION = re.compile(r'#\s*(error|warning):\s*(NL\d{3})(?:\s+"([^"]*)")?')
REVEALED = re.compile(r"#\s*revealed:\s*(\S+)\s*:\s*(.+?)\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its text starts at `line` of the page, counted from 1."""

    page: Path
    heading: str
    line: int
    kind: str
    options: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def option(self, name: str) -> str | None:
        return next((o.partition("=")[2] for o in self.options if o.startswith(f"{name}=")), None)

    @property
    def sizes(self) -> dict[str, int]:
        return {k: int(v) for k, _, v in (o.partition("=") for o in self.options) if v.isdigit()}


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found, heading, opened = [], "", None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if opened is not None:
            if line.startswith("```"):
                kind, *options = lines[opened - 1].removeprefix("```").split() or [""]
                text = "\n".join(lines[opened : number - 1]) + "\n"
                found.append(Block(page, heading, opened + 1, kind, tuple(options), text))
                opened = None
        elif line.startswith("```"):
            opened = number
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert opened is None, f"{page}:{opened}: a block is not closed"
    return found


def specs(page: Path) -> list[Block]:
    """The `nl` blocks; a continued one has the text of those before it in front."""
    found: list[Block] = []
    for block in blocks(page):
        if block.kind != "nl":
            continue
        if "continued" in block.options:
            before = found[-1]
            assert before.heading == block.heading, f"{block.id}: nothing to continue under this heading"
            # Empty lines stand for the prose between them, so that lines of the text are lines of the page.
            gap = block.line - before.line - before.text.count("\n")
            block = Block(block.page, block.heading, before.line, "nl", (*before.options, *block.options), before.text + "\n" * gap + block.text)
        found.append(block)
    return found


def problems(block: Block) -> list[str]:
    """What the compiler says otherwise than the comments of a block do."""
    lines = block.text.splitlines()
    checked = check_source(Source(block.id, block.text))
    expected = [
        (number, severity, code, part) for number, line in enumerate(lines, 1) for severity, code, part in ASSERTION.findall(line)
    ]
    said = [(d.spans[0].span.line if d.spans else 0, d.severity, d.code, d.message) for d in checked.diagnostics]
    wrong = []
    for number, severity, code, part in expected:
        match = next((s for s in said if s[:3] == (number, severity, code) and part in s[3]), None)
        if match is None:
            wrong.append(f"{block.page.name}:{block.line + number - 1}: expected {severity} {code} {part!r}")
        else:
            said.remove(match)
    wrong += [f"{block.page.name}:{block.line + number - 1}: not expected: {severity} {code}: {text}" for number, severity, code, text in said]
    return wrong + revealed(block, checked, lines)


def revealed(block: Block, checked: Checked, lines: list[str]) -> list[str]:
    """The types and clocks that are not as the comments say."""
    wrong, around = [], ""
    for number, line in enumerate(lines, block.line):
        around = m[1] if (m := re.match(r"block\s+(\w+)", line)) else around
        if m := REVEALED.search(line):
            found = Program(checked).reveal(around, m[1])
            if found != m[2]:
                wrong.append(f"{block.page.name}:{number}: {m[1]} : {found}, not {m[2]}")
    return wrong
