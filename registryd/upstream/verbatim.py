"""treq, held to the letter: URLs go out as they were signed, and bodies come in as they are stored."""

from __future__ import annotations

from typing import Any, Final

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from registryd.upstream.origins import Origin

STAND_IN: Final = "http://upstream.invalid"
"""The origin that treq is told instead of any other: it takes no address of IPv6, and no name with ``_``."""


def request(agent: IAgent, method: bytes, url: bytes, headers: Headers, clock: IReactorTime) -> Deferred[IResponse]:
    """The head of an answer; its body waits, to be streamed. Redirects are answers like any other."""
    # The types of treq ask for more of a reactor than it uses, and do not say that its answers are answers.
    client: Any = HTTPClient(_VerbatimAgent(agent, url))
    asked: Deferred[IResponse] = client.request(
        method.decode("ascii"),
        STAND_IN,
        headers=headers,
        allow_redirects=False,
        unbuffered=True,
        reactor=clock,
    )
    return asked


@implementer(IAgent)
@attrs.frozen
class PlacedAgent:
    """Asks an origin for what treq asks the stand-in for."""

    _agent: IAgent
    _origin: Origin

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        placed = str(self._origin).encode("ascii") + uri.removeprefix(STAND_IN.encode("ascii"))
        return self._agent.request(method, placed, headers, bodyProducer)


@implementer(IAgent)
@attrs.frozen
class _VerbatimAgent:
    """What treq asks for one URL: it would write that anew, ask for gzip, and decode what is labelled so.

    Digests are those of the bytes as they are stored, and what signs a URL signs its bytes.
    """

    _agent: IAgent
    _url: bytes

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        return self._agent.request(method, self._url, headers, bodyProducer).addCallback(_as_stored)


def _as_stored(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"Content-Encoding")
    return response
