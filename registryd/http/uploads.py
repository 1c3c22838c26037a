"""Upload sessions: everything below ``/blobs/uploads/``.

These are coroutines: next to the bytes that they move, their cost does not count.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IProducer, IPushProducer
from zope.interface import implementer

from registryd.errors import (
    BlobUnknown,
    DigestInvalid,
    NameInvalid,
    NameUnknown,
    RangeInvalid,
    SizeInvalid,
    UploadTooLarge,
)
from registryd.http.answers import Urls, empty, set_header
from registryd.http.headers import Span, content_range, query
from registryd.http.streaming import StreamingRequest
from registryd.interfaces import IBlobWriter, IRegistry, IViewConsumer
from registryd.model import Descriptor
from registryd.reference import ALGORITHMS, Digest, RepositoryName, new_hash, parse_name


@attrs.frozen
class Uploads:
    """The upload endpoints. ``limit`` is the largest blob that is accepted, in bytes, or None.

    ``find`` turns a client's name of a repository to mount from into that of the tree.
    """

    urls: Urls
    limit: int | None
    find: Callable[[str], RepositoryName] = parse_name

    async def start(self, registry: IRegistry, request: StreamingRequest, name: RepositoryName) -> bytes:
        """end-4a, 4b, 4c and 11: start a session, push a blob at once, or mount one."""
        mount = query(request, b"mount")
        if mount is not None:
            mounted = await self._mount(registry, name, Digest.parse(mount), query(request, b"from"))
            if mounted is not None:
                return self._blob(request, name, mounted)
        digest = query(request, b"digest")
        if digest is not None:
            return await self._push_at_once(registry, request, name, Digest.parse(digest))
        asked = query(request, b"digest-algorithm")
        algorithm = ALGORITHMS[0] if asked is None else asked
        new_hash(algorithm)
        writer = await registry.start_upload(name, algorithm)
        return self._session(request, name, writer.id, await writer.suspend(), 202)

    async def status(self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, id: str) -> bytes:
        """end-13: how far a session is."""
        status = await registry.upload_status(name, id)
        return self._session(request, name, status.id, status.size, 204)

    async def patch(self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, id: str) -> bytes:
        """end-5: a chunk, or the whole blob as a stream."""
        writer = await self._receive(registry, request, name, id)
        return self._session(request, name, id, await writer.suspend(), 202)

    async def put(self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, id: str) -> bytes:
        """end-6: close a session, with a last chunk or without."""
        digest = query(request, b"digest")
        if digest is None:
            raise DigestInvalid("the digest parameter is missing")
        parsed = Digest.parse(digest)
        writer = await self._receive(registry, request, name, id)
        return self._blob(request, name, await writer.commit(parsed))

    async def cancel(self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, id: str) -> bytes:
        """end-14: end a session and forget it."""
        writer = await registry.resume_upload(name, id)
        await writer.cancel()
        return empty(request, 204)

    async def _mount(
        self, registry: IRegistry, name: RepositoryName, digest: Digest, source: str | None
    ) -> Descriptor | None:
        try:
            return await registry.mount_blob(name, digest, self.find(source) if source else None)
        except (BlobUnknown, NameInvalid, NameUnknown):
            return None

    async def _push_at_once(
        self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, digest: Digest
    ) -> bytes:
        writer = await registry.start_upload(name, digest.algorithm)
        try:
            await self._fill(writer, request, None)
            blob = await writer.commit(digest)
        except BaseException:
            # The client has been told no location to go on at.
            await writer.cancel()
            raise
        return self._blob(request, name, blob)

    async def _receive(
        self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, id: str
    ) -> IBlobWriter:
        """A session that has got the whole body of a request.

        A client that leaves half-way finds in the session what came; a chunk that is not what it says leaves nothing.
        """
        span = content_range(request)
        try:
            writer = await registry.resume_upload(name, id)
        except RangeInvalid:
            status = await registry.upload_status(name, id)
            self._session(request, name, id, status.size, 416)
            raise
        began = writer.size
        try:
            await self._fill(writer, request, span)
        except SizeInvalid:
            await writer.revert(began)
            raise
        except BaseException:
            self._session(request, name, id, await writer.suspend(), 416)
            raise
        return writer

    async def _fill(self, writer: IBlobWriter, request: StreamingRequest, span: Span | None) -> None:
        began, length = writer.size, request.body.length
        if span is not None and span.start != began:
            raise RangeInvalid("chunks must come in order", detail={"offset": began})
        if span is not None and length is not None and length != span.size:
            raise SizeInvalid(detail={"Content-Length": length, "Content-Range": span.size})
        if self.limit is not None and length is not None and began + length > self.limit:
            raise UploadTooLarge()
        if self.limit is None:
            await request.body.deliver_to(writer)
        else:
            limited = _Limited(writer, self.limit)
            await request.body.deliver_to(limited)
            if limited.exceeded:
                raise UploadTooLarge()
        if span is not None and writer.size != began + span.size:
            raise SizeInvalid(detail={"received": writer.size - began, "Content-Range": span.size})

    def _session(self, request: StreamingRequest, name: RepositoryName, id: str, size: int, code: int) -> bytes:
        set_header(request, b"location", self.urls.upload(request, name, id))
        set_header(request, b"range", b"0-%d" % max(0, size - 1))
        set_header(request, b"docker-upload-uuid", id)
        return empty(request, code)

    def _blob(self, request: StreamingRequest, name: RepositoryName, blob: Descriptor) -> bytes:
        set_header(request, b"location", self.urls.blob(request, name, blob.digest))
        set_header(request, b"docker-content-digest", str(blob.digest))
        return empty(request, 201)


@implementer(IViewConsumer)
class _Limited:
    """Passes a body on to a session until that would be larger than the limit."""

    def __init__(self, writer: IBlobWriter, limit: int) -> None:
        self.exceeded = False
        self._writer = writer
        self._limit = limit
        self._producer: IPushProducer | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = IPushProducer(producer)
        self._writer.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._producer = None
        self._writer.unregisterProducer()

    def write(self, data: bytes | memoryview) -> None:
        if self._writer.size + len(data) > self._limit:
            self.exceeded = True
            if self._producer is not None:
                self._producer.stopProducing()
        elif not self.exceeded:
            self._writer.write(data)
