"""What dials an upstream: persistent connections, verified TLS, the proxies of the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import attrs
from OpenSSL import SSL, crypto
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import OpenSSLDefaultPaths
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HostnameCachingHTTPSPolicy,
    HTTPConnectionPool,
    ProxyAgent,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from registryd.upstream.proxies import Proxies, Proxy, TunnelEndpoint, host_endpoint, secured

IDLE = 50
"""Seconds for which a connection without a request is kept: less than the minute after which balancers drop one."""

READ = 2048 * 1024
"""Bytes that are read from a socket at once: what comes is stored, hashed and passed on in as large pieces."""


@attrs.frozen
class Patience:
    """Seconds that an upstream may take: to be connected to, for the head of its answer in all, between two bytes."""

    connect: float = 10.0
    response: float = 30.0
    read: float = 20.0


MOST_HEAD = 256 * 1024
"""Bytes of an answer that may come before its head has ended: Twisted's parser takes any number of lines."""

_NAME = re.compile(rb"(?:[0-9A-Za-z_-]{1,63}(?:\.|$))+")


class AuthorityError(Exception):
    """The file of authorities that a configuration names cannot be used; one line that says which, and why."""


class _SystemAnd(OpenSSLDefaultPaths):
    """The system's authorities and some more: redirects lead to hosts that the public ones vouch for."""

    def __init__(self, more: Sequence[crypto.X509]) -> None:
        self._more = more

    # Twisted's interface of trust roots has this method alone, and no public name for it.
    def _addCACertsToContext(self, context: SSL.Context) -> None:
        super()._addCACertsToContext(context)
        store = context.get_cert_store()
        assert store is not None
        for certificate in self._more:
            store.add_cert(certificate)


def https_policy(authorities: str | None) -> IPolicyForHTTPS:
    """How servers are verified: against the system's authorities and, in addition, those in a PEM file.

    Errors:
        AuthorityError: the file cannot be read, or holds no certificate.
    """
    if authorities is None:
        return HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS())
    return HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(_SystemAnd(_read_authorities(authorities))))


def _read_authorities(path: str) -> Sequence[crypto.X509]:
    end = b"-----END CERTIFICATE-----"
    try:
        with open(path, "rb") as file:
            blocks = [block + end for block in file.read().split(end)[:-1]]
        if not blocks:
            raise ValueError("there is no certificate in it")
        return [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]
    except OSError as error:
        raise AuthorityError(f"{path}: {error.strerror}") from error
    except (crypto.Error, ValueError) as error:
        said = str(error) if isinstance(error, ValueError) else "not in PEM form"
        raise AuthorityError(f"{path}: {said}") from error


@implementer(IAgent)
class DiallingAgent:
    """Takes each request directly or through the proxy that is meant for it; keeps ``connections`` a host.

    Nothing is dialled before the first request.
    """

    def __init__(
        self, reactor: Any, policy: IPolicyForHTTPS, connections: int, timeout: float, environment: Mapping[str, str]
    ) -> None:
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = IDLE
        self._reactor = reactor
        self._proxies = Proxies(environment)
        self._policy = policy
        self._timeout = timeout
        self._open = _Open()
        self._endpoints = _Endpoints(reactor, policy, timeout, self._proxies, self._open)
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, self._pool)
        self._by_proxy: dict[Proxy, ProxyAgent] = {}

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        parsed = URI.fromBytes(uri)
        if not _is_host(parsed.host):
            return fail(DNSLookupError())
        proxy = self._proxies.proxy_for(parsed) if parsed.scheme == b"http" else None
        if proxy is None:
            return cast("Deferred[IResponse]", self._agent.request(method, uri, headers, bodyProducer))
        headers = headers.copy() if headers is not None else Headers()
        if proxy.authorization is not None:
            headers.setRawHeaders(b"Proxy-Authorization", [proxy.authorization])
        return cast("Deferred[IResponse]", self._through(proxy).request(method, uri, headers, bodyProducer))

    async def close(self) -> None:
        """Close all connections; what is under way on them fails."""
        await self._open.close()
        await cast("Deferred[None]", self._pool.closeCachedConnections())

    def _through(self, proxy: Proxy) -> ProxyAgent:
        agent = self._by_proxy.get(proxy)
        if agent is None:
            endpoint = _Abortable(proxy.endpoint(self._reactor, self._policy, self._timeout), self._open)
            agent = self._by_proxy[proxy] = ProxyAgent(endpoint, self._reactor, self._pool)
        return agent


