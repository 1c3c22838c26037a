"""What the hammer's clients were told, exactly: what each tag names, and which signatures must be there.

A tag has one writer at a time. A signature is certain while its subject has been needed, without a break, since it was
pushed, or since it was seen after its subject was tagged; once the subject is needed no more it may go, at any time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from .stock import Item, Stock


class Gate:
    """Many may pass at once, or one alone, who comes before those that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone_waiting = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._inside >= 0 and not self._alone_waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._alone_waiting += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._alone_waiting -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0
                self._changed.notify_all()


@attrs.define
class _Signature:
    """A signature that must be there; ``tag`` where it is one by tag."""

    item: Item
    subject: Item
    tag: str | None


class Repository:
    """The books of one repository."""

    def __init__(self, name: str, tags: list[str], stock: Stock) -> None:
        self.name = name
        self.gate = Gate()
        self.tag_locks = {tag: threading.Lock() for tag in tags}
        self._stock = stock
        self._lock = threading.Lock()
        self._tags: dict[str, Item] = {}
        self._tried: dict[str, set[str]] = {}
        self._signatures: dict[str, _Signature] = {}
        self._needed: set[Item] = set()
        self._breaks: Counter[Item] = Counter()

    def tag(self, tag: str) -> Item | None:
        """What a tag names for certain; its lock is held."""
        with self._lock:
            return self._tags.get(tag)

    def begin(self, tag: str, item: Item | None) -> None:
        """A tag is about to name something, or nothing; until it does, nothing can be said of it."""
        with self._lock:
            if item is not None:
                self._tried.setdefault(tag, set()).add(item.digest)
            if self._tags.get(tag) is not item:
                self._tags.pop(tag, None)
                self._settle()

    def done(self, tag: str, item: Item | None) -> None:
        """A tag was told to name something, or nothing."""
        with self._lock:
            if item is not None:
                self._tags[tag] = item
            else:
                self._tags.pop(tag, None)
            self._settle()

    def needed(self) -> set[Item]:
        """All manifests that tags need for certain, signatures too."""
        with self._lock:
            return set(self._needed)

    def watch(self, subject: Item) -> int | None:
        """A token to sign a subject with; None where it is not needed now."""
        with self._lock:
            return self._breaks[subject] if subject in self._needed else None

    def signed(self, item: Item, subject: Item, token: int | None, tag: str | None = None) -> None:
        """A signature is there; it counts if the subject has been needed since the token."""
        with self._lock:
            if subject in self._needed and self._breaks[subject] == token:
                self._signatures[item.digest] = _Signature(item, subject, tag)
                self._settle()

    def tags_of(self, item: Item) -> list[str]:
        """The tags that name a manifest for certain."""
        with self._lock:
            return [tag for tag, named in self._tags.items() if named is item]

    def tags(self) -> dict[str, Item]:
        """What tags name, signatures' too."""
        with self._lock:
            signed = {each.tag: each.item for each in self._signatures.values() if each.tag is not None}
            return {**self._tags, **signed}

    def tried(self, tag: str) -> set[str]:
        """The digests of all that a tag may have named."""
        with self._lock:
            return set(self._tried.get(tag, ()))

    def _settle(self) -> None:
        needed = {part for item in self._tags.values() for part in item.whole()}
        # A signature may be signed itself.
        while found := [each for each in self._signatures.values() if each.subject in needed - {each.item}]:
            found = [each for each in found if each.item not in needed]
            if not found:
                break
            needed |= {each.item for each in found}
        self._signatures = {key: each for key, each in self._signatures.items() if each.item in needed}
        self._breaks.update(self._needed - needed)
        self._needed = needed
