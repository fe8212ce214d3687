"""A `closed` memory inside a window: all ticks at once, in plain matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nldsl.core import Last
from nldsl.lower.affine import Read, Write
from nldsl.lower.numbers import number
from nldsl_torch.kernels import Kernels

if TYPE_CHECKING:
    from nldsl_torch.windows import WindowWriter


@dataclass
class WindowKernels(Kernels):
    """A `closed` machine over the ticks of one window at once, without a loop over chunks.

    Side by side in X stand the states before the window and what is written in it; a read is one product A X, and what
    the states become another. Whatever does not depend on a state is computed ahead, for all windows.
    """

    window: WindowWriter | None = None

    @property
    def w(self) -> WindowWriter:
        assert self.window is not None
        return self.window

    def closed(self, outputs: tuple[str, ...]) -> None:
        w = self.w
        wanted = dict.fromkeys(n for o in outputs for n, _ in self.machine.vectors[o].reads)
        turn = ".mT" if self.form.transposed else ""
        start = {s: f"{w.body.text(Last(s))}{turn}" for s in self.states}
        if not outputs and len(self.states) == 1:
            self._sum(start[self.states[0]], turn)
            return
        self.kernels()
        for name in wanted:
            self._read(name, start)
        self._next(start, turn)
        for output in outputs:
            w.affine(output, self.machine.vectors[output], {n: w.names.of(f"read {n}") for n in wanted})

    def say(self, line: str) -> None:
        self.w.body.lines.append(line)

    def define(self, name: str, text: str) -> str:
        return self.once(text, name)

    def decay(self, n: int, logs: str) -> tuple[str, str]:
        kernel, start = self.w.several(f"decay_kernel({logs})", f"L{n}", f"p{n}")
        return kernel, start

    def once(self, text: str, hint: str) -> str:
        return self.w.once(text, hint)

    def _side(self, e: Write) -> str:
        """The side of a known write that becomes the rows of the state."""
        atom = self.other_side(e).constant
        assert atom is not None
        return self.vector(atom)

    def _read(self, name: str, start: dict[str, str]) -> None:
        read = self.machine.reads[name]
        crossed = read.operator.transposed != self.form.transposed
        probe = self.vector(read.probe)
        left, right = [], []
        for m in self.states:
            factor = self.start_factor(read, m)
            if factor is not None:
                left.append(f"{probe} * {factor}" if factor != "1" else probe)
                right.append(start[m] if crossed else f"{start[m]}.mT")
        groups: dict[tuple[str, str], list[str]] = {}  # what is written for equal keys in equal measure counts together
        for e in self.known:
            kernel = self.kernel(read, e)
            if kernel is not None:
                seen, given = (self._side(e), self.known_side(e)) if crossed else (self.known_side(e), self._side(e))
                groups.setdefault((seen, kernel), []).append(given)
        for (seen, kernel), sides in groups.items():
            left.append(f"{self.score(probe, seen)} * ({kernel})")
            right.append(self._sum_of(sides))
        self.say(f"{self.w.names.of(f'read {name}')} = {self.once(_beside(left, -1), 'A')} @ {self.once(_beside(right, -2), 'X')}")

    def _next(self, start: dict[str, str], turn: str) -> None:
        writes = [e for e in self.known if any((s, e.name) in self.K for s in self.states)]
        groups: dict[str, list[str]] = {}
        for e in writes:
            known = self.known_side(e)
            ends = [self.K.get((s, e.name)) for s in self.states]
            columns = [f"torch.zeros_like({known})" if K is None else f"{known} * {K}.select(-2, -1).unsqueeze(-1)" for K in ends]
            groups.setdefault(_beside(columns, -1), []).append(self._side(e))
        E = self.once(_beside([*groups], -2), "E")
        parts = [self._sum_of(group) for group in groups.values()]
        sides = self.once(_beside(parts, -2), "V") if len(parts) > 1 else parts[0]
        added = [f"{sides}.mT @ {E}"]
        if len(self.states) > 1:
            added = [self.w.names.of(f"added {s}") for s in self.states]
            self.say(f"{', '.join(added)} = ({sides}.mT @ {E}).chunk({len(self.states)}, -1)")
        for state, total in zip(self.states, added, strict=True):
            for m in self.states:
                if state == m and self._whole(m):
                    total = f"{total} + {start[m]}"
                elif (state, m) in self.p:
                    total = f"torch.addcmul({total}, {start[m]}, {self.once(f'{self.p[state, m]}.select(-1, -1).unsqueeze(-1).unsqueeze(-1)', 'f')})"
            self.say(f"{self.w.final(state)} = {total}{turn}")

    def _sum_of(self, sides: list[str]) -> str:
        return self.once(" + ".join(sides), "V") if len(sides) > 1 else sides[0]

    def _whole(self, state: str) -> bool:
        """Whether a state loses nothing from tick to tick."""
        assert self.form.retention is not None
        return number(self.form.retention[state].number) == 0.0

    def start_factor(self, read: Read, m: str) -> str | None:
        return "1" if read.state == m and self._whole(m) else super().start_factor(read, m)

    def _sum(self, start: str, turn: str) -> None:
        """A state that nothing reads inside the window: only its last value."""
        assert self.form.retention is not None
        (state,) = self.states
        kept = number(self.form.retention[state].number)
        total, weight = start, ""
        if kept != 0.0:
            ends, tail = self.w.several(f"decay_ends({self.scalar(self.form.retention[state].number)})", "ends", "tail")
            total, weight = f"{start} * {self.once(f'{ends}.unsqueeze(-1).unsqueeze(-1)', 'f')}", f" * {self.once(f'{tail}.unsqueeze(-1)', 'f')}"
        for e in self.known:
            factor = self.write_factor(state, e)
            if factor is not None:
                known = self.once(f"{self.rows(factor.number, self.known_side(e))}{weight}", "n")
                total += f" + {self._side(e)}.mT @ {known}"
        self.say(f"{self.w.final(state)} = {f'({total}){turn}' if turn else total}")


def _beside(parts: list[str], dim: int) -> str:
    return parts[0] if len(parts) == 1 else f"beside([{', '.join(parts)}], {dim})"
