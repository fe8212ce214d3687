"""The algebra of linear memories: abstract values of operator streams and of the vectors read from them.

Within one tick an operator stream is a sum of terms, each a factor on the state before the tick or on a write of
this tick (an outer product); a vector read from it is a sum of read-outs with number factors, plus a part that
does not depend on the state. `analyse` runs the equations of a group on these values. Where an equation leaves
the domain, `NotLinear` says why: then there is no parallel form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nldsl.core import Atom, Equation, Last, Num, Ref
from nldsl.lower.rewrite import Rewriter
from nldsl.source import Span
from nldsl.vocabulary import KEEPING, is_number


class NotLinear(Exception):
    """An equation outside the domain."""

    def __init__(self, why: str, span: Span):
        super().__init__(why)
        self.why, self.span = why, span


def alone(e: Equation) -> None:
    """The algebra is that of one sequence, and of memories."""
    if e.op in KEEPING:
        raise NotLinear("what it keeps of earlier ticks takes part in it", e.span)
    if e.op == "pool":
        raise NotLinear("at every tick it learns from the other sequences of the batch", e.span)


@dataclass(frozen=True)
class Factor:
    """`number * Diag(values) X Diag(keys)`; None is the identity."""

    number: Atom = Num(1.0)
    keys: Atom | None = None
    values: Atom | None = None


@dataclass(frozen=True)
class Operator:
    """A sum of factors on bases: states before the tick and writes, by name. `transposed` applies to the sum."""

    terms: tuple[tuple[str, Factor], ...]
    transposed: bool = False

    def get(self, base: str) -> Factor | None:
        return dict(self.terms).get(base)


@dataclass(frozen=True)
class Vector:
    """`constant + sum of number * read-out`, read-outs by name."""

    reads: tuple[tuple[str, Atom], ...] = ()
    constant: Atom | None = None


@dataclass(frozen=True)
class Write:
    """An outer product `left right^T` of this tick. The side that depends on the state is `unknown`, the other
    is a stream; `unknown` is None for a write known in advance."""

    name: str
    left: Vector
    right: Vector
    unknown: str | None  # "left", "right"
    span: Span

    @property
    def known_side(self) -> Atom:
        side = self.right if self.unknown != "right" else self.left
        assert side.constant is not None
        return side.constant


@dataclass(frozen=True)
class Read:
    """`operator(probe)`; `state` names a state whose new value is read whole."""

    name: str
    operator: Operator
    probe: Atom
    state: str | None
    span: Span


@dataclass(frozen=True)
class Machine:
    """A group of linear memories that share their writes.

    Attributes:
        states: names; each depends at most on itself and on earlier ones.
        next: the operator each state becomes, over states before the tick and writes.
        writes, reads: in order; a write's unknown side uses reads, of states before the tick and of writes.
        vectors: what the equations of the group that are vectors are, for those used outside it.
    """

    states: tuple[str, ...]
    next: dict[str, Operator]
    writes: tuple[Write, ...]
    reads: dict[str, Read]
    vectors: dict[str, Vector]

    @property
    def unknown(self) -> tuple[Write, ...]:
        return tuple(w for w in self.writes if w.unknown is not None)


def analyse(work: Rewriter, group: list[Equation], states: Iterable[str], outputs: Iterable[str]) -> Machine:
    """Run the equations of a group, in order, on the abstract domain.

    New coefficient streams are added to `work`.

    Raises:
        NotLinear: with the first equation that has no value in the domain.
    """
    domain = _Domain(work, {e.name for e in group}, set(states))
    for equation in group:
        domain.run(equation)
    order = _triangular(domain, group)
    vectors = {name: domain.vector(Ref(name)) for name in outputs}
    return _united(work, Machine(order, {s: domain.operators[s] for s in order}, tuple(domain.writes), domain.reads, vectors))


class _Domain:
    def __init__(self, work: Rewriter, inside: set[str], states: set[str]):
        self.work, self.inside, self.states = work, inside, states
        self.operators: dict[str, Operator] = {}
        self.vectors: dict[str, Vector] = {}
        self.writes: list[Write] = []
        self.reads: dict[str, Read] = {}

    # --- values of atoms -------------------------------------------------------------------------

    def outside(self, atom: Atom) -> bool:
        """Known for all ticks before the group runs."""
        return isinstance(atom, Num) or atom.name not in self.inside | self.states

    def operator(self, atom: Atom, span: Span) -> Operator:
        if isinstance(atom, Last) and atom.name in self.states:
            return Operator(((atom.name, Factor()),))
        if isinstance(atom, Ref) and atom.name in self.operators:
            return self.operators[atom.name]
        raise NotLinear("an operator that is not part of this memory takes part in its update", span)

    def vector(self, atom: Atom) -> Vector:
        if isinstance(atom, Ref) and atom.name in self.vectors:
            return self.vectors[atom.name]
        if self.outside(atom):
            return Vector((), atom)
        raise NotLinear("a vector of the tick before takes part in the update", atom.span)

    def is_operator(self, atom: Atom) -> bool:
        return not isinstance(atom, Num) and self.work.type(atom).kind == "map"

    # --- equations -------------------------------------------------------------------------------

    def run(self, e: Equation) -> None:
        self.work.at(e.span)
        alone(e)
        if self.work.types[e.name].kind == "map":
            made = self._operator(e)
            self.operators[e.name] = self._upright(made, e.span) if e.name in self.states else made
        elif e.op == "apply":
            self._read(e)
        else:
            self.vectors[e.name] = self._vector(e)

    def _operator(self, e: Equation) -> Operator:
        match e.op:
            case "copy":
                return self.operator(e.args[0], e.span)
            case "neg":
                return self._scale(self.operator(e.args[0], e.span), Num(-1.0))
            case "add" | "sub":
                a, b = (self.operator(x, e.span) for x in e.args)
                return self._sum(a, b if e.op == "add" else self._scale(b, Num(-1.0)), e.span)
            case "mul":
                for factor, w in (e.args, e.args[::-1]):
                    if not self.is_operator(factor):
                        return self._product(factor, self.operator(w, e.span), e.span)
                raise NotLinear("two operators are multiplied entry by entry", e.span)
            case "div" if not self.is_operator(e.args[1]):
                inverse = self.work.emit("div", Num(1.0), self._factor(e.args[1], e.span), hint=f"{e.name}.inverse")
                return self._scale(self.operator(e.args[0], e.span), self.work.total(inverse))
            case "scale_values":
                return self._channels(self.operator(e.args[1], e.span), values=self._factor(e.args[0], e.span), span=e.span)
            case "transpose":
                inner = self.operator(e.args[0], e.span)
                return replace(inner, transposed=not inner.transposed)
            case "outer":
                return self._write(e)
        raise NotLinear(f"`{e.op}` of an operator is not linear in it", e.span)

    def _factor(self, atom: Atom, span: Span) -> Atom:
        if not self.outside(atom):
            raise NotLinear("a factor of the state depends on the state", span)
        return atom

    def _product(self, a: Atom, w: Operator, span: Span) -> Operator:
        self._factor(a, span)
        if is_number(self.work.type(a)):
            return self._scale(w, self.work.total(a))
        return self._channels(w, keys=a, span=span)

    def _scale(self, w: Operator, a: Atom) -> Operator:
        return replace(w, terms=tuple((b, replace(f, number=self.work.mul(a, f.number, "c"))) for b, f in w.terms))

    def _channels(self, w: Operator, *, span: Span, keys: Atom | None = None, values: Atom | None = None) -> Operator:
        if w.transposed:
            keys, values = values, keys

        def times(a: Atom | None, b: Atom | None) -> Atom | None:
            return a if b is None else b if a is None else self.work.mul(a, b, "c")

        terms = ((b, Factor(f.number, times(f.keys, keys), times(f.values, values))) for b, f in w.terms)
        return replace(w, terms=tuple(terms))

    def _sum(self, a: Operator, b: Operator, span: Span) -> Operator:
        if a.transposed != b.transposed:
            if self._of_writes(b):
                b = self._turned(b)
            elif self._of_writes(a):
                a = self._turned(a)
            else:
                raise NotLinear("a memory is added to its transpose", span)
        total = dict(a.terms)
        for base, factor in b.terms:
            total[base] = self._add(total[base], factor, span) if base in total else factor
        return replace(a, terms=tuple(total.items()))

    def _upright(self, w: Operator, span: Span) -> Operator:
        """What a state becomes: next to other states it does not turn from tick to tick."""
        if not w.transposed:
            return w
        if self._of_writes(w):
            return self._turned(w)
        raise NotLinear("a memory becomes a transpose", span)

    def _of_writes(self, w: Operator) -> bool:
        return not any(base in self.states for base, _ in w.terms)

    def _turned(self, w: Operator) -> Operator:
        """The same sum of writes, each as the transpose of the outer product with its sides exchanged."""
        known = {x.name: x for x in self.writes}
        other = {"left": "right", "right": "left", None: None}
        terms = []
        for base, f in w.terms:
            name, write = f"{base}.turned", known[base]
            if name not in known:
                self.writes.append(replace(write, name=name, left=write.right, right=write.left, unknown=other[write.unknown]))
            terms.append((name, Factor(f.number, f.values, f.keys)))
        return Operator(tuple(terms), not w.transposed)

    def _add(self, f: Factor, g: Factor, span: Span) -> Factor:
        if f.keys == g.keys and f.values == g.values:
            return replace(f, number=self.work.add(f.number, g.number, "c"))
        if f.values == g.values:
            return Factor(Num(1.0), self._channel_sum(f.number, f.keys, g.number, g.keys), f.values)
        if f.keys == g.keys:
            return Factor(Num(1.0), f.keys, self._channel_sum(f.number, f.values, g.number, g.values))
        raise NotLinear("key channels and value channels are scaled in different terms of a sum", span)

    def _channel_sum(self, a: Atom, x: Atom | None, b: Atom, y: Atom | None) -> Atom:
        left = a if x is None else self.work.mul(a, x, "c")
        right = b if y is None else self.work.mul(b, y, "c")
        return self.work.add(left, right, "c")

    # --- writes and reads ------------------------------------------------------------------------

    def _write(self, e: Equation) -> Operator:
        left, right = (self.vector(a) for a in e.args)
        if left.reads and right.reads:
            raise NotLinear("both sides of a write depend on the state: the update is quadratic in it", e.span)
        unknown = "left" if left.reads else "right" if right.reads else None
        # A state that becomes a single write must not be taken for itself before the tick.
        name = f"{e.name}.write" if e.name in self.states else e.name
        self.writes.append(Write(name, left, right, unknown, e.span))
        return Operator(((name, Factor()),))

    def _read(self, e: Equation) -> None:
        operator, probe = e.args
        value = self.operator(operator, e.span)
        if not self.outside(probe):
            raise NotLinear("the place where the memory is read depends on its state", e.span)
        state = operator.name if isinstance(operator, Ref) and operator.name in self.states else None
        self.reads[e.name] = Read(e.name, value, probe, state, e.span)
        self.vectors[e.name] = Vector(((e.name, Num(1.0)),), None)

    # --- vectors ---------------------------------------------------------------------------------

    def _vector(self, e: Equation) -> Vector:
        match e.op:
            case "copy":
                return self.vector(e.args[0])
            case "neg":
                return self._times(self.vector(e.args[0]), Num(-1.0), e)
            case "add" | "sub":
                a, b = (self.vector(x) for x in e.args)
                return self._plus(a, b if e.op == "add" else self._times(b, Num(-1.0), e), e)
            case "mul" | "div":
                a, b = (self.vector(x) for x in e.args)
                if e.op == "mul" and b.reads and not a.reads:
                    a, b = b, a
                if not b.reads and b.constant is not None and is_number(self.work.type(b.constant)):
                    scale = b.constant
                    if e.op == "div":
                        scale = self.work.emit("div", Num(1.0), scale, hint=f"{e.name}.inverse")
                    return self._times(a, self.work.total(scale), e)
        raise NotLinear(f"`{e.op}` is not linear in what was read, with one factor for all channels", e.span)

    def _times(self, v: Vector, a: Atom, e: Equation) -> Vector:
        constant = None if v.constant is None else self.work.mul(a, v.constant, f"{e.name}.c")
        return Vector(tuple((r, self.work.mul(a, c, f"{e.name}.c")) for r, c in v.reads), constant)

    def _plus(self, a: Vector, b: Vector, e: Equation) -> Vector:
        reads = dict(a.reads)
        for name, c in b.reads:
            reads[name] = self.work.add(reads[name], c, f"{e.name}.c") if name in reads else c
        parts = [v.constant for v in (a, b) if v.constant is not None]
        parts = [self.work.entry(p, self.work.types[e.name]) for p in parts]
        if any(isinstance(p, Num) or self.work.type(p).shape != self.work.types[e.name].shape for p in parts):
            raise NotLinear("a number is added to what was read", e.span)
        constant = self.work.add(parts[0], parts[1], f"{e.name}.c") if len(parts) == 2 else parts[0] if parts else None
        return Vector(tuple(reads.items()), constant)


def _triangular(domain: _Domain, group: list[Equation]) -> tuple[str, ...]:
    """An order of the states in which each depends on itself and earlier ones only."""
    waiting = {s: {b for b, _ in domain.operators[s].terms if b in domain.states and b != s} for s in domain.states}
    order: list[str] = []
    while waiting:
        free = sorted(s for s, needs in waiting.items() if needs <= set(order))
        if not free:
            span = next(e.span for e in group if e.name in waiting)
            raise NotLinear("several states feed each other in a ring", span)
        order += free
        for s in free:
            del waiting[s]
    return tuple(order)


def _united(work: Rewriter, machine: Machine) -> Machine:
    """One write for those with one known side that go to the same places in equal measure: a n^T + b n^T = (a + b) n^T."""
    known, other = ("left", "right") if any(w.unknown == "right" for w in machine.writes) else ("right", "left")
    operators = [*machine.next.values(), *(r.operator for r in machine.reads.values())]
    united: dict[object, Write] = {}
    gone: set[str] = set()
    for w in machine.writes:
        key: object = getattr(w, known), tuple(o.get(w.name) for o in operators)
        before = united.get(key)
        if before is not None and (total := _total(work.at(w.span), getattr(before, other), getattr(w, other))) is not None:
            del united[key]  # it stands where the later one stood: what that reads has been written
            gone.add(before.name)
            w = Write(w.name, **{known: getattr(w, known), other: total}, unknown=w.unknown or before.unknown, span=w.span)
        elif before is not None:
            key = w.name
        united[key] = w

    def without(o: Operator) -> Operator:
        return replace(o, terms=tuple(t for t in o.terms if t[0] not in gone))

    following = {s: without(o) for s, o in machine.next.items()}
    reads = {n: replace(r, operator=without(r.operator)) for n, r in machine.reads.items()}
    return replace(machine, writes=tuple(united.values()), next=following, reads=reads)


def _total(work: Rewriter, a: Vector, b: Vector) -> Vector | None:
    """a + b, where what they have besides reads is of one type."""
    constants = [v.constant for v in (a, b) if v.constant is not None]
    if len({work.type(c) for c in constants}) > 1:
        return None
    reads = dict(a.reads)
    for name, c in b.reads:
        reads[name] = work.add(reads[name], c, f"{name}.c") if name in reads else c
    constant = work.add(constants[0], constants[1], "written") if len(constants) == 2 else constants[0] if constants else None
    return Vector(tuple(reads.items()), constant)
