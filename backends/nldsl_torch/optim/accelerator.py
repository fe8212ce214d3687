"""Entrywise passes as Triton: one launch for all tensors of a table, or for one tensor. Without triton nothing here is used.

A table of an accelerator holds addresses as int64 [arrays, tensors] and a map of its blocks: which tensor a block of `BLOCK`
elements belongs to, and where in it the block starts. Scalars are float64 on the device: other values are no other kernel.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
import warnings
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.optim.native import _folder
from nldsl_torch.optim.program import Segment

BLOCK = 1024
CELLS = {torch.float32: "tl.float32", torch.float64: "tl.float64", torch.bfloat16: "tl.int16", torch.float16: "tl.float16"}

TRITON = '''
import triton
import triton.language as tl
{LIBRARY}

@triton.jit
def T(x: tl.constexpr):
    return tl.full((), x, {COMPUTE})

@triton.jit
def nl_load(at):
    return tl.load(at)

@triton.jit
def nl_load_in(at, inside):
    return tl.load(at, mask=inside, other=0)

@triton.jit
def nl_store(at, x):
    tl.store(at, x)

@triton.jit
def nl_store_in(at, x, inside):
    tl.store(at, x, mask=inside)

@triton.jit
def nl_raise(x):
    return x.to({COMPUTE})

@triton.jit
def nl_raise_bfloat16(x):
    return (x.to(tl.int32) << 16).to(tl.float32, bitcast=True).to({COMPUTE})

@triton.jit
def nl_round_bfloat16(x):
    x = x.to(tl.float32)
    u = tl.where(x == x, x, 0.0).to(tl.int32, bitcast=True)
    return tl.where(x == x, (u + 0x7FFF + ((u >> 16) & 1)) >> 16, 0x7FC0).to(tl.int16)

# what torch's functions of these names do: the larger and the smaller pass on a NaN, the sign of a zero is zero
@triton.jit
def nl_max(a, b):
    return tl.where(a != a, a, tl.where(b != b, b, tl.where(a > b, a, b)))

@triton.jit
def nl_min(a, b):
    return tl.where(a != a, a, tl.where(b != b, b, tl.where(a < b, a, b)))

@triton.jit
def nl_sign(a):
    return tl.where(a > 0, T(1.0), tl.where(a < 0, T(-1.0), T(0.0)))

@triton.jit
def nl_where(c, a, b):
    return tl.where(c > 0, a, b)

@triton.jit
def nl_abs(a):
    return tl.abs(a)
'''

ON_DEVICE = {
    "nl_exp(a)": "libdevice.exp(a)", "nl_log(a)": "libdevice.log(a)", "nl_log1p(a)": "libdevice.log1p(a)", "nl_tanh(a)": "libdevice.tanh(a)",
    "nl_erf(a)": "libdevice.erf(a)", "nl_pow(a, b)": "libdevice.pow(a, b)",
}  # fmt: skip
INTERPRETED = {
    "nl_exp(a)": "tl.exp(a)", "nl_log(a)": "tl.log(a)", "nl_log1p(a)": "tl.log(1.0 + a)", "nl_erf(a)": "tl.math.erf(a)",
    "nl_small_tanh(a, s)": "a * (1.0 - s / 3.0 + 2.0 * s * s / 15.0 - 17.0 * s * s * s / 315.0)",
    "nl_large_tanh(a, e)": "nl_sign(a) * ((1.0 - e) / (1.0 + e))",
    "nl_tanh(a)": "tl.where(tl.abs(a) < 0.01, nl_small_tanh(a, a * a), nl_large_tanh(a, tl.exp(-2.0 * tl.abs(a))))",
    "nl_pow(a, b)": "tl.where(a == 0, tl.where(b == 0, T(1.0), tl.where(b > 0, T(0.0), T(float('inf')))), tl.exp(b * tl.log(a)))",
}  # fmt: skip
ROUNDED_CORRECTLY = {  # as torch has them; what Triton makes of `/` and `tl.sqrt` in float32 is an approximation
    "tl.float32": {"nl_div(a, b)": "tl.math.div_rn(a, b)", "nl_sqrt(a)": "tl.math.sqrt_rn(a)"},
    "tl.float64": {"nl_div(a, b)": "a / b", "nl_sqrt(a)": "tl.sqrt(a)"},
}


def triton_source(segment: Segment, dtypes: tuple[torch.dtype, ...], interpreted: bool = False) -> str:
    """The module of a segment: `nl_run` over a table, `nl_once` on one tensor; `dtypes` are those of its reads, then of its writes."""
    compute = "tl.float64" if torch.float64 in dtypes else "tl.float32"
    library = "" if interpreted else "from triton.language.extra import libdevice\n"
    lines = [TRITON.format(COMPUTE=compute, LIBRARY=library)]
    for head, value in {**(INTERPRETED if interpreted else ON_DEVICE), **ROUNDED_CORRECTLY[compute]}.items():
        lines += ["@triton.jit", f"def {head}:", f"    return {value}", ""]
    arrays = [f"nl_array{i}" for i in range(len(dtypes))]
    lines += [*_block_pass(segment, dtypes, arrays, masked=False), *_block_pass(segment, dtypes, arrays, masked=True)]
    numbers = [f"    nl_number{i} = tl.load(nl_scalars + {i}).to({compute})" for i in range(len(segment.scalars) + 1)]
    call = ", ".join([*arrays, *(f"nl_number{i}" for i in range(len(segment.scalars) + 1))])
    lines += ['@triton.jit(do_not_specialize=["nl_tensors"])']
    lines += ["def nl_run(nl_owners, nl_starts, nl_sizes, nl_rows, nl_scalars, nl_tensors, nl_aligned: tl.constexpr):"]
    lines += ["    nl_block = tl.program_id(0)", "    nl_k = tl.load(nl_owners + nl_block).to(tl.int64)"]
    lines += [f"    nl_start = tl.multiple_of(tl.load(nl_starts + nl_block), {BLOCK})", "    nl_size = tl.load(nl_sizes + nl_k)", *numbers]
    for i, (name, dtype) in enumerate(zip(arrays, dtypes)):
        lines += [f"    {name} = tl.load(nl_rows + {i} * nl_tensors + nl_k).to(tl.pointer_type({CELLS[dtype]}))"]
    lines += ["    if nl_aligned:", *(f"        {name} = tl.multiple_of({name}, 16)" for name in arrays)]
    lines += [f"    nl_at = nl_start + tl.arange(0, {BLOCK})", f"    if nl_start + {BLOCK} <= nl_size:", f"        nl_full(nl_at, {call})"]
    lines += ["    else:", f"        nl_part(nl_at, nl_at < nl_size, {call})", ""]
    lines += ["@triton.jit", f"def nl_once(nl_size, nl_scalars, {', '.join(arrays)}):"]
    lines += [f"    nl_at = tl.program_id(0).to(tl.int64) * {BLOCK} + tl.arange(0, {BLOCK})", *numbers, f"    nl_part(nl_at, nl_at < nl_size, {call})"]
    return "\n".join([*lines, ""])


def _block_pass(segment: Segment, dtypes: Sequence[torch.dtype], arrays: Sequence[str], masked: bool) -> list[str]:
    """The pass over one block, all of it in the tensor or `masked`."""
    name, inside, end = ("part", ["nl_in"], ", nl_in") if masked else ("full", [], "")
    suffix = "_in" if masked else ""
    lines = ["@triton.jit", f"def nl_{name}({', '.join(['nl_at', *inside, *arrays, 'nl_scale', *segment.scalars])}):"]
    for read, at, dtype in zip(segment.reads, arrays, dtypes):
        scale = "nl_scale * " if read == "g" else ""
        lines += [f"    {read} = {scale}nl_raise{_kind(dtype)}(nl_load{suffix}({at} + nl_at{end}))"]
    lines += [f"    {line.strip()}" for line in segment.triton.strip().splitlines()]
    for write, at, dtype in zip(segment.writes, arrays[len(segment.reads) :], dtypes[len(segment.reads) :]):
        value = f"nl_round_bfloat16(new_{write})" if dtype == torch.bfloat16 else f"new_{write}"
        lines += [f"    nl_store{suffix}({at} + nl_at, {value}{end})"]
    return [*lines, ""]


def _kind(dtype: torch.dtype) -> str:
    return "_bfloat16" if dtype == torch.bfloat16 else ""


# --- whether and how -----------------------------------------------------------------------------------------


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _installed() -> bool:
    try:
        importlib.import_module("triton.language")
    except Exception:  # an installation that cannot be imported is none
        return False
    return True


def usable(device: torch.device) -> bool:
    """Whether passes over tensors of a device are Triton's."""
    if interpreting():
        return device.type == "cpu" and _installed()
    return device.type == "cuda" and _installed() and torch.cuda.get_device_capability(device)[0] >= 7


