"""Proxies of the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from registryd.config.hosts import DEFAULT_PORTS
from registryd.upstream.noproxy import NoProxy

_log = Logger()

_LONGEST_HEAD = 16 * 1024


class ProxyRefused(ConnectError):
    """A proxy does not connect to where it was asked to."""


@attrs.frozen
class Proxy:
    """A proxy, and what it wants to be told of who uses it."""

    scheme: str
    host: str
    port: int
    authorization: bytes | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """The proxy that a variable names: a URL, or host and port.

        Errors:
            ValueError: it names none; the text does not repeat it.
        """
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("malformed URL") from None
        if parts.scheme not in DEFAULT_PORTS or not host:
            raise ValueError("no URL of http or https")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + b64encode(pair.encode())
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], authorization)

    def endpoint(self, reactor: Any, policy: IPolicyForHTTPS, timeout: float) -> IStreamClientEndpoint:
        """Where it listens."""
        host = self.host.encode("idna")
        endpoint = host_endpoint(reactor, host, self.port, timeout)
        if self.scheme == "http":
            return endpoint
        return wrapClientTLS(policy.creatorForNetloc(host, self.port), endpoint)


class Proxies:
    """Which proxy is meant for which URL."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        told = _variables(environment)
        self._direct = NoProxy.of(told.get("no", ""))
        self._proxies: dict[str, Proxy] = {}
        for scheme in DEFAULT_PORTS:
            if told.get(scheme):
                try:
                    self._proxies[scheme] = Proxy.parse(told[scheme])
                except ValueError as error:
                    _log.warn("{scheme}_proxy is ignored: {error}", scheme=scheme, error=error)

    def proxy_for(self, uri: URI) -> Proxy | None:
        """The proxy for a URL, or None where it is to be reached directly."""
        proxy = self._proxies.get(uri.scheme.decode("ascii"))
        if proxy is None:
            return None
        return None if self._direct.covers(uri.host.decode("ascii"), uri.port) else proxy


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxies of an environment by scheme, ``no`` for NO_PROXY: lower case names win, as everywhere.

    HTTP_PROXY in capitals counts for nothing in CGI, where a client's header Proxy sets it.
    """
    told = {}
    for key in ("http", "https", "no"):
        value = environment.get(f"{key}_proxy")
        if value is None and not (key == "http" and "REQUEST_METHOD" in environment):
            value = environment.get(f"{key.upper()}_PROXY")
        if value:
            told[key] = value
    return told


def host_endpoint(reactor: Any, host: bytes, port: int, timeout: float) -> IStreamClientEndpoint:
    """A host by name or address: of several addresses the first that answers."""
    if b"_" in host:
        # No name of a domain, but one that a network of containers may know.
        return TCP4ClientEndpoint(reactor, host.decode("ascii"), port, timeout=timeout)
    return HostnameEndpoint(reactor, host, port, timeout=timeout)


def secured(policy: IPolicyForHTTPS, uri: URI, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
    """An endpoint that speaks TLS with whom a URL names."""
    return wrapClientTLS(policy.creatorForNetloc(uri.host, uri.port), endpoint)


@implementer(IStreamClientEndpoint)
@attrs.frozen
class TunnelEndpoint:
    """A host behind a proxy that is asked to CONNECT to it. Source: RFC 9110, section 9.3.6."""

    _proxy: IStreamClientEndpoint
    _host: bytes
    _port: int
    _authorization: bytes | None = attrs.field(repr=False)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        host = b"[%s]" % self._host if b":" in self._host else self._host
        lines = [b"CONNECT %s:%d HTTP/1.1" % (host, self._port), b"Host: %s:%d" % (host, self._port)]
        if self._authorization is not None:
            lines.append(b"Proxy-Authorization: " + self._authorization)
        factory = _TunnelFactory(protocolFactory, b"\r\n".join([*lines, b"", b""]))
        connecting = self._proxy.connect(factory)
        return connecting.addCallback(_opened)


class _TunnelFactory(Factory):
    noisy = False

    def __init__(self, inner: IProtocolFactory, request: bytes) -> None:
        self._inner = inner
        self._request = request

    def buildProtocol(self, addr: IAddress | None) -> _Tunnel | None:
        protocol = self._inner.buildProtocol(cast(IAddress, addr))
        return None if protocol is None else _Tunnel(protocol, self._request)


class _Tunnel(Protocol):
    """Asks the proxy, then hands the connection to the protocol that it is for."""

    def __init__(self, inner: IProtocol, request: bytes) -> None:
        self._inner = inner
        self._request = request
        self._head = b""
        self._open = False
        self.opened: Deferred[IProtocol] | None = Deferred(lambda _: self._cancelled())

    def connectionMade(self) -> None:
        cast(ITCPTransport, self.transport).write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._open:
            self._inner.dataReceived(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > _LONGEST_HEAD:
                self._refuse("the proxy answers nonsense")
            return
        status = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].startswith(b"2"):
            code = status[1].decode("ascii", "replace")[:3] if len(status) > 1 else "nonsense"
            self._refuse(f"the proxy answered {code} to CONNECT")
            return
        self._begin(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._open:
            self._inner.connectionLost(reason)
        else:
            self._tell(Failure(ProxyRefused(string="the proxy closed the connection")))

    def _begin(self, rest: bytes) -> None:
        self._open = True
        self._head = b""
        assert self.transport is not None
        self._inner.makeConnection(self.transport)
        self._tell(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def _refuse(self, how: str) -> None:
        self._tell(Failure(ProxyRefused(string=how)))
        self._hang_up()

    def _cancelled(self) -> None:
        self.opened = None
        self._hang_up()

    def _hang_up(self) -> None:
        cast(ITCPTransport, self.transport).abortConnection()

    def _tell(self, result: IProtocol | Failure) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.callback(result)


def _opened(tunnel: Any) -> Deferred[IProtocol]:
    opened: Deferred[IProtocol] = tunnel.opened
    return opened
