"""The rules a file can use, each as a unit on a tensor whose ticks are steps."""

from __future__ import annotations

from collections.abc import Mapping

from nldsl import tree
from nldsl.check.instances import Units, headline
from nldsl.check.optimizers import problems_of
from nldsl.check.rules import only_inside
from nldsl.core import Rule
from nldsl.diagnostics import Diagnostic, Label, NlError, did_you_mean
from nldsl.elaborate.scope import Constant, Scope
from nldsl.pipeline import distinct


def rules_of(top: Scope | None) -> dict[str, tree.Rule]:
    """The rules of a file by name, and those of the library below them."""
    found: dict[str, tree.Rule] = {}
    while top is not None:
        for name, bound in top.names.items():
            if isinstance(bound, Constant) and isinstance(bound.value, tree.Rule):
                found.setdefault(name, bound.value)
        top = top.parent
    return found


def rule_of(top: Scope, name: str, structure: Mapping[str, int] | None = None, sizes: Mapping[str, int] | None = None) -> Rule:
    """A rule on a tensor, as `program.rule` gives it.

    Raises:
        NlError: there is none of that name, or it is not an optimizer.
    """
    rules = rules_of(top)
    if name not in rules:
        near = did_you_mean(name, rules)
        raise NlError(
            Diagnostic("NL803", f"there is no rule `{name}`", expected="a rule of the file or of the library", found=f"`{name}`",
                       help=f"did you mean `{near}`?" if near else None))  # fmt: skip
    node, units = rules[name], Units(top)
    made = units.rule(node, structure, sizes)
    errors = [d for d in distinct(units.diagnostics) if d.severity == "error"]
    if errors and only_inside(node, top):
        raise NlError(
            Diagnostic("NL432", f"`{name}` is no optimizer: to it `x` is one vector, and of a model it is a batch of them side by side",
                       (Label(headline(node)),), expected="a rule that reads `x` as a matrix", found="a rule for memories",
                       help="delta_gradient_descent(...)"))  # fmt: skip
    if made is None or errors:
        raise NlError(*errors)
    unknown = [s for s in structure or {} if s not in made.structure and s not in {h.name for h in made.hypers if not h.inputs}]
    if unknown:
        raise NlError(
            Diagnostic("NL805", f"the rule `{name}` has no parameter `{unknown[0]}` that is fixed when it is compiled",
                       (Label(headline(node)),), expected=", ".join(f"`{s}`" for s in made.structure) or "none"))  # fmt: skip
    problems = distinct(problems_of(made, headline(node)))
    if problems:
        raise NlError(*problems)
    return made


def with_others(top: Scope, name: str, structure: Mapping[str, int] | None = None) -> dict[str, Rule]:
    """A rule and those that take what it does not accept, by name, itself first."""
    found = {name: rule_of(top, name, structure)}
    other = found[name].otherwise
    while other is not None and other not in found:
        found[other] = rule_of(top, other)
        other = found[other].otherwise
    return found
