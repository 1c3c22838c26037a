"""GET and HEAD of blobs: whole, in ranges, under conditions."""

from __future__ import annotations

import re
import time

import pytest

from tests.daemon import Daemon

from .content import Repository, absent, digest_of, random_bytes
from .wire import Client, Connection, Response, head

SIZE = 2048
CONTENT = random_bytes(SIZE)


@pytest.fixture
def blob(repo: Repository) -> str:
    """The path of a blob of 2048 bytes."""
    return repo.path(f"blobs/{repo.blob(CONTENT)}")


def check_fields(response: Response, digest: str, size: int) -> None:
    assert response.header("Docker-Content-Digest") == digest
    assert response.header("Content-Length") == str(size)
    assert response.header("Content-Type") == "application/octet-stream"
    assert response.header("ETag") == f'"{digest}"'
    assert response.header("Accept-Ranges") == "bytes"
    assert "max-age=31536000" in response.header("Cache-Control")


def test_get(client: Client, blob: str) -> None:
    response = client.get(blob).is_(200)
    assert response.body == CONTENT
    check_fields(response, digest_of(CONTENT), SIZE)


def test_head(client: Client, blob: str) -> None:
    check_fields(client.head(blob).is_(200), digest_of(CONTENT), SIZE)
    # What a HEAD sends beyond its head is read as the next answer.
    assert client.get("/v2/").is_(200).json() == {}


def test_content_is_never_encoded(client: Client, blob: str) -> None:
    response = client.get(blob, {"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}).is_(200)
    assert response.all("Content-Encoding") == [] and response.body == CONTENT


def test_accept_does_not_matter(client: Client, blob: str) -> None:
    assert client.get(blob, {"Accept": "text/html"}).is_(200).body == CONTENT


def test_a_source_host_may_be_named(client: Client, blob: str) -> None:
    assert client.get(f"{blob}?ns=docker.io").is_(200).body == CONTENT


@pytest.mark.parametrize("size", [0, 1, 65536, 5_000_001])
def test_sizes(client: Client, repo: Repository, size: int) -> None:
    content = random_bytes(size)
    path = repo.path(f"blobs/{repo.blob(content)}")
    response = client.get(path).is_(200)
    assert response.body == content
    check_fields(response, digest_of(content), size)
    check_fields(client.head(path).is_(200), digest_of(content), size)


def test_absent_blob_and_repository(client: Client, repo: Repository) -> None:
    path = repo.path(f"blobs/{absent()}")
    client.get(path).refuses(404, "NAME_UNKNOWN", "BLOB_UNKNOWN")
    client.head(path).is_(404)
    repo.blob()
    client.get(path).refuses(404, "BLOB_UNKNOWN")
    client.get(repo.path(f"blobs/{absent('sha512')}")).refuses(404, "BLOB_UNKNOWN")
    client.head(path).is_(404)


def test_a_blob_of_another_repository_is_absent(client: Client, repo: Repository, other: Repository) -> None:
    digest = other.blob()
    repo.blob()
    client.get(repo.path(f"blobs/{digest}")).refuses(404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:bad",
        "sha256:",
        "sha256:" + "g" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha512:" + "a" * 64,
        "sha256:" + "%C3%A1" * 64,
        "sha256:" + "a" * 64 + "%20",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "SHA256:" + "a" * 64,
        "sha256+b64:" + "a" * 64,
        ":" + "a" * 64,
    ],
)
def test_malformed_digests(client: Client, repo: Repository, digest: str) -> None:
    repo.blob()
    for method in ("GET", "DELETE"):
        client.request(method, repo.path(f"blobs/{digest}")).refuses(400, "DIGEST_INVALID")
    client.head(repo.path(f"blobs/{digest}")).is_(400)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("500-1499", 500, 1500),
        ("500-", 500, SIZE),
        ("-500", SIZE - 500, SIZE),
        ("2000-5000", 2000, SIZE),
        ("0-0", 0, 1),
        ("0-", 0, SIZE),
        ("0-2047", 0, SIZE),
        ("2047-2047", 2047, SIZE),
        ("-1", SIZE - 1, SIZE),
        ("-99999", 0, SIZE),
        ("2047-" + "9" * 40, 2047, SIZE),
    ],
)
def test_range(client: Client, blob: str, asked: str, start: int, stop: int) -> None:
    response = client.get(blob, {"Range": f"bytes={asked}"}).is_(206)
    assert response.header("Content-Range") == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.body == CONTENT[start:stop]
    check_fields(response, digest_of(CONTENT), stop - start)


