"""Trees that Distribution wrote, which are served at once."""

from __future__ import annotations

import pytest

from tests.daemon import Daemon

from .content import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    OCTETS,
    Document,
    Repository,
    descriptor,
    digest_of,
    encode,
    image,
    index,
    random_bytes,
    with_query,
)
from .trees import LAYERS, REVISIONS, data_of, home, link_of, write, write_file, write_tag
from .wire import Client


def without_type(document: Document) -> Document:
    return {key: value for key, value in document.items() if key != "mediaType"}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_image(daemon: Daemon, client: Client, repo: Repository, media_type: str, named: bool) -> None:
    config, layer = random_bytes(), random_bytes(100_000)
    docker = media_type == DOCKER_MANIFEST
    document = image(
        descriptor(config, DOCKER_CONFIG if docker else OCI_CONFIG),
        descriptor(layer, DOCKER_LAYER if docker else OCI_LAYER),
        media_type=media_type,
    )
    content = encode(document if named else without_type(document))
    for blob in (config, layer):
        write(daemon, repo.name, LAYERS, blob)
    write_tag(daemon, repo.name, "latest", write(daemon, repo.name, REVISIONS, content))
    assert repo.tags() == ["latest"]
    for reference in ("latest", digest_of(content)):
        response = repo.get(reference).is_(200)
        assert response.body == content
        # Distribution does not store the type; what does not name its own is an OCI image.
        assert response.header("Content-Type") == (media_type if named else OCI_MANIFEST)
    for blob in (config, layer):
        assert client.get(repo.path(f"blobs/{digest_of(blob)}")).is_(200).body == blob
    assert client.get(f"/v1/search?q={repo.name}").json()["num_results"] == 1
    client.delete(repo.path("manifests/latest")).is_(202)
    client.delete(repo.path(f"manifests/{digest_of(content)}")).is_(202)
    repo.get(digest_of(content)).is_(404)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST, None])
def test_index(daemon: Daemon, repo: Repository, media_type: str | None) -> None:
    document = index(media_type=media_type or OCI_INDEX)
    content = encode(document if media_type else without_type(document))
    write_tag(daemon, repo.name, "latest", write(daemon, repo.name, REVISIONS, content))
    response = repo.get("latest").is_(200)
    assert response.body == content
    assert response.header("Content-Type") == (media_type or OCI_INDEX)


def test_schema_1_is_served(daemon: Daemon, client: Client, repo: Repository) -> None:
    layer = write(daemon, repo.name, LAYERS, random_bytes())
    content = encode({"schemaVersion": 1, "name": repo.name, "tag": "old", "fsLayers": [{"blobSum": layer}]})
    write_tag(daemon, repo.name, "old", write(daemon, repo.name, REVISIONS, content))
    for headers in ({}, {"Accept": DOCKER_MANIFEST}, {"Accept": "*/*"}):
        response = client.get(repo.path("manifests/old"), headers).is_(200)
        assert response.body == content
        assert response.header("Content-Type") in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)


def test_a_layer_that_was_pushed_as_sha512(daemon: Daemon, client: Client, repo: Repository) -> None:
    content = random_bytes()
    canonical = write(daemon, repo.name, LAYERS, content)
    alias = digest_of(content, "sha512")
    write_file(link_of(daemon, repo.name, LAYERS, alias), canonical.encode())
    response = client.get(repo.path(f"blobs/{alias}")).is_(200)
    assert response.body == content
    assert response.header("Docker-Content-Digest") in (alias, canonical)
    assert client.head(repo.path(f"blobs/{alias}")).is_(200).header("Content-Length") == "256"
    repo.push(image(descriptor(content, OCI_CONFIG, "sha512")), "latest")
    assert repo.tags() == ["latest"]


def test_an_upload_that_distribution_began(daemon: Daemon, client: Client, repo: Repository) -> None:
    repo.blob()
    identity = "0b2cb2d6-8e4e-4a8d-9b7b-2a3d7f1f7c55"
    folder = home(daemon, repo.name) / "_uploads" / identity
    write_file(folder / "data", b"01234")
    write_file(folder / "startedat", b"2026-08-18T10:00:00Z")
    write_file(folder / "hashstates" / "sha256" / "5", b"sha\x03")
    location = repo.path(f"blobs/uploads/{identity}")
    assert client.get(location).is_(204).header("Range") == "0-4"
    client.patch(location, {**OCTETS, "Content-Range": "5-9"}, b"56789").is_(202)
    client.put(with_query(location, f"digest={digest_of(b'0123456789')}")).is_(201)
    assert client.get(repo.path(f"blobs/{digest_of(b'0123456789')}")).is_(200).body == b"0123456789"


def test_what_is_pushed_lies_where_distribution_looks(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes()
    layer = repo.blob(content)
    assert data_of(daemon, layer).read_bytes() == content
    assert link_of(daemon, repo.name, LAYERS, layer).read_bytes() == layer.encode()
    pushed = repo.image("latest")
    assert data_of(daemon, pushed.digest).read_bytes() == pushed.content
    assert link_of(daemon, repo.name, REVISIONS, pushed.digest).read_bytes() == pushed.digest.encode()
    tag = home(daemon, repo.name) / "_manifests" / "tags" / "latest"
    assert (tag / "current" / "link").read_bytes() == pushed.digest.encode()
    encoded = pushed.digest.partition(":")[2]
    assert (tag / "index" / "sha256" / encoded / "link").read_bytes() == pushed.digest.encode()
    uploads = home(daemon, repo.name) / "_uploads"
    assert not uploads.exists() or not list(uploads.iterdir())
