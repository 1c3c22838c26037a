"""The collector beside the daemon: a process of its own, at its times and whenever mirrored content needs room."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from registryd.child import Child, Ended
from registryd.config import Config
from registryd.report import Report, Run, shown_size

_log = Logger()

COMMAND = (sys.executable, "-m", "registryd_gc")

LONGEST_FIRST_DELAY = 3600.0
"""Seconds after the start within which the first collection begins, where they are collected at intervals."""

FIRST_LOOK = 60.0
"""Seconds after the start within which it is first looked what expired."""

LONGEST_LOOK, SHORTEST_LOOK = 3600.0, 10.0
"""Seconds between two looks at what expired: a tenth of the shortest ttl, within these."""

PAUSE = 30.0
"""Seconds before more room is looked for where the last run found too little."""

STOP_PATIENCE = 5.0
"""Seconds that a run has to end when the daemon does."""

_NICENESS = 10
_DONE, _DAMAGED = 0, 3
_BUSY = "another collector is running"


class Kind(Enum):
    """What a run is for, in the order in which they go before one another."""

    EVICT = "evict"
    FULL = "full"
    EXPIRED = "expired"


_OPTIONS = {Kind.EVICT: ("--expired-only", "--evict"), Kind.EXPIRED: ("--expired-only",), Kind.FULL: ()}
_TITLES = {Kind.EVICT: "room for mirrored content", Kind.EXPIRED: "expired content", Kind.FULL: "collection"}


class UnboundedSpace:
    """The space of a registry that cannot be collected from outside: one in memory, or read-only."""

    def came(self, size: int) -> None:
        pass

    def make_room(self) -> Deferred[bool]:
        return succeed(False)


class CollectorProcess:
    """Runs the collector as the configuration asks for, one run at a time; a ``Space`` for the mirrors.

    ``last`` is the last run that told what it did. ``observe`` is told each run that has ended.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        observe: Callable[[Run], None] = lambda run: None,
        command: Sequence[str] = COMMAND,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._observe = observe
        self._command = (*command, "--json", "--quiet")
        self._now = now
        # What the configuration names from here on, the process has to find.
        self._folder = os.getcwd()
        self._limit = config.proxy.max_size if config.proxy is not None else None
        self.last: Run | None = None
        self._cached = 0
        self._came_meanwhile = 0
        self._child: Child | None = None
        self._kind = Kind.FULL
        self._wanted: set[Kind] = set()
        self._waiting: list[Deferred[bool]] = []
        self._not_before = 0.0
        self._passed = False
        self._retry: IDelayedCall | None = None
        self._cancels: list[Callable[[], None]] = []
        self._stopped = False

    def start(self) -> None:
        """Run at the configured times from now on."""
        interval = self._config.collection.interval
        if interval is not None:
            self._repeat(Kind.FULL, min(interval, LONGEST_FIRST_DELAY), interval)
        look = self._look_interval()
        if look is not None:
            self._repeat(Kind.EXPIRED, min(look, FIRST_LOOK), look)

    def stop(self) -> Deferred[None]:
        """Run nothing more; fires when the process is gone, or does not go: its store is right either way."""
        self._stopped = True
        self._wanted.clear()
        for cancel in self._cancels:
            cancel()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._tell(False)
        return self._child.stop(STOP_PATIENCE) if self._child is not None else succeed(None)

    def came(self, size: int) -> None:
        """Hear that a mirror has stored so many bytes more; beyond ``proxy.maxsize`` the least recently used go."""
        self._cached += size
        self._came_meanwhile += size
        self._check_limit()

    def cached_bytes(self) -> int:
        """Bytes of mirrored content: what the last run told, and what came since."""
        return self._cached

    def make_room(self) -> Deferred[bool]:
        """Remove mirrored content since the storage is full; fires with whether that freed anything.

        All who ask while a run is under way get what comes of it.
        """
        if self._stopped:
            return succeed(False)
        freed: Deferred[bool] = Deferred()
        self._waiting.append(freed)
        if self._child is None:
            self._want(Kind.EVICT)
        return freed

    def _look_interval(self) -> float | None:
        proxy = self._config.proxy
        if proxy is None:
            return None
        upstreams = proxy.upstreams.values() if proxy.remote is None else (proxy.remote,)
        lives = [upstream.ttl for upstream in upstreams if upstream.ttl is not None]
        if not lives and proxy.max_size is None:
            return None
        return min(max(min(lives) / 10, SHORTEST_LOOK), LONGEST_LOOK) if lives else LONGEST_LOOK

    def _repeat(self, kind: Kind, within: float, interval: float) -> None:
        # A random delay, so that daemons that share a store do not all want to collect at once.
        repeated = LoopingCall(self._want, kind)
        repeated.clock = self._reactor
        first = self._reactor.callLater(random.uniform(0, within), repeated.start, interval)

        def cancel() -> None:
            if first.active():
                first.cancel()
            elif repeated.running:
                repeated.stop()

        self._cancels.append(cancel)

    def _want(self, kind: Kind) -> None:
        self._wanted.add(kind)
        self._run_next()

    def _run_next(self) -> None:
        if self._child is not None:
            return
        kind = next((kind for kind in Kind if kind in self._wanted), None)
        if kind is None:
            return
        # Every run removes what expired.
        self._wanted -= {kind, Kind.EXPIRED}
        self._kind = kind
        self._came_meanwhile = 0
        try:
            self._child = Child.start(self._reactor, self._arguments(kind), self._where(), self._niceness(kind))
        except OSError as error:
            self._finish("failed", None, f"cannot be started: {error.strerror}")
            return
        self._child.ended.addCallback(self._ended).addErrback(_told)

    def _arguments(self, kind: Kind) -> Sequence[str]:
        path = () if self._config.path is None else (self._config.path,)
        return (*self._command, *_OPTIONS[kind], *path)

    def _where(self) -> str | None:
        try:
            return None if os.getcwd() == self._folder else self._folder
        except FileNotFoundError:
            return self._folder

    def _niceness(self, kind: Kind) -> int:
        return 0 if kind is Kind.EVICT else _NICENESS

    def _ended(self, ended: Ended) -> None:
        self._child = None
        if ended.exit_code in (_DONE, _DAMAGED):
            try:
                report = Report.parse(ended.output or b"")
            except (ValueError, TypeError):
                why = "cannot be read" if ended.output is not None else "is too long: run registryd-gc verify"
                self._finish("failed", None, f"its report {why}")
                return
            self._finish("damaged" if ended.exit_code == _DAMAGED else "done", report, "")
        elif _BUSY in ended.last_line:
            self._finish("busy", None, ended.last_line)
        else:
            code = "a signal" if ended.exit_code is None else f"exit code {ended.exit_code}"
            self._finish("failed", None, ended.last_line or f"ended by {code}")

    def _finish(self, outcome: str, report: Report | None, why: str) -> None:
        run = Run(self._kind.value, outcome, self._now(), report)
        if report is not None:
            self.last = run
            self._cached = report.mirror_bytes + self._came_meanwhile
        if not self._stopped:
            self._log(run, why)
            self._observe(run)
        self._note_limit(report)
        freed = report is not None and report.removed_bytes > 0
        if freed or self._kind is Kind.EVICT or self._stopped:
            self._tell(freed)
        elif self._waiting:
            self._wanted.add(Kind.EVICT)
        self._run_next()
        self._check_limit()

    def _tell(self, freed: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(freed)

    def _note_limit(self, report: Report | None) -> None:
        """Remember whether what mirrors hold is within its limit after a run, and when to look again if not."""
        if self._limit is None:
            return
        below = report is not None and report.mirror_bytes <= self._limit
        self._not_before = 0.0 if below else self._reactor.seconds() + PAUSE
        if report is not None and not below and not self._passed:
            _log.warn(
                "mirrored content takes {size}, beyond proxy.maxsize ({limit}): it was used within the last two hours",
                size=shown_size(report.mirror_bytes),
                limit=shown_size(self._limit),
            )
        self._passed = report is not None and not below

    def _check_limit(self) -> None:
        if self._limit is None or self._cached <= self._limit or self._child is not None or self._stopped:
            return
        if self._retry is not None and self._retry.active():
            return
        wait = self._not_before - self._reactor.seconds()
        if wait <= 0:
            self._want(Kind.EXPIRED)
        else:
            self._retry = self._reactor.callLater(wait, self._check_limit)

    def _log(self, run: Run, why: str) -> None:
        title = _TITLES[self._kind]
        if run.outcome == "busy":
            _log.info("{title}: not now: {why}", title=title, why=why)
        elif run.report is None:
            _log.error("{title}: the collector failed: {why}", title=title, why=why)
        else:
            _log.info("{title}: {summary}", title=title, summary=run.report.summary())
            _log_damage(run.report)


def _log_damage(report: Report) -> None:
    damage = [one for one in report.damage if not one.repaired]
    if not damage:
        return
    first = damage[0]
    _log.warn(
        "the collector found {count} damaged: {path}: {kind}: {detail}; registryd-gc verify looks at all of the store",
        count=len(damage),
        path=first.path,
        kind=first.kind,
        detail=first.detail,
    )


def _told(failure: Failure) -> None:
    _log.failure("the collector's end was not understood", failure)
