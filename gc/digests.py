"""Digests as the bytes that they are: a store has a million, and an object with two texts is ten times as large.

A digest of 32 bytes is SHA-256's, one of 64 SHA-512's: the only algorithms that content is stored under.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from registryd.reference import Digest
from registryd.storage import layout

LENGTHS: Final = {"sha256": 32, "sha512": 64}
"""The bytes of an algorithm's digests."""

_ALGORITHMS: Final = {length: algorithm for algorithm, length in LENGTHS.items()}


def raw(digest: Digest) -> bytes:
    """A digest's bytes."""
    return bytes.fromhex(digest.hex)


def digest(raw: bytes) -> Digest:
    """The digest that has some bytes."""
    return Digest(_ALGORITHMS[len(raw)], raw.hex())


def from_name(algorithm: str, name: str) -> bytes | None:
    """The digest that a folder of an algorithm is named by, or None where it is none."""
    if len(name) != 2 * LENGTHS[algorithm] or name.lower() != name:
        return None
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None


def link_size(algorithm: str) -> int:
    """The bytes of a link that holds a digest of an algorithm."""
    return len(algorithm) + 1 + 2 * LENGTHS[algorithm]


def data_path(raw: bytes) -> str:
    """Where the content of a digest lies."""
    return layout.blob_data(digest(raw))


def packed(digests: Iterable[bytes]) -> bytes:
    """Digests in one piece, which takes a third of the memory."""
    return b"".join(bytes([len(one)]) + one for one in digests)


def unpacked(pack: bytes) -> Iterator[bytes]:
    """The digests in such a piece."""
    start = 0
    while start < len(pack):
        stop = start + 1 + pack[start]
        yield pack[start + 1 : stop]
        start = stop
