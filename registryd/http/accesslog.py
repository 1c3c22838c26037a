"""The access log: a line for each answer, in Apache's combined format, written in threads.

Whoever reads the log may stop reading, and the disk that it goes to may be full: no request waits for either.
"""

from __future__ import annotations

import time
from typing import Any, TextIO

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request

from registryd.http.streaming import shown_peer
from registryd.interfaces import InThread

_log = Logger()

DELAY = 0.1
"""Seconds that lines are gathered before they are written together."""

MOST_LINES = 20_000
"""Lines that wait for a slow reader of the log; what comes beyond is counted, and dropped."""


class AccessLog:
    """Writes the access log of some sites to a stream."""

    def __init__(self, stream: TextIO, clock: IReactorTime, in_thread: InThread) -> None:
        self._stream = stream
        self._clock = clock
        self._in_thread = in_thread
        self._lines: list[str] = []
        self._dropped = 0
        self._is_due = False
        self._second = 0
        self._shown_second = ""

    def add(self, request: Request) -> None:
        """Log the answer to a request."""
        if len(self._lines) >= MOST_LINES:
            self._dropped += 1
            return
        self._lines.append(
            f"{shown_peer(request.getClientAddress())} - - [{self._now()}]"
            f' "{_safe(request.method)} {_safe(request.uri)} {_safe(request.clientproto)}"'
            f" {request.code} {request.sentLength}"
            f' "{_header(request, b"referer")}" "{_header(request, b"user-agent")}"\n'
        )
        if not self._is_due:
            self._is_due = True
            self._clock.callLater(DELAY, self._flush)

    def flush(self) -> None:
        """Write what waits at once: for the end of the process."""
        lines, self._lines = self._lines, []
        self._write(lines)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._in_thread(self._write, lines).addCallback(self._written)

    def _written(self, _: None) -> None:
        self._is_due = bool(self._lines)
        if self._is_due:
            self._clock.callLater(DELAY, self._flush)
        if self._dropped:
            _log.warn("the access log is not read: {count} lines were dropped", count=self._dropped)
            self._dropped = 0

    def _write(self, lines: list[str]) -> None:
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except (OSError, ValueError):
            self._dropped += len(lines)

    def _now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._shown_second = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))
        return self._shown_second


def _header(request: Request, name: bytes) -> str:
    values: Any = request.requestHeaders.getRawHeaders(name)
    return _safe(values[0]) if values else "-"


def _safe(value: bytes) -> str:
    """Text that cannot end the line or the quotes that it stands in."""
    text = value.decode("ascii", "backslashreplace")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
