"""The storage driver for a local file system: content is files below a root folder, as CNCF Distribution keeps it.

What is durable stands on disk after a loss of power: a file is synced before it gets its name, the folder that holds
the name after; a folder that is made for it is synced into its parent before anything is put there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeVar
from uuid import uuid4

import attrs
from zope.interface import implementer

from registryd.interfaces import IContentReader, IContentWriter, IStorageDriver, Stat

LOCK_NAME: Final = "registryd.lock"
"""The file in the root folder that ``lock`` holds."""

_T = TypeVar("_T")

_READ: Final = os.O_RDONLY
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_APPEND: Final = os.O_RDWR | os.O_APPEND
_LOCK: Final = os.O_RDWR | os.O_CREAT

_FIRST_READ: Final = 64 * 1024
_NEXT_READ: Final = 1024 * 1024
_BUFFERS_A_CALL: Final = os.sysconf("SC_IOV_MAX")

# Who removes emptied folders can take one between mkdir and its first entry; nobody does so for ever.
_ATTEMPTS: Final = 1000

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_NOT_WRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_TEMPORARY: Final = re.compile(r".*\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp", re.ASCII | re.DOTALL)


def _root(path: str) -> str:
    # The path that "/docker" can be appended to, whatever folder the process works in later.
    return os.path.abspath(path).rstrip("/")


@implementer(IStorageDriver)
@attrs.define(eq=False)
class FilesystemDriver:
    """A tree below a root folder, which is made when it is first needed.

    A path with ``.``, ``..``, an empty component or a NUL is refused: as absent where it is read, with ValueError where
    it is changed. Symbolic links in the tree are followed: they are the operator's.
    """

    root: str = attrs.field(converter=_root)
    immediate: bool = attrs.field(default=True, init=False)
    _lock: int | None = attrs.field(default=None, init=False)

    def get_content(self, path: str) -> bytes:
        try:
            descriptor = os.open(self._place(path), _READ)
            try:
                content = os.read(descriptor, _FIRST_READ)
                # Only an empty read is the end: after one that a failing disk cut short, the next tells the error.
                while more := os.read(descriptor, _NEXT_READ):
                    content += more
                return content
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None

    def put_content(self, path: str, content: bytes) -> None:
        place = self._entry(path)
        folder = os.path.dirname(place)
        _within(folder, lambda: _replace(place, content))
        _sync_folder(folder)

    def reader(self, path: str) -> IContentReader:
        try:
            return _open_reader(self._place(path))
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None

    def writer(self, path: str, create: bool) -> IContentWriter:
        place = self._entry(path)
        if create:
            # What is written is durable after a move: until then its own folder need not be, only those that stay.
            return _within(os.path.dirname(place), lambda: _open_writer(place, _APPEND | os.O_CREAT), passing=True)
        try:
            return _open_writer(place, _APPEND)
        except OSError as error:
            raise _absence(error, path) from None

    def stat(self, path: str) -> Stat:
        try:
            status = os.stat(self._place(path))
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None
        is_folder = stat.S_ISDIR(status.st_mode)
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        return Stat(is_folder, 0 if is_folder else status.st_size, status.st_mtime, version)

    def list(self, path: str) -> list[str]:
        try:
            names = os.listdir(self._place(path))
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None
        return [name for name in names if name[-4:] != ".tmp" or _TEMPORARY.fullmatch(name) is None]

    def make_folder(self, path: str) -> None:
        place = self._entry(path)
        _within(place, lambda: os.close(os.open(place, _FOLDER)))

    def move(self, source: str, target: str) -> None:
        origin, place = self._entry(source), self._entry(target)
        try:
            if stat.S_ISDIR(os.stat(origin).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise _absence(error, source) from None
        folder = os.path.dirname(place)
        _within(folder, lambda: os.rename(origin, place))
        for changed in dict.fromkeys([folder, os.path.dirname(origin)]):
            _sync_folder(changed)

    def delete(self, path: str) -> None:
        place = self._entry(path)
        try:
            os.unlink(place)
        except IsADirectoryError:
            _remove_tree(place)
        except OSError as error:
            raise _absence(error, path) from None
        _sync_folder(os.path.dirname(place))

    def prune(self, path: str, stop: str) -> None:
        place, above = self._entry(path), self._place(stop).rstrip("/") + "/"
        while place.startswith(above):
            try:
                os.rmdir(place)
            except OSError as error:
                if error.errno in _NOT_EMPTY:
                    return
                if error.errno not in _ABSENT:
                    raise
            place = os.path.dirname(place)

    def touch(self, path: str) -> None:
        try:
            os.utime(self._place(path))
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None

    @contextmanager
    def guard(self, path: str, exclusive: bool) -> Iterator[None]:
        place = self._entry(path)
        descriptor = _hold_folder(place, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        try:
            yield
        finally:
            os.close(descriptor)

    def lock(self, exclusive: bool) -> None:
        descriptor = _open_lock(self.root)
        if descriptor is None:
            return
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self.close()
        self._lock = descriptor

    def close(self) -> None:
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            os.close(descriptor)

    def _place(self, path: str) -> str:
        # Almost no path has any of these, so that the exact check is seldom made.
        if "/." in path or "//" in path or "\0" in path or path[-1:] == "/" or path[:1] != "/":
            _check(path)
        return self.root + path

    def _entry(self, path: str) -> str:
        if path == "/":
            raise ValueError("the root folder itself cannot be changed")
        return self._place(path)


@implementer(IContentReader)
@attrs.define(eq=False)
class _FileReader:
    _descriptor: int
    size: int

    def read(self, start: int, stop: int) -> bytes:
        stop = min(stop, self.size)
        parts: list[bytes] = []
        while start < stop and (part := os.pread(self._descriptor, stop - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fileno(self) -> int | None:
        return self._descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@implementer(IContentWriter)
@attrs.define(eq=False)
class _FileWriter(_FileReader):
    """Its lock is on the open file: it ends with it, and keeps out other writers of this process too."""

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        try:
            self.size += _write_all(self._descriptor, buffers)
        except BaseException:
            try:
                os.ftruncate(self._descriptor, self.size)
            except OSError:
                # Nothing may follow a part of what failed. Who opens the content again sees its true size.
                self.close()
            raise

    def truncate(self, size: int) -> None:
        if size < self.size:
            os.ftruncate(self._descriptor, size)
            self.size = size

    def sync(self) -> None:
        os.fsync(self._descriptor)


def _check(path: str) -> None:
    components = path.split("/")[1:] if path != "/" else []
    if path[:1] != "/" or "\0" in path or not {"", ".", ".."}.isdisjoint(components):
        raise ValueError(f"not a path of the storage: {path!r}")


def _absence(error: OSError | ValueError, path: str) -> OSError:
    """What to raise for an error: FileNotFoundError where it means that there can be no such content."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno not in _ABSENT):
        return error
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _hold_folder(place: str, how: int) -> int:
    """A descriptor of a folder that is locked, and that still stands at its place."""
    while True:
        descriptor = _within(place, lambda: os.open(place, _FOLDER))
        try:
            fcntl.flock(descriptor, how)
            if os.path.samestat(os.fstat(descriptor), os.stat(place)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        # It was removed before it was locked: another stands there, or will.
        os.close(descriptor)


def _open_reader(place: str) -> _FileReader:
    descriptor = os.open(place, _READ)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return _FileReader(descriptor, status.st_size)
    except BaseException:
        os.close(descriptor)
        raise


def _open_writer(place: str, flags: int) -> _FileWriter:
    """Open and lock a file, the one that still stands at its place once it is locked."""
    for _ in range(_ATTEMPTS):
        descriptor = os.open(place, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if os.path.samestat(status, os.stat(place)):
                return _FileWriter(descriptor, status.st_size)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, "replaced by others again and again", place)


def _open_lock(root: str) -> int | None:
    """The lock file, made where that can be; None where there is none, in a root that cannot be written."""
    place = f"{root}/{LOCK_NAME}"
    try:
        return _within(root, lambda: os.open(place, _LOCK, 0o666))
    except OSError as error:
        if error.errno not in _NOT_WRITABLE or not os.path.isdir(root):
            raise
    with suppress(FileNotFoundError):
        return os.open(place, _READ)
    return None


def _within(folder: str, step: Callable[[], _T], passing: bool = False) -> _T:
    """Take a step in a folder; where that is missing, it is made, with those above it, and goes if the step fails.

    A folder that is only ``passing`` is not made durable itself, those above it are. One that somebody else makes at
    the same time is theirs to sync: a journal keeps the order anyway.
    """
    made: list[str] = []
    try:
        result = _retry(folder, step, made)
        # Not before the step: a new folder is soonest out of the reach of who removes empty ones with something in it.
        for parent in dict.fromkeys(os.path.dirname(new) for new in made if new != folder or not passing):
            _sync_folder(parent)
        return result
    except BaseException:
        for new in reversed(made):
            with suppress(OSError):
                os.rmdir(new)
        raise


def _retry(folder: str, step: Callable[[], _T], made: list[str]) -> _T:
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):
            return step()
        with suppress(FileNotFoundError):
            _make_folders(folder, made)
    return step()


