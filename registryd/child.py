"""A process of the daemon's own: run to its end, or ended, with what it said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

MOST_OUTPUT = 8 << 20
"""Bytes of its output that are kept at most: of a longer one nothing is."""

_MOST_ERRORS = 8192

_AFTER_KILL = 2.0
"""Seconds that a killed process has to be gone: one that hangs in the system is not waited for."""


@attrs.frozen
class Ended:
    """How a process ended: its exit code, or None where a signal ended it; ``output`` is None where it was too long."""

    exit_code: int | None
    output: bytes | None
    last_line: str


class Child(ProcessProtocol):
    """One process; ``ended`` fires with an Ended once it is gone."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._output: list[bytes] = []
        self._length = 0
        self._errors = b""
        self.ended: Deferred[Ended] = Deferred()
        self._gone = False

    @classmethod
    def start(cls, reactor: Any, arguments: Sequence[str], folder: str | None, niceness: int) -> Child:
        """Run a program in the environment of this process, in a folder or in this one's.

        Linux's schedulers for disks that know priorities take that of a process from its niceness.

        Errors:
            OSError: the system starts no process.
        """
        child = cls(reactor)
        transport = reactor.spawnProcess(child, arguments[0], list(arguments), env=None, path=folder)
        if niceness and transport.pid is not None:
            try:
                os.setpriority(os.PRIO_PROCESS, transport.pid, niceness)
            except OSError:
                pass  # It is gone already, or runs no faster for it.
        return child

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > MOST_OUTPUT:
            self._output.clear()
        else:
            self._output.append(data)

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-_MOST_ERRORS:]

    def processEnded(self, reason: Failure) -> None:
        self._gone = True
        output = b"".join(self._output) if self._length <= MOST_OUTPUT else None
        lines = self._errors.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self.ended.callback(Ended(getattr(reason.value, "exitCode", None), output, last))

    def stop(self, patience: float) -> Deferred[None]:
        """Ask it to end, and kill it after some seconds; fires when it is gone, or will not go."""
        stopped: Deferred[None] = Deferred()

        def stop() -> None:
            if not stopped.called:
                stopped.callback(None)

        def gone(ended: Ended) -> Ended:
            for call in calls:
                if call.active():
                    call.cancel()
            stop()
            return ended

        calls = [
            self._reactor.callLater(patience, self._signal, "KILL"),
            self._reactor.callLater(patience + _AFTER_KILL, stop),
        ]
        self.ended.addCallback(gone)
        self._signal("TERM")
        return stopped

    def _signal(self, name: str) -> None:
        try:
            if not self._gone and self.transport is not None:
                self.transport.signalProcess(name)
        except ProcessExitedAlready:
            pass
