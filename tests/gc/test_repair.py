"""What a repair does to each kind of damage, beside daemons too; and what registries make of the tree afterwards."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from registryd.errors import BlobUnknown, ManifestUnknown
from registryd.model import Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.interfaces import Stat
from registryd.storage.memory import MemoryDriver
from registryd_gc.cli import commands
from registryd_gc.reading import Reading
from registryd_gc.repair import DAMAGED, Repair
from registryd_gc.report import Damage
from registryd_gc.trash import LOCK, Trash
from registryd_gc.verify import LOCK as VERIFYING
from registryd_gc.verify import Verification
from tests.clients.distribution import Distribution
from tests.values import local_registry, put_blob

from .trees import APP, DAY, HUB, NEW, Heard, Store

LAYER = Digest.of(b"layer of app")
CONFIG = Digest.of(b"config of app")
UNREADABLE = [b"", b"garbage", b"\xff\xfe"]
OTHERS = [*UNREADABLE, str(Digest.of(b"something else")).encode()]
"""The last has the size of a link, so that a collection, which reads no links of that size, does not see it."""

Mend = Callable[[Store], list[Damage]]


def by_verifying(store: Store, repair: bool = True) -> list[Damage]:
    return Verification(store.driver, store.config, Heard(), repair).run().damage


def by_collecting(store: Store) -> list[Damage]:
    return store.collect(untagged_go=True, repair=True).damage


EITHER = pytest.mark.parametrize("mend", [by_verifying, by_collecting], ids=["verify", "collect"])


def told(deferred: Deferred[Any]) -> Any:
    """What a call of a registry fires with; the kind of the error where it is one."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    (result,) = results
    return result.type if isinstance(result, Failure) else result


def head(store: Store, blob: Digest, name: RepositoryName = APP) -> Any:
    """What registryd says of a blob; its size where it is there."""
    found = told(local_registry(store.driver).resolve_blob(name, blob))
    return found if isinstance(found, type) else found.size


def pull(store: Store, reference: Digest | Tag, name: RepositoryName = APP) -> Any:
    """What registryd says of a manifest; its digest where it is there."""
    found = told(local_registry(store.driver).get_manifest(name, reference))
    return found if isinstance(found, type) else found.digest


def outcomes(found: list[Damage]) -> list[tuple[str, str, bool]]:
    return [(damage.kind, damage.path, damage.repaired) for damage in found]


def set_aside(store: Store) -> dict[str, bytes]:
    """The damaged blobs that are kept, by digest."""
    kept = {path: content for path, (content, _) in store.files().items() if path.startswith(DAMAGED)}
    return {path[len(DAMAGED) + 1 :].partition(".")[0]: content for path, content in kept.items()}


def assert_tidy(store: Store) -> None:
    """Nothing is left in the trash."""
    assert {path for path in store.files() if path.startswith(layout.TRASH)} <= {LOCK, VERIFYING}
    assert not [entry for entry in store.driver.entries(layout.TRASH) if entry.is_folder]


# Blobs


@pytest.mark.parametrize(("content", "kind"), [(b"other bytes", "digest"), (b"", "empty")])
def test_a_damaged_blob_gives_way_to_a_push(store: Store, content: bytes, kind: str) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.blob_data(LAYER), content)
    # This is why: who asks is told that it is there, and does not upload it.
    assert kind == "empty" or head(store, LAYER) == len(content)
    link, revision = layout.layer_link(APP, LAYER), layout.revision_link(APP, manifest.digest)
    assert outcomes(by_verifying(store)) == [(kind, path, True), ("dangling", link, True), ("parts", revision, False)]
    assert head(store, LAYER) is BlobUnknown and not store.has(link)
    assert set_aside(store) == {f"sha256/{LAYER.hex}": content}
    assert_tidy(store)
    put_blob(local_registry(store.driver), b"layer of app", APP)
    assert by_verifying(store) == [] and store.is_whole("app", manifest) and head(store, LAYER) == 12
    assert set_aside(store) == {f"sha256/{LAYER.hex}": content}


def test_an_empty_blob_gives_way_in_a_collection(store: Store) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.blob_data(LAYER), b"")
    assert outcomes(by_collecting(store)) == [("empty", path, True)]
    assert not store.has(path) and head(store, LAYER) is BlobUnknown
    assert_tidy(store)


