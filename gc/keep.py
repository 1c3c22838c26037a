"""What stays of a private repository: its tags, what is young, and, unless untagged manifests go, those too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from registryd.reference import Tag
from registryd.storage import layout
from registryd.storage.interfaces import IStorageDriver
from registryd_gc.census import Repository, Tagged, stands
from registryd_gc.digests import data_path, digest
from registryd_gc.mark import Marking, Subject, attached_to, is_among
from registryd_gc.retention import Decision, Rule


@attrs.frozen
class Keeper:
    """Decides what stays. ``now`` and ``cutoff`` are in seconds since the epoch; what is younger than that stays."""

    driver: IStorageDriver
    now: float
    cutoff: float
    explain: Callable[[str], None]

    def keep_all(self, marking: Marking) -> None:
        """Keep all manifests of a repository."""
        marking.keep(marking.repository.revisions)

    def keep(self, marking: Marking, untagged_go: bool, rule: Rule | None) -> set[Tag]:
        """Mark what stays of a repository; the tags that go.

        A tag that a rule deletes takes its manifest along, where nothing else needs that.
        """
        repository = marking.repository
        if repository.unread or repository.doubtful:
            # Any manifest or layer may be a part of the one that cannot be read, or that which a tag names.
            self.keep_all(marking)
            return set()
        gone = self._gone(repository, rule) if rule is not None else set()
        loose = set(repository.revisions)
        if not untagged_go:
            loose = marking.below(target for tag in gone if (target := repository.tags[tag].target) is not None)
        attached = {tag.name for tag in repository.tags.values() if self._hangs(repository, tag, loose, untagged_go)}
        marking.keep(revision for revision in repository.revisions if revision not in loose)
        marking.keep(_named(tag for tag in repository.tags.values() if tag.name not in gone | attached))
        needed = sum(revision.kept for revision in repository.revisions.values())
        marking.keep(self._young(repository))
        marking.young = sum(revision.kept for revision in repository.revisions.values()) - needed
        return gone | {tag for tag in attached if not marking.attachment_stands(repository.tags[tag])}

    def _hangs(self, repository: Repository, tag: Tagged, loose: set[bytes], untagged_go: bool) -> bool:
        """Whether a tag stays only as long as the manifest that it is made from."""
        subject = attached_to(tag)
        if subject is None or tag.target is None or tag.used > self.cutoff:
            return False
        if not untagged_go:
            return is_among(subject, loose)
        return is_among(subject, repository.revisions) or not self._is_stored(subject)

    def _is_stored(self, subject: Subject) -> bool:
        """Whether the store holds a manifest, for any repository: signatures can be kept in one of their own."""
        length, first = subject
        data = data_path(first + bytes(length - len(first)))
        if length == len(first):
            return stands(self.driver, data)
        folder = data.rpartition("/")[0].rpartition("/")[0]
        names = (entry.name for entry in self.driver.entries(folder) if entry.is_folder)
        return any(name.startswith(first.hex()) for name in names)

    def _young(self, repository: Repository) -> Iterator[bytes]:
        """The manifests that are not kept yet, and were pushed or renewed lately."""
        for revision in repository.revisions.values():
            if not revision.kept and (revision.modified > self.cutoff or self._is_young(data_path(revision.digest))):
                yield revision.digest

    def _is_young(self, path: str) -> bool:
        try:
            return self.driver.stat(path).modified > self.cutoff
        except FileNotFoundError:
            return False

    def _gone(self, repository: Repository, rule: Rule) -> set[Tag]:
        """The tags that a rule deletes, but for those that somebody has used lately, or whose manifest."""
        judged = [tag for tag in repository.tags.values() if tag.target is not None and attached_to(tag) is None]
        decisions = rule.decide(judged, lambda tag: self._pushed(repository, tag), self.now)
        staying = {repository.tags[tag].target for tag, decision in decisions.items() if decision.stays}
        gone = set()
        for tag, decision in decisions.items():
            final = decision if decision.stays else self._unless_young(repository, tag, decision, staying)
            self.explain(f"{repository.name}:{tag}: {'stays' if final.stays else 'goes'}: {final.why}")
            if not final.stays:
                gone.add(tag)
        return gone

    def _unless_young(
        self, repository: Repository, tag: Tag, decision: Decision, staying: set[bytes | None]
    ) -> Decision:
        tagged = repository.tags[tag]
        revision = repository.revisions.get(tagged.target) if tagged.target is not None else None
        if tagged.used > self.cutoff:
            return Decision(True, f"used within the grace, else it would go: {decision.why}")
        if revision is not None and revision.modified > self.cutoff and tagged.target not in staying:
            return Decision(True, f"its manifest was used within the grace, else it would go: {decision.why}")
        return decision

    def _pushed(self, repository: Repository, tag: Tagged) -> float:
        """When a tag was pushed last, which its history tells."""
        assert tag.target is not None
        path = layout.tag_history_link(repository.name, tag.name, digest(tag.target))
        try:
            return self.driver.stat(path).modified
        except FileNotFoundError:
            return tag.used


def _named(tags: Iterable[Tagged]) -> Iterator[bytes]:
    """The manifests that tags keep: what each names, or, where that cannot be read, all that it ever named."""
    for tag in tags:
        if tag.target is not None:
            yield tag.target
        else:
            yield from tag.history
