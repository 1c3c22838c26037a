"""Removing one thing: its links with the folders that they leave empty, and what a dead writer left beside them."""

from __future__ import annotations

import attrs

from registryd.storage.interfaces import IStorageDriver, Leaf
from registryd.storage.layout import is_temporary
from registryd_gc.report import Listener, Report
from registryd_gc.trash import Outcome, Trash


@attrs.frozen
class Removal:
    """What removes things in a run, and whom it tells."""

    driver: IStorageDriver
    trash: Trash
    report: Report
    listener: Listener

    @property
    def cutoff(self) -> float:
        """What was modified after this is young, in seconds since the epoch."""
        return self.trash.cutoff

    @property
    def dry_run(self) -> bool:
        return self.trash.dry_run

    @property
    def everywhere(self) -> bool:
        """Whether to look for what dead writers left within the folders of links and blobs that stay.

        Those of registryd leave nothing there (``put_content`` with ``above``), but on a disk that was too full to move
        anything; other programs do. To list all folders costs a run two fifths more CPU, and a read of the disk each.
        """
        return self.trash.alone

    def apart(self, listener: Listener) -> Removal:
        """The same for a part of the run, with numbers and a listener of its own."""
        return attrs.evolve(self, report=self.report.empty(), listener=listener)

    def remove_link(self, path: str) -> Outcome:
        """Remove a link that was found old, and its folder if that is empty then."""
        outcome = self.trash.remove(path)
        if outcome is not Outcome.RENEWED:
            self.clear(path.rpartition("/")[0])
        return outcome

    def is_young(self, path: str) -> bool:
        """Whether content is at a path that is too young to go."""
        try:
            return self.driver.stat(path).modified > self.cutoff
        except FileNotFoundError:
            return False

    def remove_if_old(self, path: str) -> bool:
        """Remove content if it is old; whether it is gone."""
        try:
            if self.driver.stat(path).modified > self.cutoff:
                return False
        except FileNotFoundError:
            return True
        return self.trash.remove(path) is not Outcome.RENEWED

    def prune(self, folder: str) -> bool:
        """Remove a folder if it is empty; whether it is gone."""
        return not self.dry_run and self.driver.prune(folder, folder.rpartition("/")[0])

    def clear(self, folder: str) -> None:
        """Remove a folder that was emptied; should it still stand, what a dead writer left there first.

        A dry run does not look for that: it would cost as much again.
        """
        if not self.dry_run and not self.prune(folder):
            self.tidy(folder)
            self.prune(folder)

    def tidy_leaf(self, folder: str, leaf: Leaf) -> None:
        """Remove what a dead writer left of a leaf, or in it, and it where it holds nothing else by now."""
        path = f"{folder}/{leaf.name}"
        if is_temporary(leaf.name):
            self._remove_temporary(path)
        else:
            self.tidy(path)
            self.prune(path)

    def tidy(self, folder: str) -> None:
        """Remove what dead writers left in a folder."""
        for entry in list(self.driver.entries(folder)):
            if not entry.is_folder and is_temporary(entry.name):
                self._remove_temporary(f"{folder}/{entry.name}")

    def _remove_temporary(self, path: str) -> None:
        # Its name is nobody else's: there is nothing to put back.
        try:
            stat = self.driver.stat(path)
            if stat.modified > self.cutoff:
                return
            if not self.dry_run:
                self.driver.discard(path)
        except FileNotFoundError:
            return
        self.report.temporary.removed += 1
        self.report.temporary.removed_bytes += stat.size
        self.listener.removed(f"temporary file {path}")
