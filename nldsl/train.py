"""A `train` block read: which model, on what data, with which outer objective and optimizer.

    train NAME {
      model = lm(d = 128)
      minimize cross_entropy(model(byte), next) by adamw(lr = 3e-3)
      steps = 300  batch = 8  length = 256
    }

The data gives two streams, `byte` and `next`. The objective is an ordinary block: with the model in it for checking,
and with the model's outputs as inputs for training (`nldsl/wiring.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nldsl import tree
from nldsl.check.instances import Units
from nldsl.diagnostics import Diagnostic, Label, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.constants import as_float, constant
from nldsl.elaborate.scope import Constant, Scope
from nldsl.routes import Route, read_routes
from nldsl.source import Span
from nldsl.wiring import HELP, Wiring, checked_block, is_use, objective_block, use_of, wire

WHOLE = {"steps", "batch", "length", "warmup", "seed", "eval_every", "checkpoint_every", "log_every", "sample_bytes"}
REAL = {"final_fraction", "grad_clip", "time_budget", "temperature"}
LIST = {"contexts"}  # of whole numbers
WORD = {"schedule": ("cosine", "constant")}
SETTINGS = WHOLE | REAL | LIST | set(WORD) | {"data", "model"}
KINDS = {"data": "a text", "contexts": "a list of whole numbers, [64, 256]"}


@dataclass(frozen=True)
class Training:
    """A `train` block without errors.

    Attributes:
        model: the block and its parameters.
        objective: a block from the outputs that `wiring` names, and `next`, to `loss`.
        wiring: what feeds the model, and which of its outputs are read.
        routes: the rules that train it; one rule for all is one route.
        settings: as written, by name.
    """

    name: str
    model: tree.Block
    sizes: Mapping[str, Any]
    objective: tree.Block
    wiring: Wiring
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
    use = use_of(train.body, minimize.objective)
    if use is None:
        work.report("NL721", "the objective must use the model once", minimize.objective.span, expected="model(byte)", help=HELP)
        return None, work.found
    checked = checked_block(train, minimize.objective, use, call)
    units = Units(top)
    key = units.block(checked, {})
    work.found += units.diagnostics
    if key is None or routes is None or any(d.severity == "error" for d in work.found):
        return None, work.found
    wired = wire(units.units, units.types, key, block.name, use, minimize.objective)
    if isinstance(wired, Diagnostic):
        return None, [*work.found, wired]
    wiring, outputs = wired
    alone = objective_block(train, minimize.objective, use, wiring, outputs)
    return Training(train.name, block, sizes, alone, wiring, routes, settings, train.span), work.found


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
                        help=HELP)  # fmt: skip
            return None
        return found[0]

    def routes(self, minimize: tree.Minimize) -> tuple[Route, ...] | None:
        routes, found = read_routes(minimize, self.top)
        self.found += found
        return routes

    def settings(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, stmt in self.equations.items():
            if name == "model" or is_use(stmt.expr):
                continue
            value = constant(stmt.expr, self.top)
            if name in WORD and isinstance(stmt.expr, tree.Name) and stmt.expr.id in WORD[name]:
                values[name] = stmt.expr.id
            elif name in WHOLE and isinstance(value, Dim) and value.integer is not None:
                values[name] = value.integer
            elif name in REAL and as_float(value) is not None:
                values[name] = as_float(value)
            elif name in LIST and (several := _whole_numbers(value)) is not None:
                values[name] = several
            elif name == "data" and isinstance(value, str):
                values[name] = value
            elif name not in SETTINGS:
                near = did_you_mean(name, SETTINGS)
                self.report("NL723", f"`{name}` is not a setting of a `train` block", stmt.name.span,
                            expected=", ".join(sorted(SETTINGS)), help=f"did you mean `{near}`?" if near else None)  # fmt: skip
            else:
                kind = "a whole number" if name in WHOLE else " or ".join(WORD[name]) if name in WORD else KINDS.get(name, "a number")
                self.report("NL723", f"`{name}` cannot be this", stmt.expr.span, expected=kind, found=f"`{stmt.expr.span.text}`")
        return values


def _whole_numbers(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers, or None."""
    if not isinstance(value, (list, tuple)):
        return None
    found = tuple(v.integer for v in value if isinstance(v, Dim) and v.integer is not None)
    return found if found and len(found) == len(value) else None
