"""What a run tells: the numbers, the damage, and each thing as it goes."""

from __future__ import annotations

from typing import Protocol

import attrs


@attrs.frozen
class Damage:
    """Something in the store that is not as it should be; nothing of it is the collector's doing.

    ``kind``: link (empty or garbled), dangling (a link to what is missing), parts (a manifest whose parts are missing),
    manifest (bytes that cannot be read), empty (a blob of no bytes), digest (a blob of other bytes).
    """

    kind: str
    path: str
    detail: str
    repaired: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}{' (repaired)' if self.repaired else ''}"


class Listener(Protocol):
    """Who is told of a run while it goes on."""

    def removed(self, what: str) -> None:
        """Something goes, or would in a dry run; one line."""

    def explained(self, what: str) -> None:
        """Why a tag stays or goes; one line."""

    def noted(self, what: str) -> None:
        """What the operator should know; one line."""

    def began(self, steps: int) -> None:
        """How many steps the run has."""

    def stepped(self, steps: int = 1) -> None:
        """Some of them are done."""


class Silence:
    """A listener who does not listen."""

    def removed(self, what: str) -> None: ...
    def explained(self, what: str) -> None: ...
    def noted(self, what: str) -> None: ...
    def began(self, steps: int) -> None: ...
    def stepped(self, steps: int = 1) -> None: ...


@attrs.define
class Count:
    """How many stay and go."""

    kept: int = 0
    removed: int = 0


@attrs.define
class Aged(Count):
    """How many of what only its age can keep: the ``young`` are kept, though nothing needs them, yet."""

    young: int = 0


@attrs.define
class Blobs(Aged):
    """Blobs, and their bytes."""

    kept_bytes: int = 0
    removed_bytes: int = 0
    young_bytes: int = 0


@attrs.define
class Removed:
    """How many go."""

    removed: int = 0


@attrs.define
class Freed(Removed):
    """How many go, and their bytes."""

    removed_bytes: int = 0


@attrs.define
class Referrers(Removed):
    """Entries of referrers: those that go, and those that were missing."""

    written: int = 0


@attrs.define
class Trashed(Removed):
    """What was in the trash: of a run that did not end, put back; of one that ended long ago, removed."""

    restored: int = 0


@attrs.define
class Mirror:
    """What is cached of upstreams, in bytes that no private repository needs; ``bytes`` is what stays."""

    manifests_expired: int = 0
    manifests_evicted: int = 0
    bytes: int = 0
    expired_bytes: int = 0
    evicted_bytes: int = 0


@attrs.define
class Report:
    """A run's numbers. ``cutoff``: what is younger was not touched, in seconds since the epoch."""

    run: str
    dry_run: bool
    cutoff: float
    seconds: float = 0.0
    repositories: Count = attrs.field(factory=Count)
    manifests: Aged = attrs.field(factory=Aged)
    tags: Count = attrs.field(factory=Count)
    blobs: Blobs = attrs.field(factory=Blobs)
    links: Removed = attrs.field(factory=Removed)
    history: Removed = attrs.field(factory=Removed)
    referrers: Referrers = attrs.field(factory=Referrers)
    uploads: Freed = attrs.field(factory=Freed)
    temporary: Freed = attrs.field(factory=Freed)
    trash: Trashed = attrs.field(factory=Trashed)
    mirror: Mirror = attrs.field(factory=Mirror)
    damage: list[Damage] = attrs.field(factory=list)

    def document(self) -> dict[str, object]:
        """The report as JSON has it."""
        return attrs.asdict(self)

    def empty(self) -> Report:
        """A report of the same run without any numbers."""
        return Report(self.run, self.dry_run, self.cutoff)

    def add(self, part: Report) -> None:
        """Take in the numbers of a part of the run, and the damage that was found in it."""
        for field in attrs.fields(Report):
            mine, its = getattr(self, field.name), getattr(part, field.name)
            if attrs.has(type(mine)):
                for name, number in attrs.asdict(its).items():
                    setattr(mine, name, getattr(mine, name) + number)
        self.damage += part.damage


@attrs.define
class Read:
    """What was read of the blobs, an interrupted verification before included; ``vanished`` were removed meanwhile."""

    read: int = 0
    bytes: int = 0
    vanished: int = 0


@attrs.define
class Entries:
    """Entries of referrers that a registry without them did not write."""

    missing: int = 0
    written: int = 0


@attrs.define
class Verified:
    """What a verification found. ``began`` in seconds since the epoch, of one that was ``resumed`` the first time."""

    began: float
    resumed: bool
    repair: bool
    seconds: float = 0.0
    repositories: int = 0
    blobs: Read = attrs.field(factory=Read)
    referrers: Entries = attrs.field(factory=Entries)
    damage: list[Damage] = attrs.field(factory=list)

    def document(self) -> dict[str, object]:
        """It as JSON has it."""
        return attrs.asdict(self)
