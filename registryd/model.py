"""Descriptors and manifests as values: media types, and what a manifest says of other content.

Source: OCI image specification, "Manifest", "Index", "Descriptor"; Docker's image manifest version 2, schema 1 and 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, Final

import attrs

from registryd.errors import DigestInvalid, ManifestInvalid
from registryd.reference import Digest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCTET_STREAM: Final = "application/octet-stream"

IMAGES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
SCHEMA1: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})

_KEYS = frozenset(
    ("schemaVersion", "mediaType", "config", "layers", "manifests", "blobs", "subject", "artifactType", "annotations")
)
_LOWER_KEYS = frozenset(key.lower() for key in _KEYS)

MOST_VALUES = 250_000
"""Values of a manifest: one of 4 MiB has half as many if it is nothing but descriptors."""

LARGE = 64 * 1024
"""Bytes of a manifest above which it is parsed in threads, and one at a time: its objects take 25 times its size."""

_one_large = Lock()
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_DIGEST_TEXT = re.compile(r"\b(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\b", re.ASCII)


@attrs.frozen
class Descriptor:
    """What content is: its type, identity and size in bytes.

    ``warning`` is what whoever asked for it should know of the answer: that it may be out of date, say.
    """

    media_type: str
    digest: Digest
    size: int
    warning: str | None = attrs.field(default=None, eq=False, kw_only=True)


@attrs.frozen
class Part:
    """What a manifest references: the descriptor, where else it may lie, and for which platform it is."""

    descriptor: Descriptor
    urls: Sequence[str] = ()
    platform: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Manifest:
    """A manifest's bytes as they were pushed, with the type and digest that they are known by.

    ``media_type`` is empty where a client that pushes does not say. ``warning``: as a descriptor's.
    """

    media_type: str
    digest: Digest
    content: bytes = attrs.field(repr=False)
    warning: str | None = attrs.field(default=None, eq=False, kw_only=True)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.content), warning=self.warning)


@attrs.frozen
class Document:
    """What a manifest's JSON says of other content.

    ``blobs`` are an image's config and layers, ``manifests`` an index's children. A manifest of a type that is not
    known here has neither: ``mentioned`` then holds every digest that stands in it.
    """

    media_type: str
    artifact_type: str | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    subject: Descriptor | None = None
    blobs: Sequence[Part] = ()
    manifests: Sequence[Part] = ()
    mentioned: Sequence[Digest] = ()


def is_media_type(text: str) -> bool:
    """Whether a text is a media type without parameters. Source: RFC 6838, section 4.2."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def told_media_type(content: bytes) -> tuple[str, bool]:
    """The type that a manifest's own bytes tell, and whether they name it.

    A manifest without ``mediaType`` is schema 1 if it says so, an index if it has ``manifests``, else an image.
    Source: Distribution, registry/storage/manifeststore.go, Get.
    """
    try:
        with _parsed(content) as document:
            return _told(document)
    except ManifestInvalid:
        return OCTET_STREAM, False


def read_document(manifest: Manifest) -> Document:
    """What a manifest says of other content, judged by its type.

    Errors:
        ManifestInvalid: the bytes are not the JSON that the type asks for.
    """
    with _parsed(manifest.content) as document:
        named = document.get("mediaType")
        if named and named != manifest.media_type:
            raise ManifestInvalid(f"mediaType {named!r} differs from the content type {manifest.media_type!r}")
        reader = _READERS.get(manifest.media_type, _read_unknown)
        try:
            return reader(manifest.media_type, document)
        except DigestInvalid as error:
            raise ManifestInvalid(f"a descriptor's digest is invalid or unsupported: {error.detail}") from error


def read_stored(content: bytes, pushed_as: Callable[[], str | None]) -> Document:
    """What a stored manifest says of other content; where it is not what its type asks for, every digest counts.

    ``pushed_as`` tells the type that it was pushed with, and is asked where the bytes do not name one.

    Errors:
        ManifestInvalid: the bytes are not a JSON object.
    """
    with _parsed(content) as document:
        told, named = _told(document)
        media_type = told if named else pushed_as() or told
        try:
            return _READERS.get(media_type, _read_unknown)(media_type, document)
        except (ManifestInvalid, DigestInvalid):
            mentioned = tuple(dict.fromkeys(_mentioned(document)))
            return Document(media_type, subject=_loose_subject(document), mentioned=mentioned)


def usual_media_type(text: str) -> str:
    """A media type, in lower case if it is that of a kind of manifest that is known here.

    Source: RFC 9110, section 8.3.1: case does not matter.
    """
    return text.lower() if text.lower() in _READERS else text


def refuse_ambiguity(content: bytes, media_type: str) -> None:
    """Refuse to be pushed what clients read in different ways, or what costs more to read than any manifest.

    ``media_type`` is what it is pushed as; empty where the client does not say.

    Errors:
        ManifestInvalid: it is not JSON in UTF-8, the only one that Go's clients read; a key stands twice, or in a type
            that is known here differs from a known one in its case, which they do not see; or there are more values
            than a manifest has.
    """
    if _has_many_values(content) and _has_many_values(_STRING.sub(b"", content)):
        raise ManifestInvalid(f"manifest has more than {MOST_VALUES} values")
    with _one_large if len(content) > LARGE else nullcontext():
        try:
            document = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            raise ManifestInvalid(f"manifest is not JSON: {error}") from error
        known = not media_type or media_type in _READERS
        for key in document if isinstance(document, dict) and known else ():
            if key not in _KEYS and key.lower() in _LOWER_KEYS:
                raise ManifestInvalid(f"{key!r} differs from a known key in its case alone")


def _has_many_values(content: bytes) -> bool:
    return content.count(b",") + content.count(b"[") + content.count(b"{") > MOST_VALUES


