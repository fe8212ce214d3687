"""Runs of a block with everything that can be compared: outputs, states, gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nldsl_interpreter import Interpreter
from nldsl_testing.compare import FACTOR, TOLERANCE, Diverges, distances, small_part, within_range, worst
from nldsl_testing.example import Example
from nldsl_testing.noise import Noise
from nldsl_testing.subject import Subject, Tensors, cut

# A module's gradients of values in bfloat16 are in bfloat16 too, and in which order they are summed is not said.
ROUNDED = FACTOR * 2.0**-9
NOTHING = 0.1  # A run that has lost so much has no digit left.
GROUPS = ("output", "state", "gradient of")
SEVERAL, DRAWS = 4.0, 3  # roundings of each operation, and how often they are drawn: one may be lucky


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
    """Outputs [batch, ticks, *], the state after the last tick, what may be differentiated, and the arithmetic in which it is."""

    y: Tensors
    state: Tensors
    leaves: Tensors
    noise: Noise | None = None

    def gradients(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Of sum of weights * outputs, where weights may cover a prefix of the ticks."""
        loss: Tensor | int = 0
        for name, w in weights.items():
            loss = loss + (self.y[name][: w.shape[0], : w.shape[1]] * w.to(self.y[name].dtype)).sum()
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            return dict.fromkeys(self.leaves)
        with self.noise or nullcontext():
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
    noise: Noise | None = None,
) -> Run:  # fmt: skip
    """One run of the interpreter, in one call; with `noise`, which moves all that it is given too."""
    params, x = subject.parameters(example.seed, example.noise), example.inputs(subject) if inputs is None else inputs
    if noise is not None:
        params, x = ({n: noise.moved(v) for n, v in part.items()} for part in (params, x))
    params = {n: p.to(dtype).requires_grad_(n in subject.trained) for n, p in params.items()}
    x = given(x, dtype)
    with noise or nullcontext():
        y, state = (by or subject.interpreter).run(params, x)
    return Run(y, state, reals({**params, **x}), noise)


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
    """Outputs, states and gradients are equal within the rounding of the computation itself, see `rounding` and `moved`.

    Raises:
        Falsified: they are not.
        Diverges: they are not, and the interpreter's leave the range of the dtype.
    """
    losses: Mapping[str, float] | None = None
    moves: Mapping[str, float] | None = None
    for group, (a, b) in groups(subject, found, wanted, gradients).items():
        off = distances(a, b, small_part(dtype))
        name, far = worst(off)
        if dtype == torch.float64 and far <= TOLERANCE:
            continue
        limit = TOLERANCE
        if dtype != torch.float64:
            losses = losses or rounding(subject, example, wanted, dtype, gradients)
            limit = allowed(dtype, losses[group])
        limit = max(limit, ROUNDED) if subject.rounds and group == "gradient of" else limit
        if not far <= limit:
            moves = moves or moved(subject, example, dtype, gradients)
            limit = max(limit, allowed(dtype, moves[group]))
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


def rounding(subject: Subject, example: Example, wanted: Run, dtype: torch.dtype, gradients: bool) -> dict[str, float]:
    """How far the interpreter in `dtype` is from itself in float64, by group."""
    try:
        return _off(subject, interpret(subject, example, dtype), wanted, dtype, gradients)
    except RuntimeError:  # an operation that torch lacks in this dtype
        return dict.fromkeys(GROUPS, 0.0)


def moved(subject: Subject, example: Example, dtype: torch.dtype, gradients: bool) -> dict[str, float]:
    """How far the interpreter in float64 is from itself where every operation is off by a rounding of `dtype`, by group.

    Where some roundings leave no digit something turned, as the sign of a small number does; otherwise it is that of one rounding.

    Raises:
        Diverges: its numbers leave the range of `dtype`.
    """
    plain = interpret(subject, example)
    found = plain.gradients(plain.weights()) if gradients else {}
    if not within_range([*plain.y.values(), *plain.state.values(), *found.values()], dtype):
        raise Diverges
    most = dict.fromkeys(GROUPS, 0.0)
    for seed in range(DRAWS):
        noise = Noise(SEVERAL * torch.finfo(dtype).eps, example.seed + seed)
        try:
            off = _off(subject, interpret(subject, example, noise=noise), plain, dtype, gradients)
        except ArithmeticError:  # an implicit step that does not converge says nothing
            continue
        most = {group: max(most[group], far if far >= NOTHING else far / SEVERAL) for group, far in off.items()}
    return most


def _off(subject: Subject, own: Run, wanted: Run, dtype: torch.dtype, gradients: bool) -> dict[str, float]:
    found = {group: worst(distances(a, b, small_part(dtype)))[1] for group, (a, b) in groups(subject, own, wanted, gradients).items()}
    return {**dict.fromkeys(GROUPS, 0.0), **found}


def allowed(dtype: torch.dtype, lost: float) -> float:
    """The bound for a run in `dtype`; `lost` is what the interpreter loses in it.

    Where it has no digit left any number of a lower dtype will do, and where it has no number, anything.
    """
    if dtype == torch.float64:
        return max(TOLERANCE, FACTOR * lost)
    if lost < NOTHING:
        return FACTOR * max(lost, torch.finfo(dtype).eps)
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
