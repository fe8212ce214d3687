"""`nldsl compare`: equal terms, one table, one picture, runs that go on."""

from __future__ import annotations

import json
import statistics

import pytest

import nldsl
from nldsl.cli import run as command
from nldsl_torch.training import fit
from nldsl_torch.training.compare import compare
from nldsl_torch.training.data import ByteData

LM = """
block plain(d) {
  in x : int[256]
  param embed : 256 -> d = normal(0.5)
  param head : d -> 256
  h = embed(x)
  memory m : real[d] { minimize 0.5 * sqnorm(m - h) by gd(0.1) }
  out logits = head(norm(h + m))
}
block told(d) {
  in x, target : int[256]
  param embed : 256 -> d = normal(0.5)
  param head : d -> 256
  h = embed(x)
  memory F : d -> d every 4 { minimize loss over sum by gd(0.1) }
  out logits = head(norm(h + last F(norm(h))))
  out loss = cross_entropy(logits, target)
}
"""
SETTINGS = "steps = 4  batch = 2  length = 16  log_every = 1  eval_every = 2  sample_bytes = 1"
PLAIN = f"train plain {{\n  model = plain(d = 8)\n  minimize cross_entropy(model(byte), next) by adamw(lr = 1e-2)\n  {SETTINGS}\n}}\n"
TOLD = f"train told {{\n  model = told(d = 8)\n  m = model(byte, next)\n  minimize m.loss by adamw(lr = 1e-2)\n  {SETTINGS}\n}}\n"


@pytest.fixture
def run(text_file, tmp_path):
    """`run(texts, **changes)`: the exit code of a comparison of texts in the folder `all`."""

    def call(*texts: str, **changes):
        programs = [nldsl.load(text) for text in texts]
        return compare(programs, **{"data": str(text_file), "seeds": 2, "run_dir": str(tmp_path / "all"), "threads": 1, "quiet": True, **changes})

    return call


def test_one_table_and_one_picture(run, tmp_path, losses) -> None:
    folder = tmp_path / "all"
    assert run(LM + PLAIN + TOLD) == 0
    summary = json.loads((folder / "comparison.json").read_text())
    rows = {row["name"]: row for row in summary["specs"]}
    assert summary["tokens"] == 4 * 2 * 16 and list(rows) == ["plain", "told"]
    assert rows["plain"]["parameters"] == rows["told"]["parameters"] == 2 * 8 * 256
    assert rows["plain"]["state_bytes"] == 4 * 8 and rows["told"]["state_bytes"] == 2 * 4 * 8 * 8 + 8  # F, its gradients' sum, the clock
    for name, row in rows.items():
        runs = [json.loads((folder / f"{name}-{seed}" / "summary.json").read_text()) for seed in (0, 1)]
        values = [r["heldout_bpb"] for r in runs]
        assert row["values"] == values and row["bpb"] == statistics.mean(values) and row["spread"] == statistics.stdev(values) > 0
    shown = (folder / "table.md").read_text().splitlines()
    order = [line.split("|")[1].strip() for line in shown[2:4]]
    assert order == sorted(rows, key=lambda name: rows[name]["bpb"])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert losses(folder / "plain-0") != losses(folder / "plain-1")


def test_a_run_of_a_comparison_is_a_run_of_train(run, text_file, tmp_path, losses) -> None:
    from nldsl_torch.training.cli import choose, train_spec

    run(LM + PLAIN + TOLD, seeds=1)
    program = nldsl.load(LM + PLAIN)
    alone = train_spec(program, choose(program, None), {}, data=str(text_file), steps=None, run_dir=str(tmp_path / "alone"), device="cpu", threads=1)
    assert losses(fit(alone, quiet=True).run_dir) == losses(tmp_path / "all" / "plain-0")


