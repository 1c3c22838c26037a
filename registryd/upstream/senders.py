"""Which URL of an upstream is asked for a blob first: the one that has failed it least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import attrs
from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from registryd.reference import Digest

_U = TypeVar("_U")

REMEMBERED: Final = 1024
"""Blobs of which is known who sent them."""

SECONDS: Final = 3600.0
"""For how long, since somebody last began to send a blob."""


@attrs.define
class _Sent(Generic[_U]):
    """Who has sent of a blob since it was last found wrong, in their order, and how often each has failed it."""

    by: list[_U] = attrs.field(factory=list)
    failures: Counter[_U] = attrs.field(factory=Counter)


class Senders(Generic[_U]):
    """Remembers who sent what of the blobs that came lately, where there are several who can."""

    def __init__(self, urls: Sequence[_U], clock: IReactorTime) -> None:
        self._urls = urls
        self._blobs: TTLCache[Digest, _Sent[_U]] = TTLCache(REMEMBERED, SECONDS, clock.seconds)

    def in_order(self, digest: Digest) -> Sequence[_U]:
        """Whom to ask for a blob, one after the other: as they are configured, but later who failed it more often."""
        sent = self._blobs.get(digest)
        return self._urls if sent is None else sorted(self._urls, key=lambda url: sent.failures[url])

    def begun(self, digest: Digest, url: _U) -> None:
        """Hear that one begins to send a blob, or the rest of it."""
        if len(self._urls) > 1:
            sent = self._blobs.get(digest, _Sent())
            sent.by = [*(other for other in sent.by if other != url), url]
            self._blobs[digest] = sent

    def broke_off(self, digest: Digest) -> None:
        """Hear that who sent last did not come to the end."""
        sent = self._blobs.get(digest)
        if sent is not None:
            sent.failures.update(sent.by[-1:])

    def was_wrong(self, digest: Digest) -> None:
        """Hear that the whole is not the blob: any of those who sent of it can be the one."""
        sent = self._blobs.get(digest)
        if sent is not None:
            sent.failures.update(sent.by)
            sent.by = []
