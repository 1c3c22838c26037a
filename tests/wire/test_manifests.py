"""Manifests: what is pushed is what is served, whoever asks."""

from __future__ import annotations

import json

import pytest

from .content import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    OCI_ARTIFACT,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    Pushed,
    Repository,
    absent,
    descriptor,
    digest_of,
    encode,
    image,
    index,
)
from .wire import Client, Response

ANYTHING = "application/vnd.example.anything+json"


def document_of(repo: Repository, media_type: str) -> Document:
    """A valid manifest of a type, whose parts are in the repository."""
    if media_type == OCI_MANIFEST:
        return image(repo.config(), repo.layer())
    if media_type == DOCKER_MANIFEST:
        return image(repo.config(DOCKER_CONFIG), repo.layer(DOCKER_LAYER), media_type=DOCKER_MANIFEST)
    if media_type == OCI_INDEX:
        return index(repo.image().descriptor(platform={"os": "linux", "architecture": "arm64"}))
    if media_type == DOCKER_LIST:
        child = repo.docker_image().descriptor(platform={"os": "linux", "architecture": "arm64"})
        return index(child, media_type=DOCKER_LIST)
    if media_type == OCI_ARTIFACT:
        return {"mediaType": OCI_ARTIFACT, "artifactType": "application/x", "blobs": [repo.layer("application/y")]}
    return {"mediaType": media_type, "anything": [repo.blob()]}


def check_served(response: Response, pushed: Pushed) -> None:
    response.is_(200)
    assert response.header("Content-Type") == pushed.media_type
    assert response.header("Docker-Content-Digest") == pushed.digest
    assert response.header("Content-Length") == str(len(pushed.content))
    assert response.header("ETag") == f'"{pushed.digest}"'


@pytest.mark.parametrize(("by_tag", "algorithm"), [(True, "sha256"), (False, "sha256"), (False, "sha512")])
@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, OCI_ARTIFACT, ANYTHING])
def test_push_and_pull(client: Client, repo: Repository, media_type: str, by_tag: bool, algorithm: str) -> None:
    content = encode(document_of(repo, media_type)) + b"\n"
    pushed = Pushed(content, media_type, digest_of(content, algorithm))
    response = repo.put("latest" if by_tag else pushed.digest, content, media_type).is_(201)
    assert response.header("Docker-Content-Digest") == pushed.digest
    assert response.header("Content-Length") == "0"
    assert response.location == repo.path(f"manifests/{pushed.digest}")
    for reference in ["latest", pushed.digest] if by_tag else [pushed.digest]:
        path = repo.path(f"manifests/{reference}")
        served = client.get(path)
        check_served(served, pushed)
        assert served.body == content
        check_served(client.head(path), pushed)


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, ANYTHING])
def test_a_manifest_that_does_not_name_its_type(client: Client, repo: Repository, media_type: str) -> None:
    document = document_of(repo, media_type)
    del document["mediaType"]
    pushed = repo.push(document, "untyped", media_type=media_type)
    for reference in ("untyped", pushed.digest):
        check_served(repo.get(reference), pushed)


@pytest.mark.parametrize("parameters", ["; charset=utf-8", ";charset=utf-8", ' ; a="b;c"'])
def test_parameters_of_the_type_are_ignored(repo: Repository, parameters: str) -> None:
    content = encode(document_of(repo, OCI_MANIFEST))
    repo.put("latest", content, OCI_MANIFEST + parameters).is_(201)
    check_served(repo.get("latest"), Pushed(content, OCI_MANIFEST, digest_of(content)))


def test_without_a_type(repo: Repository) -> None:
    response = repo.put("latest", encode(document_of(repo, OCI_MANIFEST)), None)
    assert response.status in (201, 400), response
    if response.status == 201:
        assert repo.get("latest").header("Content-Type") == OCI_MANIFEST
    else:
        response.refuses(400, "MANIFEST_INVALID")


def test_every_byte_is_kept(repo: Repository) -> None:
    document = json.dumps(document_of(repo, OCI_MANIFEST), indent=7)
    content = (
        b" \r\n\t"
        + document.replace("{", '{ "custom": "\\u00e9 \xe9 \\ud834\\udd1e", "n": 1.50E+2,', 1).encode()
        + b"\n\n"
    )
    repo.put("latest", content, OCI_MANIFEST).is_(201)
    assert repo.get("latest").is_(200).body == content


