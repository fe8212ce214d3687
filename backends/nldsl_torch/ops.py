"""One operation as one PyTorch expression. Trailing dimensions are axes and shape; what leads ([B, T] or [B]) does not matter."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_lowercase

from nldsl.core import Atom, Equation, Num, Type
from nldsl.dims import Dim
from nldsl.vocabulary import is_number, join_axes

Text = Callable[[Atom], str]
TypeOf = Callable[[Atom], Type]

UNARY = {
    "exp": "{}.exp()", "log": "{}.log()", "sqrt": "{}.sqrt()", "abs": "{}.abs()", "sign": "{}.sign()", "tanh": "{}.tanh()",
    "sigmoid": "{}.sigmoid()", "softplus": "F.softplus({})", "silu": "F.silu({})",
    "gelu": "F.gelu({})",  "relu": "{}.relu()", "stop": "{}.detach()", "bfloat16": "{}.bfloat16()", "neg": "-{}", "copy": "{}",
    "unit": "unit({})", "norm": "norm({})", "softmax": "{}.softmax(-1)",
}  # fmt: skip
BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}


def literal(value: Dim | float) -> str:
    if isinstance(value, Dim):
        exact = value.constant
        assert exact is not None, value
        return str(exact.numerator) if exact.denominator == 1 else repr(float(exact))
    return repr(float(value))


def align(text: str, given: Type, wanted: Type) -> str:
    """Insert dimensions of size 1 so that a tensor of one type broadcasts against one of another."""
    present = [axis in given.axes for axis in wanted.axes]
    rank, shape = len(wanted.shape), len(given.shape)
    if shape == rank:
        present += [True] * rank
    elif shape == 0:
        present += [False] * rank
    elif is_number(given):  # real[1] against an operator
        present += [True, *[False] * (rank - 1)]
    else:  # key channels against an operator
        present += [False, True]
    for back, there in enumerate(reversed(present), 1):
        if not there:
            text = f"{text}.unsqueeze(-{back})"
    return text


def express(e: Equation, result: Type, text: Text, type: TypeOf) -> str:
    """The expression that computes an equation; operands are atoms or parenthesised."""

    def aligned(index: int) -> str:
        arg = e.args[index]
        return text(arg) if isinstance(arg, Num) else align(text(arg), type(arg), result)

    if e.op in UNARY:
        return UNARY[e.op].format(text(e.args[0]))
    if e.op in BINARY:
        return f"{aligned(0)} {BINARY[e.op]} {aligned(1)}"
    if e.op in ("max", "min"):
        return _extreme(e, aligned)
    match e.op:
        case "gelu_pull":
            c = f"torch.full_like({aligned(1)}, {aligned(0)})" if isinstance(e.args[0], Num) else aligned(0)
            return f"gelu_pull({c}, {aligned(1)})"
        case "where":
            return _choice(e, aligned)
        case "dot" | "sqnorm" | "sum" | "mean":
            return _reduction(e, result, text, type)
        case "apply":
            return _apply(e, result, text, type)
        case "transpose":
            return f"{text(e.args[0])}.mT"
        case "matmul":
            return f"matmul({_operator(e.args[0], result, text, type)}, {_operator(e.args[1], result, text, type)})"
        case "solve":
            operator, side = _operator(e.args[0], result, text, type), aligned(1)
            if result.kind == "map":
                return f"solve({operator}, {side})"
            return f"solve({operator}, {side}.unsqueeze(-1)).squeeze(-1)"
        case "matrix_power":
            p = e.args[1]
            power = text(p) if isinstance(p, Num) else align(text(p), type(p), Type("real", (result.codomain,), result.axes))
            return f"matrix_power({aligned(0)}, {power})"
        case "eigenvectors":
            return f"eigenvectors({text(e.args[0])})"
        case "identity":
            return f"torch.diag_embed(torch.ones_like({text(e.args[0])}[..., 0]))"
        case "row_mean" | "column_mean":
            return f"{text(e.args[0])}.mean({-1 if e.op == 'row_mean' else -2}, keepdim=True)"
        case "outer":
            vector = Type("real", (result.shape[0],), result.axes)
            left, right = (align(text(a), type(a), vector) for a in e.args)
            return f"{left}.unsqueeze(-1) * {right}.unsqueeze(-2)"
        case "scale_values":
            vector = Type("real", (result.shape[0],), result.axes)
            return f"{align(text(e.args[0]), type(e.args[0]), vector)}.unsqueeze(-1) * {aligned(1)}"
        case "gather":
            t = type(e.args[0])
            axis = e.attr("axis")
            if axis not in t.axes:  # the same in each copy
                return f"{text(e.args[0])}.unsqueeze(-{len(t.shape) + 1}).repeat_interleave({literal(axis.size)}, -{len(t.shape) + 1})"
            back = len(t.shape) + len(t.axes) - t.axes.index(axis) if axis in t.axes else 0
            keep = len(result.axes) + 1 if axis in t.axes else 0
            moved = back != len(t.shape) + 1 and keep
            return f"{text(e.args[0])}.movedim(-{back}, -{len(t.shape) + 1})" if moved else text(e.args[0])
        case "sum_copies":
            t = type(e.args[0])
            return f"{text(e.args[0])}.sum(-{len(t.shape) + len(t.axes) - t.axes.index(e.attr('axis'))})"
        case "ungather":
            t = type(e.args[0])
            place = len(result.shape) + len(result.axes) - result.axes.index(e.attr("axis"))
            back = len(t.shape)
            return text(e.args[0]) if place == back else f"{text(e.args[0])}.movedim(-{back}, -{place})"
        case "unflatten":
            shape, given = ", ".join(map(literal, result.shape)), type(e.args[0])
            x = align(text(e.args[0]), given, Type("real", given.shape, result.axes))  # the shape may be that of something in more copies
            return f"{x}.unflatten(-1, ({shape}))" if len(result.shape) > 1 else x
        case "flatten":
            rank = len(type(e.args[0]).shape)
            return f"{text(e.args[0])}.flatten(-{rank})" if rank > 1 else text(e.args[0])
        case "entry":
            return f"{text(e.args[0])}.unsqueeze(-1)"
        case "fill":
            return f"{align(text(e.args[0]), type(e.args[0]), result)} * torch.ones_like({text(e.args[1])})" if not isinstance(
                e.args[0], Num) else f"torch.full_like({text(e.args[1])}, {text(e.args[0])})"  # fmt: skip
        case "pool":
            x = f"torch.full_like({text(e.args[1])}, {text(e.args[0])})" if isinstance(e.args[0], Num) else aligned(0)
            return f"pooled({x}, {text(e.args[1])}, {e.attr('over')!r})"
        case "one_hot":
            return f"F.one_hot({align(text(e.args[0]), type(e.args[0]), Type('int', (), result.axes))}, {literal(result.shape[0])}).to({text(e.args[1])}.dtype)"
        case "column":
            return f"F.one_hot({text(e.args[0])}, {literal(result.shape[0])}).to({text(e.args[1])}.dtype)"
        case "cast":
            return f"{text(e.args[0])}.to({text(e.args[1])}.dtype)"
        case "turn" | "turn_back":
            return f"{e.op}({aligned(0)}, {aligned(1)})"
        case "tap":
            return f"{text(e.args[0])}[..., 0]"
        case "cross_entropy":
            logits, target = (align(text(a), type(a), Type("real", type(a).shape, result.axes)) for a in e.args)
            return f"cross_entropy({logits}, {target})"
    raise NotImplementedError(e.op)


def turned(operator: str) -> str:
    """The transpose of an operator."""
    return operator.removesuffix(".mT") if operator.endswith(".mT") else f"{operator}.mT"


def _operator(atom: Atom, result: Type, text: Text, type: TypeOf) -> str:
    """An operator laid out to broadcast against the copies of the result; its own shape stays."""
    given = type(atom)
    return align(text(atom), given, Type("map", given.shape, result.axes))


def _choice(e: Equation, aligned: Callable[[int], str]) -> str:
    """`where` with tensors for the condition and one branch at least: of two numbers alone torch makes float32."""
    c, a, b = e.args
    if isinstance(c, Num):
        taken, other = (1, 2) if float(literal(c.value)) > 0 else (2, 1)
        if isinstance(e.args[other], Num):
            return aligned(taken)
        if isinstance(e.args[taken], Num):
            return f"torch.full_like({aligned(other)}, {aligned(taken)})"
        return " + ".join((aligned(taken), f"torch.zeros_like({aligned(other)})"))
    first = f"torch.full_like({aligned(0)}, {aligned(1)})" if isinstance(a, Num) and isinstance(b, Num) else aligned(1)
    return f"torch.where({aligned(0)} > 0, {first}, {aligned(2)})"


def _extreme(e: Equation, aligned: Callable[[int], str]) -> str:
    for i in (0, 1):
        arg = e.args[i]
        if isinstance(arg, Num):
            return f"{'at_least' if e.op == 'max' else 'at_most'}({aligned(1 - i)}, {literal(arg.value)})"
    return f"torch.{e.op}imum({aligned(0)}, {aligned(1)})"


def _reduction(e: Equation, result: Type, text: Text, type: TypeOf) -> str:
    wide = max((type(a) for a in e.args), key=lambda t: len(t.axes))
    dims = "-1" if len(wide.shape) == 1 else str(tuple(range(-len(wide.shape), 0)))
    full = Type(wide.kind, wide.shape, result.axes)
    if e.op == "dot":
        a, b = (align(text(x), type(x), full) for x in e.args)
        return f"({a} * {b}).sum({dims})" if wide.shape else f"{a} * {b}"
    x = text(e.args[0])
    if not wide.shape:
        return f"{x} * {x}" if e.op == "sqnorm" else x
    return {"sqnorm": f"({x} * {x}).sum({dims})", "sum": f"{x}.sum({dims})", "mean": f"{x}.mean({dims})"}[e.op]


def _apply(e: Equation, result: Type, text: Text, type: TypeOf) -> str:
    w, x = e.args
    W, X = type(w), type(x)
    if X.kind == "int":
        return f"F.embedding({text(x)}, {text(w)}.mT)" if not W.axes else f"{text(w)}.mT[..., {text(x)}, :]"
    if len(X.axes) > len(W.axes) == len(result.axes) - 1 and W.axes == result.axes[:-1] and X.axes[-1] == result.axes[-1]:
        # One operator for all copies of the innermost axis: a matrix product.
        return f"{align(text(x), X, Type('real', X.shape, result.axes))} @ {turned(text(w))}"
    operator = align(text(w), W, Type("map", W.shape, result.axes))
    return f"apply({operator}, {align(text(x), X, Type('real', X.shape, result.axes))})"


def apply_param(W: Type, X: Type, w: str, x: str, rounded: bool = False) -> str:
    """A param operator applied to a stream: one matrix product for all ticks, in the param's dtype."""
    if X.kind == "int":
        return f"F.embedding({x}, {w}.mT)"
    x = f"{x}.to({w}.dtype)" if rounded else x
    if not W.axes:
        return f"F.linear({x}, {w})"
    if not set(W.axes) & set(X.axes) and not X.axes:
        sizes = ", ".join(literal(n) for n in [a.size for a in W.axes] + [W.codomain])
        return f"F.linear({x}, {w}.flatten(0, -2)).unflatten(-1, ({sizes}))"
    letters = iter(ascii_lowercase[2:])
    axes = join_axes([W, X])
    name = {a: next(letters) for a in axes}
    i, o = next(letters), next(letters)
    wa, xa, ya = ("".join(name[a] for a in group) for group in (W.axes, X.axes, axes))
    return f'torch.einsum("...{xa}{i},{wa}{o}{i}->...{ya}{o}", {x}, {w})'
