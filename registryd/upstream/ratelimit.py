"""How much an upstream still gives: its rate-limit headers, logged when they say something new.

Source: Docker Hub's RateLimit-Limit, RateLimit-Remaining (``76;w=21600``) and docker-ratelimit-source.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from registryd.upstream.headers import first

_log = Logger()

_VALUE = re.compile(r"\s*(\d{1,12})(?:\s*;\s*w=(\d{1,12}))?", re.ASCII)
_STEP = 0.1
"""The part of the limit by which the rest has to change to be logged again."""


@attrs.frozen
class RateLimit:
    """What an upstream said last: requests in a ``window`` of seconds, those left, and whom it counts them for."""

    limit: int | None
    remaining: int
    window: int | None = None
    source: str | None = None

    @property
    def low(self) -> bool:
        """Whether less than a tenth is left."""
        return self.limit is not None and self.remaining < self.limit * _STEP


@attrs.define
class RateLimits:
    """The rate limit of an upstream as it changes; ``observe`` is told each."""

    name: str
    observe: Callable[[RateLimit], None] | None = None
    latest: RateLimit | None = None
    _logged: RateLimit | None = None

    def saw(self, headers: Headers) -> None:
        """Read an answer's headers."""
        remaining, window = _value(headers, b"RateLimit-Remaining")
        if remaining is None:
            return
        limit, limit_window = _value(headers, b"RateLimit-Limit")
        source = first(headers, b"Docker-RateLimit-Source") or None
        self.latest = RateLimit(limit, remaining, window or limit_window, source)
        if self._logged is None or _differs(self._logged, self.latest):
            self._logged = self.latest
            _log.info(
                "{upstream} leaves {remaining} of {limit} requests in {window} s to {source}",
                upstream=self.name,
                remaining=remaining,
                limit=limit if limit is not None else "?",
                window=self.latest.window or "?",
                source=source or "us",
            )
        if self.observe is not None:
            self.observe(self.latest)


def _differs(old: RateLimit, new: RateLimit) -> bool:
    if (old.limit, old.window, old.source, old.low) != (new.limit, new.window, new.source, new.low):
        return True
    return abs(old.remaining - new.remaining) >= max(1, _STEP * (new.limit or 100))


def _value(headers: Headers, name: bytes) -> tuple[int | None, int | None]:
    match = _VALUE.match(first(headers, name))
    if match is None:
        return None, None
    return int(match[1]), int(match[2]) if match[2] else None
