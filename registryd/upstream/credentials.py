"""Who an upstream is told that we are: a configured user, nobody, or whom a credential helper names.

Source of the helpers' protocol: docker-credential-helpers, "Development".
"""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from registryd.config.values import CredentialHelper
from registryd.errors import UpstreamUnavailable
from registryd.upstream.sharing import Shared

_log = Logger()

HELPER_TIMEOUT = 30.0
"""Seconds after which a credential helper is ended."""

_IDENTITY = "<token>"
_LONGEST_ANSWER = 64 * 1024


@attrs.frozen
class Credentials:
    """A user's name and password, or an identity token to get access tokens with."""

    username: str
    secret: str = attrs.field(repr=False)

    @property
    def is_identity(self) -> bool:
        """Whether the secret is an identity token, by docker's convention for the name."""
        return self.username == _IDENTITY

    @property
    def basic(self) -> bytes:
        """The value of an Authorization header."""
        return b"Basic " + b64encode(f"{self.username}:{self.secret}".encode())


class ICredentialSource(Protocol):
    """Where credentials come from."""

    def get(self, server: str) -> Deferred[Credentials | None]:
        """The credentials for a server (host and port), or None where there are none.

        Errors:
            UpstreamUnavailable: they cannot be had now.
        """

    def refused(self) -> None:
        """They were of no use: what is remembered may be out of date."""

    def renewed(self, server: str) -> Deferred[Credentials | None]:
        """As ``get``, asked anew; what is remembered stays where that fails."""


@attrs.frozen
class Configured:
    """The same for ever."""

    _credentials: Credentials | None

    def get(self, server: str) -> Deferred[Credentials | None]:
        done: Deferred[Credentials | None] = Deferred()
        done.callback(self._credentials)
        return done

    def refused(self) -> None:
        pass

    def renewed(self, server: str) -> Deferred[Credentials | None]:
        return self.get(server)


class Helped:
    """What a credential helper says, kept for its lifetime; it runs once at a time.

    A lifetime of None keeps it until it is refused, 0 asks for every request.
    """

    def __init__(self, helper: CredentialHelper, reactor: Any, environment: Mapping[str, str], clock: Any) -> None:
        self._helper = helper
        self._reactor = reactor
        self._environment = environment
        self._clock = clock
        self._kept: dict[str, tuple[Credentials, float]] = {}
        self._shared: Shared[Credentials] = Shared()

    def get(self, server: str) -> Deferred[Credentials | None]:
        kept = self._kept.get(server)
        lifetime = self._helper.lifetime
        if kept is not None and (lifetime is None or self._clock.seconds() - kept[1] < lifetime):
            return Configured(kept[0]).get(server)
        return self.renewed(server)

    def refused(self) -> None:
        self._kept.clear()

    def renewed(self, server: str) -> Deferred[Credentials | None]:
        return self._shared.result(server, lambda: self._ask(server)).addCallback(_maybe)

    async def _ask(self, server: str) -> Credentials:
        command = find_helper(self._helper.command, self._environment)
        answer = await run_helper(self._reactor, self._clock, command, server, self._environment)
        credentials = _read(answer)
        self._kept[server] = (credentials, self._clock.seconds())
        return credentials


def _maybe(credentials: Credentials) -> Credentials | None:
    return credentials


def find_helper(command: str, environment: Mapping[str, str]) -> str:
    """The program that a configuration names: by what follows ``docker-credential-`` in its name, a command, or a path.

    Errors:
        UpstreamUnavailable: there is none.
    """
    path = environment.get("PATH", os.defpath)
    # Short names first: docker-credential-pass is meant, and not the program pass.
    for name in (f"docker-credential-{command}", command):
        found = shutil.which(name, path=path)
        if found is not None:
            return found
    raise UpstreamUnavailable(f"credential helper {command}: no such command")


def _read(answer: bytes) -> Credentials:
    try:
        document = json.loads(answer)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, TypeError, KeyError):
        raise UpstreamUnavailable("the credential helper answered nonsense") from None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise UpstreamUnavailable("the credential helper answered nonsense")
    return Credentials(username, secret)


def run_helper(
    reactor: IReactorProcess, clock: Any, command: str, server: str, environment: Mapping[str, str]
) -> Deferred[bytes]:
    """What a helper prints when it is asked for a server's credentials.

    Errors:
        UpstreamUnavailable: it cannot be run, fails, or takes too long.
    """
    process = _Helper(os.path.basename(command), server, clock)
    try:
        reactor.spawnProcess(process, command, [command, "get"], env=dict(environment))
    except OSError as error:
        process.fail(error.strerror or "cannot be run")
    return process.done


class _Helper(ProcessProtocol):
    """A helper that runs: is told the server, and ended when it takes too long."""

    def __init__(self, name: str, server: str, clock: Any) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._name = name
        self._server = server
        self._output = b""
        self._errors = b""
        self._timer = clock.callLater(HELPER_TIMEOUT, self._late)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._server.encode())
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > _LONGEST_ANSWER:
            self.fail("says too much")

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[:_LONGEST_ANSWER]

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessDone):
            self._tell(self._output)
            return
        # Helpers tell why on standard output. Where they print credentials, they do not fail.
        text = (self._output.strip() or self._errors.strip()).decode("utf-8", "replace").splitlines()
        self.fail(text[0][:200] if text and not text[0].startswith("{") else "failed")

    def fail(self, how: str) -> None:
        """End it, if it runs, and tell why."""
        self._tell(Failure(UpstreamUnavailable(f"credential helper {self._name}: {how}")))
        if self.transport is not None and self.transport.pid is not None:
            self.transport.signalProcess("KILL")

    def _late(self) -> None:
        self.fail(f"took more than {HELPER_TIMEOUT:g} s")

    def _tell(self, result: bytes | Failure) -> None:
        if self._timer.active():
            self._timer.cancel()
        if not self.done.called:
            self.done.callback(result)
