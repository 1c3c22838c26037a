"""Manifests: pull, push and delete, by tag and by digest."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProducer, IPushProducer
from zope.interface import implementer

from registryd.errors import DigestInvalid, ManifestInvalid, ManifestTooLarge, ManifestUnknown, TagInvalid, TooManyTags
from registryd.http.answers import Answer, Urls, empty, set_header, warn
from registryd.http.headers import accepts, header, is_conditional, is_known, may_change, queries
from registryd.http.streaming import StreamingRequest
from registryd.interfaces import Condition, IRegistry, IViewConsumer
from registryd.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    LARGE,
    Descriptor,
    Manifest,
    is_media_type,
    read_document,
    usual_media_type,
)
from registryd.reference import Digest, Reference, RepositoryName, Tag, parse_reference, parse_tag

MAX_TAGS = 100
"""Tags of one push; the specification asks for ten at least."""

_LIST_TYPES = frozenset({DOCKER_LIST, "*/*", "application/*"})


@attrs.frozen
class Manifests:
    """The manifest endpoints. ``limit`` is the largest manifest that is accepted, in bytes."""

    urls: Urls
    limit: int

    def get(
        self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, reference: str
    ) -> Deferred[Answer]:
        """end-3: a manifest, as it was pushed, whatever the client accepts; with one exception, for old Docker."""
        parsed = _existing(reference)
        if request.method == b"HEAD":
            found = registry.resolve_manifest(name, parsed).addCallback(_Found.of_descriptor)
        else:
            found = registry.get_manifest(name, parsed).addCallback(_Found.of_manifest)
        if not isinstance(parsed, Digest):
            found = found.addCallback(_for_old_docker, registry, request, name)
        return found.addCallback(_answer, request)

    def put(
        self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, reference: str
    ) -> Deferred[Answer]:
        """end-7: push a manifest under a digest or a tag, and under the tags of the query."""
        parsed = parse_reference(reference)
        tags = [parse_tag(tag) for tag in dict.fromkeys(queries(request, b"tag"))]
        if len(tags) > MAX_TAGS:
            return fail(TooManyTags())
        if request.body.length is not None and request.body.length > self.limit:
            return fail(ManifestTooLarge())
        content = _Content(self.limit)
        return request.body.deliver_to(content).addCallback(
            lambda _: self._store(registry, request, name, parsed, tags, content)
        )

    def delete(
        self, registry: IRegistry, request: StreamingRequest, name: RepositoryName, reference: str
    ) -> Deferred[Answer]:
        """end-9: delete a tag, or a manifest with the tags that name it."""
        parsed = _existing(reference)
        condition = _condition(request, parsed)
        if isinstance(parsed, Digest):
            deleted = registry.delete_manifest(name, parsed, condition)
        else:
            deleted = registry.delete_tag(name, parsed, condition)
        return deleted.addCallback(lambda _: empty(request, 202))

    def _store(
        self,
        registry: IRegistry,
        request: StreamingRequest,
        name: RepositoryName,
        reference: Reference,
        tags: list[Tag],
        content: _Content,
    ) -> Deferred[Answer]:
        pushed = content.whole()
        by_digest = isinstance(reference, Digest)
        digest = Digest.of(pushed, reference.algorithm) if isinstance(reference, Digest) else Digest.of(pushed)
        if by_digest and digest != reference:
            raise DigestInvalid(detail={"expected": str(reference), "provided": str(digest)})
        all_tags = tags if isinstance(reference, Digest) else list(dict.fromkeys([reference, *tags]))
        manifest = Manifest(_media_type(request), digest, pushed)
        stored = registry.put_manifest(name, manifest, all_tags, _condition(request, reference))
        return stored.addCallback(self._stored, request, name, digest, tags)

    def _stored(
        self,
        subject: Digest | None,
        request: StreamingRequest,
        name: RepositoryName,
        digest: Digest,
        tags: list[Tag],
    ) -> Answer:
        set_header(request, b"location", self.urls.manifest(request, name, digest))
        set_header(request, b"docker-content-digest", str(digest))
        if subject is not None:
            set_header(request, b"oci-subject", str(subject))
        if tags:
            request.responseHeaders.setRawHeaders(b"oci-tag", [tag.encode("ascii") for tag in tags])
        return empty(request, 201)


@implementer(IViewConsumer)
class _Content:
    """Collects a manifest, and stops its producer when it is larger than the limit."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._content = bytearray()
        self._producer: IPushProducer | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes | memoryview) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._content += data
        elif self._producer is not None:
            self._producer.stopProducing()

    def whole(self) -> bytes:
        """All that has come.

        Errors:
            ManifestTooLarge: more came than the limit.
        """
        if self._left < 0:
            raise ManifestTooLarge()
        return bytes(self._content)


def _existing(reference: str) -> Reference:
    """A reference that can exist: a text that is no tag names no manifest."""
    try:
        return parse_reference(reference)
    except TagInvalid:
        raise ManifestUnknown(detail={"reference": reference[:256]}) from None


def _condition(request: StreamingRequest, reference: Reference) -> Condition | None:
    """What a request that changes what a reference names asks of that, so that it undoes nobody else's change."""
    if not is_conditional(request):
        return None
    return Condition(reference, lambda named: may_change(request, None if named is None else _etag(named)))


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _media_type(request: StreamingRequest) -> str:
    """The type that a manifest is pushed with, without parameters; empty where the client does not say."""
    pushed_as = (header(request, b"content-type") or "").partition(";")[0].strip()
    if pushed_as and not is_media_type(pushed_as):
        raise ManifestInvalid("the content type is no media type")
    return usual_media_type(pushed_as)


@attrs.frozen
class _Found:
    """A manifest to answer with; without its content where the client asks by HEAD."""

    descriptor: Descriptor
    content: bytes

    @classmethod
    def of_descriptor(cls, descriptor: Descriptor) -> _Found:
        return cls(descriptor, b"")

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> _Found:
        return cls(manifest.descriptor, manifest.content)


def _for_old_docker(
    found: _Found, registry: IRegistry, request: StreamingRequest, name: RepositoryName
) -> _Found | Deferred[_Found]:
    """The linux/amd64 child of a Docker list, for a client that knows images but no lists.

    Source: Distribution, registry/handlers/manifests.go.
    """
    if found.descriptor.media_type != DOCKER_LIST:
        return found
    request.responseHeaders.addRawHeader(b"vary", b"Accept")
    accepted = accepts(request)
    if DOCKER_MANIFEST not in accepted or accepted & _LIST_TYPES:
        return found

    def child(manifest: Manifest) -> _Found | Deferred[_Found]:
        if len(manifest.content) > LARGE:
            return found  # No list of platforms is that long, and it would be parsed here.
        for part in read_document(manifest).manifests:
            if (part.platform.get("os"), part.platform.get("architecture")) == ("linux", "amd64"):
                return registry.get_manifest(name, part.descriptor.digest).addCallback(_Found.of_manifest)
        return found

    warn(request, found.descriptor.warning)
    return registry.get_manifest(name, found.descriptor.digest).addCallback(child)


def _answer(found: _Found, request: StreamingRequest) -> Answer:
    etag = _etag(found.descriptor.digest)
    set_header(request, b"docker-content-digest", str(found.descriptor.digest))
    set_header(request, b"etag", etag)
    warn(request, found.descriptor.warning)
    if is_known(request, etag):
        return empty(request, 304)
    set_header(request, b"content-type", found.descriptor.media_type)
    set_header(request, b"content-length", b"%d" % found.descriptor.size)
    return found.content
