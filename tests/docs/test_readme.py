"""The README: its picture, its table of the zoo and its claims; its commands are run by test_pages.py."""

import re
import subprocess
import sys

import pytest
from consoles import UPDATE, prepare
from markdown_blocks import ROOT, specs

import nldsl
from nldsl.lower.plan import plan
from nldsl.lower.schedule import Attention

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
ZOO = sorted(p.stem for p in (ROOT / "examples").glob("*.nl") if "train" not in p.read_text().split())


def form(name):
    """The forms of the recurrences of a block and those in it as the table words them: `closed`, `scan + closed`, `store`."""
    elaborated = nldsl.load(ROOT / "examples" / f"{name}.nl").symbolic(name)
    names = set()
    for key, unit in elaborated.units.items():
        found = plan(unit, dict(elaborated.types[key]))
        names |= {f.name for f in found.forms.values()} | {"store" for s in found.steps if isinstance(s, Attention)}
    return " + ".join(sorted(names))


def test_it_opens_with_a_memory_of_twelve_lines():
    (first, *_) = specs(README)
    assert first.option("file") == "memory.nl" and len(first.text.splitlines()) == 12


@pytest.mark.parametrize("name", ZOO)
def test_the_table_of_the_zoo(name):
    row = re.search(rf"^\| \[[^]]+\]\(examples/{name}\.nl\) \|.*\| (.+) \|$", TEXT, re.M)
    assert row is not None, f"examples/{name}.nl has no row in README.md"
    assert row[1] == form(name)


def test_the_picture_is_what_the_command_draws(tmp_path):
    environment = prepare(README, tmp_path)
    command = [sys.executable, "-m", "nldsl", "graph", "memory.nl", "-o", "memory.svg"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    drawn, shown = (tmp_path / "memory.svg").read_text(), ROOT / "docs" / "memory.svg"
    if UPDATE:
        shown.write_text(drawn)
    assert shown.read_text() == drawn


def test_the_zoo_is_as_short_as_it_says():
    most = int(re.search(r"at most (\d+) lines", TEXT)[1])
    lengths = [len((ROOT / "examples" / f"{name}.nl").read_text().splitlines()) for name in ZOO]
    assert max(lengths) <= most
