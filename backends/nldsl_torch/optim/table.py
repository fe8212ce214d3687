"""Buckets of parameters that make the same step, and the tables of pointers their passes run over.

Parameters of a bucket have one rule, variant, dtype, device, step count and value of every number state: its prologue runs once.
A table holds while nothing changed that it was made from; `Table.holds` looks at identities and pointers only.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.optim.accelerator import BlockMap, TritonLaunch, capturing, triton_pass, usable
from nldsl_torch.optim.groups import dimensions, route, seen
from nldsl_torch.optim.native import STORAGE, Kernel, kernel
from nldsl_torch.optim.perform import (
    ACCUMULATE,
    Room,
    aligned,
    dense,
    first_value,
    numbers_in,
    perform,
    plain,
    scatter,
    sharded,
    whole,
)
from nldsl_torch.optim.probe import GRADIENT, Held, Places, changed, same, same_rows, same_state, take_rows, values_of
from nldsl_torch.optim.program import Program, Segment, Tick, Variant

COMPLEX = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}
SPARSE = "{} does not support sparse gradients: give the layer `sparse=False`, or the gradient `.to_dense()`"
Provider = Callable[[], tuple[Tensor, Tensor]]


class Dial:
    """A number that all parameters of a bucket have: their 0-d tensors are views into one arena."""

    def __init__(self, owners: Sequence[dict[str, Any]], name: str, value: float, dtype: torch.dtype, device: torch.device | None) -> None:
        self.value: Any = value
        first = owners[0][name]
        base = first._base
        tiles = base is not None and base.dtype == dtype and base.shape == (len(owners),) and base.device == (device or torch.device("cpu"))
        if tiles and all(o[name]._base is base and o[name].storage_offset() == i for i, o in enumerate(owners)):
            self.arena = base
        else:
            self.arena = torch.full((len(owners),), value, dtype=dtype, device=device)
            for owner, view in zip(owners, self.arena.unbind()):
                owner[name] = view
        self.version = self.arena._version

    def advance(self) -> None:
        """Count one step, also where the count of a captured step is on an accelerator."""
        self.value += 1.0
        self.arena.add_(1.0)
        self.version = self.arena._version

    def set(self, value: Any) -> None:
        """Give all of them a value: a float, or a 0-d tensor where the arena is on an accelerator."""
        self.value = value
        self.arena.fill_(value)
        self.version = self.arena._version


class Row:
    """One parameter of a bucket."""

    __slots__ = ("names", "parameter", "state")

    def __init__(self, parameter: Tensor, state: dict[str, Any], names: Sequence[str]) -> None:
        self.parameter, self.state, self.names = parameter, state, names

    def arrays(self, source: str) -> dict[str, Tensor]:
        """All arrays of the step; `source` names the one that the rule reads as `g`."""
        g: Any = self.parameter.grad if source == "g" else self.state[source]
        return {"w": self.parameter, "g": g, **{name: self.state[name] for name in self.names}}


def as_given(x: Tensor, delta: Tensor, g: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """The pairs in the measure of the gradient g that a step is given, [e, d]: unscaled, clipped, averaged, turned round, as that is.

    Where g is no multiple of what the pairs give, as with a penalty on the weight in the loss, `delta` is turned by `sign` alone.
    """
    wide = torch.promote_types(delta.dtype, torch.float32)
    made, g = delta.to(wide) @ x.mT.to(wide), g.to(wide)
    size = made.square().sum()
    factor = (g * made).sum() / torch.where(size > 0, size, 1.0)
    multiple = (size > 0) & ((g - factor * made).square().sum() <= 1e-4 * g.square().sum())
    return x, delta * torch.where(multiple, factor, sign).to(delta.dtype)


class Bucket:
    """Parameters that make the same step."""

    def __init__(self, kind: Kind, native: bool, contiguous: bool, rows: list[Row]) -> None:
        self.program, self.variant, self.group, self.rows = kind.program, kind.variant, kind.group, rows
        group, variant = kind.group, kind.variant
        self.like, self.names = kind.like, kind.arrays
        self.native, self.contiguous = native, contiguous  # native: in the table; contiguous: and so are the gradients
        self.parameters = [r.parameter for r in rows]
        self.chunks = [self.parameters[i : i + 64] for i in range(0, len(rows), 64)]
        self.owners = Held(self.parameters)
        self.gradients: Held | None = None  # where they stay from step to step
        p = self.parameters[0]
        self.dtype = p.real.dtype if p.is_complex() else p.dtype
        self.device = p.device if group["capturable"] and p.device.type != "cpu" else None
        owners = [r.state for r in rows]
        self.step = Dial(owners, "step", float(owners[0]["step"]), torch.float32, self.device)
        exact = torch.float32 if self.device else torch.float64
        numbers = [s.name for s in variant.states if s.kind == "number"]
        self.numbers = {name: Dial(owners, name, float(owners[0][name]), exact, self.device) for name in numbers}
        self.tick = Dial(owners, "tick", float(owners[0]["tick"]), torch.float64, None) if gathers(owners[0], group) else None
        self.dials = [self.step, *self.numbers.values(), *([self.tick] if self.tick else [])]
        self.launches: dict[tuple[Segment, str], Launch | TritonLaunch | None] = {}
        self.place = p.device
        self.blocks: BlockMap | None = None  # of an accelerator
        if native:
            unit = 2 if p.is_complex() else 1
            self.ends = array("q", [0])
            for q in self.parameters:
                self.ends.append(self.ends[-1] + q.numel() * unit)
            self.places = [(q.data_ptr(), q.shape, q.stride()) for q in self.parameters]
            self.pointers = {"w": array("Q", map(Tensor.data_ptr, self.parameters)), "g": array("Q", bytes(8 * len(rows)))}

    def take(self, stay: bool) -> bool:
        """Whether this step's gradients fit the bucket; those that `stay` are held, so that the next look is shorter."""
        if stay and self.gradients is not None:
            if same_rows(self.owners, self.gradients, self.ends, self.pointers["w"], self.pointers["g"]):
                return True
        self.gradients = Held(list(map(GRADIENT, self.parameters))) if stay and self.contiguous else None
        if self.contiguous:
            return take_rows(self.owners, self.dtype, self.ends, self.pointers["w"], self.pointers["g"])
        if self.native and [(p.data_ptr(), p.shape, p.stride()) for p in self.parameters] != self.places:
            return False
        return all(p.grad is not None and p.grad.layout is torch.strided for p in self.parameters)

    def advance(self, threads: int, providers: Mapping[Tensor, Provider]) -> None:
        """One step of every parameter."""
        group, program = self.group, self.program
        sign = -1.0 if group["maximize"] else 1.0
        held = self._hold() if self.native and not self.contiguous else []
        source = "g"
        if self.tick is not None:
            source = "grad_sum"
            self._accumulate(threads)
            steps = self.tick.value + 1.0
            if steps < group["every"]:
                self.tick.set(steps)
                return
            self.tick.set(0.0)
            sign = sign / steps if group["over"] == "mean" else sign
        h = program.numbers(group)
        h.update({name: dial.value for name, dial in self.numbers.items()})
        self.step.advance()
        t = self.step.value
        tick = self.variant.ticks[program.mask(int(t), h)]
        if self.device is not None:  # all scalars of a captured step are tensors
            h.update({name: dial.arena[0] for name, dial in self.numbers.items()})
        scalars = tick.prologue(t if self.device is None else self.step.arena[0], h)
        for name, dial in self.numbers.items():
            if f"new {name}" in scalars:
                dial.set(scalars[f"new {name}"])
        launch = self.launch(tick.segment, source) if self.native and tick.segment is not None else None
        ran = launch is not None and tick.segment is not None and launch.run(self.ends, sign, [scalars[n] for n in tick.segment.scalars], threads)
        if not ran:
            self._each(tick, scalars, sign, source, threads, providers)
        del held
        if self.native:
            changed(self.chunks)
        if self.tick is not None:
            torch._foreach_zero_([r.state["grad_sum"] for r in self.rows])

    def _each(self, tick: Tick, scalars: dict[str, Any], sign: float, source: str, threads: int, providers: Mapping[Tensor, Provider]) -> None:
        compile = bool(self.group["fused"]) and self.parameters[0].device.type != "cpu"
        split, follow = self.group["split"], {"w", "g", *self.like}
        apart = tick.segment is not None and split == 1 and follow >= set(self.names)  # entry by entry, a part of a tensor is as good as the whole
        for row in self.rows:
            given = row.arrays(source)
            held = {name: whole(a) for name, a in given.items()} if not apart and sharded(row.parameter) else given
            arrays = {name: seen(a, split if name in follow else 1) for name, a in held.items()}
            if sign != 1.0:
                arrays["g"] = (arrays["g"].float() if self.dtype in (torch.half, torch.bfloat16) else arrays["g"]) * sign
            if self.program.needs:
                if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
                    raise RuntimeError(f"{self.program.name} reads the inputs of a layer, and each process has those of its own batch only: use one process")
                if row.parameter not in providers:
                    raise RuntimeError(f"{self.program.name} needs the inputs and output gradients of the layer of every parameter it trains")
                arrays.update(zip(("x", "delta"), as_given(*providers[row.parameter](), arrays["g"], sign)))
            perform(tick, arrays, scalars, native=self.native, threads=threads, compile=compile)
            if held is not given:
                scatter(held, given)

    def _accumulate(self, threads: int) -> None:
        launch = self.launch(ACCUMULATE, "g") if self.native else None
        if launch is not None and launch.run(self.ends, 1.0, (), threads):
            return
        for row in self.rows:
            row.state["grad_sum"].add_(row.parameter.grad)

    def _hold(self) -> list[Tensor]:
        """Pointers to gradients in the parameters' order of memory; what had to be copied for it is returned and has to be kept."""
        held = []
        for i, p in enumerate(self.parameters):
            g = p.grad
            assert g is not None
            if not (plain(g) and g.dtype == p.dtype and aligned(p, g)):
                g = torch.empty_like(p, requires_grad=False).copy_(g)
                held.append(g)
            self.pointers["g"][i] = g.data_ptr()
        return held

    def launch(self, segment: Segment, source: str) -> Launch | TritonLaunch | None:
        """The pass of all parameters; `source` is the array that the rule reads as `g`."""
        if (segment, source) not in self.launches:
            if capturing(self.place):  # a table is sent to the device before
                return None
            names = segment.reads + segment.writes
            self.launches[segment, source] = self._launch(segment, names, source) if all(map(self._entrywise, names)) else None
        return self.launches[segment, source]

    def _launch(self, segment: Segment, names: tuple[str, ...], source: str) -> Launch | TritonLaunch | None:
        dtypes = (self.dtype,) * len(names)
        if not usable(self.place):
            made = kernel(segment, dtypes)
            return None if made is None else Launch(made, [self._array(n, source) for n in names])
        found = triton_pass(segment, dtypes)
        if found is None:
            return None
        self.blocks = self.blocks or BlockMap(self.ends, self.place)
        moving = names.index("g") if source == "g" and "g" in names else None
        return TritonLaunch(found, [self._array(n, source) for n in names], moving, self.blocks)

    def _entrywise(self, name: str) -> bool:
        checked = name in ("w", "g", "grad_sum") or any(s.name == name and s.kind == "like" for s in self.variant.states)
        return checked or all(_follows(r.state[name], r.parameter) for r in self.rows)

    def _array(self, name: str, source: str) -> array[int]:
        name = source if name == "g" else name
        if name not in self.pointers:
            self.pointers[name] = array("Q", [r.state[name].data_ptr() for r in self.rows])
        return self.pointers[name]


