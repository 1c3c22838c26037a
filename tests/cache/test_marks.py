"""The mark of a mirrored repository: beside the collector that removes it, and beside who pushes to the same name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from registryd.cache.mirrored import Mirrored
from registryd.config import load
from registryd.errors import Unsupported
from registryd.storage import layout
from registryd.storage.memory import MemoryDriver
from registryd.storage.tree import Tree
from registryd_gc.collect import Options, collect
from registryd_gc.report import Silence
from tests.cache.mirror import APP, UPSTREAM, Mirror
from tests.gc.interleavings import Exploration, World
from tests.gc.stepped import SteppedDriver, Steps
from tests.values import GRACE, LATEST, image, local_registry, put_blob

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
