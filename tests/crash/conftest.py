"""Tests that run for minutes wait until they are asked for."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked ``soak`` unless ``-m`` selects it."""
    if "soak" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="runs for minutes; `make soak`, or pytest -m soak, runs it")
    for item in items:
        if item.get_closest_marker("soak") is not None:
            item.add_marker(skip)
