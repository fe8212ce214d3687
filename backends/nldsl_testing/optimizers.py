"""What must hold of every rule as an optimizer: it is compared with the interpreter on the rule's own equations."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from nldsl.core import Rule
from nldsl.program import Program
from nldsl_interpreter import run_rule
from nldsl_testing.compare import FACTOR, TOLERANCE, Diverges, distances, equal, within_range, worst
from nldsl_testing.runs import Falsified
from nldsl_testing.subject import rounds
from nldsl_torch.optim.build import listen

LEAST = {"any": 0, "vector": 1, "matrix": 2, "stack": 2}
MOST = {"any": 3, "vector": 1, "matrix": 2, "stack": 4}


@dataclass(frozen=True)
class RuleExample:
    """One run of a rule.

    Attributes:
        shapes: of the tensors.
        steps: of the optimizer.
        numbers: of the rule, (name, value); those left out have their defaults.
        size: of the gradients.
        fused: whether passes run as native code.
        samples: in a step, of a rule that reads the inputs of its layer.
        seed: of all values.
        structure: what is fixed when the rule is compiled, (name, value).
    """

    shapes: tuple[tuple[int, ...], ...] = ((2,),)
    steps: int = 1
    numbers: tuple[tuple[str, Any], ...] = ()
    size: float = 1.0
    fused: bool = True
    samples: int = 1
    seed: int = 0
    structure: tuple[tuple[str, Any], ...] = ()

    def start(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        draw = torch.Generator().manual_seed(self.seed)
        return [torch.randn(s, generator=draw).to(dtype) for s in self.shapes]

    def gradients(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """For each tensor [steps, *shape], with a part in common to all steps."""
        draw = torch.Generator().manual_seed(self.seed + 1)
        found = [torch.randn(self.steps, *s, generator=draw) + 0.5 * torch.randn(s, generator=draw) for s in self.shapes]
        return [(self.size * g).to(dtype) for g in found]

    def layers(self, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
        """For each tensor [e, d] the inputs [steps, d, samples] and output gradients [steps, e, samples] of its layer."""
        draw = torch.Generator().manual_seed(self.seed + 1)
        shapes = [((self.steps, d, self.samples), (self.steps, e, self.samples)) for e, d in self.shapes]
        return [(torch.randn(x, generator=draw).to(dtype), (self.size * torch.randn(y, generator=draw)).to(dtype)) for x, y in shapes]


@dataclass
class RuleSubject:
    """A rule of a program, with the numbers that are fixed when it is compiled."""

    program: Program
    name: str
    structure: dict[str, Any]

    @cached_property
    def rule(self) -> Rule:
        return self.program.rule(self.name, None, **self.structure)

    @property
    def where(self) -> str:
        return self.rule.unit.span.where

    @property
    def tolerance(self) -> float:
        """Of float64; where values are rounded to bfloat16 on the way, the order of a sum decides about their last bit."""
        return 2**-8 if rounds(self.rule.unit) else TOLERANCE

    @property
    def of_layers(self) -> bool:
        """Whether it reads the inputs of its layer, or the gradients of its outputs."""
        return bool({i.name for i in self.rule.unit.inputs} & {"x", "delta"})

    def concrete(self, shape: Sequence[int], numbers: dict[str, Any]) -> Rule:
        """The rule on a tensor of this shape, with its periods."""
        dims = self.rule.types["w"].shape
        sizes = {next(iter(d.symbols())): n for d, n in zip(dims, shape[-2:] if len(dims) == 2 else (torch.Size(shape).numel(),)) if d.symbols()}
        rule = self.program.rule(self.name, sizes, **self.structure)
        given = {h.name: numbers.get(h.name, h.default) for h in rule.hypers}
        every = {s: int(given[p]) if isinstance(p, str) else p for s, p in rule.periods.items()}  # type: ignore[arg-type]
        return replace(rule, unit=replace(rule.unit, states=tuple(replace(s, every=every.get(s.name, s.every)) for s in rule.unit.states)))

    def meant(self, example: RuleExample, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """The tensors after each step, by the interpreter."""
        numbers = self.numbers(example)
        out = []
        layers = example.layers(dtype) if self.of_layers else None
        given = [delta @ x.mT for x, delta in layers] if layers is not None else example.gradients(dtype)
        for i, (w, g) in enumerate(zip(example.start(dtype), given)):
            flat = w if self.rule.accepts in ("matrix", "stack") else w.reshape(-1)
            more = dict(zip(("x", "delta"), layers[i])) if layers is not None else {}
            rule = self.concrete(w.shape, numbers)
            read = {n: v for n, v in more.items() if n in {k.name for k in rule.unit.inputs}}
            out.append(run_rule(rule, flat, g.reshape(len(g), *flat.shape), numbers, **read).reshape(g.shape))
        return out

    def numbers(self, example: RuleExample) -> dict[str, Any]:
        required = {h.name: 0.02 for h in self.rule.hypers if h.default is None}
        return {**required, **dict(example.numbers)}

    # --- examples ----------------------------------------------------------------------------------

    def examples(self, item: RuleProperty) -> st.SearchStrategy[RuleExample]:
        return st.builds(
            RuleExample,
            shapes=st.lists(self._shapes(), min_size=1, max_size=item.tensors).map(tuple),
            steps=st.integers(1, item.steps),
            numbers=st.tuples(*(self._number(h.name, h.default) for h in self.rule.hypers)).map(lambda found: tuple(f for f in found if f is not None)),
            size=st.sampled_from(list(item.sizes)),
            fused=st.booleans(),
            samples=st.integers(1, 4) if self.of_layers else st.just(1),
            seed=st.integers(0, 2**16),
            structure=st.just(tuple(self.structure.items())),
        )

    def _shapes(self) -> st.SearchStrategy[tuple[int, ...]]:
        kind = self.rule.accepts
        return st.lists(st.integers(1, 5), min_size=LEAST[kind], max_size=MOST[kind]).map(tuple)

    def _number(self, name: str, default: Any) -> st.SearchStrategy[tuple[str, Any] | None]:
        """A number near its default; a period is small and whole."""
        if name in self.rule.periods.values():
            return st.integers(1, 4).map(lambda n: (name, n))
        if not isinstance(default, (int, float)) or default == 0 or float(default).is_integer():
            return st.none()
        return st.sampled_from([None, (name, 0.5 * default), (name, 0.9 * default)])


@dataclass(frozen=True)
class RuleProperty:
    """Something that holds of every example of a rule; see `properties.Property`."""

    name: str
    says: str
    check: Callable[[RuleSubject, RuleExample], None]
    applies: Callable[[RuleSubject], str | None] = lambda subject: None
    examples: float = 1.0
    steps: int = 12
    tensors: int = 2
    sizes: Sequence[float] = (1.0, 1e-3, 100.0)


class Held:
    """Tensors with their optimizer; of a rule that reads its layer, they are the weights of linear maps."""

    def __init__(
        self, subject: RuleSubject, example: RuleExample, dtype: torch.dtype = torch.float64, only: Sequence[int] | None = None,
        start: Sequence[Tensor] | None = None,
    ):  # fmt: skip
        self.only = range(len(example.shapes)) if only is None else only
        values = example.start(dtype) if start is None else start
        if subject.of_layers:
            self.given = example.layers(dtype)
            sizes = [values[i].shape for i in self.only]
            self.layers = torch.nn.ModuleList(torch.nn.Linear(d, e, bias=False, dtype=dtype) for e, d in sizes)
            self.params = list(self.layers.parameters())
            with torch.no_grad():
                for p, i in zip(self.params, self.only):
                    p.copy_(values[i])
        else:
            self.gradients, self.layers = example.gradients(dtype), torch.nn.ModuleList()
            self.params = [torch.nn.Parameter(values[i].clone()) for i in self.only]
        numbers: dict[str, Any] = {**subject.numbers(example), "fused": None if example.fused else False}
        group = {"params": self.params, "rule": subject.name}  # a group that names its rule is taken at its word, whatever the rule's roles
        self.made: Any = subject.program.optimizer_class(subject.name, **subject.structure)([group], **numbers)
        listen(self.made, self.layers)

    def backward(self, t: int, rests: Sequence[int] = ()) -> None:
        """The gradients of a step; tensors that rest have none."""
        for n, (i, p) in enumerate(zip(self.only, self.params)):
            p.grad = None
            if i not in rests and len(self.layers):
                x, delta = (v[t] for v in self.given[i])
                (self.layers[n](x.T) * delta.T).sum().backward()
            elif i not in rests:
                p.grad = self.gradients[i][t].clone()

    def step(self, t: int, rests: Sequence[int] = ()) -> None:
        self.backward(t, rests)
        self.made.step()


def stepped(subject: RuleSubject, example: RuleExample, dtype: torch.dtype = torch.float64) -> Iterator[tuple[int, Held]]:
    """The tensors and their optimizer after each step."""
    held = Held(subject, example, dtype)
    for t in range(example.steps):
        held.step(t)
        yield t, held


def steps(subject: RuleSubject, example: RuleExample) -> None:
    """The optimizer takes the steps of the rule's equations."""
    wanted = subject.meant(example)
    for t, held in stepped(subject, example):
        off = distances({str(i): p.detach() for i, p in enumerate(held.params)}, {str(i): w[t] for i, w in enumerate(wanted)})
        name, far = worst(off)
        if not far <= TOLERANCE:
            limit = max(subject.tolerance, FACTOR * 2e-9 * _lost(subject, example, wanted, torch.float32))
            if not far <= limit and not within_range(wanted, torch.float64):
                raise Diverges
            if not far <= limit:
                raise Falsified(f"after step {t + 1} tensor {name} of shape {example.shapes[int(name)]} is off by {far:.1e} of its size, allowed {limit:.0e}")


