"""Files that go out by sendfile while they are still being written."""

from __future__ import annotations

from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from registryd.delivery import BlobReader, FileBlobReader
from registryd.errors import UpstreamUnavailable
from registryd.http import sendfile
from registryd.interfaces import IBlobReader, IFileConsumer, IFileDelivery, IGrowingFile, PeerGone

from .test_streaming import CONTENT, GET, SIZE, LoopbackCase

STEP = 1_000_001


@implementer(IBlobReader, IGrowingFile)
class Growing:
    """A blob of which a test says how much has come; ``asked`` is what was waited for."""

    at_hand = False

    def __init__(self, whole: FileBlobReader) -> None:
        self.descriptor = whole.descriptor
        self.whole = whole
        self.available = 0
        self.error: Exception | None = None
        self.writes_rest = False
        self.delivery: IFileDelivery | None = None
        self.waiting: list[tuple[int, Deferred[tuple[int, int]]]] = []

    def reach(self, position: int) -> Deferred[tuple[int, int]]:
        if self.error is not None:
            return fail(self.error)
        if position < self.available:
            return succeed((self.whole.fileno(), self.available))
        waiting: Deferred[tuple[int, int]] = Deferred()
        self.waiting.append((position, waiting))
        return waiting

    def grow(self, available: int) -> None:
        self.available = available
        self._tell()

    def give_up(self, error: Exception) -> None:
        self.error = error
        self._tell()

    def _tell(self) -> None:
        waiting, self.waiting = self.waiting, []
        for position, deferred in waiting:
            self.reach(position).chainDeferred(deferred)

    def deliver_to(self, consumer: IConsumer, start: int, stop: int) -> Deferred[None]:
        self.delivery = cast(IFileConsumer, consumer).file_delivery(self, start, stop)
        if self.delivery is None:
            return self.whole.deliver_to(consumer, start, stop)
        return self.delivery.begin().addErrback(self._write_rest, consumer, stop)

    def _write_rest(self, failure: Failure, consumer: IConsumer, stop: int) -> Deferred[None]:
        if not self.writes_rest:
            return fail(failure)
        assert self.delivery is not None
        return BlobReader.deliver_to(self.whole, consumer, self.delivery.position, stop)

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        self.whole.close()


class GrowingFileTests(LoopbackCase):
    """What a client gets of a file is what has come of it."""

    def setUp(self) -> None:
        super().setUp()
        self.growing: list[Growing] = []

    def file_reader(self) -> IBlobReader:
        whole = super().file_reader()
        assert isinstance(whole, FileBlobReader)
        self.growing.append(Growing(whole))
        return self.growing[-1]

    async def waits(self, position: int) -> Growing:
        """The blob, once its delivery waits for what follows a position."""
        await self.resource.begun
        while not self.growing or [waited for waited, _ in self.growing[-1].waiting] != [position]:
            await deferLater(reactor, 0.001)
        return self.growing[-1]

    async def test_as_it_grows(self) -> None:
        client = await self.client()
        client.transport.write(GET)
        sent = 0
        for available in (1, STEP, STEP + 1, 2 * STEP, SIZE):
            growing = await self.waits(sent)
            self.assertTrue(await self.whole(client, sent) == CONTENT[:sent])
            growing.grow(available)
            sent = available
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertIsNone(await self.resource.outcome)
        self.assertEqual(self.resource.sent, [SIZE])

    async def test_is_read_ahead_for_who_is_far_behind(self) -> None:
        self.patch(sendfile, "TURN", 128 * 1024)
        self.patch(sendfile, "READ_AHEAD", 256 * 1024)
        asked: list[int] = []
        self.patch(sendfile, "read_ahead", lambda file, start, stop: asked.append(start))
        client = await self.client()
        client.transport.write(GET)
        steps = range(0, STEP, 100_000)
        for position in steps:
            (await self.waits(position)).grow(position + steps.step)
        behind = steps[-1] + steps.step
        growing = await self.waits(behind)
        self.assertEqual(asked, [])
        growing.grow(behind + STEP)
        (await self.waits(behind + STEP)).grow(SIZE)
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertEqual(asked[0], behind)
        self.assertEqual(asked, sorted(set(asked)))
        self.assertGreater(asked[-1], behind + STEP)

    async def test_a_part(self) -> None:
        self.resource.span = (STEP, 2 * STEP)
        client = await self.client()
        client.transport.write(GET)
        (await self.waits(STEP)).grow(SIZE)
        self.assertTrue(await self.whole(client, STEP) == CONTENT[STEP : 2 * STEP])

    async def test_next_request_on_the_same_connection(self) -> None:
        client = await self.client()
        for _ in range(2):
            client.transport.write(GET)
            (await self.waits(0)).grow(STEP)
            (await self.waits(STEP)).grow(SIZE)
            self.assertTrue((await self.whole(client))[:SIZE] == CONTENT)
            client.received.clear()
        connection = next(iter(self.site.connections))
        self.assertIs(connection.transport.producer, connection)

    async def test_growth_ends_for_good(self) -> None:
        client = await self.client()
        client.transport.write(GET)
        (await self.waits(0)).grow(STEP)
        (await self.waits(STEP)).give_up(UpstreamUnavailable("broke off"))
        self.assertIsInstance(await client.lost, ConnectionLost)
        self.assertIsInstance(await self.resource.outcome, UpstreamUnavailable)
        self.assertTrue(client.body == CONTENT[: len(client.body)])
        self.assertLessEqual(len(client.body), STEP)

    async def test_the_rest_comes_in_another_way(self) -> None:
        client = await self.client()
        client.transport.write(GET)
        growing = await self.waits(0)
        growing.writes_rest = True
        growing.grow(STEP)
        (await self.waits(STEP)).give_up(UpstreamUnavailable("no room"))
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertIsNone(await self.resource.outcome)
        connection = next(iter(self.site.connections))
        self.assertIs(connection.transport.producer, connection)

    async def test_a_client_that_leaves_while_it_waits(self) -> None:
        client = await self.client()
        client.transport.write(GET)
        growing = await self.waits(0)
        growing.grow(STEP)
        await self.waits(STEP)
        client.leave()
        self.assertIsInstance(await self.resource.outcome, PeerGone)
        growing.available = SIZE
        for _, waiting in growing.waiting:
            waiting.callback((-1, SIZE))

    async def test_tls(self) -> None:
        """What is encrypted has to be read."""
        tls = self.tls()
        client = await self.client(tls)
        client.transport.write(GET)
        self.assertTrue(await self.whole(client) == CONTENT)
        self.assertIsNone(self.growing[-1].delivery)
