"""Gated delta rule, forward + backward: the compiled rule against fla's chunk reference and softmax attention.

S' = a S - b (a S k - v) k^T, read after the write, a = exp(g). Ours is the output of the compiler for the `.nl` text below.
It is checked first against a float64 loop over tokens (output and all gradients, a ratio is printed only when it agrees).
Then all of them alternate in one process. Run:

    python benchmarks/gated_delta.py --threads 1 --lengths 512 2048 8192
    python benchmarks/gated_delta.py --device cuda

fla: `pip install --no-deps fla-core einops`; left out with a note when it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import nldsl

Candidate = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def load(path: Path, name: str):
    """Import one file by path, whatever its package's __init__ needs."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


RULE = """
block gated(heads, d) {
  each h in heads {
    in q, k, v : real[d]
    in g, b : real
    memory S : d -> d = zeros {
      key k  value v
      minimize 0.5 * sqnorm(S(k) - v) by decay(exp(min(g, 0))), gd(b)
    }
    o = S(q)
  }
  out y = o
}
"""


def compiled(H: int, D: int, device: str, dtype: torch.dtype) -> Candidate:
    """The rule as `.nl` text, compiled: the form is the compiler's choice."""
    return nldsl.load(RULE).module("gated", heads=H, d=D, device=device, dtype=dtype)


def loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """The rule itself, token by token."""
    S, out = q.new_zeros(*q.shape[:2], v.shape[-1], k.shape[-1]), []
    for qt, kt, vt, gt, bt in zip(*(x.unbind(2) for x in (q, k, v, g, b))):
        S = gt.exp()[..., None, None] * S
        error = torch.einsum("bhvk,bhk->bhv", S, kt) - vt
        S = S - bt[..., None, None] * error.unsqueeze(-1) * kt.unsqueeze(-2)
        out.append(torch.einsum("bhvk,bhk->bhv", S, qt))
    return torch.stack(out, 2)


def fla_chunk() -> Candidate | None:
    """fla's `naive_chunk_gated_delta_rule` (eager, C = 64), loaded by path: `fla.ops` cannot be imported without triton."""
    try:
        file = importlib.metadata.distribution("fla-core").locate_file("fla/ops/gated_delta_rule/naive.py")
        rule = load(Path(file), "fla_gated_delta_rule_naive").naive_chunk_gated_delta_rule
    except (ImportError, OSError) as why:
        print(f"fla left out: {why}")
        return None
    return lambda q, k, v, g, b: rule(q, k, v, g, b, chunk_size=64, scale=1.0)[0]


def inputs(T: int, dtype: torch.dtype, device: str, B: int, H: int, D: int, seed: int = 0) -> list[Tensor]:
    r = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, T, D, generator=r, dtype=torch.float64) for _ in range(3))
    g = torch.nn.functional.logsigmoid(torch.randn(B, H, T, generator=r, dtype=torch.float64) + 3)
    b = torch.randn(B, H, T, generator=r, dtype=torch.float64).sigmoid()
    k = torch.nn.functional.normalize(k, dim=-1)
    return [x.to(device, dtype).requires_grad_() for x in (q * D**-0.5, k, v, g, b)]


def outputs(f: Candidate, xs: list[Tensor]) -> list[Tensor]:
    """Output and the five gradients under one fixed cotangent."""
    o = f(*xs)
    w = torch.randn(o.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(o)
    return [o.detach(), *torch.autograd.grad(o, xs, w)]


def check(f: Candidate, device: str, shape: tuple[int, int, int]) -> float:
    """Largest RMS(error) / RMS(loop in float64) of output and gradients, at a length that is not a multiple of any chunk."""
    want = outputs(loop, inputs(300, torch.float64, device, *shape))
    turned = lambda *xs: f(*(x.transpose(1, 2) for x in xs)).transpose(1, 2)  # noqa: E731
    got = outputs(turned, inputs(300, torch.float32, device, *shape))
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(got, want))


def sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def once(f: Callable, xs: list[Tensor], cot: Tensor, device: str) -> float:
    sync(device)
    start = time.perf_counter()
    torch.autograd.grad(f(*xs), xs, cot)
    sync(device)
    return (time.perf_counter() - start) * 1e3


