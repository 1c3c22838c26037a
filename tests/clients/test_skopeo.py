"""skopeo: copies that keep every byte, listing, deletion, synchronization."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .containers import Containers
from .images import (
    DOCKER,
    OCI,
    Format,
    Image,
    Index,
    assert_whole,
    image,
    layout_digest,
    push,
    root_tar,
    two_platforms,
    write_layout,
)
from .registry import Registry

FROM, TO = "--src-tls-verify=false", "--dest-tls-verify=false"
INSECURE = "--tls-verify=false"


@pytest.mark.parametrize(
    "make", [lambda: image([root_tar("one")]), lambda: two_platforms("all")], ids=["image", "index"]
)
def test_copy_from_layout_and_back(
    containers: Containers, registry: Registry, repository: str, tmp_path: Path, make: Callable[[], Image | Index]
) -> None:
    subject = make()
    layout = write_layout(tmp_path / "layout", "1", subject)
    name = f"docker://{registry.address}/{repository}"
    containers.skopeo("copy", "--all", TO, f"oci:{layout}:1", f"{name}:1")
    assert_whole(registry.connect(), repository, "1", subject)
    for number, reference in enumerate((f"{name}:1", f"{name}@{subject.digest}")):
        containers.skopeo("copy", "--all", FROM, reference, f"oci:{tmp_path}/back{number}:1")
        assert layout_digest(tmp_path / f"back{number}") == subject.digest


@pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])
def test_copy_within_the_registry(containers: Containers, registry: Registry, repository: str, family: Format) -> None:
    index = two_platforms(repository, family)
    push(registry.connect(), repository, "1", index)
    name = f"docker://{registry.address}/{repository}"
    containers.skopeo("copy", "--all", "--preserve-digests", FROM, TO, f"{name}:1", f"{name}/copy:2")
    assert_whole(registry.connect(), f"{repository}/copy", "2", index)


def test_copy_as_docker_list(containers: Containers, registry: Registry, repository: str, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", "1", two_platforms(repository))
    target = f"docker://{registry.address}/{repository}:1"
    containers.skopeo("copy", "--all", "--format", "v2s2", TO, f"oci:{layout}:1", target)
    answer = registry.connect().manifest(repository, "1", DOCKER.index).expect(200)
    assert answer.headers["Content-Type"] == DOCKER.index
    containers.skopeo("copy", "--all", FROM, target, f"oci:{tmp_path}/back:1")


def test_inspect(containers: Containers, registry: Registry, repository: str) -> None:
    index = two_platforms(repository)
    push(registry.connect(), repository, "1", index)
    name = f"docker://{registry.address}/{repository}:1"
    raw = containers.skopeo("inspect", INSECURE, "--raw", name).stdout
    assert raw.encode() == index.manifest.content
    told = json.loads(containers.skopeo("inspect", INSECURE, name).stdout)
    assert told["RepoTags"] == ["1"]
    assert told["Digest"] == index.digest
    config = json.loads(containers.skopeo("inspect", INSECURE, "--config", name).stdout)
    assert config == json.loads(index.images[0].config.content) | config


def test_list_tags(containers: Containers, registry: Registry, repository: str) -> None:
    subject = image([root_tar(repository)])
    for tag in ("b", "a", "C"):
        push(registry.connect(), repository, tag, subject)
    told = json.loads(containers.skopeo("list-tags", INSECURE, f"docker://{registry.address}/{repository}").stdout)
    assert told["Tags"] == ["C", "a", "b"]


def test_delete(containers: Containers, registry: Registry, repository: str) -> None:
    first, second = image([root_tar(repository)]), image([root_tar("stays")])
    for tag, subject in {"1": first, "2": first, "stays": second}.items():
        push(registry.connect(), repository, tag, subject)
    containers.skopeo("delete", INSECURE, f"docker://{registry.address}/{repository}:1")
    session = registry.connect()
    session.manifest(repository, "1").expect(404)
    session.manifest(repository, first.digest).expect(404)
    assert "1" not in session.tags(repository)
    assert_whole(session, repository, "stays", second)
    containers.skopeo("inspect", INSECURE, f"docker://{registry.address}/{repository}:1", expect=1)


def test_sync_to_folder_and_back(containers: Containers, registry: Registry, repository: str, tmp_path: Path) -> None:
    subjects = {"1": two_platforms(f"{repository} 1"), "2": two_platforms(f"{repository} 2")}
    for tag, subject in subjects.items():
        push(registry.connect(), repository, tag, subject)
    folder = tmp_path / "synced"
    source = f"{registry.address}/{repository}"
    containers.skopeo("sync", "--all", FROM, "--src", "docker", "--dest", "dir", source, folder)
    assert len(list(folder.rglob("manifest.json"))) == len(subjects)
    target = f"{registry.address}/{repository}/synced"
    containers.skopeo("sync", "--all", TO, "--src", "dir", "--dest", "docker", folder, target)
    last = repository.rpartition("/")[2]
    for tag, subject in subjects.items():
        assert_whole(registry.connect(), f"{repository}/synced/{last}", tag, subject)


def test_sync_by_a_list_of_images(containers: Containers, registry: Registry, repository: str, tmp_path: Path) -> None:
    subject = image([root_tar(repository)])
    push(registry.connect(), repository, "1", subject)
    listing = tmp_path / "sync.yml"
    listing.write_text(f"{registry.address}:\n  tls-verify: false\n  images:\n    {repository}: ['1']\n")
    target = f"{registry.address}/{repository}"
    containers.skopeo("sync", TO, "--src", "yaml", "--dest", "docker", listing, target)
    assert_whole(registry.connect(), f"{repository}/{repository.rpartition('/')[2]}", "1", subject)
