"""What a run finds damaged, and that it then removes nothing that might be needed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from registryd.model import OCI_MANIFEST
from registryd.reference import Digest, Tag
from registryd.storage import layout
from registryd.storage.interfaces import Leaf
from registryd.storage.memory import MemoryDriver

from .trees import APP, NEW, OTHER, Store, manifest_of


class FaultyDriver(MemoryDriver):
    """Does not give out the content of one path."""

    faulty = ""

    def get_content(self, path: str) -> bytes:
        if path == self.faulty:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().get_content(path)


def kinds(store: Store, **options: bool) -> list[str]:
    return [damage.kind for damage in store.collect(untagged_go=True, **options).damage]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe"])
def test_a_tag_that_cannot_be_read_keeps_its_history(store: Store, content: bytes) -> None:
    first, second, other = store.image("first"), store.image("second"), store.image("other")
    for manifest in (first, second):
        store.tag("1", manifest)
    path = store.put(layout.tag_link(APP, Tag("1")), content)
    (damage,) = store.collect(untagged_go=True).damage
    assert (damage.kind, damage.path) == ("link", path)
    assert store.is_whole("first", first) and store.is_whole("second", second) and not store.is_whole("other", other)


def test_a_tag_whose_link_is_a_folder_keeps_its_history(store: Store) -> None:
    kept = store.image("app", tags=["1"])
    path = layout.tag_link(APP, Tag("1"))
    store.driver.delete(path)
    store.put(f"{path}/what", b"")
    (damage,) = store.collect(untagged_go=True).damage
    assert (damage.kind, damage.path) == ("link", path)
    assert store.is_whole("app", kept)


def test_a_tag_that_the_disk_does_not_give_out_keeps_its_history() -> None:
    driver = FaultyDriver()
    store = Store(driver)
    kept = store.image("app", tags=["1"])
    driver.faulty = layout.tag_link(APP, Tag("1"))
    (damage,) = store.collect(untagged_go=True).damage
    assert (damage.kind, damage.path) == ("link", driver.faulty)
    assert store.is_whole("app", kept)


def test_a_tag_of_what_is_gone(store: Store) -> None:
    kept = store.image("app", tags=["1"])
    store.driver.delete(layout.revision_link(APP, kept.digest))
    assert kinds(store) == ["dangling"]
    assert store.has_tag("1")


@pytest.mark.parametrize("content", [b"", b"sha256:short"])
def test_a_revision_that_cannot_be_read_keeps_its_manifest(store: Store, content: bytes) -> None:
    kept = store.image("app", tags=["1"])
    store.put(layout.revision_link(APP, kept.digest), content)
    assert kinds(store) == ["link"]
    assert store.is_whole("app", kept)


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}"])
def test_bytes_of_a_manifest_that_are_not_its_own_stop_all_deletion_of_blobs(store: Store, content: bytes) -> None:
    broken = store.image("broken")
    untagged = store.image("untagged")
    elsewhere = store.image("elsewhere", OTHER)
    loose = store.layer(b"loose")
    store.put(layout.blob_data(broken.digest), content)
    report = store.collect(untagged_go=True)
    assert [(damage.kind, damage.path) for damage in report.damage] == [
        ("manifest", layout.blob_data(broken.digest)),
    ]
    assert report.blobs.removed == 0 and store.has_blob(b"loose")
    # Here all may be parts of it; elsewhere not, but for the blobs.
    assert store.is_whole("untagged", untagged) and store.has(layout.layer_link(APP, loose))
    assert not store.has(layout.repository(OTHER)) and store.has_blob(elsewhere.content)


class FailingDriver(MemoryDriver):
    """A memory driver that cannot read what lies below some path."""

    failing = "?"

    def get_content(self, path: str) -> bytes:
        if path.startswith(self.failing):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().get_content(path)


def test_a_manifest_that_the_disk_does_not_give_stops_all_deletion_of_blobs() -> None:
    driver = FailingDriver()
    store = Store(driver)
    kept = store.image("app", tags=["1"])
    store.layer(b"loose")
    driver.failing = layout.blob_data(kept.digest)
    assert kinds(store) == ["manifest"]
    assert store.has_blob(b"loose") and store.has(layout.layer_link(APP, Digest.of(b"layer of app")))


def test_a_manifest_whose_bytes_are_missing(store: Store) -> None:
    """Nothing can tell any more what it needed: others are collected as ever."""
    kept = store.image("app", tags=["1"])
    store.layer(b"loose")
    store.driver.delete(layout.blob_data(kept.digest))
    report = store.collect(untagged_go=True)
    assert [(damage.kind, damage.path) for damage in report.damage] == [
        ("dangling", layout.revision_link(APP, kept.digest))
    ]
    assert store.has_tag("1") and not store.has_blob(b"loose")


def test_a_layer_whose_link_is_missing(store: Store) -> None:
    kept = store.image("app", tags=["1"])
    layer = Digest.of(b"layer of app")
    store.driver.delete(layout.layer_link(APP, layer))
    (damage,) = store.collect().damage
    assert (damage.kind, damage.path) == ("parts", layout.revision_link(APP, kept.digest))
    assert str(layer) in damage.detail and store.has_blob(b"layer of app")


def test_a_layer_whose_link_cannot_be_read(store: Store) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, Digest.of(b"layer of app")), b"")
    (damage,) = store.collect().damage
    assert (damage.kind, damage.path) == ("link", path)
    assert store.has_blob(b"layer of app") and store.has(path)


def test_a_layer_whose_bytes_are_missing(store: Store) -> None:
    store.image("app", tags=["1"])
    layer = Digest.of(b"layer of app")
    store.driver.delete(layout.blob_data(layer))
    (damage,) = store.collect().damage
    assert (damage.kind, damage.path) == ("dangling", layout.layer_link(APP, layer))


def test_a_layer_that_is_empty(store: Store) -> None:
    empty = store.layer(b"")
    store.image("app", tags=["1"], layers=[b""])
    assert kinds(store) == [] and store.has(layout.blob_data(empty))
    path = store.put(layout.blob_data(Digest.of(b"layer of app")), b"")
    (damage,) = store.collect().damage
    assert (damage.kind, damage.path) == ("empty", path)


def test_a_child_that_is_missing(store: Store) -> None:
    child = store.image("child")
    parent = store.index(child, tags=["1"])
    store.driver.delete(layout.revision_link(APP, child.digest))
    (damage,) = store.collect().damage
    assert (damage.kind, damage.path) == ("parts", layout.revision_link(APP, parent.digest))


def test_damage_of_what_goes_is_gone(store: Store) -> None:
    gone = store.image("app")
    store.driver.delete(layout.layer_link(APP, Digest.of(b"layer of app")))
    assert kinds(store) == [] and not store.has_manifest(gone)


def test_a_tag_that_tells_nothing_and_has_no_history_keeps_all(store: Store) -> None:
    kept = store.image("app", tags=["1"])
    store.driver.delete(layout.tag_history_link(APP, Tag("1"), kept.digest))
    store.put(layout.tag_link(APP, Tag("1")), b"garbage")
    assert kinds(store) == ["link"]
    assert store.is_whole("app", kept)


@pytest.mark.parametrize("repair", [False, True])
def test_folders_in_the_place_of_content(store: Store, repair: bool) -> None:
    orphan = layout.blob_data(Digest.of(b"orphan"))
    store.image("app", tags=["1"])
    link = layout.tag_link(APP, Tag("1"))
    store.driver.delete(link)
    for path in (orphan, link):
        store.put(f"{path}/what", b"")
    found = store.collect(repair=repair).damage
    assert [(damage.kind, damage.path, damage.repaired) for damage in found] == [
        ("link", link, False),
        ("empty", orphan, False),
    ]
    assert store.has(f"{orphan}/what")


class DoublingDriver(MemoryDriver):
    """Lists each folder's names twice, as network file systems may while others beside them are removed."""

    def leaves(self, path: str, leaf: str, others: bool) -> Iterator[Leaf]:
        found = list(super().leaves(path, leaf, others))
        return iter([*found, *found])


