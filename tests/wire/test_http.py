"""HTTP itself: pipelines, framing, garbage, and connections that live on after errors."""

from __future__ import annotations

import re
import ssl

import pytest

from tests.daemon import Daemon

from .content import OCI_MANIFEST, OCTETS, Repository, absent, digest_of, random_bytes, settled, short, with_query
from .wire import Client, Connection, ConnectionEndedError, Response, chunked, head


def last_words(daemon: Daemon, *sent: bytes) -> list[Response]:
    """All answers to some bytes, on a connection that has to end; none is a fault of the server's own."""
    with Connection(daemon.address) as connection:
        try:
            connection.send(*sent)
            connection.finish()
        except ConnectionError:
            pass
        responses = connection.answers()
    assert all(response.status < 500 or response.status in (501, 505) for response in responses), responses
    return responses


def paths_in_access_log(daemon: Daemon) -> str:
    with Connection(daemon.address) as connection:
        marker = f"/v2/marker-{random_bytes(8).hex()}"
        connection.exchange("GET", marker)
    daemon.out.wait_for(marker)
    return daemon.stdout


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


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n\r\n",
        b"GET /v2/\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET  /v2/ HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1 more\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v2/ http/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\nHost: x\n\n",
        b"GET /v2/\tHTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\0\0\0\r\n\r\n",
        b"\xff" * 3000 + b"\r\n\r\n",
        bytes(range(256)) * 12,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n: no name\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nA B: space\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\tfolded: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: \xff\xfe\r\n\r\n",
        b"GET /v2/%0d%0aX-Injected:%20yes HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: \xff, , ;\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n",
        b"M" * 5000 + b" /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=short,
)
def test_garbage(daemon: Daemon, client: Client, sent: bytes) -> None:
    for response in last_words(daemon, sent):
        assert response.all("X-Injected") == []
    assert client.get("/v2/").is_(200).json() == {}


@pytest.mark.parametrize(
    "framing",
    [
        [("Content-Length", "-1")],
        [("Content-Length", "+5")],
        [("Content-Length", "0x5")],
        [("Content-Length", "5_0")],
        [("Content-Length", "5.0")],
        [("Content-Length", "")],
        [("Content-Length", "five")],
        [("Content-Length", b"\xd9\xa5")],
        [("Content-Length", "5 5")],
        [("Content-Length", "5"), ("Content-Length", "6")],
        [("Content-Length", "5, 6")],
        [("Content-Length", "9" * 5000)],
        [("Transfer-Encoding", "gzip")],
        [("Transfer-Encoding", "identity")],
        [("Transfer-Encoding", "xchunked")],
        [("Transfer-Encoding", "chunked, gzip")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked, chunked")],
        [("Transfer-Encoding", "")],
        [("Transfer-Encoding", b"\x0bchunked")],
        [("Content-Length ", "5")],
        [("Transfer-Encoding ", "chunked")],
    ],
    ids=str,
)
def test_a_length_that_is_none(daemon: Daemon, repo: Repository, framing: list[tuple[str, str | bytes]]) -> None:
    """RFC 9112, 6.3: what cannot be framed is refused, and nothing that follows on the connection is a request."""
    hidden = f"/v2/hidden-{random_bytes(8).hex()}/tags/list"
    location = repo.start()
    responses = last_words(daemon, head("PATCH", location, framing), b"5\r\nhello\r\n0\r\n\r\n", head("GET", hidden))
    assert len(responses) <= 1, responses
    assert all(response.status >= 400 for response in responses), responses
    assert hidden not in paths_in_access_log(daemon)
    assert repo.client.get(location).is_(204).header("Range") == "0-0"


def test_a_huge_length(daemon: Daemon, repo: Repository) -> None:
    location = repo.start()
    for length in ("9223372036854775808", "9" * 30):
        with Connection(daemon.address) as connection:
            connection.send(head("PATCH", location, {"Content-Length": length}), b"hello")
            connection.finish()
            for response in connection.answers("PATCH"):
                assert 400 <= response.status < 500 or response.status == 507, response
    assert repo.client.get(location).status in (204, 404)


def test_length_and_transfer_encoding(daemon: Daemon, repo: Repository) -> None:
    """RFC 9112, 6.1: refuse it, or take the chunks and close."""
    hidden = f"/v2/hidden-{random_bytes(8).hex()}/tags/list"
    location = repo.start()
    headers = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    responses = last_words(daemon, head("PATCH", location, headers), chunked(b"hello"), head("GET", hidden))
    assert len(responses) <= 1, responses
    assert hidden not in paths_in_access_log(daemon)
    held = repo.client.get(location).is_(204).header("Range")
    assert held == ("0-4" if responses and responses[0].status == 202 else "0-0")


def test_the_same_length_twice(daemon: Daemon, repo: Repository) -> None:
    location = repo.start()
    headers = [("Content-Length", "5"), ("Content-Length", "5")]
    responses = last_words(daemon, head("PATCH", location, headers), b"hello")
    assert len(responses) == 1 and responses[0].status in (202, 400), responses
    assert repo.client.get(location).header("Range") == ("0-4" if responses[0].status == 202 else "0-0")


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5_\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"f" * 400 + b"\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"\xff\xff\r\n",
        b"5" + b" " * 100_000,
    ],
    ids=short,
)
def test_malformed_chunks(daemon: Daemon, repo: Repository, body: bytes) -> None:
    hidden = f"/v2/hidden-{random_bytes(8).hex()}/tags/list"
    location = repo.start()
    request = head("PATCH", location, {"Transfer-Encoding": "chunked"})
    responses = last_words(daemon, request, body, head("GET", hidden))
    assert len(responses) <= 1 and all(400 <= response.status < 500 for response in responses), responses
    assert hidden not in paths_in_access_log(daemon)
    # Whatever came before the fault may stay: the session goes on from what it says.
    settled(lambda: repo.client.patch(location, OCTETS, b"")).is_(202)
    status = repo.client.get(location).is_(204)
    last = int(status.header("Range").removeprefix("0-"))
    held = b"" if last == 0 else b"hello"[: last + 1]
    repo.client.put(with_query(location, f"digest={digest_of(held + b'!')}"), OCTETS, b"!").is_(201)


