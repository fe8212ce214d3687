"""Steps of memories: a rule's body is written out with `w` and `g`."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from nldsl import tree
from nldsl.core import Atom, Last, Memory, Num, Objective, Ref, State, Type
from nldsl.diagnostics import Diagnostic, Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Skip
from nldsl.elaborate.constants import constant
from nldsl.elaborate.roles import roles_of
from nldsl.elaborate.scope import Binding, Constant, Learner, Remembered, Scope, Stream
from nldsl.elaborate.structures import Structures
from nldsl.roles import ROLES, by_shape
from nldsl.source import Span


def _used_at(wrong: Diagnostic, step: Span) -> Diagnostic:
    """With the step by a rule of another file, in whose body something is wrong."""
    if any(label.span.source is step.source for label in wrong.spans):
        return wrong
    return replace(wrong, spans=(*wrong.spans, Label(step, "in this step")))


class Learners(Structures):
    """Writes out the rules of one unit."""

    def __init__(self, builder: Builder, top: Scope):
        super().__init__(builder)
        self.top = top
        self.rules: list[tree.Rule] = []  # those whose bodies are being written out

    def step(self, step: tree.Expr, scope: Scope, learner: Learner, name: str | None) -> Atom:
        """One step of one state; `name` is that of its result."""
        memory = learner.memory
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
        if rule.roles:
            self._in_role(rule, memory, step.span)
        if rule.on is not None:
            bound |= self.accepted(rule.name, rule.on, rule.otherwise, next(s.type for s in self.b.states if s.name == memory), step.span)
        if learner.given:
            for key, given in bound.items():
                if isinstance(given, Stream) and not isinstance(given.atom, Num):
                    bound[key] = replace(given, atom=self.b.emit("stop", (given.atom,), step.span, hint=f"{memory}.{key}"))
        inner = Scope(bound, home, scope.axes)
        inner.learner = replace(learner, now=Ref(result, step.span), gradients={})
        self.b.unroll(32 if self.rules else 0, step.span)  # rules in rules may double at each level
        self.rules.append(rule)
        known = len(self.b.diagnostics)
        try:
            self.rule_body(rule, inner, memory, result, step)
        finally:
            self.rules.pop()
            self.b.diagnostics[known:] = [_used_at(d, step.span) for d in self.b.diagnostics[known:]]
        return Ref(result, step.span)

    def _in_role(self, rule: tree.Rule, memory: str, span: Span) -> None:
        """A memory has the role that its shape tells."""
        type = next(s.type for s in self.b.states if s.name == memory)
        role, known = by_shape(len(type.shape)), {ROLES[word] for word in roles_of(rule) if word in ROLES}
        if known and role not in known:
            raise self.b.fail("NL430", f"the rule `{rule.name}` does not learn on this", span, Label(rule.roles[0].span, "what it learns on"),
                              expected=", ".join(roles_of(rule)), found=f"{replace(type, axes=())}, a {role}",
                              help=f"{rule.otherwise}(...)" if rule.otherwise else None)  # fmt: skip

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
                near = did_you_mean(arg.name, names) if arg.name and key not in given else None
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

    def gradient_is_given(self, objective: Objective) -> bool:
        """Whether nothing that an outer gradient could pass leads to an objective; of a stream of the block its gradient is stopped."""
        raise NotImplementedError

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
        self.b.apart(result)

    def gradient(self, expr: tree.Expr, at: Atom, scope: Scope) -> Atom:
        """The gradient of the objective at a state, folded over the period of a slow memory."""
        learner = scope.find_learner()
        if learner is not None and learner.at is not None and at == learner.last:
            at = learner.at
        if learner is not None and at in learner.gradients:
            return learner.gradients[at]
        if learner is None or learner.objective is None:
            raise self.b.fail("NL406", "the gradient is known only where the optimizer stands" if learner else
                              "there is no objective to take the gradient of here", expr.span,
                              expected="`g`: a gradient elsewhere needs an objective, as in a memory" if learner else
                              "a step after `minimize E by`")  # fmt: skip
        objective = learner.objective()
        gradient: Atom = self.b.emit("grad", (at,), expr.span, hint=f"{learner.memory}.g", objective=objective, memory=learner.memory)
        if learner.cut or (learner.given and not self.gradient_is_given(objective)):
            gradient = self.b.emit("stop", (gradient,), expr.span, hint=f"{learner.memory}.g")
        if learner.folds and learner.within is not None:
            gradient = self._sum_of_steps(gradient, learner, learner.within, expr)
        elif learner.folds:
            gradient = self.b.emit("fold", (gradient,), expr.span, hint=f"{learner.memory}.g",
                                   memory=learner.memory, over=learner.over)  # fmt: skip
        if learner.shared is not None:
            gradient = self.b.emit("pool", (gradient, Last(learner.memory, expr.span)), objective.span, hint=f"{learner.memory}.g",
                                   over=learner.shared)  # fmt: skip
        learner.gradients[at] = gradient
        return gradient

    def _sum_of_steps(self, gradient: Atom, learner: Learner, steps: Learner, expr: tree.Expr) -> Atom:
        """The gradients of a period of steps that have a period themselves: a state that changes with the steps, and starts anew."""
        own = next(s for s in self.b.states if s.name == learner.memory)
        if learner.offset:
            raise self._offset_of_sum(own, learner)
        name = self.b.fresh(f"{own.name}.sum")
        self.b.states.append(State(name, own.type, ("zeros",), expr.span, every=steps.every, reset=learner.every, flush=steps.flush))
        self.b.memories.append(Memory(name, name, own.name, None, None, None, (), None, own.type.axes, expr.span))
        total = self.b.emit("add", (Last(name, expr.span), gradient), expr.span, name)
        if learner.over == "sum":
            return total
        return self.b.emit("div", (total, Num(Dim.of(learner.every // steps.every))), expr.span, hint=f"{learner.memory}.g")

    def _offset_of_sum(self, own: State, learner: Learner) -> Skip:
        """The offset is its own, or that of the outermost memory whose steps it counts."""
        late = learner
        while late.within is not None and late.within.offset:
            late = late.within
        step = late.within.every if late.within is not None else 1
        clock = f"every {late.every // step} offset {late.offset // step}"
        at = next(s for s in self.b.states if s.name == late.memory)
        labels = () if at is own else (Label(own.span, f"`{own.name}` has a period of its own, in these steps"),)
        return self.b.fail("NL305", f"`{own.name}` adds up the gradients of several steps, and its periods do not begin with the sequence", at.span,
                           *labels, expected="a period without an offset, in a memory without one", found=clock, help="leave out `offset`")  # fmt: skip

    def seen(self, expr: tree.Name, learner: Learner) -> Atom:
        """`x`, what the operator that learns is applied to in the objective: its gradient is an outer product with that."""
        assert learner.objective is not None
        if learner.folds or learner.shared is not None:
            raise self.b.fail("NL406", "`x` is what an operator is applied to at one tick, and this step has gradients of several", learner.now.span,
                              Label(expr.span, "read here"), expected="a memory that changes at every tick, for each sequence")  # fmt: skip
        objective = learner.objective()
        own = {objective.self, *(e.name for e in objective.equations)}
        uses = [e for e in objective.equations if any(getattr(a, "name", "") == objective.self for a in e.args)]
        seen = {e.args[1] if e.op == "apply" and getattr(e.args[0], "name", "") == objective.self else None for e in uses}
        atom = seen.pop() if len(seen) == 1 else None
        if atom is None or getattr(atom, "name", "") in own:
            read = dict.fromkeys(f"`{e.span.text}`" for e in uses)
            if objective.span.text.isidentifier():
                what, found = "its objective is a stream of the block", f"the stream `{objective.span.text}`"
            elif atom is not None:
                what, found = "it is applied to what depends on it", ", ".join(read)
            elif None not in seen and len(read) > 1:
                what, found = f"it is applied at {len(read)} places", ", ".join(read)
            else:
                what, found = "it is not applied, or not only", ", ".join(read) or f"`{objective.span.text}`"
            raise self.b.fail("NL406", f"`x` is what `{learner.memory}` is applied to, and {what}", learner.now.span,
                              Label(objective.span, "in this objective"), Label(expr.span, "read here"), found=found,
                              expected=f"an objective in which `{learner.memory}` is applied at one place, to what it does not give itself",
                              help=self._without_x(learner.now.span.text))  # fmt: skip
        return self.b.emit("stop", (atom,), expr.span, hint=f"{learner.memory}.x") if learner.cut or learner.given else atom

    def _without_x(self, step: str) -> str:
        """A step by a rule that takes any objective, with the same numbers where it has them."""
        name, _, rest = step.partition("(")
        rule = self._rule(name)
        other = self._rule(rule.otherwise or "") if rule is not None else None
        same = rule is not None and other is not None and [f.name for f in rule.formals] == [f.name for f in other.formals]
        return f"{other.name}({rest}" if same and other is not None else "gd(...)"

    def _rule(self, name: str) -> tree.Rule | None:
        found = self.top.find(name)
        return found.value if isinstance(found, Constant) and isinstance(found.value, tree.Rule) else None

    def _grad(self, expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        if len(expr.args) != 1 or expr.args[0].name != "at":
            raise self.b.fail("NL110", "`grad` takes the state it is taken at", expr.span, expected="one argument `at`", help="grad(at = w)")
        gradient = self.gradient(expr, self.atom(expr.args[0].value, scope, hint), scope)
        return gradient if name is None else self.b.alias(gradient, expr.span, name)

    def remembered(self, node: tree.Memory, scope: Scope, name: str) -> Remembered:
        raise NotImplementedError

    def memory(self, node: tree.Memory, spelled: str, scope: Scope, parent: str | None = None) -> None:
        raise NotImplementedError
