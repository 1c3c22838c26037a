"""The mark of a repository that mirrors an upstream, as the daemon and the collector read it."""

from __future__ import annotations

from registryd.reference import RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver


def upstream_of(driver: IStorageDriver, name: RepositoryName) -> str | None:
    """The upstream whose mirror a repository is; None where it has no mark, and is private."""
    try:
        return driver.get_content(layout.mirror(name)).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
