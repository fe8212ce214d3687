"""Deep memories, forward + backward: what the compiler makes of a spec against the reference of the same memory.

    titans        two-layer MLP with momentum and decay, window 64, norm and residual inside, against titans-pytorch's NeuralMemory
    titans-plain  the same without the norms
    ttt           TTT-Linear, window 16, against fla's reference
    mesa          examples/mesa_net.nl, whose system is solved by conjugate gradients in rounds of reads, against its own loop over ticks
    attention     examples/hope_attention.nl, two layers with stores between a memory and its loss, against its own loop over ticks
    decode        one `step` of examples/hope.nl against the same arithmetic written by hand
    compile       first call of examples/hope_lm.nl, at several depths, and of examples/hope.nl, with compile=True and an empty cache

Each is checked for equality first, gradients included, and not measured where it differs. Then both alternate in one process. Run:

    python benchmarks/deep_memory.py titans --lengths 2048 8192
    python benchmarks/deep_memory.py ttt --compile
    python benchmarks/deep_memory.py titans --schedule "M recompute"
    python benchmarks/deep_memory.py decode compile

`.venv/bin/pip install -c constraints.txt titans-pytorch`; fla-core is there; what is not installed is left out with a note.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from decode import decode
from gated_delta import load, resident, sync
from torch import Tensor
from torch.nn import functional as F

import nldsl

ROOT = Path(__file__).resolve().parent.parent

PLAIN = "z = down(gelu(up(x)))  out y = z"
RESIDUAL = """param gamma : real[d]
  z = down(gelu(up(x)))  c = z - mean(z)
  out y = x + c / sqrt(sqnorm(c) / d + 0.00001) * (gamma + 1)"""
TITANS = """
block mlp(d, hidden) { in x : real[d]  param up : d -> hidden  param down : hidden -> d  BODY }
block rms(n, eps) { in x : real[n]  param weight : real[n] = ones  out y = weight * x / sqrt(sqnorm(x) / n + eps) }
block lmm(d = 256, heads = 4, dk = 64, hidden = 256, C = 64, eps = 1) {
  in x : real[d]
  a = STORE
  b = READ
  memory pool : real[d] every C { minimize 0.5 * sqnorm(pool - a) over mean by gd(1) }
  each h in heads {
    param Wq, Wk, Wv : d -> dk
    param ws, wm, wd, wg : d -> 1
    param bs, bm, bd : real
    memory M : mlp(dk, hidden) = learned every C {
      key Wk(a)  value Wv(a)
      minimize 0.1 * sigmoid(ws(a) + bs) * sqnorm(M(Wk(a)) - Wv(a)) / dk over sum
          by titans(theta = 1, eta = sigmoid(wm(pool) + bm), alpha = sigmoid(wd(pool) + bd))
    }
    o = M(Wq(b)) * sigmoid(wg(b))
  }
  param Wo : heads * dk -> d
  out y = Wo(flatten(o))
}
"""
TTT = """
block affine(n) { in x : real[n]  param W : n -> n  param b : real[n]  out y = W(x) + b }
block ttt(heads, dk, window = 16) {
  each h in heads {
    in q, k, v : real[dk]
    in eta : real
    param gamma, beta : real[dk]
    memory f : affine(dk) = zeros {
      key k  value v - k
      minimize 0.5 * sqnorm(gamma * norm(f(k) - mean(f(k))) + beta - (v - k)) at start(window) by gd(eta)
    }
    z = f(q)
    o = z + gamma * norm(z - mean(z)) + beta
  }
  out y = o
}
"""


@dataclass
class Pair:
    """Ours, the reference, the inputs at T ticks, and the parameters of both that correspond."""

    ours: Callable
    peer: Callable
    inputs: Callable[[int], list[Tensor]]
    params: tuple[list[Tensor], list[Tensor]]
    turned: bool = True  # whether matrices of the memory stand the other way round in the reference


def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def like(theirs: Tensor, mine: Tensor) -> Tensor:
    """A parameter of the reference in our layout: matrices of the memory stand the other way round there."""
    return theirs.mT if theirs.dim() == mine.dim() == 3 else theirs.view(mine.shape)


def titans(dtype: torch.dtype, device: str, plain: bool = False, **how: Any) -> Pair:
    from titans_pytorch import NeuralMemory
    from titans_pytorch.memory_models import MemoryMLP

    torch.manual_seed(0)
    peer = NeuralMemory(
        dim=256, heads=4, dim_head=64, chunk_size=64, batch_size=64, model=MemoryMLP(64, depth=2, expansion_factor=4.0),
        default_step_transform_max_lr=1e-1, mem_model_norm_add_residual=not plain, pre_rmsnorm=not plain,
    ).to(device, dtype)  # fmt: skip
    spec = TITANS.replace("BODY", PLAIN if plain else RESIDUAL)
    for name in ("STORE", "READ"):
        spec = spec.replace(name, "x" if plain else f"rms(x, n = d, eps = {torch.finfo(dtype).eps:.30f})")
    ours = nldsl.load(spec).module("lmm", device=device, dtype=dtype, **how)
    p = dict(ours.named_parameters())
    mine = [p[n] for n in ("Wk", "Wv", "Wq", "ws", "wm", "wd", "wg")]
    layers = (peer.to_keys, peer.to_values, peer.to_queries, peer.to_adaptive_step, peer.to_momentum, peer.to_decay_factor, peer.retrieve_gate)
    theirs = [layer[0].weight if hasattr(layer, "__getitem__") else layer.weight for layer in layers]
    mine += [p["bs"], p["bm"], p["bd"], p["Wo"]]
    theirs += [peer.to_adaptive_step[0].bias, peer.to_momentum[0].bias, peer.to_decay_factor[0].bias, peer.combine_heads.weight]
    memory = dict(zip(peer.memory_model_parameter_names, peer.memory_model_parameters, strict=True))
    for own, name in (("M_up_init", "weights.0"), ("M_down_init", "weights.1"), ("M_gamma_init", "norm.gamma")):
        found = [x for n, x in memory.items() if n.endswith(name)]
        mine, theirs = (mine + [p[own]], theirs + found) if found else (mine, theirs)
    with torch.no_grad():
        for a, b in zip(mine, theirs, strict=True):
            a.copy_(like(b, a))
    return Pair(ours, lambda x: peer(x)[0], lambda T: [random((1, T, 256), 1, dtype, device).requires_grad_()], (mine, theirs))


def ttt(dtype: torch.dtype, device: str, **how: Any) -> Pair:
    """fla weighs all keys a query sees with the query's own rate; where a window has one rate that is the published rule."""
    file = importlib.metadata.distribution("fla-core").locate_file("fla/ops/ttt/naive.py")
    rule = load(Path(file), "fla_ttt_naive").chunk_ttt_linear_ref
    H, D = 4, 64
    ours = nldsl.load(TTT).module("ttt", heads=H, dk=D, device=device, dtype=dtype, **how)
    with torch.no_grad():
        ours.gamma.copy_(1 + 0.1 * random((H, D), 5, dtype, device))
        ours.beta.copy_(0.1 * random((H, D), 6, dtype, device))

    def inputs(T: int) -> list[Tensor]:
        q, k, v = (random((1, T, H, D), seed, dtype, device) for seed in range(3))
        rate = 0.5 * random((1, -(-T // 16), H), 4, dtype, device).sigmoid()
        return [x.requires_grad_() for x in (q, F.normalize(k, dim=-1), v, rate)]

    def rates(rate: Tensor, T: int) -> Tensor:
        return rate.repeat_interleave(16, 1)[:, :T]

    def theirs(q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> Tensor:
        # In place, it would change its inputs.
        return rule(q * 1, k, v, ours.gamma, ours.beta, rates(rate, q.shape[1]).unsqueeze(-1), scale=1.0)[0]

    params = [ours.gamma, ours.beta]
    return Pair(lambda q, k, v, rate: ours(q, k, v, rates(rate, q.shape[1])), theirs, inputs, (params, params))


def mesa(dtype: torch.dtype, device: str, **how: Any) -> Pair:
    program = nldsl.load(str(ROOT / "examples/mesa_net.nl"))
    ours = program.module("mesa_net", d=256, steps=15, device=device, dtype=dtype, **how)
    loop = program.module("mesa_net", d=256, steps=15, device=device, dtype=dtype, schedule="* by loop")
    with torch.no_grad():
        ours.lam.copy_(random((4, 64), 2, dtype, device))  # were all channels alike, the system would be solved too soon, and gradients be noise
    loop.load_state_dict(ours.state_dict())
    params = list(ours.parameters()), list(loop.parameters())
    return Pair(ours, loop, lambda T: [random((1, T, 256), 1, dtype, device).requires_grad_()], params, turned=False)


def attention(dtype: torch.dtype, device: str, **how: Any) -> Pair:
    program = nldsl.load(str(ROOT / "examples/hope_attention.nl"))
    ours = program.module("hope_attention", device=device, dtype=dtype, **how)
    loop = program.module("hope_attention", device=device, dtype=dtype, schedule="* by loop")
    loop.load_state_dict(ours.state_dict())

    def inputs(T: int) -> list[Tensor]:
        return [torch.randint(256, (1, T), generator=torch.Generator().manual_seed(n)).to(device) for n in (1, 2)]

    params = list(ours.parameters()), list(loop.parameters())
    return Pair(lambda *xs: ours(*xs)["logits"], lambda *xs: loop(*xs)["logits"], inputs, params, turned=False)


def real(xs: list[Tensor]) -> list[Tensor]:
    return [x for x in xs if x.is_floating_point()]


PAIRS = {"attention": attention, "titans": titans, "titans-plain": partial(titans, plain=True), "ttt": ttt, "mesa": mesa}


def how(args: argparse.Namespace) -> dict[str, Any]:
    """Of `module`, for nldsl's side."""
    return {"compile": args.compile} | ({"schedule": args.schedule} if args.schedule else {})


def results(f: Callable, xs: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    y = f(*xs)
    return [y.detach(), *torch.autograd.grad(y, [*real(xs), *params], random(tuple(y.shape), 9, y.dtype, str(y.device)))]


def check(make: Callable, device: str, how: dict[str, Any]) -> tuple[float, float]:
    """Largest RMS(difference) / RMS(reference) of output and gradients, as (float64, float32 where the reference is float32)."""
    worst = []
    for dtype in (torch.float64, torch.float32):
        pair = make(dtype, device, **how)
        a = results(pair.ours, pair.inputs(336), pair.params[0])
        b = results(pair.peer, pair.inputs(336), pair.params[1])
        if pair.turned:
            b[len(b) - len(pair.params[0]) :] = [like(y, x) for x, y in zip(pair.params[0], b[len(b) - len(pair.params[0]) :], strict=True)]
        worst.append(max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True)))
    return worst[0], worst[1]


def once(f: Callable, xs: list[Tensor], params: list[Tensor], device: str) -> float:
    sync(device)
    start = time.perf_counter()
    y = f(*xs)
    torch.autograd.grad(y, [*real(xs), *params], torch.ones_like(y))
    sync(device)
    return (time.perf_counter() - start) * 1e3


def peak(task: str, who: str, T: int, args: argparse.Namespace) -> float:
    """Growth of the peak memory over one forward + backward, in MiB: of the device, or of a fresh process (after a small warm-up)."""
    command = [sys.executable, __file__, task, "--memory-of", who, "--lengths", str(T), "--threads", str(args.threads), "--device", args.device]
    command += ["--compile"] * (args.compile and who == "nldsl") + (["--schedule", args.schedule] if args.schedule else [])
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure_peak(args: argparse.Namespace) -> float:
    pair = PAIRS[args.tasks[0]](torch.float32, args.device, **how(args))
    f, params = (pair.ours, pair.params[0]) if args.memory_of == "nldsl" else (pair.peer, pair.params[1])
    gpu = args.device == "cuda"
    for T in (192, args.lengths[0]):
        xs = pair.inputs(T)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20 if gpu else resident()
        once(f, xs, params, args.device)
    return (torch.cuda.max_memory_allocated() / 2**20 if gpu else resident()) - before


def compare(task: str, args: argparse.Namespace) -> int:
    try:
        exact, single = check(PAIRS[task], args.device, how(args))
    except (ImportError, OSError) as why:
        print(f"{task} left out: {why}")
        return 0
    print(f"{task}: worst of output and gradients against the reference {exact:.1e} in float64, {single:.1e} in float32")
    if not (exact < 1e-6 and single < 1e-3):
        print("not the same memory: nothing is measured")
        return 1
    print("| task | T | what | least ms | median ms | ratio of least, of medians | peak MiB |\n|---|---|---|---|---|---|---|")
    for T in args.lengths:
        pair = PAIRS[task](torch.float32, args.device, **how(args))
        xs = pair.inputs(T)
        both = {"nldsl": (pair.ours, pair.params[0]), "reference": (pair.peer, pair.params[1])}
        times: dict[str, list[float]] = {who: [] for who in both}
        for f, params in both.values():
            once(f, xs, params, args.device)
        stop = time.perf_counter() + args.seconds
        while time.perf_counter() < stop or len(times["nldsl"]) < 3:
            for who, (f, params) in both.items():
                times[who].append(once(f, xs, params, args.device))
        least, middle = ({who: value(t) for who, t in times.items()} for value in (min, statistics.median))
        for who in both:
            ratio = "" if who == "nldsl" else f"{least[who] / least['nldsl']:.2f}, {middle[who] / middle['nldsl']:.2f}"
            memory = "" if args.no_memory else f"{peak(task, who, T, args):.0f}"
            print(f"| {task} | {T} | {who} | {least[who]:.1f} | {middle[who]:.1f} | {ratio} | {memory} |", flush=True)
    return 0


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"hope_lm, {n} layers": ("hope_lm", {"d": 96, "layers": n, "heads": 2}) for n in (1, 4)},
    "hope": ("hope", {"d": 64, "vocab": 256, "heads": 2}),
}


def compile_time(args: argparse.Namespace) -> int:
    """First calls with an empty cache, each model in a process of its own."""
    command = [sys.executable, __file__, "compile", "--device", args.device, "--threads", str(args.threads), "--lengths", *map(str, args.lengths)]
    return max(subprocess.run([*command, "--model", name], check=False).returncode for name in MODELS)


def first_calls(args: argparse.Namespace) -> int:
    """The first call of a model with an empty cache, in this process, the next, and one at another length."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        (block, sizes), T = MODELS[args.model], args.lengths[0] // 4
        for compile in (False, True):
            module = nldsl.load(str(ROOT / f"examples/{block}.nl")).module(block, sizes, device=args.device, compile=compile)
            taken = []
            for ticks in (T, T, T // 2 + 3):
                tokens = torch.randint(0, 256, (2, ticks + 1), device=args.device)
                start = time.perf_counter()
                module(tokens[:, :-1], tokens[:, 1:])["loss"].mean().backward()
                sync(args.device)
                taken.append(time.perf_counter() - start)
            print(f"{args.model}, {'compiled' if compile else 'eager'}: first call at T = {T} {taken[0]:.1f} s, second {taken[1]:.2f}, "
                  f"first at T = {T // 2 + 3} {taken[2]:.2f}", flush=True)  # fmt: skip
    return 0


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tasks", nargs="*", choices=[[], *PAIRS, "decode", "compile"], help="all of them by default")
    ap.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192])
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--seconds", type=float, default=8.0, help="measuring time a length (at least 3 rounds)")
    ap.add_argument("--no-memory", action="store_true")
    ap.add_argument("--compile", action="store_true", help="torch.compile what can be: regions and whole windows")
    ap.add_argument("--schedule", help="of nldsl's block, as between the braces of a `schedule`")
    ap.add_argument("--model", choices=MODELS, help="of `compile`, one of them in this process")
    ap.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(measure_peak(args))
        return 0
    if not args.model:
        print(f"torch {torch.__version__}, {args.device}, {args.threads} thread(s)", flush=True)
    other = {"decode": decode, "compile": first_calls if args.model else compile_time}
    failed = [task for task in args.tasks or [*PAIRS, *other] if (other[task](args) if task in other else compare(task, args))]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
