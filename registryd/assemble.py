"""From a configuration to a registry: the only module that knows the implementations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.web.resource import IResource

from registryd.access import ClosedAccess, OpenAccess
from registryd.adoption import Adoption
from registryd.cache.mirrored import Mirrored
from registryd.cache.pushed import WithoutMirrored, WithoutPushed
from registryd.cache.registry import CachingRegistry
from registryd.cache.source import MOST_UNTOLD, Source
from registryd.config import Config, Upstream
from registryd.config.hosts import component_of, hosts_of
from registryd.filters import ReadOnly, Undeletable
from registryd.http.answers import Urls
from registryd.http.front import Front, Limits
from registryd.interfaces import IAccess, InThread, IRegistry, Meters, Space
from registryd.local import LocalRegistry
from registryd.reference import RepositoryName
from registryd.routes import Namespaces, RoutedRegistry, name_at_upstream, upstream_of
from registryd.storage.configured import make_driver
from registryd.storage.interfaces import IStorageDriver
from registryd.storage.tree import Tree
from registryd.uploads import Uploads
from registryd.upstream.registry import UpstreamRegistry
from registryd.validation import Rules


@attrs.frozen
class Assembled:
    """What a configuration comes to: the storage, the upload sessions in it, and the resource that a site serves."""

    driver: IStorageDriver
    uploads: Uploads
    resource: IResource
    _mirrors: Sequence[CachingRegistry]

    def stop(self) -> Deferred[None]:
        """Let the mirrors fetch no more; fires when what came is stored."""
        return DeferredList([mirror.stop() for mirror in self._mirrors]).addCallback(lambda _: None)


def assemble(config: Config, reactor: Any, threads: ThreadPool, space: Space, meters: Meters) -> Assembled:
    """Build what a configuration asks for, without touching the storage or dialling anybody.

    Errors:
        UnknownDriverError: the storage driver is not supported.
        AuthorityError: an upstream's ``ca`` cannot be read.
    """
    in_thread: InThread = partial(deferToThreadPool, reactor, threads)
    driver = make_driver(config)
    local = LocalRegistry(driver, Rules(config.validation), config.collection.grace, in_thread, time.time)
    mirrors = _mirrors(config, local, Surroundings(reactor, in_thread, space, meters))
    urls = Urls(config.http.host, config.http.relative_urls, config.http.prefix)
    limits = Limits(config.http.limits.manifest, config.http.limits.upload, config.tags_max, config.catalog_max_entries)
    access = _access(config, _whole(config, local, mirrors, in_thread))
    namespaces = Namespaces.of(config.proxy, config.http.host) if config.proxy is not None else None
    front = Front(access, urls, limits, config.http.headers, namespaces)
    return Assembled(driver, local.uploads, front.resource(), tuple(mirrors.values()))


@attrs.frozen
class Surroundings:
    """What mirrors need of the process that they run in."""

    reactor: Any
    in_thread: InThread
    space: Space
    meters: Meters


def adoption(config: Config, driver: IStorageDriver) -> Adoption | None:
    """What takes over a cache for the mirrors of a configuration; None where it has none."""
    proxy = config.proxy
    if proxy is None:
        return None
    remote = _component(proxy.remote) if proxy.remote is not None else None
    aliases = _aliases(proxy.remote) if proxy.remote is not None else _NO_ALIASES

    def upstream(name: RepositoryName) -> str | None:
        return remote or (upstream_of(name) if upstream_of(name) in proxy.upstreams else None)

    return Adoption(Tree(driver), Namespaces.of(proxy, config.http.host), upstream, aliases)


def _component(upstream: Upstream) -> str:
    """What marks the mirrors of an upstream that no name stands for."""
    return component_of(hosts_of(upstream.urls[0])[0])


def _aliases(upstream: Upstream) -> frozenset[str]:
    """What else may stand in such marks: they stay what they are when URLs are added, change places or get a port."""
    return frozenset(component_of(host) for url in upstream.urls for host in hosts_of(url))


_NO_ALIASES: frozenset[str] = frozenset()
"""Of an upstream that a name stands for: a mark that names a host was made where repositories had other names."""


def _whole(
    config: Config, local: LocalRegistry, mirrors: Mapping[str, CachingRegistry], in_thread: InThread
) -> IRegistry:
    """The registry of a configuration: private, a mirror, or private repositories beside those of mirrors."""
    if config.proxy is None:
        return _filtered(config, local)
    if config.proxy.remote is not None:
        return mirrors[_EVERYTHING] if mirrors else ReadOnly(local)
    cached: dict[str, IRegistry] = {
        upstream: WithoutPushed(mirrors.get(upstream) or ReadOnly(local), local.tree, in_thread)
        for upstream in config.proxy.upstreams
    }
    adopting = adoption(config, local.tree.driver)
    assert adopting is not None
    private = WithoutMirrored(local, local.tree, in_thread, adopting.plan)
    return RoutedRegistry(_filtered(config, local), cached, private)


def _filtered(config: Config, registry: IRegistry) -> IRegistry:
    if config.storage.read_only:
        return ReadOnly(registry)
    return registry if config.storage.delete else Undeletable(registry)


_EVERYTHING = ""
"""Stands for the one upstream that a whole registry mirrors, where there are components of upstreams."""


def _mirrors(config: Config, local: LocalRegistry, around: Surroundings) -> Mapping[str, CachingRegistry]:
    """The mirrors of a configuration, by their upstreams' components; none where nothing can be stored."""
    if config.proxy is None or config.storage.read_only:
        return {}
    if config.proxy.remote is not None:
        remote = config.proxy.remote
        return {_EVERYTHING: _mirror(_component(remote), _aliases(remote), remote, _unchanged, config, local, around)}
    return {
        component: _mirror(component, _NO_ALIASES, upstream, name_at_upstream, config, local, around)
        for component, upstream in config.proxy.upstreams.items()
    }


def _unchanged(name: RepositoryName) -> RepositoryName:
    return name


def _mirror(
    component: str,
    aliases: frozenset[str],
    settings: Upstream,
    remote_name: Callable[[RepositoryName], RepositoryName],
    config: Config,
    local: LocalRegistry,
    around: Surroundings,
) -> CachingRegistry:
    upstream = UpstreamRegistry(settings, component, around.reactor, config.http.limits.manifest)
    around.meters.watch(component, upstream.state)
    mirrored = Mirrored(local.tree, component, aliases)
    max_size = config.proxy.max_size if config.proxy is not None else None
    source = Source(
        upstream,
        mirrored,
        remote_name,
        settings.freshness,
        around.in_thread,
        around.reactor,
        time.time,
        around.meters,
        most_passing=max(1, settings.max_requests // 2),
        most_untold=MOST_UNTOLD if max_size is None else min(MOST_UNTOLD, max_size),
    )
    return CachingRegistry(source, local, local.uploads, local.promises, around.space)


def _access(config: Config, registry: IRegistry) -> IAccess:
    return OpenAccess(registry) if config.auth is None else ClosedAccess()
