"""Which manifests of a repository stay, and which blobs they need: what a kept manifest keeps, to any depth.

A kept manifest keeps its parts, its children, what refers to it by ``subject``, and the manifests of the tags that are
made from its digest, which is how signatures were kept before there were referrers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import attrs

from registryd_gc.census import Repository, Revision, Tagged
from registryd_gc.digests import LENGTHS, Digests, unpacked

_ATTACHED = re.compile(r"(sha256|sha512)-([0-9a-f]{64})(?:\.(?:sig|att|sbom))?", re.ASCII)


Subject = tuple[int, bytes]
"""A manifest as a tag can name it: the length of its digest, and its first 32 bytes."""


def attached_to(tag: Tagged) -> Subject | None:
    """The manifest whose digest a tag is made from; None for other tags, and for one that just spells what it names."""
    match = _ATTACHED.fullmatch(tag.name)
    if match is None:
        return None
    subject = 32 if match[1] == "sha256" else 64, bytes.fromhex(match[2])
    return None if tag.target is not None and subject == _as_subject(tag.target) else subject


def _as_subject(manifest: bytes) -> Subject:
    return len(manifest), manifest[:32]


def is_among(subject: Subject, manifests: Collection[bytes]) -> bool:
    """Whether a subject is one of some manifests."""
    length, first = subject
    if length == LENGTHS["sha256"]:
        return first in manifests
    return any(_as_subject(manifest) == subject for manifest in manifests)


@attrs.define
class Marking:
    """The marks of a repository. ``needed`` are the blobs of kept manifests; those of children that are none too.

    ``young`` counts the manifests that are kept for nothing but their age.
    """

    repository: Repository
    needed: Digests = attrs.field(factory=Digests, init=False)
    young: int = attrs.field(default=0, init=False)
    _referrers: Mapping[bytes, Sequence[bytes]] = attrs.field(init=False)
    _attached: Mapping[Subject, Sequence[bytes]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._referrers = _by_subject(self.repository.revisions.values())
        self._attached = _by_attachment(self.repository)

    def keep(self, manifests: Iterable[bytes]) -> None:
        """Keep manifests, where the repository holds them, with all that they keep."""
        pending = list(manifests)
        while pending:
            revision = self.repository.revisions.get(pending.pop())
            if revision is None or revision.kept:
                continue
            revision.kept = True
            self.needed.update(unpacked(revision.parts))
            for child in revision.children:
                if child in self.repository.revisions:
                    pending.append(child)
                else:
                    self.needed.add(child)
            pending.extend(self.followers(revision.digest))

    def forget(self) -> None:
        """Keep nothing."""
        self.needed = Digests()
        for revision in self.repository.revisions.values():
            revision.kept = False

    def followers(self, manifest: bytes) -> Iterator[bytes]:
        """What stays only because a manifest does, but for its children."""
        yield from self._referrers.get(manifest, ())
        yield from self._attached.get(_as_subject(manifest), ())

    def attachment_stands(self, tag: Tagged) -> bool:
        """Whether a tag is made from the digest of a manifest that is kept."""
        subject = attached_to(tag)
        if subject is None:
            return False
        if subject[0] == 32:
            revision = self.repository.revisions.get(subject[1])
            return revision is not None and revision.kept
        return any(revision.kept and _as_subject(revision.digest) == subject for revision in self._long())

    def _long(self) -> Iterator[Revision]:
        return (revision for revision in self.repository.revisions.values() if len(revision.digest) > 32)

    def below(self, manifests: Iterable[bytes]) -> set[bytes]:
        """Manifests of the repository with all that keeping them would keep, but for what is kept already."""
        found: set[bytes] = set()
        pending = list(manifests)
        while pending:
            manifest = pending.pop()
            revision = self.repository.revisions.get(manifest)
            if revision is not None and not revision.kept and manifest not in found:
                found.add(manifest)
                pending += [*revision.children, *self.followers(manifest)]
        return found

    def doomed(self) -> list[Revision]:
        """The manifests that are not kept, each before those that it would keep.

        If one turns out to be needed after all, what it keeps is still there.
        """
        found: dict[bytes, Revision] = {}
        for revision in self.repository.revisions.values():
            self._visit(revision, found)
        return list(reversed(found.values()))

    def _visit(self, first: Revision, found: dict[bytes, Revision]) -> None:
        """Add what is not kept below a manifest, then that itself; without recursion, since depth has no bound."""
        pending = [(first, False)]
        entered: set[bytes] = set()
        while pending:
            revision, seen_below = pending.pop()
            if seen_below:
                found[revision.digest] = revision
            elif not revision.kept and revision.digest not in found and revision.digest not in entered:
                entered.add(revision.digest)
                pending.append((revision, True))
                for follower in (*revision.children, *self.followers(revision.digest)):
                    below = self.repository.revisions.get(follower)
                    if below is not None:
                        pending.append((below, False))


def _by_subject(revisions: Iterable[Revision]) -> Mapping[bytes, Sequence[bytes]]:
    referrers: dict[bytes, list[bytes]] = {}
    for revision in revisions:
        if revision.subject is not None:
            referrers.setdefault(revision.subject, []).append(revision.digest)
    return referrers


def _by_attachment(repository: Repository) -> Mapping[Subject, Sequence[bytes]]:
    attached: dict[Subject, list[bytes]] = {}
    for tag in repository.tags.values():
        subject = attached_to(tag)
        if subject is not None and tag.target is not None:
            attached.setdefault(subject, []).append(tag.target)
    return attached
