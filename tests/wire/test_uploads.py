"""Pushing blobs in every way that the specification has."""

from __future__ import annotations

import pytest

from tests.daemon import Daemon

from .content import OCTETS, Repository, absent, digest_of, random_bytes, with_query
from .wire import Client, Connection, Response, chunked, head


def check_created(client: Client, response: Response, content: bytes, algorithm: str = "sha256") -> None:
    """The answer to a finished push is complete, and its location can be pulled."""
    response.is_(201)
    digest = digest_of(content, algorithm)
    assert response.header("Docker-Content-Digest") == digest
    assert response.header("Content-Length") == "0"
    pulled = client.get(response.location).is_(200)
    assert pulled.body == content
    assert pulled.header("Docker-Content-Digest") == digest


def check_session(response: Response, status: int, size: int) -> str:
    """The answer that a session is open and holds ``size`` bytes; its location."""
    response.is_(status)
    assert response.header("Range") == f"0-{max(size - 1, 0)}"
    identity = response.header("Docker-Upload-UUID")
    assert identity in response.location
    assert "_state" not in response.location
    return response.location


def chunk(start: int, content: bytes) -> dict[str, str]:
    return {**OCTETS, "Content-Range": f"{start}-{start + len(content) - 1}"}


def close(location: str, content: bytes, algorithm: str = "sha256") -> str:
    return with_query(location, f"digest={digest_of(content, algorithm)}")


def test_start(client: Client, repo: Repository) -> None:
    response = client.post(repo.path("blobs/uploads/"))
    check_session(response, 202, 0)
    assert response.header("Content-Length") == "0"
    assert client.post(repo.path("blobs/uploads/")).location != response.location


@pytest.mark.parametrize("size", [0, 1, 512, 3_000_000])
def test_post_then_put(client: Client, repo: Repository, size: int) -> None:
    content = random_bytes(size)
    check_created(client, client.put(close(repo.start(), content), OCTETS, content), content)


@pytest.mark.parametrize("size", [0, 512, 3_000_000])
def test_single_post(client: Client, repo: Repository, size: int) -> None:
    content = random_bytes(size)
    path = repo.path(f"blobs/uploads/?digest={digest_of(content)}")
    check_created(client, client.post(path, OCTETS, content), content)


def test_single_post_in_transfer_chunks(client: Client, repo: Repository) -> None:
    content = random_bytes()
    path = repo.path(f"blobs/uploads/?digest={digest_of(content)}")
    response = client.post(path, {**OCTETS, "Transfer-Encoding": "chunked"}, chunked(content[:9], content[9:]))
    check_created(client, response, content)


@pytest.mark.parametrize("kind", ["other", "sha256:bad", "", "md5:d41d8cd98f00b204e9800998ecf8427e", "none"])
def test_single_post_with_a_bad_digest(client: Client, repo: Repository, kind: str) -> None:
    content = random_bytes()
    digest = absent() if kind == "other" else kind
    response = client.post(repo.path(f"blobs/uploads/?digest={digest}"), OCTETS, content)
    response.refuses(400, "DIGEST_INVALID")
    assert not repo.holds(digest_of(content))
    if kind == "other":
        assert not repo.holds(digest)


def test_one_streamed_patch(client: Client, repo: Repository) -> None:
    content = random_bytes(200_000)
    headers = {**OCTETS, "Transfer-Encoding": "chunked"}
    body = chunked(*(content[start : start + 30_000] for start in range(0, 200_000, 30_000)))
    location = check_session(client.patch(repo.start(), headers, body), 202, 200_000)
    check_created(client, client.put(close(location, content)), content)


def test_patches_without_content_range_append(client: Client, repo: Repository) -> None:
    location = check_session(client.patch(repo.start(), OCTETS, b"one "), 202, 4)
    location = check_session(client.patch(location, OCTETS, b"two"), 202, 7)
    check_created(client, client.put(close(location, b"one two")), b"one two")


