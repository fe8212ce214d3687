"""Compiled rules against torch's own optimizers, and against the memory they have to touch.

    python benchmarks/optimizers.py --threads 1
    python benchmarks/optimizers.py --threads 2 --only adamw muon
    python benchmarks/optimizers.py --device cuda

Before anything is timed, each rule is compared with its counterpart over three steps; a ratio is printed only when they
agree. Then both alternate in one process, step by step, so that each finds the cache full of the other. Times are the
least and the median of many steps with the gradients in place.

adamw    one tensor of 10M entries, 198 tensors of a small GPT (23M), 2,000 tensors of 128, against `fused=True`
floor    entrywise rules, one of them written here, against their floor: 4 bytes for every entry of every array read or
         written, at the bandwidth of a pass over as many arrays that does next to nothing
muon     the matrices of the GPT, against torch.optim.Muon
m3       the same, against a step that orthogonalises the slow momentum every time
cold     the first step of 2,000 tensors with an empty kernel cache
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import nldsl
from nldsl_torch.optim.perform import Runner
from nldsl_torch.optim.program import Segment

LARGE = [(2500, 4000)]
WIDTH, LAYERS, WORDS = 320, 16, 8192
BLOCK = [(WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH,), (WIDTH,), (4 * WIDTH, WIDTH), (4 * WIDTH,),
         (WIDTH, 4 * WIDTH), (WIDTH,)]  # fmt: skip
GPT = [(WORDS, WIDTH), (256, WIDTH), *BLOCK * LAYERS, (WIDTH,), (WIDTH,)]
SMALL = [(8, 16)] * 2000
MATRICES = [s for s in BLOCK * LAYERS if len(s) == 2]

OWN = """
rule changed(lr = 0.001, betas = [0.9, 0.999], eps = 1e-8, weight_decay = 0.01) {
  t = count()
  memory exp_avg : like(w) = zeros { minimize 0.5 * sqnorm(exp_avg - g) by gd(1 - betas[0]) }
  memory exp_avg_sq : like(w) = zeros { minimize 0.5 * sqnorm(exp_avg_sq - g * g) by gd(1 - betas[1]) }
  size = sqrt(exp_avg_sq) / sqrt(1 - betas[1]^t) + eps
  caution = where(exp_avg * g, 1, 0)            # the line that is not AdamW's: no step against the gradient
  update (1 - lr * weight_decay) * last w - lr / (1 - betas[0]^t) * caution * exp_avg / size
}
"""


class Bench:
    """Tensors, steps and clocks on one device."""

    def __init__(self, device: str, repeats: int):
        self.device, self.repeats = device, repeats

    def parameters(self, shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        made = [nn.Parameter(torch.randn(s, generator=generator).to(self.device)) for s in shapes]
        for p in made:
            p.grad = torch.randn(p.shape, generator=generator).to(self.device)
        return made

    def time(self, step: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        step()
        self.wait()
        return (time.perf_counter() - start) * 1e3

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def race(self, steps: dict[str, Callable[[], object]], repeats: int | None = None, turn: int = 1) -> dict[str, tuple[float, float]]:
        """The least and the median time of each, in ms; they take turns of so many steps."""
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(max((repeats or self.repeats) // turn, 1)):
            for name, step in steps.items():
                times[name] += [self.time(step) for _ in range(turn)]
        return {name: (min(t), statistics.median(t)) for name, t in times.items()}


def agree(ours: list[nn.Parameter], theirs: list[nn.Parameter], tolerance: float = 2e-6) -> float:
    """The largest difference relative to the largest entry; raises where it is over the tolerance."""
    worst = max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in zip(ours, theirs, strict=True))
    if not worst < tolerance:
        raise SystemExit(f"no times: the two differ by {worst:.1e}")
    return worst


def show(name: str, found: dict[str, tuple[float, float]], note: str = "") -> None:
    first = next(iter(found.values()))
    for other, (least, median) in found.items():
        ratio = "" if other == next(iter(found)) else f"  x{least / first[0]:6.3f} least  x{median / first[1]:6.3f} median"
        print(f"  {name:28s} {other:22s} {least:9.3f} {median:9.3f} ms{ratio}")
        name = ""
    if note:
        print(f"  {'':28s} {note}")


def adamw(bench: Bench) -> None:
    for name, shapes in (("1 tensor, 10M", LARGE), (f"{len(GPT)} tensors, 23M", GPT), ("2,000 tensors of 128", SMALL)):
        theirs, ours = bench.parameters(shapes), bench.parameters(shapes)
        reference, rule = torch.optim.AdamW(theirs, fused=True), nldsl.optimizer("adamw", ours)
        for _ in range(3):
            reference.step()
            rule.step()
        worst = agree(ours, theirs)
        steps: dict[str, Callable[[], object]] = {"torch fused": reference.step, "nldsl": rule.step}
        show(name, bench.race(steps), f"equal to {worst:.0e}")
        if len(shapes) > 1000:  # few enough bytes to stay in the cache where nothing comes between two steps
            show("the same, ten steps a turn", bench.race(steps, bench.repeats * 4, turn=10))


def stream(bench: Bench, pattern: Segment, arrays: dict[str, Tensor]) -> Callable[[], object]:
    """A pass over the arrays of another one, with the same reads and writes, that does one addition an array and changes nothing."""
    total = " + ".join(pattern.reads)
    kernel = "\n".join([f"const T nothing = ({total}) * c;", *(f"const T new_{n} = {n} + nothing;" for n in pattern.writes)])

    def eager(*values: Tensor) -> tuple[Tensor, ...]:
        *given, c = values
        nothing = sum(given) * c
        return tuple(given[pattern.reads.index(n)] + nothing for n in pattern.writes)

    segment = Segment(f"stream_{pattern.name}", pattern.reads, pattern.writes, ("c",), eager, kernel)
    return lambda: one_pass(bench, segment, arrays, (0.0,))


def one_pass(bench: Bench, segment: Segment, arrays: dict[str, Tensor], scalars: tuple[float, ...]) -> tuple[Tensor, ...]:
    """An entrywise pass by itself, in place where it writes what it reads."""
    kept = {n: arrays[n] for n in segment.writes if n in arrays}
    run = Runner(kept, bench.device == "cpu", torch.get_num_threads(), bench.device != "cpu")
    return run(segment, tuple(arrays[n] for n in segment.reads), scalars)


def floor(bench: Bench) -> None:
    program = nldsl.load(OWN)
    for name in ("lion", "ademamix", "diagonal_delta_momentum", "sgd", "changed"):
        (p,) = bench.parameters(LARGE)
        numbers = {"momentum": 0.9} if name == "sgd" else {}
        rule = program.optimizer(name, [p], **numbers)
        rule.step()
        variant = rule.programs[name].variants[rule.programs[name].variant(rule.param_groups[0])]
        segment = variant.ticks[0].segment
        assert segment is not None and p.grad is not None
        arrays = {"w": p.detach(), "g": p.grad, **{k: v for k, v in rule.state[p].items() if k != "step"}}
        race_floor(bench, f"{name}, 10M", rule.step, [(segment, arrays)])
    (p,) = bench.parameters(LARGE)
    race_floor(bench, "m3, its entrywise body, 10M", *m3_passes(bench, p))


Passes = list[tuple[Segment, dict[str, Tensor]]]


def race_floor(bench: Bench, name: str, step: Callable[[], object], passes: Passes) -> None:
    """A step against passes over its own arrays: where these lie in memory is the same for both."""
    streams = [stream(bench, segment, arrays) for segment, arrays in passes]
    for run in streams:
        run()
    found = bench.race({"floor": lambda: [run() for run in streams], "nldsl": step})
    moved = sum(len(s.reads) + len(s.writes) for s, _ in passes)
    entries = passes[0][1]["w" if "w" in passes[0][1] else passes[0][0].reads[0]].numel()
    show(name, found, f"{4 * moved} bytes an entry, {4 * moved * entries / found['floor'][0] / 1e6:.1f} GB/s")


def m3_passes(bench: Bench, p: nn.Parameter) -> tuple[Callable[[], object], Passes]:
    """The entrywise passes of a step of M3 over its own arrays, without the scaling before its matrix products."""
    program = nldsl.optimizer_class("m3").programs["m3"]
    tick = program.variants[()].ticks[0]
    found: list[tuple[Segment, dict[str, Tensor], tuple[float, ...]]] = []

    def record(segment: Segment, arrays: tuple[Tensor, ...], scalars: tuple[float, ...]) -> tuple[Tensor, ...]:
        given = dict(zip(segment.reads, arrays, strict=True))
        found.append((segment, given, tuple(float(c) for c in scalars)))
        return one_pass(bench, *found[-1])

    assert p.grad is not None and tick.function is not None
    arrays = {"w": p.detach(), "g": p.grad} | {s.name: torch.zeros_like(p.detach()) for s in program.variants[()].states}
    tick.function(arrays, tick.prologue(2.0, program.numbers({})), record)
    body = [each for each in found if set(each[0].writes) <= arrays.keys()]
    return lambda: [one_pass(bench, *each) for each in body], [(segment, given) for segment, given, _ in body]


def muon(bench: Bench) -> None:
    theirs, ours = bench.parameters(MATRICES), bench.parameters(MATRICES)
    reference, rule = torch.optim.Muon(theirs), nldsl.optimizer("muon", ours)
    for _ in range(2):
        reference.step()
        rule.step()
    worst = agree(ours, theirs, 1e-3)  # bfloat16 inside
    show(f"muon, {len(MATRICES)} matrices", bench.race({"torch.optim.Muon": reference.step, "nldsl": rule.step}, max(bench.repeats // 6, 4)),
         f"equal to {worst:.0e}")  # fmt: skip


class LiteralM3:
    """Algorithm 1 of NL in eager torch, both momenta orthogonalised at every step."""

    def __init__(self, params: list[nn.Parameter], lr: float = 1e-3, betas: tuple[float, ...] = (0.9, 0.999, 0.9), f: int = 100):
        self.params, self.lr, self.betas, self.f, self.t = params, lr, betas, f, 0
        self.m1, self.m2, self.v, self.used, self.total = ([torch.zeros_like(p) for p in params] for _ in range(5))

    @staticmethod
    def orthogonal(m: Tensor) -> Tensor:
        a, b, c = 3.4445, -4.775, 2.0315
        x = m / m.norm().clamp(min=1e-7)
        x = x.mT if m.shape[0] > m.shape[1] else x
        for _ in range(5):
            gram = x @ x.mT
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if m.shape[0] > m.shape[1] else x

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for p, m1, m2, v, used, total in zip(self.params, self.m1, self.m2, self.v, self.used, self.total, strict=True):
            m1.add_(p.grad, alpha=self.betas[0])
            v.addcmul_(p.grad, p.grad, value=self.betas[1])
            total.add_(p.grad)
            p.sub_(self.lr * (self.orthogonal(m1) + self.orthogonal(used)) / (v.sqrt() + 1e-8))
            if self.t % self.f == 0:
                m2.add_(total, alpha=self.betas[2])
                used.copy_(m2)
                total.zero_()


def m3(bench: Bench) -> None:
    theirs, ours = bench.parameters(MATRICES), bench.parameters(MATRICES)
    reference, rule = LiteralM3(theirs, f=2), nldsl.optimizer("m3", ours, frequency=2)
    for _ in range(3):
        reference.step()
        rule.step()
    worst = agree(ours, theirs, 1e-3)
    reference.f = 100
    rule.param_groups[0]["frequency"] = 100
    show(f"m3, {len(MATRICES)} matrices", bench.race({"both every step": reference.step, "nldsl": rule.step}, max(bench.repeats // 10, 3)),
         f"equal to {worst:.0e} over three steps with a period of two")  # fmt: skip


COLD = """
import time, torch, nldsl
ps = [torch.nn.Parameter(torch.randn(8, 16)) for _ in range(2000)]
for p in ps: p.grad = torch.randn(8, 16)
start = time.perf_counter()
nldsl.optimizer({rule!r}, ps).step()
print(f"  {rule}, 2,000 tensors: compiled and first step in {{time.perf_counter() - start:.2f}} s")
"""


def cold(bench: Bench) -> None:
    for rule in ("adamw", "lion"):
        with tempfile.TemporaryDirectory() as empty:
            subprocess.run([sys.executable, "-c", COLD.format(rule=rule)], env={**os.environ, "XDG_CACHE_HOME": empty}, check=True)


PARTS = {"adamw": adamw, "floor": floor, "muon": muon, "m3": m3, "cold": cold}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.device}, {given.threads} thread(s), float32; least and median of {given.repeats} steps or more")
    for name in given.only:
        print(name)
        PARTS[name](Bench(given.device, given.repeats))


if __name__ == "__main__":
    main()
