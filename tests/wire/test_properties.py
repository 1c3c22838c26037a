"""Whatever is sent, nothing breaks, nothing escapes, and the next request is answered."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.daemon import Daemon

from .conftest import check_undisturbed
from .content import (
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTETS,
    Repository,
    absent,
    descriptor,
    digest_of,
    encode,
    image,
    settled,
    with_query,
)
from .wire import Client, Connection, Response, chunked, head

CONTENT = bytes(range(256)) * 8
numbering = itertools.count()

bounded = settings(
    max_examples=70,
    deadline=None,
    database=None,
    # An example that fails by a timeout takes seconds; shrinking it would take minutes.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose store lies deep in a folder of its own, so that what climbs out of it stays to be seen."""
    folder = tmp_path_factory.mktemp("properties")
    root = folder / "1" / "2" / "3" / "4" / "5" / "6" / "store"
    with Daemon(root=root, storage={"delete": {"enabled": True}}) as running:
        client = Client(running.address)
        target = Repository(client, "t")
        target.blob(b"{}")
        target.blob(CONTENT)
        target.put("latest", encode(image(descriptor(b"{}", OCI_EMPTY))), OCI_MANIFEST).is_(201)
        client.close()
        yield running
        check_undisturbed(running)
        check_confined(running, folder, root)


def check_confined(daemon: Daemon, folder: Path, root: Path) -> None:
    """No file lies outside the tree, and the tree has no folder that is none of its own."""
    for parent, _, names in os.walk(folder):
        if names:
            assert Path(parent).is_relative_to(root), (parent, names)
    assert set(os.listdir(daemon.folder)) == {"config-0.yml"}
    assert set(os.listdir(root / "docker" / "registry" / "v2")) <= {"blobs", "repositories"}
    assert set(os.listdir(daemon.tree / "blobs")) <= {"sha256", "sha512"}


raw_segments = st.binary(min_size=1, max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte not in b" \r\n?#") or b"x"
)
encoded_segments = st.binary(min_size=1, max_size=20).map(lambda raw: b"".join(b"%%%02x" % byte for byte in raw))
mischief = st.sampled_from(
    [
        b"..",
        b".",
        b"%2e%2e",
        b"%2f",
        b"%00",
        b"%",
        b"%zz",
        b"\\",
        b"_uploads",
        b"_layers",
        b"sha256:",
        b"blobs",
        b"uploads",
        b"manifests",
        b"tags",
        b"list",
        b"referrers",
        b"t",
        b"latest",
        b"",
        digest_of(b"{}").encode(),
        absent("sha512").encode(),
        "\N{SNOWMAN}".encode(),
        b"\xff",
    ]
)
segments = st.one_of(raw_segments, encoded_segments, mischief)
paths = st.lists(segments, max_size=7).map(lambda parts: b"/v2/" + b"/".join(parts))
values = st.one_of(
    segments,
    st.integers(-(10**20), 10**20).map(lambda n: str(n).encode()),
    st.text(max_size=20).map(lambda t: t.encode()),
)
queries = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"n",
                b"last",
                b"digest",
                b"digest-algorithm",
                b"mount",
                b"from",
                b"tag",
                b"artifactType",
                b"_state",
                b"ns",
                b"q",
                b"page",
            ]
        ),
        values,
    ),
    max_size=4,
).map(lambda pairs: b"&".join(b"%s=%s" % (key, value.replace(b" ", b"+")) for key, value in pairs))
field_values = st.binary(max_size=60).map(lambda raw: bytes(byte for byte in raw if byte not in b"\r\n\0"))
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])


def ask(daemon: Daemon, method: str, target: bytes, headers: dict[str, bytes], body: bytes) -> Response:
    """The answer to a request on a connection of its own, which afterwards works or was closed as announced."""
    target = b"".join(byte.to_bytes(1, "big") for byte in target if byte > 0x20)
    with Connection(daemon.address) as connection:
        fields = [("Content-Length", str(len(body)).encode()), *headers.items()]
        connection.send(head(method, target, fields), body)
        response = connection.receive(method)
        assert response.status < 500, response
        if method != "HEAD" and response.status >= 400 and response.body:
            assert response.errors
        if response.closing:
            assert connection.ends() == b""
        else:
            assert connection.exchange("GET", "/v2/").is_(200).json() == {}
        return response


