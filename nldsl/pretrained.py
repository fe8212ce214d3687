"""First values that a file holds: `pretrained("mlp.safetensors", "layers.0.up")`.

A safetensors file is a length (8 bytes, little-endian), so much JSON (name -> dtype, shape, place), and the numbers. Only
the JSON is read here, when a module is built; compiling a text reads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nldsl.core import Init, Param, Unit
from nldsl.diagnostics import Diagnostic, Label, NlError, did_you_mean

FLOATS = ("F64", "F32", "F16", "BF16")
LONGEST = 100_000_000  # bytes of JSON that a file may have


class Unreadable(Exception):
    """Why a file is not one of tensors."""


@dataclass(frozen=True)
class Held:
    """A tensor of a file."""

    dtype: str
    shape: tuple[int, ...]


def folder(unit: Unit) -> Path:
    """Where the files of a unit are looked for: the folder of its text."""
    return Path(unit.span.source.name).parent


def read_header(path: Path) -> dict[str, Held]:
    """The tensors of a file by name.

    Raises:
        Unreadable: it is not there, or not a safetensors file.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < LONGEST:
                raise Unreadable("it is not a safetensors file")
            entries = json.loads(file.read(length))
        return {n: Held(e["dtype"], tuple(map(int, e["shape"]))) for n, e in entries.items() if n != "__metadata__"}
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Unreadable("it is not a safetensors file") from None


def named(names: Collection[str], wanted: str) -> str | None:
    """The tensor that is meant: of that name, or the `.weight` of it."""
    return next((n for n in (wanted, f"{wanted}.weight") if n in names), None)


def values(init: Init) -> Iterator[tuple[str, str]]:
    """The files and tensors of an initial value."""
    if isinstance(init, tuple):
        if init[0] == "pretrained":
            yield init[1], init[2]
        else:
            for part in init[1:]:
                yield from values(part)


def check(units: Mapping[str, Unit]) -> bool:
    """Whether any first value is in a file.

    Raises:
        NlError: NL821 a file cannot be read, NL822 it does not have the tensor, NL823 the tensor does not fit.
    """
    wanted = [(folder(u) / file, name, p) for u in units.values() for p in u.params for file, name in values(p.init)]
    headers: dict[Path, dict[str, Held] | Unreadable] = {}
    found: dict[str, Diagnostic] = {}
    for path, name, param in wanted:
        if path not in headers:
            try:
                headers[path] = read_header(path)
            except Unreadable as why:
                headers[path] = why
        wrong = _wrong(path, headers[path], name, param)
        if wrong is not None:
            found.setdefault(wrong.message, wrong)
    if found:
        raise NlError(*found.values())
    return bool(wanted)


def _wrong(path: Path, header: dict[str, Held] | Unreadable, name: str, param: Param) -> Diagnostic | None:
    at = (Label(param.span),)
    if isinstance(header, Unreadable):
        return Diagnostic("NL821", f"cannot read '{path}': {header}", at, expected="a safetensors file, beside the text that names it",
                          help="safetensors.torch.save_file(model.state_dict(), FILE)")  # fmt: skip
    tensor = named(header, name)
    if tensor is None:
        near = did_you_mean(name, header) or did_you_mean(f"{name}.weight", header)
        return Diagnostic("NL822", f"'{path}' has no tensor `{name}`", at, expected=_listed(header), found=f"`{name}`",
                          help=f"did you mean `{near}`?" if near else None)  # fmt: skip
    shape = tuple(d.integer for d in (*(a.size for a in param.type.axes), *param.type.shape))
    if header[tensor].shape != shape or header[tensor].dtype not in FLOATS:
        return Diagnostic("NL823", f"the tensor `{tensor}` of '{path}' is no first value of `{param.name}`", at,
                          expected=f"{list(shape)} of {' or '.join(FLOATS)}", found=f"{list(header[tensor].shape)} of {header[tensor].dtype}")  # fmt: skip
    return None


def _listed(names: Collection[str]) -> str:
    few = ", ".join(f"`{n}`" for n in list(names)[:6])
    return f"one of {few}{', ...' if len(names) > 6 else ''}" if few else "a file with tensors"
