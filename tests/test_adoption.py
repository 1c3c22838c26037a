"""Caches that another program has filled, taken over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred

from registryd.adoption import Adopted
from registryd.assemble import adoption
from registryd.cli import main
from registryd.config import load
from registryd.model import Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.tree import Tree
from tests.values import image, local_registry, put_blob

HUB = "docker.io"
LATEST = Tag("latest")


def config_file(folder: Path, proxy: str) -> str:
    path = folder / "config.yml"
    storage = f"{{filesystem: {{rootdirectory: {folder}/store}}}}"
    path.write_text(f"version: 0.1\nstorage: {storage}\nhttp: {{addr: 127.0.0.1:0}}\nproxy: {proxy}\n")
    return str(path)


MIRROR = "{remoteurl: 'https://registry-1.docker.io'}"
BESIDE = (
    "{upstreams: {docker.io: {remoteurl: 'https://registry-1.docker.io'}}, default: docker.io, private: ['team/**']}"
)


def push(driver: FilesystemDriver, name: str) -> Manifest:
    registry = local_registry(driver)
    config, layer = b"{}", name.encode()
    for content in (config, layer):
        put_blob(registry, content, RepositoryName(name))
    manifest = image(config, layer)
    done(registry.put_manifest(RepositoryName(name), manifest, [LATEST]))
    return manifest


def done(result: Deferred[object]) -> None:
    failures: list[object] = []
    result.addErrback(failures.append)
    assert not failures


def mirrors(driver: FilesystemDriver) -> Sequence[str]:
    tree = Tree(driver)
    return [name for name in tree.repositories() if tree.exists(layout.mirror(name))]


def names(driver: FilesystemDriver) -> Sequence[str]:
    return list(Tree(driver).repositories())


@pytest.fixture
def driver(tmp_path: Path) -> FilesystemDriver:
    return FilesystemDriver(f"{tmp_path}/store")


def test_a_whole_mirror_takes_all_that_is_there(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "library/x")
    push(driver, "team/app")
    result = CliRunner().invoke(main, ["adopt-cache", config_file(tmp_path, MIRROR)])
    assert result.exit_code == 0, result.output
    assert result.output == "library/x: a mirror of docker.io\nteam/app: a mirror of docker.io\n"
    assert mirrors(driver) == ["library/x", "team/app"]
    assert driver.get_content(layout.mirror(RepositoryName("library/x"))) == HUB.encode()


def test_beside_private_repositories_the_default_upstreams_move_to_where_names_lead(
    tmp_path: Path, driver: FilesystemDriver
) -> None:
    manifest = push(driver, "library/x")
    push(driver, "team/app")
    result = CliRunner().invoke(main, ["adopt-cache", config_file(tmp_path, BESIDE)])
    assert result.exit_code == 0, result.output
    assert result.output == "library/x -> docker.io/library/x: a mirror of docker.io\n"
    assert names(driver) == ["docker.io/library/x", "team/app"]
    assert mirrors(driver) == ["docker.io/library/x"]
    registry = local_registry(driver)
    found: list[Manifest] = []
    done(registry.get_manifest(RepositoryName("docker.io/library/x"), LATEST).addCallback(found.append))
    assert found == [manifest]
    blobs: list[object] = []
    layer = Digest.of(b"library/x")
    done(registry.resolve_blob(RepositoryName("docker.io/library/x"), layer).addCallback(blobs.append))
    assert blobs


def test_a_dry_run_changes_nothing(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "library/x")
    result = CliRunner().invoke(main, ["adopt-cache", "-d", config_file(tmp_path, BESIDE)])
    assert "library/x" in result.output
    assert names(driver) == ["library/x"] and mirrors(driver) == []


def test_what_is_adopted_is_as_if_used_just_now(tmp_path: Path, driver: FilesystemDriver) -> None:
    manifest = push(driver, "library/x")
    for folder, _, files in os.walk(f"{tmp_path}/store"):
        for file in files:
            os.utime(f"{folder}/{file}", (1, 1))
    CliRunner().invoke(main, ["adopt-cache", config_file(tmp_path, MIRROR)])
    name = RepositoryName("library/x")
    for path in (
        layout.revision_link(name, manifest.digest),
        layout.tag_link(name, LATEST),
        layout.layer_link(name, Digest.of(b"library/x")),
    ):
        assert driver.stat(path).modified > 1


def test_a_second_time_finishes_what_was_interrupted(tmp_path: Path, driver: FilesystemDriver) -> None:
    push(driver, "library/x")
    config = load(config_file(tmp_path, BESIDE), {})
    found = adoption(config, driver)
    assert found is not None
    (planned,) = found.planned()
    # Only the mark was written.
    driver.put_content(layout.mirror(planned.name), planned.upstream.encode())
    (again,) = found.planned()
    assert again == Adopted(RepositoryName("library/x"), RepositoryName("docker.io/library/x"), HUB)
    found.adopt(again)
    assert names(driver) == ["docker.io/library/x"]
    assert list(found.planned()) == []


def test_without_a_mirror_there_is_nothing_to_adopt(tmp_path: Path) -> None:
    path = config_file(tmp_path, "{}")
    result = CliRunner().invoke(main, ["adopt-cache", path])
    assert result.exit_code == 1
    assert "proxy: nothing is mirrored" in result.output
