"""The type of every stream, in dependency order; blocks used inside are elaborated when their arguments are known.

Declared names (inputs, params, states) give types; every other name takes the type of its equation. A `last` of
a plain stream makes it a state that starts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from nldsl.check.cycles import components, likely, widen
from nldsl.check.reading import atoms
from nldsl.core import Atom, Equation, Input, Instance, Last, Num, Param, Ref, State, Type, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.vocabulary import WORDS, Mismatch, is_number, join_axes

Types = dict[str, Type]
# Finds or makes the unit of an instance: (instance, argument types) -> (key, output types), or what is wrong with its arguments.
Instantiate = Callable[[Instance, Mapping[str, Type]], tuple[str, Mapping[str, Type]] | list[Diagnostic]]


def infer_shapes(unit: Unit, instantiate: Instantiate) -> tuple[Unit, Types, list[Diagnostic]]:
    """Type a unit.

    Returns:
        The unit with its instances resolved, filters typed and implied states added; the type of every name whose
        definition is right; what is wrong.
    """
    work = _Shapes(unit, instantiate)
    for names in components(work.reads):
        work.settle(names)
    for state in unit.states:
        work.check_state(state)
    for equation in unit.equations:
        work.check_gradient(equation)
    return work.finish(), work.types, work.diagnostics


class _Shapes:
    def __init__(self, unit: Unit, instantiate: Instantiate):
        self.unit, self.instantiate = unit, instantiate
        self.types: Types = {}
        self.diagnostics: list[Diagnostic] = []
        self.failed: set[str] = set()
        self.equations = {e.name: e for e in unit.equations}
        self.instances = {f"{i.name}.{o}": i for i in unit.instances for o in i.outputs}
        self.resolved: dict[str, str] = {}
        self.narrowed: Types = {}  # what is a `real[1]`: updates of `real` states, and where gradients of such are taken
        self.states = {s.name: s for s in unit.states}
        given: tuple[Input | Param | State, ...] = (*unit.inputs, *unit.params, *unit.states)
        for declared in given:
            if declared.type.kind != "filter":
                self.types[declared.name] = declared.type
        self.reads = {name: [n for n in self._reads(name) if n not in self.types] for name in (*self.equations, *self.instances)}

    def settle(self, names: list[str]) -> None:
        """Type names that read one another; what else they read is typed, or has failed."""
        first = names[0]
        if first not in self.reads:
            self.failed.add(first)  # its declaration was wrong, and reported
        elif len(names) == 1 and first not in self.reads[first]:
            self._define(first)
        else:
            self._settle_cycle(names)

    def _settle_cycle(self, names: list[str]) -> None:
        """What the names of a cycle are assumed to be is compared with what their definitions give."""
        reads, reported = {name: self.reads[name] for name in names}, len(self.diagnostics)
        widen(self.types, reads, self.instances.keys() & reads.keys(), lambda name: self._guess(name, reads.keys()))
        assumed = {name: self.types[name] for name in names if name in self.types}
        for name in names:
            self._define(name)
        # What failed outside the cycle, or knowing all that it reads, has been reported.
        around = self.failed & {n for name in names for n in (name, *reads[name])}
        if len(self.diagnostics) == reported and not any(n not in reads or all(r in self.types for r in reads[n]) for n in around):
            wrong = [name for name in names if assumed.get(name) != self.types.get(name)] or [n for n in names if n not in assumed]
            if wrong:
                self._cycle([*wrong, *names])
                self.failed.update(wrong)
        for name in self.failed & reads.keys():
            self.types.pop(name, None)

    def _guess(self, name: str, cycle: Collection[str]) -> Type | None:
        """The type of a name on a cycle, from what is assumed of the others: where that does not fit, from what does not hang on it."""
        if name in self.instances:
            found = self._instantiated(self.instances[name])
            return found[1].get(name.removeprefix(f"{self.instances[name].name}.")) if isinstance(found, tuple) else None
        equation = self.equations[name]
        if equation.op in ("conv", "grad", "expect"):
            reported = len(self.diagnostics)
            result = self._typed(equation, self.types)
            del self.diagnostics[reported:]
            return replace(equation.attr("type"), axes=()) if result is None and equation.op == "expect" else result
        assumed = [None if isinstance(a, Num) else self.types.get(a.name) for a in equation.args]
        certain = [None if isinstance(a, Num) or a.name in cycle else t for a, t in zip(equation.args, assumed, strict=True)]
        word, attrs = WORDS[equation.op], dict(equation.attrs)
        return likely(word, assumed, attrs) or likely(word, certain, attrs)

    def _reads(self, name: str) -> list[str]:
        if name in self.equations:
            equation = self.equations[name]
            # A gradient has the type of its memory, so an implicit step need not know its own result's.
            known = equation.op == "grad" and equation.attr("memory") in self.states
            names = [a.name for a in equation.args if not (isinstance(a, Num) or known)]
            names += [a.name for a in list(atoms(equation))[len(equation.args) :] if not isinstance(a, Num)]
            if equation.op == "conv":
                names = names[:1]
            return names
        return [a.name for _, a in self.instances[name].args if not isinstance(a, Num)]

    def _cycle(self, names: list[str]) -> None:
        """No type for the first names on a cycle. The one to declare is one that `last` reads, or else one that the author wrote."""
        past = {a.name for n in names if n in self.equations for a in atoms(self.equations[n]) if isinstance(a, Last)}
        name = min(names, key=lambda n: (n not in past, "." in n))
        span, own = (self.equations.get(name) or self.instances[name]).span, name.split(".")[0]
        self.diagnostics.append(
            Diagnostic("NL204", f"the shape of `{own}` depends on itself", (Label(span),),
                       expected="a memory with a declared type on every cycle",
                       help=f"memory {own} : {self._vector()} = zeros {{ update ... }}"))  # fmt: skip

    def _vector(self) -> str:
        """A type of this unit as one writes it: that of a vector like its inputs."""
        given = [t.shape[-1] for t in (i.type for i in self.unit.inputs) if t.kind == "real" and t.shape]
        given += [p.type.codomain for p in self.unit.params if p.type.kind == "map"]
        return f"real[{given[0]}]" if given else "real"

    # --- definitions -----------------------------------------------------------------------------

    def _define(self, name: str) -> None:
        if name in self.instances:
            if name not in self.failed and self.instances[name].name not in self.resolved:
                self._define_instance(self.instances[name])
            return
        equation = self.equations[name]
        result = self._typed(equation, self.types)
        if result is None:
            self.failed.add(name)
        elif name not in self.states:
            self.types[name] = result
        elif self.states[name].type == Type("real", (), result.axes) and is_number(result) and result.shape:
            self.narrowed[name] = result
        else:
            self._fits_state(equation, self.states[name], result)

    def _typed(self, equation: Equation, types: Mapping[str, Type]) -> Type | None:
        """The type of an equation, or None when an argument has none or the rule refused (and was reported)."""
        if equation.op == "conv":
            return self._convolution(equation, types)
        if equation.op == "grad" and (state := self.states.get(equation.attr("memory"))) is not None:
            return self._gradient(equation, state.type, types)
        args = [Type("real") if isinstance(a, Num) else types.get(a.name) for a in equation.args]
        if any(a is None for a in args):
            return None
        known = [a for a in args if a is not None]
        if equation.op == "grad":
            return self._gradient(equation, known[0], types)
        if equation.op == "expect":
            wanted = equation.attr("type")
            if (known[0].kind, known[0].shape) != (wanted.kind, wanted.shape):
                self._report("NL202", "this does not have the declared shape", equation, 0, str(replace(wanted, axes=())), str(replace(known[0], axes=())))
                return None
            return known[0]
        try:
            return WORDS[equation.op].rule(known, dict(equation.attrs))
        except Mismatch as wrong:
            self._report("NL202", wrong.message, equation, wrong.index, wrong.expected, wrong.found)
            return None

    def _convolution(self, equation: Equation, types: Mapping[str, Type]) -> Type | None:
        source, filter = equation.args
        assert isinstance(filter, Ref) and not isinstance(source, Num)
        stream = types.get(source.name)
        if stream is None:
            return None
        ticks = next(p.type.shape[0] for p in self.unit.params if p.name == filter.name)
        if stream.kind != "real" or len(stream.shape) != 1:
            self._report("NL202", "a convolution over time takes a vector", equation, 0, "real[n]", str(stream))
            return None
        self.types[filter.name] = Type("real", (stream.shape[0], ticks), stream.axes)
        return stream

    def _gradient(self, equation: Equation, at: Type, types: Mapping[str, Type]) -> Type | None:
        """The gradient of a scalar objective has the type of the state it is taken at."""
        objective = equation.attr("objective")
        inner: dict[str, Type] = {**types, objective.self: at}
        for part in objective.equations:
            found = self._typed(part, inner)
            if found is None:
                return None
            inner[part.name] = found
        result = objective.result
        if not isinstance(result, Ref) or result.name not in inner:
            return at  # an objective that does not mention its memory has been reported
        if not is_number(inner[result.name]):
            self.diagnostics.append(
                Diagnostic("NL407", "an objective is one number a tick", (Label(objective.span),), expected="real",
                           found=str(replace(inner[result.name], axes=())), help=f"0.5 * sqnorm({objective.span.text})"))  # fmt: skip
            return None
        for part in objective.equations:
            self.types[part.name] = inner[part.name]
        self.types[objective.self] = at
        return replace(at, axes=join_axes([at, inner[result.name]]))

    def _define_instance(self, instance: Instance) -> None:
        found = self._instantiated(instance)
        if isinstance(found, tuple):
            self.resolved[instance.name] = found[0]
            self.types |= {f"{instance.name}.{o}": t for o, t in found[1].items() if o in instance.outputs}
            self.failed.update(f"{instance.name}.{o}" for o in instance.outputs if o not in found[1])
        else:
            self.diagnostics += found
            self.failed.update(f"{instance.name}.{o}" for o in instance.outputs)

    def _instantiated(self, instance: Instance) -> tuple[str, Mapping[str, Type]] | list[Diagnostic]:
        """Its unit and the types of its outputs; or what is wrong, nothing where an argument has no type."""
        types = {name: Type("real") if isinstance(a, Num) else self.types.get(a.name) for name, a in instance.args}
        known = {name: t for name, t in types.items() if name is not None and t is not None}
        return self.instantiate(instance, known) if len(known) == len(types) else []

    def _fits_state(self, equation: Equation, state: State, result: Type) -> None:
        declared = state.type
        wrong_shape = (declared.kind, declared.shape) != (result.kind, result.shape) and not (
            result.is_scalar and isinstance(equation.args[0] if equation.args else None, Num)
        )
        if wrong_shape or len(result.axes) > len(declared.axes):
            self.diagnostics.append(
                Diagnostic("NL203", f"the update of `{state.name}` does not have its type",
                           (Label(equation.span), Label(state.span, f"`{state.name}` is {declared}")),
                           expected=str(declared), found=str(result)))  # fmt: skip

    def check_state(self, state: State) -> None:
        """A learned or computed initial value fits; `eye` needs a square operator."""
        if state.init == ("eye",) and (state.type.kind != "map" or state.type.shape[0] != state.type.shape[1]):
            self.diagnostics.append(
                Diagnostic("NL303", "the identity is a square operator", (Label(state.span),), expected="d -> d",
                           found=str(state.type)))  # fmt: skip

    def check_gradient(self, equation: Equation) -> None:
        """`grad(at = E)`: E has the type of the memory; for a number, a `real[1]` is one too."""
        state = self.states.get(equation.attr("memory")) if equation.op == "grad" else None
        at = equation.args[0] if state is not None else None
        found = self.types.get(at.name) if isinstance(at, (Ref, Last)) else Type("real")
        if state is None or found is None:
            return
        if state.type.is_scalar and is_number(found) and found.shape:
            self.narrowed[equation.name] = found
        elif (found.kind, found.shape) != (state.type.kind, state.type.shape):
            self._report("NL202", "a gradient is taken at a state of its memory", equation, 0,
                         str(replace(state.type, axes=())), str(replace(found, axes=())))  # fmt: skip

    def _report(self, code: str, message: str, equation: Equation, index: int, expected: str, found: str) -> None:
        arg: Atom | None = equation.args[index] if index < len(equation.args) else None
        span = arg.span if arg is not None and arg.span.source is equation.span.source else equation.span
        labels = [Label(span, f"this is {found}")]
        if isinstance(arg, (Ref, Last)) and arg.name in self.equations:
            defined = self.equations[arg.name].span
            if (defined.start, defined.end) != (span.start, span.end) and defined.source is span.source:
                labels.append(Label(defined, "computed here"))
        elif isinstance(arg, (Ref, Last)):
            given: tuple[Input | Param | State, ...] = (*self.unit.params, *self.unit.inputs, *self.unit.states)
            declared = next((d for d in given if d.name == arg.name), None)
            if declared is not None:
                labels.append(Label(declared.span, f"`{declared.name}` is declared here"))
        if not (span.start <= equation.span.start and equation.span.end <= span.end):
            labels.append(Label(equation.span, "in this expression"))
        self.diagnostics.append(Diagnostic(code, message, tuple(labels), expected=expected, found=found))

    # --- the completed unit ------------------------------------------------------------------------

    def _arguments(self) -> Iterator[tuple[Atom, ...]]:
        """Of every equation, in objectives too, of every instance, and the outputs."""
        for equation in self.unit.equations:
            yield equation.args
            if (objective := equation.attr("objective")) is not None:
                yield from (part.args for part in objective.equations)
        for instance in self.unit.instances:
            yield tuple(atom for _, atom in instance.args)
        yield tuple(atom for _, atom in self.unit.outputs)

    def _narrow(self, equation: Equation) -> tuple[Equation, ...]:
        """A `real` memory becomes, and has a gradient at, the one entry of a `real[1]`."""
        if equation.name not in self.narrowed:
            return (equation,)
        if equation.op == "grad":
            at, *others = equation.args
            name = self._fresh(f"{equation.name}.at", replace(self.narrowed[equation.name], shape=()))
            return Equation(name, "sum", (at,), equation.span), replace(equation, args=(Ref(name, equation.span), *others))
        wide = self._fresh(f"{equation.name}.wide", self.narrowed[equation.name])
        return replace(equation, name=wide), Equation(equation.name, "sum", (Ref(wide, equation.span),), equation.span)

    def _fresh(self, hint: str, of: Type) -> str:
        """A name of its own, of this type."""
        name, number = hint, 0
        while name in self.types or name in self.equations:
            number += 1
            name = f"{hint}.{number}"
        self.types[name] = of
        return name

    def finish(self) -> Unit:
        def typed(param: Param) -> Param:
            return replace(param, type=self.types.get(param.name, param.type))

        implied: dict[str, State] = {}
        for args in self._arguments():
            for arg in args:
                if isinstance(arg, Last) and arg.name not in self.states and arg.name in self.types:
                    implied[arg.name] = State(arg.name, self.types[arg.name], ("zeros",), arg.span)
        return replace(
            self.unit,
            params=tuple(map(typed, self.unit.params)),
            states=(*self.unit.states, *implied.values()),
            equations=tuple(part for e in self.unit.equations if e.op != "expect" for part in self._narrow(e)),
            instances=tuple(replace(i, unit=self.resolved.get(i.name)) for i in self.unit.instances),
        )
