"""Cold blobs: fetched once, streamed, resumed, verified; and what is left of them when it does not end well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from registryd.cache.fetching import DELAYS, LINGER, PROGRESS
from registryd.cache.fills import FROZEN, LOOK
from registryd.errors import BlobUnknown, RegistryError, UploadUnknown, UpstreamUnavailable
from registryd.interfaces import PeerGone
from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.interfaces import IContentWriter
from registryd.storage.memory import MemoryDriver
from tests.cache.mirror import APP, LARGE, OTHER_APP, FakeSpace, Mirror, MirrorTestCase, Pull, WatchedDriver
from tests.cache.upstream import PIECE, SENDER
from tests.test_upload_faults import Fault, FaultyDriver
from tests.values import GRACE, described, image

LATE = 0.001
RELEASED = 2 * PIECE + 1
HALF = b"\xff" * (len(LARGE) // 2)


def logged(case: SynchronousTestCase) -> list[str]:
    """The formats of what is logged until the test ends."""
    formats: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        formats.append(event.get("log_format") or "")

    globalLogPublisher.addObserver(observe)
    case.addCleanup(globalLogPublisher.removeObserver, observe)
    return formats


class Noted(Fault):
    """Notes something each time, and does not fail."""

    def __init__(self, what: Callable[[], int]) -> None:
        super().__init__()
        self.noted: list[int] = []
        self._what = what

    def strike(self) -> None:
        self.noted.append(self._what())


class ColdBlobTests(MirrorTestCase):
    def test_is_fetched_once_for_all_who_ask_at_the_same_time(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.hold = {"fetch_blob"}
        opened = [self.registry.open_blob(APP, digest) for _ in range(32)]
        self.upstream.release(RELEASED)
        self.upstream.let_go()
        pulls = [Pull(self.successResultOf(reader)) for reader in opened]
        pulls += [self.pull(digest) for _ in range(3)]
        self.upstream.release()
        for pull in pulls:
            self.assert_pulled(pull, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assert_nothing_open()

    def test_is_asked_for_by_the_name_that_the_upstream_knows(self) -> None:
        self.pull(self.upstream.add_blob(LARGE))
        self.assertEqual(self.upstream.names, {"library/app"})

    def test_is_local_afterwards(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.pull(digest)
        self.upstream.unavailable = True
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assertFalse(self.mirror.has_session(digest))
        self.assertEqual(self.mirror.driver.get_content(layout.mirror(APP)), b"docker.io")

    def test_streams_before_the_upstream_has_sent_all(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.release(1)
        pull = self.pull(digest)
        self.assertEqual(pull.content, LARGE[:1])
        self.upstream.release(RELEASED)
        self.clock.advance(LINGER)
        self.assertEqual(len(pull.content), RELEASED)
        self.assertNoResult(pull.done)
        self.upstream.release()
        self.assert_pulled(pull, LARGE)

    def test_gives_out_the_last_byte_once_all_is_verified_without_a_wait_for_the_disk(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 1
        pull = self.pull(digest)
        stored: list[bool] = []
        pull.done.addCallback(lambda _: stored.append(self.mirror.has_blob(digest)))
        self.upstream.release(len(LARGE) - 1)
        self.clock.advance(LINGER)
        self.assertEqual(len(pull.content), len(LARGE) - 1)
        self.upstream.release()
        self.assertEqual((pull.content == LARGE, stored), (True, [False]))
        self.assertTrue(self.mirror.has_blob(digest))

    def test_gives_out_the_last_byte_without_that_wait_where_the_storage_is_slow_too(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        driver, at_sync = FaultyDriver(), Noted(lambda: len(pull.content))
        driver.sync = at_sync
        mirror = Mirror(driver, like=self.mirror, in_thread=self.late)
        opened = mirror.registry.open_blob(APP, digest)
        self.upstream.released = PIECE
        self.clock.pump([LATE] * 10)
        pull = Pull(self.successResultOf(opened))
        self.upstream.release()
        self.clock.pump([LATE] * 30)
        self.assert_pulled(pull, LARGE)
        self.assertEqual(at_sync.noted, [len(LARGE)])

    def late(self, call: Callable[..., Any], /, *arguments: Any) -> Deferred[Any]:
        """A thread that does a call later."""
        return deferLater(self.clock, LATE, call, *arguments)

    def test_stores_little_pieces_together(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        driver = FaultyDriver()
        mirror = Mirror(driver, like=self.mirror)
        self.upstream.released = 1
        pull = self.pull(digest, mirror=mirror)
        before = driver.writes
        for size in range(2, 20):
            self.upstream.release(size)
        self.assertEqual((pull.content, driver.writes - before), (LARGE[:1], 0))
        self.clock.advance(LINGER)
        self.assertEqual((pull.content, driver.writes - before), (LARGE[:19], 1))
        self.clock.advance(LINGER)
        self.upstream.release(20)
        self.assertEqual((pull.content, driver.writes - before), (LARGE[:20], 2))
        self.upstream.release()
        self.assert_pulled(pull, LARGE)

    def test_little_pieces_wait_no_longer_where_the_clock_is_set_back(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 1
        pull = self.pull(digest)
        self.clock.rightNow -= 3600
        self.upstream.release(2)
        self.clock.advance(LINGER)
        self.assertEqual(pull.content, LARGE[:2])
        self.upstream.release()
        self.assert_pulled(pull, LARGE)

    def test_is_opened_once_by_who_reads_it_while_it_grows(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 1
        pull = self.pull(digest)
        for size in range(PIECE, len(LARGE), PIECE):
            self.upstream.release(size)
            self.clock.advance(LINGER)
        self.assertEqual(self.mirror.driver.openings[layout.upload_data(APP, layout.fill_id(digest))], 2)
        self.upstream.release()
        self.assert_pulled(pull, LARGE)

    def test_a_range_waits_only_for_its_own_bytes(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        part = self.pull(digest, 100, RELEASED)
        self.clock.advance(LINGER)
        self.assert_pulled(part, LARGE[100:RELEASED])
        later = self.pull(digest, RELEASED, RELEASED + 10)
        self.assertEqual((later.content, later.done.called), (b"", False))
        self.upstream.release(RELEASED + 10)
        self.clock.advance(LINGER)
        self.assert_pulled(later, LARGE[RELEASED : RELEASED + 10])

    def test_a_slow_client_does_not_slow_the_fetch(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 1
        slow = self.pull(digest, greedy=False)
        fast = self.pull(digest)
        self.upstream.release()
        self.assert_pulled(fast, LARGE)
        self.assertEqual(slow.content, LARGE[:1])
        slow.drain()
        self.assert_pulled(slow, LARGE)
        self.assert_nothing_open()

    def test_a_client_that_leaves_ends_nothing(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        leaving, staying = self.pull(digest), self.pull(digest)
        leaving.leave()
        self.failureResultOf(leaving.done, PeerGone)
        self.upstream.release()
        self.assert_pulled(staying, LARGE)
        self.assert_nothing_open()

    def test_goes_on_when_all_clients_leave(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        pull.leave()
        self.failureResultOf(pull.done, PeerGone)
        self.upstream.release()
        self.assertTrue(self.mirror.has_blob(digest))
        self.assert_nothing_open()

    def test_who_is_cancelled_while_it_waits_ends_nothing(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.hold = {"fetch_blob"}
        leaving, staying = (self.registry.open_blob(APP, digest) for _ in range(2))
        leaving.addErrback(lambda _: None).cancel()
        self.upstream.let_go()
        self.assert_pulled(Pull(self.successResultOf(staying)), LARGE)

    def test_is_answered_when_the_upstream_tells_no_size(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.tells_size = self.upstream.heads_blobs = False
        self.upstream.released = RELEASED
        opened = self.registry.open_blob(APP, digest)
        self.assertNoResult(opened)
        self.upstream.release()
        self.assert_pulled(Pull(self.successResultOf(opened)), LARGE)

    def test_that_tells_no_size_and_does_not_end_is_given_up_and_kept_in_no_part(self) -> None:
        formats = logged(self)
        self.mirror = Mirror(WatchedDriver(), like=self.mirror, most_untold=2 * PIECE)
        self.registry = self.mirror.registry
        digest = self.upstream.add_blob(LARGE)
        self.upstream.tells_size = self.upstream.heads_blobs = False
        error = self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown).value
        self.assertIn(f"more than {2 * PIECE} bytes", str(error))
        self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.assertEqual((self.upstream.asked["fetch_blob"], self.upstream.bytes_sent), (1, 3 * PIECE))
        self.assertFalse(self.mirror.has_session(digest))
        self.assertEqual(len([text for text in formats if "tells no size" in text]), 1)
        self.assert_nothing_open()
        small = self.upstream.add_blob(LARGE[: 2 * PIECE])
        self.assert_pulled(self.pull(small), LARGE[: 2 * PIECE])
        self.upstream.tells_size = True
        self.clock.advance(61)
        self.assert_pulled(self.pull(digest), LARGE)

    def test_that_comes_for_another_repository_too_is_fetched_once(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        first = Pull(self.successResultOf(self.registry.open_blob(APP, digest)))
        second = Pull(self.successResultOf(self.registry.open_blob(OTHER_APP, digest)))
        self.assertEqual(self.upstream.asked["fetch_blob"], 1)
        self.upstream.release()
        for pull in (first, second):
            self.assert_pulled(pull, LARGE)
        self.upstream.unavailable = True
        for name in (APP, OTHER_APP):
            self.assert_pulled(Pull(self.successResultOf(self.registry.open_blob(name, digest))), LARGE)

    def test_that_comes_for_another_repository_is_not_this_ones_unless_the_upstream_says_so(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        self.pull(digest)
        self.upstream.heads_blobs = False
        self.successResultOf(self.registry.open_blob(OTHER_APP, digest)).close()
        self.assertEqual(self.upstream.asked["fetch_blob"], 2)

    def test_that_another_repository_does_not_have_is_asked_for_once_more(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.hold = {"fetch_blob"}
        first, second = (self.registry.open_blob(name, digest) for name in (APP, OTHER_APP))
        del self.upstream.blobs[digest]
        self.upstream.let_go()
        self.failureResultOf(first, BlobUnknown)
        self.upstream.add_blob(LARGE)
        self.upstream.let_go()
        self.assert_pulled(Pull(self.successResultOf(second)), LARGE)

    def test_that_two_have_fetched_is_read_to_its_end_by_both(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.heads_blobs = False
        self.upstream.released = RELEASED
        pulls = [
            Pull(self.successResultOf(self.registry.open_blob(name, digest)), greedy=False) for name in (APP, OTHER_APP)
        ]
        self.upstream.release()
        for pull in pulls:
            pull.drain()
            self.assert_pulled(pull, LARGE)

    def test_that_is_evicted_is_read_to_its_end_by_who_has_begun(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        slow = Pull(self.successResultOf(self.registry.open_blob(APP, digest)), greedy=False)
        self.upstream.release()
        self.mirror.driver.delete(layout.blob_data(digest))
        slow.drain()
        self.assert_pulled(slow, LARGE)

    def test_whose_size_head_alone_tells_is_answered_at_once(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.tells_size = False
        self.upstream.released = RELEASED
        reader = self.successResultOf(self.registry.open_blob(APP, digest))
        self.assertEqual(reader.descriptor.size, len(LARGE))
        self.upstream.release()
        self.assert_pulled(Pull(reader), LARGE)

    def serve_manifest(self, size: int) -> Digest:
        """Have served a manifest that tells a size of LARGE, whose upstream tells none."""
        lying = image(b"config", layers=[{**described(LARGE), "size": size}])
        self.upstream.add(lying, "v1")
        self.successResultOf(self.registry.get_manifest(APP, lying.digest))
        self.upstream.tells_size = self.upstream.heads_blobs = False
        return self.upstream.add_blob(LARGE)

    def test_whose_size_a_manifest_alone_tells_is_answered_at_once(self) -> None:
        digest = self.serve_manifest(len(LARGE))
        self.assertEqual(self.successResultOf(self.registry.resolve_blob(APP, digest)).size, len(LARGE))
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.assertGreater(len(pull.content), 0)
        self.upstream.release()
        self.assert_pulled(pull, LARGE)

    def test_whose_size_is_not_the_manifests_fails_once(self) -> None:
        for wrong in (-1, 1):
            digest = self.serve_manifest(len(LARGE) + wrong)
            self.upstream.released = RELEASED
            pull = self.pull(digest)
            self.upstream.release()
            self.pass_delays()
            self.failureResultOf(pull.done, RegistryError)
            self.assertFalse(self.mirror.has_blob(digest))
            self.assert_pulled(self.pull(digest), LARGE)
            self.mirror.driver.delete(layout.layer_link(APP, digest))
            self.mirror.driver.delete(layout.blob_data(digest))

    def test_that_is_longer_than_head_tells_is_given_up(self) -> None:
        digest = self.upstream.add_blob(LARGE + b"more", instead_of=LARGE)
        self.upstream.tells_size = False
        self.upstream.told_size = len(LARGE)
        self.upstream.released = RELEASED
        pull = Pull(self.successResultOf(self.registry.open_blob(APP, digest)))
        self.upstream.release()
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assertLess(len(pull.content), len(LARGE))
        self.assertFalse(self.mirror.has(layout.blob_data(digest)))
        self.assertFalse(self.mirror.has_session(digest))
        self.assertEqual(self.upstream.blamed, [(digest, {SENDER})])

    def test_a_small_one_is_answered_when_it_is_whole(self) -> None:
        digest = self.upstream.add_blob(b"config")
        self.upstream.released = 3
        opened = self.registry.open_blob(APP, digest)
        self.assertNoResult(opened)
        self.upstream.release()
        self.assert_pulled(Pull(self.successResultOf(opened)), b"config")

    def test_an_empty_one(self) -> None:
        self.assert_pulled(self.pull(self.upstream.add_blob(b"")), b"")

    def test_is_told_to_whom_room_matters(self) -> None:
        self.pull(self.upstream.add_blob(LARGE))
        assert isinstance(self.mirror.space, FakeSpace)
        self.assertEqual(self.mirror.space.sizes, [len(LARGE)])

    def test_of_a_driver_that_asks_for_threads(self) -> None:
        driver = WatchedDriver()
        driver.immediate = False
        self.mirror = Mirror(driver, like=self.mirror)
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        pull, leaving = self.pull(digest), self.pull(digest)
        leaving.leave()
        self.failureResultOf(leaving.done, PeerGone)
        self.upstream.release()
        self.assert_pulled(pull, LARGE)
        self.assert_nothing_open()


class WrongContentTests(MirrorTestCase):
    def lie(self, content: bytes = HALF) -> Digest:
        return self.upstream.add_blob(content, instead_of=LARGE)

    def test_breaks_off_its_clients_keeps_nothing_and_is_logged(self) -> None:
        formats = logged(self)
        digest = self.lie()
        self.upstream.released = RELEASED
        pulls = [self.pull(digest), self.pull(digest)]
        self.upstream.release()
        for pull in pulls:
            self.failureResultOf(pull.done, UpstreamUnavailable)
            self.assertEqual(len(pull.content), len(HALF) - 1)
        self.assertFalse(self.mirror.has(layout.blob_data(digest)))
        self.assertFalse(self.mirror.has(layout.layer_link(APP, digest)))
        self.assertFalse(self.mirror.has_session(digest))
        self.assertTrue([text for text in formats if "other content" in text])
        self.assertEqual(self.upstream.blamed, [(digest, {SENDER})])
        self.assert_nothing_open()

    def test_of_a_small_blob_is_an_error(self) -> None:
        digest = self.upstream.add_blob(b"wrong", instead_of=b"right")
        self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.assertFalse(self.mirror.has_session(digest))

    def test_does_not_prevent_another_try(self) -> None:
        digest = self.lie()
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.upstream.release()
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.upstream.add_blob(LARGE)
        self.assert_pulled(self.pull(digest), LARGE)

    def test_of_a_longer_answer_than_told(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.told_size = len(LARGE) - 10
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.upstream.release()
        self.pass_delays()
        self.failureResultOf(pull.done, RegistryError)
        self.assertFalse(self.mirror.has_blob(digest))
        self.assert_nothing_open()


class BrokenOffTests(MirrorTestCase):
    def test_is_asked_again_for_the_rest(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.breaks_after = RELEASED
        pull = self.pull(digest)
        self.assertEqual(self.upstream.starts, [0])
        self.clock.advance(DELAYS[0])
        self.clock.advance(DELAYS[0])
        self.assert_pulled(pull, LARGE)
        self.assertEqual(self.upstream.starts, [0, RELEASED, 2 * RELEASED])
        self.assertEqual(self.upstream.bytes_sent, len(LARGE))
        self.assertEqual(self.upstream.blamed, [])

    def test_waits_longer_and_longer_and_then_fails(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.breaks_after = RELEASED
        pull = self.pull(digest)
        self.upstream.breaks_after = 0
        times = []
        for _ in range(200):
            before = len(self.upstream.starts)
            self.clock.advance(0.25)
            times += [self.clock.seconds()] * (len(self.upstream.starts) - before)
        self.assertEqual(times, [0.5, 1.5, 3.5, 7.5, 15.5])
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assertEqual(self.upstream.blamed, [(digest, SENDER)] * 5)
        self.assertTrue(self.mirror.has_session(digest))
        self.assert_nothing_open()

    def stall(self, pull: Pull) -> list[float]:
        """When each answer was asked for, whose bytes stop where the upstream's switches say, until it is given up."""
        times = [0.0]
        while not pull.done.called:
            self.clock.advance(20)
            self.upstream.fetches[-1].stall()
            before = len(self.upstream.fetches)
            while len(self.upstream.fetches) == before and not pull.done.called:
                self.clock.advance(0.25)
            times += [self.clock.seconds()] * (not pull.done.called)
        return times

    def test_one_that_stalls_costs_a_minute(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 0
        pull = self.pull(digest)
        self.assertEqual(self.stall(pull), [0, 21, 43])
        self.assertEqual(self.clock.seconds(), 63)
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assertTrue(self.mirror.has_session(digest))
        self.assert_nothing_open()

    def test_one_that_stalls_costs_no_more_for_a_few_bytes_each_time(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = 1000
        pull = self.pull(digest)
        self.assertEqual(self.stall(pull), [0, 20.5, 41])
        self.failureResultOf(pull.done, UpstreamUnavailable)

    def test_one_that_stalls_and_brings_much_each_time_is_asked_on(self) -> None:
        content = bytes(7 * PROGRESS + 100)
        digest = self.upstream.add_blob(content)
        self.upstream.released = PROGRESS
        pull = self.pull(digest)
        self.assertEqual(len(self.stall(pull)), 7)
        self.assert_pulled(pull, content)

    def test_that_never_began_fails_at_once(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.unavailable = True
        error = self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown).value
        self.assertIn("switched off", str(error))
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.upstream.unavailable = False
        self.assert_pulled(self.pull(digest), LARGE)

    def test_an_upstream_that_does_not_resume_sends_all_again(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.breaks_after = RELEASED
        self.upstream.resumes = False
        pull = self.pull(digest)
        self.upstream.breaks_after = None
        self.clock.advance(DELAYS[0])
        self.assert_pulled(pull, LARGE)
        self.assertEqual(self.upstream.bytes_sent, len(LARGE) + RELEASED)

    def test_another_size_than_before_is_not_believed(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.breaks_after = RELEASED
        pull = self.pull(digest)
        self.upstream.told_size = len(LARGE) + 1
        self.upstream.breaks_after = None
        self.pass_delays()
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assert_nothing_open()


class LeftOverTests(MirrorTestCase):
    """What another process left behind when it ended."""

    def leave(self, content: bytes) -> Digest:
        digest = self.upstream.add_blob(LARGE)
        path = layout.upload_data(APP, layout.fill_id(digest))
        writer: IContentWriter = self.mirror.driver.writer(path, True)
        writer.write([content])
        writer.close()
        return digest

    def test_a_part_is_gone_on_with(self) -> None:
        digest = self.leave(LARGE[:1000])
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.starts, [1000])

    def test_the_whole_is_committed_without_a_fetch(self) -> None:
        digest = self.leave(LARGE)
        self.upstream.unavailable = True
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(self.upstream.asked, {})
        self.assertTrue(self.mirror.has(layout.mirror(APP)))

    def test_a_wrong_part_fails_once_and_is_forgotten(self) -> None:
        digest = self.leave(b"x" * 1000)
        self.failureResultOf(self.registry.open_blob(APP, digest), RegistryError)
        self.assert_pulled(self.pull(digest), LARGE)

    def test_more_than_the_whole_is_begun_anew(self) -> None:
        for content in (LARGE + b"more", b"x" * len(LARGE)):
            digest = self.leave(content)
            self.upstream.breaks_after = None
            self.assert_pulled(self.pull(digest), LARGE)
            self.mirror.driver.delete(layout.layer_link(APP, digest))
            self.mirror.driver.delete(layout.blob_data(digest))

    def test_old_ones_are_purged_but_not_while_they_are_filled(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.clock.advance(2 * GRACE)
        self.assertEqual(self.mirror.local.uploads.purge(GRACE, False), 0)
        self.upstream.release()
        self.assert_pulled(pull, LARGE)
        digest = self.leave_other()
        self.assertEqual(self.mirror.local.uploads.purge(GRACE, False), 1)
        self.assertFalse(self.mirror.has_session(digest))

    def leave_other(self) -> Digest:
        digest = self.upstream.add_blob(HALF)
        self.mirror.driver.writer(layout.upload_data(APP, layout.fill_id(digest)), True).close()
        return digest

    def test_a_session_that_is_removed_under_its_fill_is_begun_anew(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.hold = {"fetch_blob"}
        opened = self.registry.open_blob(APP, digest)
        self.mirror.local.uploads.forget(APP, layout.fill_id(digest))
        self.upstream.let_go()
        self.upstream.hold = set()
        self.upstream.let_go()
        self.clock.advance(LOOK)
        self.assert_pulled(Pull(self.successResultOf(opened)), LARGE)
        self.assert_nothing_open()

    def test_one_that_another_process_holds_for_nothing_is_waited_for_so_long(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        other = self.mirror.local.uploads.claim(APP, digest)
        opened = self.registry.open_blob(APP, digest)
        self.clock.pump([1.0] * int(FROZEN - 1))
        self.assertNoResult(opened)
        self.clock.pump([1.0] * 5)
        self.failureResultOf(opened, BlobUnknown)
        self.successResultOf(other.suspend())
        self.assert_pulled(self.pull(digest), LARGE)

    def test_is_no_session_of_clients(self) -> None:
        digest = self.leave(LARGE[:1000])
        id = layout.fill_id(digest)
        self.failureResultOf(self.mirror.local.resume_upload(APP, id), UploadUnknown)
        self.failureResultOf(self.mirror.local.upload_status(APP, id), UploadUnknown)

    def test_what_another_has_begun_in_the_place_of_a_removed_session_becomes_no_blob(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        self.pull(digest)
        self.mirror.local.uploads.forget(APP, layout.fill_id(digest))
        other = self.mirror.local.uploads.claim(APP, digest)
        other.write(LARGE[:10])
        self.upstream.release()
        self.successResultOf(other.suspend())
        self.clock.advance(LOOK)
        self.assertEqual(self.mirror.driver.get_content(layout.blob_data(digest)), LARGE)

    def test_who_has_read_of_a_session_that_is_removed_does_not_go_on(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.clock.advance(LINGER)
        self.mirror.local.uploads.forget(APP, layout.fill_id(digest))
        self.upstream.release()
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assert_pulled(self.pull(digest), LARGE)
        self.assert_nothing_open()


class RoomTests(MirrorTestCase):
    def full(self, capacity: int, gain: int = 0) -> FakeSpace:
        driver = WatchedDriver(capacity)
        space = FakeSpace(driver, gain)
        self.mirror = Mirror(driver, like=self.mirror, space=space)
        self.registry = self.mirror.registry
        return space

    def test_is_made_once_and_the_fetch_goes_on(self) -> None:
        space = self.full(RELEASED, 2 * len(LARGE))
        digest = self.upstream.add_blob(LARGE)
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(space.asked, 1)
        self.assertGreater(self.upstream.starts[1], 0)
        self.assertTrue(self.mirror.has_blob(digest))
        self.assert_nothing_open()

    def test_what_finds_none_passes_through_verified_and_leaves_nothing(self) -> None:
        space = self.full(2000)
        digest = self.upstream.add_blob(LARGE)
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(space.asked, 1)
        self.assertFalse(self.mirror.has_session(digest))
        self.assertFalse(self.mirror.has(layout.blob_data(digest)))
        asked = self.upstream.asked["fetch_blob"]
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual((space.asked, self.upstream.asked["fetch_blob"]), (1, asked + 1))
        self.assert_nothing_open()

    def test_is_looked_for_again_after_a_while(self) -> None:
        space = self.full(2000)
        digest = self.upstream.add_blob(LARGE)
        self.pull(digest)
        self.clock.advance(61)
        assert isinstance(self.mirror.driver, MemoryDriver)
        self.mirror.driver.capacity = None
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertTrue(self.mirror.has_blob(digest))
        self.assertEqual(space.asked, 1)

    def test_clients_in_the_middle_of_a_blob_get_the_rest_past_the_storage(self) -> None:
        self.full(RELEASED + 2000)
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = PIECE
        whole, slow, part = self.pull(digest), self.pull(digest, greedy=False), self.pull(digest, 5, len(LARGE) - 7)
        self.upstream.release(RELEASED)
        self.clock.advance(LINGER)
        self.assertEqual((len(whole.content), len(slow.content)), (RELEASED, PIECE))
        self.upstream.release()
        self.assert_pulled(whole, LARGE)
        self.assert_pulled(part, LARGE[5:-7])
        slow.drain()
        self.assert_pulled(slow, LARGE)
        self.assertFalse(self.mirror.has_session(digest))
        self.assert_nothing_open()

    def test_wrong_content_is_noticed_past_the_storage_too(self) -> None:
        self.full(RELEASED + 2000)
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.upstream.add_blob(LARGE[:-1] + b"?", instead_of=LARGE)
        self.upstream.release()
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assertEqual(len(pull.content), len(LARGE) - 1)
        self.assertEqual(self.upstream.blamed, [(digest, {SENDER, None})])

    def test_that_cannot_be_made_for_an_error_is_none(self) -> None:
        space = self.full(2000)
        space.make_room = lambda: fail(OSError("no such program"))  # type: ignore[method-assign]
        digest = self.upstream.add_blob(LARGE)
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertFalse(self.mirror.has_session(digest))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_that_was_made_and_does_not_suffice_is_none(self) -> None:
        space = self.full(2000, 10)
        digest = self.upstream.add_blob(LARGE)
        self.assert_pulled(self.pull(digest), LARGE)
        self.assertEqual(space.asked, 1)
        self.assertFalse(self.mirror.has_session(digest))

    def test_a_client_that_leaves_while_the_upstream_is_asked_past_the_storage(self) -> None:
        self.full(2000)
        digest = self.upstream.add_blob(LARGE)
        reader = self.open(digest)
        self.upstream.hold = {"fetch_blob"}
        pull = Pull(reader)
        pull.leave()
        self.failureResultOf(pull.done, PeerGone)

    def test_a_slow_client_slows_what_passes_through(self) -> None:
        self.full(2000)
        pull = self.pull(self.upstream.add_blob(LARGE), greedy=False)
        self.assertEqual(len(pull.content), PIECE)
        pull.sink.resume()
        self.assertEqual(len(pull.content), 2 * PIECE)
        pull.drain()
        self.assert_pulled(pull, LARGE)

    def test_a_storage_that_fails_is_passed_by(self) -> None:
        digest = self.upstream.add_blob(LARGE)

        def broken(path: str, create: bool) -> IContentWriter:
            raise OSError("the disk is gone")

        self.mirror.driver.writer = broken  # type: ignore[method-assign]
        self.assert_pulled(self.pull(digest), LARGE)
        self.flushLoggedErrors(OSError)


class StopTests(MirrorTestCase):
    def test_keeps_what_came_and_another_process_goes_on(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        pull = self.pull(digest)
        self.successResultOf(self.registry.stop())
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assertTrue(self.upstream.fetches[0].is_over)
        self.assert_nothing_open()
        self.upstream.release()
        self.assert_pulled(self.pull(digest, mirror=Mirror(self.mirror.driver, like=self.mirror)), LARGE)
        self.assertEqual(self.upstream.starts, [0, RELEASED])

    def test_waits_for_no_answer(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.hold = {"fetch_blob"}
        opened = self.registry.open_blob(APP, digest)
        self.successResultOf(self.registry.stop())
        self.failureResultOf(opened, BlobUnknown)
        self.assert_nothing_open()

    def test_waits_for_no_delay(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.breaks_after = RELEASED
        pull = self.pull(digest)
        self.successResultOf(self.registry.stop())
        self.failureResultOf(pull.done, UpstreamUnavailable)
        self.assertEqual(self.upstream.asked["fetch_blob"], 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_begins_nothing_more(self) -> None:
        self.successResultOf(self.registry.stop())
        self.failureResultOf(self.registry.open_blob(APP, self.upstream.add_blob(LARGE)), BlobUnknown)
        self.assertEqual(self.upstream.asked, {"close": 1})


class UnknownTests(MirrorTestCase):
    def test_leaves_nothing_behind_and_is_remembered_for_a_while(self) -> None:
        digest = Digest.of(b"nobody has this")
        for _ in range(2):
            self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assertFalse(self.mirror.has(layout.repository(APP)))
        self.assert_nothing_open()
        self.clock.advance(61)
        self.upstream.add_blob(b"nobody has this")
        self.assert_pulled(self.pull(digest), b"nobody has this")