def test_a_damaged_blob_of_sha512(store: Store) -> None:
    named = store.blob(b"content", algorithm="sha512")
    path = store.put(layout.blob_data(named), b"other")
    assert outcomes(by_verifying(store)) == [("digest", path, True)]
    assert not store.has(path) and set_aside(store) == {f"sha512/{named.hex}": b"other"}


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage"])
@EITHER
def test_a_damaged_manifest_stays(store: Store, mend: Mend, content: bytes) -> None:
    """Gone, nobody would know that something is missing, and the next collection would take its layers."""
    manifest = store.image("app", tags=["1"])
    store.image("other", tags=["2"])
    path = store.put(layout.blob_data(manifest.digest), content)
    assert outcomes(mend(store)) == [("manifest", path, False)]
    assert store.driver.get_content(path) == content and store.has_tag("1") and head(store, LAYER) == 12
    told(local_registry(store.driver).put_manifest(APP, manifest, [Tag("1")]))
    assert mend(store) == [] and pull(store, Tag("1")) == manifest.digest


def test_what_became_a_manifest_since_it_was_found_stays(store: Store) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.blob_data(manifest.digest), b"other")
    repair = Repair(store.driver, Trash.begin(store.driver, 0.0, False, False), Reading(store.driver))
    assert not repair.mend(Damage("digest", path, "found when nobody held it")).repaired
    assert store.driver.get_content(path) == b"other"


class BusyDriver(MemoryDriver):
    """A memory driver in which somebody does something before, or after, a path is set aside for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def set_aside(self, path: str, aside: str) -> None:
        self.before.pop(path, lambda: None)()
        super().set_aside(path, aside)
        self.after.pop(path, lambda: None)()


def busy() -> tuple[BusyDriver, Store, Manifest]:
    driver = BusyDriver()
    store = Store(driver)
    return driver, store, store.image("app", tags=["1"])


def test_a_blob_that_a_push_brings_meanwhile_stays() -> None:
    for when in ("before", "after"):
        driver, store, manifest = busy()
        path = store.put(layout.blob_data(LAYER), b"other")
        getattr(driver, when)[path] = lambda store=store: put_blob(local_registry(store.driver), b"layer of app", APP)
        assert outcomes(by_verifying(store)) == [("digest", path, True)]
        assert store.is_whole("app", manifest) and driver.get_content(path) == b"layer of app"
        assert list(set_aside(store).values()) == ([b"other"] if when == "after" else [])
        assert_tidy(store)


def test_a_damaged_blob_that_is_renewed_meanwhile_goes_all_the_same() -> None:
    driver, store, _ = busy()
    path = store.put(layout.blob_data(LAYER), b"other")
    driver.before[path] = lambda: store.age(path, NEW)
    assert outcomes(by_verifying(store))[0] == ("digest", path, True)
    assert list(set_aside(store).values()) == [b"other"] and not store.has(path)


@pytest.mark.parametrize("where", [layout.TRASH, DAMAGED])
def test_a_blob_that_cannot_be_taken_away_stays(where: str) -> None:
    """It may be the right one, which a push has brought meanwhile."""

    class FailingDriver(BusyDriver):
        def stat(self, path: str) -> Stat:
            self._fail(path)
            return super().stat(path)

        def set_aside(self, path: str, aside: str) -> None:
            self._fail(aside)
            super().set_aside(path, aside)

        def _fail(self, path: str) -> None:
            if path.startswith(where) and LAYER.hex in path:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    driver = FailingDriver()
    store = Store(driver)
    store.image("app", tags=["1"])
    path = store.put(layout.blob_data(LAYER), b"other")
    (found,) = by_verifying(store)
    assert not found.repaired and "cannot be repaired" in found.detail
    assert driver.get_content(path) == b"other"


def test_a_blob_that_cannot_be_put_back_either_is_not_lost() -> None:
    """The repair goes on with what else is damaged; the next run has the storage's better days."""

    class FailingDriver(BusyDriver):
        fails = True

        def set_aside(self, path: str, aside: str) -> None:
            if self.fails and aside.startswith(DAMAGED):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            super().set_aside(path, aside)

        def put_back(self, aside: str, path: str) -> bool:
            if self.fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return super().put_back(aside, path)

    driver = FailingDriver()
    store = Store(driver)
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.blob_data(LAYER), b"")
    store.collect(repair=True)
    assert not store.has(path)
    driver.fails = False
    assert store.collect().trash.restored == 1
    assert driver.get_content(path) == b"" and store.has_manifest(manifest)


