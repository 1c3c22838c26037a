"""containerd's resolver, through ctr."""

from __future__ import annotations

from pathlib import Path

import pytest

from .engine import Engine
from .images import DOCKER, HERE, OCI, Format, assert_whole, image, push, root_tar, two_platforms
from .registry import Registry


@pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])
def test_pull_by_tag_and_digest(engine: Engine, registry: Registry, repository: str, family: Format) -> None:
    subject = image([root_tar(repository)], family)
    push(registry.connect(), repository, "1", subject)
    for name in (f"{registry.address}/{repository}:1", f"{registry.address}/{repository}@{subject.digest}"):
        engine.ctr("images", "pull", "--plain-http", name)
        assert engine.digests()[name] == subject.digest


def test_push_is_what_was_pulled(engine: Engine, registry: Registry, repository: str) -> None:
    subject = image([root_tar(repository)])
    push(registry.connect(), repository, "1", subject)
    name, other = f"{registry.address}/{repository}:1", f"{registry.address}/{repository}/copy:2"
    engine.ctr("images", "pull", "--plain-http", name)
    engine.ctr("images", "tag", name, other)
    engine.ctr("images", "push", "--plain-http", other)
    assert_whole(registry.connect(), f"{repository}/copy", "2", subject)


def test_index_with_all_platforms(engine: Engine, registry: Registry, repository: str) -> None:
    subject = two_platforms(repository)
    push(registry.connect(), repository, "1", subject)
    name, other = f"{registry.address}/{repository}:1", f"{registry.address}/{repository}/copy:2"
    engine.ctr("images", "pull", "--plain-http", "--all-platforms", name)
    engine.ctr("images", "tag", name, other)
    engine.ctr("images", "push", "--plain-http", other)
    assert_whole(registry.connect(), f"{repository}/copy", "2", subject)


def test_pull_runs(engine: Engine, registry: Registry, repository: str) -> None:
    push(registry.connect(), repository, "1", two_platforms(repository))
    name = f"{registry.address}/{repository}:1"
    engine.ctr("images", "pull", "--plain-http", "--platform", f"linux/{HERE}", name)
    said = engine.ctr("run", "--rm", name, repository.replace("/", "-"), "/bin/cat", "/message").stdout
    assert said == repository


def test_pull_for_another_host(engine: Engine, registry: Registry, repository: str, tmp_path: Path) -> None:
    """A hosts.toml makes this registry answer for another: containerd then says which by ``?ns=``."""
    subject = image([root_tar(repository)])
    push(registry.connect(), repository, "1", subject)
    hosts = tmp_path / "certs.d" / "registry.invalid"
    hosts.mkdir(parents=True)
    url = f"http://{registry.address}"
    (hosts / "hosts.toml").write_text(f'server = "{url}"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n')
    name = f"registry.invalid/{repository}:1"
    engine.ctr("images", "pull", "--hosts-dir", tmp_path / "certs.d", name)
    assert engine.digests()[name] == subject.digest
