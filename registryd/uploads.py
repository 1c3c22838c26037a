"""Upload sessions: bytes go to the session's content and its digest as they come, and become a blob at the end.

A session is its folder in the tree. The state of its hash is kept in memory between requests, and used again only when
the content has the size that it had then; where there is none, after a restart or in another process, the content is
hashed again.
"""

from __future__ import annotations

import errno
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TypeVar
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProducer, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.errors import DigestInvalid, RangeInvalid, StorageFull, UploadUnknown
from registryd.interfaces import IBlobWriter, InThread, UploadStatus
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import ALGORITHMS, Digest, Hash, RepositoryName, new_hash
from registryd.storage import layout
from registryd.storage.interfaces import IContentWriter
from registryd.storage.tree import Tree

_log = Logger()
_T = TypeVar("_T")

BATCH = 512 * 1024
"""Bytes that are handed to a thread at once. A session holds at most twice as many, and what two reads bring."""

SMALL_PIECE = 4096
"""Bytes below which pieces are gathered in one before they are stored."""

_HASHED_SESSIONS = 4096
_READ = 1024 * 1024
_ID = re.compile(r"[a-zA-Z0-9_.=-]{1,128}", re.ASCII)
_FILL_ID = re.compile(rf"(?:{'|'.join(ALGORITHMS)})-[a-f0-9]+", re.ASCII)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def tell_full(failure: Failure) -> Failure:
    """An errback that turns the storage's lack of room into what clients are told."""
    error = failure.value
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return Failure(StorageFull())
    return failure


