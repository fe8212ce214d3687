"""Random programs: whatever the compiler makes of them is what the interpreter says they mean."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from program_cases import check, finite, subject

import nldsl
from nldsl.lower.plan import Form, plan
from nldsl.lower.schedule import Attention, Call, Recurrence, Region
from nldsl.pipeline import check_source
from nldsl.source import Source
from nldsl.vocabulary import KEEPING
from nldsl_testing.programs import programs, rule_texts

some = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(some, max_examples=1_500, derandomize=False)
SEED = random.randrange(2**32)


def well_typed(text: str) -> bool:
    """Whether the checker accepts a text; it has no internal error in any case."""
    errors = check_source(Source("<program>", text)).errors
    assert all(d.code != "NL899" for d in errors)
    return not errors


def same(text: str) -> None:
    """What is not finite is not compared."""
    assume(well_typed(text))
    made = subject(text)
    try:
        made.module()
    except nldsl.NlError as refused:
        assert all(d.code != "NL899" for d in refused.diagnostics)
        assume(False)
    assume(finite(made))
    check(made)


@some
@given(programs())
def test_some(text: str) -> None:
    same(text)


@pytest.mark.soak
def test_many(capsys: pytest.CaptureFixture[str]) -> None:
    run_seeded(capsys, settings(many), same)


@pytest.mark.soak
def test_many_wild(capsys: pytest.CaptureFixture[str]) -> None:
    """Values may overflow; what stays finite is the same."""
    run_seeded(capsys, settings(many, max_examples=500), same, wild=True)


def run_seeded(capsys: pytest.CaptureFixture[str], how: settings, check: Callable[[str], None], **options: bool) -> None:
    with capsys.disabled():
        print(f"\nhypothesis seed {SEED}")

    @seed(SEED)
    @how
    @given(programs(**options))
    def run(text: str) -> None:
        check(text)

    run()


# --- what is reached ---------------------------------------------------------------------------------


def count_forms(found: Counter[str], form: Form, prefix: str = "") -> None:
    found[prefix + form.name] += 1
    for inner in form.forms.values():
        count_forms(found, inner, f"{form.name} of ")


STEPS = {Region: "map", Attention: "store", Call: "block"}
WORDS = ("each", "for", "chain", "rule", "reset every", "start(", "last ", "writes stop", "cross_entropy(", "learned", "conv(", "delay(", "rope(", "count()",
         "titans(", "momentum(", "offset", "over mean", "at start(", "minimize loss", "store(", "transpose(", "in token", "out r1", " to M")  # fmt: skip
RARE = ("implicit(", "adam(", "lq_normalise(", "mirror(", "decay_values(", "shampoo(", "lion(", "adafactor(")


def test_everything_is_reached_and_little_is_refused() -> None:
    texts: list[str] = []
    for n in range(10):  # programs of one seed are like one another

        @seed(n)
        @settings(some, max_examples=30, derandomize=False, phases=[Phase.generate])
        @given(programs())
        def draw(text: str) -> None:
            texts.append(text)

        draw()
    forms, codes, refused = Counter[str](), Counter[str](), 0
    for text in texts:
        checked = check_source(Source("<program>", text))
        refused += bool(checked.errors)
        codes.update({d.code for d in checked.errors})
        if checked.errors:
            continue
        elaborated = nldsl.load(text).elaborate("main")
        for key, unit in elaborated.units.items():
            made = plan(unit, dict(elaborated.types[key]))
            for form in made.forms.values():
                count_forms(forms, form)
            forms.update(STEPS[type(step)] for step in made.steps if type(step) in STEPS)
            recurrent = [s for s in made.steps if isinstance(s, Recurrence)]
            forms.update(f"{e.op} in {made.forms[s.states[0]].name}" for s in recurrent for e in s.equations if e.op in KEEPING)
    assert refused / len(texts) < 0.05, codes
    wanted = {"closed", "solve", "scan", "windows", "loop", "map", "store", "block", "windows of closed", "windows of solve", "windows of scan"}
    wanted |= {f"{op} in {form}" for op in ("attend", "attend_pull") for form in ("loop", "windows")}
    assert {"conv in windows", "delay in windows"} & forms.keys(), forms
    assert wanted <= forms.keys(), forms
    whole = "\n".join(texts)
    assert [word for word in WORDS if word not in whole] == []
    assert len([word for word in RARE if word in whole]) > 1


@settings(some, max_examples=80)
@given(rule_texts())
def test_rules_are_well_typed(text: str) -> None:
    assert nldsl.load(text).rules.keys() == {"learner"}
