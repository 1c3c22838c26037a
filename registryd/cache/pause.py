"""Waits that somebody else may end."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater


class Pause:
    """A wait that can be ended."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: Deferred[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Wait for so long, or until the wait is ended."""
        self._waiting = deferLater(self._clock, seconds)
        try:
            await self._waiting
        except CancelledError:
            pass
        finally:
            self._waiting = None

    def end(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
