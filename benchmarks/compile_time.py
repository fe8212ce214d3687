"""Cold start of `torch.compile`: the byte model's first forward and backward, and one at another length, with an empty cache.

    python benchmarks/compile_time.py --layers 4 --ticks 512
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--ticks", type=int, default=512)
    ap.add_argument("--size", type=int, default=64, help="d of the model")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        measure(args)


def measure(args: argparse.Namespace) -> None:
    import torch

    import nldsl

    torch.set_num_threads(args.threads)
    program = nldsl.load(str(ROOT / "examples/byte_lm.nl"))
    sizes = {"d": args.size, "layers": args.layers, "heads": 2}
    modules = {"eager": program.module("lm", **sizes), "compiled": program.module("lm", compile=True, **sizes)}

    def once(name: str, ticks: int) -> float:
        x = torch.randint(0, 256, (8, ticks))
        start = time.perf_counter()
        modules[name](x).sum().backward()
        return time.perf_counter() - start

    print(f"{args.layers} layers, d = {args.size}, {args.threads} thread(s), torch {torch.__version__}")
    print(f"first call at {args.ticks} ticks: {once('compiled', args.ticks):.1f} s compiled, {once('eager', args.ticks):.2f} s eager")
    with torch.compiler.set_stance("fail_on_recompile"):
        print(f"first call at {args.ticks // 2 + 3} ticks: {once('compiled', args.ticks // 2 + 3):.2f} s compiled, nothing recompiled")
    for name in modules:
        print(f"{name}: {min(once(name, args.ticks) for _ in range(8)) * 1e3:.0f} ms a forward and backward of 8 sequences, best of 8")


if __name__ == "__main__":
    main()
