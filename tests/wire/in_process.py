"""A front that serves without a daemon or a socket, over registries in memory that do all at once."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from registryd.access import OpenAccess
from registryd.http.answers import Urls
from registryd.http.front import Front, Limits
from registryd.http.site import RegistrySite
from registryd.interfaces import INamespaces, IRegistry

from .wire import Connection, ConnectionEndedError, Response, head

LIMITS = Limits(manifest=4 << 20, upload=None, tags=1000, catalog=1000)
_PEER = IPv4Address("TCP", "127.0.0.1", 50000)


class InProcess(Connection):
    """A connection to a front. What was sent is answered when ``send`` returns, as far as the registries have."""

    def __init__(self, registry: IRegistry, namespaces: INamespaces | None, prefix: str = "/") -> None:
        front = Front(OpenAccess(registry), Urls(None, True, prefix), LIMITS, {}, namespaces)
        protocol = RegistrySite(front.resource(), Clock(), 1 << 16, 60.0, None).buildProtocol(_PEER)
        assert protocol is not None
        self.protocol = protocol
        self.transport = StringTransport(peerAddress=_PEER, lenient=True)
        self.protocol.makeConnection(self.transport)
        self.pending = b""

    def send(self, *parts: bytes) -> None:
        self.protocol.dataReceived(b"".join(parts))

    def ask(self, method: str, target: str, headers: dict[str, str]) -> None:
        """Send a request; its answer is to be received."""
        self.send(head(method, target, headers))

    def get(self, target: str, headers: dict[str, str] | None = None) -> Response:
        return self.exchange("GET", target, headers or {})

    def push(self, method: str, target: str, body: bytes = b"", media_type: str = "application/json") -> Response:
        fields = {"Content-Length": str(len(body)), "Content-Type": media_type}
        return self.exchange(method, target, fields, body)

    def _more(self) -> None:
        content = self.transport.value()
        self.transport.clear()
        if not content:
            raise ConnectionEndedError(self.pending)
        self.pending += content

    def _take(self, count: int) -> bytes:
        while len(self.pending) < count:
            self._more()
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken
