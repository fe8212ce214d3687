"""The `torch.optim.Optimizer` of compiled rules."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from nldsl_torch.optim.groups import (
    OPTIONS,
    by_name,
    by_role,
    check_group,
    check_states,
    dimensions,
    exact_values,
    number_names,
    route,
    seen,
)
from nldsl_torch.optim.perform import derived
from nldsl_torch.optim.program import Program
from nldsl_torch.optim.table import Provider, Table, as_given, check_gradients, ensure, gathers


class RuleOptimizer(torch.optim.Optimizer):
    """Rules of `.nl` as one optimizer. A generated class names its programs; a param group names one of them as its `rule`.

    Besides the options of torch's optimizers a group may have `every` and `over`: its rule runs on every so many-th step, on the sum
    or the mean of the gradients since. `fused=False` runs torch operations only. `providers` maps the parameters of rules that read
    their layer's inputs and output gradients to a function that returns both, as columns.
    """

    programs: ClassVar[dict[str, Program]]
    default: ClassVar[str]
    assignment: Any = None  # of an optimizer made from routes: which parameter went where
    revive: ClassVar[tuple[Callable[..., Any], tuple[Any, ...]] | None] = None  # makes an empty instance of a class that cannot be imported

    def __init__(self, params: Any, hypers: dict[str, Any], **options: Any) -> None:
        if unknown := options.keys() - OPTIONS.keys():
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        defaults = {**hypers, **OPTIONS, **options}
        check_group(self.programs, {**defaults, "rule": self.default, "params": ()})
        self._reset()
        super().__init__(params, defaults)

    def _reset(self) -> None:
        self._table: Table | None = None
        if "providers" not in self.__dict__:
            self.providers: dict[Tensor, Provider] = {}
        if "_incoming" not in self.__dict__:
            self._incoming: dict[str, Any] | None = None

    # --- groups and checkpoints
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of `params`, with hyper-parameters of its own; `rule` names its rule, and is taken at its word.

        Without it, where a rule says roles, the group is one for each rule that takes some of its tensors, by their shapes.
        """
        if isinstance(param_group, dict):
            if "rule" not in param_group and "params" in param_group:
                typed, before = by_role(self.programs, self.default, param_group, self.defaults), len(self.param_groups)
                try:
                    for group in typed:
                        self.add_param_group(group)
                except Exception:
                    del self.param_groups[before:]
                    raise
                if typed:
                    return
            rule = param_group.setdefault("rule", self.default)
            if rule != self.default and rule in self.programs:
                for name, value in self.programs[rule].hypers:
                    if value is not None:
                        param_group.setdefault(name, value)
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            check_group(self.programs, group)
        except Exception:
            self.param_groups.pop()
            raise
        self._table = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint, of this class or of the optimizer of torch that has its states' names.

        Parameters are matched by name where both sides have names, else by position.
        """

        def keep(_: Any, final: dict[str, Any]) -> None:
            self._incoming = final

        handle = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(by_name(state_dict, self.param_groups))
        finally:
            handle.remove()
            self._incoming = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        before = self.__dict__.get("param_groups", [])
        super().__setstate__(state)
        self._reset()
        for key, value in OPTIONS.items():
            self.defaults.setdefault(key, value)
        for i, group in enumerate(self.param_groups):
            old = before[i] if i < len(before) else {}
            group.setdefault("rule", old.get("rule", self.default))
            for key in ("every", "over", "split"):
                group.setdefault(key, old.get(key, self.defaults[key]))
            known = dict(self.programs[group["rule"]].hypers) if group["rule"] in self.programs else {}
            for key, value in self.defaults.items():
                group.setdefault(key, known.get(key, value) if group["rule"] != self.default else value)
            for key, value in known.items():
                group.setdefault(key, value)
        if self._incoming is not None:
            saved = (k for g in self._incoming["param_groups"] for k in g["params"])
            owners = dict(zip(saved, (p for g in self.param_groups for p in g["params"])))
            exact_values(self.state, self._incoming["state"], owners, number_names(self.programs))
            check_states(self.state, self.programs, self.param_groups)

    def __reduce__(self) -> tuple[Any, ...]:
        make, args = self.revive or (copyreg.__newobj__, (type(self),))  # type: ignore[attr-defined]
        return make, args, self.__getstate__()

    # --- the step
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient; `closure` evaluates the model again and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        differentiable = self.defaults["differentiable"]
        with torch.set_grad_enabled(differentiable):
            if differentiable:
                self._differentiable()
            else:
                self._update()
        return loss

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _update(self) -> None:
        if torch.is_inference_mode_enabled():  # states have to outlive it
            with torch.inference_mode(False), torch.no_grad():
                return self._update()
        table = self._table
        if table is None or not table.holds(self.programs, self.param_groups, self.state):
            self._table = None
            table = Table(self.programs, self.param_groups, self.state)
            self._table = table
        if table.accelerated:
            self._accelerator_graph_capture_health_check()
        table.advance(torch.get_num_threads(), self.providers)

    def _differentiable(self) -> None:
        """A step that autograd sees through: new state tensors, and parameters overwritten by what has the graph."""
        for group in self.param_groups:
            check_gradients(group["params"], type(self).__name__)
            for p in group["params"]:
                if p.grad is not None:
                    self._derive(group, p, p.grad)

    def _derive(self, group: dict[str, Any], p: Tensor, grad: Tensor) -> None:
        program = route(self.programs, group["rule"], dimensions(p, group))
        assert program is not None
        variant, state = program.variants[program.variant(group)], self.state[p]
        h = program.numbers(group, exact=False)
        ensure(state, variant, group, p, lambda: program.numbers(group))
        g = grad
        if gathers(state, group):
            steps = float(state["tick"]) + 1.0
            total = state["grad_sum"] + g
            fires = steps >= group["every"]
            state["tick"] = torch.full_like(state["tick"], 0.0 if fires else steps)
            state["grad_sum"] = torch.zeros_like(total) if fires else total
            if not fires:
                return
            g = total / steps if group["over"] == "mean" else total
        g = -g if group["maximize"] else g
        t = float(state["step"]) + 1.0
        state["step"] = torch.full_like(state["step"], t)
        numbers = [s.name for s in variant.states if s.kind == "number"]
        names = [s.name for s in variant.states if s.kind != "number"]
        h.update({name: state[name] if state[name].requires_grad else float(state[name]) for name in numbers})
        tick = variant.ticks[program.mask(int(t), h)]
        scalars = tick.prologue(t, h)
        for name in numbers:
            if f"new {name}" in scalars:
                state[name] = torch.as_tensor(scalars[f"new {name}"], dtype=state[name].dtype)
        split = group["split"]
        like = [s.name for s in variant.states if s.kind == "like"]
        states = {name: seen(state[name], split if name in like else 1) for name in names}
        arrays = {"w": seen(p.clone(), split), "g": seen(g, split), **states}
        if program.needs:
            arrays.update(zip(("x", "delta"), as_given(*self.providers[p](), g, -1.0 if group["maximize"] else 1.0)))
        new = derived(tick, arrays, scalars)
        for name, value in new.items():
            owner = p if name == "w" else state[name]
            value = torch.view_as_complex(value.contiguous()) if owner.is_complex() else value.reshape(owner.shape)
            if name == "w":
                p.copy_(value)
            else:
                state[name] = value
