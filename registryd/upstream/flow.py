"""Whether bodies come from one URL of an upstream: one that answers, and then sends nothing, costs its clients most."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from registryd.upstream.availability import Availability

PROOF = 1 << 20
"""Bytes of a blob that prove that bodies come, before its end, and however many came of those that stalled."""


class Flow:
    """Leaves a URL alone whose bodies stall.

    The heads of answers say nothing of that: who stalls has sent a head each time. Nor does one stall, which may be of
    its item alone: it takes three in a row, as many as one fetch makes before it gives up, with no other blob that
    comes between them, whole and with more than they brought, or a good part. So one slow blob costs an upstream
    nothing while any other comes, and else two seconds; then the first who asks for a blob shows whether they come.
    Manifests prove nothing: they may come from another store.
    """

    def __init__(self, origin: str, clock: IReactorTime) -> None:
        self._origin = origin
        self._availability = Availability(origin, clock)
        self._reached = 0

    @property
    def is_failing(self) -> bool:
        """Whether the URL is left alone, but for a probe."""
        return self._availability.failing

    def check(self) -> None:
        """Hear whether the URL may be asked.

        Errors:
            UpstreamUnavailable: it is left alone.
        """
        self._availability.check()

    def of_blob(self) -> Course:
        """How the body of a blob goes that is about to be asked for; it is the probe where one is due.

        Errors:
            UpstreamUnavailable: the URL is left alone.
        """
        return Course(self, self._availability.admit(), True)

    def of_another(self) -> Course:
        """How the body of anything else goes, whose head has come."""
        return Course(self, self._availability.period, False)

    def came(self, size: int) -> None:
        """Hear that a blob has brought so many bytes, some of them just now."""
        if size >= PROOF and not self._availability.idle:
            self._reached = 0
            self._availability.worked()

    def stalled(self, ticket: int, size: int, seconds: float) -> None:
        """Hear that a body of so many bytes brought nothing for a time."""
        self._reached = max(self._reached, min(size, PROOF))
        reason = f"{self._origin} sent next to nothing for {seconds:g} s in the middle of an answer"
        self._availability.failed(ticket, reason, certain=False)

    def ended(self, ticket: int, size: int | None) -> None:
        """Hear that a blob has ended, and of how many bytes where that was its right end."""
        if size is not None and size > self._reached:
            self._reached = 0
            self._availability.worked()
        elif size is not None:
            self._availability.relent(ticket)
        self._availability.undecided(ticket)


class Course:
    """How one body goes; what is said after its end does not count."""

    def __init__(self, flow: Flow, ticket: int, decides: bool) -> None:
        self._flow = flow
        self._ticket = ticket
        self._decides = decides
        self._over = False

    def came(self, size: int) -> None:
        """Hear that bytes came, and how many there are of the body now."""
        if self._decides:
            self._flow.came(size)

    def stalled(self, size: int, seconds: float) -> None:
        """Hear that nothing came for a time."""
        self._flow.stalled(self._ticket, size, seconds)

    def ended(self, size: int | None = None) -> None:
        """Hear that it is over; of how many bytes where all came. Saying so twice is allowed."""
        if self._decides and not self._over:
            self._flow.ended(self._ticket, size)
        self._over = True
