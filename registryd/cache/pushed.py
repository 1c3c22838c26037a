"""What a repository holds that its name does not stand for any more, and must not answer for.

What was pushed under a name that has become an upstream's since, and what is cached of an upstream under a name that
has become private.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, ClassVar, TypeVar

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


class _Without(UnsupportedRegistry, ABC):
    """The reads of another registry, but for repositories that are not what their names stand for."""

    REFUSAL: ClassVar[str]
    """What clients are told of such a repository."""

    def __init__(self, registry: IRegistry, tree: Tree, in_thread: InThread) -> None:
        self._registry = registry
        self._tree = tree
        self._in_thread = in_thread
        self._told: set[RepositoryName] = set()

    def open_blob(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        return self._judged(self._registry.open_blob, name, digest)

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._judged(self._registry.resolve_blob, name, digest)

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._judged(self._registry.get_manifest, name, reference)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._judged(self._registry.resolve_manifest, name, reference)

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return self._judged(self._registry.tags, name, count, after)

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str] = (), after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        return self._judged(self._registry.referrers, name, subject, artifact_types, after)

    def _judged(self, call: Callable[..., Deferred[_T]], name: RepositoryName, *more: Any) -> Deferred[_T]:
        run = maybeDeferred if self._tree.driver.immediate else self._in_thread
        return run(self._judge, name).addCallback(lambda _: call(name, *more))

    def _judge(self, name: RepositoryName) -> None:
        if not self._is_foreign(name):
            return
        if name not in self._told:
            self._told.add(name)
            _log.warn("{name}: {what}", name=name, what=self._explained(name))
        raise NameUnknown(self.REFUSAL, detail={"name": name})

    @abstractmethod
    def _is_foreign(self, name: RepositoryName) -> bool:
        """Whether a repository is not what its name stands for."""

    @abstractmethod
    def _explained(self, name: RepositoryName) -> str:
        """What such a repository is, and what can be done, for whoever reads the log."""


class WithoutPushed(_Without):
    """The reads of another registry, but for repositories that hold manifests and are no mirrors."""

    REFUSAL = "this repository was pushed before its name became a mirrored registry's"

    def _is_foreign(self, name: RepositoryName) -> bool:
        return not self._tree.exists(layout.mirror(name)) and self._tree.exists(layout.manifests(name))

    def _explained(self, name: RepositoryName) -> str:
        return "holds images that no mirror put there, and is not served; see adopt-cache"


class WithoutMirrored(_Without):
    """The reads of another registry, but for repositories that are mirrors.

    ``plan`` tells what adopt-cache would make of a repository, or None.
    """

    REFUSAL = "this repository was mirrored before its name became a private one"

    def __init__(
        self, registry: IRegistry, tree: Tree, in_thread: InThread, plan: Callable[[RepositoryName], object | None]
    ) -> None:
        super().__init__(registry, tree, in_thread)
        self._plan = plan

    def _is_foreign(self, name: RepositoryName) -> bool:
        return self._tree.exists(layout.mirror(name))

    def _explained(self, name: RepositoryName) -> str:
        if self._plan(name) is not None:
            remedy = "adopt-cache makes it one of the upstream that its name leads to"
        else:
            remedy = f"remove {layout.repository(name)} from the storage, or let its name be that registry's again"
        return f"mirrors {self._tree.mirrors(name)}, is no private repository, and is not served; {remedy}"
