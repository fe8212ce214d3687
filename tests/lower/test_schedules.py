"""What a schedule asks: read, refused with a reason, and obeyed."""

from __future__ import annotations

import pytest

import nldsl
from nldsl.diagnostics import NlError
from nldsl.elaborate.schedules import without_schedules
from nldsl.lower.plan import Plan, plan
from nldsl.pipeline import check_source
from nldsl.source import Source

TEXT = """
const four = 4
block mlp(d, hidden) {
  in x : real[d]
  param up : d -> hidden
  param down : hidden -> d
  out y = down(silu(up(x)))
}
block b(d) {
  in x : real[d]
  param Wk, Wv : d -> d
  k = unit(Wk(x))
  memory M : mlp(d, 2 * d) = learned { minimize 0.5 * sqnorm(M(k) - Wv(x)) at start(16) by gd(0.1, keep = 0.99) }
  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by momentum(0.1) }
  memory L : d -> d { minimize -dot(L(k), x) by decay(0.9), gd(1) }
  memory T : d -> d { update 0.9 * last T + outer(tanh(last T(k)), k) }
  memory m : real[d] { update sigmoid(x) * last m + x }
  memory A : store(d -> d, window = 8) { key x  value x }
  memory slow : d -> d every 8 { minimize 0.5 * sqnorm(slow(k) - x) over mean by gd(0.5) }
  for p in [2, 4] {
    memory F[p] : real[d] every p { update 0.5 * last F[p] + x over last }
  }
  out y = M(x) + S(x) + L(x) + T(x) + m + A(x) + slow(x) + F[2] + F[4] + delay(x, 3)
}
"""


LINE = TEXT.count("\n") + 1  # of the schedule, where one follows


def diagnostics(lines: str, name: str = "b"):
    return check_source(Source("t.nl", f"{TEXT}schedule {name} {{\n{lines}\n}}\n")).diagnostics


def planned(lines: str) -> Plan:
    e = nldsl.load(f"{TEXT}schedule b {{ {lines} }}").elaborate("b", d=4)
    return plan(e.unit, dict(e.types[e.key]))


def kinds(found: Plan) -> dict[str, str]:
    return {name: form.name for name, form in found.forms.items()}


def test_nothing_asked_is_the_compilers_choice():
    assert kinds(planned("")) == {
        "M.up": "windows", "S": "solve", "L": "closed", "T": "loop", "m": "scan", "slow": "windows", "F.2": "windows", "F.4": "windows",
    }  # fmt: skip


# (what is asked, code, what its message says)
REFUSED = [
    ("S by closed", "NL612", "writes that do not depend on the state"),
    ("S.m by closed", "NL612", "writes that do not depend on the state"),
    ("L by solve", "NL612", "nothing to solve"),
    ("S by scan", "NL612", "of vectors and numbers"),
    ("m by closed", "NL612", "real[d], and this form is of operators"),
    ("T by solve", "NL612", "`tanh` is not linear in what was read, with one factor for all channels (t.nl:16)"),
    ("T chunk = 4", "NL612", "`tanh` is not linear"),
    ("S by windows", "NL612", "nothing of it waits for the end of a window"),
    ("M by solve", "NL612", "nothing to solve"),
    ("m chunk = 4", "NL612", "its form is `scan`"),
    ("S recompute", "NL612", "its form is `solve`"),
    ("A by loop", "NL612", "a store"),
    ("slow by closed", "NL612", "at the ends of windows only"),
    ("S by solve  S.m by loop", "NL612", "by schedule (t.nl:"),
    ("* by closed", "NL612", "`*` cannot run by `closed`"),
    ("S chunk = 8  S.m chunk = 4", "NL612", "runs in chunks of 8"),
    ("N by loop", "NL611", "no memory `N`"),
    ("S.n by loop", "NL611", "no memory `S.n`"),
    ("F[3] by loop", "NL611", "no memory `F[3]`"),
    ("k by loop", "NL611", "no memory `k`"),
    ("S by fast", "NL610", "`fast` is not a form"),
    ("S loop", "NL610", "write `S by loop`"),
    ("S chunk = 0", "NL610", "a number of ticks"),
    ("S chunk = 1.5", "NL610", "a number of ticks"),
    ("S chunk = d", "NL610", "a number of ticks"),
    ("S chunk", "NL610", "write `chunk = 16`"),
    ("S recompute = 3", "NL610", "cannot ask"),
    ("S by loop, by solve", "NL102", "twice"),
    ("S by loop  S by loop", "NL102", "twice"),
    ("F[x] by loop", "NL105", "before any tick"),
]


@pytest.mark.parametrize("lines, code, words", REFUSED, ids=[lines for lines, *_ in REFUSED])
def test_what_is_refused(lines, code, words):
    (found,) = diagnostics(lines)
    assert found.code == code and found.severity == "error"
    assert words in f"{found.message} {found.help}"
    assert found.spans[0].span.line == LINE + 1


@pytest.mark.parametrize("name, code", [("c", "NL101"), ("mlp", "NL611"), ("gd", "NL101")])
def test_only_blocks_of_the_file_with_memories(name, code):
    assert [d.code for d in diagnostics("S by loop", name)] == [code]


def test_a_block_has_one_schedule():
    assert [d.code for d in diagnostics("S by loop\n}\nschedule b {\nS by solve")] == ["NL102"]


