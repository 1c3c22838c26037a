"""The storage driver that keeps everything in this process's memory: for tests, and for what may be forgotten."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
from zope.interface import implementer

from registryd.storage.interfaces import Entry, IContentReader, IContentWriter, IStorageDriver, Leaf, Stat
from registryd.storage.layout import is_temporary


@attrs.define(eq=False)
class _Content:
    data: bytearray
    modified: float = attrs.field(factory=time.time)
    writing: bool = False


@attrs.define(eq=False)
class _Folder:
    entries: dict[str, _Folder | _Content] = attrs.field(factory=dict)
    modified: float = attrs.field(factory=time.time)

    def contents(self) -> Iterator[_Content]:
        """All content in the folder, at any depth."""
        for entry in self.entries.values():
            if isinstance(entry, _Content):
                yield entry
            else:
                yield from entry.contents()


@implementer(IStorageDriver)
@attrs.define(eq=False)
class MemoryDriver:
    """A tree in memory with room for ``capacity`` bytes of content, or without a limit; it can be raised later."""

    capacity: int | None = None
    immediate: bool = attrs.field(default=True, init=False)
    _root: _Folder = attrs.field(factory=_Folder, init=False)
    _guard: threading.RLock = attrs.field(factory=threading.RLock, init=False)
    _guards: dict[str, threading.Lock] = attrs.field(factory=dict, init=False)
    _locked_exclusively: bool | None = attrs.field(default=None, init=False)

    def get_content(self, path: str) -> bytes:
        with self._guard:
            return bytes(self._content(path).data)

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        with self._guard:
            self.need_room(len(content))
            self._put(path, _Content(bytearray(content)))

    def reader(self, path: str) -> IContentReader:
        with self._guard:
            content = self._content(path)
            return _MemoryReader(self._guard, content, len(content.data))

    def writer(self, path: str, create: bool) -> IContentWriter:
        _split(path)
        with self._guard:
            try:
                content = self._content(path)
            except FileNotFoundError:
                if not create:
                    raise
                content = _Content(bytearray())
                self._put(path, content)
            if content.writing:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
            content.writing = True
            return _MemoryWriter(self._guard, content, len(content.data), self, path)

    def stat(self, path: str) -> Stat:
        with self._guard:
            entry = self._entry(path)
            if isinstance(entry, _Folder):
                return Stat(True, 0, entry.modified)
            return Stat(False, len(entry.data), entry.modified, (id(entry), entry.modified, len(entry.data)))

    def list(self, path: str) -> list[str]:
        with self._guard:
            entry = self._entry(path)
            if isinstance(entry, _Content):
                raise _absent(path)
            return list(entry.entries)

    def entries(self, path: str) -> Iterator[Entry]:
        yield from [Entry(name, isinstance(entry, _Folder)) for name, entry in self._below(path)]

    def leaves(self, path: str, leaf: str, others: bool) -> Iterator[Leaf]:
        names = _names(f"/{leaf}")
        for name, folder in self._below(path):
            if isinstance(folder, _Folder):
                entry = _find(folder, names)
                rest = [other for other in folder.entries if other != leaf] if others else ()
                if isinstance(entry, _Content):
                    yield Leaf(name, len(entry.data), entry.modified, rest)
                else:
                    yield Leaf(name, None, 0.0, rest if entry is None else [*rest, leaf] if others else ())
            elif is_temporary(name):
                yield Leaf(name, None, 0.0)

    def make_folder(self, path: str) -> None:
        _split(path)
        with self._guard:
            self._folder(_names(path))

    def move(self, source: str, target: str) -> None:
        above, name = _split(source)
        _split(target)
        with self._guard:
            content = self._content(source)
            self._put(target, content)
            if source != target:
                del self._folder(above).entries[name]

    def delete(self, path: str) -> None:
        above, name = _split(path)
        with self._guard:
            self._entry(path)
            del self._folder(above).entries[name]

    def set_aside(self, path: str, aside: str) -> None:
        self.move(path, aside)

    def put_back(self, aside: str, path: str) -> bool:
        for changed in (aside, path):
            _split(changed)
        with self._guard:
            self._content(aside)
            try:
                self._entry(path)
            except FileNotFoundError:
                self.move(aside, path)
                return True
            self.delete(aside)
            return False

    def discard(self, path: str) -> None:
        _split(path)
        with self._guard:
            self._content(path)
            self.delete(path)

    def prune(self, path: str, stop: str) -> bool:
        _split(path)
        above = "/".join(["", *_names(stop), ""])
        place = path
        with self._guard:
            while place.startswith(above):
                if self._is_folder(place):
                    if self.list(place):
                        return place != path
                    self.delete(place)
                place = place.rpartition("/")[0]
        return place != path

    def touch(self, path: str) -> None:
        with self._guard:
            self._entry(path).modified = time.time()

    @contextmanager
    def guard(self, path: str, exclusive: bool) -> Iterator[None]:
        self.make_folder(path)
        with self._guard:
            guard = self._guards.setdefault(path, threading.Lock())
        with guard:
            yield

    def lock(self, exclusive: bool) -> None:
        with self._guard:
            if self._locked_exclusively or (exclusive and self._locked_exclusively is not None):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._locked_exclusively = exclusive

    def close(self) -> None:
        self._locked_exclusively = None

    def need_room(self, size: int) -> None:
        """Raise OSError with ENOSPC where there is no room for so many bytes more."""
        if self.capacity is None:
            return
        if sum(len(content.data) for content in self._root.contents()) + size > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _entry(self, path: str) -> _Folder | _Content:
        try:
            entry = _find(self._root, _names(path))
        except ValueError:
            raise _absent(path) from None
        if entry is None:
            raise _absent(path)
        return entry

    def _below(self, path: str) -> Sequence[tuple[str, _Folder | _Content]]:
        """What is in a folder now; nothing where there is none."""
        with self._guard:
            try:
                folder = self._entry(path)
            except FileNotFoundError:
                return ()
            return tuple(folder.entries.items()) if isinstance(folder, _Folder) else ()

    def _content(self, path: str) -> _Content:
        entry = self._entry(path)
        if isinstance(entry, _Folder):
            raise _absent(path)
        return entry

    def holds(self, path: str, content: _Content) -> bool:
        """Whether content that was opened still stands at a path."""
        try:
            return self._entry(path) is content
        except FileNotFoundError:
            return False

    def _is_folder(self, path: str) -> bool:
        try:
            return isinstance(self._entry(path), _Folder)
        except FileNotFoundError:
            return False

    def _folder(self, names: Sequence[str]) -> _Folder:
        """The folder that names lead to, made where it is missing."""
        folder = self._root
        for name in names:
            entry = folder.entries.setdefault(name, _Folder())
            if isinstance(entry, _Content):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            folder = entry
        return folder

    def _put(self, path: str, content: _Content) -> None:
        above, name = _split(path)
        folder = self._folder(above)
        if isinstance(folder.entries.get(name), _Folder):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        folder.entries[name] = content


@implementer(IContentReader)
@attrs.define(eq=False)
class _MemoryReader:
    _guard: threading.RLock
    _content: _Content | None
    size: int

    def read(self, start: int, stop: int) -> bytes:
        with self._guard:
            return bytes(self._opened().data[start : min(stop, self.size)])

    def refresh(self) -> None:
        with self._guard:
            self.size = len(self._opened().data)

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        self._content = None

    def _opened(self) -> _Content:
        if self._content is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._content


@implementer(IContentWriter)
@attrs.define(eq=False)
class _MemoryWriter(_MemoryReader):
    _driver: MemoryDriver
    _path: str

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        appended = b"".join(buffers)
        with self._guard:
            content = self._opened()
            self._driver.need_room(len(appended))
            content.data += appended
            content.modified = time.time()
            self.size = len(content.data)

    def truncate(self, size: int) -> None:
        with self._guard:
            content = self._opened()
            del content.data[size:]
            content.modified = time.time()
            self.size = len(content.data)

    def sync(self) -> None:
        self._opened()

    def stands(self) -> bool:
        with self._guard:
            return self._driver.holds(self._path, self._opened())

    def close(self) -> None:
        with self._guard:
            if self._content is not None:
                self._content.writing = False
        super().close()


def _find(folder: _Folder, names: Sequence[str]) -> _Folder | _Content | None:
    """What names lead to from a folder."""
    entry: _Folder | _Content | None = folder
    for name in names:
        entry = entry.entries.get(name) if isinstance(entry, _Folder) else None
    return entry


def _names(path: str) -> list[str]:
    names = path.split("/")[1:] if path != "/" else []
    if path[:1] != "/" or "\0" in path or not {"", ".", ".."}.isdisjoint(names):
        raise ValueError(f"not a path of the storage: {path!r}")
    return names


def _split(path: str) -> tuple[list[str], str]:
    """The names of the folders above what is to be changed, and its own."""
    *above, name = _names(path) or [""]
    if not name:
        raise ValueError("the root folder itself cannot be changed")
    return above, name


def _absent(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