def test_what_is_listed_twice_is_no_less_needed() -> None:
    store = Store(DoublingDriver())
    kept, gone = store.image("kept", tags=["1"]), store.image("gone")
    store.collect(untagged_go=True)
    assert store.is_whole("kept", kept) and not store.is_whole("gone", gone)


def aliased(store: Store, content: bytes = b"layer") -> str:
    """An image whose layer Distribution keeps under sha256; the path of the link by the digest that the image names."""
    stored, alias = store.layer(content), Digest.of(content, "sha512")
    config = store.layer(b"config")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": str(config), "size": 6},
        "layers": [{"mediaType": "application/x", "digest": str(alias), "size": len(content)}],
    }
    store.manifest(manifest_of(document), tags=["1"])
    return store.link(layout.layer_link(APP, alias), stored)


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_an_alias_that_cannot_be_read_keeps_what_it_may_name(store: Store, content: bytes) -> None:
    path = aliased(store)
    store.layer(b"garbage of this repository")
    store.put(path, content)
    (damage,) = store.collect(untagged_go=True).damage
    assert (damage.kind, damage.path) == ("link", path)
    assert store.has_blob(b"layer") and store.has(layout.layer_link(APP, Digest.of(b"layer")))


def test_an_alias_whose_blob_is_missing_is_told_until_it_is_mended(store: Store) -> None:
    path = aliased(store)
    store.driver.delete(layout.blob_data(Digest.of(b"layer")))
    for _ in range(2):
        assert path in [damage.path for damage in store.collect().damage if damage.kind == "dangling"]
    store.collect(repair=True)
    assert not store.has(path)
    (damage,) = store.collect().damage
    assert damage.kind == "parts" and str(Digest.of(b"layer", "sha512")) in damage.detail


@pytest.mark.parametrize("chosen", [(), ("elsewhere",)], ids=["all", "another repository alone"])
def test_an_alias_that_the_disk_does_not_give_out_keeps_all_blobs(chosen: tuple[str, ...]) -> None:
    driver = FaultyDriver()
    store = Store(driver)
    driver.faulty = store.link(layout.layer_link(APP, Digest.of(b"layer", "sha512")), store.blob(b"layer"), NEW)
    store.blob(b"garbage")
    (damage,) = store.collect(globs=chosen).damage
    assert (damage.kind, damage.path) == ("link", driver.faulty)
    assert store.has_blob(b"layer") and store.has_blob(b"garbage")
