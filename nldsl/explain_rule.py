"""`nldsl explain --rule NAME`: a rule as memories of gradients, what it keeps, and what a step costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from textwrap import wrap

from nldsl import tree
from nldsl.core import Init, Last, Num, Rule
from nldsl.core_text import init_text
from nldsl.diagnostics import NlError
from nldsl.dims import Dim
from nldsl.graph import rule_clocks, rule_levels
from nldsl.lower.algebra import merge_states, simplify
from nldsl.lower.association import Association, associations
from nldsl.lower.cost import entries
from nldsl.lower.differentiate import NotDifferentiable, differentiate
from nldsl.lower.formulas import float_text, plain
from nldsl.lower.rule import RulePlan, Tick, arrays_read, plan_rule
from nldsl.lower.segments import Segment, Step, Whole
from nldsl.program import Program
from nldsl.source import Span
from nldsl.vocabulary import is_number

WIDTH = 110
ACCEPTS = {"any": "any tensor, entry by entry", "vector": "tensors of one dimension", "matrix": "matrices", "stack": "matrices and stacks of them"}
Lines = list[str]


def explain_rules(program: Program) -> list[str]:
    """A section for each rule of a file; one that is no optimizer says why."""
    out = []
    for name, node in program.rules.items():
        try:
            out.append(explain_rule(program, name))
        except NlError as error:
            reason = error.diagnostics[0].message
            out.append(f"rule {name}  ({node.span.where})\n  a learner inside of memories only: {reason}")
    return out


def explain_rule(program: Program, name: str, structure: Mapping[str, int] | None = None) -> str:
    """One rule of the file or of the library.

    Raises:
        NlError: there is none, or it is no optimizer.
    """
    rule = program.rule(name, **(structure or {}))
    node = program.all_rules[name]
    try:
        found, names = associations(rule)
        plan = plan_rule(rule)
    except NotDifferentiable as error:
        return f"rule {name}  ({node.span.where})\n  no optimizer: `{error.equation.op}` has no derivative here ({error.equation.span.where})"
    lines = [f"rule {name}  ({node.span.where})", *(f"  # {text}" for text in said_above(node.span))]
    for association in found:
        lines += _association(association, rule, plan)
    lines += _section("where", [line for name, text in names for line in _folded(f"{name} = {text}")])
    lines += _section("numbers", _numbers(rule, plan))
    lines += _section("takes", [_takes(rule)])
    lines += _section("levels", _levels(rule))
    lines += _section("state", _state(plan))
    lines += _section("step", _step(plan))
    lines += _section("merged", _merged(rule, plan))
    lines += _section("defaults", _defaults(rule, node))
    return "\n".join(lines)


def said_above(span: Span) -> list[str]:
    """The comment right above a declaration: the source of a rule and its readings."""
    before = span.source.text[: span.start].splitlines()
    said: list[str] = []
    while before and before[-1].lstrip().startswith("#") and not before[-1].startswith("# ---"):
        said.insert(0, before.pop().lstrip("# "))
    return wrap(" ".join(said), WIDTH - 4)


def _section(title: str, lines: Lines) -> Lines:
    return [f"  {title if n == 0 else '':<10}{line}" for n, line in enumerate(lines)]


def _folded(text: str) -> Lines:
    """A formula on lines of a terminal; continued lines stand in."""
    return wrap(text, WIDTH - 12, subsequent_indent="    ", break_long_words=False)


# --- memories --------------------------------------------------------------------------------------------------


def _association(a: Association, rule: Rule, plan: RulePlan) -> Lines:
    """One memory: w itself, or one of its gradients."""
    core = "w" if a.name == "w" else f"w.{a.name}"
    only = _only_with(core, plan)
    clock = rule_clocks(rule).get(core)
    heading = ", ".join([f"{rule.types[core]}", *([clock] if clock else []), *([f"only with {only}"] if only else [])])
    retention = a.retention if a.retention is not None else "not a factor of itself: see the update"
    rows = [
        ("key", a.key or ("none: it holds the values as they come" if a.value and a.objective else None)),
        ("value", a.value),
        ("objective", a.objective or "none: it is written as an update"),
        ("retention", retention),
        ("learner", a.learner),
        ("update", f"{a.name}' = {a.update}"),
    ]
    lines = [f"  {'tensor' if a.name == 'w' else 'memory'} {a.name} : {heading}"]
    for title, text in rows:
        lines += [f"    {title if n == 0 else '':<10}{line}" for n, line in enumerate(_folded(text) if text is not None else [])]
    return lines


def _only_with(state: str, plan: RulePlan) -> str | None:
    """The switches a state is there for: it is in no variant where they are all off."""
    if state == "w" or not plan.switches or _kept(plan, state, dict.fromkeys(plan.switches, False)):
        return None
    return " or ".join(s for s in plan.switches if _kept(plan, state, {**dict.fromkeys(plan.switches, False), s: True})) or None


def _kept(plan: RulePlan, state: str, on: Mapping[str, bool]) -> bool:
    return state in {s.name for s in plan.variants[tuple(on[s] for s in plan.switches)].states}


# --- numbers -----------------------------------------------------------------------------------------------------


def _numbers(rule: Rule, plan: RulePlan) -> Lines:
    """The numbers by what they are: given with each step, switches, periods, fixed when compiled."""
    lines, plain_ones = [], []
    for h in rule.hypers:
        default = "required" if h.default is None else f"= {_value(h.default)}"
        if h.name in plan.switches:
            kept = [plain(s.name) for s in rule.unit.states if h.name in (_only_with(s.name, plan) or "").split(" or ")]
            lines.append(f"{h.name} {default}: a switch, 0 removes {', '.join(kept)}")
        elif not h.inputs:
            slow = [plain(s) for s, period in rule.periods.items() if period == h.name]
            lines.append(f"{h.name} {default}: a period, in steps, of {', '.join(slow)}; it may change at any step")
        else:
            plain_ones.append(f"{h.name} {default}")
    lines += [f"{name} = {value}: fixed when compiled" for name, value in rule.structure.items()]
    given = wrap("  ".join(p.replace(" ", "\0") for p in plain_ones), WIDTH - 12)
    return [*(line.replace("\0", " ") for line in given), *lines]


def _value(default: float | tuple[float, ...]) -> str:
    return f"[{', '.join(map(float_text, default))}]" if isinstance(default, tuple) else float_text(default)


def _takes(rule: Rule) -> str:
    if rule.roles:
        shape = "entry by entry" if rule.accepts == "any" else f"{rule.types['w']}{' stacked' if rule.accepts == 'stack' else ''}"
        what = f"{' and '.join(rule.roles)} of a model, {shape}"
    else:
        what = ACCEPTS[rule.accepts] + ("" if rule.accepts == "any" else f", {rule.types['w']}")
    any_tensor = rule.accepts == "any" and not rule.roles
    other = f"; `{rule.otherwise}` takes the others" if rule.otherwise else "" if any_tensor else "; others are refused"
    layer = [i.name for i in rule.unit.inputs if i.name in ("x", "delta")]
    return what + other + (f"; reads {' and '.join(layer)} of its layer" if layer else "")


def _levels(rule: Rule) -> Lines:
    """Slowest first, as `nldsl graph --rule` draws them."""
    rows = [(clock, ", ".join(plain(n) for n in names)) for clock, names in rule_levels(rule)]
    width = max(len(clock) for clock, _ in rows)
    return [f"{clock:<{width}}   {names}" for clock, names in rows]


# --- costs -------------------------------------------------------------------------------------------------------


def _state(plan: RulePlan) -> Lines:
    """Bytes kept for each entry of the parameter, by switches."""
    lines = []
    for key, variant in plan.variants.items():
        kept = ", ".join(plain(s.name) for s in variant.states if not is_number(s.type)) or "nothing"
        lines.append(f"{_per_parameter(plan.bytes_per_parameter(key))} bytes a parameter (float32){_when(plan, key)}: {kept}")
    own = {s.name for s in plan.rule.unit.states}
    new = dict.fromkeys(s.name for v in plan.variants.values() for s in v.states if s.name not in own)
    return lines + [f"{plain(name)} is {_added(name, plan)}" for name in new]


def _added(name: str, plan: RulePlan) -> str:
    """What a state is that the plan has added: at some steps a sum is added to what it was."""
    equations = [e for v in plan.variants.values() for t in v.ticks.values() for e in t.unit.equations if e.name == name]
    sums = any(a == Last(name) for e in equations for a in e.args)
    return "the sum of a period so far" if sums else "a result of slow memories, kept until they change"


def _when(plan: RulePlan, key: tuple[bool, ...], fired: str = "", condition: str = "") -> str:
    on = " and ".join(s for s, there in zip(plan.switches, key) if there)
    return (f" with {on}" if on else "") + (f", {fired}" if fired else "") + (f", {condition}" if condition else "")


def _step(plan: RulePlan) -> Lines:
    """Bytes read and written in one step of each kind, beside the least there can be."""
    lines = []
    for key, variant in plan.variants.items():
        for mask, tick in variant.ticks.items():
            moved = plan.moved_per_parameter(key, mask)
            for condition, steps in tick.lines.items():
                when = _when(plan, key, _fired(plan, mask), _condition(tick, condition))
                least = _per_parameter(Dim.of(4) * _least(tick, steps) / entries(plan.type))
                found = _per_parameter(moved[condition])
                floor = "the least there can be" if found == least else f"{least} if each array were read and written once"
                lines += [f"{found} bytes a parameter{when}", f"  {floor}", *(f"  {line}" for line in wrap(_work(steps, tick), WIDTH))]
    return lines


def _fired(plan: RulePlan, mask: int) -> str:
    """In words: the clocks that fire in this kind of step."""
    if not plan.clocks:
        return ""
    fired = [f"at every {period}-th step" if isinstance(period, int) else f"at steps of {period}"
             for n, (period, _) in enumerate(plan.clocks) if mask >> n & 1]  # fmt: skip
    return " and ".join(fired) or "at the steps between"


def _condition(tick: Tick, key: tuple[bool, ...]) -> str:
    """The sizes a line is for."""
    sizes = {e.name: e for e in tick.sizes}
    said = []
    for name, above in zip(tick.conditions, key):
        e = sizes[name]
        size = e.args[0].value if e.op == "copy" and isinstance(e.args[0], Num) else Dim.symbol(name)
        size = size if isinstance(size, Dim) else Dim.symbol(name)
        more, less = (Dim(tuple((m, abs(c)) for m, c in size.terms if (c < 0) == negative)) for negative in (False, True))
        said.append(f"where {more} {'>' if above else '<='} {less}")
    return " and ".join(said)


def _least(tick: Tick, steps: tuple[Step, ...]) -> Dim:
    """Entries of the arrays a step has to read, and of those it has to write."""
    inputs = {i.name for i in tick.unit.inputs if not is_number(i.type)}
    states = {s.name for s in tick.unit.states if not is_number(s.type)}
    last = {a.name for s in steps for a in (s.reads if isinstance(s, Segment) else s.equation.args) if isinstance(a, Last)}
    read = [n for n in set(arrays_read(steps)) if n in inputs or (n in states and n in last)]
    made = {w for s in steps for w in (s.writes if isinstance(s, Segment) else (s.equation.name,))}
    total = Dim.of(0)
    for name in [*read, *(made & states)]:
        total = total + entries(tick.types[name])
    return total


def _work(steps: tuple[Step, ...], tick: Tick) -> str:
    """How many passes, and which operations on whole tensors."""
    passes = sum(isinstance(s, Segment) for s in steps)
    whole = [s.equation for s in steps if isinstance(s, Whole)]
    ops = Counter(_operation(e.op) for e in whole if not is_number(tick.types[e.name]) or e.op in ("sqnorm", "vector_norm", "dot", "sum", "mean"))
    ops.pop("", None)
    listed = ", ".join(f"{op}{f' ({n} times)' if n > 1 else ''}" for op, n in ops.items())
    first = f"{passes} pass{'es' if passes != 1 else ''} entry by entry"
    return f"{first}, {sum(ops.values())} operations on whole tensors: {listed}" if ops else first


def _operation(op: str) -> str:
    """A product of matrices is one operation, with or without a sum; a transpose is none."""
    return {"addmm": "matmul", "transpose": "", "copy": "", "vector_norm": "norm", "sqnorm": "norm"}.get(op, op)


def _per_parameter(value: Dim) -> str:
    """A formula over sizes without what vanishes for large tensors."""
    kept = [(m, c) for m, c in value.terms if sum(power for _, power in m) >= 0]
    text = str(Dim(tuple(sorted(kept, key=lambda term: bool(term[0])))))
    return text if kept or not value.terms else "almost 0"


def _merged(rule: Rule, plan: RulePlan) -> Lines:
    """Memories that are always equal and share one buffer."""
    unit, types = differentiate(rule.unit, dict(rule.types))
    unit, types = simplify(unit, types)
    clocks = {s.name: rule.periods.get(s.name) for s in unit.states}
    names = [s.name for s in unit.states]
    left = {s.name for s in merge_states(unit, types, clocks, {"w"}).states}
    lines = []
    for name in names:
        if name not in left:
            others = [n for n in names if n in left and n != "w" and name not in
                      {s.name for s in merge_states(unit, types, clocks, set(names) - {name, n}).states}]  # fmt: skip
            lines.append(f"{plain(name)} is always equal to {plain(others[0]) if others else 'another'}: one buffer")
    return lines


def _defaults(rule: Rule, node: tree.Rule) -> Lines:
    """What the text leaves open and how it was taken."""
    starts: dict[str, list[str]] = {}
    for s in rule.unit.states:
        if s.name != "w":
            starts.setdefault(_start(s.init), []).append(plain(s.name))
    lines = [f"{', '.join(names)}: at first {start}" for start, names in starts.items()]
    if rule.accepts != "any" and rule.otherwise is None and not rule.roles:
        lines.append("tensors of other dimensions are refused: `on ... else RULE` names a rule for them")
    if rule.roles:
        lines.append("without a model two dimensions are a matrix, fewer a vector: give the model, or routes")
    return lines


def _start(init: Init) -> str:
    if isinstance(init, tuple) and init[0] == "input":
        return str(init[1])
    return {"eye": "the identity", "zeros": "0", "ones": "1"}.get(text := init_text(init), text)


__all__ = ["explain_rule", "explain_rules", "said_above"]
