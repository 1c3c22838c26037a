"""What is cached of upstreams: expiry, eviction, and that it touches nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from registryd.model import Manifest
from registryd.reference import Digest, RepositoryName, Tag
from registryd.storage import layout
from registryd.storage.memory import MemoryDriver
from registryd_gc import mirror
from registryd_gc.census import Revision

from .trees import APP, DAY, HUB, Store, image

HOUR = 3600.0
SECOND = RepositoryName("docker.io/library/alpine")


def cached(store: Store, what: str, used: float, name: RepositoryName = HUB, size: int = 1000) -> Manifest:
    """An image in a mirrored repository: its layer has a size, and all of it was last used some seconds ago."""
    store.mirror(name)
    layer = f"layer of {what}".encode().ljust(size)
    for blob in (b"{}", layer):
        store.layer(blob, name, used)
    return store.manifest(image(b"{}", layer), name, [what], used)


def size_of(*images: Manifest, size: int = 1000) -> int:
    return 2 + sum(len(image.content) + size for image in images)


def test_manifests_are_read_once() -> None:
    read: list[str] = []

    class WatchingDriver(MemoryDriver):
        def get_content(self, path: str) -> bytes:
            read.append(path)
            return super().get_content(path)

    store = Store(WatchingDriver())
    found = cached(store, "cached", HOUR)
    store.collect()
    assert read.count(layout.blob_data(found.digest)) == 1


def test_nothing_expires_without_a_proxy_or_a_ttl(store: Store) -> None:
    old = cached(store, "old", 1000 * DAY)
    store.image("app", tags=["1"])
    for configure in (lambda: None, lambda: store.proxy(ttl=None)):
        configure()
        report = store.collect(untagged_go=True)
        assert (report.mirror.manifests_expired, report.manifests.removed) == (0, 0)
        assert report.mirror.bytes == size_of(old)
    assert store.has_manifest(old, HUB)


def test_what_was_not_used_for_its_time_goes(store: Store) -> None:
    old, recent = cached(store, "old", 8 * DAY), cached(store, "recent", 6 * DAY)
    cached(store, "alone", 8 * DAY, SECOND)
    store.put(layout.upstream_tags(SECOND), b"[]")
    store.proxy()
    for options in ({"dry_run": True}, {}):
        report = store.collect(**options)
        assert (report.mirror.manifests_expired, report.mirror.bytes) == (2, size_of(recent))
        assert report.mirror.expired_bytes == size_of(old) - 2 + 1000 + len(old.content)
        assert (report.manifests.removed, report.tags.removed, report.repositories.removed) == (2, 2, 1)
        assert (report.blobs.removed, report.blobs.removed_bytes) == (4, report.mirror.expired_bytes)
    assert store.has_manifest(recent, HUB) and not store.has_manifest(old, HUB)
    assert not store.has(layout.tag(HUB, Tag("old"))) and not store.has(layout.repository(SECOND))
    assert {path for path in store.folders() if "alpine" in path} == set()


def test_a_tag_that_is_used_keeps_its_image(store: Store) -> None:
    child = cached(store, "child", 100 * DAY)
    parent = store.index(child, name=HUB)
    store.tag("both", parent, HUB, pushed=100 * DAY, used=6 * DAY)
    store.proxy()
    assert store.collect().mirror.manifests_expired == 0
    store.age(layout.tag_link(HUB, Tag("both")), 8 * DAY)
    assert store.collect().mirror.manifests_expired == 2


@pytest.mark.parametrize("young", [layout.upstream_tags(HUB), layout.mirror(HUB)])
def test_a_repository_stays_for_what_is_young_in_it(store: Store, young: str) -> None:
    cached(store, "old", 8 * DAY)
    store.put(young, b"docker.io", HOUR)
    store.proxy()
    dry, real = (store.collect(dry_run=dry_run) for dry_run in (True, False))
    assert (real.manifests.removed, real.repositories.removed, real.repositories.kept) == (1, 0, 1)
    assert dry.repositories == real.repositories and store.has(young)


def test_a_blob_that_was_pulled_by_itself_expires_by_itself(store: Store) -> None:
    store.mirror()
    for content, age in ((b"old", 8 * DAY), (b"recent", 6 * DAY)):
        store.layer(content, HUB, age)
    store.proxy()
    report = store.collect()
    assert (store.has_blob(b"old"), store.has_blob(b"recent")) == (False, True)
    assert (report.links.removed, report.mirror.bytes, report.mirror.expired_bytes, report.blobs.young) == (1, 6, 3, 0)


def test_private_images_never_expire(store: Store) -> None:
    private = store.image("app", HUB, tags=["1"], age=100 * DAY)
    store.proxy(max_size=1)
    for options in ({}, {"expired_only": True}, {"expired_only": True, "evict": True}):
        assert store.collect(**options).mirror.manifests_expired == 0
    assert store.is_whole("app", private, HUB)


def test_what_a_private_repository_shares_stays(store: Store) -> None:
    shared = store.image("shared", tags=["1"])
    store.mirror()
    store.image("shared", HUB, tags=["1"], age=8 * DAY)
    assert store.collect().mirror.bytes == 0
    store.proxy()
    report = store.collect()
    assert (report.mirror.expired_bytes, report.mirror.bytes, report.blobs.removed) == (0, 0, 0)
    assert store.is_whole("shared", shared) and not store.has(layout.repository(HUB))


def test_room_is_not_taken_by_what_a_private_repository_shares(store: Store) -> None:
    shared = b"shared".ljust(5000)
    store.image("app", tags=["1"], layers=[shared])
    store.mirror()
    store.layer(shared, HUB, 3 * DAY)
    base = store.manifest(image(b"{}", shared), HUB, ["base"], 3 * DAY)
    images = [cached(store, f"image{number}", (4 + number) * DAY) for number in range(3)]
    store.proxy(ttl=None, max_size=4 * len(images[0].content) + 2500)
    assert store.collect().mirror.manifests_evicted == 1
    assert [store.has_manifest(one, HUB) for one in (base, *images)] == [True, True, True, False]


def test_least_recently_used_first(store: Store) -> None:
    images = [cached(store, f"image{number}", (2 + number) * DAY) for number in range(5)]
    one = size_of(images[0]) - 2
    store.proxy(ttl=None, max_size=5 * one)
    report = store.collect()
    assert [store.has_manifest(image, HUB) for image in images] == [True] * 4 + [False]
    assert (report.mirror.manifests_evicted, report.mirror.evicted_bytes) == (1, one)
    assert (report.mirror.bytes, report.blobs.removed_bytes) == (4 * one + 2, one)
    assert store.collect().mirror.manifests_evicted == 0


def test_room_counts_the_oldest_of_all_repositories(store: Store) -> None:
    old, recent = cached(store, "old", 5 * HOUR), cached(store, "recent", 3 * HOUR, SECOND)
    store.proxy(max_size=size_of(old) * 3 // 2)
    store.collect(expired_only=True)
    assert (store.has_manifest(old, HUB), store.has_manifest(recent, SECOND)) == (False, True)
    assert not store.has_blob(old.content)


def test_eviction_at_once(store: Store) -> None:
    """What the daemon runs when the disk is full: a tenth goes, though less than a day old."""
    images = [cached(store, f"image{number}", (3 + number) * HOUR) for number in range(10)]
    store.image("app", tags=["1"])
    loose = store.layer(b"loose")
    # Nine tenths of ten images and the config that they share are no nine images with it.
    for max_size, evicted in ((None, 2), (10**9, 1)):
        store.proxy(max_size=max_size)
        report = store.collect(expired_only=True, evict=True)
        assert report.mirror.manifests_evicted == evicted
    assert [store.has_manifest(image, HUB) for image in images] == [True] * 7 + [False] * 3
    assert store.has(layout.layer_link(APP, loose)) and store.has_blob(b"loose")


def test_what_was_used_lately_is_not_evicted(store: Store) -> None:
    images = [cached(store, f"image{number}", 1.9 * HOUR) for number in range(3)]
    store.proxy(max_size=1)
    report = store.collect()
    assert report.mirror.manifests_evicted == 0 and all(store.has_manifest(image, HUB) for image in images)
    assert "last two hours" in store.heard.notes[0]


def test_a_private_push_keeps_what_is_evicted(store: Store) -> None:
    """A blob that was mounted just now from a mirrored repository."""
    evicted = cached(store, "old", 5 * HOUR)
    layer = Digest.of(b"layer of old".ljust(1000))
    store.link(layout.layer_link(APP, layer), layer, 0)
    store.proxy(max_size=1)
    store.collect(expired_only=True)
    assert not store.has_manifest(evicted, HUB)
    assert store.has(layout.blob_data(layer)) and not store.has_blob(evicted.content)


def test_expired_only_leaves_all_else(store: Store) -> None:
    old = cached(store, "old", 8 * DAY)
    untagged = store.image("untagged")
    loose = store.layer(b"loose")
    upload = store.upload("old")
    store.proxy()
    report = store.collect(expired_only=True, untagged_go=True)
    assert not store.has_manifest(old, HUB) and store.is_whole("untagged", untagged)
    assert store.has(layout.layer_link(APP, loose)) and store.has_blob(b"loose") and store.has(upload)
    assert (report.blobs.removed, report.manifests.removed, report.damage) == (3, 1, [])


def test_untagged_go_and_rules_are_for_private_repositories(store: Store) -> None:
    cached(store, "kept", 6 * DAY)
    store.driver.delete(layout.tag(HUB, Tag("kept")))
    tagged = cached(store, "tagged", 6 * DAY)
    store.proxy()
    store.retain(keep_newest=0)
    assert store.collect(untagged_go=True).manifests.kept == 2
    assert store.has_manifest(tagged, HUB)


def test_missing_parts_are_no_damage(store: Store) -> None:
    store.mirror()
    store.manifest(image(b"not", b"fetched"), HUB, ["1"])
    assert store.collect().damage == []


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b"[" * 100_000])
@pytest.mark.parametrize("at_once", [{"expired_only": True}, {}])
def test_a_cached_manifest_that_cannot_be_read_goes_like_any_other(
    store: Store, content: bytes, at_once: dict[str, bool]
) -> None:
    """Upstreams answer with anything; and what is lost with it is fetched again."""
    for name in (HUB, SECOND):
        cached(store, "old", 8 * DAY, name)
        store.manifest(Manifest("application/json", Digest.of(content), content), name, ["broken"], 8 * DAY)
    garbage = store.blob(b"garbage of a private repository")
    store.proxy()
    report = store.collect(**at_once)
    assert {damage.kind for damage in report.damage} == {"manifest"}
    assert report.mirror.bytes == 0 and not store.has(layout.blob_data(Digest.of(content)))
    assert store.has(layout.blob_data(garbage)) == ("expired_only" in at_once)
    assert not store.collect().damage


@pytest.mark.parametrize("at_once", [{"expired_only": True, "evict": True}, {"expired_only": True}, {}])
def test_a_private_manifest_that_cannot_be_read_keeps_nothing_that_is_cached(
    store: Store, at_once: dict[str, bool]
) -> None:
    """Nothing but what its own repository has."""
    broken = store.image("broken", tags=["1"])
    store.put(layout.blob_data(broken.digest), b"garbage")
    old, shared = cached(store, "old", 8 * DAY), cached(store, "shared", 8 * DAY)
    store.layer(b"layer of shared".ljust(1000))
    garbage = store.blob(b"garbage of a private repository")
    store.proxy(max_size=1)
    report = store.collect(**at_once)
    assert not store.has_blob(b"layer of old".ljust(1000)) and not store.has_manifest(old, HUB)
    assert not store.has_manifest(shared, HUB) and store.has_blob(b"layer of shared".ljust(1000))
    assert store.is_whole("broken", broken) and store.has(layout.blob_data(garbage))
    assert report.mirror.bytes == 0
    assert store.heard.notes == ["a manifest or a link cannot be read: only cached blobs are removed in this run"]


def test_what_a_private_repository_holds_does_not_count(store: Store) -> None:
    """Also where no manifest needs it: such a run takes nothing of private repositories."""
    shared, own = cached(store, "shared", 8 * HOUR), cached(store, "own", 9 * HOUR)
    store.layer(b"layer of shared".ljust(1000))
    store.proxy(ttl=None, max_size=size_of(own) + len(shared.content))
    report = store.collect(expired_only=True)
    assert (report.mirror.manifests_evicted, report.mirror.bytes) == (0, size_of(own) + len(shared.content))


def test_a_private_link_that_cannot_be_read_keeps_all_that_is_cached() -> None:
    """It may be the name of what is cached, whose bytes are nowhere else."""

    class FailingDriver(MemoryDriver):
        failing = ""

        def get_content(self, path: str) -> bytes:
            if path == self.failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return super().get_content(path)

    store = Store(driver := FailingDriver())
    old = cached(store, "old", 8 * DAY)
    layer = Digest.of(b"layer of old".ljust(1000))
    driver.failing = store.link(layout.layer_link(APP, Digest.of(b"layer of old".ljust(1000), "sha512")), layer)
    store.proxy(max_size=1)
    report = store.collect(expired_only=True)
    assert store.has_manifest(old, HUB) and store.has(layout.blob_data(layer))
    assert report.mirror.bytes == size_of(old) and report.blobs.removed == 0
    assert store.heard.notes[-1] == "a manifest or a link cannot be read: no blob is removed in this run"


@pytest.mark.parametrize("at_once", [{"expired_only": True, "evict": True}, {"expired_only": True}, {}])
def test_what_is_evicted_is_not_kept_in_the_trash(store: Store, at_once: dict[str, bool]) -> None:
    for number in range(3):
        cached(store, f"image{number}", (3 + number) * DAY)
    store.proxy(ttl=None, max_size=1000)
    store.configure(trash=3 * DAY)
    report = store.collect(**at_once)
    assert report.mirror.manifests_evicted == 3 and report.blobs.removed_bytes > 3000
    assert sum(len(content) for content, _ in store.files().values()) < 1000
    assert not store.has(layout.repository(HUB))


def test_a_mirror_that_holds_nothing_goes(store: Store) -> None:
    store.mirror()
    store.mirror(SECOND)
    tags = store.put(layout.upstream_tags(SECOND), b"[]", age=0)
    assert store.collect(expired_only=True).repositories.removed == 1
    assert not store.has(layout.repository(HUB))
    # Without the mark, what the upstream told would be a private repository's.
    assert store.has(tags) and store.has(layout.mirror(SECOND))
    store.age(tags, 2 * DAY)
    store.collect(expired_only=True)
    assert not store.has(layout.repository(SECOND))


@pytest.mark.parametrize("newest_first", [False, True])
def test_deep_indexes_are_walked_once(store: Store, newest_first: bool) -> None:
    store.mirror()
    depth = 300
    index = store.manifest(image(b"{}", b"layer"), HUB, age=30 * DAY)
    for level in range(depth):
        index = store.index(index, name=HUB, age=30 * DAY + (-level if newest_first else level))
    store.proxy(ttl=None, max_size=store.collect(dry_run=True).mirror.bytes - 1)
    walked = 0
    of = mirror.parts_of

    def counted(revision: Revision) -> Iterator[bytes]:
        nonlocal walked
        walked += 1
        return of(revision)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "parts_of", counted)
        assert store.collect(dry_run=True).mirror.manifests_evicted > 0
    assert walked < 5 * depth


def test_a_dry_run_tells_which_mirrors_stay(store: Store) -> None:
    """An upload, and a young entry in a tag's history, are left by the run too."""
    old = cached(store, "old", 8 * DAY)
    store.upload("open", name=HUB, age=0)
    cached(store, "1", 8 * DAY, SECOND)
    store.link(layout.tag_history_link(SECOND, Tag("1"), old.digest), old.digest, 0)
    store.proxy()
    for dry_run in (True, False):
        assert store.collect(expired_only=True, dry_run=dry_run).repositories.removed == 0


