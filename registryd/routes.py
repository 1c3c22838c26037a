"""How a request finds its registry: the names that clients use, and whose repositories they come to.

A repository that mirrors an upstream has, in the tree, the upstream's component for the first of its name; all others
are private. docs/mirror.md has the rules as a table, each row of which is a test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from registryd.config import Proxy
from registryd.config.hosts import DOCKER_HUB, component_of, hosts_of
from registryd.errors import NameUnknown, Unsupported
from registryd.globs import Globs
from registryd.interfaces import (
    Condition,
    IBlobReader,
    IBlobWriter,
    INamespaces,
    IRegistry,
    Page,
    ReferrerPage,
    Route,
    UploadStatus,
)
from registryd.model import Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName, Tag, parse_name
from registryd.unsupported import UnsupportedRegistry

OFFICIAL = "library"
"""Where Docker Hub has the images whose names have one component."""


def upstream_of(name: RepositoryName) -> str:
    """The component of the upstream that a mirrored repository of the tree belongs to."""
    return name.partition("/")[0]


def name_at_upstream(name: RepositoryName) -> RepositoryName:
    """The name that the upstream knows a mirrored repository of the tree by."""
    return RepositoryName(name.partition("/")[2])


@implementer(INamespaces)
@attrs.frozen
class Namespaces:
    """The names of a registry that mirrors others.

    With ``upstreams``, by their components, private repositories stand beside mirrored ones; ``default`` is whose the
    names are that name none, but for those that ``private`` matches. With ``mirrors_all`` the whole registry is the
    mirror of one upstream, which ``is_hub`` if it is Docker Hub; ``hubs`` are the upstreams that are. ``own_names`` are
    components too.
    """

    upstreams: frozenset[str]
    own_names: frozenset[str]
    default: str | None
    private: Globs
    mirrors_all: bool
    is_hub: bool
    hubs: frozenset[str]

    @classmethod
    def of(cls, proxy: Proxy, host: str | None) -> Namespaces:
        """The names of a configuration; ``host`` is its ``http.host``."""
        hosts = [*proxy.own_names, *(hosts_of(host) if host is not None else ())]
        urls = proxy.remote.urls if proxy.remote is not None else ()
        return cls(
            upstreams=frozenset(map(component_of, proxy.upstreams)),
            own_names=frozenset(map(component_of, hosts)),
            default=component_of(proxy.default) if proxy.default is not None else None,
            private=Globs(proxy.private),
            mirrors_all=proxy.remote is not None,
            is_hub=_lead_to_hub(urls),
            hubs=frozenset(
                component
                for component, upstream in proxy.upstreams.items()
                if component == DOCKER_HUB or _lead_to_hub(upstream.urls)
            ),
        )

    def is_upstream(self, host: str) -> bool:
        return component_of(host) in self.upstreams

    def resolve(self, name: str, ns: str | None, prefix: str | None) -> Route:
        asked = parse_name(name)
        upstream = self._selected(ns, prefix)
        if self.mirrors_all:
            return Route(asked, asked, (ns or None) if self.is_hub else None)
        if upstream is None:
            upstream = self._named(asked)
        if upstream is None and not ns:
            upstream = self._assumed(asked)
        return Route(asked if upstream is None else self._placed(asked, upstream), asked, ns or None)

    def _selected(self, ns: str | None, prefix: str | None) -> str | None:
        """The upstream that a request names beside the repository's name.

        Errors:
            NameUnknown: it names one that is not mirrored, or two.
        """
        if prefix is not None and not self.is_upstream(prefix):
            raise NameUnknown("no such registry is mirrored here", detail={"prefix": prefix[:256]})
        before = None if prefix is None else component_of(prefix)
        if not ns:
            return before
        told = component_of(ns)
        if told in self.upstreams and before in (None, told):
            return told
        if self._is_heard(told):
            return before
        raise NameUnknown("no such registry is mirrored here", detail={"ns": ns[:256]})

    def _is_heard(self, told: str) -> bool:
        """Whether an ``ns`` that is no upstream's is answered as if there were none."""
        if told in self.own_names:
            return True
        # Distribution ignores it. The images of one registry are not those of another, where it is known which.
        return self.mirrors_all and (told == DOCKER_HUB or not self.is_hub)

    def _named(self, name: RepositoryName) -> str | None:
        """The upstream that a name begins with."""
        first, slash, _ = name.partition("/")
        upstream = component_of(first)
        if upstream not in self.upstreams:
            return None
        if not slash:
            raise NameUnknown("this is a registry's name, not a repository's", detail={"name": name})
        return upstream

    def _assumed(self, name: RepositoryName) -> str | None:
        """The upstream of a name that names none; that of a private one must not hear of it, under any form of it."""
        if self.default is None or self.private.match(name):
            return None
        return None if self.private.match(self._at(name, self.default)) else self.default

    def _placed(self, name: RepositoryName, upstream: str) -> RepositoryName:
        """A client's name below its upstream's component, which it may begin with already."""
        first, slash, rest = name.partition("/")
        below = rest if slash and component_of(first) == upstream else name
        return parse_name(f"{upstream}/{self._at(below, upstream)}")

    def _at(self, name: str, upstream: str) -> str:
        """What a registry's clients mean by a name."""
        return f"{OFFICIAL}/{name}" if upstream in self.hubs and "/" not in name else name


