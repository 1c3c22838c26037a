"""Which tags rules let go, and what goes with them."""

from __future__ import annotations

from registryd.storage import layout

from .trees import APP, DAY, NEW, Store, listed


def tags(store: Store) -> str:
    return "".join(tag for tag in "abcdefgh" if store.has_tag(tag))


def pushed(store: Store, **days: float) -> None:
    """Push an image for each tag, days ago."""
    for tag, ago in days.items():
        store.image(tag, tags=[tag], age=ago * DAY)


def test_nothing_without_rules(store: Store) -> None:
    pushed(store, a=1000, b=100)
    store.collect(untagged_go=True)
    assert (tags(store), store.heard.why) == ("ab", [])


def test_the_newest_stay_and_the_rest_goes_with_its_images(store: Store) -> None:
    pushed(store, a=5, b=3, c=9, d=7)
    store.retain(keep_newest=2)
    report = store.collect()
    assert tags(store) == "ab"
    assert (report.tags.removed, report.manifests.removed, report.blobs.removed, report.links.removed) == (2, 2, 6, 4)


def test_rules_count_pushes_and_not_pulls(store: Store) -> None:
    pushed(store, a=5, b=9)
    image = store.image("c")
    store.tag("c", image, pushed=20 * DAY, used=2 * DAY)
    store.retain(keep_newest=2)
    store.collect()
    assert tags(store) == "ab"


def test_cosign_tags_are_not_counted_and_go_with_their_image(store: Store) -> None:
    pushed(store, a=9, b=8)
    image = store.image("c", tags=["c"], age=7 * DAY)
    signature = f"sha256-{image.digest.hex}.sig"
    signed = store.image("signature", tags=[signature], age=2 * DAY)
    store.retain(keep_newest=3)
    store.collect()
    assert (tags(store), store.has_tag(signature)) == ("abc", True)
    store.retain(keep_newest=0, keep_tags=("a", "b"))
    report = store.collect()
    assert (tags(store), store.has_tag(signature), report.tags.removed) == ("ab", False, 2)
    assert not store.is_whole("c", image) and not store.is_whole("signature", signed)


def test_nothing_is_left_of_a_tag_whose_image_another_keeps(store: Store) -> None:
    store.image("app", tags=["a", "b"])
    store.retain(keep_newest=0, keep_tags=("a",))
    store.collect()
    assert [entry.name for entry in store.driver.entries(layout.tags(APP))] == ["a"]


def test_keeptags_and_deletes(store: Store) -> None:
    pushed(store, a=40, b=41, c=42, d=5)
    store.retain(delete_older=30 * DAY, keep_tags=("b",), keep_newest=2)
    store.collect()
    assert tags(store) == "abd"


def test_unused(store: Store) -> None:
    pushed(store, a=40)
    store.tag("b", store.image("b"), pushed=50 * DAY, used=5 * DAY)
    store.retain(delete_unused=30 * DAY)
    store.collect()
    assert tags(store) == "b"


def test_what_was_used_within_the_grace_stays(store: Store) -> None:
    pushed(store, a=40, b=2)
    store.tag("a", store.image("a", age=40 * DAY), pushed=40 * DAY, used=NEW)
    store.retain(keep_newest=1)
    store.collect()
    assert tags(store) == "ab"
    assert "used within the grace" in store.heard.why[1]


def test_what_was_used_lately_by_another_tag_stays_by_that(store: Store) -> None:
    pushed(store, b=40)
    image = store.image("a")
    store.tag("a", image, pushed=50 * DAY)
    store.tag("c", image, pushed=2 * DAY, used=NEW)
    store.age(layout.revision_link(APP, image.digest), NEW)
    store.retain(keep_newest=1)
    store.collect()
    assert tags(store) == "c" and store.is_whole("a", image)


def test_an_image_that_was_pulled_lately_by_its_digest_keeps_its_tag(store: Store) -> None:
    pushed(store, a=40, b=2)
    for path in store.files():
        if "/revisions/" in path:
            store.age(path, NEW)
    store.retain(keep_newest=1)
    store.collect()
    assert tags(store) == "ab"


def test_what_another_needs_stays(store: Store) -> None:
    arm = store.image("arm", tags=["a"], age=40 * DAY)
    store.index(arm, tags=["b"], age=2 * DAY)
    store.retain(keep_newest=1)
    report = store.collect()
    assert tags(store) == "b" and store.is_whole("arm", arm)
    assert (report.tags.removed, report.manifests.removed) == (1, 0)


def test_children_and_signatures_go_along(store: Store) -> None:
    arm = store.image("arm")
    both = store.index(arm, tags=["a"])
    store.signature(both)
    bystander = store.image("bystander", subject=listed(arm))
    untagged = store.image("untagged")
    pushed(store, b=2)
    store.retain(keep_newest=1)
    report = store.collect()
    assert tags(store) == "b" and store.is_whole("untagged", untagged)
    assert not store.has_manifest(bystander)
    assert report.manifests.removed == 4


def test_a_dry_run_explains_each_decision(store: Store) -> None:
    pushed(store, a=40, b=2)
    store.retain(keep_newest=1)
    store.collect(dry_run=True)
    assert store.heard.why == [f"{APP}:b: stays: among the newest 1", f"{APP}:a: goes: not among the newest 1"]
    assert f"{APP}: tag a" in store.heard.lines
    assert tags(store) == "ab"


def test_only_the_first_rule_counts(store: Store) -> None:
    pushed(store, a=40, b=2)
    store.retain(keep_newest=1, repositories=("team/?pp",))
    first = store.config.collection.retention
    store.retain(keep_newest=0)
    store.configure(retention=first + store.config.collection.retention)
    store.collect()
    assert tags(store) == "b"


def test_tags_that_cannot_be_read_stay(store: Store) -> None:
    pushed(store, a=40, b=50)
    for path in store.files():
        if path.endswith("/b/current/link"):
            store.put(path, b"")
    store.retain(keep_newest=0)
    store.collect(untagged_go=True)
    assert tags(store) == "b"
