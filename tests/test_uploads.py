"""Upload sessions from within: batches, backpressure, failures half-way, hashes after a restart, purging."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from registryd import uploads
from registryd.errors import DigestInvalid, RangeInvalid, StorageFull, UploadUnknown
from registryd.interfaces import IBlobWriter
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd.storage.interfaces import IStorageDriver
from registryd.storage.memory import MemoryDriver
from registryd.storage.tree import Tree
from registryd.uploads import BATCH, BlobWriter, Uploads
from tests.values import NAME, OTHER, at_once

PIECE = 64 * 1024
CONTENT = bytes(range(256)) * (4 * BATCH // 256) + b"the end"


class Threads:
    """Threads that wait until they are told to do the next call."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, call: Callable[..., Any], /, *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, call, arguments))
        return done

    def run(self, number: int = 0) -> None:
        """Do the next call, or a later one."""
        done, call, arguments = self.waiting.pop(number)
        maybeDeferred(call, *arguments).chainDeferred(done)

    def run_all(self) -> None:
        while self.waiting:
            self.run()


@implementer(IPushProducer)
class Peer:
    """A producer that sends content in pieces while it is not paused."""

    def __init__(self, content: bytes, consumer: IBlobWriter) -> None:
        self.left = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
        self.paused = self.stopped = False
        self.pauses = 0
        self.consumer = consumer
        consumer.registerProducer(self, True)

    def send(self) -> None:
        while self.left and not self.paused and not self.stopped:
            self.consumer.write(self.left.pop(0))

    def pauseProducing(self) -> None:
        assert not self.paused and not self.stopped
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        assert self.paused and not self.stopped
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True


class UploadsCase(SynchronousTestCase):
    def make_driver(self) -> IStorageDriver:
        return MemoryDriver()

    def setUp(self) -> None:
        self.driver = self.make_driver()
        self.tree = Tree(self.driver)
        self.ahead = 0.0
        self.restart()

    def now(self) -> float:
        return time.time() + self.ahead

    def restart(self) -> None:
        """Forget what is in memory alone."""
        self.uploads = Uploads(self.tree, at_once, self.now)

    def start(self, algorithm: str = "sha256", name: RepositoryName = NAME) -> IBlobWriter:
        return self.successResultOf(self.uploads.start(name, algorithm))

    def resume(self, id: str, name: RepositoryName = NAME) -> IBlobWriter:
        return self.successResultOf(self.uploads.resume(name, id))

    def session(self, content: bytes, algorithm: str = "sha256", name: RepositoryName = NAME) -> str:
        """The id of a session that holds content, and is suspended."""
        writer = self.start(algorithm, name)
        writer.write(content)
        self.assertEqual(self.successResultOf(writer.suspend()), len(content))
        return writer.id

    def stored(self, digest: Digest) -> bytes:
        return self.driver.get_content(layout.blob_data(digest))


