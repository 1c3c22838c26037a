"""Ping, what is not there, what is not allowed, and the legacy API."""

from __future__ import annotations

import pytest

from tests.daemon import Daemon

from .content import Repository, absent, digest_of
from .wire import Client, Connection, head

VERSION = "Docker-Distribution-Api-Version"


def test_ping(client: Client) -> None:
    response = client.get("/v2/").is_(200)
    assert response.header(VERSION) == "registry/2.0"
    assert response.json() == {}
    assert response.header("Content-Length") == str(len(response.body))


def test_ping_by_head(client: Client) -> None:
    assert client.head("/v2/").is_(200).header(VERSION) == "registry/2.0"


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
def test_ping_in_absolute_form(client: Client, scheme: str) -> None:
    # RFC 9112, 3.2.2: "a server MUST accept the absolute-form in requests".
    assert client.get(f"{scheme}://{client.host}/v2/").is_(200).json() == {}


@pytest.mark.parametrize("target", ["http://other.example", "http://other.example?a=b", "http://other.example/"])
def test_absolute_form_without_a_path(client: Client, target: str) -> None:
    client.get(target).is_(200)


@pytest.mark.parametrize("authority", ["other.example:99", "user@other.example:99"])
def test_the_host_of_the_absolute_form_counts(client: Client, authority: str) -> None:
    # RFC 9112, 3.2.2: an origin server "MUST ignore the received Host header field (if any)".
    answer = client.post(f"http://{authority}/v2/absolute/blobs/uploads/", {"Host": "elsewhere"}).is_(202)
    assert answer.header("Location").startswith("http://other.example:99/v2/absolute/blobs/uploads/")


def test_ping_without_slash_leads_to_ping(client: Client) -> None:
    response = client.get("/v2").is_(301)
    assert client.get(response.location).is_(200).json() == {}


def test_root(client: Client) -> None:
    response = client.get("/").is_(200)
    assert response.body == b""
    assert response.header("Cache-Control") == "no-cache"


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/v2/nothing",
        "/v2/a/nothing/b",
        "/v2/tags/list",
        "/v2/manifests/latest",
        "/v2/a/tags/list/more",
        "/v2/a/tags/",
        "/v2/a/manifests/",
        "/v2/a/manifests/x/y",
        "/v2/a/blobs/",
        f"/v2/a/blobs/{digest_of(b'')}/more",
        "/v2/a/referrers/",
        "/v2/_catalog/more",
        "/v2/_other",
        "/v2/%",
        "/v2/a%",
        "/v2/%zz/tags/list",
        "/v3/",
        "/v1/nothing",
        "/v1/",
        "/..",
        "/v2/..",
        "/v2/../..",
        "/v2/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//v2/",
        "/v2//",
        "/v2/./",
        "/favicon.ico",
        "/v2/a/_layers/sha256",
        "/debug/vars",
        "/v2/\\..\\..",
    ],
)
def test_unknown_routes_are_json(client: Client, target: str) -> None:
    response = client.get(target)
    response.refuses((404, 400))
    assert response.header(VERSION) == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/v2/", "GET"),
        ("DELETE", "/v2/", "GET"),
        ("PUT", "/v2/_catalog", "GET"),
        ("POST", "/v2/a/tags/list", "GET"),
        ("DELETE", "/v2/a/tags/list", "GET"),
        ("POST", "/v2/a/manifests/latest", "PUT"),
        ("PATCH", "/v2/a/manifests/latest", "PUT"),
        ("PUT", f"/v2/a/blobs/{digest_of(b'')}", "GET"),
        ("POST", f"/v2/a/blobs/{digest_of(b'')}", "GET"),
        ("PUT", f"/v2/a/referrers/{digest_of(b'')}", "GET"),
        ("DELETE", f"/v2/a/referrers/{digest_of(b'')}", "GET"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("PUT", "/v2/a/blobs/uploads/", "POST"),
        ("POST", "/v2/a/blobs/uploads/0a0a0a0a-0000-4000-8000-000000000000", "PATCH"),
        ("POST", "/v1/_ping", "GET"),
        ("PUT", "/v1/search", "GET"),
        ("BREW", "/v2/", "GET"),
        ("get", "/v2/", "GET"),
        ("TRACE", "/v2/", "GET"),
        ("OPTIONS", "/v2/", "GET"),
    ],
)
def test_wrong_methods_are_json_and_tell_the_right_ones(client: Client, method: str, target: str, allowed: str) -> None:
    response = client.request(method, target, body=b"" if method in ("POST", "PUT", "PATCH") else None)
    # A method that no resource knows may be 501 in HTTP at large; here every wrong method is 405.
    response.refuses(405, "UNSUPPORTED")
    allow = [token.strip() for token in response.header("Allow").split(",")]
    assert allowed in allow and method not in allow
    assert response.header(VERSION) == "registry/2.0"


def test_the_version_is_told_with_every_kind_of_error(repo: Repository, client: Client) -> None:
    for response in (
        repo.get("none"),
        repo.get("sha256:bad"),
        client.get("/v2/UPPER/tags/list"),
        client.get(repo.path(f"blobs/{absent()}")),
        client.patch(repo.path("blobs/uploads/none"), body=b""),
    ):
        assert 400 <= response.status < 500
        assert response.header(VERSION) == "registry/2.0"


def test_legacy_ping(client: Client) -> None:
    assert client.get("/v1/_ping").is_(200).json()


@pytest.mark.parametrize(
    "name",
    [
        "tags/list",
        "manifests",
        "blobs",
        "x/blobs/uploads",
        "x/manifests/y",
        "referrers",
        "v2",
        "x/tags/list",
        "blobs/uploads",
    ],
)
def test_repositories_that_are_called_like_routes(client: Client, name: str) -> None:
    repository = Repository(client, name)
    pushed = repository.image("list")
    blob = repository.blob(b"in " + name.encode())
    assert repository.get("list").is_(200).body == pushed.content
    assert repository.get(pushed.digest).is_(200).body == pushed.content
    assert client.get(repository.path(f"blobs/{blob}")).is_(200).body == b"in " + name.encode()
    assert client.get(repository.path("tags/list")).is_(200).json() == {"name": name, "tags": ["list"]}
    assert client.get(repository.path(f"referrers/{pushed.digest}")).is_(200).json()["manifests"] == []


def test_an_asterisk_and_an_authority_as_target(daemon: Daemon) -> None:
    for method, target in (
        ("OPTIONS", "*"),
        ("CONNECT", "example.org:443"),
        ("GET", "*"),
        ("GET", "v2/"),
        ("GET", "?"),
    ):
        with Connection(daemon.address) as connection:
            connection.send(head(method, target))
            assert connection.receive(method).status < 500, (method, target)
