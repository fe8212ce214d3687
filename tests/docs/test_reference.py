"""The reference: every `nl` block says what the compiler says, every word, code, rule, clause and option has its place."""

import json
import re
import tomllib

import pytest
import torch
from markdown_blocks import PAGES, REFERENCE, ROOT, problems, specs

import nldsl
from nldsl.cli import COMMANDS
from nldsl.codes import CODES
from nldsl.elaborate.declared import ENTRYWISE, INITS
from nldsl.elaborate.top import library
from nldsl.parse import parse
from nldsl.routes import SELECTORS, routes_of
from nldsl.rules import rules_of
from nldsl.source import Source
from nldsl.stages import STAGES
from nldsl.train import SETTINGS
from nldsl.vocabulary import WORDS

SPECS = [block for page in PAGES for block in specs(page)]
RUN = [block for block in SPECS if "run" in block.options]
FOLDER = ROOT / "docs" / "reference"


def page(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", SPECS, ids=lambda b: b.id)
def test_block(block):
    found = problems(block)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("block", RUN, ids=lambda b: b.id)
def test_block_runs(block):
    """The torch backend, whatever the forms it chose, gives what the interpreter gives."""
    program = nldsl.load(block.text)
    name = block.option("block") or program.blocks[-1]
    torch.manual_seed(0)
    module = program.module(name, dtype=torch.float64, **block.sizes)
    machine = program.interpreter(name, **block.sizes)
    unit = program.elaborate(name, **block.sizes).unit
    draw = torch.Generator().manual_seed(1)
    inputs = {i.name: _values(i.type, draw) for i in unit.inputs}
    expected, _ = machine.run(dict(module.named_parameters()), inputs)
    found = module(*inputs.values())
    found = found if isinstance(found, dict) else {unit.outputs[0][0]: found}
    for output, value in expected.items():
        torch.testing.assert_close(found[output], value, rtol=1e-9, atol=1e-10)


def _values(type, draw, batch=2, ticks=11):
    shape = (batch, ticks, *(a.size.integer for a in type.axes), *(n.integer for n in type.shape))
    if type.kind == "int":
        return torch.randint(type.bound.integer, shape, generator=draw)
    return torch.randn(shape, generator=draw).double()


def test_every_page_is_in_the_index():
    index = page("index")
    assert [f.name for f in REFERENCE if f.name != "index.md" and f"({f.name})" not in index] == []


def test_every_word_is_documented():
    """A heading or a row of a table begins with the word; nothing else is said to be a word."""
    text = page("vocabulary")
    said = set(re.findall(r"^(?:#+|\|) `(\w+)", text, re.M))
    words = {w.name for w in WORDS.values() if w.user} | {"grad"}
    assert words - said == set()
    assert said - words - set(INITS) - ENTRYWISE - {"learned", "pretrained"} == set()


def test_every_word_has_its_equation():
    text = page("vocabulary")
    for word in WORDS.values():
        if word.user:
            row = next(line for line in text.splitlines() if re.match(rf"(#+|\|) `{word.name}\b", line))
            assert word.doc.replace("|", "\\|") in row.replace("`", ""), f"{word.name}: {word.doc}"


def test_every_initial_value_is_documented():
    text = page("vocabulary")
    assert {i for i in {*INITS, *ENTRYWISE, "learned", "pretrained"} if f"`{i}" not in text} == set()


def test_every_code_is_listed():
    """One row a code, with its severity and its title; `nldsl explain CODE` has the rest."""
    rows = dict(re.findall(r"^\| (NL\d{3}) \| (.*?) \|$", page("diagnostics"), re.M))
    assert rows == {code: f"{entry.severity} | {entry.title}" for code, entry in CODES.items()}


def test_every_rule_of_the_library_is_shown():
    """The reference has the text of std.nl's rules, word for word."""
    file, _ = parse(Source("std.nl", (ROOT / "nldsl" / "library" / "std.nl").read_text(encoding="utf-8")))
    text = " ".join(page("rules").split())
    assert [i.name for i in file.items if " ".join(i.span.text.split()) not in text] == []
    assert {i.name for i in file.items} <= set(rules_of(library()))


def test_every_command_has_a_section():
    assert {c for c in COMMANDS if f"## `nldsl {c}" not in page("command-line")} == set()


def test_every_stage_is_named():
    assert {s for s in STAGES if f"`{s}`" not in page("command-line")} == set()


def test_every_setting_of_a_train_block_is_named():
    assert {s for s in SETTINGS if f"`{s}`" not in page("train")} == set()
    assert {s for s in SELECTORS if f"`{s}`" not in page("train")} == set()


def test_defaults_of_a_train_block_are_right():
    from nldsl_torch.training.spec import TrainSpec

    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", page("train"), re.M)
    said = {n.strip(" `"): d.strip(" `") for names, defaults in rows for n, d in zip(names.split(","), defaults.split(","))}
    fields = {name: field.default for name, field in TrainSpec.__dataclass_fields__.items() if name in said and name != "data"}
    assert {n: "none" if v is None else str(v) for n, v in fields.items()} == {n: said[n] for n in fields}
    assert SETTINGS - said.keys() == {"model"}
    numbers = routes_of("by adamw()", library())[0].numbers
    said = {a: json.loads(re.search(rf"`{a}`\s+(\[.*?\]|\d[\d.e-]*\d|\d)", page("train"))[1]) for a in numbers}
    assert {a: tuple(v) if isinstance(v, list) else v for a, v in said.items()} == numbers


def test_every_keyword_is_named():
    grammar = (ROOT / "grammar" / "nl.lark").read_text(encoding="utf-8")
    words = set(re.findall(r'"([a-z]+)"', grammar.partition("// --- tokens")[0]))
    assert {w for w in words if f"`{w}`" not in page("syntax")} == set()


def test_extras_are_those_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {e for e in extras if f"`{e}`" not in page("python-api")} == set()
