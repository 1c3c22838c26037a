"""The registry whose content lies in a tree on a storage driver.

Reads that take microseconds where the driver is immediate run at once; whatever writes, syncs, walks or hashes runs in
threads. No method is a coroutine: the read path is what most requests take.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from registryd.delivery import blob_reader
from registryd.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    PreconditionFailed,
    RegistryError,
    Unavailable,
)
from registryd.interfaces import (
    Condition,
    IBlobReader,
    IBlobWriter,
    InThread,
    IRegistry,
    Page,
    Referrer,
    ReferrerPage,
    UploadStatus,
)
from registryd.manifestcache import ManifestCache
from registryd.model import (
    LARGE,
    OCTET_STREAM,
    Descriptor,
    Document,
    Manifest,
    is_media_type,
    read_document,
    refuse_ambiguity,
    told_media_type,
)
from registryd.pages import names_page, referrers_page
from registryd.parts import Parts
from registryd.promises import Promises
from registryd.reference import Digest, Reference, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver, Stat
from registryd.storage.tree import Tree
from registryd.uploads import Uploads, tell_full
from registryd.validation import Rules

_log = Logger()
_T = TypeVar("_T")

CACHED_MANIFESTS = 32 * 1024 * 1024
"""Bytes of manifests that are kept in memory; they are immutable, and served only while their link stands."""

SLOW_PUSH = 0.1
"""A push that took longer than this part of the grace renews once more what it relies on."""


@implementer(IRegistry)
class LocalRegistry:
    """A registry over a storage driver; see IRegistry for what its methods do."""

    def __init__(
        self, driver: IStorageDriver, rules: Rules, grace: float, in_thread: InThread, now: Callable[[], float]
    ) -> None:
        self._driver = driver
        self.tree = Tree(driver)
        self._rules = rules
        self._grace = grace
        self._in_thread = in_thread
        self._now = now
        self.promises = Promises.for_grace(driver, now, grace)
        self._manifests = ManifestCache(CACHED_MANIFESTS)
        self.uploads = Uploads(self.tree, in_thread, now)

    def _read(self, call: Callable[..., _T], *arguments: Any) -> Deferred[_T]:
        """Run a read of bounded length: at once where the driver answers from local files."""
        if not self._driver.immediate:
            return self._in_thread(call, *arguments)
        try:
            return succeed(call(*arguments))
        except (RegistryError, OSError):
            return fail()

    def open_blob(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        return self._read(self._open_blob, name, digest)

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._read(self._resolve_blob, name, digest)

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        found: Deferred[tuple[Digest, int]] = self._read(self._find_manifest, name, reference)
        return found.addCallback(self._loaded, name)

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self.get_manifest(name, reference).addCallback(lambda manifest: manifest.descriptor)

    def start_upload(self, name: RepositoryName, algorithm: str) -> Deferred[IBlobWriter]:
        return self.uploads.start(name, algorithm)

    def resume_upload(self, name: RepositoryName, id: str) -> Deferred[IBlobWriter]:
        return self.uploads.resume(name, id)

    def upload_status(self, name: RepositoryName, id: str) -> Deferred[UploadStatus]:
        return self._read(self.uploads.status, name, id)

    def mount_blob(self, name: RepositoryName, digest: Digest, source: RepositoryName | None) -> Deferred[Descriptor]:
        return self._in_thread(self._mount_blob, name, digest, source).addErrback(tell_full)

    def put_manifest(
        self, name: RepositoryName, manifest: Manifest, tags: Sequence[Tag], condition: Condition | None = None
    ) -> Deferred[Digest | None]:
        return self._in_thread(self._put_manifest, name, manifest, tags, condition).addErrback(tell_full)

    def delete_blob(self, name: RepositoryName, digest: Digest) -> Deferred[None]:
        return self._in_thread(self._delete_blob, name, digest)

    def delete_manifest(
        self, name: RepositoryName, digest: Digest, condition: Condition | None = None
    ) -> Deferred[None]:
        return self._in_thread(self._delete_manifest, name, digest, condition)

    def delete_tag(self, name: RepositoryName, tag: Tag, condition: Condition | None = None) -> Deferred[None]:
        return self._in_thread(self._delete_tag, name, tag, condition)

    def repositories(self, count: int | None, after: str) -> Deferred[Page]:
        return self._in_thread(lambda: names_page(self.tree.repositories(after), count))

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return self._in_thread(self._tags, name, count, after)

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str] = (), after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        return self._in_thread(self._referrers, name, subject, artifact_types, after)

    def _unknown(self, name: RepositoryName, error: RegistryError) -> RegistryError:
        return error if self.tree.has_repository(name) else NameUnknown(detail={"name": name})

    def _stored_blob(self, name: RepositoryName, digest: Digest) -> Digest:
        """The digest under which a blob that a repository holds is stored; its link is renewed."""
        link = self.tree.layer(name, digest)
        if link is None or not self.promises.keep_link(layout.layer_link(name, digest), link):
            raise self._unknown(name, BlobUnknown(detail={"digest": str(digest)}))
        return link.digest

    def _kept(self, digest: Digest, error: RegistryError) -> Stat:
        """What a link promises, renewed.

        It is looked for twice: a collector that puts back what was used meanwhile takes it away for an instant.
        """
        path = layout.blob_data(digest)
        stat = self.promises.keep(path) or self.promises.keep(path)
        if stat is None:
            _log.error("{path}: missing behind a link", path=path)
            raise error
        if not digest.may_be_of(stat.size):
            _log.error("{path}: empty, but its digest is not that of nothing", path=path)
            raise error
        return stat

    def _resolve_blob(self, name: RepositoryName, digest: Digest) -> Descriptor:
        stat = self._kept(self._stored_blob(name, digest), BlobUnknown(detail={"digest": str(digest)}))
        return Descriptor(OCTET_STREAM, digest, stat.size)

    def _open_blob(self, name: RepositoryName, digest: Digest) -> IBlobReader:
        stored = self._stored_blob(name, digest)
        error = BlobUnknown(detail={"digest": str(digest)})
        self._kept(stored, error)
        try:
            content = self._driver.reader(layout.blob_data(stored))
        except FileNotFoundError:
            raise error from None
        return blob_reader(Descriptor(OCTET_STREAM, digest, content.size), content, self._in_thread)

    def _find_manifest(self, name: RepositoryName, reference: Reference) -> tuple[Digest, int]:
        """The digest and size of a manifest that a repository holds; all on the way to it is renewed."""
        unknown = ManifestUnknown(detail={"reference": str(reference)})
        digest = reference if isinstance(reference, Digest) else self._tagged(name, reference)
        revision = self.tree.revision(name, digest) if digest is not None else None
        if digest is None or revision is None:
            # Who deletes a manifest deletes its tags first.
            if digest is not None and not isinstance(reference, Digest) and self.tree.tag(name, reference) == digest:
                path = layout.tag_link(name, reference)
                _log.error("{path}: names {digest}, which the repository does not hold", path=path, digest=digest)
            raise self._unknown(name, unknown)
        if not self.promises.keep_link(layout.revision_link(name, digest), revision):
            raise self._unknown(name, unknown)
        return digest, self._kept(digest, unknown).size

    def _loaded(self, found: tuple[Digest, int], name: RepositoryName) -> Manifest | Deferred[Manifest]:
        digest, size = found
        if self._driver.immediate and (size <= LARGE or self._manifests.get(digest) is not None):
            return self._load(name, digest)
        return self._in_thread(self._load, name, digest)

    def _tagged(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """What a tag names; its link is renewed."""
        path = layout.tag_link(name, tag)
        link = self.tree.link(path)
        if link is None or not self.promises.keep_link(path, link):
            return None
        return link.digest

    def _load(self, name: RepositoryName, digest: Digest) -> Manifest:
        """A manifest that a repository holds, from memory or from the tree.

        Errors:
            ManifestUnknown: its bytes are missing or damaged.
        """
        cached = self._manifests.get(digest)
        if cached is not None:
            return self._as_pushed(name, *cached)
        path = layout.blob_data(digest)
        try:
            content = self._driver.get_content(path)
        except FileNotFoundError:
            raise ManifestUnknown(detail={"reference": str(digest)}) from None
        if Digest.of(content, digest.algorithm) != digest:
            _log.error("{path}: damaged, its digest is another", path=path)
            raise ManifestUnknown(detail={"reference": str(digest)})
        told, named = told_media_type(content)
        manifest = Manifest(told, digest, content)
        self._manifests.put(manifest, named)
        return self._as_pushed(name, manifest, named)

    def _as_pushed(self, name: RepositoryName, manifest: Manifest, named: bool) -> Manifest:
        """A manifest with the type that it was pushed with to a repository."""
        pushed_as = None if named else self.tree.media_type(name, manifest.digest)
        if pushed_as is None or not is_media_type(pushed_as):
            return manifest
        return Manifest(pushed_as, manifest.digest, manifest.content)

    def _mount_blob(self, name: RepositoryName, digest: Digest, source: RepositoryName | None) -> Descriptor:
        self.tree.refuse_mirrored(name)
        unknown = BlobUnknown(detail={"digest": str(digest)})
        stored = digest
        if source is not None:
            link = self.tree.layer(source, digest)
            if link is None:
                raise unknown
            stored = link.digest
        if not self.promises.renew_data(stored):
            raise unknown
        try:
            size = self._driver.stat(layout.blob_data(stored)).size
        except FileNotFoundError:
            # A collector looks at it, and puts it back: the client may push it instead.
            raise unknown from None
        self.tree.write_link(layout.layer_link(name, digest), stored)
        return Descriptor(OCTET_STREAM, digest, size)

    def _put_manifest(
        self, name: RepositoryName, manifest: Manifest, tags: Sequence[Tag], condition: Condition | None
    ) -> Digest | None:
        refuse_ambiguity(manifest.content, manifest.media_type)
        told, _ = told_media_type(manifest.content)
        if not manifest.media_type:
            manifest = Manifest(told, manifest.digest, manifest.content)
        document = read_document(manifest)
        self._rules.check(document, told)
        subject = document.subject.digest if document.subject else None
        untold = None if told == manifest.media_type else manifest.media_type
        began = self._now()
        try:
            # What this push relies on, and what it writes, is not deleted before its tags stand.
            # One that depends on what stands there holds it alone: of two that expect the same, one finds the other's.
            with self._driver.guard(layout.repository(name), condition is not None):
                # Here, and not before: who marks a repository as a mirror's holds it alone, and finds what this writes.
                self.tree.refuse_mirrored(name)
                self._renew_parts(name, manifest.digest, document)
                self._require(name, condition)
                self._driver.put_content(layout.blob_data(manifest.digest), manifest.content, above=True)
                if subject is not None:
                    self.tree.write_link(layout.referrer_link(name, subject, manifest.digest), manifest.digest)
                self.tree.put_revision(name, manifest.digest, untold)
                if self._is_slow(began):
                    # Before the tags: a push that is refused now has moved none.
                    self._renew_parts(name, manifest.digest, document)
                for tag in tags:
                    self.tree.put_tag(name, tag, manifest.digest)
                if self._is_slow(began):
                    self._renew_all(name, manifest.digest, document, tags)
        except (ManifestBlobUnknown, PreconditionFailed):
            self._leave(name)
            raise
        return subject

    def _is_slow(self, began: float) -> bool:
        return self._now() - began > self._grace * SLOW_PUSH

    def _renew_all(self, name: RepositoryName, digest: Digest, document: Document, tags: Sequence[Tag]) -> None:
        """Renew a manifest that was just pushed, with its tags and parts: a collector may have seen it before them.

        Errors:
            Unavailable: it did, and has taken of it.
        """
        there = [self.promises.renew_revision(name, digest)]
        there += [self.promises.renew(layout.tag_link(name, tag)) for tag in tags]
        if not all(there):
            raise Unavailable("the push took so long that the collector has taken a part of it: push it again")
        self._renew_parts(name, digest, document)

    def _renew_parts(self, name: RepositoryName, digest: Digest, document: Document) -> None:
        parts = Parts(self.tree, self.promises, self._rules, lambda child: self._load(name, child), name)
        missing = parts.renew(digest, document)
        if missing:
            raise ManifestBlobUnknown([str(part) for part in missing])

    def _require(self, name: RepositoryName, condition: Condition | None) -> None:
        """Look, while nobody else changes the repository, whether it is as the client thinks.

        Errors:
            PreconditionFailed: it is not.
        """
        if condition is None:
            return
        named: Digest | None
        try:
            named, _ = self._find_manifest(name, condition.reference)
        except (NameUnknown, ManifestUnknown):
            named = None
        if not condition.holds(named):
            raise PreconditionFailed(detail={"reference": str(condition.reference)})

    def _leave(self, name: RepositoryName) -> None:
        """Give up a repository that is none but for the folder that a push has held."""
        if not self.tree.has_repository(name):
            with self._driver.guard(layout.repository(name), True):
                self._driver.prune(layout.repository(name), layout.REPOSITORIES)

    def _delete_blob(self, name: RepositoryName, digest: Digest) -> None:
        if not self.tree.exists(layout.layer_link(name, digest)):
            raise self._unknown(name, BlobUnknown(detail={"digest": str(digest)}))
        try:
            with self._driver.guard(layout.repository(name), True):
                self.tree.delete_link(layout.layer_link(name, digest), layout.layers(name))
        except FileNotFoundError:
            raise self._unknown(name, BlobUnknown(detail={"digest": str(digest)})) from None

    def _delete_manifest(self, name: RepositoryName, digest: Digest, condition: Condition | None) -> None:
        if not self.tree.exists(layout.revision_link(name, digest)):
            raise self._unknown(name, ManifestUnknown(detail={"reference": str(digest)}))
        subject = self._subject_of(name, digest)
        # A push may have written the revision with its tags to come, or be moving a tag away from what is deleted here.
        with self._driver.guard(layout.repository(name), True):
            self._require(name, condition)
            for tag in self.tree.tags(name):
                if self.tree.tag(name, tag) == digest:
                    self.tree.delete_tag(name, tag)
            try:
                self.tree.delete_revision(name, digest)
            except FileNotFoundError:
                raise ManifestUnknown(detail={"reference": str(digest)}) from None
            if subject is not None:
                self.tree.delete_referrer(name, subject, digest)

    def _delete_tag(self, name: RepositoryName, tag: Tag, condition: Condition | None) -> None:
        if not self.tree.exists(layout.tag_link(name, tag)):
            raise self._unknown(name, ManifestUnknown(detail={"reference": tag}))
        try:
            with self._driver.guard(layout.repository(name), True):
                self._require(name, condition)
                self.tree.delete_tag(name, tag)
        except FileNotFoundError:
            raise self._unknown(name, ManifestUnknown(detail={"reference": tag})) from None

    def _tags(self, name: RepositoryName, count: int | None, after: str) -> Page:
        names = self.tree.tags(name)
        if not names and not self.tree.has_repository(name):
            raise NameUnknown(detail={"name": name})
        following = names[bisect_right(names, after) :]
        return names_page((tag for tag in following if self.tree.exists(layout.tag_link(name, tag))), count)

    def _referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str], after: Digest | None
    ) -> ReferrerPage:
        digests = {*self.tree.referrers(name, subject), *self._listed_referrers(name, subject)}
        following = sorted(digest for digest in digests if after is None or digest > after)
        referrers = (self._referrer(name, digest, subject) for digest in following)
        return referrers_page(
            referrer
            for referrer in referrers
            if referrer is not None and (not artifact_types or referrer.artifact_type in artifact_types)
        )

    def _listed_referrers(self, name: RepositoryName, subject: Digest) -> Iterable[Digest]:
        """The referrers that clients of a registry without referrers API have listed under a tag."""
        digest = self.tree.tag(name, subject.referrers_tag)
        document = self._document(name, digest) if digest else None
        return [part.descriptor.digest for part in document.manifests] if document else []

    def _referrer(self, name: RepositoryName, digest: Digest, subject: Digest) -> Referrer | None:
        if self.tree.revision(name, digest) is None:
            return None
        document = self._document(name, digest)
        if document is None or document.subject is None or document.subject.digest != subject:
            return None
        descriptor = self._load(name, digest).descriptor
        return Referrer(descriptor, document.artifact_type, document.annotations)

    def _subject_of(self, name: RepositoryName, digest: Digest) -> Digest | None:
        document = self._document(name, digest)
        return document.subject.digest if document and document.subject else None

    def _document(self, name: RepositoryName, digest: Digest) -> Document | None:
        """What a manifest of the repository says, or None where it cannot be read."""
        try:
            return read_document(self._load(name, digest))
        except (ManifestUnknown, ManifestInvalid):
            return None
