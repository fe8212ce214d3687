"""Blocks written out in place: as maps inside rules, and as structures of memories, whose params are the state.

The params of a structure are found by writing the block out once and keeping nothing but its declarations. To read the
memory is to write the block out with the states in the place of the params, in the order in which they were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nldsl import tree
from nldsl.core import Atom, Equation, Init, Last, Ref, Type
from nldsl.diagnostics import Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.builder import MAX_DEPTH, Skip
from nldsl.elaborate.constants import constant
from nldsl.elaborate.declared import Declarations
from nldsl.elaborate.expressions import Expressions
from nldsl.elaborate.maps import is_map, looks_back, needed, to_give
from nldsl.elaborate.scope import Binding, Constant, Leaf, Remembered, Scope, Stream, Structure, Variable
from nldsl.source import Span
from nldsl.vocabulary import WORDS
from nldsl.walk import walk

TIMELESS = "equations, params, chains and blocks of these: a structure has no past of its own"


@dataclass
class _Filling:
    """The params of a block that is being written out: those found so far, or the atoms that stand for them."""

    atoms: Iterator[Atom] | None
    found: list[Leaf] = field(default_factory=list)
    path: tuple[str, ...] = ()


class Structures(Expressions):
    """Writes blocks out in place."""

    declared: Declarations

    def __init__(self, builder: Any):
        super().__init__(builder)
        self.filling: _Filling | None = None
        self.blocks: list[str] = []  # those being written out
        self.maps: dict[int, bool] = {}  # what is known of blocks, by their ids
        self.firsts: dict[str, str] = {}  # state -> the param that is its first value
        self.straight: dict[str, tuple[Atom, Atom]] = {}  # what is read of a state -> the state, and 0 with the gradient of its first value
        self.zeros: dict[str, Atom] = {}  # state -> that 0
        self.windows: dict[str, dict[int, None]] = {}  # state -> the windows at whose start it is read

    # --- the structure of a memory -----------------------------------------------------------------

    def structure(self, node: tree.StructureType, scope: Scope) -> Structure:
        """The block a memory is declared with, and its params; none where it is wrong, which is reported."""
        try:
            return self._structure(node, scope)
        except Skip:
            return Structure(tree.Block("", (), (), node.span), {}, ())

    def _structure(self, node: tree.StructureType, scope: Scope) -> Structure:
        call = node.expr if isinstance(node.expr, tree.Call) else tree.Call(node.expr, (), node.span)
        found = scope.find(call.fn.id) if isinstance(call.fn, tree.Name) else None
        if found is None and isinstance(call.fn, tree.Name) and call.fn.id not in WORDS:
            near = did_you_mean(call.fn.id, {n for n in scope.visible() if isinstance(b := scope.find(n), Constant) and isinstance(b.value, tree.Block)})
            raise self.b.fail("NL101", f"nothing is called `{call.fn.id}` here", call.fn.span, expected="a block, or A -> B",
                              found=f"`{call.fn.id}`", help=f"did you mean `{near}`?" if near else None)  # fmt: skip
        if not isinstance(found, Constant) or not isinstance(found.value, tree.Block):
            raise self.b.fail("NL121", f"`{node.span.text}` is not the structure of a memory", node.span,
                              expected="A -> B, real[n], store(A -> B), or a block with its parameters", help="memory M : d -> e")  # fmt: skip
        block = found.value
        inputs = [n for s in tree.inputs(block.body) for n in s.names]
        if len(inputs) != 1:
            raise self.b.fail("NL121", f"`{block.name}` has {len(inputs)} inputs", node.span, Label(block.span, "the block"),
                              expected="a structure: one input, the key")  # fmt: skip
        formals = self.arguments(call, block.name, block.formals, scope, self.home_of(block))
        stream = next((n for n, b in formals.items() if not isinstance(b, Constant)), None)
        if stream is not None:
            raise self.b.fail("NL105", f"the parameter `{stream}` must be known before any tick", formals[stream].span or node.span,
                              expected="a constant")  # fmt: skip
        found_before, self.filling = self.filling, _Filling(None)
        mark, known = self.b.mark(), len(self.b.diagnostics)
        try:
            structure = Structure(block, formals, ())
            result = self._write(structure, Ref("?"), node.span, scope, "t", None)
            leaves = tuple(self.filling.found)
            read = ancestors({e.name: e for e in self.b.equations[mark[0] :]}, result)
        finally:
            self.filling = found_before
            self.b.back_to(mark)
        if any(d.severity == "error" for d in self.b.diagnostics[known:]):
            raise Skip
        if not leaves:
            raise self.b.fail("NL121", f"`{block.name}` has no params, so it has nothing to remember", node.span, Label(block.span, "the block"),
                              expected="a block with params")  # fmt: skip
        unread = next((leaf for leaf in leaves if f"?{leaf.path}" not in read), None)
        if unread is not None:
            raise self.b.fail("NL121", f"the output of `{block.name}` does not depend on its param `{unread.path}`", node.span,
                              Label(block.span, "the block"), expected="params that are read")  # fmt: skip
        return Structure(block, formals, leaves)

    def run(self, memory: Remembered, atoms: Sequence[Atom], expr: tree.Call, scope: Scope, hint: str, name: str | None) -> Atom:
        """A read of a memory with a structure: the block with these states for its params."""
        assert memory.structure is not None
        query = self._one(expr, scope, hint)
        seen = [self._seen_from(a, memory.axes, scope, expr.span) for a in atoms]
        before, self.filling = self.filling, _Filling(iter(seen))
        try:
            return self._write(memory.structure, query, expr.span, scope, hint, name)
        finally:
            self.filling = before

    def _write(self, structure: Structure, query: Atom, span: Span, scope: Scope, hint: str, name: str | None) -> Atom:
        block = structure.block
        (given,) = (s for s in tree.inputs(block.body))
        home = self.home_of(block)
        inner = Scope(dict(structure.formals), home, scope.axes)
        type = self.declared.type(given.type, inner)
        if query != Ref("?"):
            self.b.emit("expect", (query,), span, hint=f"{hint}.key", type=type)
        else:
            self.declared.placed["?"] = type
        inner.names[given.names[0].id] = Stream(query, scope.axes, span)
        return self._body_of(block, inner, span, hint, name)

    # --- blocks in place ---------------------------------------------------------------------------

    @property
    def in_place(self) -> bool:
        """Whether a structure is being written out."""
        return self.filling is not None

    def in_its_place(self, expr: tree.Call, block: tree.Block, scope: Scope) -> bool:
        """Whether the use of a block is its equations: in structures and rules, and where it is a map whose parameters are known."""
        if self.in_place or scope.find_learner() is not None:
            return True
        return is_map(block, self.home_of(block), self.maps) and to_give(block) <= {a.name for a in expr.args}

    def written_out(self, expr: tree.Call, block: tree.Block, scope: Scope, hint: str, name: str | None) -> Any:
        """The equations of a block in place of its use; in a rule its parameters may be numbers of the rule."""
        inputs = [tree.Formal(n.id, None, n.span) for s in tree.inputs(block.body) for n in s.names]
        home, learner = self.home_of(block), scope.find_learner()
        given = {a.name for a in expr.args}
        mentioned = block.formals if self.in_place or learner is not None else [f for f in block.formals if f in needed(block) or f.name in given]
        inner = Scope(self.arguments(expr, block.name, (*inputs, *mentioned), scope, home), home, scope.axes)
        if self.filling is None:
            inner.learner = learner
            self._expected(block, inner, expr.span, hint)
            return self._body_of(block, inner, expr.span, hint, name)
        self.filling.path = (*self.filling.path, block.name)
        try:
            return self._body_of(block, inner, expr.span, hint, name)
        finally:
            self.filling.path = self.filling.path[:-1]

    def _expected(self, block: tree.Block, inner: Scope, span: Span, hint: str) -> None:
        """The arguments of a map have the types it declares, where their sizes are known."""
        known = {f.name for f in block.formals} & inner.names.keys()
        for stmt in tree.inputs(block.body):
            if {n.id for n in walk(stmt.type) if isinstance(n, tree.Name)} <= known:
                type = self.declared.type(stmt.type, inner)
                for n in stmt.names:
                    atom = self._value(n if isinstance(n, tree.Name) else tree.Name(n.id, n.span), inner)
                    self.b.emit("expect", (atom,), span, hint=f"{hint}.{n.id}", type=type)

    def _body_of(self, block: tree.Block, inner: Scope, span: Span, hint: str, name: str | None) -> Any:
        outs = [s for s in block.body if isinstance(s, tree.Out)]
        rest = [s for s in block.body if not isinstance(s, (tree.In, tree.Out))]
        if block.name in self.blocks:
            raise self.b.fail("NL118", f"the block `{block.name}` contains itself", span, Label(block.span, "it is written out in itself"),
                              expected="another block")  # fmt: skip
        if len(self.blocks) + 1 >= MAX_DEPTH:
            raise self.b.fail("NL118", f"the block `{block.name}` is nested deeper than {MAX_DEPTH}", span,
                              expected=f"blocks nested at most {MAX_DEPTH} deep")  # fmt: skip
        if self.filling is not None:
            if len(outs) != 1:
                raise self.b.fail("NL121", f"`{block.name}` has {len(outs)} outputs", span, *(Label(o.span, "one too many") for o in outs[1:]),
                                  expected="a structure: one output, what is read")  # fmt: skip
            held = next((s for s in walk((*rest, *outs)) if isinstance(s, (tree.Memory, tree.Each, tree.In, tree.Last)) or looks_back(s)), None)
            if held is not None:
                raise self.b.fail("NL121", f"`{block.name}` cannot be the structure of a memory", span, Label(held.span, "this has a past or copies"),
                                  expected=TIMELESS)  # fmt: skip
        else:
            held = next((s for s in walk(tuple(rest)) if isinstance(s, (tree.Memory, tree.Param))), None)
            if held is not None or len(outs) != 1:
                raise self.b.fail("NL117", "a block in a rule is a map with one output, without params and memories", span,
                                  *([Label(held.span, "this is kept from tick to tick")] if held is not None else []),
                                  expected="equations and chains")  # fmt: skip
        self.b.unroll(8, span)
        self.blocks.append(block.name)
        try:
            self.body(rest, inner)
            out = outs[0]
            return self.atom(out.expr if out.expr is not None else tree.Name(out.name.id, out.name.span), inner, hint, name)
        finally:
            self.blocks.pop()

    def fill(self, stmt: tree.Param, name: tree.Declared, scope: Scope) -> Atom:
        """What stands for a param of the block that is being written out."""
        assert self.filling is not None
        if self.filling.atoms is not None:
            found = next(self.filling.atoms, None)
            if found is None:
                raise Skip  # the block was wrong when it was declared, and reported
            return found
        type = self.declared.type(stmt.type, scope)
        init, learned = self.declared.init(stmt.init, scope) if stmt.init is not None else (default_init(type), False)
        if learned:
            raise self.b.fail("NL303", "a param is learned already", (stmt.init or stmt).span, expected="an initial value", help="normal(0.02)")
        copy = scope.suffix if name.index is None else f".{constant(name.index, scope)}"
        spelled = ".".join((*self.filling.path, f"{name.id}{copy}"))
        taken, path, n = {leaf.path for leaf in self.filling.found}, spelled, 1
        while path in taken:
            n += 1
            path = f"{spelled}.{n}"
        if type.kind not in ("real", "map"):
            raise self.b.fail("NL121", f"the param `{name.id}` is not made of real numbers, so no step changes it", name.span,
                              expected="real, real[n] or A -> B", found=str(type))  # fmt: skip
        self.filling.found.append(Leaf(path, type, init))
        self.declared.placed[f"?{path}"] = type
        return Ref(f"?{path}", name.span)

    # --- reads that train the first value -------------------------------------------------------------

    def first_value(self, state: str) -> str:
        """The param that is the first value of a state."""
        if state not in self.firsts:
            self.firsts[state] = self.b.fresh(f"{state}.init")
        return self.firsts[state]

    def outside(self, memory: Remembered, atoms: Sequence[Atom], span: Span) -> tuple[Atom, ...]:
        """The states of a memory for those who read it; of `writes straight_through` with the gradient of its first value, s + (p - stop(p))."""
        clauses = memory.node.clauses if memory.node is not None else ()
        if not any(isinstance(c, tree.Writes) and c.how == "straight_through" for c in clauses):
            return tuple(atoms)
        return tuple(self._straight(state, atom, span) for state, atom in zip(memory.states, atoms, strict=True))

    def _straight(self, state: str, atom: Atom, span: Span) -> Atom:
        if state not in self.zeros:
            first = Ref(self.first_value(state), span)
            self.zeros[state] = self.b.emit("sub", (first, self.b.emit("stop", (first,), span, hint=f"{state}.init")), span, hint=f"{state}.init")
        read = self.b.emit("add", (atom, self.zeros[state]), span, hint=f"{state}.read")
        self.straight[read.name] = atom, self.zeros[state]
        return read

    def applied(self, operator: Atom, x: Atom, span: Span, name: str | None, hint: str) -> Atom:
        if not isinstance(operator, Ref) or operator.name not in self.straight:
            return self.b.emit("apply", (operator, x), span, name, hint)
        # Each by itself: the state stays what a form knows how to read.
        state, zero = (self.b.emit("apply", (part, x), span, hint=hint) for part in self.straight[operator.name])
        return self.b.emit("add", (state, zero), span, name, hint)

    # --- reads at the start of a window --------------------------------------------------------------

    def window(self, expr: tree.Expr, scope: Scope, what: str = "a window") -> int:
        """The ticks of a window or period."""
        value = constant(expr, scope)
        ticks = self.b.sizes.whole(value) if isinstance(value, Dim) else None
        if ticks is None or ticks < 1:
            raise self.b.fail("NL301", f"{what} is a number of ticks", expr.span, expected="a whole number of ticks, at least 1",
                              found=f"`{expr.span.text}`")  # fmt: skip
        return ticks

    def at_start(self, memory: Remembered, ticks: int, span: Span) -> tuple[Atom, ...]:
        """The states of a memory when the current window of so many ticks began."""
        for state in memory.states:
            self.windows.setdefault(state, {})[ticks] = None
        return tuple(Last(f"{state}.start{ticks}", span) for state in memory.states)

    def start_of(self, expr: tree.Start, scope: Scope) -> tuple[Remembered, tuple[Atom, ...]]:
        if isinstance(expr.operand, tree.Name) and expr.operand.id == "w" and scope.find_learner() is not None and not scope.defines("w"):
            raise self.b.fail("NL109", "`start` looks at a memory by its name, and `w` is whichever a rule trains", expr.span,
                              expected="a memory of the rule", help="last w")  # fmt: skip
        name, found = self.binding(expr.operand, scope)
        memory = found.memory if isinstance(found, Variable) else found
        if not isinstance(memory, Remembered) or memory.pairs is not None:
            raise self.b.fail("NL109", f"`start` looks at a memory, and `{name}` is not one", expr.span, expected="a memory")
        return memory, self.at_start(memory, self.window(expr.ticks, scope), expr.span)

    # --- supplied by the other halves of elaboration -------------------------------------------------

    def arguments(self, call: tree.Call, callee: str, formals: tuple[tree.Formal, ...], scope: Scope, home: Scope) -> dict[str, Binding]:
        raise NotImplementedError

    def home_of(self, rule: tree.Rule | tree.Block) -> Scope:
        raise NotImplementedError

    def body(self, stmts: Sequence[tree.Stmt], scope: Scope) -> None:
        raise NotImplementedError


def default_init(type: Type) -> Init:
    """The first value of a param without one."""
    return ("normal", ("^", type.domain, -0.5)) if type.kind == "map" else ("zeros",)


def ancestors(equations: Mapping[str, Equation], atom: Atom) -> set[str]:
    """The names a value is computed from within this tick, its own among them."""
    seen = {atom.name} if isinstance(atom, Ref) else set()
    stack = list(seen)
    while stack:
        e = equations.get(stack.pop())
        fresh = {a.name for a in e.args if isinstance(a, Ref)} - seen if e is not None else set()
        seen |= fresh
        stack += fresh
    return seen
