"""Two daemons, one of which mirrors the other: names on their way from the configuration to the tree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon

from .content import Pushed, Repository, absent
from .endings import paths_in_access_log
from .wire import Client, link_of

ALPINE = "library/alpine"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture(scope="module")
def alpine(upstream: Daemon) -> Iterator[Pushed]:
    client = Client(upstream.address)
    repository = Repository(client, ALPINE)
    image = repository.image("latest")
    repository.put("v1", image.content, image.media_type)
    yield image
    client.close()


@pytest.fixture(scope="module")
def daemon(upstream: Daemon) -> Iterator[Daemon]:
    proxy = {
        "upstreams": {"docker.io": {"remoteurl": upstream.url}},
        "default": "docker.io",
        "private": ["t/**"],
        "freshness": "0s",
        "self": "me:5000",
    }
    with Daemon(proxy=proxy) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "ns"),
    [
        ("/v2/library/alpine", ""),
        ("/v2/alpine", ""),
        ("/v2/docker.io/alpine", ""),
        ("/docker.io/v2/alpine", ""),
        ("/v2/library/alpine", "registry-1.docker.io"),
        ("/docker.io/v2/docker.io/library/alpine", "docker.io"),
    ],
)
def test_mirrored(client: Client, alpine: Pushed, path: str, ns: str) -> None:
    query = f"?ns={ns}" if ns else ""
    answer = client.get(f"{path}/manifests/latest{query}").is_(200)
    assert (answer.body, answer.all("OCI-Namespace")) == (alpine.content, [ns] if ns else [])
    tags = client.get(f"{path}/tags/list?n=1{query.replace('?', '&')}").is_(200)
    assert tags.json() == {"name": path.partition("/v2/")[2], "tags": ["latest"]}
    following = link_of(tags)
    assert following is not None and client.get(following).is_(200).json()["tags"] == ["v1"]


def test_where_it_lies(daemon: Daemon, client: Client, alpine: Pushed) -> None:
    client.get("/v2/alpine/manifests/latest").is_(200)
    assert [path.name for path in (daemon.tree / "repositories").iterdir() if path.name != "t"] == ["docker.io"]
    assert (daemon.tree / "repositories/docker.io/library/alpine/_mirror/upstream").exists()


def test_private(repo: Repository, upstream: Daemon) -> None:
    image = repo.image("v1")
    assert repo.get("v1").is_(200).body == image.content
    repo.get("v1?ns=me:5000").is_(200)
    repo.get("v1?ns=quay.io").refuses(404, "NAME_UNKNOWN")
    repo.get("v1?ns=docker.io").refuses(404)
    repo.get("none").refuses(404, "MANIFEST_UNKNOWN")
    repo.client.get(f"/v2/{repo.name}/tags/list").is_(200)
    asked = paths_in_access_log(upstream)
    assert f"/v2/{repo.name}/manifests/v1" in asked  # As docker.io's.
    assert f"/v2/{repo.name}/manifests/none" not in asked
    assert f"/v2/{repo.name}/tags/list" not in asked


def test_mirrored_names_are_read_only(client: Client, alpine: Pushed) -> None:
    for name in ("alpine", "docker.io/t/new", "new"):
        client.post(f"/v2/{name}/blobs/uploads/").refuses(405, "UNSUPPORTED")
        client.put(f"/v2/{name}/manifests/v2", {}, alpine.content).refuses(405, "UNSUPPORTED")
        client.delete(f"/v2/{name}/manifests/latest").refuses(405, "UNSUPPORTED")


def test_a_warning_while_the_upstream_is_down(daemon: Daemon) -> None:
    with Daemon() as upstream:
        client = Client(upstream.address)
        image = Repository(client, "org/app").image("latest")
        client.close()
        mirroring = Daemon(proxy={"upstreams": {"ghcr.io": {"remoteurl": upstream.url}}, "freshness": "0s"})
        with mirroring:
            mirror = Client(mirroring.address)
            assert not mirror.get("/v2/org/app/manifests/latest?ns=ghcr.io").is_(200).all("Warning")
            upstream.terminate()
            answer = mirror.get("/v2/org/app/manifests/latest?ns=ghcr.io").is_(200)
            unsure = [
                mirror.get("/v2/org/app/manifests/none?ns=ghcr.io").refuses(404, "MANIFEST_UNKNOWN"),
                mirror.get(f"/v2/org/app/blobs/{absent()}?ns=ghcr.io").refuses(404, "BLOB_UNKNOWN"),
                mirror.get("/v2/org/none/tags/list?ns=ghcr.io").refuses(404, "NAME_UNKNOWN"),
            ]
            mirror.close()
    assert answer.body == image.content
    assert answer.header("Warning").startswith('299 - "')
    assert answer.header("OCI-Namespace") == "ghcr.io"
    for refusal in unsure:
        assert refusal.header("Warning").startswith('299 - "not cached, and ghcr.io could not be asked')
        assert refusal.header("Retry-After") == "10"
