"""The tags and referrers of mirrored repositories: the upstream's lists, kept and checked as tags are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred, TimeoutError

from registryd.cache.once import Once
from registryd.cache.source import PATIENCE, Source
from registryd.errors import NameUnknown, Unavailable, UpstreamUnavailable
from registryd.interfaces import ILister, Page, ReferrerPage
from registryd.pages import names_page, referrers_page
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout

_T = TypeVar("_T")


@attrs.frozen
class _Listed(Generic[_T]):
    """What the upstream has told of a list, and what is to be told with it. None: nothing; the cache's own must do.

    ``error`` is why the upstream tells nothing now: then the cache's own must not be empty, for want of asking.
    """

    entries: Sequence[_T] | None
    warning: str | None = None
    error: UpstreamUnavailable | None = None


class Lists:
    """The lists that mirror one upstream's, over what is cached."""

    def __init__(self, source: Source, cached: ILister) -> None:
        self._source = source
        self._cached = cached
        self._tags = _Kept(source, source.mirrored.names, source.mirrored.put_names)
        self._referrers = _Kept(source, source.mirrored.referrers, source.mirrored.put_referrers)

    async def tags(self, name: RepositoryName, count: int | None, after: str) -> Page:
        """Tags of a repository; see ILister.tags."""
        remote = self._source.remote_name(name)
        listed = await self._tags.get(name, layout.upstream_tags(name), lambda: self._source.upstream.tags(remote))
        if listed.entries is None:
            try:
                page = await self._cached.tags(name, count, after)
            except NameUnknown:
                if listed.error is None:
                    raise
                raise self._source.unavailable(NameUnknown, listed.error, name=name) from None
            if listed.error is not None and not page.names and not after and count != 0:
                raise self._source.unavailable(NameUnknown, listed.error, name=name)
            return attrs.evolve(page, warning=listed.warning)
        return names_page(listed.entries[bisect_right(listed.entries, after) :], count, listed.warning)

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str], after: Digest | None
    ) -> ReferrerPage:
        """What refers to a manifest; see ILister.referrers."""
        remote = self._source.remote_name(name)
        listed = await self._referrers.get(
            name,
            layout.upstream_referrers(name, subject),
            lambda: self._source.upstream.referrers(remote, subject),
        )
        if listed.entries is None:
            cached = await self._cached.referrers(name, subject, artifact_types, after)
            if listed.error is not None and not cached.referrers and after is None:
                # Not an unknown: on that clients take it that there are none.
                raise self._source.unavailable(Unavailable, listed.error)
            return attrs.evolve(cached, warning=listed.warning)
        return referrers_page(
            (
                referrer
                for referrer in listed.entries
                if (not artifact_types or referrer.artifact_type in artifact_types)
                and (after is None or referrer.descriptor.digest > after)
            ),
            listed.warning,
        )


class _Kept(Generic[_T]):
    """Lists of one kind: read from the tree while they are fresh, else asked of the upstream, once at a time."""

    def __init__(
        self,
        source: Source,
        read: Callable[[str], tuple[Sequence[_T], float] | None],
        write: Callable[[RepositoryName, str, Sequence[_T]], None],
    ) -> None:
        self._source = source
        self._read = read
        self._write = write
        self._asking: Once[_Listed[_T]] = Once()

    async def get(self, name: RepositoryName, path: str, ask: Callable[[], Deferred[Sequence[_T]]]) -> _Listed[_T]:
        # Read by one at a time: who finds it old just before another has asked would ask once more.
        asked = self._asking.do(path, lambda: self._get(name, path, ask))
        try:
            return await asked.addTimeout(PATIENCE, self._source.clock)
        except TimeoutError:
            kept = await self._source.in_thread(self._read, path)
            if kept is None:
                return await self._asking.do(path, lambda: self._get(name, path, ask))
            error = UpstreamUnavailable(f"no answer within {PATIENCE:g} s")
            return _Listed(kept[0], self._source.stale(name, error), error)

    async def _get(self, name: RepositoryName, path: str, ask: Callable[[], Deferred[Sequence[_T]]]) -> _Listed[_T]:
        kept = await self._source.in_thread(self._read, path)
        if kept is not None and self._source.is_fresh(kept[1]):
            return _Listed(kept[0])
        if ("list", name, path) in self._source.absent:
            raise NameUnknown(detail={"name": name})
        if not await self._source.in_thread(self._source.mirrored.may_fill, name):
            return _Listed(None)
        try:
            entries = await ask()
        except NameUnknown:
            self._source.absent["list", name, path] = True
            await self._source.keep(self._source.mirrored.forget, path)
            raise
        except UpstreamUnavailable as error:
            return _Listed(kept[0] if kept else None, self._source.stale(name, error), error)
        await self._source.keep(self._write, name, path, entries)
        return _Listed(entries)