# Links of layers


@pytest.mark.parametrize("content", OTHERS)
def test_a_layers_link_is_written_anew(store: Store, content: bytes) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, LAYER), content)
    assert head(store, LAYER) is BlobUnknown
    assert outcomes(by_verifying(store)) == [("link", path, True)]
    assert head(store, LAYER) == 12 and store.driver.get_content(path) == str(LAYER).encode()
    assert_tidy(store)


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_layers_link_is_written_anew_in_a_collection(store: Store, content: bytes) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, LAYER), content)
    assert outcomes(by_collecting(store)) == [("link", path, True)]
    assert head(store, LAYER) == 12
    assert_tidy(store)


def test_what_was_mended_is_nothing_to_restore(store: Store) -> None:
    """Nor what is dangling: with a trash that is kept, both would be back."""
    store.configure(trash=3 * DAY)
    store.image("app", tags=["1"])
    store.put(layout.layer_link(APP, LAYER), b"")
    store.driver.delete(layout.blob_data(CONFIG))
    assert all(damage.repaired for damage in by_collecting(store))
    assert_tidy(store)


def test_a_layers_link_that_leads_nowhere_goes(store: Store) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, LAYER), b"garbage")
    store.driver.delete(layout.blob_data(LAYER))
    assert outcomes(by_verifying(store)) == [
        ("link", path, True),
        ("parts", layout.revision_link(APP, manifest.digest), False),
    ]
    assert not store.has(path)


@EITHER
def test_a_layers_link_is_not_written_to_what_is_empty(store: Store, mend: Mend) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, LAYER), b"")
    data = store.put(layout.blob_data(LAYER), b"")
    assert {("link", path, True), ("empty", data, True)} <= set(outcomes(mend(store)))
    assert not store.has(path) and not store.has(data)


def test_a_link_of_sha512_that_may_have_named_another_blob_stays(store: Store) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, Digest.of(b"layer", "sha512")), b"")
    assert outcomes(by_verifying(store)) == [("link", path, False)]
    assert store.driver.get_content(path) == b""


def test_an_alias_is_no_damage(store: Store) -> None:
    """Distribution keeps what is pushed as SHA-512 under SHA-256."""
    store.image("app", tags=["1"])
    alias = Digest.of(b"layer of app", "sha512")
    store.link(layout.layer_link(APP, alias), LAYER)
    assert by_verifying(store) == [] and head(store, alias) == 12


@EITHER
def test_a_dangling_layers_link_goes(store: Store, mend: Mend) -> None:
    store.image("app", tags=["1"])
    store.driver.delete(layout.blob_data(LAYER))
    path = layout.layer_link(APP, LAYER)
    assert outcomes(mend(store))[0] == ("dangling", path, True)
    assert not store.has(path) and head(store, LAYER) is BlobUnknown and head(store, CONFIG) == 13
    assert_tidy(store)


def test_the_folder_of_layers_stays(store: Store) -> None:
    """Without it, Distribution 2.8 collects the manifests of the repository."""
    store.image("app", tags=["1"])
    for blob in (LAYER, CONFIG):
        store.driver.delete(layout.blob_data(blob))
    assert [damage.kind for damage in by_verifying(store)] == ["dangling", "dangling", "parts"]
    assert store.has(layout.layers(APP)) and store.folders(layout.layers(APP)) == set()


def test_a_dangling_link_whose_blob_comes_meanwhile_stays() -> None:
    for when in ("before", "after"):
        driver, store, manifest = busy()
        driver.delete(layout.blob_data(LAYER))
        path = layout.layer_link(APP, LAYER)
        getattr(driver, when)[path] = lambda store=store: put_blob(local_registry(store.driver), b"layer of app", APP)
        by_verifying(store)
        assert store.is_whole("app", manifest) and head(store, LAYER) == 12
        assert_tidy(store)


# Manifests


@pytest.mark.parametrize("content", OTHERS)
def test_a_manifests_link_is_written_anew(store: Store, content: bytes) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.revision_link(APP, manifest.digest), content)
    assert pull(store, Tag("1")) is ManifestUnknown
    assert outcomes(by_verifying(store)) == [("link", path, True)]
    assert pull(store, Tag("1")) == manifest.digest
    assert_tidy(store)


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_manifests_link_is_written_anew_in_a_collection(store: Store, content: bytes) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.revision_link(APP, manifest.digest), content)
    assert outcomes(by_collecting(store)) == [("link", path, True)]
    assert pull(store, manifest.digest) == manifest.digest


