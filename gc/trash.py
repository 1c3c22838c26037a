"""How anything is removed beside writers that hold no lock: it is set aside, looked at again, and put back or removed.

What is needed again was touched first (``registryd.promises``), and is younger than the cut-off. So what is still old
once it is out of everybody's reach is needed by nobody: who comes after finds nothing, and is refused.

A run's folder in the trash holds what was at ``blobs/sha256/ab/<hex>/data`` as ``blobs/sha256/ab/<hex>,data``: no tag
and no repository has a comma in its name. A run that did not end is put back by the next. One that ended leaves its
folder only while the trash is kept, and says so in it by ``ended``.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import TypeVar
from uuid import uuid4

import attrs

from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver, Stat
from registryd.storage.layout import is_temporary
from registryd_gc.report import Trashed
from registryd_gc.workers import Stopped

_T = TypeVar("_T")

LOCK = f"{layout.TRASH}.lock"
"""The content that one collector at a time has open for writing.

It lies in a folder that is there: on a full disk there is room for a name, but none for a folder.
"""

_ENDED = "ended"
_MIRROR = "/_mirror"
_MARK = "upstream"
_BESIDE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EXDEV, errno.EISDIR, errno.ENOTDIR})
"""Why content cannot be moved into the trash, but within its own folder: no room for a folder, another file system."""


class Outcome(Enum):
    """What became of something that was to be removed."""

    REMOVED = 1
    RENEWED = 2
    GONE = 3


def new_run() -> str:
    """A name for a run: when it began, and what makes it the only one."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid4().hex[:8]}"


