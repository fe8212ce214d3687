"""Units to one file of PyTorch, and that file to a module."""

from __future__ import annotations

import hashlib
import keyword
import linecache
import os
import sys
import types as python
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.fx

from nldsl.core import Unit
from nldsl.lower.plan import Plan, plan
from nldsl.names import identifier
from nldsl.pretrained import check, folder, values
from nldsl_torch import matrices, streams, words
from nldsl_torch.body import RESERVED
from nldsl_torch.finish import flushed
from nldsl_torch.functions import Fusible, Region
from nldsl_torch.module import ClassWriter

HERE = Path(__file__).parent
RUNTIME = "from nldsl_torch.runtime import channel_factors, channel_kernel, chunk, chunk_solve, decay_ends, decay_kernel, decay_kernel_back, pooled, segments, shift_down, shift_up, unchunk, unit_solve, unit_solve_back, window_attention"  # noqa: E501
MATRICES = "from nldsl_torch.matrices import eigenvectors, matmul, matrix_power, solve"
PRIMITIVES = tuple(
    getattr(part, f)
    for part, names in (
        (words, "angles apply at_least at_most cross_entropy gelu_pull inverse norm root turn turn_back unit"),
        (streams, "causal_conv delay ticks"),
        (matrices, "eigenvectors matmul matrix_power solve"),
    )
    for f in names.split()
)
WORDS = "from nldsl_torch.words import angles, apply, at_least, at_most, cross_entropy, gelu_pull, inverse, norm, root, turn, turn_back, unit"
STREAMS = "from nldsl_torch.streams import beside, causal_conv, delay, expect, filtered, fitting, from_memory, latest, linear_scan, linear_scan_back, loop, part, pretrained, remember, sequences, ticks, spread, to_memory, together, whole, windows"  # noqa: E501
REVERSE = "from nldsl_torch.reverse import add_product, add_product_, attention_look, attention_pull, cross_entropy_back, decay_ends_back, gelu_curve, gelu_slope, greater, like, norm_back, norm_scale, plus, unit_back, unit_scale"  # noqa: E501
FUNCTIONS = "from nldsl_torch.functions import again, region, reversible, taped"


def reachable(units: Mapping[str, Unit], key: str) -> list[str]:
    """A unit and those it uses, used ones first."""
    order: list[str] = []

    def visit(k: str) -> None:
        for i in units[k].instances:
            if i.unit is not None and i.unit not in order:
                visit(i.unit)
        if k not in order:
            order.append(k)

    visit(key)
    return order


def plans(units: Mapping[str, Unit], types: Mapping[str, dict[str, Any]], key: str) -> dict[str, Plan]:
    """The plan of every unit a block needs."""
    return {k: plan(units[k], types[k]) for k in reachable(units, key)}


def build_source(units: Mapping[str, Unit], types: Mapping[str, dict[str, Any]], key: str, *, standalone: bool = True) -> str:
    """PyTorch source of a block: the classes of all units; with `standalone` the primitives are in it too."""
    found = plans(units, types, key)
    classes: dict[str, str] = {}
    for k in found:
        classes[k] = _class_name(units[k].block, {c.lower() for c in classes.values()})
    file = units[key].span.source.name
    out = [f'"""`{key}` of {Path(file).name}, compiled by nldsl."""', "", "from __future__ import annotations", ""]
    if standalone:
        out += [_primitives(), ""]
    else:
        torch_too = ["import torch", "from torch import Tensor", "from torch.nn import functional as F"]
        out += [*torch_too, "", RUNTIME, MATRICES, WORDS, STREAMS, FUNCTIONS, REVERSE, ""]
    if any(True for k in found for p in units[k].params for _ in values(p.init)):
        # A standalone file looks for them beside itself.
        here = "os.path.dirname(os.path.abspath(__file__))" if standalone else repr(os.path.abspath(folder(units[key])))
        out += ["", f"FILES = {here}  # where the pre-trained tensors are", ""]
    ending: set[str] = set()
    for k, p in found.items():
        if flushed(p.unit) or any(i.unit in ending for i in p.unit.instances):
            ending.add(k)
        inputs = {key: [i.name for i in units[key].inputs] for key in found}
        out += ["", *ClassWriter(classes[k], p, classes, inputs, frozenset(ending)).write(), ""]
    return "\n".join(out) + "\n"


