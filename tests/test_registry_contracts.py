"""Every registry and the contract: the local one over each kind of storage, and what the filters let through."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from registryd.filters import ReadOnly, Undeletable
from registryd.interfaces import IRegistry
from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver
from tests.contract import registry as contract
from tests.values import NAME, Sink, image, index, listed, local_registry, put_blob, thread_like_driver

reactor: Any = installed


def make_filesystem_driver(case: SynchronousTestCase) -> FilesystemDriver:
    root = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, root)
    return FilesystemDriver(root)


class MemoryRegistryTests(contract.RegistryContract, TestCase):
    def make_origin(self) -> IRegistry:
        return local_registry(MemoryDriver())


class FilesystemRegistryTests(contract.RegistryContract, TestCase):
    def make_origin(self) -> IRegistry:
        return local_registry(make_filesystem_driver(self))


class UnhurriedRegistryTests(contract.RegistryContract, TestCase):
    """Over a driver that is not immediate."""

    def make_origin(self) -> IRegistry:
        return local_registry(thread_like_driver())


class ThreadedRegistryTests(contract.RegistryContract, TestCase):
    """Over a driver that is not immediate, in threads."""

    def make_origin(self) -> IRegistry:
        threads = ThreadPool(0, 4)
        threads.start()
        self.addCleanup(threads.stop)
        return local_registry(thread_like_driver(), partial(deferToThreadPool, reactor, threads))


class ThreadedFilesystemRegistryTests(contract.RegistryContract, TestCase):
    """As a daemon has it."""

    def make_origin(self) -> IRegistry:
        threads = ThreadPool(0, 4)
        threads.start()
        driver = make_filesystem_driver(self)
        self.addCleanup(threads.stop)
        return local_registry(driver, partial(deferToThreadPool, reactor, threads))


class ReadOnlyTests(contract.ReaderContract, contract.ListerContract, TestCase):
    def make_origin(self) -> IRegistry:
        return local_registry(MemoryDriver())

    def make_registry(self, origin: IRegistry) -> IRegistry:
        return ReadOnly(origin)


class UndeletableTests(contract.ReaderContract, contract.WriterContract, contract.ListerContract, TestCase):
    def make_origin(self) -> IRegistry:
        return local_registry(MemoryDriver())

    def make_registry(self, origin: IRegistry) -> IRegistry:
        return Undeletable(origin)


class FullMemoryRegistryTests(contract.FullRegistryContract, TestCase):
    def make_driver(self) -> MemoryDriver:
        return MemoryDriver()

    def make_origin(self) -> IRegistry:
        self.driver = self.make_driver()
        return local_registry(self.driver)

    def give_room(self, size: int | None) -> None:
        self.driver.capacity = None if size is None else used(self.driver) + size


class FullUnhurriedRegistryTests(FullMemoryRegistryTests):
    def make_driver(self) -> MemoryDriver:
        return thread_like_driver()


class LostStorageTests(SynchronousTestCase):
    """Storage that fails while a blob is delivered."""

    def test_deliver_to_os_error(self) -> None:
        driver = make_filesystem_driver(self)
        registry = local_registry(driver)
        content = bytes(1024 * 1024)
        writer = self.successResultOf(registry.start_upload(NAME, "sha256"))
        writer.write(content)
        digest = self.successResultOf(writer.commit(Digest.of(content))).digest
        reader = self.successResultOf(registry.open_blob(NAME, digest))
        self.addCleanup(reader.close)
        os.truncate(driver.root + layout.blob_data(digest), 600_000)
        sink = Sink()
        self.failureResultOf(reader.deliver_to(sink, 0, len(content)), OSError)
        self.assertEqual((len(sink.content), sink.producer), (600_000, None))


class ReferrersTests(SynchronousTestCase):
    """The entries of referrers in the tree, which no interface shows."""

    def setUp(self) -> None:
        self.driver = MemoryDriver()
        self.registry = local_registry(self.driver)
        put_blob(self.registry, b"{}")
        self.subject, self.folder = image(b"{}"), layout.referrers(NAME, image(b"{}").digest)
        self.referrer = image(b"{}", subject=listed(self.subject))
        for manifest in (self.subject, self.referrer):
            self.successResultOf(self.registry.put_manifest(NAME, manifest, []))

    def listed(self) -> list[Digest]:
        page = self.successResultOf(self.registry.referrers(NAME, self.subject.digest))
        return [referrer.descriptor.digest for referrer in page.referrers]

    def test_what_was_pushed_before_there_was_the_api(self) -> None:
        # The client keeps a list under a tag; nothing else tells of the manifest.
        self.driver.delete(self.folder)
        self.assertEqual(self.listed(), [])
        tag = self.subject.digest.referrers_tag
        self.successResultOf(self.registry.put_manifest(NAME, index(listed(self.referrer)), [tag]))
        self.assertEqual(self.listed(), [self.referrer.digest])

    def test_pages_are_no_larger_than_clients_take(self) -> None:
        pushed = {self.referrer.digest}
        for number in range(5):
            annotated = image(b"{}", subject=listed(self.subject), annotations={"a": str(number) * 1_500_000})
            self.successResultOf(self.registry.put_manifest(NAME, annotated, []))
            pushed.add(annotated.digest)
        after: Digest | None = None
        found: list[Digest] = []
        more = True
        while more:
            page = self.successResultOf(self.registry.referrers(NAME, self.subject.digest, None, after))
            self.assertLessEqual(sum(len(str(referrer.annotations)) for referrer in page.referrers), 4 * 1024 * 1024)
            found += [referrer.descriptor.digest for referrer in page.referrers]
            after, more = found[-1], page.more
        self.assertEqual(found, sorted(pushed))

    def test_an_entry_goes_with_its_manifest(self) -> None:
        self.successResultOf(self.registry.delete_manifest(NAME, self.referrer.digest))
        with self.assertRaises(FileNotFoundError):
            self.driver.list(self.folder)

    def test_an_entry_without_its_manifest_does_not_count(self) -> None:
        self.driver.delete(layout.revision_link(NAME, self.referrer.digest))
        self.assertEqual(self.listed(), [])

    def test_an_entry_that_is_missing_comes_back_with_a_push(self) -> None:
        self.driver.delete(self.folder)
        self.successResultOf(self.registry.put_manifest(NAME, self.referrer, []))
        self.assertEqual(self.listed(), [self.referrer.digest])


def used(driver: MemoryDriver) -> int:
    """Bytes of content that a memory driver holds."""
    pending, size = ["/"], 0
    while pending:
        path = pending.pop()
        stat = driver.stat(path)
        size += stat.size
        if stat.is_folder:
            pending += [f"{path.rstrip('/')}/{name}" for name in driver.list(path)]
    return size