def test_patch_without_content_type(client: Client, repo: Repository) -> None:
    check_session(client.patch(repo.start(), {}, b"12345"), 202, 5)


@pytest.mark.parametrize("final", [b"", b"the last chunk"])
def test_chunks_in_order(client: Client, repo: Repository, final: bytes) -> None:
    content = random_bytes(1000)
    location = repo.start()
    for start in range(0, 1000, 400):
        part = content[start : start + 400]
        location = check_session(client.patch(location, chunk(start, part), part), 202, start + len(part))
    headers = chunk(1000, final) if final else OCTETS
    check_created(client, client.put(close(location, content + final), headers, final), content + final)


def test_last_chunk_with_the_put_and_no_content_range(client: Client, repo: Repository) -> None:
    location = client.patch(repo.start(), chunk(0, b"head "), b"head ").is_(202).location
    check_created(client, client.put(close(location, b"head tail"), OCTETS, b"tail"), b"head tail")


def test_all_in_the_put_with_content_range(client: Client, repo: Repository) -> None:
    check_created(client, client.put(close(repo.start(), b"all"), chunk(0, b"all"), b"all"), b"all")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("start", [0, 3, 5, 100, 10**18])
def test_chunk_out_of_order(client: Client, repo: Repository, method: str, start: int) -> None:
    content = b"0123456789"
    location = client.patch(repo.start(), chunk(0, content[:4]), content[:4]).is_(202).location
    target = close(location, content) if method == "PUT" else location
    client.request(method, target, chunk(start, content[4:]), content[4:]).refuses(416, "RANGE_INVALID")
    # The conformance suite asks for the status at the URL that was refused, with its query.
    location = check_session(client.get(target), 204, 4)
    location = check_session(client.patch(location, chunk(4, content[4:]), content[4:]), 202, 10)
    check_created(client, client.put(close(location, content)), content)


def test_first_chunk_out_of_order(client: Client, repo: Repository) -> None:
    location = repo.start()
    client.patch(location, chunk(5, b"late"), b"late").refuses(416, "RANGE_INVALID")
    check_session(client.get(location), 204, 0)
    check_created(client, client.put(close(location, b"early"), chunk(0, b"early"), b"early"), b"early")


def test_streamed_chunk_out_of_order(client: Client, repo: Repository) -> None:
    location = client.patch(repo.start(), chunk(0, b"0123"), b"0123").is_(202).location
    headers = {**chunk(9, b"late"), "Transfer-Encoding": "chunked"}
    client.patch(location, headers, chunked(b"late")).refuses(416, "RANGE_INVALID")
    check_session(client.get(location), 204, 4)


