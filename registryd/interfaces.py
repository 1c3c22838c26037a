"""What a registry is, and what stands around it: upstreams, names, access, and what counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from zope.interface import Attribute, Interface

from registryd.model import Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName, Tag

_T = TypeVar("_T")


class InThread(Protocol):
    """Runs a blocking call off the reactor's thread."""

    def __call__(self, call: Callable[..., _T], /, *args: Any) -> Deferred[_T]: ...


@attrs.frozen
class Page:
    """A part of an ordered list of names; ``more`` tells whether names come after the last of these.

    ``warning`` is what whoever asked for it should know: that it may be out of date, say.
    """

    names: Sequence[str]
    more: bool
    warning: str | None = attrs.field(default=None, eq=False, kw_only=True)


@attrs.frozen
class Referrer:
    """A manifest that refers to another by its ``subject``, as the referrers API describes it."""

    descriptor: Descriptor
    artifact_type: str | None
    annotations: Mapping[str, str]


@attrs.frozen
class ReferrerPage:
    """A part of the referrers of a subject; ``more`` tells whether others come after the last of these.

    ``warning``: as a page of names'.
    """

    referrers: Sequence[Referrer]
    more: bool
    warning: str | None = attrs.field(default=None, eq=False, kw_only=True)


@attrs.frozen
class UploadStatus:
    """An upload session: its id, and how many bytes it holds."""

    id: str
    size: int


@attrs.frozen
class Condition:
    """What a client asks of the state that it changes, so that it undoes nobody's change that it does not know of.

    ``holds`` is told the digest that ``reference`` names in the instant of the change, None where it names nothing.
    """

    reference: Reference
    holds: Callable[[Digest | None], bool]


class Space(Protocol):
    """What bounds the room that caches take."""

    def came(self, size: int) -> None:
        """Hear that a cache has stored so many bytes more."""

    def make_room(self) -> Deferred[bool]:
        """Remove, since the storage is full, what caches can do without; fires with whether anything was."""


class Traffic(Protocol):
    """What counts the traffic of one kind of content, blobs or manifests, through the mirrors. Sizes are bytes."""

    def fetched(self, size: int) -> None:
        """Hear that something was fetched from an upstream, since it was not there."""

    def served(self, size: int, hit: bool) -> None:
        """Hear that a client got something; ``hit`` tells whether all of it was there already."""


@attrs.frozen
class UpstreamState:
    """How an upstream is now: whether it may be asked, and the requests it allows and leaves, where it tells them."""

    available: bool
    limit: int | None = None
    remaining: int | None = None


class Meters(Protocol):
    """What counts what mirrors do."""

    @property
    def blobs(self) -> Traffic: ...

    @property
    def manifests(self) -> Traffic: ...

    def watch(self, upstream: str, state: Callable[[], UpstreamState]) -> None:
        """Ask for the state of an upstream whenever somebody wants to know it."""


class PeerGone(Exception):
    """Whoever sent or took bytes has left before the end: nothing can be told to them any more."""


class IBlobReader(Interface):
    """A blob that is open for reading. Whoever opened it closes it."""

    descriptor: Descriptor = Attribute("what the blob is")
    at_hand: bool = Attribute("whether ``read`` takes microseconds, so that it may be called on the reactor's thread")

    def deliver_to(consumer: IConsumer, start: int, stop: int) -> Deferred[None]:
        """Write the bytes from ``start`` up to, not including, ``stop`` to a consumer, as fast as it takes them.

        Errors:
            PeerGone: the consumer wants no more.
            OSError: the storage failed; the consumer has got a part.
        """

    def read(start: int, stop: int) -> bytes:
        """The bytes from ``start`` to ``stop`` at once: for small parts, of what is at hand or in a thread."""

    def close() -> None:
        """Give up what the reader holds. Closing twice is allowed."""


class IFileBlobReader(IBlobReader):
    """A blob reader whose bytes lie in a local file, at the same offsets, so that sendfile(2) can deliver them."""

    def fileno() -> int:
        """The descriptor of the file; it stays the reader's."""


class IGrowingFile(Interface):
    """A local file to which is appended while it is delivered."""

    def reach(position: int) -> Deferred[tuple[int, int]]:
        """The descriptor of the file, which stays its owner's, and how many bytes of it may be read: when that is more
        than ``position``.

        Errors:
            Exception: there will be no more, or what came is gone.
        """


class IFileDelivery(Interface):
    """A part of a file on its way to a consumer."""

    position: int = Attribute("the offset of the first byte that was not delivered")

    def begin() -> Deferred[None]:
        """Start; fires at the end. Where it fails because the file did, the consumer can be written to again."""


