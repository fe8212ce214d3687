"""The chunk form of a machine: linear memories over chunks of ticks, as calls of the primitives in `runtime.py`.

Notation. A write e of tick s has a known side n_e (a row of the state) and an unknown side u_e. After tick t the state
i holds sum_e sum_s K[i, e][t, s] u_e[s] n_e[s]^T plus p[i, m][t] times state m at the chunk's start. `K` and `p` are
found by running the transitions of one tick on lower triangular matrices, state by state. A read multiplies a kernel
by probe . n. Where retention is by channel, kernel and product are one (`channel_kernel`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from nldsl.core import Atom, Num, Ref
from nldsl.lower.affine import Factor, Operator, Read, Vector, Write
from nldsl.lower.plan import Form
from nldsl.lower.rewrite import number

Text = Callable[[Atom], str]


@dataclass
class Chunks:
    """Writes the body of `block(streams of a stretch, s) -> (reads, s)` for one machine.

    Attributes:
        vector, scalar: the name of an atom's chunked tensor, [.., N, C, d] or [.., N, C].
        dk: columns of one state (its known side).
        outputs: the reads to return, in order.
    """

    form: Form
    vector: Text
    scalar: Text
    dk: str
    outputs: list[Read]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.form.machine is not None and self.form.retention is not None
        self.machine = self.form.machine
        self.states = self.machine.states
        self.unknown = self.machine.unknown
        self.known = tuple(w for w in self.machine.writes if w.unknown is None)
        self.order = {w.name: f"_{n}" for n, w in enumerate((*self.unknown, *self.known), 1)}
        self.by_channel = any(self.channels(f) is not None for o in self._operators() for _, f in o.terms)
        self._raw_fill: list[str] = []
        self.named: dict[str, str] = {}
        self.cross = [r for r in self.outputs if r.operator.transposed != self.form.transposed]
        self.aligned = [r for r in self.outputs if r.operator.transposed == self.form.transposed]

    def _operators(self) -> list[Operator]:
        return [*self.machine.next.values(), *(r.operator for r in self.machine.reads.values())]

    def channels(self, f: Factor) -> Atom | None:
        return f.values if self.form.transposed else f.keys

    def say(self, line: str) -> None:
        self.lines.append(line)

    def once(self, text: str, hint: str) -> str:
        """A name for an expression, which is computed once."""
        if text not in self.named:
            self.named[text] = f"{hint}{len(self.named)}"
            self.say(f"{self.named[text]} = {text}")
        return self.named[text]

    def score(self, probe: str, side: str) -> str:
        return self.once(f"{probe} @ {side}.mT", "m")

    def before(self, name: str, fill: float | None = None) -> str:
        """A kernel, or with `fill` a factor of the start state, of the state before the tick."""
        return self.once(f"shift_down({name})" if fill is None else f"shift_down({name}, {fill}, -1)", "b")

    # --- small pieces ----------------------------------------------------------------------------

    def rows(self, atom: Atom, of: str, dim: int = -1) -> str:
        """`of` with row t multiplied by a number of tick t; dim=-2 for columns."""
        value = number(atom)
        if value is not None:
            return of if value == 1.0 else f"({of}) * {value!r}" if " " in of else f"{of} * {value!r}"
        return f"{_tight(of)} * {self.scalar(atom)}.unsqueeze({dim})"

    def known_side(self, w: Write) -> str:
        side = w.known_side if w.unknown is not None else (w.left if self.form.transposed else w.right).constant
        assert side is not None
        return self.vector(side)

    def other_side(self, w: Write) -> Vector:
        """The side that is solved for, or of a known write the one that corresponds to it."""
        return (w.right if self.form.transposed else w.left)

    def write_factor(self, state: str, w: Write) -> Factor | None:
        return self.machine.next[state].get(w.name)

    # --- kernels of the states ---------------------------------------------------------------------

    def kernels(self) -> None:
        """Write K[i, e] and p[i, m], or the factors of the retention by channel."""
        assert self.form.retention is not None
        self.K: dict[tuple[str, str], str] = {}
        self.p: dict[tuple[str, str], str] = {}
        if self.by_channel:
            (state,) = self.states
            kept = self.form.retention[state]
            parts = [] if number(kept.number) == 0.0 else [f"{self.scalar(kept.number)}.unsqueeze(-1)"]
            parts += [] if kept.channels is None else [self.vector(kept.channels)]
            if kept.channels is None:
                parts.append(f"torch.zeros_like({self._some_known()})")
            self.say(f"g = {' + '.join(parts)}")
            self.say("head, tail = channel_factors(g)")
            for w in self.machine.writes:
                factor = self.write_factor(state, w)
                if factor is not None:
                    self.say(f"n{self.order[w.name]} = {self.weighted(self.known_side(w), factor)}")
            return
        for n, state in enumerate(self.states, 1):
            self._state_kernels(n, state)

    def _some_known(self) -> str:
        return self.known_side(self.machine.writes[0])

    def weighted(self, vector: str, f: Factor) -> str:
        """number * channels * vector."""
        channels = self.channels(f)
        text = vector if channels is None else f"{vector} * {self.vector(channels)}"
        return self.rows(f.number, text)

    def _state_kernels(self, n: int, state: str) -> None:
        assert self.form.retention is not None
        earlier = [s for s in self.states[: n - 1] if self.machine.next[state].get(s) is not None]
        self.say(f"L{n}, p{n} = decay_kernel({self.scalar(self.form.retention[state].number)})")
        for w in self.machine.writes:
            terms = []
            for s in earlier:
                carry = self.machine.next[state].get(s)
                if (s, w.name) in self.K and carry is not None:
                    # A carry acts at every tick: a constant one must be 0 at the ticks of the padding.
                    terms.append(f"L{n} @ ({self.before(self.K[s, w.name])} * {self.scalar(carry.number)}.unsqueeze(-1))")
            direct = self.write_factor(state, w)
            if direct is not None:
                terms.append(self.rows(direct.number, f"L{n}", -2))
            if terms:
                self.K[state, w.name] = f"K{n}{self.order[w.name]}"
                self.say(f"{self.K[state, w.name]} = {' + '.join(terms)}")
        for m, start in enumerate(self.states[:n], 1):
            terms = [f"p{n}"] if start == state else []
            for s in earlier:
                carry = self.machine.next[state].get(s)
                if (s, start) in self.p and carry is not None:
                    before = self.before(self.p[s, start], 1.0 if s == start else 0.0)
                    terms.append(f"(L{n} @ ({before} * {self.scalar(carry.number)}).unsqueeze(-1)).squeeze(-1)")
            if terms == [f"p{n}"]:
                self.p[state, start] = f"p{n}"
            elif terms:
                self.p[state, start] = f"p{n}{m}"
                self.say(f"p{n}{m} = {' + '.join(terms)}")

    # --- reads ---------------------------------------------------------------------------------------

    def after_retention(self, read: Read) -> bool:
        """Whether the read sees the state times this tick's retention: the kernel after the tick, less its own writes."""
        (state, *others) = self.states
        factor = read.operator.get(state)
        return not others and factor is not None and factor == self.machine.next[state].get(state)

    def product(self, read: Read, w: Write) -> str | None:
        """[.., C, C]: what write e of tick s contributes to the read of tick t, per unit of u_e[s]."""
        probe, name = self.vector(read.probe), w.name
        own = read.operator.get(name)
        if self.by_channel:
            return self._channel_product(read, w, probe, own)
        score = self.score(probe, self.known_side(w))
        if read.state is not None:
            kernel = self.K.get((read.state, name))
            return None if kernel is None else f"{score} * {kernel}"
        if self.after_retention(read) and (self.states[0], name) in self.K:
            kernel = self.K[self.states[0], name]
            if own == self.write_factor(self.states[0], w):
                return f"{score} * {kernel}"
            parts = [f"{kernel}.tril(-1)"]
        else:
            parts = [
                self.rows(f.number, self.before(self.K[s, name]))
                for s in self.states
                if (f := read.operator.get(s)) is not None and (s, name) in self.K
            ]
        if own is not None:
            parts.append(f"torch.diag_embed({self._number(own.number)})")
        return f"{score} * {_tight(' + '.join(parts))}" if parts else None

    def _channel_product(self, read: Read, w: Write, probe: str, own: Factor | None) -> str | None:
        (state,) = self.states
        factor = read.operator.get(state)
        written = self.write_factor(state, w)
        n = f"n{self.order[w.name]}"
        if written is not None and (read.state is not None or (self.after_retention(read) and own == written)):
            return f"channel_kernel(g, {probe}, {n})"
        parts = []
        if factor is not None and written is not None:
            if self.after_retention(read):
                parts.append(f"channel_kernel(g, {probe}, {n}).tril(-1)")
            else:
                parts.append(f"channel_kernel(g, {self.weighted(probe, factor)}, {n}, exclusive=True)")
        if own is not None:
            parts.append(f"torch.diag_embed(({probe} * {_tight(self.weighted(self.known_side(w), own))}).sum(-1))")
        return " + ".join(parts) if parts else None

    def _number(self, atom: Atom) -> str:
        return self.scalar(atom)

    def start(self, read: Read) -> str | None:
        """[.., C, n * dk]: the read of the states at the chunk's start, per unit of them."""
        probe = self.vector(read.probe)
        if self.by_channel:
            factor = read.operator.get(self.states[0])
            if read.state is not None or self.after_retention(read):
                return f"{probe} * head"
            return None if factor is None else f"{_tight(self.weighted(probe, factor))} * {self.once('shift_down(head, 1.0)', 'b')}"
        columns = []
        for m in self.states:
            text = self._start_factor(read, m)
            columns.append(f"torch.zeros_like({probe})" if text is None else f"{probe} * {text}")
        if all(c.startswith("torch.zeros_like") for c in columns):
            return None
        return columns[0] if len(columns) == 1 else f"torch.cat([{', '.join(columns)}], -1)"

    def _start_factor(self, read: Read, m: str) -> str | None:
        if read.state is not None:
            text = self.p.get((read.state, m))
            return None if text is None else f"{text}.unsqueeze(-1)"
        if self.after_retention(read):
            return f"{self.p[m, m]}.unsqueeze(-1)"
        terms = []
        for s in self.states:
            factor = read.operator.get(s)
            if factor is None or (s, m) not in self.p:
                continue
            before = self.before(self.p[s, m], 1.0 if s == m else 0.0)
            value = number(factor.number)
            terms.append(before if value == 1.0 else f"{before} * {self.scalar(factor.number) if value is None else repr(value)}")
        return None if not terms else f"{_tight(' + '.join(terms))}.unsqueeze(-1)"

    # --- the equations of a chunk ----------------------------------------------------------------------

    def combined(self, vector: Vector, part: Callable[[Read], str | None]) -> str | None:
        """sum of number * part(read) over the reads of an affine vector."""
        terms = []
        for name, coefficient in vector.reads:
            text = part(self.machine.reads[name])
            if text is not None:
                terms.append(self.rows(coefficient, text))
        return " + ".join(terms) if terms else None

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
                    terms.append(f"{_tight(weights)} @ {self.vector(self._constant(e))}")
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
            return "None" if not columns else f"torch.zeros_like({self._some_known()}).repeat_interleave({len(self.unknown)}, -2)"
        some = next(p for p in parts if p is not None)
        return f"torch.stack([{', '.join(p or f'torch.zeros_like({some})' for p in parts)}], -2).flatten(-3, -2)"

    def ends(self) -> None:
        """Write E, P and F: s' = s P + u^T E + F."""

        def worth(w: Write) -> str:
            if self.by_channel:
                return f"n{self.order[w.name]} * tail" if self.write_factor(self.states[0], w) is not None else f"torch.zeros_like({self._some_known()})"
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
            terms = [f"{self.vector(self._constant(w))}.mT @ {_tight(worth(w))}" for w in self.known]
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
            fixed = [f"{_tight(k)} @ {self.vector(self._constant(e))}" for e in self.known if (k := self.product(read, e)) is not None]
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
        some = self._some_known()
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
        C = f"{self._some_known()}.shape[-2]"
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
            kernel = self._bare_kernel(read, w)
            if kernel is None:
                continue
            if w.unknown is not None:
                i = self.unknown.index(w)
                side = "u" if len(self.unknown) == 1 else f"u.unflatten(-2, (-1, {len(self.unknown)}))[..., {i}, :]"
            else:
                side = self.vector(self._constant(w))
            terms.append(f"({self.score(probe, side)} * {_tight(kernel)}) @ {self.known_side(w)}")
        for i, m in enumerate(self.states):
            factor = self._start_factor(read, m)
            if factor is not None:
                part = "starts" if len(self.states) == 1 else f"starts[..., {i} * {self.dk}:{i + 1} * {self.dk}, :]"
                terms.append(f"({probe} @ {part}.mT) * {factor}")
        self.say(f"{name} = {' + '.join(terms)}")

    def _bare_kernel(self, read: Read, w: Write) -> str | None:
        if read.state is not None:
            return self.K.get((read.state, w.name))
        own = read.operator.get(w.name)
        parts = [
            self.rows(f.number, self.before(self.K[s, w.name]))
            for s in self.states
            if (f := read.operator.get(s)) is not None and (s, w.name) in self.K
        ]
        if own is not None:
            parts.append(f"torch.diag_embed({self._number(own.number)})")
        return " + ".join(parts) if parts else None


def _tight(text: str) -> str:
    """In parentheses where an operator stands outside all brackets."""
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char == " ":
            return f"({text})"
    return text


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


__all__ = ["Chunks", "Num", "stream_atoms"]
