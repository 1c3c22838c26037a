"""What is damaged in one repository: its links are all read, and what they lead to is looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.census import Census, Repository
from registryd_gc.digests import LENGTHS, digest, from_name
from registryd_gc.mark import Marking
from registryd_gc.parts import Parts
from registryd_gc.repair import is_right, read_link
from registryd_gc.report import Damage


@attrs.define
class Inspection:
    """Inspects repositories one by one. What ``mend`` makes of each damage is what is told.

    ``awaited_since`` tells how old a link of a missing blob may be for it to be that of a push which has not ended.
    With ``writes``, entries of referrers that are missing are written; ``missing_referrers`` counts them.
    """

    driver: IStorageDriver
    parts: Parts
    mend: Callable[[Damage], Damage]
    writes: bool
    awaited_since: Callable[[Digest], float]
    missing_referrers: int = attrs.field(default=0, init=False)

    def inspect(self, name: RepositoryName) -> Iterator[Damage]:
        """The damage of a repository; that of its parts after all else is mended, since that shows what they lack."""
        repository = Census(self.driver).read(name)
        marking = Marking(repository)
        marking.keep(repository.revisions)
        manifests = [*repository.damage, *self._revisions(repository)]
        # A tag that cannot be read is last: what it may name has to stand.
        for damage in sorted(manifests, key=lambda damage: "/_manifests/tags/" in damage.path):
            yield self.mend(damage)
        lacking = set(marking.needed)
        for blob, found in self._layers(name):
            if found is None:
                lacking.discard(blob)
            else:
                yield self.mend(found)
        for found in self._referrers(repository):
            yield self.mend(found)
        # What is missing in a mirrored repository is fetched when somebody asks for it.
        if repository.upstream is None:
            yield from self.parts.missing(marking, lacking)

    def _revisions(self, repository: Repository) -> Iterator[Damage]:
        """The links of manifests that have the size of one, and are none."""
        known = {damage.path for damage in repository.damage if damage.kind == "link"}
        for revision in repository.revisions.values():
            path = layout.revision_link(repository.name, digest(revision.digest))
            if path not in known:
                found = self._link(path, digest(revision.digest), False)
                if found is not None:
                    yield found

    def _layers(self, name: RepositoryName) -> Iterator[tuple[bytes, Damage | None]]:
        """The blobs that a repository has links of, and what is wrong with each."""
        for algorithm in LENGTHS:
            folder = f"{layout.layers(name)}/{algorithm}"
            for leaf in self.driver.leaves(folder, "link", False):
                blob = from_name(algorithm, leaf.name)
                if blob is not None and leaf.size is not None:
                    path = f"{folder}/{leaf.name}/link"
                    yield blob, self._link(path, digest(blob), True) or self._dangling(path)

    def _referrers(self, repository: Repository) -> Iterator[Damage]:
        """The entries of referrers that cannot be read; those that are missing are written."""
        for revision in repository.revisions.values():
            if revision.subject is not None:
                named = digest(revision.digest)
                path = layout.referrer_link(repository.name, digest(revision.subject), named)
                try:
                    found = self._checked(path, named, False)
                except FileNotFoundError:
                    # Distribution knows of none: no damage.
                    self._write(path, named)
                else:
                    if found is not None:
                        yield found

    def _write(self, path: str, named: Digest) -> None:
        self.missing_referrers += 1
        if self.writes:
            self.driver.put_content(path, str(named).encode("ascii"), above=True)

    def _link(self, path: str, named: Digest, aliased: bool) -> Damage | None:
        """What is wrong with a link; nothing is with one that has gone."""
        try:
            return self._checked(path, named, aliased)
        except FileNotFoundError:
            return None

    def _checked(self, path: str, named: Digest, aliased: bool) -> Damage | None:
        found = read_link(self.driver, path)
        if is_right(found, named, aliased):
            return None
        return Damage("link", path, f"names {found}" if found is not None else "holds no digest")

    def _dangling(self, path: str) -> Damage | None:
        """Whether a link that can be read is to a blob that is missing."""
        try:
            target, modified = read_link(self.driver, path), self.driver.stat(path).modified
        except FileNotFoundError:
            return None
        if target is None or self._holds(target) or modified > self.awaited_since(target):
            return None
        return Damage("dangling", path, "its blob is missing")

    def _holds(self, blob: Digest) -> bool:
        try:
            self.driver.stat(layout.blob_data(blob))
        except FileNotFoundError:
            return False
        return True
