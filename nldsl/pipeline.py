"""The front end on one screen: a text becomes a tree, every block becomes typed units, each pass looks at each unit.

    parse -> top scope -> units (names, elaboration, shapes) -> static passes -> `train` blocks

A static pass is a pure function of one unit. `check_source` collects the diagnostics of the whole file and raises on
no text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nldsl import tree
from nldsl.check.instances import Units, symbolic
from nldsl.check.passes import TYPED, UNTYPED
from nldsl.check.rules import check_rule
from nldsl.diagnostics import Diagnostic, NlError
from nldsl.elaborate.scope import Scope
from nldsl.elaborate.top import library, top_scope
from nldsl.lower.explicit import explicit
from nldsl.parse import parse
from nldsl.source import Source, Span
from nldsl.train import read_train
from nldsl.walk import walk


@dataclass(frozen=True)
class Checked:
    """A file and all that is known about it.

    Attributes:
        top: its names, above those of the library.
        units: every unit made, by key; a unit with errors has no types.
        keys: the unit of each block at symbolic sizes, None where it has errors or takes blocks as parameters: such a
            block is checked where it is used.
        diagnostics: errors and warnings in order of place.
    """

    source: Source
    file: tree.File
    top: Scope
    units: Units
    keys: dict[str, str | None]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity == "error")


def check_source(source: Source) -> Checked:
    """Check every block of a text at symbolic sizes."""
    file, found = parse(source)
    top, wrong = top_scope(file, library())
    units = Units(top)
    waiting = {name for name, formals in block_parameters(file).items() if formals}
    keys = {
        b.name: None if b.name in waiting else units.block(b, symbolic(b, top, units.sizes)) for b in callees_first(file)
    }
    used = {name for item in file.items if isinstance(item, tree.Block) for name in names_in(item.body)}
    rules = [item for item in file.items if isinstance(item, tree.Rule) and item.name not in used]
    found = [*found, *wrong, *check_units(units), *(d for rule in rules for d in check_rule(rule, top))]
    if not any(d.severity == "error" for d in found):
        found += underivable(units) or in_vain(units)
        found += [d for item in file.items if isinstance(item, tree.Train) for d in read_train(item, top)[1]]
    return Checked(source, file, top, units, keys, distinct(without_consequences(found)))


def check_units(units: Units) -> list[Diagnostic]:
    """What elaboration reported, and what the static passes find in every unit made so far."""
    found = list(units.diagnostics)
    for key, unit in units.units.items():
        types = units.types.get(key)
        for _, check in UNTYPED + (TYPED if types is not None else ()):
            found += check(unit, types or {})
    return found


def underivable(units: Units) -> list[Diagnostic]:
    """Objectives without a derivative, and implicit steps without a solution."""
    found: list[Diagnostic] = []
    for key, unit in units.units.items():
        if any(e.op == "grad" for e in unit.equations) and key in units.types:
            try:
                explicit(unit, dict(units.types[key]))
            except NlError as wrong:
                found += wrong.diagnostics
    return found


def in_vain(units: Units) -> list[Diagnostic]:
    """What schedules ask and cannot have. A unit without a schedule is not lowered here."""
    found: list[Diagnostic] = []
    for key, unit in units.units.items():
        if unit.schedule.asks and key in units.types:
            from nldsl.lower.plan import plan

            try:
                plan(unit, units.types[key])
            except NlError as wrong:
                found += wrong.diagnostics
    return found


def distinct(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """In order of place; one code at one place once, so a block used at many sizes reports once.

    A shape that depends on itself within a tick is reported as the cycle it is.
    """
    first: dict[object, Diagnostic] = {}
    for d in diagnostics:
        span = d.spans[0].span if d.spans else None
        where = (span.source.name, span.start, span.end) if span is not None else d.message
        first.setdefault((d.code, where), d)
    cyclic = [label.span for d in first.values() if d.code in ("NL310", "NL311") for label in d.spans]
    kept = [d for d in first.values() if not (d.code == "NL204" and any(overlap(d.spans[0].span, span) for span in cyclic))]
    return tuple(sorted(kept, key=Diagnostic.sort_key))


def without_consequences(found: list[Diagnostic]) -> list[Diagnostic]:
    """Where a statement could not be read, what misses it is not a mistake of its own."""
    broken = [d.spans[0].span for d in found if d.code.startswith("NL0") and d.code != "NL003" and d.spans]
    if not broken:
        return found
    lines = "\n".join(s.source.text[s.source.text.rfind("\n", 0, s.start) + 1 :].split("\n", 1)[0] for s in broken)
    lost = set(re.findall(r"\w+", lines))
    return [d for d in found if d.code not in MISSING and not (d.code in ("NL101", "NL112") and d.spans and d.spans[0].span.text in lost)]


# A block without outputs, a memory without its step, what is not read: the statement may be one that could not be read.
MISSING = {"NL113", "NL190", "NL191", "NL401", "NL402", "NL410"}


def overlap(a: Span, b: Span) -> bool:
    return a.source is b.source and a.start < b.end and b.start < a.end


def callees_first(file: tree.File) -> list[tree.Block]:
    """The blocks of a file, each after those it uses, so that a mistake is reported at symbolic sizes first."""
    blocks = {item.name: item for item in file.items if isinstance(item, tree.Block)}
    uses = {name: [n for n in dict.fromkeys(names_in(b.body)) if n in blocks] for name, b in blocks.items()}
    order: dict[str, tree.Block] = {}
    for first in blocks:
        stack, opened = [first], set()
        while stack:
            name = stack[-1]
            waiting = [] if name in opened else [n for n in uses[name] if n not in order and n not in opened]
            opened.add(name)
            if waiting:
                stack += waiting
            else:
                order.setdefault(stack.pop(), blocks[name])
    return list(order.values())


def block_parameters(file: tree.File) -> dict[str, set[str]]:
    """For each block the parameters without a default that stand for blocks: applied, given to such a parameter, or the structure of a memory.

    >>> from nldsl.parse import parse_text
    >>> block_parameters(parse_text("block twice(f) { in x : real[2]  out y = f(f(x)) }")[0])
    {'twice': {'f'}}
    """
    found: dict[str, set[str]] = {}
    for block in callees_first(file):
        required = {f.name for f in block.formals if f.default is None}
        own = found.setdefault(block.name, set())
        structures = Counter(t.expr.id for t in walk(block.body) if isinstance(t, tree.StructureType) and isinstance(t.expr, tree.Name))
        own |= {n for n in required if 0 < structures[n] == sum(n == name for name in names_in(block.body))}  # nothing else, as a size is
        for call in walk(block.body):
            if isinstance(call, tree.Call) and isinstance(call.fn, tree.Name):
                own |= {call.fn.id} & required
                inner = found.get(call.fn.id, set())
                own |= {a.value.id for a in call.args if a.name in inner and isinstance(a.value, tree.Name)} & required
    return found


def names_in(node: object) -> Iterator[str]:
    """Every name an expression of the tree mentions."""
    return (part.id for part in walk(node) if isinstance(part, tree.Name))