@pytest.mark.parametrize(
    ("content_range", "body"),
    [("0-9", b"12345"), ("0-3", b"12345"), ("0-9", b"")],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_content_range_and_length_differ(
    client: Client, repo: Repository, content_range: str, body: bytes, streamed: bool
) -> None:
    location = repo.start()
    headers = {**OCTETS, "Content-Range": content_range}
    if streamed:
        headers["Transfer-Encoding"] = "chunked"
    response = client.patch(location, headers, chunked(body) if streamed else body)
    response.refuses((400, 416), "SIZE_INVALID", "RANGE_INVALID")
    check_session(client.get(location), 204, 0)
    check_created(client, client.put(close(location, b"right"), OCTETS, b"right"), b"right")


@pytest.mark.parametrize(
    "content_range",
    ["abc", "-", "5", "5-", "-5", "4-0", "0-4-8", "-1-4", "0x0-4", "0_0-4", "+0-4", "0 - 4", "\u0660-4"],
)
def test_malformed_content_range(client: Client, repo: Repository, content_range: str) -> None:
    location = repo.start()
    response = client.patch(location, [("Content-Range", content_range.encode())], b"12345")
    response.refuses((400, 416))
    check_session(client.get(location), 204, 0)


def test_status_by_get_and_head(client: Client, repo: Repository) -> None:
    location = repo.start()
    check_session(client.get(location), 204, 0)
    client.patch(location, OCTETS, b"12345").is_(202)
    check_session(client.get(location), 204, 5)
    check_session(client.head(location), 204, 5)


def test_cancel(client: Client, repo: Repository) -> None:
    location = repo.start()
    client.patch(location, OCTETS, b"12345").is_(202)
    client.delete(location).is_(204)
    client.get(location).refuses(404, "BLOB_UPLOAD_UNKNOWN")
    client.patch(location, OCTETS, b"12345").refuses(404, "BLOB_UPLOAD_UNKNOWN")
    client.put(close(location, b""), OCTETS).refuses(404, "BLOB_UPLOAD_UNKNOWN")
    client.delete(location).refuses(404, "BLOB_UPLOAD_UNKNOWN")


def test_a_finished_session_is_gone(client: Client, repo: Repository) -> None:
    location = repo.start()
    client.put(close(location, b"x"), OCTETS, b"x").is_(201)
    client.get(location).refuses(404, "BLOB_UPLOAD_UNKNOWN")
    client.put(close(location, b"x"), OCTETS, b"x").refuses(404, "BLOB_UPLOAD_UNKNOWN")


def test_a_session_is_of_its_repository(client: Client, repo: Repository, other: Repository) -> None:
    identity = repo.start().rsplit("/", 1)[1]
    other.blob()
    for method in ("GET", "PATCH", "DELETE"):
        response = client.request(method, other.path(f"blobs/uploads/{identity}"), body=b"")
        response.refuses(404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    "identity",
    [
        "00000000-0000-4000-8000-000000000000",
        "x",
        "%20",
        "..%2f..",
        "%2e%2e",
        "..",
        ".",
        "a" * 300,
        "%00",
        "%ff",
        "é",
        "~",
    ],
)
def test_unknown_sessions(client: Client, repo: Repository, identity: str) -> None:
    repo.blob()
    path = repo.path(f"blobs/uploads/{identity}")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        target = f"{path}?digest={digest_of(b'x')}" if method == "PUT" else path
        client.request(method, target, OCTETS, b"x").refuses((404, 400))
    assert client.head(path).status in (404, 400)


def test_state_is_ignored(client: Client, repo: Repository) -> None:
    location = with_query(repo.start(), "_state=forged%00%ff")
    client.patch(location, OCTETS, b"12345").is_(202)
    check_session(client.get(location), 204, 5)
    client.put(close(location, b"12345")).is_(201)
    client.delete(with_query(repo.start(), "_state=YWJj")).is_(204)


@pytest.mark.parametrize(
    "digest", ["sha256:bad", "", "bad", None, "md5:d41d8cd98f00b204e9800998ecf8427e", "%00", "%ff"]
)
def test_close_with_a_malformed_digest_keeps_the_session(client: Client, repo: Repository, digest: str | None) -> None:
    location = client.patch(repo.start(), OCTETS, b"12345").is_(202).location
    client.put(location if digest is None else with_query(location, f"digest={digest}")).refuses(400, "DIGEST_INVALID")
    check_created(client, client.put(close(location, b"12345")), b"12345")


@pytest.mark.parametrize("way", ["put", "patch", "stream"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_close_with_another_digest(client: Client, repo: Repository, way: str, algorithm: str) -> None:
    content, digest, location = random_bytes(), absent(algorithm), repo.start()
    if way == "stream":
        client.patch(location, {**OCTETS, "Transfer-Encoding": "chunked"}, chunked(content)).is_(202)
    elif way == "patch":
        client.patch(location, chunk(0, content), content).is_(202)
    response = client.put(with_query(location, f"digest={digest}"), OCTETS, content if way == "put" else b"")
    response.refuses(400, "DIGEST_INVALID")
    client.get(repo.path(f"blobs/{digest}")).is_(404)
    client.get(repo.path(f"blobs/{digest_of(content)}")).is_(404)
    repo.blob(content)


@pytest.mark.parametrize("query", ["", "?digest-algorithm=sha512", "?digest-algorithm=sha256"])
@pytest.mark.parametrize("way", ["put", "patch"])
def test_sha512(client: Client, repo: Repository, daemon: Daemon, query: str, way: str) -> None:
    content, location = random_bytes(), repo.start(query)
    if way == "patch":
        location = client.patch(location, chunk(0, content[:99]), content[:99]).is_(202).location
        location = client.patch(location, chunk(99, content[99:]), content[99:]).is_(202).location
    response = client.put(close(location, content, "sha512"), OCTETS, content if way == "put" else b"")
    check_created(client, response, content, "sha512")
    assert digest_of(content, "sha512") in response.location
    encoded = digest_of(content, "sha512").removeprefix("sha512:")
    assert (daemon.tree / "blobs" / "sha512" / encoded[:2] / encoded / "data").read_bytes() == content
    assert client.head(repo.path(f"blobs/{digest_of(content, 'sha512')}")).is_(200).header("Content-Length") == "256"


def test_sha512_by_single_post(client: Client, repo: Repository) -> None:
    content = random_bytes()
    path = repo.path(f"blobs/uploads/?digest={digest_of(content, 'sha512')}")
    check_created(client, client.post(path, OCTETS, content), content, "sha512")


def test_sha256_after_all(client: Client, repo: Repository) -> None:
    content = random_bytes()
    location = repo.start("?digest-algorithm=sha512")
    check_created(client, client.put(close(location, content), OCTETS, content), content)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "", "SHA512", "sha384", "..%2f..", "%00", "shake_128"])
def test_unsupported_algorithm(client: Client, repo: Repository, algorithm: str) -> None:
    response = client.post(repo.path(f"blobs/uploads/?digest-algorithm={algorithm}"))
    response.refuses(400, "DIGEST_INVALID", "UNSUPPORTED")


def test_the_same_blob_twice_at_once(client: Client, repo: Repository) -> None:
    content, locations = random_bytes(), [repo.start(), repo.start()]
    for location in locations:
        client.patch(location, OCTETS, content).is_(202)
    for location in locations:
        check_created(client, client.put(close(location, content)), content)


def test_a_body_one_byte_at_a_time(daemon: Daemon, client: Client, repo: Repository) -> None:
    content = random_bytes(40)
    request = head("PATCH", repo.start(), {**OCTETS, "Content-Length": "40"}) + content
    with Connection(daemon.address) as connection:
        for position in range(len(request)):
            connection.send(request[position : position + 1])
        location = check_session(connection.receive(), 202, 40)
        streamed = head("PATCH", location, {"Transfer-Encoding": "chunked"}) + chunked(content[:7], content[7:])
        for position in range(len(streamed)):
            connection.send(streamed[position : position + 1])
        check_session(connection.receive(), 202, 80)
    check_created(client, client.put(close(location, content * 2)), content * 2)


@pytest.mark.parametrize("crash", [False, True])
def test_a_session_survives_the_daemon(crash: bool) -> None:
    content = random_bytes(300_000)
    with Daemon() as daemon:
        location = Repository(client := Client(daemon.address), "survivor").start()
        check_session(client.patch(location, chunk(0, content[:200_000]), content[:200_000]), 202, 200_000)
        client.close()
        if crash:
            daemon.kill()
        daemon.restart()
        client = Client(daemon.address)
        location = check_session(client.get(location), 204, 200_000)
        client.patch(location, chunk(0, content[:9]), content[:9]).refuses(416, "RANGE_INVALID")
        check_session(client.patch(location, chunk(200_000, content[200_000:]), content[200_000:]), 202, 300_000)
        check_created(client, client.put(close(location, content)), content)
        client.close()
