"""The mark of a mirrored repository: beside the collector that removes it, and beside who pushes to the same name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from registryd.cache.mirrored import Mirrored
from registryd.config import load
from registryd.config.hosts import hosts_of
from registryd.errors import Unsupported
from registryd.storage import layout
from registryd.storage.memory import MemoryDriver
from registryd.storage.tree import Tree
from registryd_gc.collect import Options, collect
from registryd_gc.report import Silence
from tests.cache.mirror import APP, UPSTREAM, Mirror
from tests.daemon import Daemon
from tests.gc.interleavings import Exploration, World
from tests.gc.stepped import SteppedDriver, Steps
from tests.values import GRACE, LATEST, image, local_registry, put_blob
from tests.wire.content import Repository
from tests.wire.wire import Client

START: Final = 30 * GRACE
OPTIONS: Final = Options(GRACE)
LAYER: Final = b"layer"
IMAGE: Final = image(LAYER)
BLOB: Final = IMAGE.descriptor.digest
PATIENCE: Final = 20.0


def run_collector(driver: MemoryDriver) -> None:
    collect(driver, load(None, {}), OPTIONS, Silence())


def is_private(driver: SteppedDriver) -> bool:
    """Whether what a mirror put there looks as if somebody had pushed it."""
    held = any(driver.is_there(folder) for folder in (layout.manifests(APP), layout.layers(APP)))
    return held and not driver.is_there(layout.mirror(APP))


def emptied(driver: SteppedDriver) -> SteppedDriver:
    """A mirrored repository that has been empty for long, and a blob that is there for another."""
    driver.put_content(layout.mirror(APP), UPSTREAM.encode())
    driver.put_content(layout.upstream_tags(APP), b"[]")
    driver.clock = START
    driver.put_content(layout.blob_data(BLOB), IMAGE.content)
    return driver


FILLS: Final[dict[str, Callable[[Mirrored], object]]] = {
    "manifest": lambda mirrored: mirrored.put_manifest(APP, IMAGE),
    "blob": lambda mirrored: mirrored.link_blob(APP, BLOB),
    "tag": lambda mirrored: mirrored.put_told(APP, LATEST, IMAGE.descriptor),
    "list": lambda mirrored: mirrored.put_names(APP, layout.upstream_tags(APP), ["v1"]),
}
"""What is put into a mirrored repository."""


class Race(Steps):
    """A collector, and a mirror that fills the repository which that removes; the storage's guard holds nothing."""

    def __init__(self, fill: Callable[[Mirrored], object], renews: bool) -> None:
        driver = emptied(SteppedDriver(renews=renews))
        mirrored = Mirrored(Tree(driver), UPSTREAM)
        super().__init__(driver, [lambda: run_collector(driver), lambda: fill(mirrored)], [], lambda _: False)


def wrong(world: World) -> Sequence[str]:
    assert isinstance(world, Race)
    faults = [repr(error) for actor in world.actors for error in actor.errors]
    return [*faults, "without its mark"] if is_private(world.driver) else faults


def explore(fill: str, renews: bool = True) -> tuple[Exploration, str | None]:
    exploration = Exploration(lambda: Race(FILLS[fill], renews))
    return exploration, next(exploration.faults(wrong), None)


@pytest.mark.parametrize("fill", FILLS)
def test_what_is_filled_beside_the_collector_keeps_its_mark(fill: str) -> None:
    exploration, fault = explore(fill)
    assert fault is None
    assert exploration.ends > 5, "too little was tried to prove anything"


def test_control_a_mark_that_is_not_renewed() -> None:
    _, fault = explore("manifest", renews=False)
    assert fault is not None and "without its mark" in fault


class KilledError(BaseException):
    """The end of a collector."""


class Guarded(SteppedDriver):
    """A stepped driver whose guard holds. ``meanwhile`` is called when the collector is about to set the mark aside.

    ``guarded`` is called by all who are about to hold a repository.
    """

    meanwhile: Callable[[], None] | None = None
    guarded: Callable[[bool], None] | None = None

    @contextmanager
    def guard(self, path: str, exclusive: bool) -> Iterator[None]:
        if self.guarded is not None:
            self.guarded(exclusive)
        with MemoryDriver.guard(self, path, exclusive):
            yield

    def set_aside(self, path: str, aside: str) -> None:
        meanwhile = self.meanwhile if path == layout.mirror(APP) else None
        if meanwhile is not None:
            self.meanwhile = None
            meanwhile()
        super().set_aside(path, aside)
        if meanwhile is not None:
            raise KilledError


