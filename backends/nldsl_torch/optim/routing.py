"""Typed routing: what every parameter of a model is, and the route that takes it.

    assignment = assign(model, routes)      # routes: nldsl.routes
    print(assignment)                       # every parameter once, with its role and its rule
    Optimizer(assignment.groups())          # one group for each rule and set of numbers
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from nldsl.diagnostics import Diagnostic, Label, NlError
from nldsl.roles import ROLES, by_shape
from nldsl.routes import EVERYTHING, NAMED, Route
from nldsl.source import NOWHERE

LINEAR = ("matrix", "embedding", "head")
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
SHOWN = 8  # names in a message
NUMBER = re.compile(r"_?\d+")  # of a layer


class RouteWarning(UserWarning):
    """A route without parameters."""


@dataclass(frozen=True)
class Part:
    """A parameter of a model: all its names, the first being its own, and what it is.

    Attributes:
        roles: matrix, vector, embedding, head, convolution or tensor; an output layer tied to an embedding is both.
    """

    names: tuple[str, ...]
    parameter: Tensor
    roles: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    @property
    def linear(self) -> bool:
        """Whether it is a matrix, or a stack of them."""
        return len(self.shape) >= 2 and any(role in LINEAR for role in self.roles)

    @property
    def stack(self) -> int:
        """How many matrices it holds: those of `each` are stacked."""
        return math.prod(self.shape[:-2]) if self.linear else 1


@dataclass(frozen=True)
class Item:
    """A parameter and its route.

    Attributes:
        route: the one that took it; `number` is its place.
        by: the route of the rule that trains it: `route`, or one it goes on to by `else`.
        split: it is so many matrices, one below the other, each trained on its own.
    """

    part: Part
    number: int
    route: Route
    by: Route
    split: int


@dataclass(frozen=True)
class Assignment:
    """Every parameter of a model once, with its route.

    Attributes:
        items: in the order of the model.
        named: whether the parameters came with names.
        notes: warnings.
    """

    items: tuple[Item, ...]
    routes: tuple[Route, ...]
    named: bool = True
    notes: tuple[Diagnostic, ...] = ()

    def groups(self) -> list[dict[str, Any]]:
        """Param groups: `rule`, its numbers, `every` and `split` where they are not 1.

        With `split` = n a tensor, as `p.reshape(n, -1, p.shape[-1])`, is n matrices.
        """
        found: dict[tuple[int, str, int], dict[str, Any]] = {}
        for item in self.items:
            key = (item.number, item.by.rule, item.split)
            if key not in found:
                extra = {"every": item.by.every, "split": item.split}
                found[key] = {"params": [], "rule": item.by.rule, **item.by.numbers, **{k: v for k, v in extra.items() if v != 1}}
            p = item.part.parameter
            found[key]["params"].append((item.part.names[0], p) if self.named else p)
        return [found[key] for key in sorted(found)]

    def rule_of(self, name: str) -> str:
        """The rule of a parameter."""
        return next(item.by.rule for item in self.items if name in item.part.names)

    def __str__(self) -> str:
        """The assignment by routes; names that differ in their numbers only share a line."""
        lines = []
        for number, route in enumerate(self.routes):
            items = [item for item in self.items if item.number == number]
            lines.append(f"{route.text}: {_counts(items)}")
            rows: dict[tuple[str, ...], list[Item]] = {}
            for item in items:
                key = NUMBER.sub("", item.part.names[0]), _shape(item), " and ".join(item.part.roles), item.by.rule
                rows.setdefault(key, []).append(item)
            cells = []
            for (_, *rest), same in rows.items():
                name = same[-1].part.names[0]
                name = name if len(same) == 1 else f"{NUMBER.sub('*', name)} ({len(same)} times)"
                cells.append((name, *rest, f"{sum(i.part.parameter.numel() for i in same):,}"))
            widths = [max(map(len, column)) for column in zip(*cells)]
            for row in cells:
                *texts, count = (text.ljust(width) for text, width in zip(row, widths))
                lines.append("  " + "  ".join([*texts, count.strip().rjust(widths[-1])]))
        lines.append(f"in all: {_counts(self.items)}")
        return "\n".join([*lines, *(note.message for note in self.notes)])


def assign(model: nn.Module | Iterable[Any], routes: Sequence[Route]) -> Assignment:
    """The route of every parameter that learns: the first that matches takes it.

    Args:
        model: a module, whose walk gives roles; or parameters, with or without names, whose roles are from shape alone.

    Raises:
        NlError: a parameter without a route, or a rule that does not accept what its route selects.
    """
    given = model if isinstance(model, nn.Module) else list(model)
    items: list[Item] = []
    lost: list[Part] = []
    refused: dict[tuple[int, str], list[Part]] = {}
    for part in parts(given):
        number = next((n for n, route in enumerate(routes) if _matches(route, part)), None)
        if number is None:
            lost.append(part)
            continue
        made = _item(part, number, routes[number])
        if isinstance(made, Item):
            items.append(made)
        else:
            refused.setdefault((number, made), []).append(part)
    wrong = [_refusal(routes[number], why, found) for (number, why), found in refused.items()]
    if lost:
        wrong.append(Diagnostic("NL729", f"no route takes {_listed(lost)}", _at(routes[-1:]), expected="a route for every parameter",
                                found=_kinds(lost), help="end the routes with `rest by adamw()`"))  # fmt: skip
    if wrong:
        raise NlError(*wrong)
    taken = {item.number for item in items}
    empty = [route for n, route in enumerate(routes) if n not in taken]
    notes = tuple(Diagnostic("NL730", f"no parameter is left for `{route.text}`", _at([route])) for route in empty)
    for note in notes:
        warnings.warn(note.message, RouteWarning, stacklevel=2)
    named = isinstance(given, nn.Module) or all(isinstance(entry, tuple) for entry in given)
    return Assignment(tuple(items), tuple(routes), named, notes)


def parts(model: nn.Module | Iterable[Any]) -> list[Part]:
    """The parameters of a module that learn, or those given, each once."""
    if isinstance(model, nn.Module):
        return _walk(model)
    found: dict[int, Part] = {}
    for number, entry in enumerate(model):
        if isinstance(entry, Mapping):
            raise TypeError("routes make the param groups: give a module, parameters or named parameters")
        name, p = entry if isinstance(entry, tuple) else (f"parameter {number}", entry)
        known = found.get(id(p))
        found[id(p)] = Part((*known.names, name), p, known.roles) if known else Part((name,), p, (by_shape(p.ndim),))
    return list(found.values())


# --- the walk ----------------------------------------------------------------------------------


def _walk(model: nn.Module) -> list[Part]:
    inner = getattr(model, "_orig_mod", model)  # of a `torch.compile` wrapper
    model = inner if isinstance(inner, nn.Module) else model
    names: dict[int, list[str]] = {}
    roles: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        said = _said(module)
        for name, p in module._parameters.items():
            if p is None or not p.requires_grad:
                continue
            full = f"{prefix}.{name}" if prefix else name
            if is_lazy(p):
                raise ValueError(f"`{full}` has no shape yet: run the model once before it gets an optimizer")
            tensors[id(p)] = p
            names.setdefault(id(p), []).append(full)
            own = [role for role in said.get(name, "").split() if role != "output"]
            roles.setdefault(id(p), []).extend(own or [_role(module, name, p)])
    for p in _heads(model, {key for key, found in roles.items() if "embedding" in found}):
        roles.get(id(p), []).append("head")
    return [Part(tuple(names[key]), p, _distinct(roles[key])) for key, p in tensors.items()]


def _distinct(roles: list[str]) -> tuple[str, ...]:
    """Each role once; a matrix that is also something else is that."""
    found = tuple(dict.fromkeys(roles))
    return tuple(role for role in found if role != "matrix") or found


def _said(module: nn.Module) -> dict[str, str]:
    """The roles that a generated class carries."""
    found = getattr(type(module), "_roles", None)
    return found if isinstance(found, dict) and hasattr(module, "initial_state") else {}


def _role(module: nn.Module, name: str, p: Tensor) -> str:
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if isinstance(module, NORMS):
        return "vector"
    if isinstance(module, _ConvNd) and name == "weight":
        return "convolution"
    return by_shape(p.ndim)


def _heads(model: nn.Module, embeddings: set[int]) -> list[Tensor]:
    """The weights of output layers.

    In a generated block they are the operators that make its outputs. Elsewhere an output layer is tied to an embedding,
    or it is the last linear layer with a row for each entry of the largest embedding.
    """
    found: list[Tensor] = []
    for module in model.modules():
        if module is model or "embedding" in " ".join(_said(module).values()):
            found += _outputs(module)
    layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    tied = [w for w in layers if id(w) in embeddings]
    if tied or found:
        return found + tied
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, EMBEDDINGS)]
    return [w for w in layers if w.shape[0] == max(sizes, default=-1)][-1:]


def _outputs(module: nn.Module) -> Iterator[Tensor]:
    """The operators that make the outputs of a generated block, also inside the blocks it uses."""
    for name, role in _said(module).items():
        if "output" in role.split():
            made = getattr(module, name)
            if isinstance(made, nn.Module):
                yield from _outputs(made)
            else:
                yield made


# --- one parameter ------------------------------------------------------------------------------


def _matches(route: Route, part: Part) -> bool:
    if route.selector == NAMED:
        return any(fnmatchcase(name, route.pattern or "") for name in part.names)
    return route.selector in EVERYTHING or ROLES[route.selector] in part.roles


def _item(part: Part, number: int, route: Route) -> Item | str:
    """The parameter with the first rule, along `else`, that accepts it; or why there is none."""
    by = next((r for r in route.chain if _accepts(r, part)), None)
    if by is None:
        return "unfit"
    if by.accepts not in ("matrix", "stack"):
        return Item(part, number, route, by, 1)
    split = part.stack * (route.split if by is route else 1)
    rows = part.parameter.numel() // max(part.shape[-1], 1)
    return Item(part, number, route, by, split) if rows % split == 0 else "split"


def _refusal(route: Route, why: str, found: list[Part]) -> Diagnostic:
    one = found[0]
    if why == "split":
        return Diagnostic("NL728", f"{_listed(found)} cannot be split in {route.split} matrices of equal size", _at([route]),
                          expected=f"rows in a multiple of {route.split * one.stack}", found=f"shape {list(one.shape)}")  # fmt: skip
    others = [f"{r.learns_on} for `{r.rule}`" for r in route.chain[1:]]
    return Diagnostic("NL728", f"`{route.rule}` learns on {route.learns_on}, and `{route.text}` selects {_listed(found)}", _at([route]),
                      expected=", or ".join([route.learns_on, *others]), found=f"{_kinds(found)}, the first of shape {list(one.shape)}",
                      help=_other_routes(route, found))  # fmt: skip


def _other_routes(route: Route, refused: list[Part]) -> str:
    """Routes that take what a rule does not accept."""
    if route.selector not in EVERYTHING or not any(r.roles for r in route.chain):
        return f'"{refused[0].names[0]}" by adamw(), before this route'
    words = {role: word for word, role in ROLES.items()}
    selectors = dict.fromkeys(words.get(part.roles[0], f'"{part.names[0]}"') for part in refused)
    return ", ".join([*(f"{selector} by adamw()" for selector in selectors), route.text])


def _accepts(route: Route, part: Part) -> bool:
    """Whether a rule takes a parameter by its role and by its shape."""
    if route.roles and not {ROLES[word] for word in route.roles} & set(part.roles):
        return False
    dimensions = len(part.shape)
    return {"any": True, "matrix": part.linear, "stack": dimensions >= 2, "vector": dimensions == 1}[route.accepts]


def _at(routes: Sequence[Route]) -> tuple[Label, ...]:
    return tuple(Label(route.span) for route in routes if route.span is not NOWHERE)


def _kinds(found: list[Part]) -> str:
    return ", ".join(dict.fromkeys(" and ".join(part.roles) for part in found))


def _listed(found: list[Part]) -> str:
    names = [part.names[0] for part in found]
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _counts(items: Sequence[Item]) -> str:
    number = len(items)
    return f"{number} tensor{'' if number == 1 else 's'}, {sum(item.part.parameter.numel() for item in items):,} parameters"


def _shape(item: Item) -> str:
    shape = " x ".join(map(str, item.part.shape)) or "number"
    return shape if item.split == 1 else f"{shape}, {item.split} matrices"