class SlowStorageTests(UploadsCase):
    """Threads that take their time."""

    def setUp(self) -> None:
        super().setUp()
        self.threads = Threads()
        self.uploads = Uploads(self.tree, self.threads, self.now)
        started = self.uploads.start(NAME, "sha256")
        self.threads.run()
        self.writer: IBlobWriter = self.successResultOf(started)

    def size(self) -> int:
        """Bytes that are stored."""
        return self.driver.stat(layout.upload_data(NAME, self.writer.id)).size

    def commit(self, content: bytes) -> None:
        committed = self.writer.commit(Digest.of(content))
        self.threads.run_all()
        self.assertEqual(self.successResultOf(committed).size, len(content))
        self.assertTrue(self.stored(Digest.of(content)) == content)
        self.assertEqual(self.threads.waiting, [])

    def test_little_waits_for_more(self) -> None:
        self.writer.write(b"a" * (BATCH - 1))
        self.assertEqual((self.threads.waiting, self.writer.size), ([], BATCH - 1))
        self.writer.write(b"a")
        self.assertEqual((len(self.threads.waiting), self.size()), (1, 0))
        self.threads.run()
        self.assertEqual(self.size(), BATCH)
        self.commit(b"a" * BATCH)

    def test_one_batch_at_a_time(self) -> None:
        for _ in range(3):
            self.writer.write(b"a" * BATCH)
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.run()
        self.assertEqual((len(self.threads.waiting), self.size()), (1, BATCH))
        self.threads.run()
        self.assertEqual((len(self.threads.waiting), self.size()), (0, 3 * BATCH))
        self.commit(b"a" * 3 * BATCH)

    def test_a_peer_that_is_faster_is_paused(self) -> None:
        peer = Peer(CONTENT, self.writer)
        held = []
        while peer.left:
            peer.send()
            held.append(self.writer.size - self.size())
            if peer.left:
                self.assertTrue(peer.paused)
                self.threads.run()
                self.assertFalse(peer.paused)
        self.assertLessEqual(max(held), 2 * BATCH)
        self.assertGreater(peer.pauses, 1)
        self.writer.unregisterProducer()
        self.commit(CONTENT)
        self.assertFalse(peer.stopped)

    def test_a_peer_that_is_slower_is_not_paused(self) -> None:
        peer = Peer(CONTENT, self.writer)
        while peer.left:
            self.writer.write(peer.left.pop(0))
            self.threads.run_all()
        self.assertEqual(peer.pauses, 0)
        self.commit(CONTENT)

    def test_what_comes_while_a_batch_is_stored_is_in_order(self) -> None:
        for number in range(40):
            self.writer.write(bytes([number]) * PIECE)
        self.commit(b"".join(bytes([number]) * PIECE for number in range(40)))

    def test_suspend_waits_for_what_is_under_way(self) -> None:
        self.writer.write(b"a" * BATCH)
        self.writer.write(b"b")
        suspended = self.writer.suspend()
        self.assertNoResult(suspended)
        self.threads.run()
        self.assertNoResult(suspended)
        self.threads.run()
        self.assertEqual((self.successResultOf(suspended), self.size()), (BATCH + 1, BATCH + 1))

    def test_cancel_while_something_is_under_way(self) -> None:
        self.writer.write(b"a" * BATCH)
        self.writer.write(b"b")
        cancelled = self.writer.cancel()
        self.threads.run_all()
        self.successResultOf(cancelled)
        self.assertFalse(self.tree.exists(layout.upload(NAME, self.writer.id)))

    def test_revert_while_something_is_under_way(self) -> None:
        self.writer.write(b"a" * BATCH)
        self.writer.write(b"b")
        reverted = self.writer.revert(10)
        self.threads.run_all()
        self.successResultOf(reverted)
        self.assertEqual(self.size(), 10)

    def claimed(self) -> BlobWriter:
        """A session of a blob on its way, with a batch of it under way to the storage."""
        writer = self.writer = self.uploads.claim(NAME, Digest.of(CONTENT))
        writer.write(b"a" * BATCH)
        self.assertEqual(len(self.threads.waiting), 1)
        return writer

    def test_flush_stores_less_than_a_batch(self) -> None:
        writer = self.claimed()
        self.threads.run()
        writer.write(b"b")
        self.assertEqual(self.threads.waiting, [])
        writer.flush()
        self.threads.run()
        self.assertEqual(self.size(), BATCH + 1)
        writer.flush()
        self.assertEqual(self.threads.waiting, [])

    def test_flush_while_something_is_under_way(self) -> None:
        writer = self.claimed()
        writer.write(b"b")
        writer.flush()
        writer.write(b"c")
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.run()
        self.threads.run()
        self.assertEqual((self.size(), self.threads.waiting), (BATCH + 2, []))
        writer.write(b"d")
        self.assertEqual(self.threads.waiting, [])

    def test_what_is_flushed_is_told_before_the_end_begins(self) -> None:
        writer = self.claimed()
        told: list[int] = []
        writer.on_stored = told.append
        writer.write(b"b")
        writer.flush()
        committed = writer.commit(Digest.of(b"a" * BATCH + b"b"))
        self.threads.run()
        self.threads.run()
        self.assertEqual(told, [BATCH, BATCH + 1])
        self.assertNoResult(committed)
        self.threads.run()
        self.assertEqual(self.successResultOf(committed).size, BATCH + 1)

    def test_no_other_writes_until_it_is_released(self) -> None:
        self.writer.write(b"a" * BATCH)
        suspended = self.writer.suspend()
        for released in (False, True):
            resumed = self.uploads.resume(NAME, self.writer.id)
            self.threads.run(-1)
            if released:
                self.successResultOf(resumed)
            else:
                self.failureResultOf(resumed, RangeInvalid)
            self.threads.run_all()
        self.successResultOf(suspended)


