"""What a registry stores its tree with: any storage driver, and what it gives and takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import attrs
from zope.interface import Attribute, Interface


@attrs.frozen
class Stat:
    """What a path of the storage is: a folder, or content of a size in bytes; times are seconds since the epoch.

    ``version`` is equal in two of a path only if the same content, with the same time, was there both times.
    """

    is_folder: bool
    size: int
    modified: float
    version: object = None


@attrs.frozen
class Entry:
    """A name in a folder, and whether it is a folder's."""

    name: str
    is_folder: bool


@attrs.frozen
class Leaf:
    """A folder of a folder, and what stands in it under a name that all of them should have.

    ``size`` (bytes) and ``modified`` (seconds since the epoch) are those of that content; ``size`` is None where there
    is none. ``others`` are the folder's other names, where they were asked for. One whose name ``is_temporary`` is no
    folder, but content that is being put into one, or was by whoever then died.
    """

    name: str
    size: int | None
    modified: float
    others: Sequence[str] = ()


class IContentReader(Interface):
    """Content of the storage that is open for reading; it stays readable when its path is deleted or replaced."""

    size: int = Attribute("the content's size in bytes when it was opened, or refreshed")

    def read(start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to, not including, ``stop``, fewer where the content ends before.

        Errors:
            OSError: the storage failed.
        """

    def refresh() -> None:
        """Take note of what was appended since, as far as the storage lets a reader see it."""

    def fileno() -> int | None:
        """The descriptor of the local file that holds the content at the same offsets, or None where there is none."""

    def close() -> None:
        """Give up what the reader holds. Closing twice is allowed."""


class IContentWriter(Interface):
    """Content of the storage that is open for appending; no other writer, in any process, can open it meanwhile."""

    size: int = Attribute("the content's size in bytes, with all that was written")

    def write(buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        """Append buffers, all or none.

        Errors:
            OSError: the storage failed, with ENOSPC or EDQUOT where it has no room; nothing was appended.
        """

    def read(start: int, stop: int) -> bytes:
        """Bytes that were written, as IContentReader.read."""

    def truncate(size: int) -> None:
        """Forget what lies beyond ``size`` bytes."""

    def sync() -> None:
        """Return when all that was written is durable."""

    def stands() -> bool:
        """Whether what is written still is the content at the path that was opened: it can be removed or replaced."""

    def close() -> None:
        """Let others write. Closing twice is allowed."""


class IStorageDriver(Interface):
    """Where a registry's tree lies: content at absolute ``/``-separated paths, whose folders come with what is in them.

    All calls block, so that the same code serves the daemon, in threads, and the collector. Errors of the storage
    itself are OSError; ``FileNotFoundError`` is named where it is an ordinary answer.
    """

    immediate: bool = Attribute(
        "whether stat, touch, opening, and reading a few kilobytes take microseconds, so that the daemon may do it on"
        " the reactor's thread"
    )

    def get_content(path: str) -> bytes:
        """The whole content at a path.

        Errors:
            FileNotFoundError: there is none, or a folder.
        """

    def put_content(path: str, content: bytes, above: bool = False) -> None:
        """Make content stand at a path, whole or not at all at any moment, durable on return.

        What is left of it by whoever dies meanwhile lies beside it; with ``above``, beside its folder, where ``leaves``
        tells it: for what has a folder to itself, so that nobody has to look into each.

        Errors:
            OSError: nothing changed.
        """

    def reader(path: str) -> IContentReader:
        """The content at a path, open for reading.

        Errors:
            FileNotFoundError: there is none, or a folder.
        """

    def writer(path: str, create: bool) -> IContentWriter:
        """The content at a path, open for appending; with ``create``, made empty where there is none.

        What it writes is durable after its ``sync`` and a ``move``.

        Errors:
            FileNotFoundError: there is none, and ``create`` is false.
            BlockingIOError: another writer has it open.
        """

    def stat(path: str) -> Stat:
        """What is at a path.

        Errors:
            FileNotFoundError: nothing.
        """

    def list(path: str) -> list[str]:
        """The names in a folder, in any order.

        Errors:
            FileNotFoundError: there is no such folder.
        """

    def entries(path: str) -> Iterator[Entry]:
        """All that is in a folder, in any order, what is being written included; nothing where there is no folder.

        They are read as they are asked for: a folder may have a million. What comes and goes meanwhile may be missed.
        """

    def leaves(path: str, leaf: str, others: bool) -> Iterator[Leaf]:
        """The folders in a folder, in any order, with the content at ``leaf``, a name or a path, in each of them, and
        what is temporary beside them.

        With ``others``, which costs a listing of each, what else is in them is told too; ``leaf`` then is a name. As
        ``entries``: nothing where there is no folder, and what comes and goes meanwhile may be missed.
        """

    def make_folder(path: str) -> None:
        """Make an empty folder stand at a path, where the storage has such a thing; it may stand already."""

    def move(source: str, target: str) -> None:
        """Let content stand at another path, in place of what stood there, in one step, durable on return.

        Errors:
            FileNotFoundError: nothing is at the source.
        """

    def delete(path: str) -> None:
        """Remove the content or the whole folder at a path, durable on return.

        Errors:
            FileNotFoundError: nothing is there.
        """

    def set_aside(path: str, aside: str) -> None:
        """Let content stand at another path, where nothing is, in one step; for a collector, so not durable by itself.

        Errors:
            FileNotFoundError: there is no such content.
        """

    def put_back(aside: str, path: str) -> bool:
        """Let content that was set aside stand where it stood; false where other content stands, which then stays and
        what was set aside is gone. Not durable by itself.

        Errors:
            FileNotFoundError: nothing was set aside there.
        """

    def discard(path: str) -> None:
        """Remove content; not durable by itself.

        Errors:
            FileNotFoundError: there is no such content.
        """

    def prune(path: str, stop: str) -> bool:
        """Remove the folder at a path if it is empty, then its parents below ``stop`` while they are empty and nobody
        holds them. Whoever calls this for a folder that is held by ``guard`` holds it alone.

        Folders that are gone already are no error, nor are those that hold something; false where the first does.
        """

    def touch(path: str) -> None:
        """Set the modification time of what is at a path to now, and thereby tell that it is there.

        Errors:
            FileNotFoundError: nothing is there.
        """

    def guard(path: str, exclusive: bool) -> AbstractContextManager[None]:
        """Hold a folder, which is made if it is missing, while its content changes: others that do so, in any process,
        wait where either is exclusive.

        Errors:
            OSError: the storage failed.
        """

    def lock(exclusive: bool) -> None:
        """Hold the storage as a whole until ``close``: shared by daemons, exclusive for an offline collector.

        Errors:
            BlockingIOError: who holds it excludes this.
        """

    def close() -> None:
        """Release what the driver holds."""
