"""Memories: their objectives, steps, clocks, updates and resets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nldsl_testing.grammar_expressions import Expressions
from nldsl_testing.grammar_structures import File
from nldsl_testing.grammar_values import NOTHING, NUMBER, Memory, Value, of, operator, vector

FIRST = ("", "zeros", "learned", "learned(normal(0.5))", "normal(0.3)", "0.5")
# Rules of the library that act entry by entry, with an `eps` under which nothing is divided by rounding.
ENTRYWISE = ("adam(lr = 0.05, eps = 0.1)", "adamw(lr = 0.05, eps = 0.1)", "sgd(0.1, momentum = 0.5)", "nesterov(0.1)", "lion(0.05)", "signsgd(0.05)",
             "rmsprop(0.05, eps = 0.1)", "adagrad(0.1, eps = 0.1)", "ema_momentum(0.3)", "adamax(0.05, eps = 0.1)", "nadam(0.05, eps = 0.1)")  # fmt: skip
OF_OPERATORS = ("delta_momentum(0.05)", "shampoo(0.1, eps = 0.5)", "adafactor(0.05)")


@dataclass
class Step:
    """What a memory is made of besides its type: its clock, and whether its objective is a stream of the block.

    What is linear in an operator has chunk forms, which few choices would give: `plain` memories keep to it.
    """

    memory: Memory
    clock: str = ""
    anchored: str = ""
    loss: str = ""
    plain: bool = False

    @property
    def slow(self) -> bool:
        return bool(self.clock)


class Memories:
    """Writes the memories of one place in a block."""

    def __init__(self, place: Expressions, file: File):
        self.e, self.file, self.choice = place, file, place.choice
        self.own: list[Memory] = []

    # --- what there will be ------------------------------------------------------------------------

    def announce(self, clock: str | None = None) -> Step:
        """A memory that is not yet written, but may be read as it was."""
        choice, sizes = self.choice, list(self.e.sizes)
        kind = choice.pick(["linear", "linear", "linear", "network", "network", "vector", "number", "store"])
        if clock is not None and kind == "store":
            kind = "linear"
        a, b = choice.pick(sizes), choice.pick([*sizes, *(["1"] * (kind in ("linear", "network")))])
        name = self.e.names.new("M") + self.e.suffix
        memory = Memory(name, operator(a, b), kind, name)
        if kind in ("vector", "number"):
            memory.type = vector(b) if kind == "vector" else NUMBER
        if kind == "network":
            memory.structure = self.file.structure(a, b)
        if self.own and choice.chance(3) and (kind == "store") == (self.own[-1].kind == "store"):
            twin = self.own[-1]  # one may be reset to the other
            memory.kind, memory.type, memory.structure, kind = twin.kind, twin.type, twin.structure, twin.kind
        step = Step(memory, plain=kind == "linear" and choice.chance(2))
        if kind != "store":
            clocks = ["", "", "", "2"] if step.plain else ["", "", "", "2", "3", "4"]
            memory.every = choice.pick(clocks) if clock is None else clock
            if memory.every:
                step.clock = f" every {memory.every}" + (" offset 1" if choice.chance(4) and clock is None else "")
            elif choice.chance(5 if step.plain else 3):
                step.anchored = f" at start({choice.pick(self.e.windows)})"
        self.e.memories.append(memory)
        self.own.append(memory)
        return step

    def written(self, memory: Memory, deps: frozenset[str]) -> None:
        self.e.flow.add(memory.node, deps)
        memory.open = False

    # --- the text ----------------------------------------------------------------------------------

    def write(self, step: Step) -> None:
        memory, choice = step.memory, self.choice
        if memory.kind == "store":
            return self._store(memory)
        updated = memory.kind != "network" and not step.anchored and not step.loss and choice.chance(4)
        clauses, deps = self._update(step) if updated else self._minimize(step)
        first = choice.pick(FIRST if memory.kind != "network" else ("learned", "learned(normal(0.5))", ""))
        if any(positive in clauses for positive in ("lq_normalise", "mirror")):
            first = "learned(exp(normal(0.3)))"
        elif memory.kind == "linear" and memory.type.a == memory.type.b and choice.chance(5):
            first = "eye"
        clauses += self._reset(step, "every " in clauses)
        if " to M" in clauses and first.startswith("learned"):
            first = ""  # that of the memory it goes back to
        if not updated and choice.chance(6):
            clauses += "  writes stop"
        if memory.kind == "linear" and not step.loss and choice.chance(5):
            key, value = self.e.vector(memory.type.a, 1), self.e.vector(memory.type.b, 1)
            if not (key.deps | value.deps) - self.e.flow.reach(deps):
                clauses = f"key {key}  value {value}  {clauses}"
        type = memory.structure or str(memory.type)
        self.e.lines.append(f"memory {memory.name} : {type}{f' = {first}' if first else ''}{step.clock} {{ {clauses} }}")
        self.written(memory, deps)

    def _store(self, memory: Memory) -> None:
        key, value = self.e.vector(memory.type.a), self.e.vector(memory.type.b)
        window = self.choice.pick(["", ", window = 3", ", window = 1"])
        if self.e.sizes.get(memory.type.a, 1) % 2 == 0 and self.choice.chance(3):
            key = of("rope({0})", key)
        self.e.lines.append(f"memory {memory.name} : store({memory.type}{window}) {{ key {key}  value {value} }}")
        self.written(memory, key.deps | value.deps)

    def _reset(self, step: Step, paced: bool) -> str:
        memory = step.memory
        alike = [m for m in self.own if not m.open and (m.kind, m.type, m.structure) == (memory.kind, memory.type, memory.structure)]
        if paced or not self.choice.chance(2 if alike else 4):
            return ""
        if step.anchored or step.clock:
            every = (memory.every or step.anchored.removeprefix(" at start(").removesuffix(")"))
            every = f"2 * {every}" if not every.isdigit() else str(2 * int(every))
        else:
            every = self.choice.pick(["4", "5", "6"])
        if alike and not self.choice.chance(3):
            base = self.choice.pick(alike)
            self.e.flow.add(memory.node, {base.node})
            return f"  reset every {every} to {base.name}"
        return f"  reset every {every}"

    # --- objectives --------------------------------------------------------------------------------

    def _minimize(self, step: Step) -> tuple[str, frozenset[str]]:
        memory, choice = step.memory, self.choice
        if step.loss:
            text, deps, plain = step.loss, NOTHING, False
        else:
            terms = [self._term(memory, step.plain)]
            while len(terms) < 3 and choice.chance(4):
                terms.append(self._term(memory, step.plain))
            if len(terms) > 1:
                terms = [terms[0], *(of("{0} * {1.tight}", self.e.gate(), t) if choice.chance(2) else t for t in terms[1:])]
            text = " + ".join(t.text for t in terms).replace("+ -", "- ")
            deps = NOTHING.union(*(t.deps for t in terms))
            plain = len(terms) == 1 and text.startswith("0.5 * sqnorm(M") and not step.slow
        steps, more = self._steps(step, plain)
        over = choice.pick([" over sum", " over mean", ""]) if step.slow else ""
        return f"minimize {text}{over}{step.anchored} by {steps}", (deps - {memory.node}) | more

    def _term(self, memory: Memory, plain: bool) -> Value:
        """A scalar that reads its memory: convex and not, with one reading or the whole state."""
        e, name = self.e, Value(memory.name)
        if memory.kind in ("vector", "number"):
            return self._of_entries(memory, name)
        read = self._reading(memory)
        if memory.type.b == "1":
            forms = ["0.5 * ({0} - {1.tight})^2", "-{0} * {1.tight}", "softplus({0} - {1.tight})"]
            return of(self.choice.pick(forms[:2] if plain else forms), read, e.number(1))
        target = e.vector(memory.type.b, 1)
        if e.tokens and not plain and self.choice.chance(2):
            token, classes = self.choice.pick(e.tokens)
            if classes == memory.type.b:
                return of(f"cross_entropy({{0}}, {token})", read)
        forms = ["0.5 * sqnorm({0} - {1.tight})", "-dot({0}, {1})", "0.3 * sqnorm({0} - {1.tight})", "sum(softplus({0} - {1.tight}))", "mean({0} * {1.tight})",
                 "0.5 * sqnorm(tanh({0}) - {1.tight})", "mean(abs({0} - {1.tight}))", "0.5 * sqnorm(norm({0}) - {1.tight})",
                 "sum(sqrt(1 + ({0} - {1.tight})^2))", "-sum(min({0}, {1}))", "0.1 * sum(exp(min({0}, 1))) - dot({0}, {1})",
                 "0.5 * sqnorm(relu({0}) - {1.tight})", "0.5 * sqnorm(softmax({0}) - {1.tight})",
                 f"{self.file.gap()}({{0}}, {{1}}, width = 0.7)", f"0.5 * {self.file.gap()}({{0}}, {{1}})"]  # fmt: skip
        if plain:
            forms = [*forms[:3], forms[1], forms[4]]
        if e.layer is not None and not plain and self.choice.chance(6):
            return of(f"0.5 * sqnorm({e.layer()}({{0}}) - {{1.tight}})", read, target)
        if memory.kind == "linear" and (not plain or self.choice.chance(4)):
            back = self.at_value(memory)
            forms = forms if not plain else []
            forms += [f"0.5 * sqnorm(transpose({memory.name})({back}) - {{2.tight}})", f"0.05 * sqnorm({memory.name}) - dot({{0}}, {{1}})",
                      f"0.5 * sqnorm(transpose({memory.name})({back})) - dot({{0}}, {back})"]  # fmt: skip
            found = of(self.choice.pick(forms), read, target, e.vector(memory.type.a, 1))
            return Value(found.text, found.deps | back.deps)
        return of(self.choice.pick(forms), read, target)

    def _reading(self, memory: Memory) -> Value:
        if (index := self.e.index(memory)) is not None:
            return Value(f"{memory.name}({index})")
        key = self.e.at(memory, self.e.key(memory.type.a))
        return Value(f"{memory.name}({key})", key.deps)

    def at_value(self, memory: Memory) -> Value:
        return self.e.at(memory, self.e.key(memory.type.b))

    def _of_entries(self, memory: Memory, name: Value) -> Value:
        target = self.e.vector(memory.type.b, 1)
        if memory.kind == "number":
            forms = ["0.5 * ({0} - {1.tight})^2", "-{0} * {1.tight}", "softplus({0} - {1.tight})", "abs({0} - {1.tight})"]
        else:
            forms = ["0.5 * sqnorm({0} - {1.tight})", "-dot({0}, {1})", "sum(softplus({0} - {1.tight}))", "0.5 * dot({0}, {0}) - mean({0} * {1.tight})",
                     "mean(abs({0} - {1.tight}))", "0.5 * sqnorm(tanh({0}) - {1.tight})"]  # fmt: skip
        return of(self.choice.pick(forms), name, target)

    # --- steps -------------------------------------------------------------------------------------

    def _steps(self, step: Step, plain: bool) -> tuple[str, frozenset[str]]:
        deps: set[str] = set()
        texts = [self._one(step, plain, deps)]
        while len(texts) < 3 and self.choice.chance(4):
            texts.append(self._one(step, False, deps))
        if not step.slow and self.choice.chance(6):
            texts.append(f"{self.file.projection()} every {self.choice.pick(['4', '6'])}")
        return ", ".join(texts), frozenset(deps)

    def _one(self, step: Step, plain: bool, deps: set[str]) -> str:
        memory, choice, fixed = step.memory, self.choice, step.slow

        def told(value: Value) -> str:
            deps.update(value.deps)
            return value.text

        def rate() -> str:
            return told(self.e.rate(fixed))

        def gate() -> str:
            return told(self.e.gate(fixed))

        options: list[Callable[[], str]] = [
            lambda: f"gd({rate()})",
            lambda: f"gd({rate()}, keep = {gate()})",
            lambda: f"decay({gate()}), gd({rate()})",
            lambda: f"gd({rate()}), decay({gate()})",
            lambda: f"momentum({rate()}, {gate()})",
            lambda: f"titans(theta = {rate()}, eta = {gate()}, alpha = 0.1 * {told(self.e.gate(fixed)) if fixed else 'sigmoid(0.5)'})",
            lambda: choice.pick(ENTRYWISE),
            lambda: f"{self.file.rule()}({rate()}, {gate()})",
        ]
        if step.plain:
            del options[-2:]
            plain = plain and "1" not in (memory.type.a, memory.type.b)
            if "1" not in (memory.type.a, memory.type.b):
                options.append(lambda: f"decay({told(self.e.gates(memory.type.a, fixed))}), gd({rate()})")
        elif memory.kind == "linear" and "1" not in (memory.type.a, memory.type.b):
            options += [
                lambda: f"decay({told(self.e.gates(memory.type.a, fixed))}), gd({rate()})",
                lambda: f"gd({rate()}), decay_values({told(self.e.gates(memory.type.b, fixed))})",
                lambda: choice.pick(OF_OPERATORS),
                lambda: "gd(0.1), lq_normalise(3)",
                lambda: f"mirror(0.1, keep = {gate()})",
            ]
        if memory.kind == "vector":
            options.append(lambda: f"decay({told(self.e.gates(memory.type.b, fixed))}), gd({rate()})")
        if plain and memory.kind == "linear":
            options += [lambda: f"dgd({rate()})", lambda: f"dgd_implicit({rate()}, keep = {gate()})"]
        if plain and not step.slow and not step.anchored:
            options += [lambda: f"implicit({rate()})", lambda: f"decay({gate()}), implicit({rate()})"] * 2
        return choice.pick(options)()

    # --- explicit updates --------------------------------------------------------------------------

    def _update(self, step: Step) -> tuple[str, frozenset[str]]:
        value = self._next(step.memory)
        last = " over last" if step.slow else ""
        return f"update {value}{last}", value.deps - {step.memory.node}

    def _next(self, memory: Memory) -> Value:
        e, choice, past = self.e, self.choice, Value(f"last {memory.name}")
        if memory.kind == "linear":
            return self._next_operator(memory, past)
        if memory.kind == "number":
            gate, new = e.gate(), e.number(1)
        else:
            gate, new = choice.pick([e.gate, lambda: e.gates(memory.type.b)])(), e.vector(memory.type.b, 1)
        forms = ["{0.tight} * {2} + {1.tight}", "{0.tight} * {2} + (1 - {0.tight}) * {1.tight}", "tanh({0.tight} * {2} + {1.tight})", "{1.tight}"]
        if memory.kind == "vector":
            forms.append(f"tanh({e.operator(memory.type.b, memory.type.b)}({{2}}) + {{1.tight}})")
        return of(choice.pick(forms), gate, new, past, loose=True)

    def _next_operator(self, memory: Memory, past: Value) -> Value:
        """Parts that are kept, erased and written."""
        e, choice, (a, b) = self.e, self.choice, (memory.type.a, memory.type.b)
        if b == "1":
            return of("{0.tight} * {1} + 0.1 * {2.tight}", e.gate(), past, e.map(a, b, 1), loose=True)
        kept: list[Callable[[], Value]] = [
            lambda: of("{0.tight} * {1}", e.gate(), past),
            lambda: of("{0.tight} * {1}", e.gates(a), past),
            lambda: of("scale_values({0}, {1})", e.gates(b), past),
            lambda: of("tanh({0})", past),
        ]
        if a == b:
            kept.append(lambda: of("0.5 * transpose({0})", past))
        parts = [choice.pick(kept)()]
        while len(parts) < 4 and (len(parts) == 1 or choice.chance(2)):
            parts.append(self._written(memory, e.at(memory, e.key(a))))
        return Value(" + ".join(p.text for p in parts), frozenset().union(*(p.deps for p in parts)), True)

    def _written(self, memory: Memory, key: Value) -> Value:
        """A part of an operator's update that does not keep it."""
        e, (a, b), last = self.e, (memory.type.a, memory.type.b), f"last {memory.name}"
        kinds: list[Callable[[], Value]] = [
            lambda: of("outer({0}, {1})", e.vector(b, 1), key),
            lambda: of(f"0.4 * outer({{0.tight}} - {last}({{1}}), {{1}})", e.vector(b, 1), key),
            lambda: of("0.3 * {0.tight}", e.map(a, b, 1)),
            lambda: of(f"0.3 * outer(tanh({last}({{0}})), {{0}})", key),
        ]
        return self.choice.pick(kinds)()
