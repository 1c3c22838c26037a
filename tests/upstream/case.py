"""What tests of upstreams begin with: a hostile registry, a clock, and the assurance that no secret gets into a log."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import provider

from registryd.cache.mirrored import Mirrored
from registryd.cache.registry import CachingRegistry
from registryd.cache.source import Source
from registryd.config import Upstream
from registryd.config.values import CredentialHelper
from registryd.errors import UpstreamUnavailable
from registryd.metrics import MirrorMetrics
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage.memory import MemoryDriver
from registryd.upstream import Patience, UpstreamRegistry
from tests.cache.mirror import FakeSpace
from tests.upstream.hostile import Hostile
from tests.values import Sink, at_once, local_registry

_T = TypeVar("_T")

NAME = RepositoryName("team/app")
LATEST = Tag("latest")
SECRET = "s3cr3t-never-told"
LIMIT = 64 * 1024


def folder_of(case: SynchronousTestCase | TestCase) -> Path:
    """A folder for a test, which goes with it."""
    folder = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, folder, True)
    return Path(folder)


class UpstreamCase(TestCase):
    """``hostile`` serves; ``clock`` is what upstreams measure delays and silence with, sockets are real."""

    timeout = 20

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.events: list[str] = []
        self.hostile = self.another()
        self._observe()

    def another(self, **listening: Any) -> Hostile:
        """One more hostile registry."""
        hostile = Hostile(reactor)
        hostile.listen(**listening)
        self.addCleanup(lambda: Deferred.fromCoroutine(hostile.close()))
        return hostile

    def _observe(self) -> None:
        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            if str(event.get("log_namespace", "")).startswith("registryd"):
                self.events.append(f"{event['log_level'].name} {formatEvent(event)}")

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def tearDown(self) -> None:
        for secret in (SECRET, "Bearer ", "Basic ", *self.hostile.tokens):
            for event in self.events:
                self.assertNotIn(secret, event)

    def upstream(
        self,
        *urls: str,
        username: str = "",
        password: str = "",
        helper: CredentialHelper | None = None,
        ca: str | None = None,
        requests: int = 16,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> UpstreamRegistry:
        """An upstream of URLs, or the hostile registry."""
        settings = Upstream(urls or (self.hostile.url,), username, password, helper, ca, None, 60.0, requests)
        arguments = {"clock": self.clock, "patience": Patience(), **more}
        # Twisted tries the next address of a name for a while after it has got a connection.
        self.addCleanup(self._until_tried)
        upstream = UpstreamRegistry(settings, "up", reactor, LIMIT, environment=environment or {}, **arguments)
        self.addCleanup(upstream.close)
        return upstream

    def mirror(
        self, upstream: UpstreamRegistry, capacity: int | None = None, most_untold: int | None = None
    ) -> CachingRegistry:
        """A mirror of an upstream, with nothing in it, and room for so many bytes."""
        local = local_registry(MemoryDriver(capacity), at_once, now=self.clock.seconds)
        mirrored, meters = Mirrored(local.tree, "up"), MirrorMetrics()
        source = Source(upstream, mirrored, lambda name: name, 60.0, at_once, self.clock, self.clock.seconds, meters)
        if most_untold is not None:
            source = attrs.evolve(source, most_untold=most_untold)
        return CachingRegistry(source, local, local.uploads, local.promises, FakeSpace())

    def _until_tried(self) -> Deferred[None]:
        def trying() -> bool:
            return any("iterateEndpoint" in str(call) for call in reactor.getDelayedCalls())  # type: ignore[attr-defined]

        return Deferred.fromCoroutine(self.until(lambda: not trying()))

    async def unavailable(self, asking: Awaitable[object]) -> UpstreamUnavailable:
        """The error of a call that must end with one, which tells no secret."""
        with self.assertRaises(UpstreamUnavailable) as raised:
            await asking
        error = raised.exception
        assert isinstance(error, UpstreamUnavailable)
        self.assertNotIn(SECRET, str(error))
        return error

    async def fetched(self, upstream: UpstreamRegistry, digest: Digest, start: int = 0) -> bytes:
        """The bytes of a blob from an offset on."""
        fetch = await upstream.fetch_blob(NAME, digest, start)
        sink = Sink()
        await fetch.deliver_to(sink)
        return sink.content

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when a condition holds, which takes a few turns of the reactor."""
        while not condition():
            await self.turn()

    def turn(self) -> Deferred[None]:
        """Fires after a turn of the reactor."""
        done: Deferred[None] = Deferred()
        reactor.callLater(0.001, done.callback, None)  # type: ignore[attr-defined]
        return done

    async def turns(self, number: int = 20) -> None:
        """Let happen what is about to happen."""
        for _ in range(number):
            await self.turn()

    def said(self, text: str) -> Sequence[str]:
        """The lines of the log that contain a text."""
        return [event for event in self.events if text in event]
