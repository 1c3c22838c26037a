"""From a configuration to a registry: the only module that knows the implementations."""

from __future__ import annotations

import time
from functools import partial

import attrs
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.web.resource import IResource

from registryd.access import ClosedAccess, OpenAccess
from registryd.config import Config
from registryd.filters import ReadOnly, Undeletable
from registryd.http.answers import Urls
from registryd.http.front import Front, Limits
from registryd.interfaces import IAccess, InThread, IRegistry, IStorageDriver
from registryd.local import LocalRegistry
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.memory import MemoryDriver
from registryd.uploads import Uploads
from registryd.validation import Rules


class UnknownDriverError(Exception):
    """A configuration asks for a storage driver that does not exist here; one line that says so."""


@attrs.frozen
class Assembled:
    """What a configuration comes to: the storage, the upload sessions in it, and the resource that a site serves."""

    driver: IStorageDriver
    uploads: Uploads
    resource: IResource


def assemble(config: Config, reactor: IReactorFromThreads, threads: ThreadPool) -> Assembled:
    """Build what a configuration asks for, without touching the storage.

    Errors:
        UnknownDriverError: the storage driver is not supported.
    """
    in_thread: InThread = partial(deferToThreadPool, reactor, threads)
    driver = make_driver(config)
    local = LocalRegistry(driver, Rules(config.validation), config.collection.grace, in_thread, time.time)
    urls = Urls(config.http.host, config.http.relative_urls, config.http.prefix)
    limits = Limits(config.http.limits.manifest, config.http.limits.upload, config.tags_max, config.catalog_max_entries)
    front = Front(_access(config, _filtered(config, local)), urls, limits, config.http.headers)
    return Assembled(driver, local.uploads, front.resource())


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


def _filtered(config: Config, registry: IRegistry) -> IRegistry:
    mirrors = config.proxy is not None and config.proxy.remote is not None
    if config.storage.read_only or mirrors:
        # What mirrors an upstream takes no pushes, and serves what is cached while mirroring is not supported.
        return ReadOnly(registry)
    if not config.storage.delete:
        return Undeletable(registry)
    return registry


def _access(config: Config, registry: IRegistry) -> IAccess:
    return OpenAccess(registry) if config.auth is None else ClosedAccess()
