"""The words of the language: each operation with its type rule and its equation.

A type rule maps argument types to the result type or raises `Mismatch`. Pullbacks stand in `differentiate.py`,
intervals in `check/ranges.py`; a test sees to it that every operation has its entry in each table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nldsl.core import Axis, Type
from nldsl.dims import Dim

Attrs = Mapping[str, Any]
ONE = Dim.of(1)


class Mismatch(Exception):
    """A type rule refused its arguments; `index` is the argument at fault."""

    def __init__(self, message: str, expected: str, found: str, index: int = 0):
        super().__init__(message)
        self.message, self.expected, self.found, self.index = message, expected, found, index


@dataclass(frozen=True)
class Word:
    name: str
    arity: int
    rule: Callable[[list[Type], Attrs], Type]
    doc: str
    user: bool = True  # may be written as NAME(...) by the author


WORDS: dict[str, Word] = {}
KEEPING = frozenset({"delay", "conv", "attend", "attend_pull"})  # what they give depends on earlier ticks, of which they keep values


def _word(name: str, arity: int, rule: Callable[[list[Type], Attrs], Type], doc: str, user: bool = True) -> None:
    WORDS[name] = Word(name, arity, rule, doc, user)


def join_axes(types: list[Type]) -> tuple[Axis, ...]:
    """The axes of all arguments, outermost first."""
    return tuple(sorted({axis for t in types for axis in t.axes}, key=lambda axis: axis.depth))


def _same(a: Type, b: Type) -> bool:
    return a.kind == b.kind and a.shape == b.shape


def is_number(t: Type) -> bool:
    """One number a tick: `real`, or the `real[1]` that an operator to 1 gives."""
    return t.kind != "map" and all(n == ONE for n in t.shape)


def elementwise(types: list[Type], attrs: Attrs) -> Type:
    """Numbers extend to any shape; all other arguments have one type. Over operators it acts entry by entry."""
    axes = join_axes(types)
    wide = [(i, t) for i, t in enumerate(types) if not is_number(t)]
    if not wide:
        return Type("real", max((t.shape for t in types), key=len, default=()), axes)
    first = wide[0][1]
    for i, t in wide[1:]:
        if not _same(first, t):
            raise Mismatch("these two do not have the same shape", _plain(first), _plain(t), i)
    return Type(first.kind, first.shape, axes)


def product(types: list[Type], attrs: Attrs) -> Type:
    """Elementwise; a vector times an operator scales its key channels: (a * W)(x) = W(a * x)."""
    for i, (a, b) in enumerate((types, types[::-1])):
        if a.kind == "real" and len(a.shape) == 1 and b.kind == "map" and not is_number(a):
            if a.shape[0] != b.domain:
                raise Mismatch(
                    "a vector times an operator scales its key channels, one factor each",
                    f"real[{b.domain}]",
                    _plain(a),
                    i,
                )
            return Type("map", b.shape, join_axes(types))
    return elementwise(types, attrs)


def on_vectors(types: list[Type], attrs: Attrs) -> Type:
    t = types[0]
    if t.kind != "real" or len(t.shape) != 1:
        raise Mismatch("this acts on a vector", "real[n]", _plain(t))
    return t


def to_scalar(types: list[Type], attrs: Attrs) -> Type:
    """A sum over all entries of arguments of one type; a number has one entry."""
    for i, t in enumerate(types):
        if t.kind not in ("real", "map"):
            raise Mismatch("this acts on real numbers", "real", _plain(t), i)
        if not _same(t, types[0]):
            raise Mismatch("these two do not have the same shape", _plain(types[0]), _plain(t), i)
    return Type("real", (), join_axes(types))


def total(types: list[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("real", "map"):
        raise Mismatch("this acts on real numbers", "real", _plain(types[0]))
    return Type("real", (), types[0].axes)


def application(types: list[Type], attrs: Attrs) -> Type:
    w, x = types
    if w.kind != "map":
        raise Mismatch("only an operator can be applied", "an operator A -> B", _plain(w), 0)
    axes = join_axes(types)
    if x.kind == "int" and not x.shape:
        if x.bound != w.domain:
            raise Mismatch("an operator applied to an index picks a column", f"int[{w.domain}]", _plain(x), 1)
    elif x.kind != "real" or x.shape != (w.domain,):
        raise Mismatch("the operator's domain does not fit its argument", f"real[{w.domain}]", _plain(x), 1)
    return Type("real", (w.codomain,), axes)


def picked(types: list[Type], attrs: Attrs) -> Type:
    """An index as the vector that an operator maps to its column."""
    if types[0].kind != "int":
        raise Mismatch("a column is picked by an index", "int[n]", _plain(types[0]))
    return Type("real", (types[0].bound or ONE,), types[0].axes)


def one_entry(types: list[Type], attrs: Attrs) -> Type:
    if not is_number(types[0]):
        raise Mismatch("this acts on a number", "real", _plain(types[0]))
    return Type("real", (ONE,), types[0].axes)


def transposition(types: list[Type], attrs: Attrs) -> Type:
    t = types[0]
    if t.kind != "map":
        raise Mismatch("only an operator has a transpose", "an operator A -> B", _plain(t))
    return Type("map", (t.shape[1], t.shape[0]), t.axes)


def outer_product(types: list[Type], attrs: Attrs) -> Type:
    sizes = []
    for i, t in enumerate(types):
        if i == 1 and t.kind == "int" and not t.shape and t.bound is not None:
            sizes.append(t.bound)
        elif t.kind != "real" or len(t.shape) != 1:
            raise Mismatch("an outer product takes two vectors, or a vector and an index", "real[n]", _plain(t), i)
        else:
            sizes.append(t.shape[0])
    return Type("map", tuple(sizes), join_axes(types))


def composition(types: list[Type], attrs: Attrs) -> Type:
    """One operator after another: A : b -> c after B : a -> b."""
    for i, t in enumerate(types):
        if t.kind != "map":
            raise Mismatch("this composes two operators", "an operator A -> B", _plain(t), i)
    a, b = types
    if a.domain != b.codomain:
        raise Mismatch("what the second operator gives is not what the first takes", f"A -> {a.domain}", _plain(b), 1)
    return Type("map", (a.codomain, b.domain), join_axes(types))


def square(types: list[Type], attrs: Attrs) -> Type:
    t = types[0]
    if t.kind != "map" or t.domain != t.codomain:
        raise Mismatch("this acts on a square operator", "an operator A -> A", _plain(t))
    return t


def power_of_operator(types: list[Type], attrs: Attrs) -> Type:
    t = square(types, attrs)
    if not is_number(types[1]):
        raise Mismatch("an operator is raised to the power of one number", "real", _plain(types[1]), 1)
    return Type("map", t.shape, join_axes(types))


def solution(types: list[Type], attrs: Attrs) -> Type:
    a, b = square(types, attrs), types[1]
    if b.kind == "map" and b.codomain == a.codomain:
        return Type("map", b.shape, join_axes(types))
    if b.kind == "real" and b.shape == (a.codomain,):
        return Type("real", b.shape, join_axes(types))
    raise Mismatch("the right side does not fit the operator", f"an operator A -> {a.codomain}, or real[{a.codomain}]", _plain(b), 1)


def mean_of_rows(types: list[Type], attrs: Attrs) -> Type:
    return Type("map", (_operator(types).codomain, ONE), types[0].axes)


def mean_of_columns(types: list[Type], attrs: Attrs) -> Type:
    return Type("map", (ONE, _operator(types).domain), types[0].axes)


def _operator(types: list[Type]) -> Type:
    if types[0].kind != "map":
        raise Mismatch("this acts on an operator", "an operator A -> B", _plain(types[0]))
    return types[0]


def scaled_values(types: list[Type], attrs: Attrs) -> Type:
    a, w = types
    if w.kind != "map":
        raise Mismatch("this scales the value channels of an operator", "an operator A -> B", _plain(w), 1)
    if a.shape != (w.codomain,):
        raise Mismatch("one factor for each value channel is needed", f"real[{w.codomain}]", _plain(a), 0)
    return Type("map", w.shape, join_axes(types))


def gathered(types: list[Type], attrs: Attrs) -> Type:
    """The copies of an `each`, seen from outside: the axis becomes the first dimension."""
    t, axis = types[0], attrs["axis"]
    if axis not in t.axes:
        return Type(t.kind, (axis.size, *t.shape), t.axes)
    if t.kind == "map":
        raise Mismatch("an operator of an `each` cannot be used outside it", "a vector", _plain(t))
    return Type(t.kind, (axis.size, *t.shape), tuple(a for a in t.axes if a != axis), t.bound)


def ungathered(types: list[Type], attrs: Attrs) -> Type:
    """The opposite of `gathered`."""
    t, axis = types[0], attrs["axis"]
    return Type(t.kind, t.shape[1:], join_axes([t, Type("real", (), (axis,))]), t.bound)


def merged(types: list[Type], attrs: Attrs) -> Type:
    """The copies of an `each` as one."""
    if attrs["axis"] not in types[0].axes:
        raise Mismatch("these are no copies", "a stream of an `each`", _plain(types[0]))
    return Type(types[0].kind, types[0].shape, tuple(a for a in types[0].axes if a != attrs["axis"]))


def flattened(types: list[Type], attrs: Attrs) -> Type:
    t = types[0]
    if t.kind != "real" or not t.shape:
        raise Mismatch("this acts on a vector or a table", "real[m, n]", _plain(t))
    size = Dim.of(1)
    for n in t.shape:
        size = size * n
    return Type("real", (size,), t.axes)


def delayed(types: list[Type], attrs: Attrs) -> Type:
    if types[0].kind == "map":
        raise Mismatch("an operator cannot be delayed", "a scalar or a vector", _plain(types[0]))
    return types[0]


def convolved(types: list[Type], attrs: Attrs) -> Type:
    x, _w = types
    if x.kind != "real" or len(x.shape) != 1:
        raise Mismatch("a convolution over time takes a vector", "real[n]", _plain(x))
    return Type("real", x.shape, join_axes(types))


def attended(types: list[Type], attrs: Attrs) -> Type:
    q, k, v = types
    if q.shape != k.shape:
        raise Mismatch("query and key must have one shape", _plain(k), _plain(q), 0)
    return Type("real", v.shape, join_axes(types))


def pulled(types: list[Type], attrs: Attrs) -> Type:
    return Type("real", types[attrs["side"]].shape, join_axes(types))


def rotated(types: list[Type], attrs: Attrs) -> Type:
    t = on_vectors(types, attrs)
    size = t.shape[0].integer
    if size is not None and size % 2:
        raise Mismatch("channels are turned in pairs", "an even number of channels", _plain(t))
    return t


def entropy(types: list[Type], attrs: Attrs) -> Type:
    logits, target = types
    if logits.kind != "real" or len(logits.shape) != 1:
        raise Mismatch("cross entropy takes a vector of logits", "real[n]", _plain(logits))
    if target.kind != "int" or target.bound != logits.shape[0]:
        raise Mismatch("cross entropy takes the index of the right class", f"int[{logits.shape[0]}]", _plain(target), 1)
    if target.shape:
        raise Mismatch("cross entropy takes the index of one class", f"int[{logits.shape[0]}]", "a table of them", 1)
    return Type("real", (), join_axes(types))


def _plain(t: Type) -> str:
    return str(Type(t.kind, t.shape, (), t.bound))


_word("add", 2, elementwise, "a + b", user=False)
_word("sub", 2, elementwise, "a - b", user=False)
_word("mul", 2, product, "a * b; a vector times an operator scales its key channels", user=False)
_word("div", 2, elementwise, "a / b", user=False)
_word("pow", 2, elementwise, "a ^ b", user=False)
_word("neg", 1, elementwise, "-a", user=False)
_word("copy", 1, lambda types, attrs: types[0], "a", user=False)
_word("exp", 1, elementwise, "e^a")
_word("log", 1, elementwise, "the natural logarithm")
_word("sqrt", 1, elementwise, "the square root")
_word("abs", 1, elementwise, "|a|")
_word("sign", 1, elementwise, "-1, 0 or 1")
_word("tanh", 1, elementwise, "tanh a")
_word("sigmoid", 1, elementwise, "1 / (1 + e^-a)")
_word("softplus", 1, elementwise, "log(1 + e^a)")
_word("silu", 1, elementwise, "a * sigmoid(a)")
_word("gelu", 1, elementwise, "a * Phi(a), Phi the normal distribution function")
_word("gelu_pull", 2, elementwise, "a times the derivative of gelu at b", user=False)
_word("relu", 1, elementwise, "max(a, 0)")
_word("max", 2, elementwise, "the larger of a and b")
_word("min", 2, elementwise, "the smaller of a and b")
_word("where", 3, elementwise, "a where c > 0, b elsewhere")
_word("bfloat16", 1, elementwise, "a rounded to bfloat16; what is computed from it alone is rounded too")
_word("stop", 1, lambda types, attrs: types[0], "a, and no gradient passes")
_word("dot", 2, to_scalar, "sum_i a_i b_i")
_word("sqnorm", 1, total, "sum_i a_i^2")
_word("sum", 1, total, "sum_i a_i")
_word("mean", 1, total, "the mean of all entries")
_word("unit", 1, on_vectors, "a / sqrt(sum_i a_i^2 + 1e-6)")
_word("norm", 1, on_vectors, "a / sqrt(mean_i a_i^2 + 1e-6)")
_word("softmax", 1, on_vectors, "e^a_i / sum_j e^a_j")
_word("rope", 1, rotated, "pairs (a_i, a_i+n/2) turned by the angle t * 10000^(-2 i / n) at tick t")
_word("angles", 1, lambda types, attrs: Type("real", (attrs["size"],)), "(cos | sin) of the angles of rope, in the precision of a", user=False)
_word("turn", 2, elementwise, "pairs (a_i, a_i+n/2) turned by angles of which b has cos and sin", user=False)
_word("turn_back", 2, elementwise, "turned by the opposite of these angles", user=False)
_word("apply", 2, application, "W a", user=False)
_word("transpose", 1, transposition, "the operator B -> A with <W a, b> = <a, W^T b>")
_word("outer", 2, outer_product, "a b^T: the operator that maps x to a <b, x>; with an index b, a in that column")
_word("scale_values", 2, scaled_values, "Diag(a) W")
_word("matmul", 2, composition, "A B: the operator that maps x to A(B(x))")
_word("identity", 1, square, "the identity operator of the size of A")
_word("row_mean", 1, mean_of_rows, "the mean of each row of W")
_word("column_mean", 1, mean_of_columns, "the mean of each column of W")
_word("solve", 2, solution, "A^-1 b")
_word("matrix_power", 2, power_of_operator, "V Diag(max(l, 0)^p) V^T, where (A + A^T) / 2 = V Diag(l) V^T; with p < 0 no l counts for less than eps max(l)")
_word("eigenvectors", 1, square, "V, where (A + A^T) / 2 = V Diag(l) V^T and l ascends")
_word("flatten", 1, flattened, "all entries in one vector, the last dimension fastest")
_word("gather", 1, gathered, "the copies of an `each` as one leading dimension", user=False)
_word("delay", 1, delayed, "delay(a, n): a of n ticks before, zero at first")
_word("conv", 2, convolved, "conv(a, n) = sum_j w_j a_(t-j), j = 0 .. n - 1, a filter w for each channel")
_word("attend", 3, attended, "sum_i softmax_i(<q, k_i> / sqrt(d)) v_i over the stored pairs", user=False)
_word("attend_pull", 4, pulled, "the gradient of <c, attend(q, k, v)> with respect to q, or to the pair (k, v) of this tick", user=False)
_word("tap", 1, lambda types, attrs: Type("real", types[0].shape[:1], types[0].axes), "the weights of this tick in the filters of `conv`", user=False)
_word("count", 0, lambda types, attrs: Type("int"), "the number of this tick, from 1; in a rule that of its step")
_word("index", 0, lambda types, attrs: Type("int", (), (attrs["axis"],)), "the number of the copy, from 0", user=False)
_word("cross_entropy", 2, entropy, "log sum_j e^a_j - a_target")
_word("one_hot", 2, lambda types, attrs: Type("real", types[1].shape, join_axes(types)), "1 at the index a, 0 elsewhere, shaped like b", user=False)
_word("column", 2, picked, "1 at the index a, 0 elsewhere, in the precision of b", user=False)
_word("cast", 2, lambda types, attrs: replace(types[0], kind="real", bound=None) if types[0].kind == "int" else types[0], "a in the precision of b", user=False)
_word("unflatten", 2, lambda types, attrs: Type("real", types[1].shape, join_axes(types)), "a in the shape of b", user=False)
_word("entry", 1, one_entry, "a number as a vector of one entry", user=False)
_word("ungather", 1, ungathered, "the first dimension as copies of an `each` again", user=False)
_word("sum_copies", 1, merged, "the sum over the copies of an `each`", user=False)
_word("fill", 2, lambda types, attrs: types[1], "a in every entry of a tensor shaped like b", user=False)
_word("fold", 1, lambda types, attrs: types[0], "the sum or mean over the ticks of a period", user=False)
_word("pool", 2, lambda types, attrs: types[1], "the sum or mean of a over the sequences of a batch, the same for each, shaped like b", user=False)
