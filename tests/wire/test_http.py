"""Connections: pipelines, versions, and life after errors."""

from __future__ import annotations

import re
import ssl

import pytest

from tests.daemon import Daemon

from .content import OCI_MANIFEST, OCTETS, Repository, absent, digest_of, random_bytes, with_query
from .endings import paths_in_access_log
from .wire import Client, Connection, ConnectionEndedError, chunked, head


def test_several_gets_in_one_segment(daemon: Daemon, repo: Repository) -> None:
    pushed = repo.image("latest")
    blob = repo.path(f"blobs/{repo.blob(b'blob')}")
    with Connection(daemon.address) as connection:
        connection.send(
            head("GET", "/v2/"),
            head("GET", blob),
            head("HEAD", blob),
            head("GET", blob, {"Range": "bytes=1-2"}),
            head("GET", repo.path("manifests/latest")),
            head("GET", repo.path("manifests/none")),
            head("GET", blob, {"If-None-Match": "*"}),
            head("GET", repo.path("tags/list")),
            head("GET", "/v2/"),
        )
        assert connection.receive().is_(200).json() == {}
        assert connection.receive().is_(200).body == b"blob"
        assert connection.receive("HEAD").is_(200).header("Content-Length") == "4"
        assert connection.receive().is_(206).body == b"lo"
        assert connection.receive().is_(200).body == pushed.content
        connection.receive().refuses(404, "MANIFEST_UNKNOWN")
        connection.receive().is_(304)
        assert connection.receive().is_(200).json()["tags"] == ["latest"]
        assert connection.receive().is_(200).json() == {}


