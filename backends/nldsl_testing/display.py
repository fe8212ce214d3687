"""What a run of `verify` shows while it works: in a terminal, the property that is tried and how many examples it has had."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.status import Status


class Display:
    """Progress on a stream, where that is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._status: Status | None = Status("", console=Console(file=stream)) if stream.isatty() else None

    def trying(self, subject: str, name: str, examples: int, of: int) -> None:
        if self._status is not None:
            self._status.update(f"{subject}: {name}, {examples} of {of} examples")

    def __enter__(self) -> Display:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
