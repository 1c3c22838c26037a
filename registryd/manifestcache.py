"""Manifests in memory: what is read last is at hand."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from registryd.model import Manifest
from registryd.reference import Digest


class ManifestCache:
    """The manifests that were read last, up to a number of bytes; any thread may use it.

    Each has the type that its bytes tell; where they do not name it, a repository can know another.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[Digest, tuple[Manifest, bool]] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: Digest) -> tuple[Manifest, bool] | None:
        """A manifest, and whether it names its own type."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is not None:
                self._entries.move_to_end(digest)
            return entry

    def put(self, manifest: Manifest, named: bool) -> None:
        """Keep a manifest; what was asked for longest ago goes where the limit is passed."""
        with self._lock:
            if manifest.digest in self._entries:
                return
            self._entries[manifest.digest] = manifest, named
            self._size += len(manifest.content)
            while self._size > self._limit:
                self._size -= len(self._entries.popitem(last=False)[1][0].content)
