"""What pushers have tried and what they were told: what a registry must hold, and what it may."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import attrs


@attrs.frozen
class Blob:
    """A blob in a repository."""

    repository: str
    digest: str
    size: int


@attrs.frozen
class Manifest:
    """A manifest in a repository."""

    repository: str
    digest: str
    content: bytes = attrs.field(repr=False)
    media_type: str


@attrs.define
class _Tag:
    possible: set[str | None] = attrs.field(factory=lambda: {None})
    tried: set[str | None] = attrs.field(factory=lambda: {None})


class Ledger:
    """The books of all pushers. None, where a tag's digest is meant, stands for no such tag."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[Blob, bool] = {}
        self._manifests: dict[Manifest, bool] = {}
        self._tags: dict[tuple[str, str], _Tag] = {}
        self.faults: list[str] = []

    def try_blob(self, blob: Blob) -> None:
        with self._lock:
            self._blobs.setdefault(blob, False)

    def acknowledge_blob(self, blob: Blob) -> None:
        with self._lock:
            self._blobs[blob] = True

    def try_manifest(self, manifest: Manifest, tags: Sequence[str]) -> None:
        with self._lock:
            self._manifests.setdefault(manifest, False)
        for tag in tags:
            self.try_tag(manifest.repository, tag, manifest.digest)

    def acknowledge_manifest(self, manifest: Manifest, tags: Sequence[str]) -> None:
        with self._lock:
            self._manifests[manifest] = True
        for tag in tags:
            self.acknowledge_tag(manifest.repository, tag, manifest.digest)

    def try_tag(self, repository: str, tag: str, digest: str | None) -> None:
        with self._lock:
            entry = self._tags.setdefault((repository, tag), _Tag())
            entry.possible.add(digest)
            entry.tried.add(digest)

    def acknowledge_tag(self, repository: str, tag: str, digest: str | None) -> None:
        """Each tag has one writer: what was tried before is over."""
        with self._lock:
            self._tags[repository, tag].possible = {digest}

    def fault(self, what: str) -> None:
        """Note something that must not happen."""
        with self._lock:
            self.faults.append(what)

    def blobs(self, acknowledged: bool | None = None) -> list[Blob]:
        with self._lock:
            return [blob for blob, told in self._blobs.items() if acknowledged in (None, told)]

    def manifests(self, acknowledged: bool | None = None) -> list[Manifest]:
        with self._lock:
            return [manifest for manifest, told in self._manifests.items() if acknowledged in (None, told)]

    def tags(self) -> dict[tuple[str, str], set[str | None]]:
        """What each tag may name now."""
        with self._lock:
            return {key: set(entry.possible) for key, entry in self._tags.items()}

    def ever(self, repository: str, tag: str) -> set[str | None]:
        """What a tag may have named at any time."""
        with self._lock:
            return set(self._tags[repository, tag].tried)

    def any_blob(self, choice: random.Random, acknowledged: bool | None) -> Blob | None:
        found = self.blobs(acknowledged)
        return choice.choice(found) if found else None

    def __str__(self) -> str:
        blobs, manifests = self.blobs(True), self.manifests(True)
        tried = len(self.blobs()) + len(self.manifests())
        return f"{len(blobs)} blobs, {len(manifests)} manifests, {len(self.tags())} tags acknowledged; {tried} tried"
