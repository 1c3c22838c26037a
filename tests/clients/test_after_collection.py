"""Distribution on a tree that our collector has been through: it serves what was kept, and counts as we do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.crash.collecting import collect
from tests.daemon import Daemon

from .distribution import Distribution
from .images import DOCKER, OCI, Content, Format, Image, Index, assert_whole, image, push, root_tar, two_platforms
from .v2 import V2

FAMILIES = pytest.mark.parametrize("family", [OCI, DOCKER], ids=["oci", "docker"])
LOOSE = b"a blob that no manifest references"


def signature(subject: Content) -> Image:
    """An OCI image that refers to another manifest."""
    signed = image([root_tar(f"signature of {subject.digest}", busybox=False)], OCI)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": signed.config.descriptor,
        "layers": [layer.descriptor for layer in signed.layers],
        "subject": subject.descriptor,
    }
    return attrs.evolve(signed, manifest=Content(OCI.manifest, json.dumps(document).encode()))


@attrs.frozen
class Store:
    """What was pushed: ``tagged`` by repository and tag, signatures of those by digest and by tag, and ``gone``."""

    daemon: Daemon
    tagged: dict[tuple[str, str], Image | Index]
    signatures: dict[str, Image]
    gone: list[Image]

    def digests(self) -> set[str]:
        """Every blob that is needed, manifests too."""
        images = [*self.signatures.values()]
        for subject in self.tagged.values():
            images += subject.images if isinstance(subject, Index) else [subject]
        blobs = {blob.digest for each in images for blob in each.blobs()}
        return {subject.digest for subject in self.tagged.values()} | {each.digest for each in images} | blobs

    def untagged(self) -> set[str]:
        """The manifests that are needed without a tag: children, and signatures by digest."""
        children = {child.digest for each in self.tagged.values() if isinstance(each, Index) for child in each.images}
        return children | {each.digest for each in self.signatures.values()}


def fill(daemon: Daemon, family: Format) -> Store:
    """Push what stays and what goes."""
    session = V2("127.0.0.1", daemon.port)
    index, single = two_platforms("many platforms", family), image([root_tar("single")], family)
    tagged: dict[tuple[str, str], Image | Index] = {
        ("many/platforms", "1"): index,
        ("many/platforms", "again"): index,
        ("single", "1"): single,
        ("single/below", "1"): single,
    }
    for (repository, tag), subject in tagged.items():
        push(session, repository, tag, subject)
    signatures = {"many/platforms": signature(index.manifest), "single": signature(single.manifest)}
    for repository, signed in signatures.items():
        push(session, repository, signed.digest, signed)
    cosigned = image([root_tar("cosign", busybox=False)], OCI)
    tagged["single", f"{single.digest.replace(':', '-')}.sig"] = cosigned
    push(session, "single", f"{single.digest.replace(':', '-')}.sig", cosigned)
    return Store(daemon, tagged, signatures, push_garbage(session, family))


def push_garbage(session: V2, family: Format) -> list[Image]:
    """Push an image whose tag moves, one that is deleted with its repository, and a blob."""
    moved, deleted = (image([root_tar(name, busybox=False)], family) for name in ("moved", "deleted"))
    push(session, "many/platforms", "moved", moved)
    session.ask("DELETE", "/v2/many/platforms/manifests/moved").expect(202)
    push(session, "empty", "1", deleted)
    session.ask("DELETE", f"/v2/empty/manifests/{deleted.digest}").expect(202)
    session.push_blob("single", LOOSE)
    return [moved, deleted]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(storage={"delete": {"enabled": True}}) as started:
        yield started


@FAMILIES
def test_distribution_serves_what_was_kept(daemon: Daemon, tmp_path: Path, family: Format) -> None:
    store = fill(daemon, family)
    daemon.terminate()
    told = collect(daemon.config_files[0], "-m", "--offline")
    assert told["manifests"] == {"kept": 4 + 1 + 2 + 1, "removed": 1, "young": 0}
    assert told["repositories"] == {"kept": 3, "removed": 1}
    assert stored(daemon) == store.digests()
    with Distribution(daemon.root, tmp_path) as peer:
        for (repository, tag), subject in store.tagged.items():
            assert_whole(peer.connect(), repository, tag, subject)
        for repository, signed in store.signatures.items():
            assert_whole(peer.connect(), repository, signed.digest, signed)
        for gone in store.gone:
            peer.connect().blob("many/platforms", gone.layers[0].digest).expect(404)
        assert sorted(peer.connect().catalog()) == sorted({repository for repository, _ in store.tagged})
    daemon.start()


@FAMILIES
def test_distribution_finds_nothing_more(daemon: Daemon, tmp_path: Path, family: Format) -> None:
    """Without ``-m`` both agree to the blob; with it 2.8 takes children and referrers, which it does not know."""
    store = fill(daemon, family)
    daemon.terminate()
    collect(daemon.config_files[0], "-m", "--offline")
    with Distribution(daemon.root, tmp_path) as peer:
        said = peer.collect("--dry-run").stdout
        assert eligible("blob", said) == set() and eligible("manifest", said) == set()
        assert eligible("manifest", peer.collect("--dry-run", "--delete-untagged").stdout) == store.untagged()
    daemon.start()


@FAMILIES
def test_both_would_delete_the_same_blobs(daemon: Daemon, tmp_path: Path, family: Format) -> None:
    fill(daemon, family)
    daemon.terminate()
    with Distribution(daemon.root, tmp_path) as peer:
        theirs = eligible("blob", peer.collect("--dry-run").stdout)
    told = collect(daemon.config_files[0], "--dry-run", "--offline")
    before = stored(daemon)
    assert told["blobs"]["removed"] == len(theirs) > 0
    collect(daemon.config_files[0], "--offline")
    assert before - stored(daemon) == theirs
    daemon.start()


def eligible(kind: str, said: str) -> set[str]:
    """What Distribution's collector would delete."""
    return set(re.findall(rf"{kind} eligible for deletion: (sha256:[0-9a-f]{{64}})", said))


def stored(daemon: Daemon) -> set[str]:
    """The digests of all blobs in a tree."""
    return {f"{data.parents[2].name}:{data.parent.name}" for data in daemon.tree.glob("blobs/*/*/*/data")}
