"""The bytes of a blob on their way from an upstream into a session: resumed where the upstream breaks off."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from registryd.cache.pause import Pause
from registryd.cache.source import Source
from registryd.errors import BlobUnknown, UpstreamUnavailable
from registryd.interfaces import IFetch, IViewConsumer, PeerGone
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.uploads import BlobWriter, tell_full

_log = Logger()

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before an upstream that broke off is asked again; once more after each of them without a byte between."""

MOST_LOST = 60.0
"""Seconds without a byte, in all answers and between them, after which a blob is given up; see ``PROGRESS``."""

LEAST = 1024
"""Bytes that end a time without a byte: what comes slower than that may as well not come."""

PROGRESS = 1 << 20
"""Bytes of one answer for which the time that was lost before is forgiven: fewer may come before each stall."""

MOST_FETCHES = 100
"""How often one blob is asked for at most, however many bytes each answer brings."""

LINGER = 0.01
"""Seconds for which what came may wait for more: to store something, and tell of it, costs as much as 100 KiB more."""

STOPPING = "the daemon is stopping"


class BegunAnewError(Exception):
    """What lay in the session cannot be gone on with, and is gone."""


class TooMuchError(Exception):
    """More came than the blob has."""


@attrs.frozen
class Fillable:
    """Where a blob comes from, and where to: its name in the tree, and the one that the upstream knows it by."""

    name: RepositoryName
    remote: RepositoryName
    digest: Digest


class Fetching:
    """Fetches what a session lacks of a blob, in as many answers of the upstream as it takes.

    ``told`` hears the blob's size, None where the upstream does not tell it, and how much is stored, when bytes come.
    ``senders`` are those who have sent what the session holds; None stands for who did before this.
    """

    def __init__(
        self,
        source: Source,
        blob: Fillable,
        writer: BlobWriter,
        size: int | None,
        told: Callable[[int | None, int], None],
    ) -> None:
        """``size``: that of the blob, where another process has told it."""
        self._source = source
        self._blob = blob
        self._writer = writer
        self._size = size
        self._told = told
        self._left_over = writer.size
        self.senders: set[int | None] = {None} if writer.size else set()
        self._stopping = False
        self._pause = Pause(source.clock)
        self._asked: Deferred[IFetch] | None = None
        self._fetch: IFetch | None = None
        self._lost = 0.0
        self._heard = source.clock.seconds()
        self._unheard = 0

    def stop(self) -> None:
        """Fetch no more; ``run`` then fails."""
        self._stopping = True
        if self._fetch is not None:
            self._fetch.abandon()
        if self._asked is not None:
            self._asked.cancel()
        self._pause.end()

    async def run(self) -> None:
        """Fetch what is missing of the blob.

        Errors:
            UpstreamUnavailable: the upstream broke off for good, or the fetch was stopped.
            BlobUnknown: the upstream does not hold it, or sends without end what it does not tell the size of.
            PeerGone: the writer takes no more.
            TooMuchError: what comes is not the blob.
            BegunAnewError: what lay in the session is not the blob's.
        """
        writer = self._writer
        if writer.holds(self._blob.digest):
            await self._source.in_thread(self._source.mirrored.mark, self._blob.name).addErrback(tell_full)
            return
        failures = 0
        for _ in range(MOST_FETCHES):
            begun = writer.size
            try:
                await self._fetch_rest()
                return
            except UpstreamUnavailable as error:
                failures = 0 if writer.size > begun else failures + 1
                self._lose(writer.size - begun)
                if self._fetch is None or self._stopping or failures >= len(DELAYS) or self._lost >= MOST_LOST:
                    raise
                _log.warn(
                    "{name}: {digest}: broken off after {size} bytes, asking again: {error}",
                    **attrs.asdict(self._blob, recurse=False),
                    size=writer.size,
                    error=error,
                )
            await self._pause.sleep(DELAYS[failures])
            if self._stopping:
                raise UpstreamUnavailable(STOPPING)
        raise UpstreamUnavailable("the upstream broke off too often")

    def _lose(self, came: int) -> None:
        """Take note of the time in which nothing came, at the end of an answer that brought so many bytes."""
        now = self._source.clock.seconds()
        # No answer counts for all of it: its wait can have been for the storage, or for its turn to ask.
        lost = min(now - self._heard, MOST_LOST / 2)
        self._lost = lost if came >= PROGRESS else self._lost + lost
        self._heard = now

    def _came(self, size: int) -> None:
        self._unheard += size
        if self._unheard >= LEAST:
            self._heard, self._unheard = self._source.clock.seconds(), 0

    async def _fetch_rest(self) -> None:
        writer, begun = self._writer, self._writer.size
        fetch = await self._ask(begun)
        try:
            self._check(fetch)
            self._fetch = fetch
            await self._source.in_thread(self._source.mirrored.mark, self._blob.name).addErrback(tell_full)
            size = self._source.size_of(self._blob.name, self._blob.digest, fetch.size)
            if self._size is None and size is not None:
                await self._source.in_thread(self._note_size, size)
                self._size = size
            self._told(self._size, writer.stored)
            if self._stopping:
                raise UpstreamUnavailable(STOPPING)
            limit = self._source.most_untold if self._size is None else self._size
            consumer = _From(writer, writer.size - fetch.start, limit, self._source.clock, self._came)
            try:
                await fetch.deliver_to(consumer)
            except PeerGone:
                if not consumer.is_exceeded:
                    raise
                # Where a manifest told the size, it is that which may be wrong: who asks next is not told by it.
                self._source.sizes.pop((self._blob.name, self._blob.digest), None)
                self._source.upstream.blob_was_wrong(self._blob.digest, {*self.senders, fetch.sender})
                if self._size is None:
                    raise self._too_large(limit) from None
                raise TooMuchError() from None
            if self._size is not None and writer.size != self._size:
                raise UpstreamUnavailable("the upstream's answer ended early")
        except UpstreamUnavailable:
            # One that brought something may go on with it: what several send may be parts of different blobs.
            if writer.size == begun and not self._stopping:
                self._source.upstream.blob_failed(self._blob.digest, fetch.sender)
            raise
        finally:
            if writer.size > begun:
                self.senders.add(fetch.sender)
            fetch.abandon()

    def _too_large(self, limit: int) -> BlobUnknown:
        _log.error(
            "{name}: {digest} is given up: {upstream} tells no size of it, and sent more than {limit} bytes",
            **attrs.asdict(self._blob, recurse=False),
            upstream=self._source.mirrored.upstream,
            limit=limit,
        )
        # Told as unknown, what came of it is removed, and nobody fetches as much of it again for a while.
        return BlobUnknown(f"the upstream does not tell the size of the blob, and sent more than {limit} bytes")

    async def _ask(self, start: int) -> IFetch:
        self._asked = self._source.upstream.fetch_blob(self._blob.remote, self._blob.digest, start)
        try:
            return await self._asked
        except CancelledError:
            raise UpstreamUnavailable(STOPPING) from None
        finally:
            self._asked = None

    def _check(self, fetch: IFetch) -> None:
        """Whether an answer can follow what is stored.

        Errors:
            UpstreamUnavailable: it cannot.
            BegunAnewError: as much as the whole was left over by another process, and it is not the blob.
        """
        stored = self._writer.size
        if fetch.start > stored or (self._size is not None and fetch.size not in (None, self._size)):
            raise UpstreamUnavailable("the upstream tells another size than before")
        if fetch.size is not None and (stored > fetch.size or 0 < stored == fetch.size == self._left_over):
            raise BegunAnewError()

    def _note_size(self, size: int) -> None:
        """Tell processes that follow; they wait for the whole where this fails."""
        try:
            id = layout.fill_id(self._blob.digest)
            noted = self._source.mirrored.tree.driver.writer(layout.upload_size(self._blob.name, id), True)
        except OSError:
            return
        try:
            noted.truncate(0)
            noted.write([b"%d" % size])
        except OSError:
            pass
        finally:
            noted.close()


