"""Expressions to equations: every operation gets a name, its arguments are atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nldsl import tree
from nldsl.core import Atom, Last, Num, Param, Ref, Type
from nldsl.diagnostics import Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Skip
from nldsl.elaborate.constants import as_float, constant, undefined
from nldsl.elaborate.scope import Called, Constant, Learner, Operator, Remembered, Scope, Stream, Structure, Variable
from nldsl.source import Span
from nldsl.vocabulary import WORDS

BINARY = {"+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow"}
SPECIAL = {"grad", "delay", "conv"}


class Expressions:
    """Elaborates expressions of one unit into its builder."""

    def __init__(self, builder: Builder):
        self.b = builder

    def atom(self, expr: tree.Expr, scope: Scope, hint: str = "t", name: str | None = None) -> Atom:
        """The value of an expression; with `name`, the equation that computes it has that name.

        Raises:
            Skip: after reporting what is wrong.
        """
        value = constant(expr, scope)
        if isinstance(value, (Dim, float)):
            number = Num(value, expr.span)
            return self.b.alias(number, expr.span, name) if name is not None else number
        if value is not None and not isinstance(value, (tree.Block, tree.Rule)):
            raise self.b.fail("NL104", "a list or a text is not a stream", expr.span, expected="a stream", found="a constant list")
        return self._operation(expr, scope, hint, name)

    def _operation(self, expr: tree.Expr, scope: Scope, hint: str, name: str | None) -> Atom:
        match expr:
            case tree.Name() | tree.Index() | tree.Last() | tree.Start():
                atom = self._value(expr, scope)
                return self.b.alias(atom, expr.span, name) if name is not None else atom
            case tree.Unary("-", operand):
                return self.b.emit("neg", (self.atom(operand, scope, hint),), expr.span, name, hint)
            case tree.Binary(op, left, right):
                args = (self.atom(left, scope, hint), self.atom(right, scope, hint))
                self._defined(expr, args, scope)
                if op == "/" and isinstance(args[1], Num) and as_float(args[1].value) == 0:
                    raise self.b.fail("NL120", "division by zero", right.span, expected="a number other than 0", found="0")
                return self.b.emit(BINARY[op], args, expr.span, name, hint)
            case tree.Sum(body, var, over):
                return self._sum(expr, body, var, over, scope, hint, name)
            case tree.Call():
                return self._call(expr, scope, hint, name)
            case tree.Str() | tree.ListOf() | tree.Range():
                raise self.b.fail("NL104", "a list, range or text is not a stream", expr.span, expected="a stream")
        raise AssertionError(expr)

    def _defined(self, expr: tree.Expr, args: tuple[Atom, ...], scope: Scope) -> None:
        """An operation on known numbers has a value."""
        if all(isinstance(a, Num) for a in args) and (wrong := undefined(expr, scope)) is not None:
            raise self.b.fail("NL120", wrong[0], wrong[1], expected="a real number", found=f"`{wrong[1].text}`")

    # --- names ---------------------------------------------------------------------------------

    def binding(self, expr: tree.Expr, scope: Scope) -> tuple[str, Any]:
        """The name an expression spells (`F[2]` is `F[2]`) and what it stands for."""
        name = self.spell(expr, scope)
        found = scope.find(name)
        if found is None and "." in name:
            base = scope.find(name.split(".", 1)[0])
            output = name.split(".", 1)[1]
            if isinstance(base, Called):
                if output in base.outputs:
                    return name, Stream(base.outputs[output], base.axes)
                near = did_you_mean(output, base.outputs)
                raise self.b.fail(
                    "NL101", f"`{name.split('.', 1)[0]}` has no output `{output}`", expr.span,
                    expected="one of " + ", ".join(f"`{o}`" for o in base.outputs), help=f"did you mean `{near}`?" if near else None,
                )  # fmt: skip
        if found is None:
            self._unknown(name, expr.span, scope)
        self.b.read.add(name)
        memory = found.memory if isinstance(found, Variable) else found
        if isinstance(memory, Remembered) and memory.structure is not None and not memory.structure.leaves:
            raise Skip  # reported where it is declared
        return name, found

    def spell(self, expr: tree.Expr, scope: Scope) -> str:
        match expr:
            case tree.Name(id):
                return id
            case tree.Index(base, index):
                value = constant(index, scope)
                if isinstance(value, Dim) and value.integer is not None:
                    return f"{self.spell(base, scope)}[{value.integer}]"
                if isinstance(value, str):
                    return f"{self.spell(base, scope)}[{value}]"
                raise self.b.fail("NL105", "an index must be a whole number known before any tick", index.span,
                                  expected="a number or the variable of a `for`")  # fmt: skip
        raise self.b.fail("NL103", "only a name can stand here", expr.span, expected="a name")

    def _unknown(self, name: str, span: Span, scope: Scope) -> None:
        if name in ("g", "w"):
            what = "the gradient" if name == "g" else "what learns"
            raise self.b.fail("NL406", f"`{name}` is {what} inside a rule, and this is not one", span, expected="a name of this block",
                              help="rule mine(rate) { update last w - rate * g }")  # fmt: skip
        if name in ("x", "delta") and scope.find_learner() is not None:
            raise self.b.fail("NL406", f"`{name}` is what a linear layer saw: a rule that reads it trains the weight of one", span,
                              expected="an optimizer of a model, `nldsl.optimizer(RULE, model)`")  # fmt: skip
        if name in WORDS and WORDS[name].user:
            raise self.b.fail("NL101", f"`{name}` is a word of the language, which is applied to a value", span,
                              expected=f"`{name}(...)`", found=f"`{name}`", help=f"{name}(...)")  # fmt: skip
        near = did_you_mean(name, scope.visible() | {w for w in WORDS if WORDS[w].user})
        help = f"did you mean `{near}`?" if near else None
        raise self.b.fail("NL101", f"nothing is called `{name}` here", span, found=f"`{name}`", help=help)

    def _value(self, expr: tree.Expr, scope: Scope) -> Atom:
        """A bare name as a value: the state after this tick for a memory."""
        if isinstance(expr, tree.Last):
            return self._last(expr, scope)
        if isinstance(expr, tree.Start):
            memory, atoms = self.start_of(expr, scope)
            if memory.structure is not None:
                raise self._only_read(memory.name, expr.span)
            return self._seen_from(self.outside(memory, atoms, expr.span)[0], memory.axes, scope, expr.span)
        if isinstance(expr, tree.Name):
            learner = scope.find_learner()
            if learner is not None and expr.id == "w" and not scope.defines("w"):
                return learner.now
            if learner is not None and expr.id == "g" and not scope.defines("g"):
                return self.gradient(expr, learner.last, scope)
            if learner is not None and expr.id == "x" and learner.objective is not None and scope.find("x") is None:
                return self.seen(expr, learner)
        name, found = self.binding(expr, scope)
        match found:
            case Stream(atom, axes):
                return self._seen_from(replace(atom, span=expr.span), axes, scope, expr.span)
            case Operator(core, axes):
                return self._seen_from(Ref(core, expr.span), axes, scope, expr.span)
            case Variable((atom,), Remembered(structure=None)):
                return Ref(atom.name, expr.span) if isinstance(atom, Ref) else atom
            case Remembered(structure=Structure()) | Variable():
                raise self._only_read(name, expr.span)
            case Remembered(core, axes, _, _, pairs):
                if pairs is not None:
                    raise self.b.fail("NL106", f"the store `{name}` can only be read at a query", expr.span, help=f"{name}(q)")
                return self._seen_from(self.outside(found, [Ref(core, expr.span)], expr.span)[0], axes, scope, expr.span)
            case Called(outputs):
                raise self.b.fail("NL107", f"`{name}` has several outputs", expr.span,
                                  expected="one of them", help=f"{name}.{next(iter(outputs), 'out')}")  # fmt: skip
            case Constant(tree.Block() | tree.Rule()):
                raise self.b.fail("NL108", f"`{name}` is not a stream", expr.span, expected="a stream",
                                  found="a block or rule", help=f"{name}(...)")  # fmt: skip
        raise AssertionError(found)

    def _last(self, expr: tree.Last, scope: Scope) -> Atom:
        inner = expr.operand
        learner = scope.find_learner()
        if isinstance(inner, tree.Name) and inner.id == "w" and learner is not None and not scope.defines("w"):
            return learner.last
        name, found = self.binding(inner, scope)
        if isinstance(found, Variable):
            found = found.memory
        match found:
            case Remembered(structure=Structure()):
                raise self._only_read(name, expr.span)
            case Remembered(core, axes, _, _, None):
                return self._seen_from(self.outside(found, [Last(core, expr.span)], expr.span)[0], axes, scope, expr.span)
            case Stream(Ref(core), axes):
                return self._seen_from(Last(core, expr.span), axes, scope, expr.span)
            case Stream(Last(core), axes):
                raise self.b.fail("NL109", "`last` of a `last`", expr.span, help=f"delay({name}, 2)")
        raise self.b.fail("NL109", f"`last` looks at a stream or a memory, and `{name}` is neither", expr.span,
                          expected="a stream or a memory")  # fmt: skip

    def _only_read(self, name: str, span: Span) -> Skip:
        return self.b.fail("NL106", f"`{name}` is a network: it can only be read at a query", span, expected=f"`{name}` of a query", help=f"{name}(q)")

    def _seen_from(self, atom: Atom, axes: tuple[Any, ...], scope: Scope, span: Span) -> Atom:
        """The atom as seen from a scope: axes of an `each` that has been left become dimensions."""
        for axis in reversed([a for a in axes if a not in scope.axes]):
            atom = self.b.emit("gather", (atom,), span, hint="all", axis=axis)
        return atom

    # --- calls ---------------------------------------------------------------------------------

    def _call(self, expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        fn = expr.fn
        if (network := self._network(fn, scope)) is not None:
            return self.run(*network, expr, scope, hint, name)
        if isinstance(fn, tree.Start):
            return self.applied(self._value(fn, scope), self._one(expr, scope, hint), expr.span, name, hint)
        if isinstance(fn, tree.Last):
            return self.applied(self._last(fn, scope), self._one(expr, scope, hint), expr.span, name, hint)
        if not isinstance(fn, (tree.Name, tree.Index)):
            if isinstance(fn, tree.Call):
                operator = self.atom(fn, scope, hint)
                return self.applied(operator, self._one(expr, scope, hint), expr.span, name, hint)
            raise self.b.fail("NL103", "only a name can be applied", fn.span, expected="a name")
        if isinstance(fn, tree.Name) and scope.find(fn.id) is None:
            if fn.id in SPECIAL:
                return getattr(self, f"_{fn.id}")(expr, scope, hint, name)
            if fn.id in WORDS and WORDS[fn.id].user:
                return self._word(expr, fn.id, scope, hint, name)
            if fn.id in ("w", "g") and scope.find_learner() is not None:
                return self.applied(self._value(fn, scope), self._one(expr, scope, hint), expr.span, name, hint)
        spelled, found = self.binding(fn, scope)
        if isinstance(found, Remembered) and found.pairs is not None:
            return self._attend(expr, found, scope, hint, name)
        if isinstance(found, Constant) and isinstance(found.value, tree.Block):
            return self.instance(expr, found.value, scope, hint, name)
        if isinstance(found, Constant):
            kind = "a rule, which stands after `by`" if isinstance(found.value, tree.Rule) else "a constant"
            raise self.b.fail("NL108", f"`{spelled}` cannot be applied", fn.span, expected="an operator, a memory or a block", found=kind)
        operator = self._value(fn, scope)
        return self.applied(operator, self._one(expr, scope, hint), expr.span, name, hint)

    def _network(self, fn: tree.Expr, scope: Scope) -> tuple[Remembered, tuple[Atom, ...]] | None:
        """A memory whose structure is a block, and its states as they are read; None for anything else."""
        if isinstance(fn, tree.Start):
            memory, atoms = self.start_of(fn, scope)
            return (memory, self.outside(memory, atoms, fn.span)) if memory.structure is not None else None
        place = fn.operand if isinstance(fn, tree.Last) else fn
        if not isinstance(place, (tree.Name, tree.Index)) or (isinstance(place, tree.Name) and scope.find(place.id) is None):
            return None
        found = self.binding(place, scope)[1]
        if isinstance(found, Variable) and found.memory.structure is not None and not isinstance(fn, tree.Last):
            return found.memory, found.atoms
        memory = found.memory if isinstance(found, Variable) else found
        if not isinstance(memory, Remembered) or memory.structure is None:
            return None
        kind = Last if isinstance(fn, tree.Last) else Ref
        return memory, self.outside(memory, [kind(state, fn.span) for state in memory.states], fn.span)

    def _one(self, expr: tree.Call, scope: Scope, hint: str) -> Atom:
        self._count(expr, 1)
        return self.atom(expr.args[0].value, scope, hint)

    def _count(self, expr: tree.Call, arity: int) -> None:
        named = next((a for a in expr.args if a.name is not None), None)
        if named is not None:
            raise self.b.fail("NL110", f"there is no option `{named.name}` here", named.span, expected="positional arguments")
        if len(expr.args) != arity:
            raise self.b.fail("NL110", "wrong number of arguments", expr.span,
                              expected=f"{arity}", found=f"{len(expr.args)}")  # fmt: skip

    def _word(self, expr: tree.Call, word: str, scope: Scope, hint: str, name: str | None) -> Atom:
        self._count(expr, WORDS[word].arity)
        args = tuple(self.atom(a.value, scope, hint) for a in expr.args)
        self._defined(expr, args, scope)
        learner = scope.find_learner()
        if word == "count" and learner is not None and learner.every > 1:
            # A slow learner counts its own steps, those at the ends of streams among them.
            if learner.flush == "apply":
                steps = self.b.steps(learner.memory, learner.every, learner.offset, expr.span)
                return self.b.emit("max", (steps, Num(Dim.of(1))), expr.span, name, hint)  # 0 before the first
            return self.b.emit(word, args, expr.span, name, hint, every=learner.every, offset=learner.offset, memory=learner.memory)
        return self.b.emit(word, args, expr.span, name, hint)

    def _attend(self, expr: tree.Call, store: Remembered, scope: Scope, hint: str, name: str | None) -> Atom:
        query = self._one(expr, scope, hint)
        assert store.pairs is not None
        if not store.pairs and store.node is not None:
            self.filled(store, expr)
        if not store.pairs:
            raise Skip  # its clauses were wrong, and reported
        key, value, window = store.pairs
        return self.b.emit("attend", (query, key, value), expr.span, name, hint, window=window, memory=store.name)

    def _ticks(self, expr: tree.Call, scope: Scope, low: int) -> int:
        self._count(expr, 2)
        value = constant(expr.args[1].value, scope)
        ticks = self.b.sizes.integer(value) if isinstance(value, Dim) else None
        if ticks is None or not low <= ticks <= 4096:
            raise self.b.fail("NL105", "a number of ticks must be known before any tick", expr.args[1].span,
                              expected=f"a whole number from {low} to 4096")  # fmt: skip
        return ticks

    def _delay(self, expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        ticks = self._ticks(expr, scope, 0)
        source = self.atom(expr.args[0].value, scope, hint)
        if ticks == 0:
            return source if name is None else self.b.alias(source, expr.span, name)
        return self.b.emit("delay", (source,), expr.span, name, hint, ticks=ticks)

    def _conv(self, expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        ticks = self._ticks(expr, scope, 1)
        source = self.atom(expr.args[0].value, scope, hint)
        # Its type needs the source's and is completed with it by the pass `shapes`.
        def declared() -> str:
            filter = self.b.fresh(f"{name or hint}.filter")
            self.b.params.append(Param(filter, Type("filter", (Dim.of(ticks),)), ("uniform", -(ticks**-0.5), ticks**-0.5), True, expr.span))
            return filter

        filter = self.b.once(expr.span, declared)
        return self.b.emit("conv", (source, Ref(filter, expr.span)), expr.span, name, hint, ticks=ticks)

    def _sum(
        self, expr: tree.Sum, body: tree.Expr, var: str, over: tree.Expr, scope: Scope, hint: str, name: str | None
    ) -> Atom:
        values = self.values(over, scope)
        if not values:
            raise self.b.fail("NL111", "a sum over nothing", over.span, expected="a range with at least one value")
        total: Atom | None = None
        for n, value in enumerate(values):
            inner = scope.inner()
            inner.names[var] = Constant(value, expr.span)
            term = self.atom(body, inner, hint)
            last = n == len(values) - 1
            if total is not None:
                total = self.b.emit("add", (total, term), expr.span, name if last else None, hint)
            else:
                total = self.b.alias(term, expr.span, name) if last and name is not None else term
        assert total is not None
        return total

    def values(self, expr: tree.Expr, scope: Scope) -> list[Any]:
        """What a `for` runs over: a range, a list, or a number n for 0 .. n."""
        if isinstance(expr, tree.Range):
            low, high = constant(expr.low, scope), constant(expr.high, scope)
        else:
            value = constant(expr, scope)
            if isinstance(value, (list, tuple)):
                self.b.unroll(len(value), expr.span)
                return list(value)
            low, high = Dim.of(0), value
        if not isinstance(low, Dim) or not isinstance(high, Dim):
            raise self.b.fail("NL105", "this must be known before any tick", expr.span,
                              expected="a range `0 .. n`, a list or a whole number")  # fmt: skip
        first, stop = self.b.sizes.integer(low), self.b.sizes.integer(high)
        assert first is not None and stop is not None
        if stop - first > 1024:
            raise self.b.fail("NL003", "too many copies", expr.span, expected="at most 1024", found=str(stop - first))
        self.b.unroll(max(stop - first, 0), expr.span)
        return [Dim.of(i) for i in range(first, stop)]

    # --- supplied by the other halves of elaboration ---------------------------------------------

    def seen(self, expr: tree.Name, learner: Learner) -> Atom:
        raise NotImplementedError

    def gradient(self, expr: tree.Expr, at: Atom, scope: Scope) -> Atom:
        raise NotImplementedError

    def instance(self, expr: tree.Call, block: tree.Block, scope: Scope, hint: str, name: str | None) -> Atom:
        raise NotImplementedError

    def start_of(self, expr: tree.Start, scope: Scope) -> tuple[Remembered, tuple[Atom, ...]]:
        raise NotImplementedError

    def run(self, memory: Remembered, atoms: Sequence[Atom], expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        raise NotImplementedError

    def outside(self, memory: Remembered, atoms: Sequence[Atom], span: Span) -> tuple[Atom, ...]:
        raise NotImplementedError

    def applied(self, operator: Atom, x: Atom, span: Span, name: str | None, hint: str) -> Atom:
        raise NotImplementedError

    def filled(self, store: Remembered, reader: tree.Call) -> None:
        raise NotImplementedError

    def because(self, scope: Scope, name: str) -> tuple[Label, ...]:
        found = scope.find(name)
        return (Label(found.span, f"`{name}` is declared here"),) if found is not None and found.span is not None else ()
