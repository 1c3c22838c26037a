"""Manifests of mirrored repositories: when the upstream is asked about a tag, and what is served when it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from cachetools import TTLCache
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from registryd.cache.fills import ELSEWHERE_FROZEN, FROZEN, LOOK
from registryd.cache.mirrored import Told
from registryd.cache.once import Once
from registryd.cache.source import PATIENCE, REMEMBERED, Source
from registryd.errors import ManifestInvalid, ManifestUnknown, NameUnknown, StorageFull, UpstreamUnavailable
from registryd.interfaces import IReader
from registryd.model import Descriptor, Manifest, read_document
from registryd.promises import Promises
from registryd.reference import Digest, Reference, RepositoryName, Tag
from registryd.storage import layout
from registryd.uploads import BlobWriter, Uploads, tell_full

_log = Logger()
_UNKNOWN = (ManifestUnknown, NameUnknown)


@attrs.frozen
class _Current:
    """What a tag is, as far as that is known, and what is to be told with it.

    ``is_second`` tells that it was asked for because what the tag was told to be first is not given out.
    """

    descriptor: Descriptor
    warning: str | None = None
    is_second: bool = False


class Manifests:
    """The manifests that mirror one upstream, over what is cached of them."""

    def __init__(self, source: Source, cached: IReader, uploads: Uploads, promises: Promises) -> None:
        self._source = source
        self._cached = cached
        self._uploads = uploads
        self._promises = promises
        self._checks: Once[_Current | None] = Once()
        self._fetches: Once[Manifest] = Once()
        self._heads: Once[Descriptor] = Once()
        self._slow: set[tuple[RepositoryName, Tag]] = set()
        self._renewed: TTLCache[tuple[RepositoryName, Digest], bool] = TTLCache(
            REMEMBERED, promises.interval, source.clock.seconds
        )

    def get(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        """A manifest; see IReader.get_manifest."""
        if isinstance(reference, Digest):
            found = self._cached.get_manifest(name, reference)
            found = found.addCallbacks(self._hit, self._missing, errbackArgs=(name, reference))
            return found.addCallback(self._renew, name)
        return Deferred.fromCoroutine(self._tagged(name, reference)).addCallback(self._renew, name)

    def resolve(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        """What a manifest is; fetched for that only where a tag has changed of which an older one is cached.

        See IReader.resolve_manifest.
        """
        if isinstance(reference, Digest):
            return Deferred.fromCoroutine(self._resolve_digest(name, reference))
        return Deferred.fromCoroutine(self._resolve_tag(name, reference))

    def _missing(self, failure: Any, name: RepositoryName, digest: Digest) -> Deferred[Manifest]:
        failure.trap(*_UNKNOWN)
        return self._fetched(name, digest).addCallback(self._served, False)

    def _hit(self, manifest: Manifest) -> Manifest:
        return self._served(manifest, True)

    def _served(self, manifest: Manifest, hit: bool) -> Manifest:
        self._source.meters.manifests.served(len(manifest.content), hit)
        return manifest

    def _fetched(self, name: RepositoryName, digest: Digest) -> Deferred[Manifest]:
        return self._fetches.do((name, digest), lambda: self._fetch(name, digest))

    async def _resolve_digest(self, name: RepositoryName, digest: Digest) -> Descriptor:
        try:
            return await self._cached.resolve_manifest(name, digest)
        except _UNKNOWN as unknown:
            self._refuse_absent(name, digest)
            if not await self._source.in_thread(self._source.mirrored.may_fill, name):
                raise unknown
        return await self._heads.do((name, digest), lambda: self._head(name, digest))

    async def _head(self, name: RepositoryName, digest: Digest) -> Descriptor:
        try:
            return await self._source.upstream.resolve_manifest(self._source.remote_name(name), digest)
        except ManifestUnknown:
            self._source.absent["manifest", name, str(digest)] = True
            raise
        except UpstreamUnavailable as error:
            raise self._unavailable(digest, error) from error

    async def _resolve_tag(self, name: RepositoryName, tag: Tag) -> Descriptor:
        current = await self._current(name, tag)
        if current is None:
            return await self._cached.resolve_manifest(name, tag)
        cached = await self._cached_as(name, tag, current)
        if cached is not None:
            return cached.descriptor
        if await self._source.in_thread(self._source.mirrored.known, name, tag) is None:
            return attrs.evolve(current.descriptor, warning=current.warning)
        # The client will want what it is told of here, and could be served what is cached if that cannot be had.
        manifest, _ = await self._changed(name, tag, current)
        return manifest.descriptor

    async def _tagged(self, name: RepositoryName, tag: Tag) -> Manifest:
        current = await self._current(name, tag)
        if current is None:
            return self._hit(await self._cached.get_manifest(name, tag))
        cached = await self._cached_as(name, tag, current)
        if cached is not None:
            return self._hit(cached)
        return self._served(*await self._changed(name, tag, current))

    async def _changed(self, name: RepositoryName, tag: Tag, current: _Current) -> tuple[Manifest, bool]:
        """What a tag is now that it is not what is cached under it, and whether that was there already.

        Of two answers of an upstream that does not give out the newer, as one that counts GET but not HEAD may, the
        older is the one whose content is here.
        """
        digest = current.descriptor.digest
        known_absent = self._is_absent(name, digest)
        linked = await self._source.in_thread(self._source.mirrored.linked, name, tag)
        has_old = linked is not None and linked != digest
        try:
            manifest, hit = await self._cached_or_fetched(name, digest, has_old)
        except (ManifestUnknown, TimeoutError) as error:
            may_move = isinstance(error, ManifestUnknown) and not known_absent and not current.is_second
            moved = await self._moved(name, tag, digest) if may_move else None
            if moved is not None:
                return await self._changed(name, tag, moved)
            if linked is None or not has_old:
                raise
            warning = self._source.stale(name, UpstreamUnavailable(f"{tag} is {digest} there, which cannot be had"))
            try:
                return attrs.evolve(await self._cached.get_manifest(name, linked), warning=warning), True
            except _UNKNOWN:
                if isinstance(error, ManifestUnknown):
                    raise error from None
            manifest, hit = await self._cached_or_fetched(name, digest, False)
        await self._source.keep(self._source.mirrored.tag, name, tag, manifest.digest)
        return attrs.evolve(manifest, warning=current.warning), hit

    async def _moved(self, name: RepositoryName, tag: Tag, digest: Digest) -> _Current | None:
        """What a tag is where that has just changed, so that what it was told to be is not given out any more."""
        current = self._fresh(await self._source.read(self._source.mirrored.told, name, tag))
        if current is None or current.descriptor.digest == digest:
            # Nobody else has found that yet.
            current = await self._checks.do((name, tag, digest), lambda: self._check(name, tag))
        if current is None or current.descriptor.digest == digest:
            return None
        return attrs.evolve(current, is_second=True)

    async def _cached_or_fetched(self, name: RepositoryName, digest: Digest, has_old: bool) -> tuple[Manifest, bool]:
        """A manifest, and whether it was there already.

        Errors:
            ManifestUnknown: it cannot be had.
            TimeoutError: it has not come yet, and there is an older one.
        """
        try:
            return await self._cached.get_manifest(name, digest), True
        except _UNKNOWN:
            fetched = self._fetched(name, digest)
            return await (fetched.addTimeout(PATIENCE, self._source.clock) if has_old else fetched), False

    async def _cached_as(self, name: RepositoryName, tag: Tag, current: _Current) -> Manifest | None:
        """What is cached under a tag, if that is what the tag is; all on the way to it is renewed."""
        try:
            manifest = await self._cached.get_manifest(name, tag)
        except _UNKNOWN:
            return None
        if manifest.digest != current.descriptor.digest:
            return None
        return attrs.evolve(manifest, warning=current.warning) if current.warning else manifest

    async def _current(self, name: RepositoryName, tag: Tag) -> _Current | None:
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

    async def _old(self, name: RepositoryName, tag: Tag) -> _Current | None:
        """What a tag was, while it is still being looked at; what is not cached is waited for."""
        looked = self._checks.do((name, tag), lambda: self._look(name, tag))
        known = await self._source.in_thread(self._source.mirrored.known, name, tag)
        try:
            cached = await self._cached.resolve_manifest(name, known) if known is not None else None
        except _UNKNOWN:
            cached = None
        if cached is None:
            return await looked
        if not looked.called:
            self._slow.add((name, tag))
        # What comes of it is told to who asks next.
        looked.addBoth(lambda _: self._slow.discard((name, tag)))
        return _Current(cached, self._source.stale(name, UpstreamUnavailable(f"no answer within {PATIENCE:g} s")))

    async def _look(self, name: RepositoryName, tag: Tag) -> _Current | None:
        fresh = self._fresh(await self._source.read(self._source.mirrored.told, name, tag))
        if fresh is not None:
            return fresh
        self._refuse_absent(name, tag)
        if not await self._source.read(self._source.mirrored.may_fill, name):
            return None
        return await self._check(name, tag)

    def _fresh(self, told: Told) -> _Current | None:
        """What was told of a tag, if that needs no asking again."""
        return _Current(told.descriptor) if told.descriptor and self._source.is_fresh(told.checked) else None

    async def _check(self, name: RepositoryName, tag: Tag) -> _Current:
        mirrored = self._source.mirrored
        try:
            descriptor = await self._source.upstream.resolve_manifest(self._source.remote_name(name), tag)
        except ManifestUnknown:
            self._source.absent["manifest", name, tag] = True
            await self._source.keep(mirrored.drop_tag, name, tag)
            raise
        except UpstreamUnavailable as error:
            known = await self._source.in_thread(mirrored.known, name, tag)
            if known is None:
                raise self._unavailable(tag, error) from error
            cached = await self._cached.resolve_manifest(name, known)
            return _Current(cached, self._source.stale(name, error))
        # Whoever asked for it by digest before it was there is told otherwise now.
        self._source.absent.pop(("manifest", name, str(descriptor.digest)), None)
        await self._source.keep(mirrored.put_told, name, tag, descriptor)
        return _Current(descriptor)

    async def _fetch(self, name: RepositoryName, digest: Digest) -> Manifest:
        """Fetch a manifest; with other processes, once."""
        self._refuse_absent(name, digest)
        if not await self._source.in_thread(self._source.mirrored.may_fill, name):
            raise ManifestUnknown(detail={"reference": str(digest)})
        try:
            claim = await self._claim(name, digest)
        except StorageFull:
            return await self._fetch_claimed(name, digest)
        if isinstance(claim, Manifest):
            return claim
        try:
            return await self._fetch_claimed(name, digest)
        finally:
            await self._release(claim)

    async def _release(self, claim: BlobWriter) -> None:
        try:
            await claim.cancel()
            await self._source.in_thread(self._source.mirrored.tidy, claim.name)
        except (OSError, StorageFull) as error:
            _log.warn("{name}: {id} was not removed: {error}", name=claim.name, id=claim.id, error=error)

    async def _claim(self, name: RepositoryName, digest: Digest) -> BlobWriter | Manifest:
        """The right to fetch a manifest, or what another process has fetched before it was given."""
        patience = self._source.clock.seconds() + FROZEN
        while self._source.clock.seconds() < patience:
            try:
                claim = await self._source.in_thread(self._uploads.claim, name, digest).addErrback(tell_full)
            except BlockingIOError:
                await deferLater(self._source.clock, LOOK)
                continue
            try:
                fetched = await self._cached.get_manifest(name, digest)
            except _UNKNOWN:
                return claim
            except Exception:
                await self._release(claim)
                raise
            await self._release(claim)
            return fetched
        raise self._unavailable(digest, UpstreamUnavailable(ELSEWHERE_FROZEN))

    async def _fetch_claimed(self, name: RepositoryName, digest: Digest) -> Manifest:
        try:
            manifest = await self._source.upstream.get_manifest(self._source.remote_name(name), digest)
        except ManifestUnknown:
            self._source.absent["manifest", name, str(digest)] = True
            raise
        except UpstreamUnavailable as error:
            raise self._unavailable(digest, error) from error
        if Digest.of(manifest.content, digest.algorithm) != digest:
            _log.error("{name}: the upstream sent other content for {digest}", name=name, digest=digest)
            raise self._unavailable(digest, UpstreamUnavailable("the upstream sent content with another digest"))
        await self._source.keep(self._source.mirrored.put_manifest, name, manifest)
        return manifest

    def _refuse_absent(self, name: RepositoryName, reference: Reference) -> None:
        if self._is_absent(name, reference):
            raise ManifestUnknown(detail={"reference": str(reference)})

    def _is_absent(self, name: RepositoryName, reference: Reference) -> bool:
        return ("manifest", name, str(reference)) in self._source.absent

    def _unavailable(self, reference: Reference, error: UpstreamUnavailable) -> ManifestUnknown:
        return self._source.unavailable(ManifestUnknown, error, reference=str(reference))

    def _renew(self, manifest: Manifest, name: RepositoryName) -> Manifest:
        """Renew what a manifest references, once in a while: a client that has a part does not ask for it."""
        if (name, manifest.digest) not in self._renewed:
            self._renewed[name, manifest.digest] = True
            renewed = self._source.in_thread(self._renew_parts, name, manifest).addCallback(self._source.sizes.update)
            renewed.addErrback(lambda failure: _log.failure("{name}: parts were not renewed", failure, name=name))
        return manifest

    def _renew_parts(self, name: RepositoryName, manifest: Manifest) -> Mapping[tuple[RepositoryName, Digest], int]:
        """Renew what a manifest references; the sizes of its blobs."""
        try:
            document = read_document(manifest)
        except ManifestInvalid:
            return {}
        mirrored = self._source.mirrored
        for part in document.blobs:
            digest = part.descriptor.digest
            if mirrored.tree.layer(name, digest) is None:
                continue
            if mirrored.has_bytes(digest) is not None:
                self._promises.keep(layout.layer_link(name, digest))
                self._promises.keep(layout.blob_data(digest))
        for digest in (*(part.descriptor.digest for part in document.manifests), *document.mentioned):
            links = (layout.revision_link(name, digest), layout.layer_link(name, digest))
            if [link for link in links if self._promises.keep(link) is not None]:
                self._promises.keep(layout.blob_data(digest))
        return {(name, part.descriptor.digest): part.descriptor.size for part in document.blobs}
