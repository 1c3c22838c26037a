"""Connections, byte by byte; and what registryd.http.streaming relies on in Twisted, which is not promised there."""

from __future__ import annotations

import errno
import fcntl
import inspect
import json
import os
import re
import shutil
import socket
import struct
import tempfile
import termios
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.ssl import ClientContextFactory
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import provider

from registryd import delivery
from registryd.config import Tls
from registryd.delivery import BlobReader, FileBlobReader, blob_reader
from registryd.http import sendfile, streaming
from registryd.http.accesslog import AccessLog
from registryd.http.body import SHORT_BODY
from registryd.http.chunked import ChunkedDecoder
from registryd.http.site import RegistrySite
from registryd.http.streaming import BULK_READ, DRAIN_SECONDS, StreamingChannel, StreamingRequest
from registryd.interfaces import IBlobReader, PeerGone
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import Digest
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver
from registryd.tls import server_options
from tests.clients.certificates import issue
from tests.values import Sink, at_once, split

reactor: Any = installed
IDLE = 30.0
HEADER_LIMIT = 4096
CLIENT = IPv4Address("TCP", "127.0.0.1", 50000)


OVERRIDDEN: dict[Callable[..., object], list[str]] = {
    HTTPChannel.connectionMade: [],
    HTTPChannel.dataReceived: ["data"],
    HTTPChannel.rawDataReceived: ["data"],
    HTTPChannel.lineLengthExceeded: ["line"],
    HTTPChannel.allHeadersReceived: [],
    HTTPChannel.allContentReceived: [],
    HTTPChannel.requestDone: ["request"],
    HTTPChannel.connectionLost: ["reason"],
    HTTPChannel.writeHeaders: ["version", "code", "reason", "headers"],
    HTTPChannel.checkPersistence: ["request", "version"],
    HTTPChannel.timeoutConnection: [],
    HTTPChannel.loseConnection: [],
    HTTPChannel.getPeer: [],
    HTTPChannel.getHost: [],
    HTTPChannel._failChooseTransferDecoder: [],
    HTTPChannel.isSecure: [],
    HTTPChannel.setTimeout: ["period"],
    HTTPChannel.resetTimeout: [],
    HTTPChannel._send100Continue: [],
    HTTPChannel._maybeChooseTransferDecoder: ["header", "data"],
    HTTPChannel._finishRequestBody: ["data"],
    HTTPChannel._respondToBadRequestAndDisconnect: [],
    HTTPRequest.gotLength: ["length"],
    HTTPRequest.handleContentChunk: ["data"],
    HTTPRequest.requestReceived: ["command", "path", "version"],
    HTTPRequest.connectionLost: ["reason"],
    HTTPRequest.write: ["data"],
    HTTPRequest.registerProducer: ["producer", "streaming"],
    HTTPRequest.process: [],
}
"""The methods of Twisted that are overridden or called, with their parameters."""


class Collecting(Resource):
    """Takes requests, and leaves it to the test to answer them."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[StreamingRequest] = []

    def render(self, request: Request) -> int:
        assert isinstance(request, StreamingRequest)
        self.requests.append(request)
        return NOT_DONE_YET


def answer(request: StreamingRequest, content: bytes = b"ok") -> None:
    request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(content)])
    request.write(content)
    request.finish()


class SocketTransport(StringTransport):
    """With what else a channel asks of a socket: how much it reads at once, and how much waits in it to be sent."""

    bufferSize = 64 * 1024
    full = False

    def __init__(self) -> None:
        super().__init__(peerAddress=CLIENT, lenient=True)
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        return self.ours.fileno()

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def unregisterProducer(self) -> None:
        # As sockets do, which are asked for more than once.
        self.producer = None

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class ChannelCase(SynchronousTestCase):
    """One connection over a transport that the test reads and fills."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.resource = Collecting()
        self.site = RegistrySite(self.resource, self.clock, HEADER_LIMIT, IDLE, None)
        self.connect()

    def connect(self) -> None:
        self.transport = SocketTransport()
        self.addCleanup(self.transport.close)
        channel = self.site.buildProtocol(CLIENT)
        assert isinstance(channel, StreamingChannel)
        self.channel = channel
        self.channel.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.channel.dataReceived(piece)

    @property
    def request(self) -> StreamingRequest:
        return self.resource.requests[-1]

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting

    def answers(self) -> list[bytes]:
        """The statuses and bodies of what was answered."""
        answers, rest = [], self.transport.value()
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            status, _, fields = head.partition(b"\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", fields)
            size = int(length[1]) if length else 0
            answers += [status.removeprefix(b"HTTP/1.1 "), rest[:size]]
            rest = rest[size:]
        return answers

    def put(self, *headers: bytes) -> StreamingRequest:
        """The headers of a request with a body."""
        lines = [b"PUT /p HTTP/1.1", b"Host: h", *headers, b"", b""]
        self.send(b"\r\n".join(lines))
        return self.request

    def wanted(self, request: StreamingRequest, sink: Sink | None = None) -> tuple[Sink, Deferred[None]]:
        """The consumer of a request's body."""
        sink = sink or Sink()
        return sink, request.body.deliver_to(sink)

    def lose(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))


