"""The storage driver for a local file system: content is files below a root folder, as CNCF Distribution keeps it.

What is durable stands on disk after a loss of power: a file is synced before it gets its name, the folder that holds
the name after; a folder that is made for it is synced into its parent before anything is put there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import attrs
from zope.interface import implementer

from registryd.storage.durable import (
    FOLDER,
    NOT_EMPTY,
    loosely_within,
    remove_tree,
    replace,
    sync_folder,
    within,
)
from registryd.storage.files import open_reader, open_writer
from registryd.storage.interfaces import Entry, IContentReader, IContentWriter, IStorageDriver, Leaf, Stat
from registryd.storage.layout import is_temporary
from registryd.storage.turnstile import Turnstile

LOCK_NAME: Final = "registryd.lock"
"""The file in the root folder that ``lock`` holds."""

_READ: Final = os.O_RDONLY
_LOCK: Final = os.O_RDWR | os.O_CREAT

_FIRST_READ: Final = 64 * 1024
_NEXT_READ: Final = 1024 * 1024

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_NOT_WRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


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
    _turnstile: Turnstile = attrs.field(factory=Turnstile, init=False, repr=False)

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

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        place = self._entry(path)
        folder = os.path.dirname(place)
        beside = folder if above and folder != self.root else place
        within(os.path.dirname(beside), lambda: replace(place, content, beside))
        sync_folder(folder)

    def reader(self, path: str) -> IContentReader:
        try:
            return open_reader(self._place(path))
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None

    def writer(self, path: str, create: bool) -> IContentWriter:
        place = self._entry(path)
        if create:
            # What is written is durable after a move: until then its own folder need not be, only those that stay.
            return within(os.path.dirname(place), lambda: open_writer(place, True), passing=True)
        try:
            return open_writer(place, False)
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
        return [name for name in names if name[-4:] != ".tmp" or not is_temporary(name)]

    def entries(self, path: str) -> Iterator[Entry]:
        try:
            scan = os.scandir(self._place(path))
        except (OSError, ValueError) as error:
            if not isinstance(_absence(error, path), FileNotFoundError):
                raise
            return
        with scan:
            for entry in scan:
                yield Entry(entry.name, _is_folder(entry))

    def leaves(self, path: str, leaf: str, others: bool) -> Iterator[Leaf]:
        try:
            place = self._place(path)
            folder = os.open(place, FOLDER)
        except (OSError, ValueError) as error:
            if not isinstance(_absence(error, path), FileNotFoundError):
                raise
            return
        try:
            with os.scandir(folder) as scan:
                for entry in scan:
                    if _is_folder(entry):
                        found = _leaf(folder, f"{place}/{entry.name}" if others else None, entry.name, leaf)
                        if found is not None:
                            yield found
                    elif is_temporary(entry.name):
                        yield Leaf(entry.name, None, 0.0)
        finally:
            os.close(folder)

    def make_folder(self, path: str) -> None:
        place = self._entry(path)
        within(place, lambda: os.close(os.open(place, FOLDER)))

    def move(self, source: str, target: str) -> None:
        origin, place = self._entry(source), self._entry(target)
        try:
            if stat.S_ISDIR(os.stat(origin).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise _absence(error, source) from None
        folder = os.path.dirname(place)
        within(folder, lambda: os.rename(origin, place))
        for changed in dict.fromkeys([folder, os.path.dirname(origin)]):
            sync_folder(changed)

    def delete(self, path: str) -> None:
        place = self._entry(path)
        try:
            os.unlink(place)
        except IsADirectoryError:
            remove_tree(place)
        except OSError as error:
            raise _absence(error, path) from None
        sync_folder(os.path.dirname(place))

    def set_aside(self, path: str, aside: str) -> None:
        origin, place = self._entry(path), self._entry(aside)
        try:
            if stat.S_ISDIR(os.stat(origin).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise _absence(error, path) from None
        if not loosely_within(os.path.dirname(place), lambda: _renamed(origin, place)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def put_back(self, aside: str, path: str) -> bool:
        origin, place = self._entry(aside), self._entry(path)
        try:
            # A relative symbolic link leads nowhere from where it was set aside to, and comes back all the same.
            if stat.S_ISDIR(os.lstat(origin).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise _absence(error, aside) from None
        return loosely_within(os.path.dirname(place), lambda: _put_back(origin, place))

    def discard(self, path: str) -> None:
        try:
            os.unlink(self._entry(path))
        except OSError as error:
            raise _absence(error, path) from None

    def prune(self, path: str, stop: str) -> bool:
        first, above = self._entry(path), self._place(stop).rstrip("/") + "/"
        place = first
        while place.startswith(above):
            try:
                if place == first:
                    os.rmdir(place)
                elif not _remove_unheld(place):
                    return True
            except OSError as error:
                if error.errno in NOT_EMPTY:
                    return place != first
                if error.errno not in _ABSENT:
                    raise
            place = place.rpartition("/")[0]
        return place != first

    def touch(self, path: str) -> None:
        try:
            os.utime(self._place(path))
        except (OSError, ValueError) as error:
            raise _absence(error, path) from None

    @contextmanager
    def guard(self, path: str, exclusive: bool) -> Iterator[None]:
        place = self._entry(path)
        if exclusive:
            with self._turnstile.before_others(place):
                descriptor = _hold_folder(place, fcntl.LOCK_EX)
        else:
            self._turnstile.wait_for_turn(place)
            descriptor = _hold_folder(place, fcntl.LOCK_SH)
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


def _check(path: str) -> None:
    components = path.split("/")[1:] if path != "/" else []
    if path[:1] != "/" or "\0" in path or not {"", ".", ".."}.isdisjoint(components):
        raise ValueError(f"not a path of the storage: {path!r}")


def _absence(error: OSError | ValueError, path: str) -> OSError:
    """What to raise for an error: FileNotFoundError where it means that there can be no such content."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno not in _ABSENT):
        return error
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a symbolic link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return False


