"""Upstreams that fail: told at once, left alone for a while, asked again."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from registryd.errors import BlobUnknown, ManifestUnknown, UpstreamUnavailable
from registryd.interfaces import UpstreamState
from registryd.reference import Digest, RepositoryName, Tag
from registryd.upstream.availability import (
    DOUBTS,
    FIRST_DELAY,
    LONGEST_DELAY,
    LONGEST_RETRY_AFTER,
    Availabilities,
    Availability,
)
from registryd.upstream.guard import retry_after
from registryd.upstream.senders import REMEMBERED, SECONDS, Senders
from tests.cache.mirror import Pull
from tests.upstream.case import LATEST, NAME, UpstreamCase

LARGE = bytes(range(256)) * 1024


class Failures(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, (self.digest,) = self.hostile.content.image(NAME, LATEST, b"layer")
        self.registry = self.upstream()

    @property
    def asked(self) -> int:
        return len(self.hostile.requests)

    async def fails(self) -> UpstreamUnavailable:
        return await self.unavailable(self.registry.get_manifest(NAME, LATEST))

    async def test_nobody_listens(self) -> None:
        registry = self.upstream("http://127.0.0.1:1")
        error = await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertIn("http://127.0.0.1:1", str(error))
        self.assertIn("refused", str(error))
        self.assertIsNone(error.retry_after)
        self.assertEqual(registry.state(), UpstreamState(available=False))

    async def test_a_name_that_does_not_exist(self) -> None:
        error = await self.unavailable(self.upstream("http://registry.invalid").get_manifest(NAME, LATEST))
        self.assertIn("name is not known", str(error))

    async def test_429_silences_at_once_for_as_long_as_it_says(self) -> None:
        self.hostile.switches.status, self.hostile.switches.retry_after = 429, "100"
        error = await self.fails()
        self.assertIn("429", str(error))
        self.assertEqual(error.retry_after, 100)
        self.hostile.switches.status = None
        self.clock.advance(40)
        error = await self.fails()
        self.assertEqual(error.retry_after, 60)
        self.assertIn("429", str(error))
        self.assertEqual(self.asked, 1)
        self.assertFalse(self.registry.state().available)
        self.clock.advance(60)
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertTrue(self.registry.state().available)
        self.assertEqual(len(self.said("left alone for 100 s")), 1)
        self.assertEqual(len(self.said("answers again")), 1)

    async def test_blobs_and_heads_too(self) -> None:
        self.hostile.switches.status = 429
        await self.fails()
        await self.unavailable(self.registry.fetch_blob(NAME, self.digest, 0))
        await self.unavailable(self.registry.resolve_blob(NAME, self.digest))
        await self.unavailable(self.registry.resolve_manifest(NAME, LATEST))
        await self.unavailable(self.registry.tags(NAME))
        await self.unavailable(self.registry.referrers(NAME, self.digest))
        self.assertEqual(self.asked, 1)

    async def test_5xx_silences_when_it_repeats(self) -> None:
        self.hostile.switches.status = 500
        for _ in range(3):
            await self.fails()
        self.assertEqual(self.asked, 3)
        await self.fails()
        self.assertEqual(self.asked, 3)
        self.clock.advance(FIRST_DELAY)
        await self.fails()
        self.assertEqual(self.asked, 4)
        self.clock.advance(FIRST_DELAY)
        await self.fails()
        self.assertEqual(self.asked, 4)
        self.clock.advance(FIRST_DELAY)
        self.hostile.switches.status = None
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_one_bad_item_does_not_silence_the_rest(self) -> None:
        for _ in range(5):
            self.hostile.switches.status, self.hostile.switches.status_times = 500, 2
            await self.fails()
            await self.fails()
            self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_a_repository_that_fails_is_left_alone_by_itself(self) -> None:
        names = [RepositoryName(f"team/other{number}") for number in range(DOUBTS)]
        manifests = [self.hostile.content.image(name, LATEST, b"layer")[0] for name in names]
        self.hostile.switches.status, self.hostile.switches.status_names = 500, (NAME,)
        for _ in range(5 * DOUBTS):
            await self.fails()
        self.assertEqual(self.asked, DOUBTS)
        for name, manifest in zip(names, manifests, strict=True):
            self.assertEqual(await self.registry.get_manifest(name, LATEST), manifest)
        self.assertTrue(self.registry.state().available)
        self.hostile.switches.status = None
        await self.fails()
        self.clock.advance(FIRST_DELAY)
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_a_repository_that_was_left_alone_is_asked_again_by_who_comes_after_one_that_left(self) -> None:
        self.hostile.switches.status, self.hostile.switches.status_names = 500, (NAME,)
        for _ in range(DOUBTS):
            await self.fails()
        self.hostile.switches.status, self.hostile.switches.slow_head = None, -1
        self.clock.advance(FIRST_DELAY)
        probe = self.registry.get_manifest(NAME, LATEST)
        await self.until(lambda: self.hostile.active)
        probe.cancel()
        with self.assertRaises(CancelledError):
            await probe
        self.hostile.switches.slow_head = 0.0
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_lists_that_fail_leave_the_repository_alone(self) -> None:
        """Not the other way round."""
        self.hostile.switches.status, self.hostile.switches.status_kinds = 500, ("tags", "referrers")
        for _ in range(2 * DOUBTS):
            await self.unavailable(self.registry.tags(NAME))
            await self.unavailable(self.registry.referrers(NAME, self.digest))
        self.assertEqual(self.asked, 2 * DOUBTS)
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_an_upstream_that_is_down_for_certain_leaves_no_repository_to_be_waited_for(self) -> None:
        for _ in range(2 * DOUBTS):
            self.hostile.switches.status, self.hostile.switches.retry_after = 503, "1"
            await self.fails()
            self.clock.advance(1)
        self.hostile.switches.status = None
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_items_that_failed_before_one_came_do_not_count(self) -> None:
        for number in range(2 * DOUBTS):
            self.hostile.switches.status = 500
            await self.unavailable(self.registry.get_manifest(RepositoryName(f"team/other{number}"), LATEST))
            if number % (DOUBTS - 1):
                self.hostile.switches.status = None
                self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertTrue(self.registry.state().available)

    async def test_several_repositories_that_fail_silence_the_rest(self) -> None:
        self.hostile.switches.status = 500
        for number in range(DOUBTS):
            await self.unavailable(self.registry.get_manifest(RepositoryName(f"team/other{number}"), LATEST))
        self.assertFalse(self.registry.state().available)
        self.hostile.switches.status = None
        await self.fails()
        self.assertEqual(self.asked, DOUBTS)
        self.clock.advance(FIRST_DELAY)
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)
        self.hostile.switches.status = 500
        for number in range(DOUBTS):
            await self.unavailable(self.registry.get_manifest(RepositoryName(f"team/other{number}"), LATEST))
        self.assertFalse(self.registry.state().available)

    async def test_404_does_not_count(self) -> None:
        for _ in range(10):
            with self.assertRaises(ManifestUnknown):
                await self.registry.get_manifest(NAME, Tag("none"))
        self.assertEqual(self.asked, 10)

    async def test_a_timeout_silences(self) -> None:
        self.hostile.switches.slow_head = -1
        asking = self.registry.get_manifest(NAME, LATEST)
        await self.until(lambda: self.hostile.active)
        self.clock.advance(30)
        await self.unavailable(asking)
        await self.fails()
        self.assertEqual(self.asked, 1)

    async def test_one_probe_at_a_time(self) -> None:
        self.hostile.switches.status = 429
        await self.fails()
        self.hostile.switches.status = None
        self.hostile.switches.slow_head = 0.02
        self.clock.advance(FIRST_DELAY)
        probe = self.registry.get_manifest(NAME, LATEST)
        await self.fails()
        self.assertEqual(await probe, self.manifest)
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_a_probe_whose_caller_leaves_lets_another_ask(self) -> None:
        self.hostile.switches.status = 429
        await self.fails()
        self.hostile.switches.status, self.hostile.switches.slow_head = None, -1
        self.clock.advance(FIRST_DELAY)
        probe = self.registry.get_manifest(NAME, LATEST)
        await self.until(lambda: self.hostile.active)
        probe.addErrback(lambda _: None)
        probe.cancel()
        self.hostile.switches.slow_head = 0.0
        self.assertEqual(await self.registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_connections_that_break_before_an_answer(self) -> None:
        self.hostile.switches.refuse_connections = True
        for _ in range(5):
            await self.fails()
        self.assertEqual(self.asked, 3)


class SeveralUrls(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, (self.digest,) = self.hostile.content.image(NAME, LATEST, b"layer")
        self.other = self.another()

    async def test_the_first_is_asked(self) -> None:
        registry = self.upstream(self.hostile.url, self.other.url)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(self.other.requests, [])

    async def test_the_next_where_one_does_not_hold_it(self) -> None:
        registry = self.upstream(self.other.url, self.hostile.url)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(await self.fetched(registry, self.digest), b"layer")
        with self.assertRaises(ManifestUnknown):
            await registry.get_manifest(NAME, Tag("none"))

    async def test_the_next_where_one_fails(self) -> None:
        for status in (429, 500, 403):
            self.other.switches.status = status
            registry = self.upstream(self.other.url, self.hostile.url)
            self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
            self.assertTrue(registry.state().available)

    async def test_one_that_fails_costs_nothing_later(self) -> None:
        self.other.switches.status = 429
        registry = self.upstream(self.other.url, self.hostile.url)
        for _ in range(3):
            self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(len(self.other.requests), 1)

    async def test_that_something_is_unknown_is_believed_only_if_all_say_so(self) -> None:
        self.other.switches.status = 429
        for urls in ((self.other.url, self.hostile.url), (self.hostile.url, self.other.url)):
            await self.unavailable(self.upstream(*urls).get_manifest(NAME, Tag("none")))


class UrlsThatFailABlob(UpstreamCase):
    """One blob at two URLs: who fails it is asked for it after the other."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.another()
        for hostile in (self.hostile, self.other):
            _, (self.digest,) = hostile.content.image(NAME, LATEST, LARGE)
        self.registry = self.upstream(self.hostile.url, self.other.url)
        self.cache = self.mirror(self.registry)

    async def pulled(self) -> bool:
        """Whether a pull brings the blob, however often its upstream breaks off; none brings another."""
        await self.turn()  # What failed just now is still being told.
        try:
            pull = Pull(await self.cache.open_blob(NAME, self.digest))
            outcomes: list[object] = []
            pull.done.addErrback(lambda failure: failure.trap(UpstreamUnavailable)).addCallback(outcomes.append)
            while not outcomes:
                await self.turn()
                self.clock.advance(0.02)
        except BlobUnknown:
            return False
        if len(pull.content) != len(LARGE):
            return False
        self.assertTrue(pull.content == LARGE)
        return True

    async def test_wrong_bytes_cost_one_pull(self) -> None:
        self.hostile.switches.corrupt_blobs = True
        self.assertEqual([await self.pulled() for _ in range(2)], [False, True])

    async def test_one_that_breaks_off_goes_on_itself(self) -> None:
        self.hostile.switches.break_after = 100_000
        self.other.switches.corrupt_blobs = True
        self.assertTrue(await self.pulled())
        self.assertEqual(self.other.requests, [])

    async def test_one_that_sends_nothing_more_is_followed_by_the_next(self) -> None:
        self.hostile.switches.break_after = 100_000
        self.clock.callLater(0.1, setattr, self.hostile.switches, "break_after", 0)
        self.assertTrue(await self.pulled())
        self.assertEqual(self.other.requests[-1].headers["range"], "bytes=100000-")

    async def test_one_that_breaks_off_in_another_blob(self) -> None:
        self.hostile.content.blobs[str(self.digest)] = LARGE + b"more"
        self.hostile.switches.break_after = 200_000
        self.assertEqual([await self.pulled() for _ in range(2)], [False, True])

    async def test_one_that_never_ends(self) -> None:
        self.hostile.content.blobs[str(self.digest)] = LARGE + b"more"
        self.hostile.switches.chunked, self.hostile.switches.chunked_heads = True, True
        self.cache = self.mirror(self.registry, most_untold=len(LARGE) + 1)
        self.assertFalse(await self.pulled())
        self.clock.advance(61)
        self.assertTrue(await self.pulled())

    async def test_one_that_tells_another_size_past_a_full_disk(self) -> None:
        self.hostile.content.blobs[str(self.digest)] = LARGE[:-1000]
        self.cache = self.mirror(self.registry, capacity=1000)
        self.assertEqual([await self.pulled() for _ in range(2)], [False, True])


