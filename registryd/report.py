"""What a run of the collector tells: its JSON document as frozen values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

_KEPT = ("repositories", "manifests", "tags", "blobs")
_REMOVED = (*_KEPT, "links", "history", "referrers", "uploads", "temporary", "trash")


@attrs.frozen
class Damage:
    """Something in the tree that is not as it should be; ``repaired`` tells whether it is again."""

    kind: str
    path: str
    detail: str
    repaired: bool


@attrs.frozen
class Report:
    """What a run kept and removed, counted by kind; sizes are bytes, ``seconds`` is what it took.

    ``young_bytes`` are of blobs that nothing needs but that are too young to go. ``mirror_bytes`` are of mirrored
    content that no private repository shares, and ``dropped`` counts the mirrored manifests that expired or gave way.
    """

    seconds: float
    kept: Mapping[str, int]
    removed: Mapping[str, int]
    kept_bytes: int
    removed_bytes: int
    young_bytes: int
    mirror_bytes: int
    dropped: int
    damage: tuple[Damage, ...]

    @classmethod
    def parse(cls, text: bytes) -> Report:
        """The report that a document is; what it leaves out counts as none.

        Errors:
            ValueError: it is no such document.
        """
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("not a mapping")
        removed = {kind: _number(document, kind, "removed") for kind in _REMOVED}
        expired, evicted = (_number(document, "mirror", f"manifests_{how}") for how in ("expired", "evicted"))
        return cls(
            seconds=float(document.get("seconds", 0.0)),
            kept={kind: _number(document, kind, "kept") for kind in _KEPT},
            removed=removed,
            kept_bytes=_number(document, "blobs", "kept_bytes"),
            removed_bytes=sum(_number(document, kind, "removed_bytes") for kind in ("blobs", "uploads", "temporary")),
            young_bytes=_number(document, "blobs", "young_bytes"),
            mirror_bytes=_number(document, "mirror", "bytes"),
            dropped=expired + evicted,
            damage=tuple(_damage(item) for item in document.get("damage", ())),
        )

    def summary(self) -> str:
        """All of it in one line."""
        kept, removed = self.kept, self.removed
        return (
            f"{removed['manifests']} manifests, {removed['tags']} tags, {removed['blobs']} blobs"
            f" and {shown_size(self.removed_bytes)} removed;"
            f" {kept['repositories']} repositories, {kept['manifests']} manifests, {kept['blobs']} blobs"
            f" and {shown_size(self.kept_bytes)} kept; {self.seconds:.1f} s"
        )


@attrs.frozen
class Run:
    """A run that has ended, at a time in seconds since the epoch.

    ``kind``: full, expired or evict. ``outcome``: done, damaged (something damaged was found), busy (another collector
    was running) or failed. The report is None for the last two.
    """

    kind: str
    outcome: str
    ended: float
    report: Report | None


def shown_size(size: int) -> str:
    """A number of bytes as a person reads it."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >> power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} B"


def _number(document: Mapping[str, Any], section: str, key: str) -> int:
    part = document.get(section, {})
    if not isinstance(part, dict):
        raise ValueError(f"{section} is not a mapping")
    return int(part.get(key, 0))


def _damage(item: object) -> Damage:
    if not isinstance(item, dict):
        raise ValueError("damage is not a list of mappings")
    kind, path, detail = (str(item.get(key, "")) for key in ("kind", "path", "detail"))
    return Damage(kind, path, detail, bool(item.get("repaired", False)))
