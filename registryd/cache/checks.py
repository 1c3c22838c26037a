"""Whether blobs still have their own bytes: looked at behind the pulls, none of which waits for that."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import MutableMapping

from cachetools import TTLCache
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from registryd.cache.pause import Pause
from registryd.cache.source import REMEMBERED, Source
from registryd.reference import Digest, Hash, new_hash
from registryd.storage import layout
from registryd.storage.interfaces import IContentReader

_log = Logger()

INTERVAL = 3600.0
"""Seconds for which a blob that was right is not read again, as far as this process remembers."""

RATE = 50_000_000
"""Bytes that are read in a second, at most: a tenth of what a processor can hash."""

STEP = 4 * 1024 * 1024
"""Bytes that are read at once, in a thread that is then free for others."""

MOST_WAITING = 1024
"""Blobs that wait to be read; others are when they are served again."""

MOST_DAMAGED = 1024
"""Blobs that are remembered as damaged."""


class Checks:
    """Reads what is served from a local disk, one blob at a time. What it finds damaged is not to be served again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: MutableMapping[Digest, bool] = TTLCache(REMEMBERED, INTERVAL, source.clock.seconds)
        self._damaged: dict[Digest, object] = {}
        self._waiting: deque[Digest] = deque()
        self._reading: Digest | None = None
        self._pause = Pause(source.clock)
        self._stopped = False
        self._ended: Deferred[None] = succeed(None)

    def admits(self, digest: Digest) -> bool:
        """Whether a blob may be served, as far as is known; it is read in its turn, if that was not done lately."""
        if digest in self._damaged:
            return False
        if digest not in self._seen:
            self._enqueue(digest)
        return True

    def is_damaged(self, digest: Digest) -> bool:
        """Whether what is stored of a blob was found damaged. It blocks, and may be called in a thread."""
        version = self._damaged.get(digest)
        return version is not None and version == self._version(digest)

    async def confirms(self, digest: Digest) -> bool:
        """Whether a blob is damaged, or gone; who shares the store may have mended it since it was found so."""
        version = await self._source.in_thread(self._version, digest)
        if self._damaged.get(digest) == version:
            return True
        if await self._source.in_thread(self._source.mirrored.is_intact, digest):
            self.verified(digest)
            return False
        self._found(digest, version)
        return True

    def verified(self, digest: Digest) -> None:
        """Hear that a blob is stored whose bytes are right."""
        self._damaged.pop(digest, None)
        self._seen[digest] = True
        if digest == self._reading:
            self._reading = None

    def stop(self) -> Deferred[None]:
        """Read no more; fires when nothing is being read."""
        self._stopped = True
        self._pause.end()
        return self._ended

    def _enqueue(self, digest: Digest) -> None:
        local = self._source.mirrored.tree.driver.immediate
        if local and not self._stopped and len(self._waiting) < MOST_WAITING:
            self._seen[digest] = True
            self._waiting.append(digest)
            if self._ended.called:
                self._ended = Deferred.fromCoroutine(self._check_all())

    async def _check_all(self) -> None:
        while self._waiting and not self._stopped:
            await self._check(self._waiting.popleft())

    async def _check(self, digest: Digest) -> None:
        self._reading = digest
        await self._pause.sleep(STEP / RATE)
        version = await self._source.in_thread(self._version, digest)
        try:
            right = await self._is_right(digest)
        except OSError as error:
            # A sector that cannot be read is damage; what else fails, or that the blob is gone, says nothing of it.
            right = False if error.errno == errno.EIO else None
        if right is False and version != await self._source.in_thread(self._version, digest):
            right = None
        if self._reading is None:
            return
        if right is None:
            self._seen.pop(digest, None)
        elif not right:
            self._found(digest, version)
            _log.error("{digest} is damaged on the disk, and is fetched again when it is asked for", digest=digest)

    def _found(self, digest: Digest, version: object) -> None:
        while len(self._damaged) >= MOST_DAMAGED:
            del self._damaged[next(iter(self._damaged))]
        self._damaged[digest] = version

    def _version(self, digest: Digest) -> object:
        """What changes when a blob's file does, and when it is renewed; None where there is none."""
        try:
            return self._source.mirrored.tree.driver.stat(layout.blob_data(digest)).version
        except OSError:
            return None

    async def _is_right(self, digest: Digest) -> bool | None:
        """Whether a blob's bytes have its digest; None where nobody wants to know any more."""
        source = self._source
        content = await source.in_thread(source.mirrored.tree.driver.reader, layout.blob_data(digest))
        try:
            seen = new_hash(digest.algorithm)
            for start in range(0, content.size, STEP):
                if self._stopped:
                    return None
                await source.in_thread(_add, seen, content, start)
                await self._pause.sleep(STEP / RATE)
        finally:
            content.close()
        return seen.hexdigest() == digest.hex


def _add(seen: Hash, content: IContentReader, start: int) -> None:
    seen.update(content.read(start, min(start + STEP, content.size)))
