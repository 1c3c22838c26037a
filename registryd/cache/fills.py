"""Blobs on their way from an upstream: each is fetched once, and read by everybody while it comes.

What has come lies in an upload session that is found by the blob's digest. Whoever holds its lock fetches; all others,
in this process and in others, read what is stored. When that process ends, however it does, the next that looks takes
the lock, and goes on where the bytes end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import attrs
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from registryd.cache.checks import Checks
from registryd.cache.fetching import STOPPING, BegunAnewError, Fetching, Fillable, TooMuchError
from registryd.cache.pause import Pause
from registryd.cache.source import Source
from registryd.errors import BlobUnknown, DigestInvalid, RegistryError, StorageFull, UploadUnknown, UpstreamUnavailable
from registryd.interfaces import IBlobWriter, PeerGone, Space
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.interfaces import IContentReader
from registryd.uploads import BlobWriter, Uploads, tell_full

_log = Logger()

LOOK = 0.05
"""Seconds between two looks at what another process fetches."""

NO_ROOM = 60.0
"""Seconds for which a storage without room is not tried again."""

FROZEN = 600.0
"""Seconds for which another process may have the right to fetch something, and fetch nothing of it."""

ELSEWHERE_FROZEN = "another process is to fetch it, and does not"

MOST_BEGINNINGS = 3
"""How often what has come is given up at most, and the blob begun anew, before its fill fails."""


@attrs.frozen
class Elsewhere:
    """Another process fetches: how many bytes it has stored, and how many they will be; None while it does not tell."""

    stored: int
    size: int | None


class Fills:
    """The blobs of one upstream that are on their way."""

    def __init__(self, source: Source, uploads: Uploads, space: Space, checks: Checks) -> None:
        self.source = source
        self.uploads = uploads
        self.space = space
        self.checks = checks
        self.full_until = 0.0
        self._under_way: dict[tuple[RepositoryName, Digest], Fill] = {}
        self._stopped = False

    def under_way(self, blob: Fillable) -> Fill | None:
        """The fill of a blob, if there is one."""
        return self._under_way.get((blob.name, blob.digest))

    def of_another(self, blob: Fillable) -> Fill | None:
        """The fill of the same content for another repository, if there is one."""
        return next((fill for fill in self._under_way.values() if fill.blob.digest == blob.digest), None)

    def of(self, blob: Fillable) -> Fill:
        """The fill of a blob, begun if it is not under way.

        Errors:
            UpstreamUnavailable: the fills were stopped.
        """
        if self._stopped:
            raise UpstreamUnavailable(STOPPING)
        key = blob.name, blob.digest
        fill = self._under_way.get(key)
        if fill is None:
            fill = self._under_way[key] = Fill(self, blob)
            fill.begin().addBoth(lambda _: self._under_way.pop(key))
        return fill

    @property
    def is_full(self) -> bool:
        """Whether the storage had no room lately, and none could be made."""
        return self.source.clock.seconds() < self.full_until

    def stop(self) -> Deferred[None]:
        """Leave what is under way as it is, and begin no more; fires when all is stored that came."""
        self._stopped = True
        return DeferredList([fill.stop() for fill in list(self._under_way.values())]).addCallback(lambda _: None)


class Fill:
    """One blob on its way.

    ``is_complete``: whether all is verified and stored; ``is_verified``: whether all that was read of it is, too, since
    it was fetched here. ``size`` is None until it is known. ``available`` are the bytes that may be read: the last one
    only when all are verified, so that nobody ever gets a clean end of wrong bytes.
    ``beginnings`` grows when what was available is gone and comes anew: who has read before must not go on. ``claims``
    grows when the fetch begins, or goes on, here: who has read before looks whether that was of the same file.
    """

    def __init__(self, fills: Fills, blob: Fillable) -> None:
        self._fills = fills
        self._source = fills.source
        self.blob = blob
        self.size: int | None = None
        self.available = 0
        self.beginnings = 0
        self.claims = 0
        self.is_complete = False
        self.is_verified = False
        self._error: RegistryError | None = None
        self._made_room = False
        self._stopping = False
        self._fetching: Fetching | None = None
        self._pause = Pause(fills.source.clock)
        self._elsewhere_last = Elsewhere(0, None), fills.source.clock.seconds()
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._ended: Deferred[None] | None = None

    def begin(self) -> Deferred[None]:
        """Start; fires, whatever comes of it, when nothing more will."""
        self._ended = Deferred.fromCoroutine(self._run()).addErrback(self._failed)
        return self._ended

    def opened(self) -> Deferred[None]:
        """Fires when the size is known, or all is stored.

        Errors:
            UpstreamUnavailable, BlobUnknown: it cannot be fetched.
            StorageFull: it cannot be stored.
        """
        return self._when(lambda: self.size is not None)

    def grown(self, position: int) -> Deferred[None]:
        """Fires when bytes beyond a position may be read.

        Errors: as ``opened``, also when a part was read already.
        """
        return self._when(lambda: self.available > position)

    def done(self) -> Deferred[None]:
        """Fires when all is verified and stored.

        Errors: as ``opened``.
        """
        return self._when(lambda: False)

    def reader(self) -> IContentReader:
        """What has come so far, open for reading.

        Errors:
            FileNotFoundError: the fill has failed, and left nothing.
        """
        driver = self._source.mirrored.tree.driver
        if self.is_complete:
            return driver.reader(layout.blob_data(self.blob.digest))
        try:
            return driver.reader(layout.upload_data(self.blob.name, layout.fill_id(self.blob.digest)))
        except FileNotFoundError:
            return driver.reader(layout.blob_data(self.blob.digest))

    def stop(self) -> Deferred[None]:
        """Fetch no more, keep what came; fires when that is stored."""
        self._stopping = True
        if self._fetching is not None:
            self._fetching.stop()
        self._pause.end()
        stopped: Deferred[None] = Deferred()
        assert self._ended is not None
        self._ended.addBoth(lambda _: stopped.callback(None))
        return stopped

    def _when(self, reached: Callable[[], bool]) -> Deferred[None]:
        if self._error is not None:
            return fail(self._error)
        if self.is_complete or reached():
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append((reached, waiting))
        return waiting

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for reached, deferred in waiting:
            if self._error is not None:
                deferred.errback(self._error)
            elif self.is_complete or reached():
                deferred.callback(None)
            else:
                self._waiting.append((reached, deferred))

    def _found(self, stored: int) -> None:
        """Take note of what is stored when it is looked for: less than before where it was lost meanwhile."""
        if stored < self.available:
            self.beginnings += 1
            self.available = stored
        self._stored(stored)

    def _size_told(self, size: int | None, stored: int) -> None:
        self.size = size
        self._stored(stored)

    def _stored(self, size: int, writer: BlobWriter | None = None) -> None:
        if self.size is not None:
            # Verified is enough for who waits: that it is durable, and a blob, can take seconds more.
            verified = size == self.size and writer is not None and writer.holds(self.blob.digest)
            self.available = max(self.available, min(size, self.size - (not verified)))
            self._tell()

    def _completed(self, size: int) -> None:
        self.is_complete = True
        self.size = self.available = size
        self._tell()

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, RegistryError):
            _log.failure("{name}: {digest} was not fetched", failure, name=self.blob.name, digest=self.blob.digest)
            # A storage that fails is one without room: what comes passes through it.
            error = StorageFull() if isinstance(error, OSError) else UpstreamUnavailable("it could not be stored")
        self._error = error
        self._tell()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                found = await self._source.in_thread(self._look).addErrback(tell_full)
                outcome = await self._fill(found) if isinstance(found, BlobWriter) else found
            except StorageFull:
                await self._need_room()
                continue
            except (BegunAnewError, UploadUnknown):
                # The session was unusable; or who removes old ones took its folder just before it was claimed.
                self.beginnings += 1
                self.available = 0
                if self.beginnings >= MOST_BEGINNINGS:
                    raise UpstreamUnavailable("what came was lost again and again") from None
                continue
            if isinstance(outcome, int):
                self._completed(outcome)
                return
            self._expect_growth(outcome)
            if outcome.size is not None:
                # Another size than before: what was fetched elsewhere was refused, and is fetched once more.
                self.size = outcome.size
                self._found(outcome.stored)
            await self._pause.sleep(LOOK)
        raise UpstreamUnavailable(STOPPING)

    def _expect_growth(self, found: Elsewhere) -> None:
        """Take note of how far another process is.

        Errors:
            UpstreamUnavailable: it has come no further for a long time.
        """
        now = self._source.clock.seconds()
        last, since = self._elsewhere_last
        if found != last:
            self._elsewhere_last = found, now
        elif now - since > FROZEN:
            raise UpstreamUnavailable(ELSEWHERE_FROZEN)

    def _look(self) -> BlobWriter | Elsewhere | int:
        """The session to fetch into, or how far who has it is, or the size of the blob if it is there."""
        there = self._size_if_there()
        if there is not None:
            return there
        try:
            return self._fills.uploads.claim(self.blob.name, self.blob.digest)
        except BlockingIOError:
            return self._elsewhere()

    def _size_if_there(self) -> int | None:
        tree = self._source.mirrored.tree
        if tree.layer(self.blob.name, self.blob.digest) is None or self._fills.checks.is_damaged(self.blob.digest):
            return None
        return self._source.mirrored.has_bytes(self.blob.digest)

    def _elsewhere(self) -> Elsewhere:
        driver = self._source.mirrored.tree.driver
        id = layout.fill_id(self.blob.digest)
        try:
            size = int(driver.get_content(layout.upload_size(self.blob.name, id)))
            return Elsewhere(driver.stat(layout.upload_data(self.blob.name, id)).size, size)
        except (FileNotFoundError, ValueError):
            return Elsewhere(0, None)

    async def _fill(self, writer: BlobWriter) -> int:
        """Fetch what is missing, and make a blob of it; its size.

        Errors:
            StorageFull: there is no room; what was stored stays.
            UpstreamUnavailable: the upstream broke off for good, or sent other content.
            BlobUnknown: the upstream does not hold it.
        """
        senders: Collection[int | None] = ()
        try:
            there = await self._source.in_thread(self._size_if_there)
            if there is None:
                self.claims += 1
                self._found(writer.stored)
                writer.on_stored = partial(self._stored, writer=writer)
                self._fetching = Fetching(self._source, self.blob, writer, self.size, self._size_told)
                if self._stopping:
                    raise UpstreamUnavailable(STOPPING)
                await self._fetching.run()
                senders = self._fetching.senders
        except BlobUnknown:
            await writer.cancel()
            await self._source.in_thread(self._source.mirrored.tidy, self.blob.name)
            raise
        except PeerGone:
            await writer.suspend()  # Raises what the storage said when it wanted no more.
            raise UpstreamUnavailable("the fetch was given up") from None
        except TooMuchError:
            await writer.cancel()
            raise UpstreamUnavailable("the upstream sent more than the blob has") from None
        except BegunAnewError:
            # Not emptied: who reads it in another process could not tell what then comes in it from what was there.
            await writer.cancel()
            raise
        except Exception:
            await writer.suspend()
            raise
        if there is not None:
            # Who held the session has ended it between our first look and our claim.
            await writer.cancel()
            return there
        return await self._commit(writer, senders)

    async def _commit(self, writer: IBlobWriter, senders: Collection[int | None]) -> int:
        try:
            size = (await writer.commit(self.blob.digest)).size
        except DigestInvalid:
            _log.error("{name}: the upstream sent other content for {digest}", **attrs.asdict(self.blob, recurse=False))
            self._source.upstream.blob_was_wrong(self.blob.digest, senders)
            raise UpstreamUnavailable("the upstream sent content with another digest") from None
        self.is_verified = True
        self._fills.checks.verified(self.blob.digest)
        self._source.meters.blobs.fetched(size)
        self._fills.space.came(size)
        return size

    async def _need_room(self) -> None:
        """Make room, once; where that does not help, give back what this blob took of it.

        Errors:
            StorageFull: there is none.
        """
        if not self._made_room and not self._stopping:
            self._made_room = True
            try:
                if await self._fills.space.make_room():
                    return
            except Exception:  # noqa: BLE001 (whatever it is, there is no room)
                _log.failure("no room could be made")
        self._fills.full_until = self._source.clock.seconds() + NO_ROOM
        await self._source.in_thread(self._give_back)
        raise StorageFull()

    def _give_back(self) -> None:
        """Remove what has come, unless another process goes on with it."""
        name, id = self.blob.name, layout.fill_id(self.blob.digest)
        try:
            content = self._source.mirrored.tree.driver.writer(layout.upload_data(name, id), False)
        except (FileNotFoundError, BlockingIOError):
            return
        try:
            self._fills.uploads.forget(name, id)
        finally:
            content.close()
