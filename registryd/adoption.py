"""Taking over a cache that another program has filled, such as Distribution's proxy, or that was filled from an
upstream that is called otherwise now: an operator's decision.

What is adopted expires from then on like all that is mirrored, so this is never done without being asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import attrs

from registryd.errors import RegistryError
from registryd.interfaces import INamespaces
from registryd.reference import RepositoryName
from registryd.storage import layout
from registryd.storage.tree import Tree


@attrs.frozen
class Adopted:
    """A repository that is a mirror's from now on, under its name in the tree.

    ``before`` is what it was called before, ``marked`` the other upstream that its mark has named, if it names one.
    """

    before: RepositoryName
    name: RepositoryName
    upstream: str
    marked: str | None = None


@attrs.frozen
class Adoption:
    """Adopts the repositories of a tree that a configuration takes for an upstream's.

    ``upstream_of`` tells the upstream of a name of the tree, or None where that is private. Marks that are among
    ``aliases`` are that upstream's too.
    """

    tree: Tree
    namespaces: INamespaces
    upstream_of: Callable[[RepositoryName], str | None]
    aliases: Container[str] = frozenset()

    def planned(self) -> Iterator[Adopted]:
        """What would be adopted."""
        # A mirrored repository may hold blobs alone; or its mark alone, where a move was interrupted.
        for name in sorted({*self.tree.repositories(), *self.tree.repositories(holding="_mirror")}):
            adopted = self.plan(name)
            if adopted is not None:
                yield adopted

    def plan(self, name: RepositoryName) -> Adopted | None:
        """What would become of a repository; None where it stays what it is."""
        try:
            place = self.namespaces.resolve(name, None, None).name
        except RegistryError:
            return None  # A name that no client can ask for any more.
        upstream = self.upstream_of(place)
        mark = self.tree.mirrors(name)
        if upstream is None or (mark is not None and self._stays(name, mark, place, upstream)):
            return None
        return Adopted(name, place, upstream, mark if mark != upstream else None)

    def _stays(self, name: RepositoryName, mark: str, place: RepositoryName, upstream: str) -> bool:
        """Whether a repository that has a mark keeps that and its name."""
        if place == name:
            return mark == upstream or mark in self.aliases
        # Below the upstream that it mirrors already: below another's, it would be taken for another repository.
        return name.partition("/")[0] == mark

    def adopt(self, adopted: Adopted) -> None:
        """Mark a repository as a mirror, where a client's name leads now; it is as if all in it were used just now.

        Interrupted, it can be done again.
        """
        # The mark first: what is copied into a repository without it would look like somebody's own.
        self.tree.driver.put_content(layout.mirror(adopted.name), adopted.upstream.encode("utf-8"))
        for source in self._links(adopted.before):
            target = layout.repository(adopted.name) + source.removeprefix(layout.repository(adopted.before))
            if self.tree.exists(target):
                # It has not moved; or a mirror has put it there since, and a tag that it has put there is newer.
                self.tree.driver.touch(target)
            else:
                self.tree.driver.put_content(target, self.tree.driver.get_content(source), above=True)
        if adopted.name != adopted.before:
            self.tree.driver.make_folder(layout.layers(adopted.name))
            self._delete(adopted.before)

    def _links(self, name: RepositoryName) -> list[str]:
        """The paths of all that is worth keeping of a repository: manifests after layers, tags last."""
        tree = self.tree
        subjects = tree.digests(f"{layout.manifests(name)}/referrers")
        layers = [layout.layer_link(name, digest) for digest in tree.digests(layout.layers(name))]
        revisions = [layout.revision_link(name, digest) for digest in tree.digests(layout.revisions(name))]
        media_types = [layout.revision_media_type(name, digest) for digest in tree.digests(layout.revisions(name))]
        referrers = [layout.referrer_link(name, one, other) for one in subjects for other in tree.referrers(name, one)]
        tags = [layout.tag_link(name, tag) for tag in tree.tags(name)]
        return [path for path in (*layers, *media_types, *referrers, *revisions, *tags) if tree.exists(path)]

    def _delete(self, name: RepositoryName) -> None:
        # Done again, this finds the repository by its manifests or its mark; and no rest of a mirror is without a mark.
        for part in (layout.layers, layout.uploads, layout.upstream, layout.manifests, layout.mirror):
            try:
                self.tree.driver.delete(part(name))
            except FileNotFoundError:
                pass
        self.tree.driver.prune(layout.mirror_folder(name), layout.REPOSITORIES)
