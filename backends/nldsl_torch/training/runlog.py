"""`log.jsonl`: one JSON object a line, never two of one kind for one step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import folder_unusable

Record = dict[str, Any]


def read_log(path: Path) -> list[Record]:
    """The whole records of a log; a line cut short by a kill is left out."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return [record for record in map(_parse, lines) if record is not None]


class RunLog:
    """Appends records to a log whose first `through` steps are kept and later ones dropped."""

    def __init__(self, path: Path, through: int) -> None:
        self._path = path
        try:
            kept = [record for record in read_log(path) if record["step"] <= through]
            unfinished = path.with_name(path.name + ".tmp")
            unfinished.write_text("".join(map(_line, kept)), "utf-8")
            os.replace(unfinished, path)
        except OSError as error:
            raise folder_unusable(path.parent, error.strerror or str(error)) from None
        self._seen = {(record["kind"], record["step"]) for record in kept}

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record, unless the log has one of this kind for this step."""
        if (kind, step) in self._seen:
            return
        self._seen.add((kind, step))
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line({"kind": kind, "step": step, **values}))
        except OSError as error:
            raise folder_unusable(self._path.parent, error.strerror or str(error)) from None


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _is_whole(record) else None


def _is_whole(record: Record) -> bool:
    types = {"kind": str, "step": int, "bpb": float, "loss": float}
    return all(isinstance(record.get(name), type_) for name, type_ in types.items())
