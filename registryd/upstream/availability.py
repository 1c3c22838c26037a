"""What fails is left alone for a while: instead of a timeout, every request but a probe fails at once."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from registryd.errors import UpstreamUnavailable

_log = Logger()

FIRST_DELAY = 2.0
"""Seconds for which an origin is left alone when it begins to fail; doubled each time a probe fails."""

LONGEST_DELAY = 60.0

LONGEST_RETRY_AFTER = 900.0
"""Seconds of a Retry-After that are believed at most: then one probe asks again."""

DOUBTS = 3
"""Failures in a row that may be of one item, as a 500, before that is left alone; items before their origin is."""


@attrs.define
class Availability:
    """Whether one origin, or one item there, may be asked now.

    Who asks takes a ticket, and says how it went; what was asked before it was found to fail says nothing.
    """

    origin: str
    _clock: IReactorTime
    _period: int = 0
    _until: float | None = None
    _delay: float = 0.0
    _probing: bool = False
    _doubts: int = 0
    _doubted: set[str] = attrs.field(factory=set)
    _reason: str = ""
    _told: bool = False

    @property
    def failing(self) -> bool:
        """Whether only a probe may ask, if that."""
        return self._until is not None

    @property
    def period(self) -> int:
        """A ticket for what is under way already."""
        return self._period

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember."""
        return self._until is None and not self._doubts

    def admit(self) -> int:
        """A ticket for a request.

        Errors:
            UpstreamUnavailable: the origin is left alone.
        """
        self.check()
        self._probing = self._until is not None
        return self._period

    def check(self) -> int:
        """A ticket for a request whose success would prove nothing: it is no probe.

        Errors:
            UpstreamUnavailable: the origin is left alone.
        """
        if self._until is not None:
            left = self._until - self._clock.seconds()
            if left > 0 or self._probing:
                raise UpstreamUnavailable(self._reason, retry_after=max(left, 0.0) if self._told else None)
        return self._period

    def succeeded(self, ticket: int) -> None:
        """It answered."""
        if ticket != self._period:
            return
        if self._until is not None:
            _log.info("{origin} answers again", origin=self.origin)
        self._until, self._delay, self._probing, self._doubts = None, 0.0, False, 0
        self._doubted.clear()

    def worked(self) -> None:
        """It works as it is looked at, whenever that was asked for."""
        self.succeeded(self._period)

    def relent(self, ticket: int) -> None:
        """Let everybody ask again, after a probe that did not fail and proves little: the next failure is certain."""
        if ticket == self._period and self._until is not None:
            self._until, self._probing, self._doubts = None, False, DOUBTS - 1

    def failed(
        self,
        ticket: int,
        reason: str,
        retry_after: float | None = None,
        certain: bool = True,
        item: str | None = None,
    ) -> None:
        """It did not answer, or wants to be left alone for ``retry_after`` seconds.

        Not ``certain``: it may be the ``item`` that fails, however often, where that is told.
        """
        if ticket != self._period:
            return
        self._doubts += item is None or item not in self._doubted
        if item is not None:
            self._doubted.add(item)
        if self._until is None and not certain and self._doubts < DOUBTS:
            return
        self._delay = min(self._delay * 2, LONGEST_DELAY) or FIRST_DELAY
        wait = self._delay if retry_after is None else min(max(retry_after, 1.0), LONGEST_RETRY_AFTER)
        if self._until is None:
            _log.warn("{reason}; it is left alone for {wait:.0f} s", reason=reason, wait=wait)
        self._until = self._clock.seconds() + wait
        self._reason, self._told = reason, retry_after is not None
        self._period += 1
        self._probing = False

    def undecided(self, ticket: int) -> None:
        """Whoever asked went away before it was known how it goes."""
        if ticket == self._period:
            self._probing = False


class Availabilities:
    """Availability by origin, or by item: those that fail are remembered, and few of them at any time."""

    def __init__(self, clock: IReactorTime, most: int = 64) -> None:
        self._clock = clock
        self._most = most
        self._by_origin: dict[str, Availability] = {}

    def of(self, origin: str) -> Availability:
        """The availability of one, which is kept as long as there is anything to remember."""
        known = self._by_origin.get(origin)
        if known is None:
            if len(self._by_origin) >= self._most:
                self._forget()
            known = self._by_origin[origin] = Availability(origin, self._clock)
        return known

    def _forget(self) -> None:
        kept = {origin: known for origin, known in self._by_origin.items() if not known.idle}
        while len(kept) >= self._most:
            del kept[next(iter(kept))]
        self._by_origin = kept