def test_every_spec_reads_the_same_bytes(run, monkeypatch) -> None:
    read: dict[int, list] = {}
    batch = ByteData.batch

    def note(self, step):
        found = batch(self, step)
        read.setdefault(self.seed, []).append((step, found[0].tolist()))
        return found

    monkeypatch.setattr(ByteData, "batch", note)
    run(LM + PLAIN + TOLD)
    for seed in (0, 1):
        first, second = read[seed][:4], read[seed][4:]
        assert first == second and [step for step, _ in first] == [0, 1, 2, 3]


def test_it_goes_on_and_does_nothing_twice(run, tmp_path, losses) -> None:
    folder = tmp_path / "all"
    run(LM + PLAIN + TOLD, seeds=1)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*-0/checkpoint.safetensors")}
    (folder / "table.md").unlink()
    assert run(LM + PLAIN + TOLD) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before and (folder / "table.md").exists()
    assert (folder / "told-1" / "summary.json").exists()
    run(LM + PLAIN + TOLD, steps=5)
    assert list(losses(folder / "told-1")) == [1, 2, 3, 4, 5]


def test_a_spec_that_diverges_leaves_the_others(run, tmp_path) -> None:
    wild = PLAIN.replace("train plain", "train wild").replace("lr = 1e-2", "lr = 1e30")
    assert run(LM + wild + TOLD, seeds=1) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "all" / "comparison.json").read_text())["specs"]}
    assert rows["wild"]["failed"] == 1 and rows["wild"]["bpb"] is None and rows["told"]["bpb"] > 0
    assert "1 diverged" in (tmp_path / "all" / "table.md").read_text()


def test_interrupted(run, monkeypatch, tmp_path) -> None:
    import signal

    from nldsl_torch.training.run import Run

    step = Run.train_step
    monkeypatch.setattr(Run, "train_step", lambda self: (signal.raise_signal(signal.SIGINT), step(self))[1])
    assert run(LM + PLAIN + TOLD) == 130
    assert not (tmp_path / "all" / "table.md").exists()


@pytest.mark.parametrize(
    "texts, changes, code, part",
    [
        ([LM + PLAIN], {}, "NL733", "at least two"),
        ([LM + PLAIN + TOLD.replace("steps = 4", "steps = 5")], {}, "NL733", "`steps`"),
        ([LM + PLAIN + TOLD.replace("length = 16", "length = 8")], {}, "NL733", "`length`"),
        ([LM + PLAIN + TOLD.replace("d = 8", "d = 9")], {}, "NL732", "different numbers"),
        ([LM + PLAIN, LM + PLAIN], {}, "NL733", "twice"),
        ([LM + PLAIN + TOLD], {"length": 10_000}, "NL702", ""),
    ],
)
def test_unequal_terms(run, mistake, tmp_path, texts, changes, code, part) -> None:
    diagnostic = mistake(run, *texts, **changes)
    assert diagnostic.code == code and part in diagnostic.message
    assert not (tmp_path / "all").exists()


def test_what_is_given_holds_for_all(run) -> None:
    """Counts may differ as far as one allows, and settings of the command line are those of every spec."""
    assert run(LM + PLAIN + TOLD.replace("d = 8", "d = 9").replace("steps = 4", "steps = 5"), steps=1, seeds=1, tolerance=0.2) == 0


def test_one_process_only(run, monkeypatch, mistake) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert mistake(run, LM + PLAIN + TOLD).code == "NL734"


def test_files_with_equal_names(tmp_path, text_file, capsys) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.nl").write_text(LM + PLAIN)
    run_dir = tmp_path / "all"
    code = command(["compare", str(tmp_path / "one.nl"), str(tmp_path / "two.nl"), "--seeds", "1", "--steps", "1", "--data", str(text_file), "--run", str(run_dir)])
    out = capsys.readouterr().out
    assert code == 0 and "one.plain" in out and "two.plain" in out
    first, second = ((run_dir / f"{name}.plain-0" / "log.jsonl").read_text().splitlines()[0] for name in ("one", "two"))
    assert json.loads(first)["loss"] == json.loads(second)["loss"]
