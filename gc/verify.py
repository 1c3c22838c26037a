"""A verification: every blob is read and its digest checked, then every link; with a repair, what can be is mended.

Reading may take a day and holds nothing: collections go on meanwhile, and a blob that they remove is no damage. Only
the end, which looks at links and mends, holds the collector's lock, and waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import attrs

from registryd.config import Config
from registryd.storage import layout
from registryd.storage.interfaces import IContentWriter, IStorageDriver
from registryd_gc.census import Census, names
from registryd_gc.collect import CollectError, HeldError, held
from registryd_gc.digests import LENGTHS, data_path, from_name
from registryd_gc.inspection import Inspection
from registryd_gc.parts import Parts
from registryd_gc.position import NOT_WRITABLE, PLACE, Keeping, Position
from registryd_gc.reading import UNREADABLE, Pace, Reading
from registryd_gc.repair import ATTEMPTS, Manifests, Repair
from registryd_gc.report import Damage, Entries, Listener, Verified
from registryd_gc.trash import Trash, put_back, runs

LOCK = f"{PLACE}.lock"
"""The content that one verification at a time has open for writing."""

_PATIENCE = 1.0


@attrs.frozen
class Verification:
    """Verifies a store; with ``repair`` mends it, with ``restart`` goes on with none that was interrupted."""

    driver: IStorageDriver
    config: Config
    listener: Listener
    repair: bool = False
    restart: bool = False
    pace: Pace = attrs.field(factory=Pace)
    now: Callable[[], float] = time.time

    def run(self) -> Verified:
        """All of it.

        Errors:
            CollectError: another verification is running, or there is no such store.
            OSError: the storage failed; the next verification goes on.
        """
        began = time.monotonic()
        with self._alone():
            keeping = Keeping(self.driver, self.listener.noted, self.pace.now)
            position = None if self.restart else keeping.load()
            verified = Verified(position.began if position else self.now(), position is not None, self.repair)
            position = position or Position(verified.began)
            self._tell(position)
            Blobs(self.driver, self.pace, self.listener, keeping, position, verified).read()
            self._inspect(position.damage, verified)
            keeping.forget()
        verified.seconds = time.monotonic() - began
        return verified

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other verifications out, where the store can be written."""
        try:
            self.driver.stat("/")
        except FileNotFoundError:
            raise CollectError("there is no such folder as the storage's root") from None
        lock: IContentWriter | None = None
        try:
            lock = self.driver.writer(LOCK, True)
        except BlockingIOError:
            raise CollectError("another verification is running on this store") from None
        except OSError as error:
            if self.repair or error.errno not in NOT_WRITABLE:
                raise
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    self.driver.delete(LOCK)
                lock.close()

    def _tell(self, position: Position) -> None:
        if position.after:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(position.began))
            self.listener.noted(f"goes on where the verification of {when} was: {position.blobs} blobs are read")
        for damage in position.damage:
            self.listener.noted(str(damage))

    @contextmanager
    def _collectors_kept_out(self) -> Iterator[None]:
        """Wait until no collector runs, and let none begin."""
        told = False
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(held(self.driver, False, not self.repair, self.listener))
                    break
                except HeldError as error:
                    if not told:
                        self.listener.noted(f"waits: {error}")
                    told = True
                    self.pace.sleep(_PATIENCE)
            yield

    def _inspect(self, found: list[Damage], verified: Verified) -> None:
        """Look at all links, and mend what is to be mended, also of what was ``found`` before."""
        with self._collectors_kept_out():
            # What an interrupted collection has set aside is not missing.
            for run, ended in list(runs(self.driver)):
                if ended is None:
                    put_back(self.driver, run)
            trash = Trash.begin(self.driver, self.config.collection.grace, not self.repair, False)
            repair = Repair(self.driver, trash, Reading(self.driver, self.pace))
            told = {(damage.kind, damage.path): damage for damage in self._mended(found, repair)}
            inspection = Inspection(
                self.driver,
                Parts(Census(self.driver), self.config.validation),
                repair.mend if self.repair else lambda damage: damage,
                self.repair,
                repair.awaited_since,
            )
            for name in list(names(self.driver)):
                verified.repositories += 1
                for damage in inspection.inspect(name):
                    if told.setdefault((damage.kind, damage.path), damage) is damage:
                        self.listener.noted(str(damage))
            trash.end()
        verified.damage = list(told.values())
        missing = inspection.missing_referrers
        verified.referrers = Entries(missing, missing if self.repair else 0)

    def _mended(self, found: list[Damage], repair: Repair) -> Iterator[Damage]:
        """What was found in blobs, mended; what has gone since is no damage."""
        for damage in found:
            if self.repair:
                mended = repair.mend(damage)
                if mended != damage:
                    self.listener.noted(str(mended))
                yield mended
            else:
                with suppress(FileNotFoundError):
                    self.driver.stat(damage.path)
                    yield damage