class FailureTests(UploadsCase):
    """Storage that fails half-way."""

    def setUp(self) -> None:
        super().setUp()
        assert isinstance(self.driver, MemoryDriver)
        self.memory = self.driver
        self.threads = Threads()
        self.uploads = Uploads(self.tree, self.threads, self.now)
        started = self.uploads.start(NAME, "sha256")
        self.threads.run()
        self.writer = self.successResultOf(started)
        self.memory.capacity = BATCH + PIECE

    def finish(self, end: Deferred[Any]) -> None:
        self.threads.run_all()
        self.failureResultOf(end, StorageFull)

    def test_the_producer_is_stopped(self) -> None:
        peer = Peer(CONTENT, self.writer)
        peer.send()
        self.threads.run()
        self.assertFalse(peer.stopped)
        self.threads.run()
        self.assertTrue(peer.stopped)
        self.assertEqual(self.threads.waiting, [])
        # What still comes is dropped.
        self.writer.write(b"a" * BATCH)
        self.assertEqual(self.threads.waiting, [])
        self.finish(self.writer.suspend())

    def test_what_was_stored_can_be_gone_on_with(self) -> None:
        for end in (self.writer.suspend, lambda: self.writer.commit(Digest.of(CONTENT))):
            Peer(CONTENT[self.writer.size :], self.writer).send()
            self.threads.run()
            self.finish(end())
            self.assertEqual(self.uploads.status(NAME, self.writer.id).size, BATCH)
            resumed = self.uploads.resume(NAME, self.writer.id)
            self.threads.run()
            self.writer = self.successResultOf(resumed)
            self.assertEqual(self.writer.size, BATCH)
        self.memory.capacity = None
        self.writer.write(CONTENT[BATCH:])
        committed = self.writer.commit(Digest.of(CONTENT))
        self.threads.run_all()
        self.successResultOf(committed)
        self.assertTrue(self.stored(Digest.of(CONTENT)) == CONTENT)

    def test_a_failure_after_the_end_was_asked_for(self) -> None:
        self.memory.capacity = 1000
        self.writer.write(b"a" * BATCH)
        self.finish(self.writer.commit(Digest.of(b"a" * BATCH)))
        self.assertEqual(self.uploads.status(NAME, self.writer.id).size, 0)

    def test_cancel_after_a_failure(self) -> None:
        self.memory.capacity = 1000
        self.writer.write(b"a" * BATCH)
        self.threads.run()
        cancelled = self.writer.cancel()
        self.threads.run_all()
        self.assertTrue(cancelled.called)
        cancelled.addErrback(lambda failure: failure.trap(StorageFull))
        # Whatever it told, nobody else is kept out.
        self.memory.capacity = None
        resumed = self.uploads.resume(NAME, self.writer.id)
        self.threads.run()
        self.failureResultOf(resumed, UploadUnknown)