def _lead_to_hub(urls: Sequence[str]) -> bool:
    return any(component_of(urlsplit(url).hostname or "") == DOCKER_HUB for url in urls)


class _MirrorsOfOthers(UnsupportedRegistry):
    """What takes what is pushed to mirrored repositories: it tells why not, to whoever meant to push his own."""

    def _refuse(self) -> Deferred[Any]:
        return fail(Unsupported("this name is a mirrored registry's, and its repositories are read-only"))


@implementer(IRegistry)
class RoutedRegistry:
    """Private repositories and those that mirror upstreams, each by the first component of its name in the tree.

    ``mirrors`` are the registries of the upstreams, by their components; they too take names of the tree. What they
    hold is only read. Private repositories are read through ``private``, where that is another than ``local``.
    """

    def __init__(self, local: IRegistry, mirrors: Mapping[str, IRegistry], private: IRegistry | None = None) -> None:
        self._local = local
        self._mirrors = mirrors
        self._private = local if private is None else private
        self._read_only = _MirrorsOfOthers()

    def _reader(self, name: RepositoryName) -> IRegistry:
        return self._mirrors.get(name.partition("/")[0], self._private)

    def _writer(self, name: RepositoryName) -> IRegistry:
        return self._read_only if name.partition("/")[0] in self._mirrors else self._local

    def open_blob(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        return self._reader(name).open_blob(name, digest)

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._reader(name).resolve_blob(name, digest)

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._reader(name).get_manifest(name, reference)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._reader(name).resolve_manifest(name, reference)

    def start_upload(self, name: RepositoryName, algorithm: str) -> Deferred[IBlobWriter]:
        return self._writer(name).start_upload(name, algorithm)

    def resume_upload(self, name: RepositoryName, id: str) -> Deferred[IBlobWriter]:
        return self._writer(name).resume_upload(name, id)

    def upload_status(self, name: RepositoryName, id: str) -> Deferred[UploadStatus]:
        return self._writer(name).upload_status(name, id)

    def mount_blob(self, name: RepositoryName, digest: Digest, source: RepositoryName | None) -> Deferred[Descriptor]:
        # What is cached of a mirrored repository lies in the same store: the local registry finds it.
        return self._writer(name).mount_blob(name, digest, source)

    def put_manifest(
        self, name: RepositoryName, manifest: Manifest, tags: Sequence[Tag], condition: Condition | None = None
    ) -> Deferred[Digest | None]:
        return self._writer(name).put_manifest(name, manifest, tags, condition)

    def delete_blob(self, name: RepositoryName, digest: Digest) -> Deferred[None]:
        return self._writer(name).delete_blob(name, digest)

    def delete_manifest(
        self, name: RepositoryName, digest: Digest, condition: Condition | None = None
    ) -> Deferred[None]:
        return self._writer(name).delete_manifest(name, digest, condition)

    def delete_tag(self, name: RepositoryName, tag: Tag, condition: Condition | None = None) -> Deferred[None]:
        return self._writer(name).delete_tag(name, tag, condition)

    def repositories(self, count: int | None, after: str) -> Deferred[Page]:
        return self._local.repositories(count, after)

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return self._reader(name).tags(name, count, after)

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str] = (), after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        return self._reader(name).referrers(name, subject, artifact_types, after)
