"""What each operation of generated code gives back: rules of reverse-mode differentiation, as text.

A rule adds to the gradients of an operation's arguments, given the name `d` of the gradient of what it makes.
`like(x, shape)` sums over what an operand was broadcast along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nldsl_torch.adjoint import Adjoint
    from nldsl_torch.adjoint_lines import Op

Rule = Callable[["Adjoint", list[str], "Op", str], None]


def _like(to: Adjoint, op: Op, text: str, name: str) -> str:
    return to.summed(text, name, to.sizes.get(op.targets[0]))


def _sum(minus: bool) -> Rule:
    def rule(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
        a, b = op.args
        if a in to.active:
            to.give(lines, a, d if b not in to.active and _number(b) else _like(to, op, d, a), fresh=False)
        if b in to.active:
            to.give(lines, b, d if a not in to.active and _number(a) else _like(to, op, d, b), fresh=False, minus=minus)

    return rule


def _number(text: str) -> bool:
    return text.strip("()-").replace(".", "").replace("e-", "").isdigit()


def _mul(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    a, b = op.args
    if a == b:
        to.give(lines, a, f"{d} * 2 * {to.value(a)}", fresh=True)
        return
    for x, y in ((a, b), (b, a)):
        if x in to.active:
            _times(to, lines, op, d, x, y)


def _times(to: Adjoint, lines: list[str], op: Op, d: str, x: str, y: str) -> None:
    """d times y, summed over what x was broadcast along."""
    text = f"{d} * {to.value(y)}"
    if _number(y):
        to.give(lines, x, text, fresh=True)
    elif (summed := _like(to, op, text, x)) == text:
        to.give(lines, x, text, fresh=True, product=("addcmul", d, to.value(y)))
    else:
        to.give(lines, x, summed, fresh=True)


def _div(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    a, b = op.args
    if a in to.active:
        text = f"{d} / {to.value(b)}"
        to.give(lines, a, text if _number(b) else _like(to, op, text, a), fresh=True)
    if b in to.active:
        to.give(lines, b, _like(to, op, f"{d} * {to.value(op.targets[0])} / {to.value(b)}", b), fresh=True, minus=True)


def _matmul(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    a, b = op.args
    size = to.sizes.get(op.targets[0])
    for x, straight, turned in (
        (a, (d, lambda: to.transposed(b)), (lambda: to.value(b), f"{d}.mT")),
        (b, (lambda: to.transposed(a), d), (f"{d}.mT", lambda: to.value(a))),
    ):
        if x not in to.active:
            continue
        made = to.producer.get(x)
        view = made is not None and made.kind == "mT" and made.temporary
        name = made.args[0] if view and made is not None else x
        left, right = (side if isinstance(side, str) else side() for side in (turned if view else straight))
        text = f"{left} @ {right}"
        summed = to.summed(text, name, size, lead=True)
        plain = summed == text and len({(to.sizes.get(n) or (n,))[:-2] for n in (a, b)}) == 1
        to.give(lines, name, summed, fresh=True, product=("product", left, right) if plain else None)


def _cat(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    dim = op.constants[0]
    parts = [to.fresh(f"part {a}") for a in op.args]
    lines.append(f"{', '.join(parts)} = {d}.split([{', '.join(to.extent(a, dim) for a in op.args)}], {dim})")
    for a, part in zip(op.args, parts, strict=True):
        to.give(lines, a, to.summed(part, a, to.sizes.get(op.targets[0]), lead=True), fresh=False)


def _addcmul(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    total, a, b = op.args
    to.give(lines, total, _like(to, op, d, total) if total in to.active else "", fresh=False)
    for x, y in ((a, b), (b, a)):
        if x in to.active:
            _times(to, lines, op, d, x, y)


def _total(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    """sum and mean, over one dimension or a tuple of the last ones."""
    (x,) = op.args
    dims = [int(n) for n in op.constants[0].strip("(),").split(",")]
    if "keepdim=True" not in op.constants:
        d += f".unsqueeze({dims[0]})" if len(dims) == 1 else ".unsqueeze(-1)" * len(dims)
    if op.kind == "mean":
        size = " * ".join(to.extent(x, str(n)) for n in dims)
        d = f"({d} / {size})" if len(dims) == 1 else f"({d} / ({size}))"
    to.give(lines, x, f"{d}.expand({to.shape(x)})", fresh=False)


def _entrywise(text: str) -> Rule:
    """A rule of one argument x with the value y: a text with d, x and y."""

    def rule(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
        names = {"x": to.value(op.args[0]) if "{x}" in text else "", "y": to.value(op.targets[0]) if "{y}" in text else ""}
        to.give(lines, op.args[0], text.format(d=d, **names), fresh=True)

    return rule


def _pow(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    exponent = float(op.constants[0].strip("()"))
    if exponent == 0:  # one, at 0 too
        return
    to.give(lines, op.args[0], f"{d} * ({exponent!r} * {to.value(op.args[0])} ** ({exponent - 1!r}))", fresh=True)


def _view(text: str) -> Rule:
    def rule(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
        to.give(lines, op.args[0], text.format(d, *op.constants), fresh=False)

    return rule


def _gelu(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    (x,) = op.args
    slope = to.slopes.get(x)
    to.give(lines, x, f"torch.ops.aten.gelu_backward({d}, {to.value(x)})" if slope is None else f"{d} * {to.value(slope)}", fresh=True)


def _scaled(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    scale = to.auxiliary(op, tensor=True)
    to.give(lines, op.args[0], f"{op.kind}_back({d}, {to.value(op.targets[0])}, {scale})", fresh=True)


def _spread(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    to.give(lines, op.args[0], _like(to, op, d, op.args[0]), fresh=False)


def _select(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    (x,) = op.args
    dim, index = op.constants
    if to.owned.get(x) and x not in to.perhaps:
        opposite = to.turned != (x in to.minus)  # one of the two is kept as its negative
        lines.append(f"{to.gradients[x]}.select({dim}, {index}).{'sub' if opposite else 'add'}_({d})")
    else:
        to.give(lines, x, f"torch.ops.aten.select_backward({d}, {to.shape(x)}, {dim}, {index})", fresh=True)


def _narrow(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    (x,) = op.args
    dim, start, length = op.constants
    to.give(lines, x, f"torch.ops.aten.slice_backward({d}, {to.shape(x)}, {dim}, {start}, {start} + {length}, 1)", fresh=True)


def _chunk(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    parts = [f"torch.zeros_like({to.value(t)})" if text == "None" else text for t, text in zip(op.targets, d.strip("()").split(", "), strict=True)]
    to.give(lines, op.args[0], f"torch.cat([{', '.join(parts)}], {op.constants[0]})", fresh=True)


def _decay(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    to.give(lines, op.args[0], f"{op.kind}_back({d.strip('()')}, {', '.join(map(to.value, op.targets))})", fresh=True)


def _shift_down(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    to.give(lines, op.args[0], f"shift_up({d}{''.join(f', {dim}' for dim in op.constants[1:])})", fresh=True)


def _unit_solve(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    A, x = op.args
    solved, size = to.fresh("part"), to.sizes.get(op.targets[0])
    lines.append(f"{solved} = unit_solve_back({to.value(A)}, {d})")
    to.give(lines, x, to.summed(solved, x, size, lead=True), fresh=False)
    if A in to.active:
        to.give(lines, A, to.summed(f"({solved} @ {to.transposed(op.targets[0])}).tril(-1)", A, size, lead=True), fresh=True)


def _extreme(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    """Of `maximum(a, b)` the greater one has the gradient, of equal ones each half."""
    a, b = op.args if len(op.args) == 2 else (op.args[0], op.constants[0])
    for x, y in ((a, b), (b, a)):
        if x in to.active:
            pair = (to.value(x), to.value(y)) if op.kind in ("maximum", "at_least") else (to.value(y), to.value(x))
            to.give(lines, x, _like(to, op, f"greater({d}, {', '.join(pair)})", x), fresh=True)


def _where(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    test, a, b = op.args
    for x, sides in ((a, f"{d}, 0.0"), (b, f"0.0, {d}")):
        if x in to.active:
            to.give(lines, x, _like(to, op, f"torch.where({to.value(test)}, {sides})", x), fresh=True)


def _bilinear(first: str, second: str) -> Rule:
    """A rule of two arguments: texts of their gradients, of d, the other argument, its transpose and the argument's own shape."""

    def rule(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
        a, b = op.args
        for x, y, text in ((a, b, first), (b, a, second)):
            if x in to.active:
                given = {"other": lambda y=y: to.value(y), "turned": lambda y=y: to.transposed(y), "shape": lambda x=x: to.shape(x)}
                to.give(lines, x, text.format(d=d, **{n: f() for n, f in given.items() if f"{{{n}}}" in text}), fresh=True)

    return rule


def _einsum(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    a, b = op.args
    inside, _, made = op.constants[0].strip("'").partition("->")
    first, second = inside.split(",")
    if a in to.active:
        to.give(lines, a, f"torch.einsum('{made},{second}->{first}', {d}, {to.value(b)})", fresh=True)
    if b in to.active:
        to.give(lines, b, f"torch.einsum('{made},{first}->{second}', {d}, {to.value(a)})", fresh=True)


def _shaped(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    to.give(lines, op.args[0], f"{d}.reshape({to.shape(op.args[0])})", fresh=False)


def _cross_entropy(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    logits, target = op.args
    lead, own = to.sizes.get(op.targets[0]), to.sizes.get(logits)
    given = None if lead is None or own is None else (*lead, own[-1])
    to.give(lines, logits, to.summed(f"cross_entropy_back({d}, {to.value(logits)}, {to.value(target)})", logits, given), fresh=True)


def _scan(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    factor, _, start = op.args
    parts = [to.fresh(f"part {n}") for n in ("factor", "added", "start")]
    lines.append(f"{', '.join(parts)} = linear_scan_back({d.strip('()')}, {to.value(factor)}, {to.value(op.targets[0])}, {to.value(start)})")
    for x, part in zip(op.args, parts, strict=True):
        if x in to.active:
            to.give(lines, x, f"like({part}, {to.shape(x)})", fresh=False)


def _taped(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    pull = to.auxiliary(op, tensor=False)
    parts = [to.fresh(f"part {a}") for a in op.args]
    lines.append(f"{', '.join(parts)}{',' if len(parts) == 1 else ''} = {pull}({d})")
    for a, part in zip(op.args, parts, strict=True):
        to.give(lines, a, part, fresh=False)


def _turn(to: Adjoint, lines: list[str], op: Op, d: str) -> None:
    x, by = op.args
    to.give(lines, x, _like(to, op, f"{'turn_back' if op.kind == 'turn' else 'turn'}({d}, {to.value(by)})", x), fresh=True)


RULES: dict[str, Rule] = {
    "add": _sum(False),
    "sub": _sum(True),
    "mul": _mul,
    "div": _div,
    "matmul": _matmul,
    "cat": _cat,
    "addcmul": _addcmul,
    "sum": _total,
    "mean": _total,
    "neg": _entrywise("-{d}"),
    "inverse": _entrywise("-{d} * {y} * {y}"),
    "root": _entrywise("torch.where({y} == 0, 0.0, {d} * 0.5 / {y})"),
    "exp": _entrywise("{d} * {y}"),
    "sigmoid": _entrywise("torch.ops.aten.sigmoid_backward({d}, {y})"),
    "tanh": _entrywise("torch.ops.aten.tanh_backward({d}, {y})"),
    "abs": _entrywise("{d} * {x}.sign()"),
    "softplus": _entrywise("torch.ops.aten.softplus_backward({d}, {x}, 1, 20)"),
    "softmax": _entrywise("torch._softmax_backward_data({d}, {y}, -1, {y}.dtype)"),
    "pow": _pow,
    "log": _entrywise("{d} / {x}"),
    "relu": _entrywise("torch.ops.aten.threshold_backward({d}, {x}, 0)"),
    "silu": _entrywise("torch.ops.aten.silu_backward({d}, {x})"),
    "maximum": _extreme,
    "minimum": _extreme,
    "at_least": _extreme,
    "at_most": _extreme,
    "where": _where,
    "einsum": _einsum,
    "turn": _turn,
    "turn_back": _turn,
    "apply": _bilinear("like({d}.unsqueeze(-1) * {other}.unsqueeze(-2), {shape})", "like(apply({turned}, {d}), {shape})"),
    "operators": _bilinear("like(matmul({d}, {turned}), {shape})", "like(matmul({turned}, {d}), {shape})"),  # whose operands may differ in dtype
    "cross_entropy": _cross_entropy,
    "linear_scan": _scan,
    "flatten": _shaped,
    "unflatten": _shaped,
    "movedim": _view("{0}.movedim({2}, {1})"),
    "gelu": _gelu,
    "linear": _bilinear("{d} @ {other}", "{d}.flatten(0, -2).mT @ {other}.flatten(0, -2)"),
    "chunk": _chunk,
    "decay_ends": _decay,
    "decay_kernel": _decay,
    "shift_down": _shift_down,
    "unit_solve": _unit_solve,
    "tril": _view("{0}.tril({1})"),
    "diag_embed": _view("{0}.diagonal(dim1=-2, dim2=-1)"),
    "squeeze": _view("{0}.unsqueeze({1})"),
    "gelu_pull": _taped,
    "gelu_slope": _entrywise("{d} * gelu_curve({x})"),
    "norm": _scaled,
    "unit": _scaled,
    "cumsum": _view("{0}.flip({1}).cumsum({1}).flip({1})"),
    "same": _view("{0}"),
    "contiguous": _view("{0}"),
    "mT": _view("{0}.mT"),
    "unsqueeze": _view("{0}.squeeze({1})"),
    "spread": _spread,
    "expand": _spread,
    "select": _select,
    "narrow": _narrow,
    "taped": _taped,
}
SEVERAL = ("chunk", "decay_ends", "decay_kernel", "linear_scan")  # with several results
