"""Parameter groups of rules: their hyper-parameters checked, their tensors routed to a rule that takes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.optim.program import Program

OPTIONS: dict[str, Any] = {
    "maximize": False, "differentiable": False, "capturable": False, "foreach": None, "fused": None, "every": 1, "over": "sum", "split": 1,
}  # fmt: skip
KINDS = {"matrix": "matrices (2 dimensions)", "vector": "vectors (1 dimension)"}
STACKED = " stacked"  # behind the name of a rule: the same rule on a tensor of more dimensions
AT_LEAST_ZERO = {
    "lr": "learning rate", "eps": "epsilon value", "weight_decay": "weight_decay value", "momentum": "momentum value", "alpha": "alpha value",
    "lr_decay": "lr_decay value", "initial_accumulator_value": "initial_accumulator_value value", "momentum_decay": "momentum_decay value",
}  # fmt: skip


def check_group(programs: Mapping[str, Program], group: Mapping[str, Any]) -> None:
    """Refuse a group that no step could be made with."""
    _check_options(group)
    _check_tensors(programs, group)
    _check_hypers(programs[group["rule"]], group)


def _check_options(group: Mapping[str, Any]) -> None:
    """Options of torch that exclude each other, and ours."""
    if group.get("foreach") and group.get("fused"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if group.get("fused") and group.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    for name in ("maximize", "differentiable", "capturable", "foreach", "fused"):
        if not isinstance(group.get(name), bool | None):
            raise TypeError(f"Invalid {name} value: {group[name]!r}: True or False")
    over = group.get("over", "sum")
    for name in ("every", "split"):
        value = group.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, Real) or not 1 <= float(value) < 2**53 or float(value) % 1:
            raise ValueError(f"Invalid {name} value: {value!r}: a whole number, at least 1")
    if over not in ("sum", "mean"):
        raise ValueError(f"Invalid over value: {over!r}: 'sum' or 'mean'")


def _check_hypers(program: Program, group: Mapping[str, Any]) -> None:
    """Values that no schedule makes sense of, in the words torch has for them."""
    periods = {period for period, _ in program.clocks}
    for name, default in program.hypers:
        value = group.get(name, default)
        if value is None:
            raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
        if name in program.fixed and value != default:
            raise ValueError(f"{name} is {default} in this class, and {value} needs another: nldsl.optimizer({program.name!r}, ..., {name}={value})")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        if isinstance(default, tuple | list) and (not isinstance(value, tuple | list) or len(value) != len(default)):
            raise ValueError(f"Invalid {name} value: {value}: {len(default)} numbers are needed")
        if isinstance(default, Real) and isinstance(value, tuple | list):
            raise TypeError(f"Invalid {name} value: {value!r} is not a number")
        for i, v in enumerate(value if isinstance(value, tuple | list) else (value,)):
            if not _is_number(v):
                raise TypeError(f"Invalid {name} value: {v!r} is not a number")
            if isinstance(v, Tensor) and v.device.type != "cpu":
                continue  # reading it would wait for the device
            if name in AT_LEAST_ZERO and not v >= 0.0:
                raise ValueError(f"Invalid {AT_LEAST_ZERO[name]}: {v}")
            if name in periods and not (float(v).is_integer() and v >= 1):
                raise ValueError(f"Invalid {name} value: {v}: a period is a whole number of steps, at least 1")
            if name == "betas" and not 0.0 <= v < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {v}")
            if name == "rho" and not 0.0 <= v <= 1.0:
                raise ValueError(f"Invalid rho value: {v}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | Tensor)  # those of numpy are real


def succession(programs: Mapping[str, Program], name: str) -> list[str]:
    """A rule and those that take what it does not, by way of each rule's `otherwise`."""
    found: list[str] = []
    while name in programs and name not in found:
        found.append(name)
        name = programs[name].otherwise or ""
    return found


def route(programs: Mapping[str, Program], name: str, dimensions: int) -> Program | None:
    """The rule of a group's chain that takes a tensor of so many dimensions. Its role was decided when the group was made."""
    return next((programs[n] for n in succession(programs, name) if programs[n].takes(dimensions)), None)