@contextmanager
def _parsed(content: bytes) -> Iterator[Mapping[str, Any]]:
    """The JSON object that a manifest is. NaN and the like, which Python would take, are no JSON."""
    with _one_large if len(content) > LARGE else nullcontext():
        try:
            document = json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestInvalid(f"manifest is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ManifestInvalid("manifest is not a JSON object")
        yield document


def _told(document: Mapping[str, Any]) -> tuple[str, bool]:
    named = document.get("mediaType")
    if isinstance(named, str) and is_media_type(named):
        return named, True
    if document.get("schemaVersion") == 1:
        return (DOCKER_SCHEMA1_SIGNED if "signatures" in document else DOCKER_SCHEMA1), False
    return (OCI_INDEX if "manifests" in document else OCI_MANIFEST), False


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two of the same key one client reads the first, and another the last.
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("an object has a key twice")
    return read


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _read_image(media_type: str, document: Mapping[str, Any]) -> Document:
    _expect_schema_2(document)
    _refuse(document, "manifests", "an image")
    config = _descriptor(document, "config")
    if config is None:
        raise ManifestInvalid("an image has no config")
    return Document(
        media_type,
        artifact_type=_text(document, "artifactType") or config.media_type,
        annotations=_annotations(document),
        subject=_descriptor(document, "subject"),
        blobs=(Part(config), *_parts(document, "layers")),
    )


def _read_index(media_type: str, document: Mapping[str, Any]) -> Document:
    _expect_schema_2(document)
    _refuse(document, "config", "an index")
    _refuse(document, "layers", "an index")
    return Document(
        media_type,
        artifact_type=_text(document, "artifactType"),
        annotations=_annotations(document),
        subject=_descriptor(document, "subject"),
        manifests=tuple(_parts(document, "manifests")),
    )


def _read_artifact(media_type: str, document: Mapping[str, Any]) -> Document:
    return Document(
        media_type,
        artifact_type=_text(document, "artifactType"),
        annotations=_annotations(document),
        subject=_descriptor(document, "subject"),
        blobs=tuple(_parts(document, "blobs")),
    )


def _read_schema1(media_type: str, document: Mapping[str, Any]) -> Document:
    layers = [_text(layer, "blobSum") or "" for layer in _objects(document, "fsLayers")]
    return Document(media_type, mentioned=tuple(Digest.parse(layer) for layer in layers))


def _read_unknown(media_type: str, document: Mapping[str, Any]) -> Document:
    # What the specification calls so may be something else in a type of somebody else's.
    artifact_type, annotations = document.get("artifactType"), document.get("annotations")
    are_texts = isinstance(annotations, dict) and all(isinstance(value, str) for value in annotations.values())
    try:
        subject = _descriptor(document, "subject")
    except (ManifestInvalid, DigestInvalid):
        subject = _loose_subject(document)
    return Document(
        media_type,
        artifact_type=artifact_type if isinstance(artifact_type, str) and artifact_type else None,
        annotations=annotations if annotations is not None and are_texts else {},
        subject=subject,
        mentioned=tuple(dict.fromkeys(_mentioned(document))),
    )


_READERS: Final = {
    **dict.fromkeys(IMAGES, _read_image),
    **dict.fromkeys(INDEXES, _read_index),
    **dict.fromkeys(SCHEMA1, _read_schema1),
    OCI_ARTIFACT: _read_artifact,
}


def _expect_schema_2(document: Mapping[str, Any]) -> None:
    if document.get("schemaVersion") != 2:
        raise ManifestInvalid(f"schemaVersion is {document.get('schemaVersion')!r}, not 2")


def _refuse(document: Mapping[str, Any], key: str, what: str) -> None:
    # One document that reads as an image and as an index means different things to different clients (CVE-2021-41190).
    if key in document:
        raise ManifestInvalid(f"{what} must not have {key!r}")


def _text(document: Mapping[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ManifestInvalid(f"{key} is not a string")
    return value or None


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{key} is not an object")
    return value


def _annotations(document: Mapping[str, Any]) -> Mapping[str, str]:
    annotations = _mapping(document, "annotations")
    if not all(isinstance(value, str) for value in annotations.values()):
        raise ManifestInvalid("annotations are not all strings")
    return annotations


def _objects(document: Mapping[str, Any], key: str) -> Sequence[dict[str, Any]]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ManifestInvalid(f"{key} is not a list of objects")
    return value


def _descriptor(document: Mapping[str, Any], key: str) -> Descriptor | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{key} is not a descriptor")
    return _read_descriptor(value)


def _loose_subject(document: Mapping[str, Any]) -> Descriptor | None:
    """The subject that a manifest names by a digest, whatever else is wrong with it."""
    subject = document.get("subject")
    digest = subject.get("digest") if isinstance(subject, dict) else None
    try:
        return Descriptor("", Digest.parse(digest), 0) if isinstance(digest, str) else None
    except DigestInvalid:
        return None


def _read_descriptor(value: Mapping[str, Any]) -> Descriptor:
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestInvalid("a descriptor has no valid size")
    return Descriptor(_text(value, "mediaType") or "", Digest.parse(_text(value, "digest") or ""), size)


def _parts(document: Mapping[str, Any], key: str) -> Iterator[Part]:
    for value in _objects(document, key):
        urls = value.get("urls") or ()
        if not isinstance(urls, list | tuple) or not all(isinstance(url, str) for url in urls):
            raise ManifestInvalid("urls is not a list of strings")
        yield Part(_read_descriptor(value), tuple(urls), _mapping(value, "platform"))


def _mentioned(value: object) -> Iterator[Digest]:
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            pending.extend(current.keys())
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)
        elif isinstance(current, str):
            yield from map(Digest.parse, _DIGEST_TEXT.findall(current))
