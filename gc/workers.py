"""Parts of a run that go on at the same time: half of it is waiting for the disk, the rest can use every processor.

They are processes: threads that take turns at short calls of the system spend more time on the turns than on the calls.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from mmap import mmap
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import attrs

from registryd_gc.report import Listener, Silence

_T = TypeVar("_T")
_R = TypeVar("_R")

# Workers begin with all that the run knows, which need not be sent to them.
_FORK = multiprocessing.get_context("fork")

_AHEAD = 64
"""How many results are held for one that comes before them."""

_LINES = 100
"""How many lines are sent at once."""

_PATIENCE = 10.0
"""Seconds for which a worker may go on with what nobody waits for any more."""


class Stopped(Exception):
    """The run has failed elsewhere, was interrupted or killed: nothing more is to be removed."""


class WorkerError(Exception):
    """A worker was killed."""


@attrs.frozen
class Workers:
    """So many processes; a single one is the caller's own."""

    number: int
    _owner: int = attrs.field(factory=os.getpid, init=False)
    _stop: mmap = attrs.field(factory=lambda: mmap(-1, 1), init=False)

    def stopped(self) -> bool:
        """Whether nothing more is to be removed: the run has failed, or whoever began it is no more."""
        return self._stop[0] != 0 or self._owner not in (os.getpid(), os.getppid())

    @contextmanager
    def each(
        self, work: Callable[[_T, Listener], _R], items: Iterable[_T], listener: Listener
    ) -> Iterator[Iterator[_R]]:
        """What the work on each item gives, in their order; on leaving all workers have ended.

        What changes in memory there is not seen here: a result must tell all of it.

        Errors:
            WorkerError: a worker was killed.
            What the work raises.
        """
        if self.number == 1:
            yield (work(item, listener) for item in items)
            return
        crew: list[_Worker] = []
        try:
            yield _Course(self.number, work, items, listener, crew).results()
        except BaseException as error:
            self._stop[0] = 1
            if isinstance(error, (EOFError, ConnectionError)):
                raise WorkerError("a process of this run was killed") from None
            raise
        finally:
            for worker in crew:
                worker.connection.close()
            for worker in crew:
                worker.end()


@attrs.define
class _Course(Generic[_T, _R]):
    """The way of items to a crew, and of results back."""

    number: int
    work: Callable[[_T, Listener], _R]
    items: Iterable[_T]
    listener: Listener
    crew: list[_Worker]
    _idle: list[Connection] = attrs.field(factory=list, init=False)
    _busy: dict[Connection, int] = attrs.field(factory=dict, init=False)
    _done: dict[int, _R] = attrs.field(factory=dict, init=False)

    def results(self) -> Iterator[_R]:
        pending = zip(count(), self.items, strict=False)
        told = 0
        while self._give(pending) or self._done:
            if told in self._done:
                yield self._done.pop(told)
                told += 1
            else:
                self._hear()

    def _give(self, pending: Iterator[tuple[int, _T]]) -> bool:
        """Let nobody be idle while there is work; whether anybody works."""
        while len(self._busy) < self.number and len(self._done) < _AHEAD and (given := next(pending, None)) is not None:
            connection = self._idle.pop() if self._idle else self._begin()
            self._busy[connection] = given[0]
            connection.send(given[1])
        return bool(self._busy)

    def _begin(self) -> Connection:
        """Begin a worker; it has nothing of what leads to others, so that each sees when the run is no more."""
        own, its = _FORK.Pipe()
        foreign = [own, *(worker.connection for worker in self.crew)]
        process = _FORK.Process(target=_serve, args=(its, foreign, self.work), daemon=True)
        # Who interrupts all processes means the run, which tells its workers: with them both stay blocked.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        its.close()
        self.crew.append(_Worker(process, own))
        return own

    def _hear(self) -> None:
        """Wait until somebody tells something."""
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            message = connection.recv()
            if isinstance(message, _Failure):
                raise message.error
            if isinstance(message, _Lines):
                message.tell(self.listener)
            else:
                self._done[self._busy.pop(connection)] = message.value
                self._idle.append(connection)


@attrs.frozen
class _Worker:
    process: Any
    connection: Connection

    def end(self) -> None:
        self.process.join(_PATIENCE)
        # It reads: what it had set aside would have stopped it.
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, foreign: list[Connection], work: Callable[[Any, Listener], object]) -> None:
    """Do the work of each item that is sent, until there is nobody who sends."""
    for other in foreign:
        other.close()
    listener = _Told(connection)
    try:
        while True:
            item = connection.recv()
            message = _outcome(work, item, listener)
            listener.flush()
            connection.send(message)
    except (EOFError, ConnectionError):
        pass


def _outcome(work: Callable[[Any, Listener], object], item: object, listener: Listener) -> _Result | _Failure:
    try:
        return _Result(work(item, listener))
    except Exception as error:  # noqa: BLE001 (it is the run's, which fails by it)
        return _Failure(error)


@attrs.frozen
class _Result:
    value: Any


@attrs.frozen
class _Failure:
    error: Exception


@attrs.frozen
class _Lines:
    """What a listener in another process has heard: the kind of each line, and the line."""

    heard: list[tuple[str, str]]

    def tell(self, listener: Listener) -> None:
        for kind, line in self.heard:
            getattr(listener, kind)(line)


@attrs.define
class _Told(Silence):
    """A listener who sends on what it hears."""

    connection: Connection
    _heard: list[tuple[str, str]] = attrs.field(factory=list, init=False)

    def removed(self, what: str) -> None:
        self._hear("removed", what)

    def explained(self, what: str) -> None:
        self._hear("explained", what)

    def noted(self, what: str) -> None:
        self._hear("noted", what)

    def _hear(self, kind: str, line: str) -> None:
        self._heard.append((kind, line))
        if len(self._heard) >= _LINES:
            self.flush()

    def flush(self) -> None:
        """Send what is left."""
        if self._heard:
            self.connection.send(_Lines(self._heard))
            self._heard = []
