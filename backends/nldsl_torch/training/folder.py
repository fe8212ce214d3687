"""The run folder: its files, its lock, and what `--fresh` does with an earlier run in it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO

from .checkpoint import previous_of
from .errors import folder_in_use, folder_unusable


class RunFolder:
    """A folder that one run at a time trains in; its first process is the one that holds the lock."""

    def __init__(self, path: str | Path, *, locked: bool = True) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.log = self.path / "log.jsonl"
        self.curve = self.path / "curve.png"
        self.sample = self.path / "sample.txt"
        self.summary = self.path / "summary.json"
        self._locked = locked
        self._lock: IO[str] | None = None

    def __enter__(self) -> RunFolder:
        if not self._locked:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")
        except (OSError, ValueError) as error:
            raise folder_unusable(self.path, getattr(error, "strerror", None) or str(error)) from None
        if not _try_lock(self._lock):
            self._lock.close()
            raise folder_in_use(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def set_aside(self) -> Path | None:
        """Move the files of an earlier run into a new numbered subfolder; None where there are none."""
        old = [file for file in self._files() if file.exists()]
        if not old:
            return None
        number = 1
        while (self.path / f"earlier-{number}").exists():
            number += 1
        target = self.path / f"earlier-{number}"
        try:
            target.mkdir()
            for file in old:
                os.replace(file, target / file.name)
        except OSError as error:
            raise folder_unusable(self.path, error.strerror or str(error)) from None
        return target

    def _files(self) -> tuple[Path, ...]:
        return (
            self.checkpoint,
            previous_of(self.checkpoint),
            damaged_of(self.checkpoint),
            self.log,
            self.curve,
            self.sample,
            self.summary,
        )


def damaged_of(checkpoint: Path) -> Path:
    """Where a damaged checkpoint is kept once the previous one has taken its place."""
    return checkpoint.with_name(f"{checkpoint.stem}.damaged{checkpoint.suffix}")


def _try_lock(file: IO[str]) -> bool:
    """Hold `file` until it is closed or the process ends; True where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
