"""The layer links, the histories of tags and the entries of referrers of one repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from registryd.storage import layout
from registryd.storage.interfaces import Leaf
from registryd_gc.census import stands
from registryd_gc.digests import LENGTHS, Digests, data_path, digest, from_name, link_size, named_by
from registryd_gc.mark import Marking
from registryd_gc.removal import Removal
from registryd_gc.report import Damage
from registryd_gc.trash import Outcome


@attrs.define
class Links:
    """One pass over the links of a repository whose manifests are marked.

    ``may_go`` tells of an old link that nothing needs, by its digest, whether it goes. ``needed`` grows by what
    links of needed blobs name: Distribution keeps a blob that was pushed as sha512 under sha256. ``promised`` are the
    blobs of young links: a push may be about to need them; ``held`` those of links that may not
    go. ``found`` counts needed blobs that have a link, ``left`` all links that stay, entries of histories and of
    referrers too. ``unread`` tells whether nobody knows what one of them names. Once it is not known which link leads
    to a blob that is needed, none goes.
    """

    removal: Removal
    marking: Marking
    may_go: Callable[[bytes], bool]
    promised: Digests = attrs.field(factory=Digests, init=False)
    held: Digests = attrs.field(factory=Digests, init=False)
    found: int = attrs.field(default=0, init=False)
    left: int = attrs.field(default=0, init=False)
    unread: bool = attrs.field(default=False, init=False)
    _doubtful: bool = attrs.field(default=False, init=False)

    def sweep_layers(self, removes: bool) -> None:
        """Remove the layer links that no kept manifest needs; with ``removes``, also what dead writers left."""
        self._keep_unknown()
        # What an alias names is needed too, and must be known before its own link is judged.
        for algorithm in reversed(LENGTHS):
            folder = f"{layout.layers(self.marking.repository.name)}/{algorithm}"
            for leaf in self.removal.driver.leaves(folder, "link", removes and self.removal.everywhere):
                self._sweep_layer(algorithm, folder, leaf)
                if removes and (leaf.size is None or leaf.others):
                    self.removal.tidy_leaf(folder, leaf)

    def _keep_unknown(self) -> None:
        """Keep the links by digests of other algorithms, as Distribution's of SHA-384, with what they name."""
        layers = layout.layers(self.marking.repository.name)
        for folder in self.removal.driver.entries(layers):
            if folder.is_folder and folder.name not in LENGTHS:
                for leaf in self.removal.driver.leaves(f"{layers}/{folder.name}", "link", False):
                    if leaf.size is not None:
                        self.left += 1
                        self._follow(f"{layers}/{folder.name}/{leaf.name}/link")

    @property
    def missing(self) -> bool:
        """Whether a needed blob has no link; after the pass."""
        return self.found < len(self.marking.needed)

    def _sweep_layer(self, algorithm: str, folder: str, leaf: Leaf) -> None:
        blob = from_name(algorithm, leaf.name)
        if blob is None or leaf.size is None:
            return
        path = f"{folder}/{leaf.name}/link"
        if blob in self.marking.needed:
            self.found += 1
            self.left += 1
            if leaf.size != link_size(algorithm) and not self._follow(path):
                # What it named is the blob's only content, unless that lies under its own digest too.
                self._doubtful = self._doubtful or not stands(self.removal.driver, data_path(blob))
        elif self._remove(blob, leaf, path):
            self.removal.report.links.removed += 1
            self._tell_removed(f"layer link {digest(blob)}")
        else:
            self.left += 1

    def _remove(self, blob: bytes, leaf: Leaf, path: str) -> bool:
        """Remove the link of a blob that is not needed; whether it is gone."""
        if self.may_go(blob) and not self._doubtful:
            if leaf.modified <= self.removal.cutoff and self.removal.remove_link(path) is not Outcome.RENEWED:
                return True
            staying = self.promised
        else:
            staying = self.held
        staying.add(blob)
        if leaf.size != link_size(digest(blob).algorithm):
            named = named_by(self._content(path) or b"")
            staying.update([named] if named is not None else [])
        return False

    def _follow(self, path: str) -> bool:
        """Need what a link names that is not of the size that its own digest would have; false where it names none."""
        content = self._content(path)
        if content is None:
            return True
        named = named_by(content)
        if named is None:
            told = f"not a digest: {len(content)} bytes" if content else "empty"
            self.removal.report.damage.append(Damage("link", path, told))
            return False
        self.marking.needed.add(named)
        return True

    def _content(self, path: str) -> bytes | None:
        """What a link holds; None where it is gone, or cannot be read."""
        try:
            return self.removal.driver.get_content(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.removal.report.damage.append(Damage("link", path, error.strerror or "it cannot be read"))
            self.unread = self._doubtful = True
            return None

    def unlinked(self) -> set[bytes]:
        """The needed blobs without a link."""
        missing = set(self.marking.needed)
        for algorithm in LENGTHS:
            folder = f"{layout.layers(self.marking.repository.name)}/{algorithm}"
            for leaf in self.removal.driver.leaves(folder, "link", False):
                blob = from_name(algorithm, leaf.name)
                if blob is not None and leaf.size is not None:
                    missing.discard(blob)
        return missing

    def sweep_history(self) -> None:
        """Remove the entries of tags' histories that name manifests which are gone, and all those of deleted tags.

        What is but history was never a tag, or is none any more: whoever removed it, a rule or a daemon that was
        killed on the way, removed its link first.
        """
        name = self.marking.repository.name
        for entry in list(self.removal.driver.entries(layout.tags(name))):
            if entry.is_folder:
                self._sweep_tag(f"{layout.tags(name)}/{entry.name}")

    def _sweep_tag(self, folder: str) -> None:
        self.removal.tidy(folder)
        if self.removal.everywhere:
            self.removal.tidy(f"{folder}/current")
        is_tag = folder.rpartition("/")[2] in self.marking.repository.tags
        for algorithm, leaf in self._leaves(f"{folder}/index"):
            manifest = from_name(algorithm, leaf.name)
            if manifest is not None and leaf.size is not None and not (is_tag and self._stands(manifest)):
                path = f"{folder}/index/{algorithm}/{leaf.name}/link"
                if leaf.modified <= self.removal.cutoff and self.removal.remove_link(path) is not Outcome.RENEWED:
                    self.removal.report.history.removed += 1
                    self._tell_removed(f"entry of the history of {folder.rpartition('/')[2]}: {digest(manifest)}")
                else:
                    self.left += 1
        if not is_tag:
            self._remove_tag(folder)

    def _remove_tag(self, folder: str) -> None:
        """Remove the folder of what is no tag any more, unless something young is in it."""
        if not self.removal.remove_if_old(f"{folder}/checked"):
            self.left += 1
        for below in (*(f"/index/{algorithm}" for algorithm in LENGTHS), "/index", "/current", ""):
            self.removal.clear(folder + below)

    def _leaves(self, folder: str) -> Iterator[tuple[str, Leaf]]:
        for algorithm in LENGTHS:
            for leaf in self.removal.driver.leaves(f"{folder}/{algorithm}", "link", self.removal.everywhere):
                if leaf.size is None or leaf.others:
                    self.removal.tidy_leaf(f"{folder}/{algorithm}", leaf)
                yield algorithm, leaf

    def _stands(self, manifest: bytes) -> bool:
        revision = self.marking.repository.revisions.get(manifest)
        return revision is not None and revision.kept

    def _tell_removed(self, what: str) -> None:
        self.removal.listener.removed(f"{self.marking.repository.name}: {what}")

    def sweep_referrers(self, write: bool) -> None:
        """Remove the entries of manifests that are gone; with ``write``, write those that are missing."""
        repository = self.marking.repository
        standing: set[tuple[bytes, bytes]] = set()
        for algorithm in LENGTHS:
            folder = f"{layout.manifests(repository.name)}/referrers/{algorithm}"
            for entry in list(self.removal.driver.entries(folder)):
                subject = from_name(algorithm, entry.name)
                if subject is not None:
                    standing.update((subject, left) for left in self._sweep_subject(f"{folder}/{entry.name}"))
            self.removal.prune(folder)
        self.removal.prune(f"{layout.manifests(repository.name)}/referrers")
        for revision in repository.revisions.values():
            if revision.kept and revision.subject is not None and (revision.subject, revision.digest) not in standing:
                self._write_referrer(revision.subject, revision.digest, write)

    def _sweep_subject(self, folder: str) -> Iterator[bytes]:
        """Remove what is to be removed of a subject's entries; yields those that stay."""
        for algorithm, leaf in self._leaves(folder):
            referrer = from_name(algorithm, leaf.name)
            if referrer is None or leaf.size is None:
                continue
            path = f"{folder}/{algorithm}/{leaf.name}/link"
            if self._stands(referrer) or leaf.modified > self.removal.cutoff:
                self.left += 1
                yield referrer
            elif self.removal.remove_link(path) is not Outcome.RENEWED:
                self.removal.report.referrers.removed += 1
                self._tell_removed(f"entry of referrers: {digest(referrer)}")
        # Also what a run that was killed has emptied.
        for algorithm in LENGTHS:
            self.removal.prune(f"{folder}/{algorithm}")
        self.removal.prune(folder)

    def _write_referrer(self, subject: bytes, referrer: bytes, write: bool) -> None:
        self.removal.report.referrers.written += 1
        if write:
            path = layout.referrer_link(self.marking.repository.name, digest(subject), digest(referrer))
            self.removal.driver.put_content(path, str(digest(referrer)).encode("ascii"), above=True)
