"""Entrywise passes as C++: one small translation unit for each segment and storage type, compiled once for a user and a machine.

A pass runs over a table of tensors: pointer rows, one for each array, and `ends`, where element `ends[k]` of the whole is the
first of tensor k. Threads take fixed shares of the elements; no result depends on their number.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.optim.program import Segment

STORAGE = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "nl_bfloat16", torch.float16: "_Float16"}
ALONE = 1 << 15  # fewer elements than this are one thread's work
FLAGS = ("-O3", "-shared", "-fPIC", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
PYTHON = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()  # the interpreter's functions are found when it loads us

PRELUDE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif
struct nl_bfloat16 { uint16_t bits; };
static inline float nl_load(float x) { return x; }
static inline double nl_load(double x) { return x; }
static inline void nl_store(float& to, float x) { to = x; }
static inline void nl_store(double& to, double x) { to = x; }
static inline float nl_load(nl_bfloat16 x) {
    const uint32_t u = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
static inline void nl_store(nl_bfloat16& to, float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    to.bits = x != x ? uint16_t(0x7FC0) : uint16_t((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
// what torch's functions of these names do: maximum and minimum pass on a NaN, the sign of a zero is zero
template <class T> static inline T maximum(T a, T b) { return a != a ? a : (b != b ? b : (a > b ? a : b)); }
template <class T> static inline T minimum(T a, T b) { return a != a ? a : (b != b ? b : (a < b ? a : b)); }
template <class T> static inline T sign(T a) { return T(a > T(0)) - T(a < T(0)); }
"""

HALF = """
static inline float nl_load(_Float16 x) { return static_cast<float>(x); }
static inline void nl_store(_Float16& to, float x) { to = static_cast<_Float16>(x); }
"""

RUN = """
extern "C" void nl_run(int64_t tensors, const int64_t* ends, const void* const* const* rows, const double* scalars, int threads) {
    const auto part = [&](int64_t lo, int64_t hi) {
        int64_t k = std::upper_bound(ends, ends + tensors + 1, lo) - ends - 1;
        for (; lo < hi; ++k) {
            const int64_t stop = std::min(hi, ends[k + 1]);
            if (k + AHEAD < tensors) {  // the cache sees what comes next in one tensor by itself, but not the next tensor
                const int64_t first = std::min<int64_t>(ends[k + AHEAD + 1] - ends[k + AHEAD], 1024);
                for (int a = 0; a < READS; ++a)
                    for (int64_t at = 0; at < first * SIZES[a]; at += 64) __builtin_prefetch(static_cast<const char*>(rows[a][k + AHEAD]) + at);
            }
            if (stop <= lo) continue;
            const void* at[ARRAYS];
            for (int a = 0; a < ARRAYS; ++a) at[a] = rows[a][k];
            nl_pass(at, lo - ends[k], stop - ends[k], scalars);
            lo = stop;
        }
    };
    const int64_t total = ends[tensors], block = 16384, blocks = (total + block - 1) / block;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            const int64_t id = omp_get_thread_num(), all = omp_get_num_threads();
            const int64_t lo = blocks * id / all * block, hi = blocks * (id + 1) / all * block;
            part(std::min(lo, total), std::min(hi, total));
        }
        return;
    }
#endif
    if (blocks > 0) part(0, total);
}
"""


def kernel_source(segment: Segment, dtypes: tuple[torch.dtype, ...]) -> str:
    """The translation unit of a segment; `dtypes` are those of its reads, then of its writes."""
    compute = "double" if torch.float64 in dtypes else "float"
    inputs, outputs = dtypes[: len(segment.reads)], dtypes[len(segment.reads) :]
    lines = [PRELUDE, *([HALF] if torch.float16 in dtypes else []), f"using T = {compute};"]
    lines += [f"enum {{ ARRAYS = {len(dtypes)}, READS = {len(inputs)}, AHEAD = 2 }};"]
    lines += [f"static const int SIZES[] = {{{', '.join(str(d.itemsize) for d in dtypes)}}};"]
    lines += ["static void nl_pass(const void* const* nl_at, int64_t nl_lo, int64_t nl_hi, const double* nl_scalars) {"]
    for i, dtype in enumerate(inputs):
        lines += [f"    const {STORAGE[dtype]}* nl_read{i} = static_cast<const {STORAGE[dtype]}*>(nl_at[{i}]);"]
    for i, dtype in enumerate(outputs):
        kind = STORAGE[dtype]
        lines += [f"    {kind}* nl_write{i} = static_cast<{kind}*>(const_cast<void*>(nl_at[{len(inputs) + i}]));"]
    lines += ["    const T nl_scale = static_cast<T>(nl_scalars[0]);"]
    lines += [f"    const T {name} = static_cast<T>(nl_scalars[{i + 1}]);" for i, name in enumerate(segment.scalars)]
    lines += ["#pragma omp simd", "    for (int64_t nl_i = nl_lo; nl_i < nl_hi; ++nl_i) {"]
    for i, name in enumerate(segment.reads):
        scale = "nl_scale * " if name == "g" else ""
        lines += [f"        const T {name} = {scale}nl_load(nl_read{i}[nl_i]);"]
    lines += [f"        {line}" for line in segment.kernel.strip().splitlines()]
    lines += [f"        nl_store(nl_write{i}[nl_i], new_{name});" for i, name in enumerate(segment.writes)]
    return "\n".join([*lines, "    }", "}", RUN])


