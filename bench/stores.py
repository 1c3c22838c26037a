"""What the stores hold: images and blobs pushed through each server's API, and a large tree written as files."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from bench.client import BLOB_FIELDS, DOCKER_MANIFEST, HEAD_FIELDS, Client, checked, location
from bench.servers import NGINX, Server

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LISTED = 10_000
LISTED_REPOSITORY = "listed/tags"

_IMAGES = 32
_LAYERS = 4
_LAYER_SIZE = 4 * KIB
_LARGE_REPOSITORY = "large/pulled"

T = TypeVar("T")


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@attrs.frozen
class Image:
    """An image as Docker pushes it: Docker's manifest schema 2, a config and some layers of 4 KiB."""

    name: str
    tag: str
    manifest: bytes
    blobs: Sequence[bytes]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


@functools.cache
def images() -> Sequence[Image]:
    """The images of the small rows: several, so that no row measures one hot file."""
    return [_image(number) for number in range(_IMAGES)]


def _image(number: int) -> Image:
    seeded = random.Random(number)
    config = json.dumps({"architecture": "amd64", "os": "linux", "history": [seeded.randbytes(600).hex()]}).encode()
    layers = [seeded.randbytes(_LAYER_SIZE) for _ in range(_LAYERS)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": _descriptor("application/vnd.docker.container.image.v1+json", config),
        "layers": [_descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer) for layer in layers],
    }
    return Image(f"library/app-{number:02}", "1.0", json.dumps(manifest, indent=3).encode(), [*layers, config])


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(content), "digest": digest_of(content)}


def store_images(server: Server) -> Sequence[Image]:
    """Make a server hold the images; nginx gets their blobs as files at the API's paths."""
    if server.name == NGINX:
        for image in images():
            for blob in image.blobs:
                _place(server, image.name, digest_of(blob)).write_bytes(blob)
        return images()
    with Client(server) as client:
        for image in images():
            _push_image(client, image)
    return images()


def _push_image(client: Client, image: Image) -> None:
    target = f"/v2/{image.name}/manifests/{image.digest}"
    if client.ask("HEAD", target, [("Accept", DOCKER_MANIFEST)]).status == 200:
        return
    for blob in image.blobs:
        upload = client.expect(202, "POST", f"/v2/{image.name}/blobs/uploads/", HEAD_FIELDS)
        fields = [*BLOB_FIELDS, ("Content-Type", "application/octet-stream")]
        client.expect(201, "PUT", location(upload, digest_of(blob)), fields, blob)
    fields = [*BLOB_FIELDS, ("Content-Type", DOCKER_MANIFEST)]
    client.expect(201, "PUT", f"/v2/{image.name}/manifests/{image.tag}", fields, image.manifest)


def _place(server: Server, name: str, digest: str) -> Path:
    path = server.place.store / "v2" / name / "blobs" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class LargeBlob:
    """Content of 1 GiB: 1 MiB of random bytes again and again, with 32 KiB at the end that make it one of its own."""

    size = GIB
    _piece = 32 * KIB

    def __init__(self, seed: int) -> None:
        self._end = random.Random(seed).randbytes(self._piece)
        content = _large_start().copy()
        content.update(self._end)
        self.digest = "sha256:" + content.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """The content, 32 KiB at a time."""
        return _in_order(_repeated(), self._end)

    def chunks(self) -> Iterator[memoryview | bytes]:
        """The content in HTTP chunks of 32 KiB, in the pieces in which Go's client writes them to the socket.

        A chunk goes out in three writes, as seen of Docker Engine 20.10: what fits into a buffer of 4 KiB, the rest,
        and the line end.
        """
        end = _as_chunk(self._end)
        for chunk in _in_order(_repeated_chunks(), end):
            yield from chunk
        yield b"0\r\n\r\n"


_CHUNK_WRITES = (0, 4096, 32774, 32776)


