"""The commands of this checkout, in an environment of its own (`.venv`): `python3 dev.py demo | check | soak | bench | faults`.

    demo [ARGUMENTS]   train the byte model of examples/byte_lm.nl; arguments go to `nldsl train`
    check [NAME ...]   lint, types, imports, tests (or those named); what CI runs
    soak [ARGUMENTS]   the slow tests; arguments go to pytest
    faults [NAME ...]  faults put into the compiler, and whether `nldsl verify` finds them: all, or those with such names
    bench [NAME] [...] benchmarks/NAME.py (gated_delta, deep_memory, optimizers), with arguments of its own
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")
# Published recurrences and optimizers to compare with. Of the first files are imported by path: the package would need
# triton. Tests skip without them.
ORACLES = "--no-deps fla-core einops pytorch_optimizer heavyball opt_einsum optax jax jaxlib ml_dtypes absl-py".split()
CHECKS = {
    "lint": [PYTHON, "-m", "ruff", "check", "."],
    "types": [PYTHON, "-m", "mypy"],
    "imports": [str(BIN / "lint-imports")],
    "tests": [PYTHON, "-m", "pytest", "-n", "2"],
}


def run(*command: str) -> int:
    """Print a command, run it in the checkout, say how long it took."""
    print("$", shlex.join(command).replace(f"{ROOT}{os.sep}", ""), flush=True)
    start = time.monotonic()
    # One thread: the tensors of the tests are tiny, and two processes share the cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if "pytest" in command else None
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    interrupted, code = False, None
    while code is None:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the command got it too, and ends in its own way
            interrupted = True
    if interrupted:
        sys.exit(130)
    print(f"  [{'ok' if code == 0 else f'exit code {code}'}, {time.monotonic() - start:.0f} s]", flush=True)
    return code


def install(extra: str) -> None:
    """Make `.venv` and install this checkout in it, unless that has been done for the present pins."""
    pins = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt", "dev.py"))
    done = VENV / f"installed-{extra}"
    stamp = hashlib.sha256(pins).hexdigest()
    if done.exists() and done.read_text() == stamp:
        return
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    steps = [[sys.executable, "-m", "venv", str(VENV)], [*pip, "-e", f".[{extra}]"]]
    for step in [*steps, [*pip, *ORACLES]] if extra == "dev" else steps:
        if run(*step):
            sys.exit(f"dev.py: the installation failed; see above, or remove {VENV} and try again")
    done.write_text(stamp)


def check(names: list[str]) -> int:
    if unknown := [name for name in names if name not in CHECKS]:
        print(f"dev.py: no check is called {', '.join(unknown)}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    install("dev")
    failed = [name for name in names or CHECKS if run(*CHECKS[name])]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed", flush=True)
    return 1 if failed else 0


def main(command: str = "", *arguments: str) -> int:
    rest = [a for a in arguments if a != "--"]
    if command == "demo":
        install("train")
        return run(str(BIN / "nldsl"), "train", "examples/byte_lm.nl", *rest)
    if command == "check":
        return check(rest)
    if command == "soak":
        install("dev")
        os.environ["HYPOTHESIS_PROFILE"] = "soak"
        return run(*CHECKS["tests"], "-m", "soak", *rest)
    if command == "faults":
        install("dev")
        return run(PYTHON, "tests/faults/kill.py", *rest)
    if command == "bench":
        install("dev")
        name, rest = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else ("gated_delta", rest)
        return run(PYTHON, f"benchmarks/{name}.py", *rest)
    print(__doc__, file=sys.stdout if command in ("-h", "--help", "help") else sys.stderr)
    return 0 if command in ("-h", "--help", "help") else 2


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"dev.py: Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