@pytest.mark.parametrize("asked", ["500-0", "5000-10000", "2048-", "-0", "9" * 40 + "-", "2048-2048,4000-"])
def test_range_that_cannot_be_satisfied(client: Client, blob: str, asked: str) -> None:
    response = client.get(blob, {"Range": f"bytes={asked}"})
    response.refuses(416)
    assert response.header("Content-Range") == f"bytes */{SIZE}"
    assert client.get(blob).is_(200).body == CONTENT


@pytest.mark.parametrize(
    "value",
    ["bytes=abc", "bytes=", "bytes", "bytes=-", "bytes=1-2-3", "bytes=0x1-5", "bytes=1_0-2_0", "bytes=+1-5", "bytes=,"],
)
def test_range_that_is_none(client: Client, blob: str, value: str) -> None:
    # RFC 9110, 14.2: an invalid ranges-specifier may be ignored or refused.
    response = client.get(blob, {"Range": value})
    assert response.status in (200, 416), response
    assert response.status == 416 or response.body == CONTENT


def test_range_of_another_unit_is_ignored(client: Client, blob: str) -> None:
    # RFC 9110, 14.2: "MUST ignore a Range header field that contains a range unit it does not understand".
    assert client.get(blob, {"Range": "lines=0-5"}).is_(200).body == CONTENT


def test_range_means_nothing_to_head(client: Client, blob: str) -> None:
    # RFC 9110, 14.2: "GET is the only method for which range handling is defined".
    check_fields(client.head(blob, {"Range": "bytes=0-9"}).is_(200), digest_of(CONTENT), SIZE)


def test_range_of_the_empty_blob(client: Client, repo: Repository) -> None:
    path = repo.path(f"blobs/{repo.blob(b'')}")
    for asked in ("0-0", "0-", "-5"):
        response = client.get(path, {"Range": f"bytes={asked}"})
        assert response.status in (200, 416), response


def test_range_far_into_a_large_blob(client: Client, repo: Repository) -> None:
    content = random_bytes(4_000_000)
    path = repo.path(f"blobs/{repo.blob(content)}")
    assert client.get(path, {"Range": "bytes=3000001-"}).is_(206).body == content[3_000_001:]
    assert client.get(path, {"Range": "bytes=1-2999999"}).is_(206).body == content[1:3_000_000]


def parts_of(response: Response) -> list[tuple[int, int, bytes]]:
    """The parts of a multipart/byteranges answer, each with its first and last position."""
    match = re.fullmatch(r'multipart/byteranges; ?boundary="?([^"]+)"?', response.header("Content-Type"))
    assert match, response
    preamble, *sections, end = (b"\r\n" + response.body).split(b"\r\n--" + match[1].encode())
    assert preamble.strip() == b"" and end.strip() == b"--", response
    parts = []
    for section in sections:
        fields, content = section.removeprefix(b"\r\n").split(b"\r\n\r\n", 1)
        assert b"content-type: application/octet-stream" in fields.lower()
        place = re.search(rb"(?i)content-range: bytes (\d+)-(\d+)/2048(\r\n|$)", fields)
        assert place, fields
        parts.append((int(place[1]), int(place[2]), content))
    return parts


def test_several_ranges(client: Client, blob: str) -> None:
    response = client.get(blob, {"Range": "bytes=0-9,100-109, -10"}).is_(206)
    assert response.all("Content-Range") == []
    assert response.header("Docker-Content-Digest") == digest_of(CONTENT)
    expected = [(0, 9, CONTENT[:10]), (100, 109, CONTENT[100:110]), (2038, 2047, CONTENT[2038:])]
    assert parts_of(response) == expected


