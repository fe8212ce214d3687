"""Runs of a block with everything that can be compared: outputs, states, gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nldsl_interpreter import Interpreter
from nldsl_testing.compare import FACTOR, TOLERANCE, distances, small_part, worst
from nldsl_testing.example import Example
from nldsl_testing.subject import Subject, Tensors, cut

# Gradients of values in bfloat16 are in bfloat16 too, and in which order they are summed is not said.
ROUNDED = FACTOR * 2.0**-9
# A run that has lost so much has no digit left; a change that shows how much faster than itself an error grows.
NOTHING, MOVED = 0.1, 2.0**-40
SEVERAL = 4.0  # roundings


class Falsified(AssertionError):
    """A property does not hold.

    Attributes:
        what: in one line.
        names: outputs, states, params or inputs that show it.
        lines: where these are written, `file:line  text`.
    """

    lines: tuple[str, ...] = ()

    def __init__(self, what: str, *names: str):
        super().__init__(what)
        self.what, self.names = what, names


@dataclass
class Run:
    """Outputs [batch, ticks, *], the state after the last tick, and what may be differentiated."""

    y: Tensors
    state: Tensors
    leaves: Tensors

    def gradients(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Of sum of weights * outputs, where weights may cover a prefix of the ticks."""
        loss: Tensor | int = 0
        for name, w in weights.items():
            loss = loss + (self.y[name][: w.shape[0], : w.shape[1]] * w.to(self.y[name].dtype)).sum()
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            return dict.fromkeys(self.leaves)
        found = torch.autograd.grad(loss, list(self.leaves.values()), retain_graph=True, allow_unused=True)
        return dict(zip(self.leaves, found, strict=True))

    def weights(self, seed: int = 9) -> Tensors:
        """Random cotangents of the outputs."""
        draw = torch.Generator().manual_seed(seed)
        return {n: torch.randn(v.shape, generator=draw).double() for n, v in self.y.items() if v.is_floating_point()}


def given(inputs: Tensors, dtype: torch.dtype) -> Tensors:
    return {n: x.detach().to(dtype).requires_grad_() if x.is_floating_point() else x for n, x in inputs.items()}


def reals(tensors: Mapping[str, Tensor]) -> Tensors:
    return {n: x for n, x in tensors.items() if x.requires_grad}


def interpret(
    subject: Subject, example: Example, dtype: torch.dtype = torch.float64, *, by: Interpreter | None = None, inputs: Tensors | None = None,
    moved: float = 0.0,
) -> Run:  # fmt: skip
    """One run of the interpreter, in one call; with all that it is given `moved` by such a part of itself."""
    params, x = subject.parameters(example.seed, example.noise), example.inputs(subject) if inputs is None else inputs
    if moved:
        draw = torch.Generator().manual_seed(example.seed)
        params, x = ({n: _moved(v, moved, draw) for n, v in part.items()} for part in (params, x))
    params = {n: p.to(dtype).requires_grad_(n in subject.trained) for n, p in params.items()}
    x = given(x, dtype)
    y, state = (by or subject.interpreter).run(params, x)
    return Run(y, state, reals({**params, **x}))


def _moved(x: Tensor, part: float, draw: torch.Generator) -> Tensor:
    return x * (1 + part * torch.randn(x.shape, generator=draw, dtype=torch.float64)) if x.is_floating_point() else x


def compiled(
    subject: Subject, example: Example, dtype: torch.dtype = torch.float64, *, inputs: Tensors | None = None, pieces: bool = False
) -> Run:
    """One run of the lowering.

    With `pieces` in the calls of `example.cuts`, of which every other one is of the chosen lowering, and one tick is a `step`.
    """
    params = subject.parameters(example.seed, example.noise)
    names = [example.lowering]
    names += ["chosen"] if pieces and names != ["chosen"] else []
    modules = [subject.fresh(n, {k: v.to(dtype) for k, v in params.items()}, dtype) for n in names]
    for n, p in modules[0].named_parameters():
        for other in modules[1:]:
            tie(other, n, p)
    x = given(example.inputs(subject) if inputs is None else inputs, dtype)
    leaves = reals({**dict(modules[0].named_parameters()), **x})
    if not pieces:
        y, state = subject.call(modules[0], x)
        return Run(y, state, leaves)
    parts: list[Tensors] = []
    state, start = subject.initial_state(modules[0], example.batch), 0
    for number, stop in enumerate(example.ends):
        module, piece = modules[number % len(modules)], cut(x, start, stop)
        run = subject.step if stop - start == 1 and number % 2 == 0 else subject.call
        y, state = run(module, piece, state)
        parts.append(y)
        start = stop
    return Run({n: torch.cat([p[n] for p in parts], 1) for n in parts[0]}, state, leaves)


def tie(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
    """Let a module use the parameter of another."""
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, parameter)


