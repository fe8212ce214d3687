"""`nldsl train`: a `train` block compiled and run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nldsl.check.levels import levels
from nldsl.diagnostics import Diagnostic, NlError, did_you_mean
from nldsl.elaborate.schedules import without_schedules
from nldsl.program import Program
from nldsl.render.text import levels_text
from nldsl.train import Training, read_train
from nldsl_torch.build import module

from .optimizers import routed
from .ranks import speaks
from .spec import TrainSpec, validate
from .trainer import fit, load_data


def cli(
    program: Program, sizes: dict[str, Any], *, name: str | None = None, data: str | None = None, steps: int | None = None,
    run_dir: str | None = None, fresh: bool = False, device: str = "cpu", threads: int | None = None, compile: bool = False,
    sharded: bool = False,
) -> int:  # fmt: skip
    """Run one `train` block; returns the exit code."""
    training = choose(program, name)
    spec = train_spec(program, training, sizes, data=data, steps=steps, run_dir=run_dir, device=device, threads=threads, compile=compile)
    spec = replace(spec, sharded=sharded)
    validate(spec)
    load_data(spec)  # what is wrong with the data is said before anything else
    if speaks():
        print_graph(program, training)
    return fit(spec, fresh=fresh).exit_code


def choose(program: Program, name: str | None) -> Training:
    """The `train` block asked for, or the only one."""
    trains = program.trains
    if not trains:
        raise NlError(
            Diagnostic("NL724", f"{program.source.name} has no `train` block", expected="a file with a `train` block",
                       help="train run { model = NAME(...)  minimize cross_entropy(model(byte), next) by adamw(lr = 2e-3) }"))  # fmt: skip
    if name is None and len(trains) > 1:
        raise NlError(
            Diagnostic("NL724", f"{program.source.name} has several `train` blocks", expected="one of them by name",
                       found=", ".join(trains), help=f"--train {next(iter(trains))}"))  # fmt: skip
    chosen = name if name is not None else next(iter(trains))
    if chosen not in trains:
        near = did_you_mean(chosen, trains)
        raise NlError(
            Diagnostic("NL724", f"{program.source.name} has no `train {chosen}`", expected=", ".join(trains),
                       help=f"--train {near}" if near else None))  # fmt: skip
    training, found = read_train(trains[chosen], program.top)
    if training is None:
        raise NlError(*found)
    return training


def train_spec(
    program: Program, training: Training, sizes: dict[str, Any], *, data: str | None, steps: int | None, run_dir: str | None,
    device: str, threads: int | None, compile: bool = False,
) -> TrainSpec:  # fmt: skip
    """What the trainer needs, from a `train` block and the command line, which wins."""
    settings = dict(training.settings)
    asked = {"data": data, "steps": steps, "threads": threads}
    settings |= {k: v for k, v in asked.items() if v is not None}
    if "data" in training.settings and data is None:
        settings["data"] = Path(program.source.name).parent / training.settings["data"]
    parameters = {**training.sizes, **sizes}
    elaborated = program.elaborate(training.model.name, **parameters)
    folder = run_dir if run_dir is not None else str(Path("runs") / training.name)

    def build() -> nn.Module:
        return module(*elaborated.parts, compile=compile)

    shared = next((m.name for unit in elaborated.units.values() for m in unit.memories if m.shared is not None), None)
    text = without_schedules(program.checked.file) + "".join(f"\n# -D {k}={v}" for k, v in sorted(sizes.items()))
    return TrainSpec(
        training.name, text, program.source.name, build, folder, objective=objective(program, training), wiring=training.wiring,
        optimizer=routed(program, training.routes), device=device, shared=shared, **settings,
    )  # fmt: skip


def objective(program: Program, training: Training) -> Any:
    """The outer objective as a function of what the model returns and targets [B, L]: its mean over all ticks."""
    from nldsl.check.instances import Units

    units = Units(program.top)
    key = units.block(training.objective, {})
    if key is None:
        raise NlError(*units.diagnostics)
    loss = module(units.units, units.types, key)

    def mean(outputs: Any, target: Tensor) -> Tensor:
        read = [outputs[name] for name in training.wiring.read] or [outputs]
        value: Tensor = loss(*read, target).mean()
        return value

    return mean


def print_graph(program: Program, training: Training) -> None:
    """The nesting graph of the model as text: levels, periods, members."""
    elaborated = program.elaborate(training.model.name, **training.sizes)
    print(levels_text(levels(elaborated.units, elaborated.key)))
