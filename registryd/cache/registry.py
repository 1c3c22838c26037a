"""The registry that mirrors an upstream: read-only, and filled as it is asked."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from registryd.cache.blobs import Blobs
from registryd.cache.checks import Checks
from registryd.cache.fills import Fills
from registryd.cache.lists import Lists
from registryd.cache.manifests import Manifests
from registryd.cache.source import Source
from registryd.interfaces import IBlobReader, IRegistry, Page, ReferrerPage, Space
from registryd.model import Descriptor, Manifest
from registryd.promises import Promises
from registryd.reference import Digest, Reference, RepositoryName
from registryd.unsupported import UnsupportedRegistry
from registryd.uploads import Uploads


@implementer(IRegistry)
class CachingRegistry(UnsupportedRegistry):
    """Serves from the cache what is there, and fetches the rest; it takes no pushes and deletions."""

    def __init__(
        self,
        source: Source,
        cached: IRegistry,
        uploads: Uploads,
        promises: Promises,
        space: Space,
    ) -> None:
        """``cached`` is the registry over the same tree as ``source``, with its sessions and promises."""
        self._cached = cached
        self._upstream = source.upstream
        self._checks = Checks(source)
        self._fills = Fills(source, uploads, space, self._checks)
        self._blobs = Blobs(source, cached, self._fills, self._checks)
        self._manifests = Manifests(source, cached, uploads, promises)
        self._lists = Lists(source, cached)

    def open_blob(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        return self._blobs.open(name, digest)

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._blobs.resolve(name, digest)

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._manifests.get(name, reference)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._manifests.resolve(name, reference)

    def repositories(self, count: int | None, after: str) -> Deferred[Page]:
        return self._cached.repositories(count, after)

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return Deferred.fromCoroutine(self._lists.tags(name, count, after))

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str] = (), after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        return Deferred.fromCoroutine(self._lists.referrers(name, subject, artifact_types, after))

    def stop(self) -> Deferred[None]:
        """Fetch no more, keep what came; fires when that is stored."""
        stopped = DeferredList([self._checks.stop(), self._fills.stop()])
        return stopped.addCallback(lambda _: self._upstream.close())
