"""Files that go out by sendfile(2), under Twisted's transport and without its buffers."""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPullProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.interfaces import IFileBlobReader, IFileDelivery, IGrowingFile, PeerGone
from registryd.readahead import read_ahead

TURN = 8 * 1024 * 1024
"""Bytes that are sent before others get their turn: about a millisecond."""

PIECE = 1024 * 1024
"""Bytes of one call: while a piece is on its way the peer makes room for the next."""

READ_AHEAD = 2 * TURN

_OF_FILES = frozenset({errno.EIO, errno.ESTALE, errno.EUCLEAN, errno.EBADMSG})
"""What reading may fail with; any other error is the connection's."""


class Answering(Protocol):
    """The request that is answered; it counts what was sent."""

    sentLength: int


class SendingChannel(Protocol):
    """What sending needs of the connection that it goes over."""

    transport: Any

    def resetTimeout(self) -> None: ...
    def break_off(self) -> None: ...


@implementer(IGrowingFile)
class WholeFile:
    """The file of a blob, which does not grow."""

    def __init__(self, reader: IFileBlobReader) -> None:
        self._told = reader.fileno(), reader.descriptor.size

    def reach(self, position: int) -> Deferred[tuple[int, int]]:
        return succeed(self._told)


@implementer(IPullProducer, IFileDelivery)
class SendFile:
    """Sends a file in turns, whenever the transport has nothing left to send and there is something to be sent."""

    def __init__(self, answer: Answering, channel: SendingChannel, file: IGrowingFile, start: int, stop: int) -> None:
        self._answer = answer
        self._channel = channel
        self._transport = channel.transport
        self._file = file
        self.position = start
        self._stop = stop
        self._read_ahead = start
        self._begun = False
        self._waits = False
        self._done: Deferred[None] | None = Deferred()

    def begin(self) -> Deferred[None]:
        done = self._done
        assert done is not None
        # The channel is a producer of its transport, of nothing: this one takes its place for a while.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, False)
        self._begun = True
        return done

    def resumeProducing(self) -> None:
        # A transport resumes a pull producer as soon as it is registered, while headers still wait to be sent.
        if not self._begun or self._done is None or self._waits:
            return
        if self.position >= self._stop:
            self._end(None)
            return
        self._waits = True
        self._file.reach(self.position).addCallback(self._send).addErrback(self._failed)

    def _send(self, reached: tuple[int, int]) -> None:
        self._waits = False
        if self._done is None:
            return
        file, size = reached
        self._ask_to_read_ahead(file, size)
        turn_ends = min(self._stop, size, self.position + TURN)
        while self.position < turn_ends:
            try:
                sent = os.sendfile(self._transport.fileno(), file, self.position, min(PIECE, turn_ends - self.position))
            except BlockingIOError:
                break
            except OSError as error:
                self._break_off(Failure(error if error.errno in _OF_FILES else PeerGone()))
                return
            if sent == 0:
                self._break_off(Failure(OSError("the file ended before the size that the client was told")))
                return
            self.position += sent
            self._answer.sentLength += sent
            self._channel.resetTimeout()
        if size <= self.position < self._stop:
            self.resumeProducing()
        elif self.position < self._stop:
            self._transport.startWriting()
        else:
            self._end(None)

    def _ask_to_read_ahead(self, file: int, size: int) -> None:
        if size < self._stop and size - self.position < READ_AHEAD:
            return  # It was written just now, and is in memory.
        self._read_ahead = max(self._read_ahead, self.position)
        if self.position + TURN >= self._read_ahead < self._stop:
            read_ahead(file, self._read_ahead, min(self._read_ahead + READ_AHEAD, size))
            self._read_ahead += READ_AHEAD

    def stopProducing(self) -> None:
        self._end(Failure(PeerGone()), False)

    def _failed(self, failure: Failure) -> None:
        self._end(failure)

    def _break_off(self, failure: Failure) -> None:
        self._end(failure, False)
        self._channel.break_off()

    def _end(self, failure: Failure | None, goes_on: bool = True) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        if goes_on:
            self._transport.unregisterProducer()
            self._transport.registerProducer(self._channel, True)
        if failure is None:
            done.callback(None)
        else:
            done.errback(failure)
