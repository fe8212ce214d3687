"""Rules that no block uses yet are checked too: on a tensor, or where they need an objective as the step of a small memory.

Of a rule that says nothing about what it learns on, only what does not depend on that is reported.

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> [d.code for d in check_source(Source("r.nl", "rule r(a) { update last w - b * g }")).errors]
['NL101']
>>> check_source(Source("r.nl", "rule r(a) { update last w - a * g }")).errors
()
"""

from __future__ import annotations

from nldsl import tree
from nldsl.check.causality import causality
from nldsl.check.instances import Units, symbolic
from nldsl.diagnostics import Diagnostic
from nldsl.elaborate.scope import Scope
from nldsl.parse import parse
from nldsl.source import Source
from nldsl.walk import walk

REPORTED = ("NL1", "NL310", "NL4")


def check_rule(rule: tree.Rule, top: Scope) -> list[Diagnostic]:
    """What is wrong with a rule on its own."""
    units = Units(top)
    if rule.on is not None or not any(isinstance(n, tree.Name) and n.id == "grad" for n in walk(rule.body)):
        made = units.rule(rule)
        units.diagnostics += causality(made.unit, made.types) if made is not None else []
    else:
        _trial(rule, units)
    found = units.diagnostics if rule.on is not None else [d for d in units.diagnostics if d.code.startswith(REPORTED)]
    return [d for d in found if d.spans and d.spans[0].span.source is rule.span.source]


def _trial(rule: tree.Rule, units: Units) -> None:
    """Use a rule in a block of its own."""
    required = [f.name for f in rule.formals if f.default is None]
    arguments = ", ".join(f"{name} = a" for name in required)
    text = (
        "block trial(n) {\n  in x : real[n]\n  in a : real\n"
        f"  memory trained : n -> n {{ minimize 0.5 * sqnorm(trained(x) - x) by {rule.name}({arguments}) }}\n"
        "  out y = trained(x)\n}\n"
    )
    file, _ = parse(Source("<rule>", text))
    for block in file.items:
        assert isinstance(block, tree.Block)
        units.block(block, symbolic(block, units.top, units.sizes))
