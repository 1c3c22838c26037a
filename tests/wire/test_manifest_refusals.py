"""Manifests that are refused, and what decides it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.daemon import Daemon

from .content import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_FOREIGN_LAYER,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Document,
    Repository,
    absent,
    descriptor,
    digest_of,
    encode,
    image,
    index,
    short,
)
from .wire import Client, Connection, Response, chunked, head

LIMIT = 4 * 1024 * 1024
EMPTY = descriptor(b"{}", OCI_EMPTY)


@pytest.fixture
def ready(repo: Repository) -> Repository:
    """A repository that has the blob ``{}``."""
    repo.blob(b"{}")
    return repo


def missing_of(response: Response) -> set[str]:
    """The digests that a refusal says are missing, each in an entry of its own."""
    response.refuses(400, "MANIFEST_BLOB_UNKNOWN")
    assert {entry["code"] for entry in response.errors} == {"MANIFEST_BLOB_UNKNOWN"}
    return {re.search(r"sha\d+:[0-9a-f]+", str(entry["detail"]))[0] for entry in response.errors}  # type: ignore[index]


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image_with_missing_blobs(repo: Repository, media_type: str) -> None:
    layers = [descriptor(bytes([number]), OCI_LAYER) for number in range(3)]
    config = descriptor(b"config", OCI_CONFIG)
    there = repo.layer()
    content = encode(image(config, *layers, there, media_type=media_type))
    assert missing_of(repo.put("latest", content, media_type)) == {each["digest"] for each in (config, *layers)}
    repo.get("latest").is_(404)
    repo.get(digest_of(content)).is_(404)


def test_blobs_of_another_repository_are_missing(repo: Repository, other: Repository) -> None:
    config = other.config()
    assert missing_of(repo.put("latest", encode(image(config)), OCI_MANIFEST)) == {config["digest"]}


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_with_a_missing_child(repo: Repository, other: Repository, media_type: str) -> None:
    here, elsewhere = repo.image().descriptor(), other.image().descriptor()
    gone = {"mediaType": OCI_MANIFEST, "digest": absent(), "size": 7}
    response = repo.put("latest", encode(index(here, elsewhere, gone, media_type=media_type)), media_type)
    assert missing_of(response) == {elsewhere["digest"], gone["digest"]}


def test_a_subject_need_not_be_there(ready: Repository) -> None:
    subject = {"mediaType": OCI_MANIFEST, "digest": absent(), "size": 7}
    for document in (image(EMPTY, subject=subject), index(subject=subject)):
        content = encode(document)
        response = ready.put(digest_of(content), content, document["mediaType"]).is_(201)
        assert response.header("OCI-Subject") == subject["digest"]
    assert ready.put("none", encode(image(EMPTY)), OCI_MANIFEST).is_(201).all("OCI-Subject") == []


@pytest.mark.parametrize("media_type", [OCI_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER])
def test_layers_that_lie_elsewhere(ready: Repository, media_type: str) -> None:
    layer = {"mediaType": media_type, "digest": absent(), "size": 7, "urls": ["https://layers.example/7"]}
    kind = OCI_MANIFEST if media_type == OCI_FOREIGN_LAYER else DOCKER_MANIFEST
    pushed = ready.push(image(EMPTY, layer, media_type=kind), "latest")
    assert ready.get("latest").is_(200).body == pushed.content
    del layer["urls"]
    response = ready.put("bare", encode(image(EMPTY, layer, media_type=kind)), kind)
    response.refuses(400, "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID")


@pytest.mark.parametrize(
    ("told", "sent"),
    [(OCI_MANIFEST, OCI_INDEX), (OCI_INDEX, OCI_MANIFEST), (DOCKER_MANIFEST, OCI_MANIFEST), ("x/y", "x/z")],
)
def test_the_type_differs_from_the_content_type(ready: Repository, told: str, sent: str) -> None:
    document = index() if told == OCI_INDEX else image(EMPTY)
    document["mediaType"] = told
    ready.put("latest", encode(document), sent).refuses(400, "MANIFEST_INVALID")
    ready.get("latest").is_(404)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"{}",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"schemaVersion":2,"config":' + b'{"a":' * 100_000,
        b"\xff\xfe{}",
        b'{"schemaVersion": NaN}',
        b'{"schemaVersion": ' + b"9" * 5000 + b"}",
        b"\0" * 1000,
        encode(image(EMPTY)) + b"}",
        encode(image(EMPTY)).replace(b'"schemaVersion": 2', b'"schemaVersion": 3'),
        encode(image({})),
        encode(image({**EMPTY, "digest": "sha256:bad"})),
        encode(image({**EMPTY, "digest": 7})),
        encode(image({**EMPTY, "digest": "../../../../etc/passwd"})),
        encode(image({**EMPTY, "size": -1})),
        encode(image({**EMPTY, "size": "2"})),
        encode(image({**EMPTY, "mediaType": 7})),
        encode({**image(EMPTY), "layers": {}}),
        encode({**image(EMPTY), "layers": [7]}),
        encode({**image(EMPTY), "layers": [None]}),
        encode({**image(EMPTY), "config": None}),
        encode({**image(EMPTY), "config": [EMPTY]}),
        encode({**image(EMPTY), "subject": "sha256:bad"}),
        encode({**image(EMPTY), "subject": {**EMPTY, "digest": "bad"}}),
        encode({**image(EMPTY), "mediaType": [OCI_MANIFEST]}),
        encode({**image(EMPTY), "annotations": ["a"]}),
        encode({**image(EMPTY), "artifactType": 7}),
        encode({**image(EMPTY), "layers": [{**EMPTY, "urls": "https://x"}]}),
    ],
    ids=short,
)
def test_what_is_no_image(client: Client, ready: Repository, content: bytes) -> None:
    ready.put("latest", content, OCI_MANIFEST).refuses(400, "MANIFEST_INVALID")
    ready.get("latest").is_(404)


@pytest.mark.parametrize("manifests", [None, 7, [7], [None], [{}], {}, "x"])
def test_what_is_no_index(ready: Repository, manifests: Any) -> None:
    document = {**index(), "manifests": manifests}
    if manifests is None:
        # Go encodes an empty list like this.
        assert ready.put("latest", encode(document), OCI_INDEX).status in (201, 400)
    else:
        ready.put("latest", encode(document), OCI_INDEX).refuses(400, "MANIFEST_INVALID")


def schema1(name: str) -> Document:
    return {
        "schemaVersion": 1,
        "name": name,
        "tag": "latest",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": digest_of(b"{}")}],
        "history": [{"v1Compatibility": "{}"}],
    }


@pytest.mark.parametrize("media_type", [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, "application/json"])
def test_schema_1_is_refused_with_a_reason(ready: Repository, media_type: str) -> None:
    response = ready.put("latest", encode(schema1(ready.name)), media_type)
    response.refuses((400, 405, 415), "MANIFEST_INVALID", "UNSUPPORTED", "MANIFEST_UNVERIFIED")
    assert re.search(r"(?i)schema.?1", str(response.errors)), response
    ready.get("latest").is_(404)


def of_size(size: int) -> bytes:
    """An index that is so many bytes long."""
    rest = len(encode(index(annotations={"a": ""})))
    return encode(index(annotations={"a": "x" * (size - rest)}))


def test_a_manifest_of_the_largest_size(ready: Repository) -> None:
    content = of_size(LIMIT)
    assert len(content) == LIMIT
    ready.put("large", content, OCI_INDEX).is_(201)
    assert ready.get("large").is_(200).body == content
    assert ready.get(digest_of(content)).is_(200).header("Content-Length") == str(LIMIT)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 500_000])
def test_a_manifest_that_is_too_large(daemon: Daemon, ready: Repository, size: int, streamed: bool) -> None:
    content = of_size(size)
    framing = {"Transfer-Encoding": "chunked"} if streamed else {"Content-Length": str(size)}
    request = head("PUT", ready.path("manifests/large"), {"Content-Type": OCI_INDEX, **framing})
    with Connection(daemon.address) as connection:
        try:
            connection.send(request, chunked(content) if streamed else content)
        except ConnectionError:
            pass
        connection.receive().refuses(413, "MANIFEST_INVALID", "SIZE_INVALID")
    ready.get("large").is_(404)


URLS_OF_LAYERS = {
    "allow": [r"^https://good\.example/"],
    "deny": [r"secret"],
}


@pytest.mark.parametrize(
    ("urls", "url", "accepted"),
    [
        (URLS_OF_LAYERS, "https://good.example/7", True),
        (URLS_OF_LAYERS, "https://good.example/secret", False),
        (URLS_OF_LAYERS, "https://bad.example/7", False),
        ({"allow": [], "deny": []}, "https://good.example/7", False),
    ],
)
def test_urls_are_judged_by_the_configuration(urls: Document, url: str, accepted: bool) -> None:
    with Daemon(validation={"manifests": {"urls": urls}}) as daemon:
        client = Client(daemon.address)
        repo = Repository(client, "judged")
        repo.blob(b"{}")
        layer = {"mediaType": DOCKER_FOREIGN_LAYER, "digest": absent(), "size": 7, "urls": [url]}
        document = image(EMPTY, layer, media_type=DOCKER_MANIFEST)
        response = repo.put("latest", encode(document), DOCKER_MANIFEST)
        if accepted:
            response.is_(201)
        else:
            response.refuses(400, "MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN")
        client.close()


def test_validation_can_be_disabled() -> None:
    with Daemon(validation={"disabled": True}) as daemon:
        client = Client(daemon.address)
        repo = Repository(client, "sparse")
        gone = {"mediaType": DOCKER_LAYER, "digest": absent(), "size": 7}
        pushed = repo.push(image(descriptor(b"none", OCI_CONFIG), gone), "image")
        repo.push(index(pushed.descriptor(), {**gone, "mediaType": OCI_MANIFEST}), "index")
        assert repo.tags() == ["image", "index"]
        client.close()


@pytest.mark.parametrize("platforms", ["none", "list"])
def test_an_index_may_miss_platforms_that_are_not_asked_for(platforms: str) -> None:
    indexes: Document = {"platforms": platforms}
    if platforms == "list":
        indexes["platformlist"] = [{"architecture": "amd64", "os": "linux"}]
    with Daemon(validation={"manifests": {"indexes": indexes}}) as daemon:
        client = Client(daemon.address)
        repo = Repository(client, "sparse")
        here = repo.image().descriptor(platform={"os": "linux", "architecture": "amd64"})
        gone = {**here, "digest": absent()}
        foreign = {**gone, "platform": {"os": "linux", "architecture": "s390x"}}
        repo.push(index(here, foreign), "sparse")
        response = repo.put("gone", encode(index(here, gone)), OCI_INDEX)
        if platforms == "none":
            response.is_(201)
        else:
            assert missing_of(response) == {gone["digest"]}
        missing_of(repo.put("image", encode(image(descriptor(b"none", OCI_CONFIG))), OCI_MANIFEST))
        client.close()