@pytest.mark.parametrize(
    "document",
    [
        image(descriptor(b"{}", OCI_EMPTY)),
        image(descriptor(b"{}", OCI_EMPTY), descriptor(b"{}", OCI_EMPTY), artifactType="application/vnd.example"),
        image(descriptor(b"{}", OCI_EMPTY, data="e30="), annotations={"a": "b"}, unknown={"field": [1]}),
        index(),
        index(artifactType="application/vnd.example", annotations={"a": "b"}),
        index(media_type=DOCKER_LIST),
    ],
    ids=["no layers", "artifact", "data and unknown fields", "empty index", "index artifact", "empty list"],
)
def test_unusual_manifests(repo: Repository, document: Document) -> None:
    repo.blob(b"{}")
    pushed = repo.push(document, "latest")
    assert repo.get("latest").is_(200).body == pushed.content


def test_an_index_of_indexes(repo: Repository) -> None:
    inner = repo.push(index(repo.image().descriptor()))
    outer = repo.push(index(inner.descriptor(), repo.image().descriptor()), "outer")
    assert repo.get("outer").is_(200).body == outer.content


def test_a_tag_moves(repo: Repository) -> None:
    first, second = repo.image("moving"), repo.image("moving")
    assert repo.get("moving").is_(200).body == second.content
    assert repo.get(first.digest).is_(200).body == first.content
    assert repo.tags() == ["moving"]


def test_pushed_again(repo: Repository) -> None:
    pushed = repo.image("latest")
    repo.put("latest", pushed.content, OCI_MANIFEST).is_(201)
    repo.put("again", pushed.content, OCI_MANIFEST).is_(201)
    assert repo.tags() == ["again", "latest"]


def test_absent_manifest_and_repository(client: Client, repo: Repository) -> None:
    for reference in ("latest", absent(), absent("sha512")):
        repo.get(reference).refuses(404, "NAME_UNKNOWN", "MANIFEST_UNKNOWN")
    repo.image("there")
    for reference in ("latest", absent(), absent("sha512"), "t" * 128):
        repo.get(reference).refuses(404, "MANIFEST_UNKNOWN")
        client.head(repo.path(f"manifests/{reference}")).is_(404)


