"""Two processes on one store: two caches over two drivers on one folder, since locks are those of open file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter

from twisted.internet.defer import Deferred

from registryd.cache.fetching import LINGER
from registryd.cache.fills import LOOK
from registryd.cache.following import GrowingReader
from registryd.errors import UpstreamUnavailable
from registryd.reference import Digest
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from tests.cache.mirror import APP, LARGE, Mirror, MirrorTestCase, Pull
from tests.cache.upstream import PIECE
from tests.values import image

RELEASED = 2 * PIECE + 1


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class FilePull:
    """Who is told how much of a growing file there is, and takes all of it; ``size`` is how much that was."""

    def __init__(self, file: GrowingReader) -> None:
        self.size = 0
        self._file = file
        self.done = Deferred.fromCoroutine(self._take())

    async def _take(self) -> None:
        try:
            while self.size < self._file.descriptor.size:
                _, size = await self._file.reach(self.size)
                assert size > self.size, "told of what is not there"
                self.size = size
        finally:
            self._file.close()


class TwoProcessesTests(MirrorTestCase):
    def setUp(self) -> None:
        super().setUp()
        root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, root)
        self.mirror = Mirror(FilesystemDriver(root))
        self.other = Mirror(FilesystemDriver(root), like=self.mirror)
        self.upstream, self.clock, self.registry = self.mirror.upstream, self.mirror.clock, self.mirror.registry
        self.addCleanup(lambda: self.other.registry.stop())
        self.opened = open_files()

    def test_the_second_follows_the_first(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        self.clock.advance(LOOK)
        self.assertEqual((len(first.content), len(second.content)), (RELEASED, RELEASED))
        self.upstream.release(2 * RELEASED)
        self.clock.pump([LINGER, LOOK])
        self.assertEqual(len(second.content), 2 * RELEASED)
        self.upstream.release()
        self.assert_pulled(first, LARGE)
        self.assertNoResult(second.done)
        self.clock.advance(LOOK)
        self.assert_pulled(second, LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})
        self.assertEqual(open_files(), self.opened)

    def test_the_second_waits_while_the_first_is_asking(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.hold = {"fetch_blob"}
        first = self.registry.open_blob(APP, digest)
        second = self.other.registry.open_blob(APP, digest)
        self.pass_delays(5)
        self.upstream.let_go()
        self.clock.advance(LOOK)
        for opened in (first, second):
            self.assert_pulled(Pull(self.successResultOf(opened)), LARGE)
        self.assertEqual(self.upstream.asked, {"fetch_blob": 1})

    def test_the_second_goes_on_where_the_first_has_ended(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        self.successResultOf(self.registry.stop())
        self.failureResultOf(first.done, UpstreamUnavailable)
        self.upstream.release()
        self.clock.advance(LOOK)
        self.assert_pulled(second, LARGE)
        self.assertEqual(self.upstream.starts, [0, RELEASED])
        self.assertEqual(open_files(), self.opened)

    def test_of_wrong_content_nobody_gets_a_clean_end(self) -> None:
        digest = Digest.of(LARGE)
        second = self.refused(b"\xff" * len(LARGE), digest)
        third = self.pull(digest)
        self.assert_pulled(third, LARGE)
        self.clock.advance(LOOK)
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.assertEqual(open_files(), self.opened)

    def test_of_wrong_content_that_was_refused_and_fetched_again_at_once_nobody_gets_a_clean_end(self) -> None:
        content = LARGE * 4
        digest = self.upstream.add_blob(b"\xff" * len(content), instead_of=content)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        file = self.file_of(digest)
        self.clock.advance(LOOK)
        self.assertEqual((len(second.content), file.size), (RELEASED, RELEASED))
        self.upstream.release()
        self.failureResultOf(first.done, UpstreamUnavailable)
        self.upstream.add_blob(content)
        self.assert_pulled(self.pull(digest), content)
        self.clock.advance(LOOK)
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.assertLess(len(second.content), len(content))
        self.failureResultOf(file.done, UpstreamUnavailable)
        self.assertLess(file.size, len(content))
        self.assertEqual(open_files(), self.opened)

    def test_of_wrong_content_that_was_refused_and_is_fetched_to_its_end_here_nobody_gets_a_clean_end(self) -> None:
        content = LARGE * 4
        digest = self.upstream.add_blob(b"\xff" * len(content), instead_of=content)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other, greedy=False)
        file = self.file_of(digest)
        self.clock.advance(LOOK)
        self.upstream.release()
        self.failureResultOf(first.done, UpstreamUnavailable)
        self.upstream.add_blob(content)
        self.upstream.released = 2 * RELEASED
        self.pull(digest)
        self.successResultOf(self.registry.stop())
        self.upstream.release()
        self.clock.advance(LOOK)
        self.assertEqual(self.other.driver.get_content(layout.blob_data(digest)) == content, True)
        second.drain()
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.failureResultOf(file.done, UpstreamUnavailable)
        self.assertLess(max(len(second.content), file.size), len(content))
        self.assert_pulled(self.pull(digest, mirror=self.other), content)
        self.assertEqual(open_files(), self.opened)

    def test_who_comes_when_what_another_process_fetched_was_just_refused_waits(self) -> None:
        digest = Digest.of(LARGE)
        second = self.refused(b"\xff" * len(LARGE), digest)
        turns = Counter[str]()
        read_turn = GrowingReader.read_turn

        def counted(reader: GrowingReader, start: int, stop: int) -> Deferred[bytes]:
            turns["read"] += 1
            assert turns["read"] < 100, "read again and again"
            return read_turn(reader, start, stop)

        self.patch(GrowingReader, "read_turn", counted)
        third = self.pull(digest, mirror=self.other)
        self.assertEqual((third.content, third.done.called), (b"", False))
        self.clock.advance(LOOK)
        self.assert_pulled(third, LARGE)
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.assertEqual(open_files(), self.opened)

    def test_of_a_wrong_part_that_was_left_over_nobody_gets_a_clean_end(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        id = layout.fill_id(digest)
        for path, content in (
            (layout.upload_data(APP, id), b"\xff" * len(LARGE)),
            (layout.upload_size(APP, id), b"%d" % len(LARGE)),
        ):
            self.mirror.driver.put_content(path, content)
        self.upstream.hold = {"fetch_blob"}
        first = self.registry.open_blob(APP, digest)
        second = self.pull(digest, mirror=self.other)
        file = self.file_of(digest)
        self.assertEqual((len(second.content), file.size), (len(LARGE) - 1, len(LARGE) - 1))
        self.upstream.hold = set()
        self.upstream.let_go()
        self.assert_pulled(Pull(self.successResultOf(first)), LARGE)
        self.clock.advance(LOOK)
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.failureResultOf(file.done, UpstreamUnavailable)
        self.assertEqual(open_files(), self.opened)

    def refused(self, wrong: bytes, digest: Digest) -> Pull:
        """Let the first process refuse what it fetched, while the second follows it; a pull through the second."""
        self.upstream.add_blob(wrong, instead_of=LARGE)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        self.clock.advance(LOOK)
        self.assertEqual(len(second.content), RELEASED)
        self.upstream.release()
        self.failureResultOf(first.done, UpstreamUnavailable)
        self.upstream.add_blob(LARGE)
        return second

    def test_who_comes_when_it_is_begun_anew_elsewhere_is_told_of_nothing_that_is_not_there(self) -> None:
        digest = Digest.of(LARGE)
        self.refused(b"\xff" * len(LARGE), digest)
        self.upstream.hold = {"fetch_blob"}
        again = self.registry.open_blob(APP, digest)
        self.failureResultOf(self.file_of(digest).done, UpstreamUnavailable)
        self.upstream.let_go()
        self.assert_pulled(Pull(self.successResultOf(again)), LARGE)

    def assert_size_told_anew(self, wrong: bytes) -> None:
        digest = Digest.of(LARGE)
        self.refused(wrong, digest)
        self.upstream.released = RELEASED
        again = self.pull(digest)
        self.clock.advance(LINGER)
        early = self.pull(digest, mirror=self.other)
        self.assertEqual(early.reader.descriptor.size, len(wrong))
        self.clock.advance(LOOK)
        late = self.pull(digest, mirror=self.other)
        self.upstream.release()
        self.assert_pulled(again, LARGE)
        self.clock.advance(LOOK)
        self.failureResultOf(early.done, UpstreamUnavailable)
        self.assert_pulled(late, LARGE)
        self.assertEqual(open_files(), self.opened)

    def test_of_more_than_was_told_at_first_nobody_gets_a_clean_end_of_a_part(self) -> None:
        self.assert_size_told_anew(b"\xff" * (len(LARGE) // 2))

    def test_of_less_than_was_told_at_first_nobody_waits_for_ever(self) -> None:
        self.assert_size_told_anew(b"\xff" * (2 * len(LARGE)))

    def file_of(self, digest: Digest) -> FilePull:
        """A pull through the second process by somebody who gets the file, and not its bytes."""
        reader = self.open(digest, self.other)
        assert isinstance(reader, GrowingReader)
        return FilePull(reader)

    def test_of_wrong_content_the_second_asks_itself_and_its_clients_are_broken_off(self) -> None:
        digest = self.upstream.add_blob(b"\xff" * len(LARGE), instead_of=LARGE)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        self.upstream.release()
        self.failureResultOf(first.done, UpstreamUnavailable)
        self.upstream.add_blob(LARGE)
        self.clock.advance(LOOK)
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.assert_pulled(self.pull(digest, mirror=self.other), LARGE)
        self.assertEqual(open_files(), self.opened)

    def test_the_second_stops_without_a_wait(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        self.successResultOf(self.other.registry.stop())
        self.failureResultOf(second.done, UpstreamUnavailable)
        self.upstream.release()
        self.assert_pulled(first, LARGE)

    def test_the_second_goes_on_when_the_first_tells_nothing_for_a_moment(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        first, second = self.pull(digest), self.pull(digest, mirror=self.other)
        self.mirror.driver.put_content(layout.upload_size(APP, layout.fill_id(digest)), b"")
        self.clock.advance(LOOK)
        self.upstream.release()
        self.clock.advance(LOOK)
        self.assert_pulled(first, LARGE)
        self.assert_pulled(second, LARGE)

    def test_a_manifest_is_fetched_once(self) -> None:
        manifest = image(b"config")
        self.upstream.add(manifest, "v1")
        self.upstream.hold = {"get_manifest"}
        first = self.registry.get_manifest(APP, manifest.digest)
        second = self.other.registry.get_manifest(APP, manifest.digest)
        self.pass_delays(5)
        self.upstream.let_go()
        self.clock.advance(LOOK)
        self.assertEqual(self.successResultOf(first), manifest)
        self.assertEqual(self.successResultOf(second), manifest)
        self.assertEqual(self.upstream.asked, {"get_manifest": 1})
        self.assertFalse(self.mirror.has(layout.uploads(APP)))
        self.assertEqual(open_files(), self.opened)

    def test_who_gives_up_for_want_of_room_takes_nothing_from_who_goes_on(self) -> None:
        digest = self.upstream.add_blob(LARGE)
        self.upstream.released = RELEASED
        first = self.pull(digest)
        fill = next(iter(self.other.registry._fills._under_way.values()), None)
        self.assertIsNone(fill)
        second = self.pull(digest, mirror=self.other)
        (fill,) = self.other.registry._fills._under_way.values()
        fill._give_back()
        self.upstream.release()
        self.clock.advance(LOOK)
        self.assert_pulled(first, LARGE)
        self.assert_pulled(second, LARGE)
