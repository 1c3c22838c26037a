"""Tags and referrers of mirrored repositories: the upstream's, cached as tags are."""

from __future__ import annotations

from typing import Any

from registryd.cache.source import PATIENCE
from registryd.errors import NameUnknown, Unavailable
from registryd.interfaces import Page, Referrer, ReferrerPage
from registryd.reference import Digest, Tag
from registryd.storage import layout
from tests.cache.mirror import APP, FRESHNESS, Mirror, MirrorTestCase
from tests.values import image, put_blob

SUBJECT = image(b"config")


def signature(name: str) -> Referrer:
    return Referrer(image(name.encode()).descriptor, f"application/{name}", {"name": name})


class TagListTests(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstream.add(SUBJECT, "b", "a", "c")

    def tags(self, count: int | None = None, after: str = "") -> Page:
        return self.successResultOf(self.registry.tags(APP, count, after))

    def test_is_the_upstreams(self) -> None:
        self.assertEqual(self.tags(), Page(("a", "b", "c"), False))
        self.assertEqual(self.tags(1, "a"), Page(("b",), True))
        self.assertEqual(self.tags(2, "a"), Page(("b", "c"), False))
        self.assertEqual(self.upstream.asked, {"tags": 1})

    def test_is_asked_for_again_when_it_is_old_and_by_one_at_a_time(self) -> None:
        self.tags()
        self.upstream.add(SUBJECT, "d")
        self.assertEqual(len(self.tags().names), 3)
        self.clock.advance(FRESHNESS + 1)
        self.upstream.hold = {"tags"}
        pages = [self.registry.tags(APP, None, "") for _ in range(4)]
        self.upstream.let_go()
        self.assertEqual([len(self.successResultOf(page).names) for page in pages], [4] * 4)
        self.assertEqual(self.upstream.asked, {"tags": 2})

    def test_is_stale_while_the_upstream_is_down(self) -> None:
        self.tags()
        self.clock.advance(FRESHNESS + 1)
        self.upstream.unavailable = True
        page = self.tags()
        self.assertEqual((page.names, bool(page.warning)), (("a", "b", "c"), True))
        other = Mirror(self.mirror.driver, like=self.mirror)
        self.assertTrue(self.successResultOf(other.registry.tags(APP, None, "")).warning)

    def test_is_stale_while_the_upstream_is_slow(self) -> None:
        self.tags()
        self.upstream.add(SUBJECT, "d")
        self.clock.advance(FRESHNESS + 1)
        self.upstream.hold = {"tags"}
        asked = self.registry.tags(APP, None, "")
        self.clock.advance(PATIENCE - 1)
        self.assertNoResult(asked)
        self.clock.advance(1)
        page = self.successResultOf(asked)
        self.assertEqual(page.names, ("a", "b", "c"))
        self.assertIn("no answer within 5 s", page.warning or "")
        self.upstream.let_go()
        names, _ = self.mirror.mirrored.names(layout.upstream_tags(APP)) or ((), 0)
        self.assertEqual(list(names), ["a", "b", "c", "d"])

    def test_that_never_was_asked_for_is_waited_for(self) -> None:
        self.upstream.hold = {"tags"}
        asked = self.registry.tags(APP, None, "")
        self.clock.advance(PATIENCE + 1)
        self.assertNoResult(asked)
        self.upstream.let_go()
        self.assertEqual(len(self.successResultOf(asked).names), 3)

    def test_is_what_is_cached_where_it_never_was_asked_for(self) -> None:
        self.successResultOf(self.registry.get_manifest(APP, Tag("b")))
        self.upstream.unavailable = True
        page = self.tags()
        self.assertEqual((page.names, bool(page.warning)), (("b",), True))

    def test_is_never_empty_for_want_of_asking(self) -> None:
        self.successResultOf(self.registry.get_manifest(APP, SUBJECT.digest))
        self.upstream.unavailable = True
        self.failureResultOf(self.registry.tags(APP, None, ""), NameUnknown)

    def test_of_what_is_not_there_is_remembered(self) -> None:
        self.upstream.exists = False
        for _ in range(2):
            self.failureResultOf(self.registry.tags(APP, None, ""), NameUnknown)
        self.assertEqual(self.upstream.asked, {"tags": 1})
        self.assertFalse(self.mirror.has(layout.repository(APP)))

    def test_that_went_upstream_goes(self) -> None:
        self.tags()
        self.upstream.exists = False
        self.clock.advance(FRESHNESS + 1)
        self.failureResultOf(self.registry.tags(APP, None, ""), NameUnknown)
        self.upstream.unavailable = True
        self.clock.advance(2 * FRESHNESS)
        self.failureResultOf(self.registry.tags(APP, None, ""), NameUnknown)

    def test_of_an_unmarked_repository_is_its_own(self) -> None:
        put_blob(self.mirror.local, b"config", APP)
        self.successResultOf(self.mirror.local.put_manifest(APP, SUBJECT, [Tag("private")]))
        self.assertEqual(self.tags(), Page(("private",), False))
        self.assertEqual(self.upstream.asked, {})

    def test_that_is_damaged_is_asked_for(self) -> None:
        for content in (b"", b"{}", b"[1]", b"\xff"):
            self.mirror.driver.put_content(layout.upstream_tags(APP), content)
            self.mirror.driver.put_content(layout.mirror(APP), b"docker.io")
            self.assertEqual(self.tags().names, ("a", "b", "c"))

    def test_is_answered_where_it_cannot_be_kept(self) -> None:
        self.mirror.limit(0)
        self.assertEqual(self.tags().names, ("a", "b", "c"))


class ReferrerTests(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.listed = sorted((signature("a"), signature("b")), key=lambda entry: entry.descriptor.digest)
        self.upstream.listed_referrers = self.listed

    def referrers(self, *arguments: Any) -> ReferrerPage:
        return self.successResultOf(self.registry.referrers(APP, SUBJECT.digest, *arguments))

    def test_are_the_upstreams_and_cached(self) -> None:
        for _ in range(2):
            self.assertEqual(self.referrers(), ReferrerPage(self.listed, False))
        kinds = [entry.artifact_type for entry in self.listed]
        self.assertEqual(self.referrers(kinds[1]), ReferrerPage(self.listed[1:], False))
        self.assertEqual(self.referrers(None, self.listed[0].descriptor.digest), ReferrerPage(self.listed[1:], False))
        self.assertEqual(self.upstream.asked, {"referrers": 1})

    def test_are_stale_while_the_upstream_is_down(self) -> None:
        self.referrers()
        self.clock.advance(FRESHNESS + 1)
        self.upstream.unavailable = True
        page = self.referrers()
        self.assertEqual((page, bool(page.warning)), (ReferrerPage(self.listed, False), True))

    def test_are_an_error_where_they_never_were_asked_for(self) -> None:
        self.upstream.unavailable = True
        self.failureResultOf(self.registry.referrers(APP, SUBJECT.digest), Unavailable)

    def test_are_what_is_cached_where_they_never_were_asked_for(self) -> None:
        referrer = image(b"signed", subject={"mediaType": "a/b", "digest": str(SUBJECT.digest), "size": 1})
        self.upstream.add(referrer)
        self.successResultOf(self.registry.get_manifest(APP, referrer.digest))
        self.upstream.unavailable = True
        page = self.referrers()
        self.assertEqual([entry.descriptor.digest for entry in page.referrers], [referrer.digest])
        self.assertTrue(page.warning)

    def test_that_are_none_are_an_empty_list_for_having_asked(self) -> None:
        self.upstream.listed_referrers = []
        for _ in range(2):
            self.assertEqual(self.referrers(), ReferrerPage([], False))
        self.assertEqual(self.upstream.asked, {"referrers": 1})

    def test_that_are_damaged_are_asked_for(self) -> None:
        path = layout.upstream_referrers(APP, SUBJECT.digest)
        self.mirror.driver.put_content(layout.mirror(APP), b"docker.io")
        entry = '[{"mediaType": "a/b", "digest": "%s", "size": "x", "artifactType": null, "annotations": {}}]'
        for content in (b"[1]", (entry % Digest.of(b"")).encode()):
            self.mirror.driver.put_content(path, content)
            self.assertEqual(self.referrers(), ReferrerPage(self.listed, False))
