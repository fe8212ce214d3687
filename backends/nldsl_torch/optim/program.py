"""What an optimizer rule is at run time: plain values that generated source fills in. Imports the standard library only.

Arrays are named `w` (the parameter), `g` (its gradient), by the rule's states, and `x`, `delta` where a rule needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class State:
    """A memory of the rule: an array like the parameter, an array of a shape of its own, or one number."""

    name: str
    kind: str  # "like" | "number" | "shaped"
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] | None  # of "shaped": from the shape of the parameter
    init: Callable[[Mapping[str, Any]], float] | str  # from the hyper-parameters; "eye"


@dataclass(frozen=True)
class Segment:
    """One entrywise pass: the same map as an eager function, as C++ statements of one element and as Triton statements of a block."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scalars: tuple[str, ...]
    function: Callable[..., tuple[Any, ...]]  # (*reads, *scalars) -> writes, out of place
    kernel: str  # reads and scalars are `const T NAME`; each write is left in `new_NAME`
    rounded: tuple[str, ...] = ()  # writes that are bfloat16
    triton: str = ""  # reads and scalars have names; each write is left in `new_NAME`; empty where an operation has no Triton


@dataclass(frozen=True)
class Tick:
    """The straight line of one tick class."""

    prologue: Callable[[Any, Mapping[str, Any]], dict[str, Any]]  # (t, hypers and numbers) -> scalars, and `new NAME` of numbers
    segment: Segment | None  # where the whole step is one pass
    function: Callable[[dict[str, Any], dict[str, Any], Callable[..., tuple[Any, ...]]], dict[str, Any]] | None


@dataclass(frozen=True)
class Variant:
    """A rule with some of its switches on: its states, and a tick for every set of clocks that fire (a bit mask)."""

    states: tuple[State, ...]
    ticks: dict[int, Tick]


@dataclass(frozen=True)
class Program:
    """A compiled rule."""

    name: str
    hypers: tuple[tuple[str, Any], ...]
    clocks: tuple[tuple[str | int, int], ...]  # (period: a hyper-parameter or a number, offset)
    switches: tuple[str, ...]
    variants: dict[tuple[bool, ...], Variant]
    accepts: str = "any"  # "any" | "vector" | "matrix" | "stack"
    otherwise: str | None = None
    needs: tuple[str, ...] = ()  # of "x", "delta"
    fixed: tuple[str, ...] = ()  # hyper-parameters that this text of the program fixes
    roles: tuple[str, ...] = ()  # what its tensors are for; none where any will do
    told: tuple[int, ...] = ()  # the numbers of dimensions that tell that a tensor has one of the roles

    def numbers(self, group: Mapping[str, Any], *, exact: bool = True) -> dict[str, Any]:
        """The hyper-parameters of a group by input name (`lr`, `betas.0`): floats; tensors of an accelerator stay, and all with `exact` off."""
        found: dict[str, Any] = {}
        for name, default in self.hypers:
            value = group.get(name, default)
            if isinstance(value, tuple | list):
                found.update({f"{name}.{i}": _as_float(v, exact) for i, v in enumerate(value)})
            else:
                found[name] = _as_float(value, exact)
        return found

    def variant(self, group: Mapping[str, Any]) -> tuple[bool, ...]:
        """Which switches a group has on."""
        if not self.switches:
            return ()
        defaults = dict(self.hypers)
        return tuple(bool(group.get(s, defaults.get(s)) != 0) for s in self.switches)

    def mask(self, t: int, h: Mapping[str, Any]) -> int:
        """The clocks that fire at step `t`, counted from 1."""
        fired = 0
        for i, (period, offset) in enumerate(self.clocks):
            every = int(h[period]) if isinstance(period, str) else period
            if every < 1:
                raise ValueError(f"Invalid {period} value: {every}: a period is at least 1")
            fired |= ((t - offset) % every == 0) << i
        return fired

    def takes(self, dimensions: int) -> bool:
        """Whether the rule is defined on a tensor of so many dimensions."""
        least = {"any": 0, "vector": 1, "matrix": 2, "stack": 2}[self.accepts]
        return dimensions >= least if self.accepts in ("any", "stack") else dimensions == least

    def tells(self, dimensions: int) -> bool:
        """Whether a tensor of so many dimensions has one of the rule's roles, where nothing else is known of it."""
        return not self.roles or dimensions in self.told


def _as_float(value: Any, exact: bool) -> Any:
    """A hyper-parameter as a float, unless it lives where reading it would wait for a device."""
    if hasattr(value, "detach"):  # numbers of numpy have a device too
        return value if not exact or value.device.type != "cpu" else float(value.detach())
    return float(value)
