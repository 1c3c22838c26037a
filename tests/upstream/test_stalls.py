"""Upstreams that answer, and then send nothing: left alone when it is them, and not for one slow blob."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from registryd.errors import BlobUnknown, ManifestUnknown, UpstreamUnavailable
from registryd.interfaces import IFetch
from registryd.reference import Digest
from registryd.upstream.availability import DOUBTS, FIRST_DELAY
from registryd.upstream.body import LEAST
from registryd.upstream.flow import PROOF
from tests.cache.mirror import Pull
from tests.upstream.case import LATEST, NAME, UpstreamCase
from tests.upstream.trickling import Trickling
from tests.values import Sink

LAYER = bytes(range(256)) * 1024
LARGE = bytes(PROOF + 10)
READ = 20.0


class Stalls(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, (self.digest, self.other, self.large) = self.hostile.content.image(
            NAME, LATEST, LAYER, LAYER[1:], LARGE
        )
        self.registry = self.upstream()

    async def begin(self, digest: Digest, stall_after: int | None = None) -> tuple[Deferred[None], Sink]:
        """A delivery that has got what comes before the stall."""
        self.hostile.switches.stall_after = stall_after
        fetch: IFetch = await self.registry.fetch_blob(NAME, digest, 0)
        sink = Sink()
        done = fetch.deliver_to(sink)
        if stall_after is not None:
            await self.until(lambda: len(sink.content) == stall_after)
        return done, sink

    async def stall(self, digest: Digest | None = None, after: int = 1000) -> None:
        done, _ = await self.begin(digest or self.digest, after)
        self.clock.advance(READ)
        await self.unavailable(done)
        self.hostile.switches.stall_after = None

    async def stall_for_good(self, after: int = 1000) -> None:
        for _ in range(DOUBTS):
            await self.stall(after=after)

    async def send(self, server: Trickling, data: bytes, sink: Sink) -> None:
        """Send a part of an answer, which has come then."""
        size = len(sink.content) + len(data)
        await server.send(data)
        await self.until(lambda: len(sink.content) == size)

    async def is_refused(self) -> None:
        asked = len(self.hostile.requests)
        for asking in (
            self.registry.fetch_blob(NAME, self.other, 0),
            self.registry.resolve_blob(NAME, self.other),
            self.registry.get_manifest(NAME, LATEST),
            self.registry.resolve_manifest(NAME, LATEST),
            self.registry.tags(NAME),
        ):
            self.assertIn("sent next to nothing for 20 s", str(await self.unavailable(asking)))
        self.assertEqual(len(self.hostile.requests), asked)
        self.assertFalse(self.registry.state().available)

    async def test_in_a_row_silence_the_upstream_for_a_while(self) -> None:
        await self.stall_for_good()
        await self.is_refused()
        self.assertEqual(len(self.said("left alone for 2 s")), 1)
        self.clock.advance(FIRST_DELAY)
        self.assertEqual(await self.fetched(self.registry, self.other), LAYER[1:])
        self.assertTrue(self.registry.state().available)
        self.assertEqual(len(self.said("answers again")), 1)

    async def test_of_several_blobs_count_together(self) -> None:
        stalling = [await self.begin(digest, 0) for digest in (self.digest, self.other, self.large)]
        self.clock.advance(READ)
        for done, _ in stalling:
            await self.unavailable(done)
        await self.is_refused()

    async def test_that_repeat_silence_it_for_longer(self) -> None:
        await self.stall_for_good()
        self.clock.advance(FIRST_DELAY)
        await self.stall()
        self.clock.advance(FIRST_DELAY)
        await self.is_refused()
        self.clock.advance(FIRST_DELAY)
        self.assertEqual(await self.fetched(self.registry, self.other), LAYER[1:])

    async def test_one_probe_at_a_time(self) -> None:
        await self.stall_for_good()
        self.clock.advance(FIRST_DELAY)
        probe, _ = await self.begin(self.digest, 10)
        await self.is_refused()
        self.clock.advance(READ)
        await self.unavailable(probe)

    async def test_a_probe_that_is_given_up_lets_another_ask(self) -> None:
        await self.stall_for_good()
        self.clock.advance(FIRST_DELAY)
        self.hostile.switches.stall_after = 0
        (await self.registry.fetch_blob(NAME, self.digest, 0)).abandon()
        self.hostile.switches.stall_after = None
        self.assertEqual(await self.fetched(self.registry, self.other), LAYER[1:])

    async def test_between_blobs_that_come_silence_nothing(self) -> None:
        for _ in range(3 * DOUBTS):
            await self.stall()
            self.assertEqual(await self.fetched(self.registry, self.other), LAYER[1:])
        self.assertTrue(self.registry.state().available)

    async def test_beside_a_large_blob_that_comes_silence_nothing(self) -> None:
        for _ in range(DOUBTS):
            for _ in range(DOUBTS - 1):
                await self.stall()
            large, _ = await self.begin(self.large, PROOF)
            large.addErrback(lambda _: None)
            large.cancel()
        self.assertTrue(self.registry.state().available)

    async def test_are_not_outweighed_by_manifests(self) -> None:
        for _ in range(DOUBTS):
            self.assertEqual(await self.registry.get_manifest(NAME, self.manifest.digest), self.manifest)
            await self.stall(after=0)
        await self.is_refused()

    async def test_are_not_outweighed_by_what_is_smaller(self) -> None:
        await self.stall_for_good(after=len(LAYER) - 1)
        self.clock.advance(FIRST_DELAY)
        small = self.hostile.content.blob(b"config")
        self.assertEqual(await self.fetched(self.registry, small), b"config")
        # It is asked as ever now, but one stall is enough.
        self.assertTrue(self.registry.state().available)
        await self.stall()
        await self.is_refused()

    async def test_of_manifests_count(self) -> None:
        self.hostile.switches.stall_manifests = True
        for _ in range(DOUBTS):
            asking = self.registry.get_manifest(NAME, LATEST)
            await self.until(lambda: self.hostile.active)
            await self.turns()
            self.clock.advance(READ)
            self.assertIn("nothing for 20 s", str(await self.unavailable(asking)))
        await self.is_refused()

    async def test_that_are_trickles_count(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        self.registry = self.upstream(server.listen(self))
        for _ in range(DOUBTS):
            fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
            sink = Sink()
            done = fetch.deliver_to(sink)
            for _ in range(4):
                self.assertNoResult(done)
                await self.send(server, b"x", sink)
                self.clock.advance(READ / 4)
            self.assertIn("next to nothing for 20 s after 4", str(await self.unavailable(done)))
            await self.until(lambda: not server.open)
        with self.assertRaises(UpstreamUnavailable):
            await self.registry.fetch_blob(NAME, self.other, 0)

    async def test_that_are_manifests_without_end_count(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        self.registry = self.upstream(server.listen(self))
        for _ in range(DOUBTS):
            asking = self.registry.get_manifest(NAME, LATEST)
            while not asking.called:
                await server.send(bytes(LEAST))
                await self.turns()
                self.clock.advance(READ / 2)
            self.assertIn("took more than 120 s", str(await self.unavailable(asking)))
            await self.until(lambda: not server.open)
        self.assertIn(
            "in the middle of an answer", str(await self.unavailable(self.registry.get_manifest(NAME, LATEST)))
        )

    async def test_are_not_slow_blobs(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (10 * LEAST))
        fetch = await self.upstream(server.listen(self)).fetch_blob(NAME, self.digest, 0)
        sink = Sink()
        done = fetch.deliver_to(sink)
        for _ in range(10):
            self.assertNoResult(done)
            self.clock.advance(READ - 1)
            await self.send(server, bytes(LEAST), sink)
        await done

    async def test_that_are_trickles_cost_one_client_a_minute(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        mirror = self.mirror(self.upstream(server.listen(self)))
        begun = self.clock.seconds()
        pull = Pull(await mirror.open_blob(NAME, self.large))
        while not pull.done.called:
            if server.open:
                await server.send(b"x")
            # The sockets are real, and take longer on a busy machine.
            await self.turns(10 if server.open else 100)
            self.clock.advance(1)
        with self.assertRaises(UpstreamUnavailable):
            await pull.done
        self.assertLess(self.clock.seconds() - begun, 100)

    async def test_the_next_url_is_asked(self) -> None:
        other = self.another()
        other.content = self.hostile.content
        self.registry = self.upstream(self.hostile.url, other.url)
        await self.stall_for_good()
        self.assertEqual(await self.fetched(self.registry, self.digest), LAYER)
        self.assertEqual(other.counts["GET blobs"], 1)

    async def test_who_waited_for_a_slot_is_refused_as_well(self) -> None:
        self.registry = self.upstream(requests=1)
        for _ in range(DOUBTS - 1):
            await self.stall()
        last, _ = await self.begin(self.digest, 0)
        waiting = self.registry.fetch_blob(NAME, self.other, 0)
        self.clock.advance(READ)
        await self.unavailable(last)
        with self.assertRaises(UpstreamUnavailable):
            await waiting

    async def test_cost_one_client_a_minute_and_the_next_nothing(self) -> None:
        mirror = self.mirror(self.registry)
        self.hostile.switches.stall_after = 1000
        begun = self.clock.seconds()
        pull = Pull(await mirror.open_blob(NAME, self.large))
        while not pull.done.called:
            await self.turns()
            self.clock.advance(0.5)
        with self.assertRaises(UpstreamUnavailable):
            await pull.done
        self.assertLess(self.clock.seconds() - begun, 65)
        asked = len(self.hostile.requests)
        with self.assertRaisesRegex(BlobUnknown, "could not be asked: .* sent next to nothing for 20 s"):
            await mirror.open_blob(NAME, self.large)
        with self.assertRaises(BlobUnknown):
            await mirror.open_blob(NAME, self.other)
        with self.assertRaises(ManifestUnknown):
            await mirror.get_manifest(NAME, LATEST)
        self.assertEqual(len(self.hostile.requests), asked)
        self.hostile.switches.stall_after = None
        self.clock.advance(FIRST_DELAY)
        pull = Pull(await mirror.open_blob(NAME, self.large))
        await pull.done
        self.assertEqual(pull.content, LARGE)
        self.assertEqual(self.hostile.requests[-1].headers["range"], "bytes=3000-")
