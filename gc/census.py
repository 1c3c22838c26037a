"""What one repository holds, read once: its tags, and its manifests with what they say of other content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from registryd.errors import DigestInvalid, ManifestInvalid
from registryd.model import Document, is_media_type, read_stored
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver, Leaf
from registryd.storage.mark import upstream_of
from registryd_gc.digests import LENGTHS, data_path, digest, from_name, link_size, packed, raw
from registryd_gc.report import Damage


@attrs.define
class Tagged:
    """A tag: what it names, None where its link cannot be read, and when it was used last.

    ``history`` is what it has named, where that had to be read.
    """

    name: Tag
    target: bytes | None
    used: float
    history: Sequence[bytes] = ()


@attrs.define
class Revision:
    """A manifest of a repository: when its link was renewed last, and what it says.

    ``children`` may be manifests, or blobs. ``parts`` are blobs, packed. ``unread``: nobody knows what it needs.
    """

    digest: bytes
    modified: float
    subject: bytes | None = None
    children: tuple[bytes, ...] = ()
    parts: bytes = b""
    unread: bool = False
    kept: bool = False


@attrs.define
class Repository:
    """A repository as it was read. ``upstream`` is None where it mirrors none. ``damage`` was found on the way.

    ``untidy`` are folders of manifests in which a dead writer may have left something, each with its parent.
    """

    name: RepositoryName
    upstream: str | None = None
    tags: dict[Tag, Tagged] = attrs.field(factory=dict)
    revisions: dict[bytes, Revision] = attrs.field(factory=dict)
    damage: list[Damage] = attrs.field(factory=list)
    untidy: list[tuple[str, Leaf]] = attrs.field(factory=list)

    @property
    def unread(self) -> bool:
        """Whether it holds a manifest of which nobody knows what it needs; what a mirror lacks it fetches again."""
        return self.upstream is None and any(revision.unread for revision in self.revisions.values())

    @property
    def doubtful(self) -> bool:
        """Whether any of its manifests may be the one that a tag names, which cannot be read and has no history."""
        return any(tag.target is None and not tag.history for tag in self.tags.values())


def names(driver: IStorageDriver, empty: list[str] | None = None) -> Iterator[RepositoryName]:
    """Every repository of a tree, also one that holds next to nothing, or whose name no client could send.

    ``empty`` grows by the folders below that hold nothing at all. A symbolic link to a folder above it is passed by.
    """
    pending: list[tuple[str, tuple[object, ...]]] = [(layout.REPOSITORIES, ())]
    while pending:
        folder, above = pending.pop()
        version = _version(driver, folder)
        if version is not None and version in above:
            continue
        entries = list(driver.entries(folder))
        below = [entry.name for entry in entries if entry.is_folder]
        if folder != layout.REPOSITORIES and not PARTS.isdisjoint(below):
            yield RepositoryName(folder[len(layout.REPOSITORIES) + 1 :])
        if empty is not None and not entries:
            empty.append(folder)
        way = (*above, version)
        pending.extend((f"{folder}/{name}", way) for name in sorted(below, reverse=True) if name[0] != "_")


def _version(driver: IStorageDriver, folder: str) -> object:
    try:
        return driver.stat(folder).version
    except FileNotFoundError:
        return None


def stands(driver: IStorageDriver, path: str) -> bool:
    """Whether anything is at a path."""
    try:
        driver.stat(path)
    except FileNotFoundError:
        return False
    return True


PARTS = frozenset({"_manifests", "_layers", "_uploads", "_mirror", "_upstream"})
"""What a repository's folder holds, any of them."""