def test_a_hundred_gets_of_blobs_in_one_segment(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes(50_000)
    blob = repo.path(f"blobs/{repo.blob(content)}")
    with Connection(daemon.address) as connection:
        connection.send(*[head("GET", blob)] * 100)
        for _ in range(100):
            assert connection.receive().is_(200).body == content


def test_an_upload_and_what_follows_in_one_segment(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes(1000)
    location, path = repo.start(), repo.path(f"blobs/{digest_of(content)}")
    with Connection(daemon.address) as connection:
        target = with_query(location, f"digest={digest_of(content)}")
        connection.send(head("PUT", target, {**OCTETS, "Content-Length": "1000"}), content, head("GET", path))
        connection.receive("PUT").is_(201)
        assert connection.receive().is_(200).body == content


def test_a_whole_push_in_one_segment(daemon: Daemon, repo: Repository) -> None:
    first, second, location = random_bytes(70_000), random_bytes(70_000), repo.start()
    digest = digest_of(first + second)
    with Connection(daemon.address) as connection:
        connection.send(
            head("PATCH", location, {"Transfer-Encoding": "chunked"}),
            chunked(first[:1], first[1:]),
            head("GET", location),
            head("PATCH", location, {"Content-Length": "70000", "Content-Range": "70000-139999"}),
            second,
            head("PUT", with_query(location, f"digest={digest}"), {"Content-Length": "0"}),
            head("GET", repo.path(f"blobs/{digest}")),
            head("DELETE", repo.path(f"blobs/{digest}")),
            head("HEAD", repo.path(f"blobs/{digest}")),
        )
        assert connection.receive("PATCH").is_(202).header("Range") == "0-69999"
        assert connection.receive().is_(204).header("Range") == "0-69999"
        assert connection.receive("PATCH").is_(202).header("Range") == "0-139999"
        connection.receive("PUT").is_(201)
        assert connection.receive().is_(200).body == first + second
        connection.receive("DELETE").is_(202)
        connection.receive("HEAD").is_(404)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("target", ["/v2/a/blobs/uploads/none", "/v2/UPPER/blobs/uploads/x", "/nothing", "/v2/"])
def test_the_body_of_a_refused_request_is_no_request(daemon: Daemon, target: str, streamed: bool) -> None:
    hidden = f"/v2/hidden-{random_bytes(8).hex()}/tags/list"
    body = head("GET", hidden) * 3
    framing = {"Transfer-Encoding": "chunked"} if streamed else {"Content-Length": str(len(body))}
    with Connection(daemon.address) as connection:
        connection.send(head("PATCH", target, framing), chunked(body) if streamed else body, head("GET", "/v2/"))
        first = connection.receive("PATCH")
        first.refuses((404, 400, 405))
        if not first.closing:
            assert connection.receive().is_(200).json() == {}
            connection.finish()
        assert connection.ends() == b""
    assert hidden not in paths_in_access_log(daemon)


def test_a_connection_lives_on_after_every_kind_of_error(daemon: Daemon, repo: Repository) -> None:
    pushed = repo.image("latest")
    upload = repo.start()
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/nothing", {}),
        ("DELETE", "/v2/", {}),
        ("GET", "/v2/UPPER/tags/list", {}),
        ("GET", "/v2/%ff/tags/list", {}),
        ("GET", repo.path("manifests/none"), {}),
        ("HEAD", repo.path("manifests/none"), {}),
        ("GET", repo.path("blobs/sha256:bad"), {}),
        ("GET", repo.path(f"blobs/{absent()}"), {}),
        ("HEAD", repo.path(f"blobs/{absent()}"), {}),
        ("GET", repo.path(f"manifests/{pushed.digest}"), {"Range": "bytes=5-1"}),
        ("GET", repo.path("tags/list?n=-1"), {}),
        ("GET", "/v2/none/tags/list", {}),
        ("GET", repo.path("referrers/bad"), {}),
        ("GET", repo.path("blobs/uploads/none"), {}),
        ("DELETE", repo.path("blobs/uploads/none"), {}),
        ("DELETE", repo.path("manifests/none"), {"Content-Length": "0"}),
        ("PUT", repo.path("manifests/empty"), {"Content-Type": OCI_MANIFEST, "Content-Length": "0"}),
        ("PUT", repo.path("blobs/uploads/none?digest=bad"), {"Content-Length": "0"}),
        ("PUT", with_query(upload, "digest=bad"), {"Content-Length": "0"}),
        ("PATCH", upload, {"Content-Range": "7-9", "Content-Length": "0"}),
        ("PATCH", repo.path("blobs/uploads/none"), {"Content-Length": "0"}),
        ("POST", repo.path("blobs/uploads/?digest=bad"), {"Content-Length": "0"}),
        ("POST", repo.path(f"blobs/uploads/?digest={absent()}"), {"Content-Length": "0"}),
        ("POST", repo.path("blobs/uploads/?digest-algorithm=md5"), {"Content-Length": "0"}),
    ]
    with Connection(daemon.address) as connection:
        for method, target, headers in requests:
            response = connection.exchange(method, target, headers)
            assert 400 <= response.status < 500 or "Range" in headers, (method, target, response)
            assert not response.closing, (method, target, response)
            assert connection.exchange("GET", "/v2/").is_(200).json() == {}, (method, target)


def test_it_closes_when_asked(daemon: Daemon, repo: Repository) -> None:
    path = repo.path(f"blobs/{repo.blob(b'blob')}")
    for target in ("/v2/", path, "/nothing"):
        with Connection(daemon.address) as connection:
            assert connection.exchange("GET", target, {"Connection": "close"}).closing
            assert connection.ends() == b""


@pytest.mark.parametrize("target", ["/v2/", "blob", "missing"])
def test_http_1_0(daemon: Daemon, repo: Repository, target: str) -> None:
    digest = repo.blob(content := random_bytes(100_000))
    path = {"blob": repo.path(f"blobs/{digest}"), "missing": repo.path("manifests/none")}.get(target, target)
    with Connection(daemon.address) as connection:
        response = connection.exchange("GET", path, version="HTTP/1.0")
        assert response.all("Transfer-Encoding") == []
        assert connection.ends() == b""
    assert target != "blob" or response.is_(200).body == content
    assert target != "missing" or response.status == 404


def test_a_push_by_http_1_0(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes()
    target = with_query(repo.start(), f"digest={digest_of(content)}")
    with Connection(daemon.address) as connection:
        connection.exchange("PUT", target, {"Content-Length": "256"}, content, "HTTP/1.0").is_(201)
    assert repo.holds(digest_of(content))


def test_tls_on_the_plain_port(daemon: Daemon, client: Client) -> None:
    outgoing = ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="registry.example")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    position = len(daemon.err)
    with Connection(daemon.address) as connection:
        connection.send(outgoing.read())
        answer = connection.ends()
    assert len(answer) < 1000
    daemon.err.wait_for("(?i)tls|https", position, timeout=5)
    client.get("/v2/").is_(200)
    lines = [line for line in daemon.err.since(position).splitlines() if re.search("(?i)tls|https", line)]
    assert len(lines) == 1, lines


def test_an_ended_connection_is_noticed_by_this_client(daemon: Daemon) -> None:
    with Connection(daemon.address) as connection:
        connection.send(b"GET /v2/ HT")
        connection.finish()
        with pytest.raises((ConnectionEndedError, ConnectionError)):
            while True:
                connection.receive()