@bounded
@given(methods, paths, queries, st.binary(max_size=30))
@example("PUT", b"/v2/..%2f..%2f..%2f..%2fx/manifests/latest", b"", b"{}")
@example("POST", b"/v2/t/blobs/uploads/", b"mount=%00&from=..", b"")
def test_any_path_and_query(daemon: Daemon, method: str, path: bytes, query: bytes, body: bytes) -> None:
    if path.startswith(b"/v2/t/") and method == "DELETE":
        method = "GET"
    ask(daemon, method, path + b"?" + query if query else path, {}, body)


@bounded
@given(
    st.sampled_from(["manifests", "blobs", "blobs/uploads", "referrers", "tags"]),
    methods,
    segments,
    queries,
    st.binary(max_size=30),
)
def test_any_reference(daemon: Daemon, kind: str, method: str, reference: bytes, query: bytes, body: bytes) -> None:
    ask(daemon, method, b"/v2/other/" + kind.encode() + b"/" + reference + b"?" + query, {}, body)


numbers = st.one_of(st.integers(0, 3000).map(str), st.sampled_from(["", "-1", "x", "1e3", "٣", "0x1", " ", "9" * 30]))
ranges = st.lists(st.tuples(numbers, st.sampled_from(["-", "", "--", ":"]), numbers).map("".join), max_size=6)
range_values = st.one_of(
    st.tuples(st.sampled_from(["bytes=", "bytes ", "Bytes=", "", "bytes", "items="]), ranges.map(",".join)).map(
        "".join
    ),
)


@bounded
@given(st.one_of(range_values.map(str.encode), field_values), st.one_of(st.none(), field_values))
def test_any_range(daemon: Daemon, value: bytes, if_range: bytes | None) -> None:
    headers = {"Range": value} if if_range is None else {"Range": value, "If-Range": if_range}
    response = ask(daemon, "GET", f"/v2/t/blobs/{digest_of(CONTENT)}".encode(), headers, b"")
    assert response.status in (200, 206, 416, 400), response
    if response.status == 200:
        assert response.body == CONTENT
    elif response.status == 206 and response.all("Content-Range"):
        first, last = response.header("Content-Range").removeprefix("bytes ").split("/")[0].split("-")
        assert response.body == CONTENT[int(first) : int(last) + 1]


@bounded
@given(
    st.sampled_from(
        ["Accept", "If-None-Match", "If-Range", "Content-Type", "Host", "X-Forwarded-Host", "X-Forwarded-Proto"]
    ),
    field_values,
)
def test_any_header(daemon: Daemon, name: str, value: bytes) -> None:
    for target in (b"/v2/t/manifests/latest", f"/v2/t/blobs/{digest_of(CONTENT)}".encode()):
        with Connection(daemon.address) as connection:
            connection.send(head("GET", target, {name: value}))
            assert connection.receive().status in (200, 304, 400)


@bounded
@given(st.one_of(st.tuples(numbers, st.just("-"), numbers).map("".join).map(str.encode), field_values), st.booleans())
def test_any_content_range(daemon: Daemon, value: bytes, streamed: bool) -> None:
    client = Client(daemon.address)
    repo = Repository(client, "t")
    location = repo.client.patch(repo.start(), OCTETS, b"01234").is_(202).location
    fields: list[tuple[str, str | bytes]] = [("Content-Range", value)]
    if streamed:
        fields.append(("Transfer-Encoding", "chunked"))
    response = client.patch(location, fields, chunked(b"56789") if streamed else b"56789")
    assert response.status in (202, 400, 416), response
    held = client.get(location).is_(204).header("Range")
    assert held == ("0-9" if response.status == 202 else "0-4")
    # A blank value is none: a chunk without Content-Range goes to the end.
    assert response.status != 202 or value.strip(b" \t") in (b"", b"5-9")
    client.delete(location).is_(204)
    client.close()


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.just(digest_of(b"{}"))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
        "artifactType",
        "urls",
        "size",
        "digest",
    ]
)
documents = st.builds(
    lambda base, changes: {**base, **changes},
    st.sampled_from(
        [image(descriptor(b"{}", OCI_EMPTY)), {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}]
    ),
    st.dictionaries(keys, json_values, max_size=3),
)
types = st.one_of(
    st.sampled_from(
        [OCI_MANIFEST, OCI_INDEX, "application/json", "application/vnd.docker.distribution.manifest.v1+json", "x/y"]
    ).map(str.encode),
    field_values,
)


