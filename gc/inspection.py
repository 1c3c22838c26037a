"""What is damaged in one repository: its links are all read, and what they lead to is looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from registryd.interfaces import IStorageDriver
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd_gc.census import Census, Repository
from registryd_gc.digests import LENGTHS, digest, from_name
from registryd_gc.mark import Marking
from registryd_gc.parts import Parts
from registryd_gc.repair import is_right, read_link
from registryd_gc.report import Damage


@attrs.define
class Inspection:
    """Inspects repositories one by one. What ``mend`` makes of each damage is what is told.

    With ``writes``, entries of referrers that are missing are written; ``missing_referrers`` counts them.
    """

    driver: IStorageDriver
    parts: Parts
    mend: Callable[[Damage], Damage]
    writes: bool
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
        linked: set[bytes] = set()
        for blob, found in self._layers(name):
            mended = self.mend(found) if found is not None else None
            if mended is not None:
                yield mended
            if mended is None or mended.repaired:
                linked.add(blob)
        for found in self._referrers(repository):
            yield self.mend(found)
        # What is missing in a mirrored repository is fetched when somebody asks for it.
        if repository.upstream is None:
            yield from self.parts.missing(marking, {blob for blob in marking.needed if not self._links(name, blob)})
