"""Blobs: pull, whole or in ranges, and delete."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from registryd.errors import BlobUnknown, PreconditionFailed, RangeInvalid
from registryd.http.answers import Answer, body, empty, set_header
from registryd.http.headers import Span, asks_for_part, is_known, may_change, ranges
from registryd.http.streaming import StreamingRequest
from registryd.interfaces import IBlobReader, IRegistry, PeerGone
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import Digest, RepositoryName

SMALL = 64 * 1024
"""Blobs up to this size are answered in one write, which costs less than to set up a delivery."""


def get(registry: IRegistry, request: StreamingRequest, name: RepositoryName, digest: str) -> Deferred[Answer]:
    """end-2: a blob, or ranges of it."""
    parsed = Digest.parse(digest)
    if request.method == b"HEAD":
        return registry.resolve_blob(name, parsed).addCallback(_headers_only, request)
    if is_known(request, _etag(parsed)) or asks_for_part(request):
        return Deferred.fromCoroutine(_get_if_needed(registry, request, name, parsed))
    return registry.open_blob(name, parsed).addCallback(_deliver, request)


async def _get_if_needed(
    registry: IRegistry, request: StreamingRequest, name: RepositoryName, digest: Digest
) -> Answer:
    """What can be answered without any bytes opens nothing: a mirror would fetch the whole blob for it."""
    try:
        blob = await registry.resolve_blob(name, digest)
    except BlobUnknown:
        # An upstream may hold it and not tell what it is.
        pass
    else:
        if is_known(request, _etag(blob.digest)):
            _describe(request, blob.digest)
            return empty(request, 304)
        _ranges(request, blob.size, _etag(blob.digest))
    return await registry.open_blob(name, digest).addCallback(_deliver, request)


def delete(registry: IRegistry, request: StreamingRequest, name: RepositoryName, digest: str) -> Deferred[Answer]:
    """end-10: take a blob out of a repository; only the one that the client means, where it says so."""
    parsed = Digest.parse(digest)
    if not may_change(request, _etag(parsed)):
        # What is at a digest never changes: it is another that the client means.
        raise PreconditionFailed(detail={"digest": digest})
    return registry.delete_blob(name, parsed).addCallback(lambda _: empty(request, 202))


def _describe(request: StreamingRequest, digest: Digest) -> str:
    """Set what every answer about a blob says; its entity tag."""
    etag = _etag(digest)
    set_header(request, b"docker-content-digest", str(digest))
    set_header(request, b"etag", etag)
    set_header(request, b"accept-ranges", b"bytes")
    set_header(request, b"cache-control", b"max-age=31536000")
    return etag


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _ranges(request: StreamingRequest, size: int, etag: str) -> Sequence[Span] | None:
    """As ``ranges``; what an error says of the size is set."""
    try:
        return ranges(request, size, etag)
    except RangeInvalid:
        set_header(request, b"content-range", b"bytes */%d" % size)
        raise


def _headers_only(blob: Descriptor, request: StreamingRequest) -> Answer:
    etag = _describe(request, blob.digest)
    if is_known(request, etag):
        return empty(request, 304)
    set_header(request, b"content-type", OCTET_STREAM)
    set_header(request, b"content-length", b"%d" % blob.size)
    return b""


def _deliver(reader: IBlobReader, request: StreamingRequest) -> Answer | Deferred[Answer]:
    try:
        answer = _begin(reader, request)
    except BaseException:
        reader.close()
        raise
    if isinstance(answer, Deferred):
        delivered: Deferred[Answer] = answer.addCallback(partial(_delivered, reader))
        return delivered.addErrback(partial(_left, reader))
    reader.close()
    return answer


def _begin(reader: IBlobReader, request: StreamingRequest) -> Answer | Deferred[Answer]:
    blob = reader.descriptor
    etag = _describe(request, blob.digest)
    if is_known(request, etag):
        return empty(request, 304)
    wanted = _ranges(request, blob.size, etag)
    if wanted is None:
        return _part(reader, request, Span(0, blob.size))
    request.setResponseCode(206)
    if len(wanted) > 1:
        return Deferred.fromCoroutine(_parts(reader, request, wanted))
    set_header(request, b"content-range", wanted[0].content_range(blob.size))
    return _part(reader, request, wanted[0])


def _part(reader: IBlobReader, request: StreamingRequest, span: Span) -> Answer | Deferred[Answer]:
    if span.size <= SMALL and reader.at_hand:
        return body(request, reader.read(span.start, span.stop), OCTET_STREAM)
    set_header(request, b"content-type", OCTET_STREAM)
    set_header(request, b"content-length", b"%d" % span.size)
    return request.deliver(reader, span.start, span.stop).addCallback(_written)


async def _parts(reader: IBlobReader, request: StreamingRequest, spans: Sequence[Span]) -> Answer:
    """Several ranges as multipart/byteranges. Source: RFC 9110, section 14.6."""
    boundary = uuid4().hex.encode("ascii")
    size = reader.descriptor.size
    heads = [
        b"--%s\r\nContent-Type: %s\r\nContent-Range: %s\r\n\r\n"
        % (boundary, OCTET_STREAM.encode("ascii"), span.content_range(size))
        for span in spans
    ]
    end = b"\r\n--%s--\r\n" % boundary
    heads[1:] = [b"\r\n" + head for head in heads[1:]]
    length = sum(map(len, heads)) + sum(span.size for span in spans) + len(end)
    set_header(request, b"content-type", b"multipart/byteranges; boundary=" + boundary)
    set_header(request, b"content-length", b"%d" % length)
    for head, span in zip(heads, spans, strict=True):
        request.write(head)
        # However small a part is, it waits for its turn: there can be a thousand.
        await request.deliver(reader, span.start, span.stop)
    request.write(end)
    return None


def _written(_: None) -> Answer:
    return None


def _delivered(reader: IBlobReader, answer: Answer) -> Answer:
    reader.close()
    return answer


def _left(reader: IBlobReader, failure: Failure) -> Answer:
    """A client that leaves during a delivery is no error of ours, and nothing can be answered any more."""
    reader.close()
    failure.trap(PeerGone)
    return None
