"""Functions of tensors that generated code defines: regions, functions with a reverse of their own, and such as run again for it.

Imports torch only: this text is embedded in generated files. With `compiled` on, `torch.compile` fuses regions and whole windows.
"""

from __future__ import annotations

import functools
import types

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx


@functools.cache
def side_by_side():
    """A pass of Inductor: products of one depth stand together, then what follows from them. What lies between two products is a file
    of C++ of its own, and each of those takes most of a second."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    aten = torch.ops.aten
    products = {f.default for f in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.linalg_solve_triangular)}

    class SideBySide(CustomGraphPass):
        def __call__(self, graph):
            depth: dict = {}
            for node in graph.nodes:
                depth[node] = max((depth[n] for n in node.all_input_nodes), default=0) + (node.target in products)
            inside = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
            (output,) = (n for n in graph.nodes if n.op == "output")
            for node in sorted(inside, key=lambda n: (depth[n], n.target not in products)):
                output.prepend(node)

        def uuid(self):
            return "nldsl side by side 1"

    return SideBySide()


class Fusible:
    """A function that may be compiled; `compiled` is of an object, or of all."""

    compiled = False
    backend = "inductor"

    @property
    def fuses(self) -> bool:
        """Whether it compiles; not what `torch.compile` reads while it compiles more."""
        return self.compiled and not torch.compiler.is_compiling()

    def options(self, device: torch.device) -> dict:
        """Of Inductor, on a CPU: its own list of vector instructions will do, as compiling a test of each takes 8 s; and its order for the least
        memory would undo that of the pass."""
        if self.backend != "inductor" or device.type != "cpu":
            return {}
        return {"cpp.vec_isa_ok": True, "post_grad_custom_post_pass": side_by_side(), "reorder_for_peak_memory": False}


class Region(Fusible):
    """A function of streams, compiled at its first call.

    The first `streams` arguments are [B, T, ..], the next `pasts` are [B, n, ..], the others do not depend on batch or
    time. Batch and ticks are dynamic from the first call on, so that no length makes a second compilation; a call with
    one tick runs eagerly. A batch of 1 has code of its own.
    """

    def __init__(self, fn, streams: int, pasts: int, entrywise: bool):
        self.fn, self.streams, self.pasts, self.entrywise = fn, streams, pasts, entrywise
        self.fast: dict = {}
        self.__doc__ = fn.__doc__

    def __call__(self, *args):
        if not (self.entrywise and self.fuses) or args[0].shape[1] == 1:
            return self.fn(*args)
        key = args[0].dtype, args[0].device, torch.is_grad_enabled()
        if key not in self.fast:
            # A function of its own: what is compiled again, and how often, is counted by code object.
            own = types.FunctionType(self.fn.__code__.replace(co_name=f"{self.fn.__name__}_{len(self.fast)}"), self.fn.__globals__)
            self.fast[key] = torch.compile(own, backend=self.backend, fullgraph=True, options=self.options(args[0].device))
        for i, x in enumerate(args[: self.streams + self.pasts]):
            torch._dynamo.maybe_mark_dynamic(x, 0)
            if i < self.streams:
                torch._dynamo.maybe_mark_dynamic(x, 1)
        try:
            return self.fast[key](*args)
        except torch._dynamo.exc.FailOnRecompileLimitHit:  # what differs in yet another way, as in which params learn, runs as it is
            return self.fn(*args)


def region(streams: int, pasts: int = 0, fuse: bool = True):
    """Decorator of a map region; `fuse` is whether it has enough entrywise work for fusion to gain anything."""
    return lambda fn: Region(fn, streams, pasts, fuse)


BATCHES = 2  # compiling takes seconds: so many sizes of the batch have code, and what is more runs as it is


class Reversible(Fusible):
    """A function `fn(*numbers, *tensors) -> (outputs, tensors kept, objects kept)` that has its reverse in `back`.

    Called, it gives the outputs; `back(*numbers, *tensors, *kept, *gradients of the outputs)` gives the gradients of the tensors.
    Higher derivatives, and those under autocast, are left to torch.

    The last of the `numbers` is how many ticks a window has. Windows of `ticks` ticks are compiled, for one size of the batch, which
    the tensor of number `batch` has first.
    """

    def __init__(self, fn, back, numbers: int, ticks: int | None, batch: int):
        self.fn, self.back, self.numbers, self.ticks, self.batch = fn, back, numbers, ticks, batch
        self.batches: set[int] = set()
        self.fast: dict = {}
        self.__doc__ = fn.__doc__

    def __call__(self, *args):
        tensors = args[self.numbers :]
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in tensors):
            return self.run(self.fn, args)[0]
        if torch.is_autocast_enabled(tensors[0].device.type) or torch.compiler.is_compiling():
            return self.fn(*args)[0]  # torch finds the gradients itself, which compiled code does not let it
        return _Reverse.apply(self, *args)

    def run(self, fn, args):
        """`fn(*args)`, by compiled code where this is a whole window."""
        numbers, rest = args[: self.numbers], args[self.numbers :]
        some = rest[self.batch]
        if numbers[-1] != self.ticks or not self.fuses or torch.is_autocast_enabled(some.device.type):
            return fn(*args)
        size = some.shape[0]
        if size not in self.batches and len(self.batches) == BATCHES:
            return fn(*args)
        self.batches.add(size)
        tensors = [x.contiguous() for x in rest if isinstance(x, Tensor)]
        key = fn, numbers, tensors[0].device, *[x.shape for x in tensors], *[x.dtype for x in tensors]
        with torch.no_grad():
            if key not in self.fast:
                self.fast[key] = self.traced(fn, numbers, rest, tensors)
            fast, outputs = self.fast[key]
            return _filled(outputs, iter(fast(*tensors)))

    def traced(self, fn, numbers, rest, tensors):
        """Compiled code from `tensors`, those of `rest`, to those of `fn(*numbers, *rest)`, and that value with holes for them.

        Such code reads memory as it expects it: it is for tensors of the same shapes and dtypes, contiguous ones, and asks nothing more.
        """
        from torch import _inductor as inductor
        from torch._dynamo import lookup_backend

        outputs = None
        places = _holed(tuple(rest), [])

        def flat(*given):
            nonlocal outputs
            made: list[Tensor] = []
            outputs = _holed(fn(*numbers, *_filled(places, iter(given))), made)
            return made

        graph = make_fx(flat, tracing_mode="fake")(*tensors)
        if self.backend == "inductor":
            return inductor.compile(graph, tensors, options=self.options(tensors[0].device)), outputs
        return lookup_backend(self.backend)(graph, tensors), outputs


HOLE = object()


def _holed(value, tensors: list[Tensor]):
    """A value of tuples with a hole for each tensor; these are added to the list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return HOLE
    return tuple(_holed(v, tensors) for v in value) if type(value) is tuple else value


