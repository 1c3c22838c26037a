"""Pulls have a way of their own through the front: what it answers is what the routes of everything else answer.

A path with a character that is percent-encoded, though it need not be, takes the other way.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from tests.daemon import Daemon

from .content import Pushed, Repository, absent, digest_of, random_bytes
from .wire import Client, Headers, Response

NAME = "routes/some-app"
VARYING = {"date"}


@attrs.frozen
class Held:
    """What the repository of these tests holds."""

    image: Pushed
    blob: str
    large: str


@pytest.fixture(scope="module")
def held(daemon: Daemon) -> Iterator[Held]:
    client = Client(daemon.address)
    repo = Repository(client, NAME)
    yield Held(repo.image("v1.0_a-b"), repo.blob(random_bytes(1000)), repo.blob(random_bytes(200_000)))
    client.close()


SHA512 = digest_of(b"nothing has this", "sha512")
PATHS = [
    "{name}/manifests/v1.0_a-b",
    "{name}/manifests/{image}",
    "{name}/manifests/none",
    "{name}/manifests/{blob}",
    "{name}/manifests/-v1",
    "{name}/manifests/" + "t" * 129,
    "{name}/manifests/sha256:bad",
    "{name}/manifests/sha256:" + "A" * 64,
    "{name}/manifests/md5:" + "0" * 32,
    "{name}/manifests/" + SHA512,
    "{name}/manifests/",
    "{name}/manifests/a/b",
    "{name}/manifests/v1.0_a-b/",
    "{name}/manifests/v1.0_a-b?ns=example.com",
    "{name}/blobs/{blob}",
    "{name}/blobs/{large}",
    "{name}/blobs/{image}",
    "{name}/blobs/{absent}",
    "{name}/blobs/{blob}?ns=example.com",
    "{name}/blobs/{blob}/",
    "{name}/blobs/sha256:bad",
    "{name}/blobs/md5:" + "0" * 32,
    "{name}/blobs/" + SHA512,
    "{name}/blobs/SHA256:" + "0" * 64,
    "{name}/blobs/sha256",
    "{name}/blobs/none",
    "{name}/blobs/uploads",
    "{name}/blobs/uploads/none",
    "nobody/here/manifests/latest",
    "nobody/here/blobs/{blob}",
    "UPPER/manifests/latest",
    "UPPER/blobs/{blob}",
    "a//b/manifests/latest",
    "/manifests/latest",
    "a/../b/manifests/latest",
    "-a/blobs/{blob}",
    "a/manifests/b/manifests/latest",
    "a/manifests/b/blobs/{blob}",
    "a/blobs/b/manifests/latest",
    "n" * 256 + "/manifests/latest",
    "_catalog/manifests/latest",
]

CONDITIONS = [
    pytest.param({"Range": "bytes=1-5"}, id="range"),
    pytest.param({"Range": "bytes=9999999-"}, id="beyond"),
    pytest.param({"Range": "bytes=7-,x"}, id="odd-range"),
    pytest.param({"If-None-Match": "*"}, id="known"),
    pytest.param({"Accept": "application/vnd.oci.image.index.v1+json"}, id="accept"),
    pytest.param({"Host": "a b"}, id="bad-host"),
]


def _seen(response: Response) -> tuple[int, str, list[tuple[str, str]], bytes]:
    fields = sorted((name, value) for name, value in response.fields if name.lower() not in VARYING)
    return response.status, response.reason, fields, response.body


def _encoded(path: str) -> Iterator[str]:
    """The path with one character percent-encoded: of the name, and the last one that is no separator."""
    bare, question, query = path.partition("?")
    places = {index for index, character in enumerate(bare) if character.isalnum()}
    for index in sorted({min(places), max(places)}):
        yield f"{bare[:index]}%{ord(bare[index]):02x}{bare[index + 1 :]}{question}{query}"


def _assert_alike(client: Client, path: str, headers: Headers) -> None:
    for method in ("GET", "HEAD"):
        plain = _seen(client.request(method, f"/v2/{path}", headers))
        for other in _encoded(path):
            assert _seen(client.request(method, f"/v2/{other}", headers)) == plain, (method, other)


def _filled(path: str, held: Held) -> str:
    return path.format(name=NAME, image=held.image.digest, blob=held.blob, large=held.large, absent=absent())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_both_ways_answer_alike(client: Client, held: Held, path: str) -> None:
    _assert_alike(client, _filled(path, held), {})


@pytest.mark.parametrize("headers", CONDITIONS)
@pytest.mark.parametrize("path", ["{name}/manifests/v1.0_a-b", "{name}/blobs/{blob}", "{name}/blobs/{large}"])
def test_both_ways_heed_the_same_fields(client: Client, held: Held, path: str, headers: dict[str, str]) -> None:
    _assert_alike(client, _filled(path, held), headers)
