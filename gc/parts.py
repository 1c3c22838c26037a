"""Which kept manifests lack parts, and which links name content that is gone: looked for only where something is."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from registryd.config import Validation
from registryd.errors import ManifestInvalid
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.validation import Rules
from registryd_gc.census import Census, stands
from registryd_gc.digests import LENGTHS, digest, from_name, link_size, named_by, raw
from registryd_gc.mark import Marking
from registryd_gc.report import Damage


@attrs.frozen
class Parts:
    """Finds what is missing. What a configuration allows to be missing is not."""

    census: Census
    validation: Validation

    def missing(self, marking: Marking, unlinked: set[bytes]) -> Iterator[Damage]:
        """The kept manifests of a repository with parts among the blobs that it has no link of."""
        name = marking.repository.name
        for revision in marking.repository.revisions.values():
            if revision.kept and not revision.unread:
                parts = [digest(part) for part in self._required(name, revision.digest) if part in unlinked]
                lacks = [str(part) for part in parts if not self._holds(name, part)]
                if lacks:
                    path = layout.revision_link(name, digest(revision.digest))
                    yield Damage("parts", path, f"missing: {', '.join(lacks)}")

    def _holds(self, name: RepositoryName, part: Digest) -> bool:
        """Whether a repository holds a part by now: what was pushed while it was read is no damage."""
        paths = (layout.layer_link(name, part), layout.revision_link(name, part))
        return any(stands(self.census.driver, path) for path in paths)

    def _required(self, name: RepositoryName, manifest: bytes) -> Iterator[bytes]:
        """What must be there for a manifest to be whole."""
        rules = Rules(self.validation)
        try:
            said = self.census.document(name, manifest)
        except (FileNotFoundError, ManifestInvalid):
            return
        yield from (raw(part.descriptor.digest) for part in said.blobs if rules.requires_blob(part))
        yield from (raw(part.descriptor.digest) for part in said.manifests if rules.requires_manifest(part))

    def dangling(self, name: RepositoryName, missing: set[bytes]) -> Iterator[Damage]:
        """The layer links of a repository that name missing blobs."""
        for algorithm in LENGTHS:
            folder = f"{layout.layers(name)}/{algorithm}"
            for leaf in self.census.driver.leaves(folder, "link", False):
                path = f"{folder}/{leaf.name}/link"
                may_be = from_name(algorithm, leaf.name) in missing or leaf.size != link_size(algorithm)
                if leaf.size is not None and may_be and self._named(path) in missing:
                    yield Damage("dangling", path, "its blob is missing")

    def _named(self, path: str) -> bytes | None:
        """The blob that a link names, which is another than its own where it is an alias; None where it tells none."""
        try:
            return named_by(self.census.driver.get_content(path))
        except FileNotFoundError:
            return None
