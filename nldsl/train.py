"""A `train` block read: which model, on what data, with which outer objective and optimizer.

    train NAME {
      model = lm(d = 128)
      minimize cross_entropy(model(byte), next) by adamw(lr = 3e-3)
      steps = 300  batch = 8  length = 256
    }

The data gives two streams, `byte` and `next`. The objective is an ordinary block: with the model in it for checking,
and with the model's output as an input for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nldsl import tree
from nldsl.check.instances import Units
from nldsl.diagnostics import Diagnostic, Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.constants import as_float, constant
from nldsl.elaborate.scope import Constant, Scope
from nldsl.routes import Route, read_routes
from nldsl.source import Span
from nldsl.walk import walk

BYTES = Dim.of(256)
WHOLE = {"steps", "batch", "length", "warmup", "seed", "eval_every", "checkpoint_every", "log_every", "sample_bytes"}
REAL = {"final_fraction", "grad_clip", "time_budget", "temperature"}
WORD = {"schedule": ("cosine", "constant")}
SETTINGS = WHOLE | REAL | set(WORD) | {"data", "model"}


@dataclass(frozen=True)
class Training:
    """A `train` block without errors.

    Attributes:
        model: the block and its parameters.
        objective: a block from `logits` and `next` to `loss`.
        routes: the rules that train it; one rule for all is one route.
        settings: as written, by name.
    """

    name: str
    model: tree.Block
    sizes: Mapping[str, Any]
    objective: tree.Block
    routes: tuple[Route, ...]
    settings: Mapping[str, Any]
    span: Span


def read_train(train: tree.Train, top: Scope) -> tuple[Training | None, list[Diagnostic]]:
    """Read a `train` block and check the whole of it: settings, model, and objective at the model's sizes."""
    work = _Reader(train, top)
    model = work.model()
    minimize = work.minimize()
    settings = work.settings()
    routes = work.routes(minimize) if minimize is not None else None
    if model is None or minimize is None:
        return None, work.found
    block, sizes, call = model
    calls = [e for e in walk(minimize.objective) if isinstance(e, tree.Call) and isinstance(e.fn, tree.Name) and e.fn.id == "model"]
    if len({(c.args) for c in calls}) != 1:
        work.report("NL721", "the objective must use the model once", minimize.objective.span, expected="model(byte)",
                    help="minimize cross_entropy(model(byte), next) by adamw(lr = 2e-3)")  # fmt: skip
        return None, work.found
    span = minimize.objective.span
    whole = tree.Call(call.fn, (*calls[0].args, *call.args), calls[0].span)
    checked = _block(train, minimize.objective, calls[0], whole, [("byte", _index(span)), ("next", _index(span))])
    units = Units(top)
    key = units.block(checked, {})
    work.found += units.diagnostics
    if key is None or routes is None or any(d.severity == "error" for d in work.found):
        return None, work.found
    logits = tree.RealType((tree.Num(256, span),), span)
    alone = _block(train, minimize.objective, calls[0], tree.Name("logits", span), [("logits", logits), ("next", _index(span))])
    return Training(train.name, block, sizes, alone, routes, settings, train.span), work.found


def _index(span: Span) -> tree.IntType:
    return tree.IntType(tree.Num(256, span), span)


def _block(train: tree.Train, objective: tree.Expr, model: tree.Call, by: tree.Expr, inputs: list[tuple[str, tree.Type]]) -> tree.Block:
    """A block with the objective as its output and something in the place of the model."""
    span = objective.span
    ins = tuple(tree.In((tree.Declared(name, None, span),), type, span) for name, type in inputs)
    out = tree.Out(tree.Declared("loss", None, span), _substitute(objective, model, by), span)
    return tree.Block(train.name, (), (*ins, out), train.span)


def _substitute(node: Any, old: Any, new: Any) -> Any:
    if node == old:
        return new
    if isinstance(node, tuple):
        return tuple(_substitute(n, old, new) for n in node)
    if hasattr(node, "__dataclass_fields__") and not isinstance(node, Span):
        return replace(node, **{k: _substitute(v, old, new) for k, v in vars(node).items() if k != "span"})
    return node


