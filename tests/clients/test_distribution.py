"""CNCF Distribution 2.8 and registryd on one tree, in both directions and at the same time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registryd.cache.mirrored import Mirrored
from registryd.reference import Digest, RepositoryName
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.tree import Tree
from tests import values
from tests.values import LATEST, local_registry, put_blob

from .containers import Containers
from .distribution import Distribution
from .engine import Engine
from .images import DOCKER, OCI, Format, assert_whole, image, push, root_tar, two_platforms, write_layout
from .registry import Registry
from .v2 import V2, digest_of

FAMILIES = pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])


@pytest.fixture
def distribution(registry: Registry, tmp_path: Path) -> Iterator[Distribution]:
    """Distribution serving the registry's own tree."""
    with Distribution(registry.root, tmp_path) as peer:
        yield peer


@pytest.fixture
def theirs(distribution: Distribution) -> V2:
    return distribution.connect()


@pytest.fixture
def ours(registry: Registry) -> V2:
    return registry.connect()


@FAMILIES
def test_registryd_serves_what_distribution_wrote(theirs: V2, ours: V2, repository: str, family: Format) -> None:
    ours.manifest(repository, "1").expect(404)
    subject = two_platforms(repository, family)
    push(theirs, repository, "1", subject)
    assert_whole(ours, repository, "1", subject)
    assert ours.tags(repository) == ["1"]
    assert repository in ours.catalog()
    moved = two_platforms(f"{repository} moved", family)
    push(theirs, repository, "1", moved)
    assert_whole(ours, repository, "1", moved)


@FAMILIES
def test_distribution_serves_what_registryd_wrote(theirs: V2, ours: V2, repository: str, family: Format) -> None:
    subject = two_platforms(repository, family)
    push(ours, repository, "1", subject)
    for child in subject.images:
        push(ours, repository, child.architecture, child)
        assert_whole(theirs, repository, child.architecture, child)
    assert_whole(theirs, repository, "1", subject)
    assert sorted(theirs.tags(repository)) == sorted(["1", *(child.architecture for child in subject.images)])
    assert repository in theirs.catalog()


def test_pushes_in_turns(theirs: V2, ours: V2, repository: str) -> None:
    subject = two_platforms(repository)
    first, second = subject.images
    push(ours, repository, "first", first)
    push(theirs, repository, "second", second)
    ours.push_manifest(repository, "all", subject.manifest.content, subject.manifest.media_type)
    for session in (ours, theirs):
        assert_whole(session, repository, "all", subject)
        assert sorted(session.tags(repository)) == ["all", "first", "second"]


def test_a_layer_that_distribution_keeps_as_sha512(theirs: V2, ours: V2, repository: str) -> None:
    """It keeps the bytes under sha256 and links both digests to that."""
    content = repository.encode()
    digest = theirs.push_blob(repository, content, "sha512")
    assert ours.blob(repository, digest).expect(200).body == content
    assert ours.blob(repository, digest_of(content)).expect(200).body == content


def test_docker_from_one_to_the_other(
    engine: Engine, registry: Registry, distribution: Distribution, repository: str
) -> None:
    for source, target, tag in ((distribution, registry, "theirs"), (registry, distribution, "ours")):
        pushed, pulled = f"{source.address}/{repository}:{tag}", f"{target.address}/{repository}:{tag}"
        engine.docker("import", "-", pushed, content=root_tar(f"{repository} {tag}"))
        identity, digest = engine.inspect(pushed)["Id"], engine.push(pushed)
        engine.forget(pushed)
        assert f"Digest: {digest}" in engine.docker("pull", pulled).stdout
        assert engine.inspect(pulled)["Id"] == identity


def test_skopeo_from_one_to_the_other(
    containers: Containers, registry: Registry, distribution: Distribution, repository: str, tmp_path: Path
) -> None:
    subject = two_platforms(repository)
    layout = write_layout(tmp_path / "layout", "1", subject)
    theirs, ours = f"docker://{distribution.address}/{repository}:1", f"docker://{registry.address}/{repository}:1"
    containers.skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout}:1", theirs)
    raw = containers.skopeo("inspect", "--raw", "--tls-verify=false", ours).stdout
    assert raw.encode() == subject.manifest.content
    copy = f"docker://{distribution.address}/{repository}/copy:1"
    containers.skopeo("copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", ours, copy)
    assert_whole(registry.connect(), f"{repository}/copy", "1", subject)


def test_deletion_by_either(theirs: V2, ours: V2, repository: str) -> None:
    for deleting, other, tag in ((ours, theirs, "1"), (theirs, ours, "2")):
        subject = image([root_tar(f"{repository} {tag}")])
        push(ours, repository, tag, subject)
        deleting.ask("DELETE", f"/v2/{repository}/manifests/{subject.digest}").expect(202)
        other.manifest(repository, subject.digest).expect(404)
        other.manifest(repository, tag).expect(404)
        assert tag not in ours.tags(repository)


def test_manifest_of_an_artifact_is_the_clients_own(ours: V2, theirs: V2, repository: str) -> None:
    """An OCI image that stands for something else: config and layer types are anybody's."""
    config, layer = b"{}", b"content of an artifact"
    for blob in (config, layer):
        ours.push_blob(repository, blob)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "artifactType": "application/example",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(config), "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": digest_of(layer), "size": len(layer)}],
    }
    content = json.dumps(document, indent=1).encode()
    ours.push_manifest(repository, "1", content, OCI.manifest)
    assert theirs.manifest(repository, "1").expect(200).body == content


def test_distribution_sees_what_lies_below_a_mirrored_repository(tmp_path: Path) -> None:
    driver = FilesystemDriver(str(tmp_path / "store"))
    registry, mirrored, below = local_registry(driver), RepositoryName("org"), RepositoryName("org/app")
    Mirrored(Tree(driver), "docker.io").mark(mirrored)
    put_blob(registry, b"config", below)
    pushed = values.image(b"config")
    registry.put_manifest(below, pushed, [LATEST])
    with Distribution(tmp_path / "store", tmp_path / "distribution") as distribution:
        distribution.collect()
        peer = distribution.connect()
        assert peer.catalog() == [below]
        assert peer.manifest(below, pushed.digest).expect(200).body == pushed.content
        assert peer.blob(below, str(Digest.of(b"config"))).expect(200).body == b"config"
