"""The chunk form of a machine: linear memories over chunks of ticks, as calls of the primitives in `runtime.py`.

In a chunk the unknown sides u solve (I - A) u = W s^T + c, the next start state is s P + u^T E + F, and reads are
Q s^T + O u + r. Several unknowns of one tick stand side by side in u.
"""

from __future__ import annotations

from functools import partial

from nldsl.core import Atom, Ref
from nldsl.lower.affine import Read, Write
from nldsl.lower.numbers import number
from nldsl.lower.plan import Form
from nldsl_torch.kernels import Kernels, tight


class Chunks(Kernels):
    """Writes the body of `block(streams of a stretch, s) -> (reads, s)` for one machine."""

    # --- the equations of a chunk ----------------------------------------------------------------------

    def solve(self) -> None:
        """Write A, W and c: (I - A) u = W s^T + c."""
        blocks = [[self.combined(self.other_side(u), partial(self.product, w=e)) for e in self.unknown] for u in self.unknown]
        self.say(f"A = {self._matrix(blocks)}")
        starts = [self.combined(self.other_side(u), self.start) for u in self.unknown]
        self.say(f"W = {self._interleave(starts, columns=True)}")
        constants = []
        for u in self.unknown:
            side = self.other_side(u)
            terms = [self.vector(side.constant)] if side.constant is not None and number(side.constant) != 0.0 else []
            for e in self.known:
                weights = self.combined(side, partial(self.product, w=e))
                if weights is not None:
                    terms.append(f"{tight(weights)} @ {self.vector(self._constant(e))}")
            constants.append(" + ".join(terms) if terms else None)
        self.say(f"c = {self._interleave(constants, columns=False)}")

    def _constant(self, w: Write) -> Atom:
        atom = self.other_side(w).constant
        assert atom is not None
        return atom

    def _matrix(self, blocks: list[list[str | None]]) -> str:
        """Blocks [u][e] of [.., C, C] as one [.., U, U], the unknowns of a tick side by side."""
        if len(blocks) == 1:
            return blocks[0][0] or "None"
        some = next(b for row in blocks for b in row if b is not None)
        self.say(f"zero = torch.zeros_like({some})")
        rows = [f"torch.stack([{', '.join(b or 'zero' for b in row)}], -1).flatten(-2)" for row in blocks]
        return f"torch.stack([{', '.join(rows)}], -2).flatten(-3, -2)"

    def _interleave(self, parts: list[str | None], columns: bool) -> str:
        if len(parts) == 1 and parts[0] is not None:
            return parts[0]
        if all(p is None for p in parts):
            return "None" if not columns else f"torch.zeros_like({self.some_known()}).repeat_interleave({len(self.unknown)}, -2)"
        some = next(p for p in parts if p is not None)
        return f"torch.stack([{', '.join(p or f'torch.zeros_like({some})' for p in parts)}], -2).flatten(-3, -2)"

    def ends(self) -> None:
        """Write E, P and F: s' = s P + u^T E + F."""

        def worth(w: Write) -> str:
            if self.by_channel:
                return f"n{self.order[w.name]} * tail" if self.write_factor(self.states[0], w) is not None else f"torch.zeros_like({self.some_known()})"
            columns = [
                f"{self.known_side(w)} * {self.K[s, w.name]}[..., -1, :, None]" if (s, w.name) in self.K else f"torch.zeros_like({self.known_side(w)})"
                for s in self.states
            ]
            return columns[0] if len(columns) == 1 else f"torch.cat([{', '.join(columns)}], -1)"

        if self.unknown:
            self.say(f"E = {self._interleave([worth(w) for w in self.unknown], columns=True)}")
        if self.by_channel:
            self.say("P = head[..., -1, :]")
        elif len(self.states) == 1:
            self.say("P = p1[..., -1:]")
        else:
            rows = [
                "torch.stack([" + ", ".join(f"{self.p[i, m]}[..., -1]" if (i, m) in self.p else "torch.zeros_like(p1[..., -1])" for i in self.states) + "], -1)"
                for m in self.states
            ]
            self.say(f"P = torch.stack([{', '.join(rows)}], -2)  # from state m to state i")
            self.say(f"P = torch.einsum('...mi,ab->...maib', P, torch.eye({self.dk}, dtype=P.dtype, device=P.device)).flatten(-4, -3).flatten(-2)")
        if self.known:
            terms = [f"{self.vector(self._constant(w))}.mT @ {tight(worth(w))}" for w in self.known]
            self.say(f"F = {' + '.join(terms)}")

    def write(self) -> list[str]:
        """All lines; the last one binds `reads` (a list) and `s`."""
        self.kernels()
        if self.unknown:
            self.solve()
        self.ends()
        self._outputs()
        return self.lines

    def _outputs(self) -> None:
        Q, O, r = [], [], []
        for _n, read in enumerate(self.aligned):
            start = self.start(read)
            Q.append(start if start is not None else f"torch.zeros_like({self._wide(read)})")
            seen = [self.product(read, e) for e in self.unknown]
            if self.unknown:
                probe = f"{self.vector(read.probe)}"
                filled = [s if s is not None else f"torch.zeros_like({probe} @ {probe}.mT)" for s in seen]
                O.append(filled[0] if len(filled) == 1 else f"torch.stack([{', '.join(filled)}], -1).flatten(-2)")
            fixed = [f"{tight(k)} @ {self.vector(self._constant(e))}" for e in self.known if (k := self.product(read, e)) is not None]
            r.append(" + ".join(fixed) if fixed else None)
        rows = len(self.aligned)
        if self.cross or not self.aligned:
            self._raw_rows(Q, O, r)
        self.say(f"Q = {_join(Q)}")
        if self.unknown:
            self.say(f"O = {_join(O)}")
        if any(x is not None for x in r):
            filler = f"torch.zeros_like({self.vector(self._constant(self.known[0]))})"
            raw = self._raw_fill if self.cross or not self.aligned else []
            self.say(f"r = {_join([x if x is not None else filler for x in r[:rows]] + raw)}")
        has_r = any(x is not None for x in r)
        A, W, c, E, Ou = ("A", "W", "c", "E", "O") if self.unknown else ("None",) * 5
        self.say(f"out, s = chunk_solve({A}, {W}, {c}, Q, {Ou}, {E}, P, {'F' if self.known else 'None'}, {'r' if has_r else 'None'}, s)")
        self._split(rows)

    def _raw_rows(self, Q: list[str], O: list[str], r: list[str | None]) -> None:
        """Extra rows that return the unknown sides themselves and the states at chunk starts."""
        some = self.some_known()
        m = f"{len(self.states)} * {self.dk}" if len(self.states) > 1 else self.dk
        self.say(f"lead = {some}.shape[:-2]")
        self.say(f"eye = torch.eye({m}, dtype={some}.dtype, device={some}.device).expand(*lead, -1, -1)")
        self._raw_fill = []
        if self.unknown:
            self.say("U = A.shape[-1]")
            self.say(f"Q_raw = torch.cat([{some}.new_zeros(*lead, U, {m}), eye], -2)")
            self.say(f"O_raw = torch.cat([torch.eye(U, dtype={some}.dtype, device={some}.device), {some}.new_zeros({m}, U)]).expand(*lead, -1, -1)")
            Q.append("Q_raw")
            O.append("O_raw")
        else:
            Q.append("eye")
        if self.known:
            first = self.vector(self._constant(self.known[0]))
            rows = f"U + {m}" if self.unknown else m
            self._raw_fill = [f"{first}.new_zeros(*{first}.shape[:-2], {rows}, {first}.shape[-1])"]

    def _wide(self, read: Read) -> str:
        probe = self.vector(read.probe)
        return probe if len(self.states) == 1 else f"torch.cat([{', '.join([probe] * len(self.states))}], -1)"

    def _split(self, rows: int) -> None:
        if rows == 1 and not self.cross:
            self.say("reads = [out]")
            return
        C = f"{self.some_known()}.shape[-2]"
        m = f"{len(self.states)} * {self.dk}" if len(self.states) > 1 else self.dk
        sizes = [C] * rows
        names = [f"o{n}" for n in range(rows)]
        if self.cross or not self.aligned:
            sizes += ["U", m] if self.unknown else [m]
            names += ["u", "starts"] if self.unknown else ["starts"]
        self.say(f"{', '.join(names)}{',' if len(names) == 1 else ''} = out.split([{', '.join(sizes)}], -2)")
        for n, read in enumerate(self.cross):
            self._cross(read, f"x{n}")
        found = {read.name: f"o{n}" for n, read in enumerate(self.aligned)} | {read.name: f"x{n}" for n, read in enumerate(self.cross)}
        self.say(f"reads = [{', '.join(found[r.name] for r in self.outputs)}]")

    def _cross(self, read: Read, name: str) -> None:
        """A read from the other side: out[t] = sum_s K[t, s] (u[s] . probe[t]) n[s] + p[t] (start state)^T probe[t]."""
        probe = self.vector(read.probe)
        terms = []
        for _n, w in enumerate(self.machine.writes):
            kernel = self.kernel(read, w)
            if kernel is None:
                continue
            if w.unknown is not None:
                i = self.unknown.index(w)
                side = "u" if len(self.unknown) == 1 else f"u.unflatten(-2, (-1, {len(self.unknown)}))[..., {i}, :]"
            else:
                side = self.vector(self._constant(w))
            terms.append(f"({self.score(probe, side)} * {tight(kernel)}) @ {self.known_side(w)}")
        for i, m in enumerate(self.states):
            factor = self.start_factor(read, m)
            if factor is not None:
                part = "starts" if len(self.states) == 1 else f"starts[..., {i} * {self.dk}:{i + 1} * {self.dk}, :]"
                terms.append(f"({probe} @ {part}.mT) * {factor}")
        self.say(f"{name} = {' + '.join(terms)}")


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"torch.cat([{', '.join(parts)}], -2)"


def stream_atoms(form: Form, outputs: list[Read]) -> tuple[list[Ref], list[Ref]]:
    """The streams a block takes: vectors and numbers, each once."""
    assert form.machine is not None and form.retention is not None
    vectors: dict[Ref, None] = {}
    scalars: dict[Ref, None] = {}

    def take(into: dict[Ref, None], atom: Atom | None) -> None:
        if isinstance(atom, Ref):
            into[atom] = None

    reads = {r.name: r for r in outputs}
    for w in form.machine.unknown:
        for name, _ in (*w.left.reads, *w.right.reads):
            reads[name] = form.machine.reads[name]
    for w in form.machine.writes:
        for side in (w.left, w.right):
            take(vectors, side.constant)
            for _, coefficient in side.reads:
                take(scalars, coefficient)
    for operator in (*form.machine.next.values(), *(r.operator for r in reads.values())):
        for _, factor in operator.terms:
            take(scalars, factor.number)
            take(vectors, factor.keys)
            take(vectors, factor.values)
    for kept in form.retention.values():
        take(scalars, kept.number)
        take(vectors, kept.channels)
    for read in reads.values():
        take(vectors, read.probe)
    return list(vectors), list(scalars)


