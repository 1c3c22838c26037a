"""Touches: how the daemon tells a collector that content was promised to a client.

Whenever a client is told that something is there, or a manifest relies on it, its modification time is renewed; the
collector removes nothing that is younger than its grace. The touch of a path is the check that it exists as well.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from registryd.errors import Unavailable
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver, Stat
from registryd.storage.tree import Link, Tree

_log = Logger()

LONGEST_INTERVAL = 3600.0
"""Seconds after which a read renews what it reads, at the latest: last use is known to the hour."""

GRACE_PART = 24
"""The interval is this part of the collector's grace, so that a throttled renewal costs little of it."""


@attrs.define
class Promises:
    """Renews what a client relies on. ``interval`` are the seconds within which a read does not renew again."""

    driver: IStorageDriver
    now: Callable[[], float]
    interval: float
    _told: bool = attrs.field(default=False, init=False)

    @classmethod
    def for_grace(cls, driver: IStorageDriver, now: Callable[[], float], grace: float) -> Promises:
        """Promises that a collector with a grace, in seconds, can rely on."""
        return cls(driver, now, min(LONGEST_INTERVAL, grace / GRACE_PART))

    def keep(self, path: str) -> Stat | None:
        """What is at a path, renewed if that has not been done lately; None if nothing is there."""
        try:
            stat = self.driver.stat(path)
            if self.now() - stat.modified > self.interval:
                self._touch_if_possible(path)
        except FileNotFoundError:
            return None
        return stat

    def keep_link(self, path: str, link: Link) -> bool:
        """Renew a link that was just read, if that has not been done lately; false where it is gone meanwhile."""
        try:
            if self.now() - link.modified > self.interval:
                self._touch_if_possible(path)
        except FileNotFoundError:
            return False
        return True

    def renew(self, path: str) -> bool:
        """Renew what is at a path, and tell whether anything is.

        Errors (of all that renew):
            Unavailable: the storage does not let it be renewed, so that no promise can be made of it.
        """
        try:
            self._touch(path)
        except FileNotFoundError:
            return False
        return True

    def renew_blob(self, tree: Tree, name: RepositoryName, digest: Digest) -> bool:
        """Renew a blob of a repository, its link and its bytes, and tell whether both are there."""
        link = tree.layer(name, digest)
        return link is not None and self.renew(layout.layer_link(name, digest)) and self.renew_data(link.digest)

    def renew_data(self, digest: Digest) -> bool:
        """Renew stored bytes, and tell whether they are there; what a power cut has emptied is not."""
        path = layout.blob_data(digest)
        try:
            self._touch(path)
            return digest.may_be_of(self.driver.stat(path).size)
        except FileNotFoundError:
            return False

    def renew_revision(self, name: RepositoryName, digest: Digest) -> bool:
        """Renew a manifest of a repository, its link and its bytes, and tell whether both are there."""
        return self.renew(layout.revision_link(name, digest)) and self.renew_data(digest)

    def _touch(self, path: str) -> None:
        try:
            self.driver.touch(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.driver.stat(path)
            _log.error("{path}: cannot be renewed: {error}", path=path, error=error)
            raise Unavailable("the registry may not change what it holds: another user owns it") from error

    def _touch_if_possible(self, path: str) -> None:
        """Renew what is only read: a store that cannot be written can still be read."""
        try:
            self.driver.touch(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.driver.stat(path)
            if not self._told:
                self._told = True
                _log.warn("{path}: cannot be renewed, no collector may run here: {error}", path=path, error=error)