def test_what_a_collection_has_removed_is_not_written_anew(store: Store) -> None:
    manifest = store.image("app")
    path = store.put(layout.revision_link(APP, manifest.digest), b"")
    store.age(path, 10 * DAY)
    assert outcomes(by_collecting(store)) == [("link", path, True)]
    assert not store.has(path) and not store.has(layout.repository(APP))


@pytest.mark.parametrize("bytes", [None, b"{}"])
def test_a_manifests_link_that_leads_to_none_stays(store: Store, bytes: bytes | None) -> None:
    manifest = store.image("app", tags=["1"])
    path = store.put(layout.revision_link(APP, manifest.digest), b"")
    data = layout.blob_data(manifest.digest)
    store.driver.delete(data) if bytes is None else store.put(data, bytes)
    found = by_verifying(store)
    assert ("link", path, False) in outcomes(found) and not any(damage.repaired for damage in found)
    assert store.driver.get_content(path) == b"" and store.has_tag("1")


@EITHER
def test_a_dangling_manifest_and_its_tag_stay(store: Store, mend: Mend) -> None:
    manifest = store.image("app", tags=["1"])
    store.driver.delete(layout.blob_data(manifest.digest))
    path = layout.revision_link(APP, manifest.digest)
    assert ("dangling", path, False) in outcomes(mend(store))
    assert store.has(path) and store.has_tag("1") and pull(store, Tag("1")) is ManifestUnknown


@EITHER
def test_missing_parts_are_told(store: Store, mend: Mend) -> None:
    manifest = store.image("app", tags=["1"])
    store.driver.delete(layout.layer_link(APP, LAYER))
    before = store.files()
    assert outcomes(mend(store)) == [("parts", layout.revision_link(APP, manifest.digest), False)]
    after = store.files()
    assert {path: after[path] for path in before} == before


def test_missing_parts_of_a_mirror_are_no_damage(store: Store) -> None:
    manifest = store.image("app", HUB, tags=["1"])
    store.mirror()
    store.driver.delete(layout.layer_link(HUB, LAYER))
    assert by_verifying(store) == [] and pull(store, manifest.digest, HUB) == manifest.digest


# Tags


@pytest.mark.parametrize("content", UNREADABLE)
@EITHER
def test_a_tag_names_what_was_pushed_last(store: Store, mend: Mend, content: bytes) -> None:
    old, new = store.image("old"), store.image("app")
    store.tag("1", new, pushed=2 * DAY)
    store.tag("1", old, pushed=3 * DAY)
    path = store.put(layout.tag_link(APP, Tag("1")), content)
    assert pull(store, Tag("1")) is ManifestUnknown
    assert outcomes(mend(store)) == [("link", path, True)]
    assert pull(store, Tag("1")) == new.digest
    assert_tidy(store)


def test_a_tag_of_two_that_were_pushed_at_once_stays(store: Store) -> None:
    for what in ("old", "new"):
        store.tag("1", store.image(what), pushed=DAY)
    path = store.put(layout.tag_link(APP, Tag("1")), b"")
    assert outcomes(by_verifying(store)) == [("link", path, False)]
    assert store.driver.get_content(path) == b""


def test_a_tag_does_not_go_back_to_an_older_image(store: Store) -> None:
    old, new = store.image("old"), store.image("app")
    store.tag("1", new, pushed=2 * DAY)
    store.tag("1", old, pushed=3 * DAY)
    store.driver.delete(layout.revision_link(APP, new.digest))
    path = store.put(layout.tag_link(APP, Tag("1")), b"")
    assert outcomes(by_verifying(store)) == [("link", path, False)]
    assert store.driver.get_content(path) == b""


def test_a_tag_without_history_stays(store: Store) -> None:
    manifest = store.image("app", tags=["1"])
    store.driver.delete(layout.tag_history(APP, Tag("1")))
    path = store.put(layout.tag_link(APP, Tag("1")), b"")
    assert outcomes(by_verifying(store)) == [("link", path, False)]
    assert store.has(path) and pull(store, manifest.digest) == manifest.digest