def test_several_ranges_of_a_large_blob(client: Client, repo: Repository) -> None:
    content = random_bytes(2048)
    path = repo.path(f"blobs/{repo.blob(content)}")
    asked = ",".join(f"{start}-{start + 9}" for start in range(0, 2000, 50))
    parts = parts_of(client.get(path, {"Range": f"bytes={asked}"}).is_(206))
    assert [(start, content[start : stop + 1]) for start, stop, _ in parts] == [
        (start, part) for start, _, part in parts
    ]
    assert [start for start, _, _ in parts] == list(range(0, 2000, 50))


def test_of_several_ranges_those_beyond_the_end_are_left_out(client: Client, blob: str) -> None:
    response = client.get(blob, {"Range": "bytes=5-9,5000-6000"}).is_(206)
    if response.header("Content-Type").startswith("multipart/"):
        assert parts_of(response) == [(5, 9, CONTENT[5:10])]
    else:
        assert response.header("Content-Range") == f"bytes 5-9/{SIZE}"
        assert response.body == CONTENT[5:10]


@pytest.mark.parametrize("asked", [",".join(["0-"] * 1000), ",".join(["0-2047"] * 300), ",".join(["0-0"] * 2000)])
def test_overlapping_ranges_do_not_multiply_the_answer(client: Client, blob: str, asked: str) -> None:
    # RFC 9110, 14.2: a server ought to ignore, coalesce, or reject egregious range requests.
    response = client.get(blob, {"Range": f"bytes={asked}"})
    assert response.status in (200, 206, 416, 400, 431), response
    assert len(response.body) < 4 * SIZE


@pytest.mark.parametrize("condition", ['"{0}"', "{0}", 'W/"{0}"', '"other", "{0}"', '"other","{0}" , "more"', "*"])
def test_if_none_match(client: Client, blob: str, condition: str) -> None:
    digest = digest_of(CONTENT)
    for method in ("GET", "HEAD"):
        response = client.request(method, blob, {"If-None-Match": condition.format(digest)}).is_(304)
        assert response.header("ETag") == f'"{digest}"'
    assert client.get(blob, {"If-None-Match": condition.format(digest), "Range": "bytes=0-9"}).status == 304


@pytest.mark.parametrize("condition", ['"other"', "other", '""', "", '"', "W/", ","])
def test_if_none_match_with_something_else(client: Client, blob: str, condition: str) -> None:
    assert client.get(blob, {"If-None-Match": condition}).is_(200).body == CONTENT


def test_if_range(client: Client, blob: str) -> None:
    part = {"Range": "bytes=0-9"}
    assert client.get(blob, {**part, "If-Range": f'"{digest_of(CONTENT)}"'}).is_(206).body == CONTENT[:10]
    # RFC 9110, 13.1.5: weak validators and dates that nothing is known of never match.
    for condition in ('"other"', f'W/"{digest_of(CONTENT)}"', "Sat, 29 Oct 1994 19:43:31 GMT"):
        assert client.get(blob, {**part, "If-Range": condition}).is_(200).body == CONTENT, condition


def test_a_reader_that_pauses_gets_all(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes(12_000_000)
    path = repo.path(f"blobs/{repo.blob(content)}")
    with Connection(daemon.address) as connection:
        connection.send(head("GET", path), head("GET", "/v2/"))
        time.sleep(0.3)
        assert connection.receive().is_(200).body == content
        assert connection.receive().is_(200).json() == {}


def test_readers_that_leave_disturb_nobody(daemon: Daemon, client: Client, repo: Repository) -> None:
    content = random_bytes(8_000_000)
    path = repo.path(f"blobs/{repo.blob(content)}")
    for received in (0, 1, 100_000, 2_000_000):
        with Connection(daemon.address) as connection:
            connection.send(head("GET", path))
            if received:
                connection.socket.recv(received)
    assert client.get(path).is_(200).body == content