class HashTests(UploadsCase):
    """The hash that is kept between requests, and what is done without it."""

    def test_after_a_restart(self) -> None:
        for content in (b"", CONTENT):
            id = self.session(content)
            self.restart()
            writer = self.resume(id)
            writer.write(b"more")
            self.assertEqual(self.successResultOf(writer.commit(Digest.of(content + b"more"))).size, len(content) + 4)

    def test_after_a_restart_with_the_wrong_digest(self) -> None:
        id = self.session(CONTENT)
        self.restart()
        self.failureResultOf(self.resume(id).commit(Digest.of(b"wrong")), DigestInvalid)

    def test_sha512(self) -> None:
        for again in (lambda: None, self.restart):
            id = self.session(CONTENT, "sha512")
            again()
            writer = self.resume(id)
            writer.write(b"more")
            digest = Digest.of(CONTENT + b"more", "sha512")
            self.assertEqual(self.successResultOf(writer.commit(digest)).digest, digest)
            self.assertTrue(self.stored(digest) == CONTENT + b"more")

    def test_content_that_another_process_has_appended_to(self) -> None:
        for algorithm in ("sha256", "sha512"):
            id = self.session(b"ours", algorithm)
            other = self.driver.writer(layout.upload_data(NAME, id), False)
            other.write([b" and theirs"])
            other.close()
            writer = self.resume(id)
            self.assertEqual(writer.size, len(b"ours and theirs"))
            self.successResultOf(writer.commit(Digest.of(b"ours and theirs", algorithm)))

    def test_content_that_another_process_has_cut(self) -> None:
        id = self.session(b"ours and theirs")
        other = self.driver.writer(layout.upload_data(NAME, id), False)
        other.truncate(4)
        other.close()
        self.successResultOf(self.resume(id).commit(Digest.of(b"ours")))

    def test_content_that_is_reverted(self) -> None:
        writer = self.start()
        writer.write(CONTENT)
        self.successResultOf(writer.revert(BATCH))
        writer = self.resume(writer.id)
        writer.write(b"more")
        self.successResultOf(writer.commit(Digest.of(CONTENT[:BATCH] + b"more")))

    def test_is_not_made_again_where_it_is_known(self) -> None:
        id = self.session(b"a" * 100)
        self.driver.put_content(layout.upload_data(NAME, id), b"b" * 100)
        # Who writes to the tree beside the daemon, with the same size, is not looked for: the hash is of what came.
        writer = self.resume(id)
        self.successResultOf(writer.commit(Digest.of(b"a" * 100)))

    def test_is_kept_of_so_many_sessions(self) -> None:
        self.patch(uploads, "_HASHED_SESSIONS", 3)
        ids = [self.session(bytes([number]) * 10) for number in range(6)]
        self.assertEqual(len(self.uploads._hashed), 3)
        for number, id in enumerate(ids):
            self.successResultOf(self.resume(id).commit(Digest.of(bytes([number]) * 10)))
        self.assertEqual(len(self.uploads._hashed), 0)

    def test_is_forgotten_with_its_session(self) -> None:
        self.successResultOf(self.resume(self.session(b"a")).cancel())
        self.failureResultOf(self.resume(self.session(b"b")).commit(Digest.of(b"c")), DigestInvalid)
        self.assertEqual(len(self.uploads._hashed), 0)


