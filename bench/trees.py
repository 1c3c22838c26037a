"""Stores for the collector, written as files: `python -m bench.trees STORE MANIFESTS OWN SHARED LOOSE LINKED`.

Manifests and their digests are real, so that Distribution marks them; the digests of layers and configs are made up,
and their bytes are holes. Everything is a week old. The same figures always make the same store.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

import attrs

from bench.client import DOCKER_MANIFEST

_AGE_NS = 7 * 24 * 3600 * 10**9
_REPOSITORY_MANIFESTS = 20
_SHARED_A_MANIFEST = 2
_SIZE = 1000


@attrs.frozen
class Shape:
    """How much a store holds: ``own`` layers a manifest, ``shared`` ones that all use, ``loose`` that none uses.

    A repository has 20 manifests, each with a tag. Of the loose blobs, ``linked`` have the link that a deleted image
    leaves behind, the others none, as after the folder of a repository was removed.
    """

    manifests: int
    own: int
    shared: int
    loose: int
    linked: int

    @property
    def kept(self) -> int:
        """The blobs that are needed: manifests, configs, layers."""
        return self.manifests * (2 + self.own) + self.shared

    @property
    def blobs(self) -> int:
        return self.kept + self.loose


ORDINARY = Shape(manifests=10_000, own=5, shared=3_000, loose=38_000, linked=0)
"""111,000 blobs of 10,000 manifests; 38,000 of them are garbage."""

LINKED = attrs.evolve(ORDINARY, linked=38_000)
"""The same, with a link of each garbage blob."""

LARGE = Shape(manifests=20_000, own=30, shared=20_000, loose=340_000, linked=340_000)
"""1,000,000 blobs."""

LARGE_QUICK = Shape(manifests=4_000, own=30, shared=4_000, loose=68_000, linked=68_000)
"""200,000 blobs."""


def root_of(store: str) -> str:
    return f"{store}/docker/registry/v2"


class Writer:
    """Writes a store; what stands already is left alone."""

    def __init__(self, store: str, shape: Shape) -> None:
        self._root = root_of(store)
        self._shape = shape
        old = time.time_ns() - _AGE_NS
        self._times = (old, old)

    def write(self) -> None:
        """Everything."""
        self._make_folders()
        for number in range(self._shape.shared):
            self._blob(_made_up("shared", number))
        for number in range(self._shape.manifests):
            self._manifest(number)
        self.write_loose()

    def write_loose(self) -> None:
        """What a collector removes, once more."""
        for number in range(self._shape.loose):
            digest = _made_up("loose", number)
            self._blob(digest)
            if number < self._shape.linked:
                self._link(f"{self._repository(number % self._shape.manifests)}/_layers/sha256/{digest}", digest)

    def _make_folders(self) -> None:
        for number in range(256):
            os.makedirs(f"{self._root}/blobs/sha256/{number:02x}", exist_ok=True)
        for number in range(0, self._shape.manifests, _REPOSITORY_MANIFESTS):
            repository = self._repository(number)
            for folder in ("_layers/sha256", "_manifests/revisions/sha256", "_manifests/tags"):
                os.makedirs(f"{repository}/{folder}", exist_ok=True)

    def _repository(self, manifest: int) -> str:
        number = manifest // _REPOSITORY_MANIFESTS
        return f"{self._root}/repositories/team-{number // 100:03}/app-{number % 100:02}"

    def _manifest(self, number: int) -> None:
        config, layers, content = _image(self._shape, number)
        digest = hashlib.sha256(content).hexdigest()
        repository = self._repository(number)
        for blob in (config, *layers[_SHARED_A_MANIFEST:]):
            self._blob(blob)
        self._file(f"{self._root}/blobs/sha256/{digest[:2]}/{digest}", "data", content)
        for blob in (config, *layers):
            self._link(f"{repository}/_layers/sha256/{blob}", blob)
        self._link(f"{repository}/_manifests/revisions/sha256/{digest}", digest)
        self._tag(f"{repository}/_manifests/tags/1.{number}", digest)

    def _tag(self, folder: str, digest: str) -> None:
        for below in ("", "/current", "/index", "/index/sha256"):
            os.mkdir(folder + below)
        self._file(f"{folder}/current", "link", f"sha256:{digest}".encode())
        self._link(f"{folder}/index/sha256/{digest}", digest)

    def _blob(self, digest: str) -> None:
        self._file(f"{self._root}/blobs/sha256/{digest[:2]}/{digest}", "data", None)

    def _link(self, folder: str, digest: str) -> None:
        self._file(folder, "link", f"sha256:{digest}".encode())

    def _file(self, folder: str, name: str, content: bytes | None) -> None:
        """A file of a folder that is made for it, with content or a hole."""
        try:
            os.mkdir(folder)
        except FileExistsError:
            if name != "link" or os.path.exists(f"{folder}/{name}"):
                return
        descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT, 0o644)
        if content is None:
            os.ftruncate(descriptor, _SIZE)
        else:
            os.write(descriptor, content)
        os.utime(descriptor, ns=self._times)
        os.close(descriptor)


def _made_up(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def _image(shape: Shape, number: int) -> tuple[str, Sequence[str], bytes]:
    """The digests of an image's config and of its layers, the shared ones first, and its manifest."""
    config = _made_up("config", number)
    shared = [_made_up("shared", (number * 7 + 13 * other) % shape.shared) for other in range(_SHARED_A_MANIFEST)]
    own = [_made_up("own", number * shape.own + layer) for layer in range(shape.own)]
    return config, [*shared, *own], _document(config, [*shared, *own])


def _document(config: str, layers: Sequence[str]) -> bytes:
    gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": _descriptor("application/vnd.docker.container.image.v1+json", config),
        "layers": [_descriptor(gzip, layer) for layer in layers],
    }
    return json.dumps(document, indent=3).encode()


def _descriptor(media_type: str, digest: str) -> dict[str, object]:
    return {"mediaType": media_type, "size": _SIZE, "digest": f"sha256:{digest}"}


def blobs_in(store: str) -> tuple[int, str]:
    """How many blobs a store holds, and a hash of their names."""
    names = hashlib.sha256()
    count = 0
    for name in _blob_names(f"{root_of(store)}/blobs/sha256"):
        names.update(name.encode())
        count += 1
    return count, names.hexdigest()


def kept_in(shape: Shape) -> str:
    """The hash of the names of the blobs that a collector leaves, as ``blobs_in`` tells it."""
    names = [_made_up("shared", number) for number in range(shape.shared)]
    for number in range(shape.manifests):
        config, layers, content = _image(shape, number)
        own = layers[_SHARED_A_MANIFEST:]
        names += [config, *own, hashlib.sha256(content).hexdigest()]
    return hashlib.sha256("".join(sorted(names)).encode()).hexdigest()


def _blob_names(folder: str) -> Iterator[str]:
    for prefix in sorted(os.listdir(folder)):
        for name in sorted(os.listdir(f"{folder}/{prefix}")):
            if os.path.exists(f"{folder}/{prefix}/{name}/data"):
                yield name


def main() -> None:
    """Write a store; with a seventh argument only what a collector removes; for ``kept``, tell what that leaves."""
    store, *figures = sys.argv[1:]
    shape = Shape(*map(int, figures[:5]))
    if store == "kept":
        print(kept_in(shape))
    elif figures[5:]:
        Writer(store, shape).write_loose()
    else:
        Writer(store, shape).write()


if __name__ == "__main__":
    main()
