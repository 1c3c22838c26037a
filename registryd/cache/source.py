"""What the parts of a cache share: the upstream, the tree, and what is remembered for a while."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final, TypeVar

import attrs
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from registryd.cache.mirrored import Mirrored
from registryd.errors import ManifestUnknown, RegistryError, UpstreamUnavailable
from registryd.interfaces import InThread, IUpstream, Meters
from registryd.reference import Digest, Reference, RepositoryName

_log = Logger()
_T = TypeVar("_T")
_Error = TypeVar("_Error", bound=RegistryError)

REMEMBERED = 16384
"""Entries of what is remembered for a while, of each kind."""

PATIENCE: Final = 5.0
"""Seconds for which who asks for a tag, or a list, that is cached waits for the upstream, whose word is still kept."""

MOST_UNTOLD: Final = 10 << 30
"""Bytes of a blob whose size nobody tells, at most: more than registries take in a layer."""


@attrs.frozen
class Source:
    """An upstream, and the part of the tree that mirrors it.

    ``remote_name`` tells the name that the upstream knows a repository of the tree by. ``freshness``: seconds for which
    what the upstream told is not asked again; that it does not have something, too. ``sizes`` are those of the blobs of
    repositories in bytes, as the manifests that were served last there tell them. ``most_passing``: blobs that pass
    through at once, since they cannot be stored. ``most_untold``: bytes of a blob whose size nobody tells.
    """

    upstream: IUpstream
    mirrored: Mirrored
    remote_name: Callable[[RepositoryName], RepositoryName]
    freshness: float
    in_thread: InThread
    clock: IReactorTime
    now: Callable[[], float]
    meters: Meters
    most_passing: int = 8
    most_untold: int = MOST_UNTOLD
    absent: MutableMapping[tuple[str, RepositoryName, str], bool] = attrs.field(init=False, repr=False)

    sizes: MutableMapping[tuple[RepositoryName, Digest], int] = attrs.field(
        factory=lambda: LRUCache(4 * REMEMBERED), init=False, repr=False
    )

    @absent.default
    def _no_absent(self) -> MutableMapping[tuple[str, RepositoryName, str], bool]:
        return TTLCache(REMEMBERED, self.freshness, self.clock.seconds)

    def is_fresh(self, told: float) -> bool:
        """Whether what the upstream told at a time, by any clock, needs no asking again."""
        return abs(self.now() - told) < self.freshness

    def size_of(self, name: RepositoryName, digest: Digest, told: int | None) -> int | None:
        """A blob's size, as the upstream told it; where it did not, as a manifest does, which may be wrong."""
        return self.sizes.get((name, digest)) if told is None else told

    def stale(self, name: RepositoryName, error: UpstreamUnavailable) -> str:
        """The warning for an answer that may be out of date; it is logged as well."""
        warning = f"{self.mirrored.upstream} could not be asked, this may be out of date: {error}"
        _log.warn("{name}: {warning}", name=name, warning=warning)
        return warning

    def unavailable(self, unknown: type[_Error], error: UpstreamUnavailable, **detail: str) -> _Error:
        """The error for what is not cached.

        It is told as unknown: on that every version of docker, containerd and podman asks the next registry. A mirror
        of this one learns by what goes with the warning that it need not be.
        """
        told = f"not cached, and {self.mirrored.upstream} could not be asked: {error}"
        return unknown(told, detail=detail or None, warning=told)

    def unavailable_manifest(self, reference: Reference, error: UpstreamUnavailable) -> ManifestUnknown:
        """As ``unavailable``, of a manifest."""
        return self.unavailable(ManifestUnknown, error, reference=str(reference))

    def is_absent_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Whether the upstream said lately that it does not have a manifest."""
        return ("manifest", name, str(reference)) in self.absent

    def refuse_absent_manifest(self, name: RepositoryName, reference: Reference) -> None:
        """Return if a manifest may be asked for.

        Errors:
            ManifestUnknown: the upstream said lately that it does not have it.
        """
        if self.is_absent_manifest(name, reference):
            raise ManifestUnknown(detail={"reference": str(reference)})

    def read(self, call: Callable[..., _T], *arguments: Any) -> Deferred[_T]:
        """Run a read of the tree of bounded length: at once where that takes microseconds."""
        return (
            maybeDeferred(call, *arguments) if self.mirrored.tree.driver.immediate else self.in_thread(call, *arguments)
        )

    def keep(self, call: Callable[..., None], *arguments: Any) -> Deferred[None]:
        """Change something in the tree, as far as the storage can: without it a client is still answered."""
        return self.in_thread(call, *arguments).addErrback(_not_kept, self.mirrored.upstream)


def _not_kept(failure: Failure, upstream: str) -> None:
    failure.trap(OSError)
    _log.warn("what {upstream} told is not kept: {error}", upstream=upstream, error=failure.value)
