"""Redirects of an upstream: followed, and what is told on the way."""

from __future__ import annotations

from registryd.errors import BlobUnknown
from tests.upstream.case import LATEST, NAME, SECRET, UpstreamCase
from tests.upstream.trickling import Trickling

LAYER = b"layer" * 1000


class Redirects(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, (self.digest,) = self.hostile.content.image(NAME, LATEST, LAYER)
        self.store = self.another()
        self.store.content.image(NAME, LATEST, LAYER)
        # Another host by name, which is this machine too.
        self.elsewhere = self.store.url.replace("127.0.0.1", "localhost")
        self.hostile.switches.redirect_to = self.elsewhere
        self.hostile.switches.auth = "basic"
        self.hostile.switches.username, self.hostile.switches.password = "user", SECRET
        self.registry = self.upstream(username="user", password=SECRET)

    async def test_followed_whatever_their_status(self) -> None:
        for code in (301, 302, 303, 307, 308):
            self.hostile.switches.redirect_code = code
            self.assertEqual(await self.fetched(self.registry, self.digest), LAYER)
            self.assertEqual((await self.registry.resolve_blob(NAME, self.digest)).size, len(LAYER))

    async def test_connections_are_kept(self) -> None:
        for _ in range(5):
            self.assertEqual(await self.fetched(self.registry, self.digest), LAYER)
            await self.turns(3)
        self.assertLessEqual(self.hostile.connections, 2)

    async def test_the_rest_of_a_redirect_is_not_waited_for(self) -> None:
        location = f"{self.store.url}/v2/{NAME}/blobs/{self.digest}"
        head = f"HTTP/1.1 307 Elsewhere\r\nLocation: {location}\r\nContent-Length: 100\r\n\r\n"
        server = Trickling(head.encode())
        self.assertEqual(await self.fetched(self.upstream(server.listen(self)), self.digest), LAYER)
        self.assertEqual(len(server.open), 1)
        self.clock.advance(60)
        await self.until(lambda: not server.open)

    async def test_manifests_too(self) -> None:
        self.hostile.switches.redirect_manifests = True
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(await self.registry.resolve_manifest(NAME, LATEST), self.manifest.descriptor)

    async def test_another_host_is_told_no_password(self) -> None:
        await self.fetched(self.registry, self.digest)
        self.assertNotIn("authorization", self.store.requests[0].headers)
        self.assertIn("authorization", self.hostile.requests[-1].headers)

    async def test_nor_is_another_port_of_its_host(self) -> None:
        """As that of a store beside it, which has a login of its own."""
        self.hostile.switches.redirect_to = self.store.url
        await self.fetched(self.registry, self.digest)
        self.assertNotIn("authorization", self.store.requests[0].headers)

    async def test_the_registry_itself_is(self) -> None:
        self.hostile.switches.redirect_to = self.hostile.url + "/store"
        with self.assertRaises(BlobUnknown):
            await self.registry.fetch_blob(NAME, self.digest, 0)
        self.assertTrue(self.hostile.requests[-1].path.startswith("/store/"))
        self.assertIn("authorization", self.hostile.requests[-1].headers)

    async def test_range_goes_along(self) -> None:
        self.assertEqual(await self.fetched(self.registry, self.digest, 100), LAYER[100:])
        self.assertEqual(self.store.requests[0].headers["range"], "bytes=100-")

    async def test_a_signed_url_is_asked_for_as_it_is(self) -> None:
        signature = "/x%2Fy%7E~'(a)*;v=1/?Sig=a%2fb%2Bc+d~e&empty=&q='|&u=%C3%BC#fragment"
        self.hostile.switches.redirect_to = self.elsewhere + signature
        with self.assertRaises(BlobUnknown):
            await self.registry.fetch_blob(NAME, self.digest, 0)
        self.assertEqual(self.store.requests[0].path, signature.partition("#")[0])

    async def test_loop(self) -> None:
        self.hostile.switches.redirect_loop = True
        error = await self.unavailable(self.registry.fetch_blob(NAME, self.digest, 0))
        self.assertIn("more than 10 times", str(error))
        self.assertLessEqual(self.hostile.counts["GET blobs"], 12)

    async def test_to_nonsense(self) -> None:
        for target in ("ftp://localhost", "http://localhost:port", "http://[", "//"):
            self.hostile.switches.redirect_to = target
            error = await self.unavailable(self.registry.fetch_blob(NAME, self.digest, 0))
            self.assertNotIn("sha256", str(error))

    async def test_what_the_other_host_does_not_hold(self) -> None:
        self.store.content.blobs.clear()
        with self.assertRaises(BlobUnknown):
            await self.registry.fetch_blob(NAME, self.digest, 0)

    async def test_a_login_elsewhere_is_refused(self) -> None:
        self.store.switches.auth = "basic"
        self.store.switches.username, self.store.switches.password = "user", SECRET
        await self.unavailable(self.registry.fetch_blob(NAME, self.digest, 0))
        self.assertNotIn("authorization", self.store.requests[0].headers)
        self.assertEqual(len(self.store.requests), 1)

    async def test_a_failing_store_does_not_silence_the_registry(self) -> None:
        self.store.switches.status, self.store.switches.retry_after = 503, "100"
        await self.unavailable(self.registry.fetch_blob(NAME, self.digest, 0))
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)
        await self.unavailable(self.registry.fetch_blob(NAME, self.digest, 0))
        self.assertEqual(len(self.store.requests), 1)
