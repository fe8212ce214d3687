"""Memories: declarations and clauses, and `minimize E by STEP, STEP` as equations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import lcm
from typing import Any

from nldsl import tree
from nldsl.core import Atom, Init, Last, Memory, Num, Objective, Param, Ref, State, Type
from nldsl.diagnostics import Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Evaluations, Skip
from nldsl.elaborate.constants import constant
from nldsl.elaborate.declared import Declarations, is_kept
from nldsl.elaborate.learners import Learners
from nldsl.elaborate.paths import Open, passes_time
from nldsl.elaborate.scope import Learner, Remembered, Scope, Variable

ORDERS = ("through", "first_order", "straight_through", "stop")  # of the outer gradient


class Memories(Learners):
    """Elaborates the memories of one unit."""

    def __init__(self, builder: Builder, top: Scope):
        super().__init__(builder, top)
        self.declared = Declarations(builder)
        self.flushes: dict[str, str] = {}  # of each state, what becomes of its partial period
        self.open: dict[str, Open] = {}  # objectives that are streams, by the variable they are a function of
        self.stores: dict[str, tuple[tree.Memory, str, Scope] | None] = {}  # those not elaborated yet; None while one is

    # --- declarations --------------------------------------------------------------------------

    def remembered(self, node: tree.Memory, scope: Scope, name: str) -> Remembered:
        pairs: list[Any] | None = [] if isinstance(node.type, tree.StoreType) else None
        structure = self.structure(node.type, scope) if isinstance(node.type, tree.StructureType) else None
        return Remembered(name, scope.axes, node, node.name.span, pairs, structure)

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
        if not binding.states:
            return  # its structure is wrong, and reported
        clauses = _by_kind(node, self.b)
        shared = self._shared(node, clauses, scope)
        if isinstance(node.type, tree.StoreType):
            self._store(node, clauses, binding, scope)
            return
        learner = scope.find_learner()
        every, offset = self._clock(node, scope, learner)
        reset, base = self._reset(clauses.get(tree.Reset), scope, binding)
        flush, window = self._flush(node, clauses, scope, learner, every)
        if window is not None and flush == "drop":
            self.at_start(binding, window, node.span)
        order = self._order(clauses, learner)
        given = order in ("straight_through", "stop")
        learns = False
        for name, leaf in zip(binding.states, self._leaves(node, binding, scope, bool(base)), strict=True):
            type, init, learned = leaf
            if given and (node.init is None or learner is not None) and order == "stop":
                learned = False  # nothing would train it
            learns |= learned
            slow = self.first_value(name) if learned or (is_kept(init) and not base) else None
            if slow is not None:
                self.b.params.append(Param(slow, type, init, False, node.span, fixed=not learned))
            start = base[binding.states.index(name)] if base else None
            update = clauses.get(tree.Update)
            sampled = isinstance(update, tree.Update) and update.sampled
            begun = f"{name}.start{window}" if window is not None and flush == "drop" else None
            ends = flush if every > 1 or begun is not None else "carry"
            detached = given and (learned or bool(base))
            self.b.states.append(State(name, type, init, node.name.span, slow, every, offset, reset, start, sampled, ends, begun, detached))
            self.flushes[name] = flush
        key = self._association(clauses.get(tree.Key), scope, f"{binding.name}.key")
        value = self._association(clauses.get(tree.Value), scope, f"{binding.name}.value")
        update, minimize = clauses.get(tree.Update), clauses.get(tree.Minimize)
        text: str | None = None
        steps: tuple[str, ...] = ()
        if update is not None and tree.Writes in clauses:
            raise self.b.fail("NL402", "`writes` is about gradients, and this memory takes none", clauses[tree.Writes].span,
                              Label(update.span, "it becomes this"), expected="`writes` beside `minimize`", help="stop(...) in the update")  # fmt: skip
        if isinstance(update, tree.Update) and binding.structure is None:
            self.atom(update.expr, scope, f"{binding.name}.w", binding.name)
            self.b.apart(binding.name)
        elif isinstance(minimize, tree.Minimize):
            text, steps = minimize.objective.span.text, tuple(s.span.text for s in minimize.steps)
            own = node.every is not None or learner is None  # an inherited clock's gradient is folded already
            if order == "straight_through" and not learns and learner is None:
                raise self.b.fail("NL402", f"`{spelled}` has no first value that is learned, to which a gradient would go straight", clauses[tree.Writes].span,
                                  expected="a first value that is learned", help="= learned, or writes stop")  # fmt: skip
            whole = Learner(Ref(""), Ref(""), "", None, scope.axes, every, offset, own and every > 1, cut=order == "first_order",
                            given=given and learner is None, flush=flush, window=window, shared=shared,
                            within=learner if learner is not None and learner.every > 1 else None)  # fmt: skip
            self._minimize(node, minimize, spelled, binding, scope, whole)
        else:
            what = "a network has an objective" if update is not None else f"the memory `{spelled}` has no `minimize` and no `update`"
            raise self.b.fail("NL401", what, node.name.span,
                              expected="an objective" if update is not None else "an objective or an update",
                              help="minimize 0.5 * sqnorm(M(k) - v) by gd(0.1)")  # fmt: skip
        writes = order if tree.Writes in clauses else None
        for name in binding.states:
            state = next(s for s in self.b.states if s.name == name)
            self.b.memories.append(Memory(name, name, parent, key, value, text, steps, None, state.type.axes, node.span, shared, writes))

    def _leaves(self, node: tree.Memory, binding: Remembered, scope: Scope, based: bool) -> list[tuple[Type, Any, bool]]:
        """Type, first value, and whether it is learned, of each state of a memory; one that starts from another has none to learn."""
        own_first = binding.structure is not None and not based
        known = tuple(leaf.path for leaf in binding.structure.leaves) if binding.structure is not None else ()
        values = [self._first(node.init, scope, (path, known)) for path in known] or [self._first(node.init, scope, None)]
        learned = values[0][1] if node.init is not None else own_first
        if based and learned and node.init is not None:
            raise self.b.fail("NL403", f"`{binding.name}` starts from the memory it is reset to: there is no first value to learn", node.init.span,
                              expected="no first value")  # fmt: skip
        if binding.structure is None:
            return [(self.declared.type(node.type, scope), values[0][0], learned)]
        own = node.init is None or (isinstance(node.init, tree.Name) and node.init.id == "learned")
        return [(leaf.type, leaf.init if own else given, learned) for leaf, (given, _) in zip(binding.structure.leaves, values, strict=True)]

    def _first(self, init: tree.Expr | None, scope: Scope, leaves: tuple[str, tuple[str, ...]] | None) -> tuple[Init, bool]:
        """A first value as it is declared, of one param of a structure; and whether it is learned."""
        self.declared.leaves, self.declared.of_memory = leaves, True
        try:
            return self.declared.init(init, scope) if init is not None else (("zeros",), False)
        finally:
            self.declared.leaves, self.declared.of_memory = None, False

    def _order(self, clauses: dict[type, Any], learner: Learner | None) -> str:
        """Which outer gradients pass: `writes`, or what the memory says that a rule trains."""
        clause = clauses.get(tree.Writes)
        if clause is None:
            return "stop" if learner is not None and learner.given else "through"
        if clause.how not in ORDERS:
            near = did_you_mean(clause.how, ORDERS)
            raise self.b.fail("NL402", f"writes are not `{clause.how}`", clause.span, expected=f"writes {' | '.join(ORDERS)}",
                              help=f"writes {near}" if near else None)  # fmt: skip
        return str(clause.how)

    def anchors(self) -> None:
        """The states at the starts of windows that something reads: copies made at the end of each window."""
        for name, windows in self.windows.items():
            state = next((s for s in self.b.states if s.name == name), None)
            for ticks in windows if state is not None else ():
                assert state is not None
                reset = lcm(state.reset, ticks) if state.reset is not None else None
                flush = "apply" if self.flushes.get(name) == "apply" else "carry"
                self.b.states.append(replace(state, name=f"{name}.start{ticks}", every=ticks, offset=0, reset=reset, sampled=True, flush=flush, begun=None))
                self.b.alias(Ref(name, state.span), state.span, f"{name}.start{ticks}")

    def _store(self, node: tree.Memory, clauses: dict[type, Any], binding: Remembered, scope: Scope) -> None:
        assert isinstance(node.type, tree.StoreType) and binding.pairs is not None
        for kind in (tree.Minimize, tree.Update, tree.Reset, tree.Writes, tree.Flush):
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
            if node.offset is not None:
                raise self.b.fail("NL301", "an offset is that of a clock", node.offset.span, expected="every N offset K", found="no `every`")
            return (learner.every, learner.offset) if learner is not None else (1, 0)
        ticks = []
        for expr, low in ((node.every, 1), (node.offset, 0)):
            value = Dim.of(low) if expr is None else constant(expr, scope)
            number = self.b.sizes.whole(value) if isinstance(value, Dim) else None
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
        if learner is not None:  # a rule counts steps, the first of which is at the memory's first tick that ends a period
            first = learner.offset or learner.every
            offset = (first + (offset - 1) * learner.every) % (every * learner.every)
            every *= learner.every
        return every, offset

    def _reset(self, clause: tree.Reset | None, scope: Scope, memory: Remembered) -> tuple[int | None, tuple[str, ...]]:
        """Ticks between resets, and the states they go back to where these are not the first ones."""
        if clause is None or clause.when in ("sequence", "never"):
            if clause is not None and clause.when == "never":
                raise self.b.fail("NL403", "`reset never` needs a state kept by the caller", clause.span,
                                  expected="reset sequence, or reset every N",
                                  help="pass the state on from call to call: forward(x, state, return_state=True)")  # fmt: skip
            return None, ()
        value = constant(clause.period, scope) if clause.period is not None else None
        number = self.b.sizes.whole(value) if isinstance(value, Dim) else None
        if clause.when != "every" or number is None or number < 1:
            raise self.b.fail("NL403", "a reset happens at each sequence or every so many ticks", clause.span,
                              expected="reset sequence, or reset every N")  # fmt: skip
        if clause.to is None:
            return number, ()
        name, base = self.binding(clause.to, scope)
        if not isinstance(base, Remembered) or base.pairs is not None or len(base.states) != len(memory.states) or base is memory:
            raise self.b.fail("NL403", f"`{memory.name}` cannot be reset to `{name}`", clause.to.span,
                              expected="another memory of the same structure", found=f"`{name}`")  # fmt: skip
        return number, base.states

    def _flush(
        self, node: tree.Memory, clauses: dict[type, Any], scope: Scope, learner: Learner | None, every: int
    ) -> tuple[str, int | None]:
        """What becomes of a period that the end of the stream cuts short, and the window that is the period of a memory without a clock."""
        clause, minimize = clauses.get(tree.Flush), clauses.get(tree.Minimize)
        if clause is None:
            if learner is None or learner.flush == "carry":
                return "carry", None
            if every != learner.every and learner.window is not None and learner.flush == "drop":
                raise self.b.fail("NL412", f"`{node.name.id}` has a period of its own, so a window that is dropped cannot be taken back", node.name.span,
                                  expected="a rule whose memories change at every tick", help="flush apply, or flush carry")  # fmt: skip
            return (learner.flush, learner.window) if every == learner.every else ("carry", None)
        if clause.how not in ("apply", "drop", "carry"):
            raise self.b.fail("NL412", f"a partial period is not `{clause.how}`", clause.span, expected="flush apply, flush drop, or flush carry")
        paced = isinstance(minimize, tree.Minimize) and next((s for s in minimize.steps if isinstance(s, tree.Step)), None)
        if learner is not None:
            what, help = "a memory of a rule ends with the memory that the rule trains", "flush in that memory"
        elif minimize is None:
            what, help = f"`{node.name.id}` takes no gradients, so nothing is added up over a period", "stop the stream at the end of a period"
        elif paced:
            what, help = "a step with a period of its own is taken at the ends of whole periods only", "leave out `flush`"
        elif node.every is None and minimize.start is None:
            what, help = f"`{node.name.id}` changes at every tick, so no period of it is ever cut short", "every N, or at start(N)"
        else:
            return clause.how, self.window(minimize.start, scope) if minimize.start is not None and every == 1 else None
        raise self.b.fail("NL412", what, clause.span, expected="`flush` beside `minimize`, in a memory with a period", help=help)

    def _shared(self, node: tree.Memory, clauses: dict[type, Any], scope: Scope) -> str | None:
        """How the sequences of a batch take their gradients together; None where each has a state of its own."""
        clause = clauses.get(tree.Shared)
        if clause is None:
            return None
        if isinstance(node.type, tree.StoreType):
            what = "a store keeps the pairs of its own sequence"
        elif scope.find_learner() is not None:
            what = "a memory of a rule is shared where the memory that the rule trains is"
        elif tree.Minimize not in clauses:
            what = f"`{node.name.id}` takes no gradients, so the sequences of a batch have nothing to take together"
        elif clause.how not in ("sum", "mean"):
            what = f"the gradients of several sequences are not one by `{clause.how}`"
        else:
            return str(clause.how)
        raise self.b.fail("NL413", what, clause.span, expected="shared sum, or shared mean, beside `minimize`")

    # --- objectives and rules --------------------------------------------------------------------

    def _minimize(
        self, node: tree.Memory, clause: tree.Minimize, spelled: str, binding: Remembered, scope: Scope, whole: Learner
    ) -> None:
        """The steps of each state; `whole` is what they have in common."""
        over = clause.over or "sum"
        if over not in ("sum", "mean"):
            raise self.b.fail("NL302", f"ticks cannot be folded by `{over}`", clause.span, expected="over sum, or over mean")
        start = self.at_start(binding, self.window(clause.start, scope), clause.span) if clause.start is not None else None
        steps = [s.rule if isinstance(s, tree.Step) else s for s in clause.steps]
        paced = [n for n, s in enumerate(clause.steps) if isinstance(s, tree.Step)]
        plain = paced[0] if paced else len(steps)
        known: dict[Any, Objective] = {}
        evaluations = Evaluations()
        at: tuple[Atom, ...] = tuple(Last(state, node.name.span) for state in binding.states)
        for n, step in enumerate(steps[:plain]):
            points, after = start or at, []
            for i, state in enumerate(binding.states):
                name = state if n == plain - 1 else None
                objective = partial(self._objective, clause, node, spelled, binding, scope, points, i, known, evaluations, whole.given)
                if binding.structure is None:
                    objective()
                learner = replace(whole, last=at[i], memory=state, objective=objective, over=over, at=start[i] if start else None, gradients={})
                after.append(self.step(step, scope, learner, name))
            at = tuple(after)
        if paced:
            self._paced(clause, binding, scope, paced, whole)

    def _objective(
        self, clause: tree.Minimize, node: tree.Memory, spelled: str, binding: Remembered, scope: Scope, points: tuple[Atom, ...], i: int,
        known: dict[Any, Objective], evaluations: Evaluations, given: bool,
    ) -> Objective:  # fmt: skip
        """The objective as a function of one state, the others being at their points; `given`: no outer gradient passes what it reads."""
        case = (i, *(points[j] for j in range(len(points)) if j != i))
        if case in known:
            return known[case]
        formal = self.b.fresh(f"{binding.states[i]}.self")
        inner = scope.inner()
        atoms = tuple(Ref(formal) if j == i else point for j, point in enumerate(points))
        inner.names[spelled] = Variable(atoms, binding, scope.axes, node.span)
        with self.b.objective(formal, binding.states[i], clause.objective.span, evaluations) as box:
            box.append(self.atom(clause.objective, inner, f"{binding.name}.loss"))
        objective: Objective = box[0]
        if passes_time(self.b, spelled, objective.equations, objective.span, {s.name for s in self.b.states}):
            raise Skip
        if not (isinstance(objective.result, Ref) and any(e.name == objective.result.name for e in objective.equations)):
            self.open[formal] = Open(binding.states[i], spelled, node.name.span, start=clause.start is not None)
        elif given:
            objective = self._given(objective, set(points))
        known[case] = objective
        return objective

    def _given(self, objective: Objective, points: set[Atom]) -> Objective:
        """An objective of streams that are stopped; its states are given by themselves."""
        own = {objective.self, *(e.name for e in objective.equations)}

        def stopped(a: Atom) -> Atom:
            if isinstance(a, Num) or a.name in own or a in points:
                return a
            return self.b.emit("stop", (a,), objective.span, hint=f"{a.name}.given")

        return replace(objective, equations=tuple(replace(e, args=tuple(map(stopped, e.args))) for e in objective.equations))

    def gradient_is_given(self, objective: Objective) -> bool:
        return objective.self not in self.open

    def _paced(self, clause: tree.Minimize, binding: Remembered, scope: Scope, paced: list[int], whole: Learner) -> None:
        """Steps at the ends of periods: each is a slow state, and the memory starts its periods from the last of them."""
        written = clause.steps[paced[0] :]
        periods = [self.window(s.every, scope, "a period") for s in written if isinstance(s, tree.Step)]
        first = next(s for s in self.b.states if s.name == binding.states[0])
        if len(written) != len(paced) or paced[0] == 0 or len(set(periods)) > 1:
            raise self.b.fail("NL405", "steps with a period of their own come last, and all with one period", clause.steps[paced[0]].span,
                              expected="STEP, ..., STEP every N", found=f"`{clause.span.text.partition(' by ')[2] or clause.span.text}`")  # fmt: skip
        if first.reset is not None or first.every > 1:
            what = "is reset" if first.reset is not None else f"changes every {first.every} ticks"
            raise self.b.fail("NL405", "a step with a period stands in a memory that changes at every tick and is not reset", written[0].span,
                              Label(first.span, f"it {what}"), expected="STEP, or another memory that is reset to this one")  # fmt: skip
        period = periods[0]
        for state in binding.states:
            at: Atom = Ref(state, clause.span)
            index = next(n for n, s in enumerate(self.b.states) if s.name == state)
            own = self.b.states[index]
            for step in written:
                assert isinstance(step, tree.Step)
                name = self.b.fresh(f"{state}.{step.rule.span.text.partition('(')[0]}")
                self.b.states.append(replace(own, name=name, every=period, sampled=True))
                learner = Learner(at, Ref(""), name, partial(self._no_gradient, step), scope.axes, period, given=whole.given)
                at = self.step(step.rule, scope, learner, name)
            assert isinstance(at, Ref)
            self.b.states[index] = replace(own, reset=period, base=at.name)

    def _no_gradient(self, step: tree.Step) -> Objective:
        raise self.b.fail("NL406", "a step with a period has no gradient: it acts on the state that the steps before it have reached", step.span,
                          expected="a rule that reads `w` and not `g`")  # fmt: skip


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
