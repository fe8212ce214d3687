"""The algebra beyond the zoo: every small program in torch and in the interpreter."""

from functools import cache

import pytest
from torch_cases import EXACT, case, check, distance, outputs, split
from torch_programs import PROGRAMS

RANK = ["map", "closed", "scan", "solve", "windows", "loop"]
each = pytest.mark.parametrize("name", PROGRAMS)


@cache
def program(name):
    return case(PROGRAMS[name][1], "m", d=3 if "implicit" in PROGRAMS[name][1] else 6)


@each
def test_form(name):
    wanted, forms = PROGRAMS[name][0], program(name).forms
    for first, form in wanted.items():
        assert first in forms, list(forms)
        assert RANK.index(forms[first].name) <= RANK.index(form), (
            f"{first} is a {forms[first].name}: {forms[first].why}"
        )


@each
def test_torch_is_the_interpreter(name):
    check(program(name), [1, 35], 1 if "implicit" in PROGRAMS[name][1] else 2, EXACT)


@each
def test_a_split(name):
    c = program(name)
    x = c.input(2, 41)
    whole, end = c.module(x, return_state=True)
    parts, state = split(c.module, x, [34, 1, 1, 1, 4])
    for n, y in outputs(whole).items():
        assert distance(parts[n], y) < EXACT, n
    for n in end:
        assert distance(state[n], end[n]) < EXACT, n
