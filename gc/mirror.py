"""What is cached of upstreams: what has not been used for its time, or for which there is no room, goes.

A cached manifest was last used when its link, or that of a tag that names it, was last renewed; it stays as long as
what keeps it. It goes with its tags and with what only it needs; what private repositories need too stays, and is not
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

import attrs

from registryd.config import Proxy
from registryd.reference import RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.census import Repository, Revision
from registryd_gc.digests import LENGTHS, data_path, from_name, unpacked
from registryd_gc.mark import Marking

RECENT = 2 * 3600.0
"""Seconds for which what was used is not evicted, however little room there is."""

_LEFT = 0.9
"""The part of the room that is filled when content has been evicted: so that it is not at once full again."""


@attrs.define
class Cached:
    """A mirrored repository while it is decided what stays.

    ``uses`` tells when a manifest was last used. ``loose`` are the links of blobs that no manifest needs, with their
    times; ``unfinished`` the blobs of which a part has come, each as the time and the bytes of the last. ``going`` are
    the blobs whose links go.
    """

    marking: Marking
    chosen: bool
    uses: Mapping[bytes, float]
    loose: dict[bytes, float]
    unfinished: Sequence[tuple[float, int]]
    going: set[bytes] = attrs.field(factory=set, init=False)

    @property
    def repository(self) -> Repository:
        return self.marking.repository

    @property
    def may_go(self) -> bool:
        """Whether anything may go."""
        return self.chosen and self.repository.upstream is not None

    def kept(self) -> Iterator[bytes]:
        """The blobs that stay, those of manifests too."""
        yield from self.marking.needed
        yield from (revision.digest for revision in self.repository.revisions.values() if revision.kept)
        yield from self.loose.keys() - self.going

    def tags(self) -> set[Tag]:
        """The tags that go with their manifests."""
        revisions = self.repository.revisions
        return {tag.name for tag in self.repository.tags.values() if tag.target in revisions and self._goes(tag.target)}

    def _goes(self, manifest: bytes | None) -> bool:
        return manifest is not None and not self.repository.revisions[manifest].kept


def read(driver: IStorageDriver, marking: Marking, chosen: bool) -> Cached:
    """A mirrored repository with the times of what it holds."""
    needed: set[bytes] = set()
    for revision in marking.repository.revisions.values():
        needed.update(parts_of(revision))
    loose: dict[bytes, float] = {}
    for algorithm in LENGTHS:
        for leaf in driver.leaves(f"{layout.layers(marking.repository.name)}/{algorithm}", "link", False):
            blob = from_name(algorithm, leaf.name)
            if blob is not None and leaf.size is not None and blob not in needed:
                loose[blob] = leaf.modified
    unfinished = tuple(_unfinished(driver, marking.repository.name))
    return Cached(marking, chosen, uses(marking.repository), loose, unfinished)


def _unfinished(driver: IStorageDriver, name: RepositoryName) -> Iterator[tuple[float, int]]:
    for entry in driver.entries(layout.uploads(name)):
        try:
            stat = driver.stat(layout.upload_data(name, entry.name))
        except FileNotFoundError:
            continue
        yield stat.modified, stat.size


def parts_of(revision: Revision) -> Iterator[bytes]:
    """What a manifest needs by itself: its own bytes, its blobs, and its children, which may be blobs."""
    yield revision.digest
    yield from unpacked(revision.parts)
    yield from revision.children


def uses(repository: Repository) -> Mapping[bytes, float]:
    """When each manifest of a repository was last used by itself; what keeps one keeps it, however old that is."""
    found = {revision.digest: revision.modified for revision in repository.revisions.values()}
    for tag in repository.tags.values():
        if tag.target in found:
            found[tag.target] = max(found[tag.target], tag.used)
    return found


@attrs.define
class Cache:
    """All that is cached. ``private`` are the blobs that private repositories keep; ``now``: seconds since the epoch.

    ``size`` is what stays, ``expired_bytes`` and ``evicted_bytes`` what goes; ``evicted`` are its blobs. With
    ``makes_room`` blobs of which a part came, but nothing any more, go too.
    """

    driver: IStorageDriver
    proxy: Proxy | None
    private: Container[bytes]
    now: float
    cutoff: float
    note: Callable[[str], None]
    repositories: list[Cached] = attrs.field(factory=list, init=False)
    manifests_expired: int = attrs.field(default=0, init=False)
    manifests_evicted: int = attrs.field(default=0, init=False)
    size: int = attrs.field(default=0, init=False)
    expired_bytes: int = attrs.field(default=0, init=False)
    evicted_bytes: int = attrs.field(default=0, init=False)
    evicted: set[bytes] = attrs.field(factory=set, init=False)
    makes_room: bool = attrs.field(default=False, init=False)

    def going(self) -> set[bytes]:
        """The blobs that go with what is cached, unless something else needs them."""
        return {blob for cached in self.repositories for blob in cached.going}

    def expire(self) -> None:
        """Keep of every repository what has not expired."""
        for cached in self.repositories:
            oldest = self._oldest(cached)
            cached.marking.keep(manifest for manifest, used in cached.uses.items() if used > oldest)
            cached.going.update(blob for blob, used in cached.loose.items() if used <= oldest)
            self.manifests_expired += self._give_up(cached)
        kept = set(self._kept())
        self.size = self._size(kept)
        self.expired_bytes = self._size(self._going() - kept)

    def _oldest(self, cached: Cached) -> float:
        """What was not used since then has expired."""
        ttl = self._ttl(cached.repository.upstream)
        return min(self.now - ttl, self.cutoff) if ttl is not None and cached.may_go else float("-inf")

    def _ttl(self, upstream: str | None) -> float | None:
        settings = self.proxy and (self.proxy.upstreams.get(upstream or "") or self.proxy.remote)
        return settings.ttl if settings else None

    def make_room(self, at_once: bool) -> None:
        """Evict what was used least recently, where there is more than fits; ``at_once`` makes room in any case."""
        limit = self.proxy.max_size if self.proxy is not None else None
        parts = [part for cached in self.repositories for part in cached.unfinished]
        total = self.size + sum(size for _, size in parts)
        if not at_once and (limit is None or total <= limit):
            return
        self.makes_room = True
        coming = sum(size for used, size in parts if used > self.now - RECENT)
        target = max(0, int(_LEFT * min(total, limit if limit is not None else total)) - coming)
        if self.size <= target:
            return
        for cached in self.repositories:
            # What is kept is found anew, from the most recently used on.
            cached.marking.forget()
        self.size -= self._evict(target)

    def _evict(self, target: int) -> int:
        """Keep as much as fits into ``target`` bytes; how many bytes go."""
        before, size = self.size, 0
        counted: set[bytes] = set()
        full = False
        for used, cached, manifest, one in self._units():
            if full and cached.may_go and used <= self.now - RECENT:
                continue
            parts = self._below(cached, one) if manifest else (one,)
            new = {part for part in parts if part not in counted and part not in self.private}
            more = self._size(new)
            full = full or size + more > target
            if full and cached.may_go and used <= self.now - RECENT:
                continue
            size += more
            counted |= new
            if manifest:
                cached.marking.keep([one])
            else:
                cached.going.discard(one)
        self._count_evicted(counted)
        self.evicted_bytes = before - size
        if size > target:
            self.note(f"the cache keeps {size} bytes, more than {target}: all of it was used in the last two hours")
        return self.evicted_bytes

    def _units(self) -> Iterator[tuple[float, Cached, bool, bytes]]:
        """What can go by itself of what has not expired, the most recently used first: manifests, and loose blobs."""
        units: list[tuple[float, int, bool, bytes]] = []
        for place, cached in enumerate(self.repositories):
            oldest = self._oldest(cached)
            units += [(used, place, True, one) for one, used in cached.uses.items() if used > oldest]
            units += [(used, place, False, one) for one, used in cached.loose.items() if used > oldest]
            cached.going.update(cached.loose)
        for used, place, manifest, one in sorted(units, key=lambda unit: (-unit[0], unit[1], unit[3])):
            yield used, self.repositories[place], manifest, one

    def _below(self, cached: Cached, manifest: bytes) -> Sequence[bytes]:
        """What stays where a manifest stays, that first."""
        if cached.repository.revisions[manifest].kept:
            return (manifest,)
        below = cached.marking.below([manifest]) - {manifest}
        revisions = cached.repository.revisions
        return tuple(dict.fromkeys(part for one in (manifest, *below) for part in parts_of(revisions[one])))

    def _count_evicted(self, counted: set[bytes]) -> None:
        for cached in self.repositories:
            going = self._give_up(cached)
            self.manifests_evicted += going
            self.evicted.update(blob for blob in cached.going if blob not in counted)
        self.manifests_evicted -= self.manifests_expired

    def _give_up(self, cached: Cached) -> int:
        """Let the links of a repository's blobs go that only manifests need which go; how many manifests those are."""
        gone = [revision for revision in cached.repository.revisions.values() if not revision.kept]
        for revision in gone:
            cached.going.update(part for part in parts_of(revision) if part not in cached.marking.needed)
        return len(gone)

    def _kept(self) -> Iterator[bytes]:
        for cached in self.repositories:
            yield from (blob for blob in cached.kept() if blob not in self.private)

    def _going(self) -> set[bytes]:
        return {blob for blob in self.going() if blob not in self.private}

    def _size(self, blobs: Iterable[bytes]) -> int:
        """How many bytes some blobs have, those that are there."""
        size = 0
        for blob in blobs:
            try:
                size += self.driver.stat(data_path(blob)).size
            except FileNotFoundError:
                pass
        return size
