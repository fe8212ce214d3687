"""Units as machines: a tick computes every equation once, then every state is what its stream became."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import replace

import torch
from torch import Tensor

from nldsl.core import Atom, Equation, Instance, Last, Num, Objective, Ref, State, Type, Unit, refs
from nldsl.names import identifier
from nldsl.pretrained import check, folder
from nldsl.vocabulary import KEEPING
from nldsl.wide import ENTRYWISE, of_the_tick
from nldsl_interpreter.operations import (
    Rounded,
    angles,
    arguments,
    attend_pull,
    compute,
    exact,
    gather,
    is_rounded,
    rounded,
    turn,
    ungather,
)
from nldsl_interpreter.order import components, fixed_point, reads
from nldsl_interpreter.values import initial_value, sizes

Tensors = dict[str, Tensor]
Scope = MutableMapping[str, Tensor]
Types = Mapping[str, Type]
FINISHED = ":finished"  # the number of ticks when the stream last ended


class Interpreter:
    """Runs a unit and the units of its instances."""

    def __init__(self, units: Mapping[str, Unit], types: Mapping[str, Types], key: str):
        self.top = _Machine(units, types, key, "")

    def parameters(self, dtype: torch.dtype = torch.float64, generator: torch.Generator | None = None) -> Tensors:
        """Initial params by their names in a torch `state_dict`; each is [*axes, *shape].

        Raises:
            NlError: a pre-trained file, or a tensor of it, is not what it should be.
        """
        check(self.top.units())
        return self.top.parameters(dtype, generator)

    def run(self, params: Tensors, inputs: Tensors, state: Tensors | None = None) -> tuple[Tensors, Tensors]:
        """Run over sequences, each input [B, T, *shape]; go on from the state an earlier call returned, or afresh.

        Returns:
            The outputs, each [B, T, *shape], and the state after the last tick.
        """
        state = state or {":tick": torch.zeros((), dtype=torch.int64)}
        batch, ticks = next(iter(inputs.values())).shape[:2]
        given = [*params.values(), *inputs.values(), *state.values()]
        dtype = next((x.dtype for x in given if x.is_floating_point()), torch.get_default_dtype())
        outputs: list[Tensors] = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(x.requires_grad for x in given)):
            for t in range(ticks):
                tick = _Tick(self.top, params, state, batch, dtype)
                outputs.append(tick.run({name: x[:, t] for name, x in inputs.items()}))
                state = {**tick.after, ":tick": state[":tick"] + 1}
        if not outputs:
            return {n: torch.zeros(batch, 0, *sizes(t), dtype=dtype) for n, t in self.top.outputs().items()}, state
        return {name: torch.stack([o[name] for o in outputs], 1) for name in outputs[0]}, state

    def finish(self, params: Tensors, state: Tensors) -> Tensors:
        """The state after the end of the stream: periods that it cuts short are applied or dropped where a memory says `flush`."""
        held = next((x for name, x in state.items() if not name.startswith(":") and x.is_floating_point()), None)
        if held is None:
            return state
        after = _End(self.top, params, state, held.shape[0], held.dtype).end()
        return {**state, **after, FINISHED: state[":tick"]} if after else state


class _Machine:
    """A unit at its place in the tree of instances."""

    def __init__(self, units: Mapping[str, Unit], types: Mapping[str, Types], key: str, prefix: str):
        self.unit, self.types, self.prefix = units[key], types[key], prefix
        self.equations = {e.name: e for e in self.unit.equations}
        self.states = {s.name: s for s in self.unit.states}
        self.params = {p.name: prefix + identifier(p.name) for p in self.unit.params}
        self.instances = {i.name: i for i in self.unit.instances}
        self.inner = {n: _Machine(units, types, i.unit or "", f"{prefix}{identifier(n)}.") for n, i in self.instances.items()}
        self.of_the_tick = of_the_tick(self.unit, self.types)
        self.orders: dict[frozenset[str], list[list[str]]] = {}

    def parameters(self, dtype: torch.dtype, generator: torch.Generator | None) -> Tensors:
        own = {self.params[p.name]: initial_value(p.init, p.type, dtype, generator, folder(self.unit)) for p in self.unit.params}
        for machine in self.inner.values():
            own |= machine.parameters(dtype, generator)
        return own

    def units(self) -> dict[str, Unit]:
        """This unit and those in it."""
        return {self.unit.key: self.unit} | {k: u for machine in self.inner.values() for k, u in machine.units().items()}

    def outputs(self) -> dict[str, Type]:
        return {name: Type("real") if isinstance(atom, Num) else self.types[atom.name] for name, atom in self.unit.outputs}

    def resting(self, t: int) -> frozenset[str]:
        """The states whose clock does not tick."""
        return frozenset(s.name for s in self.unit.states if (t + 1 - s.offset) % s.every)

    def order(self, resting: frozenset[str]) -> list[list[str]]:
        """Equations and instances, each after what it reads; those that wait for each other stand together."""
        if resting not in self.orders:
            makers = {f"{i.name}.{o}": i.name for i in self.unit.instances for o in i.outputs}
            graph = {e.name: reads(e) for e in self.unit.equations if e.name not in resting}
            graph |= {i.name: set(refs(tuple(a for _, a in i.args))) for i in self.unit.instances}
            self.orders[resting] = components({n: {makers.get(r, r) for r in read} for n, read in graph.items()})
        return self.orders[resting]

    def cyclic(self, names: list[str]) -> bool:
        return len(names) > 1 or (names[0] in self.equations and names[0] in reads(self.equations[names[0]]))


class _Tick:
    """One tick of one machine. `before` are its states by core name, `after` what goes into the flat state."""

    def __init__(self, machine: _Machine, params: Tensors, state: Tensors, batch: int, dtype: torch.dtype):
        self.m, self.params, self.state, self.batch, self.dtype = machine, params, state, batch, dtype
        self.t = int(state[":tick"])
        self.low: set[str] = set()  # what `bfloat16` has rounded; all values have the dtype of the module
        self.after: Tensors = {}
        self.before = {s.name: self._before(s) for s in machine.unit.states}

    def run(self, inputs: Tensors) -> Tensors:
        m, resting = self.m, self.m.resting(self.t)
        scope: Scope = inputs | {name: self.before[name] for name in resting}
        for names in m.order(resting):
            if m.cyclic(names):
                self._solve(names, scope)
            elif names[0] in m.instances:
                self._instance(m.instances[names[0]], scope)
            else:
                scope[names[0]] = self.equation(m.equations[names[0]], scope)
        for name, state in m.states.items():
            self.after[m.prefix + name] = self._held(self._copies(scope[name], state.type))
        return {name: self._held(self._copies(*self.atom(atom, scope))) for name, atom in m.unit.outputs}

    def atom(self, atom: Atom, scope: Mapping[str, Tensor], wide: bool = False) -> tuple[Tensor, Type]:
        """A value; with `wide`, in which numbers are float64, for what only the tick decides."""
        if isinstance(atom, Num):
            return initial_value(atom.value, Type("real"), torch.float64 if wide else self.dtype)[None], Type("real")
        if isinstance(atom, Last):
            return self.before[atom.name], self.m.types[atom.name]
        if atom.name in self.m.params:
            return self._param(atom.name), self.m.types[atom.name]
        value = scope[atom.name]
        return value.to(self.dtype) if atom.name in self.m.of_the_tick and not wide else value, self.m.types[atom.name]

    def _param(self, name: str) -> Tensor:
        return self.params[self.m.params[name]].unsqueeze(0)

    def _before(self, state: State) -> Tensor:
        key = self.m.prefix + state.name
        reset = bool(state.reset) and self.t % (state.reset or 1) == 0
        if reset and state.base is not None:
            start = self._before(self.m.states[state.base])
            return start.detach() if state.detached else start
        if key in self.state and not reset:
            return self.state[key]
        dtype = torch.int64 if state.type.kind == "int" else self.dtype
        first = initial_value(state.init, state.type, dtype)[None] if state.learned is None else self._param(state.learned)
        return self._copies(first.detach() if state.detached else first, state.type)

    def _copies(self, x: Tensor, type: Type) -> Tensor:
        return x.expand(self.batch, *sizes(type))

    def _held(self, x: Tensor) -> Tensor:
        """Memories and what passes into and out of a unit have its dtype, whatever `bfloat16` has rounded."""
        return x.to(self.dtype) if x.is_floating_point() else x

    # --- equations ---------------------------------------------------------------------------------

    def equation(self, e: Equation, scope: Mapping[str, Tensor]) -> Tensor:
        """A value; a rounded one has the slope of what is not rounded, at the rounded values it is computed from."""
        self.low.discard(e.name)
        if not is_rounded(e, self.low, self.m.types):
            return self._value(e, scope)
        if e.name not in self.m.states:
            self.low.add(e.name)
        with torch.no_grad():
            given = {a.name: scope[a.name].bfloat16() for a in e.args if isinstance(a, Ref) and a.name in self.low}
            low = self._value(e, ChainMap(given, scope), low=True).to(self.dtype)  # type: ignore[arg-type]
        return Rounded.apply(self._value(replace(e, op="copy") if e.op == "bfloat16" else e, scope), low) if torch.is_grad_enabled() else low

    def _value(self, e: Equation, scope: Mapping[str, Tensor], low: bool = False) -> Tensor:
        """A value as it is, or with `low`, of arguments that are rounded, rounded once."""
        wide = e.name in self.m.of_the_tick
        args, result = [self.atom(a, scope, wide) for a in e.args], self.m.types[e.name]
        if e.op in ENTRYWISE:  # a whole number in arithmetic
            args = [(x.to(torch.float64 if wide else self.dtype) if x.dtype == torch.int64 else x, t) for x, t in args]
        if e.op == "outer" and args[1][1].kind == "int":
            picked = Type("real", result.shape[1:], args[1][1].axes)
            args[1] = self._column(args[1][0], picked), picked
        if e.op == "gather":
            return gather(*args[0], e.attr("axis"))
        if e.op == "ungather":
            return ungather(*args[0], result, e.attr("axis"))
        if e.op == "sum_copies":
            return self._copies(*args[0]).sum(1 + args[0][1].axes.index(e.attr("axis")))
        if e.op == "angles":
            return angles(sizes(result)[0], self.t)[None].to(self.dtype)
        if e.op == "cast":
            return args[0][0].to(self.dtype)
        values = arguments(e.op, result, args)
        match e.op:
            case "column":
                return self._column(values[0], result)
            case "grad":
                return self._gradient(e.attr("objective"), self._copies(values[0], result), scope)
            case "count":
                offset = e.attr("offset", 0)  # where there is one, the first step is at that tick
                return torch.full((1,), (self.t + 1 - offset) // e.attr("every", 1) + (offset > 0), dtype=torch.float64)
            case "index":
                return torch.arange(sizes(result)[0], dtype=self.dtype)[None]
            case "rope" if low:
                return turn(values[0].float(), angles(sizes(result)[-1], self.t)).bfloat16()
            case "rope":
                return turn(values[0], angles(sizes(result)[-1], self.t))
            case "fold":
                return self._fold(e, self._copies(values[0], result))
            case "pool":
                x = self._copies(values[0], result)
                return (x.mean(0, keepdim=True) if e.attr("over") == "mean" else x.sum(0, keepdim=True)).expand_as(x)
            case "delay":
                return self._past(e, "past", values[0], e.attr("ticks") + 1, True)[:, 0]
            case "conv":
                values[0] = self._past(e, "past", values[0], e.attr("ticks"), True)
                if first := e.attr("first"):
                    values = [values[0][:, :-first], values[1][..., first:]]
            case "attend" | "attend_pull":
                values[1:3] = (self._past(e, n, x, e.attr("window"), False) for n, x in zip(("keys", "values"), values[1:3], strict=True))
        if low:
            return exact(e.op, result, args)
        reals = [x for x, _ in args if x.is_floating_point()]
        if e.op not in ("conv", "attend") and reals and all(x.dtype == torch.bfloat16 for x in reals):
            return rounded(e.op, result, args)
        if e.op == "attend_pull":
            return attend_pull(*values)[e.attr("side")]
        return compute(e.op, len(args[0][1].shape), values)

    def _column(self, index: Tensor, of: Type) -> Tensor:
        """1 at the index, 0 elsewhere."""
        return (index.unsqueeze(-1) == torch.arange(sizes(of)[-1])).to(self.dtype)

    def _gradient(self, objective: Objective, at: Tensor, scope: Mapping[str, Tensor]) -> Tensor:
        """The derivative of the objective at a fresh copy of the state, so that no other use of the state counts."""
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            fresh = at.clone() if at.requires_grad else at.clone().requires_grad_()
            inner: Scope = ChainMap({objective.self: fresh}, scope)  # type: ignore[arg-type]
            for part in objective.equations:
                if part.op == "fold" or (part.op in KEEPING and part.attr("of") is None):
                    raise ValueError(f"`{part.op}` of what an objective computes from its memory has no meaning: {part.span.text}")
                inner[part.name] = self.equation(part, inner)
            loss = self.atom(objective.result, inner)[0].sum()  # of all sequences and copies
            return torch.autograd.grad(loss, fresh, create_graph=outer, materialize_grads=True)[0]

    def _solve(self, names: list[str], scope: Scope) -> None:
        """Equations that wait for each other: the gradients among them are the unknowns."""
        m = self.m
        unknown = [m.equations[n] for n in names if n in m.equations and m.equations[n].op == "grad"]
        rest = components({n: reads(m.equations[n]) for n in names if n in m.equations and m.equations[n] not in unknown})
        if any(map(m.cyclic, rest)) or any(n in m.instances for n in names):
            raise ValueError("within a tick these depend on each other: " + ", ".join(sorted(names)))
        shapes = [torch.Size((self.batch, *sizes(m.types[e.name]))) for e in unknown]

        def assume(flat: Tensor, inner: Scope) -> None:
            for e, part, shape in zip(unknown, flat.split([s.numel() for s in shapes]), shapes, strict=True):
                inner[e.name] = part.reshape(shape)
            for (name,) in rest:
                inner[name] = self.equation(m.equations[name], inner)

        def gradients(flat: Tensor) -> Tensor:
            inner: Scope = ChainMap({}, scope)
            assume(flat, inner)
            return torch.cat([self.equation(e, inner).flatten() for e in unknown])

        solution = fixed_point(gradients, torch.zeros(sum(s.numel() for s in shapes), dtype=self.dtype))
        assume(solution if torch.is_grad_enabled() else solution.detach(), scope)

    def _instance(self, instance: Instance, scope: Scope) -> None:
        tick = _Tick(self.m.inner[instance.name], self.params, self.state, self.batch, self.dtype)
        outputs = tick.run({name: self._held(self.atom(a, scope)[0]) for name, a in instance.args if name is not None})
        scope.update({f"{instance.name}.{name}": value for name, value in outputs.items()})
        self.after |= tick.after

    # --- operations with a state ---------------------------------------------------------------------

    def _past(self, e: Equation, name: str, x: Tensor, ticks: int | None, filled: bool) -> Tensor:
        """The values of x at the last so many ticks, this one included, oldest first; `filled`: zero before the first.

        An equation `of` another sees what that one keeps, with an x of its own at this tick. Reads of a store keep the same.
        """
        copies = ",".join(str(a.id) for a in self.m.types[e.name].axes)
        key = f"{self.m.prefix}{e.attr('memory') or e.attr('of', e.name)}:{name}{copies}"
        x = self._held(x.expand(self.batch, *x.shape[1:])).unsqueeze(1)
        past = self.state.get(key, x.new_zeros(self.batch, ticks - 1 if filled and ticks else 0, *x.shape[2:]))
        now = torch.cat((past, x), 1)
        if e.attr("of") is None:
            self.after[key] = now[:, 1:] if now.shape[1] == ticks else now
        return now

    def _fold(self, e: Equation, x: Tensor) -> Tensor:
        key, state = f"{self.m.prefix}{e.name}:sum", self.m.states[e.attr("memory")]
        x = self._held(x)
        total = self.state[key] + x if key in self.state else x
        self.after[key] = total if state.name in self.m.resting(self.t) else torch.zeros_like(total)
        return total / state.every if e.attr("over") == "mean" else total


class _End(_Tick):
    """The end of a stream: one more tick without an input, at which only clocks of memories with `flush apply` tick.

    Of these, only clocks in a period that is not complete. A folded gradient is what has been added up so far; a mean is of the
    whole period, as in a first one that an `offset` makes short. The number of the tick stays what it is.
    """

    def end(self) -> Tensors:
        m = self.m
        fresh = self.t != int(self.state.get(FINISHED, 0))  # something has come since the stream last ended
        due = {s.name for s in m.unit.states if s.flush == "apply" and fresh and (self.t - s.offset) % s.every}
        scope: Scope = {name: self.before[name] for name in m.states if name not in due}
        needed = self._needed(due)
        for names in m.order(frozenset(m.states) - due):
            if names[0] in needed:
                scope[names[0]] = self._held(self.equation(m.equations[names[0]], scope))
        for s in m.unit.states:
            if s.name in due:
                self.after[m.prefix + s.name] = self._copies(scope[s.name], s.type)
            elif s.begun is not None:
                self.after[m.prefix + s.name] = self.before[s.begun]
        for e in m.unit.equations:
            key = f"{m.prefix}{e.name}:sum"
            if e.op == "fold" and m.states[e.attr("memory")].flush != "carry" and key in self.state:
                self.after[key] = torch.zeros_like(self.state[key])
        for inner in m.inner.values():
            self.after |= _End(inner, self.params, self.state, self.batch, self.dtype).end()
        return self.after

    def _needed(self, due: set[str]) -> set[str]:
        """The equations that lead to what these states become."""
        found: set[str] = set()
        stack = sorted(due)
        while stack:
            e = self.m.equations.get(stack.pop())
            if e is not None and e.name not in found and (e.name in due or e.name not in self.m.states):
                found.add(e.name)
                stack += reads(e) if e.op != "fold" else ()
        return found

    def equation(self, e: Equation, scope: Mapping[str, Tensor]) -> Tensor:
        if e.op != "fold":
            return super().equation(e, scope)
        total = self.state[f"{self.m.prefix}{e.name}:sum"]
        return total / self.m.states[e.attr("memory")].every if e.attr("over") == "mean" else total

    def _before(self, state: State) -> Tensor:
        """What is held: a reset belongs to the next tick."""
        return self.state[self.m.prefix + state.name]
