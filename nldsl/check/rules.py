"""Rules that no block uses yet are checked too: on a tensor, or where they need an objective as the step of a small memory.

Of a rule that says nothing about what it learns on, only what does not depend on that is reported.

>>> from nldsl.pipeline import check_source
>>> from nldsl.source import Source
>>> [d.code for d in check_source(Source("r.nl", "rule r(a) { update last w - b * g }")).errors]
['NL101']
>>> check_source(Source("r.nl", "rule r(a) { update last w - a * g }")).errors
()
>>> check_source(Source("r.nl", "rule r(a) on d -> e { update last w - a * g - a * outer(last w(x), x) }")).errors
()
"""

from __future__ import annotations

from dataclasses import replace

from nldsl import tree
from nldsl.check.causality import causality
from nldsl.check.instances import Units, symbolic
from nldsl.diagnostics import Diagnostic
from nldsl.elaborate.scope import Constant, Scope
from nldsl.parse import parse
from nldsl.source import Source
from nldsl.walk import walk

REPORTED = ("NL1", "NL310", "NL4")


def check_rule(rule: tree.Rule, top: Scope) -> list[Diagnostic]:
    """What is wrong with a rule on its own."""
    units, names = Units(top), _names(rule)
    if rule.on is not None or "grad" not in names:
        made = units.rule(rule)
        units.diagnostics += causality(made.unit, made.types) if made is not None else []
        if units.diagnostics and only_inside(rule, top):
            return []
    else:
        units.diagnostics += _trial(rule, top)
    found = units.diagnostics if rule.on is not None else [d for d in units.diagnostics if d.code.startswith(REPORTED)]
    return [d for d in found if d.spans and d.spans[0].span.source is rule.span.source]


def only_inside(rule: tree.Rule, top: Scope) -> bool:
    """Whether a rule that is wrong on a tensor is right in a memory: there `x` is one vector, of a model it is a batch of them side by side."""
    return "x" in _names(rule) and not _trial(rule, top)


def _names(rule: tree.Rule) -> set[str]:
    return {n.id for n in walk(rule.body) if isinstance(n, tree.Name)}


def _trial(rule: tree.Rule, above: Scope) -> list[Diagnostic]:
    """Use a rule in a block of its own, whatever its roles: what is wrong then."""
    top = Scope({rule.name: Constant(replace(rule, roles=()), rule.span)}, above)
    units = Units(top)
    required = [f.name for f in rule.formals if f.default is None]
    arguments = ", ".join(f"{name} = trial_number" for name in required)
    text = (
        "block trial(n) {\n  in x : real[n]\n  in trial_number : real\n"
        f"  memory trial_memory : n -> n {{ minimize 0.5 * sqnorm(trial_memory(x) - x) by {rule.name}({arguments}) }}\n"
        "  out y = trial_memory(x)\n}\n"
    )
    file, _ = parse(Source("<rule>", text))
    for block in file.items:
        assert isinstance(block, tree.Block)
        units.block(block, symbolic(block, top, units.sizes))
    return units.diagnostics
