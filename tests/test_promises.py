"""Renewals: when a read renews what it tells of, and what becomes of it where nothing can be written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from registryd.errors import Unavailable
from registryd.local import LocalRegistry
from registryd.promises import GRACE_PART, LONGEST_INTERVAL, Promises
from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver
from registryd.storage.tree import Tree
from tests.values import GRACE, LATEST, NAME, OTHER, TouchedDriver, image, local_registry, put_blob

CONFIG, LAYER = b"{}", b"layer"
IMAGE = image(CONFIG, LAYER)
INTERVAL = min(LONGEST_INTERVAL, GRACE / GRACE_PART)


class UnwritableDriver(MemoryDriver):
    """A memory driver whose times cannot be set, with an error of a kind; with the code 0 they can."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def touch(self, path: str) -> None:
        super().touch(path)
        if self.code:
            raise OSError(self.code, os.strerror(self.code), path)


class PromisesTests(SynchronousTestCase):
    def setUp(self) -> None:
        root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, root)
        self.driver = FilesystemDriver(root)
        self.driver.put_content("/a", b"abc")
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.promises = Promises(self.driver, self.clock.seconds, 100)

    def age(self, seconds: float) -> None:
        """Let the content be so old."""
        then = self.clock.seconds() - seconds
        os.utime(self.driver.root + "/a", (then, then))

    def is_renewed(self) -> bool:
        """Whether the content has got the time of now, which is not that of the clock."""
        return self.driver.stat("/a").modified > time.time() - 1000

    def test_keep_renews_after_the_interval_alone(self) -> None:
        for age, renewed in ((0, False), (99, False), (100, False), (101, True), (10_000, True), (-50, False)):
            self.age(age)
            stat = self.promises.keep("/a")
            assert stat is not None
            self.assertEqual((stat.size, stat.is_folder, self.is_renewed()), (3, False, renewed), age)

    def test_keep_of_what_is_not_there(self) -> None:
        self.assertIsNone(self.promises.keep("/b"))

    def test_renew_renews_always(self) -> None:
        for age in (0, 101):
            self.age(age)
            self.assertEqual((self.promises.renew("/a"), self.is_renewed()), (True, True))

    def test_renew_of_what_is_not_there(self) -> None:
        self.assertFalse(self.promises.renew("/b"))

    def test_the_interval_is_a_small_part_of_the_grace(self) -> None:
        for grace, interval in ((24 * 3600.0, 3600.0), (7 * 24 * 3600.0, 3600.0), (240.0, 10.0), (0.0, 0.0)):
            self.assertEqual(Promises.for_grace(self.driver, time.time, grace).interval, interval)

    def test_renew_blob_is_both_halves(self) -> None:
        driver = TouchedDriver()
        tree, promises = Tree(driver), Promises(driver, time.time, 100)
        digest = Digest.of(LAYER)
        link, data = layout.layer_link(NAME, digest), layout.blob_data(digest)
        self.assertFalse(promises.renew_blob(tree, NAME, digest))
        tree.write_link(link, digest)
        self.assertFalse(promises.renew_blob(tree, NAME, digest))
        driver.put_content(data, LAYER)
        self.assertTrue(promises.renew_blob(tree, NAME, digest))
        self.assertLessEqual({link, data}, driver.touched)
        self.assertFalse(promises.renew_blob(tree, OTHER, digest))

    def test_renew_revision_is_both_halves(self) -> None:
        driver = TouchedDriver()
        promises = Promises(driver, time.time, 100)
        Tree(driver).write_link(layout.revision_link(NAME, IMAGE.digest), IMAGE.digest)
        self.assertFalse(promises.renew_revision(NAME, IMAGE.digest))
        driver.put_content(layout.blob_data(IMAGE.digest), IMAGE.content)
        self.assertTrue(promises.renew_revision(NAME, IMAGE.digest))


