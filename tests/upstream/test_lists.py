"""Tags and referrers of an upstream, from servers that page in all ways."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from registryd.errors import NameUnknown
from registryd.interfaces import Referrer
from registryd.model import OCI_MANIFEST, Descriptor
from registryd.reference import Digest, RepositoryName
from registryd.upstream.pages import next_query
from tests.upstream.case import LATEST, NAME, UpstreamCase
from tests.upstream.hostile import referrer_index
from tests.values import image

SUBJECT = Digest.of(b"subject")


class Tags(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        manifest = image(b"{}")
        self.names = [f"v{number}" for number in range(25)] + ["Z", "_", "a"]
        self.hostile.content.manifest(NAME, manifest, *self.names)
        self.registry = self.upstream()

    async def check(self, requests: int) -> None:
        self.hostile.reset()
        self.assertEqual(await self.registry.tags(NAME), sorted(self.names))
        self.assertEqual(self.hostile.counts["GET tags"], requests)

    async def test_all_at_once(self) -> None:
        await self.check(1)

    async def test_pages(self) -> None:
        self.hostile.switches.page = 10
        for link in ("relative", "absolute", "foreign", "query"):
            self.hostile.switches.link = link
            await self.check(3)

    async def test_no_link_where_a_page_is_full(self) -> None:
        self.names += [f"w{number:05}" for number in range(2500)]
        self.hostile.content.manifest(NAME, image(b"{}"), *self.names)
        self.hostile.switches.no_link = True
        await self.check(3)

    async def test_a_server_that_knows_no_pages(self) -> None:
        self.names += [f"w{number:05}" for number in range(2500)]
        self.hostile.content.manifest(NAME, image(b"{}"), *self.names)
        self.hostile.switches.ignore_pagination = True
        await self.check(2)

    async def test_the_same_page_for_ever(self) -> None:
        self.hostile.switches.page = 28
        self.hostile.switches.repeat_page = True
        await self.check(2)

    async def test_unknown(self) -> None:
        with self.assertRaises(NameUnknown):
            await self.registry.tags(RepositoryName("none"))

    async def test_names_that_are_no_tags_are_left_out(self) -> None:
        self.hostile.content.manifest(NAME, image(b"{}"), "no tag", "../x", "é")
        await self.check(1)

    async def test_a_break_between_pages_is_an_error(self) -> None:
        self.hostile.switches.page = 10
        self.hostile.switches.ratelimit = ()
        original = self.hostile._tags

        def broken(request: Any, name: str, reference: str, arguments: Any) -> None:
            if arguments.get("last"):
                request.transport.abortConnection()
            else:
                original(request, name, reference, arguments)

        self.hostile._tags = broken  # type: ignore[method-assign]
        await self.unavailable(self.registry.tags(NAME))


class Links(SynchronousTestCase):
    def test_rows(self) -> None:
        for value, expected in (
            ('</v2/a/tags/list?last=x&n=5>; rel="next"', "last=x&n=5"),
            ("<https://other/v2/a/tags/list?n=5>;rel=next", "n=5"),
            ("<?n=5>; rel=next", "n=5"),
            ('</a?n=1>; rel="prev", </a?n=2>; title="a, b"; rel="next last"', "n=2"),
            ("</a?n=1>", None),
            ('</a?n=1>; rel="prev"', None),
            ('</a?n=1>; rel="nextish"', None),
            ("</a?n= 1>; rel=next", None),
            ("<http://[>; rel=next", None),
            ("nonsense", None),
            ("<" * 100_000, None),
        ):
            self.assertEqual(next_query(Headers({"Link": [value]})), expected, value[:50])


class Referrers(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.hostile.content.image(NAME, LATEST)
        self.entries = [self.entry(b"%d" % number) for number in range(7)]
        self.registry = self.upstream()

    def entry(self, content: bytes) -> dict[str, Any]:
        return {
            "mediaType": OCI_MANIFEST,
            "digest": str(Digest.of(content)),
            "size": len(content),
            "artifactType": "application/x",
            "annotations": {"a": "b"},
        }

    def expected(self) -> list[Referrer]:
        described = [Descriptor(OCI_MANIFEST, Digest.parse(entry["digest"]), entry["size"]) for entry in self.entries]
        described.sort(key=lambda descriptor: descriptor.digest)
        return [Referrer(descriptor, "application/x", {"a": "b"}) for descriptor in described]

    async def test_api(self) -> None:
        self.hostile.content.referrers[NAME, str(SUBJECT)] = sorted(self.entries, key=lambda entry: entry["digest"])
        self.assertEqual(await self.registry.referrers(NAME, SUBJECT), self.expected())
        self.assertEqual(self.hostile.counts["GET manifests"], 0)

    async def test_pages(self) -> None:
        self.hostile.content.referrers[NAME, str(SUBJECT)] = sorted(self.entries, key=lambda entry: entry["digest"])
        self.hostile.switches.page = 3
        self.assertEqual(await self.registry.referrers(NAME, SUBJECT), self.expected())
        self.assertEqual(self.hostile.counts["GET referrers"], 3)

    async def test_tag_schema_where_there_is_no_api(self) -> None:
        self.hostile.content.manifest(NAME, referrer_index(*self.entries), SUBJECT.referrers_tag)
        for status in (404, 405, 400, 501):
            self.hostile.switches.no_referrers = status
            self.assertEqual(await self.registry.referrers(NAME, SUBJECT), self.expected())

    async def test_none(self) -> None:
        self.assertEqual(list(await self.registry.referrers(NAME, SUBJECT)), [])
        self.hostile.switches.no_referrers = 404
        self.assertEqual(list(await self.registry.referrers(NAME, SUBJECT)), [])

    async def test_malformed_entries_are_left_out(self) -> None:
        bad: list[Any] = [1, {}, {**self.entries[0], "digest": "x"}, {**self.entries[0], "size": -1}]
        self.hostile.content.manifest(NAME, referrer_index(*bad, *self.entries), SUBJECT.referrers_tag)
        self.hostile.switches.no_referrers = 404
        self.assertEqual(await self.registry.referrers(NAME, SUBJECT), self.expected())

    async def test_unavailable_is_not_none(self) -> None:
        self.hostile.switches.no_referrers = 500
        await self.unavailable(self.registry.referrers(NAME, SUBJECT))
