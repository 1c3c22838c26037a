"""Digests as bytes: many of them, in little memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from registryd_gc.digests import Digests, packed, unpacked


def some(count: int, algorithm: str = "sha256") -> Iterator[bytes]:
    return (hashlib.new(algorithm, b"%d" % number).digest() for number in range(count))


def test_packed_and_unpacked() -> None:
    digests = [*some(3), *some(2, "sha512"), *some(1)]
    assert list(unpacked(packed(digests))) == digests


def test_a_digest_that_is_added_again_is_held_once() -> None:
    digests = Digests()
    for _ in range(3):
        digests.update(some(1000))
        digests.update(some(1000, "sha512"))
    assert digests.all() == {*some(1000), *some(1000, "sha512")}
    digests.update(some(2000))
    assert digests.all() == {*some(2000), *some(1000, "sha512")}


def test_what_is_taken_is_there_no_more() -> None:
    digests = Digests()
    digests.update([*some(1000), *some(1000, "sha512")])
    taken = {one for first in range(256) for one in unpacked(digests.take(64, first))}
    assert taken == set(some(1000, "sha512")) and digests.all() == set(some(1000))
    assert set(unpacked(digests.take(32, 7))) == {one for one in some(1000) if one[0] == 7}
    assert digests.take(32, 7) == b""


def test_however_often_digests_are_added_they_take_little_memory() -> None:
    """Every image of a store may name the same layers."""
    digests = Digests()
    same = [bytes(28) + number.to_bytes(4, "big") for number in range(2000)]
    for _ in range(50):
        digests.update(same)
    pack = digests.take(32, 0)
    assert set(unpacked(pack)) == set(same) and len(pack) <= 2 * 33 * len(same)