def test_a_tag_and_the_manifest_that_it_names(store: Store) -> None:
    """The second is mended before the first is looked at."""
    for mend in (by_verifying, by_collecting):
        manifest = store.image("app", tags=["1"])
        tag = store.put(layout.tag_link(APP, Tag("1")), b"")
        revision = store.put(layout.revision_link(APP, manifest.digest), b"")
        assert sorted(outcomes(mend(store))) == sorted([("link", revision, True), ("link", tag, True)])
        assert pull(store, Tag("1")) == manifest.digest


def test_a_tag_that_is_pushed_meanwhile_stays() -> None:
    for when in ("before", "after"):
        driver, store, _ = busy()
        new = store.image("new")
        path = store.put(layout.tag_link(APP, Tag("1")), b"")
        # A mirror, say, which takes no guard.
        getattr(driver, when)[path] = lambda store=store, new=new: store.tag("1", new, pushed=NEW)
        assert outcomes(by_verifying(store)) == [("link", path, True)]
        assert pull(store, Tag("1")) == new.digest
        assert_tidy(store)


@EITHER
def test_a_tag_of_what_is_gone_stays(store: Store, mend: Mend) -> None:
    manifest = store.image("app", tags=["1"])
    store.driver.delete(layout.revision_link(APP, manifest.digest))
    path = layout.tag_link(APP, Tag("1"))
    assert ("dangling", path, False) in outcomes(mend(store)) and store.has_tag("1")


# Referrers


@pytest.mark.parametrize("content", [*OTHERS, None])
def test_entries_of_referrers(store: Store, content: bytes | None) -> None:
    """A missing one is written without a word: Distribution, which knows of none, may have taken the push."""
    subject = store.image("app", tags=["1"])
    signature = store.signature(subject)
    path = layout.referrer_link(APP, subject.digest, signature.digest)
    store.driver.delete(path) if content is None else store.put(path, content)
    assert outcomes(by_verifying(store)) == ([] if content is None else [("link", path, True)])
    assert store.driver.get_content(path) == str(signature.digest).encode()
    page = told(local_registry(store.driver).referrers(APP, subject.digest))
    assert [referrer.descriptor.digest for referrer in page.referrers] == [signature.digest]


def test_missing_entries_of_referrers_are_counted(store: Store) -> None:
    subject = store.image("app", tags=["1"])
    signature = store.signature(subject)
    path = layout.referrer_link(APP, subject.digest, signature.digest)
    store.driver.delete(path)
    for repair, written in ((False, 0), (True, 1)):
        verified = Verification(store.driver, store.config, Heard(), repair).run()
        assert (verified.referrers.missing, verified.referrers.written, store.has(path)) == (1, written, repair)


# All of it


def damaged(store: Store) -> dict[str, Digest]:
    """Tags of images that each are damaged in another way."""
    images = {}
    for what in ("digest", "layer", "revision", "tag", "dangling", "manifest", "parts"):
        images[what] = store.image(what, tags=[what]).digest
    layer = {what: Digest.of(f"layer of {what}".encode()) for what in images}
    store.put(layout.blob_data(layer["digest"]), b"other")
    store.put(layout.layer_link(APP, layer["layer"]), b"")
    store.put(layout.revision_link(APP, images["revision"]), b"")
    store.put(layout.tag_link(APP, Tag("tag")), b"")
    store.driver.delete(layout.blob_data(layer["dangling"]))
    store.put(layout.blob_data(images["manifest"]), b"{}")
    store.driver.delete(layout.layer_link(APP, layer["parts"]))
    return images


@EITHER
def test_no_manifest_and_no_tag_goes(store: Store, mend: Mend) -> None:
    images = damaged(store)
    mend(store)
    for tag, digest in images.items():
        assert store.has(layout.revision_link(APP, digest)) and store.has_tag(tag)
        assert store.has(layout.blob_data(digest))


def test_without_repair_nothing_changes(store: Store) -> None:
    damaged(store)
    before = store.files()
    # What a blob of other bytes is, links tell only once it is away.
    assert sorted(damage.kind for damage in by_verifying(store, repair=False)) == sorted(
        ["digest", "link", "link", "link", "dangling", "manifest", "parts"]
    )
    after = store.files()
    assert {path: content for path, content in after.items() if not path.startswith(layout.TRASH)} == before


