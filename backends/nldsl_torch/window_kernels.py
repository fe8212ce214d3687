"""A linear memory inside a window: all ticks at once, in plain matrix products and, where writes read it, one triangular solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nldsl.core import Last
from nldsl.lower.affine import Read, Write
from nldsl.lower.numbers import number
from nldsl_torch.kernels import Kernels

if TYPE_CHECKING:
    from nldsl_torch.windows import WindowWriter


@dataclass
class WindowKernels(Kernels):
    """A machine over the ticks of one window at once, without a loop over chunks.

    Side by side in X stand the states before the window and what is written in it; a read is one product A X, and what
    the states become another. What is written and depends on reads, one side a tick at most, is solved for before.
    Whatever does not depend on a state is computed ahead, for all windows.

    Attributes:
        solved: the names of the sides that were solved for, by write.
    """

    window: WindowWriter | None = None
    solved: dict[str, str] = field(default_factory=dict)

    @property
    def w(self) -> WindowWriter:
        assert self.window is not None
        return self.window

    def whole(self, outputs: tuple[str, ...]) -> None:
        """Write the outputs and what the states become."""
        w = self.w
        wanted = dict.fromkeys(n for o in outputs for n, _ in self.machine.vectors[o].reads)
        turn = ".mT" if self.form.transposed else ""
        start = {s: f"{w.body.text(Last(s))}{turn}" for s in self.states}
        if not outputs and len(self.states) == 1 and not self.unknown:
            self._sum(start[self.states[0]], turn)
            return
        self.kernels()
        for unknown in self.unknown:
            self._solve(unknown, start)
        for name in wanted:
            self.say(f"{w.names.of(f'read {name}')} = {self._read(name, start, self.machine.writes)}")
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
        """The side of a write that becomes the rows of the state."""
        if e.name in self.solved:
            return self.solved[e.name]
        atom = self.other_side(e).constant
        assert atom is not None
        return self.vector(atom)

    def _solve(self, unknown: Write, start: dict[str, str]) -> None:
        """u of (I - A) u = x: A is what u reads of earlier u, x what it reads of everything else, and what it has besides."""
        side = self.other_side(unknown)
        terms = [self.rows(coefficient, f"({self._read(name, start, self.known)})") for name, coefficient in side.reads]
        if side.constant is not None and number(side.constant) != 0.0:
            terms.insert(0, self.vector(side.constant))
        A = self.combined(side, partial(self.product, w=unknown))
        x = " + ".join(terms)
        self.solved[unknown.name] = self.once(x if A is None else f"unit_solve({self.once(A, 'A')}, {x})", "u")

    def _read(self, name: str, start: dict[str, str], writes: Sequence[Write]) -> str:
        """What a read sees of the states before the window and of these writes."""
        read = self.machine.reads[name]
        crossed = read.operator.transposed != self.form.transposed
        probe = self.vector(read.probe)
        left, right = [], []
        for m in self.states:
            factor = self.start_factor(read, m)
            if factor is not None:
                left.append(f"{probe} * {factor}" if factor != "1" else probe)
                right.append(start[m] if crossed else f"{start[m]}.mT")
        for e in writes:
            kernel = self.kernel(read, e)
            if kernel is not None:
                seen, given = (self._side(e), self.known_side(e)) if crossed else (self.known_side(e), self._side(e))
                left.append(f"{self.score(probe, seen)} * ({kernel})")
                right.append(given)
        return f"{self.once(_beside(left, -1), 'A')} @ {self.once(_beside(right, -2), 'X')}"

    def _next(self, start: dict[str, str], turn: str) -> None:
        writes = [e for e in self.machine.writes if any((s, e.name) in self.K for s in self.states)]
        parts = []
        for e in writes:
            known = self.known_side(e)
            ends = [self.K.get((s, e.name)) for s in self.states]
            columns = [f"torch.zeros_like({known})" if K is None else f"{known} * {K}.select(-2, -1).unsqueeze(-1)" for K in ends]
            parts.append(_beside(columns, -1))
        E = self.once(_beside(parts, -2), "E")
        sides = self.once(_beside([self._side(e) for e in writes], -2), "V")
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
