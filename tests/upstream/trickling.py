"""A server of bytes, for answers that no library would give."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.upstream.case import UpstreamCase


class Trickling(Factory):
    """A server that answers every request with some bytes, and then what ``send`` is told."""

    noisy = False

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.open: list[Protocol] = []

    def listen(self, case: UpstreamCase) -> str:
        port = reactor.listenTCP(0, self, interface="127.0.0.1")  # type: ignore[attr-defined]
        case.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    def buildProtocol(self, addr: object) -> Protocol:
        return _Answering(self)

    async def send(self, data: bytes) -> None:
        while not self.open:
            turned: Deferred[None] = Deferred()
            reactor.callLater(0.001, turned.callback, None)  # type: ignore[attr-defined]
            await turned
        self.open[-1].transport.write(data)  # type: ignore[union-attr]


class _Answering(Protocol):
    def __init__(self, server: Trickling) -> None:
        self._server = server

    def dataReceived(self, data: bytes) -> None:
        self._server.open.append(self)
        self.transport.write(self._server.answer)  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._server.open.clear()
