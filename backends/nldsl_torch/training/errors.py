"""Every mistake a user of `nldsl train` can make, as the diagnostic they read: codes NL701 to NL719."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nldsl.diagnostics import Diagnostic, Label, NlError, did_you_mean
from nldsl.routes import Route

NEW_RUN = "start over with `--fresh` (the old files are kept in a subfolder), or name another run folder"


def _error(
    code: str, message: str, *, expected: str | None = None, found: str | None = None, help: str | None = None
) -> NlError:
    return NlError(Diagnostic(code, message, expected=expected, found=found, help=help))


def text_unreadable(path: Path, reason: str) -> NlError:
    return _error(
        "NL701",
        f"cannot read the text file '{path}': {reason}",
        help="name an existing text file with `--data FILE`, or leave it out to train on the embedded text",
    )


def text_too_small(origin: str, size: int, needed: int, length: int) -> NlError:
    return _error(
        "NL702",
        f"{origin} is {'empty' if size == 0 else 'too small'} to train on",
        expected=f"at least {needed} bytes (a training and a held-out window of length {length})",
        found=f"{size} byte{'' if size == 1 else 's'}",
        help="take a longer text, or a shorter `length`",
    )


def unknown_schedule(name: str, known: Iterable[str]) -> NlError:
    close = did_you_mean(name, known)
    names = ", ".join(f"`{choice}`" for choice in known)
    return _error(
        "NL704",
        f"there is no schedule named `{name}`",
        expected=f"one of {names}",
        found=f"`{name}`",
        help=f"did you mean `{close}`?" if close else None,
    )


def rule_unfit(reason: str, routes: Iterable[Route]) -> NlError:
    labels = tuple(Label(route.span) for route in routes)
    return NlError(Diagnostic("NL728", f"a rule cannot train this model: {reason}", labels))


def setting_out_of_range(name: str, expected: str, found: object) -> NlError:
    return _error("NL705", f"the training setting `{name}` is out of range", expected=expected, found=repr(found))


def device_unavailable(device: str, reason: str) -> NlError:
    return _error("NL706", f"the device '{device}' cannot be used here: {reason}", help="train on `cpu`")


def checkpoint_missing(path: Path) -> NlError:
    return _error("NL707", f"there is no checkpoint '{path}'", help="train first, or name another run folder")


def checkpoint_corrupt(path: Path, reason: str) -> NlError:
    return _error(
        "NL708",
        f"the checkpoint '{path}' is damaged: {reason}",
        expected="a whole nldsl checkpoint",
        help=f"put back a good copy of the file; or {NEW_RUN}",
    )


def checkpoint_of_other_spec(path: Path, saved: str, current: str) -> NlError:
    return _error(
        "NL709",
        f"the checkpoint '{path}' was trained from a different spec",
        expected=f"spec sha256 {current}",
        found=f"spec sha256 {saved}",
        help=f"put the spec back as it was (the checkpoint carries its text); or {NEW_RUN}",
    )


def checkpoint_version(path: Path, found: str, supported: int) -> NlError:
    return _error(
        "NL710",
        f"the checkpoint '{path}' has a format that this nldsl does not read",
        expected=f"format version {supported}",
        found=f"format version {found}",
        help=f"use the nldsl that wrote it; or {NEW_RUN}",
    )


def checkpoint_does_not_fit(path: Path, reason: str) -> NlError:
    return _error(
        "NL711",
        f"the checkpoint '{path}' does not fit the model compiled from its spec",
        found=reason,
        help=f"use the nldsl that wrote it; or {NEW_RUN}",
    )


def settings_changed(path: Path, changes: dict[str, tuple[object, object]]) -> NlError:
    return _error(
        "NL712",
        f"the checkpoint '{path}' was trained with other settings",
        expected=", ".join(f"{name} = {saved}" for name, (saved, _) in changes.items()),
        found=", ".join(f"{name} = {now}" for name, (_, now) in changes.items()),
        help=f"give the settings it was trained with; or {NEW_RUN}",
    )


def not_finite(step: int, what: str, value: float, kept: Path | None, kept_step: int | None) -> NlError:
    saved = f"the checkpoint of step {kept_step} is kept in '{kept}'" if kept else "no checkpoint had been saved yet"
    return _error(
        "NL713",
        f"training stopped at step {step}: the {what} is {value}",
        expected=f"a finite {what}",
        found=f"{value}; {saved}",
        help="lower the learning rate, warm up for longer or clip gradients harder, and run again with `--fresh`",
    )


def folder_unusable(path: Path, reason: str) -> NlError:
    return _error(
        "NL714",
        f"cannot write in the run folder '{path}': {reason}",
        help="name another run folder, or free space and check its permissions",
    )


def folder_in_use(path: Path) -> NlError:
    return _error(
        "NL715",
        f"the run folder '{path}' is in use by another training run",
        help="wait for that run to end, or name another run folder",
    )


def model_unfit(what: str, expected: str, found: str) -> NlError:
    return _error("NL716", f"{what} has the wrong shape for training on bytes", expected=expected, found=found)


def out_of_memory(batch: int, length: int, reason: str | None) -> NlError:
    return _error(
        "NL717",
        f"a batch of {batch} windows of length {length} does not fit in memory",
        found=reason,
        help="take a smaller `batch` or `length`",
    )


def compares_nothing(count: int) -> NlError:
    return _error(
        "NL733",
        "a comparison needs at least two specs",
        expected="several `train` blocks, in one file or in several",
        found="none" if count == 0 else "one",
    )


def not_comparable(setting: str, values: Mapping[str, object]) -> NlError:
    return _error(
        "NL733",
        f"the specs differ in `{setting}`, so they would not read the same bytes",
        expected=f"one `{setting}`",
        found=", ".join(f"{value} in {name}" for name, value in values.items()),
        help=f"--{setting} {next(iter(values.values()))}, for all of them",
    )


def unequal_parameters(counts: Mapping[str, int], tolerance: float) -> NlError:
    return _error(
        "NL732",
        "the specs have different numbers of parameters",
        expected=f"counts within {tolerance:.1%}",
        found=", ".join(f"{count:,} in {name}" for name, count in counts.items()),
        help="change widths until they agree, or allow more with `--tolerance F`",
    )


def cannot_share(reason: str, expected: str | None = None) -> NlError:
    return _error(
        "NL734",
        f"several processes cannot share this training: {reason}",
        expected=expected,
        help="train in one process, without torchrun",
    )


def nothing_to_shard() -> NlError:
    return _error(
        "NL734",
        "`--sharded` spreads a model over several processes, and there is one",
        expected="a start by torchrun, with two processes or more",
        help="torchrun --nproc_per_node N -m -- nldsl train FILE --sharded",
    )


def nothing_to_train() -> NlError:
    return _error("NL718", "the model has no parameters to train", help="declare a `param` or a learned memory")