def _as_chunk(piece: bytes) -> Sequence[memoryview]:
    chunk = memoryview(b"%x\r\n%b\r\n" % (len(piece), piece))
    return [chunk[start:stop] for start, stop in itertools.pairwise(_CHUNK_WRITES)]


@functools.cache
def _repeated() -> Sequence[bytes]:
    seeded = random.Random("large blob")
    return [seeded.randbytes(32 * KIB) for _ in range(MIB // (32 * KIB))]


@functools.cache
def _repeated_chunks() -> Sequence[Sequence[memoryview]]:
    return [_as_chunk(piece) for piece in _repeated()]


def _in_order(repeated: Sequence[T], end: T) -> Iterator[T]:
    for number in range(GIB // (32 * KIB) - 1):
        yield repeated[number % len(repeated)]
    yield end


@functools.cache
def _large_start() -> hashlib._Hash:
    start = hashlib.sha256()
    for piece in list(_in_order(_repeated(), b""))[:-1]:
        start.update(piece)
    return start


def store_large_blob(server: Server) -> tuple[str, LargeBlob]:
    """Make a server hold a blob of 1 GiB; the request target of the blob, and the blob."""
    blob = LargeBlob(0)
    target = f"/v2/{_LARGE_REPOSITORY}/blobs/{blob.digest}"
    if server.name == NGINX:
        with open(_place(server, _LARGE_REPOSITORY, blob.digest), "wb") as file:
            file.writelines(blob.pieces())
        return target, blob
    with Client(server) as client:
        if client.ask("HEAD", target, HEAD_FIELDS).status != 200:
            push_large_blob(client, _LARGE_REPOSITORY, blob)
    return target, blob


def push_large_blob(client: Client, name: str, blob: LargeBlob) -> None:
    """Push a blob as Docker does: POST, one PATCH of chunks, PUT."""
    upload = client.expect(202, "POST", f"/v2/{name}/blobs/uploads/", BLOB_FIELDS)
    patched = checked(202, "PATCH", client.ask_chunked("PATCH", location(upload), blob.chunks()))
    client.expect(201, "PUT", location(patched, blob.digest), BLOB_FIELDS)


def blob_folder(server: Server, digest: str) -> Path:
    """Where a registry keeps a blob."""
    algorithm, _, value = digest.partition(":")
    return _root(server.place.store) / "blobs" / algorithm / value[:2] / value


def write_listed_tree(store: Path) -> None:
    """Write a store of 10,000 repositories, one of which has 10,000 tags, as files; one that is there stays."""
    root = _root(store)
    if root.exists():
        return
    image = images()[0]
    for blob in (*image.blobs, image.manifest):
        digest = digest_of(blob).removeprefix("sha256:")
        _write(root / "blobs/sha256" / digest[:2] / digest / "data", blob)
    for name in listed_repositories():
        _write_repository(root / "repositories" / name, image, listed_tags() if name == LISTED_REPOSITORY else ["1.0"])


def listed_repositories() -> Sequence[str]:
    """The repositories of the listed tree, in order."""
    rest = [f"team-{number // 100:02}/app-{number % 100:02}" for number in range(LISTED - 1)]
    return sorted([*rest, LISTED_REPOSITORY])


def listed_tags() -> Sequence[str]:
    """The tags of the listed tree's one large repository, in order."""
    return [f"1.{number:05}" for number in range(LISTED)]


def _write_repository(repository: Path, image: Image, tags: Sequence[str]) -> None:
    for blob in image.blobs:
        _write_link(repository / "_layers", digest_of(blob))
    manifests = repository / "_manifests"
    _write_link(manifests / "revisions", image.digest)
    for tag in tags:
        _write_link(manifests / "tags" / tag / "index", image.digest)
        _write(manifests / "tags" / tag / "current/link", image.digest.encode())


def _write_link(folder: Path, digest: str) -> None:
    _write(folder / digest.replace(":", "/") / "link", digest.encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _root(store: Path) -> Path:
    return store / "docker/registry/v2"
