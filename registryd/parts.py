"""What a manifest relies on, renewed to any depth while it is pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from registryd.errors import ManifestInvalid, ManifestUnknown
from registryd.model import Document, Manifest, read_document
from registryd.promises import Promises
from registryd.reference import Digest, RepositoryName, Tag, attached_tags
from registryd.storage import layout
from registryd.storage.tree import Tree
from registryd.validation import Rules


@attrs.define
class Parts:
    """One walk over what a manifest of a repository references, and over what refers to any manifest on the way.

    Without the depth a collector could take the layers of an old untagged child from under a new index; without the
    referrers, the signatures of an old untagged image that is tagged again; also those in tags made of its digest.
    """

    _tree: Tree
    _promises: Promises
    _rules: Rules
    _load: Callable[[Digest], Manifest]
    _name: RepositoryName
    _blobs: dict[Digest, bool] = attrs.field(factory=dict, init=False)
    _walked: dict[Digest, bool] = attrs.field(factory=dict, init=False)
    _pending: list[tuple[Digest, Document, bool]] = attrs.field(factory=list, init=False)

    def renew(self, digest: Digest, document: Document) -> Sequence[Digest]:
        """Renew all that the manifest relies on; the digests that are missing and required."""
        self._walked[digest] = True
        self._pending.append((digest, document, True))
        missing: dict[Digest, None] = {}
        while self._pending:
            manifest, said, relied_on = self._pending.pop()
            for part in self._missing(said, relied_on):
                if relied_on:
                    missing[part] = None
            for referrer in self._tree.referrers(self._name, manifest):
                self._renew_manifest(referrer, False)
            for tag in attached_tags(manifest):
                self._renew_attached(tag)
        return tuple(missing)

    def _missing(self, document: Document, relied_on: bool) -> Iterator[Digest]:
        """Renew the parts of one manifest; yields those that are missing and required."""
        for part in document.blobs:
            if not self._renew_blob(part.descriptor.digest) and self._rules.requires_blob(part):
                yield part.descriptor.digest
        for part in document.manifests:
            # An index of BuildKit's cache lists layers.
            there = self._renew_manifest(part.descriptor.digest, relied_on) or self._renew_blob(part.descriptor.digest)
            if not there and self._rules.requires_manifest(part):
                yield part.descriptor.digest
        for digest in document.mentioned:
            if not self._renew_manifest(digest, False):
                self._renew_blob(digest)

    def _renew_attached(self, tag: Tag) -> None:
        attached = self._tree.tag(self._name, tag)
        if attached is not None and self._promises.renew(layout.tag_link(self._name, tag)):
            self._renew_manifest(attached, False)

    def _renew_blob(self, digest: Digest) -> bool:
        if digest not in self._blobs:
            self._blobs[digest] = self._promises.renew_blob(self._tree, self._name, digest)
        return self._blobs[digest]

    def _renew_manifest(self, digest: Digest, relied_on: bool) -> bool:
        """Renew a manifest and put it on the way; once more where it was not relied on when it was met before."""
        walked = self._walked.get(digest)
        if walked is not None and (walked or not relied_on):
            return True
        if not self._promises.renew_revision(self._name, digest):
            return False
        try:
            manifest = self._load(digest)
        except ManifestUnknown:
            return False
        self._walked[digest] = relied_on
        try:
            self._pending.append((digest, read_document(manifest), relied_on))
        except ManifestInvalid:
            pass  # An old manifest that is no longer accepted still counts as there; nothing is known of its parts.
        return True
