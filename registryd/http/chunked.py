"""The chunked transfer coding of request bodies, without a copy where a chunk fills what was read.

Twisted's decoder moves each byte four times, which costs more than to hash and to store it.
Source: RFC 9112, section 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LINE_LIMIT = 1024
"""Bytes of a chunk's size with its extensions, and of a trailer's line."""

TRAILER_LIMIT = 64 * 1024

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")

# Nearly all that stands between the data of two chunks; all else is taken a line at a time.
_FOLLOWING = re.compile(rb"\r\n([1-9A-Fa-f][0-9A-Fa-f]{0,15})\r\n")

_TRAILER_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class MalformedChunkError(Exception):
    """What came is not the chunked coding."""


class ChunkedDecoder:
    """Takes what comes from a peer; gives views of the data to one callable, and what follows the body to another."""

    def __init__(self, data: Callable[[memoryview], None], finish: Callable[[bytes], None]) -> None:
        self._data = data
        self._finish = finish
        self._rest = b""
        self._left = 0
        self._in_chunk = False
        self._trailer: int | None = None

    def dataReceived(self, data: bytes) -> None:
        """Decode more of the body.

        Errors:
            MalformedChunkError: it is not the chunked coding; no more may follow.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        position = 0
        view = memoryview(data)
        while position < len(data):
            if self._left:
                piece = view[position : position + self._left]
                self._left -= len(piece)
                position += len(piece)
                self._data(piece)
                following = _FOLLOWING.match(data, position)
                if following is not None:
                    self._left, position = int(following[1], 16), following.end()
                continue
            end = data.find(b"\r\n", position, position + LINE_LIMIT)
            if end < 0:
                if len(data) - position >= LINE_LIMIT:
                    raise MalformedChunkError("a line is too long")
                self._rest = data[position:]
                return
            line, position = data[position:end], end + 2
            if self._is_last(line):
                self._finish(data[position:])
                return

    def _is_last(self, line: bytes) -> bool:
        """Take a line that is no data; whether it is the empty one at the end of the trailer."""
        if self._trailer is not None:
            self._trailer += len(line) + 2
            if self._trailer > TRAILER_LIMIT:
                raise MalformedChunkError("the trailer is too long")
            if line and _TRAILER_FIELD.fullmatch(line) is None:
                # A lenient proxy may have taken this line for the end, and what follows for another request.
                raise MalformedChunkError("a trailer has a line that is no field")
            return not line
        if self._in_chunk:
            if line:
                raise MalformedChunkError("a chunk is longer than its size")
            self._in_chunk = False
            return False
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise MalformedChunkError("a chunk has no size")
        self._left = int(match[1], 16)
        if self._left:
            self._in_chunk = True
        else:
            self._trailer = 0
        return False
