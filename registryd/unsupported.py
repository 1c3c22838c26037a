"""The registry that refuses everything: the base of those that can do a part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from registryd.errors import Unsupported
from registryd.interfaces import Condition, IBlobReader, IBlobWriter, IRegistry, Page, ReferrerPage, UploadStatus
from registryd.model import Descriptor, Manifest
from registryd.reference import Digest, Reference, RepositoryName, Tag


@implementer(IRegistry)
class UnsupportedRegistry:
    """Answers everything with Unsupported."""

    def open_blob(self, name: RepositoryName, digest: Digest) -> Deferred[IBlobReader]:
        return self._refuse()

    def resolve_blob(self, name: RepositoryName, digest: Digest) -> Deferred[Descriptor]:
        return self._refuse()

    def get_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Manifest]:
        return self._refuse()

    def resolve_manifest(self, name: RepositoryName, reference: Reference) -> Deferred[Descriptor]:
        return self._refuse()

    def start_upload(self, name: RepositoryName, algorithm: str) -> Deferred[IBlobWriter]:
        return self._refuse()

    def resume_upload(self, name: RepositoryName, id: str) -> Deferred[IBlobWriter]:
        return self._refuse()

    def upload_status(self, name: RepositoryName, id: str) -> Deferred[UploadStatus]:
        return self._refuse()

    def mount_blob(self, name: RepositoryName, digest: Digest, source: RepositoryName | None) -> Deferred[Descriptor]:
        return self._refuse()

    def put_manifest(
        self, name: RepositoryName, manifest: Manifest, tags: Sequence[Tag], condition: Condition | None = None
    ) -> Deferred[Digest | None]:
        return self._refuse()

    def delete_blob(self, name: RepositoryName, digest: Digest) -> Deferred[None]:
        return self._refuse()

    def delete_manifest(
        self, name: RepositoryName, digest: Digest, condition: Condition | None = None
    ) -> Deferred[None]:
        return self._refuse()

    def delete_tag(self, name: RepositoryName, tag: Tag, condition: Condition | None = None) -> Deferred[None]:
        return self._refuse()

    def repositories(self, count: int | None, after: str) -> Deferred[Page]:
        return self._refuse()

    def tags(self, name: RepositoryName, count: int | None, after: str) -> Deferred[Page]:
        return self._refuse()

    def referrers(
        self, name: RepositoryName, subject: Digest, artifact_types: Collection[str] = (), after: Digest | None = None
    ) -> Deferred[ReferrerPage]:
        return self._refuse()

    def _refuse(self) -> Deferred[Any]:
        return fail(Unsupported())