def _lost(subject: RuleSubject, example: RuleExample, wanted: list[Tensor], dtype: torch.dtype) -> float:
    """How far the interpreter in `dtype` is from itself in float64."""
    own = subject.meant(example, dtype)
    return max((worst(distances({"w": a[t]}, {"w": b[t]}))[1] for a, b in zip(own, wanted) for t in range(len(b))), default=0.0)


def together(subject: RuleSubject, example: RuleExample) -> None:
    """Tensors in one optimizer are stepped as each alone; one without a gradient rests, and gradients are left as they were."""
    held = Held(subject, example)
    others = [Held(subject, example, only=[i]) for i in held.only]
    for t in range(example.steps):
        rests = [t % len(others)] if t % 3 == 2 and len(others) > 1 else []
        held.backward(t, rests)
        before = [None if p.grad is None else p.grad.clone() for p in held.params]
        kept = [p.detach().clone() for p in held.params]
        held.made.step()
        for i, (p, other) in enumerate(zip(held.params, others)):
            other.step(t, rests)
            if i in rests and not equal(p.detach(), kept[i]):
                raise Falsified(f"step {t + 1} moves tensor {i}, which has no gradient")
            if not equal(p.grad, before[i]):
                raise Falsified(f"step {t + 1} changes the gradient of tensor {i}")
            far = worst(distances({"w": p.detach()}, {"w": other.params[0].detach()}))[1]
            if not far <= max(1e-12, subject.tolerance if subject.tolerance > TOLERANCE else 0.0):
                raise Falsified(f"after step {t + 1} tensor {i} among others is off by {far:.1e} of what it is alone")


