"""What the contract cannot say of the filesystem driver: crashes, the order of syncs, permissions, other processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO
from uuid import uuid4

import attrs
import pytest
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from registryd.storage import durable
from registryd.storage.allocation import MOST_AT_ONCE, lay_out
from registryd.storage.files import LEAST_AHEAD, MOST_AHEAD, FileWriter
from registryd.storage.filesystem import LOCK_NAME, FilesystemDriver
from registryd.storage.interfaces import IContentWriter, IStorageDriver

DRIVER = (FilesystemDriver.__module__, FileWriter.__module__, durable.__name__)
MIB = 1024 * 1024
Call = Callable[..., object]
Contents = dict[str, bytes]


def new_folder(case: SynchronousTestCase) -> str:
    folder = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, folder)
    return folder


def new_small_folder(case: SynchronousTestCase, mebibytes: int = 1) -> str:
    """A folder that is a file system of its own, with so much room."""
    folder = new_folder(case)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", folder]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode != 0:
        raise SkipTest(f"a file system of its own needs root's right to mount: {mount.stderr.strip()}")
    case.addCleanup(subprocess.run, ["umount", "--lazy", folder], check=True)
    return folder


def files(root: str) -> Contents:
    """Every file below a folder, with its content."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                found[f"{folder[len(root) :]}/{name}"] = file.read()
    return found


def write(driver: IStorageDriver, path: str, *buffers: bytes) -> None:
    writer = driver.writer(path, True)
    writer.write(buffers)
    writer.sync()
    writer.close()


@contextmanager
def before(
    chosen: Callable[[Call], bool], act: Callable[[], object], modules: Sequence[str] = DRIVER
) -> Iterator[None]:
    """Act once, right before the first call of one of some modules into the system that is chosen.

    An error that the act raises is the call's. Fails where there was no such call.
    """
    acted = False

    def watch(frame: FrameType, event: str, called: Call) -> None:
        nonlocal acted
        if event == "c_call" and frame.f_globals["__name__"] in modules and chosen(called):
            sys.setprofile(None)
            acted = True
            act()

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert acted, "the call was not made"


def is_call(wanted: Call, number: int = 0) -> Callable[[Call], bool]:
    """Choose a call of a function, the first or a later one."""
    counter = itertools.count()
    return lambda called: called is wanted and next(counter) == number


def nth(number: int) -> Callable[[Call], bool]:
    """Choose a call into the system by its number; close is none, for its failure leaves the descriptor closed."""
    counter = itertools.count()
    return lambda called: called.__module__ in ("posix", "fcntl") and called is not os.close and next(counter) == number


def failing(code: int) -> Callable[[], object]:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


