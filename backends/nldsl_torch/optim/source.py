"""A planned rule as Python: prologues, passes with their C++, the step of every tick class, and the program of these."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from textwrap import wrap
from typing import Any

from nldsl.core import Hyper, Init, Rule, Type
from nldsl.lower.algebra import constant_init
from nldsl.lower.rule import RulePlan, Tick, Variant
from nldsl.names import identifier
from nldsl.roles import BY_DIMENSIONS, ROLES
from nldsl.vocabulary import is_number
from nldsl_torch.optim.standalone import standalone_imports
from nldsl_torch.optim.text import HELPERS, MATRICES, dim_text, short
from nldsl_torch.optim.ticks import TickWriter, wrapped

DOC_WIDTH = 116
OPTIONS = 'maximize=False, differentiable=False, capturable=False, foreach=None, fused=None, every=1, over="sum", split=1'
IMPORTS = f"""import torch

from nldsl_torch.matrices import {", ".join(MATRICES)}
from nldsl_torch.optim.numbers import (
    {", ".join(HELPERS)},
)
from nldsl_torch.optim.optimizer import RuleOptimizer
from nldsl_torch.optim.program import Program, Segment, State, Tick, Variant
"""


def rules_source(plans: Mapping[str, RulePlan], default: str, *, doc: str = "", imports: str = IMPORTS) -> str:
    """Python source of the optimizer of some rules: one class, whose own rule is `default`."""
    out = [f'"""{doc or f"The rule `{default}`, compiled by nldsl."}"""', "", "from __future__ import annotations", "", imports.strip("\n"), ""]
    taken: set[str] = set()
    programs: dict[str, str] = {}
    for name, plan in plans.items():
        base = identifier(name)
        while base in taken:
            base += "_"
        taken.add(base)
        programs[name] = f"{base.upper()}_RULE"
        out += ["", *RuleWriter(plan, base).write()]
    out += ["", *_class(default, {name: plan.rule for name, plan in plans.items()}, programs)]
    return "\n".join(out) + "\n"


def class_name(rule: str) -> str:
    """The class of a rule: `adamw` is `Adamw`, `delta_momentum` is `DeltaMomentum`; `table` is `TableRule`, as the runtime has a `Table`."""
    name = "".join(part.capitalize() for part in identifier(rule).split("_") if part)
    return f"{name}Rule" if keyword.iskeyword(name) or name in _runtime_classes() else name


@cache
def _runtime_classes() -> frozenset[str]:
    return frozenset(re.findall(r"^class (\w+)", standalone_imports(), re.MULTILINE)) | {"Any", "Tensor", "RuleOptimizer"}


def _class(default: str, rules: Mapping[str, Rule], programs: Mapping[str, str]) -> list[str]:
    rule = rules[default]
    hypers = _numbers(rule)
    required = [h.name for h in hypers if h.default is None]
    given = [f"{h.name}={_value(h.default)}" for h in hypers if h.default is not None]
    names = ", ".join(f'"{h.name}": {h.name}' for h in hypers)
    options = ", ".join(f"{o}={o}" for o in (part.split("=")[0] for part in OPTIONS.split(", ")))
    known = ", ".join(f'"{name}": {program}' for name, program in programs.items())
    return [
        f"class {class_name(default)}(RuleOptimizer):",
        *_class_doc(rule, rules),
        "",
        f"    programs = {{{known}}}",
        f'    default = "{default}"',
        "",
        *wrapped(f"    def __init__(self, {', '.join(['params', *required, *given])}, *, {OPTIONS}):", 8),
        *wrapped(f"        super().__init__(params, {{{names}}}, {options})", 12),
    ]


def _class_doc(rule: Rule, rules: Mapping[str, Rule]) -> list[str]:
    """What the class is, and where rules say roles, what it takes parameters for."""
    first = f'    """The rule `{rule.name}`, {rule.unit.span.where}.'
    roles = dict.fromkeys(f"`{r.name}` learns on {' and '.join(r.roles)}" for r in rules.values() if r.roles)
    if not roles:
        return [f'{first}"""']
    said = (
        f"{', '.join(roles)}. This class sees no model: it takes two dimensions for a matrix, fewer for a vector, and more for neither, of "
        "embeddings, heads and convolutions too. A param group that names its rule is taken at its word: "
        f'{{"params": [...], "rule": "{rule.name}"}}.'
    )
    return [first, "", *(f"    {line}" for line in wrap(said, DOC_WIDTH)), '    """']


def _numbers(rule: Rule) -> list[Hyper]:
    """Those that come with each step, then those that the text of the class fixes."""
    return [*rule.hypers, *(Hyper(name, float(value), ()) for name, value in rule.structure.items())]