class IFileConsumer(IConsumer):
    """A consumer that may take parts of files by sendfile(2)."""

    def file_delivery(file: IGrowingFile, start: int, stop: int) -> IFileDelivery | None:
        """What delivers the bytes from ``start`` to ``stop``; None where they have to be written."""


class IViewConsumer(IConsumer):
    """A consumer that takes views of bytes as well as bytes: a body reaches it without being copied."""

    def write(data: bytes | memoryview) -> None:
        """Take more of what is produced."""


class IBlobWriter(IViewConsumer):
    """An upload session that one client is writing to; no other can, until it is suspended, committed or cancelled.

    As a consumer it takes bytes as they come and pauses its producer while the storage is slower. When the storage
    fails it stops its producer; ``suspend`` and ``commit`` then tell the failure.
    """

    id: str = Attribute("the session's id")
    size: int = Attribute("how many bytes the session holds, those under way to the storage included")

    def suspend() -> Deferred[int]:
        """Store what has come and release the session; fires with its size.

        Errors:
            StorageFull: there is no room: what was stored before stays, and the session can go on from there.
        """

    def commit(digest: Digest) -> Deferred[Descriptor]:
        """End the session by making what has come a blob of the repository; fires when it is durable.

        Errors:
            DigestInvalid: the bytes have another digest; the session is gone.
            StorageFull: there is no room; the session stays.
        """

    def revert(size: int) -> Deferred[None]:
        """Forget what has come beyond ``size`` bytes and release the session."""

    def cancel() -> Deferred[None]:
        """End the session and forget what has come; it may have failed, and a commit may have."""


