"""A block at given sizes, as the interpreter and as torch modules with the same parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldsl.core import Input, State, Unit
from nldsl.lower.lowerings import CHUNKS
from nldsl.names import identifier
from nldsl.program import Elaborated, Program
from nldsl.proof import Proof, prove
from nldsl.source import Span
from nldsl.timeline import Timeline, timeline
from nldsl_interpreter import Interpreter
from nldsl_torch import runtime
from nldsl_torch.build import build_source, load_module
from nldsl_torch.build import classes as classes_of
from nldsl_torch.build import module as build_module

Tensors = dict[str, Tensor]


@dataclass
class Subject:
    """One block of a program at given sizes.

    Attributes:
        program, block, sizes: what is tested.
        dtypes: those of the property `precision`.
        compile: whether `torch.compile` is one of the lowerings.
    """

    program: Program
    block: str
    sizes: Mapping[str, Any]
    compile: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    _modules: dict[tuple[str, torch.dtype], torch.nn.Module] = field(default_factory=dict, repr=False)
    _values: dict[tuple[int, float], Tensors] = field(default_factory=dict, repr=False)

    @cached_property
    def elaborated(self) -> Elaborated:
        return self.program.elaborate(self.block, self.sizes)

    @property
    def unit(self) -> Unit:
        return self.elaborated.unit

    @cached_property
    def interpreter(self) -> Interpreter:
        return Interpreter(*self.elaborated.parts)

    @cached_property
    def schedules(self) -> dict[str, Elaborated]:
        """The block under each schedule by name, the compiler's choice first."""
        chosen, *others = self.elaborated.lowerings().items()
        return {"chosen": chosen[1], **dict(others)}

    @cached_property
    def lowerings(self) -> tuple[str, ...]:
        """The ways to run it, the plainest first. Where the compiler crashes, its choice alone: a property will say so."""
        try:
            stretches = "segments(" in self.module().source  # type: ignore[operator]
            return (*self.schedules, "standalone", *(["stretches"] if stretches else []), *(["compiled"] if self.compile else []))
        except Exception:
            return ("chosen",)

    @cached_property
    def small_chunks(self) -> str:
        """The module with few ticks in a chunk, so that an example has several."""
        return build_source(*self.schedules.get(f"chunks of {CHUNKS[1]}", self.elaborated).parts, standalone=False)

    def module(self, lowering: str = "chosen", dtype: torch.dtype = torch.float64) -> torch.nn.Module:
        """The block by one lowering; modules are kept."""
        if (lowering, dtype) not in self._modules:
            self._modules[lowering, dtype] = self._build(lowering).to(dtype)
        return self._modules[lowering, dtype]

    def _build(self, lowering: str) -> torch.nn.Module:
        if lowering == "standalone":
            return classes_of(load_module(build_source(*self.elaborated.parts), self.elaborated.key))[-1]()
        if lowering == "stretches":
            made = load_module(self.small_chunks, f"{self.elaborated.key} stretches")
            vars(made)["segments"] = partial(runtime.segments, ticks=1)  # a stretch is one chunk, as it is of many numbers
            return classes_of(made)[-1]()
        if lowering == "compiled":
            return build_module(*self.elaborated.parts, compile=True)
        return build_module(*self.schedules[lowering].parts)

    def fresh(self, lowering: str, params: Tensors, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
        """A module of a lowering of its own, with these parameters."""
        module = copy.deepcopy(self.module(lowering, dtype))
        module.load_state_dict(params)
        return module

    @cached_property
    def timeline(self) -> Timeline:
        return timeline(self.elaborated)

    @cached_property
    def proof(self) -> Proof:
        return prove(self.elaborated)

    @cached_property
    def rounds(self) -> bool:
        """Whether values are rounded to bfloat16 on the way."""
        return any(map(rounds, (unit for _, unit in self.parts)))

    # --- names -------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Input, ...]:
        return self.unit.inputs

    @cached_property
    def trained(self) -> frozenset[str]:
        return frozenset(n for n, _ in self.module().named_parameters())

    @cached_property
    def parts(self) -> list[tuple[str, Unit]]:
        """Every unit in its place, with the prefix of its names in a state dict."""
        return list(self._inside(self.elaborated.key, ""))

    def _inside(self, key: str, prefix: str) -> Iterator[tuple[str, Unit]]:
        unit = self.elaborated.units[key]
        yield prefix, unit
        for i in unit.instances:
            yield from self._inside(i.unit or "", f"{prefix}{identifier(i.name)}.")

    @cached_property
    def states(self) -> dict[str, State]:
        """The memories' states by their keys in a state dict."""
        return {prefix + s.name: s for prefix, unit in self.parts for s in unit.states}

    def lines(self, *names: str) -> tuple[str, ...]:
        """Where outputs, states, params or inputs are written: `file:line  text`."""
        spans: dict[str, Span] = {}
        for prefix, unit in self.parts:
            spans |= {prefix + s.name: s.span for s in unit.states} | {prefix + identifier(p.name): p.span for p in unit.params}
        equations = {e.name: e.span for e in self.unit.equations}
        spans |= {i.name: i.span for i in self.inputs}
        spans |= {n: equations.get(getattr(atom, "name", ""), self.unit.span) for n, atom in self.unit.outputs}
        return tuple(dict.fromkeys(line_of(spans[n]) for n in names if n in spans))

    # --- values ------------------------------------------------------------------------------------

    def parameters(self, seed: int, noise: float = 0.2) -> Tensors:
        """float64 values that float32 represents; what starts as zero or one is moved away from there. Those drawn last are kept."""
        if (seed, noise) not in self._values:
            draw = torch.Generator().manual_seed(seed)
            given = self.interpreter.parameters(torch.float32, draw)
            moved = {n: (p + noise * torch.randn(p.shape, generator=draw) if n in self.trained else p).double() for n, p in given.items()}
            self._values = {(seed, noise): moved}
        return dict(self._values[seed, noise])

    def outputs(self, y: Tensor | Tensors) -> Tensors:
        return y if isinstance(y, dict) else {self.unit.outputs[0][0]: y}

    def initial_state(self, module: Any, batch: int) -> Tensors:
        return module.initial_state(batch)

    def finish(self, module: Any, state: Tensors) -> Tensors:
        return module.finish(state)

    def call(self, module: torch.nn.Module, inputs: Tensors, state: Tensors | None = None) -> tuple[Tensors, Tensors]:
        """One stretch of ticks by a module: (outputs, state)."""
        y, state = module(*(inputs[i.name] for i in self.inputs), state=state, return_state=True)
        return self.outputs(y), state

    def step(self, module: Any, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """One tick by `step`; inputs are [B, 1, *]."""
        y, state = module.step(*(inputs[i.name][:, 0] for i in self.inputs), state)
        return {n: v.unsqueeze(1) for n, v in self.outputs(y).items()}, state

    @property
    def name(self) -> str:
        sizes = ", ".join(f"{n} = {v}" for n, v in self.sizes.items())
        return f"{self.block}({sizes})"

    @property
    def file(self) -> str:
        return Path(self.program.source.name).name


def rounds(unit: Unit) -> bool:
    """Whether values are rounded to bfloat16, in objectives too."""
    inside = [p for e in unit.equations if e.op == "grad" for p in e.attr("objective").equations]
    return any(e.op == "bfloat16" for e in (*unit.equations, *inside))


def cut(inputs: Mapping[str, Tensor], start: int, stop: int) -> Tensors:
    return {n: x[:, start:stop] for n, x in inputs.items()}


def line_of(span: Span) -> str:
    """`file:line  text`."""
    return f"{span.where}  {' '.join(span.text.split())[:90]}"
