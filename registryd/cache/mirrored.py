"""The tree's side of mirrored repositories: their mark, what the upstream told, and what was fetched.

All calls block.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

import attrs
from twisted.logger import Logger

from registryd.errors import DigestInvalid, ManifestInvalid
from registryd.interfaces import Referrer
from registryd.model import Descriptor, Manifest, read_document, told_media_type
from registryd.reference import Digest, Hash, RepositoryName, Tag, new_hash
from registryd.storage import layout
from registryd.storage.interfaces import IContentReader
from registryd.storage.tree import Tree

_log = Logger()

_READ = 1024 * 1024

TOLD_KNOWN = 16384
"""Tags of which it is remembered what the upstream told, while that is not written anew; at some 600 bytes each."""

AWAITED = 2048
"""Tags of which it is remembered that what the upstream told is not cached yet; a client asks for that at once."""

_PUSHED = "it holds images that no mirror put there"


@attrs.frozen
class Told:
    """What the upstream told last of a tag, and when, in seconds since the epoch; with a time of 0, never."""

    descriptor: Descriptor | None
    checked: float


@attrs.define
class Mirrored:
    """The repositories of a tree that mirror one upstream, whose name is in their mark, or one of its ``aliases``."""

    tree: Tree
    upstream: str
    aliases: Container[str] = frozenset()
    _refused: set[RepositoryName] = attrs.field(factory=set, init=False)
    _told: dict[str, tuple[object, Told]] = attrs.field(factory=dict, init=False, repr=False)
    _awaited: dict[tuple[RepositoryName, Tag], Digest] = attrs.field(factory=dict, init=False, repr=False)

    def may_fill(self, name: RepositoryName) -> bool:
        """Whether what is fetched may be kept in a repository: one of this upstream, or one that holds nothing yet.

        What was pushed, or cached by another program, must never become a cache entry that expires.
        """
        mark = self.tree.mirrors(name)
        if mark is None:
            may = not self.tree.exists(layout.manifests(name))
        else:
            may = mark == self.upstream or mark in self.aliases
        if may:
            return True
        if name not in self._refused:
            self._refused.add(name)
            _log.warn(
                "{name}: not filled from {upstream}: {why}; see adopt-cache",
                name=name,
                upstream=self.upstream,
                why=f"it mirrors {mark}" if mark else _PUSHED,
            )
        return False

    def mark(self, name: RepositoryName) -> None:
        """Mark a repository as a mirror, or renew its mark; before anything that was fetched is put into it.

        Errors:
            PermissionError: somebody has pushed to it since it was looked at; nothing may be put into it.
        """
        # A collector that finds the repository empty looks at the mark's time, and removes it, while it alone holds the
        # folder. A renewal before that makes the mark too young to go, for a grace (two hours where it evicts): longer
        # than it takes until what is written next, or the session that it comes from, makes the repository not empty.
        # One after that finds no mark, and writes a new one; so it does where the collector was killed with the old one
        # set aside, which then does not come back. Where folders cannot be held, the collector's second look at the
        # time of what it set aside puts back what was renewed, unless a new one stands.
        with self.tree.driver.guard(layout.repository(name), False):
            if self._renew_mark(name):
                return
        # Alone: a push that has seen no mark holds the folder until its tags stand (``LocalRegistry``).
        with self.tree.driver.guard(layout.repository(name), True):
            if self._renew_mark(name):
                return
            if self.tree.exists(layout.manifests(name)):
                raise PermissionError(errno.EPERM, _PUSHED, name)
            self.tree.driver.put_content(layout.mirror(name), self.upstream.encode("utf-8"))

    def _renew_mark(self, name: RepositoryName) -> bool:
        """Renew the mark of a repository, and tell whether it has one."""
        path = layout.mirror(name)
        try:
            self.tree.driver.touch(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            # Another user's, who has adopted the repository: it may still be replaced.
            self.tree.driver.put_content(path, self.tree.driver.get_content(path))
        return True

    def linked(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """What a tag names of what is cached."""
        digest = self.tree.tag(name, tag)
        return digest if digest is not None and self.tree.revision(name, digest) is not None else None

    def known(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """What a tag is, of what is cached: what the upstream told last, else what the tag names still.

        The tag need not name the first yet: another process may have been told of it.
        """
        told = self.told(name, tag).descriptor
        if told is not None and self.tree.revision(name, told.digest) is not None:
            return told.digest
        return self.linked(name, tag)

    def told(self, name: RepositoryName, tag: Tag) -> Told:
        """What the upstream told last of a tag."""
        path = layout.tag_checked(name, tag)
        try:
            stat = self.tree.driver.stat(path)
            known = self._told.get(path)
            if known is not None and known[0] == stat.version:
                return known[1]
            told = Told(_read_told(path, self.tree.driver.get_content(path)), stat.modified)
        except FileNotFoundError:
            return Told(None, 0.0)
        if len(self._told) >= TOLD_KNOWN:
            self._told.clear()
        self._told[path] = stat.version, told
        return told

    def put_told(self, name: RepositoryName, tag: Tag, descriptor: Descriptor) -> None:
        """Note what the upstream told of a tag just now; a tag of something that is cached names that from now on."""
        if self.told(name, tag).descriptor != descriptor or not self._renew_told(name, tag):
            self.mark(name)
            content = json.dumps(_as_json(descriptor)).encode("ascii")
            self.tree.driver.put_content(layout.tag_checked(name, tag), content)
        if len(self._awaited) >= AWAITED:
            self._awaited.clear()
        # Before the manifest is looked for: who puts it meanwhile sees this, or is seen.
        self._awaited[name, tag] = descriptor.digest
        self.tag(name, tag, descriptor.digest)

    def _renew_told(self, name: RepositoryName, tag: Tag) -> bool:
        """Note that a tag was just checked; false where a collector has taken the note meanwhile."""
        try:
            self.tree.driver.touch(layout.tag_checked(name, tag))
        except FileNotFoundError:
            return False
        return True

    def tag(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        """Let a tag name a manifest, if that is cached."""
        if self.tree.tag(name, tag) != digest:
            if self.tree.revision(name, digest) is None:
                return
            self.tree.put_tag(name, tag, digest)
        self._awaited.pop((name, tag), None)

    def put_manifest(self, name: RepositoryName, manifest: Manifest) -> None:
        """Keep a manifest, without asking for its parts, and let the tags name it of which the upstream told it here.

        Those of which it told other processes name it when they are asked for next.
        """
        self.mark(name)
        told, named = told_media_type(manifest.content)
        untold = None if named or told == manifest.media_type else manifest.media_type
        self.tree.driver.put_content(layout.blob_data(manifest.digest), manifest.content, above=True)
        subject = _subject(manifest)
        if subject is not None:
            self.tree.write_link(layout.referrer_link(name, subject, manifest.digest), manifest.digest)
        self.tree.put_revision(name, manifest.digest, untold)
        # Not all tags of the repository are looked at for that: there may be many thousands.
        for (repository, tag), digest in list(self._awaited.items()):
            if repository == name and digest == manifest.digest:
                self._tag_if_told(name, tag, digest)

    def _tag_if_told(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        descriptor = self.told(name, tag).descriptor
        if descriptor is not None and descriptor.digest == digest:
            self.tag(name, tag, digest)

    def drop_tag(self, name: RepositoryName, tag: Tag) -> None:
        """Forget a tag that the upstream has no more; of a repository that is not here, nothing is left behind."""
        if not self.tree.exists(layout.tag(name, tag)):
            return
        with self.tree.driver.guard(layout.repository(name), True):
            try:
                self.tree.driver.delete(layout.tag(name, tag))
            except FileNotFoundError:
                pass
            self.tree.driver.prune(layout.tags(name), layout.REPOSITORIES)

    def tidy(self, name: RepositoryName) -> None:
        """Leave no empty folders behind of a repository that does not exist."""
        self.tree.driver.prune(layout.uploads(name), layout.REPOSITORIES)

    def has_bytes(self, digest: Digest) -> int | None:
        """The size of a blob that any repository holds, or None."""
        try:
            size = self.tree.driver.stat(layout.blob_data(digest)).size
        except FileNotFoundError:
            return None
        return size if digest.may_be_of(size) else None

    def is_intact(self, digest: Digest) -> bool:
        """Whether a blob's bytes are those of its digest; all of them are read for that."""
        try:
            content = self.tree.driver.reader(layout.blob_data(digest))
            try:
                return hash_of(content, digest, content.size).hexdigest() == digest.hex
            finally:
                content.close()
        except OSError:
            return False

    def link_blob(self, name: RepositoryName, digest: Digest) -> bool:
        """Let a repository hold a blob that another holds already; false if that is gone."""
        self.mark(name)
        try:
            self.tree.driver.touch(layout.blob_data(digest))
        except FileNotFoundError:
            return False
        self.tree.write_link(layout.layer_link(name, digest), digest)
        return True

    def names(self, path: str) -> tuple[Sequence[str], float] | None:
        """A list of names that the upstream told, and when."""
        listed = self._listed(path)
        if listed is None or not all(isinstance(name, str) for name in listed[0]):
            return None
        return listed

    def referrers(self, path: str) -> tuple[Sequence[Referrer], float] | None:
        """A list of referrers that the upstream told, and when."""
        listed = self._listed(path)
        try:
            return ([_referrer(entry) for entry in listed[0]], listed[1]) if listed is not None else None
        except (ValueError, KeyError, TypeError, DigestInvalid):
            return None

    def put_names(self, name: RepositoryName, path: str, names: Sequence[str]) -> None:
        """Keep a list of names that the upstream told."""
        self._put_list(name, path, list(names))

    def put_referrers(self, name: RepositoryName, path: str, referrers: Sequence[Referrer]) -> None:
        """Keep a list of referrers that the upstream told."""
        self._put_list(name, path, [_referrer_as_json(referrer) for referrer in referrers])

    def forget(self, path: str) -> None:
        """Forget a list that the upstream has no more."""
        try:
            self.tree.driver.delete(path)
        except FileNotFoundError:
            pass

    def _listed(self, path: str) -> tuple[list[Any], float] | None:
        try:
            told = self.tree.driver.stat(path).modified
            listed = json.loads(self.tree.driver.get_content(path))
        except FileNotFoundError:
            return None
        except ValueError:
            listed = None
        if isinstance(listed, list):
            return listed, told
        _log.error("{path}: not a list", path=path)
        return None

    def _put_list(self, name: RepositoryName, path: str, entries: list[Any]) -> None:
        self.mark(name)
        self.tree.driver.put_content(path, json.dumps(entries).encode("ascii"))


