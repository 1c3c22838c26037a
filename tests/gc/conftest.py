from __future__ import annotations

import signal
from pathlib import Path

import pytest

from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver

from .trees import Store


@pytest.fixture(autouse=True, scope="session")
def _hear_interrupts() -> None:
    """What a script starts in the background ignores SIGINT, and so would all that is started here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["memory", "filesystem"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return Store(MemoryDriver())
    return Store(FilesystemDriver(str(tmp_path / "store")), now=tmp_path.stat().st_mtime)
