"""The storage that a configuration asks for; nothing of the daemon comes with it, so that the collector can use it."""

from __future__ import annotations

from registryd.config import Config
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.interfaces import IStorageDriver
from registryd.storage.memory import MemoryDriver


class UnknownDriverError(Exception):
    """A configuration asks for a storage driver that does not exist here; one line that says so."""


def make_driver(config: Config) -> IStorageDriver:
    """The storage driver of a configuration.

    Errors:
        UnknownDriverError: it is not supported.
    """
    if config.storage.driver == "filesystem":
        return FilesystemDriver(config.storage.rootdirectory)
    if config.storage.driver == "inmemory":
        return MemoryDriver()
    raise UnknownDriverError(f"{config.source}: storage.{config.storage.driver}: this storage driver is not supported")
