"""What `nldsl show --stage NAME` prints: one function a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nldsl.diagnostics import Diagnostic, NlError, did_you_mean

if TYPE_CHECKING:
    from nldsl.program import Elaborated, Program

Printer = Callable[["Elaborated"], str]


def _core(elaborated: Elaborated) -> str:
    from nldsl.core_text import unit_text

    return "\n\n".join(unit_text(unit) for unit in elaborated.units.values())


def _types(elaborated: Elaborated) -> str:
    lines = []
    for key, types in elaborated.types.items():
        width = max(map(len, types), default=0)
        lines += [key, *(f"  {name:<{width}} : {type}" for name, type in types.items()), ""]
    return "\n".join(lines)


def _graph(elaborated: Elaborated) -> str:
    from nldsl.graph import nesting_graph
    from nldsl.render import to_mermaid

    return to_mermaid(nesting_graph(elaborated))


# Stages that need a value for every parameter come from the packages that make them.
FRONT: dict[str, Printer] = {"core": _core, "types": _types, "graph": _graph}
LATER: dict[str, tuple[str, str]] = {
    "plan": ("nldsl.lower", "show_plan"),
    "source": ("nldsl_torch", "build_source"),
    "fx": ("nldsl_torch", "show_fx"),
}
STAGES = ("tree", *FRONT, *LATER)


def stage_named(name: str) -> str:
    """The stage itself.

    Raises:
        NlError: NL807, there is none.
    """
    if name not in STAGES:
        near = did_you_mean(name, STAGES)
        raise NlError(
            Diagnostic("NL807", f"there is no stage `{name}`", expected=", ".join(f"`{s}`" for s in STAGES), found=f"`{name}`",
                       help=f"did you mean `{near}`?" if near else None))  # fmt: skip
    return name


def show(program: Program, stage: str, block: str | None, sizes: Mapping[str, Any]) -> str:
    """The text of a stage: the tree of the file, or what the block has become by then."""
    if stage_named(stage) == "tree":
        from nldsl.core_text import tree_text

        return tree_text(program.block(block) if block is not None else program.checked.file)
    assert block is not None
    if stage in FRONT:
        return FRONT[stage](program.elaborate(block, **sizes) if sizes else program.symbolic(block))
    from nldsl.program import backend

    elaborated = program.elaborate(block, **sizes)
    package, function = LATER[stage]
    printer = getattr(backend(package), function, None)
    if printer is None:
        raise NlError(Diagnostic("NL808", f"`{package}` does not print the stage `{stage}`", expected="one of the stages before it"))
    return str(printer(*elaborated.parts))


def show_rule(program: Program, stage: str, name: str, structure: Mapping[str, int]) -> str:
    """The text of a stage of a rule on a tensor.

    Raises:
        NlError: there is no such rule, it is no optimizer, or the stage is one of blocks only.
    """
    from nldsl.core_text import tree_text, unit_text
    from nldsl.program import backend

    rule = program.rule(name, **structure)
    match stage:
        case "tree":
            return tree_text(program.all_rules[name])
        case "core":
            return unit_text(rule.unit)
        case "types":
            width = max(map(len, rule.types))
            return "\n".join([rule.unit.key, *(f"  {stream:<{width}} : {type}" for stream, type in rule.types.items())])
        case "graph":
            from nldsl.graph import rule_graph
            from nldsl.render import to_mermaid

            return to_mermaid(rule_graph(rule, full=True))
        case "plan":
            from nldsl.lower.rule_text import plan_text

            return plan_text(rule)
        case "source":
            return str(backend("nldsl_torch.optim.build").optimizer_source(program, name, structure, standalone=False))
    raise NlError(Diagnostic("NL807", f"a rule has no stage `{stage}`", expected="tree, core, types, graph, plan or source", found=f"`{stage}`"))
