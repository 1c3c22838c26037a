"""How far a verification is: kept in the store, so that the next one goes on there."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from typing import Any

import attrs

from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.report import Damage

PLACE = f"{layout.TRASH}/verify"
"""Where the position lies; not in a folder of a run, so no run puts it back or removes it."""

INTERVAL = 5.0
"""Seconds between two that are kept: what is read once more after a kill."""

NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT})
"""The errors of a store that cannot be written."""


@attrs.define
class Position:
    """What a verification has done. ``began`` in seconds since the epoch; ``after`` is the last blob that was read,
    as ``<alg>/<hex>``, or nothing; ``blobs``, ``bytes`` and ``damage`` are of all that was read up to there.
    """

    began: float
    after: str = ""
    blobs: int = 0
    bytes: int = 0
    damage: list[Damage] = attrs.field(factory=list)


@attrs.define
class Keeping:
    """Keeps a position in the store. ``noted`` is told once where that cannot be written."""

    driver: IStorageDriver
    noted: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    _kept: float = attrs.field(init=False)
    _failed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._kept = self.now()

    def load(self) -> Position | None:
        """The position of a verification that did not end; None where there is none that can be read."""
        try:
            said: Any = json.loads(self.driver.get_content(PLACE))
            damage = [Damage(**found) for found in said["damage"]]
            return Position(float(said["began"]), str(said["after"]), int(said["blobs"]), int(said["bytes"]), damage)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def passed(self, position: Position) -> None:
        """Keep a position, unless one was kept a moment ago."""
        if self.now() - self._kept >= INTERVAL:
            self.keep(position)

    def keep(self, position: Position) -> None:
        """Keep a position."""
        self._kept = self.now()
        try:
            self.driver.put_content(PLACE, json.dumps(attrs.asdict(position)).encode())
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            if not self._failed:
                self.noted(f"the position cannot be kept: an interrupted verification begins anew: {error}")
            self._failed = True

    def forget(self) -> None:
        """Let the next verification begin anew."""
        try:
            self.driver.delete(PLACE)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
