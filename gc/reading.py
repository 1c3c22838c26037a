"""Reading a stored blob to the end: whether its bytes are those that its digest names, at a pace, and seldom cached."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import closing

import attrs

from registryd.reference import Digest, new_hash
from registryd.storage.interfaces import IContentReader, IStorageDriver
from registryd_gc.digests import data_path, digest

UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO})
"""The errors of a disk or file system that has lost what it should hold; any other is no fault of the content."""

_CHUNK = 1024 * 1024
_SLOWEST_CHUNK = 4096


@attrs.define
class Pace:
    """Lets no more than ``rate`` bytes a second through, on average; None: as many as come."""

    rate: int | None = None
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _due: float = attrs.field(default=0.0, init=False)

    @property
    def chunk(self) -> int:
        """How much to read at once, in bytes: a quarter of a second's, so that a slow pace is an even one."""
        return _CHUNK if self.rate is None else max(_SLOWEST_CHUNK, min(_CHUNK, self.rate // 4))

    def passed(self, size: int) -> None:
        """Wait until so many bytes more may have been read."""
        if self.rate is None:
            return
        now = self.now()
        # What was not read in time is not made up for by a burst.
        self._due = max(self._due, now) + size / self.rate
        self.sleep(self._due - now)


@attrs.frozen
class Reading:
    """Reads blobs of a storage; ``stepped`` is told how many bytes were read, as they are."""

    driver: IStorageDriver
    pace: Pace = attrs.field(factory=Pace)
    stepped: Callable[[int], None] = lambda size: None

    def wrong(self, blob: bytes) -> str | None:
        """What is wrong with a blob; None where nothing is.

        Errors:
            FileNotFoundError: there is no such blob, or no more.
            OSError: it cannot be read; one of UNREADABLE where that is damage.
        """
        named = digest(blob)
        with closing(self.driver.reader(data_path(blob))) as content:
            if not named.may_be_of(content.size):
                return "no bytes"
            found = self._digest(content, named.algorithm)
            return None if found == named else f"{content.size} bytes, whose digest is {found}"

    def _digest(self, content: IContentReader, algorithm: str) -> Digest:
        hash, start, descriptor = new_hash(algorithm), 0, content.fileno()
        while start < content.size:
            chunk = content.read(start, start + self.pace.chunk)
            if not chunk:
                break
            hash.update(chunk)
            if descriptor is not None:
                _forget(descriptor, start, len(chunk))
            start += len(chunk)
            self.stepped(len(chunk))
            self.pace.passed(len(chunk))
        return Digest(algorithm, hash.hexdigest())


def _forget(descriptor: int, start: int, size: int) -> None:
    """Leave the memory that the system keeps files in to what clients read."""
    try:
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass  # Advice that a file system does not take.
