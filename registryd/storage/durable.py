"""Steps on local files of which nothing is lost once they have returned: what a driver's durability is made of."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar
from uuid import uuid4

_T = TypeVar("_T")

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY
"""How a folder is opened."""

ATTEMPTS: Final = 1000
"""Who removes emptied folders can take one between mkdir and its first entry; nobody does so for ever."""

NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})
"""The errors of removing a folder that holds something."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_BUFFERS_A_CALL: Final = os.sysconf("SC_IOV_MAX")


def within(folder: str, step: Callable[[], _T], passing: bool = False) -> _T:
    """Take a step in a folder; where that is missing, it is made, with those above it, and goes if the step fails.

    A folder that is only ``passing`` is not made durable itself, those above it are. One that somebody else makes at
    the same time is theirs to sync: a journal keeps the order anyway.
    """
    made: list[str] = []
    try:
        result = _retry(folder, step, made)
        # Not before the step: a new folder is soonest out of the reach of who removes empty ones with something in it.
        for parent in dict.fromkeys(os.path.dirname(new) for new in made if new != folder or not passing):
            sync_folder(parent)
        return result
    except BaseException:
        for new in reversed(made):
            with suppress(OSError):
                os.rmdir(new)
        raise


def loosely_within(folder: str, step: Callable[[], _T]) -> _T:
    """Take a step in a folder, which is made where it is missing; nothing of it is durable."""
    return _retry(folder, step, [])


def _retry(folder: str, step: Callable[[], _T], made: list[str]) -> _T:
    for _ in range(ATTEMPTS):
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


def sync_folder(folder: str) -> None:
    """Return when the names in a folder are durable."""
    try:
        descriptor = os.open(folder, FOLDER)
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


def replace(place: str, content: bytes, beside: str) -> None:
    """Let a file hold content, whole or not at all at any moment; who calls this syncs the folder.

    It is written under a temporary name beside the file, or what else is on the same file system: its folder.
    """
    above, name = os.path.split(beside)
    # As long a name as any file system allows for.
    temporary = os.path.join(above, f"{name[:64]}.{uuid4()}.tmp")
    descriptor = os.open(temporary, _NEW, 0o666)
    try:
        try:
            write_all(descriptor, [content])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _rename_within(temporary, place)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if beside == place or not isinstance(error, OSError) or error.errno != errno.EXDEV:
            raise
        # A symbolic link has led the folder elsewhere.
        replace(place, content, place)


def _rename_within(temporary: str, place: str) -> None:
    """Let a temporary file stand at a place, in a folder that is made where it is missing.

    Errors:
        FileNotFoundError: the temporary file is gone: it is to be written again.
        OSError: it cannot stand there.
    """
    try:
        within(os.path.dirname(place), lambda: os.rename(temporary, place))
    except FileNotFoundError:
        if not os.path.lexists(temporary):
            raise
        # Such as a symbolic link that leads nowhere.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.path.dirname(place)) from None


def write_all(descriptor: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
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


def remove_tree(folder: str) -> None:
    """Remove a folder with all that is in it, also what others put there or remove meanwhile."""
    for _ in range(ATTEMPTS):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in NOT_EMPTY and not isinstance(error, FileNotFoundError):
                raise
        if not os.path.lexists(folder):
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), folder)