def by_role(programs: Mapping[str, Program], rule: str, group: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups of one that names no rule, where a rule says roles: one for each rule that takes some of it; else none.

    No model is seen here: the role of a tensor is what its dimensions tell. A rule behind `otherwise` has the numbers that it
    shares a name with.
    """
    names, given = succession(programs, rule), group["params"]
    if not any(programs[n].roles for n in names) or isinstance(given, set):
        return []
    entries = [given] if isinstance(given, Tensor) else list(given)
    found: dict[str, list[Any]] = {}
    for number, entry in enumerate(entries):
        p = entry[-1] if isinstance(entry, tuple) and entry else entry
        taken = next((n for n in names if isinstance(p, Tensor) and _suits(programs[n], dimensions(p, group))), None)
        if taken is None and isinstance(p, Tensor):
            label = f"parameter `{entry[0]}`" if isinstance(entry, tuple) else f"parameter {number} of the group"
            raise ValueError(
                f"{rule} is a rule for {' and '.join(programs[rule].roles) or KINDS[programs[rule].accepts]}, and {label} has shape {tuple(p.shape)}, "
                f'which does not say that it is one: give the model itself to nldsl.optimizer, or a param group with "rule": NAME'
            )
        found.setdefault((taken or rule).removesuffix(STACKED), []).append(entry)
    return [{**shared(programs[name], numbers), **group, "params": members, "rule": name} for name, members in found.items()]


def _suits(program: Program, dimensions: int) -> bool:
    return program.takes(dimensions) and program.tells(dimensions)


def shared(program: Program, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a rule that others of their names decide; those that its text fixes stay."""
    return {name: numbers[name] for name, _ in program.hypers if name in numbers and name not in program.fixed}


def dimensions(p: Tensor, group: Mapping[str, Any]) -> int:
    """Of what a rule sees: with `split` a tensor is matrices one below the other."""
    return 2 if group.get("split", 1) > 1 and p.dim() >= 2 else p.dim()


def seen(t: Tensor, split: int) -> Tensor:
    """A parameter, its gradient or a state like it as a rule sees it: real, and with `split` [split, rows, columns]."""
    t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
    if split == 1 or t.dim() < 2:
        return t
    t = t.flatten(0, -2) if t.dim() > 2 else t
    return t.unflatten(0, (split, -1))


def _check_tensors(programs: Mapping[str, Program], group: Mapping[str, Any]) -> None:
    """Every tensor of a group has a rule that takes it."""
    rule = group["rule"]
    if rule not in programs:
        raise ValueError(f"no rule is called {rule!r} here; there are {', '.join(programs)}")
    names = group.get("param_names", ())
    for i, p in enumerate(group["params"]):
        program = route(programs, rule, dimensions(p, group))
        label = f"parameter `{names[i]}`" if i < len(names) else f"parameter {i} of the group"
        if program is None:
            raise ValueError(
                f"{rule} is a rule for {KINDS[programs[rule].accepts]}, and {label} has shape {tuple(p.shape)}: give it another rule, "
                f'in .nl `matrices by {rule}(...), rest by adamw(...)`, here a param group of its own with "rule": NAME'
            )
        if p.is_complex() and program.accepts in ("matrix", "stack"):
            raise ValueError(f"{program.name} has no meaning for complex matrices, and {label} is {p.dtype}")
        if not (p.is_floating_point() or p.is_complex()):
            raise ValueError(f"{label} has dtype {p.dtype}: only floating point and complex tensors are optimized")
        rows = p.numel() // max(p.shape[-1], 1) if p.dim() else 1
        if group.get("split", 1) > 1 and (p.dim() < 2 or rows % group["split"] or p.dim() > 2 and not p.is_contiguous() or program.needs):
            raise ValueError(f"{label} of shape {tuple(p.shape)} is not {group['split']} matrices of equal size, one below the other")
        if program.needs and group.get("every", 1) != 1:
            raise ValueError(f"{program.name} reads {' and '.join(program.needs)} of each step: it has no form with every={group['every']}")


def by_name(saved: dict[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A checkpoint in the order of these groups, where both name their parameters and have the same names."""
    found = []
    for group, own in zip(saved["param_groups"], groups):
        names, wanted = group.get("param_names"), own.get("param_names")
        if names and wanted and names != wanted and sorted(names) == sorted(wanted):
            place = dict(zip(names, group["params"]))
            group = {**group, "params": [place[n] for n in wanted], "param_names": list(wanted)}
        found.append(group)
    return {**saved, "param_groups": [*found, *saved["param_groups"][len(found) :]]}


def check_states(states: Mapping[Tensor, Mapping[str, Any]], programs: Mapping[str, Program], groups: Sequence[Mapping[str, Any]]) -> None:
    """A loaded state is of the rule it is loaded into."""
    for group in groups:
        words = [k for k, v in group.items() if isinstance(v, str) and k not in ("rule", "over")]
        if words:
            warnings.warn(f"this checkpoint has {words[0]} = {group[words[0]]!r}, which means nothing to {group['rule']}", stacklevel=4)
        if group["rule"] not in programs:
            raise ValueError(f"this is the state of the rule {group['rule']!r}, and this optimizer has {', '.join(programs)}")
        for p in group["params"]:
            program, found = route(programs, group["rule"], dimensions(p, group)), set(states.get(p, ())) - {"step", "tick", "grad_sum"}
            if program is None or not found:
                continue
            known = {s.name for v in program.variants.values() for s in v.states}
            if not found & known:
                raise ValueError(f"this is the state of another optimizer: it has {', '.join(sorted(found))}, and {program.name} keeps"
                                 f" {', '.join(sorted(known)) or 'nothing'}")  # fmt: skip


def number_names(programs: Mapping[str, Program]) -> set[str]:
    """The states that are one number, kept in float64 whatever the parameter's dtype."""
    return {"tick"} | {s.name for p in programs.values() for v in p.variants.values() for s in v.states if s.kind == "number"}


def exact_values(state: dict[Any, Any], incoming: Mapping[Any, Any], parameters: Mapping[Any, Tensor], numbers: set[str]) -> None:
    """What torch's loading leaves to do: own copies of tensors, numbers in the precision they were saved in, a step count for every state."""
    for key, saved in incoming.items():
        owner = parameters.get(key)
        if owner is None or not isinstance(saved, dict):
            continue
        loaded = state[owner]
        for name, value in list(loaded.items()):
            if value is None:
                del loaded[name]
            elif name == "step":
                loaded[name] = torch.as_tensor(value, dtype=torch.float32).detach().clone().reshape(())
            elif isinstance(value, Tensor):
                loaded[name] = (saved[name] if name in numbers else value).detach().clone()
        loaded.setdefault("step", torch.ones((), dtype=torch.float32))
