"""Taking over a cache that another program has filled, such as Distribution's proxy: an operator's decision.

What is adopted expires from then on like all that is mirrored, so this is never done without being asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from registryd.errors import RegistryError
from registryd.interfaces import INamespaces
from registryd.reference import RepositoryName
from registryd.storage import layout
from registryd.storage.tree import Tree


@attrs.frozen
class Adopted:
    """A repository that is a mirror's from now on, under its name in the tree; and what it was called before."""

    before: RepositoryName
    name: RepositoryName
    upstream: str


@attrs.frozen
class Adoption:
    """Adopts the repositories of a tree that a configuration takes for an upstream's.

    ``upstream_of`` tells the upstream of a name of the tree, or None where that is private.
    """

    tree: Tree
    namespaces: INamespaces
    upstream_of: Callable[[RepositoryName], str | None]

    def planned(self) -> Iterator[Adopted]:
        """What would be adopted."""
        for name in list(self.tree.repositories()):
            try:
                place = self.namespaces.resolve(name, None, None).name
            except RegistryError:
                continue  # A name that no client can ask for any more.
            upstream = self.upstream_of(place)
            if upstream is not None and not self.tree.exists(layout.mirror(name)):
                yield Adopted(name, place, upstream)

    def adopt(self, adopted: Adopted) -> None:
        """Mark a repository as a mirror, where a client's name leads now; it is as if all in it were used just now.

        Interrupted, it can be done again.
        """
        # The mark first: what is copied into a repository without it would look like somebody's own.
        self.tree.driver.put_content(layout.mirror(adopted.name), adopted.upstream.encode("utf-8"))
        moved = adopted.name != adopted.before
        for source in self._links(adopted.before):
            if moved:
                target = layout.repository(adopted.name) + source.removeprefix(layout.repository(adopted.before))
                self.tree.driver.put_content(target, self.tree.driver.get_content(source))
            else:
                self.tree.driver.touch(source)
        if moved:
            self.tree.driver.make_folder(layout.layers(adopted.name))
            self._delete(adopted.before)

    def _links(self, name: RepositoryName) -> list[str]:
        """The paths of all that is worth keeping of a repository: manifests after layers, tags last."""
        tree = self.tree
        layers = [layout.layer_link(name, digest) for digest in tree.digests(layout.layers(name))]
        revisions = [layout.revision_link(name, digest) for digest in tree.digests(layout.revisions(name))]
        media_types = [layout.revision_media_type(name, digest) for digest in tree.digests(layout.revisions(name))]
        tags = [layout.tag_link(name, tag) for tag in tree.tags(name)]
        return [path for path in (*layers, *media_types, *revisions, *tags) if tree.exists(path)]

    def _delete(self, name: RepositoryName) -> None:
        for folder in (layout.manifests(name), layout.layers(name), layout.uploads(name)):
            try:
                self.tree.driver.delete(folder)
            except FileNotFoundError:
                pass
        self.tree.driver.prune(layout.repository(name), layout.REPOSITORIES)