@implementer(IViewConsumer)
class _From:
    """Passes on what comes after a number of bytes: those that were sent again by an upstream that does not resume.

    It stops its producer when more than ``limit`` bytes come, or the writer takes no more, since the storage failed
    while nobody was writing. ``came`` is told how many bytes come.
    """

    def __init__(
        self, writer: BlobWriter, skip: int, limit: int, clock: IReactorTime, came: Callable[[int], None]
    ) -> None:
        self._writer = writer
        self._skip = skip
        self._limit = limit
        self._clock = clock
        self._came = came
        self._producer: IPushProducer | None = None
        self._flushed = clock.seconds() - LINGER
        self._lingering: IDelayedCall | None = None
        self.is_exceeded = False

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = IPushProducer(producer)
        self._writer.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._producer = None
        self._writer.unregisterProducer()
        if self._lingering is not None:
            self._lingering.cancel()
            self._flush()

    def write(self, data: bytes | memoryview) -> None:
        self._came(len(data))
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if not data:
            return
        size = self._writer.size
        self.is_exceeded = size + len(data) > self._limit
        if not self.is_exceeded:
            self._writer.write(data)
            if self._lingering is None:
                self._linger()
        if self._writer.size == size and self._producer is not None:
            self._producer.stopProducing()

    def _linger(self) -> None:
        left = LINGER - (self._clock.seconds() - self._flushed)
        if left > 0:
            # No longer than that even where the clock was set back.
            self._lingering = self._clock.callLater(min(left, LINGER), self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        self._lingering = None
        self._flushed = self._clock.seconds()
        self._writer.flush()
