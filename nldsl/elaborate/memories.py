"""Memories and rules: `minimize E by STEP, STEP` becomes equations; a rule's body is inlined with `w` and `g`."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

from nldsl import tree
from nldsl.core import Atom, Last, Memory, Objective, Param, Ref, State, Type
from nldsl.diagnostics import Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Skip
from nldsl.elaborate.constants import constant
from nldsl.elaborate.declared import Declarations
from nldsl.elaborate.expressions import Expressions
from nldsl.elaborate.scope import Binding, Constant, Learner, Remembered, Scope, Stream, Variable
from nldsl.source import Span


class Memories(Expressions):
    """Elaborates the memories of one unit."""

    def __init__(self, builder: Builder, top: Scope):
        super().__init__(builder)
        self.declared = Declarations(builder)
        self.top = top
        self.rules: list[tree.Rule] = []  # those whose bodies are being written out
        self.stores: dict[str, tuple[tree.Memory, str, Scope] | None] = {}  # those not elaborated yet; None while one is

    # --- declarations --------------------------------------------------------------------------

    def remembered(self, node: tree.Memory, scope: Scope, name: str) -> Remembered:
        pairs: list[Any] | None = [] if isinstance(node.type, tree.StoreType) else None
        return Remembered(name, scope.axes, node, node.name.span, pairs)

    def filled(self, store: Remembered, reader: tree.Call) -> None:
        """A store may be read by what stands before it: elaborate it now."""
        if store.name not in self.stores:
            return
        waiting = self.stores[store.name]
        if waiting is None:
            raise self.b.fail("NL310", f"the store `{store.name}` depends on itself within one tick", reader.span,
                              expected="a key and a value that do not read it")  # fmt: skip
        self.stores[store.name] = None
        try:
            self.memory(*waiting)
        finally:
            del self.stores[store.name]

    def memory(self, node: tree.Memory, spelled: str, scope: Scope, parent: str | None = None) -> None:
        """Elaborate one memory; its binding is in the scope already."""
        binding = scope.find(spelled)
        assert isinstance(binding, Remembered)
        clauses = _by_kind(node, self.b)
        if isinstance(node.type, tree.StoreType):
            self._store(node, clauses, binding, scope)
            return
        learner = scope.find_learner()
        type = self.declared.type(node.type, scope)
        every, offset = self._clock(node, scope, learner)
        init, learned = self.declared.init(node.init, scope) if node.init is not None else (("zeros",), False)
        slow: str | None = None
        if learned:
            slow = self.b.fresh(f"{binding.name}.init")
            self.b.params.append(Param(slow, type, init, False, node.span))
        reset = self._reset(clauses.get(tree.Reset), scope)
        self.b.states.append(State(binding.name, type, init, node.name.span, slow, every, offset, reset))
        key = self._association(clauses.get(tree.Key), scope, f"{binding.name}.key")
        value = self._association(clauses.get(tree.Value), scope, f"{binding.name}.value")
        update, minimize = clauses.get(tree.Update), clauses.get(tree.Minimize)
        text: str | None = None
        steps: tuple[str, ...] = ()
        if isinstance(update, tree.Update):
            self.atom(update.expr, scope, f"{binding.name}.w", binding.name)
        elif isinstance(minimize, tree.Minimize):
            text, steps = minimize.objective.span.text, tuple(s.span.text for s in minimize.steps)
            own = node.every is not None or learner is None  # an inherited clock's gradient is folded already
            self._minimize(node, minimize, spelled, binding, scope, type, (every, offset, own and every > 1))
        else:
            raise self.b.fail("NL401", f"the memory `{spelled}` has no `minimize` and no `update`", node.name.span,
                              expected="an objective or an update", help="minimize 0.5 * sqnorm(M(k) - v) by gd(0.1)")  # fmt: skip
        self.b.memories.append(
            Memory(binding.name, binding.name, parent, key, value, text, steps, None, type.axes, node.span)
        )

    def _store(self, node: tree.Memory, clauses: dict[type, Any], binding: Remembered, scope: Scope) -> None:
        assert isinstance(node.type, tree.StoreType) and binding.pairs is not None
        for kind in (tree.Minimize, tree.Update, tree.Reset):
            if kind in clauses:
                raise self.b.fail("NL402", "a store keeps its pairs as they are", clauses[kind].span,
                                  expected="only `key` and `value`", help="memory A : d -> e { ... } has an objective")  # fmt: skip
        window = None
        for arg in node.type.args:
            value = constant(arg.value, scope)
            if arg.name != "window":
                raise self.b.fail("NL110", f"a store has no option `{arg.name}`", arg.span, expected="`window = ticks`")
            if not isinstance(value, Dim) or (window := self.b.sizes.integer(value)) is None or window < 1:
                raise self.b.fail("NL105", "a window is a number of ticks", arg.span, expected="a whole number above 0")
        type = self.declared.type(node.type, scope)
        missing = [name for name, kind in (("key", tree.Key), ("value", tree.Value)) if kind not in clauses]
        if missing:
            raise self.b.fail("NL402", f"the store `{node.name.id}` has no `{missing[0]}`", node.name.span,
                              expected="key and value", help=f"{missing[0]} {missing[0][0]}")  # fmt: skip
        key = self.atom(clauses[tree.Key].expr, scope, f"{binding.name}.key")
        value = self.atom(clauses[tree.Value].expr, scope, f"{binding.name}.value")
        for atom, dim, role in ((key, type.domain, "key"), (value, type.codomain, "value")):
            self.b.emit("expect", (atom,), node.type.span, hint=f"{binding.name}.{role}", type=Type("real", (dim,), type.axes))
        binding.pairs.extend((key, value, window))
        self.b.memories.append(Memory(binding.name, None, None, key, value, None, (), window, type.axes, node.span))

    def _association(self, clause: tree.Key | tree.Value | None, scope: Scope, hint: str) -> Atom | None:
        return self.atom(clause.expr, scope, hint) if clause is not None else None

    def _clock(self, node: tree.Memory, scope: Scope, learner: Learner | None) -> tuple[int, int]:
        if node.every is None:
            return (learner.every, learner.offset) if learner is not None else (1, 0)
        ticks = []
        for expr, low in ((node.every, 1), (node.offset, 0)):
            value = Dim.of(low) if expr is None else constant(expr, scope)
            number = self.b.sizes.integer(value) if isinstance(value, Dim) else None
            if number is None or number < low:
                assert expr is not None
                raise self.b.fail("NL301", "a clock is strictly periodic", expr.span,
                                  expected=f"a whole number of ticks, at least {low}", found=f"`{expr.span.text}`")  # fmt: skip
            ticks.append(number)
        every, offset = (ticks[0], ticks[1] if node.offset is not None else 0)
        if learner is not None and isinstance(node.every, tree.Name):
            offset %= every  # the period may be any number of the rule
        if offset >= every and node.offset is not None:
            raise self.b.fail("NL301", "an offset is less than the period", node.offset.span,
                              expected=f"0 .. {every}", found=str(offset))  # fmt: skip
        return every, offset

    def _reset(self, clause: tree.Reset | None, scope: Scope) -> int | None:
        if clause is None or clause.when in ("sequence", "never"):
            if clause is not None and clause.when == "never":
                raise self.b.fail("NL403", "`reset never` needs a state kept by the caller", clause.span,
                                  expected="reset sequence, or reset every N",
                                  help="pass the state on from call to call: forward(x, state, return_state=True)")  # fmt: skip
            return None
        value = constant(clause.period, scope) if clause.period is not None else None
        number = self.b.sizes.integer(value) if isinstance(value, Dim) else None
        if clause.when != "every" or number is None or number < 1:
            raise self.b.fail("NL403", "a reset happens at each sequence or every so many ticks", clause.span,
                              expected="reset sequence, or reset every N")  # fmt: skip
        return number

    # --- objectives and rules --------------------------------------------------------------------

    def _minimize(
        self, node: tree.Memory, clause: tree.Minimize, spelled: str, binding: Remembered, scope: Scope, type: Type,
        clock: tuple[int, int, bool],
    ) -> None:
        over = clause.over or "sum"
        if over not in ("sum", "mean"):
            raise self.b.fail("NL302", f"ticks cannot be folded by `{over}`", clause.span, expected="over sum, or over mean")
        formal = self.b.fresh(f"{binding.name}.self")
        inner = scope.inner()
        inner.names[spelled] = Variable(Ref(formal), Last(binding.name), scope.axes, node.span)
        with self.b.objective(formal, clause.objective.span) as box:
            box.append(self.atom(clause.objective, inner, f"{binding.name}.loss"))
        objective: Objective = box[0]
        if not (isinstance(objective.result, Ref) and any(e.name == objective.result.name for e in objective.equations)):
            self.b.report("NL404", f"the objective does not mention `{spelled}`", clause.objective.span,
                          Label(node.name.span, "the memory it belongs to"), expected=f"an expression with {spelled}(key)",
                          found=f"`{clause.objective.span.text}`")  # fmt: skip
        at: Atom = Last(binding.name, node.name.span)
        for n, step in enumerate(clause.steps):
            name = binding.name if n == len(clause.steps) - 1 else None
            at = self._step(step, scope, binding.name, at, name, objective, clock, over)

    def _step(
        self, step: tree.Expr, scope: Scope, memory: str, at: Atom, name: str | None, objective: Any,
        clock: tuple[int, int, bool], over: str,
    ) -> Atom:
        if isinstance(step, tree.Name):
            step = tree.Call(step, (), step.span)
        if not isinstance(step, tree.Call) or not isinstance(step.fn, tree.Name):
            raise self.b.fail("NL112", "a step is a rule with its arguments", step.span, expected="a rule", help="gd(0.1)")
        found = scope.find(step.fn.id)
        if not isinstance(found, Constant) or not isinstance(found.value, tree.Rule):
            rules = {n for n in scope.visible() if isinstance(b := scope.find(n), Constant) and isinstance(b.value, tree.Rule)}
            near = did_you_mean(step.fn.id, rules)
            raise self.b.fail("NL112", f"`{step.fn.id}` is not a rule", step.fn.span, expected="a rule",
                              help=f"did you mean `{near}`?" if near else None)  # fmt: skip
        rule = found.value
        if rule in self.rules:
            raise self.b.fail("NL118", f"the rule `{rule.name}` trains a memory of its own by itself", step.span,
                              Label(rule.span, "its body is written out in itself"), expected="another rule")  # fmt: skip
        result = name if name is not None else self.b.fresh(f"{memory}.{rule.name}")
        home = self.home_of(rule)
        bound = self.arguments(step, rule.name, rule.formals, scope, home)
        if rule.on is not None:
            bound |= self.accepted(rule.name, rule.on, rule.otherwise, next(s.type for s in self.b.states if s.name == memory), step.span)
        inner = Scope(bound, home, scope.axes)
        inner.learner = Learner(at, Ref(result, step.span), memory, objective, scope.axes, *clock, over)
        self.b.unroll(32 if self.rules else 0, step.span)  # rules in rules may double at each level
        self.rules.append(rule)
        try:
            self.rule_body(rule, inner, memory, result, step)
        finally:
            self.rules.pop()
        return Ref(result, step.span)

    def accepted(self, rule: str, on: tree.Type, otherwise: str | None, type: Type, span: Span) -> dict[str, Binding]:
        """The dimensions a rule names in `on`, as sizes of what it learns."""
        names: tuple[tree.Expr, ...] = ()
        if isinstance(on, tree.MapType) and type.kind == "map":
            names = (on.codomain, on.domain)
        elif isinstance(on, tree.RealType) and type.kind == "real":
            names = on.dims
        if len(names) != len(type.shape):
            raise self.b.fail("NL430", f"the rule `{rule}` does not learn on this", span, Label(on.span, "what it learns on"),
                              expected=on.span.text, found=str(replace(type, axes=())), help=f"{otherwise}(...)" if otherwise else None)  # fmt: skip
        return {expr.id: Constant(dim, expr.span) for expr, dim in zip(names, type.shape, strict=True) if isinstance(expr, tree.Name)}

    def home_of(self, rule: tree.Rule | tree.Block) -> Scope:
        """The names a rule or block can see: those of its own file, and of the library above it."""
        scope: Scope | None = self.top
        while scope is not None:
            found = scope.names.get(rule.name)
            if isinstance(found, Constant) and found.value is rule:
                return scope
            scope = scope.parent
        return self.top

    def arguments(
        self, call: tree.Call, callee: str, formals: tuple[tree.Formal, ...], scope: Scope, home: Scope
    ) -> dict[str, Binding]:
        """Formals to constants or streams of the caller; defaults may use earlier formals."""
        names = [f.name for f in formals]
        given: dict[str, tree.Arg] = {}
        for n, arg in enumerate(call.args):
            key = arg.name if arg.name is not None else names[n] if n < len(names) else None
            if key not in names or key in given:
                near = did_you_mean(arg.name, names) if arg.name else None
                what = "is given twice" if key in given else "has no such parameter"
                raise self.b.fail("NL110", f"`{callee}` {what}", arg.span, expected=", ".join(names) or "no arguments",
                                  help=f"did you mean `{near}`?" if near else None)  # fmt: skip
            given[key] = arg
        bound: dict[str, Binding] = {}
        defaults = Scope(bound, home, scope.axes)
        for formal in formals:
            if formal.name in given:
                expr, where = given[formal.name].value, scope
            elif formal.default is not None:
                expr, where = formal.default, defaults
            else:
                raise self.b.fail("NL110", f"`{callee}` needs `{formal.name}`", call.span, Label(formal.span, "declared here"),
                                  expected=f"an argument for `{formal.name}`")  # fmt: skip
            value = constant(expr, where)
            if value is not None:
                bound[formal.name] = Constant(value, expr.span)
            elif isinstance(expr, tree.ListOf):
                for n, item in enumerate(expr.items):
                    bound[f"{formal.name}[{n}]"] = Stream(self.atom(item, where, formal.name), scope.axes, item.span)
            elif isinstance(expr, tree.Name) and where.find(f"{expr.id}[0]") is not None:  # a list of numbers of the rule
                for n in count():
                    number = where.find(f"{expr.id}[{n}]")
                    if number is None:
                        break
                    bound[f"{formal.name}[{n}]"] = number
            else:
                bound[formal.name] = Stream(self.atom(expr, where, formal.name), scope.axes, expr.span)
        return bound

    def chain(self, stmt: tree.Chain, core: str, scope: Scope) -> None:
        raise NotImplementedError

    def rule_body(self, rule: tree.Rule, scope: Scope, memory: str, result: str, step: tree.Call) -> None:
        updates = [s for s in rule.body if isinstance(s, tree.Update)]
        if len(updates) != 1:
            raise self.b.fail("NL405", f"the rule `{rule.name}` must have one `update`", rule.span,
                              expected="one update", found=str(len(updates)), help="update last w - lr * g")  # fmt: skip
        names: dict[str, Span] = {}
        for stmt in rule.body:
            if isinstance(stmt, (tree.Equation, tree.Memory, tree.Chain)):
                name = stmt.name if isinstance(stmt, tree.Chain) else stmt.name.id
                span = stmt.span if isinstance(stmt, tree.Chain) else stmt.name.span
                if name in names:
                    raise self.b.fail("NL102", f"`{name}` is defined twice", span, Label(names[name], "the first definition"),
                                      expected="one definition a name", found="a second one")  # fmt: skip
                names[name] = span
            if isinstance(stmt, tree.Equation):
                name = self.b.fresh(f"{memory}.{stmt.name.id}")
                scope.names[stmt.name.id] = Stream(Ref(name, stmt.span), scope.axes, stmt.name.span)
            elif isinstance(stmt, tree.Memory):
                scope.names[stmt.name.id] = self.remembered(stmt, scope, self.b.fresh(f"{memory}.{stmt.name.id}"))
            elif isinstance(stmt, tree.Chain):
                core = self.b.fresh(f"{memory}.{stmt.name}")
                scope.names[stmt.name] = Stream(Ref(core, stmt.span), scope.axes, stmt.span)
        for stmt in rule.body:
            if isinstance(stmt, tree.Equation):
                bound = scope.names[stmt.name.id]
                assert isinstance(bound, Stream) and isinstance(bound.atom, Ref)
                self.atom(stmt.expr, scope, bound.atom.name, bound.atom.name)
            elif isinstance(stmt, tree.Memory):
                self.memory(stmt, stmt.name.id, scope, memory)
            elif isinstance(stmt, tree.Chain):
                bound = scope.names[stmt.name]
                assert isinstance(bound, Stream) and isinstance(bound.atom, Ref)
                self.chain(stmt, bound.atom.name, scope)
            elif not isinstance(stmt, tree.Update):
                raise self.b.fail("NL405", "a rule has equations, chains, memories and one update", stmt.span,
                                  expected="NAME = ..., chain, memory or update")  # fmt: skip
        self.atom(updates[0].expr, scope, f"{memory}.w", result)

    def gradient(self, expr: tree.Expr, at: Atom, scope: Scope) -> Atom:
        """The gradient of the objective at a state, folded over the period of a slow memory."""
        learner = scope.find_learner()
        if learner is not None and at in learner.gradients:
            return learner.gradients[at]
        if learner is None or learner.objective is None:
            raise self.b.fail("NL406", "the gradient is known only where the optimizer stands" if learner else
                              "there is no objective to take the gradient of here", expr.span,
                              expected="`g`: a gradient elsewhere needs an objective, as in a memory" if learner else
                              "a step after `minimize E by`")  # fmt: skip
        gradient: Atom = self.b.emit("grad", (at,), expr.span, hint=f"{learner.memory}.g",
                                       objective=learner.objective, memory=learner.memory)  # fmt: skip
        if learner.folds:
            gradient = self.b.emit("fold", (gradient,), expr.span, hint=f"{learner.memory}.g",
                                   memory=learner.memory, over=learner.over)  # fmt: skip
        learner.gradients[at] = gradient
        return gradient

    def _grad(self, expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        if len(expr.args) != 1 or expr.args[0].name != "at":
            raise self.b.fail("NL110", "`grad` takes the state it is taken at", expr.span, expected="one argument `at`", help="grad(at = w)")
        gradient = self.gradient(expr, self.atom(expr.args[0].value, scope, hint), scope)
        return gradient if name is None else self.b.alias(gradient, expr.span, name)


def _by_kind(node: tree.Memory, builder: Builder) -> dict[type, Any]:
    """The clauses by kind; one of each, and not both `minimize` and `update`."""
    kinds: dict[type, Any] = {}
    for clause in node.clauses:
        rival = {tree.Update: tree.Minimize, tree.Minimize: tree.Update}.get(type(clause))
        first = kinds.get(type(clause)) or (kinds.get(rival) if rival is not None else None)
        if first is not None:
            builder.report("NL402", "this clause stands twice, or beside its alternative", clause.span,
                           Label(first.span, "the first one"), expected="one `minimize` or one `update`, one of each other clause")  # fmt: skip
            raise Skip
        kinds[type(clause)] = clause
    return kinds