def candidates(args: argparse.Namespace) -> dict[str, tuple[Callable, bool]]:
    """name -> (function, whether it wants fla's [B, T, H, D] layout)."""
    _, H, D = args.shape
    ours = compiled(H, D, args.device, torch.float32)
    sdpa = lambda q, k, v, g, b: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0) + 0 * (g + b).unsqueeze(-1)  # noqa: E731
    found = {"nldsl": (ours, True), "fla": (fla_chunk(), True), "sdpa": (sdpa, False)}
    return {name: pair for name, pair in found.items() if pair[0] is not None and name not in args.skip}


def arguments(T: int, headless: bool, args: argparse.Namespace) -> list[Tensor]:
    xs = inputs(T, torch.float32, args.device, *args.shape)
    return [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in xs] if headless else xs


def peak(name: str, T: int, args: argparse.Namespace) -> float:
    """Growth of the peak memory over one forward + backward, in MiB: of the device, or of a fresh process (after a small warm-up)."""
    command = [sys.executable, __file__, "--memory-of", name, "--lengths", str(T), "--threads", str(args.threads), "--device", args.device]
    command += ["--shape", *map(str, args.shape)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def resident() -> float:
    """Highest resident memory of this process in MiB. (getrusage would carry over what the parent process had.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def measure_peak(args: argparse.Namespace) -> float:
    f, headless = candidates(args)[args.memory_of]
    gpu = args.device == "cuda"
    B, H, D = args.shape
    for T in (256, args.lengths[0]):  # made without temporaries, which would raise the mark before the run; values do not matter
        rows = (B, T, H) if headless else (B, H, T)
        xs = [torch.full(shape, -0.1, device=args.device, requires_grad=True) for shape in [(*rows, D)] * 3 + [rows] * 2]
        cot = torch.ones_like(xs[2])
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20 if gpu else resident()
        once(f, xs, cot, args.device)
    return (torch.cuda.max_memory_allocated() / 2**20 if gpu else resident()) - before


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    ap.add_argument("--shape", type=int, nargs=3, default=[1, 4, 64], metavar=("B", "H", "D"))
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--seconds", type=float, default=8.0, help="measuring time a length (at least 5 rounds)")
    ap.add_argument("--skip", nargs="*", default=[], choices=["fla", "sdpa"])
    ap.add_argument("--no-memory", action="store_true")
    ap.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(measure_peak(args))
        return 0
    entries = candidates(args)
    error = check(entries["nldsl"][0], args.device, tuple(args.shape))
    print(f"torch {torch.__version__}, {args.device}, {args.threads} thread(s), B H D = {args.shape}")
    print(f"equivalence to the float64 loop, worst of output and gradients: {error:.1e} relative")
    if not error < 1e-5:
        print("not the same rule: nothing is measured")
        return 1
    print("| T | what | median ms | min ms | ratio to nldsl (quartiles) | peak MiB |\n|---|---|---|---|---|---|")
    for T in args.lengths:
        xs = {name: arguments(T, headless, args) for name, (_, headless) in entries.items()}
        cots = {name: torch.randn_like(x[2]) for name, x in xs.items()}
        times: dict[str, list[float]] = {name: [] for name in entries}
        for name, (f, _) in entries.items():
            once(f, xs[name], cots[name], args.device)
        stop = time.perf_counter() + args.seconds
        while time.perf_counter() < stop or len(times["nldsl"]) < 5:
            for name, (f, _) in entries.items():
                times[name].append(once(f, xs[name], cots[name], args.device))
        for name in entries:
            ratios = [a / b for a, b in zip(times[name], times["nldsl"])]
            low, mid, high = statistics.quantiles(ratios, n=4)
            memory = "" if args.no_memory else f"{peak(name, T, args):.0f}"
            print(f"| {T} | {name} | {statistics.median(times[name]):.1f} | {min(times[name]):.1f} | {mid:.2f} ({low:.2f}-{high:.2f}) | {memory} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
