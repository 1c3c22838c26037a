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
from tests.values import NAME, Sink, local_registry, thread_like_driver

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
