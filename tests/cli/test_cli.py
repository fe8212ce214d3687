"""The command line: what each command prints, its exit code, and no traceback whatever happens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nldsl.cli import COMMANDS
from nldsl.cli.new import STARTER
from nldsl.format import format_text
from nldsl.source import Source

ROOT = Path(__file__).parents[2]
GOOD = "block b(d, n = 2) {\n  in x : real[d]\n  param W : d -> d / n\n  out y = W(x)\n}\n"
BAD = "block b(d) {\n  in x : real[d]\n  out y = z\n}\n"
WARNS = "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  out y = x\n}\n"
FILES = {"good.nl": GOOD, "bad.nl": BAD, "warns.nl": WARNS}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["check", "good.nl"], 0, "no mistakes found"),
        (["check", "bad.nl"], 1, "NL101"),
        (["check", "warns.nl"], 0, "1 warning"),
        (["check", "good.nl", "bad.nl", "none.nl"], 1, "3 files: 2 errors"),
        (["check", "none.nl"], 1, "NL801"),
        (["check", "god.nl"], 1, "did you mean 'good.nl'?"),
        (["check", "."], 1, "NL801"),
        (["check", "bad\0name"], 1, "NL801"),
        (["check"], 2, "Missing argument"),
        (["check", "--jsn", "good.nl"], 2, "No such option"),
        (["chek"], 2, "did you mean 'check'?"),
        ([], 2, "Usage"),
        (["graph", "good.nl"], 0, "flowchart"),
        (["graph", "bad.nl"], 1, "NL101"),
        (["graph", "good.nl", "--format", "dot", "--full"], 0, "digraph"),
        (["graph", "good.nl", "--format", "pdf"], 2, "Invalid value"),
        (["graph", "good.nl", "--block", "c"], 2, "NL803"),
        (["graph", "good.nl", "-D", "d=64"], 0, "64"),
        (["graph", "good.nl", "-D", "d=64", "-D", "n=5"], 1, "`d / n` is not a whole number above 0"),
        (["graph", "good.nl", "-D", "d"], 2, "NL813"),
        (["graph", "good.nl", "-D", "d=x+y"], 2, "NL813"),
        (["graph", "good.nl", "-D", "d=0"], 1, "a whole number above 0"),
        (["graph", "good.nl", "-D", "d=1.5"], 1, "a whole number above 0"),
        (["graph", "good.nl", "-D", "e=4", "-D", "d=4"], 2, "NL805"),
        (["show", "--stage", "core", "good.nl"], 0, "apply(W, x)"),
        (["show", "--stage", "types", "good.nl"], 0, "real[d]"),
        (["show", "--stage", "tree", "good.nl"], 0, "Block name='b'"),
        (["show", "--stage", "graph", "good.nl"], 0, "flowchart"),
        (["show", "--stage", "cores", "good.nl"], 2, "did you mean `core`?"),
        (["show", "--stage", "plan", "good.nl"], 1, "NL804"),
        (["explain", "NL310"], 0, "a cycle within one tick"),
        (["explain", "nl310"], 0, "a cycle within one tick"),
        (["explain", "NL999"], 1, "NL812"),
        (["explain", "none.nl"], 1, "NL801"),
        (["explain", "good.nl", "--schedule"], 0, "lags      y reads x of this tick and before"),
        (["explain", "good.nl", "--schedule", "-D", "d=8"], 0, "one order fits every tick"),
        (["explain", "good.nl", "--schedule", "--block", "c"], 2, "NL803"),
        (["explain", "bad.nl", "--schedule"], 1, "NL101"),
        (["explain", "--schedule"], 2, "Missing argument"),
        (["explain", "--schedule", "--rule", "adamw"], 0, "one order fits every step"),
        (["explain", "--schedule", "--rule", "gdd"], 2, "NL803"),
        (["explain", "good.nl", "-o", "a.svg"], 2, "--schedule -o FILE.svg"),
        (["explain", "good.nl", "--schedule", "-o", "a.png"], 2, "--schedule -o FILE.svg"),
        (["explain", "good.nl", "--schedule", "-o", "no/such/a.svg"], 2, "NL810"),
        (["explain", "good.nl", "--schedule", "-o", "a.svg"], 0, "wrote a.svg"),
        (["build", "good.nl"], 1, "NL804"),
        (["fmt", "good.nl", "--check"], 0, ""),
        (["fmt", "bad.nl", "none.nl"], 1, "NL801"),
        (["new", "memory"], 2, "name of a block"),
        (["new", "9lives"], 2, "name of a block"),
        (["new", "no/such/folder"], 2, "NL810"),
        (["new", "good"], 1, "NL809"),
        (["train", "none.nl"], 1, "NL801"),
        (["train", "good.nl", "--steps", "0"], 2, "Invalid value"),
        (["--version"], 0, "nldsl "),
        *[([name, "--help"], 0, "Usage") for name in COMMANDS],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands(cli, arguments, code, says):
    found, out, err = cli(*arguments)
    assert found == code, out + err
    assert says in out + err


def test_not_a_text(cli):
    Path("bin.nl").write_bytes(b"block b\xff\x00")
    code, out, _ = cli("check", "bin.nl")
    assert code == 1 and "NL802" in out


def test_json(cli):
    code, out, _ = cli("check", "bad.nl", "warns.nl", "none.nl", "--json")
    answer = json.loads(out)
    assert code == 1
    assert (answer["errors"], answer["warnings"]) == (2, 1)
    first = answer["diagnostics"][0]
    assert (first["code"], first["spans"][0]["file"], first["spans"][0]["line"], first["spans"][0]["column"]) == ("NL101", "bad.nl", 3, 11)


def test_the_block_that_no_other_uses_is_meant(cli):
    Path("two.nl").write_text(GOOD + "block top(d) { in x : real[d]  out y = b(x) }\n")
    assert "b/W" in cli("graph", "two.nl")[1]
    Path("two.nl").write_text(GOOD + GOOD.replace("block b", "block c"))
    code, _, err = cli("graph", "two.nl")
    assert code == 2 and "NL811" in err and "--block b" in err


def test_output_files(cli):
    assert cli("graph", "good.nl", "-o", "g.svg")[0] == 0
    assert Path("g.svg").read_text().startswith("<svg")
    assert cli("graph", "good.nl", "-o", "g.svg", "-D", "d=8")[0] == 0
    code, _, err = cli("graph", "good.nl", "-o", "g.png")
    assert code == 2 and ".svg" in err and not Path("g.png").exists()
    assert cli("graph", "good.nl", "-o", "g.png", "--format", "dot")[0] == 0
    code, _, err = cli("graph", "good.nl", "-o", "good.nl", "--format", "dot")
    assert code == 1 and "NL809" in err and Path("good.nl").read_text() == GOOD
    assert not list(Path().glob(".*"))


def test_fmt_changes_only_what_is_not_in_the_standard_form(cli):
    Path("ugly.nl").write_text(GOOD.replace("  in", "       in") + "# kept\n")
    assert cli("fmt", "ugly.nl", "--check")[0] == 1
    assert cli("fmt", "ugly.nl")[0] == 0
    assert Path("ugly.nl").read_text() == GOOD + "# kept\n"
    assert cli("fmt", "ugly.nl") == (0, "", "")


def test_new_writes_a_spec_that_checks(cli):
    assert cli("new", "my-cell")[0] == 0
    code, out, _ = cli("check", "my-cell.nl")
    assert (code, out) == (0, "my-cell.nl: no mistakes found\n")
    assert cli("fmt", "my-cell.nl", "--check")[0] == 0
    assert cli("new", "my-cell")[0] == 1


def test_the_starter_is_in_the_standard_form():
    text = STARTER.replace("NAME", "starter")
    assert format_text(Source("starter.nl", text)) == text


def test_an_internal_error_is_one_message(cli, monkeypatch):
    def broken(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr("nldsl.pipeline.check_source", broken)
    monkeypatch.delenv("NLDSL_DEBUG", raising=False)
    code, _, err = cli("check", "good.nl")
    assert code == 1 and "NL899" in err and "boom" in err and "NLDSL_DEBUG=1" in err


def _python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True, **options)


def test_the_front_end_imports_neither_torch_nor_networkx(cli):
    code = (
        "import sys; from nldsl.cli import run; run(['check', 'good.nl']); "
        "print(sorted(m for m in ('torch', 'networkx', 'numpy', 'lark') if m in sys.modules))"
    )
    assert _python(code).stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error(cli):
    Path("many.nl").write_text("".join(BAD.replace("block b", f"block b{n}") for n in range(80)))
    code = "import sys; from nldsl.cli import main; main(['check'] + ['many.nl'] * 8)"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_a_proof_that_fails_is_an_error(cli, monkeypatch):
    from dataclasses import replace

    import nldsl.proof
    from nldsl.diagnostics import Diagnostic

    proven = nldsl.proof.prove
    monkeypatch.setattr(nldsl.proof, "prove", lambda e: replace(proven(e), violations=(Diagnostic("NL310", "`y` needs a value of a later tick"),)))
    code, out, err = cli("explain", "good.nl", "--schedule")
    assert code == 1 and "later tick" in err and "hyperperiod" in out and "earlier value" not in out