def _subject(manifest: Manifest) -> Digest | None:
    try:
        subject = read_document(manifest).subject
    except ManifestInvalid:
        return None  # Passed on as it came: what it means is between the upstream and the client.
    return subject.digest if subject is not None else None


def _read_told(path: str, content: bytes) -> Descriptor | None:
    try:
        return _descriptor(json.loads(content))
    except (ValueError, KeyError, TypeError, DigestInvalid):
        _log.error("{path}: not a descriptor: {content!r}", path=path, content=content[:200])
        return None


def _as_json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def _descriptor(value: Mapping[str, Any]) -> Descriptor:
    return Descriptor(str(value["mediaType"]), Digest.parse(value["digest"]), int(value["size"]))


def _referrer_as_json(referrer: Referrer) -> dict[str, Any]:
    return {
        **_as_json(referrer.descriptor),
        "artifactType": referrer.artifact_type,
        "annotations": dict(referrer.annotations),
    }


def _referrer(value: Mapping[str, Any]) -> Referrer:
    return Referrer(_descriptor(value), value["artifactType"], dict(value["annotations"]))


def hash_of(content: IContentReader | None, digest: Digest, size: int) -> Hash:
    """The hash, of a digest's algorithm, of so many bytes of content; of none where there is no content yet."""
    seen = new_hash(digest.algorithm)
    for start in range(0, size if content is not None else 0, _READ):
        assert content is not None
        seen.update(content.read(start, min(size, start + _READ)))
    return seen
