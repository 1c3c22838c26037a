"""Repository names: those that are none, wherever they appear, and what they must never do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon

from .content import OCI_INDEX, OCTETS, Repository, digest_of, encode, index
from .wire import Client

INVALID = [
    "UPPER",
    "a/B",
    "-a",
    "a-",
    "_a",
    "a_",
    ".a",
    "a.",
    "a..b",
    "a___b",
    "a._b",
    "a//b",
    "/a",
    "a/",
    "a/../b",
    "..",
    "../..",
    "a/..",
    "./a",
    "a/.",
    "%2e%2e",
    "%2e%2e/a",
    "a/%2e%2e/b",
    "a/%2e%2e%2f%2e%2e",
    "..%2f..%2f..%2ftmp",
    "%2e%2e%5c",
    "%252e%252e",
    "%2f",
    "%2fetc",
    "a%2f%2fb",
    "a%2f..%2fb",
    "%00",
    "a%00",
    "a%00/b",
    "a%0ab",
    "a%0d%0ab",
    "a%20b",
    "%20",
    "a+b",
    "a:5000/b",
    "a@b",
    "a~b",
    "a\\b",
    "..\\..",
    "%C3%A9",
    "%ff",
    "%ff%fe/a",
    "%C0%AF",
    "%F0%9F%98%80",
    "%D9%A3",
    "a" * 256,
    "/".join(["a"] * 200),
    "a/_layers",
    "a/_manifests/tags",
    "_uploads",
    "%5f%75ploads",
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose store lies deep in a folder of its own, so that what climbs out of it stays to be seen."""
    folder = tmp_path_factory.mktemp("names")
    root = folder / "one" / "two" / "three" / "four" / "five" / "store"
    with Daemon(root=root, storage={"delete": {"enabled": True}}) as running:
        yield running
        outside = [path for path in files_below(folder) if not path.is_relative_to(root)]
        assert outside == []
        assert set(os.listdir(running.folder)) == {"config-0.yml"}
        for path in files_below(running.tree / "repositories"):
            assert path.relative_to(running.tree / "repositories").parts[0] == "t", path


def files_below(folder: Path) -> list[Path]:
    return [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]


EVERYWHERE = [
    ("GET", "tags/list"),
    ("GET", "manifests/latest"),
    ("HEAD", "manifests/latest"),
    ("GET", f"blobs/{digest_of(b'')}"),
    ("HEAD", f"blobs/{digest_of(b'')}"),
    ("GET", f"referrers/{digest_of(b'')}"),
    ("GET", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
    ("POST", "blobs/uploads/"),
    ("POST", f"blobs/uploads/?digest={digest_of(b'{}')}"),
    ("PATCH", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
    ("PUT", "manifests/latest"),
    ("DELETE", "manifests/latest"),
]


@pytest.mark.parametrize("name", INVALID, ids=lambda name: ascii(name[:30]))
def test_invalid_names(client: Client, name: str) -> None:
    wrong = []
    for method, tail in EVERYWHERE:
        manifest = tail.startswith("manifests")
        headers = {"Content-Type": OCI_INDEX} if manifest else OCTETS
        body = encode(index()) if manifest else b"{}"
        if method not in ("POST", "PATCH", "PUT"):
            response = client.request(method, f"/v2/{name}/{tail}")
        else:
            response = client.request(method, f"/v2/{name}/{tail}", headers, body)
        codes = ["NAME_INVALID"] if method == "HEAD" else [entry["code"] for entry in response.errors]
        if response.status != 404 and (response.status, codes) != (400, ["NAME_INVALID"]):
            wrong.append((method, tail, response))
    assert wrong == []


@pytest.mark.parametrize(
    "name",
    ["0", "a", "a.b", "a_b", "a__b", "a-b", "a--b", "a-----b", "0/1/2", "a.b/c_d/e--f", "x" * 200, "a/" * 100 + "a"],
    ids=lambda name: name[:20],
)
def test_valid_names(client: Client, name: str) -> None:
    repository = Repository(client, f"t/{name}")
    pushed = repository.image("latest")
    assert repository.get("latest").is_(200).body == pushed.content
    assert client.get(repository.path("tags/list")).is_(200).json()["name"] == f"t/{name}"


def test_the_longest_name(client: Client) -> None:
    Repository(client, "t/" + "a" * 253).image("latest")
    client.post(f"/v2/t/{'a' * 254}/blobs/uploads/").refuses((400, 404))


def test_a_name_in_percent_encoding(client: Client) -> None:
    Repository(client, "t/encoded").image("latest")
    # RFC 3986, 6.2.2.2: percent-encoded unreserved characters are equivalent to the characters.
    assert client.get("/v2/t/%65ncoded/tags/list").is_(200).json()["name"] == "t/encoded"
    assert client.get("/v2/t/encoded/manifests/%6catest").is_(200)
    assert client.get(f"/v2/t/encoded/blobs/{digest_of(b'none').replace(':', '%3A')}").status == 404


def test_the_digest_may_be_percent_encoded(client: Client) -> None:
    repository = Repository(client, "t/colon")
    digest = repository.blob(b"colon").replace(":", "%3A")
    assert client.get(repository.path(f"blobs/{digest}")).is_(200).body == b"colon"
    content = b"another"
    target = f"{repository.start()}?digest={digest_of(content).replace(':', '%3A')}"
    client.put(target, OCTETS, content).is_(201)
