"""Every page: its commands and doctests give what they show, its links lead somewhere."""

import re

import pytest
from consoles import UPDATE, prepare, replace, run_console, run_doctest
from markdown_blocks import PAGES, ROOT, blocks

SHOWN = [page for page in PAGES if any(b.kind in ("console", "pycon") for b in blocks(page))]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_give_what_is_shown(page, tmp_path):
    environment = prepare(page, tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.kind == "console":
            found = run_console(block, tmp_path, environment)
            if UPDATE and found != block.text:
                replace(page, block, found)
            else:
                assert found == block.text, f"{block.id}; NLDSL_UPDATE_DOCS=1 writes the new output into the page"
        elif block.kind == "pycon":
            assert run_doctest(block, tmp_path, names) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_of_a_tested_kind(page):
    """`text` and `sh` show what no test can run; everything else is run."""
    kinds = {"nl", "console", "pycon", "text", "sh"}
    assert {b.kind for b in blocks(page)} <= kinds