@attrs.frozen
class Census:
    """Reads repositories."""

    driver: IStorageDriver

    def read(self, name: RepositoryName) -> Repository:
        """All that a repository holds, but its layer links.

        Errors:
            OSError: a folder or a link cannot be read: then nothing must be removed for want of a name in it.
        """
        repository = Repository(name, self.upstream(name))
        for algorithm in LENGTHS:
            for leaf in self.driver.leaves(f"{layout.manifests(name)}/revisions/{algorithm}", "link", True):
                self._read_revision(repository, algorithm, leaf)
        for leaf in self.driver.leaves(layout.tags(name), "current/link", False):
            if leaf.size is not None or self._is_folder(layout.tag_link(name, Tag(leaf.name))):
                self._read_tag(repository, leaf)
        return repository

    def document(self, name: RepositoryName, manifest: bytes) -> Document:
        """What a manifest says, whatever became of its link.

        Errors:
            ManifestInvalid: its bytes have another digest, or are no JSON.
            OSError: they cannot be read.
        """
        content = self.driver.get_content(data_path(manifest))
        known_by = digest(manifest)
        if Digest.of(content, known_by.algorithm) != known_by:
            raise ManifestInvalid("its bytes have another digest" if content else "it is empty")
        return read_stored(content, lambda: self._pushed_as(name, known_by))

    def upstream(self, name: RepositoryName) -> str | None:
        """Which upstream a repository mirrors; None where it is private."""
        return upstream_of(self.driver, name)

    def _pushed_as(self, name: RepositoryName, known_by: Digest) -> str | None:
        try:
            text = self.driver.get_content(layout.revision_media_type(name, known_by)).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return text if is_media_type(text) else None

    def _read_revision(self, repository: Repository, algorithm: str, leaf: Leaf) -> None:
        manifest = from_name(algorithm, leaf.name)
        if leaf.size is None or any(map(layout.is_temporary, leaf.others)):
            repository.untidy.append((f"{layout.manifests(repository.name)}/revisions/{algorithm}", leaf))
        if manifest is None or leaf.size is None:
            return
        revision = repository.revisions[manifest] = Revision(manifest, leaf.modified)
        path = layout.revision_link(repository.name, digest(manifest))
        if leaf.size != link_size(algorithm):
            repository.damage.append(Damage("link", path, _wrong_size(leaf.size)))
        try:
            said = self.document(repository.name, manifest)
        except FileNotFoundError:
            repository.damage.append(Damage("dangling", path, "its manifest is missing"))
        except (ManifestInvalid, OSError) as error:
            revision.unread = True
            repository.damage.append(Damage("manifest", data_path(manifest), str(error)))
        else:
            _remember(revision, said)
        if "signatures" in leaf.others:
            folder = path.rpartition("/")[0]
            revision.parts += packed(self._below(f"{folder}/signatures"))

    def _read_tag(self, repository: Repository, leaf: Leaf) -> None:
        tag = Tag(leaf.name)
        path = layout.tag_link(repository.name, tag)
        try:
            content = self.driver.get_content(path)
            target = raw(Digest.parse(content.decode("ascii").strip()))
        except FileNotFoundError:
            if not self._is_folder(path):
                return
            self._keep_history(repository, tag, leaf, "it is a folder")
            return
        except OSError as error:
            self._keep_history(repository, tag, leaf, error.strerror or "it cannot be read")
            return
        except (DigestInvalid, UnicodeDecodeError):
            self._keep_history(repository, tag, leaf, _wrong_size(len(content)))
            return
        repository.tags[tag] = Tagged(tag, target, leaf.modified)
        if target not in repository.revisions and not self._holds(repository.name, target):
            repository.damage.append(Damage("dangling", path, f"{digest(target)} is no manifest of the repository"))

    def _keep_history(self, repository: Repository, tag: Tag, leaf: Leaf, why: str) -> None:
        """Take note of a tag that does not tell what it names: it may be anything that it ever named."""
        history = tuple(self._below(layout.tag_history(repository.name, tag)))
        repository.tags[tag] = Tagged(tag, None, leaf.modified, history)
        repository.damage.append(Damage("link", layout.tag_link(repository.name, tag), why))

    def _is_folder(self, path: str) -> bool:
        try:
            return self.driver.stat(path).is_folder
        except FileNotFoundError:
            return False

    def _holds(self, name: RepositoryName, manifest: bytes) -> bool:
        """Whether a repository holds a manifest by now: what was pushed since all were listed is young, and safe."""
        return stands(self.driver, layout.revision_link(name, digest(manifest)))

    def _below(self, folder: str) -> Iterator[bytes]:
        """The digests whose links stand in a folder."""
        for algorithm in LENGTHS:
            for leaf in self.driver.leaves(f"{folder}/{algorithm}", "link", False):
                found = from_name(algorithm, leaf.name)
                if found is not None and leaf.size is not None:
                    yield found


def _remember(revision: Revision, said: Document) -> None:
    revision.subject = raw(said.subject.digest) if said.subject else None
    revision.children = (
        *(raw(part.descriptor.digest) for part in said.manifests),
        *(raw(mentioned) for mentioned in said.mentioned),
    )
    revision.parts = packed(raw(part.descriptor.digest) for part in said.blobs)


def _wrong_size(size: int) -> str:
    return f"not a digest: {size} bytes" if size else "empty"