def _class_name(block: str, taken: set[str]) -> str:
    """A class name for a block; functions carry it in lower case, so that is what has to differ."""
    base = "".join(part.capitalize() for part in identifier(block).split("_"))
    base = f"{base}_" if base in RESERVED or keyword.iskeyword(base) else base
    name, n = base, 1
    while name.lower() in taken:
        n += 1
        name = f"{base}{n}"
    return name


@cache
def _primitives() -> str:
    """The text of the files that hold the primitives, as one prelude."""
    parts = []
    for name in ("runtime.py", "matrices.py", "words.py", "streams.py", "functions.py", "reverse.py"):
        text = (HERE / name).read_text(encoding="utf-8")
        _, _, rest = text.partition("from __future__ import annotations\n")
        parts.append(f"# --- {name} " + "-" * 80 + "\n" + rest.strip("\n"))
    return "\n\n\n".join(parts)


def load_module(source: str, name: str, *, compiled: bool = False) -> python.ModuleType:
    """Execute generated source, once for equal text; tracebacks and debuggers show its lines."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    full = f"nldsl_generated.{identifier(name)}_{digest}{'_compiled' if compiled else ''}"
    if full in sys.modules:
        return sys.modules[full]
    filename = f"<nldsl {name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    made = python.ModuleType(full)
    made.__file__ = filename
    exec(compile(source, filename, "exec"), made.__dict__)
    if compiled:
        for value in vars(made).values():
            if isinstance(value, Fusible):
                value.compiled = True
    for cls in classes(made):
        cls.__reduce__ = lambda self: (revive, (source, name, compiled, type(self).__name__), self.__dict__)  # type: ignore[method-assign]
    sys.modules[full] = made
    return made


def classes(made: python.ModuleType) -> list[type[torch.nn.Module]]:
    """The classes of a generated module, used ones first."""
    return [v for v in vars(made).values() if isinstance(v, type) and issubclass(v, torch.nn.Module) and v.__module__ == made.__name__]


def revive(source: str, name: str, compiled: bool, cls: str) -> torch.nn.Module:
    """An instance without values, for copies and pickles: the class is made from its source where it is not known."""
    made = getattr(load_module(source, name, compiled=compiled), cls)
    return made.__new__(made)


def module(
    units: Mapping[str, Unit], types: Mapping[str, dict[str, Any]], key: str, *, dtype: torch.dtype | None = None, device: Any = None,
    compile: bool = False,
) -> torch.nn.Module:  # fmt: skip
    """The block as an `nn.Module` with `forward`, `step` and `initial_state`; with `compile`, `torch.compile` fuses map regions and windows.

    Every block has one class and one set of compiled functions, however often it is used.

    Raises:
        NlError: a pre-trained file, or a tensor of it, is not what it should be.
    """
    read = check({k: units[k] for k in reachable(units, key)})
    source = build_source(units, types, key, standalone=False)
    made = load_module(source, key, compiled=compile)
    before = torch.get_default_dtype()
    try:
        if read and dtype is not None:  # a tensor in float64 is not rounded on its way
            torch.set_default_dtype(dtype)
        built = classes(made)[-1]()
    finally:
        torch.set_default_dtype(before)
    built.source = source  # type: ignore[assignment]
    return built.to(device=device, dtype=dtype)


def show_fx(units: Mapping[str, Unit], types: Mapping[str, dict[str, Any]], key: str) -> str:
    """The map regions of a block as torch.fx graphs, in order."""
    made = load_module(build_source(units, types, key, standalone=False), key)
    parts = []
    for name, value in vars(made).items():
        if isinstance(value, Region):
            tracer = torch.fx.Tracer(autowrap_functions=PRIMITIVES)
            parts.append(f"# {name}\n{tracer.trace(value.fn)}")
    return "\n\n".join(parts)


__all__ = ["build_source", "module", "plans", "show_fx"]
