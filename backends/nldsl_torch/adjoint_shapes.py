"""Shapes of values in generated code, as far as they can be told from the text: tuples of sizes as text, or None."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[str, ...] | None
SAME = frozenset(
    """abs at_least at_most contiguous cumsum exp gelu gelu_slope inverse log neg norm pow relu root same shift_down sigmoid silu softmax softplus
    tanh tril unit""".split()
)


def shape_of(kind: str, shapes: Sequence[Shape], constants: Sequence[str]) -> Shape:
    """The shape of what an operation makes of operands with these shapes."""
    if any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    if kind in ("add", "sub", "mul", "div", "addcmul", "gelu_pull", "maximum", "minimum", "turn", "turn_back", "where"):
        return _broadcast(known)
    first = known[0]
    match kind:
        case "mT":
            return (*first[:-2], first[-1], first[-2])
        case "unsqueeze":
            at = int(constants[0]) % (len(first) + 1)
            return (*first[:at], "1", *first[at:])
        case "squeeze":
            return tuple(s for i, s in enumerate(first) if i != int(constants[0]) % len(first))
        case "diag_embed":
            return (*first, first[-1])
        case "unit_solve":
            lead = _broadcast([s[:-2] for s in known])
            return None if lead is None else (*lead, *known[1][-2:])
        case "matmul" | "operators":
            lead = _broadcast([s[:-2] for s in known])
            return None if lead is None else (*lead, first[-2], known[1][-1])
        case "sum" | "mean" if "keepdim=True" not in constants:
            dims = {int(n) % len(first) for n in constants[0].strip("(),").split(",")}
            return tuple(s for i, s in enumerate(first) if i not in dims)
        case "movedim":
            source, to = (int(n) % len(first) for n in constants)
            rest = [s for i, s in enumerate(first) if i != source]
            return (*rest[:to], first[source], *rest[to:])
        case "narrow":
            at = int(constants[0]) % len(first)
            return (*first[:at], constants[2], *first[at + 1 :])
        case "select":
            return tuple(s for i, s in enumerate(first) if i != int(constants[0]) % len(first))
        case _ if kind in SAME:
            return first
        case "linear":
            return (*first[:-1], known[1][0])
        case "cat":
            dim, lead = int(constants[0]), _broadcast([s[:-2] for s in known])
            joined = " + ".join(s[dim] for s in known)
            last = (first[-2], joined) if dim == -1 else (joined, first[-1])
            return None if lead is None or dim not in (-1, -2) else (*lead, *last)
    return None


def shapes_of(kind: str, given: Shape) -> tuple[Shape, ...]:
    """The shapes of several results, as far as they are known."""
    if given is None:
        return ()
    return {"decay_kernel": ((*given, given[-1]), given), "decay_ends": (given[:-1], given)}.get(kind, ())


def _broadcast(shapes: Sequence[tuple[str, ...]]) -> Shape:
    rank = max(map(len, shapes))
    out = []
    for back in range(rank, 0, -1):
        sizes = {s[-back] for s in shapes if len(s) >= back} - {"1"}
        if len(sizes) > 1:
            return None
        out.append(sizes.pop() if sizes else "1")
    return tuple(out)
