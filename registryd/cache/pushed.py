"""What was pushed under a name that has become an upstream's since: it must not answer for that upstream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from registryd.errors import NameUnknown
from registryd.interfaces import IBlobReader, InThread, IRegistry, Page, ReferrerPage
from registryd.model import Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName
from registryd.storage import layout
from registryd.storage.tree import Tree
from registryd.unsupported import UnsupportedRegistry

_log = Logger()
_T = TypeVar("_T")


class WithoutPushed(UnsupportedRegistry):
    """The reads of another registry, but for repositories that hold manifests and are no mirrors."""

    def __init__(self, registry: IRegistry, tree: Tree, in_thread: InThread) -> None:
        self._registry = registry
        self._tree = tree
        self._in_thread = in_thread
        self._told: set[RepositoryName] = set()

    def open_blob(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        return self._unless_pushed(self._registry.open_blob, name, digest)

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._unless_pushed(self._registry.resolve_blob, name, digest)

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._unless_pushed(self._registry.get_manifest, name, reference)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._unless_pushed(self._registry.resolve_manifest, name, reference)

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return self._unless_pushed(self._registry.tags, name, count, after)

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None = None, after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        return self._unless_pushed(self._registry.referrers, name, subject, artifact_type, after)

    def _unless_pushed(self, call: Callable[..., Deferred[_T]], name: RepositoryName, *more: Any) -> Deferred[_T]:
        judged = maybeDeferred if self._tree.driver.immediate else self._in_thread
        return judged(self._refuse_pushed, name).addCallback(lambda _: call(name, *more))

    def _refuse_pushed(self, name: RepositoryName) -> None:
        if self._tree.exists(layout.mirror(name)) or not self._tree.exists(layout.manifests(name)):
            return
        if name not in self._told:
            self._told.add(name)
            _log.warn("{name}: holds images that no mirror put there, and is not served; see adopt-cache", name=name)
        raise NameUnknown(
            "this repository was pushed before its name became a mirrored registry's", detail={"name": name}
        )
