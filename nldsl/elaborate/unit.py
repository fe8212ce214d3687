"""Statements of a block: names are declared first, so that their order does not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nldsl import tree
from nldsl.core import Axis, Input, Param, Ref, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Place, Skip, TooLarge
from nldsl.elaborate.constants import constant
from nldsl.elaborate.delays import break_cycles
from nldsl.elaborate.instances import Instances
from nldsl.elaborate.paths import complete
from nldsl.elaborate.scope import Called, Constant, Operator, Remembered, Scope, Sizes, Stream
from nldsl.elaborate.structures import default_init
from nldsl.vocabulary import WORDS


def elaborate_unit(
    key: str, block: tree.Block, formals: Mapping[str, Any], top: Scope, sizes: Mapping[str, int], places: Mapping[Place, Mapping[str, Any]] | None = None
) -> tuple[Unit, list[Diagnostic], set[Place]]:
    """One block at given parameters.

    Args:
        key: the name of this unit.
        formals: a value for every formal: a Dim, float, str, tuple or block.
        top: the names of the file and of the library.
        sizes: sample values of the symbols in `formals`.
        places: the calls of blocks that are to be written out, each with a value for every formal.

    Returns:
        The unit; everything that was wrong; the calls that have to be written out. A unit with one of these is not complete.
    """
    work = Statements(Builder(Sizes(sizes)), top)
    work.places = places or {}
    scope = Scope({name: Constant(value, block.span) for name, value in formals.items()}, top)
    b = work.b
    try:
        work.body(block.body, scope)
        work.anchors()
        break_cycles(b)
        work.wanted |= complete(b, work.open) | work.judged()
    except TooLarge:  # reported, and a part of it says nothing
        return Unit(key, block.name, tuple(formals.items()), (), (), (), (), (), (), (), block.span), b.diagnostics, set()
    if not b.inputs and not any(d.severity == "error" for d in b.diagnostics):
        b.report("NL113", f"the block `{block.name}` has no input", block.span, expected="an `in`, which gives the ticks", help="in x : real[d]")
    if not b.outputs and not any(d.severity == "error" for d in b.diagnostics):
        b.report("NL113", f"the block `{block.name}` has no output", block.span, expected="an `out`", help="out y = ...")
    unit = Unit(
        key, block.name, tuple(formals.items()), tuple(b.inputs), tuple(b.params), tuple(b.states), tuple(b.equations),
        tuple(b.memories), tuple(b.instances), tuple(b.outputs), block.span,
    )  # fmt: skip
    return unit, b.diagnostics, work.wanted


class Statements(Instances):
    """Elaborates the statements of one block."""

    def body(self, stmts: Sequence[tree.Stmt], scope: Scope) -> None:
        """Declare every name, then elaborate every statement; a wrong one is reported and left out."""
        work = []
        for stmt in stmts:
            try:
                work.append((stmt, self._declare(stmt, scope)))
            except Skip:
                continue
        for stmt, names in work:
            try:
                self._statement(stmt, names, scope)
            except Skip:
                continue

    # --- declaration -----------------------------------------------------------------------------

    def _declare(self, stmt: tree.Stmt, scope: Scope) -> Any:
        match stmt:
            case tree.Out() if scope.parent is not self.top:
                raise self.b.fail("NL114", "an output stands outside every `each` and `for`", stmt.span,
                                  expected="an output of the block", help="out y = flatten(...)")  # fmt: skip
            case tree.In() if _copied(scope):
                raise self.b.fail("NL114", "an input stands outside every `for`", stmt.span, expected="an input of the block")
            case tree.In(names) | tree.Param(names):
                return [self._declare_typed(stmt, name, scope) for name in names]
            case tree.Memory(name):
                spelled = self._spelled(name, scope)
                home = _home(scope, name)
                bound = self.remembered(stmt, scope, self._core(name, spelled, scope))
                self._add(home, spelled, bound, name)
                if bound.pairs is not None:
                    self.stores[bound.name] = (stmt, spelled, scope)
                return spelled
            case tree.Equation(name):
                spelled = self._spelled(name, scope)
                core = self._core(name, spelled, scope)
                self._add(_home(scope, name), spelled, Stream(Ref(core, name.span), scope.axes, name.span), name)
                return core
            case tree.Out(name, expr) if expr is not None:
                spelled = self._spelled(name, scope)
                core = self._core(name, spelled, scope)
                self._add(scope, spelled, Stream(Ref(core, name.span), scope.axes, name.span), name)
                return core
            case tree.Chain(name):
                core = self.b.fresh(name)
                self._add(scope, name, Stream(Ref(core, stmt.span), scope.axes, stmt.span), stmt)
                return core
            case tree.Each():
                return self._each(stmt, scope)
            case tree.For():
                copies = []
                for value in self.values(stmt.range, scope):
                    inner = scope.inner(suffix=f".{value}")
                    inner.names[stmt.var] = Constant(value, stmt.span)
                    copies.append((inner, self._declare_all(stmt.body, inner)))
                return copies
        return None

    def _declare_all(self, stmts: Sequence[tree.Stmt], scope: Scope) -> list[tuple[tree.Stmt, Any]]:
        declared = []
        for stmt in stmts:
            try:
                declared.append((stmt, self._declare(stmt, scope)))
            except Skip:
                continue
        return declared

    def _declare_typed(self, stmt: tree.In | tree.Param, name: tree.Declared, scope: Scope) -> str:
        spelled = self._spelled(name, scope)
        if self.in_place and isinstance(stmt, tree.Param):
            try:
                atom = self.fill(stmt, name, scope)
            except Skip:
                atom = Ref(spelled, name.span)  # reported: what reads it is not wrong too
            self._add(_home(scope, name), spelled, Stream(atom, scope.axes, name.span), name)
            return spelled
        core = self.b.once(name.span, lambda: self._core(name, spelled, scope))
        stream = isinstance(stmt, tree.In) or not isinstance(stmt.type, tree.MapType)
        bound = (Stream(Ref(core, name.span), scope.axes, name.span) if stream else Operator(core, scope.axes, name.span))
        self._add(_home(scope, name), spelled, bound, name)
        return core

    def _each(self, stmt: tree.Each, scope: Scope) -> Any:
        size = constant(stmt.range, scope)
        if not isinstance(size, Dim):
            raise self.b.fail("NL105", "the number of copies must be known before any tick", stmt.range.span,
                              expected="a whole number or a parameter", help="for x in [...] makes different copies")  # fmt: skip
        exact = size.constant
        if exact is not None and (exact.denominator != 1 or exact < 1):
            self.b.report("NL201", "the number of copies must be a whole number above 0", stmt.range.span,
                          expected="a whole number", found=str(exact))  # fmt: skip
            size = Dim.of(1)  # and go on
        axis = Axis(self.b.fresh(stmt.var), size, len(scope.axes))
        inner = _Each({}, scope, (*scope.axes, axis), None, scope.suffix)
        index = self.b.emit("index", (), stmt.span, hint=f"{axis.id}.index", axis=axis)
        inner.names[stmt.var] = Stream(index, inner.axes, stmt.span)
        return inner, self._declare_all(stmt.body, inner)

    def _spelled(self, name: tree.Declared, scope: Scope) -> str:
        if name.index is None:
            return name.id
        return self.spell(tree.Index(tree.Name(name.id, name.span), name.index, name.span), scope)

    def _core(self, name: tree.Declared, spelled: str, scope: Scope) -> str:
        if name.index is not None:
            return self.b.fresh(self.prefix + spelled.replace("[", ".").replace("]", ""))
        return self.b.fresh(self.prefix + name.id + scope.suffix)

    def _add(self, scope: Scope, spelled: str, binding: Any, node: tree.Declared | tree.Stmt) -> None:
        # The names of an `each` are visible outside it too, where they carry its axis.
        if isinstance(scope, _Each) and spelled not in scope.names:
            assert scope.parent is not None
            self._add(scope.parent, spelled, binding, node)
            return
        if spelled in scope.names:
            first = scope.names[spelled].span
            raise self.b.fail("NL102", f"`{spelled}` is defined twice", node.span,
                              *([Label(first, "the first definition")] if first else []),
                              expected="one equation a name", found="a second one", label="the second")  # fmt: skip
        if spelled in WORDS and WORDS[spelled].user:
            raise self.b.fail("NL102", f"`{spelled}` is a word of the language", node.span,
                              expected="another name", help=f"{spelled}_ = ...")  # fmt: skip
        scope.names[spelled] = binding

    # --- elaboration -----------------------------------------------------------------------------

    def _statement(self, stmt: tree.Stmt, declared: Any, scope: Scope) -> None:
        match stmt:
            case tree.In():
                for core, name in zip(declared, stmt.names, strict=True):
                    self.b.inputs.append(Input(core, self.declared.type(stmt.type, scope), name.span))
            case tree.Param() if self.in_place:
                pass
            case tree.Param():
                self._param(stmt, declared, scope)
            case tree.Memory(type=tree.StoreType()):
                bound = scope.find(declared)
                if isinstance(bound, Remembered) and bound.name in self.stores:
                    self.filled(bound, tree.Call(tree.Name(declared, stmt.span), (), stmt.span))
            case tree.Memory():
                self.memory(stmt, declared, scope)
            case tree.Equation(name, expr):
                self._equation(name.id, expr, declared, scope)
            case tree.Out(name, None):
                self.b.outputs.append((name.id, self.atom(tree.Name(name.id, name.span), scope)))
            case tree.Out(name, expr):
                assert expr is not None
                self.atom(expr, scope, declared, declared)
                self.b.outputs.append((name.id, Ref(declared, name.span)))
            case tree.Each():
                inner, work = declared
                for sub, names in work:
                    self._quietly(sub, names, inner)
            case tree.For():
                for inner, work in declared:
                    for sub, names in work:
                        self._quietly(sub, names, inner)
            case tree.Chain():
                self.chain(stmt, declared, scope)
            case tree.Update() | tree.Minimize():
                raise self.b.fail("NL115", "this stands inside a memory, a rule or a `train`", stmt.span,
                                  expected="a statement of a block")  # fmt: skip

    def _quietly(self, stmt: tree.Stmt, names: Any, scope: Scope) -> None:
        try:
            self._statement(stmt, names, scope)
        except Skip:
            return

    def _param(self, stmt: tree.Param, cores: list[str], scope: Scope) -> None:
        type = self.declared.type(stmt.type, scope)
        if stmt.init is not None:
            init, learned = self.declared.init(stmt.init, scope)
            if learned:
                raise self.b.fail("NL303", "a param is learned already", stmt.init.span, expected="an initial value", help="normal(0.02)")
        else:
            init = default_init(type)
        known = {p.name for p in self.b.params} if self.b.evaluations is not None else ()
        for core, name in ((c, n) for c, n in zip(cores, stmt.names, strict=True) if c not in known):
            self.b.params.append(Param(core, type, init, stmt.init is None, name.span))

    def _equation(self, spelled: str, expr: tree.Expr, core: str, scope: Scope) -> None:
        if isinstance(expr, tree.Call) and isinstance(expr.fn, tree.Name):
            found = scope.find(expr.fn.id)
            if isinstance(found, Constant) and isinstance(found.value, tree.Block) and not self.in_its_place(expr, found.value, scope):
                self.b.read.add(expr.fn.id)
                outputs = self._instance(expr, found.value, scope)
                if not outputs:
                    raise Skip  # reported where the block is
                if len(outputs) > 1:
                    home = scope
                    while spelled not in home.names and home.parent is not None:
                        home = home.parent
                    home.names[spelled] = Called(outputs, scope.axes, expr.span)
                else:
                    self.b.alias(next(iter(outputs.values())), expr.span, core)
                return
        self.atom(expr, scope, core, core)

    def chain(self, stmt: tree.Chain, core: str, scope: Scope) -> None:
        current = self.atom(stmt.init, scope, f"{core}.start")
        values = self.values(stmt.range, scope)
        for n, value in enumerate(values):
            inner = _Step({}, scope, scope.axes, None, f"{scope.suffix}.{value}")
            inner.names[stmt.var] = Constant(value, stmt.span)
            inner.names[stmt.name] = Stream(current, scope.axes, stmt.span)
            steps = [s for s in stmt.body if isinstance(s, tree.Equation) and s.name.id == stmt.name]
            if len(steps) != 1:
                raise self.b.fail("NL116", f"a chain has one equation for `{stmt.name}`", stmt.span,
                                  expected=f"one `{stmt.name} = ...` in its body", found=str(len(steps)))  # fmt: skip
            self.body([s for s in stmt.body if s is not steps[0]], inner)
            name = core if n == len(values) - 1 else self.b.fresh(f"{core}.{value}")
            self._equation(stmt.name, steps[0].expr, name, inner)
            current = Ref(name, stmt.span)
        if not values:
            self.b.alias(current, stmt.span, core)


class _Each(Scope):
    """The inside of an `each`: its declarations go to the scope around it."""


class _Step(Scope):
    """One copy of the body of a `chain`: its names are its own."""


def _copied(scope: Scope | None) -> bool:
    """Whether a scope lies in a `for` or `chain`."""
    return scope is not None and bool(scope.suffix)


def _home(scope: Scope, name: tree.Declared) -> Scope:
    """Where a declaration goes: `F[p]` is seen outside the `for` that makes it."""
    if name.index is None:
        return scope
    while scope.suffix and scope.parent is not None and not isinstance(scope, _Step):
        scope = scope.parent
    return scope
