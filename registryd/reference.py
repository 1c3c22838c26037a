"""Repository names, tags and digests: their grammar, and the checks that every text from outside passes.

Source: OCI distribution specification, "Pulling manifests"; OCI image specification, "Digests"; Distribution's
reference grammar for the length of a name.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType, Protocol

import attrs

from registryd.errors import DigestInvalid, NameInvalid, TagInvalid

RepositoryName = NewType("RepositoryName", str)
Tag = NewType("Tag", str)

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_NAME_LENGTH = 255
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"(sha256):([a-f0-9]{64})|(sha512):([a-f0-9]{128})", re.ASCII)


class Hash(Protocol):
    """The part of hashlib's objects that digests need."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


ALGORITHMS = ("sha256", "sha512")
"""The digest algorithms that blobs and manifests are stored under; the first is the default."""


@attrs.frozen(order=True)
class Digest:
    """The identity of content: ``<algorithm>:<hex>``, of a registered algorithm, in lower case."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that a text is, whole.

        Errors:
            DigestInvalid: the text is no digest, or of an algorithm that is not supported.
        """
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise DigestInvalid("invalid or unsupported digest", detail=text[:256])
        algorithm, hexadecimal, other_algorithm, other_hexadecimal = match.groups()
        if algorithm is not None:
            return cls(algorithm, hexadecimal)
        return cls(other_algorithm, other_hexadecimal)

    @classmethod
    def of(cls, content: bytes, algorithm: str = ALGORITHMS[0]) -> Digest:
        """The digest of content that is at hand."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def may_be_of(self, size: int) -> bool:
        """Whether content of a size can have this digest: what is empty has one of its own."""
        return size > 0 or self == Digest.of(b"", self.algorithm)

    @property
    def referrers_tag(self) -> Tag:
        """The tag under which clients keep the referrers of this digest where a registry has no referrers API.

        Source: OCI distribution specification, "Referrers Tag Schema".
        """
        return Tag(f"{self.algorithm}-{self.hex[:64]}")


Reference = Tag | Digest
"""What names a manifest within its repository."""


def new_hash(algorithm: str) -> Hash:
    """An empty hash of a digest algorithm.

    Errors:
        DigestInvalid: the algorithm is not supported.
    """
    if algorithm not in ALGORITHMS:
        raise DigestInvalid("unsupported digest algorithm", detail=algorithm[:256])
    return hashlib.new(algorithm)


def is_name(text: str) -> bool:
    """Whether a text is a repository name."""
    return len(text) <= _NAME_LENGTH and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether a text is a tag."""
    return _TAG.fullmatch(text) is not None


def parse_name(text: str) -> RepositoryName:
    """The repository name that a text is.

    Errors:
        NameInvalid: it does not follow the grammar, or is longer than 255 characters.
    """
    if not is_name(text):
        raise NameInvalid(detail={"name": text[:_NAME_LENGTH]})
    return RepositoryName(text)


def parse_tag(text: str) -> Tag:
    """The tag that a text is.

    Errors:
        TagInvalid: it does not follow the grammar of tags.
    """
    if not is_tag(text):
        raise TagInvalid("invalid tag", detail={"tag": text[:256]})
    return Tag(text)


def parse_reference(text: str) -> Reference:
    """The tag or digest that a text is; what has a colon can only be a digest.

    Errors:
        DigestInvalid: it has a colon and is no supported digest.
        TagInvalid: it is no tag.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)


_ATTACHMENTS = ("", ".sig", ".att", ".sbom")


def attached_tags(subject: Digest) -> list[Tag]:
    """The tags under which clients keep what belongs to a manifest, where they do not use ``subject``.

    Source: OCI distribution specification, "Referrers Tag Schema"; cosign's names of signatures, attestations, SBOMs.
    """
    return [Tag(subject.referrers_tag + attachment) for attachment in _ATTACHMENTS]
