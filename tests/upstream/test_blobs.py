"""Blobs of an upstream on their way: whole, resumed, broken off, held back."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IProducer, IPushProducer

from registryd.errors import BlobUnknown
from registryd.interfaces import IFetch, PeerGone
from registryd.model import OCTET_STREAM, Descriptor
from registryd.reference import Digest
from registryd.upstream import Patience
from tests.upstream.case import LATEST, NAME, UpstreamCase
from tests.upstream.trickling import Trickling
from tests.values import Sink

LAYER = bytes(range(256)) * 4096


class Blobs(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        _, (self.digest,) = self.hostile.content.image(NAME, LATEST, LAYER)
        self.registry = self.upstream()

    async def test_whole(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        self.assertTrue(IFetch.providedBy(fetch))
        self.assertEqual((fetch.start, fetch.size), (0, len(LAYER)))
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER)
        self.assertIsNone(sink.producer)
        self.assertNotIn("range", self.hostile.requests[-1].headers)

    async def test_empty(self) -> None:
        digest = self.hostile.content.blob(b"")
        fetch = await self.registry.fetch_blob(NAME, digest, 0)
        self.assertEqual(fetch.size, 0)
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, b"")

    async def test_without_length(self) -> None:
        self.hostile.switches.chunked = True
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        self.assertIsNone(fetch.size)
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER)

    async def test_without_length_takes_that_of_head_within_its_only_slot(self) -> None:
        self.hostile.switches.chunked = True
        self.hostile.switches.chunked_heads = False
        registry = self.upstream(requests=1)
        fetch = await registry.fetch_blob(NAME, self.digest, 0)
        self.assertEqual(fetch.size, len(LAYER))
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER)
        self.assertEqual(await self.fetched(registry, self.digest), LAYER)

    async def test_without_length_and_head_is_fetched_all_the_same(self) -> None:
        self.hostile.switches.chunked = True
        self.hostile.switches.head_blobs = 500
        fetch = await self.upstream(requests=1).fetch_blob(NAME, self.digest, 0)
        self.assertIsNone(fetch.size)
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER)

    async def test_resolved_by_head(self) -> None:
        self.assertEqual(
            await self.registry.resolve_blob(NAME, self.digest), Descriptor(OCTET_STREAM, self.digest, len(LAYER))
        )
        self.assertEqual(dict(self.hostile.counts), {"HEAD blobs": 1})

    async def test_head_that_does_not_tell(self) -> None:
        for status in (401, 403, 404, 405):
            self.hostile.switches.head_blobs = status
            with self.assertRaises(BlobUnknown):
                await self.registry.resolve_blob(NAME, self.digest)
            self.assertEqual(await self.fetched(self.registry, self.digest), LAYER)

    async def test_head_without_length_does_not_tell(self) -> None:
        self.hostile.switches.chunked = True
        with self.assertRaises(BlobUnknown):
            await self.registry.resolve_blob(NAME, self.digest)

    async def test_unknown(self) -> None:
        with self.assertRaises(BlobUnknown):
            await self.registry.fetch_blob(NAME, Digest.of(b"none"), 0)
        with self.assertRaises(BlobUnknown):
            await self.registry.fetch_blob(NAME, Digest.of(b"none"), 10)
        with self.assertRaises(BlobUnknown):
            await self.registry.resolve_blob(NAME, Digest.of(b"none"))

    async def test_resumed(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, 1000)
        self.assertEqual((fetch.start, fetch.size), (1000, len(LAYER)))
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER[1000:])
        self.assertEqual(self.hostile.requests[-1].headers["range"], "bytes=1000-")

    async def test_not_resumed_where_range_is_not_known(self) -> None:
        self.hostile.switches.no_range = True
        fetch = await self.registry.fetch_blob(NAME, self.digest, 1000)
        self.assertEqual((fetch.start, fetch.size), (0, len(LAYER)))
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER)
        self.assertEqual(self.hostile.counts["GET blobs"], 1)

    async def test_another_range_than_asked_for_is_not_taken(self) -> None:
        self.hostile.switches.wrong_range = True
        fetch = await self.registry.fetch_blob(NAME, self.digest, 1000)
        self.assertEqual(fetch.start, 0)
        sink = Sink()
        await fetch.deliver_to(sink)
        self.assertEqual(sink.content, LAYER)

    async def test_nothing_is_missing(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, len(LAYER))
        self.assertEqual((fetch.start, fetch.size), (len(LAYER), len(LAYER)))
        sink = Sink()
        await fetch.deliver_to(sink)
        fetch.abandon()
        self.assertEqual(sink.content, b"")

    async def test_more_than_there_is_begins_anew(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, len(LAYER) + 1)
        self.assertEqual((fetch.start, fetch.size), (0, len(LAYER)))
        fetch.abandon()

    async def test_broken_off(self) -> None:
        for chunked in (False, True):
            self.hostile.switches.chunked = chunked
            self.hostile.switches.break_after = 70_000
            fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
            sink = Sink()
            error = await self.unavailable(fetch.deliver_to(sink))
            self.assertIn("70000", str(error))
            self.assertEqual(sink.content, LAYER[:70_000])
            self.assertIsNone(sink.producer)

    async def test_broken_off_in_the_rest(self) -> None:
        self.hostile.switches.break_after = 10
        fetch = await self.registry.fetch_blob(NAME, self.digest, 1000)
        sink = Sink()
        await self.unavailable(fetch.deliver_to(sink))
        self.assertEqual(sink.content, LAYER[1000:1010])

    async def test_a_break_does_not_silence_the_upstream(self) -> None:
        self.hostile.switches.break_after = 10
        self.hostile.switches.break_times = 5
        for _ in range(5):
            await self.unavailable(self.fetched(self.registry, self.digest))
        self.assertEqual(await self.fetched(self.registry, self.digest, 10), LAYER[10:])

    async def test_shorter_than_announced(self) -> None:
        self.hostile.switches.length_off = 5
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        self.assertEqual(fetch.size, len(LAYER) + 5)
        await self.unavailable(fetch.deliver_to(Sink()))

    async def test_what_a_store_calls_gzip_is_passed_on_as_it_is(self) -> None:
        self.hostile.switches.gzip_label = True
        self.assertEqual(await self.fetched(self.registry, self.digest), LAYER)

    async def test_silence_ends_a_fetch(self) -> None:
        self.hostile.switches.stall_after = 1000
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        sink = Sink()
        done = fetch.deliver_to(sink)
        await self.until(lambda: len(sink.content) == 1000)
        self.clock.advance(19)
        self.assertNoResult(done)
        self.clock.advance(1)
        error = await self.unavailable(done)
        self.assertIn("nothing for 20 s", str(error))
        await self.until(lambda: not self.hostile.active)

    async def test_silence_of_a_paused_consumer_does_not(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        sink = Sink(greedy=False)
        done = fetch.deliver_to(sink)
        await self.until(lambda: sink.pieces)
        self.clock.advance(600)
        self.assertNoResult(done)
        while not done.called:
            if sink.producer is not None:
                sink.resume()
            await self.turn()
        await done
        self.assertEqual(sink.content, LAYER)

    async def test_silence_after_a_pause_counts_from_its_end(self) -> None:
        self.hostile.switches.stall_after = 1000
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        sink = Sink(greedy=False)
        done = fetch.deliver_to(sink)
        await self.until(lambda: sink.pieces)
        self.clock.advance(100)
        sink.resume()
        self.clock.advance(19)
        self.assertNoResult(done)
        self.clock.advance(1)
        await self.unavailable(done)

    async def test_a_paused_consumer_holds_the_upstream_back(self) -> None:
        large = bytes(32 << 20)
        digest = self.hostile.content.blob(large)
        fetch = await self.registry.fetch_blob(NAME, digest, 0)
        sink = Sink(greedy=False)
        done = fetch.deliver_to(sink)
        await self.until(lambda: sink.pieces)
        await self.turns(200)
        self.assertEqual(len(sink.pieces), 1)
        self.assertEqual(self.hostile.active, 1)
        fetch.abandon()
        done.addErrback(lambda failure: failure.trap(PeerGone))
        await self.until(lambda: not self.hostile.active)

    async def test_a_consumer_that_does_not_want_to_begin(self) -> None:
        digest = self.hostile.content.blob(bytes(8 << 20))
        fetch = await self.registry.fetch_blob(NAME, digest, 0)
        sink = Reluctant()
        done = fetch.deliver_to(sink)
        await self.turns(100)
        self.assertLessEqual(len(sink.content), 128 * 1024)
        sink.resume()
        await done
        self.assertEqual(len(sink.content), 8 << 20)

    async def test_a_consumer_that_stops_before_it_begins(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        with self.assertRaises(PeerGone):
            await fetch.deliver_to(Gone())
        await self.until(lambda: not self.hostile.active)

    async def test_more_than_announced(self) -> None:
        server = Trickling(
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 20\r\n\r\n" + b"x" * 20
        )
        fetch = await self.upstream(server.listen(self)).fetch_blob(NAME, self.digest, 5)
        self.assertEqual((fetch.start, fetch.size), (5, 10))
        sink = Sink()
        await self.unavailable(fetch.deliver_to(sink))
        self.assertLessEqual(len(sink.content), 5)

    async def test_a_consumer_that_stops(self) -> None:
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        sink = Sink(greedy=False)
        done = fetch.deliver_to(sink)
        await self.until(lambda: sink.pieces)
        assert sink.producer is not None
        sink.producer.stopProducing()
        with self.assertRaises(PeerGone):
            await done
        await self.until(lambda: not self.hostile.active)

    async def test_a_delivery_that_is_cancelled(self) -> None:
        self.hostile.switches.stall_after = 10
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        done = fetch.deliver_to(Sink())
        done.cancel()
        with self.assertRaises(CancelledError):
            await done
        await self.until(lambda: not self.hostile.active)

    async def test_abandoned_before_it_is_delivered(self) -> None:
        self.hostile.switches.stall_after = 10
        fetch = await self.registry.fetch_blob(NAME, self.digest, 0)
        fetch.abandon()
        fetch.abandon()
        await self.until(lambda: not self.hostile.active)

    async def test_an_answer_that_never_begins(self) -> None:
        self.hostile.switches.slow_head = -1
        registry = self.upstream(patience=Patience(response=30.0))
        asking = registry.fetch_blob(NAME, self.digest, 0)
        await self.until(lambda: self.hostile.active)
        self.clock.advance(29)
        self.assertNoResult(asking)
        self.clock.advance(1)
        error = await self.unavailable(asking)
        self.assertIn("30 s", str(error))
        await self.until(lambda: not self.hostile.active)


class Reluctant(Sink):
    """A consumer that wants to wait before it gets anything."""

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        IPushProducer(producer).pauseProducing()


class Gone(Sink):
    """A consumer that is gone when it is to get something."""

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        producer.stopProducing()


class Slots(UpstreamCase):
    """How many requests there are at once."""

    async def test_bodies_count_until_they_end_and_leave_room_for_heads(self) -> None:
        manifest, (digest,) = self.hostile.content.image(NAME, LATEST, LAYER)
        registry = self.upstream(requests=4)
        self.hostile.switches.stall_after = 10
        fetches = [registry.fetch_blob(NAME, digest, 0) for _ in range(6)]
        await self.until(lambda: sum(fetch.called for fetch in fetches) == 3)
        await self.turns()
        self.assertEqual(self.hostile.active, 3)
        for _ in range(3):
            self.assertEqual(await registry.resolve_manifest(NAME, LATEST), manifest.descriptor)
        (await fetches[0]).abandon()
        await self.until(lambda: fetches[3].called)
        self.assertEqual(self.hostile.counts["GET blobs"], 4)
        for fetch in fetches:
            fetch.addCallback(lambda fetch: fetch.abandon())
        await self.until(lambda: all(fetch.called for fetch in fetches))
        self.assertLessEqual(self.hostile.most_active, 4)

    async def test_short_requests_are_bounded_too(self) -> None:
        manifest, _ = self.hostile.content.image(NAME, LATEST)
        registry = self.upstream(requests=2)
        self.hostile.switches.slow_head = 0.01
        asking = [registry.resolve_manifest(NAME, LATEST) for _ in range(6)]
        for answer in asking:
            self.assertEqual(await answer, manifest.descriptor)
        self.assertEqual(self.hostile.most_active, 2)

    async def test_who_waits_may_leave(self) -> None:
        manifest, _ = self.hostile.content.image(NAME, LATEST)
        registry = self.upstream(requests=1)
        self.hostile.switches.slow_head = 0.01
        first, second, third = (registry.resolve_manifest(NAME, LATEST) for _ in range(3))
        second.addErrback(lambda failure: failure.trap(CancelledError))
        second.cancel()
        await first
        self.assertEqual(await third, manifest.descriptor)
        self.assertEqual(self.hostile.counts["HEAD manifests"], 2)

    async def test_errors_give_their_slot_back(self) -> None:
        registry = self.upstream(requests=1)
        for _ in range(3):
            with self.assertRaises(BlobUnknown):
                await registry.fetch_blob(NAME, Digest.of(b"none"), 0)
            with self.assertRaises(BlobUnknown):
                await registry.fetch_blob(NAME, Digest.of(b"none"), 5)
