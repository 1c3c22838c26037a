"""Work that several want at the same time is done once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """Runs at most one piece of work per key at a time. Who waits for it may leave; the work goes on for the others."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Deferred[_T]]] = {}

    def result(self, key: str, work: Callable[[], Coroutine[Deferred[Any], Any, _T]]) -> Deferred[_T]:
        """What the work for a key comes to, begun unless it is under way."""
        waiter: Deferred[_T] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(waiter)
        else:
            self._waiting[key] = [waiter]
            Deferred.fromCoroutine(work()).addBoth(self._tell, key)
        return waiter

    def _tell(self, result: _T | Failure, key: str) -> None:
        for waiter in self._waiting.pop(key):
            waiter.callback(result)
