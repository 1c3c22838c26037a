"""Blobs that are read while they come, or that only pass through where they cannot be stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.cache.fetching import Fillable
from registryd.cache.fills import Fill
from registryd.cache.source import Source
from registryd.delivery import Delivery
from registryd.errors import StorageFull, UpstreamUnavailable
from registryd.interfaces import (
    IBlobReader,
    IContentReader,
    IFetch,
    IFileConsumer,
    IFileDelivery,
    IGrowingFile,
    IUpstream,
    IViewConsumer,
    PeerGone,
)
from registryd.model import Descriptor
from registryd.reference import Digest, Hash, new_hash

_log = Logger()
_T = TypeVar("_T")

_READ = 1024 * 1024


@implementer(IBlobReader, IGrowingFile)
class GrowingReader:
    """A blob on its way: each reader has its own pace, and waits for what has not come yet.

    Where the storage has no room for the rest, that passes through from the upstream.
    """

    at_hand = False

    def __init__(self, descriptor: Descriptor, fill: Fill, passing: PassingReader, source: Source) -> None:
        self.descriptor = descriptor
        self._fill = fill
        self._beginnings = fill.beginnings
        self._passing = passing
        self._source = source
        self._content: IContentReader | None = None
        self._in_use = False
        self._closed = False

    def deliver_to(self, consumer: IConsumer, start: int, stop: int) -> Deferred[None]:
        delivery = self._delivery(consumer, start, stop)
        return delivery.begin().addErrback(self._pass_through, delivery, consumer, start, stop)

    def _delivery(self, consumer: IConsumer, start: int, stop: int) -> Delivery | IFileDelivery:
        if IFileConsumer.providedBy(consumer) and self._has_file():
            return consumer.file_delivery(self, start, stop) or Delivery(self, consumer, start, stop)
        return Delivery(self, consumer, start, stop)

    def _has_file(self) -> bool:
        if not self._source.mirrored.tree.driver.immediate:
            return False
        try:
            return self._readable(0).fileno() is not None
        except OSError:
            return False

    def reach(self, position: int) -> Deferred[tuple[int, int]]:
        """See IGrowingFile."""
        if self._closed or (self._content is not None and self._beginnings != self._fill.beginnings):
            return fail(OSError("what came of a blob was lost while it was delivered"))
        if position >= self._fill.available:
            return self._fill.grown(position).addCallback(lambda _: self.reach(position))
        return maybeDeferred(self._reached, position).addErrback(self._without_content, lambda: self.reach(position))

    def _reached(self, position: int) -> tuple[int, int]:
        content = self._readable(position + 1)
        descriptor = content.fileno()
        assert descriptor is not None
        return descriptor, min(content.size, self._fill.available)

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError("a blob that is still coming is not at hand")

    def read_turn(self, start: int, stop: int) -> Deferred[bytes]:
        """The next bytes of a delivery: as many as have come, when any have."""
        if self._closed:
            return succeed(b"")
        if self._content is not None and self._beginnings != self._fill.beginnings:
            return fail(OSError("what came of a blob was lost while it was delivered"))
        if start >= self._fill.available:
            return self._fill.grown(start).addCallback(lambda _: self.read_turn(start, stop))
        if self._source.mirrored.tree.driver.immediate:
            turn: Deferred[bytes] = maybeDeferred(self._read, start, min(stop, self._fill.available))
        else:
            self._in_use = True
            turn = self._source.in_thread(self._read, start, min(stop, self._fill.available)).addBoth(self._used)
        return turn.addErrback(self._without_content, lambda: self.read_turn(start, stop))

    def close(self) -> None:
        self._closed = True
        if self._content is not None and not self._in_use:
            self._content.close()

    def _used(self, result: _T) -> _T:
        self._in_use = False
        if self._closed:
            self.close()
        return result

    def _read(self, start: int, stop: int) -> bytes:
        return self._readable(stop).read(start, stop)

    def _readable(self, stop: int) -> IContentReader:
        """The content, open for reading up to an offset."""
        if self._content is not None and self._content.size < stop and self._fill.is_verified:
            # Its name can be gone by now, as that of what was evicted.
            self._content.refresh()
        if self._content is None or self._content.size < stop:
            self._reopen()
        assert self._content is not None
        return self._content

    def _reopen(self) -> None:
        """Open the content anew, since a reader does not see what is appended later.

        Errors:
            OSError: it is not the content that was read so far. Of two that differ nobody must get a part each.
        """
        content, former = self._fill.reader(), self._content
        # Of what is verified another fill may have put another copy there.
        if former is not None and not self._fill.is_verified and not _is_same(former, content):
            content.close()
            raise OSError("what came of a blob was replaced while it was delivered")
        self._content, self._beginnings = content, self._fill.beginnings
        if former is not None:
            former.close()

    def _without_content(self, failure: Failure, again: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """Wait for what the fill comes to, where that has given up what it stored."""
        failure.trap(FileNotFoundError)
        if self._fill.is_complete:
            return fail(failure)
        return self._fill.done().addCallback(lambda _: again())

    def _pass_through(
        self, failure: Failure, delivery: Delivery | IFileDelivery, consumer: IConsumer, start: int, stop: int
    ) -> Deferred[None]:
        failure.trap(StorageFull)
        if start > 0:
            return self._passing.deliver_to(consumer, delivery.position, stop)
        return self._passing.deliver_rest(consumer, delivery.position, stop, lambda: self._hash(delivery.position))

    def _hash(self, size: int) -> Deferred[Hash]:
        self._in_use = True
        return self._source.in_thread(_hash_of, self._content, self.descriptor.digest, size).addBoth(self._used)


def _is_same(content: IContentReader, other: IContentReader) -> bool:
    """Whether two readers read the same file; of what lies in no local file, only this process can tell."""
    one, another = content.fileno(), other.fileno()
    return one is None or another is None or os.path.samestat(os.fstat(one), os.fstat(another))


def _hash_of(content: IContentReader | None, digest: Digest, size: int) -> Hash:
    """The hash of what a client has got of a blob, from the file that it was read from, which may have no name more."""
    seen = new_hash(digest.algorithm)
    for start in range(0, size if content is not None else 0, _READ):
        assert content is not None
        seen.update(content.read(start, min(size, start + _READ)))
    return seen


@implementer(IBlobReader)
class PassingReader:
    """A blob that is not stored: every delivery is a fetch of its own, verified where it is the whole blob."""

    at_hand = False

    def __init__(self, descriptor: Descriptor, blob: Fillable, upstream: IUpstream) -> None:
        self.descriptor = descriptor
        self._blob = blob
        self._upstream = upstream

    def deliver_to(self, consumer: IConsumer, start: int, stop: int) -> Deferred[None]:
        empty = new_hash(self._blob.digest.algorithm)
        return self.deliver_rest(consumer, start, stop, (lambda: succeed(empty)) if start == 0 else None)

    def deliver_rest(
        self, consumer: IConsumer, start: int, stop: int, hashed: Callable[[], Deferred[Hash]] | None
    ) -> Deferred[None]:
        """Deliver as ``deliver_to``, after bytes that somebody else delivered; ``hashed`` tells their hash."""
        verified = hashed if stop == self.descriptor.size else None
        return Deferred.fromCoroutine(self._deliver(_Passing(consumer, stop - start), start, verified))

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError("a blob that passes through is not at hand")

    def close(self) -> None:
        pass

    async def _deliver(self, passing: _Passing, start: int, hashed: Callable[[], Deferred[Hash]] | None) -> None:
        passing.begin()
        try:
            if hashed is not None:
                passing.verify(await hashed())
            fetch = await passing.awaited(self._upstream.fetch_blob(self._blob.remote, self._blob.digest, start))
            try:
                if fetch.start > start:
                    raise UpstreamUnavailable("the upstream resumes at another byte than it was asked for")
                await passing.take(fetch, start - fetch.start)
            finally:
                fetch.abandon()
        finally:
            passing.end()
        passing.give_last(self._blob.digest)


@implementer(IViewConsumer, IPushProducer)
class _Passing:
    """Passes on a part of what comes; the last byte of a blob that is verified only when all are.

    It is its consumer's producer from the beginning, so that one that leaves is heard while the upstream is asked.
    """

    def __init__(self, consumer: IConsumer, length: int) -> None:
        self._consumer = consumer
        self._left = length
        self._skip = 0
        self._seen: Hash | None = None
        self._withheld = b""
        self._producer: IPushProducer | None = None
        self._asked: Deferred[IFetch] | None = None
        self._paused = False
        self._gone = False

    def begin(self) -> None:
        self._consumer.registerProducer(self, True)

    def verify(self, seen: Hash) -> None:
        """Withhold the last byte until all are what they should be; ``seen`` has the hash of those before."""
        self._seen = seen

    async def awaited(self, asked: Deferred[IFetch]) -> IFetch:
        """An upstream's answer, if the consumer waits for it.

        Errors:
            PeerGone: it does not.
        """
        self._asked = asked
        if self._gone:
            asked.cancel()
        try:
            return await asked
        except CancelledError:
            raise PeerGone() from None
        finally:
            self._asked = None

    async def take(self, fetch: IFetch, skip: int) -> None:
        """Pass on what a fetch brings, but for the first bytes of it."""
        self._skip = skip
        try:
            await fetch.deliver_to(self)
        except PeerGone:
            if self._gone or self._left:
                raise

    def end(self) -> None:
        self._consumer.unregisterProducer()

    def give_last(self, digest: Digest) -> None:
        """Give out what was withheld.

        Errors:
            UpstreamUnavailable: too little came, or something else.
        """
        if self._left:
            raise UpstreamUnavailable("the upstream's answer ended early")
        if self._seen is not None:
            if self._seen.hexdigest() != digest.hex:
                _log.error("the upstream sent other content for {digest}", digest=digest)
                raise UpstreamUnavailable("the upstream sent content with another digest")
            self._consumer.write(self._withheld)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = IPushProducer(producer)
        if self._gone:
            self._producer.stopProducing()
        elif self._paused:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self._paused = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._gone = True
        if self._producer is not None:
            self._producer.stopProducing()
        elif self._asked is not None:
            self._asked.cancel()

    def write(self, data: bytes | memoryview) -> None:
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        wanted = bytes(data[skipped : skipped + self._left])
        self._left -= len(wanted)
        if wanted:
            self._pass_on(wanted)
        # The end of a blob comes by itself, and its connection can be used again.
        if not self._left and self._producer is not None and (self._seen is None or len(data) > skipped + len(wanted)):
            self._producer.stopProducing()

    def _pass_on(self, data: bytes) -> None:
        if self._seen is not None:
            self._seen.update(data)
            if not self._left:
                data, self._withheld = data[:-1], data[-1:]
        self._consumer.write(data)
