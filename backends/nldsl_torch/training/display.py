"""What a training run shows: a progress bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Shows notes and progress on `stream`; falls silent when nobody reads it any more."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._silent = quiet
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._steps = 0
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """Show a note, whole and in order with the progress."""
        if self._silent:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding)
        try:
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)
        except (OSError, ValueError):
            self._silent = True

    def start(self, step: int, steps: int) -> None:
        """Show progress from now on."""
        self._steps = steps
        self._last_line = time.monotonic()
        if self._silent or not self._stream.isatty():
            return
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            expand=True,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, numbers="")
        self._bar.start()

    def update(self, step: int, loss: float, bpb: float, tokens_per_s: float) -> None:
        """Show the numbers of a finished step."""
        numbers = f"loss {loss:.3f}  {bpb:.3f} bits/byte  {tokens_per_s:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"step {step}/{self._steps}  {numbers}")

    def stop(self) -> None:
        """End the progress; notes still show."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
