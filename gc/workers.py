"""Parts of a run that go on at the same time: half of it is waiting for the disk, the rest can use every processor.

They are processes: threads that take turns at short calls of the system spend more time on the turns than on the calls.
They are not those of concurrent.futures: those outlive a parent that is killed, and would hold the store's lock; and
they can neither begin with what the run knows nor tell what they remove while they do.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from mmap import mmap
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

import attrs

from registryd_gc.report import Listener, Silence

_T = TypeVar("_T")
_R = TypeVar("_R")

# Workers begin with all that the run knows, which need not be sent to them.
_FORK = multiprocessing.get_context("fork")

_AHEAD = 500
"""How many results are held for one that comes before them."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_LINES = 100
"""How many lines are sent at once."""

_LARGE = 256 * 1024
"""From how many bytes of a result on the memory that it took to find is given back at once."""

_PATIENCE = 2.0
"""Seconds for which workers may go on with what nobody waits for any more; a daemon that stops waits no longer."""


class Stopped(Exception):
    """The run has failed elsewhere, or was interrupted: nothing more is to be removed."""


class WorkerError(Exception):
    """A worker was killed."""


@attrs.frozen
class Workers:
    """So many processes; a single one is the caller's own."""

    number: int
    _stop: mmap = attrs.field(factory=lambda: mmap(-1, 1), init=False)

    def stopped(self) -> bool:
        """Whether nothing more is to be removed: the run has failed, or was interrupted."""
        return self._stop[0] != 0

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
        except BaseException:
            self._stop[0] = 1
            raise
        finally:
            _dismiss(crew, listener)


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
            with _alive():
                connection.send(_Item(given[1]))
        return bool(self._busy)

    def _begin(self) -> Connection:
        """Begin a worker; it has nothing of what leads to others, so that each sees when the run is no more."""
        own, its = _FORK.Pipe()
        foreign = [own, *(worker.connection for worker in self.crew)]
        process = _FORK.Process(target=_serve, args=(os.getpid(), its, foreign, self.work), daemon=True)
        # A new process writes out what its parent has not yet, who may have to wait for a reader: not while it is deaf.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        # Who interrupts all processes means the run, which tells its workers: those stay deaf.
        with _deaf():
            process.start()
            self.crew.append(_Worker(process, own))
            its.close()
        return own

    def _hear(self) -> None:
        """Wait until somebody tells something."""
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            with _alive():
                message = connection.recv()
            if isinstance(message, _Failure):
                raise message.error
            if isinstance(message, _Lines):
                message.tell(self.listener)
            else:
                self._done[self._busy.pop(connection)] = message.value
                self._idle.append(connection)


@contextmanager
def _deaf() -> Iterator[None]:
    """Let an interruption wait for the end of a step."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def _alive() -> Iterator[None]:
    """Pass on one message, whole, or find that a process is no more, which what leads to it tells in many ways."""
    try:
        # A part of a message would be the beginning of the next for who still listens.
        with _deaf():
            yield
    except (EOFError, OSError):
        raise WorkerError("a process of this run was killed") from None


@attrs.frozen
class _Worker:
    process: Any
    connection: Connection


def _dismiss(crew: list[_Worker], listener: Listener) -> None:
    """End all workers, and hear what they have removed on the way; those that do not end soon are killed.

    Those only read: who was to remove something would have seen that it was to stop.
    """
    deadline = time.monotonic() + _PATIENCE
    try:
        talking = []
        for worker in crew:
            with suppress(OSError):
                worker.connection.send(None)
                talking.append(worker.connection)
        while talking and (left := deadline - time.monotonic()) > 0:
            for connection in wait(talking, left):
                assert isinstance(connection, Connection)
                if not _hear_last(connection, listener):
                    talking.remove(connection)
    finally:
        for worker in crew:
            worker.connection.close()
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()


def _hear_last(connection: Connection, listener: Listener) -> bool:
    """Hear what a worker tells that is to end; false where it has."""
    try:
        message = connection.recv()
    except (EOFError, OSError):
        return False
    if isinstance(message, _Lines):
        message.tell(listener)
    return True


def _serve(
    owner: int, connection: Connection, foreign: list[Connection], work: Callable[[Any, Listener], object]
) -> None:
    """Do the work of each item that is sent, until there is nobody who sends."""
    libc = ctypes.CDLL(None)
    # Not every C library has it.
    trim = getattr(libc, "malloc_trim", lambda _: None)
    _die_with(owner, libc)
    for other in foreign:
        other.close()
    listener = _Told(connection)
    try:
        while (item := connection.recv()) is not None:
            if _serve_one(connection, work, item.value, listener) > _LARGE:
                del item
                # Repositories of the same size would otherwise take more each time, and idle workers keep it all.
                trim(0)
    except (EOFError, ConnectionError):
        pass


def _serve_one(connection: Connection, work: Callable[[Any, Listener], object], item: object, listener: _Told) -> int:
    """Do the work of an item, and tell what it gives; in how many bytes."""
    # By itself, so that what was sent is not held until the next item comes.
    told = ForkingPickler.dumps(_outcome(work, item, listener))
    listener.flush()
    connection.send_bytes(told)
    return len(told)


def _die_with(owner: int, libc: ctypes.CDLL) -> None:
    """Be killed when whoever began this process is: it holds the store's lock as well."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:
        os.kill(os.getpid(), signal.SIGKILL)


def _outcome(work: Callable[[Any, Listener], object], item: object, listener: Listener) -> _Result | _Failure:
    try:
        return _Result(work(item, listener))
    except Exception as error:  # noqa: BLE001 (it is the run's, which fails by it)
        return _Failure(error)


@attrs.frozen
class _Item:
    value: Any


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