@attrs.define
class Blobs:
    """Reads all blobs in the order of their digests, from a position on, and keeps that."""

    driver: IStorageDriver
    pace: Pace
    listener: Listener
    keeping: Keeping
    position: Position
    verified: Verified
    _manifests: Manifests = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._manifests = Manifests(self.driver)

    def read(self) -> None:
        """Read all that is not read yet."""
        self._measure()
        try:
            for algorithm, folder in _folders():
                if f"{algorithm}/{folder}~" > self.position.after:
                    self._read_folder(algorithm, folder)
        finally:
            with suppress(OSError):
                if self.position.after:
                    self.keeping.keep(self.position)
        self.verified.blobs.read, self.verified.blobs.bytes = self.position.blobs, self.position.bytes

    def _measure(self) -> None:
        """Tell how many bytes there are, and how many of them are read."""
        total = done = 0
        for algorithm, folder in _folders():
            for leaf in self.driver.leaves(f"{layout.BLOBS}/{algorithm}/{folder}", "data", False):
                total += leaf.size or 0
                if f"{algorithm}/{leaf.name}" <= self.position.after:
                    done += leaf.size or 0
        self.listener.began(total)
        if done:
            self.listener.stepped(done)

    def _read_folder(self, algorithm: str, folder: str) -> None:
        leaves = self.driver.leaves(f"{layout.BLOBS}/{algorithm}/{folder}", "data", False)
        for name in sorted(leaf.name for leaf in leaves if leaf.size is not None):
            blob = from_name(algorithm, name)
            if blob is not None and name.startswith(folder) and f"{algorithm}/{name}" > self.position.after:
                self._read_blob(blob)
                self.position.after = f"{algorithm}/{name}"
                self.keeping.passed(self.position)

    def _read_blob(self, blob: bytes) -> None:
        try:
            size = self.driver.stat(data_path(blob)).size
            wrong = self._wrong(blob)
        except FileNotFoundError:
            self.verified.blobs.vanished += 1
            return
        self.position.blobs += 1
        self.position.bytes += size
        if wrong is not None:
            kind = "manifest" if self._manifests.hold(blob) else "digest" if size else "empty"
            damage = Damage(kind, data_path(blob), wrong)
            self.position.damage.append(damage)
            self.listener.noted(str(damage))

    def _wrong(self, blob: bytes) -> str | None:
        """What is wrong with a blob; it is read once more where it was renewed, or replaced, meanwhile."""
        reading = Reading(self.driver, self.pace, self.listener.stepped)
        wrong: str | None = None
        for _ in range(ATTEMPTS):
            before = self.driver.stat(data_path(blob)).version
            try:
                wrong = reading.wrong(blob)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                wrong = f"cannot be read: {error.strerror}"
            if wrong is None or self.driver.stat(data_path(blob)).version == before:
                break
        return wrong


def _folders() -> Iterator[tuple[str, str]]:
    """The folders that blobs lie in, in their order: algorithm and first two digits."""
    for algorithm in sorted(LENGTHS):
        for first in range(256):
            yield algorithm, f"{first:02x}"
