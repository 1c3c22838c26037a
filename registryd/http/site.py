"""The site: the connections of one port, and its access log."""

from __future__ import annotations

import time
from typing import TextIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request
from twisted.web.resource import IResource
from twisted.web.server import Site

from registryd.http.streaming import StreamingChannel, StreamingRequest, shown_peer


class RegistrySite(Site):
    """Serves a resource over streaming requests.

    ``header_limit`` are the bytes that a request's headers may have, ``timeout`` the seconds that a peer may be silent.
    """

    protocol = StreamingChannel  # type: ignore[assignment]  # Twisted's own choice of a protocol would offer HTTP/2.
    requestFactory = StreamingRequest
    noisy = False

    def __init__(
        self, resource: IResource, reactor: IReactorTime, header_limit: int, timeout: float, access_log: TextIO | None
    ) -> None:
        super().__init__(resource, timeout=timeout, reactor=reactor, requestFactory=StreamingRequest)
        self.header_limit = header_limit
        self.draining = False
        self.connections: set[StreamingChannel] = set()
        self._clock = reactor
        self._access_log = access_log
        self._second = 0
        self._shown_second = ""

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
        """Write a line of the access log, in Apache's combined format."""
        if self._access_log is None:
            return
        self._access_log.write(
            f"{shown_peer(request.getClientAddress())} - - [{self._now()}]"
            f' "{_safe(request.method)} {_safe(request.uri)} {_safe(request.clientproto)}"'
            f" {request.code} {request.sentLength}"
            f' "{_header(request, b"referer")}" "{_header(request, b"user-agent")}"\n'
        )

    def _now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._shown_second = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))
        return self._shown_second


def _header(request: Request, name: bytes) -> str:
    values = request.requestHeaders.getRawHeaders(name)
    return _safe(values[0]) if values else "-"


def _safe(value: bytes) -> str:
    """Text that cannot end the line or the quotes that it stands in."""
    text = value.decode("ascii", "backslashreplace")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