class _Reader:
    def __init__(self, train: tree.Train, top: Scope):
        self.train, self.top = train, top
        self.found: list[Diagnostic] = []
        self.equations: dict[str, tree.Equation] = {}
        for stmt in train.body:
            if isinstance(stmt, tree.Equation):
                if stmt.name.id in self.equations:
                    self.report("NL102", f"`{stmt.name.id}` is defined twice", stmt.name.span,
                                Label(self.equations[stmt.name.id].name.span, "the first definition"))  # fmt: skip
                self.equations[stmt.name.id] = stmt

    def report(self, code: str, message: str, span: Span, *because: Label, **more: str | None) -> None:
        self.found.append(Diagnostic(code, message, (Label(span), *because), **more))

    def model(self) -> tuple[tree.Block, dict[str, Any], tree.Call] | None:
        stmt = self.equations.get("model")
        blocks = {n: b.value for n, b in self.top.names.items() if isinstance(b, Constant) and isinstance(b.value, tree.Block)}
        if stmt is None:
            self.report("NL720", f"`train {self.train.name}` names no model", self.train.span, expected="model = NAME(...)",
                        help=f"model = {next(reversed(blocks), 'lm')}()")  # fmt: skip
            return None
        call = stmt.expr if isinstance(stmt.expr, tree.Call) else tree.Call(stmt.expr, (), stmt.expr.span)
        name = call.fn.id if isinstance(call.fn, tree.Name) else ""
        if name not in blocks:
            near = did_you_mean(name, blocks)
            self.report("NL720", f"`{name}` is not a block of this file", call.fn.span, expected="a block",
                        help=f"did you mean `{near}`?" if near else None)  # fmt: skip
            return None
        sizes = {}
        for arg in call.args:
            value = constant(arg.value, self.top)
            if arg.name is None or value is None:
                self.report("NL720", "a model's parameters are constants given by name", arg.span, expected="NAME = NUMBER")
                return None
            sizes[arg.name] = tuple(value) if isinstance(value, list) else value
        return blocks[name], sizes, call

    def minimize(self) -> tree.Minimize | None:
        found = [s for s in self.train.body if isinstance(s, tree.Minimize)]
        if len(found) != 1:
            self.report("NL721", f"`train {self.train.name}` needs one outer objective", self.train.span,
                        expected="one `minimize`", found=str(len(found)),
                        help="minimize cross_entropy(model(byte), next) by adamw(lr = 2e-3)")  # fmt: skip
            return None
        return found[0]

    def routes(self, minimize: tree.Minimize) -> tuple[Route, ...] | None:
        routes, found = read_routes(minimize, self.top)
        self.found += found
        return routes

    def settings(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, stmt in self.equations.items():
            if name == "model":
                continue
            value = constant(stmt.expr, self.top)
            if name in WORD and isinstance(stmt.expr, tree.Name) and stmt.expr.id in WORD[name]:
                values[name] = stmt.expr.id
            elif name in WHOLE and isinstance(value, Dim) and value.integer is not None:
                values[name] = value.integer
            elif name in REAL and as_float(value) is not None:
                values[name] = as_float(value)
            elif name == "data" and isinstance(value, str):
                values[name] = value
            elif name not in SETTINGS:
                near = did_you_mean(name, SETTINGS)
                self.report("NL723", f"`{name}` is not a setting of a `train` block", stmt.name.span,
                            expected=", ".join(sorted(SETTINGS)), help=f"did you mean `{near}`?" if near else None)  # fmt: skip
            else:
                kind = "a whole number" if name in WHOLE else " or ".join(WORD[name]) if name in WORD else "a text" if name == "data" else "a number"
                self.report("NL723", f"`{name}` cannot be this", stmt.expr.span, expected=kind, found=f"`{stmt.expr.span.text}`")
        return values
