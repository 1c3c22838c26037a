"""Digests as bytes: many of them, in little memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator

import pytest

from registryd_gc.digests import Digests, packed, unpacked


def some(count: int, algorithm: str = "sha256") -> Iterator[bytes]:
    return (hashlib.new(algorithm, b"%d" % number).digest() for number in range(count))


def test_packed_and_unpacked() -> None:
    digests = [*some(3), *some(2, "sha512"), *some(1)]
    assert list(unpacked(packed(digests))) == digests


def taken(digests: Digests) -> set[bytes]:
    return {one for length in (32, 64) for first in range(256) for one in unpacked(digests.take(length, first))}


def test_what_was_added_is_there() -> None:
    digests = Digests()
    for count in (1000, 10, 1500, 2000):
        digests.update(some(count))
        digests.update(some(count, "sha512"))
        most = max(count, 1000)
        assert all(one in digests for one in (*some(most), *some(most, "sha512")))
        assert not any(one in digests for one in list(some(4000))[most:])
    assert bytes(32) not in digests and b"\xff" * 64 not in digests and None not in digests
    assert taken(digests) == {*some(2000), *some(2000, "sha512")}


@pytest.mark.parametrize("count", [0, 10, 10_000])
def test_each_counts_once(count: int) -> None:
    digests = Digests()
    for _ in range(3):
        digests.update(some(count))
        digests.update(some(count // 2, "sha512"))
        if count:
            digests.add(b"\xff" * 32)
    expected = {*some(count), *some(count // 2, "sha512")} | ({b"\xff" * 32} if count else set())
    assert len(digests) == len(expected) and sorted(digests) == sorted(expected)
    assert sorted(digests.drained()) == sorted(expected)
    assert len(digests) == 0 and not list(digests) and not any(one in digests for one in expected)


def test_what_comes_after_many_is_found_too() -> None:
    digests = Digests()
    digests.update(some(10_000))
    assert len(digests) == 10_000
    last = b"\xff" * 32
    assert last not in digests
    digests.add(last)
    digests.add(next(some(1)))
    assert last in digests and len(digests) == 10_001 and last in list(digests)


def test_what_is_taken_is_there_no_more() -> None:
    digests = Digests()
    digests.update([*some(1000), *some(1000, "sha512")])
    assert set(unpacked(digests.take(32, 7))) == {one for one in some(1000) if one[0] == 7}
    assert digests.take(32, 7) == b"" and not any(one in digests for one in some(1000) if one[0] == 7)
    assert taken(digests) == {*(one for one in some(1000) if one[0] != 7), *some(1000, "sha512")}


def test_however_often_digests_are_added_they_take_little_memory() -> None:
    """Every image of a store may name the same layers."""
    digests = Digests()
    same = [bytes(28) + number.to_bytes(4, "big") for number in range(2000)]
    for _ in range(50):
        digests.update(same)
    pack = digests.take(32, 0)
    assert set(unpacked(pack)) == set(same) and len(pack) <= 2 * 33 * len(same)


def test_asking_for_digests_takes_no_memory() -> None:
    """A set of them would take three times as much."""
    many = [b"\1" * 28 + number.to_bytes(4, "big") for number in range(10_000)]
    digests = Digests()
    tracemalloc.start()
    try:
        digests.update(many)
        assert many[0] in digests
        assert tracemalloc.get_traced_memory()[0] < 2 * 33 * len(many)
    finally:
        tracemalloc.stop()
