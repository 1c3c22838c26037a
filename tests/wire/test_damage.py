"""Trees that a crash, a bad disk or a careless hand has damaged: the item is gone, everything else is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from tests.daemon import Daemon

from .content import (
    OCI_EMPTY,
    OCI_MANIFEST,
    OCTETS,
    Document,
    Pushed,
    Repository,
    absent,
    descriptor,
    digest_of,
    encode,
    image,
    index,
    random_bytes,
    with_query,
)
from .trees import LAYERS, REVISIONS, data_of, home, link_of, tag_of
from .wire import Client

GARBLED = [
    b"",
    b"garbled",
    b"sha256:",
    b"\0" * 71,
    b"\xff\xfe",
    b"sha256:" + b"A" * 64,
    b"../../../../etc/passwd",
    b"sha256:" + b"a" * 200,
    b"sha256:" + b"a" * 64,
]


def encoded(digest: str) -> str:
    return digest.partition(":")[2]


@contextmanager
def logged(daemon: Daemon, pattern: str) -> Iterator[None]:
    """Assert that an error is logged meanwhile that names something."""
    position = len(daemon.err)
    yield
    line = daemon.err.wait_for(rf"(?m)^.*(?i:err).*(?:{pattern}).*$", position, timeout=5)[0]
    assert "Traceback" not in line


def check_alive(repo: Repository, kept: Pushed, *gone: str) -> None:
    """What is beside the damaged item is served and listed."""
    assert repo.get("kept").is_(200).body == kept.content
    assert repo.get(kept.digest).is_(200).body == kept.content
    tags = repo.tags()
    assert "kept" in tags and set(tags) <= {"kept", *gone}
    names: list[str] = []
    while True:
        page = repo.client.get(f"/v2/_catalog?n=100&last={names[-1] if names else ''}").is_(200)
        names += page.json()["repositories"]
        if not page.all("Link"):
            break
    assert repo.name in names
    repo.client.get("/v1/search?q=").is_(200)


@pytest.mark.parametrize("content", GARBLED[:-1], ids=ascii)
def test_tag_link(daemon: Daemon, client: Client, repo: Repository, content: bytes) -> None:
    kept, pushed = repo.image("kept"), repo.image("broken")
    tag_of(daemon, repo.name, "broken").write_bytes(content)
    with logged(daemon, "broken"):
        repo.get("broken").refuses(404, "MANIFEST_UNKNOWN")
    client.head(repo.path("manifests/broken")).is_(404)
    assert repo.get(pushed.digest).is_(200).body == pushed.content
    check_alive(repo, kept, "broken")
    repo.put("broken", pushed.content, OCI_MANIFEST).is_(201)
    assert repo.get("broken").is_(200).body == pushed.content


def test_a_broken_tag_can_be_deleted(daemon: Daemon, client: Client, repo: Repository) -> None:
    kept = repo.image("kept")
    repo.image("broken")
    tag_of(daemon, repo.name, "broken").write_bytes(b"")
    assert client.delete(repo.path("manifests/broken")).status in (202, 404)
    client.delete(repo.path(f"manifests/{absent()}")).refuses(404)
    check_alive(repo, kept, "broken")


def test_a_broken_tag_does_not_keep_a_manifest_from_deletion(daemon: Daemon, client: Client, repo: Repository) -> None:
    kept = repo.image("kept")
    pushed = repo.image("gone")
    repo.image("broken")
    tag_of(daemon, repo.name, "broken").write_bytes(b"garbled")
    client.delete(repo.path(f"manifests/{pushed.digest}")).is_(202)
    repo.get("gone").refuses(404, "MANIFEST_UNKNOWN")
    check_alive(repo, kept, "broken")


@pytest.mark.parametrize("how", ["dangling", "no link", "no current", "a folder", "a file"])
def test_tag_that_leads_nowhere(daemon: Daemon, repo: Repository, how: str) -> None:
    kept = repo.image("kept")
    repo.image("broken")
    link = tag_of(daemon, repo.name, "broken")
    if how == "dangling":
        link.write_text(absent())
    elif how == "no link":
        link.unlink()
    elif how == "no current":
        shutil.rmtree(link.parent)
    elif how == "a folder":
        link.unlink()
        link.mkdir()
    else:
        shutil.rmtree(link.parent.parent)
        link.parent.parent.write_bytes(b"")
    with logged(daemon, "broken") if how == "dangling" else nullcontext():
        repo.get("broken").refuses(404, "MANIFEST_UNKNOWN")
    check_alive(repo, kept, "broken")


@pytest.mark.parametrize("content", GARBLED, ids=ascii)
def test_revision_link(daemon: Daemon, client: Client, repo: Repository, content: bytes) -> None:
    kept, pushed = repo.image("kept"), repo.image("broken")
    link_of(daemon, repo.name, REVISIONS, pushed.digest).write_bytes(content)
    with logged(daemon, encoded(pushed.digest)):
        repo.get(pushed.digest).refuses(404, "MANIFEST_UNKNOWN")
    repo.get("broken").refuses(404, "MANIFEST_UNKNOWN")
    client.head(repo.path("manifests/broken")).is_(404)
    check_alive(repo, kept, "broken")
    repo.put("broken", pushed.content, OCI_MANIFEST).is_(201)
    assert repo.get(pushed.digest).is_(200).body == pushed.content


@pytest.mark.parametrize("content", GARBLED, ids=ascii)
def test_layer_link(daemon: Daemon, client: Client, repo: Repository, content: bytes) -> None:
    kept = repo.image("kept")
    body = random_bytes()
    digest = repo.blob(body)
    link_of(daemon, repo.name, LAYERS, digest).write_bytes(content)
    with logged(daemon, f"{encoded(digest)}|{'a' * 64}"):
        client.get(repo.path(f"blobs/{digest}")).refuses(404, "BLOB_UNKNOWN")
    client.head(repo.path(f"blobs/{digest}")).is_(404)
    check_alive(repo, kept)
    manifest = encode(image(descriptor(body, OCI_EMPTY)))
    repo.put("new", manifest, OCI_MANIFEST).refuses(400, "MANIFEST_BLOB_UNKNOWN")
    repo.blob(body)
    assert client.get(repo.path(f"blobs/{digest}")).is_(200).body == body


def test_blob_behind_a_link(daemon: Daemon, client: Client, repo: Repository, other: Repository) -> None:
    kept = repo.image("kept")
    body = random_bytes()
    digest = repo.blob(body)
    data_of(daemon, digest).unlink()
    with logged(daemon, encoded(digest)):
        client.get(repo.path(f"blobs/{digest}")).refuses(404, "BLOB_UNKNOWN")
    client.head(repo.path(f"blobs/{digest}")).is_(404)
    client.get(repo.path(f"blobs/{digest}"), {"Range": "bytes=0-9"}).refuses(404, "BLOB_UNKNOWN")
    client.get(repo.path(f"blobs/{digest}"), {"If-None-Match": f'"{digest}"'}).refuses(404, "BLOB_UNKNOWN")
    client.post(other.path(f"blobs/uploads/?mount={digest}&from={repo.name}")).is_(202)
    manifest = encode(image(descriptor(body, OCI_EMPTY)))
    repo.put("new", manifest, OCI_MANIFEST).refuses(400, "MANIFEST_BLOB_UNKNOWN")
    check_alive(repo, kept)
    repo.blob(body)
    assert client.get(repo.path(f"blobs/{digest}")).is_(200).body == body


def test_blob_that_is_empty(daemon: Daemon, client: Client, repo: Repository) -> None:
    body = random_bytes()
    digest = repo.blob(body)
    data_of(daemon, digest).write_bytes(b"")
    with logged(daemon, encoded(digest)):
        client.get(repo.path(f"blobs/{digest}")).refuses(404, "BLOB_UNKNOWN")
    client.head(repo.path(f"blobs/{digest}")).is_(404)
    repo.blob(body)
    assert client.get(repo.path(f"blobs/{digest}")).is_(200).body == body


def test_a_link_to_another_blob(daemon: Daemon, client: Client, repo: Repository) -> None:
    """Only a link of another algorithm is an alias; what a digest names is never something else."""
    first, second = repo.blob(), repo.blob()
    link_of(daemon, repo.name, LAYERS, first).write_text(second)
    client.get(repo.path(f"blobs/{first}")).refuses(404, "BLOB_UNKNOWN")
    kept, pushed = repo.image("kept"), repo.image()
    link_of(daemon, repo.name, REVISIONS, pushed.digest).write_text(kept.digest)
    repo.get(pushed.digest).refuses(404, "MANIFEST_UNKNOWN")
    check_alive(repo, kept)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"{}", b"cut"], ids=str)
def test_bytes_of_a_manifest(daemon: Daemon, client: Client, repo: Repository, content: bytes | None) -> None:
    kept, pushed = repo.image("kept"), repo.image("broken")
    if content is None:
        data_of(daemon, pushed.digest).unlink()
    else:
        data_of(daemon, pushed.digest).write_bytes(pushed.content[:50] if content == b"cut" else content)
    with logged(daemon, encoded(pushed.digest)):
        repo.get("broken").refuses(404, "MANIFEST_UNKNOWN")
    repo.get(pushed.digest).refuses(404, "MANIFEST_UNKNOWN")
    check_alive(repo, kept, "broken")
    repo.put("broken", pushed.content, OCI_MANIFEST).is_(201)
    assert repo.get("broken").is_(200).body == pushed.content


def test_child_of_a_list(daemon: Daemon, repo: Repository) -> None:
    child = repo.image()
    parent = repo.push(index(child.descriptor()), "latest")
    data_of(daemon, child.digest).unlink()
    assert repo.get("latest").is_(200).body == parent.content
    repo.get(child.digest).refuses(404, "MANIFEST_UNKNOWN")
    again = encode(index(child.descriptor(), annotations={"again": "1"}))
    repo.put("again", again, parent.media_type).refuses(400, "MANIFEST_BLOB_UNKNOWN")


@pytest.mark.parametrize("how", ["data", "revision", "entry"])
def test_referrers(daemon: Daemon, client: Client, repo: Repository, how: str) -> None:
    subject = repo.image("kept")
    repo.blob(b"{}")
    of: Document = {"subject": subject.descriptor()}
    broken = repo.push(image(descriptor(b"{}", OCI_EMPTY), artifactType="a/b", **of))
    good = repo.push(image(descriptor(b"{}", OCI_EMPTY), artifactType="c/d", **of))
    if how == "data":
        data_of(daemon, broken.digest).unlink()
    elif how == "revision":
        link_of(daemon, repo.name, REVISIONS, broken.digest).write_bytes(b"")
    else:
        for link in (daemon.tree / "repositories" / repo.name / "_manifests").rglob("link"):
            if "referrers" in link.parts and encoded(broken.digest) in link.parts:
                link.write_bytes(b"garbled")
    found = client.get(repo.path(f"referrers/{subject.digest}")).is_(200).json()["manifests"]
    digests = [each["digest"] for each in found]
    assert good.digest in digests
    assert how == "entry" or digests == [good.digest]
    check_alive(repo, subject)


def test_strange_names_in_the_tree(daemon: Daemon, client: Client, repo: Repository) -> None:
    kept = repo.image("kept")
    here = home(daemon, repo.name)
    for folder in (
        daemon.tree / "repositories" / "UPPER" / "_manifests" / "tags" / "x",
        daemon.tree / "repositories" / "lost+found",
        here / "_manifests" / "tags" / ".hidden",
        here / "_manifests" / "tags" / "emp ty",
        here / "_manifests" / "revisions" / "md5" / "x",
        here / "_manifests" / "revisions" / "sha256" / "short",
        here / "_layers" / "sha256" / "short",
        here / "_uploads" / "not-a-uuid",
        here / "_unknown",
        here / "Child" / "_manifests",
    ):
        folder.mkdir(parents=True)
    for file in (
        daemon.tree / "repositories" / "file",
        here / "_manifests" / "tags" / "file.tmp",
        here / "_manifests" / "tags" / "kept" / "current" / "link.1234.tmp",
        here / "_manifests" / "revisions" / "sha256" / "file",
        here / "file",
    ):
        file.write_bytes(b"x")
    check_alive(repo, kept, "file.tmp")
    for tag in ("file.tmp", ".hidden"):
        repo.get(tag).refuses(404)
    client.get("/v2/UPPER/tags/list").refuses((400, 404))
    client.get(repo.path("blobs/uploads/not-a-uuid")).refuses(404, "BLOB_UPLOAD_UNKNOWN")


def test_a_folder_that_contains_itself(daemon: Daemon, repo: Repository) -> None:
    kept = repo.image("kept")
    loop = daemon.tree / "repositories" / repo.name / "loop"
    loop.symlink_to(loop.parent, target_is_directory=True)
    try:
        check_alive(repo, kept)
    finally:
        loop.unlink()


@pytest.mark.parametrize("missing", ["data", "startedat", "both", "folder"])
def test_uploads(daemon: Daemon, client: Client, repo: Repository, missing: str) -> None:
    location = client.patch(repo.start(), OCTETS, b"12345").is_(202).location
    folder = home(daemon, repo.name) / "_uploads" / location.rsplit("/", 1)[1]
    if missing == "folder":
        shutil.rmtree(folder)
    for name in ("data", "startedat"):
        if missing in (name, "both"):
            (folder / name).unlink()
    responses = [
        client.get(location),
        client.patch(location, OCTETS, b"6"),
        client.put(with_query(location, f"digest={digest_of(b'123456')}")),
        client.delete(location),
    ]
    if missing == "startedat":
        assert [response.status for response in responses] == [204, 202, 201, 404]
    for response in responses:
        assert response.status < 500, response
    if missing == "folder":
        assert [response.status for response in responses] == [404] * 4
