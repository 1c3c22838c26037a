"""The site: the connections of one port."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request
from twisted.web.resource import IResource
from twisted.web.server import Site

from registryd.http.accesslog import AccessLog
from registryd.http.streaming import StreamingChannel, StreamingRequest


class RegistrySite(Site):
    """Serves a resource over streaming requests.

    ``header_limit`` are the bytes that a request's headers may have, ``timeout`` the seconds that a peer may be silent.
    """

    protocol = StreamingChannel  # type: ignore[assignment]  # Twisted's own choice of a protocol would offer HTTP/2.
    requestFactory = StreamingRequest
    noisy = False

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        header_limit: int,
        timeout: float,
        access_log: AccessLog | None,
    ) -> None:
        super().__init__(resource, timeout=timeout, reactor=reactor, requestFactory=StreamingRequest)
        self.header_limit = header_limit
        self.draining = False
        self.connections: set[StreamingChannel] = set()
        self._clock = reactor
        self._access_log = access_log

    def drain(self, seconds: float) -> Deferred[None]:
        """Let what is in flight finish, within some seconds, and close all connections; fires when none is left."""
        self.draining = True
        drained: Deferred[None] = Deferred()
        deadline = self._clock.seconds() + seconds

        def look() -> None:
            late = self._clock.seconds() >= deadline
            for connection in list(self.connections):
                if late:
                    connection.break_off()
                elif connection.is_idle():
                    connection.loseConnection()
            if late or not self.connections:
                drained.callback(None)
            else:
                self._clock.callLater(0.05, look)

        look()
        return drained

    def log(self, request: Request) -> None:
        if self._access_log is not None:
            self._access_log.add(request)
