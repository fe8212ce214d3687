"""Streams over time, for generated code. Imports torch only: this text is embedded in generated files.

A stream is a tensor [B, T, ...]: batch, ticks, then the axes of every enclosing `each`, then the shape at one tick.
"""

from __future__ import annotations

import itertools
import json
import os

import torch
from torch import Tensor


def causal_conv(x: Tensor, weight: Tensor, past: Tensor, n: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """sum_j weight[.., j] x[t - j] per channel: x [B, T, .., d], weight [.., d, n], past [B, n - 1, .., d] -> the same and the new past.

    Without the terms before the `first`.
    """
    T = x.shape[1]
    x = torch.cat([past, x], 1)
    return _terms(x, weight, T, first, 1), x[:, T:]


def _terms(x: Tensor, weight: Tensor, n: int, first: int, dim: int) -> Tensor:
    """sum_j weight[.., j] x[t - j] at the last n ticks of x, which stand along `dim`; without the terms before the `first`."""
    P = weight.shape[-1] - 1
    y = x.narrow(dim, P - first, n) * weight[..., first]
    for j in range(first + 1, P + 1):
        y = y + x.narrow(dim, P - j, n) * weight[..., j]
    return y


def filtered(x: Tensor, weight: Tensor, n: int, first: int) -> Tensor:
    """The same at the last n ticks of x [.., P + n, d], weight [.., 1, d, P + 1], and in fewer operations where these are fewer than the terms."""
    P = weight.shape[-1] - 1
    if n <= P - first:
        weight = weight[..., first:].flip(-1).squeeze(-3).mT
        return torch.stack([(x.narrow(-2, t, P + 1 - first) * weight).sum(-2) for t in range(n)], -2)
    return _terms(x, weight, n, first, -2)


def delay(x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """x of n ticks before, for past [B, n, ..]: the n values before the first tick."""
    T = x.shape[1]
    x = torch.cat([past, x], 1)
    return x[:, :T], x[:, T:]


def ticks(x: Tensor, start: Tensor) -> Tensor:
    """The number of each tick of a stream, from 1, as [B, T]; `start` is how many there were before."""
    return (torch.arange(1, x.shape[1] + 1, device=x.device) + start).expand(x.shape[0], -1)


def to_memory(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """[(B, T,) axes.., rest..] -> [B, axes.., T, rest..] with lead = (B, T, axes..) expanded."""
    rest = x.shape[len(lead) :] if x.dim() >= len(lead) else x.shape[len(lead) - 2 :]
    return x.expand(*lead, *rest).movedim(1, len(lead) - 1)


def from_memory(x: Tensor, axes: int) -> Tensor:
    """[B, axes.., T, rest..] -> [B, T, axes.., rest..]."""
    return x.movedim(1 + axes, 1)


def expect(x: Tensor, name: str, shape: tuple[int, ...], dims: str, like: Tensor, lead: tuple[str, ...] = ("batch", "ticks")) -> None:
    """Refuse an input that is not a tensor [*lead, *shape] of the module's dtype."""
    if not isinstance(x, Tensor):
        raise ValueError(f"`{name}` is a {type(x).__name__}, expected a tensor")
    n = len(lead)
    if x.dim() != n + len(shape) or tuple(x.shape[n:]) != shape or 0 in x.shape[:n]:
        wanted = ", ".join([*lead, *map(str, shape)])
        raise ValueError(f"`{name}` is {list(x.shape)}, expected [{wanted}] ({dims}), with at least one sequence{' and tick' * (n - 1)}")
    whole = dims.startswith("int")
    if whole == (x.is_floating_point() or x.dtype == torch.bool) and not dims.startswith("bool"):
        raise ValueError(f"`{name}` is {x.dtype}, expected {'whole numbers' if whole else like.dtype} ({dims})")
    if x.is_floating_point() and x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"`{name}` is {x.dtype} and the module {like.dtype}: use x.to({like.dtype}) or module.to({x.dtype})")


def together(*inputs: Tensor, lead: int = 2) -> torch.Size:
    """Batch and, of two leading dimensions, ticks, which all inputs share."""
    sizes = {x.shape[:lead] for x in inputs}
    if len(sizes) != 1:
        raise ValueError(f"inputs differ in batch{' or ticks' * (lead - 1)}: {', '.join(str(list(x.shape[:lead])) for x in inputs)}")
    return inputs[0].shape[:lead]


def fitting(state: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of this module at this batch; `first` is its initial one. A store's pairs may be any number."""
    if state.keys() != first.keys():
        odd = sorted(state.keys() ^ first.keys())
        raise ValueError(f"this is not a state of this module: `{odd[0]}` is {'missing' if odd[0] in first else 'not known'}")
    for key, value in first.items():
        wanted, given = list(value.shape), list(state[key].shape)
        if len(wanted) != len(given) or any(w != g and w for w, g in zip(wanted, given)):
            raise ValueError(f"the state `{key}` is {given}, expected {wanted}: a state belongs to one module and one batch size")
        if state[key].dtype != value.dtype and not torch.is_autocast_enabled(value.device.type):
            raise ValueError(f"the state `{key}` is {state[key].dtype}, expected {value.dtype}: use state[{key!r}].to({value.dtype})")
    return state


def sequences(state: dict[str, Tensor]) -> int:
    """The batch size of a state."""
    return next((len(x) for x in state.values() if x.dim()), 1)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state that belong to one instance, without its prefix."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def whole(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The opposite of `part`."""
    return {prefix + k: v for k, v in state.items()}


def pretrained(folder: str, file: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a safetensors file, by its name or that without `.weight`, in the default dtype."""
    path = os.path.join(folder, file)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"this model starts from `{name}` of '{file}', which is not in '{folder}'")
    with open(path, "rb") as data:
        length = int.from_bytes(data.read(8), "little")
        held = json.loads(data.read(length))
        entry = held.get(name) or held.get(f"{name}.weight") or {"shape": None}
        if entry["shape"] != list(shape):
            raise ValueError(f"`{name}` of '{file}' is {entry['shape'] or 'not there'}, expected {list(shape)}")
        start, end = entry["data_offsets"]
        data.seek(8 + length + start)
        kind = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[entry["dtype"]]
        return torch.frombuffer(bytearray(data.read(end - start)), dtype=kind).view(shape).to(torch.get_default_dtype(), copy=True)


class _Scan(torch.autograd.Function):
    """s[t] = a[t] * s[t - 1] + u[t] by doubling: factors are multiplied, never divided or exponentiated."""

    @staticmethod
    def forward(ctx, a: Tensor, u: Tensor, s0: Tensor) -> Tensor:
        s = _doubling(a, torch.cat([(u[:, :1] + a[:, :1] * s0[:, None]), u[:, 1:]], 1))
        ctx.save_for_backward(a, s, s0)
        return s

    @staticmethod
    def backward(ctx, ds: Tensor):
        return linear_scan_back(ds, None, *ctx.saved_tensors)


def _doubling(a: Tensor, s: Tensor) -> Tensor:
    step, T = 1, s.shape[1]
    while step < T:
        s = torch.cat([s[:, :step], s[:, step:] + a[:, step:] * s[:, :-step]], 1)
        a = torch.cat([a[:, :step], a[:, step:] * a[:, :-step]], 1)
        step *= 2
    return s


def linear_scan(factor: Tensor | float, u: Tensor | float, s0: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """States after and before each tick of s' = factor * s + u: streams broadcast to [B, T, ..], s0 [B, ..]."""
    shape = (s0.shape[0], T, *s0.shape[1:])
    a, u = (torch.as_tensor(x, dtype=s0.dtype, device=s0.device).expand(shape) for x in (factor, u))
    s = _Scan.apply(a, u, s0)
    return s, torch.cat([s0[:, None], s[:, :-1]], 1)


def linear_scan_back(d: Tensor | None, d_before: Tensor | None, factor: Tensor | float, s: Tensor, s0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of (factor, u, s0), not summed over what they were broadcast along, of s, before = linear_scan(factor, u, s0, T)."""
    a = torch.as_tensor(factor, dtype=s.dtype, device=s.device).expand(s.shape)
    d = torch.zeros_like(s) if d is None else d
    if d_before is not None:
        d = d + torch.cat([d_before[:, 1:], torch.zeros_like(s[:, :1])], 1)
    after = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
    du = _doubling(after.flip(1), d.flip(1)).flip(1)
    before, start = torch.cat([s0[:, None], s[:, :-1]], 1), du[:, 0] * a[:, 0]
    return du * before, du, start if d_before is None else start + d_before[:, 0]


def loop(tick, streams, fixed, states, T: int, first=(), start: Tensor | None = None):
    """Tick after tick: streams [B, T, ..] -> (outputs [B, T, ..], states). `start` counts the ticks before, for clocks."""
    columns = [x.unbind(1) for x in streams]
    outs = []
    before = int(start) if start is not None else 0
    for t in range(T):
        clock = [before + t] if start is not None else []
        out, states = tick(*(c[t] for c in columns), *fixed, *clock, *states, *first)
        outs.append(out)
    return tuple(torch.stack(o, 1) for o in zip(*outs)), states


def _pieces(x: Tensor, sizes: list[int], dim: int) -> tuple[Tensor, ...]:
    """The pieces of a stream along its ticks, each in memory of its own: a run of equal ones is one copy."""
    pieces, at = [], 0
    for n, run in itertools.groupby(sizes):
        count = len(list(run))
        pieces += x.narrow(dim, at, count * n).unflatten(dim, (count, n)).movedim(dim, 0).contiguous().unbind(0)
        at += count * n
    return tuple(pieces)


class _Cut(torch.autograd.Function):
    """`_pieces`, for gradients too."""

    @staticmethod
    def forward(ctx, x: Tensor, sizes: list[int], dim: int):
        ctx.dim = dim
        return _pieces(x, sizes, dim)

    @staticmethod
    def backward(ctx, *ds: Tensor):
        return _Join.apply(ctx.dim, *ds), None, None


class _Join(torch.autograd.Function):
    """The opposite of `_Cut`."""

    @staticmethod
    def forward(ctx, dim: int, *pieces: Tensor) -> Tensor:
        ctx.dim, ctx.sizes = dim, [x.shape[dim] for x in pieces]
        return torch.cat(pieces, dim)

    @staticmethod
    def backward(ctx, d: Tensor):
        return None, *_Cut.apply(d, ctx.sizes, ctx.dim)


def windows(
    run, streams, dims, fixed, states, T: int, ticks: int, phase: int, start: Tensor, first=(), taken=None, ahead=None, given=(), late=None, again=None
):
    """Window after window of `ticks` ticks; windows end after ticks phase, phase + ticks, ... counted from the first of all.

    A stream has its ticks along its entry of `dims[0]`, an output along that of `dims[1]`. Calls `run(tick, n, *streams, *fixed,
    *states, *first, *values) -> (*outputs, *states)` for the n ticks of one window, or of its part in this call, with the first
    `taken` streams (all by default); `tick` counts those before, and the values are `ahead(*streams, n)` of the streams `given`.

    `late` is a tuple (function, streams, fixed values, states), the streams and states by number: `function(n, *streams, *fixed,
    *states) -> outputs` is what reads states after their step, so its windows begin one tick before theirs.

    `again(function, n)`, where it is given, makes the functions keep nothing of a window but what they are given.

    With states in half precision everything is raised to float32 here, once, and what comes out is rounded once.
    """
    dtype = next(s.dtype for s in states if s.is_floating_point())
    if dtype in (torch.half, torch.bfloat16):
        streams, fixed, states, first = (_in(torch.float32, xs) for xs in (streams, fixed, states, first))
        late = (*late[:2], _in(torch.float32, late[2]), late[3]) if late else None
        outs, states = windows(run, streams, dims, fixed, states, T, ticks, phase, start, first, taken, ahead, given, late, again)
        return tuple(_in(dtype, outs)), tuple(_in(dtype, states))
    before = int(start)
    sizes = [min(T, ticks - (before - phase) % ticks)]
    sizes += [ticks] * ((T - sizes[0]) // ticks)
    sizes += [rest] if (rest := T - sum(sizes)) else []
    cut = _Cut.apply if torch.is_grad_enabled() else _pieces
    parts = [cut(x, sizes, dim) for x, dim in zip(streams[:taken], dims[0])]
    fn, taken, held, read = late or (None, (), (), ())
    feeds = [(streams[i], dims[0][i]) for i in given]
    values: list[tuple[Tensor, ...]] = [()] * len(sizes)
    if again is not None:
        values = list(zip(*(x.split(sizes, dim) for x, dim in feeds))) or values
        run, fn = again(_with_ahead(run, ahead, len(given)), 2), fn and again(fn, 1)
    elif ahead is not None:
        values = _ahead(ahead, [x for x, _ in feeds], [dim for _, dim in feeds], sizes, ticks)
    shifted = [sizes[0] - 1, *sizes[1:], 1] if (before + T - phase) % ticks == 0 else [*sizes[:-1], sizes[-1] + 1]
    shifted[0] -= len(shifted) == len(sizes)
    moved = [cut(streams[i], shifted, dims[0][i]) for i in taken]
    outs, lates = [], []
    for w in range(len(shifted)):
        if fn is not None and shifted[w] > 0:
            lates.append(fn(shifted[w], *(part[w] for part in moved), *held, *(states[i] for i in read)))
        if w < len(sizes):
            out = run(before, sizes[w], *(part[w] for part in parts), *fixed, *states, *first, *values[w])
            outs.append(out[: len(out) - len(states)])
            states = out[len(out) - len(states) :]
            before += sizes[w]
    return tuple(_Join.apply(dim, *o) if torch.is_grad_enabled() else torch.cat(o, dim) for o, dim in zip((*zip(*outs), *zip(*lates)), dims[1])), states


def _with_ahead(run, ahead, n: int):
    """`run` with the last n of its arguments replaced by what `ahead` makes of them."""
    return run if ahead is None else lambda tick, ticks, *args: run(tick, ticks, *args[: len(args) - n], *ahead(*args[len(args) - n :], ticks))


def _in(dtype: torch.dtype, xs) -> list[Tensor]:
    return [x.to(dtype) if x.is_floating_point() else x for x in xs]


def _ahead(ahead, streams, dims, sizes: list[int], ticks: int) -> list[tuple[Tensor, ...]]:
    """The values of each window: those of whole windows at once, as a batch."""
    B = streams[0].shape[0]
    first = sizes.index(ticks) if ticks in sizes else 0
    whole = sizes.count(ticks)
    values: list[tuple[Tensor, ...]] = []
    at = 0
    for w, n in enumerate(sizes):
        if n == ticks and w > first:
            at += n
            continue
        N = whole if n == ticks else 1
        pieces = [x.narrow(d, at, N * n).unflatten(d, (N, n)).movedim(d, 0).flatten(0, 1) for x, d in zip(streams, dims)]
        values += zip(*(v.unflatten(0, (N, B)).unbind(0) for v in ahead(*pieces, n)))
        at += n
    return values


def beside(parts, dim: int) -> Tensor:
    """Matrices side by side; their leading dimensions broadcast."""
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in parts))
    return torch.cat([x.expand(*lead, *x.shape[-2:]) for x in parts], dim)


def spread(x: Tensor, lead: tuple[int, ...], rank: int) -> Tensor:
    """A tensor with all leading dimensions before its last `rank`; those of size 1, or not there, extended."""
    return x.expand(*lead, *x.shape[x.dim() - rank :])


def remember(past: Tensor, x: Tensor, window: int | None) -> Tensor:
    """The keys or values [.., P, d] that later ticks will look at."""
    return latest(torch.cat([past, x], -2), window)


def latest(x: Tensor, window: int | None) -> Tensor:
    """Of the keys or values of all ticks those that later ticks will look at."""
    return x if window is None else x[..., max(0, x.shape[-2] - (window - 1)) :, :]
