"""Every experiment runs, and ends in tables of finite numbers and a picture."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nldsl.format import format_text
from nldsl.source import Source

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "experiments"
TABLES = {
    "recall": ["recall"],
    "state_tracking": ["state_tracking"],
    "continual": ["continual"],
    "optimizers": ["optimizers_toy", "optimizers"],
}
NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?")


def test_every_experiment_is_tested():
    assert set(TABLES) == {file.stem for file in FOLDER.glob("*.py")} - {"experiment"}


@pytest.mark.parametrize("name", TABLES)
def test_an_experiment_gives_tables_and_a_picture(name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for table in TABLES[name]:
        with (tmp_path / f"{table}.csv").open(encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        assert rows and all(len(row) == len(head) for row in rows)
        for row in rows:
            numbers = [part for cell in row[-2:] for part in cell.split(" ± ")]
            assert all(NUMBER.fullmatch(part) for part in numbers), row
        assert (tmp_path / f"{table}.md").read_text(encoding="utf-8") in done.stdout
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.nl")), ids=lambda path: path.name)
def test_specs_are_in_the_standard_form(path):
    text = path.read_text(encoding="utf-8")
    assert format_text(Source(path.name, text)) == text


def test_pictures_of_the_page_are_small():
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    pictures = [ROOT / "docs" / name for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)]
    assert len(pictures) == len(TABLES)
    assert all(picture.stat().st_size < 100_000 for picture in pictures)
