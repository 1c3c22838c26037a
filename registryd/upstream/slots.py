"""How many requests an upstream is asked at once: short ones always find a way beside the blobs."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred


class Slots:
    """At most ``most`` requests at once, each until its body has ended; in the order in which they came.

    Bodies of blobs take minutes, so that they leave a quarter of the slots, one at least, to requests that are short.
    With a single slot there is none to leave: a short request then waits for one body.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._free_for_bodies = most - max(1, most // 4) if most > 1 else most
        self._waiting: deque[tuple[Deferred[Slot], bool]] = deque()

    def take(self, body: bool = False) -> Deferred[Slot]:
        """Fires with a slot when there is one; ``body`` tells that it is for a blob. Cancel it to wait no more."""
        waiter: Deferred[Slot] = Deferred(self._forget)
        self._waiting.append((waiter, body))
        self._give()
        return waiter

    def release(self, body: bool) -> None:
        """Called by a slot, once."""
        self._free += 1
        self._free_for_bodies += body
        self._give()

    def _give(self) -> None:
        # Who waits for a body is passed by only when all bodies' slots are taken: nobody waits for ever.
        while self._free:
            chosen = next((entry for entry in self._waiting if not entry[1] or self._free_for_bodies), None)
            if chosen is None:
                return
            self._waiting.remove(chosen)
            waiter, body = chosen
            self._free -= 1
            self._free_for_bodies -= body
            waiter.callback(Slot(self, body))

    def _forget(self, waiter: Deferred[Slot]) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not waiter)


class Slot:
    """The right to one request, until it is released; releasing twice is allowed."""

    def __init__(self, slots: Slots, body: bool) -> None:
        self._slots: Slots | None = slots
        self._body = body

    def release(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release(self._body)