def saved(subject: RuleSubject, example: RuleExample) -> None:
    """A state that was saved and loaded into a new optimizer at any step goes on bit for bit."""
    at = example.seed % example.steps
    held = Held(subject, example)
    other: Held | None = None
    for t in range(example.steps):
        if t == at:
            file = io.BytesIO()
            torch.save(held.made.state_dict(), file)
            file.seek(0)
            other = Held(subject, example, start=[p.detach() for p in held.params])
            other.made.load_state_dict(torch.load(file, weights_only=True))
        held.step(t)
        if other is not None:
            other.step(t)
            for i, (p, q) in enumerate(zip(held.params, other.params)):
                if not equal(p.detach(), q.detach()):
                    raise Falsified(f"step {t + 1} after a state was saved and loaded at step {at} moves tensor {i} elsewhere")


def cadence(subject: RuleSubject, example: RuleExample) -> None:
    """A slow memory changes only at the steps of its clock."""
    numbers = subject.numbers(example)
    concrete = {shape: subject.concrete(shape, numbers) for shape in example.shapes}
    before: dict[tuple[int, str], Tensor] = {}
    for t, held in stepped(subject, example):
        for i, p in enumerate(held.params):
            clocks = {s.name.removeprefix("w."): s for s in concrete[example.shapes[i]].unit.states if s.every > 1}
            for name, value in held.made.state[p].items():
                if name not in clocks or not isinstance(value, Tensor):
                    continue
                s = clocks[name]
                if (i, name) in before and (t + 1 - s.offset) % s.every and not equal(before[i, name], value):
                    raise Falsified(f"`{name}` changes at step {t + 1}, where its clock (every {s.every}) rests")
                before[i, name] = value.clone()


def precision(subject: RuleSubject, example: RuleExample) -> None:
    """In float32 an optimizer loses no more digits than its equations."""
    wanted = subject.meant(example)
    lost = max(_lost(subject, example, wanted, torch.float32), 1.2e-7, subject.tolerance)
    for t, held in stepped(subject, example, torch.float32):
        off = distances({str(i): p.detach() for i, p in enumerate(held.params)}, {str(i): w[t] for i, w in enumerate(wanted)})
        name, far = worst(off)
        if not far <= FACTOR * lost and not within_range(wanted, torch.float32):
            raise Diverges
        if not far <= FACTOR * lost:
            raise Falsified(f"in float32 tensor {name} is off by {far:.1e} of its size after step {t + 1}, allowed {FACTOR * lost:.0e}")


def finite(subject: RuleSubject, example: RuleExample) -> None:
    """Where the equations in float32 give numbers, so does the optimizer, for tiny, zero and large gradients."""
    wanted = subject.meant(example, torch.float32)
    for t, held in stepped(subject, example, torch.float32):
        for i, p in enumerate(held.params):
            if wanted[i][t].isfinite().all() and not p.isfinite().all():
                raise Falsified(f"tensor {i} is not finite after step {t + 1}, where the interpreter's is")


def _slow(subject: RuleSubject) -> str | None:
    return None if subject.rule.periods else "no memory has a clock of its own"


RULE_PROPERTIES: tuple[RuleProperty, ...] = (
    RuleProperty("steps", "every step = the rule's equations in the interpreter", steps),
    RuleProperty("together", "tensors in one optimizer = each alone; gradients are left as they are", together, examples=0.6, tensors=4),
    RuleProperty("states", "saved and loaded at any step, an optimizer goes on bit for bit", saved, examples=0.6),
    RuleProperty("cadence", "a slow memory changes at the steps of its clock, and at no other", cadence, applies=_slow, examples=0.5, steps=20),
    RuleProperty("precision", "float32 loses no more than the equations must", precision, examples=0.5),
    RuleProperty("finite", "weights stay finite: tiny, zero and large gradients", finite, examples=0.5, sizes=(0.0, 1e-12, 1e6, 1.0)),
)
