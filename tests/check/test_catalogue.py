"""The catalogue of diagnostics: complete, without dead entries, and every example does what it says."""

import re
from pathlib import Path

import pytest

from nldsl.codes import CODES
from nldsl.pipeline import check_source
from nldsl.source import Source

ROOT = Path(__file__).parents[2]
EXAMPLES = [code for code, page in CODES.items() if page.wrong]


def _used() -> set[str]:
    files = [f for folder in ("nldsl", "backends") for f in (ROOT / folder).rglob("*.py") if "catalogue" not in f.parts]
    files = [f for f in files if f.name != "codes.py"]
    return {code for f in files for code in re.findall(r"[\"'](NL[0-9]{3})[\"']", f.read_text(encoding="utf-8"))}


def test_every_code_has_a_page():
    assert _used() - CODES.keys() == set()


def test_every_page_has_a_use():
    assert CODES.keys() - _used() == set()


def _codes(text: str) -> list[str]:
    return [d.code for d in check_source(Source("example.nl", text)).diagnostics]


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_wrong_example_gives_its_code_alone(code):
    assert set(_codes(CODES[code].wrong)) == {code}


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_right_example_gives_nothing(code):
    assert _codes(CODES[code].right) == []
