"""Blobs on their way from the storage to a consumer."""

from __future__ import annotations

from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.interfaces import IBlobReader, IFileBlobReader, InThread, PeerGone
from registryd.model import Descriptor
from registryd.readahead import read_ahead
from registryd.storage.interfaces import IContentReader

TURN = 256 * 1024
"""Bytes that are read and written at once: what TLS encrypts best, and a slow consumer's share of the memory."""

READ_AHEAD = 4 * TURN


class ReadsTurns(Protocol):
    """What a delivery reads from."""

    def read_turn(self, start: int, stop: int) -> Deferred[bytes]:
        """Some bytes from ``start`` on, at most up to ``stop``."""


def blob_reader(descriptor: Descriptor, content: IContentReader, in_thread: InThread) -> IBlobReader:
    """A blob over content of the storage, one with a file where the content has one."""
    if content.fileno() is None:
        return BlobReader(descriptor, content, in_thread)
    return FileBlobReader(descriptor, content, in_thread)


@implementer(IBlobReader)
@attrs.define
class BlobReader:
    """A blob in content that is not local: every read waits for another machine, so it runs in a thread."""

    at_hand = False
    descriptor: Descriptor
    _content: IContentReader
    _in_thread: InThread

    def deliver_to(self, consumer: IConsumer, start: int, stop: int) -> Deferred[None]:
        return Delivery(self, consumer, start, stop).begin()

    def read(self, start: int, stop: int) -> bytes:
        return self._content.read(start, stop)

    def read_turn(self, start: int, stop: int) -> Deferred[bytes]:
        """The next bytes of a delivery."""
        return self._in_thread(self._content.read, start, stop)

    def close(self) -> None:
        self._content.close()


@implementer(IFileBlobReader)
class FileBlobReader(BlobReader):
    """A blob in a local file: read at once, a turn at a time, while the system reads ahead."""

    at_hand = True

    def read_turn(self, start: int, stop: int) -> Deferred[bytes]:
        read_ahead(self.fileno(), stop, min(stop + READ_AHEAD, self.descriptor.size))
        return maybeDeferred(self._content.read, start, stop)

    def fileno(self) -> int:
        descriptor = self._content.fileno()
        assert descriptor is not None
        return descriptor


@implementer(IPushProducer)
class Delivery:
    """Reads a turn, writes it, and reads the next while the consumer does not ask to pause.

    ``position`` is the offset of the first byte that was not written.
    """

    def __init__(self, reader: ReadsTurns, consumer: IConsumer, start: int, stop: int) -> None:
        self._reader = reader
        self._consumer = consumer
        self.position = start
        self._stop = stop
        self._done: Deferred[None] | None = Deferred()
        self._paused = False
        self._reading = False

    def begin(self) -> Deferred[None]:
        done = self._done
        assert done is not None
        self._consumer.registerProducer(self, True)
        self._proceed()
        return done

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._proceed()

    def stopProducing(self) -> None:
        self._end(Failure(PeerGone()))

    def _proceed(self) -> None:
        if self._reading or self._done is None:
            return
        self._reading = True
        # A loop, not a recursion: a read of a local file has its result at once.
        while self._done is not None and not self._paused:
            if self.position >= self._stop:
                self._end(None)
                break
            turn = self._reader.read_turn(self.position, min(self._stop, self.position + TURN))
            # One that waits for another was called as well.
            if not turn.called or turn.paused:
                turn.addCallbacks(self._came, self._end)
                return
            turn.addCallbacks(self._write, self._end)
        self._reading = False

    def _came(self, data: bytes) -> None:
        self._reading = False
        self._write(data)
        self._proceed()

    def _write(self, data: bytes) -> None:
        if self._done is None:
            return
        if not data:
            self._end(Failure(OSError("content ended before its size")))
            return
        self.position += len(data)
        self._consumer.write(data)

    def _end(self, failure: Failure | None) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self._consumer.unregisterProducer()
        if failure is None:
            done.callback(None)
        else:
            done.errback(failure)
