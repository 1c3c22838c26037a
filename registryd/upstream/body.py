"""The body of an answer: pushed to a consumer at the pace that it takes, watched, never quietly cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from registryd.errors import UpstreamUnavailable
from registryd.interfaces import IFetch, IViewConsumer, PeerGone
from registryd.upstream.flow import Course

_DISCARDED = 64 * 1024
"""Bytes of an unwanted body that are read to keep its connection."""

DISCARDING = 3.0
"""Seconds in all that an unwanted body may take for that: its connection is in nobody's slot any more."""


LEAST = 1024
"""Bytes of a body that count as a sign of life, unless they are its last: a line that is that slow is a dead one."""


class DawdledError(UpstreamUnavailable):
    """An answer was given up because it came too slowly: one more would take as long."""


@implementer(IFetch, IPushProducer)
class Fetch(Protocol):
    """An answer whose body waits; ``start`` and ``size`` are the fetch's, and ``ended`` is called once it is over.

    The body must bring what is missing of ``size``, or end as HTTP says where that is None. When next to nothing
    comes for ``timeout`` seconds, while the consumer does not pause it, it fails. ``course`` is told how it goes.
    """

    def __init__(
        self,
        response: IResponse,
        clock: IReactorTime,
        timeout: float,
        start: int = 0,
        size: int | None = None,
        ended: Callable[[], None] = lambda: None,
        course: Course | None = None,
    ) -> None:
        self.start = start
        self.size = size
        self.sender = 0
        self._response = response
        self._clock = clock
        self._timeout = timeout
        self._ended = ended
        self._course = course
        self._expected = body_length(response) if size is None else size - start
        self._received = 0
        self._consumer: IViewConsumer | None = None
        self._done: Deferred[None] | None = None
        self._paused = False
        self._over = False
        self._heard = 0.0
        self._heard_of = 0
        self._watch: IDelayedCall | None = None

    def deliver_to(self, consumer: IViewConsumer) -> Deferred[None]:
        assert self._done is None and not self._over, "a fetch is delivered once"
        self._consumer = consumer
        done = self._done = Deferred(lambda _: self._end(Failure(CancelledError())))
        consumer.registerProducer(self, True)
        if not self._over:
            self._listen()
        self._response.deliverBody(self)
        self._hold_back()
        return done

    def abandon(self) -> None:
        begun = self._done is not None
        if self._over:
            return
        self._end(Failure(PeerGone()))
        if not begun:
            self._response.deliverBody(self)  # Only who takes a body can break it off.

    def pauseProducing(self) -> None:
        self._paused = True
        self._hold_back()

    def resumeProducing(self) -> None:
        self._paused = False
        if not self._over:
            self._listen()
            if self.transport is not None:
                cast(IPushProducer, self.transport).resumeProducing()

    def stopProducing(self) -> None:
        self._end(Failure(PeerGone()))

    def connectionMade(self) -> None:
        if self._over:
            self._break_off()

    def dataReceived(self, data: bytes) -> None:
        if self._over or self._consumer is None:
            return
        self._received += len(data)
        if self._received - self._heard_of >= LEAST:
            self._heard, self._heard_of = self._clock.seconds(), self._received
        if self._expected is not None and self._received > self._expected:
            self._fail("sent more than it announced")
        else:
            if self._course is not None:
                self._course.came(self._received)
            self._consumer.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over:
            return
        ended = reason.check(ResponseDone) or (reason.check(PotentialDataLoss) and self._expected is None)
        if ended and self._expected in (None, self._received):
            self._end(None)
        else:
            self._fail("broke off")

    def _hold_back(self) -> None:
        # Taking a body lets it flow at its end, whatever the consumer asked for meanwhile.
        if self._paused and not self._over and self.transport is not None:
            cast(IPushProducer, self.transport).pauseProducing()

    def _listen(self) -> None:
        self._heard = self._clock.seconds()
        if self._watch is None:
            self._watch = self._clock.callLater(self._timeout, self._look)

    def _look(self) -> None:
        self._watch = None
        if self._paused:
            return
        silent = self._clock.seconds() - self._heard
        if silent >= self._timeout:
            if self._course is not None:
                self._course.stalled(self._received, self._timeout)
            self._fail(f"sent next to nothing for {self._timeout:g} s", DawdledError)
        else:
            self._watch = self._clock.callLater(self._timeout - silent, self._look)

    def _fail(self, how: str, kind: type[UpstreamUnavailable] = UpstreamUnavailable) -> None:
        of = "" if self._expected is None else f" of {self._expected}"
        self._end(Failure(kind(f"the upstream {how} after {self._received}{of} bytes")))

    def _end(self, failure: Failure | None) -> None:
        if self._over:
            return
        self._over = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if failure is not None:
            self._break_off()
        if self._course is not None:
            self._course.ended(self._received if failure is None else None)
        self._ended()
        done, consumer = self._done, self._consumer
        self._consumer = None
        if consumer is not None:
            consumer.unregisterProducer()
        if done is not None and not done.called:
            if failure is None:
                done.callback(None)
            else:
                done.errback(failure)

    def _break_off(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IViewConsumer)
class _Gathering:
    """Keeps what comes, up to a limit, or forgets it."""

    def __init__(self, limit: int, keep: bool = True) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self._limit = limit
        self._keep = keep
        self._producer: IPushProducer | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        if self.size > self._limit and self._producer is not None:
            self._producer.stopProducing()
        elif self._keep:
            self.pieces.append(bytes(data))


async def read_body(
    response: IResponse, limit: int, clock: IReactorTime, timeout: float, course: Course | None = None
) -> bytes:
    """The whole body of an answer, which is short: it may take six times as long as ``timeout``.

    Errors:
        UpstreamUnavailable: it broke off, or dawdled, or is larger than ``limit`` bytes.
    """
    fetch = Fetch(response, clock, timeout, course=course)
    announced = body_length(response)
    if announced is not None and announced > limit:
        fetch.abandon()
        raise UpstreamUnavailable(f"the upstream answered with {announced} bytes, more than the limit of {limit}")
    gathering = _Gathering(limit)

    def late(_result: object, seconds: float) -> Failure:
        if course is not None:
            course.stalled(gathering.size, seconds)
        return Failure(DawdledError(f"the upstream took more than {seconds:g} s for {gathering.size} bytes"))

    try:
        await fetch.deliver_to(gathering).addTimeout(6 * timeout, clock, late)
    except PeerGone:
        raise UpstreamUnavailable(f"the upstream answered with more than the limit of {limit} bytes") from None
    return b"".join(gathering.pieces)


def discard(response: IResponse, clock: IReactorTime) -> None:
    """Give up the body of an answer, and its connection with it unless there is little to come, and soon."""
    fetch = Fetch(response, clock, DISCARDING)
    announced = body_length(response)
    if announced is not None and announced > _DISCARDED:
        fetch.abandon()
    else:
        discarded = fetch.deliver_to(_Gathering(_DISCARDED, keep=False)).addTimeout(DISCARDING, clock)
        discarded.addErrback(lambda failure: failure.trap(UpstreamUnavailable, PeerGone, TimeoutError))


def body_length(response: IResponse) -> int | None:
    """The bytes that a body has, as the answer says; Twisted takes Content-Length out of the headers."""
    length = response.length
    return None if length is UNKNOWN_LENGTH or not isinstance(length, int) else length
