"""Manifests of mirrored repositories: what is here, what is fetched, and what is served where that cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from cachetools import TTLCache
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from registryd.cache.fills import ELSEWHERE_FROZEN, FROZEN, LOOK
from registryd.cache.once import Once
from registryd.cache.source import PATIENCE, REMEMBERED, Source
from registryd.cache.tags import Current, Tags
from registryd.errors import ManifestInvalid, ManifestUnknown, NameUnknown, StorageFull, UpstreamUnavailable
from registryd.interfaces import IReader
from registryd.model import Descriptor, Manifest, read_document
from registryd.promises import Promises
from registryd.reference import Digest, Reference, RepositoryName, Tag
from registryd.storage import layout
from registryd.uploads import BlobWriter, Uploads, tell_full

_log = Logger()
_UNKNOWN = (ManifestUnknown, NameUnknown)


class Manifests:
    """The manifests that mirror one upstream, over what is cached of them."""

    def __init__(self, source: Source, cached: IReader, uploads: Uploads, promises: Promises) -> None:
        self._source = source
        self._cached = cached
        self._uploads = uploads
        self._promises = promises
        self._tags = Tags(source, cached)
        self._fetches: Once[Manifest] = Once()
        self._heads: Once[Descriptor] = Once()
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
            self._source.refuse_absent_manifest(name, digest)
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
            raise self._source.unavailable_manifest(digest, error) from error

    async def _resolve_tag(self, name: RepositoryName, tag: Tag) -> Descriptor:
        current = await self._tags.current(name, tag)
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
        current = await self._tags.current(name, tag)
        if current is None:
            return self._hit(await self._cached.get_manifest(name, tag))
        cached = await self._cached_as(name, tag, current)
        if cached is not None:
            return self._hit(cached)
        return self._served(*await self._changed(name, tag, current))

    async def _changed(self, name: RepositoryName, tag: Tag, current: Current) -> tuple[Manifest, bool]:
        """What a tag is now that it is not what is cached under it, and whether that was there already.

        Of two answers of an upstream that does not give out the newer, as one that counts GET but not HEAD may, the
        older is the one whose content is here.
        """
        digest = current.descriptor.digest
        known_absent = self._source.is_absent_manifest(name, digest)
        linked = await self._source.in_thread(self._source.mirrored.linked, name, tag)
        has_old = linked is not None and linked != digest
        try:
            manifest, hit = await self._cached_or_fetched(name, digest, has_old)
        except (ManifestUnknown, TimeoutError) as error:
            may_move = isinstance(error, ManifestUnknown) and not known_absent and not current.is_second
            moved = await self._tags.moved(name, tag, digest) if may_move else None
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

    async def _cached_as(self, name: RepositoryName, tag: Tag, current: Current) -> Manifest | None:
        """What is cached under a tag, if that is what the tag is; all on the way to it is renewed."""
        try:
            manifest = await self._cached.get_manifest(name, tag)
        except _UNKNOWN:
            return None
        if manifest.digest != current.descriptor.digest:
            return None
        return attrs.evolve(manifest, warning=current.warning) if current.warning else manifest

    async def _fetch(self, name: RepositoryName, digest: Digest) -> Manifest:
        """Fetch a manifest; with other processes, once."""
        self._source.refuse_absent_manifest(name, digest)
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
        raise self._source.unavailable_manifest(digest, UpstreamUnavailable(ELSEWHERE_FROZEN))

    async def _fetch_claimed(self, name: RepositoryName, digest: Digest) -> Manifest:
        try:
            manifest = await self._source.upstream.get_manifest(self._source.remote_name(name), digest)
        except ManifestUnknown:
            self._source.absent["manifest", name, str(digest)] = True
            raise
        except UpstreamUnavailable as error:
            raise self._source.unavailable_manifest(digest, error) from error
        if Digest.of(manifest.content, digest.algorithm) != digest:
            _log.error("{name}: the upstream sent other content for {digest}", name=name, digest=digest)
            raise self._source.unavailable_manifest(
                digest, UpstreamUnavailable("the upstream sent content with another digest")
            )
        await self._source.keep(self._source.mirrored.put_manifest, name, manifest)
        return manifest

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
