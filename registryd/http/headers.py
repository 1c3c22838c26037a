"""What requests say in headers and queries, read with suspicion."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
from twisted.web.http import Request

from registryd.errors import PaginationNumberInvalid, RangeInvalid

MAX_RANGES = 1024
"""Ranges of one request that are honoured: the most that containers/storage asks for in a partial pull."""

_RANGE = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII)
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]+|\*))?", re.ASCII)
_ENTITY_TAG = re.compile(r'(?:W/)?"[^"]*"|[^,\s]+')
_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_LARGEST = 10**18


@attrs.frozen
class Span:
    """A range of bytes: from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> bytes:
        """The Content-Range of an answer with this part of ``size`` bytes."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, size)


def header(request: Request, name: bytes) -> str | None:
    """The first value of a header."""
    values = request.requestHeaders.getRawHeaders(name)
    return values[0].decode("latin-1") if values else None


def query(request: Request, key: bytes) -> str | None:
    """The first value of a query's key."""
    values = request.args.get(key)
    return values[0].decode("utf-8", "replace") if values else None


def queries(request: Request, key: bytes) -> Sequence[str]:
    """Every value of a query's key."""
    return [value.decode("utf-8", "replace") for value in request.args.get(key, ())]


def number(request: Request, key: bytes) -> int | None:
    """The number that a query's key has, such as that of the results to be shown, or None where it has none.

    One that is larger than any number of anything is 10 to the 18th.

    Errors:
        PaginationNumberInvalid: what it says is no number.
    """
    text = query(request, key)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise PaginationNumberInvalid(detail={key.decode("ascii"): text[:64]})
    digits = text.lstrip("0") or "0"
    return min(int(digits), _LARGEST) if len(digits) <= len(str(_LARGEST)) else _LARGEST


def content_range(request: Request) -> Span | None:
    """The range of an upload that a chunk says it is.

    Errors:
        RangeInvalid: it cannot be read, or ends before it starts.
    """
    text = header(request, b"content-range")
    if text is None:
        return None
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        raise RangeInvalid(detail={"Content-Range": text[:64]})
    span = Span(int(match[1]), int(match[2]) + 1)
    # An empty chunk at the start has no range that is inclusive on both ends.
    if span.size < 0:
        raise RangeInvalid(detail={"Content-Range": text[:64]})
    return span


def ranges(request: Request, size: int, etag: str) -> Sequence[Span] | None:
    """The parts of ``size`` bytes that a request wants, or None where it wants, or must be given, all of them.

    Source: RFC 9110, sections 13.1.5 and 14.

    Errors:
        RangeInvalid: none of what it asks for is there.
    """
    text = header(request, b"range")
    if text is None or not text.lower().startswith("bytes="):
        return None
    condition = header(request, b"if-range")
    if condition is not None and condition != etag:
        return None
    asked = text[len("bytes=") :].split(",")
    if len(asked) > MAX_RANGES:
        return None
    spans = [span for span in (_span(part, size) for part in asked) if span is not None]
    if not spans:
        raise RangeInvalid("the requested range is not satisfiable", detail={"Range": text[:256]})
    # More than everything, in overlapping parts, serves nobody but an attacker.
    return spans if sum(span.size for span in spans) <= size else None


def asks_for_part(request: Request) -> bool:
    """Whether a request may want a part that is not there: any but one whose ranges begin at the first byte."""
    text = header(request, b"range")
    if text is None or not text.lower().startswith("bytes="):
        return False
    return not all(part.strip().startswith("0-") for part in text[len("bytes=") :].split(","))


def _span(text: str, size: int) -> Span | None:
    match = _RANGE.fullmatch(text)
    if match is None or len(text) > 64:
        return None
    first, last = match.groups()
    if first:
        start = int(first)
        stop = min(int(last) + 1, size) if last else size
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    return Span(start, stop) if start < stop else None


def is_known(request: Request, etag: str) -> bool:
    """Whether the client says by If-None-Match that it has the content; Docker's sends digests without quotes."""
    known = _entity_tags(request, b"if-none-match")
    return known == ["*"] or any(part.removeprefix("W/").strip('"') == etag.strip('"') for part in known)


def is_conditional(request: Request) -> bool:
    """Whether a request is to be done only if what it names is, or is not, what the client says."""
    return any(request.requestHeaders.hasHeader(name) for name in (b"if-match", b"if-none-match"))


def may_change(request: Request, etag: str | None) -> bool:
    """Whether a conditional request may change what has an entity tag; None is that of what is not there.

    Source: RFC 9110, sections 13.1.1 and 13.1.2.
    """
    if etag is None:
        return not request.requestHeaders.hasHeader(b"if-match")
    wanted = _entity_tags(request, b"if-match")
    is_wanted = wanted == ["*"] or any(part.strip('"') == etag.strip('"') for part in wanted)
    return (is_wanted or not request.requestHeaders.hasHeader(b"if-match")) and not is_known(request, etag)


def _entity_tags(request: Request, name: bytes) -> Sequence[str]:
    """The entity tags of a header, in all its lines; in quotes they may hold commas."""
    values = request.requestHeaders.getRawHeaders(name)
    return _ENTITY_TAG.findall(", ".join(value.decode("latin-1") for value in values)) if values else []


def _listed(request: Request, name: bytes) -> Sequence[str]:
    """What a header lists, in all its lines."""
    values = request.requestHeaders.getRawHeaders(name) or ()
    return [part.strip() for value in values for part in value.decode("latin-1").split(",")]


def accepts(request: Request) -> frozenset[str]:
    """The media types that a request accepts, without their parameters."""
    return frozenset(part.partition(";")[0].strip().lower() for part in _listed(request, b"accept"))
