"""Upload sessions that nobody came back to."""

from __future__ import annotations

import errno
from datetime import datetime

import attrs

from registryd.storage import layout
from registryd.storage.interfaces import IContentWriter
from registryd_gc.removal import Removal

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@attrs.frozen
class Uploads:
    """Ends upload sessions that nobody came back to for ``age`` seconds, or none; ``now``: seconds since the epoch."""

    removal: Removal
    age: float | None
    now: float

    def sweep(self, folder: str) -> int:
        """End the old sessions in a folder; how many stay."""
        left = 0
        for entry in list(self.removal.driver.entries(folder)):
            if not entry.is_folder or not self._end(f"{folder}/{entry.name}"):
                left += 1
        self.removal.prune(folder)
        return left

    def _end(self, session: str) -> bool:
        """End a session if it is old, and nobody writes to it; whether it has ended."""
        if self.age is None or not self._is_old(session, self.age):
            return False
        try:
            content = self._lock(f"{session}/data")
        except BlockingIOError:
            return False
        try:
            # Somebody may have written to it, and left again, before it was locked.
            if not self._is_old(session, self.age):
                return False
            self._remove(session)
        finally:
            if content is not None:
                content.close()
        return True

    def _is_old(self, session: str, age: float) -> bool:
        return self.now - self._last_used(session) > age

    def _lock(self, path: str) -> IContentWriter | None:
        """Keep others from writing to a session; None where there is nothing to write to."""
        try:
            return self.removal.driver.writer(path, False)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not self.removal.dry_run or error.errno not in _READ_ONLY:
                raise
            return None

    def _remove(self, session: str) -> None:
        size = self._size(session)
        if not self.removal.dry_run:
            self.removal.driver.delete(session)
        self.removal.report.uploads.removed += 1
        self.removal.report.uploads.removed_bytes += size
        self.removal.listener.removed(f"upload {session[len(layout.REPOSITORIES) + 1 :]}")

    def _last_used(self, session: str) -> float:
        times = []
        for path in (session, f"{session}/data"):
            try:
                times.append(self.removal.driver.stat(path).modified)
            except FileNotFoundError:
                pass
        try:
            started = self.removal.driver.get_content(f"{session}/startedat").decode("ascii")
            times.append(datetime.fromisoformat(started.replace("Z", "+00:00")).timestamp())
        except (FileNotFoundError, ValueError):
            pass
        return max(times, default=self.now)

    def _size(self, folder: str) -> int:
        """The bytes of all content in a folder."""
        size = 0
        for entry in self.removal.driver.entries(folder):
            path = f"{folder}/{entry.name}"
            size += self._size(path) if entry.is_folder else self.removal.driver.stat(path).size
        return size