class PurgeTests(UploadsCase):
    """Sessions that nobody goes on with."""

    AGE = 1000.0

    def make_driver(self) -> FilesystemDriver:
        root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, root)
        return FilesystemDriver(root)

    def age(self, id: str, started: float | None, folder: float, data: float, name: RepositoryName = NAME) -> None:
        """Let a session be so old by what it tells itself, and by the times of its folder and content."""
        assert isinstance(self.driver, FilesystemDriver)
        if started is not None:
            then = datetime.fromtimestamp(self.now() - started, timezone.utc)
            self.driver.put_content(layout.upload_started(name, id), then.strftime("%Y-%m-%dT%H:%M:%SZ").encode())
        for path, age in ((layout.upload_data(name, id), data), (layout.upload(name, id), folder)):
            os.utime(self.driver.root + path, (self.now() - age, self.now() - age))

    def exists(self, id: str, name: RepositoryName = NAME) -> bool:
        return self.tree.exists(layout.upload(name, id))

    def test_old_sessions_alone(self) -> None:
        old, young = self.AGE + 5, self.AGE - 5
        for started, folder, data, purged in (
            (old, old, old, True),
            (young, old, old, False),
            (old, young, old, False),
            (old, old, young, False),
            (young, young, young, False),
        ):
            id = self.session(b"a")
            self.age(id, started, folder, data)
            self.assertEqual(self.uploads.purge(self.AGE, False), int(purged))
            self.assertEqual(self.exists(id), not purged)
            if not purged:
                self.driver.delete(layout.upload(NAME, id))

    def test_as_time_goes_by(self) -> None:
        id = self.session(b"a")
        self.assertEqual(self.uploads.purge(self.AGE, False), 0)
        self.ahead = self.AGE + 5
        self.assertEqual(self.uploads.purge(self.AGE, False), 1)
        self.assertFalse(self.exists(id))
        self.assertEqual(self.uploads.purge(self.AGE, False), 0)

    def test_dry_run(self) -> None:
        id = self.session(b"a")
        self.ahead = self.AGE + 5
        for _ in range(2):
            self.assertEqual(self.uploads.purge(self.AGE, True), 1)
        self.assertTrue(self.exists(id))

    def test_every_repository(self) -> None:
        names = [NAME, OTHER, RepositoryName("a/b/c"), RepositoryName("a/b")]
        ids = [self.session(b"a", name=name) for name in names]
        self.driver.put_content(f"{layout.layers(NAME)}/sha256/x/link", b"")
        self.ahead = self.AGE + 5
        self.assertEqual(self.uploads.purge(self.AGE, False), len(names))
        self.assertEqual([self.exists(id, name) for id, name in zip(ids, names, strict=True)], [False] * 4)

    def test_sessions_that_tell_no_start(self) -> None:
        for told in (None, b"", b"yesterday", b"\xff\xfe"):
            id = self.session(b"a")
            path = layout.upload_started(NAME, id)
            if told is None:
                self.driver.delete(path)
            else:
                self.driver.put_content(path, told)
            self.age(id, None, self.AGE - 5, self.AGE - 5)
            self.assertEqual(self.uploads.purge(self.AGE, False), 0, told)
            self.age(id, None, self.AGE + 5, self.AGE + 5)
            self.assertEqual(self.uploads.purge(self.AGE, False), 1, told)

    def test_sessions_of_distribution(self) -> None:
        # It tells the offset of its zone, and keeps the state of its hash beside.
        id = "8e2ec51a-4ea1-4b0d-b2b5-3b6e9c3a9a52"
        self.driver.put_content(layout.upload_data(NAME, id), b"abc")
        self.driver.put_content(layout.upload_started(NAME, id), b"2020-01-01T00:00:00Z")
        self.driver.put_content(f"{layout.upload(NAME, id)}/hashstates/sha256/3", b"state")
        writer = self.resume(id)
        writer.write(b"def")
        self.assertEqual(self.successResultOf(writer.suspend()), 6)
        self.successResultOf(self.resume(id).commit(Digest.of(b"abcdef")))
        self.assertFalse(self.exists(id))

    def test_sessions_without_content(self) -> None:
        id = "half-made"
        self.driver.put_content(layout.upload_started(NAME, id), b"2020-01-01T00:00:00Z")
        self.failureResultOf(self.uploads.resume(NAME, id), UploadUnknown)
        self.ahead = self.AGE + 5
        self.assertEqual(self.uploads.purge(self.AGE, False), 1)


class FreshnessTests(UploadsCase):
    """What a commit promises to whoever collects."""

    def make_driver(self) -> IStorageDriver:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        return FilesystemDriver(self.folder)

    def test_a_blob_whose_bytes_came_long_ago_is_young(self) -> None:
        id = self.session(CONTENT)
        os.utime(f"{self.folder}{layout.upload_data(NAME, id)}", (1, 1))
        self.successResultOf(self.resume(id).commit(Digest.of(CONTENT)))
        self.assertGreater(self.driver.stat(layout.blob_data(Digest.of(CONTENT))).modified, 1)