def test_a_manifest_of_another_repository_is_absent(repo: Repository, other: Repository) -> None:
    pushed = other.image()
    repo.image()
    repo.get(pushed.digest).refuses(404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("tag", [".INVALID", "-x", "a" * 129, "a%20b", "a%2fb", "%2e%2e", "..", "%00", "a%0a", "@"])
def test_get_of_an_invalid_tag(client: Client, repo: Repository, tag: str) -> None:
    repo.image("latest")
    client.get(repo.path(f"manifests/{tag}")).refuses(404)
    assert client.head(repo.path(f"manifests/{tag}")).status == 404


@pytest.mark.parametrize("tag", [".INVALID", "-x", "a" * 129, "a%20b", "a%2fb", "%2e%2e", "%00", "%ff", "a%0a", "@"])
def test_put_of_an_invalid_tag(repo: Repository, tag: str) -> None:
    content = repo.image("latest").content
    repo.put(tag, content, OCI_MANIFEST).refuses((400, 404))
    assert repo.tags() == ["latest"]


@pytest.mark.parametrize("tag", ["a", "A", "_", "0", "Z" * 128, "a.b-c_D", "_.", "latest"])
def test_valid_tags(repo: Repository, tag: str) -> None:
    pushed = repo.image(tag)
    assert repo.get(tag).is_(200).body == pushed.content
    assert repo.tags() == [tag]


@pytest.mark.parametrize("digest", ["sha256:baddigeststring", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "x:y"])
def test_malformed_digests(client: Client, repo: Repository, digest: str) -> None:
    content = repo.image("latest").content
    repo.put(digest, content, OCI_MANIFEST).refuses(400, "DIGEST_INVALID")
    repo.get(digest).refuses((400, 404), "DIGEST_INVALID", "MANIFEST_UNKNOWN")
    client.delete(repo.path(f"manifests/{digest}")).refuses((400, 404), "DIGEST_INVALID", "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_another_digest(repo: Repository, algorithm: str) -> None:
    content = encode(document_of(repo, OCI_MANIFEST))
    digest = digest_of(content, algorithm)
    repo.put(digest, content + b"  ", OCI_MANIFEST).refuses(400, "DIGEST_INVALID")
    repo.get(digest).is_(404)
    repo.get(digest_of(content + b"  ")).is_(404)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_several_tags_at_once(repo: Repository, algorithm: str) -> None:
    content = encode(document_of(repo, OCI_MANIFEST))
    digest = digest_of(content, algorithm)
    tags = sorted(f"tag-{number}" for number in range(12))
    response = repo.put(f"{digest}?{'&'.join(f'tag={tag}' for tag in tags)}", content, OCI_MANIFEST).is_(201)
    accepted = [tag.strip() for value in response.all("OCI-Tag") for tag in value.split(",")]
    assert sorted(accepted) == tags
    assert repo.tags() == tags
    for tag in tags:
        served = repo.get(tag).is_(200)
        assert served.body == content and served.header("Docker-Content-Digest") == digest


def test_one_tag_is_told_too(repo: Repository) -> None:
    content = encode(document_of(repo, OCI_MANIFEST))
    assert repo.put(f"{digest_of(content)}?tag=only", content, OCI_MANIFEST).is_(201).header("OCI-Tag") == "only"


def test_tags_beside_the_one_of_the_path(repo: Repository) -> None:
    content = encode(document_of(repo, OCI_MANIFEST))
    response = repo.put("v1?tag=v2&tag=v3&tag=v2", content, OCI_MANIFEST).is_(201)
    assert response.all("OCI-Tag") == ["v2", "v3"]
    assert repo.tags() == ["v1", "v2", "v3"]
    assert repo.put("v1?tag=v1", content, OCI_MANIFEST).is_(201).all("OCI-Tag") == ["v1"]
    assert repo.put("v1", content, OCI_MANIFEST).is_(201).all("OCI-Tag") == []


@pytest.mark.parametrize("tag", [".INVALID", "", "a%2fb", "%ff", "a%0d%0aX-Injected:%20yes", "a" * 129])
def test_an_invalid_tag_among_several(repo: Repository, tag: str) -> None:
    content = encode(document_of(repo, OCI_MANIFEST))
    response = repo.put(f"{digest_of(content)}?tag=good&tag={tag}", content, OCI_MANIFEST)
    assert response.all("X-Injected") == []
    if response.status == 201:
        assert response.all("OCI-Tag") == ["good"]
        assert repo.tags() == ["good"]
    else:
        response.refuses(400)
        repo.get("good").is_(404)


@pytest.mark.parametrize("condition", ['"{0}"', "{0}", 'W/"{0}"', '"other", "{0}"', "*"])
def test_if_none_match(client: Client, repo: Repository, condition: str) -> None:
    pushed = repo.image("latest")
    for reference in ("latest", pushed.digest):
        for method in ("GET", "HEAD"):
            headers = {"If-None-Match": condition.format(pushed.digest)}
            response = client.request(method, repo.path(f"manifests/{reference}"), headers).is_(304)
            assert response.header("ETag") == f'"{pushed.digest}"'
    repo.image("latest")
    if condition != "*":
        repo.get("latest", {"If-None-Match": condition.format(pushed.digest)}).is_(200)


def test_push_only_what_is_not_there(repo: Repository) -> None:
    first, second = repo.image(), repo.image()
    only_new = {"If-None-Match": "*"}
    repo.put("latest", first.content, OCI_MANIFEST, only_new).is_(201)
    repo.put("latest", second.content, OCI_MANIFEST, only_new).refuses(412, "PRECONDITION_FAILED")
    assert repo.get("latest").is_(200).body == first.content
    repo.put(second.digest, second.content, OCI_MANIFEST, only_new).refuses(412, "PRECONDITION_FAILED")


def test_push_over_what_the_client_knows(repo: Repository) -> None:
    first, second = repo.image("latest"), repo.image()
    known = repo.get("latest").is_(200).header("ETag")
    assert known is not None
    repo.put("latest", second.content, OCI_MANIFEST, {"If-Match": known}).is_(201)
    repo.put("latest", first.content, OCI_MANIFEST, {"If-Match": known}).refuses(412, "PRECONDITION_FAILED")
    repo.put("absent", first.content, OCI_MANIFEST, {"If-Match": "*"}).refuses(412, "PRECONDITION_FAILED")
    assert repo.get("latest").is_(200).body == second.content
    assert repo.tags() == ["latest"]


def test_delete_of_what_the_client_knows(client: Client, repo: Repository) -> None:
    first, second = repo.image("latest"), repo.image("latest")
    for reference in ("latest", second.digest):
        path = repo.path(f"manifests/{reference}")
        client.request("DELETE", path, {"If-Match": f'"{first.digest}"'}).refuses(412, "PRECONDITION_FAILED")
        assert repo.get(reference).is_(200).body == second.content
        client.request("DELETE", path, {"If-Match": f'"{second.digest}"'}).is_(202)
        repo.get(reference).is_(404)


@pytest.mark.parametrize(
    "accept",
    [
        [],
        ["*/*"],
        ["application/*"],
        ["text/html"],
        ["", ""],
        [";;;,,/"],
        [f"{DOCKER_SCHEMA1};q=0"],
        [OCI_INDEX, DOCKER_LIST],
        [f"{DOCKER_MANIFEST}, {DOCKER_LIST}"],
        ["*/*;q=0"],
    ],
)
@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, OCI_ARTIFACT])
def test_what_is_stored_is_served_whatever_is_accepted(
    client: Client, repo: Repository, media_type: str, accept: list[str]
) -> None:
    pushed = repo.push(document_of(repo, media_type), "latest")
    headers = [("Accept", value) for value in accept]
    for reference in ("latest", pushed.digest):
        assert client.get(repo.path(f"manifests/{reference}"), headers).is_(200).body == pushed.content
        check_served(client.head(repo.path(f"manifests/{reference}"), headers), pushed)


