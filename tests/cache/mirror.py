"""A cache over an upstream in memory, with a clock that tests set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from registryd.cache.mirrored import Mirrored
from registryd.cache.registry import CachingRegistry
from registryd.cache.source import MOST_UNTOLD, Source
from registryd.interfaces import IBlobReader, InThread, Space
from registryd.metrics import MirrorMetrics
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IContentReader, IContentWriter, IStorageDriver, Stat
from registryd.storage.memory import MemoryDriver
from tests.cache.upstream import PIECE, FakeUpstream
from tests.values import Sink, at_once, local_registry

APP: Final = RepositoryName("docker.io/library/app")
OTHER_APP: Final = RepositoryName("docker.io/library/other")
REMOTE: Final = RepositoryName("library/app")
UPSTREAM: Final = "docker.io"
FRESHNESS: Final = 60.0

LARGE: Final = bytes(range(256)) * (5 * PIECE // 256) + b"the end"


class WatchedDriver(MemoryDriver):
    """A memory driver that knows what was opened, how often, and not closed, and what was looked at."""

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__(capacity)
        self._opened: list[tuple[str, IContentReader]] = []
        self.openings: Counter[str] = Counter()
        self.looked_at: list[str] = []

    @property
    def opened(self) -> list[str]:
        """The paths of what is open."""
        return [path for path, content in self._opened if content._content is not None]  # type: ignore[attr-defined]

    def stat(self, path: str) -> Stat:
        self.looked_at.append(path)
        return super().stat(path)

    def reader(self, path: str) -> IContentReader:
        content = super().reader(path)
        self.openings[path] += 1
        self._opened.append((path, content))
        return content

    def writer(self, path: str, create: bool) -> IContentWriter:
        content = super().writer(path, create)
        self.openings[path] += 1
        self._opened.append((path, content))  # type: ignore[arg-type]
        return content


class FakeSpace(Space):
    """Counts what came; making room raises the capacity of a driver."""

    def __init__(self, driver: MemoryDriver | None = None, gain: int = 0) -> None:
        self.sizes: list[int] = []
        self.asked = 0
        self._driver = driver
        self._gain = gain

    def came(self, size: int) -> None:
        self.sizes.append(size)

    def make_room(self) -> Deferred[bool]:
        self.asked += 1
        if self._driver is not None and self._driver.capacity is not None:
            self._driver.capacity += self._gain
        return succeed(self._gain > 0)


class Mirror:
    """One process's cache. Two over the same storage share the upstream and the clock."""

    def __init__(
        self,
        driver: IStorageDriver | None = None,
        *,
        like: Mirror | None = None,
        space: Space | None = None,
        in_thread: InThread = at_once,
        upstream: str = UPSTREAM,
        aliases: Container[str] = frozenset(),
        most_passing: int = 8,
        most_untold: int = MOST_UNTOLD,
    ) -> None:
        self.driver = WatchedDriver() if driver is None else driver
        self.clock: Clock = Clock() if like is None else like.clock
        self.upstream: FakeUpstream = FakeUpstream() if like is None else like.upstream
        self.space = FakeSpace() if space is None else space
        self.meters = MirrorMetrics()
        self.local = local_registry(self.driver, in_thread, now=self.now)
        self.mirrored = Mirrored(self.local.tree, upstream, aliases)
        source = Source(
            self.upstream,
            self.mirrored,
            lambda name: RepositoryName(name.partition("/")[2]),
            FRESHNESS,
            in_thread,
            self.clock,
            self.now,
            self.meters,
            most_passing,
            most_untold,
        )
        local = self.local
        self.registry = CachingRegistry(source, local, local.uploads, local.promises, self.space)

    def limit(self, capacity: int) -> None:
        """Let the storage in memory have room for so many bytes."""
        assert isinstance(self.driver, MemoryDriver)
        self.driver.capacity = capacity

    def now(self) -> float:
        return time.time() + self.clock.seconds()

    def has(self, path: str) -> bool:
        return self.local.tree.exists(path)

    def has_blob(self, digest: Digest, name: RepositoryName = APP) -> bool:
        """Whether a blob is stored, and of a repository."""
        return self.has(layout.blob_data(digest)) and self.has(layout.layer_link(name, digest))

    def has_session(self, digest: Digest, name: RepositoryName = APP) -> bool:
        return self.has(layout.upload(name, layout.fill_id(digest)))


class Pull:
    """One client's pull of a blob, or of a part of it."""

    def __init__(self, reader: IBlobReader, start: int = 0, stop: int | None = None, greedy: bool = True) -> None:
        self.sink = Sink(greedy)
        self.reader = reader
        self.done = reader.deliver_to(self.sink, start, reader.descriptor.size if stop is None else stop)
        self.done.addBoth(self._close)

    def _close(self, result: object) -> object:
        self.reader.close()
        return result

    @property
    def content(self) -> bytes:
        return self.sink.content

    def drain(self) -> None:
        """Take all that comes, where each piece must be asked for."""
        while self.sink.producer is not None:
            self.sink.resume()

    def leave(self) -> None:
        assert self.sink.producer is not None
        self.sink.producer.stopProducing()


class MirrorTestCase(SynchronousTestCase):
    """Tests of one cache in memory."""

    def setUp(self) -> None:
        self.mirror = Mirror()
        self.upstream = self.mirror.upstream
        self.clock = self.mirror.clock
        self.registry = self.mirror.registry
        self._pulls: list[Pull] = []
        self.addCleanup(self.end)

    def end(self) -> None:
        """End what is under way; what then fails was no part of the test."""
        self.mirror.registry.stop()
        for pull in self._pulls:
            pull.done.addErrback(lambda _: None)

    def open(self, digest: Digest, mirror: Mirror | None = None, name: RepositoryName = APP) -> IBlobReader:
        return self.successResultOf((mirror or self.mirror).registry.open_blob(name, digest))

    def pull(
        self,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        greedy: bool = True,
        mirror: Mirror | None = None,
    ) -> Pull:
        pull = Pull(self.open(digest, mirror), start, stop, greedy)
        self._pulls.append(pull)
        return pull

    def assert_pulled(self, pull: Pull, content: bytes) -> None:
        self.assertIsNone(self.successResultOf(pull.done))
        self.assertEqual(pull.content == content, True, f"{len(pull.content)} bytes instead of {len(content)}")

    def pass_delays(self, seconds: float = 60.0) -> None:
        """Let the clock go on in small steps."""
        self.clock.pump([0.25] * int(seconds * 4))

    def assert_nothing_open(self) -> None:
        driver = self.mirror.driver
        assert isinstance(driver, WatchedDriver)
        self.assertEqual(driver.opened, [])
