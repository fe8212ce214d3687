"""The page of the architecture: one screen, every path it names is there, every package is named, in running order."""

import re
import tomllib

from markdown_blocks import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_it_is_one_screen():
    assert len(PAGE.splitlines()) <= 70


def test_every_path_is_there():
    paths = set(re.findall(r"`((?:nldsl|backends|grammar|tests|docs|examples|benchmarks)/[\w./*-]*)`", PAGE))
    assert len(paths) > 20
    assert {p for p in paths if not any(ROOT.glob(p.rstrip("/")))} == set()


def test_every_package_is_named():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {packages["package-dir"].get(p, p.replace(".", "/")) for p in packages["packages"]}
    folders = {re.sub("^nldsl_torch/", "backends/nldsl_torch/", f) for f in folders}
    assert {f for f in folders if f"`{f}/" not in PAGE} == set()


def test_every_file_of_the_road_is_named():
    """No file of the compiler is a secret: each is named, or its folder is."""
    files = [f.relative_to(ROOT) for folder in ("nldsl", "backends") for f in (ROOT / folder).rglob("*.py")]
    lost = [str(f) for f in files if f"{f.parent}/`" not in PAGE and f.name not in PAGE and "__" not in f.name and f"`{f.parent}/" not in PAGE]
    assert lost == []