def _value(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e6 else repr(float(value))


@dataclass
class RuleWriter:
    """Writes one rule."""

    plan: RulePlan
    base: str
    functions: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)  # the name of what is written already, by its text

    def write(self) -> list[str]:
        """Functions and passes first, then the program."""
        plan, rule = self.plan, self.plan.rule
        variants = []
        for key, variant in plan.variants.items():
            suffix = "".join(f"_{s}" for s, on in zip(plan.switches, key) if on)
            variants += self._variant(key, variant, suffix)
        hypers = ", ".join(f'("{h.name}", {None if h.default is None else _value(h.default)})' for h in _numbers(rule))
        clocks = ", ".join(f"({period!r}, {offset})" for period, offset in plan.clocks)
        needs = [i.name for i in rule.unit.inputs if i.name in ("x", "delta")]
        return [
            *self.functions,
            f"{self.base.upper()}_RULE = Program(",
            f'    "{rule.name}",',
            *wrapped(f"    hypers=({hypers}{',' if hypers else ''}),", 8),
            f"    clocks=({clocks}{',' if clocks else ''}),",
            f"    switches={tuple(plan.switches)!r},",
            "    variants={",
            *variants,
            "    },",
            f"    accepts={rule.accepts!r}, otherwise={rule.otherwise!r}, needs={tuple(needs)!r}, fixed={tuple(rule.structure)!r},",
            *([f"    roles={rule.roles!r}, told={_told(rule)!r},"] if rule.roles else []),
            ")",
            "",
        ]

    def _variant(self, key: tuple[bool, ...], variant: Variant, suffix: str) -> list[str]:
        first = next(iter(variant.ticks.values()))
        states = [self._state(s.name, s.type, s.init, first) for s in variant.states]
        lines = [f"        {key!r}: Variant(", "            states=("]
        lines += [f"                {s}," for s in states]
        lines += ["            ),", "            ticks={"]
        for mask, tick in variant.ticks.items():
            fired = "".join(f"_{_clock_name(period)}" for n, (period, _) in enumerate(self.plan.clocks) if mask >> n & 1)
            lines.append(f"                {mask}: {TickWriter(self, tick, f'{self.base}{suffix}{fired}').write()},")
        return [*lines, "            },", "        ),"]

    def _state(self, name: str, type: Type, init: Init, tick: Tick) -> str:
        w = self.plan.type
        if is_number(type) and name in tick.numbers:
            kind, shape = "number", "None"
        elif type == w and init != ("eye",):
            kind, shape = "like", "None"
        else:
            kind = "shaped"
            places = {next(iter(n.symbols())): f"shape[{i - len(w.shape)}]" for i, n in enumerate(w.shape) if n.symbols()}
            sizes = [dim_text(n, places) for n in type.shape] or ["1"] * (2 * (w.kind == "map"))
            shape = f"lambda shape: ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
        start = '"eye"' if init == ("eye",) else f"lambda h: {_init(init)}"
        return f'State("{short(name)}", "{kind}", {shape}, {start})'

    def define(self, kind: str, name: str, text: str) -> str:
        """Write a text with `NAME` for its name, once; returns the name."""
        if text not in self.known:
            taken = set(self.known.values())
            unique, n = name, 1
            while unique in taken:
                n += 1
                unique = f"{name}_{n}"
            self.known[text] = unique
            self.functions += [*text.replace("NAME", unique).split("\n"), "", ""][: None if kind == "function" else -1]
        return self.known[text]


def _told(rule: Rule) -> tuple[int, ...]:
    """The numbers of dimensions that tell a role of a rule."""
    return tuple(n for n, role in BY_DIMENSIONS.items() if role in {ROLES[word] for word in rule.roles})


def _clock_name(period: str | int) -> str:
    return identifier(period) if isinstance(period, str) else f"every{period}"


def _init(init: Init) -> str:
    """A first value as an expression in the hyper-parameters `h`."""
    value = constant_init(init)
    if value is not None:
        return repr(value)
    match init:
        case ("input", name):
            return f'h["{name}"]'
        case ("constant", inner):
            return _init(inner)
        case ("neg", a):
            return f"-({_init(a)})"
        case ("+" | "-" | "*" | "/" as op, a, b):
            return f"({_init(a)} {op} {_init(b)})"
        case ("^", a, b):
            return f"({_init(a)} ** {_init(b)})"
        case ("log" | "exp" | "sqrt" | "sigmoid" as op, a):
            return f"_{op}({_init(a)})"
    raise NotImplementedError(f"a memory of an optimizer cannot start from {init}")
