"""What is asked of every random program: the interpreter's values, states and gradients, however it is called."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

import nldsl
from nldsl.core import Type

Tensors = dict[str, Tensor]
TICKS, BATCH = 11, 2
SPLITS = ([5, 1, 1, 4], [1] * TICKS, [2, 2, 7])
# A vanishing gradient is rounding, and is measured by the whole one.
NOTHING = 1e-12


class Subject:
    """The main block of a text as a torch module and an interpreter with equal parameters, and inputs."""

    def __init__(self, text: str, block: str = "main"):
        self.text = text
        self.elaborated = nldsl.load(text).elaborate(block)

    @cached_property
    def module(self) -> torch.nn.Module:
        """float64; what starts as zero or one is moved away from there."""
        from nldsl_torch.build import module

        torch.manual_seed(1)
        made = module(*self.elaborated.parts).double()
        noise = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for p in made.parameters():
                p += 0.2 * torch.randn(p.shape, generator=noise, dtype=torch.float64)
        return made

    @cached_property
    def interpreter(self):
        from nldsl_interpreter import Interpreter

        return Interpreter(*self.elaborated.parts)

    @cached_property
    def inputs(self) -> Tensors:
        draw = torch.Generator().manual_seed(5)
        return {i.name: sample(i.type, draw) for i in self.elaborated.unit.inputs}

    def outputs(self, y) -> Tensors:
        return y if isinstance(y, dict) else {self.elaborated.unit.outputs[0][0]: y}

    def call(self, inputs: Tensors) -> Tensors:
        return self.outputs(self.module(*inputs.values()))

    def pieces(self, cuts: list[int]) -> Tensors:
        """One call for each piece; a piece of one tick by `step` every other time."""
        parts, state, t = [], None, 0
        for n, length in enumerate(cuts):
            piece = {k: x[:, t : t + length] for k, x in self.inputs.items()}
            if length == 1 and n % 2:
                y, state = self.module.step(*(x[:, 0] for x in piece.values()), state)
                y = {k: v.unsqueeze(1) for k, v in self.outputs(y).items()}
            else:
                y, state = self.module(*piece.values(), state=state, return_state=True)
            parts.append(self.outputs(y))
            t += length
        return {k: torch.cat([p[k] for p in parts], 1) for k in parts[0]}

    def meant(self, moved: float = 0.0) -> tuple[Tensors, Tensors, Tensors]:
        """Outputs, states and gradients of the interpreter; with params `moved` by so much of themselves."""
        trained = {k for k, _ in self.module.named_parameters()}
        change = torch.Generator().manual_seed(8)
        params = {k: v.detach() * (1 + moved * torch.randn(v.shape, generator=change, dtype=v.dtype)) for k, v in self.module.state_dict().items()}
        params = {k: v.requires_grad_(k in trained) for k, v in params.items()}
        inputs = leaves_of(self.inputs)
        y, state = self.interpreter.run(params, inputs)
        return y, state, gradients(y, {**{k: v for k, v in params.items() if v.requires_grad}, **reals(inputs)})

    def found(self) -> tuple[Tensors, Tensors, Tensors]:
        """The same of the torch module."""
        inputs = leaves_of(self.inputs)
        y, state = self.module(*inputs.values(), return_state=True)
        y = self.outputs(y)
        return y, state, gradients(y, {**dict(self.module.named_parameters()), **reals(inputs)})


def sample(type: Type, draw: torch.Generator) -> Tensor:
    shape = (BATCH, TICKS, *(a.size.integer for a in type.axes), *(n.integer for n in type.shape))
    if type.kind == "int":
        return torch.randint(type.bound.integer, shape, generator=draw)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def leaves_of(inputs: Tensors) -> Tensors:
    return {k: x.detach().clone().requires_grad_(x.is_floating_point()) for k, x in inputs.items()}


def reals(inputs: Tensors) -> Tensors:
    return {f"input {k}": x for k, x in inputs.items() if x.is_floating_point()}


def gradients(y: Tensors, leaves: Tensors) -> Tensors:
    """Of a random weighted sum of the outputs; zeros where nothing passes."""
    draw = torch.Generator().manual_seed(9)
    loss = sum((v * torch.randn(v.shape, generator=draw, dtype=v.dtype)).sum() for v in y.values())
    if not loss.requires_grad:
        return {k: torch.zeros_like(v) for k, v in leaves.items()}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)))


def distances(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], together: bool = False) -> dict[str, float]:
    """|a - b| / |b| of each; with `together` against at least a part of the size of all."""
    whole = float(sum(v.double().square().sum() for v in wanted.values())) ** 0.5 if together else 0.0
    off = {}
    for name, b in wanted.items():
        far, size = (found[name].double() - b.double()).norm().item(), b.double().norm().item()
        off[name] = 0.0 if far == 0.0 or (far <= NOTHING * whole) else far / size if size else float("inf")
    return off


def finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(v.isfinite().all()) for v in tensors.values())


def mistakes(subject: Subject, limit: float = 1e-9) -> list[str]:
    """Where torch is not the interpreter, beyond what rounding comes to in this program; what is not finite is not compared."""
    wanted, found = subject.meant(), subject.found()
    kinds = [kind for kind, w in zip(("output", "state", "gradient"), wanted) if finite(w)]
    off = compared(found, wanted, kinds)
    if all(far <= limit for far in off.values()):
        return []
    # A program may amplify what is lost in rounding: so much that a change of 1e-12 shows.
    allowed = compared(subject.meant(moved=1e-12), wanted, kinds)
    return [f"{name}: off by {far:.1e}, a change of 1e-12 by {allowed[name]:.1e}" for name, far in off.items() if not far <= max(limit, 100 * allowed[name])]


def compared(found, wanted, kinds: list[str]) -> dict[str, float]:
    off: dict[str, float] = {}
    for kind, a, b in zip(("output", "state", "gradient"), found, wanted):
        if kind in kinds:
            shared = {k: v for k, v in b.items() if k in a and k != ":tick" and (kind != "state" or ":" not in k)}
            off |= {f"{kind} {k}": far for k, far in distances(a, shared, kind == "gradient").items()}
    return off


def check_calls(subject: Subject, limit: float = 1e-9) -> list[str]:
    """Splits, changed futures, and rows of the batch alone."""
    with torch.no_grad():
        whole = subject.call(subject.inputs)
        if not finite(whole):
            return []
        wrong = [f"split {cuts}: {n} off by {far:.1e}" for cuts in SPLITS for n, far in distances(subject.pieces(cuts), whole).items() if not far <= limit]
        rows = subject.call({k: x[1:] for k, x in subject.inputs.items()})
        wrong += [f"a row alone: {n} off by {far:.1e}" for n, far in distances(rows, {k: v[1:] for k, v in whole.items()}).items() if not far <= limit]
        future = {k: x.clone() for k, x in subject.inputs.items()}
        for x in future.values():
            x[:, 7:] = x[:, 7:].flip(1) * (1 if x.dtype == torch.int64 else 3)
        changed = subject.call(future)
        wrong += [f"{n} knows its future" for n, y in whole.items() if not torch.equal(changed[n][:, :7], y[:, :7])]
    return wrong
