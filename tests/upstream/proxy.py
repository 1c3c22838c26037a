"""An HTTP proxy: forwards requests in absolute form, tunnels for CONNECT, and wants a password if it is told so."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class Proxy(Factory):
    """A proxy on 127.0.0.1. ``asked`` are the heads of what came; ``password`` is a Proxy-Authorization that is wanted.

    Wherever it is asked to connect to, it connects to ``leads_to`` if that is set: names need not exist.
    """

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.asked: list[str] = []
        self.password: str | None = None
        self.refusal: bytes | None = None
        self.leads_to: int | None = None
        self.open: set[Protocol] = set()
        self._port: IListeningPort = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port.getHost().port}"

    async def close(self) -> None:
        stopped = self._port.stopListening()
        if stopped is not None:
            await stopped
        while self.open:
            for connection in self.open:
                connection.transport.abortConnection()  # type: ignore[union-attr]
            turned: Deferred[None] = Deferred()
            self.reactor.callLater(0, turned.callback, None)
            await turned

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Client(self)


class _Client(Protocol):
    """A client's connection: its head says where to, then all is passed on."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._head = b""
        self._server: _Server | None = None

    def connectionMade(self) -> None:
        self._proxy.open.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._proxy.open.discard(self)
        if self._server is not None:
            self._server.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._server is not None:
            self._forward(data)
            return
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if end:
            self._proxy.asked.append(head.decode("latin-1"))
            self._answer(head.decode("latin-1"))

    def _answer(self, head: str) -> None:
        method, target, _ = head.split("\r\n")[0].split(" ")
        if self._proxy.refusal is not None:
            self.transport.write(self._proxy.refusal)
            return
        if self._proxy.password is not None and f"Proxy-Authorization: {self._proxy.password}" not in head:
            self.transport.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            self._head = b""
            return
        address = target if method == "CONNECT" else target.split("/")[2]
        host, _, port = address.rpartition(":")
        if self._proxy.leads_to is not None:
            host, port = "127.0.0.1", str(self._proxy.leads_to)
        endpoint = TCP4ClientEndpoint(self._proxy.reactor, host, int(port))
        connectProtocol(endpoint, _Server(self)).addCallbacks(self._connected, self._failed, (method,))

    def _connected(self, server: _Server, method: str) -> None:
        self._server = server
        if method == "CONNECT":
            self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            head, self._head = self._head, b""
            self._forward(head)

    def _failed(self, _: Failure) -> None:
        self.transport.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")
        self.transport.loseConnection()

    def _forward(self, data: bytes) -> None:
        # Requests in absolute form become those that a server expects, one in a piece as this client sends them.
        first, end, rest = data.partition(b"\r\n")
        words = first.split(b" ")
        if end and len(words) == 3 and words[1].startswith(b"http://"):
            words[1] = b"/" + words[1].split(b"/", 3)[3]
            data = b" ".join(words) + end + rest
        assert self._server is not None
        self._server.transport.write(data)


class _Server(Protocol):
    def __init__(self, client: _Client) -> None:
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.transport.loseConnection()
