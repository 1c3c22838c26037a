"""The order in which threads get hold of folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Turnstile:
    """Lets whoever wants a folder alone go before those who come later to share it, in this process.

    Of themselves, those who share it pass those who wait for it, for ever where there always is one of them (flock(2)
    knows no order).
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: dict[str, set[object]] = {}

    @contextmanager
    def before_others(self, folder: str) -> Iterator[None]:
        """While the block gets hold of a folder alone, those who come later to share it wait."""
        ticket = object()
        with self._changed:
            self._waiting.setdefault(folder, set()).add(ticket)
        try:
            yield
        finally:
            with self._changed:
                waiting = self._waiting[folder]
                waiting.remove(ticket)
                if not waiting:
                    del self._waiting[folder]
                self._changed.notify_all()

    def wait_for_turn(self, folder: str) -> None:
        """Return when none of those who wait now to hold a folder alone waits any more."""
        with self._changed:
            first = frozenset(self._waiting.get(folder, ()))
            self._changed.wait_for(lambda: first.isdisjoint(self._waiting.get(folder, ())))
