"""Blocks in blocks: a call is a function of streams, compiled on its own, or the statements of the block, written out.

Written out is what cannot be a function of whole streams: a block in the copies of an `each`, in a recurrence, and on the way
from a memory to its objective. The sizes of a block follow from the types of its arguments, which are known later than its text:
so a unit is elaborated once more with the calls that are to be written out, and their sizes (check/instances.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nldsl import tree
from nldsl.core import Atom, Instance, Ref
from nldsl.diagnostics import Label
from nldsl.elaborate.builder import Builder, Place
from nldsl.elaborate.constants import constant
from nldsl.elaborate.memories import Memories
from nldsl.elaborate.scope import Constant, Scope, Stream
from nldsl.names import identifier
from nldsl.source import Span


class Instances(Memories):
    """Elaborates calls of blocks."""

    def __init__(self, builder: Builder, top: Scope):
        super().__init__(builder, top)
        self.places: Mapping[Place, Mapping[str, Any]] = {}
        self.wanted: set[Place] = set()
        self.visits: dict[Place, int] = {}
        self.around: Place = ()
        self.prefix = ""  # of the names of the block that is being written out

    def instance(self, expr: tree.Call, block: tree.Block, scope: Scope, hint: str, name: str | None) -> Any:
        if self.in_its_place(expr, block, scope):
            return self.written_out(expr, block, scope, hint, name)
        outputs = self._instance(expr, block, scope)
        if len(outputs) != 1:
            raise self.b.fail("NL107", f"`{block.name}` has {len(outputs)} outputs", expr.span,
                              expected="a block with one output here", help=f"m = {block.name}(...), then m.{next(iter(outputs), 'y')}")  # fmt: skip
        atom = next(iter(outputs.values()))
        return atom if name is None else self.b.alias(atom, expr.span, name)

    def _instance(self, expr: tree.Call, block: tree.Block, scope: Scope) -> Mapping[str, Atom]:
        place = self._place(expr, block)
        if scope.axes and not place:
            raise self.b.fail("NL117", "this block cannot be used inside an `each`", expr.span, Label(block.span, "it has inputs in copies of its own"),
                              expected="a block whose inputs stand outside every `each`")  # fmt: skip
        inputs = [n.id for s in tree.inputs(block.body) for n in s.names]
        names = {f.name: f for f in block.formals}
        formals: list[tuple[str, Any]] = []
        args: list[tuple[str | None, Any]] = []
        free = iter(inputs)
        for arg in expr.args:
            if arg.name is None:
                target = next(free, None)
                if target is None:
                    raise self.b.fail("NL110", f"`{block.name}` takes {len(inputs)} stream(s)", arg.span,
                                      expected=", ".join(inputs) or "none", help=f"parameters are given by name: {next(iter(names), 'd')} = ...")  # fmt: skip
                args.append((target, self.atom(arg.value, scope, target)))
            elif arg.name in inputs:
                args.append((arg.name, self.atom(arg.value, scope, arg.name)))
            elif arg.name in names:
                value = constant(arg.value, scope)
                if value is None:
                    raise self.b.fail("NL105", f"the parameter `{arg.name}` must be known before any tick", arg.span,
                                      Label(names[arg.name].span, "declared here"), expected="a constant")  # fmt: skip
                formals.append((arg.name, tuple(value) if isinstance(value, list) else value))
            else:
                raise self.b.fail("NL110", f"`{block.name}` has no parameter `{arg.name}`", arg.span,
                                  expected=", ".join([*inputs, *names]) or "no arguments")  # fmt: skip
        missing = [i for i in inputs if i not in {name for name, _ in args}]
        if missing:
            raise self.b.fail("NL110", f"`{block.name}` needs `{missing[0]}`", expr.span,
                              expected=f"a stream for `{missing[0]}`", found="none")  # fmt: skip
        within = self.b.evaluations
        key = within.visit(expr.span) if within is not None else ()
        kept = within is not None and not self.b.depends(atom for _, atom in args)
        if within is not None and kept and key in within.made:
            return dict(within.made[key])
        outputs = self._outputs(expr, block, scope, place, key, formals, args)
        if within is not None and kept:
            within.made[key] = outputs
        return outputs

    def _outputs(
        self, expr: tree.Call, block: tree.Block, scope: Scope, place: Place, key: Place, formals: list[tuple[str, Any]], args: list[tuple[str | None, Any]]
    ) -> Mapping[str, Atom]:
        name = self.b.fresh(self.prefix + block.name)
        if place in self.places:
            # With no point but those of the blocks around: `a.1.S` would be a state `1.S` of the instance `a`.
            name = self.prefix + identifier(name.removeprefix(self.prefix))
            return self._written(block, name, dict(args), expr.span, place, key, scope)
        if scope.axes:
            self.wanted.add(place)
        outputs = {s.name.id: Ref(f"{name}.{s.name.id}", expr.span) for s in block.body if isinstance(s, tree.Out)}
        self.b.instances.append(Instance(name, block.name, tuple(formals), tuple(args), tuple(outputs), expr.span, None, place))
        return outputs

    def _place(self, expr: tree.Call, block: tree.Block) -> Place:
        """Where a call is; nowhere if its block cannot be written out, since inputs of its own stand in copies."""
        if len(tree.inputs(block.body)) > sum(isinstance(s, tree.In) for s in block.body):
            return ()
        at = (*self.around, (expr.span.source.name, expr.span.start, 0))
        n = self.visits[at] = self.visits.get(at, -1) + 1
        return (*self.around, (expr.span.source.name, expr.span.start, n))

    def judged(self) -> set[Place]:
        """The calls that objectives pass."""
        for i in self.b.judged:
            if not i.place:
                self.b.report("NL117", "an objective cannot pass this block", i.span, expected="a block whose inputs stand outside every `each`")
        return {i.place for i in self.b.judged if i.place}

    def _written(
        self, block: tree.Block, name: str, args: Mapping[str | None, Atom], span: Span, place: Place, key: Place, scope: Scope
    ) -> dict[str, Atom]:
        """The statements of a block in place of its call: what it declares is declared here, under names of its own."""
        inner = Scope({n: Constant(value, span) for n, value in self.places[place].items()}, self.home_of(block), scope.axes)
        for n, atom in args.items():
            assert n is not None
            inner.names[n] = Stream(atom, scope.axes, span)
        outs = [s for s in block.body if isinstance(s, tree.Out)]
        body = [tree.Equation(s.name, s.expr, s.span) if isinstance(s, tree.Out) and s.expr is not None else s for s in block.body]
        self.b.unroll(8, span)
        within = self.b.evaluations
        before = self.around, self.prefix, within.path if within is not None else ()
        self.around, self.prefix = place, f"{name}."
        if within is not None:
            within.path = key
        try:
            self.body([s for s in body if not isinstance(s, (tree.In, tree.Out))], inner)
            return {s.name.id: self.atom(tree.Name(s.name.id, s.name.span), inner) for s in outs}
        finally:
            self.around, self.prefix, path = before
            if within is not None:
                within.path = path
