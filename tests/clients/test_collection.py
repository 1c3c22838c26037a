"""Distribution's collector on a tree that registryd wrote and goes on serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .distribution import Distribution
from .images import DOCKER, OCI, Format, Image, Index, assert_whole, image, index, push, root_tar, two_platforms
from .registry import Registry
from .v2 import V2

FAMILIES = pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])
LOOSE = b"a blob that no manifest references"


@pytest.fixture
def distribution(own_registry: Registry, tmp_path: Path) -> Iterator[Distribution]:
    with Distribution(own_registry.root, tmp_path) as peer:
        yield peer


@pytest.fixture
def session(own_registry: Registry) -> V2:
    return own_registry.connect()


def filled(session: V2, family: Format) -> dict[tuple[str, str], Image | Index]:
    """Push what a collection has to keep; an index that references nothing makes a repository without blobs."""
    untagged = image([root_tar("untagged")], family)
    kept: dict[tuple[str, str], Image | Index] = {
        ("many/platforms", "1"): two_platforms("many platforms", family),
        ("untagged", untagged.digest): untagged,
        ("index", "1"): index([], family),
    }
    for (repository, reference), subject in kept.items():
        push(session, repository, reference, subject)
    return kept


def digests(subject: Image | Index) -> set[str]:
    images = subject.images if isinstance(subject, Index) else [subject]
    blobs = {blob.digest for child in images for blob in child.blobs()}
    return {subject.digest, *blobs, *(child.digest for child in images)}


@FAMILIES
def test_dry_run_tells_what_nothing_references(distribution: Distribution, session: V2, family: Format) -> None:
    kept = filled(session, family)
    loose = session.push_blob("many/platforms", LOOSE)
    said = distribution.collect("--dry-run").stdout
    assert f"blob eligible for deletion: {loose}" in said
    assert not [digest for subject in kept.values() for digest in digests(subject) if f"deletion: {digest}" in said]
    assert session.blob("many/platforms", loose).expect(200).body == LOOSE


@FAMILIES
def test_what_is_referenced_stays(distribution: Distribution, session: V2, family: Format) -> None:
    kept = filled(session, family)
    loose = session.push_blob("many/platforms", LOOSE)
    distribution.collect()
    for (repository, reference), subject in kept.items():
        assert_whole(session, repository, reference, subject)
    session.blob("many/platforms", loose).expect(404)


def test_what_was_collected_can_be_pushed_again(distribution: Distribution, session: V2) -> None:
    filled(session, OCI)
    loose = session.push_blob("many/platforms", LOOSE)
    session.blob("many/platforms", loose).expect(200)
    distribution.collect()
    session.ask("HEAD", f"/v2/many/platforms/blobs/{loose}").expect(404)
    assert session.push_blob("many/platforms", LOOSE) == loose
    assert session.blob("many/platforms", loose).expect(200).body == LOOSE


def test_a_collected_layer_does_not_carry_a_manifest(distribution: Distribution, session: V2) -> None:
    """Its layer link stays behind: an image that references it has to be refused."""
    subject = image([root_tar("late", busybox=False)])
    for blob in subject.blobs():
        session.push_blob("late", blob.content)
    session.push_manifest("late", "other", *stub(session, "late"))
    distribution.collect()
    body, kind = subject.manifest.content, subject.manifest.media_type
    answer = session.ask("PUT", "/v2/late/manifests/1", body, {"Content-Type": kind}).expect(400)
    assert {error["code"] for error in answer.json["errors"]} == {"MANIFEST_BLOB_UNKNOWN"}


def stub(session: V2, repository: str) -> tuple[bytes, str]:
    """An image whose blobs a repository holds; its manifest and type."""
    subject = image([root_tar("stub", busybox=False)])
    for blob in subject.blobs():
        session.push_blob(repository, blob.content)
    return subject.manifest.content, subject.manifest.media_type


def test_untagged_manifests_are_collected_on_demand(distribution: Distribution, session: V2) -> None:
    first, second = image([root_tar("first")]), image([root_tar("second")])
    push(session, "moved", "1", first)
    push(session, "moved", "1", second)
    assert f"manifest eligible for deletion: {first.digest}" in distribution.collect("--delete-untagged").stdout
    assert_whole(session, "moved", "1", second)
    session.manifest("moved", first.digest).expect(404)
    for blob in first.blobs():
        session.blob("moved", blob.digest).expect(404)


def test_deleted_manifests_are_collected(distribution: Distribution, session: V2) -> None:
    kept, gone = image([root_tar("kept")]), image([root_tar("gone")])
    push(session, "some", "kept", kept)
    push(session, "some", "gone", gone)
    session.ask("DELETE", f"/v2/some/manifests/{gone.digest}").expect(202)
    said = distribution.collect().stdout
    assert f"blob eligible for deletion: {gone.digest}" in said
    assert_whole(session, "some", "kept", kept)
    session.blob("some", gone.layers[0].digest).expect(404)
