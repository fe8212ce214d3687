"""The timeline: hand-written expectations, the clock arithmetic against the literal definition, and the drawings."""

import xml.etree.ElementTree as ElementTree
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timeline_specs import SPECS

import nldsl
from nldsl.check.dependences import EACH_TICK, Periodic, clock_of, first_common, resets_of
from nldsl.core import State, Type
from nldsl.graph import rule_elaborated
from nldsl.optimizers import library_program
from nldsl.render import timeline_svg, timeline_text
from nldsl.timeline import Ticks, timeline

HUGE = """
block huge(d) {
  in x : real[d]
  memory a : real[d] every 1000 { minimize 0.5 * sqnorm(a - x) over mean by gd(0.5) }
  memory b : real[d] every 999 { minimize 0.5 * sqnorm(b - x) over mean by gd(0.5) }
  memory c : real[d] every 1000003 { update last c + x over last }
  out y = a + b + last c
}
"""


def of(text, block="b"):
    return timeline(nldsl.load(text).symbolic(block))


def table(t):
    return {path: (sorted(t.writes(path)), sorted(t.resets(path)), sorted(t.folds(path))) for path in t.memories}


def uses(t):
    return {(u.reader, u.memory, u.version) for u in t.uses}


def test_a_memory_of_each_tick():
    t = of(SPECS["plain"])
    assert t.period == 1 and table(t) == {"S": ([0], [], [])}
    assert uses(t) == {("y", "S", "now"), ("S", "S", "last")}


def test_an_offset_needs_no_settling():
    t = of(SPECS["offset"])
    assert t.period == 4 and table(t) == {"m": ([0], [], [0, 1, 2, 3])}
    assert [str(e) for tick in (0, 3, 4) for e in t.at(tick)] == ["m folds", "m writes", "m folds", "m folds", "m writes"]


def test_starts_of_windows():
    t = of(SPECS["window"])
    assert t.period == 4
    assert table(t) == {
        "start(4) M": ([3], [], []), "start(2) M": ([1, 3], [], []),
        "M": ([0, 1, 2, 3], [], []), "M.s": ([0, 1, 2, 3], [], []),
    }  # fmt: skip
    assert t.state("start(4) M") == "M.start4"
    assert [e.kind for e in t.at(8) if e.path == "start(4) M"] == ["window"]
    assert [e.kind for e in t.at(7) if e.path == "start(4) M"] == ["write"]
    assert {("M.s", "M", "start(4)"), ("z", "M", "start(2)"), ("y", "M", "now"), ("M", "M.s", "now")} <= uses(t)


def test_resets():
    t = of(SPECS["reset"])
    assert t.period == 6 and table(t) == {"m": ([2, 5], [0], [])}
    assert [e.kind for e in t.at(12)] == ["reset"]
    assert uses(t) == {("m", "m", "last"), ("y", "m", "last")}


def test_nested_memories_start_from_each_other():
    t = of(SPECS["nested"])
    assert t.period == 8 and t.memories == ("H", "G", "G.m", "F")
    assert table(t) == {
        "H": ([7], [], list(range(8))), "G": ([3, 7], [0], list(range(8))), "G.m": ([3, 7], [], []),
        "F": ([1, 3, 5, 7], [0, 4], list(range(8))),
    }  # fmt: skip
    assert (t.memory("F").base, t.memory("G").base, t.memory("H").base) == ("G", "H", None)
    assert ("F", "G", "last") in uses(t) and ("G", "H", "last") in uses(t)
    # All that ends at tick 7 is folded before it is written, and F starts anew at the next.
    assert [(e.path, e.kind) for e in t.at(8)][:2] == [("G", "reset"), ("F", "reset")]


def test_a_step_with_a_period():
    t = of(SPECS["paced"])
    assert t.period == 3 and table(t) == {"S.shrunk": ([2], [], []), "S": ([0, 1, 2], [0], [])}
    assert t.memory("S.shrunk").step_of == "S" and t.memory("S").base == "S.shrunk"
    assert {("S.shrunk", "S", "now"), ("S", "S.shrunk", "last"), ("y", "S", "now")} <= uses(t)


def test_instances_inside_instances():
    t = of(SPECS["instances"])
    assert t.period == 6 and t.stores == ("A",)
    assert table(t) == {
        "pair/m": ([2, 5], [], []), "pair/cell/m": ([1, 3, 5], [], list(range(6))), "pair/cell.1/m": ([1, 3, 5], [], list(range(6))),
    }  # fmt: skip
    assert [t.state(p) for p in t.memories] == ["pair.m", "pair.cell.m", "pair.cell_1.m"]
    assert ("pair/cell/y", "pair/cell/m", "last") in uses(t)


def test_the_state_of_a_stream_is_no_memory():
    assert of("block b(d) { in x : real[d]  out y = x + last x }").memories == ()


def test_all_events_in_order():
    t = of(SPECS["nested"])
    events = list(t.events)
    assert [e.tick for e in events] == sorted(e.tick for e in events)
    assert {e.path for e in events if e.kind == "write" and e.tick == 3} == {"G", "G.m", "F"}