def unfinished(store: Store, content: bytes, age: float) -> str:
    """A part of a blob that came from an upstream."""
    return store.upload(layout.fill_id(Digest.of(b"whole of " + content)), content, HUB, age)


def test_what_came_in_part_gives_way_first(store: Store) -> None:
    store.mirror()
    kept = store.image("kept", HUB, tags=["1"], age=3 * HOUR)
    left, coming = unfinished(store, b"x" * 5000, 3 * HOUR), unfinished(store, b"y" * 100, HOUR)
    store.proxy(ttl=None, max_size=5000)
    report = store.collect(expired_only=True)
    assert (report.uploads.removed, report.uploads.removed_bytes >= 5000) == (1, True)
    assert not store.has(left) and store.has(coming) and store.is_whole("kept", kept, HUB)
    assert report.mirror.evicted_bytes == 0


def test_what_is_coming_takes_room(store: Store) -> None:
    kept, gone = cached(store, "kept", 3 * HOUR), cached(store, "gone", 4 * HOUR)
    coming = unfinished(store, b"y" * 1000, HOUR)
    store.proxy(ttl=None, max_size=3000)
    assert size_of(kept) + size_of(gone) < 3000
    store.collect()
    assert store.has(coming) and store.has_blob(kept.content) and not store.has_blob(gone.content)


def test_what_came_in_part_stays_while_there_is_room(store: Store) -> None:
    store.mirror()
    store.image("kept", HUB, tags=["1"])
    left = unfinished(store, b"x" * 5000, 3 * HOUR)
    store.proxy(ttl=None, max_size=100_000)
    assert store.collect(expired_only=True).uploads.removed == 0 and store.has(left)
    assert store.collect(expired_only=True, evict=True, dry_run=True).uploads.removed == 1 and store.has(left)
    assert store.collect(expired_only=True, evict=True).uploads.removed == 1 and not store.has(left)
