"""Rules of the code base that no linter knows."""

import re
import tomllib
from pathlib import Path

import pytest

from nldsl.format import format_text
from nldsl.source import Source

ROOT = Path(__file__).parents[2]
LINES = 400
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted(file for folder in ("nldsl", "backends", "grammar") for file in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_fits_in_a_head(file):
    count = len(file.read_text(encoding="utf-8").splitlines())
    assert count <= LINES, f"{count} lines; split it at a seam, {LINES} is the limit"


def test_every_package_is_installed():
    """pyproject.toml lists the packages; a folder it forgets works here and fails for users."""
    tools = PROJECT["tool"]["setuptools"]
    folders = {tools["package-dir"].get(name) or _under(name, tools["package-dir"]) for name in tools["packages"]}
    assert folders == {str(file.parent.relative_to(ROOT)) for file in SOURCES if file.name == "__init__.py"}
    assert not {file.parent for file in SOURCES} - {ROOT / folder for folder in folders}, "a folder has no __init__.py"


def _under(name, package_dir):
    top, _, rest = name.partition(".")
    return "/".join([package_dir.get(top, top), *rest.split(".")]).rstrip("/")


def test_every_data_file_is_installed():
    tools = PROJECT["tool"]["setuptools"]
    listed = {
        file
        for name, patterns in tools["package-data"].items()
        for pattern in patterns
        for file in (ROOT / (tools["package-dir"].get(name) or _under(name, tools["package-dir"]))).glob(pattern)
    }
    there = {f for folder in ("nldsl", "backends", "grammar") for f in (ROOT / folder).rglob("*") if f.is_file()}
    assert listed == {f for f in there if f.suffix not in (".py", ".pyc")}


def test_pins_are_within_the_ranges():
    """Every direct dependency has a pin, and torch is the build that CI has."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[<>=~! ]", d)[0] for d in wanted} - {"nldsl"}
    assert names <= set(pins)
    assert pins["torch"] == "2.13.0"
    for dependency in wanted:
        name, _, least = dependency.partition(">=")
        if least:
            assert _version(pins[name]) >= _version(least), name


def _version(text):
    return tuple(map(int, re.findall(r"\d+", text)))


@pytest.mark.parametrize("path", sorted([*(ROOT / "examples").glob("*.nl"), ROOT / "nldsl/library/std.nl"]), ids=lambda p: p.name)
def test_our_own_specs_are_in_the_standard_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(Source(path.name, text)) == text
