"""Blobs of mirrored repositories: what is there, what is coming, and what only passes through."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from registryd.cache.checks import Checks
from registryd.cache.fetching import Fillable
from registryd.cache.fills import Fill, Fills
from registryd.cache.following import GrowingReader
from registryd.cache.once import Once
from registryd.cache.passing import Passages, PassingReader
from registryd.cache.source import Source
from registryd.errors import BlobUnknown, NameUnknown, RegistryError, StorageFull, UpstreamUnavailable
from registryd.interfaces import IBlobReader, IReader
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import Digest, RepositoryName

_log = Logger()
_UNKNOWN = (BlobUnknown, NameUnknown)

SMALL = 64 * 1024
"""Bytes of a blob that is not answered before all of it is verified."""


class Blobs:
    """The blobs that mirror one upstream, over what is cached of them."""

    def __init__(self, source: Source, cached: IReader, fills: Fills, checks: Checks) -> None:
        self._source = source
        self._cached = cached
        self._fills = fills
        self._checks = checks
        self._looks: Once[bool] = Once()
        self._sizes: Once[Descriptor] = Once()
        self._passages = Passages(source.most_passing, source.clock)

    def open(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        """A blob, open for reading; see IReader.open_blob."""
        opened = self._cached.open_blob(name, digest)
        missing = (self._open_counted, name, digest)
        return opened.addCallbacks(self._hit, self._missing, callbackArgs=(name,), errbackArgs=missing)

    def resolve(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        """What a blob is; nothing is fetched for that. See IReader.resolve_blob."""
        return self._cached.resolve_blob(name, digest).addErrback(self._missing, self._resolve, name, digest)

    def _hit(self, reader: IBlobReader, name: RepositoryName) -> IBlobReader | Deferred[IBlobReader]:
        blob = reader.descriptor
        if self._source.sizes.get((name, blob.digest), blob.size) != blob.size:
            reader.close()
            return Deferred.fromCoroutine(self._check(name, blob.digest))
        if not self._checks.admits(blob.digest):
            reader.close()
            return Deferred.fromCoroutine(self._heal(name, blob.digest))
        self._source.meters.blobs.served(blob.size, True)
        return reader

    async def _check(self, name: RepositoryName, digest: Digest) -> IBlobReader:
        """A blob that is not as large as a manifest says, fetched again if it is that which is wrong."""
        reader = await self._heal(name, digest)
        # What was verified now has the size that it has, whatever the manifest says.
        self._source.sizes[name, digest] = reader.descriptor.size
        return reader

    async def _heal(self, name: RepositoryName, digest: Digest) -> IBlobReader:
        """A blob that may be damaged, fetched again if it is; what was pushed is not the upstream's to mend."""
        fills = await self._source.in_thread(self._source.mirrored.may_fill, name)
        if not fills or not await self._checks.confirms(digest):
            return await self._open_cached(name, digest)
        _log.error("{name}: {digest} is damaged, and is fetched again", name=name, digest=digest)
        unknown = Failure(BlobUnknown(detail={"digest": str(digest)}))
        reader: IBlobReader = await self._ask(self._open_counted, unknown, name, digest)
        return reader

    async def _open_cached(self, name: RepositoryName, digest: Digest) -> IBlobReader:
        reader: IBlobReader = await self._cached.open_blob(name, digest)
        self._source.meters.blobs.served(reader.descriptor.size, True)
        return reader

    async def _open_counted(self, blob: Fillable) -> IBlobReader:
        reader = await self._open(blob)
        self._source.meters.blobs.served(reader.descriptor.size, False)
        return reader

    def _missing(self, failure: Failure, instead: Any, name: RepositoryName, digest: Digest) -> Deferred[Any]:
        failure.trap(*_UNKNOWN)
        return Deferred.fromCoroutine(self._ask(instead, failure, name, digest))

    async def _ask(self, instead: Any, failure: Failure, name: RepositoryName, digest: Digest) -> Any:
        """Do what the cache could not, with the upstream, where that may be asked."""
        detail = {"digest": str(digest)}
        if ("blob", name, str(digest)) in self._source.absent:
            raise BlobUnknown(detail=detail)
        if not await self._source.in_thread(self._source.mirrored.may_fill, name):
            failure.raiseException()
        try:
            return await instead(Fillable(name, self._source.remote_name(name), digest))
        except BlobUnknown:
            self._source.absent["blob", name, str(digest)] = True
            raise
        except UpstreamUnavailable as error:
            raise self._source.unavailable(BlobUnknown, error, **detail) from error

    async def _resolve(self, blob: Fillable) -> Descriptor:
        fill = self._fills.under_way(blob)
        if fill is not None and fill.size is not None:
            return Descriptor(OCTET_STREAM, blob.digest, fill.size)
        return await self._sizes.do((blob.name, blob.digest), lambda: self._told(blob))

    async def _told(self, blob: Fillable) -> Descriptor:
        """What the upstream tells of a blob."""
        try:
            return await self._source.upstream.resolve_blob(blob.remote, blob.digest)
        except (BlobUnknown, UpstreamUnavailable):
            # Some registries answer HEAD of a blob that they have with 404, 401 or 500: the head of a GET tells it.
            return await self._fetched_head(blob)

    async def _fetched_head(self, blob: Fillable) -> Descriptor:
        fetch = await self._source.upstream.fetch_blob(blob.remote, blob.digest, 0)
        fetch.abandon()
        size = self._source.size_of(blob.name, blob.digest, fetch.size)
        if size is None:
            raise UpstreamUnavailable("the upstream does not tell the size of the blob")
        return Descriptor(OCTET_STREAM, blob.digest, size)

    async def _open(self, blob: Fillable) -> IBlobReader:
        if self._fills.is_full:
            return await self._pass_through(blob)
        key = blob.name, blob.digest
        if self._fills.under_way(blob) is None and await self._looks.do(key, lambda: self._is_here(blob)):
            self._checks.admits(blob.digest)
            return await self._cached.open_blob(blob.name, blob.digest)
        fill = self._fills.under_way(blob) or await self._shared(blob) or self._fills.of(blob)
        try:
            await fill.opened()
            if fill.size is None or fill.size <= SMALL:
                await fill.done()
        except StorageFull:
            return await self._pass_through(blob)
        if fill.is_complete and fill.blob == blob:
            return await self._cached.open_blob(blob.name, blob.digest)
        assert fill.size is not None
        descriptor = Descriptor(OCTET_STREAM, blob.digest, fill.size)
        passing = PassingReader(descriptor, blob, self._source.upstream, self._passages)
        return GrowingReader(descriptor, fill, passing, self._source)

    async def _shared(self, blob: Fillable) -> Fill | None:
        """What is on its way for another repository, if the upstream says that this one holds it too.

        This one holds it then as soon as it has come.
        """
        fill = self._fills.of_another(blob)
        if fill is None:
            return None
        try:
            await fill.opened()
            told = await self._source.upstream.resolve_blob(blob.remote, blob.digest)
        except (BlobUnknown, UpstreamUnavailable):
            # What the upstream says of the other repository holds for that one alone.
            return None
        if told.size != fill.size:
            return None
        kept = fill.done().addCallback(lambda _: self._source.keep(self._link, blob))
        kept.addErrback(lambda failure: failure.trap(RegistryError))
        return fill

    def _link(self, blob: Fillable) -> None:
        self._source.mirrored.link_blob(blob.name, blob.digest)

    async def _is_here(self, blob: Fillable) -> bool:
        """Whether the blob came meanwhile; or another repository holds it, and the upstream says that this one does."""
        mirrored = self._source.mirrored
        if await self._source.in_thread(self._checks.is_damaged, blob.digest):
            return False
        size = await self._source.in_thread(mirrored.has_bytes, blob.digest)
        if size is None:
            return False
        if await self._source.in_thread(mirrored.tree.layer, blob.name, blob.digest) is not None:
            return True
        try:
            told = await self._source.upstream.resolve_blob(blob.remote, blob.digest)
        except (BlobUnknown, UpstreamUnavailable):
            # Whoever can be asked nothing at all is not asked for the blob either.
            return False
        return told.size == size and await self._source.in_thread(mirrored.link_blob, blob.name, blob.digest)

    async def _pass_through(self, blob: Fillable) -> IBlobReader:
        reader = PassingReader(await self._resolve(blob), blob, self._source.upstream, self._passages)
        await reader.enter()
        return reader