def _filled(value, tensors):
    """The opposite of `_holed`."""
    if value is HOLE:
        return next(tensors)
    return tuple(_filled(v, tensors) for v in value) if type(value) is tuple else value


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run: Reversible, *args):
        outs, kept, ctx.objects = run.run(run.fn, args)
        ctx.run, ctx.before, ctx.kept = run, args[: run.numbers], len(kept)
        ctx.save_for_backward(*args[run.numbers :], *kept)
        return outs

    @staticmethod
    def backward(ctx, *grads):
        run, saved = ctx.run, ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, *(None for _ in ctx.before), *run.run(run.back, (*ctx.before, *saved, *ctx.objects, *grads))
        tensors = [x.view_as(x) for x in saved[: len(saved) - ctx.kept]]
        outs = [(o, g) for o, g in zip(run.fn(*ctx.before, *tensors)[0], grads) if o.requires_grad]
        wanted = [x for x in tensors if x.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in outs], wanted, [g for _, g in outs], create_graph=True, allow_unused=True))
        return None, *(None for _ in ctx.before), *(next(found) if x.requires_grad else None for x in tensors)


def reversible(back, numbers: int, ticks: int | None = None, batch: int = 0):
    """Decorator of a function whose first arguments are that many numbers, with its reverse."""
    return lambda fn: Reversible(fn, back, numbers, ticks, batch)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx, fn, numbers: int, *args):
        device = args[numbers].device.type
        ctx.fn, ctx.before = fn, args[:numbers]
        ctx.autocast = {"device_type": device, "dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
        ctx.save_for_backward(*args[numbers:])
        return fn(*args)

    @staticmethod
    def backward(ctx, *grads):
        higher = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            given = [x.view_as(x) if higher else x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
            outs = [(o, g) for o, g in zip(ctx.fn(*ctx.before, *given), grads) if o.requires_grad]
        wanted = [x for x in given if x.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in outs], wanted, [g for _, g in outs], create_graph=higher, allow_unused=True))
        return None, None, *(None for _ in ctx.before), *(next(found) if x.requires_grad else None for x in given)


def again(fn, numbers: int):
    """`fn(*numbers, *tensors) -> tensors` that keeps nothing but its arguments for its reverse, which runs it once more."""

    def run(*args):
        tensors = args[numbers:]
        return _Again.apply(fn, numbers, *args) if torch.is_grad_enabled() and any(x.requires_grad for x in tensors) else fn(*args)

    return run


def taped(fn, *args):
    """fn(*args), and what takes gradients of that back to the arguments; its tape serves once, and is made again for each later use."""
    if torch.is_grad_enabled():
        return fn(*args), None
    given = [x.detach().requires_grad_() for x in args]

    def tape():
        with torch.enable_grad():
            made = fn(*given)
            return made if isinstance(made, Tensor) else tuple(made)  # a generator is run here, with its tape, and once

    outs = tape()
    several = not isinstance(outs, Tensor)
    tapes = [outs]

    def pull(grads):
        made = tapes.pop() if tapes else tape()
        pairs = [(o, g) for o, g in zip(made if several else (made,), grads if several else (grads,)) if g is not None and o.requires_grad]
        return torch.autograd.grad([o for o, _ in pairs], given, [g for _, g in pairs], allow_unused=True, materialize_grads=True)

    return tuple(o.detach() for o in outs) if several else outs.detach(), pull
