"""Blobs that are read while they come."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.cache.fills import Fill
from registryd.cache.mirrored import hash_of
from registryd.cache.passing import PassingReader
from registryd.cache.source import Source
from registryd.delivery import Delivery
from registryd.errors import StorageFull, UpstreamUnavailable
from registryd.interfaces import IBlobReader, IFileConsumer, IFileDelivery, IGrowingFile
from registryd.model import Descriptor
from registryd.reference import Hash
from registryd.storage.interfaces import IContentReader

_T = TypeVar("_T")

_LOST = "what came of a blob was lost while it was delivered"


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
        self._claims = fill.claims
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
        except (OSError, UpstreamUnavailable):
            return False

    def reach(self, position: int) -> Deferred[tuple[int, int]]:
        """See IGrowingFile."""
        if self._closed or self._is_lost():
            return fail(UpstreamUnavailable(_LOST))
        if position >= self._fill.available:
            return self._fill.grown(position).addCallback(lambda _: self.reach(position))
        return maybeDeferred(self._reached, position).addErrback(self._without_content, lambda: self.reach(position))

    def _reached(self, position: int) -> tuple[int, int]:
        content = self._readable(position + 1)
        if content.size <= position:
            raise UpstreamUnavailable(_LOST)
        descriptor = content.fileno()
        assert descriptor is not None
        # The last byte is reached by itself, so that nobody gets it before it was looked at what it is the end of.
        with_last = self._fill.is_verified or position + 1 == self.descriptor.size
        return descriptor, min(content.size, self._fill.available, self.descriptor.size - (not with_last))

    def _is_lost(self) -> bool:
        """Whether what comes is not what this reader's client was told of, or has got a part of."""
        begun_anew = self._content is not None and self._beginnings != self._fill.beginnings
        return begun_anew or self._fill.size != self.descriptor.size

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError("a blob that is still coming is not at hand")

    def read_turn(self, start: int, stop: int) -> Deferred[bytes]:
        """The next bytes of a delivery: as many as have come, when any have."""
        if self._closed:
            return succeed(b"")
        if self._is_lost():
            return fail(UpstreamUnavailable(_LOST))
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
        self._passing.close()
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
        # Where another process fetched, it may have refused what was read so far, all of it, and fetched the blob once
        # more: that is looked at before the last byte, and when the fetch goes on here. What was fetched here to its
        # end is not opened again: it may have no name any more, since it was evicted.
        last = stop >= self.descriptor.size and not self._fill.is_verified
        looked_at = self._claims == self._fill.claims and not last
        if self._content is not None and self._content.size < stop and looked_at:
            self._content.refresh()
        if self._content is None or self._content.size < stop or not looked_at:
            self._reopen()
        assert self._content is not None
        return self._content

    def _reopen(self) -> None:
        """Open what stands at the content's place.

        Errors:
            UpstreamUnavailable: it is not the content that was read so far. Of two that differ nobody must get a part
                each.
        """
        # First, since the fill may go on while this thread opens the content.
        beginnings, claims = self._fill.beginnings, self._fill.claims
        # Of what was read and verified here another fill may have put another copy there.
        verified = self._fill.is_verified and self._claims == claims
        content, former = self._fill.reader(), self._content
        if former is not None and not verified and not _is_same(former, content):
            content.close()
            raise UpstreamUnavailable("what came of a blob was replaced while it was delivered")
        self._content, self._beginnings, self._claims = content, beginnings, claims
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
        # From the file that was read, which may have no name more.
        self._in_use = True
        return self._source.in_thread(hash_of, self._content, self.descriptor.digest, size).addBoth(self._used)


def _is_same(content: IContentReader, other: IContentReader) -> bool:
    """Whether two readers read the same file; of what lies in no local file, only this process can tell."""
    one, another = content.fileno(), other.fileno()
    return one is None or another is None or os.path.samestat(os.fstat(one), os.fstat(another))
