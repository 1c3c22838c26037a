"""Manifests of mirrored repositories: checked once in a while, fetched when they changed, served while all is down."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from registryd.cache.fills import FROZEN
from registryd.cache.source import PATIENCE
from registryd.errors import BlobUnknown, ManifestUnknown, NameUnknown, Unsupported
from registryd.model import DOCKER_SCHEMA1_SIGNED, Descriptor, Manifest
from registryd.reference import Digest, Tag
from registryd.storage import layout
from tests.cache.mirror import APP, FRESHNESS, Mirror, MirrorTestCase, WatchedDriver
from tests.values import GRACE, TouchedDriver, image, index, listed, manifest_of, put_blob

V1 = Tag("v1")
OLD = image(b"config", b"old")
NEW = image(b"config", b"new")


class TagTests(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstream.add(OLD, V1)

    def get(self, reference: Tag | Digest = V1) -> Manifest:
        return self.successResultOf(self.registry.get_manifest(APP, reference))

    def change(self) -> None:
        """Move the tag upstream, and let the last check grow old."""
        self.upstream.add(NEW, V1)
        self.clock.advance(FRESHNESS + 1)

    def test_is_checked_by_head_and_fetched_once(self) -> None:
        self.assertEqual(self.get(), OLD)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 1, "get_manifest": 1})
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), OLD.digest)
        self.assertEqual(self.mirror.driver.get_content(layout.mirror(APP)), b"docker.io")

    def replace(self, old: Manifest, new: Manifest) -> None:
        """Move the tag upstream, which does not give out the older any more."""
        del self.upstream.manifests[old.digest]
        self.upstream.add(new, V1)

    def test_that_moves_between_the_check_and_the_fetch_is_checked_again(self) -> None:
        self.upstream.hold = {"get_manifest"}
        got = [self.registry.get_manifest(APP, V1) for _ in range(3)]
        self.replace(OLD, NEW)
        self.upstream.let_go()
        self.upstream.let_go()
        for each in got:
            self.assertEqual(self.successResultOf(each), NEW)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 2, "get_manifest": 2})

    def test_that_keeps_moving_is_checked_again_but_once(self) -> None:
        self.upstream.hold = {"get_manifest"}
        got = self.registry.get_manifest(APP, V1)
        self.replace(OLD, NEW)
        self.upstream.let_go()
        self.replace(NEW, index(listed(OLD)))
        self.upstream.let_go()
        self.failureResultOf(got, ManifestUnknown)
        self.assertEqual(self.upstream.asked["resolve_manifest"], 2)

    def test_a_digest_is_resolved_once_for_all_who_ask_at_the_same_time(self) -> None:
        self.upstream.hold = {"resolve_manifest"}
        found = [self.registry.resolve_manifest(APP, OLD.digest) for _ in range(5)]
        self.upstream.let_go()
        for each in found:
            self.assertEqual(self.successResultOf(each).digest, OLD.digest)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 1})

    def test_that_another_process_holds_for_nothing_is_waited_for_so_long(self) -> None:
        other = self.mirror.local.uploads.claim(APP, OLD.digest)
        got = self.registry.get_manifest(APP, V1)
        self.clock.pump([1.0] * int(FROZEN - 1))
        self.assertNoResult(got)
        self.clock.pump([1.0] * 5)
        self.failureResultOf(got, ManifestUnknown)
        self.successResultOf(other.suspend())
        self.assertEqual(self.get(), OLD)

    def test_is_not_checked_again_while_it_is_fresh(self) -> None:
        for _ in range(3):
            self.assertEqual(self.get(), OLD)
            self.successResultOf(self.registry.resolve_manifest(APP, V1))
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 1, "get_manifest": 1})

    def test_is_checked_once_for_all_who_ask_at_the_same_time(self) -> None:
        self.upstream.hold = {"resolve_manifest", "get_manifest"}
        got = [self.registry.get_manifest(APP, V1) for _ in range(5)]
        got.append(self.registry.get_manifest(APP, OLD.digest))
        resolved = [self.registry.resolve_manifest(APP, V1) for _ in range(5)]
        self.upstream.let_go()
        self.upstream.let_go()
        self.assertEqual([self.successResultOf(manifest) for manifest in got], [OLD] * 6)
        self.assertEqual([self.successResultOf(found) for found in resolved], [OLD.descriptor] * 5)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 1, "get_manifest": 1})

    def test_who_is_cancelled_while_it_waits_ends_nothing(self) -> None:
        self.upstream.hold = {"resolve_manifest"}
        leaving, staying = (self.registry.get_manifest(APP, V1) for _ in range(2))
        leaving.addErrback(lambda _: None).cancel()
        self.upstream.let_go()
        self.assertEqual(self.successResultOf(staying), OLD)

    def test_that_did_not_change_is_not_fetched_again(self) -> None:
        self.get()
        self.clock.advance(FRESHNESS + 1)
        self.assertEqual(self.get(), OLD)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 2, "get_manifest": 1})

    def test_that_changed_is_fetched(self) -> None:
        self.get()
        self.change()
        self.assertEqual(self.get(), NEW)
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), NEW.digest)
        self.assertEqual(self.get(OLD.digest), OLD)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 2, "get_manifest": 2})

    def test_that_changed_back_is_not_fetched(self) -> None:
        self.get()
        self.change()
        self.get()
        self.upstream.tagged[V1] = OLD.digest
        self.clock.advance(2 * (FRESHNESS + 1))
        self.assertEqual(self.get(), OLD)
        self.assertEqual(self.upstream.asked["get_manifest"], 2)

    def test_head_of_one_that_changed_moves_the_tag(self) -> None:
        self.get()
        self.change()
        self.assertEqual(self.successResultOf(self.registry.resolve_manifest(APP, V1)), NEW.descriptor)
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), NEW.digest)

    def test_head_of_one_whose_new_manifest_cannot_be_had_tells_the_old_one(self) -> None:
        # Docker Hub counts GET and not HEAD: beyond its limit the one is answered, and the other refused.
        self.get()
        self.change()
        self.upstream.refused_kinds.add("get_manifest")
        descriptor = self.successResultOf(self.registry.resolve_manifest(APP, V1))
        self.assertEqual(descriptor, OLD.descriptor)
        self.assertIn(str(NEW.digest), descriptor.warning or "")
        self.assertEqual(self.get(descriptor.digest), OLD)

    def test_head_of_one_that_is_not_cached_fetches_nothing_and_a_get_by_digest_then_makes_the_tag(self) -> None:
        self.assertEqual(self.successResultOf(self.registry.resolve_manifest(APP, V1)), OLD.descriptor)
        self.assertEqual(self.upstream.asked["get_manifest"], 0)
        self.assertEqual(self.get(OLD.digest), OLD)
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), OLD.digest)

    def asked_of_two_processes(self) -> Mirror:
        """One process is told of the tag, and another fetches the manifest by its digest; the second of them."""
        other = Mirror(self.mirror.driver, like=self.mirror)
        self.successResultOf(self.registry.resolve_manifest(APP, V1))
        self.assertEqual(self.successResultOf(other.registry.get_manifest(APP, OLD.digest)), OLD)
        return other

    def test_that_another_process_was_told_of_is_made_when_it_is_asked_for_next(self) -> None:
        other = self.asked_of_two_processes()
        self.assertIsNone(self.mirror.local.tree.tag(APP, V1))
        self.assertEqual(self.successResultOf(other.registry.resolve_manifest(APP, V1)), OLD.descriptor)
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), OLD.digest)

    def test_that_another_process_was_told_of_is_known_while_the_upstream_is_down(self) -> None:
        other = self.asked_of_two_processes()
        self.upstream.unavailable = True
        self.clock.advance(FRESHNESS + 1)
        for mirror in (self.mirror, other):
            manifest = self.successResultOf(mirror.registry.get_manifest(APP, V1))
            self.assertEqual((manifest, bool(manifest.warning)), (OLD, True))
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), OLD.digest)

    def test_that_was_told_to_be_something_else_meanwhile_is_not_made(self) -> None:
        self.successResultOf(self.registry.resolve_manifest(APP, V1))
        Mirror(self.mirror.driver, like=self.mirror).mirrored.put_told(APP, V1, NEW.descriptor)
        self.get(OLD.digest)
        self.assertIsNone(self.mirror.local.tree.tag(APP, V1))

    def test_others_are_not_looked_at_when_a_manifest_is_kept(self) -> None:
        for number in range(50):
            self.upstream.add(image(b"config", b"%d" % number), Tag(f"other{number}"))
            self.get(Tag(f"other{number}"))
        self.successResultOf(self.registry.resolve_manifest(APP, V1))
        driver = self.mirror.driver
        assert isinstance(driver, WatchedDriver)
        driver.looked_at.clear()
        self.get(OLD.digest)
        self.assertEqual(self.mirror.local.tree.tag(APP, V1), OLD.digest)
        self.assertEqual([path for path in driver.looked_at if "/tags/other" in path], [])

    def test_that_is_no_blob_is_a_manifest_all_the_same(self) -> None:
        # Clients that have a digest and nothing else ask for the one, and then for the other.
        self.failureResultOf(self.registry.open_blob(APP, OLD.digest), BlobUnknown)
        self.assertEqual(self.get(OLD.digest), OLD)

    def test_that_is_gone_upstream_is_dropped(self) -> None:
        self.get()
        del self.upstream.tagged[V1]
        self.clock.advance(FRESHNESS + 1)
        for _ in range(2):
            self.failureResultOf(self.registry.get_manifest(APP, V1), ManifestUnknown)
        self.failureResultOf(self.registry.resolve_manifest(APP, V1), ManifestUnknown)
        self.assertEqual(self.upstream.asked["resolve_manifest"], 2)
        self.assertFalse(self.mirror.has(layout.tag(APP, V1)))
        self.assertEqual(self.get(OLD.digest), OLD)

    def test_that_never_was_leaves_nothing_and_is_asked_for_again_after_a_while(self) -> None:
        del self.upstream.tagged[V1]
        for _ in range(2):
            self.failureResultOf(self.registry.get_manifest(APP, V1), ManifestUnknown)
        self.assertFalse(self.mirror.has(layout.repository(APP)))
        self.failureResultOf(self.registry.get_manifest(APP, Digest.of(b"nothing")), ManifestUnknown)
        self.failureResultOf(self.registry.resolve_manifest(APP, Digest.of(b"nothing")), ManifestUnknown)
        self.assertEqual(self.upstream.asked, {"resolve_manifest": 1, "get_manifest": 1})
        self.assertFalse(self.mirror.has(layout.repository(APP)))
        self.upstream.tagged[V1] = OLD.digest
        self.clock.advance(FRESHNESS + 1)
        self.assertEqual(self.get(), OLD)

    def test_is_served_with_a_warning_while_the_upstream_is_down(self) -> None:
        self.get()
        self.change()
        self.upstream.unavailable = True
        manifest = self.get()
        self.assertEqual(manifest, OLD)
        self.assertIn("could not be asked", manifest.warning or "")
        found = self.successResultOf(self.registry.resolve_manifest(APP, V1))
        self.assertEqual((found, bool(found.warning)), (OLD.descriptor, True))
        self.upstream.unavailable = False
        self.assertEqual((self.get(), self.get().warning), (NEW, None))

    def test_that_is_checked_too_slowly_is_what_it_was_with_a_warning(self) -> None:
        self.get()
        self.change()
        self.upstream.hold = {"resolve_manifest"}
        asked = [self.registry.get_manifest(APP, V1), self.registry.resolve_manifest(APP, V1)]
        self.clock.advance(PATIENCE - 1)
        for each in asked:
            self.assertNoResult(each)
        self.clock.advance(1)
        manifest, descriptor = map(self.successResultOf, asked)
        self.assertEqual((manifest.digest, descriptor.digest), (OLD.digest, OLD.digest))
        self.assertIn("no answer within 5 s", manifest.warning)
        self.assertIn("no answer within 5 s", descriptor.warning)
        self.assertEqual(self.upstream.asked["resolve_manifest"], 2)
        self.upstream.let_go()
        self.assertEqual(self.mirror.mirrored.told(APP, V1).descriptor, NEW.descriptor)

    def test_that_is_checked_slowly_is_waited_for_by_the_first_who_ask_alone(self) -> None:
        self.get()
        self.change()
        self.upstream.hold = {"resolve_manifest"}
        first = self.registry.get_manifest(APP, V1)
        self.clock.advance(PATIENCE)
        self.assertEqual(self.successResultOf(first).digest, OLD.digest)
        second = self.registry.get_manifest(APP, V1)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(second).digest, OLD.digest)
        self.upstream.unavailable = True
        self.upstream.let_go()
        self.upstream.unavailable = False
        third = self.registry.get_manifest(APP, V1)
        self.clock.advance(PATIENCE - 1)
        self.assertNoResult(third)
        self.upstream.let_go()
        self.assertEqual(self.successResultOf(third), NEW)

    def test_that_is_checked_slowly_and_was_lost_is_waited_for(self) -> None:
        self.get()
        self.change()
        self.mirror.driver.delete(layout.blob_data(OLD.digest))
        for held in ("resolve_manifest", "get_manifest"):
            self.upstream.hold = {held}
            asked = self.registry.get_manifest(APP, V1)
            self.clock.advance(PATIENCE + 1)
            self.assertNoResult(asked)
            self.upstream.hold = set()
            self.upstream.let_go()
            self.assertEqual(self.successResultOf(asked), NEW)
            self.mirror.driver.delete(layout.blob_data(NEW.digest))
            self.mirror.driver.delete(layout.tag_checked(APP, V1))

    def test_whose_new_manifest_comes_too_slowly_is_the_old_one_with_a_warning(self) -> None:
        self.get()
        self.change()
        self.upstream.hold = {"get_manifest"}
        asked = self.registry.get_manifest(APP, V1)
        self.clock.advance(PATIENCE - 1)
        self.assertNoResult(asked)
        self.clock.advance(1)
        manifest = self.successResultOf(asked)
        self.assertEqual(manifest.digest, OLD.digest)
        self.assertIn("which cannot be had", manifest.warning)
        self.upstream.let_go()
        self.assertEqual(self.get(NEW.digest), NEW)
        self.assertEqual(self.upstream.asked["get_manifest"], 2)

    def test_that_is_not_cached_is_waited_for(self) -> None:
        self.upstream.hold = {"resolve_manifest"}
        asked = self.registry.get_manifest(APP, V1)
        self.clock.advance(PATIENCE + 1)
        self.assertNoResult(asked)
        self.upstream.let_go()
        self.assertEqual(self.successResultOf(asked), OLD)
        self.assertEqual(self.upstream.asked["resolve_manifest"], 1)

    def test_digest_that_was_asked_for_too_early_is_there_once_the_tag_is(self) -> None:
        self.failureResultOf(self.registry.get_manifest(APP, NEW.digest), ManifestUnknown)
        self.upstream.add(NEW, V1)
        self.failureResultOf(self.registry.get_manifest(APP, NEW.digest), ManifestUnknown)
        self.assertEqual(self.successResultOf(self.registry.resolve_manifest(APP, V1)).digest, NEW.digest)
        self.assertEqual(self.get(NEW.digest), NEW)

    def test_whose_new_manifest_cannot_be_had_is_the_old_one_with_a_warning(self) -> None:
        self.get()
        self.change()
        del self.upstream.manifests[NEW.digest]
        self.upstream.resolve_manifest = lambda name, reference: _told(NEW)  # type: ignore
        manifest = self.get()
        self.assertEqual((manifest, bool(manifest.warning)), (OLD, True))

    def test_that_is_not_cached_is_unknown_while_the_upstream_is_down(self) -> None:
        self.upstream.unavailable = True
        for call in (self.registry.get_manifest, self.registry.resolve_manifest):
            for reference in (V1, OLD.digest):
                error = self.failureResultOf(call(APP, reference), ManifestUnknown).value
                self.assertIn("switched off", str(error))
        self.upstream.unavailable = False
        self.assertEqual(self.get(), OLD)

    def test_that_another_process_checked_is_not_checked(self) -> None:
        other = Mirror(self.mirror.driver, like=self.mirror)
        self.get()
        self.change()
        self.successResultOf(other.registry.get_manifest(APP, V1))
        # The storage knows the true time alone: what was told now is told at a time to come for who looks at the clock.
        self.assertEqual(self.mirror.mirrored.told(APP, V1).descriptor, NEW.descriptor)

    def test_whose_note_is_damaged_is_checked(self) -> None:
        self.get()
        for content in (b"", b"[]", b"{}", b"\xff"):
            self.mirror.driver.put_content(layout.tag_checked(APP, V1), content)
            asked = self.upstream.asked["resolve_manifest"]
            self.assertEqual(self.get(), OLD)
            self.assertEqual(self.upstream.asked["resolve_manifest"], asked + 1)

    def test_by_digest_asks_nobody_when_it_is_cached(self) -> None:
        self.get()
        self.upstream.unavailable = True
        self.assertEqual(self.get(OLD.digest), OLD)
        self.assertEqual(self.successResultOf(self.registry.resolve_manifest(APP, OLD.digest)), OLD.descriptor)

    def test_that_is_damaged_is_fetched_again(self) -> None:
        self.get()
        self.mirror.driver.put_content(layout.blob_data(OLD.digest), b"{}")
        self.mirror.local._manifests._entries.clear()
        self.assertEqual(self.get(), OLD)
        self.assertEqual(self.mirror.driver.get_content(layout.blob_data(OLD.digest)), OLD.content)

    def test_of_wrong_content_is_not_kept(self) -> None:
        self.upstream.manifests[OLD.digest] = Manifest(NEW.media_type, OLD.digest, NEW.content)
        self.failureResultOf(self.registry.get_manifest(APP, OLD.digest), ManifestUnknown)
        self.assertFalse(self.mirror.has(layout.blob_data(OLD.digest)))
        self.assert_nothing_open()

    def test_that_cannot_be_read_leaves_nothing_open(self) -> None:
        answers = [fail(ManifestUnknown()), fail(OSError("the disk is gone"))]
        self.mirror.local.get_manifest = lambda name, reference: answers.pop(0)  # type: ignore[method-assign]
        self.failureResultOf(self.registry.get_manifest(APP, OLD.digest), OSError)
        self.assert_nothing_open()

    def test_keeps_the_type_that_the_upstream_told(self) -> None:
        unnamed = manifest_of({"schemaVersion": 1, "fsLayers": []}, DOCKER_SCHEMA1_SIGNED)
        self.upstream.add(unnamed, "old")
        for _ in range(2):
            self.assertEqual(self.get(Tag("old")), unnamed)

    def test_is_answered_where_nothing_can_be_kept(self) -> None:
        self.mirror.limit(0)
        self.assertEqual(self.get(), OLD)
        self.assertEqual(self.successResultOf(self.registry.resolve_manifest(APP, V1)), OLD.descriptor)
        self.assert_nothing_open()

    def test_takes_no_pushes(self) -> None:
        self.get()
        self.failureResultOf(self.registry.put_manifest(APP, OLD, [V1]), Unsupported)
        self.failureResultOf(self.mirror.local.put_manifest(APP, OLD, [V1]), Unsupported)
        self.failureResultOf(self.mirror.local.start_upload(APP, "sha256"), Unsupported)
        self.failureResultOf(self.mirror.local.mount_blob(APP, OLD.digest, None), Unsupported)

    def test_children_of_an_index_are_not_fetched(self) -> None:
        parent = index(listed(OLD), listed(NEW))
        self.upstream.add(parent, "multi")
        self.assertEqual(self.get(Tag("multi")), parent)
        self.assertEqual(self.upstream.asked["get_manifest"], 1)


def _told(manifest: Manifest) -> Deferred[Descriptor]:
    return succeed(manifest.descriptor)


class UnmarkedTests(MirrorTestCase):
    def test_is_served_locally_alone(self) -> None:
        put_blob(self.mirror.local, b"config", APP)
        private = image(b"config")
        self.successResultOf(self.mirror.local.put_manifest(APP, private, [V1]))
        self.upstream.add(NEW, V1, "v2")
        self.assertEqual(self.successResultOf(self.registry.get_manifest(APP, V1)), private)
        self.assertEqual(self.successResultOf(self.registry.resolve_manifest(APP, V1)), private.descriptor)
        self.assertEqual(self.successResultOf(self.registry.get_manifest(APP, private.digest)), private)
        for reference in (Tag("v2"), NEW.digest):
            self.failureResultOf(self.registry.get_manifest(APP, reference), ManifestUnknown, NameUnknown)
            self.failureResultOf(self.registry.resolve_manifest(APP, reference), ManifestUnknown, NameUnknown)
        self.assertEqual(self.upstream.asked, {})
        self.assertFalse(self.mirror.has(layout.mirror(APP)))


class RenewalTests(MirrorTestCase):
    def test_a_get_renews_all_that_it_references_once_in_a_while(self) -> None:
        driver = TouchedDriver()
        self.mirror = type(self.mirror)(driver, like=self.mirror)
        self.registry = self.mirror.registry
        layer = self.upstream.add_blob(b"old")
        config = self.upstream.add_blob(b"config")
        parent = index(listed(OLD))
        legacy = manifest_of({"schemaVersion": 1, "fsLayers": [{"blobSum": str(layer)}]}, DOCKER_SCHEMA1_SIGNED)
        for manifest in (OLD, parent, legacy):
            self.upstream.add(manifest)
            self.successResultOf(self.registry.get_manifest(APP, manifest.digest))
        for digest in (layer, config):
            self.successResultOf(self.registry.open_blob(APP, digest)).close()
        blobs = {path(digest) for digest in (layer, config) for path in (layout.blob_data, self._link)}
        child = {layout.revision_link(APP, OLD.digest), layout.blob_data(OLD.digest)}
        for manifest, renewed in ((OLD, blobs), (parent, child), (legacy, {self._link(layer)})):
            self.clock.advance(GRACE)
            driver.touched.clear()
            self.successResultOf(self.registry.get_manifest(APP, manifest.digest))
            self.assertLessEqual(renewed, driver.touched)
        driver.touched.clear()
        self.successResultOf(self.registry.get_manifest(APP, legacy.digest))
        self.assertNotIn(self._link(layer), driver.touched)

    def _link(self, digest: Digest) -> str:
        return layout.layer_link(APP, digest)
