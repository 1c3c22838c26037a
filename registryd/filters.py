"""Registries that let through a part of another; each names what, so that what is added later is refused.

What is let through is the other registry's own method: a filter costs nothing at a call.
"""

from __future__ import annotations

from registryd.interfaces import IRegistry
from registryd.unsupported import UnsupportedRegistry


class ReadOnly(UnsupportedRegistry):
    """Another registry without its writes and deletions. Source: Distribution, ``storage.maintenance.readonly``."""

    def __init__(self, registry: IRegistry) -> None:
        _let_readers_through(self, registry)


class Undeletable(UnsupportedRegistry):
    """Another registry without its deletions. Source: Distribution, ``storage.delete.enabled``."""

    def __init__(self, registry: IRegistry) -> None:
        _let_readers_through(self, registry)
        for method in ("start_upload", "resume_upload", "upload_status", "mount_blob", "put_manifest"):
            setattr(self, method, getattr(registry, method))


def _let_readers_through(filtered: UnsupportedRegistry, registry: IRegistry) -> None:
    for method in (
        "open_blob",
        "resolve_blob",
        "get_manifest",
        "resolve_manifest",
        "repositories",
        "tags",
        "referrers",
    ):
        setattr(filtered, method, getattr(registry, method))
