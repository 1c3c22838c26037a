"""Headers of answers as text, whatever bytes they are of."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.web.http_headers import Headers

from registryd.errors import DigestInvalid
from registryd.model import OCTET_STREAM
from registryd.reference import Digest

_TELL_NOTHING = frozenset({"", OCTET_STREAM, "application/json", "text/plain"})


def every(headers: Headers, name: bytes) -> Sequence[str]:
    """All values of a header."""
    return [value.decode("latin-1") for value in headers.getRawHeaders(name) or ()]


def first(headers: Headers, name: bytes) -> str:
    """The first value of a header, without space around it; empty where there is none."""
    return next(iter(every(headers, name)), "").strip()


def media_type(headers: Headers) -> str:
    """The media type of a manifest without parameters; empty where the answer does not tell one."""
    told = first(headers, b"Content-Type").partition(";")[0].strip()
    return "" if told.lower() in _TELL_NOTHING else told


def told_digest(headers: Headers) -> Digest | None:
    """The digest that an answer says its content has."""
    try:
        return Digest.parse(first(headers, b"Docker-Content-Digest"))
    except DigestInvalid:
        return None


def told_length(headers: Headers) -> int | None:
    """The length that the answer to a HEAD tells; Twisted takes it out of all other answers."""
    text = first(headers, b"Content-Length")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
