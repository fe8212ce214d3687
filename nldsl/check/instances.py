"""Units on demand: a block at given parameters is elaborated and typed once, however often it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nldsl import tree
from nldsl.check.recurrences import blocks as recurrent
from nldsl.check.shapes import Types, infer_shapes
from nldsl.core import Instance, Ref, Rule, Type, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.dims import Dim
from nldsl.elaborate import elaborate_unit
from nldsl.elaborate.builder import MAX_DEPTH, Place
from nldsl.elaborate.constants import constant
from nldsl.elaborate.roles import accepts, roles_of
from nldsl.elaborate.rule import elaborate_rule
from nldsl.elaborate.scope import Constant, Scope
from nldsl.schedules import Schedule
from nldsl.source import Span
from nldsl.walk import range_names

MAX_INSTANCES = 4096  # in one block, those inside its blocks included


@dataclass
class Units:
    """All units made from one file so far.

    Attributes:
        top: the names of the file and of the library.
        sizes: sample values of symbols.
        units, types: by key; a unit with errors has no entry in `types`.
        depths, totals: how deep blocks nest in a unit, itself included, and how many it consists of.
    """

    top: Scope
    sizes: dict[str, int] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    types: dict[str, Types] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def block(self, block: tree.Block, formals: Mapping[str, Any]) -> str | None:
        """The key of a block at complete parameters; None when it has errors, which are reported."""
        key = unit_key(block.name, formals)
        if key in self.units:
            return key if key in self.types else None
        if key in self.opened or len(self.opened) >= MAX_DEPTH:
            around = key in self.opened or any(name.startswith(f"{block.name}(") for name in self.opened)
            self._too_deep(block, "contains itself" if around else f"is nested deeper than {MAX_DEPTH}")
            return None
        self.opened.append(key)
        unit, types, wrong = self._typed(key, block, formals)
        self.opened.pop()
        self.units[key] = unit = replace(unit, schedule=self._schedule(block))
        inside = [i.unit for i in unit.instances if i.unit is not None]
        self.depths[key] = 1 + max((self.depths[i] for i in inside), default=0)
        self.totals[key] = 1 + sum(self.totals[i] for i in inside)
        if self.depths[key] > MAX_DEPTH:
            self._too_deep(block, f"has blocks nested deeper than {MAX_DEPTH}")
            return None
        if self.totals[key] > MAX_INSTANCES:
            self.diagnostics.append(
                Diagnostic("NL003", f"the block `{block.name}` has too many blocks inside it", (Label(headline(block)),),
                           expected=f"at most {MAX_INSTANCES}", found=str(self.totals[key] - 1)))  # fmt: skip
            return None
        self.diagnostics += wrong
        if any(d.severity == "error" for d in wrong) or any(i.unit is None for i in unit.instances):
            return None
        self.types[key] = types
        return key

    def _typed(self, key: str, block: tree.Block, formals: Mapping[str, Any]) -> tuple[Unit, Types, list[Diagnostic]]:
        """A unit, its types and what is wrong: elaborated until no call of a block is left that has to be written out."""
        places: dict[Place, Mapping[str, Any]] = {}
        while True:
            unit, found, wanted = elaborate_unit(key, block, formals, self.top, self.sizes, places)
            unit, types, wrong = infer_shapes(unit, self.instance)
            wanted |= {i.place for i in recurrent(unit, types)}
            more = {i.place: dict(self.units[i.unit].formals) for i in unit.instances if i.place in wanted and i.place and i.unit is not None}
            if not more:
                return unit, types, [*found, *wrong]
            places |= more

    def _schedule(self, block: tree.Block) -> Schedule:
        """What the file asks for a block of its own."""
        own = self.top.names.get(block.name)
        return self.top.schedules.get(block.name, Schedule()) if isinstance(own, Constant) and own.value is block else Schedule()

    def rule(self, rule: tree.Rule, structure: Mapping[str, int] | None = None, sizes: Mapping[str, int] | None = None) -> Rule | None:
        """A rule on a tensor, of symbolic size or of `sizes`; None when it has errors, which are reported."""
        unit, hypers, periods, fixed, found = elaborate_rule(rule, self.top, structure or {}, sizes or {})
        unit, types, wrong = infer_shapes(unit, self.instance)
        self.diagnostics += found + wrong
        if any(d.severity == "error" for d in found + wrong):
            return None
        return Rule(rule.name, unit, types, hypers, periods, fixed, accepts(rule), rule.otherwise, roles_of(rule))

    def _too_deep(self, block: tree.Block, what: str) -> None:
        self.diagnostics.append(
            Diagnostic("NL118", f"the block `{block.name}` {what}", (Label(headline(block)),), expected=f"blocks nested at most {MAX_DEPTH} deep"))  # fmt: skip

    def instance(self, instance: Instance, args: Mapping[str, Type]) -> tuple[str, Mapping[str, Type]] | list[Diagnostic]:
        """The unit of an instance: parameters it does not name are read off the shapes of its arguments.

        Returns:
            Its key and the types of its outputs, or what is wrong with the arguments; nothing where the block has reported errors.
        """
        found = self.top.find(instance.block)
        assert isinstance(found, Constant) and isinstance(found.value, tree.Block)
        block = found.value
        formals = complete(block, dict(instance.formals), args, self.top)
        missing = [f for f in block.formals if f.name not in formals]
        if missing:
            return [Diagnostic("NL110", f"`{block.name}` needs `{missing[0].name}`",
                               (Label(instance.span), Label(missing[0].span, "declared here")),
                               expected=f"`{missing[0].name} = ...`, or an input whose shape gives it")]  # fmt: skip
        key = self.block(block, formals)
        if key is None:
            return []
        unit, types = self.units[key], self.types[key]
        for declared in unit.inputs:
            given = args[declared.name]
            # An input of an `each` is given from outside as a table: one row for each copy.
            wanted = (*(a.size for a in declared.type.axes), *declared.type.shape)
            if (given.kind, given.shape, given.bound) != (declared.type.kind, wanted, declared.type.bound):
                return [Diagnostic("NL202", f"`{block.name}` does not take this",
                                   (Label(instance.span), Label(declared.span, f"`{declared.name}` is declared here")),
                                   expected=str(declared.type), found=str(given))]  # fmt: skip
        return key, {name: types[atom.name] if isinstance(atom, Ref) else Type("real") for name, atom in unit.outputs
                     if not isinstance(atom, Ref) or atom.name in types}  # fmt: skip


def headline(node: tree.Block | tree.Rule) -> Span:
    """The first line of a block or rule."""
    end = node.span.source.text.find("\n", node.span.start)
    return Span(node.span.source, node.span.start, min(node.span.end, end if end >= 0 else node.span.end))


def unit_key(name: str, formals: Mapping[str, Any]) -> str:
    """`gated_delta(d=64, heads=4)`: block and parameters, equal for equal units."""
    shown = ", ".join(f"{k}={v.name if isinstance(v, (tree.Block, tree.Rule)) else v}" for k, v in formals.items())
    return f"{name}({shown})"


def complete(block: tree.Block, given: Mapping[str, Any], args: Mapping[str, Type], top: Scope) -> dict[str, Any]:
    """Values for the formals: given, then read off argument shapes, then defaults; those still unknown are absent."""
    values = dict(given)
    for stmt in tree.inputs(block.body):
        for name in stmt.names:
            if name.id in args:
                _match(stmt.type, args[name.id], {f.name for f in block.formals}, values)
    scope = Scope({k: Constant(v) for k, v in values.items()}, top)
    complete_values: dict[str, Any] = {}
    for formal in block.formals:
        if formal.name not in values and formal.default is not None:
            value = constant(formal.default, scope)
            if value is not None:
                values[formal.name] = tuple(value) if isinstance(value, list) else value
                scope.names[formal.name] = Constant(values[formal.name])
        if formal.name in values:
            complete_values[formal.name] = values[formal.name]
    return complete_values


def _match(declared: tree.Type, given: Type, formals: set[str], values: dict[str, Any]) -> None:
    """`real[d]` against real[64] gives d = 64, for formals that stand alone as a dimension."""
    dims: tuple[tree.Expr, ...] = ()
    if isinstance(declared, tree.RealType):
        dims = declared.dims
    elif isinstance(declared, tree.IntType) and declared.bound is not None and given.bound is not None:
        dims, given = (declared.bound,), Type("int", (given.bound,))
    for expr, size in zip(reversed(dims), reversed(given.shape), strict=False):
        if isinstance(expr, tree.Name) and expr.id in formals and expr.id not in values:
            values[expr.id] = size


def symbolic(block: tree.Block, top: Scope, sizes: dict[str, int]) -> dict[str, Any]:
    """Parameters for checking a block on its own: sizes are symbols, everything else has its default.

    A number of copies that a `for` unrolls is not a size: what is checked is the unrolled block.
    """
    values: dict[str, Any] = {}
    scope = Scope({}, top)
    unrolled = range_names(block.body)
    for formal in block.formals:
        value = constant(formal.default, scope) if formal.default is not None else None
        if value is None or (isinstance(value, Dim) and formal.name not in unrolled):
            sample = value.integer if isinstance(value, Dim) else None
            sizes[formal.name] = sample if sample is not None and sample > 0 else sizes.get(formal.name, 2)
            value = Dim.symbol(formal.name)
        values[formal.name] = tuple(value) if isinstance(value, list) else value
        scope.names[formal.name] = Constant(values[formal.name])
    return values
