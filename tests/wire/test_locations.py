"""The URLs that answers hold, behind proxies and as configured; a unix socket; configured headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.daemon import Daemon

from .conftest import check_undisturbed
from .content import OCI_MANIFEST, OCTETS, Repository, digest_of, encode, image, with_query
from .wire import Client, Connection, head, link_of


def origin(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def origins(repo: Repository, headers: dict[str, str]) -> set[str]:
    """The origins of every kind of Location, in answers to requests with some headers."""
    client = repo.client
    digest, content = repo.blob(b"there"), encode(image(repo.config()))
    responses = [
        client.post(repo.path("blobs/uploads/"), headers).is_(202),
        client.post(repo.path(f"blobs/uploads/?mount={digest}&from={repo.name}"), headers).is_(201),
        client.post(repo.path(f"blobs/uploads/?digest={digest_of(b'x')}"), {**OCTETS, **headers}, b"x").is_(201),
        client.patch(repo.start(), {**OCTETS, **headers}, b"x").is_(202),
        client.get(repo.start(), headers).is_(204),
        client.put(with_query(repo.start(), f"digest={digest_of(b'y')}"), {**OCTETS, **headers}, b"y").is_(201),
        client.put(repo.path("manifests/latest"), {"Content-Type": OCI_MANIFEST, **headers}, content).is_(201),
    ]
    return {origin(response.header("Location")) for response in responses}


def test_the_host_of_the_request(repo: Repository) -> None:
    assert origins(repo, {}) <= {f"http://{repo.client.host}", ""}
    assert origins(repo, {"Host": "registry.example:8443"}) <= {"http://registry.example:8443", ""}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Forwarded-Proto": "https"}, "https://{host}"),
        ({"X-Forwarded-Host": "public.example"}, "http://public.example"),
        ({"X-Forwarded-Host": "public.example:8443", "X-Forwarded-Proto": "https"}, "https://public.example:8443"),
        ({"X-Forwarded-Host": "first.example, second.example"}, "http://first.example"),
        ({"X-Forwarded-Proto": "https, http"}, "https://{host}"),
        ({"Forwarded": "for=192.0.2.1;proto=https;host=public.example"}, "https://public.example"),
        ({"Forwarded": 'host="public.example:8443"; proto=https'}, "https://public.example:8443"),
        ({"Forwarded": "Proto=HTTPS;Host=public.example"}, "https://public.example"),
        ({"Forwarded": "proto=https;host=first.example, proto=http;host=second.example"}, "https://first.example"),
        (
            {"Forwarded": "proto=https;host=right.example", "X-Forwarded-Host": "wrong.example"},
            "https://right.example",
        ),
    ],
)
def test_forwarded(repo: Repository, headers: dict[str, str], expected: str) -> None:
    (found,) = origins(repo, headers)
    assert found.lower() == expected.format(host=repo.client.host)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Proto": ""},
        {"X-Forwarded-Host": ""},
        {"X-Forwarded-Host": ","},
        {"X-Forwarded-Host": '"><script>'},
        {"X-Forwarded-Host": "a b/c?d#e"},
        {"X-Forwarded-Host": "\xe9\xff"},
        {"X-Forwarded-Host": "user:password@host"},
        {"Forwarded": ";;;,,,==="},
        {"Forwarded": 'host="unfinished'},
        {"Forwarded": "host="},
        {"Host": "\xe9"},
        {"Host": "a b"},
        {"Host": ""},
        {"Host": "[::1"},
        {"Host": "host:notaport"},
    ],
)
def test_nonsense_does_no_harm(client: Client, repo: Repository, headers: dict[str, str]) -> None:
    response = client.post(repo.path("blobs/uploads/"), headers)
    if response.status == 202:
        location = response.header("Location")
        assert not set(location) & set(' "<>#\\'), response
        assert response.location.startswith(f"/v2/{repo.name}/blobs/uploads/")
        assert urlsplit(location).scheme in ("http", "https", "")
    else:
        response.refuses(400)


def test_without_a_host(daemon: Daemon, repo: Repository) -> None:
    target = repo.path("blobs/uploads/")
    for version, statuses in (("HTTP/1.0", (202,)), ("HTTP/1.1", (400,))):
        with Connection(daemon.address) as connection:
            connection.send(head("POST", target, {"Content-Length": "0"}, version, host=""))
            response = connection.receive("POST")
            # RFC 9112, 3.2: "MUST respond with a 400 to any HTTP/1.1 request message that lacks a Host header field".
            assert response.status in statuses, (version, response)
            if response.status == 202:
                assert response.location.startswith(target)


def test_two_hosts(daemon: Daemon) -> None:
    # RFC 9112, 3.2: "... and to any request message that contains more than one Host header field line".
    with Connection(daemon.address) as connection:
        connection.send(head("GET", "/v2/", [("Host", "a"), ("Host", "b")]))
        assert connection.receive().status == 400


def connect(**http: Any) -> Iterator[tuple[Daemon, Repository]]:
    with Daemon(http=http) as daemon:
        client = Client(daemon.address)
        yield daemon, Repository(client, "a/b")
        client.close()
        check_undisturbed(daemon)


def test_a_configured_host() -> None:
    for _, repo in connect(host="https://registry.example"):
        assert origins(repo, {"X-Forwarded-Host": "other.example"}) == {"https://registry.example"}


def test_relative_urls() -> None:
    for _, repo in connect(relativeurls=True):
        assert origins(repo, {"X-Forwarded-Proto": "https"}) == {""}


@pytest.mark.parametrize("prefix", ["/a/registry/", "/a/registry"])
def test_a_prefix_and_headers(prefix: str) -> None:
    for _, repo in connect(prefix=prefix, headers={"X-Content-Type-Options": ["nosniff"], "X-Two": ["one", "two"]}):
        client = repo.client
        client.get("/v2/").refuses(404)
        response = client.get("/a/registry/v2/").is_(200)
        assert response.header("X-Content-Type-Options") == "nosniff"
        assert response.all("X-Two") == ["one", "two"]
        base = "/a/registry/v2/a/b"
        missing = client.get(f"{base}/manifests/latest").refuses(404)
        assert missing.header("X-Content-Type-Options") == "nosniff"
        location = client.post(f"{base}/blobs/uploads/").is_(202).location
        assert location.startswith(f"{base}/blobs/uploads/")
        location = client.patch(location, OCTETS, b"{}").is_(202).location
        response = client.put(with_query(location, f"digest={digest_of(b'{}')}")).is_(201)
        assert response.location == f"{base}/blobs/{digest_of(b'{}')}"
        assert client.get(response.location).is_(200).body == b"{}"
        content = encode(image({"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 2}))
        for tag in ("one", "two", "three"):
            response = client.put(f"{base}/manifests/{tag}", {"Content-Type": OCI_MANIFEST}, content).is_(201)
        assert client.get(response.location).is_(200).body == content
        for path in (f"{base}/tags/list?n=2", "/a/registry/v2/_catalog?n=1"):
            page = client.get(path).is_(200)
            following = link_of(page)
            if following is not None:
                assert following.startswith("/a/registry/v2/")
                assert client.get(following).is_(200).json()


def test_a_unix_socket() -> None:
    daemon = Daemon(http={"net": "unix"})
    path = str(daemon.folder / "registry.sock")
    daemon.configure(http={"addr": path})
    with daemon:
        assert daemon.url == f"unix:{path}"
        repo = Repository(Client(daemon.address), "a/b")
        pushed = repo.image("latest")
        assert repo.get("latest").is_(200).body == pushed.content
        large = b"x" * 3_000_000
        assert repo.client.get(repo.path(f"blobs/{repo.blob(large)}")).is_(200).body == large
        # A socket that a crash left behind is no port in use.
        repo.client.close()
        daemon.kill()
        daemon.restart()
        repo = Repository(Client(daemon.address), "a/b")
        assert repo.get("latest").is_(200).body == pushed.content
        repo.client.close()
        check_undisturbed(daemon)
