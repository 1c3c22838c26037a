"""Every storage driver and the contract; and that all of them answer alike."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from registryd.storage.filesystem import LOCK_NAME, FilesystemDriver
from registryd.storage.interfaces import IContentReader, IContentWriter, IStorageDriver
from registryd.storage.memory import MemoryDriver
from tests.contract import driver as contract
from tests.test_filesystem import new_folder, new_small_folder

T = TypeVar("T")
U = TypeVar("U")

PATHS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
ANY_PATHS = st.one_of(PATHS, PATHS, PATHS, PATHS, st.sampled_from([*contract.REFUSED, "/"]))
OFFSETS = st.integers(0, 8)


def outcome(call: Callable[[T], object], subject: T) -> object:
    """What a call answers, or which of the errors that callers tell apart."""
    try:
        return call(subject)
    except (FileNotFoundError, BlockingIOError, ValueError) as error:
        return type(error)
    except OSError:
        return OSError


def alike(call: Callable[[T], object], subjects: Sequence[T]) -> None:
    """Assert that a call has the same outcome with each of the subjects."""
    first, second = (outcome(call, subject) for subject in subjects)
    assert first == second, (first, second)


def opened(call: Callable[[T], U], subjects: Sequence[T]) -> list[list[U]]:
    """What a call opened with all of the subjects; none where it has the same error with all."""
    results: list[U] = []
    outcomes = {outcome(lambda subject: results.append(call(subject)), subject) for subject in subjects}
    assert len(outcomes) == 1, outcomes
    return [results] if results else []


def names(driver: IStorageDriver, folder: str) -> list[str]:
    """The names in a folder, but for the file of the lock, which a driver may have."""
    return sorted(set(driver.list(folder)) - {LOCK_NAME})


def known(driver: IStorageDriver, path: str) -> tuple[bool, int]:
    """What is at a path, but for the time."""
    stat = driver.stat(path)
    return stat.is_folder, stat.size


def holds(driver: IStorageDriver, path: str) -> bool:
    """Whether anything is at a path."""
    try:
        driver.stat(path)
    except FileNotFoundError:
        return False
    return True


def leaves(driver: IStorageDriver, path: str, leaf: str, others: bool) -> list[tuple[str, int | None, list[str]]]:
    """The leaves in a folder, but for their times."""
    return sorted((one.name, one.size, sorted(one.others)) for one in driver.leaves(path, leaf, others))


def content(driver: IStorageDriver, folder: str) -> Iterator[tuple[str, bytes | None]]:
    """All that is in a folder at any depth: content with its bytes, folders with None."""
    for name in names(driver, folder):
        path = f"{folder.rstrip('/')}/{name}"
        if driver.stat(path).is_folder:
            yield path, None
            yield from content(driver, path)
        else:
            yield path, driver.get_content(path)


class MemoryDriverTests(contract.DriverContract, SynchronousTestCase):
    def make_driver(self) -> IStorageDriver:
        return MemoryDriver()


class FilesystemDriverTests(contract.DriverContract, SynchronousTestCase):
    def make_driver(self) -> IStorageDriver:
        self.root = new_folder(self)
        return FilesystemDriver(self.root)

    def another(self) -> IStorageDriver:
        other = FilesystemDriver(self.root)
        self.addCleanup(other.close)
        return other


class FullMemoryDriverTests(contract.FullStorageContract, SynchronousTestCase):
    def make_small_driver(self) -> IStorageDriver:
        return MemoryDriver(capacity=contract.KIB * contract.KIB)


class FullFilesystemDriverTests(contract.FullStorageContract, SynchronousTestCase):
    def make_small_driver(self) -> IStorageDriver:
        return FilesystemDriver(new_small_folder(self))


class MemoryCapacityTests(SynchronousTestCase):
    def test_capacity_can_be_raised(self) -> None:
        driver = MemoryDriver(capacity=3)
        driver.put_content("/f/a", b"123")
        with pytest.raises(OSError):
            driver.put_content("/f/b", b"4")
        driver.capacity = 4
        driver.put_content("/f/b", b"4")
        driver.delete("/f")
        driver.put_content("/c", b"1234")


class DriversAgree(RuleBasedStateMachine):
    """Whatever is done to the filesystem driver and the memory driver, they answer alike and hold the same tree."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.drivers: list[IStorageDriver] = [FilesystemDriver(self.root), MemoryDriver()]
        self.readers: list[Sequence[IContentReader]] = []
        self.writers: list[Sequence[IContentWriter]] = []

    def teardown(self) -> None:
        for readers in self.readers:
            alike(lambda reader: reader.close(), readers)
        for writers in self.writers:
            alike(lambda writer: writer.close(), writers)
        alike(lambda driver: driver.close(), self.drivers)
        shutil.rmtree(self.root)

    @rule(path=ANY_PATHS, content=st.binary(max_size=6), above=st.booleans())
    def put_content(self, path: str, content: bytes, above: bool) -> None:
        alike(lambda driver: driver.put_content(path, content, above), self.drivers)

    @rule(path=ANY_PATHS)
    def look(self, path: str) -> None:
        alike(lambda driver: driver.get_content(path), self.drivers)
        alike(lambda driver: names(driver, path), self.drivers)
        alike(lambda driver: known(driver, path), self.drivers)
        alike(lambda driver: driver.touch(path), self.drivers)

    @rule(path=ANY_PATHS)
    def make_folder(self, path: str) -> None:
        alike(lambda driver: driver.make_folder(path), self.drivers)

    @rule(source=ANY_PATHS, destination=ANY_PATHS)
    def move(self, source: str, destination: str) -> None:
        alike(lambda driver: driver.move(source, destination), self.drivers)

    @rule(path=ANY_PATHS)
    def delete(self, path: str) -> None:
        alike(lambda driver: driver.delete(path), self.drivers)

    @rule(path=ANY_PATHS, stop=ANY_PATHS)
    def prune(self, path: str, stop: str) -> None:
        alike(lambda driver: driver.prune(path, stop), self.drivers)

    @rule(path=PATHS, aside=PATHS)
    def set_aside(self, path: str, aside: str) -> None:
        apart = not f"{aside}/".startswith(f"{path}/") and not f"{path}/".startswith(f"{aside}/")
        if apart and not any(holds(driver, aside) for driver in self.drivers):
            alike(lambda driver: driver.set_aside(path, aside), self.drivers)

    @rule(aside=ANY_PATHS, path=ANY_PATHS)
    def put_back(self, aside: str, path: str) -> None:
        if not f"{path}/".startswith(f"{aside}/"):
            alike(lambda driver: driver.put_back(aside, path), self.drivers)

    @rule(path=ANY_PATHS)
    def discard(self, path: str) -> None:
        alike(lambda driver: driver.discard(path), self.drivers)

    @rule(path=ANY_PATHS, leaf=st.sampled_from(["a", "b"]), others=st.booleans())
    def leaves(self, path: str, leaf: str, others: bool) -> None:
        alike(lambda driver: leaves(driver, path, leaf, others), self.drivers)

    @rule(exclusive=st.booleans())
    def lock(self, exclusive: bool) -> None:
        alike(lambda driver: driver.lock(exclusive), self.drivers)

    @rule()
    def release(self) -> None:
        alike(lambda driver: driver.close(), self.drivers)

    @rule(path=ANY_PATHS)
    def open_reader(self, path: str) -> None:
        self.readers += opened(lambda driver: driver.reader(path), self.drivers)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), start=OFFSETS, stop=OFFSETS)
    def read(self, data: st.DataObject, start: int, stop: int) -> None:
        readers = data.draw(st.sampled_from(self.readers))
        alike(lambda reader: (reader.size, reader.read(start, stop)), readers)

    @rule(path=ANY_PATHS, create=st.booleans())
    def open_writer(self, path: str, create: bool) -> None:
        self.writers += opened(lambda driver: driver.writer(path, create), self.drivers)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), buffers=st.lists(st.binary(max_size=3), max_size=3), start=OFFSETS, stop=OFFSETS)
    def write(self, data: st.DataObject, buffers: Sequence[bytes], start: int, stop: int) -> None:
        writers = data.draw(st.sampled_from(self.writers))
        alike(lambda writer: writer.write(buffers), writers)
        alike(lambda writer: (writer.size, writer.read(start, stop)), writers)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), size=OFFSETS)
    def truncate(self, data: st.DataObject, size: int) -> None:
        alike(lambda writer: writer.truncate(size), data.draw(st.sampled_from(self.writers)))

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def close_writer(self, data: st.DataObject) -> None:
        writers = data.draw(st.sampled_from(self.writers))
        self.writers.remove(writers)
        alike(lambda writer: writer.close(), writers)

    @invariant()
    def hold_the_same(self) -> None:
        alike(lambda driver: dict(content(driver, "/")), self.drivers)


DriversAgree.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
DriversAgreeTests = DriversAgree.TestCase
