"""Tags of mirrored repositories: when the upstream is asked about one, and what it is when it cannot be asked."""

from __future__ import annotations

import attrs
from twisted.internet.defer import TimeoutError

from registryd.cache.mirrored import Told
from registryd.cache.once import Once
from registryd.cache.source import PATIENCE, Source
from registryd.errors import ManifestUnknown, NameUnknown, UpstreamUnavailable
from registryd.interfaces import IReader
from registryd.model import Descriptor
from registryd.reference import Digest, RepositoryName, Tag


@attrs.frozen
class Current:
    """What a tag is, as far as that is known, and what is to be told with it.

    ``is_second`` tells that it was asked for because what the tag was told to be first is not given out.
    """

    descriptor: Descriptor
    warning: str | None = None
    is_second: bool = False


class Tags:
    """The tags that mirror one upstream's, over what is cached."""

    def __init__(self, source: Source, cached: IReader) -> None:
        self._source = source
        self._cached = cached
        self._checks: Once[Current | None] = Once()
        self._slow: set[tuple[RepositoryName, Tag]] = set()

    async def current(self, name: RepositoryName, tag: Tag) -> Current | None:
        """What a tag is; None where the repository is no mirror of this upstream.

        Errors:
            ManifestUnknown: the upstream does not have it; or cannot be asked, and nothing is cached.
        """
        if self._source.mirrored.tree.driver.immediate:
            fresh = self._fresh(self._source.mirrored.told(name, tag))
            if fresh is not None:
                return fresh
        # Looked at by one at a time: who finds it old just before another has asked would ask once more.
        looked = self._checks.do((name, tag), lambda: self._look(name, tag))
        try:
            # Who comes when others have waited for it already gets what they got.
            return await looked.addTimeout(0 if (name, tag) in self._slow else PATIENCE, self._source.clock)
        except TimeoutError:
            return await self._old(name, tag)

    async def moved(self, name: RepositoryName, tag: Tag, digest: Digest) -> Current | None:
        """What a tag is where that has just changed, so that what it was told to be is not given out any more."""
        current = self._fresh(await self._source.read(self._source.mirrored.told, name, tag))
        if current is None or current.descriptor.digest == digest:
            # Nobody else has found that yet.
            current = await self._checks.do((name, tag, digest), lambda: self._check(name, tag))
        if current is None or current.descriptor.digest == digest:
            return None
        return attrs.evolve(current, is_second=True)

    async def _old(self, name: RepositoryName, tag: Tag) -> Current | None:
        """What a tag was, while it is still being looked at; what is not cached is waited for."""
        looked = self._checks.do((name, tag), lambda: self._look(name, tag))
        known = await self._source.in_thread(self._source.mirrored.known, name, tag)
        cached = await self._stored(name, known)
        if cached is None:
            return await looked
        if not looked.called:
            self._slow.add((name, tag))
        # What comes of it is told to who asks next.
        looked.addBoth(lambda _: self._slow.discard((name, tag)))
        return Current(cached, self._source.stale(name, UpstreamUnavailable(f"no answer within {PATIENCE:g} s")))

    async def _look(self, name: RepositoryName, tag: Tag) -> Current | None:
        fresh = self._fresh(await self._source.read(self._source.mirrored.told, name, tag))
        if fresh is not None:
            return fresh
        self._source.refuse_absent_manifest(name, tag)
        if not await self._source.read(self._source.mirrored.may_fill, name):
            return None
        return await self._check(name, tag)

    def _fresh(self, told: Told) -> Current | None:
        """What was told of a tag, if that needs no asking again."""
        return Current(told.descriptor) if told.descriptor and self._source.is_fresh(told.checked) else None

    async def _check(self, name: RepositoryName, tag: Tag) -> Current:
        mirrored = self._source.mirrored
        try:
            descriptor = await self._source.upstream.resolve_manifest(self._source.remote_name(name), tag)
        except ManifestUnknown:
            self._source.absent["manifest", name, tag] = True
            await self._source.keep(mirrored.drop_tag, name, tag)
            raise
        except UpstreamUnavailable as error:
            cached = await self._stored(name, await self._source.in_thread(mirrored.known, name, tag))
            if cached is None:
                raise self._source.unavailable_manifest(tag, error) from error
            return Current(cached, self._source.stale(name, error))
        # Whoever asked for it by digest before it was there is told otherwise now.
        self._source.absent.pop(("manifest", name, str(descriptor.digest)), None)
        await self._source.keep(mirrored.put_told, name, tag, descriptor)
        return Current(descriptor)

    async def _stored(self, name: RepositoryName, known: Digest | None) -> Descriptor | None:
        """A manifest that a tag is known to name, unless its bytes were lost."""
        try:
            return await self._cached.resolve_manifest(name, known) if known is not None else None
        except (ManifestUnknown, NameUnknown):
            return None
