"""The access log: a line for each answer, in Apache's combined format, written by a thread of its own.

Whoever reads the log may stop reading, and the disk that it goes to may be full: no request waits for either, nor does
the end of the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request

from registryd.http.streaming import shown_peer

_log = Logger()

DELAY = 0.1
"""Seconds that lines are gathered before they are written together."""

MOST_LINES = 20_000
"""Lines that wait for a slow reader of the log; what comes beyond is counted, and dropped."""

LAST_WRITE = 1.0
"""Seconds that the end of the process waits for the last lines."""


class AccessLog:
    """Writes the access log of some sites. ``write`` takes text; it may block, and raise OSError."""

    def __init__(self, write: Callable[[str], None], clock: IReactorTime) -> None:
        self._write = write
        self._clock = clock
        self._lines: list[str] = []
        self._written: SimpleQueue[bool] = SimpleQueue()
        self._to_write: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._is_due = False
        self._is_writing = False
        self._dropped = 0
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

    def close(self) -> None:
        """Write what waits, if that is soon done: for the end of the process."""
        self._hand_over()
        self._to_write.put(None)
        if self._thread is not None:
            self._thread.join(LAST_WRITE)

    def _flush(self) -> None:
        self._is_due = False
        if self._is_writing and self._written.empty():
            self._is_due = True
            self._clock.callLater(DELAY, self._flush)
            return
        if self._is_writing and not self._written.get():
            _log.warn("lines of the access log could not be written")
        if self._dropped:
            _log.warn("the access log is not read: {count} lines were dropped", count=self._dropped)
            self._dropped = 0
        self._hand_over()

    def _hand_over(self) -> None:
        # The thread starts with the first lines: one that was there before a daemon left its parent would be gone.
        if self._thread is None:
            self._thread = Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        lines, self._lines = self._lines, []
        self._is_writing = True
        self._to_write.put("".join(lines))

    def _run(self) -> None:
        while (text := self._to_write.get()) is not None:
            try:
                self._write(text)
                self._written.put(True)
            except OSError:
                self._written.put(False)

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
