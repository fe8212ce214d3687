"""Slow tests run when asked for: `pytest -m slow`."""

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes many seconds; runs with -m slow")


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))
