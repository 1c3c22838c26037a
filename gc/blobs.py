"""Blobs: those that no repository needs go, all others are counted, and those that are missed are told."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import attrs

from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.interfaces import Leaf
from registryd.storage.layout import is_temporary
from registryd_gc.digests import LENGTHS, Digests, data_path, digest, from_name, packed, unpacked
from registryd_gc.mirror import RECENT
from registryd_gc.removal import Removal
from registryd_gc.report import Damage, Listener, Report
from registryd_gc.trash import Outcome, Trash
from registryd_gc.workers import Workers

FOLDERS = 512
"""How many folders with blobs there may be."""


@attrs.define
class BlobSweep:
    """Removes the blobs that are not needed, folder by folder.

    ``needed`` are the blobs that stay, ``manifests`` those of them in whose folders a dead writer may have left
    something; both are emptied. ``promised`` are those that nothing needs, but that somebody was just told of; ``held``
    stay too, young or not: a repository has them from which nothing goes. With ``removes`` false only what was
    ``cached`` goes. Of that, what was ``evicted`` goes if it is but older than what is recent. ``missing`` grows by
    what is needed, but is not there.
    """

    removal: Removal
    needed: Digests
    manifests: Digests
    promised: Digests
    held: Digests
    cached: Collection[bytes]
    evicted: Collection[bytes]
    removes: bool
    missing: list[bytes] = attrs.field(factory=list, init=False)

    def sweep(self, workers: Workers) -> None:
        """Sweep all folders."""
        with workers.each(self._sweep_folder, self._folders(), self.removal.listener) as folders:
            for missing, report in folders:
                self.missing += unpacked(missing)
                self.removal.report.add(report)
                self.removal.listener.stepped()

    def remove(self, blob: bytes) -> None:
        """Remove one blob that is not needed, if it is there."""
        path = data_path(blob)
        try:
            stat = self.removal.driver.stat(path)
        except FileNotFoundError:
            return
        leaf = Leaf(path.split("/")[-2], stat.size, stat.modified)
        _FolderSweep(self, self.removal).judge(blob, leaf, path.rpartition("/")[0])

    def _folders(self) -> Iterator[_Folder]:
        for algorithm, length in LENGTHS.items():
            for first in range(256):
                path = f"{layout.BLOBS}/{algorithm}/{first:02x}"
                yield _Folder(algorithm, path, self.needed.take(length, first), self.manifests.take(length, first))

    def _sweep_folder(self, folder: _Folder, listener: Listener) -> tuple[bytes, Report]:
        """Sweep a folder: the needed blobs that it lacks, and the numbers."""
        own = self.removal.apart(listener)
        return packed(_FolderSweep(self, own).sweep(folder)), own.report


@attrs.frozen
class _Folder:
    """A folder with blobs of an algorithm; what of them is needed, and which of these are manifests, is packed."""

    algorithm: str
    path: str
    needed: bytes
    manifests: bytes


@attrs.define
class _FolderSweep:
    """The sweep of one folder."""

    blobs: BlobSweep
    removal: Removal

    def sweep(self, folder: _Folder) -> set[bytes]:
        """Remove what is to be removed; which needed blobs are not there."""
        needed, manifests = set(unpacked(folder.needed)), set(unpacked(folder.manifests))
        missing = set(needed)
        for leaf in self.removal.driver.leaves(folder.path, "data", False):
            blob = from_name(folder.algorithm, leaf.name)
            if blob is None or not folder.path.endswith(leaf.name[:2]):
                if is_temporary(leaf.name):
                    self.removal.tidy_leaf(folder.path, leaf)
                continue
            path = f"{folder.path}/{leaf.name}"
            if leaf.size is None:
                self.removal.tidy_leaf(folder.path, leaf)
                self._tell_folder(f"{path}/data")
            elif blob in needed:
                # Some file systems list a name twice while others beside it are removed.
                missing.discard(blob)
                self._keep(blob, leaf, path, blob in manifests)
            else:
                self.judge(blob, leaf, path)
        self.removal.prune(folder.path)
        return missing

    def _tell_folder(self, path: str) -> None:
        """Tell of a folder in the place of a blob's content."""
        try:
            if self.removal.driver.stat(path).is_folder:
                self.removal.report.damage.append(Damage("empty", path, "a folder"))
        except FileNotFoundError:
            pass

    def _keep(self, blob: bytes, leaf: Leaf, folder: str, manifest: bool) -> None:
        size = leaf.size or 0
        self.removal.report.blobs.kept += 1
        self.removal.report.blobs.kept_bytes += size
        if self.removal.everywhere:
            self.removal.tidy(folder)
        if not manifest and not size and not digest(blob).may_be_of(0):
            self.removal.report.damage.append(Damage("empty", f"{folder}/data", "no bytes"))

    def judge(self, blob: bytes, leaf: Leaf, folder: str) -> None:
        """Remove a blob that is not needed, unless it is young."""
        size, trash = leaf.size or 0, self.removal.trash
        if blob in self.blobs.evicted:
            # It goes to make room, which a trash would not.
            trash = attrs.evolve(trash, cutoff=max(trash.cutoff, trash.now - RECENT), keep=False)
        removes = (self.blobs.removes or blob in self.blobs.cached) and blob not in self.blobs.held
        old = leaf.modified <= trash.cutoff and blob not in self.blobs.promised
        if not (removes and old and self._remove(trash, digest(blob), f"{folder}/data", size)):
            self.removal.report.blobs.kept += 1
            self.removal.report.blobs.kept_bytes += size
            self.removal.report.blobs.young += removes
            self.removal.report.blobs.young_bytes += size if removes else 0

    def _remove(self, trash: Trash, named: Digest, path: str, size: int) -> bool:
        """Remove a blob; false where it was renewed."""
        outcome = trash.remove(path)
        if outcome is Outcome.RENEWED:
            return False
        self.removal.clear(path.rpartition("/")[0])
        if outcome is Outcome.REMOVED:
            self.removal.report.blobs.removed += 1
            self.removal.report.blobs.removed_bytes += size
            self.removal.listener.removed(f"blob {named} {size} bytes")
        return True
