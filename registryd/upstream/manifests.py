"""Manifests behind one URL of an upstream: by HEAD where that tells enough, and checked."""

from __future__ import annotations

from typing import Final, NoReturn

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IResponse

from registryd.errors import ManifestUnknown, UpstreamUnavailable
from registryd.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    Descriptor,
    Manifest,
    is_media_type,
    told_media_type,
)
from registryd.reference import Digest, Reference, RepositoryName
from registryd.upstream.headers import media_type, told_digest, told_length
from registryd.upstream.pages import read_object
from registryd.upstream.remote import OK, Remote
from registryd.upstream.slots import Slots

_log = Logger()

ACCEPT: Final = ", ".join(
    (
        *(DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, OCI_ARTIFACT),
        *(f"{DOCKER_SCHEMA1_SIGNED};q=0.2", f"{DOCKER_SCHEMA1};q=0.2", "*/*;q=0.1"),
    )
)
"""The manifests that are asked for: as they are stored, so that none is converted for us."""

KEPT = 30.0
"""Seconds for which a manifest that only a GET could describe waits for who wants its content next."""

_HEADERS = {"Accept": ACCEPT}
_NO_MANIFESTS = frozenset({OCTET_STREAM, "application/problem+json", "application/xml"})


class Manifests:
    """The manifests of a registry; none is larger than ``limit`` bytes."""

    def __init__(self, remote: Remote, slots: Slots, limit: int, clock: IReactorTime) -> None:
        self._remote = remote
        self._slots = slots
        self._limit = limit
        # All together they take no more than the largest alone may.
        self._kept: TTLCache[tuple[RepositoryName, Digest], Manifest] = TTLCache(
            limit, KEPT, clock.seconds, getsizeof=lambda manifest: len(manifest.content)
        )

    async def resolve(self, name: RepositoryName, reference: Reference) -> Descriptor:
        """See IUpstream.resolve_manifest."""
        slot = await self._slots.take()
        try:
            response = await self._remote.ask(b"HEAD", name, f"manifests/{reference}", _HEADERS, insist=False)
            self._remote.discard(response)
        finally:
            slot.release()
        # Whatever else a HEAD is answered with, a GET tells: some registries know none, or want no login for it.
        described = _described(response, reference)
        if described is not None:
            return described
        manifest = await self.get(name, reference)
        self._kept[name, manifest.digest] = manifest
        return manifest.descriptor

    async def get(self, name: RepositoryName, reference: Reference) -> Manifest:
        """See IUpstream.get_manifest; one that has just been described by its content is not fetched again."""
        kept = self._kept.pop((name, reference), None) if isinstance(reference, Digest) else None
        if kept is not None:
            return kept
        slot = await self._slots.take()
        try:
            response = await self._remote.ask(b"GET", name, f"manifests/{reference}", _HEADERS)
            await self._remote.expect_answer(response, ManifestUnknown)
            content = await self._remote.read(response, self._limit)
        finally:
            slot.release()
        return self._checked(name, reference, response, content)

    def _checked(self, name: RepositoryName, reference: Reference, response: IResponse, content: bytes) -> Manifest:
        """The manifest that an answer brings, if it is what it should be."""
        expected = reference if isinstance(reference, Digest) else told_digest(response.headers)
        digest = Digest.of(content, expected.algorithm) if expected is not None else Digest.of(content)
        if expected is not None and digest != expected:
            self._refuse(f"{name}: manifest {reference} should be {expected} and is {digest}")
        kind = _kind(content, media_type(response.headers), expected is not None)
        if kind is None:
            self._refuse(f"{name}: {reference} is no manifest")
        return Manifest(kind, digest, content)

    def _refuse(self, what: str) -> NoReturn:
        _log.error("{origin} answered wrongly: {what}", origin=self._remote.origin, what=what)
        raise UpstreamUnavailable(f"{self._remote.origin} answered wrongly: {what}")


def _described(response: IResponse, reference: Reference) -> Descriptor | None:
    """What the answer to a HEAD tells, if it is enough."""
    told, size, kind = told_digest(response.headers), told_length(response.headers), media_type(response.headers)
    digest = reference if isinstance(reference, Digest) else told
    if response.code != OK or digest is None or told not in (None, digest) or not size:
        return None
    return Descriptor(kind, digest, size) if _may_be_manifest(kind) else None


def _kind(content: bytes, header: str, verified: bool) -> str | None:
    """The media type of what was answered instead of a manifest; None where it is none.

    A gateway may say anything with a 200: what no digest vouches for has to look like a manifest.
    """
    told, named = told_media_type(content)
    if named:
        # What a manifest says of itself is what is served once it is stored.
        return told if _may_be_manifest(told) else None
    if _may_be_manifest(header):
        return header if verified or _has(content) else None
    # Some stores label all that they serve alike.
    return told if _may_be_manifest(told) and (verified or _has(content, "schemaVersion")) else None


def _may_be_manifest(kind: str) -> bool:
    """Whether anything of a type may be a manifest: a portal that answers everything with a page is no registry."""
    return is_media_type(kind) and kind.lower().startswith("application/") and kind.lower() not in _NO_MANIFESTS


def _has(content: bytes, *keys: str) -> bool:
    """Whether something is a JSON object that has some keys."""
    try:
        document = read_object(content, "a manifest")
    except UpstreamUnavailable:
        return False
    return all(key in document for key in keys)
