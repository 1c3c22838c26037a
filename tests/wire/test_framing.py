"""Framing: garbage, lengths that are none, malformed chunks, more header than anybody needs."""

from __future__ import annotations

import pytest

from tests.daemon import Daemon

from .content import OCTETS, Repository, digest_of, random_bytes, settled, short, with_query
from .endings import last_words, paths_in_access_log
from .wire import Client, Connection, chunked, head


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