def _make_folders(folder: str, made: list[str]) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o777)
            made.append(folder)


def _sync_folder(folder: str) -> None:
    try:
        descriptor = os.open(folder, _FOLDER)
    except FileNotFoundError:
        # Somebody has removed it since, and with it what was to be kept.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and need not.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _replace(place: str, content: bytes) -> None:
    temporary = f"{place}.{uuid4()}.tmp"
    descriptor = os.open(temporary, _NEW, 0o666)
    try:
        try:
            _write_all(descriptor, [content])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, place)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _write_all(descriptor: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
    """Write buffers one after another, in as many calls as it takes; how many bytes they are."""
    pending: list[bytes | bytearray | memoryview] = list(buffers)
    total = 0
    while pending:
        written = os.writev(descriptor, pending[:_BUFFERS_A_CALL])
        pending = _beyond(pending, written)
        total += written
    return total


def _beyond(buffers: list[bytes | bytearray | memoryview], size: int) -> list[bytes | bytearray | memoryview]:
    for index, buffer in enumerate(buffers):
        if size < len(buffer):
            return [memoryview(buffer)[size:], *buffers[index + 1 :]]
        size -= len(buffer)
    return []


def _remove_tree(folder: str) -> None:
    """Remove a folder with all that is in it, also what others put there or remove meanwhile."""
    for _ in range(_ATTEMPTS):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in _NOT_EMPTY and not isinstance(error, FileNotFoundError):
                raise
        if not os.path.lexists(folder):
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), folder)
