"""The Docker engine against a plain HTTP registry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .containers import Containers
from .engine import Engine
from .images import DOCKER, ELSEWHERE, HERE, OCI, Format, file_tar, image, push, root_tar, two_platforms, write_layout
from .registry import Registry


@pytest.fixture
def pushed(engine: Engine, registry: Registry, repository: str) -> str:
    """The name of an image that docker has made and pushed."""
    name = f"{registry.address}/{repository}:1"
    engine.docker("import", "--change", 'CMD ["/bin/cat", "/message"]', "-", name, content=root_tar(repository))
    engine.push(name)
    return name


def run_offline(engine: Engine, name: str) -> str:
    return engine.docker("run", "--rm", "--network", "none", name, "/bin/cat", "/message").stdout


def test_pull_by_tag_runs(engine: Engine, registry: Registry, repository: str, pushed: str) -> None:
    identity = engine.inspect(pushed)["Id"]
    digest = registry.digest(repository, "1")
    engine.forget(pushed)
    said = engine.docker("pull", pushed).stdout
    assert f"Digest: {digest}" in said
    assert engine.inspect(pushed)["Id"] == identity
    assert engine.inspect(pushed)["RepoDigests"] == [f"{registry.address}/{repository}@{digest}"]
    assert run_offline(engine, pushed) == repository


def test_pull_by_digest(engine: Engine, registry: Registry, repository: str, pushed: str) -> None:
    identity = engine.inspect(pushed)["Id"]
    name = f"{registry.address}/{repository}@{registry.digest(repository, '1')}"
    engine.forget(pushed)
    engine.docker("pull", name)
    assert engine.inspect(name)["Id"] == identity


def test_repeated_push_sends_no_layer(engine: Engine, registry: Registry, repository: str, pushed: str) -> None:
    digest = registry.digest(repository, "1")
    said = engine.docker("push", pushed).stdout
    assert "Layer already exists" in said
    assert digest in said
    assert registry.digest(repository, "1") == digest


def test_push_to_another_repository_mounts(engine: Engine, registry: Registry, repository: str, pushed: str) -> None:
    other = f"{registry.address}/{repository}/other:2"
    engine.docker("tag", pushed, other)
    said = engine.docker("push", other).stdout
    assert f"Mounted from {repository}" in said
    assert registry.digest(f"{repository}/other", "2") == registry.digest(repository, "1")
    engine.forget(pushed, other)
    engine.docker("pull", other)
    assert run_offline(engine, other) == repository


def test_moved_tag_is_pulled_anew(engine: Engine, registry: Registry, repository: str, pushed: str) -> None:
    first = registry.digest(repository, "1")
    engine.docker("import", "-", pushed, content=root_tar("second"))
    second = engine.push(pushed)
    assert second == registry.digest(repository, "1") != first
    engine.forget(pushed)
    engine.docker("pull", pushed)
    assert run_offline(engine, pushed) == "second"
    engine.docker("pull", f"{registry.address}/{repository}@{first}")


def test_many_layers_at_once(
    engine: Engine, containers: Containers, registry: Registry, repository: str, tmp_path: Path
) -> None:
    tars = [root_tar(repository), *(file_tar(f"layer{number}", os.urandom(700_000)) for number in range(8))]
    layout = write_layout(tmp_path / "layout", "1", image(tars))
    name = f"{registry.address}/{repository}:1"
    containers.skopeo("copy", f"oci:{layout}:1", f"docker-archive:{tmp_path}/image.tar:{name}")
    engine.docker("load", "--input", tmp_path / "image.tar")
    identity = engine.inspect(name)["Id"]
    engine.push(name)
    engine.forget(name)
    engine.docker("pull", name)
    assert engine.inspect(name)["Id"] == identity
    assert run_offline(engine, name) == repository


@pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])
def test_pull_of_many_platforms_takes_this_one(
    engine: Engine, registry: Registry, repository: str, family: Format
) -> None:
    index = two_platforms(repository, family)
    push(registry.connect(), repository, "1", index)
    name = f"{registry.address}/{repository}:1"
    assert f"Digest: {index.digest}" in engine.docker("pull", name).stdout
    assert engine.inspect(name)["Architecture"] == HERE
    assert run_offline(engine, name) == repository
    engine.forget(name)
    by_digest = f"{registry.address}/{repository}@{index.digest}"
    engine.docker("pull", "--platform", f"linux/{ELSEWHERE}", by_digest)
    assert engine.inspect(by_digest)["Architecture"] == ELSEWHERE


def test_manifest_list_made_by_docker(engine: Engine, registry: Registry, repository: str) -> None:
    index = two_platforms(repository, DOCKER)
    for child in index.images:
        push(registry.connect(), repository, child.architecture, child)
    name = f"{registry.address}/{repository}"
    parts = [f"{name}:{child.architecture}" for child in index.images]
    engine.docker("manifest", "create", "--insecure", f"{name}:all", *parts)
    engine.docker("manifest", "push", "--insecure", "--purge", f"{name}:all")
    answer = registry.connect().manifest(repository, "all", DOCKER.index).expect(200)
    assert {entry["digest"] for entry in answer.json["manifests"]} == {child.digest for child in index.images}
    engine.docker("pull", f"{name}:all")
    assert run_offline(engine, f"{name}:all") == repository


def test_pushed_bytes_are_served(registry: Registry, repository: str, pushed: str) -> None:
    session = registry.connect()
    answer = session.manifest(repository, "1").expect(200)
    assert answer.headers["Content-Type"] == DOCKER.manifest
    for part in (answer.json["config"], *answer.json["layers"]):
        assert len(session.blob(repository, part["digest"]).expect(200).body) == part["size"]
    assert session.tags(repository) == ["1"]


def test_unknown_image(engine: Engine, registry: Registry, repository: str) -> None:
    outcome = engine.docker("pull", f"{registry.address}/{repository}:none", expect=1)
    assert "manifest unknown" in outcome.stderr or "not found" in outcome.stderr


def test_search(engine: Engine, registry: Registry, repository: str, pushed: str) -> None:
    assert repository in engine.docker("search", f"{registry.address}/{repository[:-2]}").stdout
