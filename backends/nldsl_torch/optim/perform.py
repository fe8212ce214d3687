"""One step of a rule on one tensor: torch operations, with passes in C++ or Triton where the arrays allow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.optim.accelerator import triton_pass, usable
from nldsl_torch.optim.groups import seen
from nldsl_torch.optim.native import STORAGE, kernel
from nldsl_torch.optim.program import Segment, State, Tick

ORDINARY = (Tensor, torch.nn.Parameter)
LOW = (torch.float16, torch.bfloat16)
STREAMS = ("g", "x", "delta")  # arrays that a step reads and never writes

ACCUMULATE = Segment(
    "accumulate", ("grad_sum", "g"), ("grad_sum",), (), lambda total, g: (total + g,),
    kernel="const T new_grad_sum = grad_sum + g;", triton="new_grad_sum = grad_sum + g",
)  # fmt: skip


def dense(t: Tensor) -> bool:
    """Whether the entries fill one stretch of memory, each at a place of its own."""
    if t.is_contiguous():
        return True
    expected = 1
    for size, stride in sorted(zip(t.shape, t.stride()), key=lambda pair: pair[1]):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def aligned(a: Tensor, b: Tensor) -> bool:
    """Whether two arrays have their entries in the same order of memory; both are dense if one is."""
    if a.shape != b.shape:
        return False
    return (a.is_contiguous() and b.is_contiguous()) or all(s == r for n, s, r in zip(a.shape, a.stride(), b.stride()) if n != 1)


def plain(t: Tensor) -> bool:
    """An ordinary tensor whose bytes are its values, in memory that a pass can run over."""
    return type(t) in ORDINARY and (t.is_cpu or usable(t.device)) and t.layout is torch.strided and not (t.is_neg() or t.is_conj())


def sharded(t: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which each process has a part."""
    return hasattr(t, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; all processes ask for it together."""
    made: Tensor = tensor.full_tensor() if sharded(tensor) else tensor  # type: ignore[attr-defined]
    return made


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as `like` is; what has another shape stays whole."""
    from torch.distributed.tensor import distribute_tensor

    if not sharded(like) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def scatter(values: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> None:
    """Each process's part of the values that a step has left in whole tensors, which are the same in every process."""
    for name, a in arrays.items():
        if sharded(a) and name not in STREAMS:
            a.copy_(part_of(values[name], a))


class Room:
    """Memory for small arrays that are used together: one after the other, each a storage of its own."""

    LEAST, MOST, SMALL, LINE = 1 << 14, 1 << 20, 1 << 12, 64

    def __init__(self) -> None:
        self.buffer, self.used = bytearray(), 0

    def like(self, w: Tensor, value: float) -> Tensor | None:
        """An array like `w`, or None for one that is not small."""
        size = w.numel() * w.itemsize
        if not (0 < size <= self.SMALL and plain(w) and w.is_cpu and w.is_contiguous()):
            return None
        if self.used + size > len(self.buffer):
            self.buffer = bytearray(min(max(2 * len(self.buffer), self.LEAST), self.MOST))
            self.used = -torch.frombuffer(self.buffer, dtype=torch.uint8).data_ptr() % self.LINE
        made = torch.frombuffer(self.buffer, dtype=w.dtype, count=w.numel(), offset=self.used).resize_(w.shape)
        self.used += -(-size // self.LINE) * self.LINE
        return made.fill_(value)


def first_value(
    state: State, w: Tensor, h: Mapping[str, Any], device: torch.device | None, split: int = 1, room: Room | None = None
) -> Tensor:
    """A state before the first step; numbers live on `device`, or on the CPU in float64."""
    value = state.init(h) if callable(state.init) else 0.0
    if state.kind == "number":
        return torch.full((), float(value), dtype=torch.float32 if device else torch.float64, device=device)
    if state.kind == "shaped":
        assert state.shape is not None
        matrices = seen(torch.empty(w.shape, dtype=w.dtype, device="meta"), split).shape
        shape = (*matrices[:-2], *state.shape(tuple(matrices)))
        if state.init == "eye":
            return torch.eye(shape[-1], dtype=w.dtype, device=w.device).expand(shape).clone()
        return torch.full(shape, value, dtype=w.dtype, device=w.device)
    if room is not None and not w.is_complex() and (made := room.like(w, value)) is not None:
        return made
    return torch.full_like(w, complex(value, value) if w.is_complex() else value, memory_format=torch.preserve_format, requires_grad=False)


def numbers_in(values: Sequence[Any]) -> list[float]:
    """Scalars as floats; those of a tensor of the CPU are read."""
    return [float(v) for v in values]


@cache
def fused(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A segment's function as one kernel of an accelerator."""
    return torch.compile(function, dynamic=True)


class Runner:
    """What a tick's function calls for an entrywise pass: in place on `w` and the states where it runs natively."""

    def __init__(self, kept: Mapping[str, Tensor], native: bool, threads: int, compile: bool) -> None:
        self.kept, self.native, self.threads, self.compile = kept, native, threads, compile

    def __call__(self, segment: Segment, arrays: Sequence[Tensor], scalars: Sequence[Any]) -> tuple[Tensor, ...]:
        if self.native and not any(isinstance(c, Tensor) and c.numel() > 1 for c in scalars):
            first = arrays[0]
            outputs = [self.kept.get(name) for name in segment.writes]
            ready = all(plain(a) and a.dtype in STORAGE and aligned(a, first) for a in [*arrays, *(o for o in outputs if o is not None)])
            if ready and dense(first):
                dtype = max((a.dtype for a in arrays), key=lambda d: d.itemsize)
                dtypes = [torch.bfloat16 if name in segment.rounded else dtype for name in segment.writes]
                wanted = [torch.empty_like(first, dtype=d) if o is None else o for o, d in zip(outputs, dtypes)]
                if passed(segment, [*arrays, *wanted], scalars, self.threads):
                    return tuple(wanted)
        function = fused(segment.function) if self.compile else segment.function
        return function(*arrays, *scalars)


def passed(segment: Segment, tensors: Sequence[Tensor], scalars: Sequence[Any], threads: int) -> bool:
    """Whether a pass ran over these tensors."""
    dtypes, device = tuple(t.dtype for t in tensors), tensors[0].device
    if usable(device):
        found = triton_pass(segment, dtypes)
        return found is not None and all(t.device == device for t in tensors) and found.once(tensors, 1.0, scalars)
    made = kernel(segment, dtypes)
    if made is not None:
        made.once(tensors, 1.0, numbers_in(scalars), threads)
    return made is not None


def evaluate(tick: Tick, arrays: Mapping[str, Tensor], scalars: Mapping[str, Any], run: Runner) -> dict[str, Tensor]:
    """The arrays after the step, by name, those of `run.kept` possibly changed in place."""
    if tick.segment is None:
        assert tick.function is not None
        return tick.function(dict(arrays), dict(scalars), run)
    s = tick.segment
    function = fused(s.function) if run.compile else s.function
    return dict(zip(s.writes, function(*(arrays[n] for n in s.reads), *(scalars[n] for n in s.scalars))))


def perform(
    tick: Tick, arrays: Mapping[str, Tensor], scalars: Mapping[str, Any], *, native: bool = False, threads: int = 1, compile: bool = False
) -> None:
    """One step in place. `arrays` are real; half precision is raised to float32 for the whole step and rounded once."""
    work: dict[str, Tensor] = {name: a.float() if a.dtype in LOW else a for name, a in arrays.items()}
    kept = {name: a for name, a in work.items() if name not in STREAMS}
    new = evaluate(tick, work, scalars, Runner(kept, native, threads, compile))
    ordinary = all(type(a) in ORDINARY for a in arrays.values())  # subclasses hide their memory
    memory = {a.untyped_storage().data_ptr() for a in arrays.values()} if ordinary else set()
    pending = []
    for name, value in new.items():
        target = arrays[name]
        if value is target:
            continue
        # an array that shares memory with another target is read before any is written
        shares = len(new) > 1 and value is not work[name] and (not ordinary or value.untyped_storage().data_ptr() in memory)
        pending.append((target, value.clone() if shares else value))
    for target, value in pending:
        target.copy_(value)


def derived(tick: Tick, arrays: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[str, Tensor]:
    """One step out of place that keeps the graph: the new arrays in the dtypes of the old ones."""
    work = {name: a.float() if a.dtype in LOW else a for name, a in arrays.items()}
    new = evaluate(tick, work, scalars, Runner({}, False, 1, False))
    return {name: value.to(arrays[name].dtype) for name, value in new.items()}
