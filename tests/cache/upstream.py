"""An upstream in memory that does what it is told: it lies, breaks off, stalls, and counts what it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.errors import BlobUnknown, ManifestUnknown, NameUnknown, RegistryError, UpstreamUnavailable
from registryd.interfaces import IFetch, IUpstream, IViewConsumer, PeerGone, Referrer
from registryd.model import OCTET_STREAM, Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName, Tag

_T = TypeVar("_T")

PIECE = 64 * 1024
"""Bytes that an answer brings at once."""

SENDER = 3
"""Who sends, as answers tell it."""


@implementer(IFetch, IPushProducer)
class FakeFetch:
    """An answer: sends at once what is released of it, in pieces, while it is not paused."""

    def __init__(self, upstream: FakeUpstream, content: bytes, start: int, size: int | None) -> None:
        self.start = start
        self.size = size
        self.sender = SENDER
        self.abandoned = False
        self.paused = False
        self._upstream = upstream
        self._content = content[start:]
        self._sent = 0
        self._consumer: IViewConsumer | None = None
        self._done: Deferred[None] | None = None
        self._sending = False

    @property
    def is_over(self) -> bool:
        return self.abandoned or (self._done is not None and self._done.called)

    def deliver_to(self, consumer: IViewConsumer) -> Deferred[None]:
        assert self._done is None and not self.abandoned
        self._consumer = consumer
        self._done = Deferred()
        consumer.registerProducer(self, True)
        self.send()
        return self._done

    def abandon(self) -> None:
        self.abandoned = True
        self._end(Failure(PeerGone()))

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.send()

    def stopProducing(self) -> None:
        self._end(Failure(PeerGone()))

    def send(self) -> None:
        """Send what is released and was not sent."""
        if self._sending or self._done is None:
            return
        self._sending = True
        while not self.paused and not self._done.called and self._consumer is not None:
            limits = (self._upstream.released, self._upstream.breaks_after, len(self._content))
            stop = min(limit for limit in limits if limit is not None)
            if self._sent < stop:
                piece = self._content[self._sent : min(stop, self._sent + PIECE)]
                self._sent += len(piece)
                self._upstream.bytes_sent += len(piece)
                self._consumer.write(piece)
            elif self._upstream.breaks_after is not None and self._sent >= self._upstream.breaks_after:
                self._end(Failure(UpstreamUnavailable("the upstream broke off")))
            elif self._sent < len(self._content):
                break
            elif self.size is not None and self.start + self._sent != self.size:
                self._end(Failure(UpstreamUnavailable("the upstream broke off")))
            else:
                self._end(None)
        self._sending = False

    def stall(self) -> None:
        """Be given up, as a fetch that brought nothing for a while."""
        self._end(Failure(UpstreamUnavailable("the upstream sent nothing")))

    def _end(self, failure: Failure | None) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.unregisterProducer()
        if self._done is not None and not self._done.called:
            if failure is None:
                self._done.callback(None)
            else:
                self._done.errback(failure)


@implementer(IUpstream)
class FakeUpstream:
    """Holds blobs, manifests, tags and referrers, whatever repository is asked for.

    ``unavailable``, ``breaks_after`` (bytes of an answer), ``released`` (bytes of each answer that may go out now),
    ``resumes``, ``tells_size``, ``told_size`` and ``heads_blobs``, which tells a size too, are switches. ``hold`` names
    the kinds of calls that wait for ``let_go``, ``refused_kinds`` those that are answered as if the upstream were
    unavailable. ``asked`` counts the calls by kind, ``fetches`` are all the answers, ``blamed`` is what was heard
    of them.
    """

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[Digest, Manifest] = {}
        self.tagged: dict[Tag, Digest] = {}
        self.listed_referrers: list[Referrer] = []
        self.asked: Counter[str] = Counter()
        self.names: set[RepositoryName] = set()
        self.starts: list[int] = []
        self.fetches: list[FakeFetch] = []
        self.bytes_sent = 0
        self.unavailable = False
        self.breaks_after: int | None = None
        self.released: int | None = None
        self.resumes = True
        self.tells_size = True
        self.told_size: int | None = None
        self.heads_blobs = True
        self.exists = True
        self.hold: set[str] = set()
        self.refused_kinds: set[str] = set()
        self.blamed: list[tuple[Digest, int | set[int | None]]] = []
        self._held: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def add_blob(self, content: bytes, instead_of: bytes | None = None) -> Digest:
        """Hold a blob; or send it where another is asked for."""
        digest = Digest.of(content if instead_of is None else instead_of)
        self.blobs[digest] = content
        return digest

    def add(self, manifest: Manifest, *tags: str) -> Digest:
        self.manifests[manifest.digest] = manifest
        self.tagged.update((Tag(tag), manifest.digest) for tag in tags)
        return manifest.digest

    def release(self, size: int | None = None) -> None:
        """Let so many bytes of each answer go out, or all."""
        self.released = size
        for fetch in list(self.fetches):
            fetch.send()

    def let_go(self) -> None:
        """Answer the calls that were held."""
        held, self._held = self._held, []
        for deferred, call in held:
            self._answer(call).chainDeferred(deferred)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._ask("resolve_manifest", name, lambda: self._manifest(reference).descriptor)

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._ask("get_manifest", name, lambda: self._manifest(reference))

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._ask("resolve_blob", name, lambda: self._head(digest))

    def fetch_blob(self, name: RepositoryName, digest: Digest, start: int) -> Deferred[IFetch]:
        self.starts.append(start)
        return self._ask("fetch_blob", name, lambda: self._fetch(digest, start))

    def blob_failed(self, digest: Digest, sender: int) -> None:
        self.blamed.append((digest, sender))

    def blob_was_wrong(self, digest: Digest, senders: Collection[int | None]) -> None:
        self.blamed.append((digest, set(senders)))

    def tags(self, name: RepositoryName) -> Deferred[Sequence[str]]:
        return self._ask("tags", name, self._tags)

    def referrers(self, name: RepositoryName, subject: Digest) -> Deferred[Sequence[Referrer]]:
        return self._ask("referrers", name, lambda: list(self.listed_referrers))

    def close(self) -> Deferred[None]:
        self.asked["close"] += 1
        return succeed(None)

    def _ask(self, kind: str, name: RepositoryName, call: Callable[[], _T]) -> Deferred[_T]:
        self.asked[kind] += 1
        self.names.add(name)
        if kind in self.refused_kinds:
            return fail(UpstreamUnavailable(f"{kind} is refused"))
        if kind in self.hold:
            held: Deferred[_T] = Deferred()
            self._held.append((held, call))
            return held
        return self._answer(call)

    def _answer(self, call: Callable[[], _T]) -> Deferred[_T]:
        if self.unavailable:
            return fail(UpstreamUnavailable("switched off"))
        try:
            return succeed(call())
        except RegistryError:
            return fail()

    def _manifest(self, reference: Reference) -> Manifest:
        digest = reference if isinstance(reference, Digest) else self.tagged.get(reference)
        if digest is None or digest not in self.manifests:
            raise ManifestUnknown()
        return self.manifests[digest]

    def _head(self, digest: Digest) -> Descriptor:
        if digest not in self.blobs or not self.heads_blobs:
            raise BlobUnknown()
        size = len(self.blobs[digest]) if self.told_size is None else self.told_size
        return Descriptor(OCTET_STREAM, digest, size)

    def _fetch(self, digest: Digest, start: int) -> FakeFetch:
        if digest not in self.blobs:
            raise BlobUnknown()
        content = self.blobs[digest]
        size = len(content) if self.told_size is None else self.told_size
        begin = start if self.resumes and start <= size else 0
        fetch = FakeFetch(self, content, begin, size if self.tells_size or self.heads_blobs else None)
        self.fetches.append(fetch)
        return fetch

    def _tags(self) -> Sequence[str]:
        if not self.exists:
            raise NameUnknown()
        return sorted(self.tagged)