@pytest.mark.parametrize(
    "body",
    [
        b'5;ext=1;more="x"\r\nhello\r\n0\r\n\r\n',
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b"0005\r\nhello\r\n000\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
        b"0\r\n\r\n",
    ],
    ids=short,
)
def test_unusual_chunks(daemon: Daemon, repo: Repository, body: bytes) -> None:
    with Connection(daemon.address) as connection:
        connection.send(head("PATCH", repo.start(), {"Transfer-Encoding": "chunked"}), body, head("GET", "/v2/"))
        size = 10 if body.startswith(b"A") else 0 if body.startswith(b"0\r\n") else 5
        assert connection.receive("PATCH").is_(202).header("Range") == f"0-{max(size - 1, 0)}"
        assert connection.receive().is_(200).json() == {}


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Long", "x" * 1_000_000)],
        [(f"X-{number}", "x") for number in range(5000)],
        [("X-Same", "x")] * 50_000,
        [("X" * 100_000, "x")],
        [("Accept", "a/b, " * 50_000)],
        [("Range", "bytes=" + "0-0," * 50_000)],
        [("Cookie", "x" * 70_000)],
    ],
    ids=["long", "thousands", "fifty thousand", "long name", "accept", "range", "cookie"],
)
def test_more_header_than_anybody_needs(daemon: Daemon, client: Client, headers: list[tuple[str, str | bytes]]) -> None:
    responses = last_words(daemon, head("GET", "/v2/", headers))
    assert all(response.status in (400, 431, 413) for response in responses), responses
    assert client.get("/v2/").is_(200).json() == {}


def test_a_target_longer_than_anybody_needs(daemon: Daemon, client: Client) -> None:
    for size in (10_000, 100_000, 2_000_000):
        for target in ("/v2/" + "a" * size, "/v2/?" + "a=b&" * (size // 4), "/" * size, "/v2/" + "%41" * (size // 3)):
            for response in last_words(daemon, head("GET", target)):
                assert response.status in (200, 400, 404, 414, 431), (size, target[:9], response)
    assert client.get("/v2/").is_(200).json() == {}


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
