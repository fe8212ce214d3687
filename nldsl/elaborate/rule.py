"""A rule on a tensor as a unit: the gradient is an input, a step is a tick, the numbers come in with each step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nldsl import tree
from nldsl.core import Hyper, Input, Last, Ref, State, Type, Unit
from nldsl.diagnostics import Diagnostic
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Skip, TooLarge
from nldsl.elaborate.constants import as_float, constant
from nldsl.elaborate.delays import break_cycles
from nldsl.elaborate.scope import Binding, Constant, Learner, Scope, Sizes, Stream
from nldsl.elaborate.unit import Statements
from nldsl.source import Span
from nldsl.walk import range_names, walk

SAMPLES = "samples"  # the number of columns of `x` and `delta`
Parts = tuple[Unit, tuple[Hyper, ...], dict[str, "str | int"], dict[str, int], list[Diagnostic]]


def elaborate_rule(rule: tree.Rule, top: Scope, given: Mapping[str, int], sizes: Mapping[str, int]) -> Parts:
    """One rule on a tensor.

    Args:
        rule: the tree.
        top: the names of its file and of the library.
        given: values of parameters that fix the structure, and of periods.
        sizes: those of the tensor by name (`n` where the rule names none); the others are symbols.

    Returns:
        The unit, its numbers, the periods of slow states, the values of the structure, and what was wrong.
    """
    work = _Rule(rule, top, given, sizes)
    with suppress(Skip, TooLarge):
        work.run()
    b = work.statements.b
    unit = Unit(
        f"{rule.name}()", rule.name, (), tuple(b.inputs), tuple(b.params), tuple(b.states), tuple(b.equations), tuple(b.memories), (),
        (("w", Ref("w", rule.span)),), rule.span,
    )  # fmt: skip
    return unit, tuple(work.hypers), work.periods(b.states), work.structure, b.diagnostics


class _Rule:
    def __init__(self, rule: tree.Rule, top: Scope, given: Mapping[str, int], known: Mapping[str, int]):
        self.rule, self.top, self.given, self.known = rule, top, given, known
        self.sizes: dict[str, int] = {}
        self.statements = Statements(Builder(Sizes(self.sizes)), top)
        self.hypers: list[Hyper] = []
        self.structure: dict[str, int] = {}
        # The memories whose period is a name; a name that is no parameter of the rule is a constant of the file.
        own = {f.name for f in rule.formals}
        self.clocks = {f"w.{m.name.id}": m.every.id for m in _memories(rule.body) if isinstance(m.every, tree.Name) and m.every.id in own}

    def run(self) -> None:
        rule, b = self.rule, self.statements.b
        for name in ("w", "g"):
            b.fresh(name)
        type = self._type()
        if rule.word is not None and (rule.word != "stacked" or type.kind != "map"):
            raise b.fail("NL430", f"`{rule.word}` says nothing about what `{rule.name}` learns on", rule.span, expected="on d -> e stacked")
        b.states.append(State("w", type, ("zeros",), rule.span))
        b.inputs.append(Input("g", type, rule.span))
        names: dict[str, Binding] = {}
        fixed = _fixed(rule.body) | self._fixed_by_blocks() | set(self.clocks.values())
        for formal in rule.formals:
            names |= self._formal(formal, formal.name in fixed)
        if rule.on is not None:
            names |= self.statements.accepted(rule.name, rule.on, rule.otherwise, type, rule.span)
        names |= self._layer(type, names)
        b.numbers_given = frozenset(i for h in self.hypers for i in h.inputs)
        scope = Scope(names, self.top)
        scope.learner = Learner(Last("w", rule.span), Ref("w", rule.span), "w", None, ())
        scope.learner.gradients[Last("w")] = Ref("g", rule.span)
        self.statements.rules.append(rule)
        self.statements.rule_body(rule, scope, "w", "w", tree.Call(tree.Name(rule.name, rule.span), (), rule.span))
        self.statements.anchors()
        break_cycles(b)

    def _type(self) -> Type:
        """What `w` is, with symbols for sizes."""
        match self.rule.on:
            case None:
                return Type("real", (self._size("n"),))
            case tree.MapType(tree.Name(domain), tree.Name(codomain)) if domain != codomain:
                return Type("map", (self._size(codomain), self._size(domain)))
            case tree.RealType((tree.Name(size),)):
                return Type("real", (self._size(size),))
        assert self.rule.on is not None
        raise self.statements.b.fail("NL430", "a rule learns on operators or on vectors", self.rule.on.span,
                                     expected="on d -> e, or on real[n], with a name for each size")  # fmt: skip

    def _fixed_by_blocks(self) -> set[str]:
        """The names given to parameters of blocks that fix equations."""
        found: set[str] = set()
        for call in walk(self.rule.body):
            if isinstance(call, tree.Call) and isinstance(call.fn, tree.Name):
                block = self.top.find(call.fn.id)
                if isinstance(block, Constant) and isinstance(block.value, tree.Block):
                    given = tuple(a.value for a in call.args if a.name in _fixed(block.value.body))
                    found |= {n.id for n in walk(given) if isinstance(n, tree.Name)}
        return found

    def _size(self, name: str) -> Dim:
        if name in self.known:
            return Dim.of(self.known[name])
        self.sizes[name] = 2
        return Dim.symbol(name)

    def _formal(self, formal: tree.Formal, fixed: bool) -> dict[str, Binding]:
        b = self.statements.b
        if formal.name in ("w", "g"):
            raise b.fail("NL102", f"`{formal.name}` is {'what learns' if formal.name == 'w' else 'the gradient'} in a rule", formal.span,
                         expected="another name")  # fmt: skip
        value = constant(formal.default, self.top) if formal.default is not None else None
        if formal.default is not None and value is None:
            raise b.fail("NL431", f"the default of `{formal.name}` is not a number", formal.default.span,
                         expected="a number, or a list of numbers")  # fmt: skip
        if fixed:
            whole = self.given.get(formal.name, value.integer if isinstance(value, Dim) else None)
            if whole is None:
                raise b.fail("NL431", f"`{formal.name}` fixes what is compiled, so it needs a default", formal.span,
                             expected=f"{formal.name} = a whole number")  # fmt: skip
            if formal.name in self.clocks.values():
                self.hypers.append(Hyper(formal.name, float(whole), (), formal.span))
                # Where it is not given, any period above one will do: the number itself comes with each step.
                return {formal.name: Constant(Dim.of(whole if formal.name in self.given else max(whole, 2)), formal.span)}
            self.structure[formal.name] = whole
            return {formal.name: Constant(Dim.of(whole), formal.span)}
        if isinstance(value, (list, tuple)):
            numbers = [as_float(v) for v in value]
            if any(n is None for n in numbers):
                raise b.fail("NL431", f"the default of `{formal.name}` is not a list of numbers", formal.span, expected="[0.9, 0.999]")
            inputs = [self._input(f"{formal.name}.{n}", formal.span) for n in range(len(numbers))]
            self.hypers.append(Hyper(formal.name, tuple(n for n in numbers if n is not None), tuple(i.atom.name for i in inputs), formal.span))
            return {f"{formal.name}[{n}]": i for n, i in enumerate(inputs)}
        number = as_float(value)
        if value is not None and number is None:
            raise b.fail("NL431", f"the default of `{formal.name}` is not a number", formal.span, expected="a number, or a list of numbers")
        bound = self._input(formal.name, formal.span)
        self.hypers.append(Hyper(formal.name, number, (bound.atom.name,), formal.span))
        return {formal.name: bound}

    def _input(self, name: str, span: Span) -> Any:
        core = self.statements.b.fresh(name)
        self.statements.b.inputs.append(Input(core, Type("real"), span))
        return Stream(Ref(core, span), (), span)

    def _layer(self, type: Type, bound: Mapping[str, Binding]) -> dict[str, Binding]:
        """`x` and `delta`, where the rule reads them and means nothing else by them."""
        own = set(bound) | {s.name.id for s in self.rule.body if isinstance(s, (tree.Equation, tree.Memory))} | {
            s.name for s in self.rule.body if isinstance(s, tree.Chain)}  # fmt: skip
        read = {n.id for n in walk(self.rule.body) if isinstance(n, tree.Name)} - own
        found: dict[str, Binding] = {}
        for name, size in (("x", 1), ("delta", 0)):
            if name in read and type.kind == "map":
                shape = (type.shape[size], self._size(SAMPLES))
                self.statements.b.inputs.append(Input(self.statements.b.fresh(name), Type("map", shape), self.rule.span))
                found[name] = Stream(Ref(name, self.rule.span), (), self.rule.span)
        return found

    def periods(self, states: list[State]) -> dict[str, str | int]:
        """The period of each slow state: the number of the rule it is named by, or the number it is."""
        return {s.name: self.clocks.get(s.name, s.every) for s in states if s.every > 1}


def _memories(body: tuple[tree.Stmt, ...]) -> list[tree.Memory]:
    return [s for s in body if isinstance(s, tree.Memory)]


def _fixed(body: tuple[tree.Stmt, ...]) -> set[str]:
    """The names in ranges, in the sizes of types and in offsets: what they stand for fixes the equations."""
    types = tuple(n for n in walk(body) if isinstance(n, (tree.RealType, tree.MapType)))
    offsets = tuple(m.offset for m in _memories(body))
    return range_names(body) | {n.id for n in walk((types, offsets)) if isinstance(n, tree.Name)}
