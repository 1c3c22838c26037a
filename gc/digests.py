"""Digests as the bytes that they are: a store has a million, and an object with two texts is ten times as large.

A digest of 32 bytes is SHA-256's, one of 64 SHA-512's: the only algorithms that content is stored under.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

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
    return b"".join(_HEADS[len(one)] + one for one in digests)


_HEADS: Final = {length: bytes([length]) for length in _ALGORITHMS}


def unpacked(pack: bytes | bytearray) -> Iterator[bytes]:
    """The digests in such a piece."""
    start = 0
    while start < len(pack):
        stop = start + 1 + pack[start]
        yield bytes(pack[start + 1 : stop])
        start = stop


_DENSE: Final = 4096
"""Bytes of a pack from which on it is looked through for what it holds twice."""


@attrs.define
class Digests:
    """A set of digests, by the folders that their blobs lie in, in a third of the memory that a set takes.

    So a process that is forked copies none of it by using it: objects would be written to when they are looked at.
    """

    _packs: dict[tuple[int, int], bytearray] = attrs.field(factory=dict, init=False)
    _most: dict[tuple[int, int], int] = attrs.field(factory=dict, init=False)

    def update(self, digests: Iterable[bytes]) -> None:
        """Add digests."""
        for one in digests:
            folder = len(one), one[0]
            pack = self._packs.setdefault(folder, bytearray())
            pack += _HEADS[folder[0]]
            pack += one
            if len(pack) > self._most.get(folder, _DENSE):
                self._condense(folder)

    def _condense(self, folder: tuple[int, int]) -> None:
        # What is there twice takes no more than what is there once, and looking for it no more time than adding it.
        pack = self._packs[folder] = bytearray(packed(set(unpacked(self._packs[folder]))))
        self._most[folder] = max(_DENSE, 2 * len(pack))

    def take(self, length: int, first: int) -> bytes:
        """Remove the digests of a length and with a first byte; what they are, packed."""
        return bytes(self._packs.pop((length, first), b""))

    def all(self) -> set[bytes]:
        """All of them."""
        return {one for pack in self._packs.values() for one in unpacked(pack)}
