"""A rule on a tensor, step by step: what every optimizer made from it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nldsl.core import Init, Rule, Unit
from nldsl_interpreter.interpreter import Interpreter
from nldsl_interpreter.operations import WHOLE
from nldsl_interpreter.values import initial_value, sizes


def run_rule(
    rule: Rule, w: Tensor, gradients: Tensor, numbers: Mapping[str, float | Sequence[float]] | None = None, *,
    x: Tensor | None = None, delta: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The tensor after each step.

    Args:
        rule: at the sizes of `w`.
        w: the tensor before the first step.
        gradients: of every step, [T, *w.shape]; of a rule on stacks all dimensions of `w` but two are the stack.
        numbers: values of the rule's numbers by name; those left out have their defaults.
        x, delta: where the rule reads them, the layer's inputs and output gradients as columns, [T, d, n] and [T, e, n].

    Returns:
        [T, *w.shape].
    """
    given = _numbers(rule, numbers or {})
    unit, stack = (_whole(rule.unit), math.prod(w.shape[:-2])) if rule.accepts == "stack" else (rule.unit, 1)
    state = {s.name: initial_value(_filled(s.init, given), s.type, w.dtype).expand(stack, *sizes(s.type)) for s in unit.states}
    state["w"] = w.reshape(state["w"].shape)
    steps = len(gradients)
    inputs = {"g": gradients.reshape(steps, *state["w"].shape).transpose(0, 1)}
    inputs |= {name: torch.full((stack, steps), value, dtype=w.dtype) for name, value in given.items()}
    inputs |= {name: value[None] for name, value in (("x", x), ("delta", delta)) if value is not None}
    key = unit.key
    outputs, _ = Interpreter({key: unit}, {key: rule.types}, key).run({}, inputs, {":tick": torch.zeros((), dtype=torch.int64), **state})
    return outputs["w"].transpose(0, 1).reshape(steps, *w.shape)


def _whole(unit: Unit) -> Unit:
    """A unit whose numbers are of all matrices of the stack."""
    return replace(unit, equations=tuple(replace(e, op=f"whole {e.op}") if f"whole {e.op}" in WHOLE else e for e in unit.equations))


def _numbers(rule: Rule, numbers: Mapping[str, float | Sequence[float]]) -> dict[str, float]:
    """A value for each input that is a number."""
    found: dict[str, float] = {}
    for hyper in rule.hypers:
        value = numbers.get(hyper.name, hyper.default)
        values = value if isinstance(value, Sequence) else (value,)
        for name, number in zip(hyper.inputs, values, strict=False):
            if number is None:
                raise ValueError(f"the rule `{rule.name}` needs `{hyper.name}`")
            found[name] = float(number)
    return found


def _filled(init: Init, given: Mapping[str, float]) -> Init:
    """An initial value with the rule's numbers in it."""
    match init:
        case ("input", name):
            return given[name]
        case (head, *rest):
            return (head, *(_filled(part, given) if isinstance(part, tuple) else part for part in rest))
    return init