class Kernel:
    """A compiled segment."""

    def __init__(self, segment: Segment, library: Any) -> None:
        self.segment = segment
        self.call = library.nl_run
        self.call.restype = None
        self.call.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]

    def run(self, ends: array[int], rows: array[int], total: int, scale: float, scalars: Sequence[float], threads: int) -> None:
        """Run over a table; `scale` multiplies the array named `g`."""
        numbers = array("d", (scale, *scalars))
        threads = 1 if total < ALONE else threads
        self.call(len(ends) - 1, ends.buffer_info()[0], rows.buffer_info()[0], numbers.buffer_info()[0], threads)

    def once(self, tensors: Sequence[Tensor], scale: float, scalars: Sequence[float], threads: int) -> None:
        """Run on one tensor of each array, reads first; all have as many elements in the same order."""
        total = tensors[0].numel()
        pointers = array("Q", [t.data_ptr() for t in tensors])
        start = pointers.buffer_info()[0]
        self.run(array("q", [0, total]), array("Q", range(start, start + 8 * len(tensors), 8)), total, scale, scalars, threads)


@functools.cache
def kernel(segment: Segment, dtypes: tuple[torch.dtype, ...]) -> Kernel | None:
    """The segment for arrays of these dtypes, or None where it has to run eagerly."""
    if not all(dtype in STORAGE for dtype in dtypes):
        return None
    library = compiled(kernel_source(segment, dtypes), f"pass `{segment.name}`")
    return None if library is None else Kernel(segment, library)


def compiled(source: str, what: str, *, python: bool = False) -> Any:
    """A translation unit as a loaded library, from the cache where it is there; None, and a warning once, where nothing compiles it."""
    compiler = _compiler()
    if compiler is None:
        _warn_once("no C++ compiler found ($CXX, c++, g++, clang++)")
        return None
    problem = ""
    base = (*FLAGS, *PYTHON) if python else FLAGS
    for flags in ((*base, "-march=native", "-fopenmp"), (*base, "-march=native"), base):
        key = hashlib.sha256("\0".join([source, compiler, *flags, _machine()]).encode()).hexdigest()[:32]
        try:
            file = _folder() / f"{key}.so"
            if not file.exists():
                _compile(compiler, flags, source, file)
            return ctypes.PyDLL(str(file)) if python else ctypes.CDLL(str(file))
        except subprocess.CalledProcessError as error:
            problem = next((line.partition("error:")[2] for line in error.stderr.splitlines() if "error:" in line), error.stderr[:200])
        except (OSError, subprocess.SubprocessError) as error:
            problem = str(error)
    _warn_once(f"{Path(compiler).name} cannot compile the {what} ({problem.strip() or 'it says nothing'})")
    return None


def _compile(compiler: str, flags: Sequence[str], source: str, file: Path) -> None:
    """Compile beside the target and rename: another process sees nothing or a whole file."""
    with tempfile.TemporaryDirectory(dir=file.parent) as work:
        text, made = Path(work, "pass.cpp"), Path(work, "pass.so")
        text.write_text(source, encoding="utf-8")
        command = [compiler, *flags, str(text), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        os.replace(made, file)


def _compiler() -> str | None:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((found for name in wanted if (found := shutil.which(name))), None)


@functools.cache
def _folder() -> Path:
    """A folder of this user that can be written; one of this process where the usual one cannot."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base, "nldsl", "kernels")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="nldsl-kernels-"))


@functools.cache
def _machine() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


_warned: list[str] = []


def _warn_once(problem: str) -> None:
    if not _warned:
        _warned.append(problem)
        warnings.warn(f"optimizer rules run as eager torch operations, several times slower: {problem}", RuntimeWarning, stacklevel=3)