@attrs.define
class Trash:
    """A run's part of the trash; it began at ``now``. What was modified after ``cutoff`` is put back.

    A dry run removes nothing. With ``keep``, what is removed stays in the trash. Where nobody else writes, who is
    ``alone`` removes all else without setting it aside. Nothing goes once it is ``stopped``.
    """

    driver: IStorageDriver
    run: str
    now: float
    cutoff: float
    dry_run: bool
    keep: bool
    alone: bool
    stopped: Callable[[], bool]

    @classmethod
    def begin(
        cls,
        driver: IStorageDriver,
        grace: float,
        dry_run: bool,
        keep: bool,
        alone: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Trash:
        """Begin a run. Its cut-off is the storage's own time, less the grace: fixed before anything is looked at."""
        if dry_run:
            now = time.time()
            return cls(driver, new_run(), now, now - grace, True, keep, alone, stopped)
        try:
            # Needs no room: what is full must be able to be emptied.
            driver.touch(LOCK)
        except FileNotFoundError:
            driver.put_content(LOCK, b"")
        now = driver.stat(LOCK).modified
        return cls(driver, new_run(), now, now - grace, False, keep, alone, stopped)

    def remove(self, path: str, wanted: Callable[[], bool] = lambda: False) -> Outcome:
        """Remove content that was found old, unless it has been renewed since, or is ``wanted`` once nobody reaches it.

        Errors:
            Stopped: the run has ended elsewhere.
        """
        if self.dry_run:
            return Outcome.REMOVED
        if self.stopped():
            raise Stopped
        try:
            if self.alone and not self.keep:
                self.driver.discard(path)
                return Outcome.REMOVED
            aside, stat = self.set_aside_legibly(path)
        except FileNotFoundError:
            return Outcome.GONE
        if stat.modified > self.cutoff or self._look(wanted, aside, path):
            self._bring_back(aside, path)
            return Outcome.RENEWED
        if not self.keep or is_temporary(aside):
            self.driver.discard(aside)
        return Outcome.REMOVED

    def set_aside(self, path: str) -> str:
        """Set content aside; where to.

        Errors:
            FileNotFoundError: there is no such content.
        """
        aside = f"{layout.TRASH}/{self.run}{_reversible(path)}"
        try:
            self.driver.set_aside(path, aside)
        except OSError as error:
            if error.errno not in _BESIDE:
                raise
            aside = self._set_aside_beside(path)
        return aside

    def set_aside_legibly(self, path: str) -> tuple[str, Stat]:
        """Set content aside where it can be looked at; where to, and what it is there.

        Errors:
            FileNotFoundError: there is no such content.
            OSError: it was put back, or cannot be.
        """
        aside = self.set_aside(path)
        try:
            return aside, self._look(lambda: self.driver.stat(aside), aside, path)
        except FileNotFoundError:
            # A relative symbolic link leads nowhere from the trash.
            self._bring_back(aside, path)
        aside = self._set_aside_beside(path)
        try:
            return aside, self._look(lambda: self.driver.stat(aside), aside, path)
        except FileNotFoundError:
            self._bring_back(aside, path)
            raise

    def _look(self, look: Callable[[], _T], aside: str, path: str) -> _T:
        """What a look tells; should it fail otherwise than by finding nothing, content was put back."""
        try:
            return look()
        except FileNotFoundError:
            raise
        except BaseException:
            self._bring_back(aside, path)
            raise

    def _bring_back(self, aside: str, path: str) -> None:
        """Put content back; where that fails, or is interrupted, once more, and the run ends by it."""
        try:
            self.driver.put_back(aside, path)
        except BaseException:
            # What was set aside beside its place, no other run puts back.
            with suppress(OSError):
                self.driver.put_back(aside, path)
            raise

    def _set_aside_beside(self, path: str) -> str:
        # There is room always, and it is the same file system; should this be killed now, it is lost, and goes as what
        # dead writers leave.
        aside = f"{path}.{uuid4()}.tmp"
        self.driver.set_aside(path, aside)
        return aside

    def end(self) -> None:
        """End the run: what is kept of what it removed is not put back by itself any more.

        What is not to be kept, and is there all the same, could not be put back: the next run does that.
        """
        if self.dry_run:
            return
        folder = f"{layout.TRASH}/{self.run}"
        if next(set_aside_by(self.driver, self.run), None) is not None:
            if self.keep:
                self.driver.put_content(f"{folder}/{_ENDED}", b"")
            return
        with suppress(FileNotFoundError):
            self.driver.delete(folder)


def runs(driver: IStorageDriver) -> Iterator[tuple[str, float | None]]:
    """The runs in the trash, and when each ended, in seconds since the epoch; None: it did not."""
    for entry in sorted(driver.entries(layout.TRASH), key=lambda entry: entry.name):
        if entry.is_folder:
            try:
                yield entry.name, driver.stat(f"{layout.TRASH}/{entry.name}/{_ENDED}").modified
            except FileNotFoundError:
                yield entry.name, None


def tidy(driver: IStorageDriver, age: float | None, now: float) -> Trashed:
    """Put back what runs that did not end have set aside, and remove what ended runs did ``age`` seconds ago.

    This is a run's first step, before it sets anything aside itself.
    """
    trashed = Trashed()
    for run, ended in list(runs(driver)):
        if ended is None:
            trashed.restored += put_back(driver, run)
        elif age is None or ended < now - age:
            trashed.removed += sum(1 for _ in set_aside_by(driver, run))
            driver.delete(f"{layout.TRASH}/{run}")
    return trashed


def put_back(driver: IStorageDriver, run: str, renew: bool = False) -> int:
    """Put back what a run has set aside, content before what names it; how much of it, where nothing new stood.

    With ``renew`` it is young again, so that no collector takes it at once.
    """
    count = 0
    for aside in set_aside_by(driver, run):
        path = original(run, aside)
        if _put_back(driver, aside, path):
            count += 1
            _have_layers(driver, path)
            # An entry of a tag's history has the time of a push, which this is not.
            if renew and "/index/" not in path.partition("/_manifests/tags/")[2]:
                driver.touch(path)
    driver.delete(f"{layout.TRASH}/{run}")
    return count


def _put_back(driver: IStorageDriver, aside: str, path: str) -> bool:
    if not _is_mirror(aside):
        return driver.put_back(aside, path)
    repository = path.removesuffix(f"{_MIRROR}/{_MARK}")
    # What was pushed since is private: it must not become what an upstream has too.
    with driver.guard(repository, True):
        parts = (entry.name for entry in driver.entries(repository) if entry.is_folder)
        if not any(name[0] == "_" and f"/{name}" != _MIRROR for name in parts):
            return driver.put_back(aside, path)
    driver.discard(aside)
    return False


def _have_layers(driver: IStorageDriver, path: str) -> None:
    # Distribution 2.8 collects the manifests of a repository without this folder.
    repository, part, _ = path.partition("/_manifests/revisions/")
    if part:
        driver.make_folder(f"{repository}/_layers")


def set_aside_by(driver: IStorageDriver, run: str) -> Iterator[str]:
    """What a run has set aside, in an order in which it can come back: no name before what it names.

    That a repository mirrors an upstream comes before all else of it: else it would look private for a while.
    """
    yield from _contents(driver, f"{layout.TRASH}/{run}/blobs")
    folder = f"{layout.TRASH}/{run}/repositories"
    yield from (aside for aside in _contents(driver, folder) if _is_mirror(aside))
    yield from (aside for aside in _contents(driver, folder) if not _is_mirror(aside))


def _is_mirror(aside: str) -> bool:
    return aside.endswith(f"{_MIRROR},{_MARK}")


def original(run: str, aside: str) -> str:
    """Where content that was set aside stood."""
    folder, _, name = aside[len(f"{layout.TRASH}/{run}") :].rpartition(",")
    return f"{layout.ROOT}{folder}/{name}"


def _reversible(path: str) -> str:
    # One folder less for each blob: there may be as many as there are blobs.
    folder, _, name = path[len(layout.ROOT) :].rpartition("/")
    # No name in the tree has a comma, whatever tags are called.
    return f"{folder},{name}"


def _contents(driver: IStorageDriver, folder: str) -> Iterator[str]:
    for entry in sorted(driver.entries(folder), key=lambda entry: entry.name):
        path = f"{folder}/{entry.name}"
        if entry.is_folder:
            yield from _contents(driver, path)
        else:
            yield path