def test_a_collector_that_is_killed_between_takes_no_mark_along() -> None:
    driver = Guarded()
    emptied(driver)
    # The fill has come as far as it can: it has to wait, or is done.
    came = threading.Event()
    fill = threading.Thread(target=lambda: (Mirrored(Tree(driver), UPSTREAM).put_manifest(APP, IMAGE), came.set()))

    def meanwhile() -> None:
        driver.guarded = lambda exclusive: came.set()
        fill.start()
        assert came.wait(PATIENCE)

    driver.meanwhile = meanwhile
    with pytest.raises(KilledError):
        run_collector(driver)
    fill.join(PATIENCE)
    run_collector(driver)
    assert driver.is_there(layout.revision_link(APP, IMAGE.digest)) and not is_private(driver)


class SharedNameTests(SynchronousTestCase):
    """A name that one process mirrors and another, by another configuration, lets people push to."""

    def setUp(self) -> None:
        self.driver = Guarded()
        self.mirror = Mirror(self.driver)
        self.local = local_registry(self.driver)
        put_blob(self.local, LAYER, APP)

    def at_guard(self, call: Callable[[], object]) -> None:
        """Let something happen just before a repository is held for the first time."""

        def guarded(exclusive: bool) -> None:
            self.driver.guarded = None
            call()

        self.driver.guarded = guarded

    def push(self) -> Deferred[object]:
        return self.local.put_manifest(APP, IMAGE, [LATEST])

    def test_a_push_into_what_became_a_mirror_is_refused(self) -> None:
        self.at_guard(lambda: self.mirror.mirrored.mark(APP))
        self.failureResultOf(self.push(), Unsupported)
        self.assertFalse(self.mirror.has(layout.manifests(APP)))

    def test_what_was_pushed_before_it_became_a_mirror_is_no_cache(self) -> None:
        self.mirror.upstream.add(image(b"{}", b"the upstream's"), LATEST)
        self.at_guard(lambda: self.successResultOf(self.push()))
        with self.assertRaises(PermissionError):
            self.mirror.mirrored.put_told(APP, LATEST, image(b"{}").descriptor)
        self.assertFalse(self.mirror.has(layout.mirror(APP)))
        self.assertEqual(self.local.tree.tag(APP, LATEST), IMAGE.digest)

    def test_a_first_mark_waits_for_pushes_and_others_do_not(self) -> None:
        held: list[bool] = []
        self.driver.guarded = held.append
        self.mirror.mirrored.mark(APP)
        self.assertTrue(held[-1])
        held.clear()
        self.mirror.mirrored.mark(APP)
        self.assertEqual(held, [False])


class AnothersDriver(MemoryDriver):
    """A memory driver that does not let the mark be renewed: another user owns it."""

    def touch(self, path: str) -> None:
        if path == layout.mirror(APP):
            raise PermissionError
        super().touch(path)


class AnothersMarkTests(SynchronousTestCase):
    def test_is_replaced(self) -> None:
        driver = AnothersDriver()
        driver.put_content(layout.mirror(APP), b"quay.io")
        before = driver.stat(layout.mirror(APP)).version
        Mirrored(Tree(driver), UPSTREAM).mark(APP)
        self.assertEqual(driver.get_content(layout.mirror(APP)), b"quay.io")
        self.assertNotEqual(driver.stat(layout.mirror(APP)).version, before)


