"""Markers of the torch suite: `soak` and `inductor` run only where `-m` names them."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: long runs, many random programs; run with -m soak")
    config.addinivalue_line("markers", "inductor: compiles C++ (tens of seconds); run with -m inductor")


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("-m", default="")
    for item in items:
        for marker in ("soak", "inductor"):
            if marker in item.keywords and marker not in wanted:
                item.add_marker(pytest.mark.skip(reason=f"run with -m {marker}"))