class IReader(Interface):
    """What pulls need."""

    def open_blob(name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        """A blob of a repository, open for reading.

        Errors:
            NameUnknown: there is no such repository.
            BlobUnknown: the repository does not hold it.
        """

    def resolve_blob(name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        """What a blob of a repository is, and the promise that it stays for a while.

        Errors: as open_blob.
        """

    def get_manifest(name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        """The manifest that a tag or digest names.

        Errors:
            NameUnknown: there is no such repository.
            ManifestUnknown: the repository does not hold it.
        """

    def resolve_manifest(name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        """What the manifest that a tag or digest names is.

        Errors: as get_manifest.
        """


class IWriter(Interface):
    """What pushes need."""

    def start_upload(name: RepositoryName, algorithm: str) -> Deferred[IBlobWriter]:
        """A new, empty upload session whose bytes are hashed with an algorithm as they come.

        Errors:
            DigestInvalid: the algorithm is not supported.
            StorageFull: there is no room.
        """

    def resume_upload(name: RepositoryName, id: str) -> Deferred[IBlobWriter]:
        """An upload session, to go on with.

        Errors:
            UploadUnknown: there is no such session in the repository.
            RangeInvalid: another client is writing to it.
        """

    def upload_status(name: RepositoryName, id: str) -> Deferred[UploadStatus]:
        """How far an upload session is.

        Errors:
            UploadUnknown: there is no such session in the repository.
        """

    def mount_blob(name: RepositoryName, digest: Digest, source: RepositoryName | None) -> Deferred[Descriptor]:
        """Make a blob of the source repository, or of any where that is None, a blob of this one too.

        Errors:
            BlobUnknown: the source does not hold it.
        """

    def put_manifest(
        name: RepositoryName, manifest: Manifest, tags: Sequence[Tag], condition: Condition | None = None
    ) -> Deferred[Digest | None]:
        """Store a manifest and let tags name it; fires, when all is durable, with its subject's digest if it has one.

        Errors:
            PreconditionFailed: the condition does not hold.
            ManifestInvalid: it is not what its type asks for, or of a type that is refused.
            ManifestBlobUnknown: it references what the repository does not hold.
            StorageFull: there is no room.
        """


class IDeleter(Interface):
    """What takes content out of repositories; the bytes go when the collector runs."""

    def delete_blob(name: RepositoryName, digest: Digest) -> Deferred[None]:
        """Take a blob out of a repository.

        Errors:
            NameUnknown: there is no such repository.
            BlobUnknown: the repository does not hold it.
        """

    def delete_manifest(name: RepositoryName, digest: Digest, condition: Condition | None = None) -> Deferred[None]:
        """Take a manifest and every tag that names it out of a repository.

        Errors:
            PreconditionFailed: the condition does not hold.
            NameUnknown: there is no such repository.
            ManifestUnknown: the repository does not hold it.
        """

    def delete_tag(name: RepositoryName, tag: Tag, condition: Condition | None = None) -> Deferred[None]:
        """Take a tag out of a repository; the manifest stays.

        Errors:
            PreconditionFailed: the condition does not hold.
            NameUnknown: there is no such repository.
            ManifestUnknown: the repository has no such tag.
        """


class ILister(Interface):
    """What tells the content of a registry. Names are in the order of their bytes."""

    def repositories(count: int | None, after: str) -> Deferred[Page]:
        """At most ``count`` names of repositories, or all, that come after a name, which need not exist."""

    def tags(name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        """At most ``count`` tags of a repository, or all, that come after a tag, which need not exist.

        Errors:
            NameUnknown: there is no such repository.
        """

    def referrers(
        name: RepositoryName, subject: Digest, artifact_types: Collection[str] = (), after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        """The manifests of a repository that refer to a subject, of all artifact types or of some, after a digest.

        They come in the order of their digests, as many as a client takes in one answer.
        """


class IRegistry(IReader, IWriter, IDeleter, ILister):
    """A registry: a local store, a filter before another registry, later an upstream and a cache."""


class IFetch(Interface):
    """A blob on its way from an upstream: the head of its answer has come, the body waits."""

    start: int = Attribute("the offset of the first byte that comes: 0 where the upstream does not resume")
    size: int | None = Attribute(
        "the size of the whole blob in bytes, or None where neither the answer nor HEAD tells it"
    )
    sender: int = Attribute("which of the places that the upstream consists of sends it")

    def deliver_to(consumer: IViewConsumer) -> Deferred[None]:
        """Write the bytes from ``start`` to a consumer, as fast as it takes them; fires when the answer has ended.

        The consumer stops the fetch by ``stopProducing``.

        Errors:
            UpstreamUnavailable: the upstream broke off or dawdled; the consumer has got a part.
            PeerGone: the consumer wants no more.
        """

    def abandon() -> None:
        """Give up what was not delivered, and the connection with it. Giving up twice, or the end, is allowed."""


class IUpstream(Interface):
    """Another registry, reached over HTTP. Names are those that it knows its repositories by.

    Errors (of all methods):
        UpstreamUnavailable: it cannot be reached, is slow, refuses the login, answers 429, 5xx or nonsense, or is left
            alone for a while because it did so lately.
    """

    def resolve_manifest(name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        """What a manifest is, by HEAD, which upstreams do not count; by GET where HEAD does not tell.

        Errors:
            ManifestUnknown: the upstream does not hold it.
        """

    def get_manifest(name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        """A manifest as the upstream holds it; its digest is checked where the reference is one.

        Errors:
            ManifestUnknown: the upstream does not hold it.
        """

    def resolve_blob(name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        """What a blob is, by HEAD; of a size that the upstream told.

        Errors:
            BlobUnknown: the upstream does not hold it, or does not tell.
        """

    def fetch_blob(name: RepositoryName, digest: Digest, start: int) -> Deferred[IFetch]:
        """A blob from an offset on, as far as the upstream resumes; its bytes are not checked here.

        Errors:
            BlobUnknown: the upstream does not hold it.
        """

    def blob_failed(digest: Digest, sender: int) -> None:
        """Hear that a sender had more of a blob to send, and did not: others are asked for it before that."""

    def blob_was_wrong(digest: Digest, senders: Collection[int | None]) -> None:
        """Hear that what some sent together is not the blob: others are asked for it before them. One that alone sent
        it is the last to be asked. None stands for what is not known who sent it.
        """

    def tags(name: RepositoryName) -> Deferred[Sequence[str]]:
        """All tags of a repository, in the order of their bytes.

        Errors:
            NameUnknown: the upstream has no such repository.
        """

    def referrers(name: RepositoryName, subject: Digest) -> Deferred[Sequence[Referrer]]:
        """All that refers to a subject, in the order of digests: by the API, else by the tag schema."""

    def close() -> Deferred[None]:
        """Close all connections; what is under way on them fails."""


@attrs.frozen
class Route:
    """Where a request leads: the repository's name in the tree, and its name as the client says it.

    ``namespace`` is the registry that the client asked for by ``ns``, as it wrote it, where that was heeded.
    """

    name: RepositoryName
    asked: RepositoryName
    namespace: str | None = None


class INamespaces(Interface):
    """How names that clients use become names of the tree, where registries are mirrored."""

    def is_upstream(host: str) -> bool:
        """Whether a path of ``<host>/v2/`` selects a mirrored registry."""

    def resolve(name: str, ns: str | None, prefix: str | None) -> Route:
        """Where a name leads, with the registry that the query's ``ns`` names and the one before ``/v2/`` in the path.

        Errors:
            NameInvalid: it is no name, or one that becomes too long.
            NameUnknown: a registry is asked for that is not mirrored here.
        """


class IAccess(Interface):
    """Who may use what: the only way to a registry."""

    def registry_for(authorization: bytes | None) -> Deferred[IRegistry]:
        """The registry that the sender of an Authorization header, or of none, may use.

        Errors:
            Unauthorized: the sender is not known here.
        """
