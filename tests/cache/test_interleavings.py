"""What happens between any two steps of a fill, when each waits for its thread: all the places are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from registryd.errors import RegistryError
from registryd.interfaces import IBlobReader, PeerGone
from registryd.reference import Digest
from registryd.storage import layout
from tests.cache.mirror import APP, LARGE, Mirror, MirrorTestCase, Pull, WatchedDriver
from tests.cache.upstream import PIECE
from tests.test_uploads import Threads

MOST_STEPS = 60
RELEASED = 2 * PIECE + 1


class InterleavingTests(MirrorTestCase):
    """``meanwhile`` is called after so many steps of an otherwise undisturbed pull."""

    def setUp(self) -> None:
        super().setUp()
        self.threads = Threads()

    def begin(self, immediate: bool = True) -> Digest:
        driver = WatchedDriver()
        driver.immediate = immediate
        self.threads = Threads()
        self.mirror = Mirror(driver, in_thread=self.threads)
        self.upstream, self.clock, self.registry = self.mirror.upstream, self.mirror.clock, self.mirror.registry
        return self.upstream.add_blob(LARGE)

    def at_each_step(self, meanwhile: Callable[[Digest, Deferred[IBlobReader]], Any]) -> None:
        for steps in range(MOST_STEPS):
            digest = self.begin()
            opened = self.registry.open_blob(APP, digest)
            results: list[Any] = []
            opened.addCallback(Pull).addBoth(results.append)
            for _ in range(steps):
                if not self.threads.waiting:
                    self.assertGreater(steps, 5)
                    return
                self.threads.run()
            meanwhile(digest, opened)
            self.run_all()
            self.assertTrue(results, f"after {steps} steps it hangs")
            self.check(digest, results[0], steps)
        self.fail("more steps than there can be")

    def run_all(self) -> None:
        for _ in range(100):
            self.threads.run_all()
            self.clock.advance(0.25)

    def check(self, digest: Digest, result: Any, steps: int) -> None:
        """Nobody got a clean end of wrong bytes, nothing is open, and the next who asks gets all."""
        if isinstance(result, Pull):
            if result.done.called and not hasattr(result.done.result, "value"):
                self.assertEqual(result.content == LARGE, True, f"after {steps} steps: wrong bytes")
            result.done.addErrback(lambda failure: None)
        else:
            result.trap(RegistryError)
        self.assert_nothing_open()
        self.mirror = Mirror(self.mirror.driver, like=self.mirror)
        self.registry = self.mirror.registry
        self.upstream.release()
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertFalse(self.mirror.has_session(digest))
        self.assert_nothing_open()

    def test_stop(self) -> None:
        stopped: list[None] = []
        self.at_each_step(lambda digest, opened: self.registry.stop().addCallback(stopped.append))
        self.assertGreater(len(stopped), 5)

    def test_stop_asks_the_upstream_no_more(self) -> None:
        def stop(digest: Digest, opened: Deferred[IBlobReader]) -> None:
            asked = self.upstream.asked["fetch_blob"]
            self.registry.stop()
            self.run_all()
            self.assertEqual(self.upstream.asked["fetch_blob"], asked)

        self.at_each_step(stop)

    def test_a_client_is_cancelled(self) -> None:
        # Cancelled is the wait for the reader; who has one already has its pull.
        self.at_each_step(lambda digest, opened: self._cancelled(opened))

    def _cancelled(self, opened: Deferred[Any]) -> None:
        if not opened.called:
            other = self.registry.open_blob(APP, next(iter(self.upstream.blobs)))
            other.addErrback(lambda _: None).cancel()

    def test_another_asks(self) -> None:
        pulls: list[Pull] = []

        def ask(digest: Digest, opened: Deferred[IBlobReader]) -> None:
            self.registry.open_blob(APP, digest).addCallback(Pull).addCallback(pulls.append)

        self.at_each_step(ask)
        for pull in pulls:
            self.assert_pulled(pull, LARGE)

    def test_another_asks_while_the_upstream_is_asked_once(self) -> None:
        def ask(digest: Digest, opened: Deferred[IBlobReader]) -> None:
            other = self.registry.open_blob(APP, digest).addCallback(Pull)
            self.run_all()
            self.assert_pulled(self.successResultOf(other), LARGE)
            self.assertEqual(self.upstream.asked["fetch_blob"], 1)

        self.at_each_step(ask)

    def test_the_session_is_removed(self) -> None:
        self.at_each_step(lambda digest, opened: self.mirror.local.uploads.forget(APP, layout.fill_id(digest)))

    def test_old_sessions_are_purged(self) -> None:
        self.at_each_step(lambda digest, opened: self.mirror.local.uploads.purge(-1.0, False))

    def test_the_upstream_breaks_off(self) -> None:
        def break_off(digest: Digest, opened: Deferred[IBlobReader]) -> None:
            self.upstream.breaks_after = PIECE

        self.at_each_step(break_off)

    def test_the_storage_fills_up(self) -> None:
        def fill_up(digest: Digest, opened: Deferred[IBlobReader]) -> None:
            driver = self.mirror.driver
            assert isinstance(driver, WatchedDriver)
            driver.capacity = 0
            self.run_all()
            driver.capacity = None

        self.at_each_step(fill_up)

    def test_a_storage_that_fails_between_two_answers_stops_the_next(self) -> None:
        self.begin()
        digest = self.upstream.add_blob(LARGE)
        self.upstream.breaks_after = PIECE
        opened = self.registry.open_blob(APP, digest)
        while self.upstream.bytes_sent == 0:
            self.threads.run()
        self.mirror.limit(0)
        self.threads.run_all()
        self.upstream.breaks_after = None
        self.mirror.space.make_room = Deferred  # type: ignore[method-assign]
        self.clock.advance(1)
        self.threads.run_all()
        self.assertEqual(self.upstream.bytes_sent, 2 * PIECE)
        self.successResultOf(opened).close()

    def test_a_client_leaves_while_a_thread_reads_for_it(self) -> None:
        for steps in range(MOST_STEPS):
            digest = self.begin(immediate=False)
            self.upstream.released = RELEASED
            opened = self.registry.open_blob(APP, digest)
            pulls: list[Pull] = []
            opened.addCallback(Pull).addCallback(pulls.append)
            while not pulls:
                self.threads.run()
            (pull,) = pulls
            self.upstream.release()
            for _ in range(steps):
                if not self.threads.waiting:
                    self.assertGreater(steps, 5)
                    return
                self.threads.run()
            if pull.sink.producer is None:
                return
            pull.leave()
            self.failureResultOf(pull.done, PeerGone)
            self.run_all()
            self.assert_nothing_open()
