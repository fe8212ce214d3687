"""The page of optimizers: every rule of the library and every option is there, and nothing else."""

import re

import pytest
from markdown_blocks import ROOT

from nldsl.parse import parse
from nldsl.source import Source
from nldsl.tree import Rule

PAGE = (ROOT / "docs" / "reference" / "optimizers.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "nldsl" / "library" / "optimizers.nl").read_text(encoding="utf-8")
RULES = [item.name for item in parse(Source("optimizers.nl", LIBRARY))[0].items if isinstance(item, Rule)]


def rows(heading):
    """The names in the first column of the table under a heading."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [name for row in re.findall(r"^\| (`.*?) \|", part, re.M) for name in re.findall(r"`(\w+)`", row)]


def test_every_rule_of_the_library_is_in_the_table():
    assert sorted(rows("The library")) == sorted(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_says_what_it_is(rule):
    """A comment stands right above each, with its equation or its source."""
    before = LIBRARY[: re.search(rf"^rule {rule}\b", LIBRARY, re.M).start()]
    assert before.splitlines()[-1].startswith("# ") and not before.splitlines()[-1].startswith("# ---")


def test_every_option_is_in_the_table():
    from nldsl_torch.optim.groups import OPTIONS

    assert sorted(rows("Options")) == sorted([*OPTIONS, "rule"])


def test_the_number_of_rules_is_right():
    said = re.search(r"The library has (\d+) of them", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert said is not None and int(said[1]) == len(RULES)
