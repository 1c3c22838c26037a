"""A run of the collector, from its lock to its summary: all repositories first, then the blobs that none needs."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import attrs

from registryd.config import Config
from registryd.globs import Globs
from registryd.reference import RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.filesystem import LOCK_NAME
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.blobs import FOLDERS, BlobSweep
from registryd_gc.census import Census, names, stands
from registryd_gc.digests import Digests, unpacked
from registryd_gc.keep import Keeper
from registryd_gc.links import Links
from registryd_gc.mark import Marking
from registryd_gc.mirror import RECENT, Cache, read
from registryd_gc.parts import Parts
from registryd_gc.reading import Reading
from registryd_gc.removal import Removal
from registryd_gc.repair import Repair
from registryd_gc.report import Listener, Mirror, Report
from registryd_gc.retention import Rule, rule_for
from registryd_gc.sweep import RepositorySweep, Swept
from registryd_gc.trash import LOCK, Trash, tidy
from registryd_gc.uploads import Uploads
from registryd_gc.workers import WorkerError, Workers

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class CollectError(Exception):
    """Why there can be no run; one line."""


class HeldError(CollectError):
    """Somebody else holds the store, for now."""


@attrs.frozen
class Options:
    """How to collect. ``grace`` in seconds; ``repositories`` None: all. With ``expired_only`` only what is cached of
    upstreams goes; with ``evict`` of that as much as there should be room for. With ``repair`` damage is mended.
    ``workers`` are the processes that do it.
    """

    grace: float
    dry_run: bool = False
    untagged_go: bool = False
    offline: bool = False
    repositories: Globs | None = None
    expired_only: bool = False
    evict: bool = False
    repair: bool = False
    workers: int = 1


def collect(driver: IStorageDriver, config: Config, options: Options, listener: Listener) -> Report:
    """Collect what nothing needs, and tell a listener and the report of it.

    Errors:
        CollectError: another collector or, for an offline one, a daemon holds the store; or there is none; or a process
            of the run was killed.
        OSError: the storage failed; the next run goes on.
    """
    began = time.monotonic()
    with held(driver, options.offline, options.dry_run, listener):
        try:
            report = _Run.begin(driver, config, options, listener).collect()
        except WorkerError as error:
            raise CollectError(f"{error}: the store is whole, and the next run goes on") from None
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def held(driver: IStorageDriver, offline: bool, dry_run: bool, listener: Listener) -> Iterator[None]:
    """Keep other collectors out, and daemons too where this one is offline. A dry run creates nothing for that.

    Errors:
        CollectError: it is held already, or there is no such store.
    """
    try:
        driver.stat("/")
    except FileNotFoundError:
        raise CollectError("there is no such folder as the storage's root") from None
    try:
        if not dry_run or (offline and stands(driver, f"/{LOCK_NAME}")):
            driver.lock(offline)
    except BlockingIOError:
        who = "a daemon or another collector uses this store" if offline else "an offline collector holds this store"
        raise HeldError(f"{who}: stop it first") from None
    try:
        lock = driver.writer(LOCK, not dry_run)
    except BlockingIOError:
        driver.close()
        raise HeldError("another collector is running on this store") from None
    except OSError as error:
        if not dry_run or not (isinstance(error, FileNotFoundError) or error.errno in _READ_ONLY):
            driver.close()
            raise
        if error.errno in _READ_ONLY:
            listener.noted("the store cannot be written: other collectors are not kept out")
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
        driver.close()


@attrs.define
class _Run:
    """One run. ``needed`` are the blobs of kept manifests, and their own; ``promised`` those that somebody was told of,
    ``held`` those that repositories have from which nothing goes.

    ``manifests`` are the kept ones. ``unread`` tells whether there is one of which nobody knows what it needs,
    ``unfollowed`` whether there is a link of which nobody knows what it names.
    """

    config: Config
    options: Options
    removal: Removal
    census: Census
    keeper: Keeper
    workers: Workers
    needed: Digests = attrs.field(factory=Digests, init=False)
    promised: Digests = attrs.field(factory=Digests, init=False)
    held: Digests = attrs.field(factory=Digests, init=False)
    manifests: Digests = attrs.field(factory=Digests, init=False)
    unread: bool = attrs.field(default=False, init=False)
    unfollowed: bool = attrs.field(default=False, init=False)

    @classmethod
    def begin(cls, driver: IStorageDriver, config: Config, options: Options, listener: Listener) -> _Run:
        workers = Workers(options.workers)
        keep = config.collection.trash is not None
        trash = Trash.begin(driver, options.grace, options.dry_run, keep, options.offline, workers.stopped)
        report = Report(trash.run, options.dry_run, trash.cutoff)
        if options.offline:
            # Nobody writes: what has a time to come, by a clock that was wrong, is no younger than all else.
            trash.cutoff = float("inf")
        keeper = Keeper(driver, trash.now, trash.cutoff, listener.explained)
        return cls(config, options, Removal(driver, trash, report, listener), Census(driver), keeper, workers)

    @property
    def report(self) -> Report:
        return self.removal.report

    @property
    def now(self) -> float:
        return self.keeper.now

    def collect(self) -> Report:
        """Do all of it."""
        if not self.options.dry_run:
            self.report.trash = tidy(self.removal.driver, self.config.collection.trash, self.now)
        for folder in (layout.ROOT, layout.TRASH):
            self.removal.tidy(folder)
        empty: list[str] = []
        repositories = list(names(self.removal.driver, empty))
        self.removal.listener.began(len(repositories) + (0 if self.options.expired_only else FOLDERS))
        cache = self._cache(self._collect_private(repositories))
        if self.options.expired_only:
            self._remove_cached(cache)
        else:
            self._sweep_blobs(repositories, cache)
        if self.options.repair and not self.options.dry_run:
            driver = self.removal.driver
            repair = Repair(driver, self.removal.trash, Reading(driver))
            # Within a repository manifests come before the tags that may name them.
            self.report.damage = [repair.mend(damage) for damage in self.report.damage]
        self._prune(empty)
        self.removal.trash.end()
        return self.report

    def _prune(self, empty: Iterable[str]) -> None:
        """Remove folders that lie among the repositories, are none, and hold nothing."""
        if self.options.dry_run or self.options.expired_only or self.options.repositories is not None:
            return
        for folder in empty:
            if folder != layout.REPOSITORIES and stands(self.removal.driver, folder):
                # Whoever pushes there meanwhile holds it, and finds it gone, or waits.
                with self.removal.driver.guard(folder, True):
                    self.removal.driver.prune(folder, layout.REPOSITORIES)

    def _collect_private(self, repositories: Sequence[RepositoryName]) -> Sequence[RepositoryName]:
        """Mark and sweep repositories; those that mirror an upstream are left for later, and told."""
        mirrored = []
        with self.workers.each(self._sweep_private, repositories, self.removal.listener) as all_swept:
            for name, swept in zip(repositories, all_swept, strict=True):
                if swept is None:
                    mirrored.append(name)
                else:
                    self._take(swept)
        return mirrored

    def _sweep_private(self, name: RepositoryName, listener: Listener) -> Swept | None:
        """Mark and sweep a repository; None where it mirrors an upstream."""
        if self.census.upstream(name) is not None:
            return None
        repository = self.census.read(name)
        if repository.upstream is not None:
            # A mirror began to fill it just now.
            return None
        marking = Marking(repository)
        gone: set[Tag] = set()
        removes = self._chosen(name) and not self.options.expired_only
        keeper = attrs.evolve(self.keeper, explain=listener.explained)
        if removes:
            gone = keeper.keep(marking, self.options.untagged_go, self._rule(name))
        else:
            keeper.keep_all(marking)
        removal = self.removal.apart(listener)
        return self._sweep(removal, marking, gone, lambda _: removes and not repository.unread, removes)

    def _cache(self, mirrored: Sequence[RepositoryName]) -> Cache:
        """Decide what stays of the mirrored repositories, and sweep them."""
        driver, note = self.removal.driver, self.removal.listener.noted
        private = _Either(self.needed, self.held)
        cache = Cache(driver, self.config.proxy, private, self.now, self.removal.cutoff, note)
        for name in mirrored:
            # What a private link names may be the only content of its blob, and cached as well.
            chosen = self._chosen(name) and not self.unfollowed
            cache.repositories.append(read(driver, Marking(self.census.read(name)), chosen))
        cache.expire()
        cache.make_room(self.options.evict)
        self.report.mirror = Mirror(
            cache.manifests_expired, cache.manifests_evicted, cache.size, cache.expired_bytes, cache.evicted_bytes
        )
        removal = self.removal
        if cache.evicted:
            cutoff = max(removal.trash.cutoff, self.now - RECENT)
            removal = attrs.evolve(removal, trash=attrs.evolve(removal.trash, cutoff=cutoff, keep=False))
        sweep, places = partial(self._sweep_cached, cache, removal), range(len(cache.repositories))
        with self.workers.each(sweep, places, removal.listener) as all_swept:
            for swept in all_swept:
                self._take(swept)
        return cache

    def _sweep_cached(self, cache: Cache, removal: Removal, place: int, listener: Listener) -> Swept:
        cached = cache.repositories[place]
        cached.marking.needed.update(cached.loose.keys() - cached.going)
        own = removal.apart(listener)
        if cache.makes_room and cached.chosen:
            Uploads(own, RECENT, self.now).sweep(layout.uploads(cached.repository.name))
        return self._sweep(
            own,
            cached.marking,
            cached.tags(),
            lambda blob: cached.chosen and blob in cached.going,
            cached.chosen,
        )

    def _chosen(self, name: RepositoryName) -> bool:
        return self.options.repositories is None or self.options.repositories.match(name)

    def _rule(self, name: RepositoryName) -> Rule | None:
        return rule_for([Rule.of(settings) for settings in self.config.collection.retention], name)

    def _sweep(
        self, removal: Removal, marking: Marking, gone: Collection[Tag], may_go: Callable[[bytes], bool], removes: bool
    ) -> Swept:
        """Sweep a repository."""
        removal.report.damage += marking.repository.damage
        thoroughly = removes and not self.options.expired_only
        purging = self.config.storage.purging
        age = purging.age if thoroughly and purging is not None and not purging.dry_run else None
        sweep = RepositorySweep(removal, marking, Links(removal, marking, may_go), gone)
        sweep.sweep(Uploads(removal, age, self.now), removes, thoroughly)
        if sweep.links.missing and marking.repository.upstream is None:
            parts = Parts(self.census, self.config.validation)
            removal.report.damage += parts.missing(marking, sweep.links.unlinked())
        return sweep.swept()

    def _take(self, swept: Swept) -> None:
        """Count what stays of a repository that was swept, and need it."""
        self.report.add(swept.report)
        self.unread = self.unread or swept.unread
        self.unfollowed = self.unfollowed or swept.unfollowed
        self.promised.update(unpacked(swept.promised))
        self.held.update(unpacked(swept.held))
        self.manifests.update(unpacked(swept.manifests))
        self.needed.update(unpacked(swept.needed))
        self.removal.listener.stepped()

    def _remove_cached(self, cache: Cache) -> None:
        """Remove the blobs that only what has gone from the cache needed."""
        going = {blob for blob in cache.going() if blob not in self.needed}
        sweep = self._blobs(cache, Digests(), Digests())
        for blob in going:
            sweep.remove(blob)

    def _blobs(self, cache: Cache, needed: Digests, manifests: Digests) -> BlobSweep:
        removes = not self.unread and not self.unfollowed
        if not removes:
            told = "only cached blobs are" if self.unread and not self.unfollowed else "no blob is"
            self.removal.listener.noted(f"a manifest or a link cannot be read: {told} removed in this run")
        return BlobSweep(
            self.removal, needed, manifests, self.promised, self.held, cache.going(), cache.evicted, removes
        )

    def _sweep_blobs(self, repositories: Iterable[RepositoryName], cache: Cache) -> None:
        sweep = self._blobs(cache, self.needed, self.manifests)
        sweep.sweep(self.workers)
        if sweep.missing:
            missing = set(sweep.missing)
            parts = Parts(self.census, self.config.validation)
            for name in repositories:
                self.report.damage += parts.dangling(name, missing)


@attrs.frozen
class _Either:
    """What is in one of two sets of digests."""

    one: Digests
    other: Digests

    def __contains__(self, blob: object) -> bool:
        return blob in self.one or blob in self.other
