"""Real clients over TLS with a private authority."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificates import Certificates
from .containers import Containers
from .engine import Engine
from .images import assert_whole, image, push, root_tar, two_platforms, write_layout
from .registry import Registry


@pytest.fixture
def host(engine: Engine, tls_registry: Registry, certificates: Certificates) -> Iterator[str]:
    """The registry as docker must name it, with the authority in docker's certs.d.

    Docker takes all of 127.0.0.0/8 for insecure and would verify nothing there; 0.0.0.0 leads to the same socket.
    """
    name = f"0.0.0.0:{tls_registry.port}"
    folder = engine.settings / "certs.d" / name
    folder.mkdir(parents=True)
    shutil.copy(certificates.authority, folder / "ca.crt")
    yield name
    shutil.rmtree(folder)


def test_docker_push_and_pull(engine: Engine, tls_registry: Registry, repository: str, host: str) -> None:
    name = f"{host}/{repository}:1"
    engine.docker("import", "-", name, content=root_tar(repository))
    identity = engine.inspect(name)["Id"]
    digest = engine.push(name)
    assert tls_registry.digest(repository, "1") == digest
    engine.forget(name)
    engine.docker("pull", name)
    assert engine.inspect(name)["Id"] == identity


def test_docker_refuses_an_unknown_authority(engine: Engine, tls_registry: Registry, repository: str) -> None:
    push(tls_registry.connect(), repository, "1", image([root_tar(repository)]))
    outcome = engine.docker("pull", f"0.0.0.0:{tls_registry.port}/{repository}:1", expect=1)
    assert "x509" in outcome.stderr or "certificate" in outcome.stderr


def test_containerd_pull_and_push(
    engine: Engine, tls_registry: Registry, certificates: Certificates, repository: str, tmp_path: Path
) -> None:
    subject = two_platforms(repository)
    push(tls_registry.connect(), repository, "1", subject)
    hosts = tmp_path / "certs.d" / tls_registry.address
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        f'server = "https://{tls_registry.address}"\n'
        f'[host."https://{tls_registry.address}"]\n'
        'capabilities = ["pull", "resolve", "push"]\n'
        f'ca = "{certificates.authority}"\n'
    )
    name, other = f"{tls_registry.address}/{repository}:1", f"{tls_registry.address}/{repository}/copy:1"
    engine.ctr("images", "pull", "--hosts-dir", hosts.parent, "--all-platforms", name)
    engine.ctr("images", "tag", name, other)
    engine.ctr("images", "push", "--hosts-dir", hosts.parent, other)
    assert_whole(tls_registry.connect(), f"{repository}/copy", "1", subject)


def test_skopeo_copy(
    containers: Containers, tls_registry: Registry, certificates: Certificates, repository: str, tmp_path: Path
) -> None:
    subject = two_platforms(repository)
    layout = write_layout(tmp_path / "layout", "1", subject)
    name = f"docker://{tls_registry.address}/{repository}:1"
    folder = certificates.authority.parent / "client"
    containers.skopeo("copy", "--all", f"--dest-cert-dir={folder}", f"oci:{layout}:1", name)
    assert_whole(tls_registry.connect(), repository, "1", subject)
    containers.skopeo("copy", "--all", f"--src-cert-dir={folder}", name, f"oci:{tmp_path}/back:1")
    containers.skopeo("inspect", name, expect=1)