@bounded
@given(
    st.one_of(documents.map(encode), json_values.map(lambda value: encode({"": value})), st.binary(max_size=60)), types
)
def test_any_manifest(daemon: Daemon, content: bytes, media_type: bytes) -> None:
    repository = f"/v2/any/{next(numbering)}".encode()
    target = repository + b"/manifests/" + digest_of(content).encode()
    response = ask(daemon, "PUT", target, {"Content-Type": media_type}, content)
    served = ask(daemon, "GET", target, {}, b"")
    if response.status == 201:
        assert served.is_(200).body == content
    else:
        served.is_(404)
    ask(daemon, "GET", repository + b"/referrers/" + digest_of(b"{}").encode(), {}, b"").is_(200)


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_at_all(daemon: Daemon, sent: bytes) -> None:
    with Connection(daemon.address) as connection:
        try:
            connection.send(sent)
            connection.finish()
        except ConnectionError:
            pass
        for response in connection.answers():
            assert response.status < 500 or response.status in (501, 505), response


@bounded
@given(st.binary(max_size=200))
def test_any_bytes_as_chunks(daemon: Daemon, sent: bytes) -> None:
    client = Client(daemon.address)
    location = Repository(client, "t").start()
    with Connection(daemon.address) as connection:
        try:
            connection.send(head("PATCH", location, {"Transfer-Encoding": "chunked"}), sent)
            connection.finish()
        except ConnectionError:
            pass
        assert all(response.status < 500 or response.status == 501 for response in connection.answers("PATCH"))
    settled(lambda: client.delete(location)).is_(204)
    client.close()


parts = st.lists(
    st.tuples(st.integers(0, 700), st.sampled_from(["plain", "range", "stream", "stream range"])), max_size=6
)


@bounded
@given(st.binary(min_size=1, max_size=2000), parts, st.booleans(), st.sampled_from(["sha256", "sha512"]), st.data())
def test_any_cut_of_an_upload_is_the_same_blob(
    daemon: Daemon,
    content: bytes,
    cuts: list[tuple[int, str]],
    last_with_put: bool,
    algorithm: str,
    data: st.DataObject,
) -> None:
    client = Client(daemon.address)
    repo = Repository(client, "cut")
    location, position = repo.start(), 0
    remaining = [*cuts] if last_with_put else [*cuts, (len(content), "range")]
    for size, way in remaining:
        part = content[position : position + size]
        fields = dict(OCTETS)
        if "range" in way and part:
            fields["Content-Range"] = f"{position}-{position + len(part) - 1}"
        body = part
        if "stream" in way:
            fields["Transfer-Encoding"] = "chunked"
            cut = data.draw(st.integers(0, len(part)))
            body = chunked(part[:cut], part[cut:])
        response = client.patch(location, fields, body).is_(202)
        position += len(part)
        assert response.header("Range") == f"0-{max(position - 1, 0)}"
        location = response.location
    digest = digest_of(content, algorithm)
    client.put(with_query(location, f"digest={digest}"), OCTETS, content[position:]).is_(201)
    assert client.get(repo.path(f"blobs/{digest}")).is_(200).body == content
    client.delete(repo.path(f"blobs/{digest}")).is_(202)
    client.close()
