"""Request bodies: 100 Continue, early answers, bodies that end too soon, two writers."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread

import pytest

from tests.daemon import Daemon

from .content import (
    OCI_INDEX,
    OCI_MANIFEST,
    OCTETS,
    Repository,
    absent,
    digest_of,
    encode,
    index,
    random_bytes,
    settled,
    with_query,
)
from .wire import Client, Connection, Response, chunked, head

MIB = 1024 * 1024
EXPECT = {"Expect": "100-continue"}


def range_of(repo: Repository, location: str, expected: str) -> None:
    """Assert what an upload holds; the daemon may take a moment to notice that a client has gone."""
    deadline = time.monotonic() + 10
    while (held := repo.client.get(location).is_(204).header("Range")) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held == expected


@pytest.mark.parametrize("streamed", [True, False])
def test_continue_is_sent_when_the_body_is_wanted(daemon: Daemon, repo: Repository, streamed: bool) -> None:
    content = random_bytes(1000)
    framing = {"Transfer-Encoding": "chunked"} if streamed else {"Content-Length": "1000"}
    with Connection(daemon.address) as connection:
        connection.send(head("PATCH", repo.start(), {**EXPECT, **framing}))
        assert connection.receive_interim() == 100
        connection.send(chunked(content) if streamed else content)
        response = connection.receive("PATCH").is_(202)
        assert response.interim == () and response.header("Range") == "0-999"
        target = with_query(response.location, f"digest={digest_of(content)}")
        assert connection.exchange("PUT", target, {**EXPECT, "Content-Length": "0"}).is_(201)
        assert connection.exchange("GET", "/v2/").is_(200).json() == {}


def test_continue_for_a_manifest(daemon: Daemon, repo: Repository) -> None:
    content = encode(index())
    headers = {**EXPECT, "Content-Type": OCI_INDEX, "Content-Length": str(len(content))}
    with Connection(daemon.address) as connection:
        connection.send(head("PUT", repo.path("manifests/latest"), headers))
        assert connection.receive_interim() == 100
        connection.send(content)
        connection.receive("PUT").is_(201)


def test_no_continue_for_http_1_0(daemon: Daemon, repo: Repository) -> None:
    # RFC 9110, 10.1.1: an origin server must ignore the expectation in an HTTP/1.0 request.
    with Connection(daemon.address) as connection:
        connection.send(head("PATCH", repo.start(), {**EXPECT, "Content-Length": "5"}, "HTTP/1.0"), b"hello")
        assert connection.receive("PATCH").is_(202).interim == ()


def test_no_continue_once_the_body_is_there(daemon: Daemon, repo: Repository) -> None:
    # RFC 9110, 10.1.1: a server may omit it if it has received the body already; either way the answer follows.
    with Connection(daemon.address) as connection:
        connection.send(head("PATCH", repo.start(), {**EXPECT, "Content-Length": "5"}), b"hello")
        assert connection.receive("PATCH").is_(202).header("Range") == "0-4"


REFUSED: dict[str, Callable[[Repository], tuple[str, str, dict[str, str], tuple[int, ...]]]] = {
    "unknown route": lambda repo: ("PUT", "/nothing", {}, (404,)),
    "wrong method": lambda repo: ("PUT", "/v2/", {}, (405,)),
    "invalid name": lambda repo: ("PUT", "/v2/UPPER/manifests/latest", {}, (400, 404)),
    "unknown upload": lambda repo: ("PATCH", repo.path("blobs/uploads/none"), {}, (404,)),
    "out of order": lambda repo: ("PATCH", repo.start(), {"Content-Range": "7-67108870"}, (416,)),
    "out of order at the end": lambda repo: (
        "PUT",
        with_query(repo.start(), f"digest={absent()}"),
        {"Content-Range": "7-67108870"},
        (416,),
    ),
    "malformed digest": lambda repo: ("PUT", with_query(repo.start(), "digest=bad"), {}, (400,)),
    "no digest": lambda repo: ("PUT", repo.start(), {}, (400,)),
    "malformed digest of a single post": lambda repo: ("POST", repo.path("blobs/uploads/?digest=bad"), {}, (400,)),
    "large manifest": lambda repo: ("PUT", repo.path("manifests/latest"), {"Content-Type": OCI_INDEX}, (413,)),
    "manifest with a malformed digest": lambda repo: ("PUT", repo.path("manifests/sha256:bad"), {}, (400, 413)),
    "manifest with an invalid tag": lambda repo: ("PUT", repo.path("manifests/.x"), {}, (400, 404, 413)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_early_refusal_comes_without_continue(daemon: Daemon, repo: Repository, case: str) -> None:
    method, target, headers, statuses = REFUSED[case](repo)
    with Connection(daemon.address) as connection:
        connection.send(head(method, target, {**EXPECT, "Content-Length": str(64 * MIB), **headers}))
        response = connection.receive(method)
        response.refuses(statuses)
        assert response.interim == ()
        # Whether the body will come is unknown, so nothing more can be understood here.
        assert response.closing
        connection.finish()
        assert connection.ends() == b""


@pytest.mark.parametrize("case", REFUSED)
def test_who_sends_a_large_body_regardless_gets_the_early_answer(daemon: Daemon, repo: Repository, case: str) -> None:
    method, target, headers, statuses = REFUSED[case](repo)
    with Connection(daemon.address) as connection:
        # A connection that ended under it would be an error here: to a client that gives up then, no answer has come.
        connection.send(head(method, target, {"Content-Length": str(16 * MIB), **headers}), bytes(16 * MIB))
        response = connection.receive(method)
        response.refuses(statuses)
        assert response.closing
        assert connection.ends() == b""


@pytest.mark.parametrize("case", REFUSED)
def test_who_reads_while_sending_gets_the_early_answer(daemon: Daemon, repo: Repository, case: str) -> None:
    method, target, headers, statuses = REFUSED[case](repo)
    errors: list[OSError] = []
    with Connection(daemon.address) as connection:
        connection.send(head(method, target, {"Content-Length": str(16 * MIB), **headers}))

        def send() -> None:
            try:
                connection.send(bytes(16 * MIB))
            except OSError as error:
                errors.append(error)

        sender = Thread(target=send)
        sender.start()
        connection.receive(method).refuses(statuses)
        sender.join()
    assert errors == []


def test_who_never_stops_sending_is_cut_off(daemon: Daemon, repo: Repository) -> None:
    with Connection(daemon.address) as connection:
        connection.send(head("PUT", repo.path("manifests/latest"), {"Content-Length": str(1 << 40)}))
        connection.receive("PUT").refuses(413)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 10:
                connection.send(bytes(MIB))
                time.sleep(0.05)  # Twenty a second will do: at full speed both would only burn the processor.
        assert time.monotonic() - started > 1


def test_who_reads_while_sending_chunks_gets_the_early_answer(daemon: Daemon, repo: Repository) -> None:
    with Connection(daemon.address) as connection:
        headers = {"Content-Type": OCI_INDEX, "Transfer-Encoding": "chunked"}
        connection.send(head("PUT", repo.path("manifests/latest"), headers))

        def send() -> None:
            try:
                for _ in range(640):
                    connection.send(b"19000\r\n", bytes(0x19000), b"\r\n")
            except OSError:
                pass

        sender = Thread(target=send)
        sender.start()
        connection.receive("PUT").refuses(413)
        sender.join()
    repo.get("latest").is_(404)


def test_a_small_body_of_a_refused_request_may_be_read_in_peace(daemon: Daemon, repo: Repository) -> None:
    for size in (1, 1000, 100_000):
        with Connection(daemon.address) as connection:
            response = connection.exchange(
                "PATCH", repo.path("blobs/uploads/none"), {"Content-Length": str(size)}, bytes(size)
            )
            response.refuses(404, "BLOB_UPLOAD_UNKNOWN")
            if response.closing:
                assert connection.ends() == b""
            else:
                connection.exchange("GET", "/v2/").is_(200)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_truncated_upload_keeps_what_came(
    daemon: Daemon, repo: Repository, method: str, streamed: bool, reset: bool
) -> None:
    content = random_bytes(1000)
    location = repo.start()
    target = with_query(location, f"digest={digest_of(content)}") if method == "PUT" else location
    framing = {"Transfer-Encoding": "chunked"} if streamed else {"Content-Length": "1000"}
    with Connection(daemon.address) as connection:
        connection.send(head(method, target, {**EXPECT, **framing}))
        assert connection.receive_interim() == 100
        connection.send(b"3e8\r\n" if streamed else b"", content[:400])
        if not reset:
            connection.finish()
            for response in connection.answers(method):
                assert 400 <= response.status < 500, response
    range_of(repo, location, "0-399")
    assert not repo.holds(digest_of(content)) and not repo.holds(digest_of(content[:400]))
    settled(lambda: repo.client.patch(location, {"Content-Range": "400-999"}, content[400:])).is_(202)
    repo.client.put(with_query(location, f"digest={digest_of(content)}")).is_(201)
    assert repo.client.get(repo.path(f"blobs/{digest_of(content)}")).is_(200).body == content


@pytest.mark.parametrize("streamed", [True, False])
def test_a_truncated_single_post_leaves_nothing(daemon: Daemon, repo: Repository, streamed: bool) -> None:
    content = random_bytes(1000)
    repo.blob()
    framing = {"Transfer-Encoding": "chunked"} if streamed else {"Content-Length": "1000"}
    with Connection(daemon.address) as connection:
        target = repo.path(f"blobs/uploads/?digest={digest_of(content[:400])}")
        connection.send(head("POST", target, framing), b"3e8\r\n" if streamed else b"", content[:400])
        connection.finish()
        for response in connection.answers("POST"):
            assert 400 <= response.status < 500, response
    assert not repo.holds(digest_of(content[:400]))


@pytest.mark.parametrize("streamed", [True, False])
def test_a_truncated_manifest_leaves_nothing(daemon: Daemon, repo: Repository, streamed: bool) -> None:
    repo.image("kept")
    content = encode(index())
    framing = {"Transfer-Encoding": "chunked"} if streamed else {"Content-Length": str(len(content) + 100)}
    with Connection(daemon.address) as connection:
        headers = {"Content-Type": OCI_INDEX, **framing}
        connection.send(head("PUT", repo.path("manifests/cut"), headers))
        connection.send(b"%x\r\n%s\r\n" % (len(content), content) if streamed else content)
        connection.finish()
        for response in connection.answers("PUT"):
            assert 400 <= response.status < 500, response
    repo.get("cut").refuses(404, "MANIFEST_UNKNOWN")
    repo.get(digest_of(content)).is_(404)
    assert repo.tags() == ["kept"]


@pytest.mark.parametrize("second", ["PATCH", "PATCH with range", "PUT", "PUT with body"])
def test_the_second_writer_is_refused(daemon: Daemon, repo: Repository, second: str) -> None:
    location = repo.client.patch(repo.start(), OCTETS, b"01234").is_(202).location
    with Connection(daemon.address) as first:
        first.send(head("PATCH", location, {**EXPECT, "Content-Length": "5"}))
        assert first.receive_interim() == 100
        first.send(b"56")
        method = second.split()[0]
        target = with_query(location, f"digest={digest_of(b'01234')}") if method == "PUT" else location
        headers = {"Content-Range": "5-9"} if second == "PATCH with range" else {}
        response = repo.client.request(method, target, headers, b"" if second == "PUT" else b"other")
        assert response.status in (409, 416), response
        response.refuses(response.status, "RANGE_INVALID", "BLOB_UPLOAD_INVALID")
        first.send(b"789")
        assert first.receive("PATCH").is_(202).header("Range") == "0-9"
    repo.client.put(with_query(location, f"digest={digest_of(b'0123456789')}")).is_(201)


def test_the_status_of_an_upload_under_way(daemon: Daemon, repo: Repository) -> None:
    location = repo.client.patch(repo.start(), OCTETS, b"01234").is_(202).location
    with Connection(daemon.address) as first:
        first.send(head("PATCH", location, {**EXPECT, "Content-Length": "5"}))
        assert first.receive_interim() == 100
        assert repo.client.get(location).is_(204).header("Range") == "0-4"
        first.send(b"56789")
        first.receive("PATCH").is_(202)


def test_cancelling_an_upload_under_way(daemon: Daemon, repo: Repository) -> None:
    location = repo.start()
    with Connection(daemon.address) as first:
        first.send(head("PATCH", location, {**EXPECT, "Content-Length": "5"}))
        assert first.receive_interim() == 100
        response = repo.client.delete(location)
        assert response.status in (204, 409, 416), response
        first.send(b"56789")
        answer = first.receive("PATCH")
        assert answer.status == 202 if response.status != 204 else 400 <= answer.status < 500, answer
    if response.status == 204:
        repo.client.get(location).refuses(404, "BLOB_UPLOAD_UNKNOWN")


def test_many_writers_of_one_upload(daemon: Daemon, repo: Repository) -> None:
    location = repo.start()
    responses: list[Response] = []

    def write(content: bytes) -> None:
        client = Client(daemon.address)
        responses.append(client.patch(location, {"Content-Range": "0-99999"}, content * 100_000))
        client.close()

    writers = [Thread(target=write, args=(bytes([number]),)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(response.status for response in responses)[0] == 202
    assert sum(response.status == 202 for response in responses) == 1
    assert all(response.status in (202, 409, 416) for response in responses)
    assert repo.client.get(location).header("Range") == "0-99999"
    created = [
        repo.client.put(with_query(location, f"digest={digest_of(bytes([number]) * 100_000)}")).status
        for number in range(1)
    ]
    assert created[0] in (201, 400)


@pytest.mark.parametrize("name", ["manifests/latest", "blobs/uploads/"])
def test_a_body_that_nobody_asked_for(daemon: Daemon, repo: Repository, name: str) -> None:
    """A GET, a HEAD, a POST of a session may have a body; it is read over."""
    repo.image("latest")
    method = "GET" if name.startswith("manifests") else "POST"
    for framing, body in (
        ({"Content-Length": "9"}, b"GET / HTT"),
        ({"Transfer-Encoding": "chunked"}, chunked(b"GET / HTT")),
    ):
        with Connection(daemon.address) as connection:
            response = connection.exchange(method, repo.path(name), framing, body)
            assert response.status in (200, 202), response
            if not response.closing:
                assert connection.exchange("GET", "/v2/").is_(200).json() == {}


def test_a_manifest_one_byte_at_a_time(daemon: Daemon, repo: Repository) -> None:
    content = encode(index())
    headers = {"Content-Type": OCI_INDEX, "Content-Length": str(len(content))}
    request = head("PUT", repo.path("manifests/latest"), headers) + content
    with Connection(daemon.address) as connection:
        for position in range(len(request)):
            connection.send(request[position : position + 1])
        connection.receive("PUT").is_(201)
    assert repo.get("latest").body == content


def test_an_unknown_expectation(daemon: Daemon, repo: Repository) -> None:
    with Connection(daemon.address) as connection:
        response = connection.exchange("GET", "/v2/", {"Expect": "a-miracle"})
        assert response.status in (200, 417), response
    repo.put("latest", encode(index()), OCI_INDEX, {"Expect": "100-CONTINUE"}).is_(201)
    assert repo.get("latest").header("Content-Type") != OCI_MANIFEST