def asked(root: Path, folder: Path, images: dict[str, Digest]) -> tuple[dict[str, int], dict[str, int]]:
    """What Distribution says of each image by its tag, and of its layer."""
    with Distribution(root, folder) as distribution:
        client = distribution.connect()
        manifests = {what: client.manifest(APP, what).status for what in images}
        layers = {what: Digest.of(f"layer of {what}".encode()) for what in images}
        blobs = {what: client.ask("HEAD", f"/v2/{APP}/blobs/{layers[what]}").status for what in images}
        client.close()
    return manifests, blobs


def test_distribution_on_a_repaired_tree(tmp_path: Path) -> None:
    store = Store(FilesystemDriver(str(tmp_path / "store")))
    images = damaged(store)
    manifests, blobs = asked(tmp_path / "store", tmp_path / "before", images)
    assert blobs["digest"] == 200 and 200 not in (blobs["layer"], manifests["revision"], manifests["tag"])
    by_verifying(store)
    manifests, blobs = asked(tmp_path / "store", tmp_path / "after", images)
    assert {what for what, status in manifests.items() if status == 200} == images.keys() - {"manifest"}
    assert {what for what, status in blobs.items() if status == 404} == {"digest", "dangling", "parts"}
    assert {what for what, status in blobs.items() if status == 200} == {"layer", "revision", "tag", "manifest"}


class FullDriver(MemoryDriver):
    """A storage that has no room for links."""

    full = False

    def put_content(self, path: str, content: bytes, above: bool = False) -> None:
        if self.full and path.endswith("/mended"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        super().put_content(path, content, above)


@EITHER
def test_what_fails_to_be_mended_is_told(mend: Mend) -> None:
    driver = FullDriver()
    store = Store(driver)
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, LAYER), b"")
    driver.full = True
    (damage,) = mend(store)
    assert (damage.path, damage.repaired) == (path, False) and "No space left" in damage.detail
    assert driver.get_content(path) == b""


class KilledDriver(MemoryDriver):
    """A storage whose collector is killed at the nth step that changes the tree."""

    left = 0

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise SystemError("killed")
        if self.left < 0 and self.left > -1000:
            raise SystemError("dead")

    def set_aside(self, path: str, aside: str) -> None:
        self._step()
        super().set_aside(path, aside)

    def put_back(self, aside: str, path: str) -> bool:
        self._step()
        return super().put_back(aside, path)

    def discard(self, path: str) -> None:
        self._step()
        super().discard(path)


def test_a_killed_repair_is_finished_by_the_next() -> None:
    """At whatever step: the next one finds either what was, or what shall be."""
    step, killed = 1, True
    while killed:
        driver = KilledDriver()
        store: Store = Store(driver)
        images = damaged(store)
        driver.left = step
        try:
            by_verifying(store)
            killed = False
        except SystemError:
            driver.close()
        driver.left = -1000
        by_verifying(store)
        for what in ("layer", "revision", "tag"):
            assert pull(store, Tag(what)) == images[what], (step, what)
            assert head(store, Digest.of(f"layer of {what}".encode())) == len(f"layer of {what}"), (step, what)
        assert head(store, Digest.of(b"layer of digest")) is BlobUnknown
        assert list(set_aside(store).values()) == [b"other"]
        assert_tidy(store)
        step += 1
    assert step > 8


# The command


@pytest.fixture
def configured(tmp_path: Path) -> tuple[Store, str]:
    """A store of files, and a configuration that names it."""
    root = tmp_path / "store"
    root.mkdir()
    config = tmp_path / "config.yml"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\n")
    return Store(FilesystemDriver(str(root)), now=root.stat().st_mtime), str(config)


def test_a_collection_mends_only_where_it_is_told_to(configured: tuple[Store, str]) -> None:
    store, config = configured
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, LAYER), b"")
    done = CliRunner().invoke(commands, ["--json", config])
    (damage,) = json.loads(done.stdout)["damage"]
    assert done.exit_code == 3 and not damage["repaired"] and store.driver.get_content(path) == b""
    done = CliRunner().invoke(commands, ["--json", "--repair", config])
    assert done.exit_code == 3 and json.loads(done.stdout)["damage"] == [{**damage, "repaired": True}]
    assert f"{path}: empty (repaired)" in done.stderr
    done = CliRunner().invoke(commands, ["--repair", config])
    assert done.exit_code == 0 and "damage" not in done.output


def test_a_dry_run_mends_nothing(configured: tuple[Store, str]) -> None:
    done = CliRunner().invoke(commands, ["--repair", "--dry-run", configured[1]])
    assert done.exit_code != 0 and "leave --dry-run out" in done.output