class UnwritableTests(SynchronousTestCase):
    """Storage that can be read alone."""

    def test_told_once_and_still_there(self) -> None:
        for code in (errno.EROFS, errno.EPERM, errno.EACCES):
            driver = UnwritableDriver(code)
            driver.put_content("/a", b"")
            promises = Promises(driver, lambda: time.time() + 1000, 100)
            with capturedLogs() as logged:
                for _ in range(3):
                    self.assertIsNotNone(promises.keep("/a"))
                    self.assertIsNone(promises.keep("/b"))
            self.assertEqual(len(logged), 1)

    def test_what_cannot_be_renewed_is_not_promised(self) -> None:
        # A tree whose folders are the daemon's, and whose files are another user's: a collector can remove them.
        driver = UnwritableDriver(errno.EPERM)
        driver.put_content("/a", b"")
        promises = Promises(driver, time.time, 100)
        with capturedLogs():
            self.assertRaises(Unavailable, promises.renew, "/a")
        self.assertFalse(promises.renew("/b"))

    def test_reads_go_on(self) -> None:
        driver = UnwritableDriver(0)
        registry = local_registry(driver, now=lambda: time.time() + 10 * GRACE)
        put_blob(registry, CONFIG)
        put_blob(registry, LAYER)
        self.successResultOf(registry.put_manifest(NAME, IMAGE, [LATEST]))
        driver.code = errno.EROFS
        with capturedLogs():
            self.assertEqual(self.successResultOf(registry.get_manifest(NAME, LATEST)), IMAGE)
            self.successResultOf(registry.resolve_blob(NAME, Digest.of(LAYER)))
            self.successResultOf(registry.open_blob(NAME, Digest.of(LAYER))).close()


class ReadTests(SynchronousTestCase):
    """What reads of a registry renew."""

    def setUp(self) -> None:
        self.driver = TouchedDriver()
        self.ahead = 0.0
        self.registry: LocalRegistry = local_registry(self.driver, now=lambda: time.time() + self.ahead)
        put_blob(self.registry, CONFIG)
        put_blob(self.registry, LAYER)
        self.successResultOf(self.registry.put_manifest(NAME, IMAGE, [LATEST]))
        self.driver.touched.clear()

    def assertRenews(self, *paths: str) -> None:
        self.assertEqual(self.driver.touched, set(paths))
        self.driver.touched.clear()

    def test_nothing_that_is_fresh(self) -> None:
        self.ahead = INTERVAL - 10
        self.successResultOf(self.registry.resolve_blob(NAME, Digest.of(LAYER)))
        self.successResultOf(self.registry.get_manifest(NAME, LATEST))
        self.successResultOf(self.registry.open_blob(NAME, Digest.of(LAYER))).close()
        self.assertRenews()

    def test_a_blob(self) -> None:
        self.ahead = INTERVAL + 10
        digest = Digest.of(LAYER)
        paths = (layout.layer_link(NAME, digest), layout.blob_data(digest))
        self.successResultOf(self.registry.resolve_blob(NAME, digest))
        self.assertRenews(*paths)
        self.successResultOf(self.registry.open_blob(NAME, digest)).close()
        self.assertRenews(*paths)

    def test_a_manifest(self) -> None:
        self.ahead = INTERVAL + 10
        paths = (layout.revision_link(NAME, IMAGE.digest), layout.blob_data(IMAGE.digest))
        # The second comes from memory.
        for _ in range(2):
            self.successResultOf(self.registry.get_manifest(NAME, IMAGE.digest))
            self.assertRenews(*paths)
            self.successResultOf(self.registry.resolve_manifest(NAME, LATEST))
            self.assertRenews(*paths, layout.tag_link(NAME, LATEST))

    def test_a_mount_always(self) -> None:
        digest = Digest.of(LAYER)
        self.successResultOf(self.registry.mount_blob(OTHER, digest, NAME))
        self.assertIn(layout.blob_data(digest), self.driver.touched)

    def test_lists_renew_nothing(self) -> None:
        self.ahead = INTERVAL + 10
        self.successResultOf(self.registry.tags(NAME, None, ""))
        self.successResultOf(self.registry.repositories(None, ""))
        self.successResultOf(self.registry.referrers(NAME, IMAGE.digest))
        self.assertRenews()
