"""The stub model and its run, and a way to ask which mistake a call makes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nldsl.diagnostics import Diagnostic, NlError

STUB = Path(__file__).with_name("stub.py")


def _load_stub() -> ModuleType:
    location = importlib.util.spec_from_file_location("training_stub", STUB)
    assert location is not None and location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stub() -> ModuleType:
    return _load_stub()


@pytest.fixture
def text_file(stub: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_bytes(stub.TEXT)
    return path


@pytest.fixture
def spec(stub: ModuleType, text_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """`spec("run", steps=5)`: the stub's run in that subfolder of the test's own."""
    return lambda run="run", **changes: stub.small_spec(tmp_path / run, **{"data": text_file, **changes})


@pytest.fixture
def mistake() -> Callable[..., Diagnostic]:
    """`mistake(call, *arguments)`: the one diagnostic that the call raises."""

    def run(call: Callable[..., Any], *arguments: Any, **options: Any) -> Diagnostic:
        with pytest.raises(NlError) as caught:
            call(*arguments, **options)
        (diagnostic,) = caught.value.diagnostics
        return diagnostic

    return run


@pytest.fixture
def losses() -> Callable[[Path], dict[int, float]]:
    """The training losses in a run folder's log; fails on a step logged twice."""

    def read(folder: Path) -> dict[int, float]:
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        places = [(record["kind"], record["step"]) for record in records]
        assert len(places) == len(set(places))
        return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}

    return read


@pytest.fixture(autouse=True)
def _own_random_state() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield
