"""Requests whose bodies are streamed, and answers that go out by sendfile.

Twisted's own request collects its body before any resource sees it. Here a request with a body is dispatched when its
headers are in, and the body is a producer with backpressure. This is the only module that touches Twisted's private
names; tests/test_streaming.py fails first where Twisted changes.
"""

from __future__ import annotations

import fcntl
import re
import sys
import termios
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IFileDescriptor,
    IHalfCloseableProtocol,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.server import Request
from zope.interface import implementer

from registryd.http.body import RequestBody
from registryd.http.chunked import ChunkedDecoder, MalformedChunkError
from registryd.http.sendfile import SendFile, WholeFile
from registryd.interfaces import (
    IBlobReader,
    IFileBlobReader,
    IFileConsumer,
    IFileDelivery,
    IGrowingFile,
    PeerGone,
    Route,
)

_log = Logger()

BULK_READ = 1024 * 1024
"""Bytes that are read from a socket at once while a large body comes in."""

_LENGTH_DIGITS = 18
_USUAL_READ = 64 * 1024

DRAIN_SECONDS = 2.0
"""How long a body is read and dropped, however much of it comes, after an answer that did not wait for it: a client
that still sends would else get a reset in place of the answer."""

_ABSOLUTE_FORM = re.compile(rb"https?://(?:[^/?#@]*@)?([^/?#@]+)", re.IGNORECASE)

_BAD_REQUEST = b'{"errors":[{"code":"UNSUPPORTED","message":"malformed HTTP request"}]}'


def shown_peer(address: IAddress) -> str:
    """A peer's address as logs show it."""
    return address.host if isinstance(address, IPv4Address | IPv6Address) else "-"


@implementer(IFileConsumer)
class StreamingRequest(Request):
    """A request that is dispatched when its headers are in. ``body`` is what follows them.

    Where registries are mirrored, ``before`` is the one that stands before ``/v2/`` in the path, and ``route`` where
    the repository's name leads.
    """

    defaultContentType = None
    channel: Any
    body: RequestBody
    before: str | None = None
    route: Route | None = None
    _has_headers = False
    _dispatched = False

    def gotLength(self, length: int | None) -> None:
        expectation = self.requestHeaders.getRawHeaders(b"expect")
        expects_continue = (
            expectation is not None
            and expectation[0].lower() == b"100-continue"
            and self.channel._version == b"HTTP/1.1"
        )
        self.body = RequestBody(self.channel, length, expects_continue)
        self._has_headers = True

    def handleContentChunk(self, data: bytes | memoryview) -> None:
        self.body.came(data)

    def dispatch(self, method: bytes, uri: bytes, version: bytes) -> None:
        """Let the resources of the site answer."""
        self._dispatched = True
        self.method, self.uri, self.clientproto = method, uri, version
        self.path, _, query = (uri if uri[:1] == b"/" else self._without_host(uri)).partition(b"?")
        self.args = parse_qs(query, 1) if query else {}
        self.process()

    def _without_host(self, uri: bytes) -> bytes:
        """What follows the host of a target in absolute form, which counts in place of the header.

        Source: RFC 9112, section 3.2.2.
        """
        absolute = _ABSOLUTE_FORM.match(uri)
        if absolute is None:
            return uri
        self.requestHeaders.setRawHeaders(b"host", [absolute[1]])
        rest = uri[absolute.end() :]
        return rest if rest[:1] == b"/" else b"/" + rest

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.body.ended()
        if not self._dispatched:
            self.dispatch(command, path, version)

    def write(self, data: bytes) -> None:
        if self.has_left:
            return
        if not self.startedWriting and self.body.unfinished and not self.body.short:
            # What follows on this connection is much of a body that nobody wants, or may be none of it.
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
            self.channel.persistent = False
        if not self.startedWriting and self.channel.factory.draining:
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        self.channel.resetTimeout()
        super().write(data)

    @property
    def has_left(self) -> bool:
        """Whether the client is gone, so that nothing can be answered."""
        return self.channel is None

    def break_off(self) -> None:
        """End the answer in a way that no client takes for its end."""
        if self.channel is not None:
            self.channel.break_off()

    def connectionLost(self, reason: Failure) -> None:
        # First what cancels the endpoints that can be: the loss of a body is then told to those alone that go on.
        super().connectionLost(reason)
        if self._has_headers:
            self.body.lost()

    def deliver(self, reader: IBlobReader, start: int, stop: int) -> Deferred[None]:
        """Write a part of a blob after what was written, by sendfile where both ends are plain descriptors.

        Errors:
            PeerGone: the client left before the end.
            OSError: the storage failed; the connection is broken off, since the client was promised more.
        """
        self.write(b"")
        channel = self.channel
        if channel is None:
            return fail(PeerGone())
        channel.expect_progress()
        if IFileBlobReader.providedBy(reader) and channel.sends_files():
            return SendFile(self, channel, WholeFile(reader), start, stop).begin()
        return reader.deliver_to(self, start, stop).addErrback(self._broken)

    def file_delivery(self, file: IGrowingFile, start: int, stop: int) -> IFileDelivery | None:
        """See IFileConsumer."""
        channel = self.channel
        return SendFile(self, channel, file, start, stop) if channel is not None and channel.sends_files() else None

    def _broken(self, failure: Failure) -> Failure:
        self.break_off()
        return failure


class Connections(Protocol):
    """What a site knows of its connections, and they of it."""

    header_limit: int
    timeOut: float
    draining: bool
    connections: set[StreamingChannel]


@implementer(IHalfCloseableProtocol)
class StreamingChannel(HTTPChannel):
    """A connection: HTTP/1.1, bounded in what it reads ahead of a consumer and in how long it waits for its peer."""

    requestFactory = StreamingRequest
    factory: Connections
    transport: Any
    _answered: StreamingRequest | None = None
    _deadline: IDelayedCall | None = None
    _headers_read = 0
    _first_bytes = True
    _last_read = b""
    _host: Any = None
    _peer: Any = None
    _refused = False
    _read_ended = False
    _queued: int | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.totalHeadersSize = self.MAX_LENGTH = self.factory.header_limit
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._first_bytes:
            self._first_bytes = False
            if data[:2] == b"\x16\x03":
                _log.warn("{peer}: TLS on a port that speaks plain HTTP", peer=shown_peer(self.transport.getPeer()))
                # Docker takes HTTP for an answer, and tries again without TLS; a mere reset it does not.
                self._respondToBadRequestAndDisconnect()
                return
        if self._refused:
            return
        self._last_read = data
        headers_read = self._headers_read
        super().dataReceived(data)
        if self._refused:
            return
        if self.line_mode and self._headers_read == headers_read and self._deadline is None and self.factory.timeOut:
            # The idle timeout begins anew with each byte; headers as a whole must not take longer.
            self._deadline = self.callLater(self.factory.timeOut, super().timeoutConnection)

    def allHeadersReceived(self) -> None:
        self._headers_read += 1
        self._end_deadline()
        request = self.requests[-1]
        self.persistent = self.checkPersistence(request, self._version) and not self.factory.draining
        request.gotLength(self.length)
        if self.length != 0:
            if self.length is None or self.length > _USUAL_READ:
                self._read_at_once(BULK_READ)
            request.dispatch(self._command, self._path, self._version)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def rawDataReceived(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            super().rawDataReceived(data)
        except MalformedChunkError:
            self._respondToBadRequestAndDisconnect()

    def allContentReceived(self) -> None:
        if self.length is None or self.length > _USUAL_READ:
            self._read_at_once(_USUAL_READ)
        super().allContentReceived()
        if self._answered is not None:
            answered, self._answered = self._answered, None
            self._end_deadline()
            self.requestDone(answered)

    def requestDone(self, request: StreamingRequest) -> None:
        if request.body.unfinished:
            self._answered = request
            self._deadline = self.callLater(DRAIN_SECONDS, self._cut_off)
            request.body.drop()
            self.resume_body()
            if not self.persistent:
                self._end_writing()
            return
        if self.factory.draining:
            self.persistent = False
        # What is saved when a body has come is no timeout at all if the peer was held paused then.
        self._savedTimeOut = self.factory.timeOut
        super().requestDone(request)
        if self._read_ended and not self._handlingRequest:
            self.loseConnection()

    def readConnectionLost(self) -> None:
        """The peer sends nothing more: what it asked for in whole is still answered."""
        self._read_ended = True
        if not self._handlingRequest:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """The end of an answer has been told; what the peer still sends is being dropped."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end_deadline()
        self.factory.connections.discard(self)
        if self._first_bytes and reason.check(SSL.Error) and "http request" in str(reason.value):
            _log.warn("{peer}: plain HTTP on a port that speaks TLS", peer=shown_peer(self.transport.getPeer()))
        super().connectionLost(reason)

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        # One write of one piece: Twisted's own, of four pieces a header, is the dearest part of a small answer.
        lines = [b"%b %b %b" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines.extend([b"%b: %b" % (name, value) for value in values])
        lines.append(b"\r\n")
        self.transport.write(b"\r\n".join(lines))

    def getHost(self) -> Any:
        # Every request asks for it, and every time it would be a system call.
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def getPeer(self) -> Any:
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer

    def resetTimeout(self) -> None:
        self._queued = None
        super().resetTimeout()

    def timeoutConnection(self) -> None:
        # A socket tells that it can be written to again when a third of its buffer is free: on a slow line that takes
        # longer than any timeout, while the peer takes what it can.
        if self.requests and (self._takes_bytes() or self._waits_for_us()):
            self.setTimeout(self.factory.timeOut)
        else:
            super().timeoutConnection()

    def _takes_bytes(self) -> bool:
        """Whether the peer has taken something of what waits in the socket since this was asked last."""
        queued = bytearray(4)
        fcntl.ioctl(self._connection().fileno(), termios.TIOCOUTQ, queued)
        before, self._queued = self._queued, int.from_bytes(queued, sys.byteorder)
        return self._queued > 0 and (before is None or self._queued < before)

    def _waits_for_us(self) -> bool:
        """Whether the peer has taken all that was written of an answer whose rest is still on its way to us."""
        answered = self.requests[0]
        return answered.startedWriting and not answered.body.unfinished and self._queued == 0

    def _connection(self) -> Any:
        """The transport that reads and writes: with TLS the one below."""
        return getattr(self.transport, "transport", self.transport)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if streaming and self._waitingForTransport:
            producer.pauseProducing()

    def is_idle(self) -> bool:
        """Whether nothing is in flight on the connection."""
        return not self.requests

    def ask_for_body(self) -> None:
        """Tell a client that waits for it that its body is wanted."""
        self._send100Continue()

    def pause_body(self) -> None:
        """Read no more; the client is not to blame for what it does not send meanwhile."""
        self.setTimeout(None)
        self.transport.pauseProducing()

    def resume_body(self) -> None:
        """Read on."""
        self.setTimeout(self.factory.timeOut)
        self.transport.resumeProducing()

    def expect_progress(self) -> None:
        """Break the connection off when the client takes nothing for the idle timeout."""
        self.setTimeout(self.factory.timeOut)

    def sends_files(self) -> bool:
        """Whether the connection is a plain descriptor that sendfile can write to."""
        return IFileDescriptor.providedBy(self.transport) and not self.isSecure()

    def break_off(self) -> None:
        """Close in a way that no client takes for the end of an answer."""
        self.transport.abortConnection()

    def _cut_off(self) -> None:
        """Close, whatever the peer still sends: TLS alone would read on until the peer closes too."""
        self.loseConnection()
        self._connection().loseConnection()

    def _read_at_once(self, size: int) -> None:
        connection = self._connection()
        if hasattr(connection, "bufferSize"):
            connection.bufferSize = size

    def _end_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        unusable = len(data) > _LENGTH_DIGITS if header == b"Content-Length" else data.lower() != b"chunked"
        if header in (b"Content-Length", b"Transfer-Encoding") and unusable:
            return bool(self._failChooseTransferDecoder())
        may_proceed: bool = super()._maybeChooseTransferDecoder(header, data)
        if may_proceed and header == b"Transfer-Encoding" and self.length is None:
            self._transferDecoder = ChunkedDecoder(self.requests[-1].handleContentChunk, self._finishRequestBody)
        return may_proceed

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._answered is not None:
            self.loseConnection()
            return
        is_head = getattr(self, "_command", b"") == b"HEAD" or self._last_read.startswith(b"HEAD ")
        self.transport.writeSequence(
            [
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n",
                b"Docker-Distribution-API-Version: registry/2.0\r\nContent-Length: %d\r\n\r\n" % len(_BAD_REQUEST),
                b"" if is_head else _BAD_REQUEST,
            ]
        )
        self._refused = True
        self.setTimeout(None)
        self._end_deadline()
        self._deadline = self.callLater(DRAIN_SECONDS, self._cut_off)
        self.setRawMode()
        self._end_writing()

    def _end_writing(self) -> None:
        """Let the client see the end of the answer, while what it still sends is read: else it might get a reset."""
        if ITCPTransport.providedBy(self.transport) and not self.isSecure():
            self.transport.loseWriteConnection()
