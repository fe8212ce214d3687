"""The proof: it holds of what is right, names what is wrong, and its bounds are those of a literal simulation of the core."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings

import nldsl
from nldsl.check.causality import causality
from nldsl.check.reading import atoms
from nldsl.core import Equation, Last, Num, Ref
from nldsl.diagnostics import NlError
from nldsl.program import Elaborated
from nldsl.proof import prove, tick_classes
from nldsl.timeline import timeline

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "graph"))
from timeline_specs import SPECS, programs  # noqa: E402

EXAMPLES = sorted((ROOT / "examples").glob("*.nl"))


def of(text, block="b"):
    return nldsl.load(text).symbolic(block)


def changed(elaborated, name, change, key=None):
    """The same block with the equations of one name changed, as a faulty front end might have made it."""
    key = key or elaborated.key
    unit = elaborated.units[key]
    equations = tuple(change(e) if e.name == name else e for e in unit.equations)
    assert equations != unit.equations
    return replace(elaborated, units={**elaborated.units, key: replace(unit, equations=equations)})


def now(e: Equation) -> Equation:
    """Every `last` of an equation forgotten."""
    return replace(e, args=tuple(Ref(a.name, a.span) if isinstance(a, Last) else a for a in e.args))


# --- it holds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_holds_of_every_example(path):
    program = nldsl.load(path)
    proven = 0
    for block in program.blocks:
        try:
            elaborated = program.symbolic(block)
        except NlError:
            continue  # it takes blocks as parameters
        found = prove(elaborated)
        assert found.holds and found.lags and min(lag for lag in found.lags.values() if lag is not None) >= 0
        proven += 1
    assert proven


@pytest.mark.parametrize("name", SPECS)
def test_the_order_is_an_order(name):
    """The certificate is checked by itself: what a value reads of its tick is in an earlier step of that class of ticks."""
    elaborated = of(SPECS[name])
    found = prove(elaborated)
    assert found.holds and set(found.order) == set(tick_classes(elaborated))
    unit = elaborated.unit
    for kind, levels in found.order.items():
        step = {value: n for n, level in enumerate(levels) for value in level}
        resting = {s.name for s in unit.states if (kind.tick + 1 - s.offset) % s.every}
        assert {e.name for e in unit.equations} <= set(step)
        for e in unit.equations:
            for a in atoms(e) if e.name not in resting and e.op != "delay" else ():
                assert not isinstance(a, Ref) or a.name not in step or step[a.name] < step[e.name], (e.name, a.name)
        for i in unit.instances:
            for o in i.outputs:
                assert all(step[a.name] < step[f"{i.name}.{o}"] for _, a in i.args if isinstance(a, Ref))


def test_an_implicit_step_is_the_exception():
    text = "block b(d) { in x : real[d]  k = unit(x)  memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by decay(0.9), implicit(2) }  out y = S(k) }"
    found = prove(of(text))
    assert found.holds and found.implicit == ("S.g",)
    assert "S.g: an implicit step" in "\n".join(found.text())


def test_a_gradient_at_another_memory_that_needs_it_is_solved_with_it():
    text = """rule peek(p) { update last w - 0.1 * grad(at = p) }
    block b(d) { in x : real[d]  k = unit(x)  memory R : d -> d { update 0.5 * last R + S }
    memory S : d -> d { minimize 0.5 * sqnorm(S(k) - x) by peek(R) }  out y = S(k) }"""
    found = prove(of(text))
    assert found.holds and found.implicit == ("S.g",)


def test_a_gradient_at_a_state_of_this_tick_that_does_not_need_it_is_a_plain_read():
    text = "block b(d) { in x : real[d]  memory A : real[d] { update 0.5 * last A + x }  memory B : real[d] { minimize 0.5 * sqnorm(B - A) by gd(1) }  out y = B }"
    assert prove(of(text)).implicit == ()


# --- what is wrong is named --------------------------------------------------------------------------


def wrong(elaborated):
    found = prove(elaborated)
    assert not found.holds and not found.lags and not found.order
    return found.violations


def test_last_forgotten():
    text = "block b(d) {\n  in x : real[d]\n  memory S : d -> d {\n    update 0.9 * last S + outer(last S(x), x)\n  }\n  out y = S(x)\n}"
    e = of(text)
    read = next(q.name for q in e.unit.equations if q.op == "apply" and isinstance(q.args[0], Last))
    (d,) = wrong(changed(e, read, now))
    assert d.code == "NL310" and d.message == "`S` depends on itself within one tick"
    assert {label.span.line for label in d.spans} == {4}
    assert d.render() in "\n".join(prove(changed(e, read, now)).text())


def test_a_read_of_itself():
    e = of("block b(d) { in x : real[d]  memory m : real[d] { update last m }  out y = m + x }")
    name = e.unit.states[0].name
    bad = replace(e, units={e.key: replace(e.unit, equations=tuple(now(q) if q.name == name else q for q in e.unit.equations))})
    (d,) = wrong(bad)
    assert "`m` depends on itself" in d.message


def test_the_start_of_a_window_read_in_place_of_the_one_before():
    """The start of a window is made of the memory at the end of it: read at that very tick it would be the end."""
    e = of(SPECS["window"])
    bad = changed(e, "M.g", lambda q: replace(q, args=(Ref("M.start4"),)))
    (d,) = wrong(bad)
    assert "within one tick" in d.message and d.found == "no order of the values of tick 3"


def test_a_delay_into_the_future():
    e = of("block b(d) { in x : real[d]  h = delay(x, 2)  out y = h }")
    (d,) = wrong(changed(e, "h", lambda q: replace(q, attrs=(("ticks", -1),))))
    assert d.message == "`h` needs a value of a later tick" and any("`x` of 1 ticks later" in label.text for label in d.spans)


def test_resets_in_a_circle():
    e = of("block b(d) { in x : real[d]  memory m : real[d] { minimize -dot(m, x) by gd(1)  reset every 4 to n }  memory n : real[d] { minimize -dot(n, x) by gd(1) }  out y = m + n }")
    states = tuple(replace(s, reset=8, base="m") if s.name == "n" else s for s in e.unit.states)
    (d,) = wrong(replace(e, units={e.key: replace(e.unit, states=states)}))
    assert "`m`" in d.message or "`n`" in d.message


def test_a_cycle_through_an_instance():
    e = of("block half(d) { in x : real[d]  param W : d -> d  out y = W(x) }  block b(d) { in x : real[d]  h = half(x)  g = h + x  out y = g }")
    (instance,) = e.unit.instances
    bad = replace(e, units={**e.units, e.key: replace(e.unit, instances=(replace(instance, args=(("x", Ref("g")),)),))})
    (d,) = wrong(bad)
    assert "`g`" in d.message or "`h`" in d.message


def test_a_block_begins_when_all_its_arguments_are_there():
    """What of it does not need an argument still waits for it: a block is a function."""
    e = of("block two(d) { in a, b : real[d]  out u = 2 * a  out v = 3 * b }  block b(d) { in x : real[d]  t = two(x, x)  out y = t.v }")
    (instance,) = e.unit.instances
    bad = replace(instance, args=(instance.args[0], ("b", Ref(f"{instance.name}.u"))))
    assert wrong(replace(e, units={**e.units, e.key: replace(e.unit, instances=(bad,))}))


def test_several_violations_are_all_told():
    e = of("block b(d) { in x : real[d]  memory m, n : real[d] { update 0.5 * last m + x }  out y = m }".replace(
        "memory m, n : real[d] { update 0.5 * last m + x }",
        "memory m : real[d] { update 0.5 * last m + x }  memory n : real[d] { update 0.5 * last n + m }").replace("y = m", "y = n"))  # fmt: skip
    bad = replace(e, units={e.key: replace(e.unit, equations=tuple(now(q) for q in e.unit.equations))})
    assert {d.message for d in wrong(bad)} == {"`m` depends on itself within one tick", "`n` depends on itself within one tick"}


def test_states_that_never_tick_together_may_read_each_other():
    """The checker, which does not look at clocks, refuses this; no tick has a cycle."""
    e = of("block b(d) { in x : real[d]  memory p : real[d] every 4 offset 1 { update last q + x over last }  memory q : real[d] every 4 offset 2 { update p over last }  out y = q }")
    good = changed(e, "p", now)
    assert [d.code for d in causality(good.unit, {})] == ["NL310"]
    found = prove(good)
    assert found.holds and {kind.tick for kind in found.order} == {0, 1}
    together = replace(good.unit, states=tuple(replace(s, offset=1) for s in good.unit.states))
    assert "within one tick" in wrong(replace(good, units={e.key: together}))[0].message


@settings(max_examples=80)
@given(text=programs())
def test_the_checker_and_the_proof_agree(text):
    """On random programs, and on each with one `last` forgotten: where the checker finds no cycle the proof holds, and where no clocks differ also the other way."""
    elaborated = of(text)
    assert prove(elaborated).holds
    one_clock = all(s.every == 1 for s in elaborated.unit.states)
    for e in elaborated.unit.equations:
        if now(e) != e:
            bad = changed(elaborated, e.name, now)
            refused = bool(causality(bad.unit, {}))
            assert prove(bad).holds or refused
            assert not one_clock or prove(bad).holds == (not refused)


# --- bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lags", "staleness"),
    [
        ("plain", {("y", "x"): 0}, {}),
        ("offset", {("y", "x"): 0}, {"m": 4}),
        ("window", {("y", "x"): 0, ("z", "x"): 0}, {"start(4) M": 4, "start(2) M": 2}),
        ("reset", {("y", "x"): 1}, {"m": 3}),
        ("nested", {("y", "x"): 0}, {"H": 8, "G": 4, "G.m": 4, "F": 2}),
        ("instances", {("y", "x"): 0}, {"pair/m": 3, "pair/cell/m": 2, "pair/cell.1/m": 2}),
        # a is written at ticks 0, 4, ...; b takes it at 2, 6, ...
        ("two clocks", {("y", "x"): 2, ("z", "x"): 0}, {"a": 4, "b": 4}),
        ("delays", {("y", "x"): 4, ("y", "u"): 2}, {}),
    ],
)
def test_bounds_by_hand(name, lags, staleness):
    found = prove(of(SPECS[name]))
    assert (found.lags, found.staleness) == (lags, staleness)


def test_an_input_that_does_not_matter():
    found = prove(of("block b(d) { in x, z : real[d]  memory m : real[d] { update z }  out y = x  out u = 1 }"))
    assert found.lags == {("y", "x"): 0, ("y", "z"): None, ("u", "x"): None, ("u", "z"): None}
    assert "y does not read z" in "\n".join(found.text())


def test_a_value_handed_on_by_a_reset():
    """G is written at ticks 3, 7, ... and F starts from it at ticks 8, 16, ...: the newest value it hands on is one tick old."""
    text = "block b(d) { in x : real[d]  memory F : real[d] { update 0.5 * last F  reset every 8 to G }  memory G : real[d] every 4 { update 0.5 * last G + x over last }  out y = F }"
    assert prove(of(text)).lags == {("y", "x"): 1}
    offset = text.replace("every 4 {", "every 4 offset 2 {")
    assert prove(of(offset)).lags == {("y", "x"): 3}


def test_the_lines_of_a_proof():
    lines = prove(of(SPECS["two clocks"])).text()
    assert lines[1:3] == ["lags      y reads x up to 2 ticks before", "          z reads x of this tick and before"]
    assert lines[3] == "held      a, b: what was seen up to the end of the last period of 4 ticks, at most 4 ticks old"


class Newest:
    """The core run on the newest tick of each input that a value depends on: the definition, literally, in place of numbers."""

    def __init__(self, elaborated: Elaborated, key: str):
        self.unit = elaborated.units[key]
        self.equations = {e.name: e for e in self.unit.equations}
        self.inner = {i.name: Newest(elaborated, i.unit) for i in self.unit.instances}
        self.after = {s.name: {} for s in self.unit.states}
        self.sums = {e.name: {} for e in self.unit.equations if e.op == "fold"}
        self.past = {e.name: [] for e in self.unit.equations if e.op == "delay"}
        self.stored = {e.name: {} for e in self.unit.equations if e.op in ("attend", "conv")}

    def tick(self, t: int, inputs: dict) -> dict:
        states = {s.name: s for s in self.unit.states}

        def before(name):
            s = states[name]
            if s.reset is not None and t % s.reset == 0:
                return before(s.base) if s.base is not None else {}
            return self.after[name]

        was = {name: before(name) for name in states}
        values = dict(inputs) | {p.name: {} for p in self.unit.params}

        def value(a):
            return {} if isinstance(a, Num) else was[a.name] if isinstance(a, Last) else of_name(a.name)

        def of_name(name):
            if name not in values:
                values[name] = compute(name)
            return values[name]

        def compute(name):
            if name in states and (t + 1 - states[name].offset) % states[name].every:
                return was[name]
            if name not in self.equations:
                call = next(i for i in self.unit.instances if name in {f"{i.name}.{o}" for o in i.outputs})
                made = self.inner[call.name].tick(t, {n: value(a) for n, a in call.args})
                values.update({f"{call.name}.{o}": v for o, v in made.items()})
                return values[name]
            e = self.equations[name]
            found = join(value(a) for a in atoms(e))
            if e.op == "delay":
                self.past[name].append(found)
                n = e.attr("ticks")
                return self.past[name][-1 - n] if len(self.past[name]) > n else {}
            if e.op == "fold":
                found = join([self.sums[name], found])
                s = states[e.attr("memory")]
                self.sums[name] = found if (t + 1 - s.offset) % s.every else {}
            if e.op in ("attend", "conv"):
                found = self.stored[name] = join([self.stored[name], found])
            return found

        for name in self.equations:
            of_name(name)
        for i in self.unit.instances:
            of_name(f"{i.name}.{i.outputs[0]}")
        self.after = {name: of_name(name) for name in states}
        return {name: value(a) for name, a in self.unit.outputs}


def join(values):
    out = {}
    for v in values:
        for name, s in v.items():
            out[name] = max(s, out.get(name, -1))
    return out


def simulated(elaborated, ticks):
    """The least lag of each output behind each input in so many ticks, and at each tick what each output has seen."""
    run, inputs = Newest(elaborated, elaborated.key), [i.name for i in elaborated.unit.inputs]
    lags = {(name, i): None for name, _ in elaborated.unit.outputs for i in inputs}
    for t in range(ticks):
        for name, seen in run.tick(t, {i: {i: t} for i in inputs}).items():
            for i, s in seen.items():
                lags[name, i] = t - s if lags[name, i] is None else min(lags[name, i], t - s)
    return lags


@pytest.mark.parametrize("name", SPECS)
def test_lags_are_those_of_a_simulation(name):
    elaborated = of(SPECS[name])
    assert prove(elaborated).lags == simulated(elaborated, 4 * timeline(elaborated).period + 8)


@pytest.mark.parametrize("path", [p for p in EXAMPLES if "grad(at" not in p.read_text() and p.stem != "longhorn"], ids=lambda p: p.stem)
def test_lags_of_the_examples_are_those_of_a_simulation(path):
    program = nldsl.load(path)
    elaborated = program.symbolic(path.stem if path.stem in program.blocks else program.blocks[-1])
    assert prove(elaborated).lags == simulated(elaborated, timeline(elaborated).period + 3)


@settings(max_examples=150)
@given(text=programs())
def test_lags_of_random_programs(text):
    """Never above what is attained, and attained where one memory has a clock and none starts anew."""
    elaborated = of(text)
    period = timeline(elaborated).period
    assume(period <= 24)
    found, attained = prove(elaborated).lags, simulated(elaborated, 4 * period + 12)
    for pair, lag in attained.items():
        assert lag is None or (found[pair] is not None and found[pair] <= lag)
    if sum(s.every > 1 for s in elaborated.unit.states) <= 1 and all(s.reset is None for s in elaborated.unit.states):
        assert found == attained


@settings(max_examples=60)
@given(text=programs())
def test_staleness_is_the_age_of_the_last_write(text):
    t = timeline(of(text))
    stale = prove(of(text)).staleness
    for path in t.memories:
        clock = t.memory(path).clock
        ages = [tick - max(w for w in range(-clock.period, tick) if w % clock.period == clock.phase) for tick in range(clock.period, 4 * clock.period)]
        assert stale.get(path, 1) == max(ages)
