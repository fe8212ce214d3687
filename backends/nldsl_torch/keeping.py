"""Equations of a recurrence that keep values of earlier ticks, `delay`, `conv` and reads of stores: their lines, and what is kept.

A function takes what is kept before its ticks and gives what is kept after them, as it does with states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nldsl.core import Atom, Axis, Equation, Num, Type
from nldsl.vocabulary import KEEPING
from nldsl_torch import ops
from nldsl_torch.body import Body
from nldsl_torch.initial import size


def first_values(equations: Iterable[Equation], types: Mapping[str, Type]) -> dict[str, str]:
    """What is kept, by its key in the state: the expression of its first value."""
    found: dict[str, str] = {}
    for e in equations:
        if e.op not in KEEPING or e.attr("of") is not None:
            continue
        if e.op == "attend":
            for key, atom in zip(pair(e), e.args[1:], strict=True):
                found[key] = f"z.new_zeros(batch{extents(own_axes(e, types))}, 0, {ops.literal(_type(types, atom).shape[0])})"
        else:
            found[past(e)] = zeros(e, _type(types, e.args[0]))
    return found


def past(e: Equation) -> str:
    """The key of what a delay or a convolution keeps."""
    return f"{e.name}:past"


def length(e: Equation) -> int:
    """Of how many ticks a delay or a convolution keeps values."""
    return e.attr("ticks") - (1 if e.op == "conv" else 0)


def first(e: Equation) -> str:
    """The last argument of a convolution without the terms of this tick."""
    return f", {e.attr('first')}" if e.attr("first") else ""


def pair(e: Equation) -> tuple[str, str]:
    """The keys of what a store keeps."""
    return f"{e.attr('memory')}:key", f"{e.attr('memory')}:value"


def own_axes(e: Equation, types: Mapping[str, Type]) -> tuple[Axis, ...]:
    """The copies in which keys and values are kept: as often as the store stands there, while its reads may be in more."""
    given = [a for x in e.args[1:3] for a in _type(types, x).axes]
    return tuple(a for a in types[e.name].axes if a in given)


def zeros(e: Equation, given: Type) -> str:
    """The first value of what a delay or a convolution keeps: [batch, ticks, axes.., shape..]."""
    dtype = {"int": ", dtype=torch.int64", "bool": ", dtype=torch.bool"}.get(given.kind, "")
    return f"z.new_zeros(batch, {length(e)}{''.join(f', {n}' for n in size(given))}{dtype})"


def extents(axes: tuple[Axis, ...]) -> str:
    return "".join(f", {ops.literal(a.size)}" for a in axes)


MANY = 16  # ticks of a convolution from which on its terms are a loop


class Keeping:
    """Writes equations that keep values of earlier ticks into one function.

    Attributes:
        before, after: names of what is kept before the ticks of the function and after them, by key.
        ticks: the innermost axis of streams, or None in a function of one tick.
        pairs: the keys and values of stores, of the ticks before and of these, by key.
        apart: the lines in which a size grows with the stream.
    """

    def __init__(self, body: Body, before: Mapping[str, str], after: Mapping[str, str], ticks: Axis | None = None):
        self.body, self.before, self.after, self.ticks = body, before, after, ticks
        self.n = "1" if ticks is None else "n_"
        self.pairs: dict[str, str] = {}
        self.pulls: dict[str, str] = {}  # gradients of looks, by their arguments
        self.apart: set[str] = set()

    def write(self, e: Equation) -> None:
        self.body.note(e.span)
        if not e.op.startswith("attend"):
            return self._window(e)
        start = len(self.body.lines)
        (self._read if e.attr("of") is None else self._look)(e)
        self.apart |= {*self.body.lines[start:]}

    def _axes(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(a for a in axes if a is not self.ticks)

    def _laid(self, atom: Atom, axes: tuple[Axis, ...], like: str) -> str:
        """A value of all sequences, copies and ticks: [B, axes.., ticks, shape..], in the dtype of what is kept."""
        assert not isinstance(atom, Num)
        given = self.body.types[atom.name]
        wanted = Type(given.kind, given.shape, axes if self.ticks is None else (*axes, self.ticks))
        text = ops.align(self.body.text(atom), given, wanted)
        text += f".to({like}.dtype)" if atom.name in self.body.rounded else ""
        text += f".unsqueeze(-{1 + len(given.shape)})" if self.ticks is None else ""
        shape = "".join(f", {ops.literal(d)}" for d in given.shape)
        return f"{text}.expand({like}.shape[0]{extents(axes)}, {self.n}{shape})"

    def _read(self, e: Equation) -> None:
        """A read of a store, which keeps its pair."""
        say, names, window = self.body.lines.append, self.body.names, e.attr("window")
        axes, own = self._axes(self.body.types[e.name].axes), self._axes(own_axes(e, self.body.types))
        for key, atom in zip(pair(e), e.args[1:3], strict=True):
            if key not in self.pairs:
                x = self.pairs[key] = names.fresh(f"all {key}")
                say(f"{x} = torch.cat([{self.before[key]}, {self._laid(atom, own, self.before[key])}], -2)")
                say(f"{self.after[key]} = latest({x}, {window})")
        keys, values = (self.pairs[key] + _wide(axes, own) for key in pair(e))
        q = self._laid(e.args[0], axes, self.before[pair(e)[0]])
        say(f"{names.of(e.name)} = window_attention({q}, {keys}, {values}, {window}){self._one()}")

    def _look(self, e: Equation) -> None:
        """What a store gives a query, or a gradient of that, with a pair of its own in the place of that of each tick."""
        axes = self._axes(self.body.types[e.name].axes)
        own, some = self._axes(own_axes(e, self.body.types)), self.before[pair(e)[0]]
        q, k, v, *c = (self._laid(a, axes, some) for a in e.args)
        kept = []
        for key, x in zip(pair(e), (k, v), strict=True):
            assert self.ticks is None or key in self.pairs, "a look at a store before it keeps its pairs"
            earlier = f"torch.cat([{self.before[key]}{_wide(axes, own)}, {x}], -2)"  # at one tick its own pair is all there is
            kept.append(self.pairs[key] + _wide(axes, own) if key in self.pairs else earlier)
        args, say, names = ", ".join([q, k, v, *c, *kept, str(e.attr("window"))]), self.body.lines.append, self.body.names
        if c and args not in self.pulls:
            self.pulls[args] = names.fresh("pulls")
            say(f"{self.pulls[args]} = attention_pull({args})")
        found = f"{self.pulls[args]}[{e.attr('side')}]" if c else f"attention_look({args})"
        say(f"{names.of(e.name)} = {found}{self._one()}")

    def _one(self) -> str:
        return ".squeeze(-2)" if self.ticks is None else ""

    def _window(self, e: Equation) -> None:
        """A delay or a convolution, as operations that have a reverse; what is kept has its ticks before its axes."""
        given, names, n = self.body.types[e.name], self.body.names, self.n
        axes, before = self._axes(given.axes), self.before[past(e)]
        time, back, kept = 1 + len(axes), -1 - len(given.shape), length(e)
        whole = names.fresh(f"{e.name} whole")
        turned = f".movedim(1, {time})" if axes else ""
        self.body.lines.append(f"{whole} = torch.cat([{before}{turned}, {self._laid(e.args[0], axes, before)}], {back})")
        terms = [f"{whole}.narrow({time}, 0, {n})"]
        if e.op == "conv":
            weights = _type(self.body.types, e.args[1])
            one, all_ = Type("real", weights.shape[:1], weights.axes), Type("real", given.shape, axes if self.ticks is None else given.axes)
            first, ticks = e.attr("first", 0), e.attr("ticks")
            terms = [
                f"{whole}.narrow({time}, {kept - j}, {n}) * "
                + ops.align(f"{self.body.text(e.args[1])}.select(-1, {j})", one, all_)
                + (".unsqueeze(-2)" if self.ticks is None else "")
                for j in range(first, min(ticks, MANY))
            ]
            if ticks > MANY:
                filters = ops.align(self.body.text(e.args[1]), weights, replace(all_, shape=weights.shape))
                filters += ".unsqueeze(-3)" if self.ticks is None else ""
                terms = [f"filtered({whole}, {filters}, {n}, {first})"]
        total = " + ".join(terms) or f"torch.zeros_like({whole})"  # of a filter of one tick nothing is earlier
        self.body.lines.append(f"{names.of(e.name)} = {total if self.ticks is not None else f'({total}).squeeze({back})'}")
        turned = f".movedim({time}, 1)" if axes else ""
        self.body.lines.append(f"{self.after[past(e)]} = {whole}.narrow({time}, {n}, {kept}){turned}")


def _wide(axes: tuple[Axis, ...], own: tuple[Axis, ...]) -> str:
    """What makes keys and values stand in all copies in which they are read."""
    more = "".join(f".unsqueeze({1 + i})" for i, a in enumerate(axes) if a not in own)
    return f"{more}.expand(-1{extents(axes)}, -1, -1)" if more else ""


def _type(types: Mapping[str, Type], atom: Atom) -> Type:
    return Type("real") if isinstance(atom, Num) else types[atom.name]