def capturing(device: torch.device) -> bool:
    """Whether what is launched now becomes a graph that runs later."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@functools.cache
def triton_pass(segment: Segment, dtypes: tuple[torch.dtype, ...]) -> TritonPass | None:
    """The segment for arrays of these dtypes, or None where it has to run eagerly."""
    if not segment.triton or not all(dtype in CELLS for dtype in dtypes):
        return None
    try:
        return TritonPass(segment, _module(triton_source(segment, dtypes, interpreting())))
    except Exception as error:
        _unusable(segment, error)
        return None


def _module(source: str) -> ModuleType:
    """A text as a module: Triton reads the text of a function from its file."""
    name = f"nl_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    file = _folder() / f"{name}.py"
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=file.parent) as work:
            written = Path(work, file.name)
            written.write_text(source, encoding="utf-8")
            os.replace(written, file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def _unusable(segment: Segment, error: Exception) -> None:
    problem = (str(error).strip() or repr(error)).splitlines()[0]
    warnings.warn(f"pass `{segment.name}` runs as eager torch operations, several times slower: {problem}", RuntimeWarning, stacklevel=3)


# --- numbers and addresses on a device -----------------------------------------------------------------------


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device, without waiting for it: its pinned copy is not used for anything else."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.clone()


def _by_value(to: Tensor, values: Sequence[Any]) -> Tensor:
    """Write numbers that kernels carry as arguments: a captured graph reads no memory of the CPU."""
    torch._foreach_add_(list(to.zero_().unbind()), list(values))
    return to


def scalars_on(values: Sequence[Any], device: torch.device) -> Tensor:
    """Numbers as float64 on a device; those that are there already are not read."""
    there = {i: v for i, v in enumerate(values) if isinstance(v, Tensor) and v.device.type != "cpu"}
    floats = [0.0 if i in there else float(v) for i, v in enumerate(values)]
    if capturing(device):
        found = _by_value(torch.empty(len(floats), dtype=torch.float64, device=device), floats)
    else:
        found = _sent(torch.tensor(floats, dtype=torch.float64), device)
    for i, v in there.items():
        found[i].copy_(v.detach().reshape(()))
    return found


class BlockMap:
    """The blocks of the tensors of a table; element `ends[k]` of the whole is the first of tensor k."""

    def __init__(self, ends: array[int], device: torch.device) -> None:
        self.device, self.tensors = device, len(ends) - 1
        sizes = torch.tensor(ends, dtype=torch.int64).diff()
        blocks = (sizes + (BLOCK - 1)) // BLOCK
        self.count = int(blocks.sum())
        first = torch.repeat_interleave(blocks.cumsum(0) - blocks, blocks)
        self.owners = _sent(torch.repeat_interleave(torch.arange(self.tensors, dtype=torch.int32), blocks), device)
        self.starts = _sent((torch.arange(self.count) - first) * BLOCK, device)
        self.sizes = _sent(sizes, device)


CAPTURED: list[Any] = []  # what captured graphs read: a graph does not keep it, and may outlive its optimizer


class TritonPass:
    """A segment as kernels. What runs it says whether it ran: a kernel that cannot be made has changed nothing."""

    def __init__(self, segment: Segment, module: ModuleType) -> None:
        self.segment, self.module = segment, module
        self.proven: set[str] = set()
        self.broken = False

    def launch(self, entry: str, blocks: int, device: torch.device, *arguments: Any) -> bool:
        """Run an entry of the module on so many blocks."""
        if self.broken or blocks == 0:
            return not self.broken
        try:
            with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
                getattr(self.module, entry)[(blocks,)](*arguments, enable_fp_fusion=False)
        except Exception as error:
            if entry in self.proven:
                raise
            self.broken = True
            _unusable(self.segment, error)
            return False
        self.proven.add(entry)
        return True

    def once(self, tensors: Sequence[Tensor], scale: float, scalars: Sequence[Any]) -> bool:
        """Run on one tensor of each array, reads first; all have as many elements in the same order."""
        total, device = tensors[0].numel(), tensors[0].device
        cells = [t.detach().view(torch.int16) if t.dtype == torch.bfloat16 else t.detach() for t in tensors]
        return self.launch("nl_once", -(-total // BLOCK), device, total, scalars_on([scale, *scalars], device), *cells)


class TritonLaunch:
    """A pass and its table on the device; `moving` is the array whose addresses may be others at each step."""

    def __init__(self, made: TritonPass, arrays: list[array[int]], moving: int | None, blocks: BlockMap) -> None:
        self.made, self.arrays, self.moving, self.blocks = made, arrays, moving, blocks
        known = torch.stack([_addresses(a) for a in arrays])
        self.rows = _sent(known, blocks.device)
        self.known = known[moving or 0]
        self.still = _aligned(known if moving is None else torch.cat([known[:moving], known[moving + 1 :]]))
        self.aligned = self.still and _aligned(self.known)

    def run(self, ends: array[int], scale: float, scalars: Sequence[Any], threads: int) -> bool:
        """The pass over all tensors."""
        blocks = self.blocks
        rows, aligned = self._captured() if capturing(blocks.device) else self._rows()
        numbers = scalars_on([scale, *scalars], blocks.device)
        return self.made.launch("nl_run", blocks.count, blocks.device, blocks.owners, blocks.starts, blocks.sizes, rows, numbers, blocks.tensors, aligned)

    def _rows(self) -> tuple[Tensor, bool]:
        if self.moving is not None:
            now = _addresses(self.arrays[self.moving])
            if not torch.equal(now, self.known):
                self.known = now.clone()
                self.aligned = self.still and _aligned(now)
                self.rows[self.moving].copy_(_sent(self.known, self.blocks.device), non_blocking=True)
        return self.rows, self.aligned

    def _captured(self) -> tuple[Tensor, bool]:
        """Rows of the graph's own: steps between its runs may have other gradients."""
        if self not in CAPTURED:
            CAPTURED.append(self)
        rows, aligned = self.rows.clone(), self.still
        if self.moving is not None:
            now = self.arrays[self.moving]
            _by_value(rows[self.moving], now)
            aligned = aligned and _aligned(_addresses(now))
        return rows, aligned


def _addresses(pointers: array[int]) -> Tensor:
    """An array of addresses as a tensor in the same memory."""
    return torch.frombuffer(pointers, dtype=torch.int64)


def _aligned(addresses: Tensor) -> bool:
    return not bool((addresses & 15).any())