def _is_host(host: bytes) -> bool:
    """Whether a host can be asked for: the resolver never answers for names with an empty part, or too long a one."""
    return _NAME.fullmatch(host) is not None or isIPv6Address(host.decode("ascii"))


@implementer(IAgentEndpointFactory)
@attrs.frozen
class _Endpoints:
    """Where a connection for a URL goes to: the host itself, or a proxy that tunnels to it."""

    _reactor: Any
    _policy: IPolicyForHTTPS
    _timeout: float
    _proxies: Proxies
    _open: _Open

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        proxy = self._proxies.proxy_for(uri) if uri.scheme == b"https" else None
        if proxy is None:
            endpoint = host_endpoint(self._reactor, uri.host, uri.port, self._timeout)
        else:
            endpoint = TunnelEndpoint(
                proxy.endpoint(self._reactor, self._policy, self._timeout), uri.host, uri.port, proxy.authorization
            )
        return _Abortable(secured(self._policy, uri, endpoint) if uri.scheme == b"https" else endpoint, self._open)


class _Open:
    """The connections that are open."""

    def __init__(self) -> None:
        self.connections: set[_Connection] = set()
        self._closing: Deferred[None] | None = None

    def close(self) -> Deferred[None]:
        """Close them; fires when none is left."""
        closed = self._closing = Deferred()
        for connection in tuple(self.connections):
            connection.abortConnection()
        self.lost(None)
        return closed

    def lost(self, connection: _Connection | None) -> None:
        """Hear that one is closed."""
        if connection is not None:
            self.connections.discard(connection)
        if self._closing is not None and not self.connections:
            closing, self._closing = self._closing, None
            closing.callback(None)


class _Connection(ProtocolWrapper):
    """A connection that is given up at once: nothing that could still be sent is worth waiting for the peer.

    It is given up as well where the head of an answer does not end; behind it the parser pauses what brings a body.
    """

    _head = 0

    factory: _Connections

    def makeConnection(self, transport: ITransport) -> None:
        self.factory.open.connections.add(self)
        connection: Any = getattr(transport, "transport", transport)  # With TLS the one below reads.
        if hasattr(connection, "bufferSize"):
            connection.bufferSize = READ
        super().makeConnection(transport)

    def write(self, data: bytes) -> None:
        self._head = 0
        super().write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._head = 0
        super().writeSequence(data)

    def pauseProducing(self) -> None:
        self._head = -1
        cast(IPushProducer, self.transport).pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._head >= 0:
            self._head += len(data)
            if self._head > MOST_HEAD:
                self.abortConnection()
                return
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.open.lost(self)

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        self.disconnecting = True
        cast(ITCPTransport, self.transport).abortConnection()


class _Connections(WrappingFactory):
    protocol = _Connection
    noisy = False

    def __init__(self, wrapped: Any, connections: _Open) -> None:
        super().__init__(wrapped)
        self.open = connections
        wrapped.noisy = False  # Its logs tell of every connection.


@implementer(IStreamClientEndpoint)
@attrs.frozen
class _Abortable:
    """An endpoint whose connections Twisted's client closes without waiting for the peer to agree."""

    _endpoint: IStreamClientEndpoint
    _open: _Open

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(_Connections(protocolFactory, self._open)).addCallback(_wrapped)


def _wrapped(connection: IProtocol) -> IProtocol:
    return cast(ProtocolWrapper, connection).wrappedProtocol
