"""Types and initial values as they are declared."""

from __future__ import annotations

from typing import Any

from nldsl import tree
from nldsl.core import Init, Input, Last, Param, Ref, State, Type
from nldsl.diagnostics import did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.builder import Builder, Skip
from nldsl.elaborate.constants import as_float, constant
from nldsl.elaborate.scope import Operator, Remembered, Scope, Stream

# Functions of an initial value and the number of their arguments; the last group works entry by entry.
INITS = {"zeros": 0, "ones": 0, "eye": 0, "normal": 1, "uniform": 2, "constant": 1}
ENTRYWISE = {"log", "exp", "sqrt", "sigmoid", "softplus"}


def is_kept(init: Init) -> bool:
    """Whether an initial value is drawn or read from a file, so that the module keeps it."""
    return isinstance(init, tuple) and (init[0] in ("normal", "uniform", "pretrained") or any(map(is_kept, init[1:])))


class Declarations:
    """Reads the types and initial values of one unit."""

    def __init__(self, builder: Builder):
        self.b = builder
        self.leaves: tuple[str, tuple[str, ...]] | None = None  # of a structure: the one whose first value is read, and all of them
        self.of_memory = False  # whether it is the first value of a memory that is read
        self.placed: dict[str, Type] = {}  # of what stands for the declarations of a structure

    def dim(self, expr: tree.Expr, scope: Scope) -> Dim:
        value = constant(expr, scope)
        if isinstance(value, Dim):
            exact = value.constant
            if exact is not None and (exact.denominator != 1 or exact < 1):
                raise self.b.fail("NL201", "a dimension must be a whole number above 0", expr.span,
                                  expected="a whole number", found=str(exact))  # fmt: skip
            return value
        found = {float: "a number with a fraction", list: "a list", str: "a text"}.get(type(value), "an expression over streams")
        if isinstance(expr, tree.Name) and scope.find(expr.id) is None:
            near = did_you_mean(expr.id, scope.visible())
            raise self.b.fail("NL101", f"nothing is called `{expr.id}` here", expr.span, found=f"`{expr.id}`",
                              help=f"did you mean `{near}`?" if near else f"make `{expr.id}` a parameter of the block")  # fmt: skip
        raise self.b.fail("NL201", "a dimension must be known before any tick", expr.span,
                          expected="numbers and parameters of the block", found=found)  # fmt: skip

    def type(self, node: tree.Type, scope: Scope) -> Type:
        match node:
            case tree.RealType(dims):
                return Type("real", tuple(self.dim(d, scope) for d in dims), scope.axes)
            case tree.IntType(None):
                return Type("int", (), scope.axes)
            case tree.IntType(bound) if bound is not None:
                return Type("int", (), scope.axes, self.dim(bound, scope))
            case tree.BoolType():
                return Type("bool", (), scope.axes)
            case tree.MapType(domain, codomain):
                return Type("map", (self.dim(codomain, scope), self.dim(domain, scope)), scope.axes)
            case tree.StoreType(map):
                return self.type(map, scope)
            case tree.LikeType(name):
                return self._like(node, name, scope)
            case tree.StructureType():
                raise Skip  # reported by the parser
        raise AssertionError(node)

    def _like(self, node: tree.LikeType, name: str, scope: Scope) -> Type:
        learner = scope.find_learner()
        found = scope.find(name)
        if isinstance(found, Remembered) and found.structure is not None and found.node is not None:
            raise self.b.fail("NL106", f"`{name}` is a network: it has no type of its own", node.span, expected="its block",
                              help=found.node.type.span.text)  # fmt: skip
        if isinstance(found, Stream) and isinstance(found.atom, Ref) and found.atom.name in self.placed:
            return self.placed[found.atom.name]
        if name == "w" and learner is not None and found is None:
            wanted = learner.memory
        elif isinstance(found, Remembered) or (isinstance(found, Stream) and found.atom is not None):
            wanted = getattr(found, "name", name)
        else:
            wanted = name
        known: list[State | Param | Input] = [*self.b.states, *self.b.params, *self.b.inputs]
        for declared in known:
            if declared.name == wanted:
                return declared.type
        raise self.b.fail("NL101", f"`like` needs something declared with a type, and `{name}` is not", node.span,
                          expected="a param, a memory or an input")  # fmt: skip

    def init(self, expr: tree.Expr, scope: Scope) -> tuple[Init, bool]:
        """The initial value and whether it is learned: `learned`, `learned(normal(0.1))`."""
        match expr:
            case tree.Name("learned"):
                return ("zeros",), True
            case tree.Call(tree.Name("learned"), (tree.Arg(None, inner),)):
                return self._init(inner, scope), True
        return self._init(expr, scope), False

    def _init(self, expr: tree.Expr, scope: Scope) -> Init:
        value = constant(expr, scope)
        if isinstance(value, (Dim, float)):
            return value
        match expr:
            case tree.Name(id) if id in INITS and INITS[id] == 0:
                return (id,)
            case tree.Name(id) if (axis := self._axis(id, scope)) is not None:
                return ("index", axis)
            case tree.Name() | tree.Index() if (number := self._number(expr, scope)) is not None:
                return ("input", number)
            case tree.Unary("-", operand):
                return ("neg", self._init(operand, scope))
            case tree.Binary(op, left, right):
                return (op, self._init(left, scope), self._init(right, scope))
            case tree.Call(tree.Name(fn), args) if fn in INITS or fn in ENTRYWISE:
                return self._call(expr, fn, args, scope)
            case tree.Call(tree.Name("pretrained"), args):
                return self._pretrained(expr, args, scope)
        names = set(INITS) | ENTRYWISE | {"learned", "pretrained"}
        spelled = expr.id if isinstance(expr, tree.Name) else None
        if spelled is None and isinstance(expr, tree.Call) and isinstance(expr.fn, tree.Name):
            spelled = expr.fn.id
        near = did_you_mean(spelled, names) if spelled else None
        message, help = f"`{spelled or expr.span.text}` is not an initial value", f"did you mean `{near}`?" if near else None
        bound = scope.find(spelled) if spelled else None
        if isinstance(bound, (Stream, Operator, Remembered)):
            message = f"an initial value cannot depend on `{spelled}`: it is computed once, when a module is made"
            help = self._instead(spelled, bound)
        raise self.b.fail("NL303", message, expr.span, expected="one of " + ", ".join(sorted(names)) + " or a number", help=help)

    def _instead(self, name: str | None, bound: Stream | Operator | Remembered) -> str | None:
        """What can be said in place of a first value that is a param. Where nothing is forgotten, a memory that is added to it is the same."""
        known = {p.name for p in self.b.params}
        if isinstance(bound, Operator) or (isinstance(bound, Stream) and isinstance(bound.atom, Ref) and bound.atom.name in known):
            if not self.of_memory:
                return f"leave out `param` and the type: an equation may depend on `{name}`"
            if self.leaves is None:
                return f"start at zeros, and add `{name}` to the memory in its objective and wherever it is read"
        return None

    def _call(self, expr: tree.Call, fn: str, args: tuple[tree.Arg, ...], scope: Scope) -> Init:
        arity = INITS.get(fn, 1)
        if len(args) != arity or any(a.name is not None for a in args):
            raise self.b.fail("NL110", f"wrong number of arguments of `{fn}`", expr.span,
                              expected=str(arity), found=str(len(args)))  # fmt: skip
        if fn in ENTRYWISE:
            return (fn, self._init(args[0].value, scope))
        numbers: list[Any] = []
        for arg in args:
            value = constant(arg.value, scope)
            number = as_float(value)
            if number is None and not isinstance(value, Dim):
                inner = self._init(arg.value, scope)
                if not isinstance(inner, tuple):
                    raise AssertionError(inner)
                numbers.append(inner)
            else:
                numbers.append(value if number is None else number)
        if fn == "normal" and isinstance(numbers[0], float) and numbers[0] < 0:
            raise self.b.fail("NL303", "a standard deviation is not negative", args[0].span, expected="at least 0", found=str(numbers[0]))
        return (fn, *numbers)

    def _pretrained(self, expr: tree.Call, args: tuple[tree.Arg, ...], scope: Scope) -> Init:
        """`pretrained(FILE, TENSOR)`; of a network `pretrained(FILE, PREFIX, PARAM = TENSOR, ...)`, PREFIX and PARAMs left out at will."""
        given = [(a, constant(a.value, scope)) for a in args]
        texts = [v for a, v in given if a.name is None and isinstance(v, str)]
        renamed = {a.name: v for a, v in given if a.name is not None and isinstance(v, str)}
        expected = "pretrained(FILE, TENSOR)" if self.leaves is None else "pretrained(FILE), pretrained(FILE, PREFIX), PARAM = TENSOR with them"
        if len(texts) + len(renamed) != len(args) or not 1 <= len(texts) <= 2 or (self.leaves is None and (renamed or len(texts) < 2)):
            raise self.b.fail("NL303", "a pre-trained value is a tensor of a file, each named by a text", expr.span, expected=expected,
                              help='pretrained("mlp.safetensors", "layers.0.up")')  # fmt: skip
        if self.leaves is None:
            return ("pretrained", texts[0], texts[1])
        leaf, known = self.leaves
        odd = next((a for a, _ in given if a.name is not None and a.name not in known), None)
        if odd is not None:
            near = did_you_mean(odd.name or "", known)
            raise self.b.fail("NL303", f"the network has no param `{odd.name}`", odd.span, expected=", ".join(known),
                              help=f"did you mean `{near}`?" if near else None)  # fmt: skip
        return ("pretrained", texts[0], ".".join([*texts[1:], renamed.get(leaf, leaf)]))

    def _number(self, expr: tree.Name | tree.Index, scope: Scope) -> str | None:
        """The number of a rule that is given when its state is made."""
        found = scope.find(expr.span.text.replace(" ", "")) if self.b.numbers_given else None
        return found.atom.name if isinstance(found, Stream) and isinstance(found.atom, Ref) and found.atom.name in self.b.numbers_given else None

    def _axis(self, name: str, scope: Scope) -> str | None:
        found = scope.find(name)
        if isinstance(found, Stream) and isinstance(found.atom, (Ref, Last)):
            for equation in self.b.equations:
                if equation.op == "index" and found.atom.name == equation.name:
                    return str(equation.attr("axis").id)
        return None
