"""The bodies of requests, on their way to whoever wants them."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.interfaces import IViewConsumer, PeerGone

SHORT_BODY = 1024 * 1024
"""Bytes of a body that an answer did not wait for, up to which it does not end the connection."""


class BodyConnection(Protocol):
    """What a body needs of the connection that it comes over."""

    def ask_for_body(self) -> None: ...
    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...


@implementer(IPushProducer)
class RequestBody:
    """The body of a request. It waits for a consumer; a client that wants to be asked for it is asked then."""

    def __init__(self, connection: BodyConnection, length: int | None, expects_continue: bool) -> None:
        self.length = length
        self.unfinished = length != 0
        self.short = length is not None and length <= SHORT_BODY and not expects_continue
        self._unwanted = False
        self._connection = connection
        self._expects_continue = expects_continue
        self._consumer: IViewConsumer | None = None
        self._done: Deferred[None] | None = None
        self._early: list[bytes | memoryview] = []
        self._failure: Failure | None = None

    def deliver_to(self, consumer: IViewConsumer) -> Deferred[None]:
        """Write the body to a consumer as it comes; fires at its end, or when the consumer stops it.

        Errors:
            PeerGone: the client left before the end.
        """
        done = self._done = Deferred[None]()
        if self._failure is not None:
            self._end(self._failure)
            return done
        self._consumer = consumer
        consumer.registerProducer(self, True)
        for data in self._early:
            consumer.write(data)
        self._early = []
        if not self.unfinished:
            self._end(None)
        elif self._done is not None:
            if self._expects_continue:
                self._expects_continue = False
                self._connection.ask_for_body()
            self._connection.resume_body()
        return done

    def pauseProducing(self) -> None:
        if self.unfinished:
            self._connection.pause_body()

    def resumeProducing(self) -> None:
        if self.unfinished:
            self._connection.resume_body()

    def stopProducing(self) -> None:
        # What still comes is dropped once the answer is written, so that its limits do not run before.
        self._connection.pause_body()
        self._end(None)

    def came(self, data: bytes | memoryview) -> None:
        """More of the body is here."""
        if self._consumer is not None:
            self._consumer.write(data)
        elif not self._unwanted:
            self._early.append(data)
            self._connection.pause_body()

    def drop(self) -> None:
        """Want nothing more of the body: what came and what comes is dropped."""
        self._unwanted = True
        self._early = []

    def ended(self) -> None:
        """The whole body is here."""
        self.unfinished = False
        if self._consumer is not None:
            self._end(None)

    def lost(self) -> None:
        """The rest of the body will not come."""
        if self.unfinished:
            self._failure = Failure(PeerGone())
            self._end(self._failure)

    def _end(self, failure: Failure | None) -> None:
        if self._consumer is not None:
            self._consumer.unregisterProducer()
            self._consumer = None
        done, self._done = self._done, None
        if done is not None:
            done.callback(None) if failure is None else done.errback(failure)
