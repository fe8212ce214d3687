"""Routes: which rule trains which parameters of a model.

    minimize E
      matrices by muon(lr = 0.02), "head.*" by adamw(lr = 1e-3) every 8, split("*.qkv.weight", 3) by muon(), rest by adamw()

Names of rules, their numbers and the shapes they accept are checked here; the parameters are known when a model is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nldsl import tree
from nldsl.check.instances import Units
from nldsl.core import Rule
from nldsl.diagnostics import Diagnostic, Label, NlError, did_you_mean
from nldsl.dims import Dim
from nldsl.elaborate.constants import as_float, constant
from nldsl.elaborate.scope import Constant, Scope
from nldsl.parse import parse
from nldsl.roles import ACCEPTED, SHAPES, overlap
from nldsl.source import NOWHERE, Source, Span
from nldsl.walk import walk

EVERYTHING = ("rest", "all")
SELECTORS = {**SHAPES, **dict.fromkeys(EVERYTHING, "any")}
NAMED = "named"
KINDS = {"any": "anything", "matrix": "matrices", "vector": "vectors", "stack": "matrices"}
Value = float | int | tuple[float, ...]


@dataclass(frozen=True)
class Route:
    """One route, as plain data.

    Attributes:
        selector: one of `SELECTORS`, or `named` for the names that match `pattern`.
        pattern: with `*`, `?` and `[...]`, over whole names of parameters.
        split: the rows of each tensor are so many matrices of equal size.
        rule, numbers: its name and all its numbers, defaults filled in; whole where they fix what is compiled.
        every: the rule runs at every so many steps, on the sum of the gradients between.
        accepts: any, vector, matrix or stack.
        roles: what its parameters are for, by the words of selectors; none where any will do.
        otherwise: the route of what the rule does not accept, with that rule's own defaults.
        text, span: as written.
    """

    selector: str
    pattern: str | None
    split: int
    rule: str
    numbers: dict[str, Value]
    every: int = 1
    accepts: str = "any"
    roles: tuple[str, ...] = ()
    otherwise: Route | None = None
    text: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def chain(self) -> tuple[Route, ...]:
        """Itself and the routes behind its `else`."""
        return (self, *(self.otherwise.chain if self.otherwise is not None else ()))

    @property
    def learns_on(self) -> str:
        """What its rule accepts, in words."""
        return " or ".join(self.roles) or KINDS[self.accepts]

    def __str__(self) -> str:
        """The route with all its numbers."""
        chosen = self.selector if self.pattern is None else f'"{self.pattern}"'
        chosen = chosen if self.split == 1 else f"split({chosen}, {self.split})"
        numbers = ", ".join(f"{k} = {list(v) if isinstance(v, tuple) else v}" for k, v in self.numbers.items())
        return f"{chosen} by {self.rule}({numbers})" + (f" every {self.every}" if self.every > 1 else "")


def routes_of(text: str, top: Scope) -> tuple[Route, ...]:
    """Routes as they stand in a `train` block, `matrices by muon(), rest by adamw()`, over the rules of a scope.

    Raises:
        NlError: with everything that is wrong.
    """
    file, wrong = parse(Source("<routes>", f"train routes {{ minimize loss {text} }}"))
    if wrong:
        raise NlError(*wrong)
    (train,) = file.items
    assert isinstance(train, tree.Train)
    (minimize,) = train.body
    assert isinstance(minimize, tree.Minimize)
    routes, found = read_routes(minimize, top)
    if routes is None:
        raise NlError(*found)
    return routes


def read_routes(minimize: tree.Minimize, top: Scope) -> tuple[tuple[Route, ...] | None, list[Diagnostic]]:
    """The routes of a `minimize`; a single rule, `minimize E by RULE(...)`, is a route of all. None where one is wrong."""
    work = _Reader(top)
    if not minimize.routes:
        if len(minimize.steps) != 1:
            work.report("NL722", "one rule trains a parameter", minimize.steps[1].span, expected="one rule after `by`, or routes",
                        found=f"{len(minimize.steps)} rules", help=f"matrices by {minimize.steps[0].span.text}, rest by adamw()")  # fmt: skip
            return None, work.found
        step = minimize.steps[0]
        rule, every = (step.rule, step.every) if isinstance(step, tree.Step) else (step, None)
        written: tuple[tree.Route, ...] = (tree.Route(tree.Name("all", step.span), rule, every, step.span),)
    else:
        written = minimize.routes
    routes = [work.route(r) for r in written]
    work.unreachable([r for r in routes if r is not None])
    if any(d.severity == "error" for d in work.found):
        return None, work.found
    return tuple(r for r in routes if r is not None), work.found


class _Reader:
    def __init__(self, top: Scope):
        self.top = top
        self.found: list[Diagnostic] = []

    def report(self, code: str, message: str, span: Span, *because: Label, **more: str | None) -> None:
        self.found.append(Diagnostic(code, message, (Label(span), *because), **more))

    def route(self, node: tree.Route) -> Route | None:
        selected, rule, every = self._selector(node.selector), self._step(node.step), self._every(node.every)
        if selected is None or rule is None or every is None:
            return None
        selector, pattern, split = selected
        made, numbers = rule
        other = self._otherwise(made, (made.name,), every)
        text = " ".join(node.span.text.split()) if node.span is not node.step.span else f"all by {node.span.text}"
        route = Route(selector, pattern, split, made.name, numbers, every, made.accepts, made.roles, other, text, node.span)
        needs = [i.name for i in made.unit.inputs if i.name in ("x", "delta")]
        if every > 1 and needs and node.every is not None:
            self.report("NL727", f"`{made.name}` reads {' and '.join(needs)} of each step, so it runs at every step", node.every.span,
                        expected="no `every`")  # fmt: skip
        self._fits(route, node)
        return route

    def _selector(self, node: tree.Expr) -> tuple[str, str | None, int] | None:
        match node:
            case tree.Str(pattern):
                return NAMED, pattern, 1
            case tree.Name(name) if name in SELECTORS:
                return name, None, 1
            case tree.Name(name):
                near = did_you_mean(name, [*SELECTORS, "split"])
                self.report("NL725", f"`{name}` selects no parameters", node.span, expected=", ".join([*SELECTORS, "split(...)", 'or "PATTERN"']),
                            help=f"did you mean `{near}`?" if near else f'"*{name}*" for names with `{name}` in them')  # fmt: skip
                return None
            case tree.Call(tree.Name("split"), (tree.Arg(None, inner), tree.Arg(name, count))) if name in (None, "parts"):
                found, parts = self._selector(inner), constant(count, self.top)
                whole = parts.integer if isinstance(parts, Dim) else None
                if whole is None or whole < 2:
                    self.report("NL725", "a split is in a whole number of parts, 2 or more", count.span, found=f"`{count.span.text}`")
                    return None
                if found is not None and SELECTORS.get(found[0], "matrix") in ("vector", "tensor"):
                    self.report("NL725", f"`{found[0]}` are not split: they have no rows of matrices", inner.span, expected="matrices or a name pattern")
                    return None
                return found and (found[0], found[1], whole)
        example = 'split("*.qkv.weight", 3)'
        self.report("NL725", "this selects no parameters", node.span, expected="split(SELECTOR, PARTS)", help=example)
        return None

    def _step(self, step: tree.Expr) -> tuple[Rule, dict[str, Value]] | None:
        call = step if isinstance(step, tree.Call) else tree.Call(step, (), step.span)
        name = call.fn.id if isinstance(call.fn, tree.Name) else call.fn.span.text
        node = self._rule(name)
        if node is None:
            known = [n for n in self.top.visible() if self._rule(n) is not None]
            near = did_you_mean(name, known) if isinstance(call.fn, tree.Name) else None
            self.report("NL722", f"`{name}` is not a rule", call.fn.span, expected="a rule of the file or of the library",
                        help=f"did you mean `{near}`?" if near else "adamw(lr = 2e-3)")  # fmt: skip
            return None
        values = self._values(call, node)
        made = None if values is None else self._made(node, {k: v for k, (v, _) in values.items()}, call.fn.span)
        if made is None or values is None:
            return None
        numbers = self._numbers(call, made, values)
        return None if numbers is None else (made, numbers)

    def _rule(self, name: str) -> tree.Rule | None:
        found = self.top.find(name)
        return found.value if isinstance(found, Constant) and isinstance(found.value, tree.Rule) else None

    def _made(self, node: tree.Rule, values: dict[str, Any], span: Span) -> Rule | None:
        """The rule on a tensor, with what fixes its structure as given here."""
        if not any(isinstance(n, tree.Name) and n.id in ("g", "delta") for n in walk(node.body)):
            self.report("NL432", f"`{node.name}` is no optimizer: its step does not depend on the gradient", span,
                        expected="a rule that reads `g`", help="adamw(lr = 2e-3)")  # fmt: skip
            return None
        whole = {k: v.integer for k, v in values.items() if isinstance(v, Dim) and v.integer is not None and v.integer > 0}
        units = Units(self.top)
        made = units.rule(node, whole)
        if made is None:
            self.found += [d for d in units.diagnostics if d.severity == "error"]
        return made

    def _values(self, call: tree.Call, node: tree.Rule) -> dict[str, tuple[Any, Span]] | None:
        """The arguments of a rule by name, as constants."""
        names = [f.name for f in node.formals]
        values: dict[str, tuple[Any, Span]] = {}
        fine = True
        for place, arg in enumerate(call.args):
            name = arg.name if arg.name is not None else names[place] if place < len(names) else None
            if name is None:
                self.report("NL726", f"`{node.name}` takes fewer numbers", arg.span, expected=_formals(node))
                return None
            if name not in names:
                near = did_you_mean(name, names)
                self.report("NL726", f"`{node.name}` has no number `{name}`", arg.span, expected=_formals(node),
                            help=f"did you mean `{near}`?" if near else None)  # fmt: skip
                fine = False
            elif name in values:
                self.report("NL726", f"`{name}` is given twice", arg.span, Label(values[name][1], "the first one"))
                fine = False
            else:
                values[name] = constant(arg.value, self.top), arg.span
        return values if fine else None

    def _numbers(self, call: tree.Call, made: Rule, values: dict[str, tuple[Any, Span]]) -> dict[str, Value] | None:
        """All numbers of a rule: those given, and the defaults."""
        numbers: dict[str, Value] = {**made.structure}
        whole = {*made.structure, *(p for p in made.periods.values() if isinstance(p, str))}
        defaults = {h.name: h.default for h in made.hypers}
        for name, default in defaults.items():
            if default is not None:
                numbers[name] = int(default) if name in whole and isinstance(default, float) else default
        fine = True
        for name, (value, span) in values.items():
            default = defaults.get(name, 0.0)
            number, expected = _number(value, default, name in whole)
            if number is None:
                self.report("NL726", f"`{name}` of `{made.name}` cannot be this", span, expected=expected, found=f"`{span.text}`")
                fine = False
            else:
                numbers[name] = number
        missing = [n for n, d in defaults.items() if d is None and n not in values]
        if missing:
            listed = ", ".join(f"`{n}`" for n in missing)
            self.report("NL726", f"`{made.name}` needs a value for {listed}", call.span, expected=", ".join(f"{n} = ..." for n in missing),
                        help=f"{made.name}({', '.join(f'{n} = 0.01' for n in missing)})")  # fmt: skip
        return numbers if fine and not missing else None

    def _otherwise(self, made: Rule, seen: tuple[str, ...], every: int) -> Route | None:
        """The rule for what this one does not accept; None where there is none, or one needs numbers."""
        if made.otherwise is None or made.otherwise in seen:
            return None
        node = self._rule(made.otherwise)
        other = self._made(node, {}, made.unit.span) if node is not None else None
        if other is None or any(h.default is None for h in other.hypers):
            return None
        numbers = self._numbers(tree.Call(tree.Name(other.name, NOWHERE), (), NOWHERE), other, {})
        if numbers is None:
            return None
        then = self._otherwise(other, (*seen, other.name), every)
        return Route("rest", None, 1, other.name, numbers, every, other.accepts, other.roles, then, f"{other.name}()", other.unit.span)

    def _every(self, node: tree.Expr | None) -> int | None:
        if node is None:
            return 1
        value = constant(node, self.top)
        whole = value.integer if isinstance(value, Dim) else None
        if whole is None or whole < 1:
            self.report("NL727", "`every` counts steps", node.span, expected="a whole number, 1 or more", found=f"`{node.span.text}`")
            return None
        return whole

    def _fits(self, route: Route, node: tree.Route) -> None:
        """What is wrong whatever the model: a rule of matrices for vectors, or for embeddings."""
        shape = "matrix" if route.split > 1 else SELECTORS.get(route.selector, "any")
        if route.split > 1 and route.accepts == "any":
            self.report("NL728", f"`{route.rule}` is no rule of matrices: there is nothing to split", node.selector.span,
                        expected="a rule `on d -> e`", help=f"{node.selector.span.text} by muon()")  # fmt: skip
            return
        alien = shape != "any" and shape not in ACCEPTED[route.accepts]
        other = route.selector in SHAPES and bool(route.roles) and not overlap(route.selector, route.roles)
        if (alien or other) and route.otherwise is None:
            self.report("NL728", f"`{route.rule}` learns on {route.learns_on}, and `{node.selector.span.text}` are none", node.step.span,
                        expected=route.learns_on if other else f"a rule for {node.selector.span.text}", found=f"`{node.selector.span.text}`",
                        help=f"{node.selector.span.text} by adamw()")  # fmt: skip

    def unreachable(self, routes: list[Route]) -> None:
        """Routes that nothing is left for."""
        for number, route in enumerate(routes):
            same = (route.selector, route.pattern)
            before = next((r for r in routes[:number] if r.selector in EVERYTHING or (r.selector, r.pattern) == same), None)
            if before is not None:
                self.report("NL730", "no parameter is left for this route", route.span, Label(before.span, "takes them"),
                            help="of the routes that match a parameter, the first takes it")  # fmt: skip


def _number(value: Any, default: float | tuple[float, ...] | None, whole: bool) -> tuple[Value | None, str]:
    """A constant as a number like the default, and what would be one."""
    if isinstance(default, tuple):
        items = [as_float(v) for v in value] if isinstance(value, (list, tuple)) else []
        right = len(items) == len(default) and None not in items
        return (tuple(i for i in items if i is not None) if right else None), f"a list of {len(default)} numbers, such as {list(default)}"
    if whole:
        number = value.integer if isinstance(value, Dim) else None
        return (number if number is not None and number > 0 else None), "a whole number, 1 or more"
    return as_float(value), "a number"


def _formals(node: tree.Rule) -> str:
    return ", ".join(f.name if f.default is None else f"{f.name} = {f.default.span.text}" for f in node.formals) or "none"


__all__ = ["EVERYTHING", "KINDS", "NAMED", "SELECTORS", "Route", "read_routes", "routes_of"]
