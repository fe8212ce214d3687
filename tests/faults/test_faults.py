"""The faults fit the compiler, and `nldsl verify` finds them: a few here, all in soak (`python3 dev.py faults` is the same)."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import kill
import pytest
from faults import FAULTS, LOWER, OPTIM, TORCH, Fault

ROOMS = {
    LOWER: """differentiate implicit constants copies share order rewrite schedule affine scan retention windows plan rule algebra
        segments rounding""",
    TORCH: """steps module finish recurrence chunks kernels windows window_kernels window_ends adjoint adjoint_rules adjoint_shapes reverse
        runtime streams ops body matrices initial""",
    OPTIM: "ticks table native source numbers cpp program perform",
    "nldsl/check/": "causality clocks ranges interval initialisation",
}
FEW = ("decay before the write", "the past is not returned", "a slow memory at each step", "tanh is not negative")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits(fault):
    text = (kill.ROOT / fault.file).read_text(encoding="utf-8")
    assert fault.put_into(text) != text
    for spec in fault.specs:
        files = [word for word in kill.located(spec) if word.endswith(".nl")]
        assert all((kill.ROOT / file).is_file() for file in files) and (files or "--rule" in spec)


def test_the_page_says_how_many():
    page = (kill.ROOT / "docs/reference/testing.md").read_text(encoding="utf-8")
    assert f"{len(FAULTS)} of {len(FAULTS)}, 100 %" in page
    rows = {kind: int(n) for kind, n in re.findall(r"^\| ([^|`]+) \| (\d+) \|", page, re.MULTILINE)}
    assert rows == Counter(f.kind for f in FAULTS)


def test_a_fault_that_does_not_fit_is_said():
    fault = Fault("name", "kind", "file", "old", "new", ())
    for text in ("", "old old"):
        with pytest.raises(ValueError, match="has to stand once"):
            fault.put_into(text)


def test_the_list():
    assert len(FAULTS) == len({f.name for f in FAULTS}) >= 48
    assert len({f.kind for f in FAULTS}) >= 20
    there = {f.file for f in FAULTS}
    assert not {f"{room}{name}.py" for room, names in ROOMS.items() for name in names.split()} - there


def test_no_fault_is_called_so(capsys):
    assert kill.main("no such name") == 2
    assert FAULTS[0].name in capsys.readouterr().err


def test_a_few_are_found(tmp_path):
    faults = [f for f in FAULTS if f.name in FEW]
    assert len(faults) == len(FEW)
    with ThreadPoolExecutor(kill.WORKERS) as pool:
        verdicts = kill.Bench(tmp_path, pool).each(kill.trial, faults, kill.row)
    assert all(v.killed for v in verdicts), [(f.name, v.said) for f, v in zip(faults, verdicts) if not v.killed]
    for copy in tmp_path.iterdir():
        for part in kill.PARTS if copy.name != "cache" else ():
            same = [(copy / part / f.relative_to(kill.ROOT / part)).read_bytes() == f.read_bytes() for f in (kill.ROOT / part).rglob("*.py")]
            assert all(same), "a fault was left in a copy"


@pytest.mark.soak
def test_all_are_found():
    assert kill.main() == 0
