"""Blobs that only pass through from the upstream, since they cannot be stored: no faster than their clients read.

Each takes one of the upstream's requests until it ends, so that there are few, and who hardly reads is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.cache.fetching import Fillable
from registryd.errors import StorageFull, UpstreamUnavailable
from registryd.interfaces import IBlobReader, IFetch, IUpstream, IViewConsumer, PeerGone
from registryd.model import Descriptor
from registryd.reference import Digest, Hash, new_hash

_log = Logger()
_T = TypeVar("_T")

WAIT = 30.0
"""Seconds for which a client waits for others to end where as many pass through as may."""

PIECE = 1 << 20
PATIENCE = 60.0
"""Seconds in all for which a client may let the upstream wait, for each ``PIECE`` bytes that it takes."""


class Passages:
    """How many blobs pass through at once: at most ``most``, in the order in which they came.

    They are fewer than the requests that the upstream may be sent: what else it is asked does not wait for clients.
    """

    def __init__(self, most: int, clock: IReactorTime) -> None:
        self.clock = clock
        self._free = most
        self._waiting: deque[Deferred[Passage]] = deque()

    def enter(self) -> Deferred[Passage]:
        """Fires when one more may pass through.

        Errors:
            StorageFull: that takes too long.
        """
        waiter: Deferred[Passage] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        self._admit()
        return waiter.addTimeout(WAIT, self.clock, _crowded)

    def leave(self) -> None:
        """Called by a passage, once."""
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().callback(Passage(self))


def _crowded(_result: object, _seconds: float) -> Failure:
    _log.warn("as many blobs as may pass through uncached, and clients are refused: there is no room to store any")
    return Failure(StorageFull("no space left in the registry's storage, and too many blobs pass through uncached"))


class Passage:
    """The right of one blob to pass through, until it is released; releasing twice is allowed."""

    def __init__(self, passages: Passages) -> None:
        self._passages: Passages | None = passages

    def release(self) -> None:
        passages, self._passages = self._passages, None
        if passages is not None:
            passages.leave()


@implementer(IBlobReader)
class PassingReader:
    """A blob that is not stored: every delivery is a fetch of its own, verified where it is the whole blob.

    It takes a passage with the first delivery, unless it is opened with one, and keeps it until it is closed.
    """

    at_hand = False

    def __init__(self, descriptor: Descriptor, blob: Fillable, upstream: IUpstream, passages: Passages) -> None:
        self.descriptor = descriptor
        self._blob = blob
        self._upstream = upstream
        self._passages = passages
        self._passage: Passage | None = None

    async def enter(self) -> None:
        """Take a passage.

        Errors:
            StorageFull: too many blobs pass through.
        """
        self._passage = await self._passages.enter()

    def deliver_to(self, consumer: IConsumer, start: int, stop: int) -> Deferred[None]:
        empty = new_hash(self._blob.digest.algorithm)
        return self.deliver_rest(consumer, start, stop, (lambda: succeed(empty)) if start == 0 else None)

    def deliver_rest(
        self, consumer: IConsumer, start: int, stop: int, hashed: Callable[[], Deferred[Hash]] | None
    ) -> Deferred[None]:
        """Deliver as ``deliver_to``, after bytes that somebody else delivered; ``hashed`` tells their hash."""
        verified = hashed if stop == self.descriptor.size else None
        passing = _Passing(consumer, stop - start, self._passages.clock)
        return Deferred.fromCoroutine(self._deliver(passing, start, verified))

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError("a blob that passes through is not at hand")

    def close(self) -> None:
        if self._passage is not None:
            self._passage.release()

    async def _deliver(self, passing: _Passing, start: int, hashed: Callable[[], Deferred[Hash]] | None) -> None:
        passing.begin()
        try:
            if self._passage is None:
                self._passage = await passing.awaited(self._passages.enter())
            if hashed is not None:
                passing.verify(await hashed())
            fetch = await passing.awaited(self._upstream.fetch_blob(self._blob.remote, self._blob.digest, start))
            try:
                if fetch.start > start:
                    raise UpstreamUnavailable("the upstream resumes at another byte than it was asked for")
                if fetch.size not in (None, self.descriptor.size):
                    raise UpstreamUnavailable("the upstream tells another size than before")
                await passing.take(fetch, start - fetch.start)
            except UpstreamUnavailable:
                self._upstream.blob_failed(self._blob.digest, fetch.sender)
                raise
            finally:
                fetch.abandon()
        finally:
            passing.end()
        if not passing.give_last(self._blob.digest):
            _log.error("the upstream sent other content for {digest}", digest=self._blob.digest)
            self._upstream.blob_was_wrong(self._blob.digest, {fetch.sender, None} if start else {fetch.sender})
            raise UpstreamUnavailable("the upstream sent content with another digest")


@implementer(IViewConsumer, IPushProducer)
class _Passing:
    """Passes on a part of what comes; the last byte of a blob that is verified only when all are.

    It is its consumer's producer from the beginning, so that one that leaves is heard while the upstream is asked.
    One that hardly reads is treated like one that leaves.
    """

    def __init__(self, consumer: IConsumer, length: int, clock: IReactorTime) -> None:
        self._consumer = consumer
        self._left = length
        self._skip = 0
        self._seen: Hash | None = None
        self._withheld = b""
        self._producer: IPushProducer | None = None
        self._asked: Deferred[object] | None = None
        self._paused = False
        self._gone = False
        self._clock = clock
        self._taken = 0
        self._waited = 0.0
        self._patience: IDelayedCall | None = None

    def begin(self) -> None:
        self._consumer.registerProducer(self, True)

    def verify(self, seen: Hash) -> None:
        """Withhold the last byte until all are what they should be; ``seen`` has the hash of those before."""
        self._seen = seen

    async def awaited(self, asked: Deferred[_T]) -> _T:
        """What is asked for, if the consumer waits for it.

        Errors:
            PeerGone: it does not.
        """
        self._asked = cast("Deferred[object]", asked)
        if self._gone:
            asked.cancel()
        try:
            return await asked
        except CancelledError:
            raise PeerGone() from None
        finally:
            self._asked = None

    async def take(self, fetch: IFetch, skip: int) -> None:
        """Pass on what a fetch brings, but for the first bytes of it.

        Errors:
            UpstreamUnavailable: too little came.
        """
        self._skip = skip
        try:
            await fetch.deliver_to(self)
        except PeerGone:
            if self._gone or self._left:
                raise
        if self._left:
            raise UpstreamUnavailable("the upstream's answer ended early")

    def end(self) -> None:
        self._stop_waiting()
        self._consumer.unregisterProducer()

    def give_last(self, digest: Digest) -> bool:
        """Give out what was withheld, if all together is the blob; whether it is, or is not looked at."""
        if self._seen is not None:
            if self._seen.hexdigest() != digest.hex:
                return False
            self._consumer.write(self._withheld)
        return True

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
        if self._patience is None:
            self._patience = self._clock.callLater(PATIENCE - self._waited, self._give_up)
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        self._stop_waiting()
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

    def _stop_waiting(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None and patience.active():
            self._waited = PATIENCE - (patience.getTime() - self._clock.seconds())
            patience.cancel()

    def _give_up(self) -> None:
        _log.warn("a client that a blob passes through to takes less than 1 MiB a minute, and is broken off")
        self.stopProducing()

    def _pass_on(self, data: bytes) -> None:
        self._taken += len(data)
        if self._taken >= PIECE:
            self._taken, self._waited = 0, 0.0
        if self._seen is not None:
            self._seen.update(data)
            if not self._left:
                data, self._withheld = data[:-1], data[-1:]
        self._consumer.write(data)