class NamesOfAnUpstreamTests(SynchronousTestCase):
    """An upstream whose mark may be one of several."""

    def setUp(self) -> None:
        self.mirror = Mirror(upstream="a.example", aliases=frozenset({"b.example"}))
        self.mirrored = self.mirror.mirrored

    def put_mark(self, mark: bytes) -> None:
        self.mirror.driver.put_content(layout.mirror(APP), mark)

    def test_all_of_them_are_filled(self) -> None:
        for mark in (b"a.example", b"b.example", b"b.example\n"):
            self.put_mark(mark)
            self.assertTrue(self.mirrored.may_fill(APP))

    def test_a_new_repository_gets_the_first(self) -> None:
        self.assertTrue(self.mirrored.may_fill(APP))
        self.mirrored.mark(APP)
        self.assertEqual(self.mirror.driver.get_content(layout.mirror(APP)), b"a.example")

    def test_anothers_is_not_filled_until_it_is_adopted(self) -> None:
        self.put_mark(b"c.example")
        with capturedLogs() as events:
            for _ in range(2):
                self.assertFalse(self.mirrored.may_fill(APP))
        said = f"{APP}: not filled from a.example: it mirrors c.example; see adopt-cache"
        self.assertEqual([formatEvent(event) for event in events], [said])
        self.put_mark(b"a.example")
        self.assertTrue(self.mirrored.may_fill(APP))


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://a.example", ("a.example", "a.example:443")),
        ("https://a.example:443/path", ("a.example", "a.example:443")),
        ("http://a.example", ("a.example", "a.example:80")),
        ("http://a.example:443", ("a.example:443", "a.example:443")),
        ("https://a.example:5000", ("a.example:5000", "a.example:5000")),
        ("https://me:secret@a.example", ("a.example", "a.example:443")),
        ("http://[::1]:5000", ("[::1]:5000", "[::1]:5000")),
        ("http://[::1]", ("[::1]", "[::1]:80")),
    ],
)
def test_the_hosts_of_a_url(url: str, hosts: tuple[str, str]) -> None:
    assert hosts_of(url) == hosts


@pytest.fixture(scope="module")
def upstream() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def pull(daemon: Daemon, name: str, tag: str) -> int:
    client = Client(daemon.address)
    try:
        return client.get(f"/v2/{name}/manifests/{tag}").status
    finally:
        client.close()


def push(daemon: Daemon, name: str, tag: str) -> None:
    client = Client(daemon.address)
    Repository(client, name).image(tag)
    client.close()


def mark_in(daemon: Daemon, name: str) -> str:
    return (daemon.tree / "repositories" / name / "_mirror/upstream").read_text()


def test_a_url_that_is_put_before_another_fills_what_that_filled(upstream: Daemon) -> None:
    push(upstream, "a/urls", "v1")
    with Daemon(proxy={"remoteurl": upstream.url, "freshness": "0s"}) as daemon:
        assert pull(daemon, "a/urls", "v1") == 200
        assert mark_in(daemon, "a/urls") == f"127.0.0.1_{upstream.port}"
        daemon.configure(proxy={"remoteurl": [f"http://localhost:{upstream.port}", upstream.url]})
        daemon.restart()
        push(upstream, "a/urls", "v2")
        push(upstream, "a/others", "v1")
        assert pull(daemon, "a/urls", "v2") == 200
        assert mark_in(daemon, "a/urls") == f"127.0.0.1_{upstream.port}"
        assert pull(daemon, "a/others", "v1") == 200
        assert mark_in(daemon, "a/others") == f"localhost_{upstream.port}"
        # Another's, whose name is none of the URLs'.
        daemon.configure(proxy={"remoteurl": f"http://localhost:{upstream.port}"})
        daemon.restart()
        push(upstream, "a/urls", "v3")
        assert (pull(daemon, "a/urls", "v2"), pull(daemon, "a/urls", "v3")) == (200, 404)
        assert "a/urls: not filled from" in daemon.stderr


def test_what_was_mirrored_is_no_private_repository(upstream: Daemon, tmp_path: Path) -> None:
    push(upstream, "team/app", "v1")
    push(upstream, "org/app", "v1")
    with Daemon(root=tmp_path, proxy={"remoteurl": upstream.url}) as daemon:
        assert (pull(daemon, "team/app", "v1"), pull(daemon, "org/app", "v1")) == (200, 200)
    beside = {
        "upstreams": {"docker.io": {"remoteurl": upstream.url}},
        "default": "docker.io",
        "private": ["team/*"],
        "self": "me:5000",
    }
    with Daemon(root=tmp_path, proxy=beside) as daemon:
        assert pull(daemon, "team/app", "v1") == 404
        assert pull(daemon, "org/app", "v1?ns=me:5000") == 404
        daemon.err.wait_for("team/app: mirrors 127.0.0.1_[0-9]+, is no private repository, and is not served; remove ")
        daemon.err.wait_for("org/app: mirrors .* not served; adopt-cache makes it one of the upstream that")
        push(daemon, "team/own", "v1")
        assert pull(daemon, "team/own", "v1") == 200
    with Daemon(root=tmp_path) as daemon:
        assert pull(daemon, "team/app", "v1") == 200
