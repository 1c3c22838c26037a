"""Files of a store that are open: for reading, or for appending by one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from typing import Final

import attrs
from zope.interface import implementer

from registryd.storage.allocation import give_back, lay_out
from registryd.storage.durable import ATTEMPTS, write_all
from registryd.storage.interfaces import IContentReader, IContentWriter

MOST_AHEAD: Final = 64 * 1024 * 1024
"""Bytes that are laid out at once; before that as many as were written."""

LEAST_AHEAD: Final = 8 * 1024 * 1024
"""Bytes that a writer writes before it lays out any: of less, too little would follow that needs them."""

# Source: stat(2), st_blocks.
_BLOCK: Final = 512
# Of what a file takes beyond its size, as much may be of the file system's own.
_ROUNDING: Final = 1024 * 1024
_APPEND: Final = os.O_RDWR | os.O_APPEND


@implementer(IContentReader)
@attrs.define(eq=False)
class FileReader:
    """Content in a file that is open; see IContentReader."""

    _descriptor: int
    size: int

    def read(self, start: int, stop: int) -> bytes:
        stop = min(stop, self.size)
        parts: list[bytes] = []
        while start < stop and (part := os.pread(self._descriptor, stop - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def refresh(self) -> None:
        self.size = os.fstat(self._descriptor).st_size

    def fileno(self) -> int | None:
        return self._descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@implementer(IContentWriter)
@attrs.define(eq=False)
class FileWriter(FileReader):
    """Content in a file that is open for appending.

    Its lock is on the open file: it ends with it, and keeps out other writers of this process too.
    """

    _place: str
    _begun: int = attrs.field(init=False)
    _laid_out: int = attrs.field(init=False, default=0)

    @_begun.default
    def _size_at_first(self) -> int:
        return self.size

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        written = self.size - self._begun
        if written >= LEAST_AHEAD and self.size >= self._laid_out:
            self._laid_out = self.size + min(written, MOST_AHEAD)
            lay_out(self._descriptor, self.size, self._laid_out)
        try:
            self.size += write_all(self._descriptor, buffers)
        except BaseException:
            try:
                os.ftruncate(self._descriptor, self.size)
            except OSError:
                # Nothing may follow a part of what failed. Who opens the content again sees its true size.
                self.close()
            raise

    def truncate(self, size: int) -> None:
        if size < self.size:
            os.ftruncate(self._descriptor, size)
            self.size = size

    def sync(self) -> None:
        # Also what a writer before this one had laid out when it was killed.
        taken = os.fstat(self._descriptor).st_blocks * _BLOCK
        self._laid_out = max(self._laid_out, taken - _ROUNDING)
        self._give_back()
        os.fsync(self._descriptor)

    def stands(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._place))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        self._give_back()
        super().close()

    def _give_back(self) -> None:
        """Free what was laid out for more than came."""
        if self._descriptor >= 0 and self.size < self._laid_out:
            give_back(self._descriptor, self.size)
            self._laid_out = 0


def open_reader(place: str) -> FileReader:
    """A file, open for reading.

    Errors:
        FileNotFoundError: there is none.
        IsADirectoryError: it is a folder.
    """
    descriptor = os.open(place, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return FileReader(descriptor, status.st_size)
    except BaseException:
        os.close(descriptor)
        raise


def open_writer(place: str, create: bool) -> FileWriter:
    """A file, open and locked: the one that still stands at its place once it is locked.

    Errors:
        FileNotFoundError: there is none, and ``create`` is false.
        BlockingIOError: another writer has it open.
    """
    flags = _APPEND | os.O_CREAT if create else _APPEND
    for _ in range(ATTEMPTS):
        descriptor = os.open(place, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if os.path.samestat(status, os.stat(place)):
                return FileWriter(descriptor, status.st_size, place)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, "replaced by others again and again", place)
