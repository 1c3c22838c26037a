"""One registry as a service: its port, its threads and its timers, from start to drained stop."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from registryd.assemble import assemble
from registryd.collection import CollectorProcess, UnboundedSpace
from registryd.config import Config, Debug, Purging
from registryd.http.accesslog import AccessLog
from registryd.http.debug import DebugSite
from registryd.http.site import RegistrySite
from registryd.metrics import CollectorMetrics, Metrics, MirrorMetrics
from registryd.storage import layout
from registryd.storage.configured import UnknownDriverError
from registryd.storage.interfaces import IStorageDriver
from registryd.tls import TlsError, server_options
from registryd.upstream import AuthorityError

_log = Logger()

BACKLOG = 1024
_UNPRIVILEGED_PORTS = 1024
_FIRST_PURGE = 3600.0
_SYSTEMD_FIRST_FD = 3


class StartError(Exception):
    """The daemon cannot start; one line that says why."""


class RegistryService(Service):
    """Serves the registry of one configuration.

    Errors (of ``privilegedStartService`` and ``startService``):
        StartError: the port, the store or the certificate cannot be had.
    """

    def __init__(self, config: Config, reactor: Any, access_log: AccessLog) -> None:
        self._config = config
        self._reactor = reactor
        self._threads = ThreadPool(minthreads=0, maxthreads=config.storage.threads, name="storage")
        self._mirror_metrics = MirrorMetrics()
        runs = CollectorMetrics()
        self._collector = CollectorProcess(config, reactor, runs.observe) if _is_collectable(config) else None
        if self._collector is not None and config.proxy is not None:
            runs.watch_cache(self._collector.cached_bytes, config.proxy.max_size)
        self._metrics = Metrics(self._mirror_metrics, runs)
        try:
            space = self._collector or UnboundedSpace()
            self._assembled = assemble(config, reactor, self._threads, space, self._mirror_metrics)
        except (UnknownDriverError, AuthorityError) as error:
            raise StartError(str(error)) from error
        limits = config.http.limits
        log = access_log if config.log.access else None
        self._site = RegistrySite(self._assembled.resource, reactor, limits.header, limits.idle, log)
        self._port: IListeningPort | None = None
        self._debug_port: IListeningPort | None = None
        self._cancel_timers: Callable[[], None] = lambda: None

    def privilegedStartService(self) -> None:
        """Bind a port that only a privileged process can bind."""
        super().privilegedStartService()
        if self._needs_privilege():
            self._listen()

    def startService(self) -> None:
        super().startService()
        self._take_storage(self._assembled.driver)
        if self._port is None:
            self._listen()
        if self._config.http.debug is not None:
            self._listen_for_operators(self._config.http.debug)
        self._threads.start()
        if self._collector is not None:
            self._collector.start()
        elif self._config.collection.interval is not None:
            _log.warn(
                "{source}: gc.interval: what is read-only or in memory is not collected", source=self._config.source
            )
        if self._config.storage.purging is not None and not self._config.storage.read_only:
            self._schedule_purging(self._config.storage.purging)
        if self._config.unbuilt:
            _log.warn(
                "{source}: configured, but not supported yet: {keys}",
                source=self._config.source,
                keys=", ".join(self._config.unbuilt),
            )
        for warning in self._config.warnings:
            _log.warn("{warning}", warning=warning)
        _log.info("listening on {address}", address=self._shown_address())

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop accepting, let what is in flight finish, and release the store."""
        yield super().stopService()
        self._cancel_timers()
        collected = self._collector.stop() if self._collector is not None else None
        if self._port is not None:
            yield self._port.stopListening()
        yield self._site.drain(self._config.http.drain_timeout)
        yield self._assembled.stop()
        if self._threads.started:
            yield deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._threads.stop)
        yield collected
        if self._debug_port is not None:
            yield self._debug_port.stopListening()
        self._assembled.driver.close()

    def _needs_privilege(self) -> bool:
        port = self._config.http.address.rpartition(":")[2]
        return self._config.http.net == "tcp" and port.isdigit() and 0 < int(port) < _UNPRIVILEGED_PORTS

    def _listen(self) -> None:
        factory: Any = self._site
        if self._config.http.tls is not None:
            try:
                factory = TLSMemoryBIOFactory(server_options(self._config.http.tls), False, self._site)
            except TlsError as error:
                raise StartError(str(error)) from error
        self._port = _listening(self._endpoint(), factory, self._config.http.address)

    def _listen_for_operators(self, debug: Debug) -> None:
        pages = {debug.metrics: self._metrics.page} if debug.metrics is not None else {}
        endpoint = self._tcp_endpoint("http.debug.addr", debug.address)
        self._debug_port = _listening(endpoint, DebugSite(pages, self._reactor), debug.address)
        _log.info("debug port on http://{address}", address=_shown(self._debug_port.getHost()))

    def _endpoint(self) -> IStreamServerEndpoint:
        http = self._config.http
        if http.net == "unix":
            return UNIXServerEndpoint(self._reactor, http.address, BACKLOG, wantPID=True)
        if not http.address:
            return self._systemd_endpoint()
        return self._tcp_endpoint("http.addr", http.address)

    def _tcp_endpoint(self, key: str, address: str) -> IStreamServerEndpoint:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            number = int(port)
        except ValueError:
            raise StartError(f"{self._config.source}: {key}: {address!r} has no port number") from None
        if ":" in host or (not host and socket.has_dualstack_ipv6()):
            return TCP6ServerEndpoint(self._reactor, number, BACKLOG, host or "::")
        return TCP4ServerEndpoint(self._reactor, number, BACKLOG, _address_of(host))

    def _systemd_endpoint(self) -> IStreamServerEndpoint:
        missing = f"{self._config.source}: http.addr: missing: write for example :5000"
        try:
            with socket.socket(fileno=os.dup(_SYSTEMD_FIRST_FD)) as handed:
                domain = {socket.AF_UNIX: "UNIX", socket.AF_INET6: "INET6"}.get(handed.family, "INET")
            # Twisted knows what systemd has handed over, and has taken the variables that told it.
            endpoint: IStreamServerEndpoint = serverFromString(self._reactor, f"systemd:domain={domain}:index=0")
            return endpoint
        except (OSError, IndexError, KeyError, ValueError):
            raise StartError(missing) from None

    def _take_storage(self, driver: IStorageDriver) -> None:
        """Share the store with other daemons, and see that it can be written where it must be."""
        try:
            driver.lock(False)
            if not self._config.storage.read_only:
                probe = f"{layout.ROOT}/_writable.{uuid4()}.tmp"
                driver.put_content(probe, b"")
                driver.delete(probe)
                driver.make_folder(layout.REPOSITORIES)
        except BlockingIOError:
            raise StartError(f"{self._config.storage.rootdirectory}: an offline collector holds this store") from None
        except OSError as error:
            raise StartError(
                f"{self._config.storage.rootdirectory}: the store cannot be written: {error.strerror}"
            ) from error

    def _schedule_purging(self, purging: Purging) -> None:
        # A random delay, so that daemons that share a store do not all walk it at once.
        repeated = LoopingCall(self._purge, purging)
        repeated.clock = self._reactor
        delay = random.uniform(0, min(_FIRST_PURGE, purging.interval))
        first = self._reactor.callLater(delay, repeated.start, purging.interval)

        def cancel() -> None:
            if first.active():
                first.cancel()
            elif repeated.running:
                repeated.stop()

        self._cancel_timers = cancel

    def _purge(self, purging: Purging) -> Deferred[None]:
        def done(purged: int) -> None:
            note = " (dry run)" if purging.dry_run else ""
            _log.info("{count} upload sessions purged{note}", count=purged, note=note)

        def failed(failure: Failure) -> None:
            _log.failure("upload sessions were not purged", failure)

        purged = deferToThreadPool(
            self._reactor, self._threads, self._assembled.uploads.purge, purging.age, purging.dry_run
        )
        return purged.addCallbacks(done, failed)

    def _shown_address(self) -> str:
        if self._config.http.net == "unix":
            return f"unix:{self._config.http.address}"
        assert self._port is not None
        address = self._port.getHost()
        if not isinstance(address, IPv4Address | IPv6Address):
            return f"unix:{address}"
        return f"{'https' if self._config.http.tls else 'http'}://{_shown(address)}"


def _is_collectable(config: Config) -> bool:
    """Whether a process beside the daemon finds the registry's content, and may change it."""
    return config.storage.driver != "inmemory" and not config.storage.read_only


def _listening(endpoint: IStreamServerEndpoint, factory: Any, address: str) -> IListeningPort:
    """The port that an endpoint has opened.

    Errors:
        StartError: it cannot.
    """
    ports: list[IListeningPort] = []
    failures: list[Failure] = []
    endpoint.listen(factory).addCallbacks(ports.append, failures.append)
    for failure in failures:
        raise StartError(_why_not_listening(address, failure.value))
    return ports[0]


def _shown(address: Any) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _address_of(host: str) -> str:
    """The IPv4 address of a name to listen on; none for all."""
    if not host:
        return ""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise StartError(f"http.addr: {host}: {error.strerror}") from error


def _why_not_listening(address: str, error: BaseException | None) -> str:
    cause = error.socketError if isinstance(error, CannotListenError) else error
    return f"cannot listen on {address}: {getattr(cause, 'strerror', None) or cause}"
