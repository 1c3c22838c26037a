"""podman and buildah."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .containers import Containers
from .images import DOCKER, ELSEWHERE, HERE, OCI, Format, image, push, root_tar, two_platforms
from .registry import Registry

INSECURE = "--tls-verify=false"


@pytest.fixture(autouse=True)
def storage(containers: Containers) -> None:
    containers.need_storage()


@pytest.fixture
def built(containers: Containers, repository: str, tmp_path: Path) -> str:
    """The name of an image that buildah has made."""
    (tmp_path / "root.tar").write_bytes(root_tar(repository))
    container = containers.buildah("from", "scratch").stdout.strip()
    containers.buildah("add", container, tmp_path / "root.tar", "/")
    containers.buildah("config", "--cmd", "/bin/sh", container)
    name = f"localhost/{repository}:1"
    containers.buildah("commit", "--rm", container, name)
    return name


def test_buildah_push_and_podman_pull(containers: Containers, registry: Registry, repository: str, built: str) -> None:
    identity = containers.inspect(built)["Id"]
    name = f"{registry.address}/{repository}:1"
    containers.buildah("push", INSECURE, built, f"docker://{name}")
    containers.forget(built)
    containers.podman("pull", INSECURE, name)
    pulled = containers.inspect(name)
    assert pulled["Id"] == identity
    assert pulled["Digest"] == registry.digest(repository, "1")


def test_podman_push_and_buildah_pull_by_digest(
    containers: Containers, registry: Registry, repository: str, built: str, tmp_path: Path
) -> None:
    told = tmp_path / "digest"
    containers.podman("push", INSECURE, "--digestfile", told, built, f"{registry.address}/{repository}:1")
    assert told.read_text() == registry.digest(repository, "1")
    identity = containers.inspect(built)["Id"]
    containers.forget(built)
    name = f"{registry.address}/{repository}@{told.read_text()}"
    assert containers.buildah("pull", INSECURE, name).stdout.strip() == identity


def test_second_push_reuses_what_is_there(
    containers: Containers, registry: Registry, repository: str, built: str
) -> None:
    """To another repository too: containers/image asks for a mount of what it has pushed or pulled elsewhere."""
    for target in (repository, repository, f"{repository}/other"):
        containers.podman("push", INSECURE, built, f"{registry.address}/{target}:1")
    assert registry.digest(repository, "1") == registry.digest(f"{repository}/other", "1")


@pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])
def test_pull_of_many_platforms(containers: Containers, registry: Registry, repository: str, family: Format) -> None:
    index = two_platforms(repository, family)
    push(registry.connect(), repository, "1", index)
    name = f"{registry.address}/{repository}:1"
    containers.podman("pull", INSECURE, name)
    assert containers.inspect(name)["Architecture"] == HERE
    containers.forget(name)
    containers.podman("pull", INSECURE, "--platform", f"linux/{ELSEWHERE}", name)
    assert containers.inspect(name)["Architecture"] == ELSEWHERE


@pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "v2s2"])
def test_index_made_by_podman(containers: Containers, registry: Registry, repository: str, family: Format) -> None:
    children = [image([root_tar(f"{repository} {arch}")], family, arch) for arch in (HERE, ELSEWHERE)]
    for child in children:
        push(registry.connect(), repository, child.architecture, child)
    listing = f"localhost/{repository}:all"
    containers.podman("manifest", "create", listing)
    for child in children:
        source = f"docker://{registry.address}/{repository}@{child.digest}"
        containers.buildah("manifest", "add", INSECURE, listing, source)
    kind = "oci" if family is OCI else "v2s2"
    target = f"docker://{registry.address}/{repository}/all:1"
    containers.podman("manifest", "push", INSECURE, "--all", "--format", kind, listing, target)
    answer = registry.connect().manifest(f"{repository}/all", "1").expect(200)
    assert answer.headers["Content-Type"] == family.index
    assert {entry["digest"] for entry in answer.json["manifests"]} == {child.digest for child in children}


def test_search(containers: Containers, registry: Registry, repository: str) -> None:
    for tag in ("1", "2"):
        push(registry.connect(), repository, tag, image([root_tar(repository)]))
    found = containers.podman("search", INSECURE, f"{registry.address}/{repository[:-2]}").stdout
    assert f"{registry.address}/{repository}" in found
    listed = containers.podman(
        "search", INSECURE, "--list-tags", "--format", "json", f"{registry.address}/{repository}"
    ).stdout
    assert json.loads(listed)[0]["Tags"] == ["1", "2"]