class Launch:
    """A kernel and the rows of its table, which stay where they are."""

    def __init__(self, made: Kernel, arrays: list[array[int]]) -> None:
        self.kernel, self.arrays = made, arrays
        self.rows = array("Q", [a.buffer_info()[0] for a in arrays])

    def run(self, ends: array[int], scale: float, scalars: Sequence[Any], threads: int) -> bool:
        """The pass over all tensors."""
        self.kernel.run(ends, self.rows, ends[-1], scale, numbers_in(scalars), threads)
        return True


class Table:
    """All buckets of an optimizer, as long as they are good.

    Gradients are held from one step to the next only once they have been seen to stay: holding those that `zero_grad` lets go
    would double their memory.
    """

    def __init__(self, programs: Mapping[str, Program], groups: list[dict[str, Any]], state: dict[Any, Any]) -> None:
        self.groups, self.state = list(groups), state
        self.options = [_options(programs, g) for g in groups]
        self.lists = [list(g["params"]) for g in groups]
        found: dict[Any, list[Row]] = {}
        made: dict[Any, tuple[Kind, bool, bool]] = {}
        self.idle: list[Tensor] = []  # without a gradient
        seen: set[int] = set()
        room = Room()
        for group, parameters in zip(groups, self.lists):
            kinds: dict[int, Kind] = {}
            for p in parameters:
                if id(p) in seen:  # listed twice, a parameter makes one step
                    continue
                seen.add(id(p))
                g = p.grad
                if g is None:
                    self.idle.append(p)
                    continue
                kind = kinds.get(p.dim()) or kinds.setdefault(p.dim(), Kind(programs, group, p))
                key, native, contiguous = kind.place(p, g, state[p], room)
                found.setdefault(key, []).append(Row(p, state[p], kind.arrays))
                made[key] = (kind, native, contiguous)
        self.buckets = [Bucket(*made[key], rows) for key, rows in found.items()]
        self.accelerated = any(b.parameters[0].device.type != "cpu" for b in self.buckets)
        self.owners, self.parts = Held(list(state)), Held(list(state.values()))
        self.values = Held(values_of(self.parts.objects))
        self.places = Places(self.values.objects)
        self.witness: Callable[[], Any] = _nothing
        if not self._take():
            raise RuntimeError("gradients changed while the optimizer made its step")

    def holds(self, programs: Mapping[str, Program], groups: list[dict[str, Any]], state: dict[Any, Any]) -> bool:
        """Whether the table is good for this step; gradients that are only new objects are taken in."""
        if state is not self.state or not same(groups, self.groups) or [_options(programs, g) for g in groups] != self.options:
            return False
        if not all(same(g["params"], kept) for g, kept in zip(groups, self.lists)):
            return False
        if any(d.arena._version != d.version for b in self.buckets for d in b.dials):
            return False
        return same_state(state, self.owners, self.parts, self.values) and self.places.hold() and self._take()

    def _take(self) -> bool:
        if any(p.grad is not None for p in self.idle):
            return False
        first = self.buckets[0].parameters[0].grad if self.buckets else None
        stay = first is not None and self.witness() is first
        self.witness = _nothing if first is None else weakref.ref(first)
        return all(b.take(stay) for b in self.buckets)

    def advance(self, threads: int, providers: Mapping[Tensor, Provider]) -> None:
        """One step of all buckets."""
        for bucket in self.buckets:
            bucket.advance(threads, providers)


