"""Texts to interpreters, through the front end without its static passes."""

from pathlib import Path

import torch
from torch import Tensor

from nldsl.check.instances import Units, complete
from nldsl.dims import Dim
from nldsl.elaborate.top import library, top_scope
from nldsl.parse import parse
from nldsl.source import Source
from nldsl_interpreter import Interpreter


def machine(text: str | Path, block: str | None = None, **sizes: int) -> Interpreter:
    """The interpreter of a block, the last one unless named."""
    source = Source(str(text), text.read_text()) if isinstance(text, Path) else Source("<test>", text)
    file, wrong = parse(source)
    top, more = top_scope(file, library())
    units = Units(top)
    blocks = [item for item in file.items if type(item).__name__ == "Block"]
    tree = next(b for b in reversed(blocks) if block in (None, b.name))
    given = {name: Dim.of(value) for name, value in sizes.items()}
    key = units.block(tree, complete(tree, given, {}, top))
    found = [*wrong, *more, *units.diagnostics]
    assert key is not None and not found, "\n".join(d.render() for d in found)
    return Interpreter(units.units, units.types, key)


def seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def randn(*shape: int, seed_: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seed(seed_))


def random_parameters(machine: Interpreter, n: int = 1) -> dict[str, Tensor]:
    """Initial params moved a little, so that zeros and ones count too; they require gradients."""
    params = machine.parameters(torch.float64, seed(n))
    noise = seed(n + 1)
    return {k: (v + 0.3 * torch.randn(v.shape, dtype=v.dtype, generator=noise)).requires_grad_() for k, v in params.items()}


__all__ = ["machine", "randn", "random_parameters", "seed"]
