"""Mounting blobs of other repositories."""

from __future__ import annotations

import pytest

from .content import OCTETS, Repository, absent, digest_of, random_bytes, with_query
from .wire import Client, Response


def mount(client: Client, repo: Repository, digest: str, source: str | None) -> Response:
    query = f"mount={digest}" if source is None else f"mount={digest}&from={source}"
    return client.post(repo.path(f"blobs/uploads/?{query}"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("named", [True, False])
def test_mount(client: Client, repo: Repository, other: Repository, algorithm: str, named: bool) -> None:
    content = random_bytes()
    digest = other.blob(content, algorithm)
    response = mount(client, repo, digest, other.name if named else None).is_(201)
    assert response.header("Docker-Content-Digest") == digest
    assert response.header("Content-Length") == "0"
    assert response.location.startswith(f"/v2/{repo.name}/")
    assert client.get(response.location).is_(200).body == content
    assert client.get(repo.path(f"blobs/{digest}")).is_(200).body == content


def test_mount_from_itself(client: Client, repo: Repository) -> None:
    digest = repo.blob()
    mount(client, repo, digest, repo.name).is_(201)


def check_fallback(client: Client, repo: Repository, response: Response, content: bytes) -> None:
    """The answer is an upload session, which can be used."""
    response.is_(202)
    assert response.header("Docker-Upload-UUID") in response.location
    assert response.header("Range") == "0-0"
    digest = digest_of(content)
    client.put(with_query(response.location, f"digest={digest}"), OCTETS, content).is_(201)
    assert repo.holds(digest)


@pytest.mark.parametrize("named", [True, False])
def test_mount_what_is_missing(client: Client, repo: Repository, other: Repository, named: bool) -> None:
    other.blob()
    content = random_bytes()
    response = mount(client, repo, digest_of(content), other.name if named else None)
    check_fallback(client, repo, response, content)


def test_mount_from_nowhere(client: Client, repo: Repository) -> None:
    content = random_bytes()
    check_fallback(client, repo, mount(client, repo, digest_of(content), "no/such/repository"), content)


def test_mount_what_was_deleted(client: Client, repo: Repository, other: Repository) -> None:
    content = random_bytes()
    digest = other.blob(content)
    client.delete(other.path(f"blobs/{digest}")).is_(202)
    check_fallback(client, repo, mount(client, repo, digest, other.name), content)
    assert not other.holds(digest)


@pytest.mark.parametrize("digest", ["sha256:bad", "md5:d41d8cd98f00b204e9800998ecf8427e", "bad", "..%2f..", "%00"])
def test_mount_a_malformed_digest(client: Client, repo: Repository, digest: str) -> None:
    mount(client, repo, digest, "a/b").refuses(400, "DIGEST_INVALID")


@pytest.mark.parametrize("source", ["UPPER", "..", "a//b", "%00", "a" * 300, "%2e%2e/%2e%2e", "%ff"])
def test_mount_from_an_invalid_name(client: Client, repo: Repository, source: str) -> None:
    content = random_bytes()
    response = mount(client, repo, digest_of(content), source)
    if response.status == 202:
        check_fallback(client, repo, response, content)
    else:
        response.refuses((400, 404), "NAME_INVALID")


def test_an_empty_source_is_none(client: Client, repo: Repository, other: Repository) -> None:
    content = random_bytes()
    digest = other.blob(content)
    assert mount(client, repo, digest, "").status in (201, 202, 400)


def test_mount_leaves_the_source_alone(client: Client, repo: Repository, other: Repository) -> None:
    digest = other.blob()
    mount(client, repo, digest, other.name).is_(201)
    client.delete(repo.path(f"blobs/{digest}")).is_(202)
    assert other.holds(digest) and not repo.holds(digest) and not repo.holds(absent())