def agree(
    subject: Subject, example: Example, found: Run, wanted: Run, what: str, *, gradients: bool = True, dtype: torch.dtype = torch.float64,
) -> None:  # fmt: skip
    """Outputs, states and gradients are equal within the rounding of the computation itself, see `rounding`.

    Raises:
        Falsified: they are not.
    """
    losses: Mapping[str, Mapping[str, float]] | None = None
    for group, (a, b) in groups(subject, found, wanted, gradients).items():
        off = distances(a, b, small_part(dtype))
        name, far = worst(off)
        if dtype == torch.float64 and far <= TOLERANCE:
            continue
        losses = losses or rounding(subject, example, wanted, dtype, gradients)
        limit = allowed(dtype, max(losses[group].values(), default=0.0))
        limit = max(limit, ROUNDED) if subject.rounds and group == "gradient of" else limit
        if not far <= limit and dtype != torch.float64:
            limit = max(limit, allowed(dtype, max(kinks(subject, example, wanted, dtype, gradients)[group].values(), default=0.0)))
        if not far <= limit:
            raise Falsified(f"{what}: {group} `{name}` is off by {far:.1e} of its size, allowed {limit:.0e}", name)


def groups(subject: Subject, found: Run, wanted: Run, gradients: bool) -> dict[str, tuple[Mapping[str, Tensor | None], Mapping[str, Tensor | None]]]:
    for name, v in wanted.y.items():
        if found.y[name].shape != v.shape:
            raise Falsified(f"output `{name}` has the shape {tuple(found.y[name].shape)}, not {tuple(v.shape)}", name)
    held = [n for n in subject.states if n in found.state and n in wanted.state]
    pairs: dict[str, tuple[Mapping[str, Tensor | None], Mapping[str, Tensor | None]]] = {
        "output": (found.y, wanted.y),
        "state": ({n: found.state[n] for n in held}, {n: wanted.state[n] for n in held}),
    }
    if gradients:
        weights = wanted.weights()
        pairs["gradient of"] = found.gradients(weights), wanted.gradients(weights)
    return pairs


def rounding(subject: Subject, example: Example, wanted: Run, dtype: torch.dtype, gradients: bool) -> dict[str, dict[str, float]]:
    """How far the interpreter in `dtype`, in float32 where that is float64, is from itself in float64, by group and name.

    Where float32 has no digit left that says nothing of float64: there it is at least what float32 would lose if errors grew on.
    """

    def lost(own: Run, part: float = 1.0, most: float = float("inf")) -> dict[str, dict[str, float]]:
        found = {group: distances(a, b, small_part(dtype)) for group, (a, b) in groups(subject, own, wanted, gradients).items()}
        return {group: {n: min(far / part, most) for n, far in off.items()} for group, off in found.items()}

    try:
        if dtype != torch.float64:
            return lost(interpret(subject, example, dtype))
        off = lost(interpret(subject, example, torch.float32), most=1.0)
    except RuntimeError:  # an operation that torch lacks in this dtype
        return {group: {} for group in ("output", "state", "gradient of")}
    if max((far for group in off.values() for far in group.values()), default=0.0) < NOTHING:
        return off
    grown = lost(interpret(subject, example, moved=MOVED), MOVED / torch.finfo(torch.float32).eps)
    return {group: {n: max(far, grown[group][n]) for n, far in part.items()} for group, part in off.items()}


def kinks(subject: Subject, example: Example, wanted: Run, dtype: torch.dtype, gradients: bool) -> dict[str, dict[str, float]]:
    """The same where the run in `dtype` may have been lucky: by a change of some roundings of all that the interpreter is given.

    Where that leaves no digit something turned, as the sign of a small number does; otherwise it is that of one rounding.
    """
    own = interpret(subject, example, moved=SEVERAL * torch.finfo(dtype).eps)
    found = {group: distances(a, b, small_part(dtype)) for group, (a, b) in groups(subject, own, wanted, gradients).items()}
    return {group: {n: far if far >= NOTHING else far / SEVERAL for n, far in off.items()} for group, off in found.items()}


def allowed(dtype: torch.dtype, lost: float) -> float:
    """The bound for a run in `dtype`; `lost` is what the interpreter loses in it, or in float32 where it is float64.

    Where it has no digit left any number will do, and where it has no number, anything.
    """
    eps = torch.finfo(dtype).eps
    if dtype == torch.float64:
        return max(TOLERANCE, FACTOR * lost * eps / torch.finfo(torch.float32).eps)
    if lost < NOTHING:
        return FACTOR * max(lost, eps)
    return torch.finfo(torch.float64).max if math.isfinite(lost) else math.inf


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that nobody has written is no number, so that whoever reads it is found out."""
    before = torch.get_deterministic_debug_mode()  # its setter, unlike `use_deterministic_algorithms`, does not import the compiler: 1.5 s
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def with_future(example: Example, ticks: int = 3) -> Example:
    return replace(example, cuts=(*example.cuts, ticks))
