"""Digests as the bytes that they are: a store has a million, and an object with two texts is ten times as large.

A digest of 32 bytes is SHA-256's, one of 64 SHA-512's: the only algorithms that content is stored under.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from typing import Final

import attrs

from registryd.errors import DigestInvalid
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


def named_by(content: bytes) -> bytes | None:
    """The digest that a link with some content names; None where that is none."""
    try:
        return raw(Digest.parse(content.decode("ascii").strip()))
    except (DigestInvalid, UnicodeDecodeError):
        return None


def data_path(raw: bytes) -> str:
    """Where the content of a digest lies."""
    return layout.blob_data(digest(raw))


_HEADS: Final = {length: bytes([length]) for length in _ALGORITHMS}


def packed(digests: Iterable[bytes]) -> bytes:
    """Digests in one piece, which takes a third of the memory."""
    # Written, not joined: that would hold each of them once more.
    pack = BytesIO()
    for one in digests:
        pack.write(_HEADS[len(one)])
        pack.write(one)
    return pack.getvalue()


def unpacked(pack: bytes | bytearray) -> Iterator[bytes]:
    """The digests in such a piece."""
    start = 0
    while start < len(pack):
        stop = start + 1 + pack[start]
        yield bytes(pack[start + 1 : stop])
        start = stop


_FEW: Final = 1 << 12
"""How many digests are held as objects, which take three times as much, but are found without a search."""

_SPARSE: Final = 4096
"""Bytes of a pack from which on it is looked through for what it holds twice."""


@attrs.define
class Digests:
    """A set of digests. Of many, most take 33 or 65 bytes, and as many to spare: packed, by their blobs' folders.

    What is packed a process that is forked does not copy by using it: objects are written to when they are looked at.
    """

    _few: set[bytes] = attrs.field(factory=set, init=False)
    _packs: dict[tuple[int, int], bytearray] = attrs.field(factory=dict, init=False)
    _most: dict[tuple[int, int], int] = attrs.field(factory=dict, init=False)
    _sorted: set[tuple[int, int]] = attrs.field(factory=set, init=False)

    def update(self, digests: Iterable[bytes]) -> None:
        """Add digests."""
        coming = iter(digests)
        while some := tuple(islice(coming, _FEW)):
            self._few.update(some)
            if len(self._few) > _FEW:
                self._pack()

    def add(self, digest: bytes) -> None:
        """Add a digest."""
        self.update((digest,))

    def __contains__(self, one: object) -> bool:
        """Whether a digest was added; the first time after many were, its folder is sorted."""
        return one in self._few or (bool(self._packs) and isinstance(one, bytes) and self._is_packed(one))

    def __len__(self) -> int:
        if not self._packs:
            return len(self._few)
        self._settle()
        return sum(len(pack) // (length + 1) for (length, _), pack in self._packs.items())

    def __iter__(self) -> Iterator[bytes]:
        if self._packs:
            self._settle()
        yield from self._few
        for pack in self._packs.values():
            yield from unpacked(pack)

    def drained(self) -> Iterator[bytes]:
        """The digests, which are given up on the way."""
        if self._packs:
            self._settle()
        while self._few:
            yield self._few.pop()
        while self._packs:
            yield from unpacked(self._packs.popitem()[1])

    def take(self, length: int, first: int) -> bytes:
        """Remove the digests of a length and with a first byte; what they are, packed, and some more than once."""
        self._pack()
        return bytes(self._packs.pop((length, first), b""))

    def _pack(self) -> None:
        for one in self._few:
            folder = len(one), one[0]
            pack = self._packs.setdefault(folder, bytearray())
            pack += _HEADS[folder[0]]
            pack += one
            self._sorted.discard(folder)
            if len(pack) > self._most.get(folder, _SPARSE):
                self._sort(folder)
        self._few = set()

    def _settle(self) -> None:
        """Have everything packed, and but once."""
        self._pack()
        for folder in self._packs.keys() - self._sorted:
            self._sort(folder)

    def _sort(self, folder: tuple[int, int]) -> None:
        # What is there twice takes no more than what is there once, and looking for it no more time than adding it.
        pack = self._packs[folder] = bytearray(packed(sorted(set(unpacked(self._packs[folder])))))
        self._most[folder] = max(_SPARSE, 2 * len(pack))
        self._sorted.add(folder)

    def _is_packed(self, one: bytes) -> bool:
        folder = len(one), one[0]
        if folder not in self._packs:
            return False
        if folder not in self._sorted:
            self._sort(folder)
        pack, width = self._packs[folder], len(one) + 1

        def at(place: int) -> bytes:
            return bytes(pack[place * width + 1 : (place + 1) * width])

        return at(bisect_left(range(len(pack) // width), one, key=at)) == one
