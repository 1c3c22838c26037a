"""What every storage driver must do, as mixins for a test case."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import TestCase

from zope.interface.verify import verifyObject

from registryd.storage.interfaces import IContentReader, IContentWriter, IStorageDriver, Leaf

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object

REFUSED = ("", "a", "/a/", "//a", "/a//b", "/./a", "/a/..", "/../a", "/a/../../b", "/..", "/a\0b", "/\0")
"""What is no path: relative, with empty components, dots or a NUL."""

KIB = 1024


def seconds_after(driver: IStorageDriver, path: str, earlier: float) -> float:
    """How much later than a time the content at a path was modified; waits for a clock that is coarse."""
    deadline = time.monotonic() + 1
    while driver.stat(path).modified <= earlier and time.monotonic() < deadline:
        driver.touch(path)
    return driver.stat(path).modified - earlier


class DriverContract(_Case):
    """The contract; ``make_driver`` gives a driver of an empty storage."""

    def make_driver(self) -> IStorageDriver:
        raise NotImplementedError

    def another(self) -> IStorageDriver:
        """A second driver of the same storage, or the same where there can be no second."""
        return self.driver

    def setUp(self) -> None:
        self.driver = self.make_driver()
        self.addCleanup(self.driver.close)

    def write(self, path: str, *buffers: bytes) -> None:
        writer = self.driver.writer(path, True)
        writer.write(buffers)
        writer.close()

    def names(self, path: str) -> list[str]:
        return sorted(self.driver.list(path))

    def assertAbsent(self, path: str) -> None:
        with self.assertRaises(FileNotFoundError):
            self.driver.stat(path)

    def test_interfaces(self) -> None:
        verifyObject(IStorageDriver, self.driver)
        self.driver.put_content("/a", b"")
        reader, writer = self.driver.reader("/a"), self.driver.writer("/a", False)
        self.addCleanup(reader.close)
        self.addCleanup(writer.close)
        verifyObject(IContentReader, reader)
        verifyObject(IContentWriter, writer)

    # get_content and put_content

    def test_content_comes_back(self) -> None:
        for content in (b"", b"link", bytes(range(256)) * 16 * KIB):
            self.driver.put_content("/f/a", content)
            self.assertTrue(self.driver.get_content("/f/a") == content)

    def test_put_content_replaces(self) -> None:
        self.driver.put_content("/f/a", b"longer content")
        self.driver.put_content("/f/a", b"short")
        self.assertEqual((self.driver.get_content("/f/a"), self.names("/f")), (b"short", ["a"]))

    def test_put_content_makes_folders(self) -> None:
        self.driver.put_content("/f/g/h/a", b"1")
        self.assertEqual([self.names(path) for path in ("/f", "/f/g", "/f/g/h")], [["g"], ["h"], ["a"]])

    def test_get_content_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/f/b", "/g/h/b", "/f", "/", "/f/a/b", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.get_content(path)

    def test_put_content_os_error_changes_nothing(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/f/a/b", "/f/a/b/c", "/f"):
            with self.assertRaises(OSError):
                self.driver.put_content(path, b"2")
        self.assertEqual((self.driver.get_content("/f/a"), self.names("/f")), (b"1", ["a"]))

    def test_put_content_at_once_by_many(self) -> None:
        contents = [bytes([number]) * 32 * KIB for number in range(8)]

        def put_and_get(content: bytes) -> bytes:
            self.driver.put_content("/f/a", content)
            return self.driver.get_content("/f/a")

        with ThreadPoolExecutor(4) as threads:
            seen = set(threads.map(put_and_get, contents))
        self.assertTrue(seen <= set(contents))
        self.assertEqual(self.names("/f"), ["a"])

    # reader

    def test_reader_reads_ranges(self) -> None:
        self.driver.put_content("/a", b"0123456789")
        reader = self.driver.reader("/a")
        self.addCleanup(reader.close)
        self.assertEqual(reader.size, 10)
        ranges = {(0, 10): b"0123456789", (3, 5): b"34", (8, 20): b"89", (10, 12): b"", (12, 14): b"", (4, 4): b""}
        self.assertEqual({(start, stop): reader.read(start, stop) for start, stop in ranges}, ranges)

    def test_reader_of_a_file_tells_its_descriptor(self) -> None:
        self.driver.put_content("/a", b"0123456789")
        reader = self.driver.reader("/a")
        self.addCleanup(reader.close)
        descriptor = reader.fileno()
        if descriptor is not None:
            self.assertEqual(os.pread(descriptor, 3, 2), b"234")

    def test_reader_keeps_what_it_opened(self) -> None:
        def replace() -> None:
            self.driver.put_content("/f/a", b"new")

        def append() -> None:
            self.write("/f/a", b"more")

        for change in (replace, append, lambda: self.driver.delete("/f/a"), lambda: self.driver.delete("/f")):
            self.driver.put_content("/f/a", b"old")
            reader = self.driver.reader("/f/a")
            change()
            self.assertEqual((reader.size, reader.read(0, 10)), (3, b"old"))
            reader.close()

    def test_reader_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h/b", "/f", "/", "/f/a/b", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.reader(path)

    def test_read_os_error_of_what_is_closed(self) -> None:
        self.driver.put_content("/a", b"1")
        reader = self.driver.reader("/a")
        reader.close()
        reader.close()
        with self.assertRaises(OSError):
            reader.read(0, 1)

    # writer

    def test_writer_appends(self) -> None:
        self.write("/f/a", b"01", b"", b"2")
        writer = self.driver.writer("/f/a", False)
        self.assertEqual(writer.size, 3)
        writer.write([])
        writer.write([b"34", b"5"])
        writer.sync()
        self.assertEqual((writer.size, writer.read(1, 5), writer.read(4, 9)), (6, b"1234", b"45"))
        writer.close()
        self.assertEqual(self.driver.get_content("/f/a"), b"012345")

    def test_writer_appends_many_buffers(self) -> None:
        buffers = [b"%d," % number for number in range(3000)]
        self.write("/a", *buffers)
        self.assertTrue(self.driver.get_content("/a") == b"".join(buffers))

    def test_writer_creates_empty_content(self) -> None:
        self.driver.writer("/f/g/a", True).close()
        self.assertEqual((self.driver.get_content("/f/g/a"), self.driver.stat("/f/g/a").size), (b"", 0))

    def test_writer_truncates(self) -> None:
        self.write("/a", b"0123456789")
        writer = self.driver.writer("/a", True)
        writer.truncate(4)
        self.assertEqual((writer.size, writer.read(0, 10)), (4, b"0123"))
        writer.truncate(8)
        self.assertEqual(writer.size, 4)
        writer.write([b"x"])
        writer.close()
        self.assertEqual(self.driver.get_content("/a"), b"0123x")

    def test_reader_sees_what_was_appended_when_it_is_refreshed(self) -> None:
        self.write("/f/a", b"0123")
        reader = self.driver.reader("/f/a")
        self.addCleanup(reader.close)
        writer = self.driver.writer("/f/a", False)
        writer.write([b"45"])
        writer.close()
        self.assertEqual((reader.size, reader.read(0, 10)), (4, b"0123"))
        reader.refresh()
        self.driver.delete("/f")
        self.assertEqual((reader.size, reader.read(0, 10)), (6, b"012345"))

    def test_writer_stands_while_nobody_removes_or_replaces_its_content(self) -> None:
        writer = self.driver.writer("/f/a", True)
        self.addCleanup(writer.close)
        self.assertTrue(writer.stands())
        self.driver.delete("/f")
        self.assertFalse(writer.stands())
        other = self.driver.writer("/f/a", True)
        self.addCleanup(other.close)
        self.assertEqual((writer.stands(), other.stands()), (False, True))
        self.driver.put_content("/f/b", b"1")
        self.driver.move("/f/b", "/f/a")
        self.assertFalse(other.stands())

    def test_writer_modifies(self) -> None:
        self.driver.put_content("/a", b"1")
        earlier = self.driver.stat("/a").modified
        writer = self.driver.writer("/a", False)
        self.addCleanup(writer.close)
        deadline = time.monotonic() + 1
        while self.driver.stat("/a").modified <= earlier and time.monotonic() < deadline:
            writer.write([b"1"])
        self.assertGreater(self.driver.stat("/a").modified, earlier)

    def test_writer_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h/b", "/f", "/f/a/b", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.writer(path, False)
        self.assertEqual((self.names("/"), self.names("/f")), (["f"], ["a"]))

    def test_writer_with_create_os_error_where_content_cannot_be(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/f", "/f/a/b", "/f/a/b/c"):
            with self.assertRaises(OSError):
                self.driver.writer(path, True)
        self.assertEqual(self.names("/f"), ["a"])

    def test_writer_blocking_io_error(self) -> None:
        first = self.driver.writer("/a", True)
        for driver in (self.driver, self.another()):
            with self.assertRaises(BlockingIOError):
                driver.writer("/a", True)
        first.write([b"1"])
        first.close()
        first.close()
        second = self.another().writer("/a", False)
        self.assertEqual(second.size, 1)
        second.close()

    def test_write_os_error_of_what_is_closed(self) -> None:
        writer = self.driver.writer("/a", True)
        writer.close()
        with self.assertRaises(OSError):
            writer.write([b"1"])
        self.assertEqual(self.driver.get_content("/a"), b"")

    def test_writer_goes_with_its_content(self) -> None:
        writer = self.driver.writer("/f/a", True)
        writer.write([b"1"])
        self.driver.move("/f/a", "/g/b")
        other = self.driver.writer("/f/a", True)
        with self.assertRaises(BlockingIOError):
            self.driver.writer("/g/b", False)
        writer.write([b"2"])
        writer.close()
        other.close()
        self.assertEqual((self.driver.get_content("/g/b"), self.driver.get_content("/f/a")), (b"12", b""))

    def test_writer_of_what_was_replaced_or_deleted_leaves_the_path_free(self) -> None:
        changes: list[Callable[[], None]] = [
            lambda: self.driver.put_content("/a", b"new"),
            lambda: self.driver.delete("/a"),
        ]
        for change in changes:
            old = self.driver.writer("/a", True)
            change()
            old.write([b"lost"])
            new = self.driver.writer("/a", True)
            new.write([b"er"])
            new.close()
            old.close()
            self.assertIn(self.driver.get_content("/a"), (b"newer", b"er"))

    # stat, touch, list

    def test_stat(self) -> None:
        earlier = time.time() - 1
        self.driver.put_content("/f/a", b"123")
        content, folder = self.driver.stat("/f/a"), self.driver.stat("/f")
        self.assertEqual((content.is_folder, content.size, folder.is_folder, folder.size), (False, 3, True, 0))
        for modified in (content.modified, folder.modified, self.driver.stat("/").modified):
            self.assertTrue(earlier <= modified <= time.time() + 1)

    def test_stat_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h", "/f/b", "/f/a/b", "/f/" + "n" * 5000):
            self.assertAbsent(path)

    def test_touch(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/f/a", "/f"):
            self.assertGreater(seconds_after(self.driver, path, self.driver.stat(path).modified), 0)
        self.assertEqual(self.driver.get_content("/f/a"), b"1")

    def test_touch_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h", "/f/b", "/f/a/b", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.touch(path)
            self.assertAbsent(path)

    def test_list(self) -> None:
        names = ["a", "b.tmp", "c.tmp.d", ".e", "_f"]
        for name in names:
            self.driver.put_content("/f/" + name, b"1")
        self.driver.make_folder("/f/g")
        self.assertEqual((self.names("/"), self.names("/f"), self.names("/f/g")), (["f"], sorted([*names, "g"]), []))

    def test_list_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h", "/f/a", "/f/a/b", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.list(path)

    # folders

    def test_make_folder(self) -> None:
        for _ in range(2):
            self.driver.make_folder("/f/g")
        self.driver.put_content("/f/g/a", b"1")
        self.driver.make_folder("/f/g")
        self.assertEqual((self.names("/f"), self.names("/f/g")), (["g"], ["a"]))

    def test_make_folder_os_error_where_content_is(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/f/a", "/f/a/g"):
            with self.assertRaises(OSError):
                self.driver.make_folder(path)
        self.assertEqual(self.driver.get_content("/f/a"), b"1")

    def test_prune_stops_below(self) -> None:
        self.driver.make_folder("/f/g/h/i")
        self.assertTrue(self.driver.prune("/f/g/h/i", "/f"))
        self.assertEqual(self.names("/f"), [])

    def test_prune_leaves_what_holds_something(self) -> None:
        self.driver.make_folder("/f/g/h/i")
        self.driver.put_content("/f/g/a", b"1")
        self.assertFalse(self.driver.prune("/f/g/h", "/"))
        self.assertEqual(self.names("/f/g/h"), ["i"])
        self.assertTrue(self.driver.prune("/f/g/h/i", "/"))
        self.assertEqual(self.names("/f/g"), ["a"])
        self.driver.prune("/f/g/a", "/")
        self.assertEqual(self.driver.get_content("/f/g/a"), b"1")

    def test_prune_goes_on_where_folders_are_gone(self) -> None:
        self.driver.make_folder("/f/g")
        self.assertTrue(self.driver.prune("/f/g/h/i", "/"))
        self.assertEqual(self.names("/"), [])
        self.assertTrue(self.driver.prune("/f/g/h/i", "/"))

    def test_prune_leaves_what_somebody_holds(self) -> None:
        with self.driver.guard("/r/a", True):
            self.driver.make_folder("/r/a/b")
            self.driver.prune("/r/a/b", "/r")
            held = threading.Event()

            def hold() -> None:
                with self.driver.guard("/r/a", True):
                    held.set()

            other = threading.Thread(target=hold, daemon=True)
            other.start()
            self.assertFalse(held.wait(0.1))
        other.join(10)
        self.assertTrue(held.is_set())

    def test_prune_leaves_what_is_not_below_stop(self) -> None:
        self.driver.make_folder("/f/g")
        for stop in ("/f/g", "/f/g/h", "/h", "/f/gg"):
            self.driver.prune("/f/g", stop)
        self.assertEqual(self.names("/f"), ["g"])
        self.driver.make_folder("/ff")
        self.driver.prune("/ff", "/f")
        self.assertEqual(self.names("/"), ["f", "ff"])

    def test_writes_outlast_a_prune_at_the_same_time(self) -> None:
        def prune() -> None:
            self.driver.prune("/f/g/h", "/")

        writes: list[Callable[[], None]] = [
            lambda: self.driver.put_content("/f/g/h/a", b"1"),
            lambda: self.driver.move("/f/g/h/a", "/f/g/h/i/b"),
            lambda: self.driver.delete("/f/g/h/i"),
            lambda: self.driver.writer("/f/g/h/c", True).close(),
            lambda: self.driver.delete("/f"),
        ]
        with ThreadPoolExecutor(1) as threads:
            for _ in range(20):
                for write in writes:
                    pruned = threads.submit(prune)
                    write()
                    pruned.result()

    # move, delete

    def test_move(self) -> None:
        self.driver.put_content("/f/a", b"1")
        modified = self.driver.stat("/f/a").modified
        self.driver.move("/f/a", "/g/h/b")
        self.assertEqual((self.names("/f"), self.driver.get_content("/g/h/b")), ([], b"1"))
        self.assertEqual(self.driver.stat("/g/h/b").modified, modified)

    def test_move_replaces(self) -> None:
        self.driver.put_content("/f/a", b"1")
        self.driver.put_content("/f/b", b"2")
        self.driver.move("/f/a", "/f/b")
        self.assertEqual((self.names("/f"), self.driver.get_content("/f/b")), (["b"], b"1"))
        self.driver.move("/f/b", "/f/b")
        self.assertEqual(self.driver.get_content("/f/b"), b"1")

    def test_move_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for source in ("/b", "/g/h", "/f/b", "/f/a/b", "/f", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.move(source, "/t/u")
        self.assertEqual((self.names("/"), self.names("/f")), (["f"], ["a"]))

    def test_move_os_error_changes_nothing(self) -> None:
        self.driver.put_content("/f/a", b"1")
        self.driver.put_content("/g/b", b"2")
        for target in ("/f", "/g", "/g/b/c", "/f/a/b"):
            with self.assertRaises(OSError):
                self.driver.move("/f/a", target)
        self.assertEqual((self.driver.get_content("/f/a"), self.driver.get_content("/g/b")), (b"1", b"2"))

    def test_delete(self) -> None:
        self.driver.put_content("/f/a", b"1")
        self.driver.put_content("/f/g/h/b", b"2")
        self.driver.delete("/f/a")
        self.assertEqual(self.names("/f"), ["g"])
        self.driver.delete("/f/g")
        self.assertEqual(self.names("/f"), [])

    def test_delete_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h", "/f/b", "/f/a/b", "/f/" + "n" * 5000):
            with self.assertRaises(FileNotFoundError):
                self.driver.delete(path)
        self.assertEqual(self.driver.get_content("/f/a"), b"1")

    # entries, leaves

    def test_entries(self) -> None:
        temporary = "b.01234567-89ab-cdef-0123-456789abcdef.tmp"
        for name in ("a", temporary, ".e", "_f"):
            self.driver.put_content(f"/f/{name}", b"1")
        self.driver.make_folder("/f/g")
        found = {entry.name: entry.is_folder for entry in self.driver.entries("/f")}
        self.assertEqual(found, {"a": False, temporary: False, ".e": False, "_f": False, "g": True})

    def test_entries_where_there_is_no_folder(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h", "/f/a", "/f/a/b", "/f/" + "n" * 5000, *REFUSED):
            self.assertEqual(list(self.driver.entries(path)), [])
            self.assertEqual(list(self.driver.leaves(path, "a", True)), [])

    def test_entries_while_they_go(self) -> None:
        for number in range(100):
            self.driver.put_content(f"/f/{number}/a", b"1")
        for entry in self.driver.entries("/f"):
            self.driver.delete(f"/f/{entry.name}")
        self.assertEqual(self.names("/f"), [])

    def test_leaves(self) -> None:
        self.driver.put_content("/f/a/link", b"123")
        self.driver.put_content("/f/b/link", b"")
        self.driver.put_content("/f/b/other", b"1")
        self.driver.put_content("/f/c/other", b"1")
        self.driver.make_folder("/f/d")
        self.driver.put_content("/f/link", b"1")
        temporary = "a.01234567-89ab-cdef-0123-456789abcdef.tmp"
        self.driver.put_content(f"/f/{temporary}", b"1")
        modified = self.driver.stat("/f/a/link").modified
        for others, expected in ((True, ["other"]), (False, [])):
            leaves = {leaf.name: leaf for leaf in self.driver.leaves("/f", "link", others)}
            self.assertEqual(leaves.pop(temporary), Leaf(temporary, None, 0.0))
            self.assertEqual({name: leaf.size for name, leaf in leaves.items()}, {"a": 3, "b": 0, "c": None, "d": None})
            self.assertEqual(leaves["a"].modified, modified)
            told = [list(leaves[name].others) for name in "abcd"]
            self.assertEqual(told, [[], expected, expected, []])

    def test_leaves_further_down(self) -> None:
        self.driver.put_content("/f/a/b/link", b"123")
        self.driver.put_content("/f/c/b", b"1")
        found = {leaf.name: leaf.size for leaf in self.driver.leaves("/f", "b/link", False)}
        self.assertEqual(found, {"a": 3, "c": None})

    # set_aside, put_back, discard

    def test_set_aside_and_put_back(self) -> None:
        self.driver.put_content("/f/a", b"1")
        modified = self.driver.stat("/f/a").modified
        self.driver.set_aside("/f/a", "/t/u/f.a")
        self.assertEqual((self.names("/f"), self.driver.get_content("/t/u/f.a")), ([], b"1"))
        self.driver.prune("/f", "/")
        self.assertTrue(self.driver.put_back("/t/u/f.a", "/f/a"))
        self.assertEqual((self.names("/t/u"), self.driver.get_content("/f/a")), ([], b"1"))
        self.assertEqual(self.driver.stat("/f/a").modified, modified)

    def test_put_back_where_something_new_stands(self) -> None:
        self.driver.put_content("/f/a", b"old")
        self.driver.set_aside("/f/a", "/t/f.a")
        self.driver.put_content("/f/a", b"new")
        self.assertFalse(self.driver.put_back("/t/f.a", "/f/a"))
        self.assertEqual((self.names("/t"), self.driver.get_content("/f/a")), ([], b"new"))

    def test_set_aside_what_is_open(self) -> None:
        self.driver.put_content("/f/a", b"1")
        reader = self.driver.reader("/f/a")
        self.addCleanup(reader.close)
        self.driver.set_aside("/f/a", "/t/f.a")
        self.driver.discard("/t/f.a")
        self.assertEqual(reader.read(0, 1), b"1")

    def test_discard(self) -> None:
        self.driver.put_content("/f/a", b"1")
        self.driver.put_content("/f/b", b"1")
        self.driver.discard("/f/a")
        self.assertEqual(self.names("/f"), ["b"])

    def test_set_aside_file_not_found(self) -> None:
        self.driver.put_content("/f/a", b"1")
        for path in ("/b", "/g/h", "/f/b", "/f/a/b", "/f", "/f/" + "n" * 5000):
            for change in (
                lambda path: self.driver.set_aside(path, "/t/u"),
                lambda path: self.driver.put_back(path, "/t/u"),
                self.driver.discard,
            ):
                with self.assertRaises(FileNotFoundError):
                    change(path)
        self.assertEqual(([name for name in self.names("/") if name != "t"], self.names("/f")), (["f"], ["a"]))

    # paths that are none

    def test_no_path_is_found(self) -> None:
        self.driver.put_content("/a/b", b"1")
        self.driver.put_content("/b", b"1")
        for path in REFUSED:
            for read in (self.driver.get_content, self.driver.reader, self.driver.stat, self.driver.list):
                with self.assertRaises(FileNotFoundError):
                    read(path)
            with self.assertRaises(FileNotFoundError):
                self.driver.touch(path)

    def test_no_path_is_changed(self) -> None:
        self.driver.put_content("/a/b", b"1")
        for path in (*REFUSED, "/"):
            for change in (
                lambda path: self.driver.put_content(path, b"2"),
                lambda path: self.driver.writer(path, True),
                lambda path: self.driver.writer(path, False),
                self.driver.make_folder,
                lambda path: self.driver.move("/a/b", path),
                lambda path: self.driver.move(path, "/c"),
                self.driver.delete,
                lambda path: self.driver.prune(path, "/"),
                lambda path: self.driver.set_aside("/a/b", path),
                lambda path: self.driver.set_aside(path, "/c"),
                lambda path: self.driver.put_back("/a/b", path),
                lambda path: self.driver.put_back(path, "/c"),
                self.driver.discard,
            ):
                with self.assertRaises(ValueError):
                    change(path)
        self.assertEqual((self.names("/"), self.names("/a"), self.driver.get_content("/a/b")), (["a"], ["b"], b"1"))

    # lock

    def test_lock_is_shared(self) -> None:
        self.driver.lock(False)
        self.another().lock(False)
        self.driver.put_content("/a", b"1")

    def test_lock_blocking_io_error(self) -> None:
        for first, second in ((True, True), (True, False), (False, True)):
            self.driver.lock(first)
            other = self.another()
            with self.assertRaises(BlockingIOError):
                other.lock(second)
            self.driver.close()
            other.lock(second)
            other.close()

    def test_lock_again_keeps_what_is_held(self) -> None:
        self.driver.lock(False)
        with self.assertRaises(BlockingIOError):
            self.driver.lock(True)
        with self.assertRaises(BlockingIOError):
            self.another().lock(True)

    def test_close_twice(self) -> None:
        self.driver.lock(True)
        self.driver.close()
        self.driver.close()


class FullStorageContract(_Case):
    """What a driver does when there is no room; ``make_small_driver`` gives one of an empty storage of about 1 MiB."""

    def make_small_driver(self) -> IStorageDriver:
        raise NotImplementedError

    def setUp(self) -> None:
        self.driver = self.make_small_driver()
        self.driver.put_content("/ballast", bytes(640 * KIB))
        self.driver.put_content("/f/a", b"old")

    def assertNoRoom(self, error: OSError) -> None:
        self.assertIn(error.errno, (errno.ENOSPC, errno.EDQUOT))

    def test_put_content_os_error_changes_nothing(self) -> None:
        for path in ("/f/a", "/f/b", "/g/h/c"):
            with self.assertRaises(OSError) as raised:
                self.driver.put_content(path, bytes(640 * KIB))
            self.assertNoRoom(raised.exception)
        self.assertEqual((self.driver.get_content("/f/a"), self.driver.list("/f")), (b"old", ["a"]))
        self.assertEqual(sorted(self.driver.list("/")), ["ballast", "f"])

    def test_write_os_error_appends_nothing(self) -> None:
        writer = self.driver.writer("/f/u", True)
        self.addCleanup(writer.close)
        writer.write([b"begin"])
        for _ in range(2):
            with self.assertRaises(OSError) as raised:
                writer.write([bytes(128 * KIB)] * 5)
            self.assertNoRoom(raised.exception)
            self.assertEqual((writer.size, self.driver.stat("/f/u").size, writer.read(0, 9)), (5, 5, b"begin"))

    def test_write_goes_on_when_there_is_room(self) -> None:
        writer = self.driver.writer("/f/u", True)
        writer.write([b"begin"])
        with self.assertRaises(OSError):
            writer.write([bytes(640 * KIB)])
        self.driver.delete("/ballast")
        writer.write([b"end" * KIB] * 200)
        writer.sync()
        writer.close()
        self.assertTrue(self.driver.get_content("/f/u") == b"begin" + b"end" * KIB * 200)
