"""Does `nldsl verify` find faults? Each fault of `faults.py` is put into a copy of the compiler, and a spec is verified with it.

    python3 dev.py faults              all of them: a table and the kill rate; exit code 1 below 100 %
    python3 dev.py faults NAME ...     those with NAME in their name or in that of their file
    python3 dev.py faults --all ...    with every property that fails, not only the first
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import TypeVar

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("nldsl", "backends", "grammar")
LIMIT = 300.0  # seconds for one run
WORKERS = 2
T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Verdict:
    """What `nldsl verify` said: the properties that fail, the exit code (None where it was stopped), and its last lines."""

    failing: tuple[str, ...]
    code: int | None
    said: str
    seconds: float

    @property
    def killed(self) -> bool:
        """A crash is no answer: a property has to fail."""
        return bool(self.failing)

    @property
    def by(self) -> str:
        return ", ".join(self.failing) or f"survives (exit code {self.code}): {self.said.splitlines()[-1] if self.said else 'nothing said'}"


class Copy:
    """A copy of the compiler in a folder of its own, in which one file at a time is wrong.

    Its bytecode is checked by the hash of the source, and a run writes none: nothing stale can hide a fault.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        for part in PARTS:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *PARTS]
        subprocess.run(command, cwd=folder, check=True)

    @contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        file = self.folder / fault.file
        right = file.read_text(encoding="utf-8")
        try:
            file.write_text(fault.put_into(right), encoding="utf-8")
            yield
        finally:
            file.write_text(right, encoding="utf-8")

    def verify(self, spec: str, options: Sequence[str], *, whole: bool = False) -> Verdict:
        """Verify a spec, up to the first property that fails unless `whole`."""
        start = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(self.folder), str(self.folder / "backends"))), "OMP_NUM_THREADS": "1",
                       "XDG_CACHE_HOME": str(self.folder.parent / "cache"), "NO_COLOR": "1"}  # fmt: skip
        command = [sys.executable, "-B", "-m", "nldsl", "verify", *located(spec), *options]
        process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        alarm = threading.Timer(LIMIT, process.kill)
        alarm.start()
        failing: list[str] = []
        said: list[str] = []
        stopped = False
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            found = re.match(r"  (\w+) +FAILS ", line)
            failing += [found[1]] if found else []
            if found and not whole:
                stopped = True
                process.kill()
                break
        process.stdout.close()
        code = process.wait()
        alarm.cancel()
        return Verdict(tuple(dict.fromkeys(failing)), None if stopped else code, "".join(said[-30:]).strip(), time.monotonic() - start)


def located(spec: str) -> list[str]:
    """The arguments of a spec: options as they stand, a file of this folder or of the examples by its path."""
    places = [Path(__file__).parent, ROOT / "examples"]
    return [next((str(p / word) for p in places if (p / word).is_file()), word) for word in shlex.split(spec)]


def trial(copy: Copy, fault: Fault, *, whole: bool = False) -> Verdict:
    """The fault's specs, up to one that kills it."""
    with copy.broken(fault):
        for spec in fault.specs:
            verdict = copy.verify(spec, fault.options, whole=whole)
            if verdict.killed:
                break
    return verdict


def control(copy: Copy, spec: str, options: Sequence[str], rejects: str) -> str | None:
    """What is wrong with a spec where the compiler is right: it has to hold, or to be rejected with the code it says."""
    verdict = copy.verify(spec, options, whole=True)
    if rejects:
        return None if verdict.code == 1 and rejects in verdict.said and not verdict.failing else f"is not rejected with {rejects}: {verdict.said}"
    return None if verdict.code == 0 and not verdict.failing else f"does not hold without a fault: {verdict.by}\n{verdict.said}"


def chosen(names: Sequence[str]) -> list[Fault]:
    return [f for f in FAULTS if not names or any(n in f.name or n in f.file for n in names)]


def row(fault: Fault, verdict: Verdict) -> str:
    return f"{fault.name:<42} {fault.file:<42} {verdict.by}  ({verdict.seconds:.0f} s)"


def by_kind(faults: Sequence[Fault], verdicts: Sequence[Verdict]) -> list[str]:
    """A table: the kinds of faults, how many there are, and the properties that fail, the most frequent first."""
    found: dict[str, list[str]] = {}
    for fault, verdict in zip(faults, verdicts):
        found.setdefault(fault.kind, []).extend(verdict.failing or ["survives"])
    count = Counter(f.kind for f in faults)
    return ["| kind | faults | found by |", "|---|---|---|",
            *(f"| {kind} | {count[kind]} | {', '.join(f'`{name}`' for name, _ in Counter(names).most_common())} |" for kind, names in sorted(found.items()))]  # fmt: skip


class Bench:
    """Copies of the compiler, and a worker for each."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor):
        self.pool, self.copies = pool, Queue[Copy]()
        for n in range(WORKERS):
            self.copies.put(Copy(folder / str(n)))

    def each(self, work: Callable[[Copy, T], R], items: Sequence[T], said: Callable[[T, R], str]) -> list[R]:
        """The results in order; a line for each as soon as it is there."""
        waiting = {self.pool.submit(self._with_copy, work, item): item for item in items}
        for number, done in enumerate(as_completed(waiting), 1):
            print(f"{number:>3}/{len(items)}  {said(waiting[done], done.result())}", flush=True)
        return [done.result() for done in waiting]

    def _with_copy(self, work: Callable[[Copy, T], R], item: T) -> R:
        copy = self.copies.get()
        try:
            return work(copy, item)
        finally:
            self.copies.put(copy)


def main(*arguments: str) -> int:
    whole = "--all" in arguments
    faults = chosen([a for a in arguments if a != "--all"])
    if not faults:
        print(f"no fault is called so; there are {', '.join(f.name for f in FAULTS)}", file=sys.stderr)
        return 2
    specs = list(dict.fromkeys((spec, f.options, f.rejects) for f in faults for spec in f.specs))
    with tempfile.TemporaryDirectory(prefix="nldsl-faults-") as folder, ThreadPoolExecutor(WORKERS) as pool:
        bench = Bench(Path(folder), pool)
        print(f"{len(specs)} specs without a fault", flush=True)
        problems = bench.each(lambda copy, s: control(copy, *s), specs, lambda s, problem: f"{s[0]} {problem or 'as it should be'}")
        if any(problems):
            return 1
        print(f"{len(faults)} faults", flush=True)
        verdicts = bench.each(lambda copy, f: trial(copy, f, whole=whole), faults, row)
    print("", *(row(f, v) for f, v in zip(faults, verdicts)), "", *by_kind(faults, verdicts), "", sep="\n")
    survivors = [f.name for f, v in zip(faults, verdicts) if not v.killed]
    killed = len(faults) - len(survivors)
    print(f"kill rate: {killed} of {len(faults)}, {100 * killed / len(faults):.0f} %" + (f"; survivors: {', '.join(survivors)}" if survivors else ""))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
