"""The type of every stream, in dependency order; blocks used inside are elaborated when their arguments are known.

Declared names (inputs, params, states) give types; every other name takes the type of its equation. A `last` of
a plain stream makes it a state that starts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from nldsl.check.reading import atoms
from nldsl.core import Atom, Equation, Input, Instance, Last, Num, Param, Ref, State, Type, Unit
from nldsl.diagnostics import Diagnostic, Label
from nldsl.vocabulary import WORDS, Mismatch, is_number, join_axes

Types = dict[str, Type]
# Finds or makes the unit of an instance: (instance, argument types) -> (key, output types), or None after reporting.
Instantiate = Callable[[Instance, Mapping[str, Type]], tuple[str, Mapping[str, Type]] | None]


def infer_shapes(unit: Unit, instantiate: Instantiate) -> tuple[Unit, Types, list[Diagnostic]]:
    """Type a unit.

    Returns:
        The unit with its instances resolved, filters typed and implied states added; the type of every name whose
        definition is right; what is wrong.
    """
    wider: Types = {}
    while True:
        work = _Shapes(unit, instantiate, dict(wider))
        for name in list(work.equations):
            work.settle(name)
        for instance in unit.instances:
            work.settle(f"{instance.name}.{instance.outputs[0]}" if instance.outputs else instance.name)
        if work.wider == wider:
            break
        wider = work.wider
    for state in unit.states:
        work.check_state(state)
    for equation in unit.equations:
        work.check_gradient(equation)
    return work.finish(), work.types, work.diagnostics


class _Shapes:
    def __init__(self, unit: Unit, instantiate: Instantiate, wider: Types):
        self.unit, self.instantiate = unit, instantiate
        self.wider = wider  # names on a cycle that stand in more copies than what they were assumed to be like
        self.types: Types = {}
        self.diagnostics: list[Diagnostic] = []
        self.failed: set[str] = set()
        self.equations = {e.name: e for e in unit.equations}
        self.instances = {f"{i.name}.{o}": i for i in unit.instances for o in i.outputs}
        self.resolved: dict[str, str] = {}
        self.assumed: Types = {}  # of names on a cycle through `last`
        self.narrowed: Types = {}  # what is a `real[1]`: updates of `real` states, and where gradients of such are taken
        self.states = {s.name: s for s in unit.states}
        given: tuple[Input | Param | State, ...] = (*unit.inputs, *unit.params, *unit.states)
        for declared in given:
            if declared.type.kind != "filter":
                self.types[declared.name] = declared.type

    def settle(self, wanted: str) -> None:
        """Type one name, and first what its definition reads. An explicit stack: chains can be long."""
        stack, open_names = [wanted], set()
        while stack:
            name = stack[-1]
            if name in self.failed or (name in self.types and name not in self.equations) or name in self._done:
                stack.pop()
                continue
            waiting = [n for n in self._reads(name) if not self._known(n)]
            cyclic = [n for n in waiting if n in open_names]
            if cyclic and self._assume([n for n in stack[stack.index(cyclic[0]) :] if n in open_names] + [name]):
                continue
            if cyclic:
                self._cycle(name, cyclic[0])
                stack.pop()
                continue
            if waiting:
                open_names.add(name)
                stack.extend(waiting)
                continue
            stack.pop()
            if name not in self.failed:
                self._define(name)

    @property
    def _done(self) -> set[str]:
        return self.__dict__.setdefault("_done_names", set())

    def _known(self, name: str) -> bool:
        return name in self.types or name in self.failed

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
        if name in self.instances:
            return [a.name for _, a in self.instances[name].args if not isinstance(a, Num)]
        self.failed.add(name)  # its declaration was wrong, and reported
        return []

    def _assume(self, path: list[str]) -> bool:
        """Type a cycle of reads, each name of `path` reading the next and the last one the first: a sum or product on
        it has the shape of its other operand. What is assumed is compared with what comes out."""
        names = list(dict.fromkeys(path))
        for at, name in reversed(list(enumerate(names))):
            equation = self.equations.get(name)
            if equation is None or equation.op not in ("add", "sub", "mul", "div") or name in self.assumed:
                continue
            for arg in equation.args:
                if isinstance(arg, Num) or arg.name in names or self._reaches(arg.name, set(names)):
                    continue
                if arg.name not in self.types:
                    self.settle(arg.name)
                found = self.types.get(arg.name)
                if found is None or found.kind != "real":
                    continue
                self.assumed[name] = self.types[name] = self.wider.get(name, found)
                for reader in reversed(names[:at]):
                    open_names = {n for n in names if n not in self.types}
                    for beside in [n for n in self._reads(reader) if not self._known(n) and not self._reaches(n, open_names)]:
                        self.settle(beside)
                    if reader in self.instances:
                        self._define_instance(self.instances[reader])
                    result = self._typed(self.equations[reader], self.types) if reader in self.equations else self.types.get(reader)
                    if result is None:
                        break
                    self.assumed[reader] = self.types[reader] = result
                if names[0] in self.types:
                    return True
                for guess in [n for n in names if n in self.assumed]:
                    self.types.pop(guess, None)
        return False

    def _reaches(self, start: str, goals: set[str]) -> bool:
        seen, stack = {start}, [start]
        while stack:
            name = stack.pop()
            fresh = [] if self._known(name) else [n for n in self._reads(name) if n not in seen]
            if goals & set(fresh):
                return True
            seen.update(fresh)
            stack += fresh
        return False

    def _cycle(self, name: str, through: str) -> None:
        span = self.equations[name].span if name in self.equations else self.unit.span
        self.failed.add(name)
        self.diagnostics.append(
            Diagnostic("NL204", f"the shape of `{name.split('.')[0]}` depends on itself", (Label(span),),
                       expected="a memory with a declared type on every cycle",
                       help=f"memory {through.split('.')[0]} : real[n] = zeros {{ update ... }}"))  # fmt: skip

    # --- definitions -----------------------------------------------------------------------------

    def _define(self, name: str) -> None:
        if name in self.instances:
            self._define_instance(self.instances[name])
            return
        equation = self.equations[name]
        self._done.add(name)
        result = self._typed(equation, self.types)
        if result is None:
            self.failed.add(name)
        elif name not in self.states:
            assumed = self.assumed.get(name, result)
            if assumed.shape == result.shape and {*assumed.axes} < {*result.axes}:
                self.wider[name] = result
            elif assumed != result:
                self.failed.add(name)
                self.diagnostics.append(
                    Diagnostic("NL204", f"the shape of `{name.split('.')[0]}` depends on itself", (Label(equation.span),), expected=str(assumed),
                               found=str(result), help="a memory has a declared type"))  # fmt: skip
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
            self.types.setdefault(part.name, inner[part.name])
        self.types.setdefault(objective.self, at)
        return replace(at, axes=join_axes([at, inner[result.name]]))

    def _define_instance(self, instance: Instance) -> None:
        types = {name: Type("real") if isinstance(a, Num) else self.types.get(a.name) for name, a in instance.args}
        outputs = [f"{instance.name}.{o}" for o in instance.outputs]
        if any(t is None for t in types.values()):
            self.failed.update(outputs)
            return
        found = self.instantiate(instance, {n: t for n, t in types.items() if n is not None and t is not None})
        if found is None:
            self.failed.update(outputs)
            return
        self.resolved[instance.name] = found[0]
        for output in instance.outputs:
            if output in found[1]:
                self.types[f"{instance.name}.{output}"] = found[1][output]
            else:
                self.failed.add(f"{instance.name}.{output}")

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
