"""Programs as a torch module and an interpreter with the same parameters, and how they are compared."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

import nldsl
from nldsl.lower.plan import Form
from nldsl_torch.build import build_source, plans

ROOT = Path(__file__).parents[2]
ZOO = sorted(p.stem for p in (ROOT / "examples").glob("*.nl"))
EXACT, SINGLE = 1e-10, 1e-5


@dataclass
class Case:
    """One block of a program at given sizes; the last block of the text unless named."""

    text: str | Path
    block: str | None
    sizes: dict[str, int]

    @cached_property
    def elaborated(self) -> nldsl.program.Elaborated:
        program = nldsl.load(self.text)
        self.block = self.block or program.blocks[-1]
        return program.elaborate(self.block, **self.sizes)

    @cached_property
    def module(self) -> torch.nn.Module:
        """float64, with values that float32 represents; what starts as zero or one is moved away from there."""
        from nldsl_torch.build import module

        torch.manual_seed(1)
        made = module(*self.elaborated.parts)
        noise = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for p in made.parameters():
                p += 0.2 * torch.randn(p.shape, generator=noise)
        return made.double()

    @cached_property
    def interpreter(self):
        from nldsl_interpreter import Interpreter

        return Interpreter(*self.elaborated.parts)

    @cached_property
    def forms(self) -> dict[str, Form]:
        """The form of every recurrence, by its first state."""
        found = plans(*self.elaborated.parts)
        return {name: form for plan in found.values() for name, form in plan.forms.items()}

    @property
    def names(self) -> str:
        """The forms in one word, for tables; what has no recurrence is a store or a map."""
        unit = self.elaborated.unit
        kinds = {f.name for f in self.forms.values()} | (
            {"store"} if any(e.op == "attend" for e in unit.equations) else set()
        )
        return " ".join(sorted(kinds)) or "map"

    @property
    def states(self) -> list[str]:
        """The keys of the memories in a state, instances included."""

        def inside(key: str, prefix: str) -> list[str]:
            unit = self.elaborated.units[key]
            own = [prefix + s.name for s in unit.states]
            return own + [
                n for i in unit.instances for n in inside(i.unit, f"{prefix}{nldsl.names.identifier(i.name)}.")
            ]

        return inside(self.elaborated.key, "")

    def input(self, batch: int, ticks: int, seed: int = 5) -> Tensor:
        (only,) = self.elaborated.unit.inputs
        shape = [n.integer for n in only.type.shape]
        return torch.randn(batch, ticks, *shape, generator=torch.Generator().manual_seed(seed)).double()

    def single(self) -> torch.nn.Module:
        return copy.deepcopy(self.module).float()

    def source(self, **how) -> str:
        return build_source(*self.elaborated.parts, **how)


def case(text: str | Path, block: str | None = None, **sizes: int) -> Case:
    return Case(text, block, sizes)


def zoo(name: str) -> Case:
    # Small windows; small implicit steps, which the interpreter solves numerically.
    small = {"sliding_window": {"window": 5}, "longhorn": {"d": 4}}.get(name, {})
    return Case(ROOT / "examples" / f"{name}.nl", name, {"d": 8, "heads": 2, **small})


def vector_input(name: str) -> bool:
    """Whether the main block of an example takes one stream of real vectors."""
    program = nldsl.load(ROOT / "examples" / f"{name}.nl")
    if name not in program.blocks:
        return False
    inputs = program.symbolic(name).unit.inputs
    return len(inputs) == 1 and inputs[0].type.kind == "real" and len(inputs[0].type.shape) == 1


def outputs(y) -> dict[str, Tensor]:
    return y if isinstance(y, dict) else {"y": y}


def distance(a: Tensor | None, b: Tensor | None) -> float:
    """|a - b| / |b| over all entries; both zero, or None, is no distance. A retention of 0 may leave 1e-30."""
    a = torch.zeros(()) if a is None else a
    b = torch.zeros(()) if b is None else b
    size = b.double().norm().item()
    off = (a.double() - b.double()).norm().item()
    return 0.0 if off == 0.0 or size == 0.0 and off < 1e-25 else off / size if size > 0 else float("inf")


def split(module: torch.nn.Module, x: Tensor, cuts: list[int], state=None):
    """The outputs of one call for each piece; a piece of one tick by `step` every other time."""
    parts: list[dict[str, Tensor]] = []
    for n, piece in enumerate(x.split(cuts, 1)):
        if piece.shape[1] == 1 and n % 2:
            y, state = module.step(piece[:, 0], module.initial_state(len(x)) if state is None else state)
            y = {k: v.unsqueeze(1) for k, v in outputs(y).items()}
        else:
            y, state = module(piece, state=state, return_state=True)
        parts.append(outputs(y))
    return {k: torch.cat([p[k] for p in parts], 1) for k in parts[0]}, state


class Reference:
    """One run of the interpreter over several stretches: outputs, states and gradients of every prefix that ends with one."""

    def __init__(self, c: Case, x: Tensor, stretches: list[int]):
        trained = {k for k, _ in c.module.named_parameters()}
        self.params = {k: v.detach().clone().requires_grad_(k in trained) for k, v in c.module.state_dict().items()}
        self.x = x.detach().double().requires_grad_()
        self.states: dict[int, dict[str, Tensor]] = {}
        parts, state, t = [], None, 0
        for piece in self.x.split(stretches, 1):
            y, state = c.interpreter.run(self.params, {c.elaborated.unit.inputs[0].name: piece}, state)
            parts.append(y)
            t += piece.shape[1]
            self.states[t] = state
        names = [n for n, _ in c.elaborated.unit.outputs]
        self.y = {("y" if len(names) == 1 else n): torch.cat([p[n] for p in parts], 1) for n in names}

    def gradients(self, weights: dict[str, Tensor]) -> dict[str, Tensor | None]:
        """Of sum of weights * outputs, where weights may cover a prefix of the ticks and of the batch."""
        loss = sum((self.y[n][: w.shape[0], : w.shape[1]] * w).sum() for n, w in weights.items())
        leaves = {**{k: v for k, v in self.params.items() if v.requires_grad}, "input": self.x}
        if not loss.requires_grad:
            return dict.fromkeys(leaves)
        found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        return dict(zip(leaves, found, strict=True))


def gradients(
    module: torch.nn.Module, x: Tensor, y: dict[str, Tensor], weights: dict[str, Tensor]
) -> dict[str, Tensor | None]:
    leaves = {**dict(module.named_parameters()), "input": x}
    loss = sum((y[n] * w.to(y[n].dtype)).sum() for n, w in weights.items())
    if not loss.requires_grad:
        return dict.fromkeys(leaves)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))


def weights(y: dict[str, Tensor], seed: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.randn(v.shape, generator=draw).double() for n, v in y.items()}


def check(
    c: Case, ticks: list[int], batch: int = 2, tolerance: float = EXACT, single: float | None = None, grad: bool = True
) -> None:
    """Torch = interpreter at every prefix length in `ticks`: outputs, states, gradients; in float32 too where `single` is given."""
    cuts = [b - a for a, b in zip([0, *ticks], ticks)]
    reference = Reference(c, c.input(batch, ticks[-1]), cuts)
    runs = [(c.module, tolerance)] + ([(c.single(), single)] if single is not None else [])
    for T in ticks:
        for n in {1, batch}:
            compare(c, reference, runs, T, n, grad)


def compare(
    c: Case, reference: Reference, runs: list[tuple[torch.nn.Module, float]], T: int, batch: int, grad: bool = True
) -> None:
    w = weights({n: v[:batch, :T] for n, v in reference.y.items()})
    expected = reference.gradients(w) if grad else {}
    wrong: list[str] = []
    for module, limit in runs:
        dtype = torch.float64 if limit < 1e-8 else torch.float32
        x = reference.x.detach()[:batch, :T].to(dtype).requires_grad_()
        y, state = module(x, return_state=True)
        y = outputs(y)
        off: dict[str, tuple[float, float]] = {}
        for n, v in reference.y.items():
            assert y[n].dtype == dtype and y[n].shape == v[:batch, :T].shape, (n, y[n].dtype, y[n].shape, v.shape)
            off[f"output {n}"] = distance(y[n], v[:batch, :T]), limit
        held = sorted(set(c.states) & set(state))
        wanted = [reference.states[T][n][:batch] for n in held]
        size = sum(v.double().square().sum() for v in wanted) ** 0.5
        for n, v in zip(held, wanted, strict=True):
            assert not state[n].is_floating_point() or state[n].dtype == dtype, (n, state[n].dtype)
            # In float32 a state that has nearly died out is measured by those beside it.
            far = (state[n].double() - v.double()).norm().item()
            off[f"state {n}"] = (far / size.item() if dtype == torch.float32 and far else distance(state[n], v)), limit
        if grad:
            rounding = None
            for n, g in gradients(module, x, y, w).items():
                exact = _part(expected, n, batch, T)
                found = distance(g, exact)
                if not found <= limit:
                    # Where a gradient vanishes or nearly cancels, so that float32 itself loses digits, the whole gradient is the measure.
                    if dtype == torch.float32 and exact is not None and exact.any():
                        rounding = rounding or _rounding(c, module, x, w, expected, batch, T)
                    if rounding is None or rounding[n] > limit / 30:
                        total = sum(v.square().sum() for v in expected.values() if v is not None).sqrt()
                        vanishes = rounding is not None or exact is None or bool(exact.norm() <= 1e-12 * total)
                        found = (
                            ((g.double() - (0 if exact is None else exact)).norm() / total).item()
                            if vanishes
                            else found
                        )
                off[f"gradient of {n}"] = found, limit
        wrong += [
            f"T={T} batch={batch} {dtype} {n}: off by {a:.1e}, allowed {b:.0e}"
            for n, (a, b) in off.items()
            if not a <= b
        ]
    assert not wrong, "\n" + "\n".join(wrong)


def _part(expected: dict[str, Tensor | None], name: str, batch: int, T: int) -> Tensor | None:
    whole = expected[name]
    return whole if whole is None or name != "input" else whole[:batch, :T]


def _rounding(
    c: Case, module: torch.nn.Module, x: Tensor, w: dict[str, Tensor], expected, batch: int, T: int
) -> dict[str, float]:
    """How far the interpreter in float32 is from itself in float64."""
    trained = {k for k, _ in module.named_parameters()}
    params = {k: v.detach().clone().requires_grad_(k in trained) for k, v in module.state_dict().items()}
    x = x.detach().clone().requires_grad_()
    y, _ = c.interpreter.run(params, {c.elaborated.unit.inputs[0].name: x})
    loss = sum((v * a.float()).sum() for v, a in zip(y.values(), w.values(), strict=True))
    leaves = {**{k: v for k, v in params.items() if v.requires_grad}, "input": x}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: distance(g, _part(expected, n, batch, T)) for n, g in zip(leaves, found, strict=True)}
