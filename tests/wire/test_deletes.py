"""Deleting tags, manifests and blobs; registries where that, or any writing, is not allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon

from .conftest import check_undisturbed
from .content import OCI_MANIFEST, OCTETS, Pushed, Repository, absent, digest_of, encode, image, index, random_bytes
from .wire import Client, Response


def test_tag(client: Client, repo: Repository) -> None:
    pushed = repo.image("gone")
    repo.put("kept", pushed.content, OCI_MANIFEST).is_(201)
    client.delete(repo.path("manifests/gone")).is_(202)
    repo.get("gone").refuses(404, "MANIFEST_UNKNOWN")
    client.head(repo.path("manifests/gone")).is_(404)
    assert repo.tags() == ["kept"]
    assert repo.get(pushed.digest).is_(200).body == pushed.content
    client.delete(repo.path("manifests/gone")).refuses(404, "MANIFEST_UNKNOWN")


def test_last_tag(client: Client, repo: Repository) -> None:
    pushed = repo.image("only")
    client.delete(repo.path("manifests/only")).is_(202)
    assert repo.tags() == []
    assert repo.get(pushed.digest).is_(200).body == pushed.content
    repo.put("only", pushed.content, OCI_MANIFEST).is_(201)
    assert repo.tags() == ["only"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_manifest(client: Client, repo: Repository, algorithm: str) -> None:
    content = encode(image(repo.config(), repo.layer()))
    digest = digest_of(content, algorithm)
    repo.put(f"{digest}?tag=one&tag=two", content, OCI_MANIFEST).is_(201)
    kept = repo.image("kept")
    client.delete(repo.path(f"manifests/{digest}")).is_(202)
    for reference in (digest, "one", "two"):
        repo.get(reference).refuses(404, "MANIFEST_UNKNOWN")
        client.head(repo.path(f"manifests/{reference}")).is_(404)
    assert repo.tags() == ["kept"]
    assert repo.get("kept").is_(200).body == kept.content
    client.delete(repo.path(f"manifests/{digest}")).refuses(404, "MANIFEST_UNKNOWN")
    repo.put("one", content, OCI_MANIFEST).is_(201)
    assert repo.get("one").is_(200).body == content
    repo.get("two").is_(404)


def test_a_blob_that_is_not_the_one_that_the_client_means(client: Client, repo: Repository) -> None:
    digest = repo.blob(random_bytes(100))
    path = repo.path(f"blobs/{digest}")
    client.request("DELETE", path, {"If-Match": f'"{absent()}"'}).refuses(412, "PRECONDITION_FAILED")
    client.get(path).is_(200)
    client.request("DELETE", path, {"If-Match": f'"{digest}"'}).is_(202)


def test_a_tag_that_moved_on_outlives_its_former_manifest(client: Client, repo: Repository) -> None:
    former, current = repo.image("latest"), repo.image("latest")
    client.delete(repo.path(f"manifests/{former.digest}")).is_(202)
    assert repo.get("latest").is_(200).body == current.content
    repo.get(former.digest).is_(404)


def test_a_child_of_an_index(client: Client, repo: Repository) -> None:
    child = repo.image()
    parent = repo.push(index(child.descriptor()), "latest")
    client.delete(repo.path(f"manifests/{child.digest}")).is_(202)
    repo.get(child.digest).is_(404)
    assert repo.get("latest").is_(200).body == parent.content


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_blob(client: Client, repo: Repository, other: Repository, algorithm: str) -> None:
    content = random_bytes()
    digest = repo.blob(content, algorithm)
    other.blob(content, algorithm)
    client.delete(repo.path(f"blobs/{digest}")).is_(202)
    client.get(repo.path(f"blobs/{digest}")).refuses(404, "BLOB_UNKNOWN")
    client.head(repo.path(f"blobs/{digest}")).is_(404)
    client.delete(repo.path(f"blobs/{digest}")).refuses(404, "BLOB_UNKNOWN")
    assert client.get(other.path(f"blobs/{digest}")).is_(200).body == content
    repo.blob(content, algorithm)
    assert client.get(repo.path(f"blobs/{digest}")).is_(200).body == content


def test_what_is_not_there(client: Client, repo: Repository, other: Repository) -> None:
    for reference in ("manifests/latest", f"manifests/{absent()}", f"blobs/{absent()}"):
        client.delete(repo.path(reference)).refuses(404, "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN")
    elsewhere = other.image("latest")
    repo.image("here")
    client.delete(repo.path("manifests/latest")).refuses(404, "MANIFEST_UNKNOWN")
    client.delete(repo.path(f"manifests/{elsewhere.digest}")).refuses(404, "MANIFEST_UNKNOWN")
    client.delete(repo.path(f"blobs/{absent()}")).refuses(404, "BLOB_UNKNOWN")
    assert other.get("latest").is_(200).body == elsewhere.content


@pytest.mark.parametrize("tag", [".INVALID", "%2e%2e", "..%2f..", "..", "%00", "a" * 129, "%ff", "*"])
def test_invalid_tags(client: Client, repo: Repository, tag: str) -> None:
    pushed = repo.image("latest")
    client.delete(repo.path(f"manifests/{tag}")).refuses((400, 404))
    assert repo.tags() == ["latest"]
    assert repo.get("latest").is_(200).body == pushed.content


class Refusing:
    """A registry with content, whose current configuration refuses some of the writing."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client = Client(daemon.address)
        self.repo = Repository(self.client, "a/b")
        self.pushed: Pushed = self.repo.image("latest")
        self.digest = self.repo.blob(b"blob")
        self.upload = self.repo.start()

    def reconfigure(self, **changes: object) -> None:
        self.client.close()
        self.daemon.configure(**changes)
        self.daemon.restart()
        self.client = Client(self.daemon.address)
        self.repo = Repository(self.client, "a/b")

    def check_untouched(self) -> None:
        assert self.repo.get("latest").is_(200).body == self.pushed.content
        assert self.client.get(self.repo.path(f"blobs/{self.digest}")).is_(200).body == b"blob"
        assert self.repo.tags() == ["latest"]
        assert self.client.get("/v2/_catalog").json() == {"repositories": ["a/b"]}
        check_undisturbed(self.daemon)


