"""Blobs that only pass through: few at once, and not for clients that hardly read."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from registryd.cache.passing import PATIENCE, PIECE, WAIT
from registryd.errors import StorageFull
from registryd.interfaces import PeerGone
from registryd.reference import Digest
from tests.cache.mirror import APP, LARGE, Mirror, MirrorTestCase, Pull, WatchedDriver
from tests.cache.upstream import PIECE as SENT_AT_ONCE

HUGE = bytes(4 * PIECE)


class PassingTests(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.mirror = Mirror(WatchedDriver(2000), like=self.mirror, most_passing=2)
        self.registry = self.mirror.registry
        self.digest = self.upstream.add_blob(LARGE)
        self.assert_pulled(self.pull(self.digest), LARGE)
        self.fetched = self.upstream.asked["fetch_blob"]

    def slow(self, digest: Digest | None = None) -> Pull:
        return self.pull(digest or self.digest, greedy=False)

    def opened(self) -> Deferred[Pull]:
        return self.registry.open_blob(APP, self.digest).addCallback(Pull)

    def test_as_many_as_may_hold_none_of_the_upstreams_requests_beyond(self) -> None:
        for _ in range(2):
            self.slow()
        opened = self.opened()
        self.clock.advance(WAIT - 1)
        self.assertNoResult(opened)
        self.assertEqual(self.upstream.asked["fetch_blob"], self.fetched + 2)
        self.clock.advance(1)
        error = self.failureResultOf(opened, StorageFull).value
        self.assertEqual(error.status, 507)
        self.assertIn("too many", str(error))
        self.assertEqual(self.upstream.asked["fetch_blob"], self.fetched + 2)

    def test_who_waits_is_next(self) -> None:
        slow, leaving = self.slow(), self.slow()
        first, second = self.opened(), self.opened()
        slow.drain()
        self.assert_pulled(slow, LARGE)
        self.assert_pulled(self.successResultOf(first), LARGE)
        self.assert_pulled(self.successResultOf(second), LARGE)
        leaving.leave()
        self.failureResultOf(leaving.done, PeerGone)
        for _ in range(5):
            self.assert_pulled(self.pull(self.digest), LARGE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_waits_may_leave(self) -> None:
        slow = self.slow(), self.slow()
        leaving, staying = self.opened(), self.opened()
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        slow[0].drain()
        self.assert_pulled(self.successResultOf(staying), LARGE)

    def test_what_is_opened_and_not_read_gives_its_passage_back(self) -> None:
        for _ in range(5):
            self.open(self.digest).close()
        self.assertEqual(self.upstream.asked["fetch_blob"], self.fetched)

    def test_a_blob_that_is_unknown_takes_no_passage(self) -> None:
        for _ in range(5):
            self.registry.open_blob(APP, Digest.of(b"none")).addErrback(lambda _: None)
        self.assert_pulled(self.pull(self.digest), LARGE)

    def test_a_client_that_does_not_read_is_given_up(self) -> None:
        pull = self.slow()
        self.clock.advance(PATIENCE - 1)
        self.assertNoResult(pull.done)
        self.clock.advance(1)
        self.failureResultOf(pull.done, PeerGone)
        self.assertTrue(self.upstream.fetches[-1].is_over)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_client_that_hardly_reads_is_given_up(self) -> None:
        pull = self.slow(self.upstream.add_blob(HUGE))
        while not pull.done.called:
            self.clock.advance(PATIENCE / 10)
            if pull.sink.producer is not None:
                pull.sink.resume()
        self.failureResultOf(pull.done, PeerGone)
        self.assertLess(len(pull.content), PIECE)
        self.assertEqual(self.clock.seconds(), PATIENCE)

    def test_a_client_that_reads_slowly_is_not(self) -> None:
        pull = self.slow(self.upstream.add_blob(HUGE))
        while not pull.done.called:
            self.clock.advance((PATIENCE - 1) * SENT_AT_ONCE / PIECE)
            if pull.sink.producer is not None:
                pull.sink.resume()
        self.assert_pulled(pull, HUGE)
        self.assertGreater(self.clock.seconds(), 3 * PATIENCE)

    def test_an_upstream_that_is_slow_is_not_the_clients_fault(self) -> None:
        self.upstream.released = 10
        pull = self.pull(self.digest)
        self.clock.advance(10 * PATIENCE)
        self.upstream.release()
        self.assert_pulled(pull, LARGE)


class FullInTheMiddleTests(MirrorTestCase):
    """Clients that read what was stored, until there was no room for more."""

    def test_take_turns(self) -> None:
        released = 2 * SENT_AT_ONCE + 1
        self.mirror = Mirror(WatchedDriver(released + 2000), like=self.mirror, most_passing=1)
        self.registry = self.mirror.registry
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = SENT_AT_ONCE
        staying, leaving = self.pull(digest), self.pull(digest)
        self.upstream.release(released)
        self.upstream.hold = {"fetch_blob"}
        asked = self.upstream.asked["fetch_blob"]
        self.upstream.release()
        leaving.leave()
        self.failureResultOf(leaving.done, PeerGone)
        self.assertEqual(self.upstream.asked["fetch_blob"], asked + 1)
        self.upstream.let_go()
        self.assert_pulled(staying, LARGE)
        self.upstream.hold = set()
        self.assert_pulled(self.pull(digest), LARGE)
        self.assert_nothing_open()