class OrderOfSenders(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.senders = Senders(3, self.clock)
        self.digest = Digest.of(b"blob")

    @property
    def order(self) -> list[int]:
        return list(self.senders.in_order(self.digest))

    def test_by_failures(self) -> None:
        orders = []
        for sender in (0, 1, 2, 0, 0):
            self.senders.failed(self.digest, sender)
            orders.append(self.order)
        self.assertEqual(orders, [[1, 2, 0], [2, 0, 1], [0, 1, 2], [1, 2, 0], [1, 2, 0]])

    def test_of_one_blob(self) -> None:
        self.senders.failed(Digest.of(b"other"), 0)
        self.assertEqual(self.order, [0, 1, 2])

    def test_one_that_alone_was_wrong_is_last(self) -> None:
        self.senders.were_wrong(self.digest, {0})
        for _ in range(3):
            self.senders.failed(self.digest, 1)
        self.assertEqual(self.order, [2, 1, 0])

    def test_of_several_nobody_is_known_to_be_wrong(self) -> None:
        for senders in ({0, 1}, {0, None}):
            self.senders.were_wrong(self.digest, senders)
        self.senders.failed(self.digest, 2)
        self.senders.failed(self.digest, 2)
        self.senders.failed(self.digest, 2)
        self.assertEqual(self.order, [1, 0, 2])

    def test_is_forgotten_some_time_after_the_last_failure(self) -> None:
        self.senders.failed(self.digest, 0)
        self.clock.advance(SECONDS - 1)
        self.senders.failed(self.digest, 0)
        self.clock.advance(SECONDS - 1)
        self.assertEqual(self.order, [1, 2, 0])
        self.clock.advance(2)
        self.assertEqual(self.order, [0, 1, 2])

    def test_of_so_many_blobs(self) -> None:
        for number in range(REMEMBERED):
            self.senders.failed(Digest.of(b"%d" % number), 0)
        oldest = Digest.of(b"0")
        self.assertIn(oldest, self.senders._failed)
        self.senders.failed(self.digest, 0)
        self.assertNotIn(oldest, self.senders._failed)
        self.assertEqual(self.order, [1, 2, 0])


class Delays(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.availability = Availability("origin", self.clock)

    def fail_once(self, **how: float) -> None:
        self.availability.failed(self.availability.admit(), "it failed", **how)

    def wait(self) -> float:
        """The seconds until it may be asked again."""
        start = self.clock.seconds()
        while True:
            try:
                self.availability.undecided(self.availability.admit())
                return self.clock.seconds() - start
            except UpstreamUnavailable:
                self.clock.advance(1)

    def test_grow_and_are_bounded(self) -> None:
        waits = []
        for _ in range(8):
            self.fail_once()
            waits.append(self.wait())
        self.assertEqual(waits, [2, 4, 8, 16, 32, 60, 60, LONGEST_DELAY])

    def test_begin_anew_after_success(self) -> None:
        self.fail_once()
        self.wait()
        self.fail_once()
        self.wait()
        self.availability.succeeded(self.availability.admit())
        self.fail_once()
        self.assertEqual(self.wait(), FIRST_DELAY)

    def test_retry_after_is_bounded(self) -> None:
        self.fail_once(retry_after=10.0)
        self.assertEqual(self.wait(), 10)
        self.fail_once(retry_after=1e9)
        self.assertEqual(self.wait(), LONGEST_RETRY_AFTER)
        self.fail_once(retry_after=0.0)
        self.assertEqual(self.wait(), 1)

    def test_many_that_fail_together_count_once(self) -> None:
        tickets = [self.availability.admit() for _ in range(10)]
        for ticket in tickets:
            self.availability.failed(ticket, "it failed")
        self.assertEqual(self.wait(), FIRST_DELAY)

    def test_a_late_success_of_an_earlier_request_says_nothing(self) -> None:
        early, late = self.availability.admit(), self.availability.admit()
        self.availability.failed(early, "429", 100.0)
        self.availability.succeeded(late)
        self.assertEqual(self.wait(), 100)

    def test_few_are_remembered(self) -> None:
        known = Availabilities(self.clock, most=4)
        failing = known.of("bad")
        failing.failed(failing.admit(), "it failed")
        for number in range(100):
            known.of(f"origin {number}")
        self.assertTrue(known.of("bad").failing)
        for number in range(100):
            other = known.of(f"failing {number}")
            other.failed(other.admit(), "it failed")
        self.assertLessEqual(len(known._by_origin), 4)


class RetryAfter(SynchronousTestCase):
    def test_rows(self) -> None:
        date = "Wed, 21 Oct 2015 07:28:00 GMT"
        for value, now, expected in (
            ("120", None, 120.0),
            ("999999999999", None, LONGEST_RETRY_AFTER),
            ("Wed, 21 Oct 2055 07:28:30 GMT", date, LONGEST_RETRY_AFTER),
            ("Wed, 21 Oct 2015 07:28:30 GMT", date, 30.0),
            ("Wed, 21 Oct 2015 07:27:30 GMT", date, 0.0),
            ("Wed, 21 Oct 2015 07:28:30 GMT", None, 0.0),
            ("", None, None),
            ("soon", None, None),
            ("-5", None, None),
            ("1.5", None, None),
            ("Wed, 99 Oct 99999 07:28:00 GMT", date, None),
        ):
            headers = Headers({"Retry-After": [value]})
            if now is not None:
                headers.setRawHeaders("Date", [now])
            self.assertEqual(retry_after(headers), expected, value)