def python(*arguments: str, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A process that runs a function of this module."""
    function, *rest = arguments
    return subprocess.Popen(
        [*under, sys.executable, "-c", f"from {__name__} import *; {function}(*sys.argv[1:])", *rest],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(process: subprocess.Popen[str]) -> IO[str]:
    """What a process writes to its output."""
    assert process.stdout is not None
    return process.stdout


class PlaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = new_folder(self)

    def test_nothing_is_made_before_it_is_needed(self) -> None:
        driver = FilesystemDriver(f"{self.folder}/a/root")
        with pytest.raises(FileNotFoundError):
            driver.list("/")
        with pytest.raises(FileNotFoundError):
            driver.get_content("/b")
        assert os.listdir(self.folder) == []
        driver.put_content("/b", b"1")
        assert files(self.folder) == {"/a/root/b": b"1"}

    def test_root_stays_where_it_was(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        driver = FilesystemDriver("root/")
        os.chdir("/")
        driver.put_content("/b", b"1")
        assert files(self.folder) == {"/root/b": b"1"}

    def test_nothing_escapes_the_root(self) -> None:
        os.mkdir(f"{self.folder}/root")
        with open(f"{self.folder}/rootsecret", "wb") as file:
            file.write(b"secret")
        driver = FilesystemDriver(f"{self.folder}/root")
        driver.put_content("/a/b", b"1")
        for path in ("secret", "/../rootsecret", "/a/../../rootsecret", "/..", "/a/../.."):
            with pytest.raises(FileNotFoundError):
                driver.get_content(path)
            with pytest.raises(ValueError):
                driver.put_content(path, b"2")
            with pytest.raises(ValueError):
                driver.move("/a/b", path)
            with pytest.raises(ValueError):
                driver.delete(path)
        assert files(self.folder) == {"/rootsecret": b"secret", "/root/a/b": b"1"}

    def test_names_with_dots_are_names(self) -> None:
        driver = FilesystemDriver(self.folder)
        for path in ("/..a", "/.a", "/a..", "/a/...", "/_x/.b"):
            driver.put_content(path, b"1")
            assert driver.get_content(path) == b"1"

    def test_deleting_a_link_keeps_what_it_leads_to(self) -> None:
        driver = FilesystemDriver(f"{self.folder}/root")
        os.mkdir(f"{self.folder}/elsewhere")
        with open(f"{self.folder}/elsewhere/a", "wb"):
            pass
        driver.make_folder("/f")
        for _ in range(2):
            os.symlink(f"{self.folder}/elsewhere", f"{self.folder}/root/f/link")
            driver.delete("/f" if _ else "/f/link")
        assert files(self.folder) == {"/elsewhere/a": b""}

    def test_too_long_names_are_not_written(self) -> None:
        driver = FilesystemDriver(self.folder)
        for change in (lambda path: driver.put_content(path, b""), lambda path: driver.writer(path, True)):
            with pytest.raises(OSError) as raised:
                change("/new/" + "n" * 300)
            assert raised.value.errno == errno.ENAMETOOLONG
        assert os.listdir(self.folder) == []


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = new_folder(self)
        self.driver = FilesystemDriver(self.root)
        self.addCleanup(self.driver.close)

    def mode(self, path: str) -> int:
        return stat.S_IMODE(os.stat(self.root + path).st_mode)

    def test_modes_follow_the_umask(self) -> None:
        for umask in (0o000, 0o027, 0o077):
            self.addCleanup(os.umask, os.umask(umask))
            self.driver.put_content(f"/{umask}/f/a", b"1")
            self.driver.writer(f"/{umask}/g/b", True).close()
            self.driver.make_folder(f"/{umask}/h")
            for path in ("f/a", "g/b"):
                assert self.mode(f"/{umask}/{path}") == 0o666 & ~umask
            for path in ("f", "g", "h"):
                assert self.mode(f"/{umask}/{path}") == 0o777 & ~umask

    def test_list_hides_what_is_being_put(self) -> None:
        seen = []
        with before(is_call(os.rename), lambda: seen.append(os.listdir(self.root))):
            self.driver.put_content("/a", b"1")
        assert len(seen) == 1
        (name,) = seen[0]
        assert re.fullmatch(r"a\.[0-9a-f-]{36}\.tmp", name)
        with open(f"{self.root}/{name}", "wb"):
            pass
        shown = ["a", "a.tmp", f"{uuid4()}.tmp", f"a.{uuid4()}", f"a.{uuid4()}.tmp.b"]
        for name in shown[1:]:
            self.driver.put_content("/" + name, b"1")
        assert sorted(self.driver.list("/")) == sorted(shown)

    def test_what_is_being_put_above_lies_beside_its_folder(self) -> None:
        self.driver.make_folder("/f")
        seen: list[str] = []
        for content in (b"1", b"2"):
            with before(is_call(os.rename), lambda: seen.extend(os.listdir(f"{self.root}/f"))):
                self.driver.put_content("/f/a/link", content, above=True)
            assert files(self.root) == {"/f/a/link": content}
        assert len(seen) == 3
        assert all(name == "a" or re.fullmatch(r"a\.[0-9a-f-]{36}\.tmp", name) for name in seen)

    def test_what_is_put_above_stays_within_the_root(self) -> None:
        seen: list[list[str]] = []
        with before(is_call(os.rename), lambda: seen.append(os.listdir(self.root))):
            self.driver.put_content("/a", b"1", above=True)
        assert len(seen[0]) == 1

    def test_a_folder_that_is_lost_while_content_is_put_above_is_made_again(self) -> None:
        self.driver.make_folder("/f/a")
        with before(is_call(os.rename), lambda: os.rmdir(f"{self.root}/f/a")):
            self.driver.put_content("/f/a/link", b"1", above=True)
        assert files(self.root) == {"/f/a/link": b"1"}

    def test_what_is_put_above_a_folder_that_leads_nowhere(self) -> None:
        self.driver.make_folder("/f")
        os.symlink("nowhere", f"{self.root}/f/a")
        with pytest.raises(NotADirectoryError):
            self.driver.put_content("/f/a/link", b"1", above=True)
        assert os.listdir(f"{self.root}/f") == ["a"]

    def test_what_is_being_put_above_is_written_again_if_it_is_lost(self) -> None:
        self.driver.make_folder("/f")
        with before(
            is_call(os.rename), lambda: [os.unlink(f"{self.root}/f/{one}") for one in os.listdir(f"{self.root}/f")]
        ):
            self.driver.put_content("/f/a/link", b"1", above=True)
        assert files(self.root) == {"/f/a/link": b"1"}

    def test_what_is_put_above_a_folder_on_another_file_system(self) -> None:
        def fail() -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        self.driver.make_folder("/f/a")
        with before(is_call(os.rename), fail):
            self.driver.put_content("/f/a/link", b"1", above=True)
        assert files(self.root) == {"/f/a/link": b"1"}

    def test_a_file_that_stands_is_replaced_and_not_changed(self) -> None:
        self.driver.put_content("/a", b"old")
        os.link(f"{self.root}/a", f"{self.root}/other")
        self.driver.put_content("/a", b"new")
        assert files(self.root) == {"/a": b"new", "/other": b"old"}

    def test_descriptors_stay_in_the_process(self) -> None:
        self.driver.lock(False)
        self.driver.put_content("/a", b"1")
        reader, writer = self.driver.reader("/a"), self.driver.writer("/a", True)
        self.addCleanup(reader.close)
        self.addCleanup(writer.close)
        listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True)
        assert listed.returncode == 0
        assert self.root not in listed.stdout

    def test_descriptors_are_closed(self) -> None:
        open_before = os.listdir("/proc/self/fd")
        self.driver.put_content("/f/a", b"1")
        self.driver.get_content("/f/a")
        self.driver.move("/f/a", "/f/b")
        self.driver.make_folder("/g")
        held = self.driver.writer("/f/b", False)
        self.driver.lock(True)
        attempts: list[Callable[[], object]] = [
            lambda: self.driver.get_content("/f"),
            lambda: self.driver.reader("/f"),
            lambda: self.driver.writer("/f/b", True),
            lambda: self.driver.put_content("/f", b"1"),
            lambda: self.driver.make_folder("/f/b"),
            lambda: self.driver.lock(True),
        ]
        for attempt in attempts:
            with pytest.raises(OSError):
                attempt()
        held.close()
        self.driver.close()
        assert os.listdir("/proc/self/fd") == open_before


class LayingOutTests(SynchronousTestCase):
    """The blocks of large content are laid out before it comes."""

    def mount(self, mebibytes: int) -> None:
        folder = new_small_folder(self, mebibytes)
        self.place = f"{folder}/a"
        self.driver = FilesystemDriver(folder)

    def open(self) -> IContentWriter:
        writer = self.driver.writer("/a", True)
        self.addCleanup(writer.close)
        return writer

    def laid_out(self) -> int:
        """Bytes that the file takes of the disk."""
        return os.stat(self.place).st_blocks * 512

    def test_as_many_as_were_written_and_not_too_many(self) -> None:
        self.mount(8192)
        writer = self.open()
        seen = []
        while writer.size < 3 * MOST_AHEAD:
            writer.write([b"1" * LEAST_AHEAD])
            self.assertEqual(os.stat(self.place).st_size, writer.size)
            seen.append(self.laid_out())
        whole = [least * LEAST_AHEAD for least in (1, 2, 4, 4, 8, 8, 8, 8, *[16] * 8, *[24] * 8)]
        self.assertEqual(seen, whole)

    def test_what_was_there_before_the_writer_does_not_count(self) -> None:
        self.mount(8192)
        first = self.open()
        first.write([b"1" * LEAST_AHEAD])
        first.close()
        second = self.open()
        second.write([b"2" * MIB])
        second.write([b"2" * MIB])
        self.assertEqual(self.laid_out(), LEAST_AHEAD + 2 * MIB)

    def test_is_given_back_by_what_ends_the_content(self) -> None:
        self.mount(8192)
        ends: Sequence[Callable[[IContentWriter], None]] = (lambda writer: writer.sync(), lambda writer: writer.close())
        for end in ends:
            writer = self.open()
            begun = writer.size
            for size in (LEAST_AHEAD, MIB):
                writer.write([b"1" * size])
            self.assertEqual(self.laid_out(), begun + 2 * LEAST_AHEAD)
            end(writer)
            self.assertEqual(self.laid_out(), begun + LEAST_AHEAD + MIB)
            writer.close()
        self.assertEqual(self.driver.get_content("/a"), b"1" * writer.size)

    def test_is_given_back_before_it_is_synced(self) -> None:
        """What a power failure leaves takes no more of the disk than was synced."""
        self.mount(8192)
        writer = self.open()
        for size in (LEAST_AHEAD, MIB):
            writer.write([b"1" * size])
        seen = []
        real = os.fsync

        def watched(descriptor: int) -> None:
            seen.append(self.laid_out())
            real(descriptor)

        self.patch(os, "fsync", watched)
        writer.sync()
        self.assertEqual(seen, [LEAST_AHEAD + MIB])

    def test_what_a_killed_writer_had_laid_out_is_given_back_by_who_ends_the_content(self) -> None:
        self.mount(8192)
        with open(self.place, "wb") as file:
            file.write(b"1" * MIB)
            file.flush()
            lay_out(file.fileno(), MIB, MOST_AHEAD)
        self.assertEqual(self.laid_out(), MOST_AHEAD)
        writer = self.open()
        writer.write([b"1" * MIB])
        writer.sync()
        self.assertEqual(self.laid_out(), 2 * MIB)

    def test_a_look_changes_no_time(self) -> None:
        self.mount(8192)
        with open(self.place, "wb") as file:
            lay_out(file.fileno(), 0, MOST_AHEAD)
        os.utime(self.place, (1, 1))
        self.open().close()
        self.assertEqual((os.stat(self.place).st_mtime, self.laid_out()), (1, MOST_AHEAD))

    def test_where_there_is_little_room(self) -> None:
        self.mount(MOST_AT_ONCE * LEAST_AHEAD // MIB)
        writer = self.open()
        for size in (LEAST_AHEAD, MIB):
            writer.write([b"1" * size])
        self.assertEqual(self.laid_out(), LEAST_AHEAD + MIB)


class FailureTests(SynchronousTestCase):
    """The system fails at one call; what was there before stays."""

    def setUp(self) -> None:
        self.root = new_folder(self)
        self.driver = FilesystemDriver(self.root)

    def failures_of_a_put(self, path: str) -> Iterator[Contents]:
        """What a storage holds after a put that failed at its first, second, ... call, until one does not fail."""
        for number in itertools.count():
            root = f"{self.root}/{number}"
            driver = FilesystemDriver(root)
            driver.put_content("/f/a", b"old")
            made = {folder for folder, _, _ in os.walk(root)}
            failed = False
            try:
                with before(nth(number), failing(errno.EIO)):
                    driver.put_content(path, b"new")
            except OSError as error:
                failed = error.errno == errno.EIO
            except AssertionError:
                assert files(root)[path] == b"new"
                return
            assert failed
            held = files(root)
            assert held.get(path) == b"new" or {folder for folder, _, _ in os.walk(root)} == made
            yield held

    def test_put_content_changes_nothing(self) -> None:
        old = {"/f/a": b"old"}
        # Once the content is renamed into its place only the sync of a folder can fail, and nobody can take it back.
        assert list(self.failures_of_a_put("/f/a")) == [old] * 4 + [{"/f/a": b"new"}] * 2
        shutil.rmtree(self.root)
        assert list(self.failures_of_a_put("/g/h/b")) == [old] * 7 + [{**old, "/g/h/b": b"new"}] * 6

    def test_write_appends_nothing(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        writer = self.driver.writer("/a", True)
        self.addCleanup(writer.close)
        writer.write([b"begin"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(OSError) as raised:
            writer.write([b"x" * 50] * 4)
        assert raised.value.errno == errno.EFBIG
        assert (writer.size, files(self.root)) == (5, {"/a": b"begin"})
        writer.write([b"end"])
        assert (writer.size, files(self.root)) == (8, {"/a": b"beginend"})

    def test_write_in_parts(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        buffers = [bytes([number]) * 40 for number in range(5)]

        def lift_the_limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        for size in (90, 120):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with before(is_call(os.writev, 1), lift_the_limit):
                write(self.driver, f"/{size}", *buffers)
            assert self.driver.get_content(f"/{size}") == b"".join(buffers)

    def test_writer_that_cannot_take_back_is_closed(self) -> None:
        writer = self.driver.writer("/a", True)
        assert isinstance(writer, FileWriter)
        descriptor = writer.fileno()
        assert descriptor is not None
        writer.write([b"begin"])
        # Neither writev nor ftruncate works on a descriptor that is open for reading.
        with open(f"{self.root}/a", "rb") as file:
            os.dup2(file.fileno(), descriptor)
        with pytest.raises(OSError):
            writer.write([b"1"])
        assert writer.fileno() == -1
        assert files(self.root) == {"/a": b"begin"}

    def test_read_os_error(self) -> None:
        self.driver.put_content("/a", b"1")
        reader = self.driver.reader("/a")
        self.addCleanup(reader.close)
        reads: list[tuple[Call, Callable[[], object]]] = [
            (os.pread, lambda: reader.read(0, 1)),
            (os.open, lambda: self.driver.get_content("/a")),
            (os.read, lambda: self.driver.get_content("/a")),
            (os.fstat, lambda: self.driver.reader("/a")),
            (os.stat, lambda: self.driver.stat("/a")),
            (os.listdir, lambda: self.driver.list("/")),
            (os.utime, lambda: self.driver.touch("/a")),
            (os.unlink, lambda: self.driver.delete("/a")),
            (os.rmdir, lambda: self.driver.prune("/f", "/")),
        ]
        for call, read in reads:
            with pytest.raises(OSError) as raised, before(is_call(call), failing(errno.EIO)):
                read()
            assert raised.value.errno == errno.EIO
        with pytest.raises(OSError), before(is_call(os.read, 1), failing(errno.EIO)):
            self.driver.get_content("/a")

    def test_a_file_system_that_cannot_sync_folders_is_served(self) -> None:
        with before(is_call(os.fsync, 1), failing(errno.EINVAL)):
            self.driver.put_content("/a", b"1")
        assert files(self.root) == {"/a": b"1"}
        with pytest.raises(OSError), before(is_call(os.fsync, 0), failing(errno.EINVAL)):
            self.driver.put_content("/b", b"1")


class RaceTests(SynchronousTestCase):
    """Others remove or replace something between two calls."""

    def setUp(self) -> None:
        self.root = new_folder(self)
        self.driver = FilesystemDriver(self.root)

    def test_folder_removed_before_anything_is_in_it(self) -> None:
        with before(is_call(os.open, 1), lambda: self.driver.prune("/f/g", "/")):
            self.driver.put_content("/f/g/a", b"1")
        with before(is_call(os.open, 1), lambda: self.driver.prune("/h/i", "/")):
            write(self.driver, "/h/i/a", b"2")
        with before(is_call(os.rename, 1), lambda: self.driver.prune("/j/k", "/")):
            self.driver.move("/h/i/a", "/j/k/a")
        with before(is_call(os.open, 1), lambda: self.driver.prune("/l/m", "/")):
            self.driver.make_folder("/l/m")
        assert files(self.root) == {"/f/g/a": b"1", "/j/k/a": b"2"}
        assert self.driver.list("/l") == ["m"]

    def test_folder_removed_between_two_that_are_made(self) -> None:
        with before(is_call(os.mkdir, 1), lambda: self.driver.prune("/f", "/")):
            self.driver.put_content("/f/g/a", b"1")
        assert files(self.root) == {"/f/g/a": b"1"}

    def test_folder_made_by_another(self) -> None:
        with before(is_call(os.mkdir, 1), lambda: self.driver.make_folder("/f/g")):
            self.driver.put_content("/f/g/a", b"1")
        assert files(self.root) == {"/f/g/a": b"1"}

    def test_folder_deleted_before_the_rename(self) -> None:
        self.driver.make_folder("/f/g")
        with before(is_call(os.rename), lambda: self.driver.delete("/f")):
            self.driver.put_content("/f/g/a", b"1")
        assert files(self.root) == {"/f/g/a": b"1"}

    def test_folder_deleted_before_its_sync(self) -> None:
        self.driver.make_folder("/f")
        with before(is_call(os.open, 1), lambda: self.driver.delete("/f")):
            self.driver.put_content("/f/a", b"1")
        assert files(self.root) == {}

    def test_source_deleted_before_the_rename(self) -> None:
        self.driver.put_content("/f/a", b"1")
        with pytest.raises(FileNotFoundError), before(is_call(os.rename), lambda: self.driver.delete("/f/a")):
            self.driver.move("/f/a", "/g/h/b")
        assert self.driver.list("/") == ["f"]

    def test_content_replaced_before_it_is_locked(self) -> None:
        self.driver.put_content("/a", b"old")
        with before(is_call(fcntl.flock), lambda: self.driver.put_content("/a", b"newer")):
            writer = self.driver.writer("/a", False)
        self.addCleanup(writer.close)
        assert writer.size == 5
        writer.write([b"!"])
        assert files(self.root) == {"/a": b"newer!"}

    def test_content_deleted_before_it_is_locked(self) -> None:
        self.driver.put_content("/f/a", b"old")
        with pytest.raises(FileNotFoundError), before(is_call(fcntl.flock), lambda: self.driver.delete("/f")):
            self.driver.writer("/f/a", False)
        self.driver.put_content("/f/a", b"old")
        with before(is_call(fcntl.flock), lambda: self.driver.delete("/f")):
            write(self.driver, "/f/a", b"new")
        assert files(self.root) == {"/f/a": b"new"}

    def test_folder_filled_while_it_is_deleted(self) -> None:
        self.driver.put_content("/f/a", b"1")
        with before(is_call(os.rmdir), lambda: self.driver.put_content("/f/b", b"2"), modules=["shutil"]):
            self.driver.delete("/f")
        assert self.driver.list("/") == []

    def test_folder_deleted_by_two(self) -> None:
        self.driver.put_content("/f/a", b"1")
        with before(is_call(os.rmdir), lambda: self.driver.delete("/f"), modules=["shutil"]):
            self.driver.delete("/f")
        assert self.driver.list("/") == []


@attrs.frozen
class Change:
    """Something that must be done whole or not at all, in a storage that holds ``first``."""

    apply: Callable[[IStorageDriver], None]
    first: Contents
    last: Contents


CHANGES = {
    "put": Change(lambda driver: driver.put_content("/f/g/a", b"new"), {}, {"/f/g/a": b"new"}),
    "replace": Change(lambda driver: driver.put_content("/a", b"new"), {"/a": b"older"}, {"/a": b"new"}),
    "move": Change(lambda driver: driver.move("/f/a", "/g/h/b"), {"/f/a": b"1"}, {"/g/h/b": b"1"}),
    "move over": Change(lambda driver: driver.move("/a", "/b"), {"/a": b"1", "/b": b"2"}, {"/b": b"1"}),
    "delete": Change(lambda driver: driver.delete("/a"), {"/a": b"1"}, {}),
}


def shown(driver: IStorageDriver, folder: str = "/") -> Contents:
    """All content that the driver lists."""
    found: Contents = {}
    for name in driver.list(folder):
        path = f"{folder.rstrip('/')}/{name}"
        if driver.stat(path).is_folder:
            found |= shown(driver, path)
        else:
            found[path] = driver.get_content(path)
    return found


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_everywhere(folder: str) -> None:
    """Make each change in a process that is killed before its first, second, ... call, until one survives."""
    for name, change in CHANGES.items():
        for number in itertools.count():
            root = f"{folder}/{name}-{number}"
            os.mkdir(root)
            driver = FilesystemDriver(root)
            for path, content in change.first.items():
                driver.put_content(path, content)
            process = os.fork()
            if process == 0:
                with contextlib.suppress(AssertionError), before(nth(number), kill_self):
                    change.apply(driver)
                os._exit(0)
            survived = os.waitpid(process, 0)[1] == 0
            held = {path: content.decode() for path, content in shown(driver).items()}
            print(json.dumps([name, survived, held]), flush=True)
            if survived:
                break


def stamped(number: int) -> bytes:
    """Content that shows whether it is whole: a number, a size, and as many bytes that follow from both."""
    text = b"%d %d " % (number, random.randrange(8000))
    return text + filling(text)


def filling(text: bytes) -> bytes:
    return hashlib.sha256(text).digest() * int(text.split()[1])


def stamp(content: bytes) -> int:
    """The number of stamped content, which must be whole."""
    text = b" ".join([*content.split(b" ", 2)[:2], b""])
    assert content == text + filling(text)
    return int(text.split()[0])


def write_for_ever(root: str) -> None:
    """Put and move content, and tell the number of each round that is done."""
    driver = FilesystemDriver(root)
    for number in itertools.count():
        driver.put_content(f"/put/{number % 3}/a", stamped(number))
        write(driver, f"/written/{number}/data", stamped(number))
        driver.move(f"/written/{number}/data", f"/moved/{number % 3}/a")
        driver.delete(f"/written/{number}")
        print(number, flush=True)


class CrashTests(SynchronousTestCase):
    def test_killed_before_each_call(self) -> None:
        with python("crash_everywhere", new_folder(self)) as process:
            outcomes = [json.loads(line) for line in lines(process)]
        assert process.returncode == 0
        for name, survived, held in outcomes:
            change = CHANGES[name]
            contents = {path: text.encode() for path, text in held.items()}
            assert contents == change.last or (contents == change.first and not survived), (name, held)
        assert [name for name, survived, _ in outcomes if survived] == list(CHANGES)
        assert len(outcomes) > 4 * len(CHANGES)

    def test_killed_at_any_moment(self) -> None:
        roots = [new_folder(self) for _ in range(6)]
        processes = [python("write_for_ever", root) for root in roots]
        for process, root in zip(processes, roots, strict=True):
            with process:
                told = [next(lines(process))]
                time.sleep(random.uniform(0, 0.1))
                process.kill()
                told += lines(process)
            # A line that the kill cut short has no newline.
            self.check(shown(FilesystemDriver(root)), max(int(line) for line in told if line[-1] == "\n"))

    def check(self, held: Contents, done: int) -> None:
        """Of each place there is the last round that was told, or the one that was going on."""
        for place in ("put", "moved"):
            stamps = {stamp(held.pop(f"/{place}/{number % 3}/a")) for number in range(max(0, done - 2), done + 1)}
            stamps |= {stamp(held.pop(path)) for path in list(held) if path.startswith(f"/{place}/")}
            assert stamps - {done + 1} >= set(range(max(0, done - 1), done + 1))
            assert max(stamps) <= done + 1
        assert set(held) <= {f"/written/{done + 1}/data"}


TRACED = "mkdir mkdirat fsync rename renameat renameat2 unlink unlinkat rmdir write writev access faccessat faccessat2"
MARK = "/no-such-folder/"
_TRACE = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")
_TRACED_PATH = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"([^"]*)"')
_TRACED_FILE = re.compile(r"\d+<([^>]*)>")


def change_everything(root: str) -> None:
    """One change after another, each announced by a look for a file named after it."""
    driver = FilesystemDriver(root)
    changes: dict[str, Callable[[], None]] = {
        "put": lambda: driver.put_content("/f/g/a", b"1"),
        "replace": lambda: driver.put_content("/f/g/a", b"2"),
        "make folder": lambda: driver.make_folder("/h/i"),
        "write": lambda: write(driver, "/k/l/m/a", b"3"),
        "move": lambda: driver.move("/k/l/m/a", "/n/o/a"),
        "move within": lambda: driver.move("/n/o/a", "/n/o/b"),
        "delete": lambda: driver.delete("/n/o/b"),
        "delete folder": lambda: driver.delete("/f"),
    }
    for name, change in changes.items():
        os.access(MARK + name, os.F_OK)
        change()


def traced_calls(root: str, trace: str) -> Iterator[tuple[str, list[str]]]:
    """The calls that a trace tells, with the paths within a root that they name; the marks, as calls of that name."""
    for call, arguments, result in _TRACE.findall(trace):
        if MARK in arguments:
            yield "mark", [arguments.partition(MARK)[2].partition('"')[0]]
        elif int(result) >= 0 and root in arguments:
            found = (
                _TRACED_FILE.findall(arguments)
                if call in ("fsync", "write", "writev")
                else [os.path.join(*parts) for parts in _TRACED_PATH.findall(arguments)]
            )
            yield call, [path.removeprefix(root) for path in found]


def not_durable(calls: Iterator[tuple[str, list[str]]]) -> Iterator[tuple[str, set[str]]]:
    """For each change the paths that a loss of power right after it may bring back, take, or leave without content."""
    change = ""
    names: set[str] = set()
    unwritten: set[str] = set()
    for call, paths in calls:
        if call == "mark":
            yield change, names | unwritten
            (change,) = paths
        elif call in ("write", "writev"):
            unwritten.update(paths)
        elif call == "fsync":
            unwritten.difference_update(paths)
            names = {path for path in names if os.path.dirname(path) != (paths[0] or "/")}
        else:
            assert unwritten.isdisjoint(paths), f"{call}{paths} of content that is not synced"
            names.update(paths)
            if call in ("rmdir", "unlinkat"):
                names = {path for path in names if os.path.dirname(path) != paths[0]}
    yield change, names | unwritten


class SyncTests(SynchronousTestCase):
    def trace(self, root: str) -> str:
        strace = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", f"{root}.trace"]
        try:
            probe = subprocess.run([*strace, "true"], capture_output=True, text=True)
        except FileNotFoundError:
            raise SkipTest("the order of syncs is seen with strace, which is not installed") from None
        if probe.returncode != 0:
            raise SkipTest(f"the order of syncs is seen with strace, which does not work here: {probe.stderr.strip()}")
        selected = ",".join(f"?{call}" for call in TRACED.split())
        with python("change_everything", root, under=[*strace, "-e", f"trace={selected}"]) as process:
            pass
        assert process.returncode == 0
        with open(f"{root}.trace") as file:
            return file.read()

    def test_what_is_done_is_durable(self) -> None:
        root = f"{new_folder(self)}/root"
        os.mkdir(root)
        left = dict(not_durable(traced_calls(root, self.trace(root))))
        # Where content is being written the folder need not outlast it, and those above it do.
        assert left == {
            **{change: set() for change in ("", "put", "replace", "make folder")},
            **{change: {"/k/l/m"} for change in ("write", "move", "move within", "delete", "delete folder")},
        }


def hold(root: str, what: str) -> None:
    """Hold the storage, or the content at a path, until the input ends."""
    driver = FilesystemDriver(root)
    if what.startswith("/"):
        driver.writer(what, True)
    else:
        driver.lock(what == "exclusive")
    print("held", flush=True)
    sys.stdin.read()


class ProcessTests(SynchronousTestCase):
    """What one process holds, another cannot have until that has ended, however it ends."""

    def setUp(self) -> None:
        self.root = new_folder(self)
        self.driver = FilesystemDriver(self.root)
        self.addCleanup(self.driver.close)

    @contextmanager
    def other(self, what: str) -> Iterator[None]:
        with python("hold", self.root, what) as process:
            assert next(lines(process)) == "held\n"
            try:
                yield
            finally:
                process.kill()

    def test_writer(self) -> None:
        with self.other("/f/a"):
            for create in (True, False):
                with pytest.raises(BlockingIOError):
                    self.driver.writer("/f/a", create)
        self.driver.writer("/f/a", False).close()

    def test_shared_lock(self) -> None:
        with self.other("shared"):
            with pytest.raises(BlockingIOError):
                self.driver.lock(True)
            self.driver.lock(False)
            self.driver.close()
        self.driver.lock(True)

    def test_exclusive_lock(self) -> None:
        with self.other("exclusive"):
            for exclusive in (True, False):
                with pytest.raises(BlockingIOError):
                    self.driver.lock(exclusive)
        self.driver.lock(False)


class LockTests(SynchronousTestCase):
    def test_root_is_made(self) -> None:
        folder = new_folder(self)
        driver = FilesystemDriver(f"{folder}/a/root")
        driver.lock(True)
        self.addCleanup(driver.close)
        assert files(folder) == {f"/a/root/{LOCK_NAME}": b""}

    def read_only(self, lock_file: bool) -> str:
        folder = new_small_folder(self) if os.geteuid() == 0 else new_folder(self)
        if lock_file:
            driver = FilesystemDriver(folder)
            driver.lock(False)
            driver.close()
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        else:
            self.addCleanup(os.chmod, folder, 0o777)
            os.chmod(folder, 0o555)
            if lock_file:
                os.chmod(f"{folder}/{LOCK_NAME}", 0o444)
        return folder

    def test_root_that_cannot_be_written(self) -> None:
        folder = self.read_only(lock_file=True)
        first, second = FilesystemDriver(folder), FilesystemDriver(folder)
        self.addCleanup(first.close)
        first.lock(True)
        with pytest.raises(BlockingIOError):
            second.lock(False)

    def test_root_that_cannot_be_written_without_a_lock_file(self) -> None:
        folder = self.read_only(lock_file=False)
        for _ in range(2):
            FilesystemDriver(folder).lock(True)
        assert os.listdir(folder) == []

    def test_root_that_cannot_be_made(self) -> None:
        folder = self.read_only(lock_file=False)
        with pytest.raises(OSError):
            FilesystemDriver(f"{folder}/root").lock(False)
        with pytest.raises(OSError):
            FilesystemDriver("/proc/self/status/root").lock(False)
