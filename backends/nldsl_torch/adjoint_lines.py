"""Single operations of generated lines: what each is, on what operands, with what constants."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

CONSTANT = {"new_zeros", "new_ones", "new_full", "detach", "zeros_like", "ones_like", "full_like", "sign", "shape", "dtype", "device"}


@dataclass
class Op:
    """`targets = node`, where `args` are the names in it that carry gradients."""

    targets: tuple[str, ...]
    node: ast.expr
    kind: str
    args: tuple[str, ...]
    constants: tuple[str, ...] = ()  # what else the operation is given, as text
    temporary: bool = False
    second: str = ""  # the name of a second result, for the reverse


@dataclass
class Branch:
    test: str
    sides: tuple[list[Item], list[Item]]


Item = Op | Branch | str  # a text is a line without gradients


def made(lines: Sequence[str]) -> set[str]:
    """Names that lines assign; a comment, which quotes the text, assigns none."""
    return {n.strip("() ") for line in lines if not line.lstrip().startswith("#") for n in line.strip().partition(" = ")[0].split(",")}


BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul"}
METHODS = frozenset(
    "abs contiguous cumsum exp expand flatten log mean movedim narrow relu select sigmoid softmax squeeze sum tanh tril unflatten unsqueeze".split()
)
OF_TORCH = {"addcmul", "diag_embed", "maximum", "minimum", "where"}  # functions of tensors alone
FUNCTIONS = {"gelu", "linear", "silu", "softplus"}  # of torch.nn.functional
PRIMITIVES = frozenset(  # of tensors alone
    "apply cross_entropy decay_ends decay_kernel gelu_pull inverse norm root turn turn_back unit unit_solve".split()
)
WITH_NUMBERS = {"at_least": 1, "at_most": 1, "linear_scan": 3, "shift_down": 1, "spread": 1}  # how many tensors come first


def parts_of(node: ast.expr) -> tuple[str, list[ast.expr], tuple[str, ...]] | None:
    """Kind, operands and constants of the outermost operation of an expression."""
    match node:
        case ast.Name():
            return "same", [node], ()
        case ast.BinOp(left=a, op=ast.Mult(), right=ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="ones_like"), args=[like])):
            return "spread", [a], (ast.unparse(like),)
        case ast.BinOp(left=ast.BinOp(left=a, op=ast.Mult(), right=b), op=ast.Add(), right=c) if _tensors(a, b, c):
            return "addcmul", [c, a, b], ()
        case ast.BinOp(left=c, op=ast.Add(), right=ast.BinOp(left=a, op=ast.Mult(), right=b)) if _tensors(a, b, c):
            return "addcmul", [c, a, b], ()
        case ast.BinOp(left=a, op=op, right=b) if type(op) in BINARY:
            return BINARY[type(op)], [a, b], ()
        case ast.UnaryOp(op=ast.USub(), operand=a):
            return "neg", [a], ()
        case ast.Attribute(value=a, attr="mT"):
            return "mT", [a], ()
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="cat"), args=[ast.List(elts=parts), dim]):
            return "cat", parts, (ast.unparse(dim),)
        case ast.Call(func=ast.Name(id="beside"), args=[ast.List(elts=parts), dim]):
            return "cat", parts, (ast.unparse(dim),)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="einsum"), args=[how, *args]):
            return "einsum", args, (ast.unparse(how),)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name), args=args) if name in OF_TORCH:
            return name, args, ()
        case ast.BinOp(left=a, op=ast.Pow(), right=exponent) if is_number(ast.unparse(exponent)):
            return "pow", [a], (ast.unparse(exponent),)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="F"), attr=function), args=args) if function in FUNCTIONS:
            return function, args, ()
        case ast.Call(func=ast.Attribute(value=a, attr="chunk"), args=[_, dim]):
            return "chunk", [a], (ast.unparse(dim),)
        case ast.Call(func=ast.Attribute(value=a, attr=method), args=args, keywords=keywords) if method in METHODS:
            return method, [a], tuple(ast.unparse(x) for x in (*args, *keywords))
        case ast.Call(func=ast.Name(id="matmul"), args=args):
            return "operators", args, ()
        case ast.Call(func=ast.Name(id=name), args=args) if name in PRIMITIVES:
            return name, args, ()
        case ast.Call(func=ast.Name(id=name), args=args) if name in WITH_NUMBERS:
            return name, args[: WITH_NUMBERS[name]], tuple(map(ast.unparse, args[WITH_NUMBERS[name] :]))
    return None


def _tensors(*nodes: ast.expr) -> bool:
    return all(any(isinstance(n, ast.Name) for n in ast.walk(node)) for node in nodes)


def with_operands(node: ast.expr, kind: str, names: list[ast.expr]) -> ast.expr:
    """The same operation on other operands."""
    match node:
        case ast.BinOp() if kind == "addcmul":
            return ast.Call(ast.Attribute(ast.Name("torch"), "addcmul"), names, [])
        case ast.BinOp(op=op):
            return ast.BinOp(names[0], op, names[1] if len(names) > 1 else node.right)
        case ast.UnaryOp(op=op):
            return ast.UnaryOp(op, names[0])
        case ast.Attribute(attr=attr):
            return ast.Attribute(names[0], attr)
        case ast.Call(func=func, args=args, keywords=keywords):
            if kind == "cat":
                return ast.Call(func, [ast.List(names), args[1]], keywords)
            if kind == "einsum":
                return ast.Call(func, [args[0], *names], keywords)
            if kind in {*METHODS, "chunk"} and isinstance(func, ast.Attribute):
                return ast.Call(ast.Attribute(names[0], func.attr), args, keywords)
            return ast.Call(func, [*names, *args[len(names) :]], keywords)
    return names[0]


def is_number(text: str) -> bool:
    try:
        float(text.strip("()"))
    except ValueError:
        return False
    return True


class Inside(ast.NodeTransformer):
    def __init__(self, inside: dict[str, ast.expr]):
        self.inside = inside

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.inside.get(node.id, node)