def test_all_refusals_of_a_file_come_in_one_run():
    assert [d.code for d in diagnostics("S by closed\nN by loop\nm by solve\nL by closed, recompute")] == ["NL612", "NL611", "NL612", "NL612"]


@pytest.mark.parametrize(
    "lines, changed",
    [
        ("S by loop", {"S": "loop"}),
        ("S.m by loop", {"S": "loop"}),
        ("M by loop  m by loop", {"M.up": "loop", "m": "loop"}),
        ("M.down by loop", {"M.up": "loop"}),
        ("F by loop", {"F.2": "loop", "F.4": "loop"}),
        ("F[four] by loop", {"F.4": "loop"}),
        ("* by loop", dict.fromkeys(["M.up", "S", "L", "m", "slow", "F.2", "F.4"], "loop")),
        ("* by loop  S by solve  M by closed", dict.fromkeys(["L", "m", "slow", "F.2", "F.4"], "loop")),
        ("S by solve  L by closed  m by scan  M by closed  slow by windows  F by windows  T by loop", {}),
    ],
)
def test_a_form_is_asked_for(lines, changed):
    assert kinds(planned(lines)) == {**kinds(planned("")), **changed}


def test_the_reason_of_a_loop_names_the_schedule_and_the_choice():
    assert planned("S by loop").forms["S"].why == f"by schedule (<text>:{LINE}); the compiler would take `solve`"
    assert "tanh" in planned("T by loop").forms["T"].why


def test_chunks_and_windows():
    forms = planned("* chunk = 5  S chunk = four  M recompute").forms
    assert (forms["S"].chunk, forms["L"].chunk, forms["M.up"].recompute, forms["slow"].recompute) == (4, 5, True, False)
    assert [inner.chunk for inner in forms["M.up"].forms.values()] == [5, 5]
    assert all(form.recompute for form in planned("* recompute").forms.values() if form.windows is not None)


OUTER = """
block layer(d) { in x : real[d]  memory S : d -> d { minimize -dot(S(x), x) by decay(0.9), gd(1) }  out y = S(x) }
block outer(d) { in x : real[d]  chain h = x over i in 0 .. 2 { h = h + layer(h) }  out y = h }
block takes(d, cell) { in x : real[d]  out y = cell(x) }
"""


def test_a_schedule_goes_with_its_block():
    e = nldsl.load(OUTER + "schedule layer { S by loop }").elaborate("outer", d=4)
    assert [str(u.schedule) for u in e.units.values()] == ["", "S by loop"]
    e = nldsl.load(OUTER + "schedule layer { S by loop }").elaborate("takes", d=4, cell="layer")
    assert [str(u.schedule) for u in e.units.values()] == ["", "S by loop"]


def test_schedules_given_in_python_replace_those_of_the_file():
    program = nldsl.load(OUTER + "schedule layer { S by loop }")
    assert "S: loop form; by schedule (<text>:5)" in program.module("outer", d=4).source
    assert "S: closed form" in program.module("outer", d=4, schedule={"layer": ""}).source
    source = program.module("layer", d=4, schedule="S chunk = 4").source
    assert "S: closed form" in source and "C=4" in source


@pytest.mark.parametrize(
    "given, code", [("S by", "NL009"), ("S by solve", "NL612"), ("T by loop", "NL611"), ("S loop", "NL610"), ({"lay": ""}, "NL803")]
)
def test_schedules_given_in_python_are_refused(given, code):
    with pytest.raises(NlError) as refused:
        nldsl.load(OUTER).module("layer", d=4, schedule=given)
    assert [d.code for d in refused.value.diagnostics] == [code]


def test_lowerings_are_all_there_are():
    e = nldsl.load(TEXT).elaborate("b", d=4)
    found = e.lowerings()
    assert next(iter(found)) == "the compiler's choice"
    parallel = [name for name, form in kinds(planned("")).items() if form != "loop"]
    assert {"every recurrence by loop", "windows computed again", "chunks of 1", *(f"b: {n} by loop" for n in parallel)} <= found.keys()
    sources = {how: plan(x.unit, dict(x.types[x.key])).forms for how, x in found.items()}
    assert len({str(forms) for forms in sources.values()}) == len(sources)


def test_lowerings_ignore_the_schedule_of_the_file():
    with_one = nldsl.load(OUTER + "schedule layer { S by loop, chunk = 7 }".replace(", chunk = 7", "")).elaborate("outer", d=4)
    plain = nldsl.load(OUTER).elaborate("outer", d=4)
    assert {k: [u.schedule for u in e.units.values()] for k, e in with_one.lowerings().items()} == {
        k: [u.schedule for u in e.units.values()] for k, e in plain.lowerings().items()
    }


def test_the_meaning_of_a_text_has_no_schedule():
    def meaning(text: str) -> str:
        return without_schedules(nldsl.load(text).checked.file)

    assert meaning(OUTER + "schedule layer { S by loop }\n# the end\n") == OUTER.rstrip() + "\n# the end\n"
    assert meaning(OUTER) == OUTER


def test_explain_says_what_was_asked(tmp_path):
    from nldsl.explain import explain_block

    program = nldsl.load(f"{TEXT}schedule b {{ S by loop  M by windows, chunk = 4, recompute  L chunk = 8 }}")
    said = explain_block(program, "b")
    assert f"form    loop: by schedule (<text>:{LINE}); the compiler would take `solve`" in said
    assert "asked   M by windows, M chunk = 4, M recompute" in said
    assert "asked   L chunk = 8" in said and "in chunks of 8" in said
