"""Writes trees, with the times that they should have, straight into a storage: what collectors are tried on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import attrs

from registryd.config import Collection, Config, Proxy, Retention, Upstream, load
from registryd.globs import Globs
from registryd.model import OCI_INDEX, OCI_MANIFEST, Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.interfaces import IStorageDriver
from registryd.storage.memory import MemoryDriver
from registryd_gc.collect import Options, collect
from registryd_gc.report import Report
from tests.values import described, image, index, listed, manifest_of

DAY = 86400.0
OLD = 10 * DAY
NEW = 0.0
APP = RepositoryName("team/app")
OTHER = RepositoryName("other")
HUB = RepositoryName("docker.io/library/busybox")


@attrs.define
class Heard:
    """A listener that remembers."""

    lines: list[str] = attrs.field(factory=list)
    why: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    steps: int = 0
    done: int = 0

    def removed(self, what: str) -> None:
        self.lines.append(what)

    def explained(self, what: str) -> None:
        self.why.append(what)

    def noted(self, what: str) -> None:
        self.notes.append(what)

    def began(self, steps: int) -> None:
        self.steps = steps

    def stepped(self, steps: int = 1) -> None:
        self.done += steps


@attrs.define
class Store:
    """A storage to write trees into; ages are in seconds."""

    driver: IStorageDriver
    config: Config = attrs.field(factory=lambda: load(None, {}))
    heard: Heard = attrs.field(factory=Heard)
    now: float = attrs.field(factory=time.time)

    # Writing

    def put(self, path: str, content: bytes, age: float = OLD) -> str:
        self.driver.put_content(path, content)
        self.age(path, age)
        return path

    def age(self, path: str, age: float) -> None:
        """Let content have been modified some seconds ago."""
        modified = self.now - age
        if isinstance(self.driver, FilesystemDriver):
            os.utime(self.driver.root + path, (modified, modified))
        else:
            assert isinstance(self.driver, MemoryDriver)
            self.driver._entry(path).modified = modified

    def link(self, path: str, digest: Digest, age: float = OLD) -> str:
        return self.put(path, str(digest).encode(), age)

    def blob(self, content: bytes, age: float = OLD, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(content, algorithm)
        self.put(layout.blob_data(digest), content, age)
        return digest

    def layer(self, content: bytes, name: RepositoryName = APP, age: float = OLD) -> Digest:
        """A blob that a repository holds."""
        digest = self.blob(content, age)
        self.link(layout.layer_link(name, digest), digest, age)
        return digest

    def manifest(
        self, manifest: Manifest, name: RepositoryName = APP, tags: Sequence[str] = (), age: float = OLD
    ) -> Manifest:
        """A manifest that a repository holds, and what names it."""
        self.put(layout.blob_data(manifest.digest), manifest.content, age)
        self.driver.make_folder(layout.layers(name))
        self.link(layout.revision_link(name, manifest.digest), manifest.digest, age)
        for tag in tags:
            self.tag(tag, manifest, name, age)
        return manifest

    def tag(
        self, tag: str, manifest: Manifest, name: RepositoryName = APP, pushed: float = OLD, used: float | None = None
    ) -> None:
        self.link(layout.tag_history_link(name, Tag(tag), manifest.digest), manifest.digest, pushed)
        self.link(layout.tag_link(name, Tag(tag)), manifest.digest, pushed if used is None else used)

    def image(
        self,
        what: str,
        name: RepositoryName = APP,
        tags: Sequence[str] = (),
        age: float = OLD,
        layers: Sequence[bytes] = (),
        **more: object,
    ) -> Manifest:
        """An image with a config and a layer of its own, and its blobs."""
        blobs = [f"config of {what}".encode(), f"layer of {what}".encode(), *layers]
        for blob in blobs:
            self.layer(blob, name, age)
        return self.manifest(image(*blobs, **more), name, tags, age)

    def index(
        self,
        *children: Manifest,
        name: RepositoryName = APP,
        tags: Sequence[str] = (),
        age: float = OLD,
        **more: object,
    ) -> Manifest:
        return self.manifest(index(*map(listed, children), **more), name, tags, age)

    def signature(self, subject: Manifest, what: str = "signature", name: RepositoryName = APP) -> Manifest:
        """A manifest that refers to another."""
        signed = self.image(what, name, subject=listed(subject))
        self.link(layout.referrer_link(name, subject.digest, signed.digest), signed.digest)
        return signed

    def mirror(self, name: RepositoryName = HUB, upstream: str = "docker.io") -> None:
        self.put(layout.mirror(name), upstream.encode())

    def upload(self, id: str, content: bytes = b"part", name: RepositoryName = APP, age: float = OLD) -> str:
        self.put(layout.upload_data(name, id), content, age)
        self.put(layout.upload_started(name, id), b"2020-01-01T00:00:00Z", age)
        self.age(layout.upload(name, id), age)
        return layout.upload(name, id)

    # Configuring

    def configure(self, **collection: Any) -> None:
        self.config = attrs.evolve(self.config, collection=Collection(**collection))

    def retain(self, **rule: Any) -> None:
        """Have one rule of retention for all repositories."""
        settings: dict[str, Any] = {
            "repositories": ("**",),
            "keep_newest": None,
            "keep_tags": (),
            "delete_unused": None,
            "delete_older": None,
        }
        self.configure(retention=(Retention(**{**settings, **rule}),))

    def proxy(self, ttl: float | None = 7 * DAY, max_size: int | None = None) -> None:
        upstream = Upstream(("https://registry-1.docker.io",), "", "", None, None, ttl, 60.0, 16)
        proxy = Proxy(None, {"docker.io": upstream}, None, (), max_size, (), 300.0)
        self.config = attrs.evolve(self.config, proxy=proxy)

    # Collecting, and looking

    def collect(self, grace: float = DAY, globs: Sequence[str] = (), **options: Any) -> Report:
        chosen = Globs(globs) if globs else None
        self.heard = Heard()
        return collect(self.driver, self.config, Options(grace, repositories=chosen, **options), self.heard)

    def has(self, path: str) -> bool:
        try:
            self.driver.stat(path)
        except FileNotFoundError:
            return False
        return True

    def has_blob(self, content: bytes) -> bool:
        return self.has(layout.blob_data(Digest.of(content)))

    def has_tag(self, tag: str, name: RepositoryName = APP) -> bool:
        return self.has(layout.tag_link(name, Tag(tag)))

    def has_manifest(self, manifest: Manifest, name: RepositoryName = APP) -> bool:
        """Whether a manifest stands, its link and its bytes; both do, or neither."""
        link, data = self.has(layout.revision_link(name, manifest.digest)), self.has_blob(manifest.content)
        assert link <= data, "a manifest without its bytes"
        return link

    def is_whole(self, what: str, manifest: Manifest, name: RepositoryName = APP) -> bool:
        """Whether an image can be pulled; it does so wholly, or its manifest is gone."""
        digests = [Digest.of(f"{part} of {what}".encode()) for part in ("config", "layer")]
        links = [self.has(layout.layer_link(name, digest)) for digest in digests]
        data = [self.has(layout.blob_data(digest)) for digest in digests]
        if self.has_manifest(manifest, name):
            assert all([*links, *data]), f"a part of {what} is missing"
            return True
        return False

    def files(self) -> dict[str, tuple[bytes, float]]:
        """All content of the tree, with its time."""
        return dict(self._files(layout.ROOT))

    def _files(self, folder: str) -> list[tuple[str, tuple[bytes, float]]]:
        found: list[tuple[str, tuple[bytes, float]]] = []
        for entry in self.driver.entries(folder):
            path = f"{folder}/{entry.name}"
            if entry.is_folder:
                found += self._files(path)
            else:
                found.append((path, (self.driver.get_content(path), self.driver.stat(path).modified)))
        return found

    def folders(self, folder: str = layout.REPOSITORIES) -> set[str]:
        """All folders below one."""
        below = {f"{folder}/{entry.name}" for entry in self.driver.entries(folder) if entry.is_folder}
        return below.union(*map(self.folders, below)) if below else below


__all__ = [
    "APP",
    "DAY",
    "HUB",
    "NEW",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "OLD",
    "OTHER",
    "Store",
    "described",
    "image",
    "index",
    "listed",
    "manifest_of",
]
