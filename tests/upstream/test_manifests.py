"""Manifests of an upstream: what is asked for, what is believed."""

from __future__ import annotations

from registryd.errors import ManifestUnknown, NameUnknown, UpstreamUnavailable
from registryd.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
)
from registryd.reference import Digest, RepositoryName, Tag
from registryd.upstream.body import DISCARDING, LEAST
from registryd.upstream.manifests import KEPT
from tests.upstream.case import LATEST, LIMIT, NAME, UpstreamCase
from tests.upstream.trickling import Trickling

DIGEST = Digest.of(b"anything")


class Manifests(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, _ = self.hostile.content.image(NAME, LATEST, b"layer")
        self.registry = self.upstream()

    async def test_tag_is_resolved_by_head_alone(self) -> None:
        self.assertEqual(await self.registry.resolve_manifest(NAME, LATEST), self.manifest.descriptor)
        self.assertEqual(dict(self.hostile.counts), {"HEAD manifests": 1})

    async def test_digest_is_resolved_by_head_without_digest_header(self) -> None:
        self.hostile.switches.no_digest = True
        self.assertEqual(await self.registry.resolve_manifest(NAME, self.manifest.digest), self.manifest.descriptor)
        self.assertEqual(self.hostile.counts["GET manifests"], 0)

    async def test_manifest_by_tag_and_digest(self) -> None:
        for reference in (LATEST, self.manifest.digest):
            got = await self.registry.get_manifest(NAME, reference)
            self.assertEqual(got, self.manifest)
            self.assertEqual(got.content, self.manifest.content)

    async def test_sha512_manifest(self) -> None:
        digest = Digest.of(self.manifest.content, "sha512")
        manifest = self.hostile.content.manifest(NAME, Manifest(OCI_MANIFEST, digest, self.manifest.content))
        self.assertEqual(await self.registry.get_manifest(NAME, digest), manifest)

    async def test_all_types_are_accepted_as_they_are(self) -> None:
        await self.registry.get_manifest(NAME, LATEST)
        accept = self.hostile.requests[-1].headers["accept"]
        kinds = [part.split(";")[0].strip() for part in accept.split(",")]
        for kind in (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, OCI_ARTIFACT):
            self.assertLess(kinds.index(kind), kinds.index(DOCKER_SCHEMA1_SIGNED))
        self.assertEqual(kinds[-1], "*/*")
        self.assertEqual(self.hostile.requests[-1].headers["accept-encoding"], "identity")

    async def test_head_that_does_not_tell_is_followed_by_get(self) -> None:
        for status in (401, 403, 404, 405):
            self.hostile.reset()
            self.hostile.switches.head_manifests = status
            self.assertEqual(await self.registry.resolve_manifest(NAME, LATEST), self.manifest.descriptor)
            self.assertEqual(dict(self.hostile.counts), {"HEAD manifests": 1, "GET manifests": 1}, status)

    async def test_tag_without_digest_header_is_computed(self) -> None:
        self.hostile.switches.no_digest = True
        self.assertEqual(await self.registry.resolve_manifest(NAME, LATEST), self.manifest.descriptor)
        self.assertEqual((await self.registry.get_manifest(NAME, LATEST)).digest, self.manifest.digest)

    async def test_what_a_get_had_to_describe_is_fetched_once(self) -> None:
        self.hostile.switches.no_digest = True
        for _ in range(2):
            self.hostile.reset()
            described = await self.registry.resolve_manifest(NAME, LATEST)
            self.assertEqual(await self.registry.get_manifest(NAME, described.digest), self.manifest)
            self.assertEqual(dict(self.hostile.counts), {"HEAD manifests": 1, "GET manifests": 1})
        await self.registry.get_manifest(NAME, described.digest)
        self.assertEqual(self.hostile.counts["GET manifests"], 2)

    async def test_what_a_get_had_to_describe_is_kept_for_a_while_alone(self) -> None:
        self.hostile.switches.no_digest = True
        described = await self.registry.resolve_manifest(NAME, LATEST)
        with self.assertRaises(ManifestUnknown):
            await self.registry.get_manifest(RepositoryName("team/other"), described.digest)
        self.hostile.reset()
        self.clock.advance(KEPT)
        await self.registry.get_manifest(NAME, described.digest)
        self.assertEqual(self.hostile.counts["GET manifests"], 1)

    async def test_no_more_is_kept_than_the_largest_manifest_may_have(self) -> None:
        self.hostile.switches.no_digest = True
        contents = [b'{"schemaVersion": 2, "n": "%d%s"}' % (number, b"0" * (LIMIT // 2)) for number in range(2)]
        for number, content in enumerate(contents):
            self.hostile.content.manifest(NAME, Manifest(OCI_MANIFEST, Digest.of(content), content), f"v{number}")
            await self.registry.resolve_manifest(NAME, Tag(f"v{number}"))
        self.hostile.reset()
        for content in contents:
            self.assertEqual((await self.registry.get_manifest(NAME, Digest.of(content))).content, content)
        self.assertEqual(self.hostile.counts["GET manifests"], 1)

    async def test_unknown(self) -> None:
        for name, reference in ((NAME, Tag("none")), (NAME, Digest.of(b"none")), (RepositoryName("none"), LATEST)):
            with self.assertRaises(ManifestUnknown):
                await self.registry.get_manifest(name, reference)
            with self.assertRaises(ManifestUnknown):
                await self.registry.resolve_manifest(name, reference)

    async def test_wrong_bytes_are_refused_and_logged(self) -> None:
        self.hostile.switches.corrupt_manifests = True
        for reference in (LATEST, self.manifest.digest):
            self.events.clear()
            error = await self.unavailable(self.registry.get_manifest(NAME, reference))
            self.assertIn(str(self.manifest.digest), str(error))
            self.assertTrue(self.said(f"error {self.hostile.url} answered wrongly"))

    async def test_corrupt_manifest_does_not_silence_the_upstream(self) -> None:
        self.hostile.switches.corrupt_manifests = True
        for _ in range(5):
            await self.unavailable(self.registry.get_manifest(NAME, LATEST))
        self.assertEqual(self.hostile.counts["GET manifests"], 5)

    async def test_wrong_digest_header_is_refused(self) -> None:
        self.hostile.switches.wrong_digest = True
        await self.unavailable(self.registry.get_manifest(NAME, LATEST))

    async def test_media_type_loses_its_parameters_alone(self) -> None:
        content = b'{"schemaVersion": 2}'
        self.hostile.content.manifest(NAME, Manifest(DOCKER_MANIFEST, Digest.of(content), content), "v1")
        self.hostile.switches.content_type = f"{DOCKER_MANIFEST}; charset=utf-8"
        self.assertEqual((await self.registry.get_manifest(NAME, Tag("v1"))).media_type, DOCKER_MANIFEST)
        self.assertEqual((await self.registry.resolve_manifest(NAME, Tag("v1"))).media_type, DOCKER_MANIFEST)

    async def test_media_type_that_the_document_names_is_its_type(self) -> None:
        """As it is once it is stored."""
        self.hostile.switches.content_type = DOCKER_MANIFEST
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_what_a_gateway_says_is_no_manifest(self) -> None:
        for content, kind in (
            (b'{"errors": [{"code": "UNAVAILABLE"}]}', "application/json"),
            (b'{"status": "maintenance"}', ""),
            (b'{"title": "maintenance"}', "application/problem+json"),
            (b"<down/>", "text/xml"),
            (b"<down/>", "application/xml"),
            (b"", OCI_MANIFEST),
            (b"[]", OCI_MANIFEST),
            (b"down for maintenance", OCI_MANIFEST),
            (b'{"status": "maintenance"}', "binary/octet-stream"),
        ):
            self.hostile.switches.no_digest, self.hostile.switches.content_type = True, kind
            self.hostile.content.manifest(NAME, Manifest(OCI_MANIFEST, Digest.of(content), content), "v1")
            await self.unavailable(self.registry.get_manifest(NAME, Tag("v1")))
            await self.unavailable(self.registry.resolve_manifest(NAME, Tag("v1")))

    async def test_a_manifest_may_be_labelled_as_any_file(self) -> None:
        content = b'{"schemaVersion": 2}'
        self.hostile.content.manifest(NAME, Manifest(OCI_MANIFEST, Digest.of(content), content), "v1")
        for kind in ("binary/octet-stream", "text/json", "application/xml", "text/plain"):
            for no_digest in (False, True):
                self.hostile.switches.content_type, self.hostile.switches.no_digest = kind, no_digest
                for reference in (Tag("v1"), Digest.of(content)):
                    self.assertEqual((await self.registry.get_manifest(NAME, reference)).media_type, OCI_MANIFEST)

    async def test_what_is_no_manifest_but_for_its_type_is_one(self) -> None:
        """Of types that nobody here knows."""
        content = b'{"anything": 1}'
        manifest = Manifest("application/vnd.own+json", Digest.of(content), content)
        self.hostile.content.manifest(NAME, manifest, "v1")
        self.hostile.switches.no_digest = True
        self.assertEqual(await self.registry.get_manifest(NAME, Tag("v1")), manifest)

    async def not_found(self, head: bytes, body: bytes, lists: bool) -> None:
        """Ask who answers so for a manifest, or for tags."""
        answer = b"HTTP/1.1 404 Not Found\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)
        registry = self.upstream(Trickling(answer).listen(self))
        await (registry.tags(NAME) if lists else registry.get_manifest(NAME, LATEST))

    async def test_a_404_of_what_stands_before_a_registry_tells_nothing(self) -> None:
        for kind in (b"text/html", b"Text/Plain; charset=utf-8"):
            for body in (b"404 page not found", b"{}", b""):
                for lists in (False, True):
                    with self.assertRaisesRegex(UpstreamUnavailable, "instead of a registry's errors"):
                        await self.not_found(b"Content-Type: " + kind, body, lists)

    async def test_a_404_of_a_registry_may_have_any_body(self) -> None:
        errors = b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        for head, body in (
            (b"X-Nothing: of it", b""),
            (b"Content-Type: application/json", b'{"message": "none"}'),
            (b"Content-Type: application/xml", b"<Error/>"),
            (b"Content-Type: text/plain", errors),
            (b"Content-Type: text/plain\r\nDocker-Distribution-Api-Version: registry/2.0", b"404 page not found"),
        ):
            with self.assertRaises(ManifestUnknown):
                await self.not_found(head, body, False)
            with self.assertRaises(NameUnknown):
                await self.not_found(head, body, True)

    async def test_a_404_of_a_mirror_that_could_ask_nobody_tells_nothing(self) -> None:
        body = b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        head = b"HTTP/1.1 404 Not Found\r\nRetry-After: 10\r\nContent-Length: %d\r\n\r\n" % len(body)
        registry = self.upstream(Trickling(head + body).listen(self))
        for asking in (registry.get_manifest(NAME, LATEST), registry.tags(NAME), registry.referrers(NAME, DIGEST)):
            await self.unavailable(asking)
        with self.assertRaises(UpstreamUnavailable):
            await registry.fetch_blob(NAME, DIGEST, 0)

    async def test_untold_media_type_is_that_of_the_document(self) -> None:
        for told in ("", "application/octet-stream", "application/json; charset=utf-8"):
            self.hostile.switches.content_type = told
            self.assertEqual((await self.registry.get_manifest(NAME, LATEST)).media_type, OCI_MANIFEST)
            self.assertEqual(await self.registry.resolve_manifest(NAME, LATEST), self.manifest.descriptor)

    async def test_a_page_is_no_manifest(self) -> None:
        self.hostile.switches.html = True
        await self.unavailable(self.registry.get_manifest(NAME, LATEST))
        await self.unavailable(self.registry.resolve_manifest(NAME, LATEST))

    async def test_too_large(self) -> None:
        large = self.hostile.content.manifest(
            NAME, Manifest(OCI_MANIFEST, Digest.of(b"x" * (LIMIT + 1)), b"x" * (LIMIT + 1)), "large"
        )
        for chunked in (False, True):
            self.hostile.switches.chunked = chunked
            error = await self.unavailable(self.registry.get_manifest(NAME, large.digest))
            self.assertIn("limit", str(error))
            self.assertEqual(str(LIMIT + 1) in str(error), not chunked)

    async def test_as_large_as_allowed(self) -> None:
        content = b"x" * LIMIT
        manifest = self.hostile.content.manifest(NAME, Manifest(OCI_MANIFEST, Digest.of(content), content))
        for chunked in (False, True):
            self.hostile.switches.chunked = chunked
            self.assertEqual(await self.registry.get_manifest(NAME, manifest.digest), manifest)

    async def test_connections_are_kept(self) -> None:
        for _ in range(5):
            await self.registry.resolve_manifest(NAME, LATEST)
            await self.registry.get_manifest(NAME, LATEST)
            with self.assertRaises(ManifestUnknown):
                await self.registry.get_manifest(NAME, Tag("none"))
        # While the rest of a 404 is on its way, the next request may need another.
        self.assertLessEqual(self.hostile.connections, 2)

    async def test_nothing_is_dialled_before_it_is_asked(self) -> None:
        self.upstream("http://127.0.0.1:1")
        await self.turns()
        self.assertEqual(self.hostile.connections, 0)

    async def test_a_body_that_trickles_is_bounded(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n")
        asking = self.upstream(server.listen(self)).get_manifest(NAME, LATEST)
        for _ in range(12):
            await server.send(bytes(LEAST))
            await self.turns()
            self.assertNoResult(asking)
            self.clock.advance(10)
        error = await self.unavailable(asking)
        self.assertIn("120 s", str(error))

    async def test_a_body_that_is_not_wanted_and_trickles_is_bounded(self) -> None:
        server = Trickling(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n")
        await self.unavailable(self.upstream(server.listen(self)).get_manifest(NAME, LATEST))
        for _ in range(2):
            await server.send(b"x")
            await self.turns()
            self.assertEqual(len(server.open), 1)
            self.clock.advance(DISCARDING / 2)
        await self.until(lambda: not server.open)

    async def test_a_head_without_end_is_bounded(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\n" + b"X-More: x\r\n" * 100_000)
        await self.unavailable(self.upstream(server.listen(self)).get_manifest(NAME, LATEST))

    async def test_a_head_without_end_is_bounded_on_a_connection_that_was_kept(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblob")
        registry = self.upstream(server.listen(self))
        self.assertEqual(await self.fetched(registry, Digest.of(b"blob")), b"blob")
        server.answer = b"HTTP/1.1 200 OK\r\n" + b"X-More: x\r\n" * 100_000
        await self.unavailable(registry.get_manifest(NAME, LATEST))

    async def test_a_long_body_behind_a_head(self) -> None:
        content = b"x" * LIMIT
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 20) + bytes(1 << 20))
        registry = self.upstream(server.listen(self))
        self.assertEqual(await self.fetched(registry, Digest.of(content)), bytes(1 << 20))

    async def test_no_answer_of_http(self) -> None:
        coded = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n"
        for answer in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", coded):
            await self.unavailable(self.upstream(Trickling(answer).listen(self)).get_manifest(NAME, LATEST))

    async def test_a_caller_may_leave(self) -> None:
        self.hostile.switches.slow_head = -1
        asking = self.registry.get_manifest(NAME, LATEST)
        await self.until(lambda: self.hostile.active)
        asking.addErrback(lambda _: None)
        asking.cancel()
        await self.until(lambda: not self.hostile.active)
        self.hostile.switches.slow_head = 0.0
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)
