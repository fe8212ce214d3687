"""The engine of `nldsl verify`: what holds is found to hold, what does not is found, shrunk, placed and can be tried again."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import nldsl
from nldsl import testing
from nldsl.cli import run
from nldsl.optimizers import library_program
from nldsl_testing import compare, optimizers, properties, runs
from nldsl_testing import subject as subject_module
from nldsl_testing.example import Example
from nldsl_testing.sizes import small_sizes
from nldsl_testing.subject import Subject
from nldsl_testing.verify import NAMES, Budget, verify

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.nl"))
LEAKY = """
block leaky(d, n = 64) {
  in x : real[d]
  param Wk, Wv : d -> d
  k = unit(Wk(x))
  memory S : d -> d = zeros every n { minimize 0.5 * sqnorm(S(k) - Wv(x)) over mean by gd(0.5) }
  memory F : d -> d = zeros { minimize 0.5 * sqnorm(F(k) - Wv(x)) by decay(0.9), gd(0.5) }
  out y = S(k) + F(k)
}
"""
QUICK = Budget.of(quick=True)


def outcomes(text, **more):
    return {o.property: o for o in verify(nldsl.load(text), budget=more.pop("budget", QUICK), **more)}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_every_example_holds(file):
    found = list(verify(nldsl.load(file), budget=Budget(examples=5, seconds=2.5, sizes=2, example=0.04)))
    assert {o.property for o in found} == {p.name for p in properties.PROPERTIES}
    assert not [o for o in found if o.failure is not None]
    assert {o.property for o in found if o.skipped is not None} <= {"endings", "slopes"}


@pytest.mark.soak
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_every_example_holds_by_default(file):
    assert not [o for o in verify(nldsl.load(file), seed=torch.seed() % 2**16) if o.failure is not None]


@pytest.mark.parametrize("rule", ["adamw", "sgd", "m3", "soap", "muon", "adafactor", "deep_momentum", "delta_gradient_descent"])
def test_rules_hold(rule):
    found = list(verify(library_program(), rule=rule, budget=Budget(examples=8, seconds=8)))
    assert [o.property for o in found] == [p.name for p in optimizers.RULE_PROPERTIES]
    assert not [o for o in found if o.failure is not None]


def broken(monkeypatch, change, of=None):
    """Lowerings whose runs are changed."""
    plain = runs.compiled

    def compiled(subject, example, *args, **kwargs):
        run = plain(subject, example, *args, **kwargs)
        return change(run) if of is None or example.lowering == of else run

    monkeypatch.setattr(properties, "compiled", compiled)


def from_tick(t, size):
    """Outputs that are wrong from a tick on."""

    def change(run):
        wrong = {n: torch.cat([y[:, :t], y[:, t:] + size], 1) for n, y in run.y.items()}
        return replace(run, y=wrong)

    return change


def test_a_wrong_tick_is_found_and_shrunk(monkeypatch):
    broken(monkeypatch, from_tick(2, 1e-3))
    failure = outcomes(LEAKY, only=["lowerings"], budget=Budget(examples=30))["lowerings"].failure
    assert failure is not None and "output `y` is off by" in failure.what
    assert (failure.example.ticks, failure.example.batch, failure.example.lowering) == (3, 1, "chosen")


def test_a_wrong_lowering_is_named(monkeypatch):
    broken(monkeypatch, from_tick(0, 1e-3), of="standalone")
    failure = outcomes(LEAKY, only=["lowerings"], budget=Budget(examples=30))["lowerings"].failure
    assert failure is not None and failure.example.lowering == "standalone"


def test_a_wrong_gradient_is_found(monkeypatch):
    def change(run):
        return runs.Run({n: 2 * y - y.detach() for n, y in run.y.items()}, run.state, run.leaves)

    broken(monkeypatch, change)
    failure = outcomes(LEAKY, only=["lowerings"])["lowerings"].failure
    assert failure is not None and "gradient of" in failure.what


def test_a_lowering_that_crashes_fails(monkeypatch):
    def change(run):
        raise RuntimeError("no such kernel")

    broken(monkeypatch, change)
    found = outcomes(LEAKY, only=["splits"])["splits"]
    assert found.failure is not None and found.failure.what == "RuntimeError: no such kernel"


def test_a_failure_is_placed_and_its_snippet_fails_again(monkeypatch, tmp_path, capsys):
    """A fault in the compiler itself: chunks forget what was before them."""
    from nldsl_testing import report

    (tmp_path / "leaky.nl").write_text(LEAKY)
    monkeypatch.chdir(tmp_path)
    plain = Subject.call
    monkeypatch.setattr(Subject, "call", lambda self, module, x, state=None: plain(self, module, x, None))
    assert run(["verify", "leaky.nl", "--property", "splits"]) == 1
    said = capsys.readouterr().out
    assert "splits       FAILS" in said and "leaky.nl:" in said and "1 of 1 properties fail" in said
    snippet = [line.strip() for line in said.splitlines() if line.strip().startswith(("from nldsl.testing", "check("))]
    with pytest.raises(AssertionError, match="in pieces and as a whole"):
        exec("\n".join(snippet), {})
    monkeypatch.setattr(Subject, "call", plain)
    exec("\n".join(snippet), {})
    assert report.plain(Example()) == "Example()"


def test_lines_of_the_first_wrong_stream(monkeypatch):
    from nldsl_testing import blame

    subject = Subject(nldsl.load(LEAKY), "leaky", {"d": 2, "n": 2})
    example = Example(tuple(subject.sizes.items()), cuts=(5,))
    assert blame.first_wrong(subject, example) == ()
    import nldsl_torch.build

    wrong = nldsl_torch.build.module

    def module(*parts, **more):
        made = wrong(*parts, **more)
        forward = made.forward
        made.forward = lambda *x, **k: {n: v + (n == "k") for n, v in forward(*x, **k).items()}
        return made

    monkeypatch.setattr(blame, "module", module)
    assert blame.first_wrong(subject, example)[0].endswith("  unit(Wk(x))")


def test_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaky.nl").write_text(LEAKY)
    broken(monkeypatch, from_tick(0, 1.0))
    assert run(["verify", "leaky.nl", "--quick", "--json", "--junit", "report.xml", "--property", "lowerings", "--property", "batches", "--seed", "3"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["seed"], answer["holds"]) == ("leaky.nl", 3, False)
    (wrong,) = (o for o in answer["outcomes"] if o["property"] == "lowerings")
    assert wrong["status"] == "fails" and "check(" in wrong["snippet"] and wrong["what"]
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0]
    assert suite.get("tests") == "2" and suite.get("failures") == "1"
    assert [c.get("name") for c in suite if c.find("failure") is not None] == ["lowerings"]
    (tmp_path / "mine.txt").write_text("kept")
    assert run(["verify", "leaky.nl", "--quick", "--property", "batches", "--junit", "mine.txt"]) != 0
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_what_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.nl").write_text("block cell(d) { in x : real[d]  out y = 2 * x }\nblock wrap(d, cell) { in x : real[d]  out y = cell(x) }\n"
                                     "block top(d) { in x : real[d]  out y = wrap(x, cell = cell) }\nblock other(d) { in x : real[d]  out y = x }\n")  # fmt: skip
    assert run(["verify", "two.nl", "--quick", "--property", "batches", "--examples", "2"]) == 0
    said = capsys.readouterr().out
    assert "top  (two.nl:3)" in said and "other  (two.nl:4)" in said and "cell  (" not in said
    assert run(["verify", "two.nl", "--block", "wrap", "--quick"]) == 0
    assert "it takes blocks as parameters: give -D cell=NAME" in capsys.readouterr().out
    assert run(["verify", "two.nl", "--block", "wrap", "-D", "cell=cell", "-D", "d=3", "--quick", "--property", "batches"]) == 0
    assert run(["verify", "two.nl", "--property", "batchs"]) == 2
    assert "did you mean `batches`?" in capsys.readouterr().err
    assert run(["verify", "two.nl", "--block", "no"]) == 2
    assert run(["verify", "gone.nl"]) == 1
    assert run(["verify"]) == 2
    (tmp_path / "odd.nl").write_text("block odd(d, n = d * d + 1000001) { in x : real[d / 999983]  out y = x }\n")
    capsys.readouterr()
    assert run(["verify", "odd.nl"]) == 1
    assert "NL816" in capsys.readouterr().err
    assert run(["verify", "--rule", "adamw", "--quick", "--property", "steps"]) == 0
    assert "adamw" in capsys.readouterr().out


def test_assertions(monkeypatch):
    testing.assert_equivalent(LEAKY, examples=3, d=2)
    testing.assert_causal(nldsl.load(LEAKY), "leaky", examples=3)
    testing.assert_property(library_program(), "steps", rule="lion", examples=3)
    broken(monkeypatch, from_tick(0, 1.0))
    with pytest.raises(AssertionError, match="check\\("):
        testing.assert_equivalent(LEAKY, examples=3)
    assert {n for n in dir(testing) if n.startswith("assert_")} <= set(testing.__all__)
    with pytest.raises(AttributeError):
        testing.assert_nothing  # noqa: B018


def test_every_property_has_an_assertion():
    """Those of blocks; the ones of rules are reached by `assert_property`."""
    from inspect import getsource

    from nldsl_testing import assertions

    source = getsource(assertions)
    assert all(f'"{p.name}"' in source for p in properties.PROPERTIES)
    assert set(NAMES) == {p.name for p in (*properties.PROPERTIES, *optimizers.RULE_PROPERTIES)}


def test_the_seed_decides():
    one, two = (outcomes(LEAKY, seed=s, only=["batches"], budget=Budget(examples=20))["batches"].examples for s in (1, 1))
    assert one == two >= 10


def test_small_sizes():
    program = nldsl.load(ROOT / "examples" / "tnt.nl")
    found = small_sizes(program, "tnt", {}, 4)
    assert len(found) == 4 and len({str(f) for f in found}) == 4
    assert all(f["d"] <= 16 for f in found)
    assert all(f["heads"] == 1 for f in small_sizes(program, "tnt", {"heads": 1}, 2))


# --- how far is too far
def distances_of(found, wanted):
    return compare.worst(compare.distances(found, wanted))


def test_distances():
    a = {"x": torch.ones(3).double(), "tiny": torch.full((2,), 1e-14).double()}
    assert distances_of(a, a) == ("x", 0.0)
    assert distances_of({**a, "x": 1.001 * a["x"]}, a)[1] == pytest.approx(1e-3)
    # What is nothing beside the others is measured by them.
    assert distances_of({**a, "tiny": 2 * a["tiny"]}, a)[1] < 1e-9
    assert distances_of({**a, "x": None}, a)[1] == 1.0
    assert distances_of({"x": torch.tensor([float("nan")])}, {"x": torch.tensor([0.0])})[1] == float("inf")
    assert distances_of({"x": torch.tensor([float("inf"), 1.0])}, {"x": torch.tensor([float("inf"), 1.0])})[1] == 0.0


def test_bounds():
    assert runs.allowed(torch.float64, 0.0) == compare.TOLERANCE
    assert runs.allowed(torch.float64, 1e-10) == compare.FACTOR * 1e-10  # a badly conditioned run is still wrong where digits are
    assert runs.allowed(torch.float32, 0.0) < 1e-5
    assert runs.allowed(torch.bfloat16, 0.0) < 0.5
    assert 1e30 < runs.allowed(torch.bfloat16, 1.0) < float("inf")  # no digit is left: any number, but a number
    assert runs.allowed(torch.bfloat16, float("inf")) == float("inf")  # no number: anything


@pytest.mark.parametrize(
    ("name", "of", "example"),
    [
        # Keys of one channel have unit norm whatever they are: in bfloat16 nothing is left of their gradients.
        ("delta_net", "precision", Example((("d", 4), ("heads", 4)), "every recurrence by loop", batch=2, cuts=(5, 1, 4), seed=4)),
        # Chaotic: an error grows by 1e9 in 45 ticks.
        ("moneta", "lowerings", Example((("d", 4), ("heads", 1), ("window", 2), ("p", 4), ("q", 3)), cuts=(45,), noise=1.0)),
        # The memory leaves the range of float64, as it learns with a network of weights of 30.
        ("titans_mal", "finite", Example((("d", 4), ("heads", 2), ("window", 2), ("chunk", 2), ("persistent", 2)), cuts=(17,), values="sparse", noise=30.0)),
        # `norm` of one number is its sign: two of 87 turn in bfloat16, none of the interpreter's.
        ("cms_nested", "precision", Example((("d", 1), ("vocab", 2), ("fast", 1), ("middle", 2), ("slow", 4)), batch=3, cuts=(21, 8), values="sparse",
                                            noise=1.0, seed=32748)),
        # States of 1e19, whose squares float32 cannot hold.
        ("titans_lmm", "finite", Example((("d", 4), ("heads", 2), ("chunk", 4)), cuts=(11,), values="sparse", noise=30.0, seed=10502)),
    ],
)  # fmt: skip
def test_what_no_digit_decides_is_no_alarm(name, of, example):
    testing.check(ROOT / f"examples/{name}.nl", of, name, example)


def test_memory_that_nobody_wrote_is_no_number():
    with runs.poisoned():
        assert torch.empty(4).isnan().all() and torch.zeros(3).new_empty(2).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_half_precision_may_lose():
    """A factor of 2 in a small gradient shows in float32; in bfloat16 what is 1 / 20 of the whole is no evidence, half of it is."""
    wanted = {"whole": torch.ones(100), "tiny": torch.full((100,), 1e-3), "part": torch.full((100,), 0.3)}

    def alarms(factor, dtype):
        off = compare.distances({n: w * factor.get(n, 1.0) for n, w in wanted.items()}, wanted, compare.small_part(dtype))
        return max(off.values()) > runs.allowed(dtype, 0.0)

    assert alarms({"tiny": 2.0}, torch.float32) and alarms({"part": 2.0}, torch.bfloat16) and alarms({"whole": 2.0}, torch.bfloat16)
    assert not alarms({"tiny": 20.0}, torch.bfloat16) and not alarms({}, torch.float32)


def test_first_values_are_compared(monkeypatch):
    """Those that are not drawn; the values a run is given do not come from the module."""
    right = subject_module.Interpreter.parameters
    monkeypatch.setattr(subject_module.Interpreter, "parameters", lambda *args: {n: p + (n == "a") for n, p in right(*args).items()})
    text = "block b(d) {\n  in x : real[d]\n  param W : d -> d\n  param a : real = 1 - 2 ^ (-3)\n  out y = a * W(x)\n}\n"
    found = outcomes(text, only=["lowerings"])["lowerings"]
    assert found.failure is not None and "the first value of `a`" in found.failure.what


def test_a_crash_of_the_compiler_is_a_property_that_fails(monkeypatch):
    def crash(*args):
        raise KeyError("fill")

    monkeypatch.setattr("nldsl_torch.build.plan", crash)
    monkeypatch.setattr("nldsl_testing.sizes.plan", crash)
    found = outcomes(LEAKY, only=["lowerings", "splits"])
    assert all(o.failure is not None and o.failure.what == "KeyError: 'fill'" for o in found.values())


def test_gradients_of_rounded_values_are_rounded():
    """One value in bfloat16 with several readers, whose gradients are added in bfloat16 in an order of each backend's own."""
    text = """block b(d) {
  in x : real[d]
  param Wk, Wv : d -> d
  k = bfloat16(unit(Wk(x)))
  memory S : d -> d = learned(normal(0.3)) { minimize 0.5 * sqnorm(S(k) - bfloat16(Wv(x))) by gd(0.5) }
  out y = S(x) + bfloat16(x)
}
"""
    found = outcomes(text, only=["lowerings", "derivatives"])
    assert all(o.failure is None for o in found.values())


def test_stretches_are_a_lowering():
    subject = Subject(nldsl.load(LEAKY), "leaky", {"d": 2, "n": 2})
    assert "stretches" in subject.lowerings
    assert "stretches" not in Subject(nldsl.load("block b(d) {\n  in x : real[d]\n  out y = x\n}\n"), "b", {"d": 2}).lowerings


def test_each_lowering_is_tried(monkeypatch):
    """Even where one example is drawn; a failure is shrunk."""
    for name in Subject(nldsl.load(LEAKY), "leaky", {"d": 4, "n": 2}).lowerings[::-3]:
        with monkeypatch.context() as patch:
            broken(patch, from_tick(1, 1.0), of=name)
            found = outcomes(LEAKY, only=["lowerings"], budget=Budget(examples=1, seconds=60, sizes=1, example=0.05))["lowerings"]
            assert found.failure is not None and found.failure.example.lowering == name and found.failure.example.ticks >= 2
