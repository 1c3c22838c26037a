"""What the tests push: blobs, manifests, and a repository to push them to."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from .wire import Client, Headers, Response

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

OCTETS: Final = {"Content-Type": "application/octet-stream"}

Document = dict[str, Any]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def random_bytes(size: int = 256) -> bytes:
    return os.urandom(size)


def short(value: object) -> str:
    """The beginning of a parameter, for the name of its test."""
    return ascii(value)[:40]


def absent(algorithm: str = "sha256") -> str:
    """A digest that nothing has."""
    return digest_of(os.urandom(32), algorithm)


def encode(document: Document) -> bytes:
    return json.dumps(document).encode()


def descriptor(content: bytes, media_type: str, algorithm: str = "sha256", **more: Any) -> Document:
    return {"mediaType": media_type, "digest": digest_of(content, algorithm), "size": len(content), **more}


def image(config: Document, *layers: Document, media_type: str = OCI_MANIFEST, **more: Any) -> Document:
    return {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": list(layers), **more}


def index(*children: Document, media_type: str = OCI_INDEX, **more: Any) -> Document:
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": list(children), **more}


@attrs.frozen
class Pushed:
    """A manifest that the registry has."""

    content: bytes
    media_type: str
    digest: str

    def descriptor(self, **more: Any) -> Document:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content), **more}


class Repository:
    """A repository, seen through a client."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    def path(self, tail: str) -> str:
        return f"/v2/{self.name}/{tail}"

    def start(self, query: str = "") -> str:
        """The location of a new upload."""
        return self.client.post(self.path(f"blobs/uploads/{query}")).is_(202).location

    def blob(self, content: bytes | None = None, algorithm: str = "sha256") -> str:
        """Push a blob; its digest."""
        body = random_bytes() if content is None else content
        digest = digest_of(body, algorithm)
        self.client.put(with_query(self.start(), f"digest={digest}"), OCTETS, body).is_(201)
        return digest

    def put(
        self, reference: str, content: bytes, media_type: str | None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Try to push a manifest; ``reference`` may have a query."""
        fields = dict(headers or {})
        if media_type is not None:
            fields["Content-Type"] = media_type
        return self.client.put(self.path(f"manifests/{reference}"), fields, content)

    def push(
        self, document: Document, tag: str | None = None, algorithm: str = "sha256", media_type: str | None = None
    ) -> Pushed:
        """Push a manifest by a tag, or by its digest."""
        content = encode(document)
        type_ = media_type or document["mediaType"]
        digest = digest_of(content, algorithm)
        self.put(tag or digest, content, type_).is_(201)
        return Pushed(content, type_, digest)

    def config(self, media_type: str = OCI_CONFIG, **more: Any) -> Document:
        """Push a config that no other image has; its descriptor."""
        content = encode({"author": os.urandom(16).hex(), **more})
        self.blob(content)
        return descriptor(content, media_type)

    def layer(self, media_type: str = OCI_LAYER) -> Document:
        """Push a layer that no other image has; its descriptor."""
        content = random_bytes()
        self.blob(content)
        return descriptor(content, media_type)

    def image(self, tag: str | None = None, **more: Any) -> Pushed:
        """Push an OCI image that is like no other."""
        return self.push(image(self.config(), self.layer(), **more), tag)

    def docker_image(self, tag: str | None = None) -> Pushed:
        """Push a Docker image that is like no other."""
        config, layer = self.config(DOCKER_CONFIG), self.layer(DOCKER_LAYER)
        return self.push(image(config, layer, media_type=DOCKER_MANIFEST), tag)

    def get(self, reference: str, headers: Headers = ()) -> Response:
        return self.client.get(self.path(f"manifests/{reference}"), headers)

    def tags(self) -> list[str]:
        tags: list[str] = self.client.get(self.path("tags/list")).is_(200).json()["tags"]
        return tags

    def holds(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        response = self.client.head(self.path(f"blobs/{digest}"))
        assert response.status in (200, 404), response
        return response.status == 200


def settled(ask: Callable[[], Response]) -> Response:
    """The answer to a request once the daemon has noticed that an earlier writer of the same upload is gone."""
    deadline = time.monotonic() + 10
    while (response := ask()).status in (409, 416) and time.monotonic() < deadline:
        time.sleep(0.02)
    return response


def with_query(target: str, query: str) -> str:
    """A target with more in its query."""
    return f"{target}{'&' if '?' in target else '?'}{query}"
