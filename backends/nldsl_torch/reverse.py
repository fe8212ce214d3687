"""Functions with a reverse of their own, for generated code, and what those reverses are made of. Imports torch only: this text is embedded."""

from __future__ import annotations

import torch
from torch import Tensor


class Reversible:
    """A function `fn(*numbers, *tensors) -> (outputs, tensors kept, objects kept)` that has its reverse in `back`.

    Called, it gives the outputs; `back(*numbers, *tensors, *kept, *gradients of the outputs)` gives the gradients of the tensors.
    Higher derivatives, and those under autocast, are left to torch.
    """

    def __init__(self, fn, back, numbers: int):
        self.fn, self.back, self.numbers = fn, back, numbers
        self.__doc__ = fn.__doc__

    def __call__(self, *args):
        tensors = args[self.numbers :]
        if not torch.is_grad_enabled() or torch.is_autocast_enabled(tensors[0].device.type) or not any(x.requires_grad for x in tensors):
            return self.fn(*args)[0]
        return _Reverse.apply(self, *args)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run: Reversible, *args):
        outs, kept, ctx.objects = run.fn(*args)
        ctx.run, ctx.before, ctx.kept = run, args[: run.numbers], len(kept)
        ctx.save_for_backward(*args[run.numbers :], *kept)
        return outs

    @staticmethod
    def backward(ctx, *grads):
        run, saved = ctx.run, ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, *(None for _ in ctx.before), *run.back(*ctx.before, *saved, *ctx.objects, *grads)
        tensors = [x.view_as(x) for x in saved[: len(saved) - ctx.kept]]
        outs = [(o, g) for o, g in zip(run.fn(*ctx.before, *tensors)[0], grads) if o.requires_grad]
        wanted = [x for x in tensors if x.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in outs], wanted, [g for _, g in outs], create_graph=True, allow_unused=True))
        return None, *(None for _ in ctx.before), *(next(found) if x.requires_grad else None for x in tensors)


def reversible(back, numbers: int):
    """Decorator of a function whose first arguments are that many numbers, with its reverse."""
    return lambda fn: Reversible(fn, back, numbers)


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


def add_product(total: Tensor, a: Tensor, b: Tensor, sign: int = 1) -> Tensor:
    """total + sign * a @ b, of equal leading dimensions."""
    if total.dim() < 3:
        return torch.addmm(total, a, b, alpha=sign)
    return torch.baddbmm(total.flatten(0, -3), a.flatten(0, -3), b.flatten(0, -3), alpha=sign).view(total.shape)


def add_product_(total: Tensor, a: Tensor, b: Tensor, sign: int = 1) -> Tensor:
    """The same in place, where the layout allows it."""
    if total.dim() < 3 or not total.is_contiguous():
        return total.add_(a @ b, alpha=sign)
    total.view(-1, *total.shape[-2:]).baddbmm_(a.flatten(0, -3), b.flatten(0, -3), alpha=sign)
    return total


def plus(x: Tensor | None, y: Tensor) -> Tensor:
    """x + y, where no x is zero."""
    return y if x is None else x + y


def like(x: Tensor, shape: torch.Size) -> Tensor:
    """x summed over what a tensor of this shape was broadcast along."""
    return x if x.shape == shape else x.sum_to_size(shape)


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of gelu."""
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x)


def gelu_curve(x: Tensor) -> Tensor:
    """The second derivative of gelu: (2 - x^2) b, b = exp(-x^2 / 2) / sqrt(2 pi); as 2 b - x (x b), where x^2 may be too large for a number."""
    bell = (x * x).mul_(-0.5).exp_().mul_(0.3989422804014327)
    return (bell * 2.0).addcmul_(x, x * bell, value=-1.0)


def norm_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """norm(x), and what it multiplies x with."""
    scale = ((x * x).mean(-1, keepdim=True) + 1e-6).rsqrt()
    return x * scale, scale


def norm_back(d: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x of y, scale = norm_scale(x)."""
    return (d - y * (d * y).mean(-1, keepdim=True)) * scale


def unit_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """unit(x), and what it multiplies x with."""
    scale = ((x * x).sum(-1, keepdim=True) + 1e-6).rsqrt()
    return x * scale, scale


def unit_back(d: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x of y, scale = unit_scale(x)."""
    return (d - y * (d * y).sum(-1, keepdim=True)) * scale
