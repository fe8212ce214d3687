"""The roles that a rule says it learns on: words there are, each once, of parameters that have the shape behind them."""

from __future__ import annotations

from collections.abc import Iterator

from nldsl import tree
from nldsl.diagnostics import Diagnostic, Label, did_you_mean
from nldsl.roles import ACCEPTED, ROLES, SHAPES


def accepts(rule: tree.Rule) -> str:
    """The shapes of what a rule learns on: any, vector, matrix or stack."""
    return "any" if rule.on is None else "vector" if isinstance(rule.on, tree.RealType) else "stack" if rule.word else "matrix"


def roles_of(rule: tree.Rule) -> tuple[str, ...]:
    """The words; none where any role will do."""
    return tuple(role.id for role in rule.roles)


def misread_roles(rule: tree.Rule) -> Iterator[Diagnostic]:
    """What is wrong with the roles of a rule."""
    shapes = ACCEPTED[accepts(rule)]
    fitting = [word for word in ROLES if SHAPES[word] in shapes]
    for n, role in enumerate(rule.roles):
        if role.id not in ROLES:
            near = did_you_mean(role.id, ROLES)
            yield Diagnostic(
                "NL435", f"`{role.id}` is no role of a parameter", (Label(role.span),),
                expected=", ".join(ROLES) + ("" if rule.on is not None else ", or a type"), found=f"`{role.id}`",
                help=f"did you mean `{near}`?" if near else "on matrices d -> e")  # fmt: skip
        elif role.id in roles_of(rule)[:n]:
            yield Diagnostic("NL435", f"the role `{role.id}` stands twice", (Label(role.span),), expected="each role once", help="leave it out")
        elif SHAPES[role.id] not in shapes and rule.on is not None:
            yield Diagnostic(
                "NL435", f"`{role.id}` have another shape than what `{rule.name}` learns on", (Label(role.span), Label(rule.on.span, "what it learns on")),
                expected=f"roles of this shape: {', '.join(fitting)}", found=f"`{role.id}`",
                help=f"on {fitting[0]} {rule.on.span.text}")  # fmt: skip


__all__ = ["accepts", "misread_roles", "roles_of"]
