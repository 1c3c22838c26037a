"""The system is asked for what is not in memory, and for nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from registryd.readahead import read_ahead

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, size, how: asked.append((start, size)))
    return asked


def test_what_is_in_memory_is_not_asked_for(file: int, asked: list[tuple[int, int]]) -> None:
    try:
        assert os.preadv(file, [bytearray(SIZE)], 0, os.RWF_NOWAIT) == SIZE
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system does not tell what is in memory")
    read_ahead(file, 4096, SIZE)
    assert asked == []


@pytest.mark.parametrize("told", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
def test_what_is_not_is_asked_for(
    file: int, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, told: int
) -> None:
    looked_at: list[int] = []

    def refuse(file: int, buffers: Sequence[bytearray], position: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        looked_at.append(position)
        raise OSError(told, os.strerror(told))

    monkeypatch.setattr(os, "preadv", refuse)
    read_ahead(file, 4096, SIZE)
    assert (asked, looked_at) == ([(4096, SIZE - 4096)], [SIZE - 1])


def test_nothing_is_asked_for_past_the_end(file: int, asked: list[tuple[int, int]]) -> None:
    read_ahead(file, SIZE, SIZE)
    assert asked == []
