"""Blobs whose bytes went wrong on the disk: found behind the pull that got them, and fetched again by the next."""

from __future__ import annotations

import errno

from registryd.cache.checks import INTERVAL, MOST_WAITING, RATE, STEP
from registryd.errors import BlobUnknown
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IContentReader
from tests.cache.mirror import APP, LARGE, OTHER_APP, Mirror, MirrorTestCase, Pull, WatchedDriver
from tests.values import image, put_blob

WRONG = b"x" + LARGE[1:]
HUGE = bytes(3 * STEP)


class UnreadableDriver(WatchedDriver):
    """A disk that fails to give out what is named in ``failing``."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, int] = {}

    def reader(self, path: str) -> IContentReader:
        if path in self.failing:
            raise OSError(self.failing[path], "it fails")
        return super().reader(path)


class ChecksTestCase(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.driver = UnreadableDriver()
        self.restart()

    def restart(self) -> None:
        """Serve the same store from a daemon that has seen nothing yet."""
        self.mirror.registry.stop()
        restarted = Mirror(self.driver, like=self.mirror)
        self.mirror, self.registry = restarted, restarted.registry

    def cache(self, content: bytes, name: RepositoryName = APP) -> Digest:
        """Have a blob in the cache that nobody has looked at since the start."""
        digest = self.upstream.add_blob(content)
        self.read(digest, content, name)
        self.restart()
        self.upstream.asked.clear()
        return digest

    def read(self, digest: Digest, content: bytes, name: RepositoryName = APP) -> None:
        self.assert_pulled(Pull(self.open(digest, name=name)), content)

    def put(self, digest: Digest, content: bytes = WRONG) -> None:
        """Let bytes be those of a blob."""
        self.driver.put_content(layout.blob_data(digest), content)

    def openings(self, digest: Digest) -> int:
        return self.driver.openings[layout.blob_data(digest)]

    def finish(self, size: int = len(LARGE)) -> None:
        """Let as much time pass as reading so many bytes takes."""
        self.clock.pump([STEP / RATE] * (size // STEP + 3))


class DamageTests(ChecksTestCase):
    def test_is_fetched_again_once_it_was_found(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assertEqual(self.driver.get_content(layout.blob_data(digest)), LARGE)
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_is_fetched_once_by_all_who_ask(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.upstream.released = 1000
        pulls = [self.pull(digest) for _ in range(3)]
        self.upstream.release(None)
        for pull in pulls:
            self.assert_pulled(pull, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assertTrue(self.mirror.has_blob(digest))

    def test_is_mended_for_all_repositories(self) -> None:
        digest = self.cache(LARGE)
        self.read(digest, LARGE, OTHER_APP)
        self.restart()
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.read(digest, LARGE)
        self.upstream.unavailable = True
        self.read(digest, LARGE, OTHER_APP)

    def test_that_another_daemon_has_mended_is_damage_no_more(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        other = Mirror(self.driver, like=self.mirror)
        for mirror in (self.mirror, other):
            self.assert_pulled(self.pull(digest, mirror=mirror), WRONG)
        self.finish()
        self.read(digest, LARGE)
        self.assert_pulled(Pull(self.open(digest, other, OTHER_APP)), LARGE)
        self.assertEqual(self.upstream.asked, {"resolve_blob": 1, "fetch_blob": 1})
        self.upstream.unavailable = True
        self.assert_pulled(self.pull(digest, mirror=other), LARGE)
        self.assertTrue(self.mirror.has_blob(digest))
        other.registry.stop()

    def test_that_is_renewed_stays_damage(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.driver.touch(layout.blob_data(digest))
        self.upstream.unavailable = True
        for _ in range(2):
            self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.upstream.unavailable = False
        self.read(digest, LARGE)

    def test_that_is_linked_from_another_repository_is_found(self) -> None:
        digest = self.cache(LARGE, OTHER_APP)
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {"resolve_blob": 1, "fetch_blob": 1})

    def test_that_was_found_is_linked_from_no_other_repository(self) -> None:
        digest = self.cache(LARGE, OTHER_APP)
        self.put(digest)
        self.read(digest, WRONG, OTHER_APP)
        self.finish()
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_of_a_file_that_is_renewed_while_it_is_read_is_found_later(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        for _ in range(2):
            self.read(digest, WRONG)
            self.clock.advance(STEP / RATE)
            self.driver.touch(layout.blob_data(digest))
            self.finish()
        self.read(digest, WRONG)
        self.finish()
        self.read(digest, LARGE)

    def test_is_an_error_while_the_upstream_is_down(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.upstream.unavailable = True
        self.failureResultOf(self.registry.open_blob(APP, digest), BlobUnknown)
        self.upstream.unavailable = False
        self.read(digest, LARGE)

    def test_of_the_disk_is_damage(self) -> None:
        digest = self.cache(LARGE)
        self.read(digest, LARGE)
        self.driver.failing[layout.blob_data(digest)] = errno.EIO
        self.finish()
        self.driver.failing.clear()
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_of_what_was_pushed_is_left_alone(self) -> None:
        digest = put_blob(self.mirror.local, LARGE, APP)
        self.successResultOf(self.mirror.local.put_manifest(APP, image(LARGE), []))
        self.put(digest)
        for _ in range(2):
            self.read(digest, WRONG)
            self.finish()
        self.assertTrue(self.mirror.has_blob(digest))
        self.assertEqual(self.upstream.asked, {"close": 1})


class CheckTests(ChecksTestCase):
    def test_of_what_is_right_changes_nothing(self) -> None:
        digest = self.cache(LARGE)
        self.read(digest, LARGE)
        self.finish()
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {})
        self.assert_nothing_open()

    def test_is_made_once_in_an_hour(self) -> None:
        digest = self.cache(LARGE)
        opened = []
        for wait in (0, 0, INTERVAL, 0):
            self.clock.advance(wait)
            self.read(digest, LARGE)
            before = self.openings(digest)
            self.finish()
            opened.append(self.openings(digest) - before)
        self.assertEqual(opened, [1, 0, 1, 0])

    def test_is_not_made_of_what_was_just_fetched(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.read(digest, LARGE)
        self.read(digest, LARGE)
        before = self.openings(digest)
        self.finish()
        self.assertEqual(self.openings(digest), before)

    def test_takes_its_time(self) -> None:
        digest = self.cache(HUGE)
        self.put(digest, b"x" + HUGE[1:])
        self.pull(digest)
        self.clock.pump([0.1 * STEP / RATE] * 35)
        self.assertEqual(self.open(digest).descriptor.size, len(HUGE))
        self.assertEqual(self.upstream.asked, {})
        self.finish()
        self.read(digest, HUGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_of_several_is_made_in_turn(self) -> None:
        digests = [self.cache(LARGE + bytes([number])) for number in range(3)]
        for digest in digests:
            self.put(digest)
            self.pull(digest)
        self.finish(10 * STEP)
        for number, digest in enumerate(digests):
            self.assert_pulled(self.pull(digest), LARGE + bytes([number]))

    def test_of_too_many_is_made_when_they_are_served_again(self) -> None:
        digest = self.cache(LARGE)
        self.put(digest)
        for number in range(MOST_WAITING + 1):
            other = b"%d" % number
            self.put(Digest.of(other), other)
            self.mirror.mirrored.link_blob(APP, Digest.of(other))
            self.open(Digest.of(other)).close()
        for _ in range(2):
            self.read(digest, WRONG)
            self.finish(2 * MOST_WAITING * STEP)
        self.read(digest, LARGE)

    def test_that_fails_otherwise_says_nothing(self) -> None:
        digest = self.cache(LARGE)
        self.read(digest, LARGE)
        self.driver.failing[layout.blob_data(digest)] = errno.EMFILE
        self.finish()
        self.driver.failing.clear()
        self.put(digest)
        self.read(digest, WRONG)
        self.finish()
        self.read(digest, LARGE)

    def test_of_what_is_gone_says_nothing(self) -> None:
        digest = self.cache(LARGE)
        self.read(digest, LARGE)
        self.driver.delete(layout.blob_data(digest))
        self.finish()
        self.read(digest, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_of_what_is_replaced_meanwhile_does_not_count(self) -> None:
        digest = self.cache(HUGE)
        self.put(digest, b"x" + HUGE[1:])
        self.pull(digest)
        self.clock.pump([STEP / RATE] * 2)
        self.driver.delete(layout.blob_data(digest))
        self.read(digest, HUGE)
        self.finish(len(HUGE))
        self.read(digest, HUGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assert_nothing_open()

    def test_ends_with_the_daemon(self) -> None:
        digest = self.cache(HUGE)
        self.pull(digest)
        self.clock.pump([STEP / RATE] * 2)
        self.successResultOf(self.registry.stop())
        self.assert_nothing_open()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_what_lies_elsewhere_is_not_made(self) -> None:
        digest = self.cache(LARGE)
        self.driver.immediate = False
        self.read(digest, LARGE)
        before = self.openings(digest)
        self.finish()
        self.assertEqual(self.openings(digest), before)
