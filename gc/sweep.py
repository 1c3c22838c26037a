"""What goes out of one repository, once it is known what stays."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

import attrs

from registryd.reference import Tag
from registryd.storage import layout
from registryd_gc.census import PARTS, Revision, Tagged
from registryd_gc.digests import LENGTHS, digest, packed
from registryd_gc.links import Links
from registryd_gc.mark import Marking
from registryd_gc.removal import Removal
from registryd_gc.report import Report
from registryd_gc.trash import Outcome
from registryd_gc.uploads import Uploads


@attrs.define
class Manifests:
    """Takes tags and manifests out of a repository; what turns out to be needed after all is kept with its parts."""

    removal: Removal
    marking: Marking
    tags: Collection[Tag]

    def sweep(self) -> None:
        """Remove the manifests that are not kept, and of the ``tags`` those that still may go then."""
        by_target: dict[bytes | None, list[Tagged]] = {}
        for name in self.tags:
            tag = self.marking.repository.tags[name]
            by_target.setdefault(tag.target, []).append(tag)
        for revision in self.marking.doomed():
            if not revision.kept:
                self._remove_with(by_target.pop(revision.digest, ()), revision)
        for tags in by_target.values():
            for tag in tags:
                self._remove_tag(tag)

    def _remove_with(self, tags: Collection[Tagged], revision: Revision) -> None:
        for tag in tags:
            self._remove_tag(tag)
        if not revision.kept:
            self._remove_manifest(revision)

    def _remove_tag(self, tag: Tagged) -> None:
        if self.marking.attachment_stands(tag):
            return
        repository = self.marking.repository
        if self.removal.trash.remove(layout.tag_link(repository.name, tag.name)) is Outcome.RENEWED:
            self.marking.keep([tag.target] if tag.target is not None else [])
            return
        del repository.tags[tag.name]
        self.removal.report.tags.removed += 1
        self.removal.listener.removed(f"{repository.name}: tag {tag.name}")

    def _remove_manifest(self, revision: Revision) -> None:
        repository = self.marking.repository
        named = digest(revision.digest)
        path = layout.revision_link(repository.name, named)
        if self.removal.trash.remove(path, lambda: self._has_new_subject(revision)) is Outcome.RENEWED:
            self.marking.keep([revision.digest])
            return
        self.removal.report.manifests.removed += 1
        self.removal.listener.removed(f"{repository.name}: manifest {named}")
        self.removal.remove_if_old(layout.revision_media_type(repository.name, named))
        self._remove_signatures(path.rpartition("/")[0])
        self.removal.clear(path.rpartition("/")[0])

    def _has_new_subject(self, revision: Revision) -> bool:
        """Whether the subject of a manifest was pushed again during the run.

        That push renews the referrers that have entries, and one that was stored by Distribution has none.
        """
        subject = revision.subject
        repository = self.marking.repository.name
        return subject is not None and self.removal.is_young(layout.revision_link(repository, digest(subject)))

    def _remove_signatures(self, revision: str) -> None:
        """Remove the links to signatures that Distribution kept beside manifests of schema 1."""
        folder = f"{revision}/signatures"
        for algorithm in self.removal.driver.entries(folder):
            for leaf in list(self.removal.driver.leaves(f"{folder}/{algorithm.name}", "link", False)):
                self.removal.remove_link(f"{folder}/{algorithm.name}/{leaf.name}/link")
            self.removal.prune(f"{folder}/{algorithm.name}")
        self.removal.prune(folder)


@attrs.frozen
class Swept:
    """What a repository that was swept needs, in packed digests, and the numbers.

    ``needed`` are the blobs of kept manifests, and their own; ``manifests`` the kept ones; ``promised`` and ``held``
    those of its links. ``unread`` tells whether nobody knows what one of its manifests needs, ``unfollowed`` what one
    of its links names; neither matters of a mirror.
    """

    report: Report
    unread: bool
    unfollowed: bool
    needed: bytes
    manifests: bytes
    promised: bytes
    held: bytes


@attrs.frozen
class RepositorySweep:
    """Everything of one repository whose manifests are marked; ``gone`` are the tags that go."""

    removal: Removal
    marking: Marking
    links: Links
    gone: Collection[Tag]

    def sweep(self, uploads: Uploads, removes: bool, thoroughly: bool) -> None:
        """Sweep, and count what stays. With ``removes`` false nothing goes; only ``thoroughly`` what no blob is for."""
        repository = self.marking.repository
        if removes:
            Manifests(self.removal, self.marking, self.gone).sweep()
        self.links.sweep_layers(removes)
        left = 0
        if removes:
            self.links.sweep_history()
            self.links.sweep_referrers(thoroughly and not self.removal.dry_run)
        if thoroughly:
            self._tidy()
            left = uploads.sweep(layout.uploads(repository.name))
        elif removes:
            left = sum(1 for _ in self.removal.driver.entries(layout.uploads(repository.name)))
        kept = sum(revision.kept for revision in repository.revisions.values())
        holds = kept or self.links.left or repository.tags
        if not removes or holds or not self._remove(left):
            self.removal.report.repositories.kept += 1
        self.removal.report.tags.kept += len(repository.tags)
        self.removal.report.manifests.kept += kept
        self.removal.report.manifests.young += self.marking.young

    def swept(self) -> Swept:
        """What others are to know of it. All that it went by is given up on the way: it may be as large again."""
        repository = self.marking.repository
        unread, unfollowed = repository.unread, self.links.unread and repository.upstream is None
        kept = {revision.digest for revision in repository.revisions.values() if revision.kept}
        repository.revisions.clear()
        return Swept(
            self.removal.report,
            unread,
            unfollowed,
            packed(chain(self.marking.needed.drained(), kept)),
            packed(kept),
            packed(self.links.promised.drained()),
            packed(self.links.held.drained()),
        )

    def _tidy(self) -> None:
        """Remove what dead writers left where nothing else is looked at."""
        for revisions, leaf in self.marking.repository.untidy:
            self.removal.tidy_leaf(revisions, leaf)
            if leaf.size is None and "mediatype" in leaf.others:
                self.removal.remove_if_old(f"{revisions}/{leaf.name}/mediatype")
                self.removal.prune(f"{revisions}/{leaf.name}")
        name = self.marking.repository.name
        mark, told = layout.mirror_folder(name), layout.upstream(name)
        lists = (told, *(f"{told}/referrers/{algorithm}" for algorithm in LENGTHS))
        for folder in (layout.repository(name), mark, *lists):
            self.removal.tidy(folder)
        self.removal.prune(mark)

    def _remove(self, left: int) -> bool:
        """Remove a repository that holds nothing but what is ``left`` of uploads; whether it is gone."""
        name, driver = self.marking.repository.name, self.removal.driver
        folder = layout.repository(name)
        if not self.removal.dry_run:
            # Whoever pushes to it meanwhile holds it, and finds it gone, or waits.
            with driver.guard(folder, True):
                self._remove_empty()
                driver.prune(folder, layout.REPOSITORIES)
            if any(entry.name in PARTS for entry in driver.entries(folder)):
                return False
        elif left or self._has_young(layout.upstream(name)) or self.removal.is_young(layout.mirror(name)):
            return False
        self.removal.report.repositories.removed += 1
        self.removal.listener.removed(f"repository {name}")
        return True

    def _remove_empty(self) -> None:
        """Remove the empty folders of a repository, those of its manifests first.

        Distribution 2.8 collects the manifests of a repository without ``_layers``.
        """
        name, driver = self.marking.repository.name, self.removal.driver
        self._prune_below(layout.manifests(name))
        if any(entry.name == "_manifests" for entry in driver.entries(layout.repository(name))):
            return
        self._prune_below(layout.layers(name))
        self._prune_below(layout.uploads(name))
        if self.marking.repository.upstream is not None and self._holds_nothing():
            self._remove_old_below(layout.upstream(name))
            if not any(entry.name == "_upstream" for entry in driver.entries(layout.repository(name))):
                self._remove_old_below(layout.mirror_folder(name))
        self.removal.prune(layout.mirror_folder(name))

    def _holds_nothing(self) -> bool:
        entries = self.removal.driver.entries(layout.repository(self.marking.repository.name))
        return not any(entry.name in ("_manifests", "_layers", "_uploads") for entry in entries)

    def _prune_below(self, folder: str) -> None:
        """Remove a folder with all below it that is empty."""
        for entry in list(self.removal.driver.entries(folder)):
            if entry.is_folder:
                self._prune_below(f"{folder}/{entry.name}")
        self.removal.prune(folder)

    def _remove_old_below(self, folder: str) -> None:
        """Remove what is old in a folder, at any depth, and the folders that are empty then."""
        for entry in list(self.removal.driver.entries(folder)):
            path = f"{folder}/{entry.name}"
            if entry.is_folder:
                self._remove_old_below(path)
            else:
                self.removal.remove_if_old(path)
        self.removal.prune(folder)

    def _has_young(self, folder: str) -> bool:
        """Whether anything in a folder is young, at any depth."""
        for entry in self.removal.driver.entries(folder):
            path = f"{folder}/{entry.name}"
            if self._has_young(path) if entry.is_folder else self.removal.is_young(path):
                return True
        return False
