"""Work that many ask for at the same time, and that is done once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


class Once(Generic[_T]):
    """What is under way, by a key. Who asks meanwhile gets the same result; who leaves ends nothing."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[_T]]] = {}

    def do(self, key: Hashable, work: Callable[[], Coroutine[Deferred[Any], Any, _T]]) -> Deferred[_T]:
        """The result of a work, which is begun if it is not under way."""
        waiting = self._waiting.get(key)
        result: Deferred[_T] = Deferred()
        if waiting is not None:
            waiting.append(result)
            return result
        self._waiting[key] = [result]
        Deferred.fromCoroutine(work()).addBoth(self._done, key)
        return result

    def _done(self, outcome: _T | Failure, key: Hashable) -> None:
        for result in self._waiting.pop(key):
            if not result.called:
                result.callback(outcome)