def _nothing() -> None:
    return None


def _options(programs: Mapping[str, Program], group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a bucket was made from besides tensors."""
    switches = tuple(p.variant(group) for p in programs.values() if p.switches)
    return (group["rule"], group["maximize"], group["every"], group["over"], group["capturable"], group["fused"], group["split"], switches)


def ensure(
    state: dict[str, Any], variant: Variant, group: Mapping[str, Any], p: Tensor, h: Callable[[], Mapping[str, Any]], room: Room | None = None
) -> None:
    """Make the states that a parameter lacks, `step` first."""
    device = p.device if group["capturable"] and p.device.type != "cpu" else None
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
    for s in variant.states:
        if state.get(s.name) is None:
            state[s.name] = first_value(s, p, h(), device, group["split"], room)
    if group["every"] > 1 and "tick" not in state:
        state["tick"] = torch.zeros((), dtype=torch.float64)
        state["grad_sum"] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)


class Kind:
    """What the parameters of a group that one rule takes have in common."""

    def __init__(self, programs: Mapping[str, Program], group: dict[str, Any], p: Tensor) -> None:
        program = route(programs, group["rule"], dimensions(p, group))
        assert program is not None
        self.program, self.group = program, group
        self.variant = program.variants[program.variant(group)]
        self.arrays = [s.name for s in self.variant.states if s.kind != "number"]
        self.like = [s.name for s in self.variant.states if s.kind == "like"]
        self.numbers = [s.name for s in self.variant.states if s.kind == "number"]
        self.allowed = group["fused"] is not False

    def place(self, p: Tensor, g: Tensor, state: dict[str, Any], room: Room) -> tuple[Any, bool, bool]:
        """The bucket of a parameter, whether it is in the table, and whether its gradients are as they come."""
        if g.layout is not torch.strided:
            raise RuntimeError(SPARSE.format(self.program.name))
        ensure(state, self.variant, self.group, p, lambda: self.program.numbers(self.group), room)
        complex = p.is_complex()
        phase = float(state["tick"]) if "tick" in state else 0.0
        native = self.allowed and plain(p) and dense(p) and (COMPLEX.get(p.dtype, p.dtype) in STORAGE)
        native = native and all(_follows(state[name], p) for name in self.like)
        native = native and (not gathers(state, self.group) or _follows(state["grad_sum"], p))
        contiguous = native and not complex and p.is_contiguous() and type(g) is Tensor and g.dtype is p.dtype and plain(g) and aligned(p, g)
        numbers = [float(state[name]) for name in self.numbers]
        return (id(self), native, contiguous, p.dtype, p.device, float(state["step"]), phase, *numbers), native, contiguous


def gathers(state: Mapping[str, Any], group: Mapping[str, Any]) -> bool:
    """Whether a parameter's gradients are summed first, or a sum that was begun has to be used."""
    return group["every"] > 1 or ("tick" in state and float(state["tick"]) > 0)


def _follows(value: Tensor, p: Tensor) -> bool:
    """Whether a state can be in the table of its parameter."""
    return plain(value) and value.dtype == p.dtype and value.device == p.device and aligned(value, p)


def check_gradients(parameters: Iterable[Tensor], name: str) -> None:
    """Refuse what no rule is defined on."""
    if any(p.grad is not None and p.grad.layout is not torch.strided for p in parameters):
        raise RuntimeError(SPARSE.format(name))