def check_not_allowed(response: Response, method: str) -> None:
    response.refuses(405, "UNSUPPORTED")
    # RFC 9110, 15.5.6: "The origin server MUST generate an Allow header field in a 405 response".
    allow = {token.strip() for token in response.header("Allow").split(",")}
    assert method not in allow, response


@pytest.fixture(scope="class")
def without_delete() -> Iterator[Refusing]:
    with Daemon() as daemon:
        yield Refusing(daemon)


@pytest.fixture(scope="class")
def readonly() -> Iterator[Refusing]:
    with Daemon(storage={"delete": {"enabled": True}}) as daemon:
        registry = Refusing(daemon)
        registry.reconfigure(storage={"maintenance": {"readonly": {"enabled": True}}})
        yield registry


class TestWithoutDelete:
    def test_deletion_is_refused(self, without_delete: Refusing) -> None:
        for tail in ("manifests/latest", f"manifests/{without_delete.pushed.digest}", f"blobs/{without_delete.digest}"):
            check_not_allowed(without_delete.client.delete(without_delete.repo.path(tail)), "DELETE")
        without_delete.check_untouched()

    def test_uploads_can_be_cancelled(self, without_delete: Refusing) -> None:
        without_delete.client.delete(without_delete.repo.start()).is_(204)


class TestReadonly:
    @pytest.mark.parametrize(
        ("method", "tail"),
        [
            ("POST", "blobs/uploads/"),
            ("POST", f"blobs/uploads/?digest={digest_of(b'x')}"),
            ("PUT", "manifests/new"),
            ("DELETE", "manifests/latest"),
            ("DELETE", f"blobs/{digest_of(b'blob')}"),
        ],
    )
    def test_writing_is_refused(self, readonly: Refusing, method: str, tail: str) -> None:
        body = None if method == "DELETE" else b"x"
        check_not_allowed(readonly.client.request(method, readonly.repo.path(tail), OCTETS, body), method)
        readonly.check_untouched()

    @pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
    def test_uploads_cannot_go_on(self, readonly: Refusing, method: str) -> None:
        target = f"{readonly.upload}?digest={digest_of(b'')}"
        check_not_allowed(readonly.client.request(method, target, body=b""), method)
        readonly.check_untouched()

    def test_nothing_was_written(self, readonly: Refusing) -> None:
        readonly.repo.get("new").refuses(404, "MANIFEST_UNKNOWN")
        assert not readonly.repo.holds(digest_of(b"x"))