# --- the definition ----------------------------------------------------------------------------------

clocks = st.tuples(st.integers(1, 12), st.integers(0, 11)).map(lambda c: (c[0], c[1] % c[0]))


@given(clock=clocks, reset=st.none() | st.integers(1, 12), ticks=st.integers(1, 60))
def test_clocks_are_those_of_the_definition(clock, reset, ticks):
    """`core.State`: the equation holds where (t + 1 - offset) mod every = 0, the state starts anew where t mod reset = 0."""
    every, offset = clock
    state = State("m", Type("real"), 0.0, every=every, offset=offset, reset=reset)
    for t in range(ticks):
        assert (t in clock_of(state)) == ((t + 1 - offset) % every == 0)
        assert reset is None or (t in resets_of(state)) == (t % reset == 0)


@given(clock=clocks, times=st.integers(1, 5))
def test_a_set_of_ticks_is_the_ticks_of_its_clock(clock, times):
    periodic = Periodic(*clock)
    ticks = Ticks(periodic, times * clock[0])
    literal = {t for t in range(times * clock[0]) if t in periodic}
    assert ticks == literal and len(ticks) == len(literal) == times and sorted(ticks) == sorted(literal)
    assert ticks & {clock[1], -1} == {clock[1]} and hash(ticks) == hash(Ticks(periodic, times * clock[0]))


@given(st.lists(clocks, min_size=1, max_size=4))
def test_clocks_that_meet_pairwise_meet_all(found):
    several = [Periodic(*c) for c in found]
    period = lcm(*(c.period for c in several))
    literal = [t for t in range(period) if all(t in c for c in several)]
    assert bool(literal) == all(a.meets(b) for a in several for b in several)
    if literal:
        assert first_common(iter(several)) == literal[0] and len(literal) == 1


def test_a_huge_hyperperiod_is_never_written_out():
    t = of(HUGE, "huge")
    assert t.period == 1000 * 999 * 1000003
    assert 999 * 1000003 - 1 in t.writes("b") and len(t.writes("c")) == 999000 and t.at(10**30)
    text, svg = timeline_text(t), timeline_svg(t)
    assert "are left out here" in text and max(map(len, text.splitlines())) < 200 and len(svg) < 100_000
    # The first ticks and the last ones are there.
    assert " 0-997 998 999 1000-1996 " in text and text.splitlines()[1].endswith(str(t.period - 1))
    ElementTree.fromstring(svg)


# --- drawings ----------------------------------------------------------------------------------------


def test_the_table_of_a_short_hyperperiod():
    rows = {line.split()[0]: line.split()[-1] for line in timeline_text(of(SPECS["nested"])).splitlines()[2:6]}
    assert rows == {"H": "fffffffW", "G": "rffWfffW", "G.m": "...W...W", "F": "rWfWrWfW"}


def test_runs_are_compressed():
    text = of("block b(d) { in x : real[d]  memory m : real[d] every 100 { minimize -dot(m, x) by gd(1)  reset every 200 }  out y = m }")
    lines = timeline_text(text).splitlines()
    assert lines[1].split() == ["0", "1-98", "99", "100-198", "199"]
    assert lines[2].split()[-5:] == ["r", "f", "W", "f", "W"]


@pytest.mark.parametrize("name", SPECS)
def test_every_mark_has_its_legend_and_the_svg_is_xml(name):
    t = of(SPECS[name])
    table, legend = timeline_text(t).split("\nreads")[0].split("\nmarks")
    rows = [line for line in table.splitlines()[2:] if "a pair is stored" not in line]
    marks = {mark for line in rows for mark in line.split()[-1]}
    assert len(rows) >= 1 and marks == {line.strip()[0] for line in legend.splitlines()}
    root = ElementTree.fromstring(timeline_svg(t))
    assert root.tag.endswith("svg")
    written = " ".join(e.text or "" for e in root.iter())
    assert all(path in written for path in t.memories)


def test_writes_folds_and_resets_are_drawn_at_their_ticks():
    root = ElementTree.fromstring(timeline_svg(of(SPECS["nested"])))
    rows = {g[0].text.partition(" ")[0]: g for g in root if g.tag.endswith("}g")}
    count = {name: [sum(e.tag.endswith(tag) and e.get("fill", e.get("stroke")) == color for e in g)
                    for tag, color in (("rect", "#2563eb"), ("circle", "#c2410c"), ("line", "#059669"))] for name, g in rows.items()}  # fmt: skip
    assert {n: c for n, c in count.items() if n != "G.m"} == {"H": [1, 8, 0], "G": [2, 8, 1], "F": [4, 8, 2]}


def test_a_rule_has_a_timeline_of_steps():
    t = timeline(rule_elaborated(library_program().rule("m3", frequency=4)))
    assert t.period == 4 and sorted(t.writes("w.slow")) == [3] and sorted(t.writes("w")) == [0, 1, 2, 3]
    assert "a hyperperiod of 4 steps" in timeline_text(t, "rule", "step") and EACH_TICK == t.memory("w").clock
