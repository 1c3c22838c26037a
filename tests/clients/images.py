"""Images made without a network: a busybox root, images and indexes of it as values, OCI layouts on disk."""

from __future__ import annotations

import functools
import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from .programs import program
from .v2 import V2, digest_of

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
HERE: Final = _MACHINES.get(platform.machine(), platform.machine())
ELSEWHERE: Final = "riscv64"


@attrs.frozen
class Format:
    """The media types of a family of manifests."""

    manifest: str
    index: str
    config: str
    layer: str


OCI: Final = Format(
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)
DOCKER: Final = Format(
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@attrs.frozen
class Content:
    """Bytes with a media type; ``digest`` names them."""

    media_type: str
    content: bytes = attrs.field(repr=False)

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@attrs.frozen
class Image:
    """An image for one platform."""

    manifest: Content
    config: Content
    layers: Sequence[Content]
    architecture: str

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def blobs(self) -> Iterator[Content]:
        yield self.config
        yield from self.layers


@attrs.frozen
class Index:
    """Images of several platforms under one digest."""

    manifest: Content
    images: Sequence[Image]

    @property
    def digest(self) -> str:
        return self.manifest.digest


def root_tar(message: str, *, busybox: bool = True) -> bytes:
    """A root file system: ``/message``, and busybox as ``/bin/cat`` and ``/bin/sh``."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if busybox:
            _add(archive, "bin/busybox", _busybox(), 0o755)
            for name in ("sh", "cat"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        _add(archive, "message", message.encode(), 0o644)
    return target.getvalue()


def file_tar(name: str, content: bytes) -> bytes:
    """A layer that adds one file."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, name, content, 0o644)
    return target.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


@functools.cache
def _busybox() -> bytes:
    return Path(program("busybox")).read_bytes()


def image(tars: Sequence[bytes], family: Format = OCI, architecture: str = HERE) -> Image:
    """An image of layers, each given as a tar."""
    layers = [Content(family.layer, gzip.compress(tar, compresslevel=1, mtime=0)) for tar in tars]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/cat", "/message"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    configuration = Content(family.config, _json(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": family.manifest,
        "config": configuration.descriptor,
        "layers": [layer.descriptor for layer in layers],
    }
    return Image(Content(family.manifest, _json(manifest)), configuration, layers, architecture)


def index(images: Sequence[Image], family: Format = OCI) -> Index:
    """An index, or Docker manifest list, of images."""
    children = [
        {**child.manifest.descriptor, "platform": {"os": "linux", "architecture": child.architecture}}
        for child in images
    ]
    document = {"schemaVersion": 2, "mediaType": family.index, "manifests": children}
    return Index(Content(family.index, _json(document)), images)


def two_platforms(message: str, family: Format = OCI) -> Index:
    """An index with an image that runs here and one that does not."""
    here = image([root_tar(message)], family)
    elsewhere = image([root_tar(f"{message} elsewhere", busybox=False)], family, ELSEWHERE)
    return index([here, elsewhere], family)


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def write_layout(folder: Path, tag: str, subject: Image | Index) -> Path:
    """Write an OCI image layout that holds an image or index under a tag; its folder."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for content in _contents(subject):
        (blobs / content.digest.partition(":")[2]).write_bytes(content.content)
    named = {**subject.manifest.descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return folder


def layout_digest(folder: Path) -> str:
    """The digest of the one image or index that a layout holds."""
    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    return str(entry["digest"])


def push(registry: V2, repository: str, tag: str, subject: Image | Index) -> None:
    """Store an image, or an index with its images, over plain HTTP."""
    images = subject.images if isinstance(subject, Index) else [subject]
    for child in images:
        for blob in child.blobs():
            registry.push_blob(repository, blob.content)
        registry.push_manifest(repository, child.digest, child.manifest.content, child.manifest.media_type)
    registry.push_manifest(repository, tag, subject.manifest.content, subject.manifest.media_type)


def assert_whole(registry: V2, repository: str, tag: str, subject: Image | Index) -> None:
    """Check that a registry serves an image or index, and everything in it, byte for byte."""
    top = subject.manifest
    images = subject.images if isinstance(subject, Index) else [subject]
    answers = [(top, registry.manifest(repository, reference, top.media_type)) for reference in (tag, top.digest)]
    for child in images:
        manifest = child.manifest
        answers.append((manifest, registry.manifest(repository, manifest.digest, manifest.media_type)))
        answers += [(blob, registry.blob(repository, blob.digest)) for blob in child.blobs()]
    for content, answer in answers:
        assert answer.expect(200).body == content.content
        assert answer.headers["Docker-Content-Digest"] == content.digest


def _contents(subject: Image | Index) -> Iterator[Content]:
    if isinstance(subject, Index):
        for child in subject.images:
            yield from _contents(child)
    else:
        yield from subject.blobs()
    yield subject.manifest
