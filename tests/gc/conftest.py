from __future__ import annotations

from pathlib import Path

import pytest

from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver

from .trees import Store


@pytest.fixture(params=["memory", "filesystem"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return Store(MemoryDriver())
    return Store(FilesystemDriver(str(tmp_path / "store")), now=tmp_path.stat().st_mtime)
