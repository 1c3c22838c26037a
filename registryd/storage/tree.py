"""The tree as the database that it is: links, revisions, tags, referrers and upload sessions over any storage driver.

All calls block, and none validates what comes from outside: names, tags and digests are the parsed values of
``registryd.reference``. A link that cannot be read as a digest is logged and counts as absent, for that item alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import attrs
from twisted.logger import Logger

from registryd.errors import DigestInvalid, Unsupported
from registryd.reference import ALGORITHMS, Digest, RepositoryName, Tag, is_name, is_tag
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver, Stat
from registryd.storage.mark import upstream_of

_log = Logger()


LINKS_KNOWN = 16384
"""Links that are remembered, at some 400 bytes each."""

SETTLED = 2.0
"""Seconds after which a link that is written once more has another time for certain, and may be remembered."""


@attrs.frozen
class Link:
    """What a link holds, and when it was written or renewed, in seconds since the epoch."""

    digest: Digest
    modified: float
    version: object


@attrs.frozen
class Tree:
    """A registry's tree on a storage driver. A link that was read is remembered while its version is the same."""

    driver: IStorageDriver
    _links: dict[str, Link] = attrs.field(factory=dict, init=False, repr=False)

    def link(self, path: str) -> Link | None:
        """A link, or None where there is none, or none that can be read.

        It is looked for twice: a collector that puts back what was used meanwhile takes it away for an instant.
        """
        try:
            stat = self._stat(path)
            known = self._links.get(path)
            if known is not None and known.version == stat.version:
                return known
            content = self.driver.get_content(path)
        except FileNotFoundError:
            return None
        try:
            link = Link(Digest.parse(content.decode("ascii").strip()), stat.modified, stat.version)
        except (DigestInvalid, UnicodeDecodeError):
            _log.error("{path}: not a digest: {content!r}", path=path, content=content[:200])
            return None
        if time.time() - stat.modified > SETTLED:
            if len(self._links) >= LINKS_KNOWN:
                self._links.clear()
            self._links[path] = link
        return link

    def _stat(self, path: str) -> Stat:
        try:
            return self.driver.stat(path)
        except FileNotFoundError:
            return self.driver.stat(path)

    def read_link(self, path: str) -> Digest | None:
        """The digest that a link holds."""
        link = self.link(path)
        return link.digest if link is not None else None

    def write_link(self, path: str, digest: Digest) -> None:
        """Let a link hold a digest."""
        self.driver.put_content(path, str(digest).encode("ascii"), above=True)

    def exists(self, path: str) -> bool:
        """Whether anything is at a path."""
        try:
            self.driver.stat(path)
        except FileNotFoundError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        """The names in a folder in the order of their bytes; none where there is no folder."""
        try:
            return sorted(self.driver.list(path))
        except FileNotFoundError:
            return []

    def has_repository(self, name: RepositoryName) -> bool:
        """Whether a repository holds, or has held, anything."""
        return self.exists(layout.manifests(name)) or self.exists(layout.layers(name))

    def mirrors(self, name: RepositoryName) -> str | None:
        """The upstream whose mirror a repository is; None where it is private."""
        return upstream_of(self.driver, name)

    def refuse_mirrored(self, name: RepositoryName) -> None:
        """Refuse a push into a repository that mirrors an upstream: what it holds expires.

        Errors:
            Unsupported: it does.
        """
        if self.exists(layout.mirror(name)):
            raise Unsupported(f"{name} mirrors another registry, and takes no pushes")

    def repositories(self, after: str = "", holding: str = "_manifests") -> Iterator[RepositoryName]:
        """The repositories with a folder, in the order of their names' bytes, that come after a name."""
        return self._repositories_below("", self.names(layout.REPOSITORIES), after, holding)

    def _repositories_below(self, parent: str, names: list[str], after: str, holding: str) -> Iterator[RepositoryName]:
        children = [name for name in names if name[0] not in "_."]
        held: dict[str, list[str]] = {}
        # "a-b" comes after "a" and before "a/b": a repository and what lies below it are sorted apart, as "a" and "a/".
        for key in sorted([*children, *(child + "/" for child in children)]):
            path = parent + key
            if key[-1] != "/":
                if path > after or after.startswith(path + "/"):
                    held[key] = self.names(f"{layout.REPOSITORIES}/{path}")
                if path > after and holding in held[key] and is_name(path):
                    yield RepositoryName(path)
            elif path > after or after.startswith(path):
                below = held.pop(key[:-1], None)
                if below is None:
                    below = self.names(f"{layout.REPOSITORIES}/{path[:-1]}")
                yield from self._repositories_below(path, below, after, holding)

    def digests(self, folder: str) -> Iterator[Digest]:
        """The digests whose folders ``<alg>/<hex>`` stand in a folder, in their order; other names are skipped."""
        for algorithm in ALGORITHMS:
            for hexadecimal in self.names(f"{folder}/{algorithm}"):
                try:
                    yield Digest.parse(f"{algorithm}:{hexadecimal}")
                except DigestInvalid:
                    _log.error("{path}: not a digest", path=f"{folder}/{algorithm}/{hexadecimal}")

    def tags(self, name: RepositoryName) -> list[Tag]:
        """The tags of a repository in the order of their bytes; some may name nothing any more."""
        return [Tag(tag) for tag in self.names(layout.tags(name)) if is_tag(tag)]

    def tag(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """The digest that a tag names."""
        return self.read_link(layout.tag_link(name, tag))

    def put_tag(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        """Let a tag name a digest; its history first, so that every digest that a tag has named is found there."""
        self.write_link(layout.tag_history_link(name, tag, digest), digest)
        self.write_link(layout.tag_link(name, tag), digest)

    def delete_tag(self, name: RepositoryName, tag: Tag) -> None:
        """Remove a tag and its history. Whoever pushes tags of the repository meanwhile must be kept out.

        Errors:
            FileNotFoundError: there is no such tag.
        """
        self.driver.delete(layout.tag_link(name, tag))
        self._delete_if_there(layout.tag_history(name, tag))
        self.driver.prune(f"{layout.tag(name, tag)}/current", layout.tags(name))

    def delete_link(self, path: str, stop: str) -> None:
        """Remove a link, then the folders above it, below ``stop``, that are empty.

        Errors:
            FileNotFoundError: there is no such link.
        """
        self.driver.delete(path)
        self.driver.prune(path.rpartition("/")[0], stop)

    def layer(self, name: RepositoryName, digest: Digest) -> Link | None:
        """The link of a blob that a repository holds; its digest is the one under which the blob is stored.

        It is another, of another algorithm, where Distribution stored a blob pushed under sha512 as sha256.
        """
        path = layout.layer_link(name, digest)
        link = self.link(path)
        if link is not None and link.digest != digest and link.digest.algorithm == digest.algorithm:
            _log.error("{path}: names another blob, {other}", path=path, other=link.digest)
            return None
        return link

    def revision(self, name: RepositoryName, digest: Digest) -> Link | None:
        """The link of a manifest that a repository holds."""
        path = layout.revision_link(name, digest)
        link = self.link(path)
        if link is not None and link.digest != digest:
            _log.error("{path}: names another manifest, {other}", path=path, other=link.digest)
            return None
        return link

    def put_revision(self, name: RepositoryName, digest: Digest, media_type: str | None) -> None:
        """Let a repository hold a manifest, whose type is kept where its bytes do not tell it."""
        # Distribution 2.8 collects the manifests of a repository without this folder.
        self.driver.make_folder(layout.layers(name))
        if media_type is not None:
            self.driver.put_content(layout.revision_media_type(name, digest), media_type.encode("utf-8"), above=True)
        else:
            self._delete_if_there(layout.revision_media_type(name, digest))
        self.write_link(layout.revision_link(name, digest), digest)

    def delete_revision(self, name: RepositoryName, digest: Digest) -> None:
        """Let a repository hold a manifest no more.

        Errors:
            FileNotFoundError: it does not hold it.
        """
        link = layout.revision_link(name, digest)
        self.driver.delete(link)
        self._delete_if_there(layout.revision_media_type(name, digest))
        self.driver.prune(link.rpartition("/")[0], layout.manifests(name))

    def media_type(self, name: RepositoryName, digest: Digest) -> str | None:
        """The type that a manifest was pushed with, where its bytes do not tell it."""
        try:
            return self.driver.get_content(layout.revision_media_type(name, digest)).decode("utf-8", "replace")
        except FileNotFoundError:
            return None

    def referrers(self, name: RepositoryName, subject: Digest) -> Iterator[Digest]:
        """The manifests that were pushed with a subject, whether or not the repository still holds them."""
        return self.digests(layout.referrers(name, subject))

    def delete_referrer(self, name: RepositoryName, subject: Digest, referrer: Digest) -> None:
        """Forget that a manifest was pushed with a subject."""
        try:
            self.delete_link(layout.referrer_link(name, subject, referrer), layout.manifests(name))
        except FileNotFoundError:
            pass

    def _delete_if_there(self, path: str) -> None:
        try:
            self.driver.delete(path)
        except FileNotFoundError:
            pass
