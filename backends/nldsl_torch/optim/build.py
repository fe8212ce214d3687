"""Rules to optimizers: the source of a class, the class, and an optimizer of given parameters."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from nldsl.core import Rule
from nldsl.diagnostics import Diagnostic, NlError, did_you_mean
from nldsl.lower.rule import plan_rule
from nldsl.program import Program
from nldsl.routes import Route, routes_of
from nldsl.rules import with_others
from nldsl_torch.build import load_module
from nldsl_torch.optim.groups import OPTIONS, dimensions, route
from nldsl_torch.optim.layers import providers
from nldsl_torch.optim.optimizer import RuleOptimizer
from nldsl_torch.optim.routing import RouteWarning, assign, parts
from nldsl_torch.optim.source import class_name, rules_source
from nldsl_torch.optim.standalone import standalone_imports


def optimizer_source(program: Program, rule: str, structure: Mapping[str, int] | None = None, *, standalone: bool = True) -> str:
    """Python source of the class of a rule; with `standalone` all it needs besides torch is in it."""
    return _source(with_others(program.top, rule, structure), rule, standalone)


def optimizer_class(program: Program, rule: str, structure: Mapping[str, int] | None = None) -> type[RuleOptimizer]:
    """The class of a rule; equal rules have one class."""
    return _known_class(program, rule, tuple((structure or {}).items()))


@lru_cache(maxsize=256)
def _known_class(program: Program, rule: str, structure: tuple[tuple[str, int], ...]) -> type[RuleOptimizer]:
    return _class(with_others(program.top, rule, dict(structure)), rule)


def optimizer(program: Program, rule: str, params: Any, /, **numbers: Any) -> RuleOptimizer:
    """An optimizer of parameters, or of a module, by one rule or by routes.

    Raises:
        NlError: there is no such rule.
        TypeError, ValueError: a number or a tensor does not fit, as with torch's own optimizers.
    """
    if not rule.isidentifier():
        return optimizer_for(program, routes_of(rule, program.top), params, **numbers)
    known = program.rule(rule)
    _known_numbers(rule, {h.name for h in known.hypers} | set(known.structure), numbers)
    structure = {k: _whole(k, v) for k, v in numbers.items() if k in known.structure}
    made = optimizer_class(program, rule, structure)
    model = params if isinstance(params, nn.Module) else None
    if any(p.roles for p in made.programs.values()):
        params = list(params) if isinstance(params, Iterator) else params
        if model is not None or _plain(params):
            return _assigned(made, with_others(program.top, rule, structure), params, numbers)
    if model is not None and known.accepts in ("matrix", "stack"):
        tables = [p.names[0] for p in parts(model) if p.linear and {"embedding", "head"} & set(p.roles)]
        if tables:
            warnings.warn(f"{rule} takes `{tables[0]}` for a matrix, and it is a table of rows, one a class: `matrices by {rule}(...), "
                          "rest by adamw()` leaves it out", RouteWarning, stacklevel=3)  # fmt: skip
    given = list(model.named_parameters()) if model is not None else params
    found = made(given, **{k: v for k, v in numbers.items() if k not in structure})
    listen(found, model)
    return found


def _assigned(made: type[RuleOptimizer], rules: Mapping[str, Rule], params: Any, numbers: Mapping[str, Any]) -> RuleOptimizer:
    """An optimizer by one rule, where roles say what goes to it and what to the rules behind its `else`.

    A rule behind `else` has the numbers of the first that it shares a name with.
    """
    first, *_ = rules.values()
    options = {k: v for k, v in numbers.items() if k not in first.structure}
    own = {h.name: h.default for h in first.hypers} | options
    way: Route | None = None
    for r in reversed([*rules.values()]):
        values: dict[str, Any] = {h.name: own.get(h.name, h.default) for h in r.hypers}
        way = Route("all", None, 1, r.name, values, accepts=r.accepts, roles=r.roles, otherwise=way, text=f"all by {r.name}()")
    assert way is not None
    assignment = assign(params, (way,))
    found = made(assignment.groups(), **options)
    found.assignment = assignment
    listen(found, params if isinstance(params, nn.Module) else None)
    return found


def _plain(params: Any) -> bool:
    """Whether these are parameters, with or without names: no groups, and nothing that torch refuses."""
    entries = list(params) if isinstance(params, (list, tuple, nn.ParameterList)) else []
    tensors = [entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry for entry in entries]
    return bool(entries) and all(isinstance(t, Tensor) for t in tensors)


def optimizer_for(program: Program, routes: Iterable[Route], model: Any, /, **options: Any) -> RuleOptimizer:
    """One optimizer of a model whose parameters go to several rules; see `nldsl_torch.optim.routing`."""
    _known_numbers("", set(), options)
    found = assign(model, tuple(routes))
    rules: dict[str, Rule] = {}
    groups = found.groups()
    for group in groups:
        name, fixed = group["rule"], program.rule(group["rule"]).structure
        structure = {k: _whole(k, group.pop(k)) for k in fixed if k in group}
        other = ", ".join(f"{k}={v}" for k, v in structure.items() if v != fixed[k])
        group["rule"] = f"{name}({other})" if other else name
        rules[group["rule"]] = program.rule(name, **structure)
    default = next(iter(rules))
    required = {h.name: 0.0 for h in rules[default].hypers if h.default is None}  # each group has its own
    given: dict[str, Any] = {**required, **options}
    made = _class(rules, default)(groups, **given)
    made.assignment = found
    listen(made, model if isinstance(model, nn.Module) else None)
    return made


def _class(rules: Mapping[str, Rule], default: str) -> type[RuleOptimizer]:
    source = _source(rules, default, standalone=False)
    module = load_module(source, default)
    made: type[RuleOptimizer] = getattr(module, class_name(default))
    made.revive = (revive, (source, default))
    return made


def _source(rules: Mapping[str, Rule], default: str, standalone: bool) -> str:
    plans = {}
    for name, rule in rules.items():
        plans[name] = plan_rule(rule)
        if rule.accepts == "stack":  # numbers of one matrix, split or not, are apart from those of a whole stack
            plans[f"{name} stacked"] = plans[name]
            plans[name] = replace(plans[name], rule=replace(rule, accepts="matrix", otherwise=f"{name} stacked"))
    if not standalone:
        return rules_source(plans, default)
    return rules_source(plans, default, imports=standalone_imports())


def revive(source: str, default: str) -> RuleOptimizer:
    """An empty optimizer of a class that is made from its source where it is not known: for copies and pickles."""
    made = getattr(load_module(source, default), class_name(default))
    made.revive = (revive, (source, default))
    found: RuleOptimizer = made.__new__(made)
    return found


def _known_numbers(rule: str, names: Collection[str], given: Iterable[str]) -> None:
    """A misspelled number is told with the names there are; those of routes stand in the routes."""
    for number in given:
        if number not in names and number not in OPTIONS:
            near = did_you_mean(number, {*names, *OPTIONS})
            what = f"the rule `{rule}` has no number `{number}`" if rule else f"`{number}` is no option of an optimizer made from routes"
            raise NlError(Diagnostic("NL805", what, expected=", ".join(sorted(names or OPTIONS)), found=f"`{number}`",
                                     help=f"did you mean `{near}`?" if near else None if rule else f"a route says it: RULE({number} = ...)"))  # fmt: skip


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or value < 0:
        raise ValueError(f"Invalid {name} value: {value}: it fixes what is compiled and is a whole number, at least 0")
    return int(value)


def listen(optimizer: RuleOptimizer, model: nn.Module | None) -> None:
    """Where a rule reads what its layers saw, have them keep it."""
    names: dict[Tensor, str] = {}
    wanted: set[Tensor] = set()
    for group in optimizer.param_groups:
        for n, p in enumerate(group["params"]):
            taken = route(optimizer.programs, group["rule"], dimensions(p, group))
            if taken is not None and taken.needs:
                wanted.add(p)
                names[p] = group["param_names"][n] if "param_names" in group else f"parameter {n}"
    if not wanted:
        return
    if model is None:
        raise ValueError("this rule reads what the layers of a model see: give the model itself, not its parameters")
    optimizer.providers.update(providers(model, wanted, names))


__all__ = ["listen", "optimizer", "optimizer_class", "optimizer_for", "optimizer_source", "revive"]
