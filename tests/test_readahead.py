"""The system is asked for what is not in memory, and for nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from registryd import readahead
from registryd.readahead import PIECE, read_ahead

SIZE = 3 * PIECE


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The pages that were asked for."""
    asked: set[int] = set()

    def advise(file: int, start: int, size: int, advice: int) -> None:
        # Of more at once, the system may read the beginning alone.
        assert (0 < size <= 128 * 1024, advice) == (True, os.POSIX_FADV_WILLNEED)
        asked.update(range(start // 4096, -(-(start + size) // 4096)))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return asked


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], int]], list[int]]:
    def use(look: Callable[[int], int]) -> list[int]:
        """Answer a look at a position in place of the system; the positions that were looked at."""
        positions: list[int] = []

        def preadv(file: int, buffers: Sequence[bytearray], position: int, flags: int) -> int:
            assert flags == os.RWF_NOWAIT
            positions.append(position)
            return look(position)

        monkeypatch.setattr(os, "preadv", preadv)
        return positions

    return use


Looks = Callable[[Callable[[int], int]], list[int]]


def fail(error: Exception) -> int:
    raise error


def test_what_is_in_memory_is_not_asked_for(file: int, asked: set[int]) -> None:
    try:
        assert os.preadv(file, [bytearray(SIZE)], 0, os.RWF_NOWAIT) == SIZE
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system does not tell what is in memory")
    read_ahead(file, 4096, SIZE)
    assert asked == set()


@pytest.mark.parametrize("told", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
def test_what_is_not_is_asked_for(file: int, asked: set[int], looks: Looks, told: int) -> None:
    positions = looks(lambda position: fail(OSError(told, os.strerror(told))))
    read_ahead(file, 4096, SIZE)
    assert asked == set(range(1, SIZE // 4096))
    assert positions == [4096 + PIECE - 1, 4096 + 2 * PIECE - 1, SIZE - 1]


def test_of_what_is_there_in_part_the_rest(file: int, asked: set[int], looks: Looks) -> None:
    looks(lambda position: 1 if PIECE <= position < 2 * PIECE else fail(BlockingIOError()))
    read_ahead(file, 0, SIZE)
    assert asked == {*range(PIECE // 4096), *range(2 * PIECE // 4096, SIZE // 4096)}


def test_without_a_way_to_look_all_is_asked_for(
    file: int, asked: set[int], looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(lambda position: fail(NotImplementedError()))
    read_ahead(file, 0, PIECE)
    monkeypatch.setattr(readahead, "_NOWAIT", None)
    read_ahead(file, PIECE, 2 * PIECE)
    assert asked == set(range(2 * PIECE // 4096))


def test_nothing_is_asked_for_past_the_end(file: int, asked: set[int]) -> None:
    read_ahead(file, SIZE, SIZE)
    assert asked == set()
