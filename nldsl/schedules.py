"""How a block is to run, as a value: what its `schedule` asks of memories. It never changes what is computed.

    schedule gated_delta {
      S by solve, chunk = 16
      M recompute
      * by loop
    }
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from nldsl.source import Span

FORMS = ("closed", "solve", "scan", "windows", "loop")


@dataclass(frozen=True)
class Ask:
    """One thing asked of one memory.

    Attributes:
        memory: as `explain` names it; all that is below it, `M.up` of `M`, is meant too. `*` is every memory of the block.
        word: form, chunk or recompute.
        value: the form's name, the ticks of a chunk, or True.
    """

    memory: str
    word: str
    value: str | int
    span: Span | None = field(default=None, compare=False, repr=False)

    def means(self, state: str) -> bool:
        """Whether a state, or the one it is a copy of (see `nldsl.lower.stagger`), is asked for."""
        state = state.partition("~")[0]
        return self.memory == "*" or state == self.memory or state.startswith(f"{self.memory}.")

    @property
    def where(self) -> str:
        return "by schedule" + (f" ({self.span.where})" if self.span is not None else "")

    @property
    def spelled(self) -> str:
        """The memory as a text names it: `F[4]`."""
        return re.sub(r"\.(\d+)", r"[\1]", self.memory)

    def __str__(self) -> str:
        how = {"form": f"by {self.value}", "chunk": f"chunk = {self.value}"}.get(self.word, self.word)
        return f"{self.spelled} {how}"


@dataclass(frozen=True)
class Schedule:
    """What is asked of the memories of a block, in order. Nothing asked leaves the choice to the compiler."""

    asks: tuple[Ask, ...] = ()

    def asked(self, word: str, states: Collection[str]) -> Ask | None:
        """What holds for a recurrence with these states; what names a memory wins over `*`."""
        found = [a for a in self.asks if a.word == word and any(map(a.means, states))]
        return min(found, key=lambda a: a.memory == "*", default=None)

    def loops(self, states: Collection[str]) -> Ask | None:
        """What makes a recurrence with these states run tick by tick: one of its memories is enough."""
        named = [a for a in self.asks if a.word == "form" and a.memory != "*" and any(map(a.means, states))]
        asks = named or [a for a in self.asks if a.word == "form" and a.memory == "*"]
        return next((a for a in asks if a.value == "loop"), None)

    def __str__(self) -> str:
        return "  ".join(map(str, self.asks))


def everything(word: str, value: str | int = True) -> Schedule:
    """The same asked of every memory.

    >>> str(everything("form", "loop"))
    '* by loop'
    """
    return Schedule((Ask("*", word, value),))