@attrs.define
class _Hashed:
    """A hash, its algorithm, and how many bytes it has seen."""

    algorithm: str
    state: Hash
    size: int = 0

    def update(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        for buffer in buffers:
            self.state.update(buffer)
            self.size += len(buffer)

    @classmethod
    def of(cls, content: IContentWriter, algorithm: str) -> _Hashed:
        """The hash of content that is stored already."""
        hashed = cls(algorithm, new_hash(algorithm))
        while hashed.size < content.size:
            data = content.read(hashed.size, min(content.size, hashed.size + _READ))
            if not data:
                raise OSError("an upload's content ended before its size")
            hashed.update([data])
        return hashed


class Uploads:
    """The upload sessions of a tree."""

    def __init__(self, tree: Tree, in_thread: InThread, now: Callable[[], float]) -> None:
        self._tree = tree
        self._in_thread = in_thread
        self._now = now
        self._hashed: OrderedDict[str, _Hashed] = OrderedDict()

    def start(self, name: RepositoryName, algorithm: str) -> Deferred[IBlobWriter]:
        """A new session; see IWriter.start_upload."""
        return self._in_thread(self._start, name, algorithm).addErrback(tell_full)

    def resume(self, name: RepositoryName, id: str) -> Deferred[IBlobWriter]:
        """A session to go on with; see IWriter.resume_upload."""
        return self._in_thread(self._resume, name, id)

    def status(self, name: RepositoryName, id: str) -> UploadStatus:
        """How far a session is; see IWriter.upload_status."""
        self._check(name, id)
        return UploadStatus(id, self._tree.driver.stat(layout.upload_data(name, id)).size)

    def claim(self, name: RepositoryName, digest: Digest) -> BlobWriter:
        """The session of a blob on its way from an upstream, with all that came before; blocks while that is hashed.

        Nobody else, in any process, holds it meanwhile.

        Errors:
            BlockingIOError: somebody else holds it.
        """
        id = layout.fill_id(digest)
        content = self._tree.driver.writer(layout.upload_data(name, id), True)
        try:
            return BlobWriter(self, name, id, content, _Hashed.of(content, digest.algorithm))
        except BaseException:
            content.close()
            raise

    def purge(self, age: float, dry_run: bool) -> int:
        """End the sessions that were started longer than ``age`` seconds ago; the number of them."""
        purged = 0
        for name in self._tree.repositories(holding="_uploads"):
            for id in self._tree.names(layout.uploads(name)):
                try:
                    purged += self._purge(name, id, age, dry_run)
                except OSError as error:
                    _log.warn("{name}: upload session {id} was not purged: {error}", name=name, id=id, error=error)
        return purged

    def _purge(self, name: RepositoryName, id: str, age: float, dry_run: bool) -> bool:
        """End a session if it is old and nobody is writing to it; whether it is."""
        if self._now() - self._last_used(name, id) <= age:
            return False
        content = None
        try:
            content = self._tree.driver.writer(layout.upload_data(name, id), False)
        except FileNotFoundError:
            pass  # What has no content is not being written.
        except BlockingIOError:
            return False
        try:
            # Somebody may have written to it, and left again, before it was locked.
            if self._now() - self._last_used(name, id) <= age:
                return False
            if not dry_run:
                self.forget(name, id)
        finally:
            if content is not None:
                content.close()
        return True

    def _check(self, name: RepositoryName, id: str) -> None:
        # What is on its way from an upstream is no client's session, whoever may push to the repository by now.
        known = _ID.fullmatch(id) is not None and id.strip(".") and _FILL_ID.fullmatch(id) is None
        if not known or not self._tree.exists(layout.upload_data(name, id)):
            raise UploadUnknown()

    def _start(self, name: RepositoryName, algorithm: str) -> IBlobWriter:
        self._tree.refuse_mirrored(name)
        hashed = _Hashed(algorithm, new_hash(algorithm))
        id = str(uuid4())
        try:
            self._write_started(name, id)
            content = self._tree.driver.writer(layout.upload_data(name, id), True)
        except OSError:
            self.forget(name, id)
            raise
        return BlobWriter(self, name, id, content, hashed)

    def _write_started(self, name: RepositoryName, id: str) -> None:
        started = self._tree.driver.writer(layout.upload_started(name, id), True)
        try:
            started.write([datetime.fromtimestamp(self._now(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ").encode()])
        finally:
            started.close()

    def _resume(self, name: RepositoryName, id: str) -> IBlobWriter:
        self._check(name, id)
        try:
            content = self._tree.driver.writer(layout.upload_data(name, id), False)
        except FileNotFoundError:
            raise UploadUnknown() from None
        except BlockingIOError:
            raise RangeInvalid("another request is writing to this upload") from None
        hashed = self._hashed.pop(id, None)
        if hashed is not None and hashed.size != content.size:
            hashed = None
        return BlobWriter(self, name, id, content, hashed)

    def _remember(self, id: str, hashed: _Hashed | None) -> None:
        if hashed is None:
            return
        self._hashed[id] = hashed
        while len(self._hashed) > _HASHED_SESSIONS:
            self._hashed.popitem(last=False)

    def _last_used(self, name: RepositoryName, id: str) -> float:
        """When a session was started or last written to, in seconds since the epoch."""
        times = []
        try:
            times.append(self._tree.driver.stat(layout.upload(name, id)).modified)
            times.append(self._tree.driver.stat(layout.upload_data(name, id)).modified)
        except FileNotFoundError:
            pass
        try:
            started = self._tree.driver.get_content(layout.upload_started(name, id)).decode("ascii")
            times.append(datetime.fromisoformat(started.replace("Z", "+00:00")).timestamp())
        except (FileNotFoundError, ValueError):
            pass
        return max(times, default=self._now())

    def forget(self, name: RepositoryName, id: str) -> None:
        """End a session, whoever writes to it, and forget what has come; it may have ended."""
        try:
            self._tree.driver.delete(layout.upload(name, id))
        except FileNotFoundError:
            pass

    def _finish(self, writer: BlobWriter, digest: Digest) -> Descriptor:
        """Make a session's content a blob of its repository; the last step is one that needs no room."""
        content = writer.content
        hashed = writer.hashed
        if hashed is None or hashed.algorithm != digest.algorithm:
            hashed = _Hashed.of(content, digest.algorithm)
        if hashed.state.hexdigest() != digest.hex:
            self.forget(writer.name, writer.id)
            raise DigestInvalid(detail={"digest": str(digest)})
        try:
            content.sync()
        except OSError:
            # What is lost is told once: another sync would succeed, and the blob be gone after a power cut.
            self.forget(writer.name, writer.id)
            raise
        if not content.stands():
            # Its folder was removed; what another may have begun there since is not what was hashed here.
            raise UploadUnknown()
        self._tree.write_link(layout.layer_link(writer.name, digest), digest)
        try:
            # It is promised from now on, however long ago the last of it came.
            self._tree.driver.touch(layout.upload_data(writer.name, writer.id))
            self._tree.driver.move(layout.upload_data(writer.name, writer.id), layout.blob_data(digest))
        except FileNotFoundError:
            raise UploadUnknown() from None
        self.forget(writer.name, writer.id)
        return Descriptor(OCTET_STREAM, digest, content.size)


@implementer(IBlobWriter)
class BlobWriter:
    """One session while a request writes to it; a thread stores and hashes what comes, in batches.

    Nothing is handed to the thread before a batch has come, or ``flush`` is called. ``on_stored`` is told the size of
    what is stored, on the reactor's thread, whenever that has grown; only what is left when a session ends is not told.
    """

    def __init__(
        self,
        uploads: Uploads,
        name: RepositoryName,
        id: str,
        content: IContentWriter,
        hashed: _Hashed | None,
    ) -> None:
        self._uploads = uploads
        self.on_stored: Callable[[int], None] = lambda size: None
        self.name = name
        self.id = id
        self.content = content
        self.hashed = hashed
        self.size = content.size
        self._producer: IPushProducer | None = None
        self._paused = False
        self._pending: list[bytes | bytearray | memoryview] = []
        self._pending_size = 0
        self._flushing = False
        self._storing: Deferred[None] | None = None
        self._idle: Deferred[None] | None = None
        self._failure: Failure | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes | memoryview) -> None:
        if self._failure is not None:
            return
        self._gather(data)
        self._pending_size += len(data)
        self.size += len(data)
        if self._storing is None:
            if self._pending_size >= BATCH:
                self._store_batch()
        elif self._pending_size >= BATCH and not self._paused and self._producer is not None:
            self._paused = True
            self._producer.pauseProducing()

    def flush(self) -> None:
        """Store what has come, though it is less than a batch."""
        self._flushing = bool(self._pending)
        if self._flushing and self._storing is None:
            self._store_batch()

    def _gather(self, data: bytes | memoryview) -> None:
        # Small pieces become one: a view costs more than the few bytes that it shows, and so does each write and hash.
        if len(data) >= SMALL_PIECE:
            self._pending.append(data)
            return
        last = self._pending[-1] if self._pending else None
        if isinstance(last, bytearray):
            last += data
        else:
            self._pending.append(bytearray(data))

    @property
    def stored(self) -> int:
        """How many bytes can be read from the session's content."""
        return self.content.size

    def holds(self, digest: Digest) -> bool:
        """Whether the session holds the whole of a blob; while nothing that was written waits to be stored."""
        return self.hashed is not None and self.hashed.state.hexdigest() == digest.hex

    def suspend(self) -> Deferred[int]:
        return self._end(self._suspend)

    def commit(self, digest: Digest) -> Deferred[Descriptor]:
        return self._end(partial(self._uploads._finish, self, digest))

    def revert(self, size: int) -> Deferred[None]:
        return self._end(partial(self.content.truncate, size))

    def cancel(self) -> Deferred[None]:
        return self._end(self._forget, despite_failure=True)

    def _forget(self) -> None:
        self._uploads.forget(self.name, self.id)

    def _suspend(self) -> int:
        self._uploads._remember(self.id, self.hashed)
        return self.content.size

    def _store_batch(self) -> None:
        batch, self._pending, self._pending_size, self._flushing = self._pending, [], 0, False
        self._storing = self._uploads._in_thread(self._append, batch)
        self._storing.addCallbacks(self._stored, self._failed)

    def _append(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        if not buffers:
            return
        if self.hashed is None:
            self.hashed = _Hashed.of(self.content, ALGORITHMS[0])
        self.content.write(buffers)
        self.hashed.update(buffers)

    def _stored(self, _: None) -> None:
        self._storing = None
        self.on_stored(self.content.size)
        if self._idle is not None and not self._flushing:
            self._idle.callback(None)
            return
        if self._flushing or self._pending_size >= BATCH:
            self._store_batch()
        if self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    def _failed(self, failure: Failure) -> None:
        self._storing = None
        self._failure = failure
        self._pending = []
        if self._idle is not None:
            self._idle.callback(None)
        elif self._producer is not None:
            self._producer.stopProducing()

    def _end(self, last: Callable[[], _T], despite_failure: bool = False) -> Deferred[_T]:
        if self._storing is not None:
            self._idle = Deferred()
            return self._idle.addCallback(lambda _: self._end(last, despite_failure))
        if despite_failure:
            self._failure = None
            self._pending = []
        return self._uploads._in_thread(self._store_last, last).addErrback(tell_full)

    def _store_last(self, last: Callable[[], _T]) -> _T:
        try:
            if self._failure is not None:
                self._failure.raiseException()
            self._append(self._pending)
            return last()
        except OSError:
            self._uploads._remember(self.id, self.hashed)
            raise
        finally:
            self._pending = []
            self.content.close()
