"""Blobs of mirrored repositories that need no fetch, or need one again."""

from __future__ import annotations

from registryd.cache.blobs import SMALL
from registryd.errors import BlobUnknown, NameUnknown
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import Digest
from registryd.storage import layout
from tests.cache.mirror import APP, LARGE, OTHER_APP, MirrorTestCase
from tests.values import described, image, put_blob


class HeadTests(MirrorTestCase):
    def test_downloads_nothing(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        found = self.successResultOf(self.registry.resolve_blob(APP, digest))
        self.assertEqual(found, Descriptor(OCTET_STREAM, digest, len(LARGE)))
        self.assertEqual((self.upstream.asked, self.upstream.bytes_sent), ({"resolve_blob": 1}, 0))

    def test_of_an_upstream_that_answers_it_wrongly_takes_the_head_of_a_get(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.heads_blobs = False
        self.assertEqual(self.successResultOf(self.registry.resolve_blob(APP, digest)).size, len(LARGE))
        self.assertEqual(self.upstream.bytes_sent, 0)
        self.assertTrue(self.upstream.fetches[0].abandoned)

    def test_of_an_upstream_that_fails_at_it_takes_the_head_of_a_get(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.refused_kinds = {"resolve_blob"}
        self.assertEqual(self.successResultOf(self.registry.resolve_blob(APP, digest)).size, len(LARGE))

    def test_of_many_at_the_same_time_asks_once(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.heads_blobs = False
        self.upstream.hold = {"resolve_blob", "fetch_blob"}
        found = [self.registry.resolve_blob(APP, digest) for _ in range(5)]
        self.upstream.let_go()
        self.upstream.let_go()
        for each in found:
            self.assertEqual(self.successResultOf(each).size, len(LARGE))
        self.assertEqual(self.upstream.asked, {"resolve_blob": 1, "fetch_blob": 1})

    def test_that_tells_no_size_is_an_error(self) -> None:
        self.upstream.heads_blobs = self.upstream.tells_size = False
        self.failureResultOf(self.registry.resolve_blob(APP, self.upstream.add_blob(LARGE)), BlobUnknown)

    def test_of_what_is_coming_asks_nobody(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 1
        self.pull(digest)
        self.assertEqual(self.successResultOf(self.registry.resolve_blob(APP, digest)).size, len(LARGE))
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_of_what_is_cached_asks_nobody(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.pull(digest)
        self.assertEqual(self.successResultOf(self.registry.resolve_blob(APP, digest)).size, len(LARGE))
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_while_the_upstream_is_down_is_unknown(self) -> None:
        self.upstream.unavailable = True
        digest = self.upstream.add_blob(LARGE)
        error = self.failureResultOf(self.registry.resolve_blob(APP, digest), BlobUnknown).value
        self.assertIn("could not be asked", str(error))
        self.upstream.unavailable = False
        self.assertEqual(self.successResultOf(self.registry.resolve_blob(APP, digest)).size, len(LARGE))


class BytesOfAnotherRepositoryTests(MirrorTestCase):
    def test_are_linked_once_the_upstream_confirms(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        put_blob(self.mirror.local, LARGE)
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked, {"resolve_blob": 1})
        self.assertTrue(self.mirror.has_blob(digest))
        self.assertTrue(self.mirror.has(layout.mirror(APP)))

    def test_are_not_given_out_when_the_upstream_does_not_have_them(self) -> None:
        digest = put_blob(self.mirror.local, LARGE)
        self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.assertFalse(self.mirror.has_blob(digest))

    def test_are_not_given_out_while_the_upstream_is_down(self) -> None:
        digest = put_blob(self.mirror.local, LARGE)
        self.upstream.unavailable = True
        self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)

    def test_are_fetched_where_the_upstream_fails_to_confirm(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        put_blob(self.mirror.local, LARGE)
        self.upstream.refused_kinds = {"resolve_blob"}
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked["fetch_blob"], 1)

    def test_are_confirmed_once_for_all_who_ask_at_the_same_time(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        put_blob(self.mirror.local, LARGE)
        self.upstream.hold = {"resolve_blob"}
        opened = [self.registry.open_blob(APP, digest) for _ in range(5)]
        self.upstream.let_go()
        for reader in opened:
            self.successResultOf(reader).close()
        self.assertEqual(self.upstream.asked, {"resolve_blob": 1})
        self.assert_nothing_open()

    def test_are_fetched_where_the_upstream_tells_another_size(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.mirror.driver.put_content(layout.blob_data(digest), b"damaged")
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked, {"resolve_blob": 1, "fetch_blob": 1})


class HealTests(MirrorTestCase):
    def test_a_blob_that_is_gone_behind_its_link_is_fetched_again(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.pull(digest)
        self.mirror.driver.delete(layout.blob_data(digest))
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked["fetch_blob"], 2)
        self.assertTrue(self.mirror.has_blob(digest))

    def test_a_blob_that_is_empty_is_fetched_again(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.pull(digest)
        self.mirror.driver.put_content(layout.blob_data(digest), b"")
        self.assert_pulled(self.pull(digest), LARGE)

    def test_a_blob_of_another_size_than_its_manifest_says_is_fetched_again(self) -> None:
        manifest = image(b"config", LARGE)
        digest = self.upstream.add_blob(LARGE)
        self.upstream.add(manifest, "v1")
        self.pull(digest)
        self.successResultOf(self.registry.get_manifest(APP, manifest.digest))
        for _ in range(2):
            self.mirror.driver.put_content(layout.blob_data(digest), LARGE[:-1])
            self.assert_pulled(self.pull(digest), LARGE)
            self.assertEqual(self.mirror.driver.get_content(layout.blob_data(digest)), LARGE)

    def test_a_manifest_that_lies_of_a_size_costs_no_blob(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.pull(digest)
        said = described(LARGE)
        lying = image(b"config", layers=[{**said, "size": said["size"] + 1}])
        self.upstream.add(lying, "v1")
        for name in (OTHER_APP, APP):
            self.upstream.unavailable = False
            self.successResultOf(self.registry.get_manifest(name, lying.digest))
            self.upstream.unavailable = True
            for _ in range(2):
                self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked["fetch_blob"], 1)
        self.assert_nothing_open()

    def test_a_blob_as_its_manifest_says_is_not_fetched_again(self) -> None:
        manifest = image(b"config", LARGE)
        digest = self.upstream.add_blob(LARGE)
        self.upstream.add(manifest, "v1")
        self.pull(digest)
        self.successResultOf(self.registry.get_manifest(APP, manifest.digest))
        self.pull(digest)
        self.assertEqual(self.upstream.asked["fetch_blob"], 1)


class UnmarkedTests(MirrorTestCase):
    """A repository with manifests that no mirror put there."""

    def setUp(self) -> None:
        super().setUp()
        self.config = put_blob(self.mirror.local, b"config", APP)
        self.successResultOf(self.mirror.local.put_manifest(APP, image(b"config"), []))

    def test_is_served(self) -> None:
        self.assert_pulled(self.pull(self.config), b"config")

    def test_is_never_filled(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.failureResultOf(self.registry.resolve_blob(APP, digest), BlobUnknown)
        self.assertEqual(self.upstream.asked, {})
        self.assertFalse(self.mirror.has(layout.mirror(APP)))

    def test_does_not_keep_others_from_being_filled(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.successResultOf(self.registry.open_blob(OTHER_APP, digest)).close()
        self.assertTrue(self.mirror.has_blob(digest, OTHER_APP))

    def test_one_that_mirrors_another_upstream_is_not_filled(self) -> None:
        self.mirror.driver.put_content(layout.mirror(OTHER_APP), b"ghcr.io")
        self.failureResultOf(self.registry.open_blob(OTHER_APP, Digest.of(b"x")), NameUnknown)
        self.assertEqual(self.upstream.asked, {})


class SmallBlobsTests(MirrorTestCase):
    def test_are_whole_and_at_hand(self) -> None:
        digest = self.upstream.add_blob(b"x" * SMALL)
        reader = self.open(digest)
        self.assertEqual(reader.read(0, SMALL), b"x" * SMALL)
        reader.close()
        self.assert_nothing_open()
