"""Distribution's tree, written and found by path, as Distribution writes it: without the daemon."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import Daemon

from .content import digest_of

LAYERS = "_layers"
REVISIONS = "_manifests/revisions"


def home(daemon: Daemon, name: str) -> Path:
    return daemon.tree / "repositories" / name


def data_of(daemon: Daemon, digest: str) -> Path:
    """Where the bytes of a blob lie."""
    algorithm, _, encoded = digest.partition(":")
    return daemon.tree / "blobs" / algorithm / encoded[:2] / encoded / "data"


def link_of(daemon: Daemon, name: str, kind: str, digest: str) -> Path:
    """Where the link of a layer or a revision lies."""
    algorithm, _, encoded = digest.partition(":")
    return home(daemon, name) / kind / algorithm / encoded / "link"


def tag_of(daemon: Daemon, name: str, tag: str) -> Path:
    """Where the link of a tag lies."""
    return home(daemon, name) / "_manifests" / "tags" / tag / "current" / "link"


def write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write(daemon: Daemon, name: str, kind: str, content: bytes) -> str:
    """Write a blob and its link as a layer or a revision; its digest."""
    digest = digest_of(content)
    write_file(data_of(daemon, digest), content)
    write_file(link_of(daemon, name, kind, digest), digest.encode())
    return digest


def write_tag(daemon: Daemon, name: str, tag: str, digest: str) -> None:
    current = tag_of(daemon, name, tag)
    encoded = digest.partition(":")[2]
    write_file(current.parent.parent / "index" / "sha256" / encoded / "link", digest.encode())
    write_file(current, digest.encode())
