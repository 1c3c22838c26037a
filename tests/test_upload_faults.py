"""Uploads on storage that fails: what was not stored for certain is never acknowledged, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence

import attrs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from registryd.errors import BlobUnknown, ManifestBlobUnknown, StorageFull, UploadUnknown
from registryd.interfaces import IBlobWriter
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IContentWriter
from registryd.storage.memory import MemoryDriver
from registryd.storage.tree import Tree
from registryd.uploads import Uploads
from tests.values import NAME, OTHER, at_once, image, local_registry, put_blob

CONTENT = b"what is pushed"
DIGEST = Digest.of(CONTENT)
AGE = 3600.0


class Fault:
    """Something that fails so many times."""

    def __init__(self) -> None:
        self.left = 0
        self.error = errno.EIO

    def strike(self) -> None:
        if self.left:
            self.left -= 1
            raise OSError(self.error, os.strerror(self.error))


@implementer(IContentWriter)
@attrs.define(eq=False)
class FaultyWriter:
    """A content writer whose sync can fail, whose writes are counted, and reads too, which can end early."""

    inner: IContentWriter
    driver: FaultyDriver

    @property
    def size(self) -> int:
        return self.inner.size

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        self.driver.writes += 1
        self.inner.write(buffers)

    def truncate(self, size: int) -> None:
        self.inner.truncate(size)

    def sync(self) -> None:
        self.driver.sync.strike()
        self.inner.sync()

    def read(self, start: int, stop: int) -> bytes:
        self.driver.reads += 1
        # One that never stops would ask for ever.
        assert self.driver.reads < 100, "read again and again"
        return self.inner.read(start, min(stop, self.driver.ends))

    def fileno(self) -> int | None:
        return None

    def stands(self) -> bool:
        return self.inner.stands()

    def close(self) -> None:
        self.inner.close()


class FaultyDriver(MemoryDriver):
    """A memory driver whose steps can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.sync, self.data, self.deletion = Fault(), Fault(), Fault()
        self.reads = self.writes = 0
        self.ends = 1 << 40

    def writer(self, path: str, create: bool) -> IContentWriter:
        if create and path.endswith("/data"):
            self.data.strike()
        return FaultyWriter(super().writer(path, create), self)

    def delete(self, path: str) -> None:
        if "/_uploads/" in path:
            self.deletion.strike()
        super().delete(path)


class FaultyCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.driver = FaultyDriver()
        self.ahead = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget what is in memory alone."""
        self.uploads = Uploads(Tree(self.driver), at_once, lambda: time.time() + self.ahead)

    def start(self) -> IBlobWriter:
        return self.successResultOf(self.uploads.start(NAME, "sha256"))

    def session(self, content: bytes = CONTENT) -> str:
        """The id of a session that holds content, and is suspended."""
        writer = self.start()
        writer.write(content)
        self.successResultOf(writer.suspend())
        return writer.id

    def exists(self, path: str) -> bool:
        return Tree(self.driver).exists(path)

    def sessions(self) -> list[str]:
        return Tree(self.driver).names(layout.uploads(NAME))


class LostSyncTests(FaultyCase):
    """Linux tells once that written content is lost: the sync that fails is the last that tells the truth."""

    def lose(self) -> str:
        writer = self.start()
        writer.write(CONTENT)
        self.driver.sync.left = 1
        self.failureResultOf(writer.commit(DIGEST), OSError)
        return writer.id

    def test_the_session_is_gone(self) -> None:
        id = self.lose()
        self.failureResultOf(self.uploads.resume(NAME, id), UploadUnknown)
        self.assertEqual(self.sessions(), [])
        self.assertFalse(self.exists(layout.blob_data(DIGEST)))
        self.assertFalse(self.exists(layout.layer_link(NAME, DIGEST)))

    def test_a_lack_of_room_that_only_the_sync_tells(self) -> None:
        writer = self.start()
        writer.write(CONTENT)
        self.driver.sync.left, self.driver.sync.error = 1, errno.ENOSPC
        self.failureResultOf(writer.commit(DIGEST), StorageFull)
        self.assertEqual(self.sessions(), [])

    def test_a_push_that_starts_anew_succeeds(self) -> None:
        self.lose()
        writer = self.start()
        writer.write(CONTENT)
        self.assertEqual(self.successResultOf(writer.commit(DIGEST)).size, len(CONTENT))
        self.assertEqual(self.driver.get_content(layout.blob_data(DIGEST)), CONTENT)


class RefusedStartTests(FaultyCase):
    def test_nothing_is_left(self) -> None:
        self.driver.data.left, self.driver.data.error = 1, errno.ENOSPC
        self.failureResultOf(self.uploads.start(NAME, "sha256"), StorageFull)
        self.assertEqual(self.sessions(), [])
        self.start()
        self.assertEqual(len(self.sessions()), 1)


class EndedEarlyTests(FaultyCase):
    def test_content_that_ends_before_its_size(self) -> None:
        id = self.session()
        self.restart()
        self.driver.ends = 4
        self.failureResultOf(self.successResultOf(self.uploads.resume(NAME, id)).commit(DIGEST), OSError)
        self.assertFalse(self.exists(layout.blob_data(DIGEST)))
        self.driver.ends = 1 << 40
        # Neither the thread nor the session's lock is held for ever.
        self.successResultOf(self.successResultOf(self.uploads.resume(NAME, id)).commit(DIGEST))

    def test_cancelling_reads_nothing(self) -> None:
        id = self.session()
        self.restart()
        self.successResultOf(self.successResultOf(self.uploads.resume(NAME, id)).cancel())
        self.assertEqual(self.driver.reads, 0)
        self.assertEqual(self.sessions(), [])


class PurgingTests(FaultyCase):
    def test_a_session_that_is_being_written_stays(self) -> None:
        writer = self.start()
        writer.write(CONTENT)
        self.ahead = AGE + 10
        self.assertEqual(self.uploads.purge(AGE, False), 0)
        self.successResultOf(writer.commit(DIGEST))
        self.assertEqual(self.driver.get_content(layout.blob_data(DIGEST)), CONTENT)

    def test_one_that_was_written_to_before_it_was_locked_stays(self) -> None:
        id = self.session()
        times = iter([0.0])
        last_used = self.uploads._last_used

        def used(name: RepositoryName, of: str) -> float:
            """Old at the first look."""
            return next(times, last_used(name, of))

        self.uploads._last_used = used  # type: ignore[method-assign]
        self.assertEqual(self.uploads.purge(AGE, False), 0)
        self.assertEqual(self.sessions(), [id])

    def test_it_goes_once_it_is_left(self) -> None:
        self.session()
        self.ahead = AGE + 10
        self.assertEqual(self.uploads.purge(AGE, False), 1)
        self.assertEqual(self.sessions(), [])

    def test_one_that_cannot_be_removed_does_not_keep_the_others(self) -> None:
        for _ in range(3):
            self.session()
        self.ahead = AGE + 10
        self.driver.deletion.left, self.driver.deletion.error = 1, errno.EACCES
        self.assertEqual(self.uploads.purge(AGE, False), 2)
        self.assertEqual(len(self.sessions()), 1)
        self.assertEqual(self.uploads.purge(AGE, False), 1)

    def test_a_session_that_is_gone_at_the_commit(self) -> None:
        writer = self.start()
        writer.write(CONTENT)
        self.driver.delete(layout.upload(NAME, writer.id))
        self.failureResultOf(writer.commit(DIGEST), UploadUnknown)


class EmptiedBlobTests(SynchronousTestCase):
    """A power cut can leave a blob's file without its bytes: nobody may rely on it, and a push heals it."""

    def setUp(self) -> None:
        self.driver = MemoryDriver()
        self.registry = local_registry(self.driver)
        put_blob(self.registry, CONTENT)
        put_blob(self.registry, b"config")
        self.image = image(b"config", CONTENT)
        self.driver.put_content(layout.blob_data(DIGEST), b"")

    def test_it_is_not_mounted(self) -> None:
        for source in (NAME, None):
            self.failureResultOf(self.registry.mount_blob(OTHER, DIGEST, source), BlobUnknown)
        self.assertFalse(Tree(self.driver).exists(layout.layer_link(OTHER, DIGEST)))

    def test_no_manifest_is_taken_over_it(self) -> None:
        self.failureResultOf(self.registry.put_manifest(NAME, self.image, []), ManifestBlobUnknown)

    def test_a_push_heals_it(self) -> None:
        put_blob(self.registry, CONTENT)
        self.successResultOf(self.registry.mount_blob(OTHER, DIGEST, NAME))
        self.successResultOf(self.registry.put_manifest(NAME, self.image, []))

    def test_a_blob_that_is_empty_by_right(self) -> None:
        empty = put_blob(self.registry, b"")
        self.assertEqual(self.successResultOf(self.registry.mount_blob(OTHER, empty, NAME)).size, 0)
        self.successResultOf(self.registry.put_manifest(NAME, image(b"config", b""), []))
