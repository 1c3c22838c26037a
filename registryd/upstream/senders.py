"""Which URL of an upstream is asked for a blob first: the one that has failed it least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

import attrs
from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from registryd.reference import Digest

REMEMBERED: Final = 1024
"""Blobs that somebody failed, at most."""

SECONDS: Final = 3600.0
"""For how long that is remembered, after the last time."""


@attrs.define
class _Failures:
    """How often each has failed a blob, and who alone has sent all of another."""

    times: Counter[int] = attrs.field(factory=Counter)
    wrong: set[int] = attrs.field(factory=set)


class Senders:
    """Remembers who failed which blobs; a sender is the number of a URL, from 0 on."""

    def __init__(self, number: int, clock: IReactorTime) -> None:
        self._all = range(number)
        self._failed: TTLCache[Digest, _Failures] = TTLCache(REMEMBERED, SECONDS, clock.seconds)

    def in_order(self, digest: Digest) -> Sequence[int]:
        """Whom to ask for a blob, one after the other: as they are configured, but later who failed it more."""
        failed = self._failed.get(digest)
        if failed is None:
            return self._all
        return sorted(self._all, key=lambda sender: (sender in failed.wrong, failed.times[sender]))

    def failed(self, digest: Digest, sender: int) -> None:
        """Hear that one had more of a blob to send, and did not."""
        self._note(digest).times[sender] += 1

    def were_wrong(self, digest: Digest, senders: Collection[int | None]) -> None:
        """Hear that what some sent together is not the blob; None stands for what is not known who sent it."""
        failed = self._note(digest)
        known = {sender for sender in senders if sender is not None}
        failed.times.update(known)
        if len(senders) == 1:
            failed.wrong |= known

    def _note(self, digest: Digest) -> _Failures:
        failed = self._failed[digest] = self._failed.get(digest) or _Failures()
        return failed
