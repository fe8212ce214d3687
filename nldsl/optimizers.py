"""`nldsl.optimizer`: a rule of the library or of a file as a `torch.optim.Optimizer`."""

from __future__ import annotations

from functools import cache
from typing import Any

from nldsl.pipeline import check_source
from nldsl.program import Program
from nldsl.source import Source


def optimizer(rule: str, params: Any, /, **numbers: Any) -> Any:
    """A rule of the library as a `torch.optim.Optimizer`, or several of them by routes.

    Args:
        rule: its name, or routes as in a `train` block: `"matrices by muon(lr = 0.02), rest by adamw()"`.
        params: a module, or what any torch optimizer takes: parameters, named parameters, param groups.
        numbers: those of the rule by name, and the options of torch's optimizers: `maximize`, `differentiable`, ...

    Raises:
        NlError: there is no such rule, or it has no such number.
    """
    return library_program().optimizer(rule, params, **numbers)


def optimizer_class(rule: str, **structure: int) -> Any:
    """The class of a rule of the library, a subclass of `torch.optim.Optimizer`."""
    return library_program().optimizer_class(rule, **structure)


@cache
def library_program() -> Program:
    """A program with nothing in it but the library."""
    return Program(check_source(Source("library", "")))


__all__ = ["library_program", "optimizer", "optimizer_class"]
