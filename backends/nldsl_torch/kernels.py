"""Kernels of a machine inside one chunk: what a state holds of each write, and what a read sees of it.

After tick t the state i holds sum_e sum_s K[i, e][t, s] u_e[s] n_e[s]^T plus p[i, m][t] times state m at the chunk's
start, for writes e with known side n and other side u. `K` and `p` are found by running the transitions of one tick
on lower triangular matrices, state by state. Where retention is by channel, kernel and product with the known side
are one (`channel_kernel`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nldsl.core import Atom
from nldsl.lower.affine import Factor, Read, Vector, Write
from nldsl.lower.numbers import number
from nldsl.lower.plan import Form, operators_of

Text = Callable[[Atom], str]


@dataclass
class Kernels:
    """Names and lines of the kernels.

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
        self.by_channel = any(self.channels(f) is not None for o in operators_of(self.machine) for _, f in o.terms)
        self._raw_fill: list[str] = []
        self.named: dict[str, str] = {}
        self.cross = [r for r in self.outputs if r.operator.transposed != self.form.transposed]
        self.aligned = [r for r in self.outputs if r.operator.transposed == self.form.transposed]

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

    def define(self, name: str, text: str) -> str:
        """A name for an expression."""
        self.say(f"{name} = {text}")
        return name

    def decay(self, n: int, logs: str) -> tuple[str, str]:
        """Names of the kernel of a retention, and of what is kept of the start."""
        self.say(f"L{n}, p{n} = decay_kernel({logs})")
        return f"L{n}", f"p{n}"

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
        return f"{tight(of)} * {self.scalar(atom)}.unsqueeze({dim})"

    def known_side(self, w: Write) -> str:
        side = w.known_side if w.unknown is not None else (w.left if self.form.transposed else w.right).constant
        assert side is not None
        return self.vector(side)

    def other_side(self, w: Write) -> Vector:
        """The side that is solved for, or of a known write the one that corresponds to it."""
        return (w.right if self.form.transposed else w.left)

    def write_factor(self, state: str, w: Write) -> Factor | None:
        return self.machine.next[state].get(w.name)

    def combined(self, vector: Vector, part: Callable[[Read], str | None]) -> str | None:
        """sum of number * part(read) over the reads of an affine vector."""
        terms = []
        for name, coefficient in vector.reads:
            text = part(self.machine.reads[name])
            if text is not None:
                terms.append(self.rows(coefficient, text))
        return " + ".join(terms) if terms else None

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
                parts.append(f"torch.zeros_like({self.some_known()})")
            self.say(f"g = {' + '.join(parts)}")
            self.say("head, tail = channel_factors(g)")
            for w in self.machine.writes:
                factor = self.write_factor(state, w)
                if factor is not None:
                    self.say(f"n{self.order[w.name]} = {self.weighted(self.known_side(w), factor)}")
            return
        for n, state in enumerate(self.states, 1):
            self._state_kernels(n, state)

    def some_known(self) -> str:
        return self.known_side(self.machine.writes[0])

    def weighted(self, vector: str, f: Factor) -> str:
        """number * channels * vector."""
        channels = self.channels(f)
        text = vector if channels is None else f"{vector} * {self.vector(channels)}"
        return self.rows(f.number, text)

    def _state_kernels(self, n: int, state: str) -> None:
        assert self.form.retention is not None
        earlier = [s for s in self.states[: n - 1] if self.machine.next[state].get(s) is not None]
        L, p = self.decay(n, self.scalar(self.form.retention[state].number))
        for w in self.machine.writes:
            terms = []
            for s in earlier:
                carry = self.machine.next[state].get(s)
                if (s, w.name) in self.K and carry is not None:
                    # A carry acts at every tick: a constant one must be 0 at the ticks of the padding.
                    terms.append(f"{L} @ ({self.before(self.K[s, w.name])} * {self.scalar(carry.number)}.unsqueeze(-1))")
            direct = self.write_factor(state, w)
            if direct is not None:
                terms.append(self.rows(direct.number, L, -2))
            if terms:
                self.K[state, w.name] = self.define(f"K{n}{self.order[w.name]}", " + ".join(terms))
        for m, start in enumerate(self.states[:n], 1):
            terms = [p] if start == state else []
            for s in earlier:
                carry = self.machine.next[state].get(s)
                if (s, start) in self.p and carry is not None:
                    before = self.before(self.p[s, start], 1.0 if s == start else 0.0)
                    terms.append(f"({L} @ ({before} * {self.scalar(carry.number)}).unsqueeze(-1)).squeeze(-1)")
            if terms:
                self.p[state, start] = p if terms == [p] else self.define(f"p{n}{m}", " + ".join(terms))

    # --- reads ---------------------------------------------------------------------------------------

    def after_retention(self, read: Read) -> bool:
        """Whether the read sees the state times this tick's retention: the kernel after the tick, less its own writes."""
        (state, *others) = self.states
        factor = read.operator.get(state)
        return not others and factor is not None and factor == self.machine.next[state].get(state)

    def product(self, read: Read, w: Write) -> str | None:
        """[.., C, C]: what write e of tick s contributes to the read of tick t, per unit of u_e[s]."""
        probe = self.vector(read.probe)
        if self.by_channel:
            return self._channel_product(read, w, probe, read.operator.get(w.name))
        score = self.score(probe, self.known_side(w))
        kernel = self.kernel(read, w)
        return None if kernel is None else f"{score} * {tight(kernel)}"

    def kernel(self, read: Read, w: Write) -> str | None:
        """[.., C, C]: how much of write e of tick s the operator read at tick t holds."""
        if read.state is not None:
            return self.K.get((read.state, w.name))
        own = read.operator.get(w.name)
        if self.after_retention(read) and (self.states[0], w.name) in self.K:
            after = self.K[self.states[0], w.name]
            if own == self.write_factor(self.states[0], w):
                return after
            parts = [f"{after}.tril(-1)"]
        else:
            parts = [
                self.rows(f.number, self.before(self.K[s, w.name]))
                for s in self.states
                if (f := read.operator.get(s)) is not None and (s, w.name) in self.K
            ]
        if own is not None:
            parts.append(f"torch.diag_embed({self.scalar(own.number)})")
        return " + ".join(parts) if parts else None

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
            parts.append(f"torch.diag_embed(({probe} * {tight(self.weighted(self.known_side(w), own))}).sum(-1))")
        return " + ".join(parts) if parts else None

    def start(self, read: Read) -> str | None:
        """[.., C, n * dk]: the read of the states at the chunk's start, per unit of them."""
        probe = self.vector(read.probe)
        if self.by_channel:
            factor = read.operator.get(self.states[0])
            if read.state is not None or self.after_retention(read):
                return f"{probe} * head"
            return None if factor is None else f"{tight(self.weighted(probe, factor))} * {self.once('shift_down(head, 1.0)', 'b')}"
        columns = []
        for m in self.states:
            text = self.start_factor(read, m)
            columns.append(f"torch.zeros_like({probe})" if text is None else f"{probe} * {text}")
        if all(c.startswith("torch.zeros_like") for c in columns):
            return None
        return columns[0] if len(columns) == 1 else f"torch.cat([{', '.join(columns)}], -1)"

    def start_factor(self, read: Read, m: str) -> str | None:
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
        return None if not terms else f"{tight(' + '.join(terms))}.unsqueeze(-1)"


def tight(text: str) -> str:
    """In parentheses where an operator stands outside all brackets."""
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char == " ":
            return f"({text})"
    return text