class TwistedTests(ChannelCase):
    """The names of Twisted that registryd.http.streaming overrides, calls and reads."""

    def test_methods_take_what_they_took(self) -> None:
        for method, parameters in OVERRIDDEN.items():
            self.assertEqual(list(inspect.signature(method).parameters)[1:], parameters, method)

    def test_our_names_are_not_twisteds(self) -> None:
        overridden = {method.__name__ for method in OVERRIDDEN}
        overridden |= {"requestFactory", "transport", "factory", "defaultContentType", "channel"}
        # Of HTTPChannel, attributes too: those that an instance has.
        for ours, theirs in (
            (StreamingChannel, {*dir(HTTPChannel), *vars(HTTPChannel())}),
            (StreamingRequest, dir(Request)),
        ):
            clashing = {name for name in vars(ours) if not name.startswith("__")} & set(theirs) - overridden
            self.assertEqual(clashing, set())

    def test_names_of_a_channel(self) -> None:
        self.assertEqual((self.channel.timeOut, self.channel.line_mode, self.channel.requests), (IDLE, 1, []))
        self.assertEqual(self.channel.callLater, self.clock.callLater)
        request = self.put(b"Content-Length: 3")
        channel = self.channel
        self.assertEqual(
            (channel._command, channel._path, channel._version, channel.length, channel.requests),
            (b"PUT", b"/p", b"HTTP/1.1", 3, [request]),
        )
        self.assertFalse(channel.line_mode)
        self.assertTrue(channel.persistent)
        self.assertIsNotNone(channel._transferDecoder)
        self.send(b"abc")
        answer(request)
        self.assertEqual((channel.requests, channel.line_mode), ([], 1))

    def test_length_of_a_chunked_body(self) -> None:
        request = self.put(b"transfer-ENCODING: Chunked")
        self.assertIsNone(self.channel.length)
        self.assertIsNone(request.body.length)
        self.assertIsInstance(self.channel._transferDecoder, ChunkedDecoder)

    def test_length_of_no_body(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual((self.request.body.length, self.request.body.unfinished), (0, False))

    def test_continue_is_what_asks_for_a_body(self) -> None:
        self.channel._send100Continue()
        self.assertEqual(self.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")

    def test_started_writing(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertFalse(self.request.startedWriting)
        self.request.write(b"")
        self.assertTrue(self.request.startedWriting)
        self.assertEqual(self.request.sentLength, 0)
        self.request.write(b"abc")
        self.assertEqual(self.request.sentLength, 3)

    def test_a_channel_is_the_producer_of_its_transport(self) -> None:
        self.assertIs(self.transport.producer, self.channel)
        self.assertTrue(self.transport.streaming)

    def test_a_socket_reads_as_much_as_its_buffer_size(self) -> None:
        self.assertEqual(Connection.bufferSize, 64 * 1024)
        self.assertEqual(streaming._USUAL_READ, Connection.bufferSize)


class DispatchTests(ChannelCase):
    """When a request comes to the resources."""

    def test_without_a_body(self) -> None:
        self.send(b"GET /a/b?n=1&last=x%20y&n=2 HTTP/1.1\r\nHost: h\r\nAccept: a\r\nAccept: b\r\n\r\n")
        request = self.request
        self.assertEqual((request.method, request.path, request.clientproto), (b"GET", b"/a/b", b"HTTP/1.1"))
        self.assertEqual(
            (request.uri, request.args), (b"/a/b?n=1&last=x%20y&n=2", {b"n": [b"1", b"2"], b"last": [b"x y"]})
        )
        self.assertEqual(request.requestHeaders.getRawHeaders(b"accept"), [b"a", b"b"])
        self.assertEqual(len(self.resource.requests), 1)

    def test_with_a_body_that_has_not_come(self) -> None:
        for header in (b"Content-Length: 3", b"Transfer-Encoding: chunked"):
            self.connect()
            request = self.put(header)
            self.assertEqual((request.method, request.path, request.body.unfinished), (b"PUT", b"/p", True))

    def test_once(self) -> None:
        for header, body in ((b"Content-Length: 3", b"abc"), (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")):
            self.setUp()
            self.put(header)
            self.send(body)
            self.assertEqual(len(self.resource.requests), 1)

    def test_with_an_empty_body(self) -> None:
        self.put(b"Content-Length: 0")
        self.assertEqual((len(self.resource.requests), self.request.body.unfinished), (1, False))
        sink, done = self.wanted(self.request)
        self.successResultOf(done)
        self.assertEqual((sink.content, sink.registrations, sink.producer), (b"", 1, None))

    def test_byte_by_byte(self) -> None:
        whole = b"PUT /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        headers = whole.index(b"\r\n\r\n") + 4
        for end in range(len(whole)):
            self.assertEqual(len(self.resource.requests), int(end >= headers))
            self.send(whole[end : end + 1])
        sink, done = self.wanted(self.request)
        self.successResultOf(done)
        self.assertEqual(sink.content, b"abc")

    def test_malformed_requests_are_refused_in_json(self) -> None:
        malformed = [
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        ]
        for raw in malformed:
            self.assertRefused(raw)

    def test_headers_beyond_the_limit_are_refused_in_json(self) -> None:
        large = [
            b"GET / HTTP/1.1\r\nA: " + b"a" * HEADER_LIMIT + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: " + b"a" * HEADER_LIMIT,
            b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 2000,
            b"GET /" + b"a" * HEADER_LIMIT + b" HTTP/1.1\r\n\r\n",
        ]
        for raw in large:
            self.assertRefused(raw)

    def assertRefused(self, raw: bytes) -> None:
        self.setUp()
        self.send(raw)
        self.assertEqual(self.transport.producerState, "producing")
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.clock.advance(DRAIN_SECONDS)
        self.assertTrue(self.closed, raw[:60])
        self.assertEqual(self.resource.requests, [], raw[:60])
        status, body = self.answers()
        self.assertEqual((status, list(json.loads(body))), (b"400 Bad Request", ["errors"]))
        self.assertIn(b"\r\nContent-Type: application/json\r\nConnection: close\r\n", self.transport.value())

    def test_malformed_requests_for_headers_are_refused_without_a_body(self) -> None:
        self.send(b"HEAD / HTTP/1.1\r\nno colon\r\n\r\n")
        self.assertTrue(self.transport.value().endswith(b"\r\n\r\n"), self.transport.value())

    def test_headers_up_to_the_limit(self) -> None:
        lines = b"GET / HTTP/1.1\r\nHost: h\r\nA: "
        self.send(lines + b"a" * (HEADER_LIMIT - len(lines) - 10) + b"\r\n\r\n")
        self.assertEqual(len(self.resource.requests), 1)

    def test_tls_on_a_plain_port(self) -> None:
        told: list[LogEvent] = []

        @provider(ILogObserver)
        def observer(event: LogEvent) -> None:
            told.append(event)

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        # Docker takes HTTP for an answer, and tries again without TLS; a mere end of the connection it does not.
        self.assertEqual(self.answers()[0], b"400 Bad Request")
        self.clock.advance(DRAIN_SECONDS)
        self.assertTrue(self.closed)
        self.assertIn("TLS on a port that speaks plain HTTP", str(told))


class BodyTests(ChannelCase):
    """How a body comes to whoever wants it."""

    def test_waits_until_it_is_wanted(self) -> None:
        request = self.put(b"Content-Length: 6")
        self.send(b"abc")
        self.assertEqual(self.transport.producerState, "paused")
        sink, done = self.wanted(request)
        self.assertEqual((sink.content, self.transport.producerState), (b"abc", "producing"))
        self.assertNoResult(done)
        self.send(b"def")
        self.successResultOf(done)
        self.assertEqual((sink.content, sink.producer), (b"abcdef", None))

    def test_comes_with_its_headers(self) -> None:
        self.send(b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        sink, done = self.wanted(self.request)
        self.successResultOf(done)
        self.assertEqual((sink.content, sink.registrations, sink.producer), (b"abc", 1, None))

    def test_is_not_read_ahead_of_its_consumer(self) -> None:
        request = self.put(b"Content-Length: 9")
        sink, done = self.wanted(request, Sink(greedy=False))
        for piece in (b"abc", b"def"):
            self.send(piece)
            self.assertEqual(self.transport.producerState, "paused")
            sink.resume()
            self.assertEqual(self.transport.producerState, "producing")
        self.send(b"ghi")
        self.successResultOf(done)
        self.assertEqual(sink.content, b"abcdefghi")

    def test_chunked(self) -> None:
        coded = b"3\r\nabc\r\n00F;x=y\r\n123456789012345\r\n0\r\nTrailer: t\r\n\r\n"
        for cuts in ([], list(range(len(coded))), [4, 9, 20]):
            self.setUp()
            sink, done = self.wanted(self.put(b"Transfer-Encoding: chunked"))
            self.send(*split(coded, cuts))
            self.successResultOf(done)
            self.assertEqual(sink.content, b"abc123456789012345")

    def test_malformed_chunks_end_the_connection(self) -> None:
        sink, done = self.wanted(self.put(b"Transfer-Encoding: chunked"))
        self.send(b"3\r\nabc\r\n-1\r\n", b"more")
        self.assertEqual(sink.content, b"abc")
        self.clock.advance(DRAIN_SECONDS)
        self.assertTrue(self.closed)
        self.assertEqual(self.answers()[0], b"400 Bad Request")
        self.lose()
        self.failureResultOf(done, PeerGone)

    def test_stopped_by_its_consumer(self) -> None:
        request = self.put(b"Content-Length: 6")
        sink, done = self.wanted(request)
        self.send(b"abc")
        assert sink.producer is not None
        sink.producer.stopProducing()
        self.successResultOf(done)
        self.assertIsNone(sink.producer)
        self.send(b"def")
        self.assertEqual(sink.content, b"abc")
        answer(request)
        self.assertFalse(self.closed)

    def test_lost(self) -> None:
        request = self.put(b"Content-Length: 6")
        sink, done = self.wanted(request)
        self.send(b"abc")
        self.lose()
        self.failureResultOf(done, PeerGone)
        self.assertEqual((sink.content, sink.producer), (b"abc", None))

    def test_lost_before_it_was_wanted(self) -> None:
        request = self.put(b"Content-Length: 6")
        self.send(b"abc")
        self.lose()
        sink, done = self.wanted(request)
        self.failureResultOf(done, PeerGone)
        self.assertEqual((sink.pieces, sink.producer), ([], None))

    def test_lost_after_its_end_is_not_lost(self) -> None:
        request = self.put(b"Content-Length: 3")
        self.send(b"abc")
        self.lose()
        sink, done = self.wanted(request)
        self.successResultOf(done)
        self.assertEqual(sink.content, b"abc")

    def test_endpoints_that_can_be_cancelled_hear_of_the_loss_first(self) -> None:
        request = self.put(b"Content-Length: 6")
        _, done = self.wanted(request)
        order: list[str] = []
        request.notifyFinish().addErrback(lambda _: order.append("finish"))
        done.addErrback(lambda _: order.append("body"))
        self.lose()
        self.assertEqual(order, ["finish", "body"])

    def test_lost_while_headers_come(self) -> None:
        self.send(b"PUT /p HTTP/1.1\r\nContent-Le")
        self.lose()
        self.assertEqual((self.resource.requests, self.site.connections), ([], set()))

    def test_a_large_one_is_read_in_larger_pieces(self) -> None:
        for header, size in (
            (b"Content-Length: 65537", BULK_READ),
            (b"Content-Length: 65536", 64 * 1024),
            (b"Transfer-Encoding: chunked", BULK_READ),
        ):
            self.setUp()
            self.put(header)
            self.assertEqual(self.transport.bufferSize, size, header)

    def test_usual_reads_come_back_with_its_end(self) -> None:
        request = self.put(b"Content-Length: 70000")
        self.wanted(request)
        self.send(bytes(70000))
        self.assertEqual(self.transport.bufferSize, 64 * 1024)


class ContinueTests(ChannelCase):
    """Clients that wait until they are asked for their body."""

    HEADERS = (b"Content-Length: 3", b"Expect: 100-Continue")

    def test_asked_when_it_is_wanted(self) -> None:
        request = self.put(*self.HEADERS)
        self.assertEqual(self.transport.value(), b"")
        _, done = self.wanted(request)
        self.assertEqual(self.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.send(b"abc")
        self.successResultOf(done)
        answer(request)
        self.assertEqual(self.answers(), [b"100 Continue", b"", b"200 OK", b"ok"])
        self.assertFalse(self.closed)

    def test_not_asked_when_it_is_not_wanted(self) -> None:
        request = self.put(*self.HEADERS)
        answer(request)
        self.assertEqual(self.answers(), [b"200 OK", b"ok"])
        # Whether what follows is the body or the next request cannot be known.
        self.assertIn(b"Connection: close", self.transport.value())

    def test_not_asked_for_what_has_come(self) -> None:
        request = self.put(*self.HEADERS)
        self.send(b"abc")
        self.wanted(request)
        self.assertEqual(self.transport.value(), b"")

    def test_not_asked_without_an_expectation(self) -> None:
        for headers in ((b"Content-Length: 3",), (b"Content-Length: 3", b"Expect: something")):
            self.setUp()
            self.wanted(self.put(*headers))
            self.assertEqual(self.transport.value(), b"")

    def test_not_asked_with_http_1_0(self) -> None:
        # RFC 9110, section 10.1.1: the expectation is ignored there.
        self.send(b"PUT /p HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        self.wanted(self.request)
        self.assertEqual(self.transport.value(), b"")


class EarlyAnswerTests(ChannelCase):
    """Answers that do not wait for the body."""

    def test_a_short_body_is_dropped_and_the_connection_stays(self) -> None:
        request = self.put(b"Content-Length: 6")
        self.send(b"abc")
        answer(request)
        self.assertNotIn(b"close", self.transport.value().lower())
        self.assertEqual(self.transport.producerState, "producing")
        self.send(b"defGET /next HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual((self.request.path, self.closed), (b"/next", False))
        answer(self.request)
        self.assertEqual(self.answers(), [b"200 OK", b"ok"] * 2)

    def test_a_short_body_that_has_come_already(self) -> None:
        self.send(b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /n HTTP/1.1\r\nHost: h\r\n\r\n")
        answer(self.request)
        self.assertEqual((self.request.path, self.closed), (b"/n", False))

    def test_the_next_request_waits_for_the_rest(self) -> None:
        request = self.put(b"Content-Length: %d" % SHORT_BODY)
        answer(request)
        self.assertFalse(self.channel.is_idle())
        self.send(bytes(SHORT_BODY - 1))
        self.assertFalse(self.closed)
        self.send(b"\0")
        self.assertTrue(self.channel.is_idle())
        self.clock.advance(DRAIN_SECONDS + 1)
        self.assertFalse(self.closed)

    def test_a_long_body_ends_the_connection(self) -> None:
        for header in (b"Content-Length: %d" % (SHORT_BODY + 1), b"Transfer-Encoding: chunked"):
            self.setUp()
            answer(self.put(header))
            self.assertIn(b"Connection: close\r\n", self.transport.value())
            self.assertFalse(self.closed, "what still comes would be answered with a reset")
            self.assertEqual(self.transport.producerState, "producing")

    def test_drains_however_much_comes(self) -> None:
        for header in (b"Content-Length: %d" % (1 << 40), b"Transfer-Encoding: chunked"):
            self.setUp()
            answer(self.put(header))
            calls = len(self.clock.getDelayedCalls())
            if b"chunked" in header:
                self.send(b"%x\r\n" % (1 << 40))
            for _ in range(64):
                self.send(bytes(SHORT_BODY))
            self.assertFalse(self.closed, "what still comes would be answered with a reset")
            self.assertEqual(self.transport.producerState, "producing")
            self.assertEqual(len(self.clock.getDelayedCalls()), calls)
            self.clock.advance(DRAIN_SECONDS)
            self.assertTrue(self.closed)

    def test_keeps_nothing_of_what_it_drains(self) -> None:
        answer(self.put(b"Content-Length: %d" % (1 << 40)))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(8):
            self.send(bytes(SHORT_BODY))
        # The last of it stands in the channel.
        self.assertLess(tracemalloc.get_traced_memory()[0], 2 * SHORT_BODY)

    def test_a_site_that_drains_waits_no_longer_for_what_is_dropped(self) -> None:
        answer(self.put(b"Content-Length: %d" % (1 << 40)))
        self.site.drain(10 * DRAIN_SECONDS)
        self.assertFalse(self.closed)
        self.clock.advance(DRAIN_SECONDS)
        self.assertTrue(self.closed)

    def test_drains_so_many_seconds(self) -> None:
        for length in (10, 2 * SHORT_BODY):
            self.setUp()
            answer(self.put(b"Content-Length: %d" % length))
            for _ in range(3):
                self.clock.advance(DRAIN_SECONDS / 4)
                self.send(b"\0")
                self.assertFalse(self.closed)
            self.clock.advance(DRAIN_SECONDS / 4)
            self.assertTrue(self.closed)

    def test_drains_to_the_end_of_a_chunked_body(self) -> None:
        answer(self.put(b"Transfer-Encoding: chunked"))
        self.send(b"3\r\nabc\r\n")
        self.assertFalse(self.closed)
        self.send(b"0\r\n\r\n")
        self.assertTrue(self.closed)
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual(len(self.resource.requests), 1)

    def test_drains_what_a_consumer_stopped(self) -> None:
        request = self.put(b"Content-Length: %d" % (2 * SHORT_BODY))
        sink, done = self.wanted(request, Sink(greedy=False))
        self.send(b"abc")
        assert sink.producer is not None
        sink.producer.stopProducing()
        self.successResultOf(done)
        answer(request)
        self.assertEqual(self.transport.producerState, "producing")
        self.send(bytes(2 * SHORT_BODY - 4))
        self.assertFalse(self.closed)
        self.send(b"\0")
        self.assertTrue(self.closed)

    def test_an_answer_after_the_body_keeps_the_connection(self) -> None:
        request = self.put(b"Content-Length: %d" % (2 * SHORT_BODY))
        self.wanted(request)
        self.send(bytes(2 * SHORT_BODY))
        answer(request)
        self.assertNotIn(b"close", self.transport.value().lower())
        self.assertEqual((self.closed, self.channel.is_idle()), (False, True))

    def test_a_client_that_leaves_while_drained(self) -> None:
        answer(self.put(b"Content-Length: 10"))
        self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TimeoutTests(ChannelCase):
    """How long a connection waits for its peer."""

    def assertClosedAfter(self, seconds: float) -> None:
        self.clock.advance(seconds - 0.1)
        self.assertFalse(self.closed)
        self.clock.advance(0.2)
        self.assertTrue(self.closed)

    def test_silence_from_the_start(self) -> None:
        self.assertClosedAfter(IDLE)

    def test_silence_after_an_answer(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.clock.advance(2 * IDLE)
        self.assertFalse(self.closed, "an answer takes as long as it takes")
        answer(self.request)
        self.assertClosedAfter(IDLE)

    def test_who_does_not_close_either_is_cut_off(self) -> None:
        self.clock.advance(IDLE)
        self.assertEqual((self.closed, self.transport.disconnected), (True, False))
        self.clock.advance(StreamingChannel.abortTimeout)
        self.assertTrue(self.transport.disconnected)

    def test_headers_that_trickle(self) -> None:
        for prepare in (lambda: None, self.get_and_answer):
            self.setUp()
            prepare()
            began = self.clock.seconds()
            for byte in b"GET /a/long/path/that/comes/slowly HTTP/1.1\r\nHost: h\r\n":
                if self.closed:
                    break
                self.send(bytes([byte]))
                self.clock.advance(IDLE / 10)
            self.assertTrue(self.closed)
            self.assertAlmostEqual(self.clock.seconds() - began, IDLE, delta=IDLE / 5)

    def get_and_answer(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer(self.request)

    def test_the_deadline_of_headers_ends_with_them(self) -> None:
        self.send(b"PUT / HTTP/1.1\r\n")
        self.clock.advance(IDLE - 1)
        self.send(b"Content-Length: 100\r\n\r\n")
        self.wanted(self.request)
        for _ in range(10):
            self.clock.advance(IDLE - 1)
            self.send(b"x")
        self.assertFalse(self.closed)

    def test_deadlines_do_not_pile_up(self) -> None:
        for _ in range(5):
            self.send(b"GET / HTTP/1.1\r\n")
            self.send(b"Host: h\r\n\r\n")
            answer(self.request)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_body_that_does_not_come(self) -> None:
        request = self.put(b"Content-Length: 6")
        _, done = self.wanted(request)
        self.clock.advance(IDLE / 2)
        self.send(b"abc")
        self.assertClosedAfter(IDLE)
        self.lose()
        self.failureResultOf(done, PeerGone)

    def test_a_body_that_is_not_wanted_yet(self) -> None:
        request = self.put(b"Content-Length: 6")
        self.send(b"abc")
        self.clock.advance(10 * IDLE)
        self.assertFalse(self.closed)
        self.wanted(request)
        self.assertClosedAfter(IDLE)

    def test_a_body_whose_consumer_is_slow(self) -> None:
        request = self.put(b"Content-Length: 6")
        sink, _ = self.wanted(request, Sink(greedy=False))
        self.send(b"abc")
        self.clock.advance(10 * IDLE)
        self.assertFalse(self.closed)
        sink.resume()
        self.assertClosedAfter(IDLE)

    def test_silence_after_a_body_that_came_at_once(self) -> None:
        for pieces in ([b"Content-Length: 3\r\n\r\nabc"], [b"Content-Length: 3\r\n\r\nab", b"c"]):
            for wanted in (True, False):
                self.setUp()
                self.send(b"PUT /p HTTP/1.1\r\nHost: h\r\n" + pieces[0], *pieces[1:])
                if wanted:
                    self.wanted(self.request)
                answer(self.request)
                self.assertClosedAfter(IDLE)

    def test_silence_after_a_body_that_was_not_wanted(self) -> None:
        request = self.put(b"Content-Length: 3")
        answer(request)
        self.send(b"abc")
        self.assertClosedAfter(IDLE)

    def test_bytes_that_leave_the_socket_are_progress(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.request.write(b"a")
        self.channel.expect_progress()
        for _ in range(32):
            self.transport.ours.send(bytes(1024))
        for _ in range(4):
            self.clock.advance(IDLE)
            self.assertFalse(self.closed)
            self.assertEqual(len(self.transport.theirs.recv(1024)), 1024)
        self.clock.advance(IDLE)
        self.assertClosedAfter(IDLE)

    def test_headers_that_trickle_behind_an_answer_that_is_not_read(self) -> None:
        self.get_and_answer()
        for _ in range(32):
            self.transport.ours.send(bytes(1024))
        self.send(b"GET / HTTP/1.1\r\n")
        for _ in range(40):
            self.clock.advance(IDLE / 10)
            if not self.closed:
                self.send(b"A: b\r\n")
        self.assertTrue(self.closed, f"headers have come for {4 * IDLE} s")

    def test_an_answer_that_is_written_is_progress(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.request.write(b"a")
        self.channel.expect_progress()
        for _ in range(4):
            self.clock.advance(IDLE - 1)
            self.request.write(b"b")
        self.assertFalse(self.closed)
        self.transport.ours.send(b"left in the socket")
        self.clock.advance(IDLE)
        self.assertClosedAfter(IDLE)

    def test_a_peer_that_has_taken_all_is_not_to_blame_for_what_is_not_there_yet(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.request.write(b"a")
        self.channel.expect_progress()
        self.clock.pump([IDLE + 1] * 10)
        self.assertFalse(self.closed)


class ConnectionTests(ChannelCase):
    """What becomes of a connection after an answer."""

    def test_pipelined_requests_are_answered_in_their_order(self) -> None:
        self.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(3)))
        for number in range(3):
            self.assertEqual([request.path for request in self.resource.requests][number:], [b"/%d" % number])
            answer(self.request, b"%d" % number)
        self.assertEqual(self.answers()[1::2], [b"0", b"1", b"2"])

    def test_pipelined_behind_a_body(self) -> None:
        for header, body in ((b"Content-Length: 3", b"abc"), (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")):
            whole = b"PUT /p HTTP/1.1\r\nHost: h\r\n" + header + b"\r\n\r\n" + body
            for cuts in ([], list(range(2 * len(whole)))):
                self.setUp()
                self.send(*split(whole * 2, cuts))
                for _ in range(2):
                    sink, done = self.wanted(self.request)
                    self.successResultOf(done)
                    self.assertEqual(sink.content, b"abc")
                    answer(self.request)
                self.assertEqual(len(self.resource.requests), 2)

    def test_pipelined_requests_are_not_read_without_end(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while self.transport.producerState == "producing":
            self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertLess(sum(map(len, self.channel._dataBuffer)), 128 * 1024)
        answer(self.request)
        self.assertEqual(self.transport.producerState, "producing")

    def test_closed_where_the_client_asks(self) -> None:
        for head in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"):
            self.setUp()
            self.send(head)
            answer(self.request)
            self.assertTrue(self.closed)

    def test_closed_where_the_client_sends_nothing_more(self) -> None:
        self.assertTrue(IHalfCloseableProtocol.providedBy(self.channel))
        self.channel.readConnectionLost()
        self.assertTrue(self.closed)

    def test_answered_before_it_is_closed_where_the_client_sends_nothing_more(self) -> None:
        self.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
        self.channel.readConnectionLost()
        for number in (1, 2):
            self.assertFalse(self.closed)
            self.assertEqual(self.request.path, b"/%d" % number)
            answer(self.request)
        self.assertTrue(self.closed)

    def test_closed_where_the_client_sends_nothing_more_of_a_body(self) -> None:
        self.wanted(self.put(b"Content-Length: 3"))
        self.send(b"ab")
        self.channel.readConnectionLost()
        self.assertTrue(self.closed)

    def test_closed_while_the_site_drains(self) -> None:
        self.site.draining = True
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer(self.request)
        self.assertIn(b"Connection: close\r\n", self.transport.value())
        self.assertTrue(self.closed)

    def test_closed_where_the_site_began_to_drain_meanwhile(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.site.draining = True
        answer(self.request)
        self.assertTrue(self.closed)

    def test_the_site_knows_its_connections(self) -> None:
        self.assertEqual(self.site.connections, {self.channel})
        self.assertTrue(self.channel.is_idle())
        self.send(b"GET / HTTP/1.1\r\n")
        self.assertFalse(self.channel.is_idle())
        self.lose()
        self.assertEqual(self.site.connections, set())

    def test_headers_are_written_as_they_are_set(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.request.setResponseCode(404)
        self.request.responseHeaders.setRawHeaders(b"docker-content-digest", [b"a"])
        self.request.responseHeaders.setRawHeaders(b"link", [b"b", b"c"])
        answer(self.request, b"{}")
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertEqual((lines[0], body), (b"HTTP/1.1 404 Not Found", b"{}"))
        self.assertTrue({b"Docker-Content-Digest: a", b"Link: b", b"Link: c", b"Content-Length: 2"} <= set(lines))
        self.assertNotIn(b"Content-Type", head)

    def test_head_has_no_body(self) -> None:
        self.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer(self.request, b"abc")
        self.assertTrue(self.transport.value().endswith(b"\r\n\r\n"))
        self.assertIn(b"Content-Length: 3", self.transport.value())

    def test_delivery_to_who_has_left(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        request = self.request
        request.notifyFinish().addErrback(lambda _: None)
        self.lose()
        self.failureResultOf(request.deliver(memory_reader(b"abc"), 0, 3), PeerGone)

    def test_a_client_that_leaves_ends_a_delivery(self) -> None:
        self.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        request = self.request
        request.notifyFinish().addErrback(lambda _: None)
        content = bytes(3 * 256 * 1024)
        self.transport.full = True
        delivered = request.deliver(memory_reader(content), 0, len(content))
        self.assertNoResult(delivered)
        # As a transport does first.
        self.channel.stopProducing()
        self.lose()
        self.failureResultOf(delivered, PeerGone)


def memory_reader(content: bytes) -> IBlobReader:
    driver = MemoryDriver()
    driver.put_content("/a", content)
    return blob_reader(Descriptor(OCTET_STREAM, Digest.of(content), len(content)), driver.reader("/a"), at_once)


class Client(Protocol):
    """The other end of a loopback connection."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.left = False
        self.lost: Deferred[BaseException | None] = Deferred()
        self._size = 0
        self._enough: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self._enough is not None and len(self.received) >= self._size:
            enough, self._enough = self._enough, None
            enough.callback(None)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.left = True
        self.lost.callback(reason.value)

    def leave(self) -> None:
        """Break the connection off."""
        self.left = True
        self.transport.abortConnection()

    def has(self, size: int) -> Deferred[None]:
        """Fires when so many bytes are there."""
        enough = self._enough = Deferred[None]()
        self._size = size
        self.dataReceived(b"")
        return enough

    @property
    def body(self) -> bytes:
        return bytes(self.received).partition(b"\r\n\r\n")[2]


class Connecting(ClientFactory):
    noisy = False

    def __init__(self) -> None:
        self.connected: Deferred[Client] = Deferred()

    def buildProtocol(self, addr: object) -> Client:
        client = Client()
        deferLater(reactor, 0, self.connected.callback, client)
        return client


SIZE = 3 * 1024 * 1024 + 12345
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)
CONTENT = CONTENT[:SIZE]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Delivering(Resource):
    """Answers with a part of a blob; remembers what became of it."""

    isLeaf = True

    def __init__(self, reader: Callable[[], IBlobReader], start: int = 0, stop: int = SIZE) -> None:
        super().__init__()
        self._reader = reader
        self.span = (start, stop)
        self.begun: Deferred[StreamingRequest] = Deferred()
        self.outcome: Deferred[object] = Deferred()
        self.sent: list[int] = []

    def render(self, request: Request) -> int:
        assert isinstance(request, StreamingRequest)
        start, stop = self.span
        request.notifyFinish().addErrback(lambda _: None)
        request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % (stop - start)])
        if not self.begun.called:
            self.begun.callback(request)
        reader = self._reader()
        delivered: Deferred[object] = request.deliver(reader, start, stop).addCallback(self._finish, request)
        delivered.addBoth(self._done, reader)
        return NOT_DONE_YET

    def _finish(self, _: None, request: StreamingRequest) -> None:
        self.sent.append(request.sentLength)
        request.finish()

    def _done(self, outcome: object, reader: IBlobReader) -> None:
        reader.close()
        if not self.outcome.called:
            self.outcome.callback(outcome.value if isinstance(outcome, Failure) else outcome)


class LoopbackCase(TestCase):
    """A site and a client on two ends of a connection."""

    timeout = 20

    def setUp(self) -> None:
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        self.driver = FilesystemDriver(self.root)
        self.driver.put_content("/a", CONTENT)
        self.clock = Clock()
        self.resource = Delivering(self.file_reader)
        self.log = StringIO()
        self.clients: list[Client] = []
        self.addCleanup(self.part)
        self.access_log = AccessLog(self.log.write, self.clock)
        self.site = RegistrySite(self.resource, self.clock, HEADER_LIMIT, IDLE, self.access_log)

    def file_reader(self) -> IBlobReader:
        reader = blob_reader(Descriptor(OCTET_STREAM, Digest.of(b""), SIZE), self.driver.reader("/a"), at_once)
        assert isinstance(reader, FileBlobReader)
        return reader

    async def listen(self, tls: Tls | None = None) -> int:
        factory = self.site if tls is None else TLSMemoryBIOFactory(server_options(tls), False, self.site)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def client(self, tls: Tls | None = None) -> Client:
        factory = Connecting()
        number = await self.listen(tls)
        if tls is None:
            reactor.connectTCP("127.0.0.1", number, factory)
        else:
            reactor.connectSSL("127.0.0.1", number, factory, ClientContextFactory())
        client = await factory.connected
        self.clients.append(client)
        return client

    async def part(self) -> None:
        """End all connections, on both sides."""
        for client in self.clients:
            if not client.left:
                client.leave()
            await client.lost
        while self.site.connections:
            await deferLater(reactor, 0.001)

    def tls(self) -> Tls:
        files = issue(Path(self.root), ["127.0.0.1"], ["localhost"])
        return Tls(str(files.certificate), str(files.key), (), "none", "tls1.2", ())

    def make_sends_small(self, request: StreamingRequest) -> StreamingRequest:
        """Let every send take a part alone: the socket's buffer is small."""
        request.channel.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        return request

    def make_receives_small(self, client: Client) -> None:
        """Let the system take little on behalf of a client that does not read."""
        client.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self.resource.begun.addCallback(self.make_sends_small)

    async def whole(self, client: Client, size: int = SIZE) -> bytes:
        """The body of one answer."""
        while b"\r\n\r\n" not in client.received:
            await client.has(len(client.received) + 1)
        await client.has(client.received.index(b"\r\n\r\n") + 4 + size)
        return client.body


class SendFileTests(LoopbackCase):
    """Files over plain connections."""

    def setUp(self) -> None:
        super().setUp()
        self.calls: list[int] = []
        self.real = os.sendfile

        def counted(out: int, source: int, offset: int, count: int) -> int:
            sent = self.real(out, source, offset, count)
            self.calls.append(sent)
            return sent

        self.patch(os, "sendfile", counted)

    async def test_whole(self) -> None:
        client = await self.client()
        client.transport.write(GET)
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertIsNone(await self.resource.outcome)
        self.assertEqual((self.resource.sent, sum(self.calls)), ([SIZE], SIZE))
        self.access_log.close()
        self.assertIn(f'" 200 {SIZE} "', self.log.getvalue())

    async def test_part(self) -> None:
        self.resource.span = (1_000_001, 2_500_000)
        client = await self.client()
        client.transport.write(GET)
        self.assertTrue(await self.whole(client, 1_499_999) == CONTENT[1_000_001:2_500_000])

    async def test_in_turns(self) -> None:
        self.patch(sendfile, "TURN", 256 * 1024)
        self.patch(sendfile, "PIECE", 64 * 1024)
        marks: list[int] = []

        def watch(request: StreamingRequest) -> None:
            transport = request.channel.transport
            start = transport.startWriting

            def start_writing() -> None:
                # The end of a turn: the reactor goes on with others before it comes back.
                marks.append(sum(self.calls))
                start()

            transport.startWriting = start_writing

        self.resource.begun.addCallback(watch)
        client = await self.client()
        client.transport.write(GET)
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertLessEqual(max(self.calls), 64 * 1024)
        turns = [stop - start for start, stop in pairwise([0, *marks, SIZE])]
        self.assertLessEqual(max(turns), 256 * 1024)
        self.assertGreaterEqual(len(turns), SIZE // (256 * 1024))

    async def test_partial_sends(self) -> None:
        self.resource.span = (7, 2_000_007)
        client = await self.client()
        self.make_receives_small(client)
        client.transport.write(GET)
        self.assertTrue(await self.whole(client, 2_000_000) == CONTENT[7:2_000_007])
        self.assertGreater(len(self.calls), 5)

    async def test_a_client_that_stops_reading_for_a_while(self) -> None:
        client = await self.client()
        self.make_receives_small(client)
        client.transport.write(GET)
        await client.has(1)
        client.transport.pauseProducing()
        # Until the system's buffers are full, nothing holds the sender up.
        sent = -1
        while sent != sum(self.calls):
            sent = sum(self.calls)
            await deferLater(reactor, 0.02)
        self.assertLess(sent, SIZE)
        client.transport.resumeProducing()
        self.assertTrue(await self.whole(client) == CONTENT)

    async def test_next_request_on_the_same_connection(self) -> None:
        client = await self.client()
        client.transport.write(GET * 3)
        for _ in range(3):
            self.assertTrue((await self.whole(client))[:SIZE] == CONTENT)
            del client.received[: client.received.index(b"\r\n\r\n") + 4 + SIZE]
        connection = next(iter(self.site.connections))
        self.assertIs(connection.transport.producer, connection)
        self.assertTrue(connection.transport.streamingProducer)

    async def test_a_file_that_ends_too_soon_breaks_the_connection_off(self) -> None:
        os.truncate(f"{self.root}/a", SIZE // 2)
        client = await self.client()
        client.transport.write(GET)
        reason = await client.lost
        self.assertIsInstance(reason, ConnectionLost)
        self.assertIsInstance(await self.resource.outcome, OSError)
        self.assertLessEqual(len(client.body), SIZE // 2)

    async def test_a_disk_that_fails_is_told_from_a_client_that_leaves(self) -> None:
        for error, told in ((errno.EIO, OSError), (errno.EPIPE, PeerGone)):
            self.resource = self.site.resource = Delivering(self.file_reader)
            self.patch(os, "sendfile", partial(self.failing, error))
            client = await self.client()
            client.transport.write(GET)
            self.assertIsInstance(await client.lost, ConnectionLost)
            self.assertIs(type(await self.resource.outcome), told)

    def failing(self, error: int, out: int, source: int, offset: int, count: int) -> int:
        """A sendfile that gets no further than the first bytes."""
        if offset:
            raise OSError(error, os.strerror(error))
        return self.real(out, source, offset, 1000)

    async def test_a_client_that_leaves(self) -> None:
        client = await self.client()
        self.make_receives_small(client)
        client.transport.write(GET)
        await client.has(1)
        client.leave()
        self.assertIsInstance(await self.resource.outcome, PeerGone)

    async def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        client = await self.client()
        self.make_receives_small(client)
        client.transport.write(GET)
        request = await self.resource.begun
        client.transport.pauseProducing()
        finished = request.notifyFinish()
        sent = -1
        while sent != sum(self.calls):
            sent = sum(self.calls)
            await deferLater(reactor, 0.02)
        self.assertLess(sent, SIZE)
        self.clock.advance(IDLE)
        self.assertFalse(finished.called, "whether it takes something is seen by comparison")
        while not finished.called:
            # What the system had not yet taken on behalf of the client counts as taken by it.
            self.clock.advance(IDLE)
            self.clock.advance(StreamingChannel.abortTimeout)
            await deferLater(reactor, 0.02)
        with self.assertRaises((ConnectionLost, ConnectionDone)):
            await finished

    async def test_unix_sockets(self) -> None:
        port = await UNIXServerEndpoint(reactor, f"{self.root}/socket").listen(self.site)
        self.addCleanup(port.stopListening)
        factory = Connecting()
        reactor.connectUNIX(f"{self.root}/socket", factory)
        client = await factory.connected
        self.clients.append(client)
        client.transport.write(GET)
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertEqual(sum(self.calls), SIZE)


class FallbackTests(LoopbackCase):
    """Where sendfile cannot be used."""

    def setUp(self) -> None:
        super().setUp()

        def unexpected(*arguments: object) -> int:
            raise AssertionError("sendfile was used")

        self.patch(os, "sendfile", unexpected)

    def memory_reader(self) -> IBlobReader:
        reader = memory_reader(CONTENT)
        assert type(reader) is BlobReader
        return reader

    async def test_tls(self) -> None:
        client = await self.client(self.tls())
        client.transport.write(GET * 2)
        for _ in range(2):
            self.assertTrue((await self.whole(client))[:SIZE] == CONTENT)
            del client.received[: client.received.index(b"\r\n\r\n") + 4 + SIZE]
        self.assertIsNone(await self.resource.outcome)
        self.assertEqual(self.resource.sent[0], SIZE)

    async def test_tls_has_the_system_read_what_comes_next(self) -> None:
        asked: list[tuple[int, int]] = []
        self.patch(delivery, "read_ahead", lambda file, start, stop: asked.append((start, stop)))
        client = await self.client(self.tls())
        client.transport.write(GET)
        self.assertTrue((await self.whole(client))[:SIZE] == CONTENT)
        self.assertEqual([start for start, _ in asked], [*range(delivery.TURN, SIZE, delivery.TURN), SIZE])
        self.assertEqual({stop - start for start, stop in asked if stop < SIZE}, {delivery.READ_AHEAD})
        self.assertEqual(max(stop for _, stop in asked), SIZE)

    async def test_content_that_is_no_file(self) -> None:
        self.resource = Delivering(self.memory_reader)
        self.site.resource = self.resource
        client = await self.client()
        client.transport.write(GET)
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertIsNone(await self.resource.outcome)

    async def test_a_client_that_leaves(self) -> None:
        for tls in (None, self.tls()):
            self.resource = self.site.resource = Delivering(self.memory_reader)
            client = await self.client(tls)
            client.transport.write(GET)
            await client.has(1)
            client.leave()
            outcome = await self.resource.outcome
            self.assertIsInstance(outcome, PeerGone, "TLS" if tls else "plain")

    async def test_a_file_that_ends_too_soon_breaks_the_connection_off(self) -> None:
        os.truncate(f"{self.root}/a", SIZE // 2)
        client = await self.client(self.tls())
        client.transport.write(GET)
        await client.lost
        self.assertIsInstance(await self.resource.outcome, OSError)
        self.assertLessEqual(len(client.body), SIZE // 2)

    async def test_a_client_that_reads_slowly_is_not_read_ahead_of(self) -> None:
        self.resource = self.site.resource = Delivering(self.memory_reader)
        client = await self.client()
        client.transport.write(GET)
        request = await self.resource.begun
        client.transport.pauseProducing()
        sent = -1
        while sent != request.sentLength:
            sent = request.sentLength
            await deferLater(reactor, 0.02)
        transport = request.channel.transport
        self.assertLess(len(transport.dataBuffer) + transport._tempDataLen, 600_000)
        client.transport.resumeProducing()
        self.assertTrue(await self.whole(client) == CONTENT)


class ReadingTests(LoopbackCase):
    """Large bodies over sockets."""

    async def test_large_bodies_come_in_large_pieces(self) -> None:
        resource = Collecting()
        self.site.resource = resource
        for tls in (None, self.tls()):
            client = await self.client(tls)
            client.transport.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE)
            while not resource.requests:
                await deferLater(reactor, 0.001)
            request = resource.requests.pop()
            # So that the system has more than one read brings.
            request.body.pauseProducing()
            client.transport.write(CONTENT)
            transport = getattr(request.channel.transport, "transport", request.channel.transport)
            while waiting(transport.fileno()) <= 80 * 1024:
                await deferLater(reactor, 0.001)
            self.assertEqual(transport.bufferSize, BULK_READ)
            sink = Sink()
            await request.body.deliver_to(sink)
            self.assertTrue(sink.content == CONTENT)
            if tls is None:
                self.assertGreater(max(map(len, sink.pieces)), 64 * 1024)
            self.assertEqual(transport.bufferSize, 64 * 1024)
            answer(request)
            await client.has(1)

    async def test_an_early_answer_reaches_who_still_sends(self) -> None:
        resource = Collecting()
        self.site.resource = resource
        client = await self.client()
        client.transport.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE)
        client.transport.write(CONTENT[: SHORT_BODY // 2])
        while not resource.requests:
            await deferLater(reactor, 0.001)
        answer(resource.requests[0], b"too early")
        # The end of the answer is told, without a reset.
        self.assertIsInstance(await client.lost, ConnectionDone)
        self.assertEqual(client.body, b"too early")


def waiting(descriptor: int) -> int:
    """Bytes that a socket has received and nobody has read."""
    size: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    return size