class TestOldDocker:
    """A Docker list for a client that knows schema 2 and no lists."""

    def push(self, repo: Repository, *platforms: tuple[str, str], media_type: str = DOCKER_LIST) -> list[Pushed]:
        images = [repo.docker_image() for _ in platforms]
        children = [
            each.descriptor(platform={"os": system, "architecture": architecture})
            for each, (system, architecture) in zip(images, platforms, strict=True)
        ]
        return [repo.push(index(*children, media_type=media_type), "latest"), *images]

    @pytest.mark.parametrize(
        "accept",
        [
            [DOCKER_MANIFEST],
            [f"{DOCKER_MANIFEST};q=0.5"],
            [f"application/json, {DOCKER_SCHEMA1}, {DOCKER_MANIFEST}"],
            ["application/json", DOCKER_MANIFEST],
        ],
    )
    def test_by_tag_it_gets_the_image_for_linux_amd64(
        self, client: Client, repo: Repository, accept: list[str]
    ) -> None:
        listed, _, child = self.push(repo, ("linux", "arm64"), ("linux", "amd64"))
        headers = [("Accept", value) for value in accept]
        response = client.get(repo.path("manifests/latest"), headers)
        check_served(response, child)
        assert response.body == child.content
        check_served(client.head(repo.path("manifests/latest"), headers), child)
        # By digest it is what the digest says.
        assert client.get(repo.path(f"manifests/{listed.digest}"), headers).is_(200).body == listed.content

    @pytest.mark.parametrize("more", [DOCKER_LIST, "*/*", "application/*", f"{DOCKER_LIST};q=0.1"])
    def test_others_get_the_list(self, client: Client, repo: Repository, more: str) -> None:
        listed, _ = self.push(repo, ("linux", "amd64"))
        for headers in ({"Accept": f"{DOCKER_MANIFEST}, {more}"}, [("Accept", DOCKER_MANIFEST), ("Accept", more)]):
            assert client.get(repo.path("manifests/latest"), headers).is_(200).body == listed.content

    def test_an_oci_index_stays_one(self, client: Client, repo: Repository) -> None:
        listed, _ = self.push(repo, ("linux", "amd64"), media_type=OCI_INDEX)
        response = client.get(repo.path("manifests/latest"), {"Accept": DOCKER_MANIFEST}).is_(200)
        assert response.body == listed.content

    def test_no_such_child(self, client: Client, repo: Repository) -> None:
        listed, _ = self.push(repo, ("linux", "arm64"))
        response = client.get(repo.path("manifests/latest"), {"Accept": DOCKER_MANIFEST})
        if response.status == 200:
            assert response.body == listed.content
        else:
            response.refuses(404, "MANIFEST_UNKNOWN")

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_caches_are_told_what_decided(self, client: Client, repo: Repository, method: str) -> None:
        listed, child = self.push(repo, ("linux", "amd64"))
        path = repo.path("manifests/latest")
        for headers in ({}, {"Accept": DOCKER_LIST}, {"Accept": DOCKER_MANIFEST}):
            assert client.request(method, path, headers).is_(200).header("Vary") == "Accept"
        known = {"Accept": DOCKER_MANIFEST, "If-None-Match": child.digest}
        assert client.request(method, path, known).is_(304).header("Vary") == "Accept"
        assert client.request(method, repo.path(f"manifests/{listed.digest}")).is_(200).all("Vary") == []

    @pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX])
    def test_nothing_is_decided_for_others(self, repo: Repository, media_type: str) -> None:
        repo.push(document_of(repo, media_type), "latest")
        assert repo.get("latest", {"Accept": DOCKER_MANIFEST}).is_(200).all("Vary") == []

    def test_the_condition_is_on_what_is_served(self, client: Client, repo: Repository) -> None:
        listed, child = self.push(repo, ("linux", "amd64"))
        path, accept = repo.path("manifests/latest"), {"Accept": DOCKER_MANIFEST}
        client.get(path, {**accept, "If-None-Match": f'"{child.digest}"'}).is_(304)
        assert client.get(path, {**accept, "If-None-Match": f'"{listed.digest}"'}).is_(200).body == child.content