def _leaf(above: int, listed: str | None, name: str, leaf: str) -> Leaf | None:
    """A folder in one that is open, listed where its place is given; None where it is gone."""
    others: Sequence[str] = ()
    try:
        if listed is not None:
            others = os.listdir(listed)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # From the open folder: the way from the root is not looked up again for each.
        status = os.stat(f"{name}/{leaf}", dir_fd=above)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return Leaf(name, None, 0.0, others)
    if stat.S_ISDIR(status.st_mode):
        return Leaf(name, None, 0.0, others)
    return Leaf(name, status.st_size, status.st_mtime, [o for o in others if o != leaf] if len(others) > 1 else ())


def _renamed(origin: str, place: str) -> bool:
    """Rename a file; false where it is gone, so that nobody makes a folder for it again and again."""
    try:
        os.rename(origin, place)
    except FileNotFoundError:
        if os.path.lexists(origin):
            raise
        return False
    return True


def _put_back(origin: str, place: str) -> bool:
    """Move a file to a place where nothing stands, else remove it; whether it was moved."""
    try:
        os.link(origin, place)
    except FileExistsError:
        os.unlink(origin)
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Not in one step, but better than leaving what is needed in the trash.
        if os.path.lexists(place):
            os.unlink(origin)
            return False
        os.rename(origin, place)
        return True
    os.unlink(origin)
    return True


def _hold_folder(place: str, how: int) -> int:
    """A descriptor of a folder that is locked, and that still stands at its place."""
    while True:
        descriptor = within(place, lambda: os.open(place, FOLDER))
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


def _remove_unheld(place: str) -> bool:
    """Remove an empty folder, unless somebody holds it: whoever holds another in its place would not exclude them."""
    descriptor = os.open(place, FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rmdir(place)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _open_lock(root: str) -> int | None:
    """The lock file, made where that can be; None where there is none, in a root that cannot be written."""
    place = f"{root}/{LOCK_NAME}"
    try:
        return within(root, lambda: os.open(place, _LOCK, 0o666))
    except OSError as error:
        if error.errno not in _NOT_WRITABLE or not os.path.isdir(root):
            raise
    with suppress(FileNotFoundError):
        return os.open(place, _READ)
    return None
